//! Moving 64-bit words between a process's own memory and a segment, where others may be reading or writing.
//!
//! As relaxed atomics; or, where the processor is known, 16 bytes at a time by instructions that the compiler does not look into: these
//! take few registers, unlike a loop that it would unroll, so that the rest of an append needs none on the stack. Each word
//! comes whole either way. From the end to the beginning, because a writer comes back to the beginning of a record last.
//!
//! Sanitizers do not see what assembler does, so for them (`--cfg fuzzing`, which cargo-fuzz sets, and `--cfg plain_copies`) words
//! move one by one.

use crate::sys::atomic::AtomicU64;

/// Copies `count` words into a segment, the last one first.
///
/// # Safety
///
/// `from` is good for as many words, whatever its alignment, and `to` too.
#[inline(always)]
pub(super) unsafe fn copy_in(from: *const [u8; 8], to: *const AtomicU64, count: usize) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
    // SAFETY: the caller's.
    unsafe {
        wide(from.cast(), to.cast_mut().cast(), count)
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    for index in (0..count).rev() {
        // SAFETY: the caller's.
        let (word, place) = unsafe { (*from.add(index), &*to.add(index)) };
        place.store(u64::from_ne_bytes(word), crate::sys::atomic::Ordering::Relaxed);
    }
}

/// Copies `count` words out of a segment.
///
/// # Safety
///
/// `from` and `to` are good for as many words.
#[inline(always)]
pub(super) unsafe fn copy_out(from: *const AtomicU64, to: *mut u64, count: usize) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
    // SAFETY: the caller's.
    unsafe {
        wide(from.cast(), to.cast(), count)
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    for index in 0..count {
        // SAFETY: the caller's.
        unsafe { *to.add(index) = (*from.add(index)).load(crate::sys::atomic::Ordering::Relaxed) };
    }
}

/// Copies `count` words, the last one first: what is over, then lines.
///
/// # Safety
///
/// Both are good for so many.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
#[inline(always)]
unsafe fn wide(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller's. In assembler, because what others may be reading or writing is no memory for the compiler to move
    // things about in.
    unsafe {
        std::arch::asm!(
            "test {count:l}, 7",
            "jz 4f",
            "test {count:l}, 1",
            "jz 2f",
            "dec {count}",
            "movq {a}, [{from} + 8*{count}]",
            "movq [{to} + 8*{count}], {a}",
            "2:",
            "test {count:l}, 2",
            "jz 3f",
            "sub {count}, 2",
            "movups {a}, [{from} + 8*{count}]",
            "movups [{to} + 8*{count}], {a}",
            "3:",
            "test {count:l}, 4",
            "jz 4f",
            "sub {count}, 4",
            "movups {a}, [{from} + 8*{count} + 16]",
            "movups {b}, [{from} + 8*{count}]",
            "movups [{to} + 8*{count} + 16], {a}",
            "movups [{to} + 8*{count}], {b}",
            "4:",
            "sub {count}, 8",
            "jb 6f",
            "5:",
            "movups {a}, [{from} + 8*{count} + 48]",
            "movups {b}, [{from} + 8*{count} + 32]",
            "movups {c}, [{from} + 8*{count} + 16]",
            "movups {d}, [{from} + 8*{count}]",
            "movups [{to} + 8*{count} + 48], {a}",
            "movups [{to} + 8*{count} + 32], {b}",
            "movups [{to} + 8*{count} + 16], {c}",
            "movups [{to} + 8*{count}], {d}",
            "sub {count}, 8",
            "jae 5b",
            "6:",
            count = inout(reg) count => _,
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_words_is_copied_and_nothing_else() {
        // Miri takes a minute for what else takes a millisecond.
        const MOST: usize = if cfg!(miri) { 10 } else { 64 };
        for count in 0..=MOST {
            for skewed in [0, 1, 4, 7] {
                let bytes: Vec<u8> = (0..MOST * 8 + 8).map(|index| index as u8).collect();
                let place: Vec<AtomicU64> = (0..=MOST).map(|_| AtomicU64::new(u64::MAX)).collect();
                // SAFETY: both are longer.
                unsafe { copy_in(bytes[skewed..].as_ptr().cast(), place.as_ptr(), count) };
                let mut out = [u64::MAX; MOST + 1];
                // SAFETY: both are longer.
                unsafe { copy_out(place.as_ptr(), out.as_mut_ptr(), MOST + 1) };
                for (index, word) in out.iter().enumerate() {
                    let given = bytes[skewed + 8 * index.min(MOST - 1)..]
                        .first_chunk()
                        .map_or(0, |word| u64::from_ne_bytes(*word));
                    assert_eq!(
                        *word,
                        if index < count { given } else { u64::MAX },
                        "{index} of {count}"
                    );
                }
                let mut few = [u64::MAX; MOST + 1];
                // SAFETY: both are longer.
                unsafe { copy_out(place.as_ptr(), few.as_mut_ptr(), count) };
                assert_eq!(few, out);
            }
        }
    }
}
