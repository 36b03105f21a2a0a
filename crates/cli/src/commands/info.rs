//! `syncq info`: everything about one queue and its members.

use crate::fail::{DONE, Outcome};
use crate::json;
use crate::output::Output;
use crate::sample::{Sample, role_name};
use crate::show::{self, Look, Table};
use crate::target::Target;
use serde_json::Value;
use std::path::Path;
use syncq::{MemberInfo, Start};

/// Show one queue: options, counters, every member with role, process, command, lag and screen
///
/// The queue is mapped read-only: members notice nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    #[command(flatten)]
    target: Target,
    /// One JSON object, with an array of members
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn run(self, out: &mut Output) -> Outcome {
        let observer = self.target.observe(Start::Now)?;
        let sample = Sample::take(&observer);
        if self.json {
            let mut object = json::queue(&self.target.queue, &sample, None);
            object.insert("list".to_owned(), sample.members.iter().map(json::member).collect());
            out.line(Value::Object(object).to_string())?;
        } else {
            let is_coloured = out.is_coloured();
            out.lines(head(&self.target, &sample, is_coloured))?;
            if !sample.members.is_empty() {
                out.line("")?;
                out.lines(members(&sample.members, is_coloured))?;
            }
        }
        out.flush()?;
        Ok(DONE)
    }
}

fn head(target: &Target, sample: &Sample, is_coloured: bool) -> Vec<String> {
    let stats = &sample.stats;
    let state = sample.state();
    let choose = |yes: bool, this: &'static str, that: &'static str| if yes { this } else { that };
    let writing = sample.stats.writer.and_then(|id| sample.member(id)).map_or_else(
        || "nobody at this moment".to_owned(),
        |m| format!("{} ({})", show::printable(&m.name), m.pid),
    );
    let rows = [
        ("queue", show::printable(&target.queue).into_owned()),
        ("file", file(target)),
        ("state", state.look().on(is_coloured, state.name()).into_owned()),
        (
            "ring",
            format!(
                "{} ({} bytes), {:.0}% in use, {} can be read again",
                show::bytes(stats.capacity),
                stats.capacity,
                sample.fill() * 100.0,
                show::bytes(stats.history),
            ),
        ),
        ("slots", format!("{} of {}", sample.members.len(), stats.slots)),
        (
            "options",
            format!(
                "{}, {}, {}, {}",
                choose(stats.is_lossy, "lossy", "lossless"),
                choose(stats.is_single_writer, "one writer", "many writers"),
                choose(stats.has_timestamps, "with timestamps", "no timestamps"),
                choose(
                    stats.unlinks_on_last_leave,
                    "goes with its last member",
                    "stays until removed"
                ),
            ),
        ),
        (
            "created",
            format!("{} by process {}", show::time(stats.created), stats.creator),
        ),
        (
            "appended",
            format!("{} messages, position {}", stats.appended, stats.position),
        ),
        ("writing", writing),
        (
            "counters",
            format!(
                "{} refused, {} missed, {} takeovers, {} reaped, {} evicted",
                stats.refused, stats.missed, stats.takeovers, stats.reaped, stats.evicted
            ),
        ),
    ];
    let line = |(name, value): &(&str, String)| {
        let name = format!("{name:<9}");
        format!("{} {value}", Look::Bold.on(is_coloured, &name))
    };
    rows.iter().map(line).collect()
}

/// Where it lies, whose it is, and who may use it.
fn file(target: &Target) -> String {
    use std::os::unix::fs::MetadataExt;
    let path = match target.is_path() {
        true => target.queue.clone(),
        false => format!("/dev/shm/syncq.{}", target.queue),
    };
    let facts = std::fs::symlink_metadata(Path::new(&path));
    let owned = facts.map_or(String::new(), |f| {
        format!(", owner {}, mode {:04o}", f.uid(), f.mode() & 0o7777)
    });
    format!("{}{owned}", show::printable(&path))
}

fn members(members: &[MemberInfo], is_coloured: bool) -> Vec<String> {
    let mut table = Table::new(&[
        "ID",
        "NAME",
        "ROLE",
        ">PID",
        "STATE",
        ">LAG",
        ">APPENDED",
        ">POPPED",
        ">SCREENED",
        ">MISSED",
        ">REFUSED",
        ">AGE",
        "COMMAND",
    ]);
    for member in members {
        let (state, look) = state(member);
        let number = |n: u64| (n.to_string(), Look::Plain);
        let command = member.command().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            (member.id.to_string(), Look::Plain),
            (show::printable(&member.name).into_owned(), Look::Plain),
            (role_name(member.role).to_owned(), Look::Plain),
            number(member.pid.into()),
            (state.to_owned(), look),
            (show::bytes(member.lag), Look::Plain),
            number(member.appended),
            number(member.popped),
            number(member.screened),
            number(member.missed),
            number(member.refused),
            (show::age(member.joined), Look::Plain),
            (show::cut(&show::printable(&command), 60), Look::Plain),
        ]);
    }
    let screens = members
        .iter()
        .filter(|m| !m.screen.is_empty())
        .map(|m| format!("{} screens {}", m.id, show::printable(&m.screen)));
    table.lines(is_coloured).into_iter().chain(screens).collect()
}

/// How a member is.
pub(crate) fn state(member: &MemberInfo) -> (&'static str, Look) {
    match (member.is_alive, member.is_evicted) {
        (false, _) => ("dead", Look::Red),
        (true, true) => ("evicted", Look::Yellow),
        (true, false) => ("alive", Look::Green),
    }
}
