//! What can go wrong with lines.

use crate::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The result of the calls of this room.
pub type Result<T, E = LineError> = std::result::Result<T, E>;

/// What can go wrong with lines. Converts into [`std::io::Error`] with the fitting kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum LineError {
    /// The buffer or mirror was closed before.
    Closed,
    /// The mirrors were told to stop, with `stop_all_mirrors`. The original raises `StopIteration` here.
    Stopped,
    /// The mirror belongs to an earlier round: `reset_states` was called since.
    Outdated,
    /// The buffer is the parent's: a forked child has only a copy of it. Write to the parent with a `LineProcMirror`.
    Forked,
    /// `reset_states` while mirrors are still at work.
    MirrorsAtWork {
        /// How many.
        count: usize,
    },
    /// An option whose value cannot be.
    InvalidOption {
        /// Which option.
        option: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A file in the folder of a `LineFileBuffer` that is not one of its files.
    NotALineFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The other side could not be reached, or refused; said by mirrors over a network.
    Remote {
        /// What was being done.
        doing: String,
        /// What came back.
        why: String,
    },
    /// The operating system refused.
    Io {
        /// What was being done.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// The queue below refused.
    Queue(Error),
}

impl LineError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LineError {
        let doing = doing.into();
        move |source| LineError::Io { doing, source }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::Closed => write!(f, "this line buffer or mirror is closed"),
            LineError::Stopped => write!(f, "the mirrors were told to stop"),
            LineError::Outdated => write!(f, "this mirror is of a round before reset_states; get a new one"),
            LineError::Forked => write!(
                f,
                "this line buffer belongs to the parent process; a forked child writes through a LineProcMirror"
            ),
            LineError::MirrorsAtWork { count } => write!(f, "{count} mirrors are still at work"),
            LineError::InvalidOption { option, why } => write!(f, "invalid {option}: {why}"),
            LineError::NotALineFile { path, why } => write!(f, "{} is not a line file: {why}", path.display()),
            LineError::Remote { doing, why } => write!(f, "{doing} failed: {why}"),
            LineError::Io { doing, source } => write!(f, "{doing} failed: {source}"),
            LineError::Queue(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LineError::Io { source, .. } => Some(source),
            LineError::Queue(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for LineError {
    fn from(error: Error) -> Self {
        LineError::Queue(error)
    }
}

impl From<LineError> for io::Error {
    fn from(error: LineError) -> Self {
        let kind = match &error {
            // What a writer whose reader has gone is used to. Never `Interrupted`: `write_all` would try for ever.
            LineError::Stopped | LineError::Outdated => io::ErrorKind::BrokenPipe,
            LineError::Closed | LineError::Remote { .. } => io::ErrorKind::NotConnected,
            LineError::Forked => io::ErrorKind::Unsupported,
            LineError::MirrorsAtWork { .. } => io::ErrorKind::WouldBlock,
            LineError::InvalidOption { .. } => io::ErrorKind::InvalidInput,
            LineError::NotALineFile { .. } => io::ErrorKind::InvalidData,
            LineError::Io { source, .. } => source.kind(),
            LineError::Queue(_) => match error {
                LineError::Queue(inner) => return inner.into(),
                _ => unreachable!("matched above"),
            },
        };
        io::Error::new(kind, error)
    }
}
