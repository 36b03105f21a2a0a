//! What `doctor` looks for, how it tells, and what it may do about it.

use crate::sample::{Listed, Sample, State};
use crate::show::{self, Look};
use crate::stop::Stop;
use crate::target::{Target, Trust};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use syncq::{MemberInfo, Observer};

/// How many looks are taken in the time that patience lasts: an append that is seen under way in all of them, at the same place, is one.
const LOOKS: u32 = 20;
/// A reader that leaves less room than this part of the ring is far behind.
const FAR_BEHIND: f64 = 0.75;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    DeadMember,
    LeftBehind,
    ClaimHeld,
    FarBehind,
    NoSlotLeft,
    Unreadable,
}

impl Wrong {
    fn name(self) -> &'static str {
        match self {
            Wrong::DeadMember => "dead member",
            Wrong::LeftBehind => "left behind",
            Wrong::ClaimHeld => "claim held",
            Wrong::FarBehind => "far behind",
            Wrong::NoSlotLeft => "no slot left",
            Wrong::Unreadable => "unreadable",
        }
    }
}

/// One thing that is wrong with one queue.
#[derive(Debug)]
pub(crate) struct Finding {
    queue: String,
    wrong: Wrong,
    who: Option<(MemberInfo, Option<String>)>,
    says: String,
    /// What `--fix` would do; `None` where it does nothing.
    remedy: Option<&'static str>,
    /// What the user can do where it does nothing.
    advice: String,
    outcome: Option<Result<(), String>>,
}

/// Everything that is wrong with these.
pub(crate) fn look(listed: &[Listed], patience: Duration, stop: &Stop) -> Vec<Finding> {
    let watched: Vec<(&str, &Observer)> = listed
        .iter()
        .filter_map(|l| Some((l.name.as_str(), l.observer.as_ref().ok()?)))
        .collect();
    let mut looks: Vec<Vec<Sample>> = watched
        .iter()
        .map(|(_, observer)| vec![Sample::take(observer)])
        .collect();
    let begun = Instant::now();
    // A second look only where the first one gives a reason.
    let is_suspect =
        |sample: &Sample| sample.stats.writer.is_some() || sample.members.iter().any(|m| is_far(sample, m));
    if looks.iter().flatten().any(is_suspect) {
        for look in 1..LOOKS {
            if stop.sleep_until(begun + patience * look / (LOOKS - 1)) {
                break;
            }
            for ((_, observer), looks) in watched.iter().zip(&mut looks) {
                if is_suspect(&looks[0]) {
                    looks.push(Sample::take(observer));
                }
            }
        }
    }
    let unreadable = listed.iter().filter_map(|l| {
        l.observer
            .as_ref()
            .err()
            .map(|error| Finding::unreadable(&l.name, error))
    });
    let sick = watched
        .iter()
        .zip(&looks)
        .flat_map(|((name, _), looks)| Finding::of(name, looks, patience));
    sick.chain(unreadable).collect()
}

fn is_far(sample: &Sample, member: &MemberInfo) -> bool {
    member.is_alive && !sample.stats.is_lossy && member.lag as f64 > FAR_BEHIND * sample.stats.capacity as f64
}

impl Finding {
    fn new(queue: &str, wrong: Wrong, says: String) -> Self {
        Finding {
            queue: queue.to_owned(),
            wrong,
            who: None,
            says,
            remedy: None,
            advice: String::new(),
            outcome: None,
        }
    }

    fn about(mut self, member: &MemberInfo) -> Self {
        self.who = Some((member.clone(), member.command()));
        self
    }

    fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    fn with_advice(mut self, advice: String) -> Self {
        self.advice = advice;
        self
    }

    fn unreadable(queue: &str, error: &syncq::Error) -> Self {
        let next = match error {
            syncq::Error::ForeignOwner { .. } => "look with --any-owner, if you trust that user".to_owned(),
            syncq::Error::PermissionDenied { .. } => "look as its owner".to_owned(),
            _ => format!("`syncq rm --force {queue}` removes the file, once you know that nobody wants it"),
        };
        Finding::new(queue, Wrong::Unreadable, error.to_string()).with_advice(next)
    }

    /// What several looks at a queue say.
    fn of(queue: &str, looks: &[Sample], patience: Duration) -> Vec<Finding> {
        let (first, last) = (&looks[0], &looks[looks.len() - 1]);
        let mut found = Vec::new();
        for dead in last.dead() {
            let held = match dead.lag {
                0 => String::new(),
                lag => format!(", and {} of the ring are kept for it", show::bytes(lag)),
            };
            let says = format!("its process is dead{held}");
            found.push(
                Finding::new(queue, Wrong::DeadMember, says)
                    .about(dead)
                    .with_remedy("bury it, which frees its slot and its room"),
            );
        }
        if last.state() != State::Live && last.stats.unlinks_on_last_leave && last.stats.appended > 0 {
            let says = "was to go with its last member, and nobody is left".to_owned();
            found.push(Finding::new(queue, Wrong::LeftBehind, says).with_remedy("remove it"));
        }
        if looks.len() > 1 {
            let at = |sample: &Sample| (sample.stats.writer, sample.stats.position);
            let holder = first.stats.writer.and_then(|id| last.member(id));
            if let Some(holder) = holder.filter(|_| looks.iter().all(|look| at(look) == at(first))) {
                found.push(claim_held(queue, holder, patience));
            }
            for member in last.members.iter().filter(|m| is_far(last, m)) {
                let stands_still = looks.iter().all(|look| {
                    let same = |was: &MemberInfo| was.popped == member.popped && was.screened == member.screened;
                    look.member(member.id).is_some_and(same)
                });
                if stands_still {
                    found.push(far_behind(queue, last, member, patience));
                }
            }
        }
        if last.members.len() as u64 >= u64::from(last.stats.slots) && last.dead().next().is_none() {
            let says = format!(
                "all {} slots are taken by live members: nobody can join",
                last.stats.slots
            );
            let advice = "make the queue anew with more --slots".to_owned();
            found.push(Finding::new(queue, Wrong::NoSlotLeft, says).with_advice(advice));
        }
        found
    }

    /// Does what may be done about it.
    pub(crate) fn fix(&mut self, trust: Trust) {
        if self.remedy.is_none() {
            return;
        }
        let target = Target::new(&self.queue, trust);
        let done = target.open().and_then(|queue| match (self.wrong, &self.who) {
            (Wrong::DeadMember, Some((member, _))) => {
                queue.reap_all();
                // Another one may have joined in its slot, with another id.
                match queue.members().iter().any(|m| m.id == member.id) {
                    true => Err(crate::fail::Fail::new("it could not be buried")),
                    false => Ok(()),
                }
            }
            _ => match queue.members().iter().any(|m| m.is_alive) {
                true => Err(crate::fail::Fail::new("somebody has joined it meanwhile")),
                false => Ok(queue.unlink()?),
            },
        });
        self.outcome = Some(done.map_err(|fail| match fail {
            crate::fail::Fail::Told { message, .. } => message,
            crate::fail::Fail::OutputClosed => String::new(),
        }));
    }

    pub(crate) fn is_mended(&self) -> bool {
        matches!(self.outcome, Some(Ok(())))
    }

    pub(crate) fn json(&self) -> Value {
        let who = self.who.as_ref();
        json!({
            "queue": self.queue,
            "finding": self.wrong.name(),
            "member": who.map(|(m, _)| m.id.to_string()),
            "name": who.map(|(m, _)| m.name.as_str()),
            "pid": who.map(|(m, _)| m.pid),
            "command": who.and_then(|(_, command)| command.as_deref()),
            "says": self.says,
            "fix": self.remedy,
            "advice": (!self.advice.is_empty()).then_some(&self.advice),
            "fixed": self.outcome.as_ref().map(Result::is_ok),
            "error": self.outcome.as_ref().and_then(|o| o.as_ref().err()),
        })
    }

    pub(crate) fn lines(&self, is_fixing: bool, is_coloured: bool) -> Vec<String> {
        let look = if self.is_mended() { Look::Green } else { Look::Yellow };
        let who = self.who.as_ref().map_or(String::new(), |(member, command)| {
            let command = command
                .as_deref()
                .map_or(String::new(), |c| format!(", `{}`", show::cut(&show::printable(c), 60)));
            let name = show::printable(&member.name);
            format!(" {name} (member {}, process {}{command}):", member.id, member.pid)
        });
        let queue = show::printable(&self.queue);
        let wrong = look.on(is_coloured, self.wrong.name());
        let mut lines = vec![format!("{queue}: {wrong}:{who} {}", show::printable(&self.says))];
        lines.extend(match (&self.outcome, self.remedy) {
            (Some(Ok(())), Some(remedy)) => Some(format!("  done: {remedy}")),
            (Some(Err(error)), _) => Some(format!("  could not be mended: {}", show::printable(error))),
            (None, Some(remedy)) if !is_fixing => Some(format!("  --fix would {remedy}")),
            _ => None,
        });
        if !self.advice.is_empty() {
            lines.push(format!("  {}", show::printable(&self.advice)));
        }
        lines
    }
}

fn claim_held(queue: &str, holder: &MemberInfo, patience: Duration) -> Finding {
    let says = format!(
        "has been in the middle of one append for {} or longer: all other writers wait",
        humantime::format_duration(patience)
    );
    let finding = Finding::new(queue, Wrong::ClaimHeld, says).about(holder);
    match (holder.is_alive, is_stopped(holder)) {
        (false, _) => finding.with_remedy("bury it, which lets the writers go on"),
        (true, true) => finding.with_advice(format!(
            "it is stopped: `kill -CONT {0}` lets it go on, `kill -KILL {0}` lets the others go on",
            holder.pid
        )),
        (true, false) => finding.with_advice(format!(
            "it runs, but gets nowhere; nobody is robbed while alive. `kill -KILL {}` lets the others go on",
            holder.pid
        )),
    }
}

fn far_behind(queue: &str, sample: &Sample, member: &MemberInfo, patience: Duration) -> Finding {
    let says = format!(
        "is {} of {} behind and has not read for {} or longer: writers wait for it, or will",
        show::bytes(member.lag),
        show::bytes(sample.stats.capacity),
        humantime::format_duration(patience),
    );
    let next = if is_stopped(member) {
        format!("it is stopped: `kill -CONT {}` lets it go on, ", member.pid)
    } else {
        String::new()
    };
    Finding::new(queue, Wrong::FarBehind, says)
        .about(member)
        .with_advice(format!(
            "{next}`syncq doctor {queue} --evict {}` puts it out",
            member.id
        ))
}

/// Whether its process is stopped (SIGSTOP, Ctrl-Z, a debugger).
fn is_stopped(member: &MemberInfo) -> bool {
    // Only one that is surely the member's.
    if member.command().is_none() {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", member.pid)).unwrap_or_default();
    // The state is behind the command, which is in parentheses and may hold some itself.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().next());
    matches!(state, Some("T" | "t"))
}
