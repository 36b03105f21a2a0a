//! Moving bytes and 64-bit words between a process's own memory and a segment, where others may be reading or writing; and two counters at a
//! time.
//!
//! As relaxed atomics; or, where the processor is known, 16 bytes at a time by instructions that the compiler does not look into: these
//! take few registers, unlike a loop that it would unroll, so that the rest of an append needs none on the stack. Each word
//! comes whole either way. From the end to the beginning, because a writer comes back to the beginning of a record last.
//!
//! Sanitizers do not see what assembler does, so for them (`--cfg fuzzing`, which cargo-fuzz sets, and `--cfg plain_copies`) words
//! move one by one.

use super::layout::Count;
use crate::sys::atomic::AtomicU64;

/// The same pointer, of which the compiler no longer knows how it was made. It would else hold the parts in registers, to add them up
/// anew for each use.
#[cfg_attr(
    all(target_arch = "x86_64", not(any(loom, miri))),
    expect(
        clippy::pointers_in_nomem_asm_block,
        reason = "nothing is done with what it points to"
    )
)]
#[inline(always)]
pub(super) fn in_one_register(pointer: *const AtomicU64) -> *const AtomicU64 {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    {
        let mut pointer = pointer;
        // SAFETY: does nothing.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
        pointer
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    pointer
}

/// Copies `len` bytes into a segment, the last one first, and zeros behind them up to the end of the word.
///
/// # Safety
///
/// `from` is good for as many bytes, `to` for as many whole words. Nobody else writes to `from` meanwhile.
#[inline(always)]
pub(super) unsafe fn copy_in(from: *const u8, to: *const AtomicU64, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
    // SAFETY: the caller's.
    unsafe {
        wide(from, to.cast_mut().cast(), len)
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    {
        // SAFETY: the caller's.
        let (words, rest) = unsafe { std::slice::from_raw_parts(from, len) }.as_chunks::<8>();
        if !rest.is_empty() {
            // SAFETY: the caller's.
            let last = unsafe { &*to.add(words.len()) };
            last.store(
                super::copy::partial_word(rest).to_le(),
                crate::sys::atomic::Ordering::Relaxed,
            );
        }
        for (index, word) in words.iter().enumerate().rev() {
            // SAFETY: the caller's.
            let place = unsafe { &*to.add(index) };
            place.store(u64::from_ne_bytes(*word), crate::sys::atomic::Ordering::Relaxed);
        }
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
        wide(from.cast(), to.cast(), 8 * count)
    };
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
    for index in 0..count {
        // SAFETY: the caller's.
        unsafe { *to.add(index) = (*from.add(index)).load(crate::sys::atomic::Ordering::Relaxed) };
    }
}

/// Copies `len` bytes, the last one first, and zeros behind them up to the end of the word: what is over, then lines.
///
/// # Safety
///
/// `from` is good for as many bytes, `to` for as many whole words.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
#[inline(always)]
unsafe fn wide(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's. In assembler, because what others may be reading or writing is no memory for the compiler to move
    // things about in. One register that is not wide does for all lengths: a writer has no more to spare.
    unsafe {
        std::arch::asm!(
            "test {len:l}, 63",
            "jz 40f",
            "mov {over:e}, {len:e}",
            "and {over:e}, 7",
            "jz 30f",
            "cmp {len}, 8",
            "jb 22f",
            // What is over, as the end of the last eight bytes.
            "movq {a}, [{from} + {len} - 8]",
            "and {len}, -8",
            "sub {over:e}, 8",
            "neg {over:e}",
            "shl {over:e}, 3",
            "movd {b}, {over:e}",
            "psrlq {a}, {b}",
            "movq [{to} + {len}], {a}",
            "jmp 30f",
            // Four to seven: the first four and the last four.
            "22:",
            "cmp {len:e}, 4",
            "jb 23f",
            "movd {a}, [{from}]",
            "movd {b}, [{from} + {len} - 4]",
            "lea {over:e}, [8*{len:e} - 32]",
            "movd {c}, {over:e}",
            "psllq {b}, {c}",
            "por {a}, {b}",
            "movq [{to}], {a}",
            "jmp 60f",
            // One to three: the last one, and the first two if there are two.
            "23:",
            "movzx {over:e}, byte ptr [{from} + {len} - 1]",
            "movd {a}, {over:e}",
            "lea {over:e}, [8*{len:e} - 8]",
            "movd {c}, {over:e}",
            "psllq {a}, {c}",
            "cmp {len:e}, 1",
            "je 24f",
            "movzx {over:e}, word ptr [{from}]",
            "movd {b}, {over:e}",
            "por {a}, {b}",
            "24:",
            "movq [{to}], {a}",
            "jmp 60f",
            // Words.
            "30:",
            "test {len:l}, 8",
            "jz 31f",
            "sub {len}, 8",
            "movq {a}, [{from} + {len}]",
            "movq [{to} + {len}], {a}",
            "31:",
            "test {len:l}, 16",
            "jz 32f",
            "sub {len}, 16",
            "movups {a}, [{from} + {len}]",
            "movups [{to} + {len}], {a}",
            "32:",
            "test {len:l}, 32",
            "jz 40f",
            "sub {len}, 32",
            "movups {a}, [{from} + {len} + 16]",
            "movups {b}, [{from} + {len}]",
            "movups [{to} + {len} + 16], {a}",
            "movups [{to} + {len}], {b}",
            // Lines.
            "40:",
            "sub {len}, 64",
            "jb 60f",
            "50:",
            "movups {a}, [{from} + {len} + 48]",
            "movups {b}, [{from} + {len} + 32]",
            "movups {c}, [{from} + {len} + 16]",
            "movups {d}, [{from} + {len}]",
            "movups [{to} + {len} + 48], {a}",
            "movups [{to} + {len} + 32], {b}",
            "movups [{to} + {len} + 16], {c}",
            "movups [{to} + {len}], {d}",
            "sub {len}, 64",
            "jae 50b",
            "60:",
            len = inout(reg) len => _,
            from = in(reg) from,
            to = in(reg) to,
            over = out(reg) _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

impl Count {
    /// Adds to both, and returns how many messages there are now. Nobody else may be adding.
    ///
    /// With two accesses to memory for both: so many of them is what an append and a pop cost.
    #[inline(always)]
    pub(crate) fn add(&self, messages: u64, bytes: u64) -> u64 {
        #[cfg(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies))))]
        {
            let sum: u64;
            // SAFETY: the two words stand next to each other; as in `wide`.
            unsafe {
                std::arch::asm!(
                    "movq {a}, {messages}",
                    "movq {b}, {bytes}",
                    "punpcklqdq {a}, {b}",
                    "movups {b}, [{count}]",
                    "paddq {a}, {b}",
                    "movups [{count}], {a}",
                    "movq {messages}, {a}",
                    messages = inout(reg) messages => sum,
                    bytes = in(reg) bytes,
                    count = in(reg) std::ptr::from_ref(self),
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    options(nostack),
                );
            }
            sum
        }
        #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, fuzzing, plain_copies)))))]
        {
            use crate::sys::atomic::Ordering::Relaxed;
            let sum = self.messages.load(Relaxed).wrapping_add(messages);
            self.messages.store(sum, Relaxed);
            self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
            sum
        }
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
                unsafe { copy_in(bytes[skewed..].as_ptr(), place.as_ptr(), 8 * count) };
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

    #[test]
    fn every_number_of_bytes_is_copied_and_zeros_up_to_the_end_of_the_word() {
        // As above.
        const MOST: usize = if cfg!(miri) { 10 } else { 300 };
        let bytes: Vec<u8> = (0..MOST + 8).map(|index| (7 * index) as u8 | 1).collect();
        for len in 0..=MOST {
            for skewed in [0, 1, 4, 7] {
                let place: Vec<AtomicU64> = (0..=MOST / 8 + 1).map(|_| AtomicU64::new(u64::MAX)).collect();
                // SAFETY: both are longer.
                unsafe { copy_in(bytes[skewed..].as_ptr(), place.as_ptr(), len) };
                for (index, word) in place.iter().enumerate() {
                    let mut expected = [0; 8];
                    match bytes[skewed..][..len].get(8 * index..) {
                        Some(rest @ [_, ..]) => rest.iter().zip(&mut expected).for_each(|(from, to)| *to = *from),
                        _ => expected = [u8::MAX; 8],
                    }
                    let word = word.load(crate::sys::atomic::Ordering::Relaxed);
                    assert_eq!(word.to_ne_bytes(), expected, "word {index} of {len} bytes");
                }
            }
        }
    }

    #[test]
    fn a_count_counts_both() {
        let count = Count::default();
        assert_eq!(count.add(1, 2), 1);
        assert_eq!(count.add(3, u64::MAX), 4);
        use crate::sys::atomic::Ordering::Relaxed;
        assert_eq!((count.messages.load(Relaxed), count.bytes.load(Relaxed)), (4, 1));
    }
}
