//! A queue as something to poll: a descriptor that is ready when a message, or room for one, may be there.

use crate::error::{Error, Result};
use crate::ring::members::Membership;
use crate::sys::doorbell::{self, Tells};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A descriptor that rings when a message, or room for one, may be there. For programs that wait for queues and other things at once, with
/// `poll`, epoll, an event loop.
///
/// A queue cannot be polled: its members sleep on memory. So while a doorbell is armed, a thread of this process sleeps in its stead, and
/// makes the descriptor ready. Nobody else pays for it. The thread comes with the first arming and goes with the doorbell, half a second
/// later at most.
///
/// The way to use it: take what is there; when there is nothing more, [arm](crate::Reader::arm_to_read) it; if that says `true`, sleep on the
/// descriptor; begin again. Arming silences it. It may ring for nothing, for example for a message that the screen does not let through.
///
/// One doorbell serves one role at a time, and one question. In a forked child, arm it anew and ask for the descriptor again: it is another one.
///
/// ```
/// use syncq::{Doorbell, Queue, Wait};
/// use syncq::channel::{Interest, Poller, What};
/// use std::{os::fd::AsFd, time::Duration};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::options().heap()?;
/// let (mut reader, mut writer) = (queue.reader()?, queue.writer("w")?);
/// let mut doorbell = Doorbell::readable()?;
/// assert!(reader.arm_to_read(&mut doorbell)?); // nothing is there, so it is worth sleeping
///
/// let mut poller = Poller::new()?; // or any other
/// poller.watch(doorbell.as_fd().try_clone_to_owned()?, Interest::READ);
/// assert!(poller.poll(Duration::from_millis(1))?.is_empty());
/// writer.append("kind", b"body", Wait::Never)?;
/// assert!(matches!(poller.poll(Wait::Forever)?[0].what, What::Ready(_)));
/// assert_eq!(reader.pop(Wait::Never)?.unwrap().body(), b"body");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Doorbell {
    inner: doorbell::Doorbell,
    /// Which wake-ups it was last armed for; 0 for none yet.
    bits: u32,
}

impl Doorbell {
    /// One whose descriptor becomes readable.
    ///
    /// # Errors
    ///
    /// What the system says if there are no descriptors left.
    pub fn readable() -> std::io::Result<Doorbell> {
        Self::new(Tells::Readable)
    }

    /// One whose descriptor becomes writable, for who waits for room: there it looks like any other descriptor that can be written to.
    /// Nothing must be written to it.
    ///
    /// # Errors
    ///
    /// As [`readable`](Doorbell::readable).
    pub fn writable() -> std::io::Result<Doorbell> {
        Self::new(Tells::Writable)
    }

    fn new(tells: Tells) -> std::io::Result<Doorbell> {
        Ok(Doorbell {
            inner: doorbell::Doorbell::new(tells)?,
            bits: 0,
        })
    }

    /// Nobody waits any more: it does not ring until it is armed again.
    pub fn disarm(&mut self) {
        self.inner.disarm();
    }

    /// Whether it was armed for other wake-ups before.
    pub(super) fn changes_bits(&mut self, bits: u32) -> bool {
        let before = std::mem::replace(&mut self.bits, bits);
        before != 0 && before != bits
    }

    /// Rings when `job`, run by the thread, returns.
    pub(super) fn start(
        &mut self,
        queue: &Arc<str>,
        job: impl FnOnce(&dyn Fn() -> bool) + Send + 'static,
    ) -> Result<()> {
        self.inner.arm(Box::new(job)).map_err(|source| Error::Os {
            doing: "arming a doorbell",
            queue: queue.clone(),
            source,
        })
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// See [`Writer::arm_to_write`](crate::Writer::arm_to_write).
pub(super) fn arm_to_write(
    membership: &Arc<Membership>,
    doorbell: &mut Doorbell,
    kind: &str,
    len: usize,
) -> Result<bool> {
    membership.check()?;
    let size = membership.size_of(kind.as_bytes(), len)?;
    let ring = membership.ring.clone();
    if ring.may_append(size) {
        return Ok(false);
    }
    // Not kept alive by the thread: when it leaves, it leaves at once.
    let me = Arc::downgrade(membership);
    doorbell.start(&membership.ring.segment.name, move |is_over| {
        let has_changed = || is_over() || me.upgrade().is_none_or(|me| me.check_not_evicted().is_err());
        ring.wait_to_append(size, &has_changed);
    })?;
    Ok(true)
}
