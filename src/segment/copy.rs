//! Moving bytes of records in and out of a segment.
//!
//! No reference to shared bytes is ever made: another process may be writing them. Small pieces move as relaxed 64-bit
//! atomics, which is also what makes a copy that races with a writer (an observer's) a defined thing to do; whole cache lines of
//! them, where the processor is known, by four instructions of 16 bytes that the compiler does not look into. Large pieces
//! that the protocol keeps still (a writer's own record, a record that a reader's cursor holds) move by `memcpy`.
//!
//! Sanitizers do not see what assembler does, so for them (`--cfg fuzzing`, which cargo-fuzz sets, and `--cfg plain_copies`) lines move
//! word by word.

use super::Segment;
use super::layout::{MIN_CAPACITY, RECORD_HEADER};
use crate::sys::atomic::{AtomicU64, Ordering};
use std::marker::PhantomData;

/// From this many bytes on, `memcpy` beats a loop over words.
const LARGE: usize = 512;
/// Words that one turn of the loop over words moves: a cache line.
const TURN: usize = 8;

/// Where one record is (or will be), worked out once: everything about it is at a fixed distance from here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'s> {
    /// Good for the words of one granule, and for as many bytes as the ring is long.
    at: *const AtomicU64,
    capacity: u64,
    _segment: PhantomData<&'s Segment>,
}

impl<'s> Spot<'s> {
    /// Word number `index` of the record's header.
    #[inline]
    pub(crate) fn word(self, index: usize) -> &'s AtomicU64 {
        debug_assert!(index < (super::GRANULE / 8) as usize);
        // SAFETY: `Segment::at` made the pointer, good for a granule, from memory that lives as long as the segment.
        unsafe { &*self.at.add(index) }
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

    /// Pointer to `len` bytes from byte `skip`. Panics where they would leave the data part, which the ring's own checks rule
    /// out first.
    #[inline]
    pub(super) fn bytes(self, skip: u64, len: u64) -> *mut u8 {
        let in_range = skip.checked_add(len).is_some_and(|end| end <= self.capacity);
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
        let mut to: *const AtomicU64 = to.cast_const().cast();
        let (words, rest) = bytes.as_chunks::<8>();
        let (turns, words) = words.as_chunks::<TURN>();
        for turn in turns {
            // SAFETY: inside the checked range, and 8-aligned since `skip` is.
            unsafe { line_in(turn, to) };
            to = to.wrapping_add(TURN);
        }
        if !words.is_empty() || !rest.is_empty() {
            // SAFETY: inside the checked range, and 8-aligned since `skip` is.
            unsafe { copy_words(words, rest, to) };
        }
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
        let mut from: *const AtomicU64 = from.cast_const().cast();
        // SAFETY: inside the checked range, and 8-aligned since `skip` is.
        let get = |from: *const AtomicU64| unsafe { &*from }.load(Ordering::Relaxed);
        let (turns, words) = out.as_chunks_mut::<TURN>();
        for turn in turns {
            // SAFETY: inside the checked range, and 8-aligned since `skip` is.
            unsafe { line_out(from, turn) };
            from = from.wrapping_add(TURN);
        }
        for word in words {
            *word = get(from);
            from = from.wrapping_add(1);
        }
    }

    /// Pointer for a caller that promises to keep to the protocol itself: `len` bytes from byte `skip` of the record.
    pub(crate) fn raw(self, skip: u64, len: u64) -> *mut u8 {
        self.bytes(skip, len)
    }
}

/// Copies a line into a segment.
///
/// # Safety
///
/// `to` is good for [`TURN`] words.
#[inline(always)]
unsafe fn line_in(from: &[[u8; 8]; TURN], to: *const AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
    // SAFETY: `from` is that long, and `to` by the caller.
    unsafe {
        wide_line(from.as_ptr().cast(), to.cast_mut().cast())
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    // SAFETY: the caller's.
    unsafe {
        copy_words(from, &[], to)
    };
}

/// Copies a line out of a segment.
///
/// # Safety
///
/// `from` is good for [`TURN`] words.
#[inline(always)]
unsafe fn line_out(from: *const AtomicU64, to: &mut [u64; TURN]) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
    // SAFETY: `to` is that long, and `from` by the caller.
    unsafe {
        wide_line(from.cast(), to.as_mut_ptr().cast())
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    for (index, word) in to.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *word = unsafe { &*from.add(index) }.load(Ordering::Relaxed);
    }
}

/// Copies a line, 16 bytes at a time, where one of the two places is in a segment. That is half as many stores as words, and they are
/// what a busy writer's processor runs out of.
///
/// # Safety
///
/// Both are good for [`TURN`] words.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
#[inline(always)]
unsafe fn wide_line(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's. In assembler, because what others may be reading or writing is no memory for the compiler to move
    // things about in; each 8 bytes come whole, as they would word by word.
    unsafe {
        std::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies words, and what is left of one filled up with zeros, into a segment.
///
/// # Safety
///
/// `to` is good for all of them.
#[inline(never)]
unsafe fn copy_words(words: &[[u8; 8]], rest: &[u8], to: *const AtomicU64) {
    let last = [partial_word(rest).to_le_bytes()];
    let last = if rest.is_empty() { &[] } else { &last[..] };
    for (index, word) in words.iter().chain(last).enumerate() {
        // SAFETY: the caller's.
        unsafe { &*to.add(index) }.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
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
        Spot {
            // SAFETY: the offset is below `capacity`, and the data part is twice that long.
            at: unsafe { self.data.as_ptr().add(self.offset(position) / 8) },
            capacity: self.geometry.capacity,
            _segment: PhantomData,
        }
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
