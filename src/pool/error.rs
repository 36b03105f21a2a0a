//! What can go wrong with a node and its messages: one variant for each event.

use super::address::{Address, AddressError};
use super::config::ConfigError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a message was when its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The send queue was full, and no room came. Nothing was sent.
    Room,
    /// There was no connection yet. Nothing was sent.
    Connecting,
    /// It waited behind others. Nothing was sent.
    Queued,
    /// It was being written. The peer may have a part of it, which it drops.
    Writing,
    /// The peer has it, or may have it, and has not released it.
    Release,
    /// The peer has the request, or may have it, and has not answered.
    Answer,
}

/// Why a node could not be made, or a message was not sent, released or answered.
///
/// For each send and request there is exactly one outcome, and it is there in time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PoolError {
    /// An option has a value that cannot be.
    Config(ConfigError),
    /// Not an address.
    Address(AddressError),
    /// The node cannot listen where it should.
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said: mostly that somebody else does.
        source: Arc<io::Error>,
    },
    /// A live node has the name of the queue that this one wanted.
    NameInUse {
        /// Which name.
        name: Arc<str>,
        /// Process number of that node; 0 if it could not be told.
        pid: u32,
    },
    /// Nobody listens there. Nothing was sent.
    Refused {
        /// Where.
        peer: Address,
    },
    /// The peer cannot be reached, for another reason than that it refuses. Nothing was sent.
    NoPeer {
        /// Who.
        peer: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The connection broke while the message was on its way. The peer may have handled it, or not.
    PeerDied {
        /// Who.
        peer: Address,
    },
    /// The time of the message is over.
    TimedOut {
        /// Who did not take or answer it.
        peer: Address,
        /// What it was waiting for.
        stage: Stage,
    },
    /// The peer's handler failed, panicked, or dropped the message without answering. Only nodes of this library say so.
    HandlerFailed {
        /// Who.
        peer: Address,
        /// What it says.
        text: String,
    },
    /// The peer is about to stop, and takes nothing new. Nothing was sent. Only nodes of this library say so.
    PeerStopping {
        /// Who.
        peer: Address,
    },
    /// What the peer sends is not the protocol; its connection was closed.
    Protocol {
        /// Who.
        peer: Address,
        /// What is wrong with it.
        what: String,
    },
    /// The file with key and certificates is of no use.
    Certificate {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The encrypted connection could not be made, or broke.
    Tls {
        /// Who.
        peer: Address,
        /// What is wrong with it.
        what: String,
    },
    /// More bytes than the node's [`max_message_size`](super::Config::max_message_size). Nothing was sent.
    TooLarge {
        /// Bytes of header and data.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A header of more than 65,535 bytes. Nothing was sent.
    HeaderTooLong {
        /// Its bytes.
        len: usize,
    },
    /// The send queue of this peer is full, and the policy is [`Fail`](super::SendPolicy::Fail).
    QueueFull {
        /// Who.
        peer: Address,
        /// How many messages wait.
        messages: usize,
        /// How many bytes these are.
        bytes: usize,
    },
    /// It waited longest in a full send queue, and the policy is [`DropOldest`](super::SendPolicy::DropOldest). Nothing was sent.
    Dropped {
        /// Who it was for.
        peer: Address,
    },
    /// It was [cancelled](super::Outcome::cancel).
    Cancelled,
    /// A request of the same identity is on its way already: a message that was received cannot be asked with as it is.
    InUse,
    /// This node is stopping, or has stopped.
    ShuttingDown,
    /// The node was made by another process, of which this one is a fork: it has not the threads.
    Forked,
    /// The [loop](super::Loop) does not run any more.
    LoopStopped,
    /// The outcome was given away already.
    Taken,
    /// The node has stopped; so many messages had not been released by the application in time, and were by the node.
    Unreleased {
        /// How many.
        count: usize,
    },
    /// A queue failed.
    Queue(Arc<crate::Error>),
    /// The operating system failed in a way that has no variant of its own.
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl PoolError {
    pub(crate) fn os(doing: &'static str, source: impl Into<io::Error>) -> Self {
        PoolError::Os {
            doing,
            source: Arc::new(source.into()),
        }
    }

    /// Whether it is certain that the peer's handler has not seen the message and will not: it can be sent again without being handled twice.
    pub fn is_unsent(&self) -> bool {
        match self {
            PoolError::TimedOut { stage, .. } => !matches!(stage, Stage::Release | Stage::Answer),
            PoolError::Refused { .. }
            | PoolError::NoPeer { .. }
            | PoolError::PeerStopping { .. }
            | PoolError::TooLarge { .. }
            | PoolError::HeaderTooLong { .. }
            | PoolError::QueueFull { .. }
            | PoolError::Dropped { .. }
            | PoolError::InUse
            | PoolError::Address(_)
            | PoolError::Forked => true,
            _ => false,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Room => "waiting for room in the send queue",
            Stage::Connecting => "connecting",
            Stage::Queued => "waiting behind other messages",
            Stage::Writing => "being written",
            Stage::Release => "waiting to be released",
            Stage::Answer => "waiting for the answer",
        })
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Config(error) => error.fmt(f),
            PoolError::Address(error) => error.fmt(f),
            PoolError::Bind { address, source } => write!(f, "cannot listen at {address}: {source}"),
            PoolError::NameInUse { name, pid } => write!(f, "the queue {name:?} belongs to a node in process {pid}"),
            PoolError::Refused { peer } => write!(f, "nobody listens at {peer}"),
            PoolError::NoPeer { peer, source } => write!(f, "{peer} cannot be reached: {source}"),
            PoolError::PeerDied { peer } => {
                write!(f, "the connection to {peer} broke while the message was on its way")
            }
            PoolError::TimedOut { peer, stage } => write!(f, "the message to {peer} timed out while {stage}"),
            PoolError::HandlerFailed { peer, text } => write!(f, "the handler of {peer} failed: {text}"),
            PoolError::PeerStopping { peer } => write!(f, "{peer} is stopping and takes no new messages"),
            PoolError::Protocol { peer, what } => write!(f, "{peer} does not keep to the protocol: {what}"),
            PoolError::Tls { peer, what } => write!(f, "no encrypted connection with {peer}: {what}"),
            PoolError::Certificate { path, what } => write!(f, "{} is of no use: {what}", path.display()),
            PoolError::TooLarge { size, max } => {
                write!(f, "the message has {size} bytes, where max_message_size allows {max}")
            }
            PoolError::HeaderTooLong { len } => write!(f, "the header has {len} bytes, at most 65535 are possible"),
            PoolError::QueueFull { peer, messages, bytes } => {
                write!(
                    f,
                    "{messages} messages ({bytes} bytes) wait to be sent to {peer} already"
                )
            }
            PoolError::Dropped { peer } => write!(f, "the message to {peer} was dropped to make room for a newer one"),
            PoolError::Cancelled => f.write_str("cancelled"),
            PoolError::InUse => f.write_str("a request of this identity is on its way already"),
            PoolError::ShuttingDown => f.write_str("this node is stopping or has stopped"),
            PoolError::Forked => {
                f.write_str("this node belongs to the process that made it, and this is a fork of that")
            }
            PoolError::LoopStopped => f.write_str("the loop does not run any more"),
            PoolError::Taken => f.write_str("the outcome was given away already"),
            PoolError::Unreleased { count } => write!(f, "{count} messages were not released before the node stopped"),
            PoolError::Queue(error) => error.fmt(f),
            PoolError::Os { doing, source } => write!(f, "{doing} failed: {source}"),
        }
    }
}

impl std::error::Error for PoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PoolError::Config(error) => Some(error),
            PoolError::Address(error) => Some(error),
            PoolError::Bind { source, .. } | PoolError::NoPeer { source, .. } | PoolError::Os { source, .. } => {
                Some(&**source)
            }
            PoolError::Queue(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<ConfigError> for PoolError {
    fn from(error: ConfigError) -> Self {
        PoolError::Config(error)
    }
}

impl From<std::convert::Infallible> for PoolError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<AddressError> for PoolError {
    fn from(error: AddressError) -> Self {
        PoolError::Address(error)
    }
}

impl From<crate::Error> for PoolError {
    fn from(error: crate::Error) -> Self {
        PoolError::Queue(Arc::new(error))
    }
}

impl From<PoolError> for io::Error {
    fn from(error: PoolError) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            PoolError::Config(_)
            | PoolError::Address(_)
            | PoolError::Certificate { .. }
            | PoolError::TooLarge { .. }
            | PoolError::HeaderTooLong { .. }
            | PoolError::InUse => ErrorKind::InvalidInput,
            PoolError::Bind { source, .. } | PoolError::NoPeer { source, .. } | PoolError::Os { source, .. } => {
                source.kind()
            }
            PoolError::Refused { .. } | PoolError::PeerStopping { .. } => ErrorKind::ConnectionRefused,
            PoolError::PeerDied { .. } => ErrorKind::ConnectionReset,
            PoolError::TimedOut { .. } => ErrorKind::TimedOut,
            PoolError::Protocol { .. } | PoolError::Tls { .. } => ErrorKind::InvalidData,
            PoolError::QueueFull { .. } => ErrorKind::WouldBlock,
            PoolError::ShuttingDown | PoolError::LoopStopped => ErrorKind::NotConnected,
            _ => ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
