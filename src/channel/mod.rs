//! Channels: pipes, sockets, queues and a test double, read and written alike, and the [`Poller`] that waits for many of them.
//!
//! | channel | over |
//! |---|---|
//! | [`PipeChannel`] | one or two descriptors: pipes, terminals, files, what a process was started with |
//! | [`SocketChannel`] | a stream socket: TCP, Unix by path or abstract name, a socket pair |
//! | [`QueueChannel`] | a reader, a writer or a member of a [queue](crate::Queue) |
//! | [`TestChannel`] | two pipes whose other ends are in the same hand, with faults on demand |
//!
//! A [`Channel`] never blocks but where a call takes a [`Wait`] that says so. What is read comes by bytes or by [lines](Line); what is
//! written is queued between two [`Marks`] when the peer does not take it at once, and is never lost: a full queue is
//! [`ChannelError::Full`], and nothing of that write was taken.
//!
//! ```
//! use std::time::Duration;
//! use syncq::Wait;
//! use syncq::channel::{Buffering, Channel, Input, SocketChannel};
//!
//! # fn main() -> Result<(), syncq::channel::ChannelError> {
//! let (mut here, mut there) = SocketChannel::pair()?;
//! here.set_buffering(Buffering::lines());
//! there.write(b"one\ntwo\nthr", Wait::Never)?;
//! drop(there);
//! let mut seen = vec![];
//! while let Input::Line(line) = here.read(Wait::For(Duration::from_secs(1)))? {
//!     seen.push((line.text_lossy().into_owned(), line.is_complete));
//! }
//! assert_eq!(seen, [("one\n".into(), true), ("two\n".into(), true), ("thr".into(), false)]);
//! assert!(matches!(here.read(Wait::Never)?, Input::End));
//! # Ok(())
//! # }
//! ```
//!
//! # Descriptors
//!
//! A channel owns its descriptors and closes them when it is closed or dropped; [`into_inner`](PipeChannel::into_inner) gives
//! them back, with what was read and not delivered and what was taken and not written. Their flags are left alone: whether a
//! terminal or a pipe shared with a shell is non-blocking is not changed. A write to a socket never raises `SIGPIPE`. A write to a *pipe*
//! without a reader does; Rust programs ignore that signal unless they ask for it, and then see [`ChannelError::PeerGone`].

mod duplex;
pub(crate) mod epoll;
mod error;
mod lines;
mod peer;
mod pipe;
mod poller;
mod port;
mod queue;
mod socket;
mod source;
mod test;
mod wait;

pub(crate) use wait::timespec;
#[cfg(feature = "tls")]
pub(crate) use wait::until_ready;

pub use epoll::Token;
pub use error::ChannelError;
pub use lines::{Line, LineOptions, LineSplitter};
pub use peer::Peer;
pub use pipe::{PipeChannel, PipeParts};
pub use poller::{Event, Poller, Waker, What};
pub use queue::{QueueChannel, QueueParts};
pub use socket::{SocketChannel, SocketParts};
pub use test::{Fault, TestChannel};

use crate::wait::{Deadline, Wait};
use std::any::Any;
use std::fmt;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// What one read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Some bytes, at least one. From a queue: one message.
    Data(Vec<u8>),
    /// A line, where lines were [asked for](Buffering::Lines).
    Line(Line),
    /// Nothing is there in time. More may come.
    Pending,
    /// The peer has ended its side, and everything before that was delivered. It stays so.
    End,
}

impl Input {
    /// The bytes of data or of a line; empty for the others.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Input::Data(bytes) => bytes,
            Input::Line(line) => &line.bytes,
            Input::Pending | Input::End => &[],
        }
    }
}

/// Whether a channel is read by bytes or by lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Buffering {
    /// As they come.
    #[default]
    Bytes,
    /// A line at a time.
    Lines(LineOptions),
}

impl Buffering {
    /// Lines with the default [`LineOptions`].
    pub fn lines() -> Self {
        Buffering::Lines(LineOptions::default())
    }
}

/// When a write queue counts as full, and from where on no longer: full at `high` bytes or more, until it is down to `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marks {
    low: usize,
    high: usize,
}

impl Marks {
    /// A `high` of 0 counts as 1, a `low` that is not below `high` as just below it.
    pub fn new(low: usize, high: usize) -> Self {
        let high = high.max(1);
        Marks {
            low: low.min(high - 1),
            high,
        }
    }

    /// Full at `high`, until it is down to half of it.
    pub fn up_to(high: usize) -> Self {
        Marks::new(high / 2, high)
    }

    /// Not full any more at this many bytes.
    pub fn low(&self) -> usize {
        self.low
    }

    /// Full at this many bytes.
    pub fn high(&self) -> usize {
        self.high
    }
}

impl Default for Marks {
    /// 256 KiB, and half of it.
    fn default() -> Self {
        Marks::up_to(256 << 10)
    }
}

/// What somebody waits for: that something can be read, that something can be written, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest {
    /// That something can be read.
    pub readable: bool,
    /// That something can be written.
    pub writable: bool,
}

impl Interest {
    /// Neither.
    pub const NONE: Interest = Interest {
        readable: false,
        writable: false,
    };
    /// That something can be read.
    pub const READ: Interest = Interest {
        readable: true,
        writable: false,
    };
    /// That something can be written.
    pub const WRITE: Interest = Interest {
        readable: false,
        writable: true,
    };
    /// That something can be read or written.
    pub const BOTH: Interest = Interest {
        readable: true,
        writable: true,
    };
}

/// A two-way (or one-way) connection that is read and written without blocking.
///
/// Users call [`read`](Channel::read), [`write`](Channel::write), [`flush`](Channel::flush) and [`close`](Channel::close), or leave
/// the waiting to a [`Poller`]. Who writes a channel of their own implements the methods without a body; none of those may block.
///
/// # Reading
///
/// Bounded in each call, so that a fast peer cannot keep it busy for ever. An end and an error are delivered after everything that
/// arrived before them, and stay.
///
/// # Writing
///
/// A write is taken whole or not at all. What the peer does not take at once is queued, and goes out at the next
/// [`flush`](Channel::flush), write or blocking read, or by the poller. The queue is full at the [high mark](Marks) or above, until it is
/// down to the low one; so it holds less than the high mark and one write. Dropping or closing a channel drops what is
/// still queued: [`finish`](Channel::finish) before that sees it out.
pub trait Channel: Any + Send + fmt::Debug {
    /// What is there now. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`read`](Channel::read).
    fn try_read(&mut self) -> Result<Input, ChannelError>;

    /// Takes all of `chunks`, as one piece, or nothing. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write).
    fn enqueue(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError>;

    /// Writes as much of `bytes` as the peer takes now and queues nothing. Returns how much that was; 0 if nothing is taken now, or
    /// something is queued that goes first. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write), without [`ChannelError::Full`].
    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError>;

    /// Writes what is queued, as far as it is taken now. Returns whether nothing is left. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write), without [`ChannelError::Full`].
    fn try_flush(&mut self) -> Result<bool, ChannelError>;

    /// Bytes that wait to be written.
    fn queued(&self) -> usize;

    /// Whether a write would be [`ChannelError::Full`] now.
    fn is_full(&self) -> bool;

    /// When the write queue is full.
    fn marks(&self) -> Marks;

    /// Changes when the write queue is full.
    fn set_marks(&mut self, marks: Marks);

    /// By bytes or by lines.
    fn buffering(&self) -> Buffering;

    /// Changes between bytes and lines. What is buffered is kept, and delivered in the new way.
    fn set_buffering(&mut self, buffering: Buffering);

    /// How much one read asks for at most, in bytes: 64 KiB, if nothing was said. Less memory for less, fewer calls for more.
    fn set_read_limit(&mut self, bytes: usize);

    /// Whether a read would give something (data, a line, the end, an error) without asking the system. May say `true` in vain.
    fn has_buffered(&self) -> bool;

    /// Writes no more: once what is queued is out, the peer sees the end. Reading goes on. Never blocks; does nothing the second time.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write), without [`ChannelError::Full`].
    fn shutdown_write(&mut self) -> Result<(), ChannelError>;

    /// Closes both directions and lets go of the descriptors. What was read already can still be read; what was queued is dropped.
    /// Does nothing the second time.
    fn close(&mut self);

    /// Whether it was [closed](Channel::close).
    fn is_closed(&self) -> bool;

    /// The descriptor that is readable when there is something to read. [`None`] if there is no reading side, or it is closed.
    fn read_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The descriptor that is writable when there is room to write. May be the same as the other one.
    fn write_fd(&self) -> Option<BorrowedFd<'_>>;

    /// To be called before sleeping on the descriptors. `false`: do not sleep, something can be had at once.
    ///
    /// Says that nothing is [buffered](Channel::has_buffered), which no descriptor would tell of; and a channel whose descriptors do not
    /// become ready by themselves sees to it that they will.
    fn arm(&mut self, interest: Interest) -> bool {
        !(interest.readable && self.has_buffered())
    }

    /// Whether [`arm`](Channel::arm) has to be called before each sleep, and not only after a read.
    fn needs_arming(&self) -> bool {
        false
    }

    /// Reads, waiting for something to come.
    ///
    /// Writes what is queued meanwhile: the peer may be waiting for it before it answers.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`], [`NotReadable`](ChannelError::NotReadable), [`Reset`](ChannelError::Reset),
    /// [`LineTooLong`](ChannelError::LineTooLong), [`Queue`](ChannelError::Queue), [`Os`](ChannelError::Os).
    fn read(&mut self, wait: Wait) -> Result<Input, ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            match self.try_read()? {
                Input::Pending if deadline.has_passed() => return Ok(Input::Pending),
                Input::Pending => {}
                input => return Ok(input),
            }
            // That writing is over is for the next write to say; what arrived is not lost by it.
            let is_writing = self.queued() > 0 && matches!(self.try_flush(), Ok(false));
            let interest = Interest {
                readable: true,
                writable: is_writing,
            };
            wait::until_ready(self, interest, &deadline)?;
        }
    }

    /// Takes all of `bytes` to be written, waiting for room if the write queue is full.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Full`] if there was no room in time, and then nothing was taken. [`Closed`](ChannelError::Closed),
    /// [`NotWritable`](ChannelError::NotWritable), [`PeerGone`](ChannelError::PeerGone), [`Reset`](ChannelError::Reset),
    /// [`Queue`](ChannelError::Queue), [`Os`](ChannelError::Os).
    fn write(&mut self, bytes: &[u8], wait: Wait) -> Result<(), ChannelError> {
        self.write_vectored(&[IoSlice::new(bytes)], wait)
    }

    /// As [`write`](Channel::write), for several chunks as one piece.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write).
    fn write_vectored(&mut self, chunks: &[IoSlice<'_>], wait: Wait) -> Result<(), ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            match self.enqueue(chunks) {
                Err(ChannelError::Full { .. }) if !deadline.has_passed() => {
                    wait::until_ready(self, Interest::WRITE, &deadline)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until everything queued is written. `false`: not in time; the rest stays queued.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write), without [`ChannelError::Full`].
    fn flush(&mut self, wait: Wait) -> Result<bool, ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            if self.try_flush()? {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            wait::until_ready(self, Interest::WRITE, &deadline)?;
        }
    }

    /// [`shutdown_write`](Channel::shutdown_write), and then [`flush`](Channel::flush).
    ///
    /// # Errors
    ///
    /// As [`flush`](Channel::flush).
    fn finish(&mut self, wait: Wait) -> Result<bool, ChannelError> {
        self.shutdown_write()?;
        self.flush(wait)
    }
}

/// The methods of [`Channel`] for a type whose field `duplex` does them all.
macro_rules! channel_by_duplex {
    ($name:ty) => {
        impl $crate::channel::Channel for $name {
            fn try_read(&mut self) -> Result<$crate::channel::Input, $crate::channel::ChannelError> {
                self.duplex.try_read()
            }
            fn enqueue(&mut self, chunks: &[std::io::IoSlice<'_>]) -> Result<(), $crate::channel::ChannelError> {
                self.duplex.enqueue(chunks)
            }
            fn try_write(&mut self, bytes: &[u8]) -> Result<usize, $crate::channel::ChannelError> {
                self.duplex.try_write(bytes)
            }
            fn try_flush(&mut self) -> Result<bool, $crate::channel::ChannelError> {
                self.duplex.try_flush()
            }
            fn queued(&self) -> usize {
                self.duplex.queued()
            }
            fn is_full(&self) -> bool {
                self.duplex.is_full()
            }
            fn marks(&self) -> $crate::channel::Marks {
                self.duplex.marks()
            }
            fn set_marks(&mut self, marks: $crate::channel::Marks) {
                self.duplex.set_marks(marks);
            }
            fn buffering(&self) -> $crate::channel::Buffering {
                self.duplex.buffering()
            }
            fn set_buffering(&mut self, buffering: $crate::channel::Buffering) {
                self.duplex.set_buffering(buffering);
            }
            fn set_read_limit(&mut self, bytes: usize) {
                self.duplex.set_read_limit(bytes);
            }
            fn has_buffered(&self) -> bool {
                self.duplex.has_buffered()
            }
            fn shutdown_write(&mut self) -> Result<(), $crate::channel::ChannelError> {
                self.duplex.shutdown_write()
            }
            fn close(&mut self) {
                self.duplex.close();
            }
            fn is_closed(&self) -> bool {
                self.duplex.is_closed()
            }
            fn read_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
                self.duplex.read_fd()
            }
            fn write_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
                self.duplex.write_fd()
            }
        }
    };
}
use channel_by_duplex;
