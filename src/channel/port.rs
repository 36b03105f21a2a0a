//! Where a channel's bytes go in and out: descriptors, read and written without ever blocking.
//!
//! Not here: buffers, lines, what an error means for the channel.

use crate::sys::descriptor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is under a channel: reads and writes that never block. [`Errno::AGAIN`] says that nothing can be done now.
pub(super) trait Port: fmt::Debug + Send {
    /// Appends what is there to `into`, which has room. 0: the end.
    fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno>;
    /// Writes as much as is taken now.
    fn write(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, Errno>;
    /// Tells the peer that no more will be written.
    fn shutdown_write(&mut self) -> Result<(), Errno>;
    /// Lets go of the descriptors.
    fn close(&mut self);
    /// What becomes readable when there is something to read.
    fn read_fd(&self) -> Option<BorrowedFd<'_>>;
    /// What becomes writable when there is room.
    fn write_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// How a descriptor can be asked for what is there and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It never blocks for long: it is non-blocking already, or a file.
    Plain,
    /// Each call says that it must not block.
    NoWait,
    /// The call cannot say so: look first whether it would.
    LookFirst,
    /// A socket has calls of its own for this.
    Socket,
}

/// A descriptor that is read or written, in the manner that suits it.
#[derive(Debug)]
pub(super) struct End {
    fd: OwnedFd,
    manner: Manner,
}

impl End {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let manner = match kind {
            Ok(FileType::Socket) => Manner::Socket,
            Ok(FileType::RegularFile | FileType::Directory | FileType::BlockDevice) => Manner::Plain,
            _ => match rustix::fs::fcntl_getfl(&fd) {
                Ok(flags) if flags.contains(OFlags::NONBLOCK) => Manner::Plain,
                _ => Manner::NoWait,
            },
        };
        End { fd, manner }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno> {
        use rustix::buffer::spare_capacity;
        match self.manner {
            Manner::Plain => rustix::io::read(&self.fd, spare_capacity(into)),
            // rustix gives a pair for this kind of buffer, or one number: the length is what has changed.
            Manner::Socket => {
                let before = into.len();
                rustix::net::recv(&self.fd, spare_capacity(into), RecvFlags::DONTWAIT)?;
                Ok(into.len() - before)
            }
            Manner::NoWait => match descriptor::read_now(self.fd.as_fd(), into) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.manner = Manner::LookFirst;
                    self.read(into)
                }
                outcome => outcome,
            },
            Manner::LookFirst if !is_ready(&self.fd, PollFlags::IN) => Err(Errno::AGAIN),
            Manner::LookFirst => rustix::io::read(&self.fd, spare_capacity(into)),
        }
    }

    pub(super) fn write(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, Errno> {
        match self.manner {
            Manner::Plain => rustix::io::writev(&self.fd, chunks),
            Manner::Socket => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match chunks {
                    [one] => rustix::net::send(&self.fd, one, flags),
                    _ => rustix::net::sendmsg(&self.fd, chunks, &mut SendAncillaryBuffer::default(), flags),
                }
            }
            Manner::NoWait => match descriptor::write_now(self.fd.as_fd(), chunks) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.manner = Manner::LookFirst;
                    self.write(chunks)
                }
                outcome => outcome,
            },
            Manner::LookFirst if !is_ready(&self.fd, PollFlags::OUT) => Err(Errno::AGAIN),
            // A descriptor that is writable takes this much without blocking.
            Manner::LookFirst => {
                let first = chunks
                    .iter()
                    .find(|chunk| !chunk.is_empty())
                    .map_or(&[][..], |chunk| chunk);
                rustix::io::write(&self.fd, &first[..first.len().min(PIPE_BUF)])
            }
        }
    }

    pub(super) fn is_socket(&self) -> bool {
        self.manner == Manner::Socket
    }

    pub(super) fn shutdown_write(&self) -> Result<(), Errno> {
        match rustix::net::shutdown(&self.fd, Shutdown::Write) {
            // The peer has gone meanwhile; then it needs no telling.
            Err(Errno::NOTCONN) => Ok(()),
            outcome => outcome,
        }
    }
}

const PIPE_BUF: usize = 4096;

/// Whether the descriptor is ready now. One that cannot be asked is: the call will tell what is wrong with it.
fn is_ready(fd: &OwnedFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(0) | Err(Errno::INTR))
}

/// Two ends, one to read and one to write: a pipe each, as a rule.
#[derive(Debug)]
pub(super) struct PipePort {
    pub(super) faucet: Option<End>,
    pub(super) sink: Option<End>,
}

impl Port for PipePort {
    fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno> {
        self.faucet.as_mut().ok_or(Errno::BADF)?.read(into)
    }

    fn write(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.sink.as_mut().ok_or(Errno::BADF)?.write(chunks)
    }

    fn shutdown_write(&mut self) -> Result<(), Errno> {
        match self.sink.take() {
            // Its other direction may be the faucet, under another number: closing would not end it.
            Some(end) if end.is_socket() => end.shutdown_write(),
            _ => Ok(()),
        }
    }

    fn close(&mut self) {
        self.faucet = None;
        self.sink = None;
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.faucet.as_ref().map(End::fd)
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sink.as_ref().map(End::fd)
    }
}

/// One end for both directions.
#[derive(Debug)]
pub(super) struct SocketPort {
    pub(super) end: Option<End>,
}

impl Port for SocketPort {
    fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno> {
        self.end.as_mut().ok_or(Errno::BADF)?.read(into)
    }

    fn write(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.end.as_mut().ok_or(Errno::BADF)?.write(chunks)
    }

    fn shutdown_write(&mut self) -> Result<(), Errno> {
        self.end.as_ref().ok_or(Errno::BADF)?.shutdown_write()
    }

    fn close(&mut self) {
        self.end = None;
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(End::fd)
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.read_fd()
    }
}
