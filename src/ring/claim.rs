//! Taking turns: the claim word and what it costs to get it.
//!
//! | bits | holds |
//! |---|---|
//! | 0 | somebody sleeps until the claim is free |
//! | 1..14 | 1 + the slot that holds the claim; 0 for nobody |
//! | 14..27 | 1 + the slot that keeps the claim between its appends; 0 for nobody |
//! | 27..64 | the frontier in granules, lower 37 bits, as of the last change of this word |
//!
//! Only the holder moves the position. Everybody else may change the word in two ways: take it while nobody holds it, and set
//! bit 0. Freeing a dead member's claim is `recover`'s, under the dead one's slot lock.
//!
//! # Keeping the claim
//!
//! Two compare-exchanges a message are most of what an append costs, and a writer that nobody contends with needs neither. So
//! a writer that has been alone for a while *keeps* the claim: the word names it as keeper and nobody as holder, and an
//! append of the keeper is: mark itself as busy in its own slot, look whether the word is still as it left it, append, store the new
//! frontier in its slot, no longer busy. Plain stores all of them; the frontier and its busy bit are one word.
//!
//! Whoever else wants the claim *revokes* it: a compare-exchange puts his slot beside the keeper's as holder, a
//! [`barrier::heavy`] makes sure that either the keeper sees that or he sees the busy bit, and then he waits until the keeper is not
//! busy or is proven dead. The frontier is then as his slot says, or behind what it has reserved, or behind the one record (or batch) that it had published and
//! not yet noted when it died. Being revoked makes a writer slower to keep the claim again, so writers that really contend
//! soon pass it on plainly.

use super::Ring;
use super::sleep::ROOM_SPIN;
use crate::error::{Error, Result};
use crate::segment::layout::{BUSY, ClaimLine, GRANULE};
use crate::segment::presence::Holder;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::barrier;
use crate::sys::futex::EVERY_BIT;
use crate::wait::Deadline;
use crossbeam_utils::Backoff;
use std::time::Duration;

/// The claim word, taken apart. See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(super) u64);

const SLEEPERS: u64 = 1;
const HOLDER_SHIFT: u32 = 1;
const KEEPER_SHIFT: u32 = 14;
const SLOT_MASK: u64 = 0x1fff;
const POSITION_SHIFT: u32 = 27;
const POSITION_BITS: u32 = 64 - POSITION_SHIFT;

impl Word {
    pub(crate) fn from_bits(bits: u64) -> Self {
        Word(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Nobody writes, nobody sleeps.
    pub(crate) fn free(position: u64) -> Self {
        Word((position / GRANULE) << POSITION_SHIFT)
    }

    pub(super) fn held_by(self, slot: u16) -> Self {
        Word(self.0 & !(SLOT_MASK << HOLDER_SHIFT) | (u64::from(slot) + 1) << HOLDER_SHIFT)
    }

    fn with_sleepers(self) -> Self {
        Word(self.0 | SLEEPERS)
    }

    pub(crate) fn has_sleepers(self) -> bool {
        self.0 & SLEEPERS != 0
    }

    /// Who is appending or about to.
    #[inline]
    pub(crate) fn holder(self) -> Option<u16> {
        self.slot_at(HOLDER_SHIFT)
    }

    /// Who appends without taking the claim anew.
    #[inline]
    pub(crate) fn keeper(self) -> Option<u16> {
        self.slot_at(KEEPER_SHIFT)
    }

    #[inline]
    fn slot_at(self, shift: u32) -> Option<u16> {
        match (self.0 >> shift) & SLOT_MASK {
            0 => None,
            slot => Some((slot - 1) as u16),
        }
    }

    /// Nobody holds it or waits for it, and `slot` keeps it.
    pub(super) fn kept_by(position: u64, slot: u16) -> Self {
        Word(Word::free(position).0 | (u64::from(slot) + 1) << KEEPER_SHIFT)
    }

    /// The same with no holder and nobody asleep.
    pub(super) fn without_holder(self) -> Self {
        Word(self.0 & !(SLOT_MASK << HOLDER_SHIFT) & !SLEEPERS)
    }

    /// The position in full. `near` is one at most 2^42 bytes away.
    #[inline]
    pub(crate) fn position(self, near: u64) -> u64 {
        let near = near / GRANULE;
        let difference = (self.0 >> POSITION_SHIFT).wrapping_sub(near);
        // Sign-extend the lower POSITION_BITS of the difference.
        let difference = ((difference << POSITION_SHIFT) as i64) >> POSITION_SHIFT;
        const { assert!(POSITION_SHIFT + POSITION_BITS == 64) };
        near.wrapping_add_signed(difference).wrapping_mul(GRANULE)
    }
}

/// The right to append, from here until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'r> {
    pub(super) ring: &'r Ring,
    /// The claim word as this claim left it.
    pub(super) word: Word,
    pub(super) slot: u16,
    /// The frontier: whoever publishes moves it.
    pub(crate) position: u64,
}

/// The frontier, if `kept` still is the claim word, and so the claim is its keeper's as it left it. Marks him as busy then, in the
/// `frontier` of his slot.
#[inline(always)]
pub(super) fn begin_if_kept(line: &ClaimLine, kept: Word, frontier: &AtomicU64, fence: impl FnOnce()) -> Option<u64> {
    // A falsified one may be no position; it must not leave a busy bit that never goes.
    let position = frontier.load(Ordering::Relaxed) & !(GRANULE - 1);
    frontier.store(position | BUSY, Ordering::Relaxed);
    // `barrier::Light::fence`. Pairs with `barrier::heavy` in `revoke` and in `sleep::wait_for_record`: either the other side sees the
    // bit, or this one sees the word changed, or the reader's bits.
    fence();
    // Acquire: a revoker may have died and the word be as it was again; then this sees what he did before.
    if line.word.load(Ordering::Acquire) == kept.0 {
        return Some(position);
    }
    frontier.store(position, Ordering::Release);
    None
}

/// The first sleep of a contender; each further one is twice as long.
pub(super) const FIRST_SLICE: Duration = Duration::from_micros(200);
/// The longest sleep of anybody who waits for something that a death could withhold.
pub(super) const LONGEST_SLICE: Duration = Duration::from_millis(4);

impl Ring {
    /// Takes the claim for `slot`, waiting for other members' appends and burying a dead one.
    #[inline]
    pub(crate) fn claim(&self, slot: u16, deadline: &Deadline) -> Result<Claim<'_>> {
        let line = &self.segment.control().claim;
        let seen = Word(line.word.load(Ordering::Relaxed));
        if seen.holder().is_none()
            && seen.keeper().is_none()
            && let Some(claim) = self.try_claim(seen, seen.held_by(slot), slot)
        {
            return Ok(claim);
        }
        self.claim_contended(slot, deadline)
    }

    #[inline]
    fn try_claim(&self, seen: Word, mine: Word, slot: u16) -> Option<Claim<'_>> {
        let line = &self.segment.control().claim;
        // SeqCst: Acquire pairs with the Release that freed the claim, so this writer sees the frontier as the last one
        // left it; and the total order with `sleep::arm` makes either a sleeper see this claim or this writer see the
        // sleeper.
        line.word
            .compare_exchange(seen.0, mine.0, Ordering::SeqCst, Ordering::Relaxed)
            .ok()?;
        let position = mine.position(line.base.load(Ordering::Relaxed));
        Some(Claim {
            ring: self,
            word: mine,
            slot,
            position,
        })
    }

    #[cold]
    fn claim_contended(&self, slot: u16, deadline: &Deadline) -> Result<Claim<'_>> {
        let control = self.segment.control();
        let word = &control.claim.word;
        let mut slice = FIRST_SLICE;
        // Once asleep, a contender does not know whether others sleep too, so it takes the claim together with the mark.
        let mut has_slept = false;
        loop {
            let backoff = Backoff::new();
            loop {
                let seen = Word(word.load(Ordering::Relaxed));
                if seen.holder().is_none() {
                    let mine = if has_slept { seen.with_sleepers() } else { seen }.held_by(slot);
                    match seen.keeper() {
                        None => {
                            if let Some(claim) = self.try_claim(seen, mine, slot) {
                                return Ok(claim);
                            }
                        }
                        // SeqCst: before the look at the keeper's busy bit, as the keeper's store of it is before its look at the word.
                        Some(keeper) => {
                            if u32::from(keeper) >= self.segment.geometry.slots {
                                return Err(self.corrupt("keeper of the claim", keeper.into()));
                            }
                            let taken = word.compare_exchange(seen.0, mine.0, Ordering::SeqCst, Ordering::Relaxed);
                            if taken.is_ok() {
                                return self.revoke(mine, keeper, slot, deadline);
                            }
                        }
                    }
                }
                // Spins for a while, then gives the processor away a few times.
                if backoff.is_completed() || cfg!(loom) {
                    break;
                }
                backoff.snooze();
            }
            let bell = control.turn.bell.read();
            let seen = Word(word.load(Ordering::Relaxed));
            let Some(holder) = seen.holder() else { continue };
            if holder == slot || u32::from(holder) >= self.segment.geometry.slots {
                return Err(self.corrupt("holder of the claim", holder.into()));
            }
            if self.bury_if_dead(holder) {
                continue;
            }
            if deadline.has_passed() {
                let pid = self.identity(holder).pid;
                return Err(Error::Busy {
                    queue: self.segment.name.clone(),
                    pid,
                });
            }
            if !seen.has_sleepers() {
                let marked =
                    word.compare_exchange(seen.0, seen.with_sleepers().0, Ordering::Relaxed, Ordering::Relaxed);
                if marked.is_err() {
                    continue;
                }
            }
            control.turn.bell.sleep(bell, deadline.cap(slice), EVERY_BIT);
            has_slept = true;
            slice = (slice * 2).min(LONGEST_SLICE);
        }
    }

    /// Takes the claim from its keeper, beside whom the word already names `slot` as holder.
    fn revoke(&self, mine: Word, keeper: u16, slot: u16, deadline: &Deadline) -> Result<Claim<'_>> {
        let line = &self.segment.control().claim;
        let bell = &self.segment.control().turn.bell;
        if !barrier::heavy() {
            // Refused by a sandbox. What the keeper has stored by now is visible long before this ends.
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_idle = || !self.is_busy(keeper);
        let mut slice = FIRST_SLICE;
        let mut has_died = false;
        while !self.spin_on(is_idle, ROOM_SPIN, deadline) {
            let rung = bell.read();
            if is_idle() {
                break;
            }
            if self.segment.presence.holder(keeper, &self.identity(keeper)) == Holder::Nobody {
                has_died = true;
                break;
            }
            if deadline.has_passed() {
                self.back_out(slot);
                let pid = self.identity(keeper).pid;
                return Err(Error::Busy {
                    queue: self.segment.name.clone(),
                    pid,
                });
            }
            bell.nap(rung, deadline.cap(slice), EVERY_BIT);
            slice = (slice * 2).min(LONGEST_SLICE);
        }
        if has_died {
            // The dead one may have cleared bits without ringing. While the claim is taken, so that whoever arms anew only naps.
            self.ring_for_all_regardless();
        }
        // Acquire in `is_busy`: the keeper's last append is visible.
        let frontier = self.frontier_of(keeper);
        self.announce_for(keeper, frontier);
        let position = self.first_empty(frontier);
        // Before the word, whose few bits of position will be read relative to this. Only who holds the claim stores here.
        line.base.store(position, Ordering::Relaxed);
        let mut seen = mine;
        let word = loop {
            let held = if seen.has_sleepers() {
                Word::free(position).with_sleepers()
            } else {
                Word::free(position)
            };
            let held = held.held_by(slot);
            match line
                .word
                .compare_exchange(seen.0, held.0, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => break held,
                Err(now) => seen = Word(now),
            }
            if seen.holder() != Some(slot) {
                return Err(self.corrupt("holder of the claim", slot.into()));
            }
        };
        if has_died {
            self.segment.control().tally.takeovers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Claim {
            ring: self,
            word,
            slot,
            position,
        })
    }

    /// Gives up revoking: the claim is its keeper's alone again.
    fn back_out(&self, slot: u16) {
        let word = &self.segment.control().claim.word;
        let mut seen = Word(word.load(Ordering::Relaxed));
        while seen.holder() == Some(slot) {
            match word.compare_exchange(seen.0, seen.without_holder().0, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    if seen.has_sleepers() {
                        self.wake_contenders();
                    }
                    return;
                }
                Err(now) => seen = Word(now),
            }
        }
    }

    /// The keeper has done with an append up to `frontier`, or has begun none from there.
    #[inline(always)]
    pub(super) fn rest(&self, kept: Word, line: &AtomicU64, frontier: u64) {
        // Release: pairs with the Acquire in `is_busy` and `frontier_of`.
        line.store(frontier, Ordering::Release);
        self.wake_revokers(kept);
    }

    /// Whether the keeper in this slot is in the middle of an append.
    #[inline]
    pub(super) fn is_busy(&self, keeper: u16) -> bool {
        // Acquire: pairs with the Release that ends an append of the keeper.
        self.segment.slot(keeper).cursor.frontier.load(Ordering::Acquire) & BUSY != 0
    }

    /// Somebody may revoke the claim, and nap until the keeper is no longer busy, as it now is. Nothing depends on this look.
    #[inline(always)]
    pub(super) fn wake_revokers(&self, kept: Word) {
        if self.segment.control().claim.word.load(Ordering::Relaxed) != kept.0 {
            self.wake_contenders();
        }
    }

    /// The frontier as noted by the keeper of the claim. A falsified one is no position at all; rounded, it is a wrong one, and what
    /// stands there tells.
    #[inline]
    pub(super) fn frontier_of(&self, keeper: u16) -> u64 {
        // Acquire: a keeper moves only this, after the head of the record.
        self.segment.slot(keeper).cursor.frontier.load(Ordering::Acquire) & !(GRANULE - 1)
    }

    /// The member that is in the middle of an append, or about to begin or to end one.
    pub(crate) fn at_work(&self, word: Word) -> Option<u16> {
        let in_range = |slot: &u16| u32::from(*slot) < self.segment.geometry.slots;
        let busy_keeper = || word.keeper().filter(in_range).filter(|keeper| self.is_busy(*keeper));
        word.holder().filter(in_range).or_else(busy_keeper)
    }

    /// Gives up the claim that the leaving member in `slot` keeps. If somebody is revoking it, that goes on by itself.
    pub(super) fn stop_keeping(&self, slot: u16) {
        let line = &self.segment.control().claim;
        let seen = Word(line.word.load(Ordering::Relaxed));
        if seen.keeper() == Some(slot) && seen.holder().is_none() {
            // An earlier member in this slot may have died as keeper, with a record published and not yet noted.
            let free = Word::free(self.first_empty(self.frontier_of(slot)));
            // A failure means that somebody has begun to revoke it.
            let _ = line
                .word
                .compare_exchange(seen.0, free.0, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// Wakes everybody who sleeps until the claim is free.
    #[cold]
    #[inline(never)]
    pub(super) fn wake_contenders(&self) {
        self.segment.control().turn.bell.wake(EVERY_BIT);
    }
}

impl Drop for Claim<'_> {
    /// Frees the claim at `position`.
    #[inline]
    fn drop(&mut self) {
        let line = &self.ring.segment.control().claim;
        // Before the word: the word's few bits of position are read relative to this one. A keeper comes by here once in a
        // while, so this is never far behind.
        // Release: pairs with the Acquire in `Ring::frontier`.
        line.base.store(self.position, Ordering::Release);
        if self.is_kept() {
            let frontier = &self.ring.segment.slot(self.slot).cursor.frontier;
            return self.ring.rest(self.word, frontier, self.position);
        }
        let free = Word::free(self.position);
        // Release: pairs with the Acquire in `try_claim`. A failure means that somebody set the sleepers bit.
        if line
            .word
            .compare_exchange(self.word.0, free.0, Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
        {
            self.free_and_wake(free);
        } else if self.word.has_sleepers() {
            self.ring.wake_contenders();
        }
    }
}

impl Claim<'_> {
    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        self.word.holder().is_none()
    }

    #[cold]
    fn free_and_wake(&self, free: Word) {
        let word = &self.ring.segment.control().claim.word;
        let mut seen = Word(word.load(Ordering::Relaxed));
        // Anything but the sleepers bit can only have changed by a wild store of somebody else; leave that alone.
        while seen.holder() == Some(self.slot) {
            match word.compare_exchange(seen.0, free.0, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return self.ring.wake_contenders(),
                Err(now) => seen = Word(now),
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_whole_from_its_lower_bits() {
        for position in [
            0,
            GRANULE,
            1 << 40,
            (1 << 43) - GRANULE,
            1 << 43,
            5 << 43,
            !(GRANULE - 1),
        ] {
            for step in [0, GRANULE, 1 << 40] {
                let word = Word::free(position).held_by(77).with_sleepers();
                assert_eq!(word.position(position.wrapping_sub(step)), position);
                assert_eq!(word.position(position.wrapping_add(step)), position);
                assert_eq!(word.holder(), Some(77));
            }
        }
    }
}
