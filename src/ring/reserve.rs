//! Reserving: a record that is published before it is filled, so that filling does not hold up other writers.
//!
//! Readers wait at a reserved record. Its owner turns it into a message, or aborts it; if the owner dies, whoever waits
//! for it aborts it. Both are a compare-exchange of the same head, so a commit after an abort fails and changes nothing.
//! The room of a reservation stays taken until its owner lets go of it or is dead, also when the owner was evicted: it may
//! be writing into it.

use super::append::Relieve;
use super::members::Membership;
use super::record::{self, HEAD, Head, ORIGIN, Origin, SEQUENCE, State, TIME};
use crate::error::{Error, Result};
use crate::segment::layout::{GRANULE, RECORD_HEADER};
use crate::sys::atomic::Ordering;
use crate::wait::Deadline;

/// A record of this member that is reserved and not yet finished.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) len: u32,
    names_len: u64,
}

impl Membership {
    /// Reserves a record with room for a body of `len` bytes.
    pub(crate) fn reserve(
        &self,
        kind: &[u8],
        len: usize,
        deadline: &Deadline,
        relieve: Relieve<'_>,
    ) -> Result<Reserved> {
        self.check()?;
        let size = self.size_of(kind, len)?;
        self.settle_forgotten();
        let mut claim = self.claim_with_room(size, deadline, relieve)?;
        let position = claim.position;
        let spot = self.ring.segment.at(position);
        // As before an append: who is asleep wakes, finds the record reserved and naps from then on, so that nothing depends
        // on the ring of a commit, whose process may die before it.
        self.ring.ring_for(std::iter::once(kind));
        // Before the head: a gravedigger must find the reservation that he sees.
        self.line()
            .cursor
            .reservation
            .store(position.wrapping_add(1), Ordering::Release);
        let sequence = spot.word(SEQUENCE).load(Ordering::Relaxed);
        self.write_origin(spot, 0, kind);
        let head = Head {
            state: State::Reserved,
            body_len: len as u32,
        };
        let next = position.wrapping_add(size);
        self.ring.note_end(position, next);
        self.ring.publish(position, next, sequence.wrapping_add(1), head);
        claim.position = next;
        self.finish_append(claim, position);
        Ok(Reserved {
            position,
            sequence,
            len: len as u32,
            names_len: self.names_len(kind),
        })
    }

    /// Where the body of a reservation is: good for `len` bytes, written by nobody else while the reservation lasts.
    pub(crate) fn reserved_body(&self, reserved: &Reserved) -> *mut u8 {
        let spot = self.ring.segment.at(reserved.position);
        spot.raw(record::body_offset(reserved.names_len), reserved.len.into())
    }

    /// Makes the first `len` bytes of the reserved body a message.
    pub(crate) fn commit(&self, reserved: &Reserved, len: u32) -> Result<()> {
        assert!(len <= reserved.len, "a commit is not longer than its reservation");
        if let Err(error) = self.check() {
            self.abort_reserved(reserved);
            return Err(error);
        }
        let segment = &self.ring.segment;
        let position = reserved.position;
        let whole = record::size(reserved.names_len, reserved.len.into());
        let used = record::size(reserved.names_len, len.into());
        if used < whole {
            // What is left over becomes an aborted record of its own. Readers get to it only through the head below.
            let rest = position.wrapping_add(used);
            let origin = Origin::new(self.slot, self.generation, 0);
            segment.word(rest, ORIGIN).store(origin.bits(), Ordering::Relaxed);
            segment
                .word(rest, SEQUENCE)
                .store(reserved.sequence.wrapping_add(1), Ordering::Relaxed);
            let head = Head {
                state: State::Aborted,
                body_len: (whole - used - RECORD_HEADER) as u32,
            };
            segment.word(rest, HEAD).store(head.bits(rest), Ordering::Relaxed);
            const { assert!(GRANULE >= RECORD_HEADER) };
        }
        segment.word(position, TIME).store(self.time(), Ordering::Relaxed);
        let reserved_head = Head {
            state: State::Reserved,
            body_len: reserved.len,
        }
        .bits(position);
        let message = Head {
            state: State::Message,
            body_len: len,
        }
        .bits(position);
        // Release: as the store in `publish`. A failure means that somebody aborted the record.
        let committed =
            segment
                .word(position, HEAD)
                .compare_exchange(reserved_head, message, Ordering::SeqCst, Ordering::Relaxed);
        self.let_reservation_go();
        if committed.is_err() {
            return Err(Error::Evicted {
                queue: self.ring.segment.name.clone(),
            });
        }
        self.ring.ring_for_all();
        self.count(1, len.into());
        Ok(())
    }

    /// Gives a reservation up: readers pass over it.
    pub(crate) fn abort_reserved(&self, reserved: &Reserved) {
        // Also after an eviction: the evictor may have looked just before the reserving, or died.
        if self.is_of_this_process() {
            let seen = Head {
                state: State::Reserved,
                body_len: reserved.len,
            }
            .bits(reserved.position);
            self.ring.abort(reserved.position, seen);
        }
        self.let_reservation_go();
    }

    /// Aborts a reservation of this member that was forgotten without being dropped: nobody can finish it any more. (This
    /// member has one at a time, so at the beginning of a call it has none.)
    pub(super) fn settle_forgotten(&self) {
        let forgotten = self.line().cursor.reservation.load(Ordering::Relaxed);
        if forgotten != 0 {
            self.ring
                .abort_reservation_of(self.slot, self.generation, forgotten - 1);
            self.let_reservation_go();
        }
    }

    fn let_reservation_go(&self) {
        if self.is_of_this_process() {
            self.line().cursor.reservation.store(0, Ordering::Release);
            self.ring.made_room();
        }
    }
}
