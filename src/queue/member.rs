//! The role that writes and reads: what PySyncQ calls a queue that was opened.

use super::doorbell::{self, Doorbell};
use super::guard::Guard;
use super::inbox::{Drain, Inbox, Messages};
use super::info::MemberId;
use super::message::{Buffer, Message};
use super::reservation::Reservation;
use super::screen::Screen;
use super::writer;
use crate::error::Result;
use crate::ring::members::{Beginning, Membership};
use crate::wait::Wait;
use std::sync::Arc;
use std::time::Duration;

/// Writes and reads. Made by [`Queue::join`](crate::Queue::join); the counterpart of PySyncQ's `open(sender, filtself)`.
///
/// # Room and its own backlog
///
/// A member holds writers back while it has not read, itself included. So that members that answer each other cannot all end
/// up waiting in `append` with nobody reading, an append that finds the ring full of this member's *own* unread messages
/// takes them home, into memory of this process, and they come from there at the next [`pop`](Member::pop)s, in order. At
/// most [so many bytes](Member::set_home_limit) are kept there; then the append is
/// [`Error::ReadFirst`](crate::Error::ReadFirst): this member has to pop before it can append.
///
/// ```
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// let mut a = queue.join("a")?;
/// let mut b = queue.join("b")?;
/// a.append("question", b"6 * 7?", Wait::Never)?;
/// let question = b.pop(Wait::Never)?.unwrap().into_owned();
/// b.append("answer", b"42", Wait::Never)?;
/// assert_eq!(a.pop(Wait::Never)?.unwrap().body(), b"42"); // its own question is screened
/// # assert_eq!(question.sender(), "a");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Member {
    membership: Arc<Membership>,
    inbox: Inbox,
}

impl Member {
    pub(super) fn new(membership: Arc<Membership>, at: Beginning, spin: Duration, hears_own: bool) -> Self {
        let inbox = Inbox::new(membership.clone(), at, spin, hears_own);
        Member { membership, inbox }
    }

    /// Appends one message and returns its [position](Message::position).
    ///
    /// When this has returned `Ok`, the message is in the queue, whatever happens to this process next.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`](crate::Writer::append), and [`Error::ReadFirst`](crate::Error::ReadFirst) if its own unread
    /// messages are in the way and its limit for taking them home is reached.
    #[inline]
    pub fn append(&mut self, kind: &str, body: &[u8], wait: impl Into<Wait>) -> Result<u64> {
        let Member { membership, inbox } = self;
        match membership.append_if_clear(kind.as_bytes(), body) {
            Some(position) => Ok(position),
            None => writer::append(membership, kind, body, wait.into(), &mut || inbox.bring_home()),
        }
    }

    /// Appends a value of a plain type; [`Message::pod`] reads it back.
    ///
    /// # Errors
    ///
    /// As [`append`](Member::append).
    pub fn append_pod<T: bytemuck::NoUninit>(&mut self, kind: &str, value: &T, wait: impl Into<Wait>) -> Result<u64> {
        self.append(kind, bytemuck::bytes_of(value), wait)
    }

    /// Appends several messages next to each other; see [`Writer::append_all`](crate::Writer::append_all).
    ///
    /// # Errors
    ///
    /// As [`append`](Member::append), for all of them together.
    pub fn append_all<'m>(
        &mut self,
        messages: impl IntoIterator<Item = (&'m str, &'m [u8])>,
        wait: impl Into<Wait>,
    ) -> Result<()> {
        let Member { membership, inbox } = self;
        writer::append_all(membership, messages, wait.into(), &mut || inbox.bring_home())
    }

    /// Reserves a message to be filled in place; see [`Writer::reserve`](crate::Writer::reserve).
    ///
    /// # Errors
    ///
    /// As [`append`](Member::append).
    #[inline]
    pub fn reserve(&mut self, kind: &str, len: usize, wait: impl Into<Wait>) -> Result<Reservation<'_>> {
        let Member { membership, inbox } = self;
        Reservation::new(membership, kind, len, wait.into(), &mut || inbox.bring_home())
    }

    /// Takes the next message that the [screen](Screen) lets through, in the queue's one order. `None`: there was none in
    /// time. The message borrows this reader's buffer until the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Evicted`](crate::Error::Evicted), [`Error::Forked`](crate::Error::Forked),
    /// [`Error::Corrupt`](crate::Error::Corrupt); on a lossy queue [`Error::Lagged`](crate::Error::Lagged), once for each
    /// time it was overtaken.
    #[inline]
    pub fn pop(&mut self, wait: impl Into<Wait>) -> Result<Option<Message<'_>>> {
        self.inbox.pop(wait.into())
    }

    /// As [`pop`](Member::pop), with a buffer of the caller's, which the message borrows instead.
    ///
    /// # Errors
    ///
    /// As [`pop`](Member::pop).
    #[inline]
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

    /// The next message where it lies in the ring, without copying its body. Dropping the guard takes it out of the queue.
    ///
    /// # Errors
    ///
    /// As [`pop`](Member::pop), and [`Error::Unsupported`](crate::Error::Unsupported) on a lossy queue.
    #[inline]
    pub fn peek(&mut self, wait: impl Into<Wait>) -> Result<Option<Guard<'_>>> {
        self.inbox.peek(wait.into())
    }

    /// Bytes of messages, as they lie in the ring, that an [`append`](Member::append) may take home to make room. Default: 16 times the queue's
    /// capacity, and 16 MiB at least.
    pub fn set_home_limit(&mut self, bytes: u64) {
        self.inbox.set_home_limit(bytes);
    }

    /// See [`Reader::arm_to_read`](crate::Reader::arm_to_read).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn arm_to_read(&mut self, doorbell: &mut Doorbell) -> Result<bool> {
        self.inbox.arm(doorbell)
    }

    /// See [`Writer::arm_to_write`](crate::Writer::arm_to_write).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn arm_to_write(&mut self, doorbell: &mut Doorbell, kind: &str, len: usize) -> Result<bool> {
        doorbell::arm_to_write(&self.membership, doorbell, kind, len)
    }

    /// The name it joined with.
    pub fn sender(&self) -> &str {
        &self.membership.sender
    }

    /// Which member it is.
    pub fn id(&self) -> MemberId {
        MemberId::of(&self.membership)
    }
}
