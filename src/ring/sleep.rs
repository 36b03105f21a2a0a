//! Readers waiting for a record, and how writers wake them.
//!
//! A reader that has nothing to read spins a little, then *arms*: it sets the wake-up bits of the kinds it wants in the
//! sleepers word, and then looks at the claim word and at the head at its cursor once more. A writer takes the claim and
//! then looks at the sleepers word. Both are total-order operations, so one of the two sees the other:
//!
//! * The writer sees the bits: it clears them and rings, *before* it publishes and with the claim in its hand. If it is killed
//!   anywhere from here on, the claim stays behind with its name on it; the next writer frees it and rings for everybody.
//!   So a wake-up can be late but not lost, and needs no acknowledgement from sleepers.
//! * The reader sees the claim taken: something may be coming, and nobody will ring for it. It naps in short slices until
//!   the claim is free, and then looks at the head again.
//!
//! A writer that keeps the claim takes nothing. It marks itself as busy instead, and the reader, if it sees a keeper, puts a
//! [`barrier::heavy`] before its look whether it is.
//!
//! Only when the claim is free *and* the head is still the old one does the reader sleep in long slices.

use super::Ring;
use super::claim::{FIRST_SLICE, LONGEST_SLICE, Word};
use super::record::{HEAD, ORIGIN, Origin};
use crate::segment::layout::{KIND_BITS, fnv1a};
use crate::sys::atomic::{Ordering, in_total_order, spin_hint};
use crate::sys::futex::EVERY_BIT;
use crate::sys::{barrier, spinning_helps};
use crate::wait::Deadline;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// The bit of all kinds that have none of their own.
const OTHER_KINDS: u32 = 1 << KIND_BITS;
/// The bit of readers that pass over no kind. They set no other: who is woken by one bit leaves its others set, and then every
/// append has to find out that nobody sleeps there.
pub(crate) const ANY_KIND: u32 = 1 << (KIND_BITS + 1);
/// How long a reader sleeps at a time while nobody is writing. It would be rung; this is for what no protocol covers.
const IDLE_SLICE: Duration = Duration::from_millis(500);
/// The first sleep of a reader while somebody is writing.
const BUSY_SLICE: Duration = Duration::from_micros(100);

thread_local! {
    /// Another number each time that this thread has waited for a message.
    static WAITS: Cell<u32> = const { Cell::new(0) };
}

/// A count that is another one when the calling thread has waited for a message since. A hint for who writes: whoever
/// waits for answers has time before the next message, and writes no stream. (No more than a hint: the answer may be waited
/// for by another thread, or the writer handed to one.)
#[inline(always)]
pub(super) fn waits() -> u32 {
    // In a model threads are not what they seem, and every run has to be the same.
    if cfg!(loom) { 0 } else { WAITS.get() }
}

/// The calling thread waits for a message.
#[inline]
pub(crate) fn note_wait() {
    WAITS.set(waits().wrapping_add(1));
}

impl Ring {
    /// The wake-up bits that a message of `kind` rings for.
    pub(super) fn bits_of_kind(&self, kind: &[u8]) -> u32 {
        ANY_KIND | self.find_kind_bit(kind, false)
    }

    /// The wake-up bit of `kind`, made if there is one left; [`None`] if the kind must share the last one with others.
    pub(crate) fn own_bit_of_kind(&self, kind: &[u8]) -> Option<u32> {
        Some(self.find_kind_bit(kind, true)).filter(|bit| *bit != OTHER_KINDS)
    }

    fn find_kind_bit(&self, kind: &[u8], make: bool) -> u32 {
        let hash = fnv1a(kind).max(1);
        let cells = &self.segment.control().kind_bits;
        for step in 0..KIND_BITS {
            let index = (hash as usize).wrapping_add(step) % KIND_BITS;
            let cell = &cells[index];
            let found = match cell.load(Ordering::Acquire) {
                0 if make => match cell.compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => hash,
                    Err(other) => other,
                },
                0 => return OTHER_KINDS,
                other => other,
            };
            if found == hash {
                return 1 << index;
            }
        }
        OTHER_KINDS
    }

    /// Rings for the readers that sleep and want one of `kinds`. The caller holds the claim.
    #[inline]
    pub(super) fn ring_for<'k>(&self, kinds: impl Iterator<Item = &'k [u8]>) {
        let sleepers = self.sleepers_in_order();
        if sleepers != 0 {
            self.ring_bits(sleepers, kinds.fold(0, |bits, kind| bits | self.bits_of_kind(kind)));
        }
    }

    /// The same, for the bits of a kind.
    #[inline(always)]
    pub(super) fn ring_for_bits(&self, bits: u32) {
        let sleepers = self.sleepers_in_order();
        if sleepers & bits != 0 {
            self.ring_bits(sleepers, bits);
        }
    }

    /// After the publish, for readers that armed themselves since [`Ring::ring_for`] looked. They saw the claim taken and only
    /// nap, so this spares them the rest of the nap and nothing depends on it.
    #[inline]
    pub(super) fn ring_again_for<'k>(&self, kinds: impl Iterator<Item = &'k [u8]>) {
        let sleepers = self.sleepers();
        if sleepers != 0 {
            self.ring_bits(sleepers, kinds.fold(0, |bits, kind| bits | self.bits_of_kind(kind)));
        }
    }

    /// The same, for the bits of a kind.
    #[inline(always)]
    pub(super) fn ring_again(&self, bits: u32) {
        let sleepers = self.sleepers();
        if sleepers & bits != 0 {
            self.ring_bits(sleepers, bits);
        }
    }

    /// [`Ring::ring_for`] of one kind.
    #[inline(always)]
    pub(super) fn ring_for_one(&self, kind: &[u8]) {
        let sleepers = self.sleepers_in_order();
        if sleepers != 0 {
            self.ring_kind(sleepers, kind);
        }
    }

    #[inline(always)]
    fn sleepers_in_order(&self) -> u32 {
        // SeqCst: after the compare-exchange that took the claim (or finished a reservation); see the head of this file.
        in_total_order();
        self.segment.control().data.sleepers.load(Ordering::SeqCst) as u32
    }

    #[inline(always)]
    fn sleepers(&self) -> u32 {
        self.segment.control().data.sleepers.load(Ordering::Relaxed) as u32
    }

    #[cold]
    #[inline(never)]
    fn ring_kind(&self, sleepers: u32, kind: &[u8]) {
        self.ring_bits(sleepers, self.bits_of_kind(kind));
    }

    #[cold]
    fn ring_bits(&self, sleepers: u32, bits: u32) {
        if sleepers & bits != 0 {
            let data = &self.segment.control().data;
            data.sleepers.fetch_and(!u64::from(bits), Ordering::SeqCst);
            data.bell.wake(bits);
        }
    }

    /// Rings for every reader that sleeps. For those without the claim: the bits stay. Were they cleared, and their clearer killed
    /// before it rings, the next writer would find nobody to ring for. The next one with a claim clears them.
    pub(crate) fn ring_for_all(&self) {
        let data = &self.segment.control().data;
        in_total_order();
        if data.sleepers.load(Ordering::SeqCst) != 0 {
            data.bell.wake(EVERY_BIT);
        }
    }

    /// As [`Ring::ring_for_all`], but also for those whose bits a dead writer has already cleared.
    pub(super) fn ring_for_all_regardless(&self) {
        let data = &self.segment.control().data;
        data.sleepers.swap(0, Ordering::SeqCst);
        data.bell.wake(EVERY_BIT);
    }

    /// Waits until the head at `position` is no longer `seen`, having just been found so. `bits`: the wake-ups that
    /// concern this reader. `is_over`: there is nothing to wait for any more. `false`: the deadline came first.
    ///
    /// `seen` is 0, or the head of a reserved record, whose owner is looked after meanwhile.
    pub(crate) fn wait_for_record(
        &self,
        position: u64,
        seen: u64,
        bits: u32,
        spin: Duration,
        deadline: &Deadline,
        is_over: &dyn Fn() -> bool,
    ) -> bool {
        let head = self.segment.word(position, HEAD);
        if matches!(deadline, Deadline::Now) {
            if seen != 0 {
                // Who never waits would else never get past a reservation that nobody will finish.
                self.settle_here(position, seen);
            }
            return head.load(Ordering::Acquire) != seen;
        }
        note_wait();
        if self.spin_on(|| head.load(Ordering::Acquire) != seen, spin, deadline) {
            return true;
        }
        let control = self.segment.control();
        let mut busy_slice = BUSY_SLICE;
        loop {
            let bell = control.data.bell.read();
            // Arm. SeqCst: before the look at the claim word; see the head of this file.
            control.data.sleepers.fetch_or(u64::from(bits), Ordering::SeqCst);
            in_total_order();
            let claim = Word::from_bits(control.claim.word.load(Ordering::SeqCst));
            // A keeper makes no total-order access; pairs with `barrier::Light` in `claim::begin_if_kept`.
            let is_sure = claim.keeper().is_none() || barrier::heavy();
            let is_pending = !is_sure || self.at_work(claim).is_some() || seen != 0;
            if head.load(Ordering::SeqCst) != seen || is_over() {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            if is_pending {
                control.data.bell.nap(bell, deadline.cap(busy_slice), bits);
            } else {
                control.data.bell.sleep(bell, deadline.cap(IDLE_SLICE), bits);
            }
            if head.load(Ordering::Acquire) != seen {
                return true;
            }
            if is_pending {
                busy_slice = (busy_slice * 2).min(LONGEST_SLICE);
                self.look_after(position, seen);
            } else {
                // Rung for something that is about to come, or nothing at all.
                busy_slice = BUSY_SLICE;
            }
        }
    }

    /// A reader has waited for somebody who is in the middle of something: buries him if he is dead, and settles a
    /// reservation that nobody will.
    fn look_after(&self, position: u64, seen: u64) {
        let claim = Word::from_bits(self.segment.control().claim.word.load(Ordering::Relaxed));
        if let Some(writer) = self.at_work(claim) {
            self.bury_if_dead(writer);
        }
        if seen != 0 {
            self.settle_here(position, seen);
        }
    }

    fn settle_here(&self, position: u64, seen: u64) {
        let origin = Origin::from_bits(self.segment.word(position, ORIGIN).load(Ordering::Relaxed));
        self.settle(position, seen, origin);
    }

    /// Looks at `is_there` for as long as spinning may last. `true` as soon as it is there.
    pub(crate) fn spin_on(&self, is_there: impl Fn() -> bool, spin: Duration, deadline: &Deadline) -> bool {
        // Who must not wait looks once: a poll that finds nothing should cost what a look costs.
        if matches!(deadline, Deadline::Now) || spin.is_zero() || !spinning_helps() || cfg!(loom) {
            return is_there();
        }
        // `None`: longer than the clock goes.
        let end = Instant::now().checked_add(deadline.cap(spin));
        loop {
            for _ in 0..64 {
                if is_there() {
                    return true;
                }
                spin_hint();
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
        }
    }
}

/// How long writers spin for room before they sleep.
pub(super) const ROOM_SPIN: Duration = Duration::from_micros(20);
/// The first sleep of a writer that waits for room.
pub(super) const ROOM_SLICE: Duration = FIRST_SLICE;
