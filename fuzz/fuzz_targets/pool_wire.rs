//! Fuzz target: the decoder of the pool, against a plain one, with every allocation looked at.

#![no_main]

#[path = "../wire_case.rs"]
mod wire_case;

use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use syncq::pool::wire::Decoder;

/// The largest single piece of memory that was asked for since the last look.
struct Largest(AtomicUsize);

#[global_allocator]
static LARGEST: Largest = Largest(AtomicUsize::new(0));

// SAFETY: everything is the system allocator's; sizes are only noted.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: handed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: handed on as it came.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.fetch_max(size, Ordering::Relaxed);
        // SAFETY: handed on as it came.
        unsafe { System.realloc(place, layout, size) }
    }
}

fuzz_target!(|input: &[u8]| {
    LARGEST.0.store(0, Ordering::Relaxed);
    wire_case::run(input);
    let largest = LARGEST.0.load(Ordering::Relaxed);
    // A recipe makes more than it is long: some 2 KiB or 140 KiB, and a last frame. Lists of frames are longer than the frames' bytes.
    let arrived = match input.first() {
        Some(0xf8..) => input.len().max(210 << 10),
        Some(how) if how % 2 == 1 => 8 << 10,
        _ => input.len(),
    };
    assert!(
        largest <= 8 * arrived + Decoder::SLACK,
        "{largest} bytes at once for {arrived} that arrived"
    );
});
