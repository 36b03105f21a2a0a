//! The writing half: what members and writers share, and the role that only writes.

use super::doorbell::{self, Doorbell};
use super::info::MemberId;
use super::reservation::Reservation;
use crate::error::Result;
use crate::ring::append::{Draft, Relieve, no_backlog};
use crate::ring::members::Membership;
use crate::wait::Wait;
use std::sync::Arc;

/// Only writes, and owes no reads. Made by [`Queue::writer`](crate::Queue::writer).
///
/// May be sent to another thread, not used by two at a time; more threads join more writers.
///
/// ```
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// let mut all = queue.reader()?;
/// let mut writer = queue.writer("sensor")?;
/// writer.append("t", b"21.5", Wait::Never)?;
/// writer.append_all([("t", &b"21.6"[..]), ("p", b"1013")], Wait::Never)?;
/// assert_eq!(all.drain().count(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer {
    membership: Arc<Membership>,
}

impl Writer {
    pub(super) fn new(membership: Arc<Membership>) -> Self {
        Writer { membership }
    }

    /// Appends one message and returns its [position](crate::Message::position).
    ///
    /// When this has returned `Ok`, the message is in the queue, whatever happens to this process next.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if the slowest reader has not made room in time, [`Error::TooLarge`] at once if it never can,
    /// [`Error::Busy`] if another member was in the middle of an append all the time, [`Error::TooLong`] for the kind,
    /// [`Error::Evicted`], [`Error::Forked`], [`Error::Corrupt`]. Nothing was appended then.
    ///
    /// [`Error::Full`]: crate::Error::Full
    /// [`Error::TooLarge`]: crate::Error::TooLarge
    /// [`Error::Busy`]: crate::Error::Busy
    /// [`Error::TooLong`]: crate::Error::TooLong
    /// [`Error::Evicted`]: crate::Error::Evicted
    /// [`Error::Forked`]: crate::Error::Forked
    /// [`Error::Corrupt`]: crate::Error::Corrupt
    #[inline]
    pub fn append(&mut self, kind: &str, body: &[u8], wait: impl Into<Wait>) -> Result<u64> {
        match self.membership.append_if_clear(kind.as_bytes(), body) {
            Some(position) => Ok(position),
            None => append(&self.membership, kind, body, wait.into(), &mut no_backlog),
        }
    }

    /// Appends a value of a plain type; [`Message::pod`](crate::Message::pod) reads it back.
    ///
    /// # Errors
    ///
    /// As [`append`](Writer::append).
    pub fn append_pod<T: bytemuck::NoUninit>(&mut self, kind: &str, value: &T, wait: impl Into<Wait>) -> Result<u64> {
        self.append(kind, bytemuck::bytes_of(value), wait)
    }

    /// Appends several messages next to each other: all of them become visible at once, or none. It takes one turn among the writers, and wakes
    /// who sleeps once, for all of them.
    ///
    /// # Errors
    ///
    /// As [`append`](Writer::append), for all of them together.
    pub fn append_all<'m>(
        &mut self,
        messages: impl IntoIterator<Item = (&'m str, &'m [u8])>,
        wait: impl Into<Wait>,
    ) -> Result<()> {
        append_all(&self.membership, messages, wait.into(), &mut no_backlog)
    }

    /// Reserves a message of up to `len` bytes, to be filled in place and then [committed](Reservation::commit).
    ///
    /// Other writers go on meanwhile; readers wait at it. For bodies that are large or take time to make.
    ///
    /// # Errors
    ///
    /// As [`append`](Writer::append).
    #[inline]
    pub fn reserve(&mut self, kind: &str, len: usize, wait: impl Into<Wait>) -> Result<Reservation<'_>> {
        Reservation::new(&self.membership, kind, len, wait.into(), &mut no_backlog)
    }

    /// Has `doorbell` ring once a message of this kind, with a body of `len` bytes, may fit: see [`Doorbell`]. `false`: it may now, so
    /// append first; the doorbell was not armed.
    ///
    /// # Errors
    ///
    /// As [`append`](Writer::append) without [`Error::Full`](crate::Error::Full) and [`Error::Busy`](crate::Error::Busy), and
    /// [`Error::Os`](crate::Error::Os) if there can be no thread to wait.
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

/// An append that was not possible at once.
#[cold]
#[inline(never)]
pub(super) fn append(
    membership: &Membership,
    kind: &str,
    body: &[u8],
    wait: Wait,
    relieve: Relieve<'_>,
) -> Result<u64> {
    let kind = kind.as_bytes();
    membership.append(Draft { kind, body }, wait, relieve)
}

pub(super) fn append_all<'m>(
    membership: &Membership,
    messages: impl IntoIterator<Item = (&'m str, &'m [u8])>,
    wait: Wait,
    relieve: Relieve<'_>,
) -> Result<()> {
    let drafts: Vec<Draft<'_>> = messages
        .into_iter()
        .map(|(kind, body)| Draft {
            kind: kind.as_bytes(),
            body,
        })
        .collect();
    membership.append_all(&drafts, wait, relieve)
}
