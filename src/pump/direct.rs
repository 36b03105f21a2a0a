//! The short way between channels: pages moved by the kernel, and messages from ring to ring.
//!
//! Not here: waiting, and what comes of an end or an error; the long way finds those.

use super::ChannelStream;
use super::relay::{Look, Relay};
use crate::Buffer;
use crate::channel::{Channel, ChannelError, PipeChannel, QueueChannel, SocketChannel};
use crate::sys::signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, sockopt};
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

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
    /// As [`Some`](Moved::Some) or [`Nothing`](Moved::Nothing); and a sink takes nothing now, and tells when it does.
    Waiting {
        /// Something was moved before.
        is_some: bool,
    },
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
    /// From descriptor to descriptor, in one call.
    Splice {
        sink: Rc<ChannelStream>,
        end: End,
        is_from_socket: bool,
        looks_first: bool,
    },
    /// By a pipe in between, once large pieces come.
    Relay(Relay),
    /// Between two queues.
    Messages {
        sink: Rc<ChannelStream>,
        buffer: RefCell<Buffer>,
    },
}

/// The short way from a source to its sinks.
pub(super) struct Direct {
    way: Way,
    is_waiting: Cell<bool>,
    count: Box<dyn Fn(u64, u64)>,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct")
            .field("is_waiting", &self.is_waiting)
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

/// What one read of a channel asks for at most, if it is one whose bytes are those of its descriptors. Another one may make something else of them.
pub(super) fn read_limit(channel: &dyn Channel) -> Option<usize> {
    let channel: &dyn Any = channel;
    let pipe = channel.downcast_ref().map(PipeChannel::read_limit);
    pipe.or_else(|| channel.downcast_ref().map(SocketChannel::read_limit))
}

fn is_non_blocking(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// What a sink is to the kernel's ways of moving pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Pipe,
    /// A Unix socket that does not block and kills nobody.
    Socket,
    File,
}

impl End {
    fn of(sink: &ChannelStream) -> Option<End> {
        let sink = sink.borrow();
        read_limit(&**sink)?;
        let fd = sink.write_fd()?;
        match file_type(fd)? {
            FileType::Fifo => Some(End::Pipe),
            FileType::RegularFile => Some(End::File),
            // Splicing into a socket asks the socket alone whether it may block, and knows no flag against SIGPIPE. Into TCP it was slower than copying
            // wherever that was measured.
            FileType::Socket
                if is_non_blocking(fd)
                    && sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
                    && signal::is_broken_pipe_harmless() =>
            {
                Some(End::Socket)
            }
            _ => None,
        }
    }
}

pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&now)), Ok(0) | Err(_))
}

impl Direct {
    /// [`None`] if there is no short way. `count` is told how many items and bytes were moved.
    pub(super) fn between(
        source: &ChannelStream,
        mut sinks: Vec<Rc<ChannelStream>>,
        look: Option<Look>,
        count: Box<dyn Fn(u64, u64)>,
    ) -> Option<Rc<Self>> {
        // Twice into one sink would mix the two.
        let is_again = |at: usize| sinks[..at].iter().any(|other| Rc::ptr_eq(other, &sinks[at]));
        let is_odd = |at: usize| std::ptr::eq(source, &*sinks[at]) || !source.is_beside(&sinks[at]) || is_again(at);
        if sinks.is_empty() || (0..sinks.len()).any(is_odd) {
            return None;
        }
        let channel = source.borrow();
        if channel.buffering() != crate::channel::Buffering::Bytes {
            return None;
        }
        let is_queue = queue_ref(&**channel).is_some();
        let way = if is_queue && sinks.len() == 1 && look.is_none() {
            let sink = sinks.pop()?;
            queue_ref(&**sink.borrow())?;
            let buffer = RefCell::default();
            Way::Messages { sink, buffer }
        } else {
            read_limit(&**channel)?;
            let from = channel.read_fd()?;
            let is_from_socket = match file_type(from)? {
                FileType::Fifo => false,
                FileType::Socket => true,
                _ => return None,
            };
            // TCP does not listen to the flag that says not to block.
            let looks_first = is_from_socket && !is_non_blocking(from);
            let ends: Option<Vec<End>> = sinks.iter().map(|sink| End::of(sink)).collect();
            match (&ends?[..], &look) {
                ([end], None) if !is_from_socket || *end == End::Pipe => {
                    let (sink, end) = (sinks.pop()?, *end);
                    Way::Splice {
                        sink,
                        end,
                        is_from_socket,
                        looks_first,
                    }
                }
                // Into a file the bytes are copied either way.
                (ends, _) if ends.contains(&End::File) => return None,
                _ => Way::Relay(Relay::new(sinks, look, looks_first)),
            }
        };
        Some(Rc::new(Direct {
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
        if let Way::Splice { sink, .. } | Way::Messages { sink, .. } = &self.way {
            sink.fail_writing(error.into());
        }
    }

    /// So much was read and written the long way.
    pub(super) fn saw(&self, len: usize) {
        if let Way::Relay(relay) = &self.way {
            relay.saw(len);
        }
    }

    /// Has what is on its way queued by the sinks; with `is_over`, for good.
    pub(super) fn settle(&self, is_over: bool) {
        if let Way::Relay(relay) = &self.way {
            relay.settle(is_over, &*self.count);
        }
    }

    /// Moves what can be moved now.
    pub(super) fn go(&self, source: &ChannelStream) -> Moved {
        if self.is_waiting.get() {
            return Moved::Nothing;
        }
        let moved = match &self.way {
            Way::Relay(relay) => relay.go(source, &*self.count),
            Way::Messages { sink, buffer } => match sink.queued() {
                0 => self.hand_over(source, sink, &mut buffer.borrow_mut()),
                _ => wait_for_room(sink, source),
            },
            Way::Splice {
                sink,
                end,
                is_from_socket,
                looks_first,
            } => {
                // A socket does not listen to the flag that says not to block.
                let may_go = || {
                    let channel = source.borrow();
                    channel.has_buffered() || channel.read_fd().is_some_and(is_readable)
                };
                match !looks_first || may_go() {
                    true => self.splice(source, sink, *end, *is_from_socket),
                    false => Moved::Nothing,
                }
            }
        };
        match moved {
            Moved::Waiting { is_some } => {
                self.is_waiting.set(true);
                match is_some {
                    true => Moved::Some { has_more: false },
                    false => Moved::Nothing,
                }
            }
            moved => moved,
        }
    }

    /// Messages, as they are: kind and body. The sender is who writes.
    fn hand_over(&self, source: &ChannelStream, sink: &ChannelStream, buffer: &mut Buffer) -> Moved {
        let (mut from, mut to) = (source.borrow(), sink.borrow());
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

    fn splice(&self, source: &ChannelStream, sink: &ChannelStream, end: End, is_from_socket: bool) -> Moved {
        // What was written the long way, or found no room, goes first.
        if sink.queued() > 0 {
            return wait_for_room(sink, source);
        }
        let channel = source.borrow();
        if channel.has_buffered() {
            return Moved::ReadIt;
        }
        let to = sink.borrow();
        let (Some(from), Some(into)) = (channel.read_fd(), to.write_fd()) else {
            return Moved::ReadIt;
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = retry_on_intr(|| splice(from, None, into, None, BUDGET, flags));
        drop(to);
        match moved {
            Ok(0) => Moved::ReadIt,
            Ok(bytes) => {
                self.count(1, bytes as u64);
                // Less: the source is empty, or the sink is full. The kernel knows which.
                Moved::Some {
                    has_more: bytes == BUDGET,
                }
            }
            Err(Errno::AGAIN) if is_readable(from) => wait_for_room(sink, source),
            Err(Errno::AGAIN) => Moved::Nothing,
            // Nothing was read for it, so nothing is lost by it.
            Err(Errno::PIPE) => Moved::SinkFailed(ChannelError::PeerGone),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Moved::Refused,
            // A socket tells what is wrong with it once.
            Err(errno) if is_from_socket => Moved::Failed(ChannelError::os("read", errno)),
            Err(_) if end == End::File => Moved::Refused,
            Err(errno) => Moved::SinkFailed(ChannelError::os("write", errno)),
        }
    }
}

fn wait_for_room(sink: &ChannelStream, source: &ChannelStream) -> Moved {
    sink.wait_for_room(source.weak());
    Moved::Waiting { is_some: false }
}
