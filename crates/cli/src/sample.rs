//! A queue as it was at one moment, seen through a read-only mapping, and what two such moments say together.

use crate::show::Look;
use crate::target::{Target, Trust};
use std::time::Instant;
use syncq::{MemberId, MemberInfo, Observer, Queue, Role, Start, Stats};

/// A queue at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) stats: Stats,
    pub(crate) members: Vec<MemberInfo>,
}

/// What is to be said about a queue as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Somebody takes part.
    Live,
    /// Nobody does, and nobody died in it.
    Idle,
    /// Only the dead are left.
    Stale,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Idle => "idle",
            State::Stale => "stale",
        }
    }

    pub(crate) fn look(self) -> Look {
        match self {
            State::Live => Look::Green,
            State::Idle => Look::Dim,
            State::Stale => Look::Yellow,
        }
    }
}

impl Sample {
    pub(crate) fn take(observer: &Observer) -> Self {
        Sample {
            at: Instant::now(),
            stats: observer.stats(),
            members: observer.members(),
        }
    }

    pub(crate) fn state(&self) -> State {
        match (self.members.is_empty(), self.members.iter().any(|m| m.is_alive)) {
            (_, true) => State::Live,
            (true, _) => State::Idle,
            (false, false) => State::Stale,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.stats.capacity.saturating_sub(self.stats.free)
    }

    /// 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        self.used() as f64 / self.stats.capacity.max(1) as f64
    }

    pub(crate) fn dead(&self) -> impl Iterator<Item = &MemberInfo> {
        self.members.iter().filter(|member| !member.is_alive)
    }

    /// Who holds the writers back most, if anybody does.
    pub(crate) fn slowest(&self) -> Option<&MemberInfo> {
        self.members.iter().filter(|m| m.lag > 0).max_by_key(|m| m.lag)
    }

    /// Messages a second appended since `before`; `None` if that was another queue, or no time ago.
    pub(crate) fn rate(&self, before: &Sample) -> Option<f64> {
        let is_same = before.stats.instance == self.stats.instance;
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let news = self.stats.appended.wrapping_sub(before.stats.appended) as i64;
        (is_same && seconds > 0.0 && news >= 0).then(|| news as f64 / seconds)
    }

    /// Bytes of the ring a second.
    pub(crate) fn byte_rate(&self, before: &Sample) -> Option<f64> {
        let is_same = before.stats.instance == self.stats.instance;
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let news = self.stats.position.wrapping_sub(before.stats.position) as i64;
        (is_same && seconds > 0.0 && news >= 0).then(|| news as f64 / seconds)
    }

    pub(crate) fn member(&self, id: MemberId) -> Option<&MemberInfo> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Messages a second that a member appended and popped or passed over.
    pub(crate) fn member_rate(&self, before: &Sample, member: &MemberInfo) -> Option<f64> {
        if before.stats.instance != self.stats.instance {
            return None;
        }
        let was = before.member(member.id)?;
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let handled = |m: &MemberInfo| m.appended.wrapping_add(m.popped).wrapping_add(m.screened);
        let news = handled(member).wrapping_sub(handled(was)) as i64;
        (seconds > 0.0 && news >= 0).then(|| news as f64 / seconds)
    }
}

/// As it is called on the screen and in JSON.
pub(crate) fn role_name(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Member) => "member",
        Some(Role::Writer) => "writer",
        Some(Role::Reader) => "reader",
        _ => "joining",
    }
}

/// Like everything in the shared-memory folder that may be a queue: its name, and how it answers.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) observer: syncq::Result<Observer>,
}

/// All queues of this machine, or those asked for.
pub(crate) fn list(asked: &[String], trust: Trust) -> std::io::Result<Vec<Listed>> {
    let names = match asked {
        [] => Queue::names()?,
        some => some.to_vec(),
    };
    let listed = names.into_iter().map(|name| Listed {
        observer: Target::new(&name, trust).observe(Start::Now),
        name,
    });
    // One that was removed between listing and looking is no news, unless somebody asked for it.
    let is_there = |l: &Listed| !asked.is_empty() || !matches!(l.observer, Err(syncq::Error::NotFound { .. }));
    Ok(listed.filter(is_there).collect())
}
