//! What somebody who reads must find in the model's ring, and what that does to its place, its home and its counters.
//!
//! Not here: who it is, and the real handle it reads with (`handles`).

use super::ring::{Record, Ring, State};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use syncq::MemberId;

/// What a member counts about itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) appended: u64,
    pub(super) appended_bytes: u64,
    pub(super) popped: u64,
    pub(super) popped_bytes: u64,
    pub(super) screened: u64,
    pub(super) missed: u64,
    pub(super) refused: u64,
}

/// The reading half of somebody.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) place: u64,
    pub(super) sequence: u64,
    pub(super) senders: BTreeSet<&'static str>,
    pub(super) kinds: BTreeSet<&'static str>,
    pub(super) hears_own: bool,
    /// Nobody waits for it.
    pub(super) is_racing: bool,
    pub(super) home: VecDeque<Rc<Record>>,
    pub(super) home_bytes: u64,
    pub(super) home_limit: u64,
}

#[derive(Debug)]
pub(super) enum Look {
    Nothing,
    Found(Rc<Record>),
    Lagged(u64),
}

impl Reading {
    fn wants(&self, record: &Record, me: Option<MemberId>) -> bool {
        (self.hears_own || me != Some(record.by))
            && !self.senders.contains(record.sender)
            && !self.kinds.contains(record.kind)
    }

    /// Goes to the next message in the ring that is wanted.
    fn look(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        self.look_until(u64::MAX, ring, me, counters)
    }

    /// As `look`, but gives up behind `far`.
    fn look_until(&mut self, far: u64, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        while self.place <= far {
            if self.is_racing && self.place < ring.oldest {
                let missed = ring.sequence_at(ring.oldest) - self.sequence;
                self.place = ring.oldest;
                self.sequence += missed;
                if missed > 0 {
                    counters.missed += missed;
                    return Look::Lagged(missed);
                }
            }
            let Some(record) = ring.records.get(&self.place) else {
                assert_eq!(self.place, ring.frontier, "the model itself lost its way");
                return Look::Nothing;
            };
            match record.state {
                State::Reserved => return Look::Nothing,
                State::Aborted => {
                    self.place = record.end;
                    self.sequence = ring.sequence_at(record.end);
                }
                State::Message if self.wants(record, me) => return Look::Found(record.clone()),
                State::Message => {
                    self.go_past(record);
                    counters.screened += 1;
                }
            }
        }
        Look::Nothing
    }

    fn go_past(&mut self, record: &Record) {
        self.place = record.end;
        self.sequence = record.sequence + 1;
    }

    /// As an append does that the own backlog is in the way of. Whether that made room.
    pub(super) fn bring_home(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> bool {
        let before = self.place;
        while self.home_bytes < self.home_limit {
            // It looks at the clock, and whether there is room, after so much that it does not want.
            let far = self.place + ring.capacity / 2;
            let Look::Found(record) = self.look_until(far, ring, me, counters) else {
                break;
            };
            self.go_past(&record);
            self.home_bytes += record.size();
            self.home.push_back(record);
        }
        self.place != before
    }

    /// The next message, at home or in the ring; it stays there.
    pub(super) fn peek(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        while let Some(record) = self.home.front() {
            if self.wants(record, me) {
                return Look::Found(record.clone());
            }
            self.home_bytes -= record.size();
            self.home.pop_front();
            counters.screened += 1;
        }
        self.look(ring, me, counters)
    }

    /// Takes what `peek` has just found.
    pub(super) fn take(&mut self, record: &Record, counters: &mut Counters) {
        counters.popped += 1;
        counters.popped_bytes += record.body.len() as u64;
        if self.home.pop_front().is_some() {
            self.home_bytes -= record.size();
        } else {
            self.go_past(record);
        }
    }
}
