//! SIGINT and SIGTERM as a question that can be asked, and as a descriptor that wakes what waits. A second one ends at once.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a wait on a queue goes on before somebody looks whether it should.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Whether the user wants this to end.
#[derive(Debug)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    /// Readable from the first signal on.
    wake: UnixStream,
}

/// What a wait for a descriptor ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Ready,
    Stopped,
    TimedOut,
}

impl Stop {
    pub(crate) fn listen() -> io::Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        let signal = Arc::new(AtomicUsize::new(0));
        let (wake, write) = UnixStream::pair()?;
        for number in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set by the first.
            flag::register_conditional_shutdown(number, 128 + number, asked.clone())?;
            flag::register(number, asked.clone())?;
            flag::register_usize(number, signal.clone(), number as usize)?;
            low_level::pipe::register(number, write.try_clone()?)?;
        }
        Ok(Stop { asked, signal, wake })
    }

    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The signal that asked.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number as i32),
        }
    }

    /// Sleeps this long, or until asked to stop. Whether it was.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        self.sleep_until(Instant::now() + time)
    }

    /// As [`sleep`](Stop::sleep).
    pub(crate) fn sleep_until(&self, end: Instant) -> bool {
        while !self.is_asked() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut wake = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
            let _ = ppoll(&mut wake, Some(TimeSpec::from_duration(left)), None);
        }
        true
    }

    /// Waits until `what` can be read (or has ended).
    pub(crate) fn wait_readable(&self, what: BorrowedFd<'_>, end: Option<Instant>) -> io::Result<Woken> {
        self.wait_any(&[what], end).map(|(woken, _)| woken)
    }

    /// Waits until one of `those` can be read (or has ended), and says which.
    pub(crate) fn wait_any(&self, those: &[BorrowedFd<'_>], end: Option<Instant>) -> io::Result<(Woken, Vec<bool>)> {
        loop {
            if self.is_asked() {
                return Ok((Woken::Stopped, vec![false; those.len()]));
            }
            if let Some(ready) = self.poll(those, end, true)? {
                let woken = if ready.contains(&true) {
                    Woken::Ready
                } else {
                    Woken::TimedOut
                };
                if woken == Woken::Ready || end.is_some_and(|end| end <= Instant::now()) {
                    return Ok((woken, ready));
                }
            }
        }
    }

    /// As [`wait_any`](Stop::wait_any), whoever asks to stop.
    pub(crate) fn wait_any_regardless(&self, those: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        loop {
            if let Some(ready) = self.poll(those, None, false)? {
                return Ok(ready);
            }
        }
    }

    fn poll(&self, those: &[BorrowedFd<'_>], end: Option<Instant>, wakes: bool) -> io::Result<Option<Vec<bool>>> {
        let mut polled: Vec<_> = those.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        if wakes {
            polled.push(PollFd::new(self.wake.as_fd(), PollFlags::POLLIN));
        }
        let left = end.map(|end| TimeSpec::from_duration(end.saturating_duration_since(Instant::now())));
        match ppoll(&mut polled, left, None) {
            Ok(_) => Ok(Some(
                polled[..those.len()]
                    .iter()
                    .map(|fd| fd.any().unwrap_or(true))
                    .collect(),
            )),
            Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
