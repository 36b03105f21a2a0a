//! Moving bytes of records in and out of a segment.
//!
//! No reference to shared bytes is ever made: another process may be writing them. Small pieces move as relaxed 64-bit
//! atomics, which is also what makes a copy that races with a writer (an observer's) a defined thing to do. Large pieces
//! that the protocol keeps still (a writer's own record, a record that a reader's cursor holds) move by `memcpy`.

use super::Segment;
use crate::sys::atomic::{AtomicU64, Ordering};

/// From this many bytes on, `memcpy` beats a loop over words.
const LARGE: usize = 512;

impl Segment {
    /// Copies `bytes` to byte `skip` of the record at `position`; `skip` must be a multiple of 8. The last word is filled
    /// up with zeros.
    #[inline]
    pub(crate) fn copy_in(&self, position: u64, skip: u64, bytes: &[u8]) {
        debug_assert_eq!(skip % 8, 0);
        let padded = (bytes.len() as u64).next_multiple_of(8);
        let to = self.bytes(position, skip, padded);
        if cfg!(not(any(loom, miri))) && bytes.len() >= LARGE {
            // SAFETY: `bytes()` checked the range, and the ring gives it to this writer alone until it publishes it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            return;
        }
        let to: *const AtomicU64 = to.cast_const().cast();
        let mut words = bytes.chunks_exact(8);
        let mut index = 0;
        for word in &mut words {
            // SAFETY: inside the checked range, and 8-aligned since `skip` is.
            unsafe { &*to.add(index) }.store(
                u64::from_ne_bytes(word.try_into().expect("chunks of 8")),
                Ordering::Relaxed,
            );
            index += 1;
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            // SAFETY: as above; the range was checked for the padded length.
            unsafe { &*to.add(index) }.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Copies `out.len()` words from byte `skip` (a multiple of 8) of the record at `position`. `racing`: a writer may be
    /// overwriting them; the caller checks afterwards and throws the copy away.
    #[inline]
    pub(crate) fn copy_out(&self, position: u64, skip: u64, out: &mut [u64], racing: bool) {
        debug_assert_eq!(skip % 8, 0);
        let bytes = size_of_val(out);
        let from = self.bytes(position, skip, bytes as u64);
        if cfg!(not(any(loom, miri))) && !racing && bytes >= LARGE {
            // SAFETY: `bytes()` checked the range, and this reader's cursor keeps writers out of it.
            unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), out.as_mut_ptr().cast(), bytes) };
            return;
        }
        let from: *const AtomicU64 = from.cast_const().cast();
        for (index, word) in out.iter_mut().enumerate() {
            // SAFETY: inside the checked range, and 8-aligned since `skip` is.
            *word = unsafe { &*from.add(index) }.load(Ordering::Relaxed);
        }
    }

    /// Asks the processor for the `count` cache lines from `position` on, to be written soon. Only a hint: it reads and changes
    /// nothing that a program could see.
    #[inline]
    pub(crate) fn prefetch_for_write(&self, position: u64, count: usize) {
        #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
        for line in 0..count {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            let at = self.offset(position) + line * 64;
            // SAFETY: the data part is twice the capacity long, so this is inside it; and a prefetch may be of any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.data.cast::<i8>().add(at).as_ptr()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
        let _ = (position, count);
    }

    /// Pointer for a caller that promises to keep to the protocol itself: `len` bytes from byte `skip` of the record.
    pub(crate) fn raw(&self, position: u64, skip: u64, len: u64) -> *mut u8 {
        self.bytes(position, skip, len)
    }
}
