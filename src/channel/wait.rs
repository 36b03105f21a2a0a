//! Waiting for one channel. For many there is the poller.

use super::{Channel, ChannelError, Interest};
use crate::wait::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// As the kernel wants it, rounded up: never early. [`None`]: for ever.
pub(crate) fn timespec(deadline: &Deadline) -> Option<Timespec> {
    let left = match deadline {
        Deadline::Now => Duration::ZERO,
        Deadline::At(instant) => instant.saturating_duration_since(Instant::now()),
        Deadline::None => return None,
    };
    Some(Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    })
}

/// Sleeps until the channel may be ready for `interest`, or `deadline` has passed. May return early; the caller looks again.
pub(crate) fn until_ready<C: Channel + ?Sized>(
    channel: &mut C,
    interest: Interest,
    deadline: &Deadline,
) -> Result<(), ChannelError> {
    if !channel.arm(interest) {
        return Ok(());
    }
    let readable = channel.read_fd().filter(|_| interest.readable);
    let writable = channel.write_fd().filter(|_| interest.writable);
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
    fds.extend(readable.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    fds.extend(writable.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
    if fds.is_empty() {
        return Err(ChannelError::Closed);
    }
    match poll(&mut fds, timespec(deadline).as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(ChannelError::os("poll", errno)),
    }
}
