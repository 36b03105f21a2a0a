//! A fence between a side that runs for every message and a side that is about to sleep.
//!
//! Both sides store one word and then load the other's. Ordinarily each needs a full fence between the two. Here the
//! frequent side calls [`light`], which only keeps the compiler from reordering, and the rare side calls [`heavy`], which
//! makes every running thread of every registered process execute a fence (`membarrier(2)`, global expedited).
//! A process that could not register pays a real fence in `light` instead, so the pair is always sound on the light side.
//! If `heavy` itself is refused (a sandbox that filters the call), it is a local fence, and what may be missed is a wake-up;
//! every sleep in the ring is sliced, so that costs a moment and never a hang.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process (its address space) answers other processes' [`heavy`].
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Makes this process answer [`heavy`]. Called once for each segment opened; a child of `fork` keeps the registration
/// with its copy of the address space.
pub(crate) fn register() {
    #[cfg(not(any(loom, miri)))]
    {
        use rustix::thread::{MembarrierCommand, membarrier};
        if !REGISTERED.load(Ordering::Relaxed) {
            let accepted = membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
            REGISTERED.store(accepted, Ordering::Relaxed);
        }
    }
}

/// The side that runs for every message. Pairs with [`heavy`].
#[inline]
pub(crate) fn light() {
    if REGISTERED.load(Ordering::Relaxed) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        super::atomic::fence(super::atomic::Ordering::SeqCst);
    }
}

/// The side that is about to sleep. Pairs with [`light`].
pub(crate) fn heavy() {
    super::atomic::fence(super::atomic::Ordering::SeqCst);
    #[cfg(not(any(loom, miri)))]
    {
        use rustix::thread::{MembarrierCommand, membarrier};
        // Refused: the fence above and the sliced sleep are what is left; see the head of this file.
        let _ = membarrier(MembarrierCommand::GlobalExpedited);
    }
}
