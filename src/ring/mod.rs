//! The protocol on a segment: append, read, join, leave, recover, wait. It knows no names, no files and no processes beyond
//! "is the holder of this slot alive?".
//!
//! # How it works
//!
//! Records follow each other in a ring of bytes; a *position* counts bytes since the queue was made and never wraps. Where
//! the next record will begin is the *frontier*.
//!
//! * A record begins with one word, its *head*, which is 0 until the record is complete. The head at the frontier is always
//!   0: before a record is published, the head behind it is written to 0. One Release store of the head publishes a record
//!   ([`record`]).
//! * Writers take turns. The *claim word* says where the frontier is and which slot, if any, is writing; one
//!   compare-exchange takes the claim, another releases it with the new frontier. A writer that has been alone for a while
//!   keeps it, until somebody revokes it ([`claim`]).
//! * Readers look at the head at their own cursor and at nothing else ([`read`]). Cursors hold writers back ([`room`]).
//! * A writer that dies leaves either nothing (head still 0) or a complete record at the frontier, and its slot number in the
//!   claim word. Whoever waits for it proves its death, moves the frontier past what is complete, and frees the claim
//!   ([`recover`]).
//! * Long writes are published as *reserved*, at once or when somebody else wants to append, and turned into a message, or aborted, later ([`reserve`]).
//! * Who sleeps says so in a word that the waker clears; the waker wakes *inside* the claim and before it publishes, so a
//!   waker that dies leaves a claim that the next one frees, and freeing wakes everybody ([`sleep`]).

pub(crate) mod append;
pub(crate) mod claim;
pub(crate) mod keep;
pub(crate) mod members;
mod names;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod reserve;
pub(crate) mod room;
pub(crate) mod sleep;

#[cfg(all(test, loom))]
mod models;

use crate::error::Error;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use claim::Word;

/// The protocol, bound to one segment.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) segment: Segment,
    shortage: room::Shortage,
}

impl Ring {
    pub(crate) fn new(segment: Segment) -> Self {
        Ring {
            segment,
            shortage: room::Shortage::default(),
        }
    }

    /// Brings the zeroed memory of a new segment into its first state. Nobody else sees it yet.
    pub(crate) fn prepare(segment: &Segment) {
        let start = segment.geometry.start;
        let control = segment.control();
        control.claim.word.store(Word::free(start).bits(), Ordering::Relaxed);
        control.claim.base.store(start, Ordering::Relaxed);
        control.limits.gate.store(start, Ordering::Relaxed);
        control.limits.intent.store(start, Ordering::Relaxed);
        control.limits.oldest.store(start, Ordering::Relaxed);
        for mark in &control.marks.record {
            mark.store(start, Ordering::Relaxed);
        }
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.segment.geometry.capacity
    }

    /// An error about bytes that no correct member writes.
    pub(crate) fn corrupt(&self, what: &'static str, at: u64) -> Error {
        Error::Corrupt {
            queue: self.segment.name.clone(),
            what,
            at,
        }
    }

    /// The frontier: exact while the claim is free, else as its keeper last noted it, or where it was when the claim was taken.
    pub(crate) fn frontier(&self) -> u64 {
        self.frontier_and_keeper().0
    }

    /// Where the next append will be: the frontier, or behind what a keeper of the claim has reserved there. Not more than a hint, as an
    /// unannounced reservation is gone if its owner dies.
    pub(crate) fn frontier_behind_reserved(&self) -> u64 {
        let (frontier, keeper) = self.frontier_and_keeper();
        let reserved = keeper.and_then(|keeper| self.unannounced_at(keeper, frontier));
        reserved.map_or(frontier, |(origin, len)| {
            frontier.wrapping_add(record::size(origin.names_len(), len.into()))
        })
    }

    fn frontier_and_keeper(&self) -> (u64, Option<u16>) {
        let claim = &self.segment.control().claim;
        // Acquire: pairs with the release of the claim, so records before the frontier are visible.
        let word = Word::from_bits(claim.word.load(Ordering::Acquire));
        let is_there = |keeper: &u16| u32::from(*keeper) < self.segment.geometry.slots;
        match word.keeper().filter(is_there) {
            Some(keeper) => (self.frontier_of(keeper), Some(keeper)),
            None => (word.position(claim.base.load(Ordering::Acquire)), None),
        }
    }
}
