//! A writer that keeps the claim: what it remembers, when it begins, and the short way through an append meanwhile.
//!
//! What others may do about it is in [`claim`](super::claim).

use super::claim::{Claim, Word};
use super::members::Membership;
use crate::error::Result;
use crate::segment::layout::GRANULE;
use crate::sys::atomic::Ordering;
use crate::wait::Deadline;

/// What a writer remembers about keeping the claim. Only its own member uses it, so nothing here orders anything, and no model
/// need look at it.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// The claim word as this member left it when it began to keep it; 0 while it does not.
    word: LocalCounter,
    /// Where its last append ended: if the next one begins there, nobody came between.
    end: LocalCounter,
    /// How many appends in a row nobody came between; while it keeps the claim: how many messages it had appended before that.
    alone: LocalCounter,
    /// How many of these it takes before it keeps the claim.
    patience: LocalCounter,
    /// While it keeps the claim: a record may end, and the next head be written, before this position without a look at
    /// anything else. There is room up to here, and the records that begin before it are in one piece between two marks.
    /// Nobody else moves what it was made from.
    clear: LocalCounter,
}

type LocalCounter = std::sync::atomic::AtomicU64;

/// The least patience, and the most.
const PATIENCE: (u64, u64) = (16, 1 << 16);
/// Who has kept the claim for so many appends before it was revoked was right to keep it.
const WORTH_KEEPING: u64 = 1000;

impl Keeping {
    pub(super) fn new() -> Self {
        Keeping {
            word: LocalCounter::new(0),
            end: LocalCounter::new(0),
            alone: LocalCounter::new(0),
            patience: LocalCounter::new(PATIENCE.0),
            clear: LocalCounter::new(0),
        }
    }

    /// Keep the claim from the next append on.
    #[cfg(all(test, loom))]
    pub(super) fn lose_patience(&self) {
        self.patience.store(0, Ordering::Relaxed);
    }

    /// The claim that was kept is gone; so many messages had been appended in all.
    #[cold]
    fn is_revoked(&self, appended: u64) {
        self.word.store(0, Ordering::Relaxed);
        let patience = match appended.wrapping_sub(self.alone.swap(0, Ordering::Relaxed)) {
            kept if kept > WORTH_KEEPING => PATIENCE.0,
            _ => (4 * self.patience.load(Ordering::Relaxed)).min(PATIENCE.1),
        };
        self.patience.store(patience, Ordering::Relaxed);
    }
}

impl Membership {
    /// Takes the claim for an append: the kept one, or anew.
    #[inline]
    pub(super) fn claim_to_append(&self, deadline: &Deadline) -> Result<Claim<'_>> {
        let kept = Word(self.keeping.word.load(Ordering::Relaxed));
        if kept.0 != 0 {
            if self.ring.is_still_kept(kept, &self.line().cursor.busy) {
                return Ok(Claim {
                    ring: &self.ring,
                    word: kept,
                    slot: self.slot,
                    position: self.ring.frontier_of(self.slot),
                });
            }
            self.keeping.is_revoked(self.appended());
        }
        self.ring.claim(self.slot, deadline)
    }

    /// The claim word that this member left when it began to keep the claim, for who has just appended with it.
    pub(super) fn kept(&self) -> Word {
        Word(self.keeping.word.load(Ordering::Relaxed))
    }

    /// Whether a keeper may write up to `end`.
    #[inline(always)]
    pub(super) fn is_clear(&self, end: u64) -> bool {
        self.keeping.clear.load(Ordering::Relaxed).wrapping_sub(end) <= self.ring.capacity()
    }

    /// The frontier, for who keeps the claim.
    #[inline(always)]
    pub(super) fn kept_frontier(&self) -> u64 {
        self.line().cursor.frontier.load(Ordering::Relaxed) & !(GRANULE - 1)
    }

    /// Counts a record appended with the kept claim. Returns the number of the one behind it.
    #[inline(always)]
    pub(super) fn count_kept(&self) -> u64 {
        let sequence = &self.line().cursor.sequence;
        let next = sequence.load(Ordering::Relaxed).wrapping_add(1);
        sequence.store(next, Ordering::Relaxed);
        next
    }

    /// Begins an append of `size` bytes with the kept claim: the frontier. `None`: somebody
    /// has begun to revoke it, or sleeps, or there is something else to be looked at first. Nothing is held then.
    ///
    /// This is [`Membership::claim_to_append`] and all that has to be asked with the claim in hand, for the case that nothing is
    /// in the way, without a [`Claim`]: moving one about costs more than the append.
    #[inline(always)]
    pub(super) fn begin_kept(&self, size: u64) -> Option<u64> {
        let (kept, busy) = (self.kept(), &self.line().cursor.busy);
        if kept.0 == 0 || !self.ring.is_still_kept(kept, busy) {
            return None;
        }
        let frontier = self.kept_frontier();
        let end = frontier.wrapping_add(size + GRANULE);
        // Also false for a falsified frontier more than a lap away, and (if it is none) for what is longer than the ring.
        if self.is_clear(end) && self.is_active() && !self.ring.has_sleepers(self.names.bits()) {
            return Some(frontier);
        }
        self.ring.rest(kept, busy);
        None
    }

    /// Ends what [`Membership::begin_kept`] began, with `frontier` where the record ends.
    #[inline(always)]
    pub(super) fn end_kept(&self, frontier: u64) {
        let line = &self.line().cursor;
        // Before `busy`: a revoker takes the frontier from here. Release: pairs with the Acquire in `frontier_of`.
        line.frontier.store(frontier, Ordering::Release);
        // Release: pairs with the Acquire in `revoke`.
        line.busy.store(0, Ordering::Release);
    }

    /// Ends a claim after an append: keeps it, or frees it.
    #[inline]
    pub(super) fn finish_append(&self, claim: Claim<'_>, start: u64) {
        if claim.is_kept() {
            self.look_ahead(claim.position);
        } else {
            self.keep_or_free(claim, start);
        }
    }

    /// Keeps the claim if nobody else has wanted it for a while.
    #[inline]
    fn keep_or_free(&self, claim: Claim<'_>, start: u64) {
        let keeping = &self.keeping;
        let alone = match keeping.end.load(Ordering::Relaxed) == start {
            true => keeping.alone.load(Ordering::Relaxed) + 1,
            false => 0,
        };
        keeping.alone.store(alone, Ordering::Relaxed);
        keeping.end.store(claim.position, Ordering::Relaxed);
        let is_alone = alone >= keeping.patience.load(Ordering::Relaxed) || self.ring.segment.geometry.single_writer;
        if is_alone && !claim.word.has_sleepers() {
            self.keep(claim);
        }
    }

    /// How many messages this member has appended.
    fn appended(&self) -> u64 {
        self.line().cursor.appended.load(Ordering::Relaxed)
    }

    #[cold]
    fn keep(&self, claim: Claim<'_>) {
        let line = &self.ring.segment.control().claim;
        let position = claim.position;
        let kept = Word::kept_by(position, self.slot);
        // Before the word: a revoker takes the frontier from here.
        self.line().cursor.frontier.store(position, Ordering::Relaxed);
        line.base.store(position, Ordering::Relaxed);
        // Release: as in freeing the claim. A failure means that somebody waits; then it is freed, by the drop.
        if line
            .word
            .compare_exchange(claim.word.0, kept.0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
        {
            std::mem::forget(claim);
            self.keeping.word.store(kept.0, Ordering::Relaxed);
            self.keeping.alone.store(self.appended(), Ordering::Relaxed);
            self.look_ahead(position);
        }
    }

    /// Takes down what the next appends with the kept claim, the frontier being at `position`, need to know.
    fn look_ahead(&self, position: u64) {
        let clear = self.ring.clear_from(position);
        self.keeping.clear.store(clear, Ordering::Relaxed);
        let sequence = self.ring.sequence_at(position);
        self.line().cursor.sequence.store(sequence, Ordering::Relaxed);
    }
}
