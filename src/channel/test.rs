//! A channel for tests: real descriptors, the other end in the same hand, and trouble on demand.

use super::duplex::Duplex;
use super::port::{PipePort, Port};
use super::{Buffering, Channel, ChannelError, Input, Marks, PipeChannel, channel_by_duplex};
use crate::wait::Wait;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// What happens to one call of the system's, instead of what would have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It moves at most this many bytes (at least one).
    Short(usize),
    /// It would block (`EAGAIN`).
    WouldBlock,
    /// It is interrupted by a signal (`EINTR`).
    Interrupted,
    /// The connection is reset (`ECONNRESET`).
    Reset,
    /// Nobody reads any more (`EPIPE`).
    PeerGone,
    /// The device fails (`EIO`).
    Failed,
}

impl Fault {
    fn errno(self) -> Option<Errno> {
        match self {
            Fault::Short(_) => None,
            Fault::WouldBlock => Some(Errno::AGAIN),
            Fault::Interrupted => Some(Errno::INTR),
            Fault::Reset => Some(Errno::CONNRESET),
            Fault::PeerGone => Some(Errno::PIPE),
            Fault::Failed => Some(Errno::IO),
        }
    }
}

/// A channel whose other end is in the same hand: what is [put](TestChannel::put) is read, and what was written can be
/// [got](TestChannel::get). Its descriptors are real, so it works with every poller.
///
/// ```
/// use syncq::Wait;
/// use syncq::channel::{Channel, Fault, Input, TestChannel};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let mut channel = TestChannel::new()?;
/// channel.put(b"question")?;
/// channel.fault_read(Fault::Short(4));
/// channel.fault_read(Fault::WouldBlock);
/// assert_eq!(channel.read(Wait::Never)?.bytes(), b"ques");
/// assert_eq!(channel.read(Wait::Never)?, Input::Pending);
/// assert_eq!(channel.read(Wait::Never)?.bytes(), b"tion");
/// channel.write(b"answer", Wait::Never)?;
/// assert_eq!(channel.get()?, b"answer");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestChannel {
    duplex: Duplex<FaultyPort>,
}

impl TestChannel {
    /// A new one, over two pipes.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if there are no descriptors left.
    pub fn new() -> Result<Self, ChannelError> {
        let (here_in, there_out) = PipeChannel::pipe()?;
        let (there_in, here_out) = PipeChannel::pipe()?;
        let (here_in, here_out) = (here_in.into_inner(), here_out.into_inner());
        let (there_in, there_out) = (there_in.into_inner(), there_out.into_inner());
        let mut far = PipeChannel::new(there_in.faucet, there_out.sink);
        // What is put is never refused.
        far.set_marks(Marks::up_to(usize::MAX));
        let port = FaultyPort {
            near: PipeChannel::new(here_in.faucet, here_out.sink).into_port(),
            far,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
        };
        Ok(TestChannel {
            duplex: Duplex::new(port),
        })
    }

    /// The same, read by bytes or by lines.
    pub fn with_buffering(mut self, buffering: Buffering) -> Self {
        self.duplex.set_buffering(buffering);
        self
    }

    /// As the other end: writes `bytes`, to be read here. As many as wanted.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`] after [`end`](TestChannel::end), [`ChannelError::PeerGone`] after this end was closed.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.duplex.port.far.write(bytes, Wait::Never)
    }

    /// As the other end: reads all that was written here and not got yet, as far as the pipe has it.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`] after [`stop_reading`](TestChannel::stop_reading).
    pub fn get(&mut self) -> Result<Vec<u8>, ChannelError> {
        let mut got = Vec::new();
        while let Input::Data(bytes) = self.duplex.port.far.try_read()? {
            got.extend(bytes);
        }
        Ok(got)
    }

    /// As the other end: writes no more. Reading here ends after what was put.
    ///
    /// # Errors
    ///
    /// As [`put`](TestChannel::put).
    pub fn end(&mut self) -> Result<(), ChannelError> {
        self.duplex.port.far.shutdown_write()
    }

    /// As the other end: reads no more. Writing here is [`ChannelError::PeerGone`] from now on.
    pub fn stop_reading(&mut self) {
        self.duplex.port.far.stop_reading();
    }

    /// What the next read of the system's does that has no fault yet.
    pub fn fault_read(&mut self, fault: Fault) {
        self.duplex.port.reads.push_back(fault);
    }

    /// What the next write of the system's does that has no fault yet.
    pub fn fault_write(&mut self, fault: Fault) {
        self.duplex.port.writes.push_back(fault);
    }
}

channel_by_duplex!(TestChannel);

/// Pipes with a list of faults, and their other ends.
#[derive(Debug)]
struct FaultyPort {
    near: PipePort,
    far: PipeChannel,
    reads: VecDeque<Fault>,
    writes: VecDeque<Fault>,
}

/// The limit for this call, or what it fails with.
fn next(faults: &mut VecDeque<Fault>) -> Result<Option<usize>, Errno> {
    match faults.pop_front() {
        None => Ok(None),
        Some(Fault::Short(most)) => Ok(Some(most.max(1))),
        Some(fault) => Err(fault.errno().unwrap_or(Errno::IO)),
    }
}

impl Port for FaultyPort {
    fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno> {
        // What did not fit into the pipe follows as it is emptied.
        let _ = self.far.try_flush();
        let Some(most) = next(&mut self.reads)? else {
            let read = self.near.read(into)?;
            let _ = self.far.try_flush();
            return Ok(read);
        };
        let mut few = Vec::with_capacity(most);
        let read = self.near.read(&mut few)?;
        into.extend_from_slice(&few);
        Ok(read)
    }

    fn write(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let Some(most) = next(&mut self.writes)? else {
            return self.near.write(chunks);
        };
        let first = chunks.iter().find(|chunk| !chunk.is_empty());
        let first = first.map_or(&[][..], |chunk| &chunk[..chunk.len().min(most)]);
        self.near.write(&[IoSlice::new(first)])
    }

    fn shutdown_write(&mut self) -> Result<(), Errno> {
        self.near.shutdown_write()
    }

    fn close(&mut self) {
        self.near.close();
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.near.read_fd()
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.near.write_fd()
    }
}
