//! All choices: about making or opening a queue, and about joining one.

use super::inbox::Inbox;
use super::{Member, Observer, Queue, Reader, Writer};
use crate::error::{Error, Result};
use crate::ring::Ring;
use crate::ring::members::{Role, Start};
use crate::segment::Segment;
use crate::segment::backing::{self, Shape};
use crate::sys::mapping::Access;
use crate::wait::{Deadline, Wait};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What happens to an append when the slowest reader has not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// It waits as long as its [`Wait`] says, and then fails with [`Error::Full`]. Nothing is ever lost.
    #[default]
    Block,
    /// It overwrites the oldest messages. Readers that had not read them are told with [`Error::Lagged`].
    Lossy,
}

/// Choices for making or opening a queue; see [`Queue::options`].
///
/// What is chosen at creation (capacity, slots, mode, overflow, single writer, timestamps, unlinking) is a property of the
/// queue, and opening ignores it. The rest concerns only the process that opens.
///
/// ```
/// use syncq::{Overflow, Queue};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().capacity(1 << 20).slots(16).overflow(Overflow::Lossy).timestamps(true).heap()?;
/// assert_eq!(queue.capacity(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QueueOptions {
    shape: Shape,
    mode: u32,
    any_owner: bool,
    spin: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl QueueOptions {
    /// Capacity 4 MiB, 64 slots, mode 0600, nothing lost, many writers, no timestamps, the name stays.
    pub fn new() -> Self {
        QueueOptions {
            shape: Shape {
                capacity: 4 << 20,
                slots: 64,
                lossy: false,
                single_writer: false,
                timestamps: false,
                unlink_on_last_leave: false,
                start: 0,
            },
            mode: 0o600,
            any_owner: false,
            spin: Duration::from_micros(20),
        }
    }

    /// Size of the ring in bytes: a power of two from 4096 (or the page size, if larger) to 2^40. All of it is taken from
    /// memory at creation. Default: 4 MiB, which is more than the second-level caches of two processors: see docs/performance.md.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.shape.capacity = bytes;
        self
    }

    /// How many members there can be at a time, 1 to 4096, 512 bytes each. Observers need none. Default: 64.
    pub fn slots(mut self, slots: u32) -> Self {
        self.shape.slots = slots;
        self
    }

    /// Permission bits of the file, exactly these whatever the umask. To take part, a process needs to read and write; to
    /// observe, to read. Only for queues with a name or path. Default: 0600.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = bits;
        self
    }

    /// What happens when the ring is full. Default: [`Overflow::Block`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.shape.lossy = overflow == Overflow::Lossy;
        self
    }

    /// Allow one writing member at a time; joining as a second one is [`Error::WriterExists`]. Default: many.
    pub fn single_writer(mut self, yes: bool) -> Self {
        self.shape.single_writer = yes;
        self
    }

    /// Give every message the wall-clock time of its append. Default: no.
    pub fn timestamps(mut self, yes: bool) -> Self {
        self.shape.timestamps = yes;
        self
    }

    /// Let the last member that leaves cleanly remove the name, as PySyncQ's last `close` does. Dead members do not count.
    /// Default: no.
    pub fn unlink_on_last_leave(mut self, yes: bool) -> Self {
        self.shape.unlink_on_last_leave = yes;
        self
    }

    /// Also open queues that belong to another user. Whoever can write a queue can falsify what is in it, so ask for this only
    /// where you trust that user. Default: no.
    pub fn any_owner(mut self, yes: bool) -> Self {
        self.any_owner = yes;
        self
    }

    /// How long waits of this process look for news before they sleep; zero to sleep at once. On a machine with one processor
    /// nothing ever spins. Default: 20 µs.
    ///
    /// Unless it is zero, a pop that may wait for more than 100 µs may also pause for some microseconds (at most some tens) in the
    /// middle of a stream, so that the writer gets ahead.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// The position that the first message ever gets. For testing what happens after very much traffic.
    #[doc(hidden)]
    pub fn start_position(mut self, position: u64) -> Self {
        self.shape.start = position / crate::segment::layout::GRANULE * crate::segment::layout::GRANULE;
        self
    }

    fn queue(&self, segment: Segment) -> Queue {
        Queue {
            ring: Arc::new(Ring::new(segment)),
            spin: self.spin,
        }
    }

    /// Makes a new queue called `name`, which other programs of this machine find by that name.
    ///
    /// It appears at once and complete, or not at all: who is killed meanwhile leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::InvalidOption`], [`Error::AlreadyExists`] ([`Error::ForeignOwner`] if another
    /// user's file has the name), [`Error::NoSpace`].
    pub fn create(&self, name: &str) -> Result<Queue> {
        self.create_path(&name.into(), &backing::path_of_name(name)?)
    }

    /// Makes a new queue in a new file at `path`.
    ///
    /// On a disk file system the kernel will write the ring back to disk now and then; nothing is promised about what is found
    /// there after a power loss.
    ///
    /// # Errors
    ///
    /// As [`create`](QueueOptions::create); [`Error::NotFound`] if the folder is missing; [`Error::Os`] on a file system
    /// without unnamed files (`O_TMPFILE`).
    pub fn create_at(&self, path: impl AsRef<Path>) -> Result<Queue> {
        let path = path.as_ref();
        self.create_path(&path.to_string_lossy().into(), path)
    }

    fn create_path(&self, name: &Arc<str>, path: &Path) -> Result<Queue> {
        Ok(self.queue(backing::create_at(name, path, &self.shape, self.mode, Ring::prepare)?))
    }

    /// Opens the queue called `name`.
    ///
    /// Everything about the file is checked before anything is mapped; a wrong open changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::InvalidName`], [`Error::PermissionDenied`], [`Error::ForeignOwner`],
    /// [`Error::NotAQueue`], [`Error::WrongVersion`], [`Error::WrongByteOrder`], [`Error::Truncated`], [`Error::Corrupt`].
    pub fn open(&self, name: &str) -> Result<Queue> {
        self.open_path(&name.into(), &backing::path_of_name(name)?)
    }

    /// Opens the queue in the file at `path`. Symbolic links are not followed.
    ///
    /// # Errors
    ///
    /// As [`open`](QueueOptions::open).
    pub fn open_at(&self, path: impl AsRef<Path>) -> Result<Queue> {
        let path = path.as_ref();
        self.open_path(&path.to_string_lossy().into(), path)
    }

    fn open_path(&self, name: &Arc<str>, path: &Path) -> Result<Queue> {
        Ok(self.queue(backing::open_at(name, path, Access::ReadWrite, self.any_owner)?))
    }

    /// Opens the queue called `name`, or makes it if there is none. Any number of processes may do so at the same time; one
    /// makes it, and all get the same.
    ///
    /// # Errors
    ///
    /// As [`create`](QueueOptions::create) and [`open`](QueueOptions::open).
    pub fn open_or_create(&self, name: &str) -> Result<Queue> {
        let (label, path) = (name.into(), backing::path_of_name(name)?);
        // A round fails only if the name came and went just between the two calls.
        for _ in 0..1000 {
            match self.open_path(&label, &path) {
                Err(Error::NotFound { .. }) => {}
                answer => return answer,
            }
            match self.create_path(&label, &path) {
                Err(Error::AlreadyExists { .. }) => {}
                answer => return answer,
            }
        }
        Err(Error::NotFound { queue: label })
    }

    /// Makes a queue without a name, for this process and the children it forks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`], [`Error::NoSpace`].
    pub fn anonymous(&self) -> Result<Queue> {
        Ok(self.queue(backing::anonymous(&"(anonymous)".into(), &self.shape, Ring::prepare)?))
    }

    /// Makes a queue on the heap, for the threads of this process. It takes twice its capacity.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`], [`Error::NoSpace`].
    pub fn heap(&self) -> Result<Queue> {
        Ok(self.queue(backing::heap(&"(heap)".into(), &self.shape, Ring::prepare)?))
    }

    /// Observes the queue called `name` without opening it for writing: needs only permission to read, takes no slot and no
    /// lock, and maps the memory read-only.
    ///
    /// # Errors
    ///
    /// As [`open`](QueueOptions::open).
    pub fn observe(&self, name: &str, start: Start) -> Result<Observer> {
        self.observe_path(&name.into(), &backing::path_of_name(name)?, start)
    }

    /// As [`observe`](QueueOptions::observe), for the queue in the file at `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](QueueOptions::open).
    pub fn observe_at(&self, path: impl AsRef<Path>, start: Start) -> Result<Observer> {
        let path = path.as_ref();
        self.observe_path(&path.to_string_lossy().into(), path, start)
    }

    fn observe_path(&self, name: &Arc<str>, path: &Path, start: Start) -> Result<Observer> {
        let segment = backing::open_at(name, path, Access::ReadOnly, self.any_owner)?;
        Observer::new(Arc::new(Ring::new(segment)), start, self.spin)
    }
}

/// Choices for joining a queue; see [`Queue::joining`].
///
/// ```
/// use syncq::{Queue, Start, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// queue.writer("early")?.append("note", b"before you came", Wait::Never)?;
/// let mut late = queue.joining().start(Start::Oldest).reader()?;
/// assert_eq!(late.pop(Wait::Never)?.unwrap().body(), b"before you came");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "joins nothing until a role is asked for"]
pub struct Joining<'q> {
    queue: &'q Queue,
    sender: Option<String>,
    start: Start,
    hear_own: bool,
    wait: Wait,
}

impl<'q> Joining<'q> {
    pub(super) fn new(queue: &'q Queue) -> Self {
        let wait = Wait::For(Duration::from_secs(10));
        Joining {
            queue,
            sender: None,
            start: Start::Now,
            hear_own: false,
            wait,
        }
    }

    /// What the member is called, at most 64 bytes; need not be unique. Default: the process number.
    pub fn sender(mut self, name: &str) -> Self {
        self.sender = Some(name.to_owned());
        self
    }

    /// With which message reading begins. Default: [`Start::Now`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Whether a member pops its own messages too (PySyncQ's `filtself=False`). Default: no.
    pub fn hear_own(mut self, yes: bool) -> Self {
        self.hear_own = yes;
        self
    }

    /// How long joining may take: it needs the moment between two appends. Default: 10 s.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.wait = wait.into();
        self
    }

    fn enter(&self, role: Role) -> Result<(Arc<crate::ring::members::Membership>, crate::ring::members::Beginning)> {
        let sender = self.sender.clone().unwrap_or_else(|| std::process::id().to_string());
        let ring = &self.queue.ring;
        let (membership, beginning) = ring.join(role, &sender, self.start, &Deadline::of(self.wait))?;
        Ok((Arc::new(membership), beginning))
    }

    /// Joins as a [`Member`].
    ///
    /// # Errors
    ///
    /// [`Error::NoSlot`], [`Error::TooLong`] for the name, [`Error::Busy`] if the wait was too short,
    /// [`Error::WriterExists`] on a queue for one writer, [`Error::Retired`], and [`Error::Forked`] for a heap-backed
    /// queue of the parent.
    pub fn member(self) -> Result<Member> {
        let (membership, beginning) = self.enter(Role::Member)?;
        Ok(Member::new(membership, beginning, self.queue.spin, self.hear_own))
    }

    /// Joins as a [`Writer`].
    ///
    /// # Errors
    ///
    /// As [`member`](Joining::member).
    pub fn writer(self) -> Result<Writer> {
        Ok(Writer::new(self.enter(Role::Writer)?.0))
    }

    /// Joins as a [`Reader`].
    ///
    /// # Errors
    ///
    /// As [`member`](Joining::member), but for the writer.
    pub fn reader(self) -> Result<Reader> {
        let (membership, beginning) = self.enter(Role::Reader)?;
        Ok(Reader::new(Inbox::new(
            membership,
            beginning,
            self.queue.spin,
            self.hear_own,
        )))
    }

    /// Begins to observe, on a read-only mapping of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if that mapping fails.
    pub fn observer(self) -> Result<Observer> {
        self.queue.ring.check_process()?;
        let ring = match backing::view(&self.queue.ring.segment)? {
            Some(view) => Arc::new(Ring::new(view)),
            None => self.queue.ring.clone(),
        };
        Observer::new(ring, self.start, self.queue.spin)
    }
}
