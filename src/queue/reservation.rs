//! A message being filled in place.

use crate::error::Result;
use crate::ring::append::Relieve;
use crate::ring::members::Membership;
use crate::ring::reserve::Reserved;
use crate::wait::{Deadline, Wait};
use std::io;

/// A message that is reserved in the ring and not yet there for readers. Made by [`Writer::reserve`](crate::Writer::reserve)
/// and [`Member::reserve`](crate::Member::reserve).
///
/// Fill it with [`io::Write`] or [`write_at`](Reservation::write_at), then [`commit`](Reservation::commit) it. Dropping it aborts
/// it: readers pass over. Bytes that were not filled hold whatever was there before.
///
/// ```
/// use std::io::Write;
/// use syncq::{Queue, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::options().heap()?;
/// let mut reader = queue.reader()?;
/// let mut writer = queue.writer("w")?;
/// let mut place = writer.reserve("text", 100, Wait::Never)?;
/// write!(place, "{} is shorter than expected", 42)?;
/// place.commit_written()?;
/// assert_eq!(reader.pop(Wait::Never)?.unwrap().text()?, "42 is shorter than expected");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a reservation aborts it"]
pub struct Reservation<'m> {
    membership: &'m Membership,
    reserved: Reserved,
    written: usize,
    is_finished: bool,
}

impl<'m> Reservation<'m> {
    #[inline(always)]
    pub(super) fn new(
        membership: &'m Membership,
        kind: &str,
        len: usize,
        wait: Wait,
        relieve: Relieve<'_>,
    ) -> Result<Self> {
        let kind = kind.as_bytes();
        let reserved = match membership.reserve_if_clear(kind, len) {
            Some(reserved) => reserved,
            None => membership.reserve(kind, len, &Deadline::of(wait), relieve)?,
        };
        Ok(Reservation {
            membership,
            reserved,
            written: 0,
            is_finished: false,
        })
    }

    /// How many bytes were reserved.
    #[inline]
    pub fn len(&self) -> usize {
        self.reserved.len as usize
    }

    /// Whether no bytes were reserved.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes were written through [`io::Write`].
    pub fn written(&self) -> usize {
        self.written
    }

    /// [Position](crate::Message::position) that the message will have.
    pub fn position(&self) -> u64 {
        self.reserved.position
    }

    /// Writes `bytes` into the body, from byte `at` on. In a forked child that inherited the reservation it does nothing;
    /// there [`commit`](Reservation::commit) fails with [`Error::Forked`](crate::Error::Forked).
    ///
    /// # Panics
    ///
    /// If they do not fit.
    #[inline]
    pub fn write_at(&mut self, at: usize, bytes: &[u8]) {
        let is_inside = at.checked_add(bytes.len()).is_some_and(|end| end <= self.len());
        assert!(
            is_inside,
            "{} bytes at {at} of a reservation of {}",
            bytes.len(),
            self.len()
        );
        if !self.membership.is_of_this_process() {
            return;
        }
        // SAFETY: checked to be inside the reserved body, which nobody else touches while the reservation lasts.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.body_pointer().add(at), bytes.len()) };
    }

    /// Where the body begins: [`len`](Reservation::len) bytes, aligned to 8, good as long as the reservation lives.
    #[inline]
    pub fn body_pointer(&mut self) -> *mut u8 {
        self.membership.reserved_body(&self.reserved)
    }

    /// The body as a slice, in place. It holds whatever lay there before.
    ///
    /// Where the processors of writer and reader are far from each other, a body that is made elsewhere and appended is faster than one that is made
    /// here word by word, since what is overwritten as a whole need not be fetched first: docs/performance.md has the figures.
    ///
    /// # Safety
    ///
    /// The bytes are in memory that other processes can reach. The caller answers for it that every process on this queue
    /// keeps to the protocol, which forbids them to touch a reservation. In a forked child that inherited it, it must not be
    /// used at all.
    #[inline]
    pub unsafe fn body(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: pointer and length describe the reserved body inside the mapping; the rest is the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.body_pointer(), len) }
    }

    /// Makes it a message, whole.
    ///
    /// # Errors
    ///
    /// [`Error::Evicted`](crate::Error::Evicted) if this member was evicted meanwhile, and
    /// [`Error::Forked`](crate::Error::Forked) in a child. Readers pass over it then.
    #[inline]
    pub fn commit(self) -> Result<()> {
        let len = self.reserved.len;
        self.finish(len)
    }

    /// Makes its first `len` bytes a message.
    ///
    /// # Errors
    ///
    /// As [`commit`](Reservation::commit).
    ///
    /// # Panics
    ///
    /// If `len` is more than was reserved.
    pub fn commit_first(self, len: usize) -> Result<()> {
        assert!(
            len <= self.len(),
            "commit of {len} bytes of a reservation of {}",
            self.len()
        );
        self.finish(len as u32)
    }

    /// Makes what was written through [`io::Write`] a message.
    ///
    /// # Errors
    ///
    /// As [`commit`](Reservation::commit).
    pub fn commit_written(self) -> Result<()> {
        let written = self.written;
        self.commit_first(written)
    }

    #[inline(always)]
    fn finish(mut self, len: u32) -> Result<()> {
        self.is_finished = true;
        self.membership.commit(&self.reserved, len)
    }

    /// Gives it up: readers pass over it. The same as dropping it.
    pub fn abort(self) {}
}

impl io::Write for Reservation<'_> {
    /// Writes as much as fits behind what was written before; 0 bytes once it is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.membership.is_of_this_process() {
            return Err(self.membership.check().expect_err("checked just now").into());
        }
        let fits = bytes.len().min(self.len() - self.written);
        self.write_at(self.written, &bytes[..fits]);
        self.written += fits;
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.membership.abort_reserved(&self.reserved);
        }
    }
}
