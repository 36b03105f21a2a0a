//! What a user holds: a queue, and the roles one can have on it.
//!
//! This room gives the ring names, comfort and Rust's ownership; it holds no protocol of its own and no `unsafe` beyond
//! handing on pointers whose contract the caller takes over.

mod doorbell;
mod guard;
mod inbox;
mod info;
mod member;
mod message;
mod observer;
mod options;
mod pace;
mod reader;
mod reservation;
mod screen;
mod writer;

pub use doorbell::Doorbell;
pub use guard::Guard;
pub use inbox::{Drain, Messages};
pub use info::{MemberId, MemberInfo, Stats};
pub use member::Member;
pub use message::{Buffer, Message};
pub use observer::Observer;
pub use options::{Joining, Overflow, QueueOptions};
pub use reader::Reader;
pub use reservation::Reservation;
pub use screen::Screen;
pub use writer::Writer;

use crate::error::{Error, Result};
use crate::ring::Ring;
use crate::segment::layout::{MAX_KIND, MAX_SENDER};
use crate::segment::{Place, backing};
use crate::sys::files;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A queue: one piece of memory that members append to and pop from.
///
/// A `Queue` is the way in and the place to ask questions; it takes no part itself. Get a role from it with
/// [`join`](Queue::join), [`writer`](Queue::writer), [`reader`](Queue::reader), [`observer`](Queue::observer), or with all
/// choices from [`joining`](Queue::joining). It is cheap to clone, and it may be sent and shared between threads.
///
/// # Fork
///
/// A child made by `fork` may use an inherited `Queue` as its own: it joins through it and gets a slot of its own. Inherited
/// *roles* stay the parent's: in the child every call on them is [`Error::Forked`], and dropping them does nothing.
/// A heap-backed queue is an exception: the child has only a copy of it, so joining is [`Error::Forked`] there.
///
/// # Life and name
///
/// Dropping the last handle unmaps the memory and nothing else: a named queue stays, with its messages, until someone calls
/// [`unlink`](Queue::unlink) (or, if [asked for](QueueOptions::unlink_on_last_leave) at creation, until its last member
/// leaves). Who is on an unlinked queue goes on undisturbed; [`is_current`](Queue::is_current) tells.
///
/// ```
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().capacity(1 << 16).anonymous()?;
/// let mut log = queue.reader()?;
/// let mut me = queue.join("worker-1")?;
/// me.append("progress", b"half way", Wait::Never)?;
/// let message = log.pop(Wait::Never)?.expect("it was appended after the reader joined");
/// assert_eq!((message.sender(), message.kind(), message.body()), ("worker-1", "progress", &b"half way"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    ring: Arc<Ring>,
    /// How long this process's waits spin before they sleep.
    spin: Duration,
}

impl Queue {
    /// All choices about a queue, to begin with the defaults.
    pub fn options() -> QueueOptions {
        QueueOptions::new()
    }

    /// Opens the queue called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and whatever [`QueueOptions::open`] says.
    pub fn open(name: &str) -> Result<Queue> {
        Queue::options().open(name)
    }

    /// Opens the queue called `name`, making it with default options if there is none.
    ///
    /// # Errors
    ///
    /// See [`QueueOptions::open_or_create`].
    pub fn open_or_create(name: &str) -> Result<Queue> {
        Queue::options().open_or_create(name)
    }

    /// The names of all queues in shared memory, in order. Queues of other users are among them.
    ///
    /// # Errors
    ///
    /// What the operating system says about reading `/dev/shm`.
    pub fn names() -> std::io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(files::SHARED_MEMORY)?
            .filter_map(|entry| {
                let file = entry.ok()?.file_name();
                Some(file.to_str()?.strip_prefix(backing::FILE_PREFIX)?.to_owned())
            })
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Joins as a [`Member`] called `sender`: appends and pops. Its own messages are screened.
    ///
    /// # Errors
    ///
    /// See [`Joining::member`].
    pub fn join(&self, sender: &str) -> Result<Member> {
        self.joining().sender(sender).member()
    }

    /// Joins as a [`Writer`] called `sender`: appends, and owes no reads.
    ///
    /// # Errors
    ///
    /// See [`Joining::writer`].
    pub fn writer(&self, sender: &str) -> Result<Writer> {
        self.joining().sender(sender).writer()
    }

    /// Joins as a [`Reader`]: pops every message appended from now on, and holds writers back while it is behind.
    ///
    /// # Errors
    ///
    /// See [`Joining::reader`].
    pub fn reader(&self) -> Result<Reader> {
        self.joining().reader()
    }

    /// Begins to [observe](Observer): reads along from now on, holding nobody back.
    ///
    /// # Errors
    ///
    /// See [`Joining::observer`].
    pub fn observer(&self) -> Result<Observer> {
        self.joining().observer()
    }

    /// All choices about joining.
    pub fn joining(&self) -> Joining<'_> {
        Joining::new(self)
    }

    /// What the queue is called: its name, its path, or `(anonymous)` and `(heap)`.
    pub fn name(&self) -> &str {
        &self.ring.segment.name
    }

    /// The file it lives in; `None` for an anonymous or heap-backed one.
    pub fn path(&self) -> Option<&Path> {
        match &self.ring.segment.place {
            Place::Path(path) => Some(path),
            Place::Anonymous | Place::Heap => None,
        }
    }

    /// Size of the ring in bytes, as chosen at creation.
    pub fn capacity(&self) -> u64 {
        self.ring.segment.geometry.capacity
    }

    /// The longest body, in bytes, that a message with a sender of `sender_len` and a kind of `kind_len` bytes can have here.
    /// Appending one byte more is [`Error::TooLarge`]. A sender or kind longer than there can be counts as the longest.
    pub fn max_body(&self, sender_len: usize, kind_len: usize) -> u64 {
        let names_len = (sender_len.min(MAX_SENDER) + kind_len.min(MAX_KIND)) as u64;
        let around = crate::ring::record::body_offset(names_len);
        (self.ring.segment.geometry.max_record() - around).min(u32::MAX.into())
    }

    /// Bytes of the ring that can be written right now. A message takes its body, sender and kind, 32 bytes more, and is
    /// rounded up to a multiple of 64.
    pub fn free(&self) -> u64 {
        self.ring.free()
    }

    /// Counters and options of the whole queue.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.ring)
    }

    /// Everybody who takes part, dead members included until someone buries them. Observers do not show.
    pub fn members(&self) -> Vec<MemberInfo> {
        info::members(&self.ring)
    }

    /// Frees what the dead members that joined as process `pid` left behind. Returns how many there were.
    ///
    /// Nobody needs to call this: whoever is in the way of somebody is found out and buried then. A supervisor that has just
    /// seen a child die saves the others the moment that finding out takes. Safe to call for a live process: nothing happens.
    pub fn reap(&self, pid: u32) -> usize {
        self.ring.reap(pid)
    }

    /// As [`reap`](Queue::reap), for every dead member there is.
    pub fn reap_all(&self) -> usize {
        self.ring.reap_all()
    }

    /// Puts a live member out: it no longer holds writers back, and its next call is [`Error::Evicted`]. A reservation that it
    /// has open is aborted (one that nobody was told of yet, by the next append or when its owner is through with it); the room of it stays taken until the member lets go of it or
    /// ends.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMember`] if it has left, and [`Error::Busy`] while it is in the middle of an append.
    pub fn evict(&self, member: MemberId) -> Result<()> {
        self.ring.evict(member.slot, member.generation)
    }

    /// Whether the name still leads to this queue. `false` after it was unlinked, by whomever, also if a new queue has
    /// the name now. Always `true` for queues without a name.
    pub fn is_current(&self) -> bool {
        backing::is_current(&self.ring.segment)
    }

    /// Takes the name away, if it still is this queue's. Members go on undisturbed; newcomers do not find it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the name is gone or leads to another queue, [`Error::Unsupported`] if there is no name.
    pub fn unlink(&self) -> Result<()> {
        let segment = &self.ring.segment;
        match &segment.place {
            Place::Path(path) if self.is_current() => backing::unlink_at(&segment.name, path, true),
            Place::Path(_) => Err(Error::NotFound {
                queue: segment.name.clone(),
            }),
            _ => Err(Error::Unsupported {
                what: "unlink",
                why: "the queue has no name",
            }),
        }
    }

    /// Takes the name of a queue away without opening it, so also that of one which cannot be opened.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::ForeignOwner`], [`Error::PermissionDenied`], [`Error::InvalidName`].
    pub fn unlink_name(name: &str) -> Result<()> {
        let path = backing::path_of_name(name)?;
        backing::unlink_at(&name.into(), &path, false)
    }
}
