//! Reading: looking at the record at a position, copying it, letting it go.
//!
//! Readers that hold writers back look at records that nobody writes. The others (observers, and everybody on a lossy queue)
//! may be overtaken while they look: they copy first and then ask [`Ring::is_still_whole`].

use super::Ring;
use super::members::Membership;
use super::record::{self, HEAD, Head, ORIGIN, Origin, SEQUENCE, State, TIME};
use crate::error::Result;
use crate::segment::copy::{LARGE, Spot};
use crate::segment::layout::{RECORD_HEADER, Slot};
use crate::sys::atomic::{Ordering, fence};

/// What is at a position.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    /// The frontier, or a reserved record: nothing to read yet. Holds the head as it was seen.
    Nothing(u64),
    /// An aborted record that ends here.
    Skip(u64),
    /// A message.
    Found(Found),
}

/// A message in the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) position: u64,
    /// Where the next record begins.
    pub(crate) end: u64,
    pub(crate) origin: Origin,
    pub(crate) body_len: u32,
    /// Where the body begins, in bytes from the sender on: what sender and kind take.
    pub(crate) body_at: u32,
    pub(crate) sequence: u64,
    /// Nanoseconds since 1970, or 0 where records do not carry it.
    pub(crate) time: u64,
}

impl Found {
    /// What stands beside a head.
    #[inline(always)]
    fn read(spot: Spot<'_>, position: u64, body_len: u32, has_time: bool) -> Self {
        let origin = Origin::from_bits(spot.word(ORIGIN).load(Ordering::Relaxed));
        let body_offset = record::body_offset(origin.names_len());
        Found {
            position,
            end: position.wrapping_add(record::size_from(body_offset, body_len.into())),
            origin,
            body_len,
            body_at: (body_offset - RECORD_HEADER) as u32,
            sequence: spot.word(SEQUENCE).load(Ordering::Relaxed),
            time: if has_time {
                spot.word(TIME).load(Ordering::Relaxed)
            } else {
                0
            },
        }
    }

    /// The message there, if it is one and, whatever it says, no longer than `max`.
    #[inline(always)]
    fn message(spot: Spot<'_>, position: u64, max: u64, has_time: bool) -> Option<Self> {
        // Acquire: pairs with the Release in `publish` and in `commit`.
        let bits = spot.word(HEAD).load(Ordering::Acquire);
        let body_len = record::message_len(bits, position)?;
        let found = Found::read(spot, position, body_len, has_time);
        (found.end.wrapping_sub(position) <= max).then_some(found)
    }

    /// Where the next record begins, and its number.
    #[inline(always)]
    pub(crate) fn behind(&self) -> (u64, u64) {
        (self.end, self.sequence.wrapping_add(1))
    }

    /// 64-bit words from the sender to the end of the body.
    #[inline(always)]
    pub(crate) fn words(&self) -> usize {
        // Not `div_ceil`, which looks after an overflow that there cannot be.
        (u64::from(self.body_at) + u64::from(self.body_len)).wrapping_add(7) as usize / 8
    }
}

/// How often the oldest record may be found overwritten and still the oldest.
const SAME_OLDEST: u32 = 100;

impl Ring {
    /// The message at `position`, if one is there and nothing else has to be thought of.
    #[inline(always)]
    pub(crate) fn message_at(&self, position: u64) -> Option<Found> {
        let geometry = &self.segment.geometry;
        Found::message(
            self.segment.at(position),
            position,
            geometry.max_record(),
            geometry.timestamps,
        )
    }

    /// Looks at `position`, which must be the beginning of a record or the frontier.
    #[inline]
    pub(crate) fn look(&self, position: u64) -> Result<Look> {
        match self.message_at(position) {
            Some(found) => Ok(Look::Found(found)),
            None => self.look_closer(position),
        }
    }

    #[inline(never)]
    fn look_closer(&self, position: u64) -> Result<Look> {
        let spot = self.segment.at(position);
        // Acquire: as in `message_at`.
        let bits = spot.word(HEAD).load(Ordering::Acquire);
        if bits == 0 {
            return Ok(Look::Nothing(bits));
        }
        let head = Head::from_bits(bits, position).ok_or_else(|| self.corrupt("head of a record", position))?;
        let found = Found::read(spot, position, head.body_len, self.segment.geometry.timestamps);
        if found.end.wrapping_sub(position) > self.segment.geometry.max_record() {
            return Err(self.corrupt("length of a record", position));
        }
        Ok(match head.state {
            State::Reserved => Look::Nothing(bits),
            State::Aborted => Look::Skip(found.end),
            State::Message => Look::Found(found),
        })
    }

    /// The sequence number of the record at `position`, or that the next one there will have.
    pub(crate) fn sequence_at(&self, position: u64) -> u64 {
        self.segment.word(position, SEQUENCE).load(Ordering::Relaxed)
    }

    /// The 8 bytes at byte `skip` of sender and kind, little-endian. Some of them may be of what follows.
    #[inline]
    pub(crate) fn name_word(&self, found: &Found, skip: usize) -> u64 {
        let [low, high] = self.name_words(found, skip & !7);
        let shift = 8 * (skip as u32 % 8);
        low >> shift | (high << 1) << (63 - shift)
    }

    /// The two words from byte `skip` of sender and kind on, a multiple of 8.
    #[inline(always)]
    pub(crate) fn name_words(&self, found: &Found, skip: usize) -> [u64; 2] {
        let spot = self.segment.at(found.position);
        let at = RECORD_HEADER + skip as u64;
        [spot.name_word(at), spot.name_word(at + 8)]
    }

    /// Copies words of a message, from the sender on.
    #[inline]
    pub(crate) fn copy(&self, found: &Found, out: &mut [u64], racing: bool) {
        self.segment.at(found.position).copy_out(RECORD_HEADER, out, racing);
    }

    /// Where the body of a message is, for a reader whose cursor holds it.
    pub(crate) fn body_pointer(&self, found: &Found) -> *const u8 {
        let body = record::body_offset(found.origin.names_len());
        self.segment.at(found.position).raw(body, found.body_len.into())
    }

    /// Whether nobody can have begun to overwrite the record at `position` before what was just read from it.
    #[inline]
    pub(crate) fn is_still_whole(&self, position: u64) -> bool {
        // Pairs with the Release fence in `room::raise_intent`.
        fence(Ordering::Acquire);
        let intent = self.segment.control().limits.intent.load(Ordering::Relaxed);
        intent.wrapping_sub(position) as i64 <= self.capacity() as i64
    }

    /// The oldest whole record: its position and sequence number.
    pub(crate) fn oldest(&self) -> Result<(u64, u64)> {
        let (mut last, mut looks) = (None, 0);
        // Each try fails only if writers went on by a step of the intent meanwhile, and then the oldest record is another one.
        for _ in 0..1000 {
            let position = self.segment.control().limits.oldest.load(Ordering::Acquire);
            if !position.is_multiple_of(crate::segment::layout::GRANULE) {
                return Err(self.corrupt("oldest record", position));
            }
            let sequence = self.segment.word(position, SEQUENCE).load(Ordering::Acquire);
            if self.is_still_whole(position) {
                return Ok((position, sequence));
            }
            if last.replace(position) != Some(position) {
                looks = 0;
                crate::sys::atomic::yield_now();
            } else if looks < SAME_OLDEST {
                // The writer's two stores may come here one by one.
                looks += 1;
                crate::sys::atomic::spin_hint();
            } else {
                break;
            }
        }
        let at = self.segment.control().limits.oldest.load(Ordering::Relaxed);
        Err(self.corrupt("oldest record", at))
    }

    /// The frontier and the sequence number of the message that will be there.
    pub(crate) fn newest(&self) -> (u64, u64) {
        let position = self.frontier();
        (position, self.segment.word(position, SEQUENCE).load(Ordering::Relaxed))
    }
}

impl Membership {
    /// The message at `position`, if one is there and nothing else has to be thought of. For queues whose records do not carry the time.
    #[inline(always)]
    pub(crate) fn at_hand(&self, position: u64) -> Option<AtHand<'_>> {
        if !self.is_of_this_process() {
            return None;
        }
        let spot = self.at(position).settled();
        let found = Found::message(spot, position, self.lane().max_record(), false)?;
        Some(AtHand { me: self, spot, found })
    }

    /// The same for a message that was found.
    pub(crate) fn here(&self, found: Found) -> AtHand<'_> {
        let spot = self.at(found.position);
        AtHand { me: self, spot, found }
    }

    /// Whether nothing at all has been published at `position` yet.
    #[inline(always)]
    pub(crate) fn is_empty_at(&self, position: u64) -> bool {
        // Whoever reads it looks again.
        self.at(position).word(HEAD).load(Ordering::Relaxed) == 0
    }

    /// Lets go of everything up to the end of a message, and counts it as popped.
    #[inline(always)]
    pub(crate) fn take(&self, found: &Found) {
        self.take_from(self.line(), found);
    }

    /// The same, for who has this member's slot at hand.
    #[inline(always)]
    fn take_from(&self, slot: &Slot, found: &Found) {
        // Release: as in `advance`.
        slot.cursor.cursor.store(found.end, Ordering::Release);
        self.let_go(found.position, found.end);
        slot.cursor.popped.add(1, found.body_len.into());
    }

    /// Lets go of everything before `position`.
    #[inline]
    pub(crate) fn advance(&self, before: u64, position: u64) {
        // Release: pairs with the Acquire in `room::holds`, so the reads before it are over when a writer overwrites.
        self.line().cursor.cursor.store(position, Ordering::Release);
        self.let_go(before, position);
    }
}

/// A message that its reader's cursor holds.
#[derive(Debug)]
pub(crate) struct AtHand<'m> {
    me: &'m Membership,
    spot: Spot<'m>,
    pub(crate) found: Found,
}

impl AtHand<'_> {
    /// Copies its words into `out`, from the sender on, and lets go of it.
    #[inline(always)]
    pub(crate) fn take(&self, out: &mut [u64]) -> Result<()> {
        debug_assert!(out.len() <= self.found.words());
        match cfg!(any(loom, miri)) || size_of_val(out) >= LARGE {
            true => copy_large_out(self.spot, out),
            // SAFETY: whoever made this found its end inside the ring.
            false => unsafe { self.spot.copy_small_out(RECORD_HEADER, out) },
        }
        // The reads before it must not be delayed past the look at the slot: an evicted cursor protects nothing.
        fence(Ordering::Acquire);
        let slot = self.me.line();
        if !self.me.is_active_in(slot) {
            return Err(self.me.evicted());
        }
        self.me.take_from(slot, &self.found);
        Ok(())
    }
}

/// By value, so that nothing has to be in memory for it.
#[cold]
#[inline(never)]
fn copy_large_out(spot: Spot<'_>, out: &mut [u64]) {
    spot.copy_out(RECORD_HEADER, out, false);
}
