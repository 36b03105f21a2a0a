//! The short way between two channels when nobody looks at what goes through: pages moved by the kernel, and messages from ring to ring.
//!
//! Not here: waiting, and what comes of an end or an error; the long way finds those.

use super::ChannelStream;
use crate::Buffer;
use crate::channel::{Channel, ChannelError, QueueChannel};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

/// What a pump's pipes are raised to, if the system allows it: what a user may have without privileges.
const PIPE_SIZE: usize = 1 << 20;
/// What one source moves in one go, in bytes, before the others have their turn.
const BUDGET: usize = 1 << 20;

/// Messages that one queue hands over in one go.
const MOST_MESSAGES: u64 = 1024;

/// What came of a try.
pub(super) enum Moved {
    /// Something was moved, and counted.
    Some {
        /// There is more, and the kernel need not tell.
        has_more: bool,
    },
    /// Nothing can be moved now.
    Nothing,
    /// What comes next has to be read and written: something in memory, the end, an error.
    ReadIt,
    /// The source failed.
    Failed(ChannelError),
    /// The sink failed.
    SinkFailed(ChannelError),
    /// It cannot be done between these two.
    Refused,
}

enum Way {
    Splice {
        is_from_socket: bool,
    },
    /// Between two queues.
    Messages(RefCell<Buffer>),
}

/// The short way from a source to a sink.
pub(super) struct Direct {
    sink: Rc<ChannelStream>,
    way: Way,
    is_waiting: Cell<bool>,
    count: Box<dyn Fn(u64, u64)>,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct")
            .field("sink", &self.sink.token)
            .finish_non_exhaustive()
    }
}

fn queue_ref(channel: &dyn Channel) -> Option<&QueueChannel> {
    (channel as &dyn Any).downcast_ref()
}

pub(super) fn queue_of(channel: &mut dyn Channel) -> Option<&mut QueueChannel> {
    (channel as &mut dyn Any).downcast_mut()
}

fn file_type(fd: BorrowedFd<'_>) -> Option<FileType> {
    let stat = rustix::fs::fstat(fd).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// Raises the size of a pipe. It is a favour: who may not have it goes on with what there is.
pub(super) fn raise(fd: BorrowedFd<'_>) {
    if fcntl_getpipe_size(fd).is_ok_and(|size| size < PIPE_SIZE) {
        let _ = fcntl_setpipe_size(fd, PIPE_SIZE);
    }
}

/// Whether the kernel moves bytes from one to the other, and never blocks in that.
fn can_splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let is_non_blocking = || rustix::fs::fcntl_getfl(to).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
    match (file_type(from), file_type(to)) {
        (Some(FileType::Fifo | FileType::Socket), Some(FileType::Fifo)) => true,
        (Some(FileType::Fifo), Some(FileType::RegularFile)) => true,
        // Splicing into a socket asks the socket alone whether it may block.
        (Some(FileType::Fifo), Some(FileType::Socket)) => is_non_blocking(),
        _ => false,
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&now)), Ok(0) | Err(_))
}

impl Direct {
    /// [`None`] if there is no short way. `count` is told how many items and bytes were moved.
    pub(super) fn between(
        source: &ChannelStream,
        sink: &Rc<ChannelStream>,
        count: Box<dyn Fn(u64, u64)>,
    ) -> Option<Rc<Self>> {
        if std::ptr::eq(source, &**sink) || !source.is_beside(sink) {
            return None;
        }
        let (source, borrowed) = (source.borrow(), sink.borrow());
        if source.buffering() != crate::channel::Buffering::Bytes {
            return None;
        }
        let way = match (queue_ref(&**source), queue_ref(&**borrowed)) {
            (Some(_), Some(_)) => Way::Messages(RefCell::default()),
            (None, None) => {
                let (from, to) = (source.read_fd()?, borrowed.write_fd()?);
                let is_from_socket = file_type(from) == Some(FileType::Socket);
                can_splice(from, to).then_some(Way::Splice { is_from_socket })?
            }
            _ => return None,
        };
        Some(Rc::new(Direct {
            sink: sink.clone(),
            way,
            is_waiting: Cell::new(false),
            count,
        }))
    }

    fn count(&self, items: u64, bytes: u64) {
        (self.count)(items, bytes);
    }

    /// The sink takes nothing now; it tells when it does.
    pub(super) fn is_waiting_for_room(&self) -> bool {
        self.is_waiting.get()
    }

    pub(super) fn there_is_room(&self) {
        self.is_waiting.set(false);
    }

    pub(super) fn fail_sink(&self, error: ChannelError) {
        self.sink.fail_writing(error.into());
    }

    fn wait_for_room(&self, source: Weak<ChannelStream>) -> Moved {
        self.is_waiting.set(true);
        self.sink.wait_for_room(source);
        Moved::Nothing
    }

    /// Moves what can be moved now.
    pub(super) fn go(&self, source: &ChannelStream) -> Moved {
        if self.is_waiting.get() {
            return Moved::Nothing;
        }
        // What was written the long way, or found no room, goes first.
        if self.sink.queued() > 0 {
            return self.wait_for_room(source.weak());
        }
        let is_from_socket = match &self.way {
            Way::Messages(buffer) => return self.hand_over(source, &mut buffer.borrow_mut()),
            Way::Splice { is_from_socket } => *is_from_socket,
        };
        if source.borrow().has_buffered() {
            return Moved::ReadIt;
        }
        match self.splice(source, is_from_socket) {
            Ok(moved) => moved,
            Err(Errno::AGAIN) => {
                let is_readable = source.borrow().read_fd().is_some_and(is_readable);
                match is_readable {
                    true => self.wait_for_room(source.weak()),
                    false => Moved::Nothing,
                }
            }
            // Nothing was read for it, so nothing is lost by it.
            Err(Errno::PIPE) => {
                self.sink.fail_writing(ChannelError::PeerGone.into());
                Moved::Nothing
            }
            Err(_) => Moved::Refused,
        }
    }

    /// Messages, as they are: kind and body. The sender is who writes.
    fn hand_over(&self, source: &ChannelStream, buffer: &mut Buffer) -> Moved {
        let (mut from, mut to) = (source.borrow(), self.sink.borrow());
        let (Some(from), Some(to)) = (queue_of(&mut **from), queue_of(&mut **to)) else {
            return Moved::Refused;
        };
        let (mut items, mut bytes) = (0, 0);
        let failure = loop {
            let message = match from.try_read_message(buffer) {
                Ok(Some(message)) => message,
                Ok(None) => break None,
                // Told when everything before it is.
                Err(error) => break Some(Moved::Failed(error)),
            };
            if let Err(error) = to.enqueue_message(message.kind(), message.body()) {
                break Some(Moved::SinkFailed(error));
            }
            items += 1;
            bytes += message.body().len() as u64;
            if to.queued() > 0 || items == MOST_MESSAGES {
                break None;
            }
        };
        if items > 0 {
            self.count(items, bytes);
        }
        match failure {
            Some(failure) => failure,
            None if items > 0 => Moved::Some { has_more: true },
            None if from.has_buffered() => Moved::ReadIt,
            None => Moved::Nothing,
        }
    }

    fn splice(&self, source: &ChannelStream, is_from_socket: bool) -> Result<Moved, Errno> {
        let (source, sink) = (source.borrow(), self.sink.borrow());
        let (Some(from), Some(to)) = (source.read_fd(), sink.write_fd()) else {
            return Ok(Moved::ReadIt);
        };
        // A socket does not listen to the flag that says not to block.
        if is_from_socket && !is_readable(from) {
            return Err(Errno::AGAIN);
        }
        let bytes = loop {
            match splice(from, None, to, None, BUDGET, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                Err(Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        match bytes {
            0 => Ok(Moved::ReadIt),
            bytes => {
                self.count(1, bytes as u64);
                // Less: the source is empty, or the sink is full. The kernel knows which.
                Ok(Moved::Some {
                    has_more: bytes == BUDGET,
                })
            }
        }
    }
}
