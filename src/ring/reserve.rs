//! Reserving: a record that has its place before it is filled, so that filling does not hold up other writers.
//!
//! Readers wait at a reserved record. Its owner turns it into a message, or aborts it; if the owner dies, whoever waits
//! for it aborts it. Both are a compare-exchange of the same head, so a commit after an abort fails and changes nothing.
//! The room of a reservation stays taken until its owner lets go of it or is dead, also when the owner was evicted: it may
//! be writing into it.
//!
//! # Unannounced
//!
//! A writer that keeps the claim need not tell readers of what they could only wait at. It notes the reservation in its slot,
//! prepares the frontier behind it, and leaves the head at 0. If nobody comes between, its commit is an append that
//! ends here: busy, a look at the claim word, one store of the head. Whoever revokes the claim meanwhile *announces* the
//! reservation before he does anything else, which is a compare-exchange of its head from 0 to reserved, and goes on behind it. So does the
//! owner when it finds its claim gone, or being revoked: whichever of the two comes first, afterwards it is a reserved record like any other.

use super::Ring;
use super::append::{NOWHERE, Relieve, prepare_frontier, publish_prepared};
use super::keep::Begun;
use super::members::{Membership, Stage};
use super::record::{self, HEAD, Head, ORIGIN, Origin, SEQUENCE, State, TIME};
use crate::error::{Error, Result};
use crate::segment::layout::{BUSY, GRANULE, RECORD_HEADER};
use crate::sys::atomic::Ordering;
use crate::wait::Deadline;

/// A record of this member that is reserved and not yet finished.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) position: u64,
    pub(crate) len: u32,
    body_offset: u32,
}

impl Reserved {
    pub(super) fn head(&self) -> u64 {
        Head::of_reservation(self.len).bits(self.position)
    }

    #[inline(always)]
    fn size(&self) -> u64 {
        self.size_with(self.len)
    }

    /// Bytes that the message takes if its body has so many.
    #[inline(always)]
    fn size_with(&self, len: u32) -> u64 {
        record::size_from(self.body_offset.into(), len.into())
    }

    /// Where the next record begins, however long the message in this one becomes.
    #[inline(always)]
    fn end(&self) -> u64 {
        self.position.wrapping_add(self.size())
    }
}

impl Membership {
    /// Reserves a record with room for a body of `len` bytes, if nothing is in the way of an append with the kept claim: unannounced.
    /// `None`: nothing was done, and [`Membership::reserve`] finds out why.
    #[inline(always)]
    pub(crate) fn reserve_if_clear(&self, kind: &[u8], len: usize) -> Option<Reserved> {
        if !self.names.become_of(kind, &self.ring) {
            return None;
        }
        let position = self.reserve_unannounced(len);
        (position != NOWHERE).then(|| self.reserved_at(position, len))
    }

    /// The same, of the kind that the names are of.
    #[inline(never)]
    fn reserve_unannounced(&self, len: usize) -> u64 {
        let (shape, cursor) = (self.names.shape(), &self.line().cursor);
        let size = record::size_from(shape.body_offset(), len as u64);
        let is_too_long = len > u32::MAX as usize || size > self.lane().max_record();
        let has_forgotten_one = cursor.reservation.load(Ordering::Relaxed) != 0;
        if is_too_long || has_forgotten_one || !self.is_of_this_process() {
            return NOWHERE;
        }
        let Some(Begun { position, next }) = self.begin_kept(size, shape.bits(), || self.light.fence()) else {
            return NOWHERE;
        };
        // Now, since whoever announces this must find it. Of the record itself nothing is written before its body is: readers look at its
        // first line all the time, and would have it back until then.
        prepare_frontier(self.at(next), self.number_after_next());
        self.put_ready_aside(position);
        cursor.origin.store(self.names.origin().bits(), Ordering::Relaxed);
        cursor.unannounced.store(len as u64 + 1, Ordering::Relaxed);
        cursor.reservation.store(position.wrapping_add(1), Ordering::Relaxed);
        // Release in it: who sees this member idle sees its reservation.
        self.rest(position);
        position
    }

    /// What is reserved there, of the kind that the names are of.
    #[inline(always)]
    fn reserved_at(&self, position: u64, len: usize) -> Reserved {
        Reserved {
            position,
            len: len as u32,
            body_offset: self.names.shape().body_offset() as u32,
        }
    }

    /// Reserves a record with room for a body of `len` bytes, taking the claim or waiting for room.
    #[cold]
    #[inline(never)]
    pub(crate) fn reserve(
        &self,
        kind: &[u8],
        len: usize,
        deadline: &Deadline,
        relieve: Relieve<'_>,
    ) -> Result<Reserved> {
        self.check()?;
        let size = self.size_of(kind, len)?;
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
        let reserved = self.reserved_at(position, len);
        let next = position.wrapping_add(size);
        self.ring.note_end(position, next);
        let head = Head::of_reservation(reserved.len);
        self.ring.publish(position, next, sequence.wrapping_add(1), head);
        claim.position = next;
        self.finish_append(claim, position);
        Ok(reserved)
    }

    /// Where the body of a reservation is: good for `len` bytes, written by nobody else while the reservation lasts.
    #[inline]
    pub(crate) fn reserved_body(&self, reserved: &Reserved) -> *mut u8 {
        self.at(reserved.position)
            .raw(reserved.body_offset.into(), reserved.len.into())
    }

    /// Makes the first `len` bytes of the reserved body a message.
    #[inline]
    pub(crate) fn commit(&self, reserved: &Reserved, len: u32) -> Result<()> {
        assert!(len <= reserved.len, "a commit is not longer than its reservation");
        match self.is_of_this_process() && self.finish_unannounced(reserved, State::Message, len) {
            true => Ok(()),
            false => self.commit_announced(reserved, len),
        }
    }

    /// Finishes a reservation that nobody has announced, with `state` and `len`. `false`: nothing was done; somebody has announced it, or the caller has to.
    #[inline(never)]
    fn finish_unannounced(&self, reserved: &Reserved, state: State, len: u32) -> bool {
        let (kept, slot) = (self.kept(), self.line());
        if slot.cursor.unannounced.load(Ordering::Relaxed) == 0 || kept.bits() == 0 {
            return false;
        }
        let Some(frontier) = self.begin_if_kept(kept, || self.light.fence()) else {
            return false;
        };
        let (position, spot) = (reserved.position, self.at(reserved.position));
        // Who announced it may have died before the claim was his.
        let is_announced = spot.word(HEAD).load(Ordering::Relaxed) != 0;
        if frontier != position || is_announced || !self.is_active_in(slot) {
            self.rest(frontier);
            return false;
        }
        let bits = self.names.shape().bits();
        self.ring.ring_for_bits(bits);
        self.write_end(reserved, len);
        publish_prepared(spot, position, Head { state, body_len: len });
        match state {
            State::Message => drop(self.count_kept(1, len.into())),
            _ => self.number_one(),
        }
        self.ring.ring_again(bits);
        let (next, size) = (reserved.end(), reserved.size());
        self.take_ready_up(next, size);
        if self.keeping.is_low(next) {
            self.make_ready(next, size);
        }
        self.rest(next);
        // After the frontier has moved: who asks how far is written or reserved gets the end of the reservation as long as this says that there
        // is one, and the frontier then. The other way round it would seem to go back for a moment.
        slot.cursor.unannounced.store(0, Ordering::Relaxed);
        slot.cursor.reservation.store(0, Ordering::Release);
        self.ring.made_room();
        true
    }

    #[cold]
    #[inline(never)]
    fn commit_announced(&self, reserved: &Reserved, len: u32) -> Result<()> {
        if let Err(error) = self.check() {
            self.abort_reserved(reserved);
            return Err(error);
        }
        self.announce(reserved);
        self.write_end(reserved, len);
        let message = Head::of_message(len).bits(reserved.position);
        // Release: as the store in `publish`. A failure means that somebody aborted the record.
        let committed = self.ring.segment.word(reserved.position, HEAD).compare_exchange(
            reserved.head(),
            message,
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
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

    /// Has the head of a reservation tell of it, if it does not.
    pub(super) fn announce(&self, reserved: &Reserved) {
        let cursor = &self.line().cursor;
        if cursor.unannounced.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Busy, even if somebody else has the claim: who arms before the head is changed sees one of the two at work, and naps.
        cursor.frontier.store(reserved.position | BUSY, Ordering::Relaxed);
        self.light.fence();
        let origin = Origin::from_bits(cursor.origin.load(Ordering::Relaxed));
        self.ring.announce(reserved.position, reserved.head(), origin);
        // Release: pairs with the Acquire in `unannounced_at`.
        cursor.unannounced.store(0, Ordering::Release);
        self.number_one();
        self.take_ready_up(reserved.end(), reserved.size());
        // If a revoker backs out, or dies, the claim is this member's as before.
        self.rest(reserved.end());
    }

    /// Writes what belongs to a reserved record when its message is known to have `len` bytes, but for the head.
    #[inline(always)]
    fn write_end(&self, reserved: &Reserved, len: u32) {
        if reserved.size_with(len) < reserved.size() {
            self.write_left_over(reserved, len);
        }
        let spot = self.at(reserved.position);
        // The kind is still that of the reservation: while it is there, its member does nothing else.
        self.write_names(spot, self.names.shape());
        if self.ring.segment.geometry.timestamps {
            spot.word(TIME).store(self.time(), Ordering::Relaxed);
        }
    }

    /// What is left over becomes an aborted record of its own. Readers get to it only through the head before it.
    #[cold]
    #[inline(never)]
    fn write_left_over(&self, reserved: &Reserved, len: u32) {
        let used = reserved.size_with(len);
        let rest = reserved.position.wrapping_add(used);
        let (before, spot) = (self.at(reserved.position), self.at(rest));
        let sequence = before.word(SEQUENCE).load(Ordering::Relaxed).wrapping_add(1);
        let origin = Origin::new(self.slot, self.generation, 0);
        spot.word(ORIGIN).store(origin.bits(), Ordering::Relaxed);
        spot.word(SEQUENCE).store(sequence, Ordering::Relaxed);
        let head = Head {
            state: State::Aborted,
            body_len: (reserved.size() - used - RECORD_HEADER) as u32,
        };
        const { assert!(GRANULE >= RECORD_HEADER) };
        spot.word(HEAD).store(head.bits(rest), Ordering::Relaxed);
    }

    /// Gives a reservation up: readers pass over it.
    #[cold]
    #[inline(never)]
    pub(crate) fn abort_reserved(&self, reserved: &Reserved) {
        if !self.is_of_this_process() || self.finish_unannounced(reserved, State::Aborted, reserved.len) {
            return;
        }
        self.announce(reserved);
        // Also after an eviction: the evictor may have looked just before the reserving, or died.
        self.ring.abort(reserved.position, reserved.head());
        self.let_reservation_go();
    }

    /// Aborts a reservation of this member that was forgotten without being dropped: nobody can finish it any more. (This
    /// member has one at a time, so at the beginning of a call it has none.)
    pub(super) fn settle_forgotten(&self) {
        let forgotten = self.line().cursor.reservation.load(Ordering::Relaxed);
        if forgotten != 0 {
            // Whatever it says, it is a record's.
            self.abort_forgotten((forgotten - 1) & !(GRANULE - 1));
        }
    }

    #[cold]
    fn abort_forgotten(&self, position: u64) {
        let cursor = &self.line().cursor;
        let unannounced = cursor.unannounced.load(Ordering::Relaxed);
        // Nothing of this member's can have come there since; else one of the two is falsified.
        if unannounced != 0 && cursor.frontier.load(Ordering::Relaxed) == position {
            let origin = Origin::from_bits(cursor.origin.load(Ordering::Relaxed));
            self.announce(&Reserved {
                position,
                len: (unannounced - 1) as u32,
                body_offset: record::body_offset(origin.names_len()) as u32,
            });
        }
        cursor.unannounced.store(0, Ordering::Relaxed);
        self.ring.abort_reservation_of(self.slot, self.generation, position);
        self.let_reservation_go();
    }

    fn let_reservation_go(&self) {
        self.line().cursor.reservation.store(0, Ordering::Release);
        self.ring.made_room();
    }
}

impl Ring {
    /// Announces the keeper's reservation at its `frontier`, if there is one that nobody has announced. The caller holds the claim beside it, and has seen
    /// it idle, or dead: as long as the claim is held beside a dead one, nobody else is active in its slot.
    pub(super) fn announce_for(&self, keeper: u16, frontier: u64) {
        let Some((origin, body_len)) = self.unannounced_at(keeper, frontier) else {
            return;
        };
        let head = Head::of_reservation(body_len).bits(frontier);
        if self.announce(frontier, head, origin) && self.slot_state(keeper).stage != Stage::Active {
            // Who evicted it may have looked before.
            self.abort(frontier, head);
        }
    }

    /// Origin and body length of the record that the keeper has reserved at its `frontier`, if nobody has announced it.
    pub(super) fn unannounced_at(&self, keeper: u16, frontier: u64) -> Option<(Origin, u32)> {
        let cursor = &self.segment.slot(keeper).cursor;
        // Acquire: pairs with the Release in `Membership::announce`, so that the head is seen that was announced there.
        let unannounced = cursor.unannounced.load(Ordering::Acquire);
        let is_there = cursor.reservation.load(Ordering::Acquire) == frontier.wrapping_add(1);
        let origin = Origin::from_bits(cursor.origin.load(Ordering::Relaxed));
        (unannounced != 0 && is_there).then(|| (origin, (unannounced - 1) as u32))
    }

    /// Publishes an unannounced reservation. `false`: somebody else has.
    ///
    /// Called by its owner, or by who holds the claim beside it; the owner may even be finishing it meanwhile. What is at the
    /// frontier behind it has been prepared.
    pub(super) fn announce(&self, position: u64, reserved: u64, origin: Origin) -> bool {
        // First, as in `reserve`: who is woken finds the record reserved, or somebody at work, and naps.
        self.ring_for_all();
        let spot = self.segment.at(position);
        if spot.word(HEAD).load(Ordering::Acquire) != 0 {
            return false;
        }
        // Somebody else may be doing the same, with the same origin.
        spot.word(ORIGIN).store(origin.bits(), Ordering::Relaxed);
        // Release: as in `publish`.
        spot.word(HEAD)
            .compare_exchange(0, reserved, Ordering::SeqCst, Ordering::Acquire)
            .is_ok()
    }
}
