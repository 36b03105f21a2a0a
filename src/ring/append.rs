//! Appending: one record, or a batch that appears at once.

use super::Ring;
use super::claim::{Claim, begin_if_kept};
use super::keep::Begun;
use super::members::Membership;
use super::names::Shape;
use super::record::{self, HEAD, Head, ORIGIN, SEQUENCE, TIME};
use super::room::Short;
use crate::error::{Error, Result};
use crate::segment::copy::{LARGE, Spot};
use crate::segment::layout::{GRANULE, MAX_KIND, MAX_SENDER, MIN_CAPACITY, RECORD_HEADER};
use crate::segment::now_nanos;
use crate::sys::atomic::Ordering;
use crate::sys::futex::EVERY_BIT;
use crate::wait::{Deadline, Wait};
use std::sync::atomic::compiler_fence;

/// What is to be appended, besides who appends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Draft<'_> {
    #[inline]
    fn head(&self) -> Head {
        Head::of_message(self.body.len() as u32)
    }
}

/// Called when the appending member's own unread messages are what fills the ring. Makes room and says `true`, or cannot.
pub(crate) type Relieve<'a> = &'a mut dyn FnMut() -> Result<bool>;

/// No record's position, which is a multiple of the granule: what the short ways through an append return in place of one when nothing
/// was done. An `Option` would take two registers, and then the compiler makes a call that comes back of what could be a
/// jump.
pub(super) const NOWHERE: u64 = u64::MAX;

/// For those that read nothing.
pub(crate) fn no_backlog() -> Result<bool> {
    Ok(false)
}

impl Membership {
    /// Bytes that a record of this member takes in the ring, or why there cannot be such a record.
    #[inline]
    pub(crate) fn size_of(&self, kind: &[u8], body_len: usize) -> Result<u64> {
        let max = self.ring.segment.geometry.max_record();
        let size = record::size(self.names_len(kind), body_len as u64);
        match kind.len() > MAX_KIND || body_len > u32::MAX as usize || size > max {
            true => Err(self.no_such_size(kind, body_len)),
            false => Ok(size),
        }
    }

    #[cold]
    fn no_such_size(&self, kind: &[u8], body_len: usize) -> Error {
        if kind.len() > MAX_KIND && self.is_active() {
            return Error::TooLong {
                what: "kind",
                len: kind.len(),
                max: MAX_KIND,
            };
        }
        let size = (record::body_offset(self.names_len(kind)).saturating_add(body_len as u64))
            .checked_next_multiple_of(GRANULE)
            .unwrap_or(u64::MAX);
        let max = self.ring.segment.geometry.max_record();
        // Either longer than the ring, or longer than a head can say.
        let (len, max) = if size > max {
            (size, max)
        } else {
            (body_len as u64, u32::MAX.into())
        };
        self.too_large(len, max)
    }

    #[cold]
    fn too_large(&self, len: u64, max: u64) -> Error {
        if let Err(evicted) = self.check_not_evicted() {
            return evicted;
        }
        let queue = self.ring.segment.name.clone();
        Error::TooLarge { queue, len, max }
    }

    /// Bytes of sender and kind together.
    #[inline]
    pub(super) fn names_len(&self, kind: &[u8]) -> u64 {
        self.names.len_with(kind.len())
    }

    /// Appends one message and returns its position, if nothing is in the way. `None`: nothing was done, and [`Membership::append`] finds
    /// out why.
    #[inline(always)]
    pub(crate) fn append_if_clear(&self, kind: &[u8], body: &[u8]) -> Option<u64> {
        if !self.names.become_of(kind, &self.ring) {
            return None;
        }
        let position = match body.len() < self.short_below {
            true => self.append_short(body),
            false => self.append_long(body),
        };
        (position != NOWHERE).then_some(position)
    }

    /// Appends one message, whose names are known and whose body is below `short_below`, if nothing is in the way: the claim is kept, there
    /// is room, nobody sleeps.
    ///
    /// This is the path of a busy writer. What counts in it is how often it loads and stores, and how often the stores change from one
    /// cache line to another: those of the ring have to come from the reader's processor. The writer's asks for several at a
    /// time, but looks ahead only over so many changes of line among the stores that wait. So the record is written from its
    /// end to its beginning; what the writer stores for itself is in one other line; what can be stored for several records
    /// at a time is ([`Membership::make_ready`]); and nothing is on the stack but a return address: no more values are held at a time than
    /// there are registers to spare, and no calls come back.
    /// docs/performance.md has the figures.
    #[inline(never)]
    fn append_short(&self, body: &[u8]) -> u64 {
        // A short one always fits. `is_ready` would see the rest, but for a falsified frontier.
        const {
            assert!(
                RECORD_HEADER as usize + MAX_SENDER + MAX_KIND + LARGE + 2 * GRANULE as usize <= MIN_CAPACITY as usize
            )
        };
        let kept = self.kept();
        if kept.bits() == 0 || !self.is_of_this_process() {
            return NOWHERE;
        }
        let fence = || self.light_fence();
        let slot = self.line();
        let Some(position) = begin_if_kept(&self.control().claim, kept, &slot.cursor.frontier, fence) else {
            return self.append_long(body);
        };
        let shape = self.names.shape();
        let size = record::size_from(shape.body_offset(), body.len() as u64);
        let next = position.wrapping_add(size);
        if !self.is_ready(next, slot, shape.bits()) {
            return self.rest_and_append_long(position, body);
        }
        // Its head is 0 already, and nothing is made ready beyond where the next of the ring's marks is due.
        let sequence = self
            .keeping
            .number_behind(slot.cursor.appended.add(1, body.len() as u64));
        self.at(next).word(SEQUENCE).store(sequence, Ordering::Relaxed);
        let spot = self.at(position).settled();
        // SAFETY: the offset of a spot is below the capacity, the data part is twice as long, and this is shorter than the
        // smallest ring.
        unsafe { spot.copy_small_in(shape.body_offset(), body) };
        // Asked for again, as the slot below: there are registers for all the rest, but not for these.
        self.write_names(spot, self.names.shape());
        publish_prepared(spot, position, Head::of_message(body.len() as u32));
        #[cfg(all(test, loom))]
        super::models::count_short();
        if self.keeping.is_low(next) {
            return self.make_ready_and_end(position, next);
        }
        // Release: pairs with the Acquire in `is_busy` and `frontier_of`.
        self.line().cursor.frontier.store(next, Ordering::Release);
        position
    }

    /// [`Light::fence`](crate::sys::barrier::Light::fence) for who has asked `short_below`, which says that the compiler's is enough.
    #[inline(always)]
    fn light_fence(&self) {
        match cfg!(any(loom, miri)) {
            true => self.light.fence(),
            false => compiler_fence(Ordering::SeqCst),
        }
    }

    #[cold]
    #[inline(never)]
    fn rest_and_append_long(&self, frontier: u64, body: &[u8]) -> u64 {
        self.rest(frontier);
        self.append_long(body)
    }

    #[cold]
    #[inline(never)]
    fn make_ready_and_end(&self, position: u64, next: u64) -> u64 {
        self.make_ready(next, next.wrapping_sub(position));
        // Release: as in `append_short`.
        self.line().cursor.frontier.store(next, Ordering::Release);
        position
    }

    /// The same for any body, or where less is ready.
    #[inline(never)]
    fn append_long(&self, body: &[u8]) -> u64 {
        let shape = self.names.shape();
        let size = record::size_from(shape.body_offset(), body.len() as u64);
        let is_too_long = body.len() > u32::MAX as usize || size > self.lane().max_record();
        if is_too_long || !self.is_of_this_process() {
            return NOWHERE;
        }
        let Some(Begun { position, next }) = self.begin_kept(size, shape.bits(), || self.light.fence()) else {
            return NOWHERE;
        };
        let spot = self.at(position);
        prepare_frontier(self.at(next), self.count_kept(1, body.len() as u64));
        spot.copy_in(shape.body_offset(), body);
        spot.word(TIME).store(self.time(), Ordering::Relaxed);
        self.write_names(spot, shape);
        publish_prepared(spot, position, Head::of_message(body.len() as u32));
        self.ring.ring_again(shape.bits());
        self.end_kept(next, size);
        position
    }

    /// Appends one message, taking the claim or waiting for room. Returns its position.
    #[cold]
    #[inline(never)]
    pub(crate) fn append(&self, draft: Draft<'_>, wait: Wait, relieve: Relieve<'_>) -> Result<u64> {
        self.check_process()?;
        let size = self.size_of(draft.kind, draft.body.len())?;
        let mut claim = self.claim_with_room(size, &Deadline::of(wait), relieve)?;
        let position = claim.position;
        self.ring.note_end(position, position.wrapping_add(size));
        self.put(position, size, draft);
        claim.position = position.wrapping_add(size);
        self.finish_append(claim, position);
        self.count(1, draft.body.len() as u64);
        Ok(position)
    }

    /// Puts a message at the frontier. The caller has the claim, room for `size` bytes, and noted where they end.
    fn put(&self, position: u64, size: u64, draft: Draft<'_>) {
        let ring = &*self.ring;
        let spot = ring.segment.at(position);
        ring.ring_for_one(draft.kind);
        let sequence = spot.word(SEQUENCE).load(Ordering::Relaxed);
        self.write(spot, self.time(), draft);
        let next = position.wrapping_add(size);
        ring.publish(position, next, sequence.wrapping_add(1), draft.head());
        // `write` has made the names those of this kind.
        ring.ring_again(self.names.shape().bits());
    }

    /// Appends all of `drafts`, next to each other and visible at once, if nothing is in the way, as [`Membership::append_short`].
    /// `false`: nothing was done. There is at least one.
    fn append_all_at_once(&self, drafts: &[Draft<'_>]) -> bool {
        let is_short = |draft: &Draft<'_>| draft.body.len() < self.short_below && draft.kind.len() <= MAX_KIND;
        if !self.is_of_this_process() || !drafts.iter().all(is_short) {
            return false;
        }
        // None is longer than the smallest ring, so there are not as many as would overflow this.
        let size_of = |draft: &Draft<'_>| record::size(self.names_len(draft.kind), draft.body.len() as u64);
        let total = drafts.iter().map(size_of).sum();
        let fence = || self.light_fence();
        let Some(Begun { position, next }) = self.begin_kept(total, EVERY_BIT, fence) else {
            return false;
        };
        // From the beginning to the end: between them nothing of the writer's own is stored to.
        let bytes = drafts.iter().map(|draft| draft.body.len() as u64).sum();
        let sequence = self.count_kept(drafts.len() as u64, bytes);
        prepare_frontier(self.at(next), sequence);
        let mut at = position;
        for (draft, left) in drafts.iter().zip((0..drafts.len() as u64).rev()) {
            let spot = self.at(at);
            self.names.become_of(draft.kind, &self.ring);
            let shape = self.names.shape();
            if at != position {
                // Nobody can come here before the first head is published.
                spot.word(HEAD).store(draft.head().bits(at), Ordering::Relaxed);
                spot.word(SEQUENCE)
                    .store(sequence.wrapping_sub(left + 1), Ordering::Relaxed);
            }
            self.write_names(spot, shape);
            // SAFETY: as in `append_short`.
            unsafe { spot.copy_small_in(shape.body_offset(), draft.body) };
            at = at.wrapping_add(record::size_from(shape.body_offset(), draft.body.len() as u64));
        }
        publish_prepared(self.at(position), position, drafts[0].head());
        self.ring.ring_again_for(drafts.iter().map(|draft| draft.kind));
        self.end_kept(next, 0);
        true
    }

    /// Appends all of `drafts`, next to each other and visible at once, or none.
    pub(crate) fn append_all(&self, drafts: &[Draft<'_>], wait: Wait, relieve: Relieve<'_>) -> Result<()> {
        self.check_process()?;
        if !drafts.is_empty() && self.append_all_at_once(drafts) {
            return Ok(());
        }
        let (mut total, mut bytes) = (0u64, 0u64);
        for draft in drafts {
            total = total.saturating_add(self.size_of(draft.kind, draft.body.len())?);
            bytes += draft.body.len() as u64;
        }
        let max = self.ring.segment.geometry.max_record();
        if total > max {
            return Err(self.too_large(total, max));
        }
        let Some((first, rest)) = drafts.split_first() else {
            return self.check_not_evicted();
        };
        let mut claim = self.claim_with_room(total, &Deadline::of(wait), relieve)?;
        let ring = &*self.ring;
        ring.ring_for(drafts.iter().map(|draft| draft.kind));
        let (start, time) = (claim.position, self.time());
        let first_spot = ring.segment.at(start);
        let mut sequence = first_spot.word(SEQUENCE).load(Ordering::Relaxed);
        let end_of = |position: u64, draft: &Draft<'_>| {
            let next = position.wrapping_add(record::size(self.names_len(draft.kind), draft.body.len() as u64));
            ring.note_end(position, next);
            next
        };
        let mut position = end_of(start, first);
        sequence = sequence.wrapping_add(1);
        for draft in rest {
            let spot = ring.segment.at(position);
            self.write(spot, time, *draft);
            // Nobody can come here before the first head is published.
            spot.word(HEAD).store(draft.head().bits(position), Ordering::Relaxed);
            spot.word(SEQUENCE).store(sequence, Ordering::Relaxed);
            position = end_of(position, draft);
            sequence = sequence.wrapping_add(1);
        }
        self.write(first_spot, time, *first);
        ring.publish(start, position, sequence, first.head());
        ring.ring_again_for(drafts.iter().map(|draft| draft.kind));
        claim.position = position;
        self.finish_append(claim, start);
        self.count(drafts.len() as u64, bytes);
        Ok(())
    }

    /// Takes the claim, with room for `size` bytes.
    #[inline]
    pub(super) fn claim_with_room(&self, size: u64, deadline: &Deadline, relieve: Relieve<'_>) -> Result<Claim<'_>> {
        self.settle_forgotten();
        let claim = self.claim_to_append(deadline)?;
        // With the claim in hand: an eviction before it is seen here, a later one finds a finished append.
        self.check_not_evicted()?;
        match self.ring.room(&claim, size)? {
            Ok(()) => Ok(claim),
            Err(short) => {
                drop(claim);
                self.wait_for_claim_with_room(short, size, deadline, relieve)
            }
        }
    }

    #[cold]
    fn wait_for_claim_with_room(
        &self,
        mut short: Short,
        size: u64,
        deadline: &Deadline,
        relieve: Relieve<'_>,
    ) -> Result<Claim<'_>> {
        let ring = &*self.ring;
        loop {
            if short.slow.slot == Some(self.slot) {
                if !relieve()? {
                    let queue = ring.segment.name.clone();
                    return Err(Error::ReadFirst {
                        queue,
                        backlog: short.frontier.wrapping_sub(short.slow.position),
                    });
                }
            } else if !short.slow.slot.is_some_and(|slot| ring.bury_if_dead(slot)) {
                // The slowest may be asleep behind what it screens: nobody woke it for that.
                ring.ring_for_all();
                if deadline.has_passed() {
                    self.line().cursor.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(ring.full(&short, size));
                }
                ring.wait_for_room(&short, deadline, &|| self.check_not_evicted().is_err());
            }
            let claim = self.claim_to_append(deadline)?;
            self.check_not_evicted()?;
            match ring.room(&claim, size)? {
                Ok(()) => return Ok(claim),
                Err(again) => short = again,
            }
        }
    }

    /// Writes everything of a record but its head and its sequence number.
    #[inline]
    fn write(&self, spot: Spot<'_>, time: u64, draft: Draft<'_>) {
        self.write_origin(spot, time, draft.kind);
        spot.copy_in(self.names.shape().body_offset(), draft.body);
    }

    /// Writes origin, time, sender and kind of a record.
    #[inline]
    pub(super) fn write_origin(&self, spot: Spot<'_>, time: u64, kind: &[u8]) {
        let fits = self.names.become_of(kind, &self.ring);
        debug_assert!(fits, "`size_of` was asked first");
        spot.word(TIME).store(time, Ordering::Relaxed);
        self.write_names(spot, self.names.shape());
    }

    /// The same without the time, of the kind that the names are of.
    #[inline(always)]
    pub(super) fn write_names(&self, spot: Spot<'_>, shape: Shape) {
        spot.word(ORIGIN).store(self.names.origin().bits(), Ordering::Relaxed);
        self.names.write(spot, shape);
    }

    /// The time for a record, if this queue's records carry it.
    #[inline]
    pub(super) fn time(&self) -> u64 {
        if self.ring.segment.geometry.timestamps {
            now_nanos()
        } else {
            0
        }
    }
}

impl Ring {
    /// Makes what stands between the frontier, at `position`, and `next` a part of the queue, and `next` the frontier.
    #[inline]
    pub(super) fn publish(&self, position: u64, next: u64, next_sequence: u64, head: Head) {
        prepare_frontier(self.segment.at(next), next_sequence);
        publish_prepared(self.segment.at(position), position, head);
    }
}

/// Makes a spot fit to be the frontier. Before the head that makes it so: from then on its own must be 0 and its sequence number
/// right, also if this process dies on the spot.
#[inline(always)]
pub(super) fn prepare_frontier(frontier: Spot<'_>, next_sequence: u64) {
    frontier.word(HEAD).store(0, Ordering::Relaxed);
    frontier.word(SEQUENCE).store(next_sequence, Ordering::Relaxed);
}

#[inline(always)]
pub(super) fn publish_prepared(spot: Spot<'_>, position: u64, head: Head) {
    // Release: pairs with the Acquire of every reader's look at the head. This store is the append.
    spot.word(HEAD).store(head.bits(position), Ordering::Release);
}
