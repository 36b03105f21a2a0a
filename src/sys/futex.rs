//! Sleeping on a 32-bit word that other processes can reach.
//!
//! A [`WaitWord`] is a counter of events. Whoever wants to sleep reads it, makes sure that there really is nothing to do,
//! and sleeps as long as it has that value; whoever has news bumps it and wakes. No state about the sleepers lives in the
//! word, so a sleeper that is killed leaves nothing behind.

use crate::sys::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// All bits: a sleeper that any wake-up concerns.
pub(crate) const EVERY_BIT: u32 = u32::MAX;

/// An event counter to sleep on. All-zero bytes are a valid, fresh one.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct WaitWord {
    events: AtomicU32,
    #[cfg(loom)]
    bell: loom::sync::Mutex<()>,
    #[cfg(loom)]
    rung: loom::sync::Condvar,
}

impl WaitWord {
    /// The value to hand to [`WaitWord::sleep`]. Acquire: pairs with the Release in [`WaitWord::wake`], so what was
    /// written before a wake-up that this value already contains is visible to the check that follows.
    pub(crate) fn read(&self) -> u32 {
        self.events.load(Ordering::Acquire)
    }

    /// Sleeps while the word still has the value `seen`, for at most `limit`, until a wake-up whose bits meet `bits`.
    /// May return early for no reason; the caller looks again.
    #[cfg(not(loom))]
    pub(crate) fn sleep(&self, seen: u32, limit: Duration, bits: u32) {
        use rustix::thread::futex;
        use rustix::time::{ClockId, Timespec, clock_gettime};
        let Some(bits) = std::num::NonZeroU32::new(bits) else {
            return;
        };
        if limit.is_zero() {
            return;
        }
        // FUTEX_WAIT_BITSET takes an absolute time on the monotonic clock.
        let now = clock_gettime(ClockId::Monotonic);
        let nanos = now.tv_nsec as u64 + u64::from(limit.subsec_nanos());
        let until = Timespec {
            tv_sec: now
                .tv_sec
                .saturating_add_unsigned(limit.as_secs())
                .saturating_add((nanos / 1_000_000_000) as i64),
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        // Every outcome (woken, value changed, timed out, signal) means the same to the caller: look again.
        let _ = futex::wait_bitset(&self.events, futex::Flags::empty(), seen, Some(&until), bits);
    }

    /// Records an event and wakes every sleeper whose bits meet `bits`.
    #[cfg(not(loom))]
    pub(crate) fn wake(&self, bits: u32) {
        use rustix::thread::futex;
        self.events.fetch_add(1, Ordering::Release);
        if let Some(bits) = std::num::NonZeroU32::new(bits) {
            // Cannot fail on a mapped, aligned word; and a failed wake-up would only cost the sleepers a slice.
            let _ = futex::wake_bitset(&self.events, futex::Flags::empty(), i32::MAX as u32, bits);
        }
    }

    /// As [`WaitWord::sleep`], where nobody has promised to ring: what ends it is its limit, or luck.
    pub(crate) fn nap(&self, seen: u32, limit: Duration, bits: u32) {
        #[cfg(not(loom))]
        self.sleep(seen, limit, bits);
        #[cfg(loom)]
        {
            let _ = (seen, limit, bits);
            loom::thread::yield_now();
        }
    }

    /// Under loom a sleep never times out, so that a lost wake-up is a deadlock that the model reports. Only in models with
    /// deaths do short sleeps end by themselves: it is by looking again that the living find out.
    #[cfg(loom)]
    pub(crate) fn sleep(&self, seen: u32, limit: Duration, bits: u32) {
        if model::SOMEBODY_DIES.get() && limit < Duration::from_millis(50) {
            return self.nap(seen, limit, bits);
        }
        let guard = self.bell.lock().unwrap();
        if self.events.load(Ordering::SeqCst) == seen {
            drop(self.rung.wait(guard).unwrap());
        }
    }

    #[cfg(loom)]
    pub(crate) fn wake(&self, _bits: u32) {
        let _guard = self.bell.lock().unwrap();
        self.events.fetch_add(1, Ordering::SeqCst);
        self.rung.notify_all();
    }
}

#[cfg(loom)]
pub(crate) mod model {
    std::thread_local! {
        /// Whether this model has deaths. All threads of a model run on one thread of the system.
        pub(crate) static SOMEBODY_DIES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
}
