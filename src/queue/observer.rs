//! The role that disturbs nobody.

use super::inbox::{Drain, Inbox, Messages};
use super::info::{self, MemberInfo, Stats};
use super::message::{Buffer, Message};
use super::screen::Screen;
use crate::error::Result;
use crate::ring::Ring;
use crate::ring::members::{Beginning, Start};
use crate::segment::backing;
use crate::wait::Wait;
use std::sync::Arc;
use std::time::Duration;

/// Reads along without taking part: maps the queue read-only, takes no slot and no lock, and never holds writers back. If they
/// overtake it, it is told how many messages it missed and goes on with the oldest one still there. Made by
/// [`Queue::observer`](crate::Queue::observer), or without opening the queue for writing by
/// [`QueueOptions::observe`](crate::QueueOptions::observe).
///
/// # Implementation notes
///
/// Nobody knows that an observer waits, so nobody wakes it: it spins as long as others do, then looks again after 250 µs, and
/// ever more rarely down to every 8 ms. In a forked child an inherited observer works as it does in the parent.
///
/// ```
/// use syncq::{Error, Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().capacity(4096).heap()?;
/// let mut observer = queue.observer()?;
/// let mut writer = queue.writer("fast")?;
/// for _ in 0..1000 {
///     writer.append("", b"...", Wait::Never)?;
/// }
/// match observer.pop(Wait::Never) {
///     Err(Error::Lagged { missed }) => assert!(missed > 900),
///     other => panic!("unexpected: {other:?}"),
/// }
/// assert!(observer.pop(Wait::Never)?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Observer {
    inbox: Inbox,
}

impl Observer {
    pub(super) fn new(ring: Arc<Ring>, start: Start, spin: Duration) -> Result<Self> {
        let (position, sequence) = match start {
            Start::Now => ring.newest(),
            Start::Oldest => ring.oldest()?,
        };
        Ok(Observer {
            inbox: Inbox::of_observer(ring, Beginning { position, sequence }, spin),
        })
    }

    /// Takes the next message that the [screen](Screen) lets through, in the queue's one order. `None`: there was none in
    /// time. The message borrows this reader's buffer until the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Lagged`](crate::Error::Lagged), once for each time writers overtook it;
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    #[inline]
    pub fn pop(&mut self, wait: impl Into<Wait>) -> Result<Option<Message<'_>>> {
        self.inbox.pop(wait.into())
    }

    /// As [`pop`](Observer::pop), with a buffer of the caller's, which the message borrows instead.
    ///
    /// # Errors
    ///
    /// As [`pop`](Observer::pop).
    pub fn pop_into<'b>(&mut self, buffer: &'b mut Buffer, wait: impl Into<Wait>) -> Result<Option<Message<'b>>> {
        self.inbox.pop_into(buffer, wait.into())
    }

    /// The messages that are there now, one after the other, without waiting.
    pub fn drain(&mut self) -> Drain<'_> {
        Drain::new(&mut self.inbox)
    }

    /// The messages as they come; ends when `wait` (for each of them) passes without one. With [`Wait::Forever`] it ends only
    /// with an error.
    pub fn messages(&mut self, wait: impl Into<Wait>) -> Messages<'_> {
        Messages::new(&mut self.inbox, wait.into())
    }

    /// What it passes over; to look at and to change at any time.
    pub fn screen(&mut self) -> &mut Screen {
        &mut self.inbox.screen
    }

    /// Bytes of the ring between it and the newest message.
    pub fn lag(&self) -> u64 {
        self.inbox.lag()
    }

    /// How long its waits spin before they sleep; see [`QueueOptions::spin`](crate::QueueOptions::spin).
    pub fn set_spin(&mut self, spin: Duration) {
        self.inbox.set_spin(spin);
    }

    /// Whether the name still leads to the queue that this one observes; see [`Queue::is_current`](crate::Queue::is_current).
    pub fn is_current(&self) -> bool {
        backing::is_current(&self.inbox.ring.segment)
    }

    /// Counters and options of the queue.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inbox.ring)
    }

    /// Everybody who takes part.
    pub fn members(&self) -> Vec<MemberInfo> {
        info::members(&self.inbox.ring)
    }
}
