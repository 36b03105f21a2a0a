//! What can go wrong with a stream, and how a pump ended.

use crate::channel::ChannelError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a stream failed. Cheap to clone: whoever waits for the stream is told.
#[derive(Clone)]
pub struct StreamError {
    cause: Arc<dyn Error + Send + Sync>,
    is_final: bool,
}

impl StreamError {
    /// A failure after which nothing more comes, for streams of your own.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        StreamError {
            cause: Arc::from(cause.into()),
            is_final: true,
        }
    }

    /// Whether the stream is over. After the others, such as a line that was too long, it goes on.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The cause, if it is a channel's.
    pub fn channel_error(&self) -> Option<&ChannelError> {
        self.cause.downcast_ref()
    }

    /// The cause, if it is a `T`.
    pub fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.cause.downcast_ref()
    }
}

impl fmt::Debug for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

impl From<ChannelError> for StreamError {
    fn from(error: ChannelError) -> Self {
        StreamError {
            is_final: error.is_final(),
            cause: Arc::new(error),
        }
    }
}

/// Why a pump did not get to its source's end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PumpError {
    /// The source failed. What it had given before is in the sink.
    Source(StreamError),
    /// The sink failed, while it was written to or while it was ended.
    Sink(StreamError),
    /// It was [cancelled](super::Pump::cancel).
    Cancelled,
    /// Nothing moved for this long.
    Idle(Duration),
}

impl fmt::Display for PumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PumpError::Source(error) => write!(f, "the source failed: {error}"),
            PumpError::Sink(error) => write!(f, "the sink failed: {error}"),
            PumpError::Cancelled => f.write_str("the pump was cancelled"),
            PumpError::Idle(time) => write!(f, "nothing was pumped for {time:?}"),
        }
    }
}

impl Error for PumpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PumpError::Source(error) | PumpError::Sink(error) => Some(error),
            _ => None,
        }
    }
}

/// How a pump ended, and what it had moved by then.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// Bytes that were handed to the sink.
    pub bytes: u64,
    /// Items that were handed to the sink; moves, where the kernel moved the bytes.
    pub items: u64,
    /// `Ok` once the source has ended and, if the pump was to end it, the sink has acknowledged its end.
    pub result: Result<(), PumpError>,
}
