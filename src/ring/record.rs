//! What a record looks like: four words, then sender, kind and body.
//!
//! | word | bits | holds |
//! |---|---|---|
//! | 0, the head | 0..32 | body length in bytes |
//! | | 32..36 | state: 1 message, 2 reserved, 3 aborted; an all-zero head is the frontier |
//! | | 36..64 | tag: lower 28 bits of the position in granules |
//! | 1, the origin | 0..8, 8..16 | lengths of kind and sender in bytes |
//! | | 16..32, 32..64 | slot and generation of the member that appended it |
//! | 2 | 0..64 | sequence number; the writer before has already put it here |
//! | 3 | 0..64 | nanoseconds since 1970, in a queue whose records carry the time; else anything |
//!
//! Sender and kind follow, back to back; the body begins at the next multiple of 8; the record ends at the next multiple of
//! the granule. The tag makes a head that belongs to another lap of the ring, or to no record at all, show.

use crate::segment::layout::{GRANULE, RECORD_HEADER};

/// Index of each header word.
pub(crate) const HEAD: usize = 0;
pub(crate) const ORIGIN: usize = 1;
pub(crate) const SEQUENCE: usize = 2;
pub(crate) const TIME: usize = 3;

const STATE_SHIFT: u32 = 32;
const STATE_MASK: u64 = 0xf;
const TAG_SHIFT: u32 = 36;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Message = 1,
    Reserved = 2,
    Aborted = 3,
}

/// The first word of a record that is complete, or at least has its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) state: State,
    pub(crate) body_len: u32,
}

impl Head {
    #[inline(always)]
    pub(crate) fn of_message(body_len: u32) -> Self {
        Head {
            state: State::Message,
            body_len,
        }
    }

    #[inline(always)]
    pub(super) fn of_reservation(body_len: u32) -> Self {
        Head {
            state: State::Reserved,
            body_len,
        }
    }

    /// The word for a record at `position`.
    #[inline]
    pub(crate) fn bits(self, position: u64) -> u64 {
        u64::from(self.body_len) | (self.state as u64) << STATE_SHIFT | tag(position)
    }

    /// Reads a word that is not 0. `None`: no record at `position` begins like this.
    #[inline]
    pub(crate) fn from_bits(bits: u64, position: u64) -> Option<Self> {
        let state = match bits >> STATE_SHIFT & STATE_MASK {
            1 => State::Message,
            2 => State::Reserved,
            3 => State::Aborted,
            _ => return None,
        };
        (bits >> TAG_SHIFT << TAG_SHIFT == tag(position)).then_some(Head {
            state,
            body_len: bits as u32,
        })
    }
}

/// Body length of the message at `position` whose head these are. `None`: they are the head of no message there.
#[inline]
pub(crate) fn message_len(bits: u64, position: u64) -> Option<u32> {
    let len = bits ^ ((State::Message as u64) << STATE_SHIFT | tag(position));
    u32::try_from(len).ok()
}

/// Where it stands in a head. At the upper end, so that the bits that are too many go by themselves.
#[inline(always)]
fn tag(position: u64) -> u64 {
    const { assert!(GRANULE == 1 << 6 && TAG_SHIFT > 6) };
    position << (TAG_SHIFT - 6)
}

/// The second word of a record: who appended it, and how long the names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin(u64);

impl Origin {
    /// That of a member beyond every table.
    pub(crate) const NOBODY: Origin = Origin(u64::MAX);

    /// That of a record without a kind.
    pub(crate) fn new(slot: u16, generation: u32, sender_len: u8) -> Self {
        Origin(u64::from(sender_len) << 8 | u64::from(slot) << 16 | u64::from(generation) << 32)
    }

    #[inline]
    pub(crate) fn with_kind(self, len: u8) -> Self {
        Origin(self.0 & !0xff | u64::from(len))
    }

    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Origin(bits)
    }

    #[inline]
    pub(crate) fn kind_len(self) -> u8 {
        self.0 as u8
    }

    #[inline]
    pub(crate) fn sender_len(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline]
    pub(crate) fn slot(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether both are of the same member.
    #[inline]
    pub(crate) fn is_of_member(self, other: Origin) -> bool {
        self.0 >> 16 == other.0 >> 16
    }

    /// Bytes of sender and kind together.
    #[inline]
    pub(crate) fn names_len(self) -> u64 {
        u64::from(self.kind_len()) + u64::from(self.sender_len())
    }
}

/// Offset of the body in a record whose sender and kind have `names_len` bytes together.
#[inline]
pub(crate) fn body_offset(names_len: u64) -> u64 {
    // Not `next_multiple_of`, whose overflow the compiler would look after: lengths are far below that.
    RECORD_HEADER + (names_len.wrapping_add(7) & !7)
}

/// Bytes that such a record takes in the ring.
#[inline]
pub(crate) fn size(names_len: u64, body_len: u64) -> u64 {
    size_from(body_offset(names_len), body_len)
}

/// The same, of a record whose body begins there.
#[inline]
pub(crate) fn size_from(body_offset: u64, body_len: u64) -> u64 {
    body_offset.wrapping_add(body_len).wrapping_add(GRANULE - 1) & !(GRANULE - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_only_good_where_it_was_written() {
        let head = Head {
            state: State::Message,
            body_len: 77,
        };
        let at = 5 * GRANULE;
        assert_eq!(Head::from_bits(head.bits(at), at), Some(head));
        assert_eq!(message_len(head.bits(at), at), Some(77));
        assert_eq!(message_len(head.bits(at), at + GRANULE), None);
        let reserved = Head {
            state: State::Reserved,
            ..head
        };
        assert_eq!(message_len(reserved.bits(at), at), None);
        assert_eq!(message_len(0, 0), None);
        assert_eq!(Head::from_bits(head.bits(at), at + GRANULE), None);
        assert_eq!(Head::from_bits(head.bits(at) | 7 << STATE_SHIFT, at), None);
        assert_ne!(
            Head {
                state: State::Message,
                body_len: 0
            }
            .bits(0),
            0
        );
    }

    #[test]
    fn an_origin_says_who_and_how_long() {
        let origin = Origin::new(4095, u32::MAX, 64).with_kind(255);
        assert_eq!((origin.slot(), origin.generation()), (4095, u32::MAX));
        assert_eq!((origin.sender_len(), origin.kind_len()), (64, 255));
        assert_eq!(origin.names_len(), 319);
        assert!(origin.is_of_member(Origin::new(4095, u32::MAX, 0)));
        assert!(!origin.is_of_member(Origin::new(4095, 0, 64)));
        assert!(!origin.is_of_member(Origin::new(4094, u32::MAX, 64)));
    }

    #[test]
    fn sixty_four_bytes_from_a_short_name_take_two_cache_lines() {
        assert_eq!(size(0, 32), 64);
        assert_eq!(size(16, 64), 128);
    }
}
