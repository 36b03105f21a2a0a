//! A writer that keeps the claim: what it remembers, when it begins, and the short way through an append meanwhile.
//!
//! What others may do about it is in [`claim`](super::claim).

use super::claim::{Claim, Word, begin_if_kept};
use super::members::Membership;
use super::sleep::waits;
use crate::error::Result;
use crate::segment::layout::{GRANULE, Slot};
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
    /// The same for a short record: from behind the frontier up to here, each granule begins with a 0, as a frontier does, and its line
    /// was this processor's not long ago. See [`Membership::make_ready`].
    ready: LocalCounter,
    /// From here on more is to be made ready.
    low: LocalCounter,
    /// While it has an unannounced reservation: up to where it was ready.
    aside: LocalCounter,
    /// What [`waits`] said when a step was last made ready.
    waits: LocalCounter,
    /// While it keeps the claim: the number of the record at the frontier, less the messages that this member has appended.
    numbering: LocalCounter,
}

/// So many bytes behind the frontier are made ready at a time by who writes a stream, and half of it by who writes short records and waits for
/// answers: more at a time overlap more ways, but the next message has to wait for them all. (In a model they have to fit
/// between two marks.)
const READY_STEP: u64 = if cfg!(loom) { 128 } else { 512 };
const HALF_STEP: u64 = READY_STEP / 2;
/// When so many or fewer are left.
const READY_AT: u64 = if cfg!(loom) { 64 } else { 192 };

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
            ready: LocalCounter::new(0),
            low: LocalCounter::new(0),
            aside: LocalCounter::new(0),
            waits: LocalCounter::new(waits().into()),
            numbering: LocalCounter::new(0),
        }
    }

    /// The number of the record at the frontier, once the member has appended so many messages.
    #[inline(always)]
    pub(super) fn number_behind(&self, appended: u64) -> u64 {
        appended.wrapping_add(self.numbering.load(Ordering::Relaxed))
    }

    /// Whether more is to be made ready behind this frontier.
    #[inline(always)]
    pub(super) fn is_low(&self, frontier: u64) -> bool {
        self.low.load(Ordering::Relaxed).wrapping_sub(frontier) as i64 <= 0
    }

    /// As if the thread had waited for a message since: in a model it never has.
    #[cfg(all(test, loom))]
    pub(super) fn pretend_to_have_waited(&self) {
        self.waits.store(1, Ordering::Relaxed);
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
            if let Some(position) = self.begin_if_kept(kept, || self.light.fence()) {
                return Ok(Claim {
                    ring: &self.ring,
                    word: kept,
                    slot: self.slot,
                    position,
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
    pub(super) fn kept(&self) -> Word {
        Word(self.keeping.word.load(Ordering::Relaxed))
    }

    /// Counts records appended with the kept claim, and the bytes of their bodies. Returns the number of the one behind them.
    #[inline(always)]
    pub(super) fn count_kept(&self, records: u64, bytes: u64) -> u64 {
        let appended = self.line().cursor.appended.add(records, bytes);
        self.keeping.number_behind(appended)
    }

    /// Counts messages appended in any other way, which have their numbers already.
    pub(super) fn count(&self, messages: u64, bytes: u64) {
        let numbering = self.keeping.numbering.load(Ordering::Relaxed);
        self.keeping
            .numbering
            .store(numbering.wrapping_sub(messages), Ordering::Relaxed);
        self.count_kept(messages, bytes);
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
        let kept = self.kept();
        // An unannounced reservation that was forgotten is settled first: others would take what is written there for it.
        let has_forgotten_one = self.line().cursor.unannounced.load(Ordering::Relaxed) != 0;
        if kept.0 == 0 || has_forgotten_one {
            return None;
        }
        let position = self.begin_if_kept(kept, fence)?;
        let next = position.wrapping_add(size);
        if self.may_end_at(next, &self.keeping.clear, self.line(), bits) {
            return Some(Begun { position, next });
        }
        self.rest(position);
        None
    }

    /// [`begin_if_kept`] for this member, which keeps the claim or did.
    #[inline(always)]
    pub(super) fn begin_if_kept(&self, kept: Word, fence: impl FnOnce()) -> Option<u64> {
        begin_if_kept(&self.control().claim, kept, &self.line().cursor.frontier, fence)
    }

    /// Whether, with the kept claim in hand, a short record may end at `next` without a look at anything else, and the head there is 0
    /// already. `slot`: this member's.
    #[inline(always)]
    pub(super) fn is_ready(&self, next: u64, slot: &Slot, bits: u32) -> bool {
        self.may_end_at(next, &self.keeping.ready, slot, bits)
    }

    #[inline(always)]
    fn may_end_at(&self, next: u64, most: &LocalCounter, slot: &Slot, bits: u32) -> bool {
        let left = most.load(Ordering::Relaxed).wrapping_sub(next);
        // Also false for a falsified frontier more than a lap away, and (if it is none) for what is longer than the ring.
        left <= self.lane().max_record() && self.is_active_in(slot) && !self.has_sleepers(bits)
    }

    /// The keeper has done with an append up to `frontier`, or has begun none from there.
    pub(super) fn rest(&self, frontier: u64) {
        self.ring.rest(self.kept(), &self.line().cursor.frontier, frontier);
    }

    /// Whether somebody sleeps until one of `bits` is rung for.
    #[inline(always)]
    fn has_sleepers(&self, bits: u32) -> bool {
        // SeqCst: as in `Ring::ring_for`.
        in_total_order();
        self.control().data.sleepers.load(Ordering::SeqCst) as u32 & bits != 0
    }

    /// Makes some of the granules behind `frontier` ready for short records, one of `size` bytes at least if there is room: each
    /// begins with a 0, as a frontier has to, and its line is this processor's before it is needed. The caller is busy, and his record
    /// is published.
    ///
    /// The reader's processor has the lines from the last lap. Taking them from there one by one, between the stores of an append, waits
    /// for each; one store to each of many overlaps the ways. An instruction that only asks for them did nothing here.
    ///
    /// For who has gone no further than what was ready.
    #[inline(always)]
    pub(super) fn make_ready(&self, frontier: u64, size: u64) {
        let keeping = &self.keeping;
        debug_assert!(keeping.ready.load(Ordering::Relaxed).wrapping_sub(frontier) as i64 >= 0);
        let first = keeping.ready.load(Ordering::Relaxed).wrapping_add(GRANULE);
        // A whole step for one that needs it, too.
        let may_be_half = self.has_waited() && size <= HALF_STEP;
        let is_whole = first.is_multiple_of(READY_STEP) && !may_be_half;
        let step = if is_whole { READY_STEP } else { HALF_STEP };
        let ready = first.wrapping_add(step - GRANULE);
        if !first.is_multiple_of(HALF_STEP)
            || size > step
            || keeping.clear.load(Ordering::Relaxed).wrapping_sub(ready) > self.lane().max_record()
        {
            return self.make_some_ready(frontier, size);
        }
        // Where the ring ends a step ends.
        const HALF: usize = (HALF_STEP / GRANULE) as usize;
        self.at(first).empty::<HALF>();
        if is_whole {
            self.at(first.wrapping_add(HALF_STEP)).empty::<HALF>();
        }
        self.is_ready_up_to(ready, size);
    }

    /// Whether this thread has waited for a message since a step was last made ready.
    #[inline(always)]
    fn has_waited(&self) -> bool {
        let now = u64::from(waits());
        let waits = &self.keeping.waits;
        let has = waits.load(Ordering::Relaxed) != now;
        waits.store(now, Ordering::Relaxed);
        has
    }

    /// The same granule by granule, for anybody.
    #[cold]
    #[inline(never)]
    fn make_some_ready(&self, frontier: u64, size: u64) {
        // As bytes behind the frontier, whatever that is: no more than there are, and nothing if one of them is behind it.
        let ahead = |position: &LocalCounter, most: u64| match position.load(Ordering::Relaxed).wrapping_sub(frontier) {
            bytes if bytes <= most => bytes,
            _ => 0,
        };
        // Up to where the next step begins.
        let enough = size.clamp(READY_STEP, 2 * READY_STEP);
        let enough = (frontier.wrapping_add(enough) | (READY_STEP - GRANULE)).wrapping_sub(frontier);
        let clear = ahead(&self.keeping.clear, self.lane().max_record()).min(enough);
        let ready = ahead(&self.keeping.ready, self.lane().max_record()).min(clear);
        for skip in (ready..clear).step_by(GRANULE as usize) {
            self.at(frontier.wrapping_add(skip + GRANULE)).empty::<1>();
        }
        self.is_ready_up_to(frontier.wrapping_add(clear), size);
    }

    #[inline(always)]
    fn is_ready_up_to(&self, ready: u64, size: u64) {
        self.keeping.ready.store(ready, Ordering::Relaxed);
        // For another one of this size, and in time.
        self.keeping
            .low
            .store(ready.wrapping_sub(size.max(READY_AT)), Ordering::Relaxed);
    }

    /// Ends what [`Membership::begin_kept`] began, with `frontier` where it ends, and makes ready for another of `size` bytes. Somebody may
    /// have begun to revoke the claim meanwhile, seen this member busy, and nap now; or have armed himself, whom the caller
    /// has rung for again.
    ///
    /// After a short append that cannot be: who looks whether it is busy has waited for [`heavy`](crate::sys::barrier::heavy), which
    /// takes longer. Unless the writer was taken off its processor. Its next append wakes them then.
    pub(super) fn end_kept(&self, frontier: u64, size: u64) {
        self.make_some_ready(frontier, size);
        self.rest(frontier);
    }

    /// Nothing is ready behind `frontier` any more: a record is filled there, by who knows whom and until when.
    #[inline(always)]
    pub(super) fn put_ready_aside(&self, frontier: u64) {
        let keeping = &self.keeping;
        keeping.low.store(frontier, Ordering::Relaxed);
        keeping
            .aside
            .store(keeping.ready.load(Ordering::Relaxed), Ordering::Relaxed);
        keeping.ready.store(frontier, Ordering::Relaxed);
    }

    /// That record of `size` bytes ends at `frontier`: behind it, everything is as it was when it was put aside.
    #[inline(always)]
    pub(super) fn take_ready_up(&self, frontier: u64, size: u64) {
        let ready = self.keeping.aside.load(Ordering::Relaxed);
        let is_behind = (ready.wrapping_sub(frontier) as i64) < 0;
        self.is_ready_up_to(if is_behind { frontier } else { ready }, size);
    }

    /// With the kept claim: the number of the record behind the next one.
    #[inline(always)]
    pub(super) fn number_after_next(&self) -> u64 {
        self.keeping.number_behind(self.appended()).wrapping_add(1)
    }

    /// A record has a number that is no message of this member, or not yet.
    pub(super) fn number_one(&self) {
        let numbering = self.keeping.numbering.load(Ordering::Relaxed);
        self.keeping
            .numbering
            .store(numbering.wrapping_add(1), Ordering::Relaxed);
    }

    /// Ends a claim after an append: keeps it, or frees it.
    #[inline]
    pub(super) fn finish_append(&self, claim: Claim<'_>, start: u64) {
        if claim.is_kept() {
            self.look_ahead(claim.position);
            // Until the claim is dropped this member is busy, and nobody else has written behind the frontier since it began.
            if self.keeping.is_low(claim.position) {
                self.make_some_ready(claim.position, 0);
            }
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
        self.line().cursor.appended.messages.load(Ordering::Relaxed)
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
            // Nothing, even if more was: somebody else may have died here with half a record written.
            self.keeping.ready.store(position, Ordering::Relaxed);
            self.keeping.low.store(position, Ordering::Relaxed);
            self.look_ahead(position);
        }
    }

    /// Takes down what the next appends with the kept claim, the frontier being at `position`, need to know.
    fn look_ahead(&self, position: u64) {
        // Less one granule: for the head behind the last record.
        let clear = self.ring.clear_from(position).wrapping_sub(GRANULE);
        self.keeping.clear.store(clear, Ordering::Relaxed);
        let numbering = self.ring.sequence_at(position).wrapping_sub(self.appended());
        self.keeping.numbering.store(numbering, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::Ring;
    use super::super::append::{Draft, no_backlog};
    use super::super::members::{Beginning, Role, Start};
    use super::super::record::HEAD;
    use super::super::sleep::note_wait;
    use super::*;
    use crate::segment::{Geometry, backing};
    use crate::wait::Wait;
    use std::sync::Arc;

    fn ring(capacity: u64, start: u64) -> Arc<Ring> {
        let geometry = Geometry {
            single_writer: true,
            start,
            ..Geometry::of_a_test(capacity)
        };
        let segment = backing::on_heap(&"ready".into(), geometry).unwrap();
        Ring::prepare(&segment);
        Arc::new(Ring::new(segment))
    }

    #[test]
    fn what_is_ready_begins_with_0_in_each_granule_wherever_records_begin_and_whoever_waits() {
        let (mut whole, mut half, mut random) = (0, 0, 1u64);
        let most = if cfg!(miri) { 60 } else { 3000 };
        for (capacity, start) in [4096, 8192, 1 << 16]
            .into_iter()
            .flat_map(|it| [0, 5 * GRANULE].map(|at| (it, at)))
        {
            let ring = ring(capacity, start);
            let deadline = Deadline::of(Wait::Forever);
            let join = |role| ring.join(role, "", Start::Now, &deadline).unwrap();
            let (reader, Beginning { position: mut at, .. }) = join(Role::Reader);
            let (writer, _) = join(Role::Writer);
            for _ in 0..most {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                if random >> 60 < 4 {
                    note_wait();
                }
                let (kind, body) = (b"", vec![7; (random >> 33) as usize % 600]);
                if writer.append_if_clear(kind, &body).is_none() {
                    writer
                        .append(Draft { kind, body: &body }, Wait::Never, &mut no_backlog)
                        .unwrap();
                }
                let (frontier, ready) = (ring.frontier(), writer.keeping.ready.load(Ordering::Relaxed));
                let clear = writer.keeping.clear.load(Ordering::Relaxed);
                assert!(
                    frontier <= ready && ready <= clear.max(frontier),
                    "{frontier} {ready} {clear}"
                );
                for position in (frontier..=ready).step_by(GRANULE as usize) {
                    assert_eq!(
                        ring.segment.word(position, HEAD).load(Ordering::Relaxed),
                        0,
                        "at {position}"
                    );
                }
                match ready % READY_STEP {
                    // In a small ring steps end there for another reason.
                    _ if capacity < (1 << 16) => {}
                    448 => whole += 1,
                    192 => half += 1,
                    _ => {}
                }
                reader.advance(at, frontier);
                at = frontier;
            }
        }
        assert!(whole > 0 && half > 0, "whole steps {whole}, half ones {half}");
    }
}
