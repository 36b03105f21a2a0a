//! After a death: proving it, freeing the dead one's claim, settling its reservation, giving its slot back.
//!
//! Everything is done with the dead one's slot in hand (`Presence::take` on its byte), so two never bury the same member, and
//! nobody takes the slot anew meanwhile. Every step leaves a state from which the next gravedigger can go on, so being
//! killed here is like being killed anywhere.

use super::Ring;
use super::claim::Word;
use super::members::{SlotState, Stage};
use super::record::{self, HEAD, Head, ORIGIN, Origin, State};
use crate::segment::layout::BUSY;
use crate::segment::presence::Holder;
use crate::sys::atomic::Ordering;
use crate::sys::fork;
use crate::sys::process::Identity;

impl Ring {
    /// Who the member in a slot says it is.
    pub(crate) fn identity(&self, slot: u16) -> Identity {
        let line = &self.segment.slot(slot).identity;
        Identity {
            pid: line.pid.load(Ordering::Relaxed) as u32,
            start_time: line.start_time.load(Ordering::Relaxed),
            namespace: line.namespace.load(Ordering::Relaxed),
        }
    }

    /// Frees everything that the member in `slot` held, if it is dead. `false`: it lives, or somebody else is at it.
    pub(crate) fn bury_if_dead(&self, slot: u16) -> bool {
        if self.segment.presence.holder(slot, &self.identity(slot)) != Holder::Nobody {
            return false;
        }
        let _one_at_a_time = fork::exclusive();
        // An error of the lock call is no proof of death.
        if !self.segment.presence.take(slot).unwrap_or(false) {
            return false;
        }
        // Asked again with the slot in hand: a newcomer may have come and gone since.
        let is_dead = !self.segment.presence.lives_without_lock(&self.identity(slot));
        if is_dead {
            self.bury(slot);
        }
        self.segment.presence.give_back(slot);
        is_dead
    }

    /// Frees everything that the dead member in `slot` held. The caller has the slot in hand.
    pub(super) fn bury(&self, slot: u16) {
        self.free_claim_of(slot);
        let line = &self.segment.slot(slot).cursor;
        let reservation = line.reservation.load(Ordering::Acquire);
        if reservation != 0 {
            self.abort_reservation_of(slot, self.slot_state(slot).generation, reservation - 1);
            line.reservation.store(0, Ordering::Release);
        }
        let state = self.slot_state(slot);
        if state.stage != Stage::Free {
            self.segment.control().tally.reaped.fetch_add(1, Ordering::Relaxed);
            self.vacate(slot, state);
        }
        self.wake_writers();
    }

    /// If the claim carries the dead member's name: moves the frontier past what it had published, and frees the claim.
    fn free_claim_of(&self, slot: u16) {
        let control = self.segment.control();
        let word = &control.claim.word;
        let mut seen = Word::from_bits(word.load(Ordering::Acquire));
        loop {
            let base = control.claim.base.load(Ordering::Acquire);
            let freed = match (seen.holder(), seen.keeper()) {
                // It died while it held the claim.
                (Some(holder), None) if holder == slot => {
                    let frontier = self.first_empty(seen.position(base));
                    // Nobody else moves the claim now, so nobody else moves this.
                    control.claim.base.store(frontier, Ordering::Relaxed);
                    Word::free(frontier)
                }
                // It died while it revoked the claim: that is as if it had never begun.
                (Some(holder), Some(_)) if holder == slot => seen.without_holder(),
                // It kept the claim, and nobody has begun to revoke it.
                (None, Some(keeper)) if keeper == slot => Word::free(self.first_empty(self.frontier_of(slot))),
                // It kept the claim, and somebody is revoking it: he finishes.
                (Some(_), Some(keeper)) if keeper == slot => {
                    self.ring_for_all_regardless();
                    let frontier = &self.segment.slot(slot).cursor.frontier;
                    frontier.store(frontier.load(Ordering::Relaxed) & !BUSY, Ordering::Release);
                    return;
                }
                _ => return,
            };
            // The dead one may have published without ringing, or cleared bits without ringing. Before the claim is free:
            // whoever wakes and arms anew finds it taken and naps, also if this gravedigger dies on the spot. Afterwards
            // nobody would know any more that there is somebody to ring for.
            self.ring_for_all_regardless();
            // Release: pairs with the Acquire of the next claim. Fails if a contender has set the sleepers bit, or has begun to
            // revoke the claim.
            match word.compare_exchange(seen.bits(), freed.bits(), Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => {
                    control.tally.takeovers.fetch_add(1, Ordering::Relaxed);
                    // Spares those who have armed since the ring above their nap.
                    self.ring_for_all();
                    self.wake_contenders();
                    // It may have been both: revoking what an earlier member in its slot had kept.
                    seen = freed;
                }
                Err(now) => seen = Word::from_bits(now),
            }
        }
    }

    /// The end of the complete records that begin at `position`.
    pub(super) fn first_empty(&self, position: u64) -> u64 {
        let mut at = position;
        loop {
            let bits = self.segment.word(at, HEAD).load(Ordering::Acquire);
            let Some(head) = Head::from_bits(bits, at) else {
                return at;
            };
            let origin = Origin::from_bits(self.segment.word(at, ORIGIN).load(Ordering::Relaxed));
            let end = at.wrapping_add(record::size(origin.names_len(), head.body_len.into()));
            // A record longer than the ring was not written by this protocol; stop before it.
            if end.wrapping_sub(position) >= self.capacity() {
                return at;
            }
            at = end;
        }
    }

    /// Aborts the record at `position` if it is still this slot's reservation. The slot may have been marked as having one
    /// before the record was published, so the record is asked whose it is.
    pub(super) fn abort_reservation_of(&self, slot: u16, generation: u32, position: u64) {
        let position = position & !(crate::segment::layout::GRANULE - 1);
        let bits = self.segment.word(position, HEAD).load(Ordering::Acquire);
        let origin = Origin::from_bits(self.segment.word(position, ORIGIN).load(Ordering::Relaxed));
        if origin.slot() == slot && origin.generation() == generation {
            self.abort(position, bits);
        }
    }

    /// Turns the reserved record with head `seen` into an aborted one. `false`: it is none (any more).
    pub(super) fn abort(&self, position: u64, seen: u64) -> bool {
        let Some(
            head @ Head {
                state: State::Reserved, ..
            },
        ) = Head::from_bits(seen, position)
        else {
            return false;
        };
        let aborted = Head {
            state: State::Aborted,
            ..head
        }
        .bits(position);
        // The owner's commit is a compare-exchange from the same word, so exactly one of the two happens.
        let is_aborted = self
            .segment
            .word(position, HEAD)
            .compare_exchange(seen, aborted, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok();
        if is_aborted {
            self.ring_for_all();
        }
        is_aborted
    }

    /// Where the reserved record with head `seen` ends, if nobody is there to finish it.
    pub(crate) fn end_of_abandoned(&self, position: u64, seen: u64) -> Option<u64> {
        let head = Head::from_bits(seen, position)?;
        let origin = Origin::from_bits(self.segment.word(position, ORIGIN).load(Ordering::Relaxed));
        if u32::from(origin.slot()) < self.segment.geometry.slots {
            let owner = self.slot_state(origin.slot());
            let is_its_owner = owner.stage == Stage::Active && owner.generation == origin.generation();
            let holder = self
                .segment
                .presence
                .holder(origin.slot(), &self.identity(origin.slot()));
            if is_its_owner && holder != Holder::Nobody {
                return None;
            }
        }
        // It may have been finished just before its owner ended or left.
        let is_same = self.segment.word(position, HEAD).load(Ordering::Acquire) == seen;
        is_same.then(|| position.wrapping_add(record::size(origin.names_len(), head.body_len.into())))
    }

    /// Somebody waits at a reserved record. If its owner is dead, buries him; if the owner no longer is who made it
    /// (evicted, or its gravedigger died), aborts the record.
    pub(super) fn settle(&self, position: u64, seen: u64, origin: Origin) {
        if u32::from(origin.slot()) >= self.segment.geometry.slots {
            // Nobody's, so nobody will finish it.
            self.abort(position, seen);
            return;
        }
        let owner = self.slot_state(origin.slot());
        let is_its_owner = owner
            == SlotState {
                stage: Stage::Active,
                generation: origin.generation(),
                ..owner
            };
        if !is_its_owner {
            self.abort(position, seen);
        } else {
            self.bury_if_dead(origin.slot());
        }
    }
}
