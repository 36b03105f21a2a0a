//! The real queue and the model of it side by side, and which step is whose. What each step does to the two, and what must
//! hold after it, is in `world/`.

#[path = "world/checking.rs"]
mod checking;
#[path = "world/joining.rs"]
mod joining;
#[path = "world/popping.rs"]
mod popping;
#[path = "world/writing.rs"]
mod writing;

use super::handles::One;
use super::ring::Ring;
use super::steps::{Setting, Step};
use super::{Checked, KINDS, NAMES, SEATS};
use std::collections::BTreeMap;
use syncq::{MemberId, Queue};

/// How often what happened: to see that the cases get everywhere.
pub(super) type Seen = BTreeMap<&'static str, u64>;

pub(super) struct World<'s> {
    pub(super) queue: Queue,
    pub(super) setting: Setting,
    pub(super) ring: Ring,
    pub(super) ones: Vec<One>,
    pub(super) gone: Option<MemberId>,
    pub(super) refused: u64,
    pub(super) missed: u64,
    pub(super) evicted: u64,
    /// So that no two bodies are alike.
    pub(super) bodies: u64,
    pub(super) seen: &'s mut Seen,
}

impl World<'_> {
    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The first from seat `who` on that can.
    fn pick(&self, who: usize, can: impl Fn(&One) -> bool) -> Option<usize> {
        let able = (0..self.ones.len()).filter(|i| can(&self.ones[*i]));
        able.min_by_key(|i| (self.ones[*i].seat + SEATS - who) % SEATS)
    }

    fn pick_writing(&self, who: usize) -> Option<usize> {
        self.pick(who, |one| one.writes() && one.open.is_none())
    }

    fn pick_reading(&self, who: usize) -> Option<usize> {
        self.pick(who, |one| one.reading.is_some() && one.open.is_none())
    }

    /// Whoever holds writers back most: place and index. At the same place a reservation comes before a cursor (whose owner
    /// may be waiting at it), and then the lower slot.
    fn slowest(&self) -> (u64, Option<usize>) {
        let holds = self.ones.iter().enumerate().flat_map(|(index, one)| {
            let slot = one.id.map_or(u16::MAX, |id| id.slot());
            one.holds(self.ring.is_lossy)
                .map(move |(place, is_cursor)| (place, is_cursor, slot, index))
        });
        let least = holds.filter(|hold| hold.0 < self.ring.frontier).min();
        least.map_or((self.ring.frontier, None), |(place, _, _, index)| (place, Some(index)))
    }

    fn free(&self) -> u64 {
        self.ring.max_record() - (self.ring.frontier - self.slowest().0)
    }

    pub(super) fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Join {
                who,
                role,
                name,
                start,
                hears_own,
            } => self.join(who, role, NAMES[name], start, hears_own),
            Step::Leave { who } => self.leave(who),
            Step::Append { who, kind, len } => self.append(who, KINDS[kind], len),
            Step::AppendAll { who, ref messages } => self.append_all(who, messages),
            Step::KindTooLong { who } => self.kind_too_long(who),
            Step::Reserve { who, kind, len } => self.reserve(who, KINDS[kind], len),
            Step::Finish { who, how } => self.finish(who, how),
            Step::Pop { who } => self.pop(who, false),
            Step::PopInto { who } => self.pop(who, true),
            Step::Peek {
                who,
                keeps,
                is_evicted_meanwhile,
            } => self.peek(who, keeps, is_evicted_meanwhile),
            Step::Drain { who } => self.drain(who),
            Step::ChangeScreen { who, change } => self.change_screen(who, change),
            Step::LimitHome { who, bytes } => self.limit_home(who, bytes),
            Step::Evict { who } => self.evict(who),
            Step::EvictSomebodyGone => self.evict_somebody_gone(),
        }
    }
}
