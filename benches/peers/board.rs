//! Memory that the processes of one run share: where they wait for each other and put what they measured.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most ends that a run can have.
pub const ENDS: usize = 72;

/// A word on lines of its own.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Word(pub AtomicU64);

impl Word {
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::AcqRel);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    pub fn set_number(&self, value: f64) {
        self.set(value.to_bits());
    }

    pub fn number(&self) -> f64 {
        f64::from_bits(self.get())
    }
}

/// What one end found.
#[repr(C)]
#[derive(Default)]
pub struct EndReport {
    /// When its measured part began and ended.
    pub began: Word,
    pub ended: Word,
    /// Processor time of its measured part.
    pub busy: Word,
}

#[repr(C)]
pub struct Board {
    /// Ends that exist, that have settled, and readers that have had their warm-up.
    pub ready: Word,
    pub settled: Word,
    pub warmed: Word,
    pub ends: [EndReport; ENDS],
    /// Numbers measured, as the work defines them.
    pub results: [Word; 8],
    /// Lines and words to play with, for the bare limits.
    pub lines: [Word; 8],
}

impl Board {
    pub fn new() -> &'static Board {
        let len = NonZeroUsize::new(size_of::<Board>()).expect("not empty");
        // SAFETY: a fresh shared mapping.
        let memory = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )
        };
        // SAFETY: page-aligned, all zeroes, which is what a board of atomics begins with; never unmapped.
        unsafe { memory.expect("memory").cast::<Board>().as_ref() }
    }

    /// As new.
    pub fn clear(&self) {
        let words = [&self.ready, &self.settled, &self.warmed];
        let ends = self.ends.iter().flat_map(|end| [&end.began, &end.ended, &end.busy]);
        for word in words.into_iter().chain(ends).chain(&self.results).chain(&self.lines) {
            word.set(0);
        }
    }
}
