//! A writer that keeps the claim: what it remembers, when it begins, and the short way through an append meanwhile.
//!
//! What others may do about it is in [`claim`](super::claim).

use super::claim::{Claim, Word, is_still_kept};
use super::members::Membership;
use super::record::TIME;
use crate::error::Result;
use crate::segment::layout::GRANULE;
use crate::sys::atomic::{Ordering, in_total_order};
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
    /// While it keeps the claim: a record may end here, with the next head behind it, or before this position without a look at
    /// anything else. There is room up to there, and the records that begin before it are in one piece between two marks.
    /// Nobody else moves what it was made from.
    clear: LocalCounter,
    /// The lines up to here have been stored to ahead of time; see [`Membership::keep_ahead`]. (If others have written since, some have to
    /// come again.)
    touched: LocalCounter,
}

/// How many bytes behind the frontier are stored to ahead of time, and how many of these may be left when it is done again: what
/// most records take.
const TOUCH_AHEAD: u64 = 512;
const TOUCH_AT: u64 = 128;

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
            touched: LocalCounter::new(0),
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

/// An append with the kept claim that has begun.
pub(super) struct Begun {
    /// The frontier.
    pub(super) position: u64,
    /// Where the record will end.
    pub(super) next: u64,
}

impl Membership {
    /// Takes the claim for an append: the kept one, or anew.
    #[inline]
    pub(super) fn claim_to_append(&self, deadline: &Deadline) -> Result<Claim<'_>> {
        let kept = self.kept();
        if kept.0 != 0 {
            let busy = &self.line().cursor.busy;
            if is_still_kept(&self.control().claim, kept, busy, || self.light.fence()) {
                return Ok(Claim {
                    ring: &self.ring,
                    word: kept,
                    slot: self.slot,
                    position: self.ring.frontier_of(self.slot),
                });
            }
            self.keeping.is_revoked(self.appended());
            // The revoker may nap until this one is no longer busy.
            self.ring.wake_contenders();
        }
        self.ring.claim(self.slot, deadline)
    }

    /// The claim word that this member left when it began to keep the claim; 0 for none.
    #[inline(always)]
    fn kept(&self) -> Word {
        Word(self.keeping.word.load(Ordering::Relaxed))
    }

    /// The frontier, for who keeps the claim. A falsified one may be no position at all; what is stored there is in the ring all the same.
    #[inline(always)]
    fn kept_frontier(&self) -> u64 {
        self.line().cursor.frontier.load(Ordering::Relaxed)
    }

    /// Counts records appended with the kept claim. Returns the number of the one behind them.
    #[inline(always)]
    pub(super) fn count_kept(&self, records: u64) -> u64 {
        let sequence = &self.line().cursor.sequence;
        let next = sequence.load(Ordering::Relaxed).wrapping_add(records);
        sequence.store(next, Ordering::Relaxed);
        next
    }

    /// Begins an append of `size` bytes with the kept claim. `None`: it keeps none, somebody has begun to revoke it or sleeps until one of
    /// `bits` is rung for, or there is something else to be looked at first. Nothing is held then. `fence`: that of [`Light`].
    ///
    /// This is [`Membership::claim_to_append`] and all that has to be asked with the claim in hand, for the case that nothing is
    /// in the way, without a [`Claim`]: moving one about costs more than the append.
    ///
    /// [`Light`]: crate::sys::barrier::Light
    #[inline(always)]
    pub(super) fn begin_kept(&self, size: u64, bits: u32, fence: impl FnOnce()) -> Option<Begun> {
        let (kept, busy) = (self.kept(), &self.line().cursor.busy);
        if kept.0 == 0 || !is_still_kept(&self.control().claim, kept, busy, fence) {
            return None;
        }
        let position = self.kept_frontier();
        let next = position.wrapping_add(size);
        let left = self.keeping.clear.load(Ordering::Relaxed).wrapping_sub(next);
        // Also false for a falsified frontier more than a lap away, and (if it is none) for what is longer than the ring.
        if left <= self.lane().max_record() && self.is_active() && !self.has_sleepers(bits) {
            return Some(Begun { position, next });
        }
        self.ring.rest(kept, busy);
        None
    }

    /// Whether somebody sleeps until one of `bits` is rung for.
    #[inline(always)]
    fn has_sleepers(&self, bits: u32) -> bool {
        // SeqCst: as in `Ring::ring_for`.
        in_total_order();
        self.control().data.sleepers.load(Ordering::SeqCst) as u32 & bits != 0
    }

    /// Sees to it that the lines behind `frontier` are this processor's before they are needed. The caller is busy, and his record
    /// is published.
    ///
    /// The reader's processor has them from the last lap. Taking them from there one by one, between the stores of an append, waits for
    /// each; one store to each of many overlaps the ways. An instruction that only asks for them did nothing here.
    #[inline(always)]
    fn keep_ahead(&self, frontier: u64) {
        let touched = self.keeping.touched.load(Ordering::Relaxed);
        if touched.wrapping_sub(frontier) as i64 <= TOUCH_AT as i64 {
            self.touch_ahead(frontier);
        }
    }

    #[cold]
    #[inline(never)]
    fn touch_ahead(&self, frontier: u64) {
        // Both as bytes behind the frontier, whatever that is: no more than there are, and nothing if one of them is behind it.
        let ahead = |position: &LocalCounter, most: u64| match position.load(Ordering::Relaxed).wrapping_sub(frontier) {
            bytes if bytes <= most => bytes,
            _ => 0,
        };
        let clear = ahead(&self.keeping.clear, self.lane().max_record()).min(TOUCH_AHEAD);
        let touched = ahead(&self.keeping.touched, TOUCH_AHEAD);
        for skip in (touched..clear).step_by(GRANULE as usize) {
            // No head: the frontier's own line has been written.
            let line = self.at(frontier.wrapping_add(skip + GRANULE));
            line.word(TIME).store(0, Ordering::Relaxed);
        }
        self.keeping
            .touched
            .store(frontier.wrapping_add(clear), Ordering::Relaxed);
    }

    /// Ends what [`Membership::begin_kept`] began and what took a while, with `frontier` where it ends. Somebody may have begun to revoke the
    /// claim meanwhile, seen this member busy, and nap now; or have armed himself, whom the caller has rung for again.
    ///
    /// After a short append that cannot be: who looks at `busy` has waited for [`heavy`](crate::sys::barrier::heavy), which
    /// takes longer. Unless the writer was taken off its processor. Its next append wakes them then.
    #[inline]
    pub(super) fn end_kept_after_a_while(&self, frontier: u64) {
        self.end_kept(frontier);
        self.ring.wake_revokers(self.kept());
    }

    /// Ends what [`Membership::begin_kept`] began, with `frontier` where the record ends.
    #[inline(always)]
    pub(super) fn end_kept(&self, frontier: u64) {
        self.keep_ahead(frontier);
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
        // Less one granule: for the head behind the last record.
        let clear = self.ring.clear_from(position).wrapping_sub(GRANULE);
        self.keeping.clear.store(clear, Ordering::Relaxed);
        let sequence = self.ring.sequence_at(position);
        self.line().cursor.sequence.store(sequence, Ordering::Relaxed);
    }
}
