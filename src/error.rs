//! What can go wrong in the core: one enum, each variant an event, with what is needed to act on it.
//!
//! Rooms above with errors of their own define them at home and convert.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The result of the core's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a queue.
///
/// Each variant is one event and carries the values to act on: which queue, how many bytes, who is in the way.
/// Converts into [`std::io::Error`] with the fitting [`std::io::ErrorKind`].
///
/// ```
/// use syncq::{Error, Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().capacity(4096).heap()?;
/// let mut writer = queue.writer("me")?;
/// match writer.append("kind", &[0; 5000], Wait::Forever) {
///     Err(Error::TooLarge { len, max, .. }) => assert!(len > max),
///     other => panic!("unexpected: {other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A queue name that is not one plain path component of 1 to 200 bytes.
    InvalidName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An option whose value cannot be.
    InvalidOption {
        /// Which option.
        option: &'static str,
        /// The value as given.
        value: u64,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// No queue of that name.
    NotFound {
        /// Which queue.
        queue: Arc<str>,
    },
    /// A queue of that name exists already.
    AlreadyExists {
        /// Which queue.
        queue: Arc<str>,
    },
    /// The operating system refuses this user access.
    PermissionDenied {
        /// Which queue.
        queue: Arc<str>,
        /// Owner and mode of the file that is in the way, where they can be seen.
        owner: Option<u32>,
        /// Mode bits of that file.
        mode: Option<u32>,
    },
    /// The file belongs to another user, and [`any_owner`](crate::QueueOptions::any_owner) was not asked for.
    ForeignOwner {
        /// Which queue.
        queue: Arc<str>,
        /// Whose file it is (user id).
        owner: u32,
        /// Whom this process acts as (user id).
        me: u32,
    },
    /// What stands under the name is no queue.
    NotAQueue {
        /// Which queue.
        queue: Arc<str>,
        /// How it can be told.
        why: String,
    },
    /// A queue of a format that this version does not speak.
    WrongVersion {
        /// Which queue.
        queue: Arc<str>,
        /// Format version found.
        found: u32,
        /// Format version spoken here.
        supported: u32,
    },
    /// A queue made on a machine with the other byte order.
    WrongByteOrder {
        /// Which queue.
        queue: Arc<str>,
    },
    /// The file is shorter than its header says.
    Truncated {
        /// Which queue.
        queue: Arc<str>,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Not enough memory (or disk) for a new queue. Nothing was left behind.
    NoSpace {
        /// Which queue.
        queue: Arc<str>,
        /// Bytes needed.
        needed: u64,
        /// Bytes that were free just after, where the file system says.
        available: Option<u64>,
    },
    /// All member slots are taken by live members.
    NoSlot {
        /// Which queue.
        queue: Arc<str>,
        /// How many slots the queue was made with.
        slots: u32,
    },
    /// The queue allows one writer, and there is one.
    WriterExists {
        /// Which queue.
        queue: Arc<str>,
        /// Process number of the writer.
        pid: u32,
    },
    /// A sender or kind longer than the format can hold.
    TooLong {
        /// `"sender"` or `"kind"`.
        what: &'static str,
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A message (or batch) that can never fit in this queue, however long one waits.
    TooLarge {
        /// Which queue.
        queue: Arc<str>,
        /// Bytes that the message takes with everything around it.
        len: u64,
        /// The most that this queue can take.
        max: u64,
    },
    /// No room in time: the slowest reader has not read on. Nothing was appended.
    Full(Box<Full>),
    /// The appending member itself is the slowest reader, and its limit for messages kept at home is reached: pop first,
    /// then append again. Nothing was appended.
    ReadFirst {
        /// Which queue.
        queue: Arc<str>,
        /// Bytes of its own unread messages that wait in the ring.
        backlog: u64,
    },
    /// Another member was in the middle of an append all the time (stopped, or starved of processor time). Nothing was
    /// changed.
    Busy {
        /// Which queue.
        queue: Arc<str>,
        /// Process number of that member; 0 if it could not be told.
        pid: u32,
    },
    /// This reader was too slow for a queue that does not wait for it. It goes on with the oldest message still there.
    Lagged {
        /// How many messages it missed.
        missed: u64,
    },
    /// This member was evicted: it no longer belongs to the queue. Join again to go on.
    Evicted {
        /// Which queue.
        queue: Arc<str>,
    },
    /// This handle belongs to the parent process; a forked child joins for itself.
    Forked {
        /// Which queue.
        queue: Arc<str>,
    },
    /// The queue was removed by its last member on leaving, as asked for at its creation. Open or create it anew.
    Retired {
        /// Which queue.
        queue: Arc<str>,
    },
    /// No such member (it has left, or its slot was given to another one).
    NoSuchMember {
        /// Which queue.
        queue: Arc<str>,
    },
    /// The call makes no sense for this kind of queue or handle.
    Unsupported {
        /// What was asked.
        what: &'static str,
        /// Why it cannot be.
        why: &'static str,
    },
    /// A body that is not one value of the type asked for.
    WrongSize {
        /// Bytes of the type.
        expected: usize,
        /// Bytes of the body.
        found: usize,
    },
    /// Bytes in the segment that no correct member writes. The queue should be removed and made anew.
    Corrupt {
        /// Which queue.
        queue: Arc<str>,
        /// What was found.
        what: &'static str,
        /// Where, as a position in the ring or a slot number.
        at: u64,
    },
    /// The operating system failed in a way that has no variant of its own.
    Os {
        /// What was being done.
        doing: &'static str,
        /// Which queue.
        queue: Arc<str>,
        /// What the system said.
        source: io::Error,
    },
}

/// Why there was no room: see [`Error::Full`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Full {
    /// Which queue.
    pub queue: Arc<str>,
    /// Bytes that the message needs in the ring.
    pub needed: u64,
    /// Bytes that were free.
    pub free: u64,
    /// The member that holds the writers back furthest behind, if it is still there.
    pub slowest: Option<Slowest>,
}

/// The member that holds the writers back: see [`Full`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slowest {
    /// The name it joined with.
    pub name: String,
    /// Its process number, as it sees itself.
    pub pid: u32,
    /// How many bytes of the ring it has not let go.
    pub lag: u64,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidName { name, why } => write!(f, "invalid queue name {name:?}: {why}"),
            Error::InvalidOption { option, value, why } => write!(f, "invalid {option} {value}: {why}"),
            Error::NotFound { queue } => write!(f, "no queue named {queue:?}"),
            Error::AlreadyExists { queue } => write!(f, "queue {queue:?} exists already"),
            Error::PermissionDenied { queue, owner, mode } => {
                write!(f, "permission denied for queue {queue:?}")?;
                match (owner, mode) {
                    (Some(owner), Some(mode)) => write!(f, " (owner is user {owner}, mode {mode:04o})"),
                    _ => Ok(()),
                }
            }
            Error::ForeignOwner { queue, owner, me } => {
                write!(
                    f,
                    "queue {queue:?} belongs to user {owner}, and this is user {me}; open it with any_owner to trust them"
                )
            }
            Error::NotAQueue { queue, why } => write!(f, "{queue:?} is not a queue: {why}"),
            Error::WrongVersion {
                queue,
                found,
                supported,
            } => {
                write!(
                    f,
                    "queue {queue:?} has format version {found}, this library speaks {supported}"
                )
            }
            Error::WrongByteOrder { queue } => {
                write!(f, "queue {queue:?} was made on a machine with the other byte order")
            }
            Error::Truncated { queue, expected, found } => {
                write!(
                    f,
                    "queue {queue:?} is truncated: {found} bytes where there should be {expected}"
                )
            }
            Error::NoSpace {
                queue,
                needed,
                available,
            } => {
                write!(f, "no memory for queue {queue:?}: {needed} bytes needed")?;
                match available {
                    Some(available) => write!(f, ", {available} free"),
                    None => Ok(()),
                }
            }
            Error::NoSlot { queue, slots } => {
                write!(
                    f,
                    "all {slots} member slots of queue {queue:?} are taken by live members"
                )
            }
            Error::WriterExists { queue, pid } => {
                write!(f, "queue {queue:?} allows one writer, and process {pid} is it")
            }
            Error::TooLong { what, len, max } => write!(f, "{what} of {len} bytes, at most {max} are possible"),
            Error::TooLarge { queue, len, max } => {
                write!(
                    f,
                    "message takes {len} bytes, queue {queue:?} can never hold more than {max}"
                )
            }
            Error::Full(full) => full.fmt(f),
            Error::ReadFirst { queue, backlog } => write!(
                f,
                "queue {queue:?} is full of {backlog} bytes that this member itself has not read: pop, then append"
            ),
            Error::Busy { queue, pid } => write!(f, "queue {queue:?} was being written by process {pid} all the time"),
            Error::Lagged { missed } => write!(f, "reader lagged behind and missed {missed} messages"),
            Error::Evicted { queue } => write!(f, "this member was evicted from queue {queue:?}"),
            Error::Forked { queue } => {
                write!(
                    f,
                    "this handle on queue {queue:?} belongs to the parent process; a forked child joins for itself"
                )
            }
            Error::Retired { queue } => write!(f, "queue {queue:?} was removed by its last member; open it anew"),
            Error::NoSuchMember { queue } => write!(f, "queue {queue:?} has no such member"),
            Error::Unsupported { what, why } => write!(f, "{what} is not possible: {why}"),
            Error::WrongSize { expected, found } => {
                write!(f, "body of {found} bytes where the type asked for has {expected}")
            }
            Error::Corrupt { queue, what, at } => write!(f, "queue {queue:?} is corrupt: {what} at {at}"),
            Error::Os { doing, queue, source } => write!(f, "{doing} failed for queue {queue:?}: {source}"),
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queue {:?} is full: {} bytes needed, {} free",
            self.queue, self.needed, self.free
        )?;
        match &self.slowest {
            Some(Slowest { name, pid, lag }) => write!(f, "; {name:?} (process {pid}) is {lag} bytes behind"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            Error::InvalidName { .. } | Error::InvalidOption { .. } | Error::TooLong { .. } => ErrorKind::InvalidInput,
            Error::NotFound { .. } | Error::NoSuchMember { .. } => ErrorKind::NotFound,
            Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Error::PermissionDenied { .. } | Error::ForeignOwner { .. } => ErrorKind::PermissionDenied,
            Error::NoSpace { .. } => ErrorKind::StorageFull,
            Error::Full(_) | Error::Busy { .. } | Error::ReadFirst { .. } => ErrorKind::WouldBlock,
            Error::NotAQueue { .. }
            | Error::WrongVersion { .. }
            | Error::WrongByteOrder { .. }
            | Error::Truncated { .. }
            | Error::WrongSize { .. }
            | Error::Corrupt { .. } => ErrorKind::InvalidData,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::Os { source, .. } => source.kind(),
            _ => ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
