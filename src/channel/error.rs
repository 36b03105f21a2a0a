//! What can go wrong with a channel or a poller.

use super::Marks;
use std::fmt;
use std::io;

/// What can go wrong with a channel, a listener or a poller.
///
/// Each variant is one event. That the peer has ended its side is no error: it is [`Input::End`](super::Input::End). That there is
/// nothing yet is none either: it is [`Input::Pending`](super::Input::Pending).
///
/// Converts into [`std::io::Error`] with the fitting [`std::io::ErrorKind`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ChannelError {
    /// This side was closed here, by [`close`](super::Channel::close) or [`shutdown_write`](super::Channel::shutdown_write).
    Closed,
    /// The channel has no reading side.
    NotReadable,
    /// The channel has no writing side.
    NotWritable,
    /// The peer is alive and takes nothing at the moment, and as much waits to be written as may. Nothing of this write was taken.
    Full {
        /// Bytes waiting to be written.
        queued: usize,
        /// Where it counts as full, and from where on no longer.
        marks: Marks,
    },
    /// Nobody reads any more what is written: the peer has closed its reading side.
    PeerGone,
    /// The peer broke the connection off, or was killed with unread bytes. What had arrived before was delivered before this.
    Reset,
    /// A line longer than allowed. It was dropped up to its end; reading goes on with the next one.
    LineTooLong {
        /// The longest line allowed, in bytes without its end.
        max: usize,
    },
    /// A socket that is no byte stream. Datagrams have borders that a channel would lose.
    NotAStream,
    /// This process, or the machine, has no descriptor or memory left for a connection that waits to be accepted. It goes on
    /// waiting, and is accepted when there is.
    NoDescriptor {
        /// What the system said.
        source: io::Error,
    },
    /// The queue behind a channel failed.
    Queue(crate::Error),
    /// No source of this token is registered: it never was with this poller, or no longer is.
    NoSuchSource,
    /// The operating system failed in a way that has no variant of its own.
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ChannelError {
    /// Whether reading from this channel, or accepting from this listener, is over. After the others it goes on.
    pub fn is_final(&self) -> bool {
        match self {
            ChannelError::Full { .. } | ChannelError::LineTooLong { .. } | ChannelError::NoDescriptor { .. } => false,
            ChannelError::Queue(error) => !matches!(error, crate::Error::Lagged { .. } | crate::Error::Full(_)),
            _ => true,
        }
    }

    pub(crate) fn os(doing: &'static str, errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::PIPE => ChannelError::PeerGone,
            rustix::io::Errno::CONNRESET => ChannelError::Reset,
            errno => ChannelError::Os {
                doing,
                source: errno.into(),
            },
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Closed => f.write_str("the channel was closed on this side"),
            ChannelError::NotReadable => f.write_str("the channel has no reading side"),
            ChannelError::NotWritable => f.write_str("the channel has no writing side"),
            ChannelError::Full { queued, marks } => write!(
                f,
                "{queued} bytes wait for a peer that takes none; writing goes on at {} bytes",
                marks.low()
            ),
            ChannelError::PeerGone => f.write_str("nobody reads what is written: the peer has closed"),
            ChannelError::Reset => f.write_str("the peer broke the connection off"),
            ChannelError::LineTooLong { max } => write!(f, "a line of more than {max} bytes was dropped"),
            ChannelError::NotAStream => f.write_str("the socket is no byte stream"),
            ChannelError::NoDescriptor { source } => {
                write!(f, "a connection waits, and cannot be accepted now: {source}")
            }
            ChannelError::Queue(error) => error.fmt(f),
            ChannelError::NoSuchSource => f.write_str("no such source is registered with this poller"),
            ChannelError::Os { doing, source } => write!(f, "{doing} failed: {source}"),
        }
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChannelError::Queue(error) => Some(error),
            ChannelError::NoDescriptor { source } | ChannelError::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<crate::Error> for ChannelError {
    fn from(error: crate::Error) -> Self {
        ChannelError::Queue(error)
    }
}

impl From<ChannelError> for io::Error {
    fn from(error: ChannelError) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            ChannelError::Closed => ErrorKind::NotConnected,
            ChannelError::NotReadable | ChannelError::NotWritable | ChannelError::NotAStream => ErrorKind::Unsupported,
            ChannelError::Full { .. } => ErrorKind::WouldBlock,
            ChannelError::PeerGone => ErrorKind::BrokenPipe,
            ChannelError::Reset => ErrorKind::ConnectionReset,
            ChannelError::LineTooLong { .. } => ErrorKind::InvalidData,
            ChannelError::NoSuchSource => ErrorKind::NotFound,
            ChannelError::Queue(_) => match error {
                ChannelError::Queue(error) => return error.into(),
                _ => unreachable!("matched just now"),
            },
            ChannelError::NoDescriptor { source } | ChannelError::Os { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}
