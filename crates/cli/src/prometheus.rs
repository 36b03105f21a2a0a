//! Counters in the text format of Prometheus: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use crate::sample::{Sample, role_name};
use crate::watch::Seen;
use syncq::MemberInfo;

type OfQueue = (&'static str, &'static str, &'static str, fn(&Sample) -> u64);
type OfMember = (&'static str, &'static str, &'static str, fn(&MemberInfo) -> u64);

const OF_QUEUE: &[OfQueue] = &[
    ("syncq_capacity_bytes", "gauge", "Size of the ring.", |s| {
        s.stats.capacity
    }),
    (
        "syncq_used_bytes",
        "gauge",
        "Bytes of the ring that some reader has not let go.",
        Sample::used,
    ),
    ("syncq_slots", "gauge", "Member slots.", |s| s.stats.slots.into()),
    ("syncq_members", "gauge", "Members, dead ones included.", |s| {
        s.members.len() as u64
    }),
    ("syncq_dead_members", "gauge", "Members whose process is dead.", |s| {
        s.dead().count() as u64
    }),
    ("syncq_appended_total", "counter", "Messages ever appended.", |s| {
        s.stats.appended
    }),
    (
        "syncq_written_bytes_total",
        "counter",
        "Bytes of the ring ever written.",
        |s| s.stats.position,
    ),
    (
        "syncq_refused_total",
        "counter",
        "Appends that found no room in time.",
        |s| s.stats.refused,
    ),
    (
        "syncq_missed_total",
        "counter",
        "Messages that readers of a lossy queue missed.",
        |s| s.stats.missed,
    ),
    (
        "syncq_takeovers_total",
        "counter",
        "Claims taken from dead members.",
        |s| s.stats.takeovers,
    ),
    ("syncq_reaped_total", "counter", "Dead members that were buried.", |s| {
        s.stats.reaped
    }),
    ("syncq_evicted_total", "counter", "Members that were evicted.", |s| {
        s.stats.evicted
    }),
];

const OF_MEMBER: &[OfMember] = &[
    (
        "syncq_member_alive",
        "gauge",
        "1 while the member's process lives.",
        |m| m.is_alive.into(),
    ),
    (
        "syncq_member_lag_bytes",
        "gauge",
        "Bytes between the member and the newest message.",
        |m| m.lag,
    ),
    (
        "syncq_member_appended_total",
        "counter",
        "Messages the member appended.",
        |m| m.appended,
    ),
    (
        "syncq_member_popped_total",
        "counter",
        "Messages the member popped.",
        |m| m.popped,
    ),
    (
        "syncq_member_screened_total",
        "counter",
        "Messages the member passed over.",
        |m| m.screened,
    ),
    (
        "syncq_member_missed_total",
        "counter",
        "Messages the member missed.",
        |m| m.missed,
    ),
    (
        "syncq_member_refused_total",
        "counter",
        "Appends of the member that found no room in time.",
        |m| m.refused,
    ),
];

/// All queues that could be read, metric by metric, as the format wants it.
pub(crate) fn lines(seen: &[Seen]) -> Vec<String> {
    let read: Vec<(&str, &Sample)> = seen
        .iter()
        .filter_map(|seen| Some((seen.name.as_str(), seen.now.as_ref().ok()?)))
        .collect();
    let mut lines = Vec::new();
    let head = |lines: &mut Vec<String>, name: &str, kind: &str, help: &str| {
        lines.push(format!("# HELP {name} {help}"));
        lines.push(format!("# TYPE {name} {kind}"));
    };
    for (name, kind, help, value) in OF_QUEUE {
        head(&mut lines, name, kind, help);
        for (queue, sample) in &read {
            lines.push(format!("{name}{{queue=\"{}\"}} {}", label(queue), value(sample)));
        }
    }
    head(
        &mut lines,
        "syncq_readable",
        "gauge",
        "1 if the queue could be looked into.",
    );
    for seen in seen {
        let readable = u8::from(seen.now.is_ok());
        lines.push(format!("syncq_readable{{queue=\"{}\"}} {readable}", label(&seen.name)));
    }
    for (name, kind, help, value) in OF_MEMBER {
        head(&mut lines, name, kind, help);
        for (queue, sample) in &read {
            for member in &sample.members {
                lines.push(format!(
                    "{name}{{queue=\"{}\",member=\"{}\",name=\"{}\",role=\"{}\",pid=\"{}\"}} {}",
                    label(queue),
                    member.id,
                    label(&member.name),
                    role_name(member.role),
                    member.pid,
                    value(member),
                ));
            }
        }
    }
    lines
}

/// Backslash, quote and newline are escaped; other control characters are not for a terminal either.
fn label(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\\' => "\\\\".to_owned(),
            '"' => "\\\"".to_owned(),
            '\n' => "\\n".to_owned(),
            c if c.is_control() => "\u{fffd}".to_owned(),
            c => c.to_string(),
        })
        .collect()
}
