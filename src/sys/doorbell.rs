//! A descriptor that becomes ready when something happens that no descriptor tells of.
//!
//! What happens in a segment can be slept on (`futex`), but not polled. So a thread of this process does the sleeping, and rings a
//! descriptor. It sleeps only while the doorbell is armed; a doorbell that is never armed has no thread.
//!
//! Not here: what is waited for. That is a job from above, which returns when there is news or when it is told that it is over.

use crate::sys::fork;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Waits for news. Given a question to ask now and then: is it over?
pub(crate) type Job = Box<dyn FnOnce(&dyn Fn() -> bool) + Send>;

/// How the descriptor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tells {
    /// It becomes readable.
    Readable,
    /// It becomes writable.
    Writable,
}

/// A counter that is as high as it can be is not writable.
const BRIM: u64 = u64::MAX - 1;

#[derive(Debug)]
pub(crate) struct Doorbell {
    shared: Arc<Shared>,
    /// Threads do not survive a fork, and the descriptor is the parent's.
    born: u64,
}

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    tells: Tells,
    /// Which arming counts: the last one, or 0 for none. Jobs look at it to see whether they are over.
    armed: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    job: Option<(u64, Job)>,
    is_closed: bool,
    has_thread: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(tells: Tells) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Shared {
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            tells,
            armed: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A job that panicked has broken nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor ready, or not. Called with the state locked.
    fn set_ready(&self, is_ready: bool) {
        let empty = is_ready == (self.tells == Tells::Writable);
        if empty {
            // Reading brings the counter to 0; that it was 0 already is as good.
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        } else {
            let amount = match self.tells {
                Tells::Readable => 1,
                Tells::Writable => BRIM,
            };
            // If there is no room for it, it is there already.
            let _ = rustix::io::write(&self.fd, &u64::to_ne_bytes(amount));
        }
    }

    /// What the thread does.
    fn serve(&self) {
        let mut state = self.state();
        while !state.is_closed {
            let Some((number, job)) = state.job.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            job(&|| self.armed.load(Ordering::Acquire) != number);
            state = self.state();
            if self.armed.load(Ordering::Acquire) == number {
                self.set_ready(true);
                self.armed.store(0, Ordering::Release);
            }
        }
    }
}

impl Doorbell {
    pub(crate) fn new(tells: Tells) -> io::Result<Self> {
        Ok(Doorbell {
            shared: Shared::new(tells)?,
            born: fork::generation(),
        })
    }

    /// Silences the descriptor, and makes it ready when `job` returns. An earlier arming is over.
    pub(crate) fn arm(&mut self, job: Job) -> io::Result<()> {
        if self.born != fork::generation() {
            // Its lock may be held for ever by a thread that this process does not have; its descriptor is the parent's.
            *self = Doorbell::new(self.shared.tells)?;
        }
        let mut state = self.shared.state();
        if !state.has_thread {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("syncq-doorbell".into());
            builder.stack_size(STACK).spawn(move || shared.serve())?;
            state.has_thread = true;
        }
        state.last += 1;
        let number = state.last;
        state.job = Some((number, job));
        self.shared.armed.store(number, Ordering::Release);
        self.shared.set_ready(false);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The last arming is over; the descriptor stays silent.
    pub(crate) fn disarm(&mut self) {
        if self.born == fork::generation() {
            let mut state = self.shared.state();
            state.job = None;
            self.shared.armed.store(0, Ordering::Release);
        }
    }
}

/// For a thread that only sleeps.
const STACK: usize = 128 << 10;

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        if self.born == fork::generation() {
            let mut state = self.shared.state();
            state.is_closed = true;
            state.job = None;
            self.shared.armed.store(0, Ordering::Release);
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::mpsc;

    fn is_ready(doorbell: &Doorbell, events: PollFlags, millis: i64) -> bool {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: millis * 1_000_000,
        };
        poll(&mut [PollFd::new(doorbell, events)], Some(&wait)) == Ok(1)
    }

    #[test]
    fn it_is_silent_while_armed_and_ready_once_the_job_is_done() {
        for (tells, events) in [(Tells::Readable, PollFlags::IN), (Tells::Writable, PollFlags::OUT)] {
            let mut doorbell = Doorbell::new(tells).unwrap();
            for _ in 0..3 {
                let (done, wait) = mpsc::channel::<()>();
                doorbell.arm(Box::new(move |_| assert!(wait.recv().is_err()))).unwrap();
                assert!(!is_ready(&doorbell, events, 5));
                drop(done);
                assert!(is_ready(&doorbell, events, 900));
                assert!(is_ready(&doorbell, events, 0));
            }
            doorbell.arm(Box::new(|is_over| while !is_over() {})).unwrap();
            doorbell.disarm();
            assert!(!is_ready(&doorbell, events, 5));
        }
    }
}
