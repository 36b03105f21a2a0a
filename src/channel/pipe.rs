//! A channel over descriptors to read and to write: pipes, terminals, files, standard input and output.

use super::duplex::Duplex;
use super::port::{End, PipePort};
use super::{Buffering, ChannelError, channel_by_duplex};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;

/// A channel that reads from a *faucet* and writes to a *sink*: descriptors of any kind, both optional.
///
/// Reading a regular file or `/dev/null` works, also with a [`Poller`](super::Poller): they are always ready.
///
/// ```
/// use syncq::Wait;
/// use syncq::channel::{Channel, Input, PipeChannel};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let (mut end, mut start) = PipeChannel::pipe()?;
/// start.write(b"hello, world", Wait::Never)?;
/// assert_eq!(end.read(Wait::Never)?, Input::Data(b"hello, world".to_vec()));
/// assert_eq!(end.read(Wait::Never)?, Input::Pending);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PipeChannel {
    duplex: Duplex<PipePort>,
}

/// What a [`PipeChannel`] was made of, and what it still held.
#[derive(Debug)]
#[non_exhaustive]
pub struct PipeParts {
    /// Where it read from.
    pub faucet: Option<OwnedFd>,
    /// Where it wrote to.
    pub sink: Option<OwnedFd>,
    /// Read, and not delivered.
    pub unread: Vec<u8>,
    /// Taken, and not written.
    pub unwritten: Vec<u8>,
}

impl PipeChannel {
    /// A channel that reads from `faucet` and writes to `sink`.
    pub fn new(faucet: impl Into<Option<OwnedFd>>, sink: impl Into<Option<OwnedFd>>) -> Self {
        let port = PipePort {
            faucet: faucet.into().map(End::new),
            sink: sink.into().map(End::new),
        };
        PipeChannel {
            duplex: Duplex::new(port),
        }
    }

    /// A channel that only reads.
    pub fn reading(faucet: impl Into<OwnedFd>) -> Self {
        Self::new(faucet.into(), None)
    }

    /// A channel that only writes.
    pub fn writing(sink: impl Into<OwnedFd>) -> Self {
        Self::new(None, sink.into())
    }

    /// A new pipe: the end to read from, and the one to write to.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if there are no descriptors left.
    pub fn pipe() -> Result<(PipeChannel, PipeChannel), ChannelError> {
        let (faucet, sink) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ChannelError::os("pipe", errno))?;
        Ok((Self::reading(faucet), Self::writing(sink)))
    }

    /// The same, read by bytes or by lines.
    pub fn with_buffering(mut self, buffering: Buffering) -> Self {
        self.duplex.set_buffering(buffering);
        self
    }

    /// Closes the faucet: who writes to it is told that nobody reads.
    pub(super) fn stop_reading(&mut self) {
        self.duplex.port.faucet = None;
        self.duplex.stop_reading();
    }

    pub(super) fn into_port(self) -> PipePort {
        self.duplex.into_parts().0
    }

    /// What one read asks for at most.
    pub(crate) fn read_limit(&self) -> usize {
        self.duplex.read_limit()
    }

    /// Gives the descriptors back, and what is still between them and the user.
    pub fn into_inner(self) -> PipeParts {
        let (port, unread, unwritten) = self.duplex.into_parts();
        PipeParts {
            faucet: port.faucet.map(End::into_fd),
            sink: port.sink.map(End::into_fd),
            unread,
            unwritten,
        }
    }
}

channel_by_duplex!(PipeChannel);
