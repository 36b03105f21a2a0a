//! The role that only reads.

use super::doorbell::Doorbell;
use super::guard::Guard;
use super::inbox::{Drain, Inbox, Messages};
use super::info::MemberId;
use super::message::{Buffer, Message};
use super::screen::Screen;
use crate::error::Result;
use crate::wait::Wait;
use std::time::Duration;

/// Only reads, and holds writers back while it is behind. Made by [`Queue::reader`](crate::Queue::reader).
///
/// Dropping it, or the death of its process, gives up what it has not read.
///
/// ```
/// use std::time::Duration;
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// let mut reader = queue.reader()?;
/// let mut writer = queue.writer("counter")?;
/// for n in 0u32..3 {
///     writer.append_pod("n", &n, Wait::Never)?;
/// }
/// while let Some(message) = reader.pop(Wait::For(Duration::from_millis(1)))? {
///     println!("{} says {}", message.sender(), message.pod::<u32>()?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader {
    inbox: Inbox,
}

impl Reader {
    pub(super) fn new(inbox: Inbox) -> Self {
        Reader { inbox }
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

    /// As [`pop`](Reader::pop), with a buffer of the caller's, which the message borrows instead.
    ///
    /// # Errors
    ///
    /// As [`pop`](Reader::pop).
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
    /// As [`pop`](Reader::pop), and [`Error::Unsupported`](crate::Error::Unsupported) on a lossy queue.
    #[inline]
    pub fn peek(&mut self, wait: impl Into<Wait>) -> Result<Option<Guard<'_>>> {
        self.inbox.peek(wait.into())
    }

    /// Has `doorbell` ring once there may be a message for this reader: see [`Doorbell`]. `false`: there is one now (or was one that is
    /// screened), so read first; the doorbell was not armed.
    ///
    /// # Errors
    ///
    /// As [`pop`](Reader::pop), and [`Error::Os`](crate::Error::Os) if there can be no thread to wait.
    pub fn arm_to_read(&mut self, doorbell: &mut Doorbell) -> Result<bool> {
        self.inbox.arm(doorbell)
    }

    /// Which member it is.
    pub fn id(&self) -> MemberId {
        MemberId::of(self.inbox.membership().expect("a reader is a member"))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Queue, Wait};
    use std::time::{Duration, Instant};

    /// The ways to take a message: whether there was one.
    type Way = fn(&mut Reader, &mut Buffer, Wait) -> bool;
    const WAYS: [Way; 3] = [
        |reader, _, wait| reader.pop(wait).unwrap().is_some(),
        |reader, buffer, wait| reader.pop_into(buffer, wait).unwrap().is_some(),
        |reader, _, wait| reader.peek(wait).unwrap().is_some(),
    ];

    /// Before which message a reader last paused that has taken nearly all of a backlog so.
    fn last_pause(spin: Option<Duration>, wait: impl Fn() -> Wait, way: Way) -> u64 {
        let queue = Queue::options().heap().unwrap();
        let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
        if let Some(spin) = spin {
            reader.set_spin(spin);
        }
        for _ in 0..300 {
            writer.append("", &[7; 64], Wait::Never).unwrap();
        }
        let mut buffer = Buffer::new();
        for _ in 0..290 {
            assert!(way(&mut reader, &mut buffer, wait()));
        }
        reader.inbox.pace.last_pause()
    }

    #[test]
    fn a_reader_that_comes_near_the_writer_pauses_if_it_may() {
        if !crate::sys::spinning_helps() {
            eprintln!("skipped: on one processor nobody spins or pauses");
            return;
        }
        let soon = || Wait::Until(Instant::now() + Duration::from_secs(1));
        for way in WAYS {
            // 8 KiB, and the messages take 128 bytes.
            assert!((236..290).contains(&last_pause(None, || Wait::Forever, way)));
            assert!(last_pause(None, || Wait::For(Duration::from_secs(1)), way) > 0);
            assert!(last_pause(None, soon, way) > 0);
            assert_eq!(last_pause(None, || Wait::Never, way), 0);
            assert_eq!(last_pause(None, || Wait::For(Duration::ZERO), way), 0);
            assert_eq!(last_pause(None, || Wait::For(Duration::from_micros(50)), way), 0);
            assert_eq!(last_pause(None, || Wait::Until(Instant::now()), way), 0);
            assert_eq!(last_pause(Some(Duration::ZERO), || Wait::Forever, way), 0);
        }
    }

    #[test]
    fn a_reader_that_has_found_nothing_reads_no_stream() {
        let queue = Queue::options().heap().unwrap();
        let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
        for number in 1..=4 {
            writer.append("", b"", Wait::Never).unwrap();
            reader.pop(Wait::Never).unwrap().unwrap();
            assert_eq!(reader.inbox.pace.is_stream(number), number == 4);
        }
        assert!(reader.pop(Wait::For(Duration::from_millis(1))).unwrap().is_none());
        assert!(!reader.inbox.pace.is_stream(7) && reader.inbox.pace.is_stream(8));
    }
}
