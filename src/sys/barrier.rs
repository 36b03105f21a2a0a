//! A fence between a side that runs for every message and a rare one, which is about to sleep or to revoke.
//!
//! Both sides store one word and then load the other's. Ordinarily each needs a full fence between the two. Here the
//! frequent side calls [`Light::fence`], which only keeps the compiler from reordering, and the rare side calls [`heavy`], which
//! makes every running thread of every registered process execute a fence (`membarrier(2)`, global expedited).
//! A process that could not register pays a real fence there instead, so the pair is always sound on the light side.
//! If `heavy` itself is refused (a sandbox that filters the call), it says so. For who is about to sleep it does not matter
//! then: every sleep in the ring is sliced, and a missed wake-up costs a moment. Who revokes a kept claim waits instead.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process (its address space) answers other processes' [`heavy`].
#[cfg_attr(any(loom, miri), expect(dead_code))]
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// The side that runs for every message. Pairs with [`heavy`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Light {
    is_registered: bool,
}

/// Makes this process answer [`heavy`]. Called once for each segment opened; a child of `fork` keeps the registration
/// with its copy of the address space.
pub(crate) fn register() -> Light {
    #[cfg(not(any(loom, miri)))]
    {
        use rustix::thread::{MembarrierCommand, membarrier};
        if !REGISTERED.load(Ordering::Relaxed) {
            let accepted = membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
            REGISTERED.store(accepted, Ordering::Relaxed);
        }
        Light {
            is_registered: REGISTERED.load(Ordering::Relaxed),
        }
    }
    #[cfg(any(loom, miri))]
    Light { is_registered: false }
}

impl Light {
    /// Whether [`Light::fence`] only keeps the compiler from reordering.
    pub(crate) fn costs_nothing(self) -> bool {
        self.is_registered
    }

    /// Between a store and a load of another word.
    #[inline(always)]
    pub(crate) fn fence(self) {
        if self.is_registered {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            super::atomic::fence(super::atomic::Ordering::SeqCst);
        }
    }
}

/// The rare side. Pairs with [`Light::fence`]. `false`: the call was refused, and this was only a fence of this thread.
pub(crate) fn heavy() -> bool {
    super::atomic::fence(super::atomic::Ordering::SeqCst);
    #[cfg(not(any(loom, miri)))]
    {
        use rustix::thread::{MembarrierCommand, membarrier};
        membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }
    #[cfg(any(loom, miri))]
    true
}
