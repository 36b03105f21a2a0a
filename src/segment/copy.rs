//! Moving bytes of records in and out of a segment.
//!
//! No reference to shared bytes is ever made: another process may be writing them. Small pieces move word by word
//! ([`words`](super::words)), which is also what makes a copy that races with a writer (an observer's) a defined thing to do. Large
//! pieces that the protocol keeps still (a writer's own record, a record that a reader's cursor holds) move by `memcpy`.

use super::Segment;
use super::layout::{GRANULE, MIN_CAPACITY, RECORD_HEADER};
use super::words;
use crate::sys::atomic::{AtomicU64, Ordering};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// From this many bytes on, `memcpy` beats a loop over words.
pub(crate) const LARGE: usize = 512;

/// Where one record is (or will be), worked out once: everything about it is at a fixed distance from here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'s> {
    /// Good for the words of one granule, and for as many bytes as the ring is long.
    at: *const AtomicU64,
    mask: u64,
    _segment: PhantomData<&'s Segment>,
}

impl<'s> Spot<'s> {
    /// The record at `position`; at the granule that it is in, if it is the beginning of none.
    ///
    /// # Safety
    ///
    /// `data` is the data part, good for `'s`, of a segment whose geometry has this `mask`.
    #[inline(always)]
    pub(super) unsafe fn new(data: NonNull<AtomicU64>, position: u64, mask: u64) -> Self {
        const { assert!(size_of::<AtomicU64>() == 8) };
        Spot {
            // SAFETY: less than the capacity, and the data part is twice that long. A multiple of the granule whatever the
            // position is, so words are where words may be.
            at: unsafe { data.as_ptr().byte_add((position & mask) as usize) },
            mask,
            _segment: PhantomData,
        }
    }

    /// The same, held in one register.
    #[inline(always)]
    pub(crate) fn settled(self) -> Self {
        let at = words::in_one_register(self.at);
        Spot { at, ..self }
    }

    /// Word number `index` of the record's header.
    #[inline]
    pub(crate) fn word(self, index: usize) -> &'s AtomicU64 {
        debug_assert!(index < (super::GRANULE / 8) as usize);
        // SAFETY: `Spot::new` made the pointer, good for a granule, from memory that lives as long as the segment.
        unsafe { &*self.at.add(index) }
    }

    /// Stores 0 to the first word of so many granules from here on, which do not go beyond the end of the ring.
    #[inline(always)]
    pub(crate) fn empty<const GRANULES: usize>(self) {
        const { assert!(GRANULES as u64 * GRANULE <= MIN_CAPACITY) };
        for granule in 0..GRANULES {
            // SAFETY: the spot is good for any ring's capacity.
            let word = unsafe { &*self.at.byte_add(granule * GRANULE as usize) };
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The little-endian word at byte `skip`, a multiple of 8, of sender and kind or just behind them.
    #[inline]
    pub(crate) fn name_word(self, skip: u64) -> u64 {
        const { assert!(RECORD_HEADER + 2 * 256 + 8 <= MIN_CAPACITY) };
        debug_assert!(skip.is_multiple_of(8) && skip <= RECORD_HEADER + 2 * 256);
        // SAFETY: a record's names have at most 2 * 255 bytes, and the spot is good for any ring's capacity.
        let word = unsafe { &*self.at.add(skip as usize / 8) };
        u64::from_le(word.load(Ordering::Relaxed))
    }

    /// Writes sender and kind, as little-endian words.
    ///
    /// # Safety
    ///
    /// Nobody changes `names` meanwhile. (Their type lets the caller change them at other times.)
    #[inline(always)]
    pub(crate) unsafe fn put_names(self, names: &[std::sync::atomic::AtomicU64]) {
        const { assert!(RECORD_HEADER + 2 * 256 <= MIN_CAPACITY) };
        debug_assert!(names.len() <= 2 * 256 / 8);
        // SAFETY: a record's names have at most 2 * 255 bytes, and the spot is good for any ring's capacity.
        unsafe {
            words::copy_in(
                names.as_ptr().cast(),
                self.at.add(RECORD_HEADER as usize / 8),
                size_of_val(names),
            )
        };
    }

    /// Pointer to `len` bytes from byte `skip`. Panics where they would leave the data part, which the ring's own checks rule
    /// out first.
    #[inline]
    pub(super) fn bytes(self, skip: u64, len: u64) -> *mut u8 {
        let in_range = skip.checked_add(len).is_some_and(|end| end <= self.mask + GRANULE);
        assert!(in_range, "record larger than its ring");
        // SAFETY: the spot is inside the first half of the data part, which is twice the capacity long.
        unsafe { self.at.cast_mut().cast::<u8>().add(skip as usize) }
    }

    /// Copies `bytes` to byte `skip`, a multiple of 8. The last word is filled up with zeros.
    #[inline(always)]
    pub(crate) fn copy_in(self, skip: u64, bytes: &[u8]) {
        debug_assert_eq!(skip % 8, 0);
        let padded = (bytes.len() as u64).next_multiple_of(8);
        let to = self.bytes(skip, padded);
        if cfg!(not(any(loom, miri))) && bytes.len() >= LARGE {
            // SAFETY: `bytes()` checked the range, and the ring gives it to this writer alone until it publishes it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            return;
        }
        // SAFETY: `bytes()` checked the range.
        unsafe { self.copy_small_in(skip, bytes) };
    }

    /// The same for fewer than [`LARGE`] bytes, without a call or a look at the range.
    ///
    /// # Safety
    ///
    /// There are as many bytes there, filled up to whole words.
    #[inline(always)]
    pub(crate) unsafe fn copy_small_in(self, skip: u64, bytes: &[u8]) {
        // SAFETY: in range by the caller.
        let to = unsafe { self.at.byte_add(skip as usize) };
        // SAFETY: as above, and 8-aligned since `skip` is.
        unsafe { words::copy_in(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies `out.len()` words from byte `skip`, a multiple of 8. `racing`: a writer may be overwriting them; the caller checks
    /// afterwards and throws the copy away.
    #[inline]
    pub(crate) fn copy_out(self, skip: u64, out: &mut [u64], racing: bool) {
        debug_assert_eq!(skip % 8, 0);
        let bytes = size_of_val(out);
        let from = self.bytes(skip, bytes as u64);
        if cfg!(not(any(loom, miri))) && !racing && bytes >= LARGE {
            // SAFETY: `bytes()` checked the range, and this reader's cursor keeps writers out of it.
            unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), out.as_mut_ptr().cast(), bytes) };
            return;
        }
        // SAFETY: inside the checked range, and 8-aligned since `skip` is.
        unsafe { words::copy_out(from.cast_const().cast(), out.as_mut_ptr(), out.len()) };
    }

    /// The same for fewer than [`LARGE`] bytes, without a call or a look at the range.
    ///
    /// # Safety
    ///
    /// There are as many words there.
    #[inline(always)]
    pub(crate) unsafe fn copy_small_out(self, skip: u64, out: &mut [u64]) {
        // SAFETY: in range by the caller.
        unsafe { words::copy_out(self.at.byte_add(skip as usize), out.as_mut_ptr(), out.len()) };
    }

    /// Pointer for a caller that promises to keep to the protocol itself: `len` bytes from byte `skip` of the record.
    pub(crate) fn raw(self, skip: u64, len: u64) -> *mut u8 {
        self.bytes(skip, len)
    }
}

/// Fewer than 8 bytes as the little end of a word, the rest 0. Without a call of `memcpy`, which would cost more than all else.
#[inline]
pub(crate) fn partial_word(bytes: &[u8]) -> u64 {
    debug_assert!(bytes.len() < 8);
    let end = bytes.len();
    // Two pieces that may overlap: the first bytes, and the last ones.
    let wide = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |four| u32::from_le_bytes(*four).into())
    };
    let narrow = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |two| u16::from_le_bytes(*two).into())
    };
    match end {
        0 => 0,
        1 => bytes[0].into(),
        2 | 3 => narrow(0) | narrow(end - 2) << (8 * (end - 2)),
        _ => wide(0) | wide(end - 4) << (8 * (end - 4)),
    }
}

impl Segment {
    /// The record at `position`.
    #[inline]
    pub(crate) fn at(&self, position: u64) -> Spot<'_> {
        debug_assert_eq!(position % GRANULE, 0);
        // SAFETY: this segment's own.
        unsafe { Spot::new(self.data, position, self.geometry.mask()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_partial_word_has_the_bytes_and_then_zeros() {
        let bytes = [0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7];
        for len in 0..=bytes.len() {
            let mut padded = [0; 8];
            padded[..len].copy_from_slice(&bytes[..len]);
            assert_eq!(partial_word(&bytes[..len]), u64::from_le_bytes(padded));
        }
    }
}
