//! Taking turns: the claim word and what it costs to get it.
//!
//! | bits | holds |
//! |---|---|
//! | 0 | somebody sleeps until the claim is free |
//! | 1..14 | 1 + the slot that holds the claim; 0 for nobody |
//! | 14..27 | 0 in this version |
//! | 27..64 | the frontier in granules, lower 37 bits |
//!
//! Only the holder moves the position. Everybody else may change the word in two ways: take it while free, and set bit 0.
//! Freeing a dead holder's claim is `recover`'s, under the dead one's slot lock.

use super::Ring;
use crate::error::{Error, Result};
use crate::segment::layout::GRANULE;
use crate::sys::atomic::{Ordering, spin_hint, yield_now};
use crate::sys::futex::EVERY_BIT;
use crate::sys::spinning_helps;
use crate::wait::Deadline;
use std::time::Duration;

/// The claim word, taken apart. See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

const SLEEPERS: u64 = 1;
const HOLDER_SHIFT: u32 = 1;
const HOLDER_MASK: u64 = 0x1fff;
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

    fn held_by(self, slot: u16) -> Self {
        Word(self.0 & !(HOLDER_MASK << HOLDER_SHIFT) | (u64::from(slot) + 1) << HOLDER_SHIFT)
    }

    fn with_sleepers(self) -> Self {
        Word(self.0 | SLEEPERS)
    }

    pub(crate) fn has_sleepers(self) -> bool {
        self.0 & SLEEPERS != 0
    }

    pub(crate) fn holder(self) -> Option<u16> {
        match (self.0 >> HOLDER_SHIFT) & HOLDER_MASK {
            0 => None,
            holder => Some((holder - 1) as u16),
        }
    }

    /// The position in full. `near` is one at most 2^42 bytes away.
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
    ring: &'r Ring,
    word: Word,
    slot: u16,
    /// The frontier: whoever publishes moves it.
    pub(crate) position: u64,
}

/// How often a contender looks before it goes to sleep, and how often of these it gives the processor away.
const LOOKS: u32 = 400;
const YIELDS: u32 = 24;
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
            for look in 0..LOOKS {
                let seen = Word(word.load(Ordering::Relaxed));
                if seen.holder().is_none() {
                    let mine = if has_slept { seen.with_sleepers() } else { seen };
                    if let Some(claim) = self.try_claim(seen, mine.held_by(slot), slot) {
                        return Ok(claim);
                    }
                }
                if look >= LOOKS - YIELDS || !spinning_helps() {
                    yield_now();
                } else {
                    spin_hint();
                }
                if cfg!(loom) {
                    break;
                }
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

    /// Wakes everybody who sleeps until the claim is free.
    pub(super) fn wake_contenders(&self) {
        self.segment.control().turn.bell.wake(EVERY_BIT);
    }
}

impl Drop for Claim<'_> {
    /// Frees the claim at `position`.
    #[inline]
    fn drop(&mut self) {
        let line = &self.ring.segment.control().claim;
        // Before the word: the word's few bits of position are read relative to this one.
        line.base.store(self.position, Ordering::Relaxed);
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
            u64::MAX & !(GRANULE - 1),
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
