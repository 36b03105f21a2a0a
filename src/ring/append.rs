//! Appending: one record, or a batch that appears at once.

use super::claim::Claim;
use super::members::Membership;
use super::record::{self, HEAD, Head, ORIGIN, Origin, SEQUENCE, State, TIME};
use super::room::Short;
use crate::error::{Error, Result};
use crate::segment::layout::{GRANULE, MAX_KIND, MAX_SENDER, RECORD_HEADER};
use crate::segment::now_nanos;
use crate::sys::atomic::Ordering;
use crate::wait::Deadline;

/// What is to be appended, besides who appends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// Called when the appending member's own unread messages are what fills the ring. Makes room and says `true`, or cannot.
pub(crate) type Relieve<'a> = &'a mut dyn FnMut() -> Result<bool>;

/// For those that read nothing.
pub(crate) fn no_backlog() -> Result<bool> {
    Ok(false)
}

/// Cache lines to fetch ahead: what a message of 64 bytes needs beyond the frontier's.
const PREFETCH: usize = 2;
/// Sender and kind of this many bytes together are short.
const SHORT_NAMES: usize = 32;

impl Membership {
    /// Bytes that a record of this member takes in the ring, or why there cannot be such a record.
    #[inline]
    pub(crate) fn size_of(&self, kind: &[u8], body_len: usize) -> Result<u64> {
        if kind.len() > MAX_KIND {
            return Err(Error::TooLong {
                what: "kind",
                len: kind.len(),
                max: MAX_KIND,
            });
        }
        let names_len = (self.sender.len() + kind.len()) as u64;
        let size = (record::body_offset(names_len).saturating_add(body_len as u64))
            .checked_next_multiple_of(crate::segment::layout::GRANULE)
            .unwrap_or(u64::MAX);
        self.check_size(size)?;
        if u32::try_from(body_len).is_err() {
            let queue = self.ring.segment.name.clone();
            return Err(Error::TooLarge {
                queue,
                len: body_len as u64,
                max: u32::MAX.into(),
            });
        }
        Ok(size)
    }

    #[inline]
    fn check_size(&self, len: u64) -> Result<()> {
        let max = self.ring.segment.geometry.max_record();
        if len > max {
            return Err(Error::TooLarge {
                queue: self.ring.segment.name.clone(),
                len,
                max,
            });
        }
        Ok(())
    }

    /// Appends one message. Returns its position.
    #[inline]
    pub(crate) fn append(&self, draft: Draft<'_>, deadline: &Deadline, relieve: Relieve<'_>) -> Result<u64> {
        self.check()?;
        let size = self.size_of(draft.kind, draft.body.len())?;
        let mut claim = self.claim_with_room(size, deadline, relieve)?;
        let ring = &*self.ring;
        let position = claim.position;
        ring.ring_for(std::iter::once(draft.kind));
        let sequence = ring.segment.word(position, SEQUENCE).load(Ordering::Relaxed);
        self.write(position, self.time(), draft);
        let head = Head {
            state: State::Message,
            body_len: draft.body.len() as u32,
        };
        self.publish(&mut claim, size, sequence.wrapping_add(1), head);
        ring.ring_again_for(std::iter::once(draft.kind));
        let next = claim.position;
        self.finish_append(claim, position);
        // The lines behind the frontier are still in some reader's cache from the last lap. Fetched now, they are here when the
        // next message is written. Not the frontier's own: readers are looking at it.
        self.ring
            .segment
            .prefetch_for_write(next.wrapping_add(GRANULE), PREFETCH);
        self.count(1, draft.body.len() as u64);
        Ok(position)
    }

    /// Appends all of `drafts`, next to each other and visible at once, or none.
    pub(crate) fn append_all(&self, drafts: &[Draft<'_>], deadline: &Deadline, relieve: Relieve<'_>) -> Result<()> {
        self.check()?;
        let mut total = 0u64;
        for draft in drafts {
            total = total.saturating_add(self.size_of(draft.kind, draft.body.len())?);
        }
        self.check_size(total)?;
        let Some((first, rest)) = drafts.split_first() else {
            return Ok(());
        };
        let mut claim = self.claim_with_room(total, deadline, relieve)?;
        let ring = &*self.ring;
        ring.ring_for(drafts.iter().map(|draft| draft.kind));
        let start = claim.position;
        let time = self.time();
        let first_sequence = ring.segment.word(start, SEQUENCE).load(Ordering::Relaxed);
        let (mut position, mut sequence) = (start, first_sequence);
        let first_size = self.size_of(first.kind, first.body.len())?;
        position = position.wrapping_add(first_size);
        sequence = sequence.wrapping_add(1);
        for draft in rest {
            self.write(position, time, *draft);
            // Nobody can come here before the first head is published.
            let head = Head {
                state: State::Message,
                body_len: draft.body.len() as u32,
            };
            ring.segment
                .word(position, HEAD)
                .store(head.bits(position), Ordering::Relaxed);
            ring.segment.word(position, SEQUENCE).store(sequence, Ordering::Relaxed);
            position = position.wrapping_add(self.size_of(draft.kind, draft.body.len())?);
            sequence = sequence.wrapping_add(1);
        }
        self.write(start, time, *first);
        let head = Head {
            state: State::Message,
            body_len: first.body.len() as u32,
        };
        self.publish(&mut claim, total, sequence, head);
        ring.ring_again_for(drafts.iter().map(|draft| draft.kind));
        self.finish_append(claim, start);
        self.count(
            drafts.len() as u64,
            drafts.iter().map(|draft| draft.body.len() as u64).sum(),
        );
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
    #[inline]
    fn write(&self, position: u64, time: u64, draft: Draft<'_>) {
        let segment = &self.ring.segment;
        self.write_origin(position, time, draft.kind);
        let names_len = (self.sender.len() + draft.kind.len()) as u64;
        segment.copy_in(position, record::body_offset(names_len), draft.body);
    }

    /// Writes origin, time, sender and kind of a record.
    #[inline]
    pub(super) fn write_origin(&self, position: u64, time: u64, kind: &[u8]) {
        let segment = &self.ring.segment;
        let sender = self.sender.as_bytes();
        let origin = Origin {
            kind_len: kind.len() as u8,
            sender_len: sender.len() as u8,
            slot: self.slot,
            generation: self.generation,
        };
        segment.word(position, ORIGIN).store(origin.bits(), Ordering::Relaxed);
        segment.word(position, TIME).store(time, Ordering::Relaxed);
        if kind.is_empty() {
            segment.copy_in(position, RECORD_HEADER, sender);
        } else if sender.len() + kind.len() <= SHORT_NAMES {
            // Nearly always; and clearing the whole buffer would cost more than all the rest.
            self.write_names(&mut [0; SHORT_NAMES], position, kind);
        } else {
            self.write_names(&mut [0; MAX_SENDER + MAX_KIND], position, kind);
        }
    }

    #[inline]
    fn write_names(&self, buffer: &mut [u8], position: u64, kind: &[u8]) {
        let sender = self.sender.as_bytes();
        let names = &mut buffer[..sender.len() + kind.len()];
        let (to_sender, to_kind) = names.split_at_mut(sender.len());
        to_sender.copy_from_slice(sender);
        to_kind.copy_from_slice(kind);
        self.ring.segment.copy_in(position, RECORD_HEADER, names);
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

    /// Makes the `size` bytes at the frontier a part of the queue, and what is behind them the frontier.
    #[inline]
    pub(super) fn publish(&self, claim: &mut Claim<'_>, size: u64, next_sequence: u64, head: Head) {
        let segment = &self.ring.segment;
        let position = claim.position;
        let next = position.wrapping_add(size);
        // Before the head: once the frontier is there, its head must be 0 and its sequence number right, also if this
        // process dies on the spot.
        segment.word(next, HEAD).store(0, Ordering::Relaxed);
        segment.word(next, SEQUENCE).store(next_sequence, Ordering::Relaxed);
        // Release: pairs with the Acquire of every reader's look at the head. This store is the append.
        segment
            .word(position, HEAD)
            .store(head.bits(position), Ordering::Release);
        claim.position = next;
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
