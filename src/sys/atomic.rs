//! The atomics that the ring is written in: std's, or loom's when a model is being checked.
//!
//! Process-local bookkeeping that no model covers (fork detection, the registry) uses std directly.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor that this is a spin; under loom, lets another thread run.
pub(crate) fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Gives the processor away once.
pub(crate) fn yield_now() {
    #[cfg(not(loom))]
    std::thread::yield_now();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Marks the place between two SeqCst accesses that form a "store mine, then look at yours" pair with two others. The accesses
/// themselves are what makes it sound; loom takes SeqCst accesses for AcqRel ones and needs to be told.
#[inline]
pub(crate) fn in_total_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
