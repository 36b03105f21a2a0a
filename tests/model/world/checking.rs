//! What must hold of the queue whatever was done, and of a message whoever got it. How a call must end is with its step.

use super::World;
use crate::handles::{Handle, One};
use crate::reading::Counters;
use crate::ring::{Record, State, record_size};
use crate::{Checked, GRANULE, INTENT_STEPS};
use proptest::{prop_assert, prop_assert_eq};
use std::rc::Rc;
use syncq::Message;

impl World<'_> {
    pub(super) fn check_message(&self, got: &Message<'_>, record: &Record) -> Checked {
        prop_assert_eq!(got.sequence(), record.sequence);
        prop_assert_eq!((got.sender(), got.kind()), (record.sender, record.kind));
        prop_assert_eq!(got.body(), &record.body[..]);
        prop_assert_eq!(got.member(), record.by);
        let size = record_size(record.sender.len() + record.kind.len(), record.body.len());
        prop_assert_eq!(got.position(), self.ring.position(record.end - size));
        prop_assert_eq!(got.timestamp().is_some(), self.setting.has_timestamps);
        Ok(())
    }

    /// Bytes of a reservation of which nobody has been told yet: an observer begins in front of these. Only the queue knows whether an open
    /// one is.
    pub(super) fn unannounced(&self) -> u64 {
        match self.ring.records.values().next_back() {
            Some(last) if last.state != State::Message => self.queue.observer().expect("anybody may observe").lag(),
            _ => 0,
        }
    }

    /// What must hold after every step, and how far back messages are still whole.
    pub(crate) fn check(&mut self) -> Checked {
        let stats = self.queue.stats();
        let unannounced = self.unannounced();
        if unannounced > 0 {
            let last = self.ring.records.get(&(self.ring.frontier - unannounced));
            prop_assert!(last.is_some_and(|last| last.state == State::Reserved && last.end == self.ring.frontier));
            self.saw("unannounced");
        }
        prop_assert_eq!(stats.position, self.ring.position(self.ring.frontier - unannounced));
        prop_assert_eq!(stats.appended, self.ring.sequence - u64::from(unannounced > 0));
        prop_assert_eq!(stats.free, self.free());
        prop_assert_eq!(self.queue.free(), self.free());
        prop_assert_eq!(
            (
                stats.refused,
                stats.missed,
                stats.evicted,
                stats.takeovers,
                stats.reaped,
                stats.writing
            ),
            (self.refused, self.missed, self.evicted, 0, 0, None)
        );
        let ring = &self.ring;
        prop_assert!(
            stats.history <= ring.frontier.min(ring.max_record()),
            "history of {}",
            stats.history
        );
        let oldest = ring.frontier - unannounced - stats.history;
        prop_assert!(oldest >= ring.oldest, "what was overwritten does not come back");
        prop_assert!(
            oldest == ring.frontier || ring.records.contains_key(&oldest),
            "no record begins at the oldest one, {}",
            oldest
        );
        // Of a record that was committed shorter, what is left over has no mark.
        let is_message = |(_, record): &(&u64, &Rc<Record>)| record.state == State::Message;
        if let Some((before, _)) = ring.records.range(..oldest).rev().find(is_message) {
            prop_assert!(
                before + ring.capacity < ring.frontier + GRANULE + 2 * ring.capacity / INTENT_STEPS,
                "the record at {before} is gone too early, the frontier being {}",
                ring.frontier
            );
        }
        let (held, _) = self.slowest();
        prop_assert!(oldest <= held, "{oldest} may be overwritten, and {held} is held");
        if oldest > ring.oldest && ring.start.wrapping_add(oldest) < ring.start {
            self.saw("went around the numbers");
        }
        self.ring.oldest = oldest;
        for one in &self.ones {
            let Some(reading) = &one.reading else { continue };
            if one.open.is_none() {
                let lag = match &one.handle {
                    // SAFETY: no reservation is open.
                    Handle::Member(member) => unsafe { member.0.as_ref() }.lag(),
                    Handle::Reader(reader) => reader.lag(),
                    Handle::Observer(observer) => observer.lag(),
                    Handle::Writer(_) => unreachable!("a writer does not read"),
                };
                prop_assert_eq!(lag, self.ring.frontier - reading.place);
            }
        }
        Ok(())
    }

    /// What the queue says about its members.
    pub(crate) fn check_members(&self) -> Checked {
        let mut members = self.queue.members();
        members.sort_by_key(|info| info.id.slot());
        let mut ones: Vec<&One> = self.ones.iter().filter(|one| one.id.is_some()).collect();
        ones.sort_by_key(|one| one.id.map(|id| id.slot()));
        prop_assert_eq!(members.len(), ones.len());
        for (info, one) in members.iter().zip(ones) {
            let counters = Counters {
                appended: info.appended,
                appended_bytes: info.appended_bytes,
                popped: info.popped,
                popped_bytes: info.popped_bytes,
                screened: info.screened,
                missed: info.missed,
                refused: info.refused,
            };
            prop_assert_eq!(counters, one.counters);
            prop_assert_eq!((Some(info.id), &*info.name, info.role), (one.id, one.name, one.role));
            prop_assert_eq!(
                (info.pid, info.is_alive, info.is_evicted),
                (std::process::id(), true, one.is_evicted)
            );
            let lag = match &one.reading {
                Some(reading) if !one.is_evicted => (self.ring.frontier - reading.place).min(self.ring.capacity),
                _ => 0,
            };
            prop_assert_eq!(info.lag, lag);
        }
        Ok(())
    }
}
