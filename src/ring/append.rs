//! Appending: one record, or a batch that appears at once.

use super::Ring;
use super::claim::Claim;
use super::members::Membership;
use super::record::{self, HEAD, Head, ORIGIN, SEQUENCE, State, TIME};
use super::room::Short;
use crate::error::{Error, Result};
use crate::segment::copy::{Spot, partial_word};
use crate::segment::layout::{GRANULE, MAX_KIND, RECORD_HEADER};
use crate::segment::now_nanos;
use crate::sys::atomic::Ordering;
use crate::wait::{Deadline, Wait};

/// What is to be appended, besides who appends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Draft<'_> {
    #[inline]
    fn head(&self) -> Head {
        Head {
            state: State::Message,
            body_len: self.body.len() as u32,
        }
    }
}

/// Called when the appending member's own unread messages are what fills the ring. Makes room and says `true`, or cannot.
pub(crate) type Relieve<'a> = &'a mut dyn FnMut() -> Result<bool>;

/// For those that read nothing.
pub(crate) fn no_backlog() -> Result<bool> {
    Ok(false)
}

impl Membership {
    /// Bytes that a record of this member takes in the ring. `None`: there cannot be such a record.
    #[inline(always)]
    fn size_if_any(&self, kind: &[u8], body_len: usize) -> Option<u64> {
        let max = self.ring.segment.geometry.max_record();
        if kind.len() > MAX_KIND || body_len > u32::MAX as usize {
            return None;
        }
        Some(record::size(self.names_len(kind), body_len as u64)).filter(|size| *size <= max)
    }

    /// The same, or why there cannot be such a record.
    #[inline]
    pub(crate) fn size_of(&self, kind: &[u8], body_len: usize) -> Result<u64> {
        self.size_if_any(kind, body_len)
            .ok_or_else(|| self.no_such_size(kind, body_len))
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
        (self.sender.len() + kind.len()) as u64
    }

    /// Appends one message if nothing is in the way: the claim is kept, and there is room. Returns its position. `None`: nothing
    /// was done, and [`Membership::append`] finds out why.
    ///
    /// This is the path of a busy writer, and what counts in it is how much it stores, on its stack too. While a reader's
    /// processor has a line of the ring, the store to it waits, and all later ones behind it; when the processor has no
    /// place for more of them, it stops. So this takes few arguments, returns in registers, and leaves everything rare to
    /// functions that are not inlined.
    #[inline(never)]
    pub(crate) fn append_at_once(&self, kind: &[u8], body: &[u8]) -> Option<u64> {
        if !self.is_of_this_process() {
            return None;
        }
        let size = self.size_if_any(kind, body.len())?;
        let (position, kept) = self.begin_kept(size)?;
        // No mark: `begin_kept` goes no further than to the next one.
        self.put(position, size, Draft { kind, body });
        self.end_kept(kept, position.wrapping_add(size));
        self.count(1, body.len() as u64);
        Some(position)
    }

    /// Appends one message, taking the claim or waiting for room. Returns its position.
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
    #[inline(always)]
    fn put(&self, position: u64, size: u64, draft: Draft<'_>) {
        let ring = &*self.ring;
        let spot = ring.segment.at(position);
        ring.ring_for_one(draft.kind);
        let sequence = spot.word(SEQUENCE).load(Ordering::Relaxed);
        self.write(spot, self.time(), draft);
        let next = position.wrapping_add(size);
        ring.publish(position, next, sequence.wrapping_add(1), draft.head());
        ring.ring_again_for_one(draft.kind);
    }

    /// Appends all of `drafts`, next to each other and visible at once, or none.
    pub(crate) fn append_all(&self, drafts: &[Draft<'_>], wait: Wait, relieve: Relieve<'_>) -> Result<()> {
        self.check_process()?;
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
        self.settle_forgotten();
        // What was forgotten may have been all that was in the way.
        let mut may_have_room = ring.slowest_now(short.frontier).position != short.slow.position;
        loop {
            if std::mem::take(&mut may_have_room) {
                // Tried again at once.
            } else if short.slow.slot == Some(self.slot) {
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
    #[inline(always)]
    fn write(&self, spot: Spot<'_>, time: u64, draft: Draft<'_>) {
        self.write_origin(spot, time, draft.kind);
        spot.copy_in(record::body_offset(self.names_len(draft.kind)), draft.body);
    }

    /// Writes origin, time, sender and kind of a record.
    #[inline(always)]
    pub(super) fn write_origin(&self, spot: Spot<'_>, time: u64, kind: &[u8]) {
        let origin = self.origin.with_kind(kind.len() as u8);
        spot.word(ORIGIN).store(origin.bits(), Ordering::Relaxed);
        spot.word(TIME).store(time, Ordering::Relaxed);
        if self.names_len(kind) != 0 {
            self.write_names(spot, kind);
        }
    }

    /// Writes sender and kind, back to back.
    #[inline(never)]
    fn write_names(&self, spot: Spot<'_>, kind: &[u8]) {
        let mut at = RECORD_HEADER;
        let mut put = |word: u64| {
            spot.copy_in(at, &word.to_le_bytes());
            at += 8;
        };
        let whole = self.sender.len() / 8;
        self.sender_words[..whole].iter().for_each(|word| put(*word));
        // The kind's words follow at a distance of `shift` bits from the sender's.
        let shift = 8 * (self.sender.len() % 8) as u32;
        let mut begun = if shift == 0 { 0 } else { self.sender_words[whole] };
        let (words, rest) = kind.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word);
            put(begun | word << shift);
            begun = word.checked_shr(64 - shift).unwrap_or(0);
        }
        let rest_word = partial_word(rest);
        let left = shift as usize / 8 + rest.len();
        if left > 0 {
            put(begun | rest_word << shift);
        }
        if left > 8 {
            put(rest_word >> (64 - shift));
        }
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

    #[inline]
    pub(super) fn count(&self, messages: u64, bytes: u64) {
        let line = &self.line().cursor;
        // Only this member writes its counters.
        line.appended.store(
            line.appended.load(Ordering::Relaxed).wrapping_add(messages),
            Ordering::Relaxed,
        );
        line.appended_bytes.store(
            line.appended_bytes.load(Ordering::Relaxed).wrapping_add(bytes),
            Ordering::Relaxed,
        );
    }
}

impl Ring {
    /// Makes what stands between the frontier, at `position`, and `next` a part of the queue, and `next` the frontier.
    #[inline]
    pub(super) fn publish(&self, position: u64, next: u64, next_sequence: u64, head: Head) {
        let frontier = self.segment.at(next);
        // Before the head: once the frontier is there, its head must be 0 and its sequence number right, also if this
        // process dies on the spot.
        frontier.word(HEAD).store(0, Ordering::Relaxed);
        frontier.word(SEQUENCE).store(next_sequence, Ordering::Relaxed);
        // Release: pairs with the Acquire of every reader's look at the head. This store is the append.
        self.segment
            .word(position, HEAD)
            .store(head.bits(position), Ordering::Release);
    }
}
