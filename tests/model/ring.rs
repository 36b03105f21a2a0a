//! What is in the ring, as the model has it: every record ever appended, in a map by its place. Nothing is ever overwritten
//! here; how far back the real ring still goes, the model takes from the queue.

use super::{GRANULE, RECORD_HEADER};
use std::collections::BTreeMap;
use std::rc::Rc;
use syncq::MemberId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Message,
    Reserved,
    Aborted,
}

/// A record of the model.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Bytes from the start of the queue, as all places in the model.
    pub(super) end: u64,
    pub(super) sequence: u64,
    pub(super) state: State,
    pub(super) by: MemberId,
    pub(super) sender: &'static str,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

impl Record {
    /// Bytes that it takes in the ring.
    pub(super) fn size(&self) -> u64 {
        record_size(self.sender.len() + self.kind.len(), self.body.len())
    }
}

pub(super) fn record_size(names_len: usize, body_len: usize) -> u64 {
    (RECORD_HEADER + (names_len as u64).next_multiple_of(8) + body_len as u64).next_multiple_of(GRANULE)
}

/// Everything ever appended.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) capacity: u64,
    pub(super) start: u64,
    pub(super) is_lossy: bool,
    pub(super) records: BTreeMap<u64, Rc<Record>>,
    pub(super) frontier: u64,
    pub(super) sequence: u64,
    /// The oldest record that is whole. The one thing the model takes from the queue, after it has checked it.
    pub(super) oldest: u64,
}

impl Ring {
    pub(super) fn max_record(&self) -> u64 {
        self.capacity - GRANULE
    }

    pub(super) fn sequence_at(&self, place: u64) -> u64 {
        self.records.get(&place).map_or(self.sequence, |record| record.sequence)
    }

    pub(super) fn push(&mut self, record: Record) {
        self.sequence += 1;
        let end = record.end;
        self.records.insert(self.frontier, Rc::new(record));
        self.frontier = end;
    }

    pub(super) fn position(&self, place: u64) -> u64 {
        self.start.wrapping_add(place)
    }
}
