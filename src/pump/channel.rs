//! A channel as a stream, in both roles.
//!
//! Not here: who looks at it and when; that is the event loop.

use super::direct::{Direct, Moved, queue_of};
use super::events::Shared;
use super::stream::{DataHandler, Done, EndHandler, ExceptionHandler, FailureHandler, Slot};
use super::{Item, ReadStream, StreamError, WriteStream};
use crate::channel::epoll::{Registered, Side};
use crate::channel::{Channel, ChannelError, Input, Interest, Marks, Token};
use crate::{Buffer, Error};
use std::cell::{Cell, RefCell, RefMut};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// What one stream gives in one go, in bytes, before the others have their turn.
const BUDGET: usize = 256 << 10;
/// What an item counts beside its bytes.
const ITEM: usize = 16;
/// After an item this large, more is likely to be there.
const LARGE: usize = 32 << 10;

/// A channel as a [`ReadStream`] and a [`WriteStream`], made by [`EventLoop::add`](super::EventLoop::add).
///
/// Of a channel by bytes an item is what one read gave, of one by lines a line, of a queue a message. What is written is taken whole;
/// on a queue, as one message: of the item's kind, or of the channel's if the item has none. What one read of a byte stream gave is several messages, if it
/// is too large for one.
///
/// # The end
///
/// [`end`](WriteStream::end) is acknowledged when everything was taken by the kernel, or appended to the queue, and the peer can see the
/// end after it. What the peer does with it is not known here.
#[derive(Debug)]
pub struct ChannelStream {
    pub(super) token: Token,
    me: Weak<ChannelStream>,
    shared: Weak<Shared>,
    channel: RefCell<Box<dyn Channel>>,
    registered: RefCell<[Registered; 2]>,
    pub(super) is_hot: Cell<bool>,
    pub(super) is_unarmed: Cell<bool>,
    is_paused: Cell<bool>,
    is_read_over: Cell<bool>,
    is_write_over: Cell<bool>,
    is_ending: Cell<bool>,
    is_closed: Cell<bool>,
    failure: RefCell<Option<StreamError>>,
    data: Slot<dyn FnMut(Item)>,
    end: Slot<dyn FnMut()>,
    read_exception: Slot<dyn FnMut(StreamError)>,
    write_exception: Slot<dyn FnMut(StreamError)>,
    on_failure: RefCell<Handlers<FailureHandler>>,
    on_drain: RefCell<Handlers<Done>>,
    on_end: RefCell<Handlers<Done>>,
    direct: RefCell<Option<Rc<Direct>>>,
    /// Of a queue: the largest piece of a longer read that fits.
    piece: Cell<usize>,
    /// Of a queue: room for a message, and the last kind and sender.
    buffer: RefCell<Buffer>,
    names: RefCell<[Option<Arc<str>>; 2]>,
    /// Sources that wait until the descriptor takes something.
    waiting: RefCell<Vec<Weak<ChannelStream>>>,
}

struct Handlers<T>(Vec<T>);

impl<T> Default for Handlers<T> {
    fn default() -> Self {
        Handlers(Vec::new())
    }
}

impl<T> std::fmt::Debug for Handlers<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} handlers", self.0.len())
    }
}

impl ChannelStream {
    pub(super) fn new(channel: Box<dyn Channel>, token: Token, shared: Weak<Shared>) -> Rc<Self> {
        Rc::new_cyclic(|me| ChannelStream {
            token,
            me: me.clone(),
            shared,
            is_read_over: Cell::new(channel.read_fd().is_none() && !channel.has_buffered()),
            is_write_over: Cell::new(channel.write_fd().is_none()),
            channel: RefCell::new(channel),
            registered: RefCell::default(),
            is_hot: Cell::new(false),
            is_unarmed: Cell::new(false),
            is_paused: Cell::new(false),
            is_ending: Cell::new(false),
            is_closed: Cell::new(false),
            failure: RefCell::new(None),
            data: Slot::default(),
            end: Slot::default(),
            read_exception: Slot::default(),
            write_exception: Slot::default(),
            on_failure: RefCell::default(),
            on_drain: RefCell::default(),
            on_end: RefCell::default(),
            direct: RefCell::new(None),
            piece: Cell::new(usize::MAX),
            buffer: RefCell::default(),
            names: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.borrow().queued()
    }

    /// Whether nothing is delivered for now: [paused](ReadStream::pause).
    pub fn is_paused(&self) -> bool {
        self.is_paused.get()
    }

    /// Closes both directions at once. What is queued is dropped; who waits for it is told. Nothing more is delivered.
    pub fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        self.settle();
        self.is_read_over.set(true);
        if !self.is_write_over.get() {
            self.fail_writing(ChannelError::Closed.into());
        }
        // Out of epoll before the descriptor is closed: a copy of it may live.
        let _ = self.watch(&shared);
        self.channel.borrow_mut().close();
        self.touch();
    }

    /// Takes the channel back. What is queued stays in it. Who waits for the stream is told that it is closed. [`None`]: somebody
    /// else (a pump that runs, a clone) still has the stream, or it was closed.
    pub fn into_channel(self: Rc<Self>) -> Option<Box<dyn Channel>> {
        let shared = self.shared.upgrade()?;
        // One here, and one in the loop.
        if self.is_closed.get() || Rc::strong_count(&self) > 2 {
            return None;
        }
        self.is_read_over.set(true);
        if !self.is_write_over.get() {
            self.fail_writing(ChannelError::Closed.into());
        }
        self.is_write_over.set(true);
        let _ = self.watch(&shared);
        self.forget_handlers();
        shared.remove(self.token);
        Rc::into_inner(self).map(|stream| stream.channel.into_inner())
    }

    fn touch(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.touch(self);
        }
    }

    pub(super) fn is_flowing(&self) -> bool {
        !self.is_paused.get() && !self.is_read_over.get() && (self.data.is_set() || self.direct.borrow().is_some())
    }

    /// Has the source's bytes moved into `sink` without anybody looking at them, as far as that goes.
    pub(super) fn set_direct(&self, direct: Option<Rc<Direct>>) {
        let old = self.direct.replace(direct);
        self.touch();
        if let Some(old) = old {
            old.settle(true);
        }
    }

    /// What is on its way to the sink is queued there.
    fn settle(&self) {
        let direct = self.direct.borrow().clone();
        if let Some(direct) = direct {
            direct.settle(false);
        }
    }

    /// Whether both are of one loop.
    pub(super) fn is_beside(&self, other: &ChannelStream) -> bool {
        self.shared.ptr_eq(&other.shared)
    }

    pub(super) fn raise_to_read(&self) {
        if let Some(fd) = self.borrow().read_fd() {
            super::direct::raise(fd);
        }
    }

    pub(super) fn raise_to_write(&self) {
        if let Some(fd) = self.borrow().write_fd() {
            super::direct::raise(fd);
        }
    }

    pub(super) fn borrow(&self) -> RefMut<'_, Box<dyn Channel>> {
        self.channel.borrow_mut()
    }

    /// The source is looked at again once something can be written here.
    pub(super) fn wait_for_room(&self, source: Weak<ChannelStream>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|other| other.ptr_eq(&source)) {
            waiting.push(source);
        }
        drop(waiting);
        self.touch();
    }

    pub(super) fn interest(&self) -> Interest {
        let is_write_over = self.is_write_over.get();
        let is_stuck = (self.direct.borrow().as_ref()).is_some_and(|direct| direct.is_waiting_for_room());
        Interest {
            readable: self.is_flowing() && !is_stuck,
            writable: !is_write_over && (self.borrow().queued() > 0 || !self.waiting.borrow().is_empty()),
        }
    }

    /// To be called before a sleep. `false`: look first.
    pub(super) fn arm(&self) -> bool {
        let interest = self.interest();
        interest == Interest::NONE || self.borrow().arm(interest)
    }

    fn watch(&self, shared: &Shared) -> Result<(), rustix::io::Errno> {
        let interest = self.interest();
        let channel = self.channel.borrow();
        let (read, write) = (channel.read_fd(), channel.write_fd());
        let is_same = match (read, write) {
            (Some(read), Some(write)) => read.as_raw_fd() == write.as_raw_fd(),
            _ => false,
        };
        let (mut of_first, of_second) = (interest, Interest::NONE);
        let of_second = match is_same {
            true => of_second,
            false => {
                of_first.writable = false;
                Interest {
                    readable: false,
                    ..interest
                }
            }
        };
        let mut registered = self.registered.borrow_mut();
        let [first, second] = &mut *registered;
        shared.with_epoll(|epoll| {
            epoll.watch(first, read, of_first, (self.token, Side::First))?;
            let write = write.filter(|_| !is_same);
            epoll.watch(second, write, of_second, (self.token, Side::Second))
        })
    }

    fn is_always(&self, interest: Interest) -> bool {
        let registered = self.registered.borrow();
        interest.readable && registered[0] == Registered::Always
            || interest.writable && registered.contains(&Registered::Always)
    }

    /// Writes and reads what can be, calls who waits for it, and tells the kernel what to watch for.
    pub(super) fn look(self: &Rc<Self>, shared: &Shared, ready: Interest) {
        self.look_at_writing(shared, ready);
        if self.is_flowing() && (ready.readable || ready == Interest::NONE) {
            self.read(shared);
        }
        let outcome = match self.is_closed.get() {
            true => Ok(()),
            false => self.watch(shared),
        };
        if let Err(errno) = outcome {
            let error = StreamError::from(ChannelError::os("watching", errno));
            if !self.is_write_over.get() {
                self.fail_writing(error.clone());
            }
            self.fail_reading(shared, error);
        }
        let interest = self.interest();
        if interest.readable && self.borrow().has_buffered() || self.is_always(interest) {
            shared.touch(self);
        } else if interest != Interest::NONE && self.borrow().needs_arming() {
            shared.unarmed(self);
        }
        if self.is_read_over.get() && self.is_write_over.get() {
            let _ = self.watch(shared);
            shared.remove(self.token);
        }
    }

    fn look_at_writing(&self, shared: &Shared, ready: Interest) {
        let is_ending = self.is_ending.get();
        if !self.is_write_over.get() && (is_ending || self.borrow().queued() > 0) {
            let flushed = self.borrow().try_flush();
            match flushed {
                Err(error) => self.fail_writing(error.into()),
                Ok(true) if is_ending => self.is_write_over.set(true),
                Ok(_) => {}
            }
        }
        let failure = self.failure.borrow().clone();
        if let Some(error) = &failure {
            let listeners = std::mem::take(&mut self.on_failure.borrow_mut().0);
            for listener in listeners.iter().filter_map(Weak::upgrade) {
                did(shared);
                listener(error.clone());
            }
        }
        if failure.is_some() || !self.borrow().is_full() {
            // Each is called as long as there is room: the one before may have filled it.
            while let Some(handler) = self.next_drained(failure.is_some()) {
                did(shared);
                handler(failure.clone().map_or(Ok(()), Err));
            }
        }
        if self.is_write_over.get() {
            let handlers = std::mem::take(&mut self.on_end.borrow_mut().0);
            for handler in handlers {
                did(shared);
                handler(failure.clone().map_or(Ok(()), Err));
            }
        }
        let has_room = ready.writable || {
            let channel = self.borrow();
            channel.needs_arming() && channel.queued() == 0
        };
        if has_room || self.is_write_over.get() {
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            for source in waiting.iter().filter_map(Weak::upgrade) {
                if let Some(direct) = &*source.direct.borrow() {
                    direct.there_is_room();
                }
                shared.touch(&source);
            }
        }
    }

    fn next_drained(&self, has_failed: bool) -> Option<Done> {
        if !has_failed && self.borrow().is_full() {
            return None;
        }
        let handlers = &mut self.on_drain.borrow_mut().0;
        (!handlers.is_empty()).then(|| handlers.remove(0))
    }

    /// Remembers the failure; who waits is told at the next look.
    pub(super) fn fail_writing(&self, error: StreamError) {
        self.is_write_over.set(true);
        self.failure.borrow_mut().get_or_insert_with(|| error.clone());
        self.touch();
        self.write_exception.call(|handler| handler(error));
    }

    fn fail_reading(&self, shared: &Shared, error: StreamError) {
        if !self.is_read_over.replace(true) {
            did(shared);
            self.read_exception.call(|handler| handler(error));
        }
    }

    fn read(self: &Rc<Self>, shared: &Shared) {
        let mut taken = 0;
        while self.is_flowing() {
            let direct = self.direct.borrow().clone();
            if let Some(direct) = direct {
                match direct.go(self) {
                    Moved::Some { has_more } => {
                        did(shared);
                        if has_more {
                            shared.touch(self);
                        }
                        return;
                    }
                    Moved::Nothing => return,
                    Moved::SinkFailed(error) => return direct.fail_sink(error),
                    Moved::Failed(error) if error.is_final() => return self.fail_reading(shared, error.into()),
                    Moved::Failed(error) => {
                        did(shared);
                        self.read_exception.call(|handler| handler(error.into()));
                        continue;
                    }
                    Moved::ReadIt => {}
                    Moved::Waiting { .. } => return,
                    Moved::Refused => self.set_direct(None),
                }
            }
            let input = self.try_read();
            let item = match input {
                Ok(Read::Item(item)) => item,
                Ok(Read::Nothing) => return,
                Ok(Read::End) | Err(ChannelError::Closed) => {
                    self.is_read_over.set(true);
                    did(shared);
                    self.end.call(|handler| handler());
                    return;
                }
                Err(error) if error.is_final() => return self.fail_reading(shared, error.into()),
                Err(error) => {
                    did(shared);
                    self.read_exception.call(|handler| handler(error.into()));
                    continue;
                }
            };
            let len = item.bytes().len();
            taken += len + ITEM;
            did(shared);
            self.data.call(|handler| handler(item));
            if let Some(direct) = &*self.direct.borrow() {
                direct.saw(len);
            }
            if taken >= BUDGET || len < LARGE && !self.borrow().has_buffered() {
                return;
            }
        }
    }

    /// One read, as an item.
    fn try_read(&self) -> Result<Read, ChannelError> {
        let mut channel = self.borrow();
        if let Some(queue) = queue_of(&mut **channel)
            && let Some(message) = queue.try_read_message(&mut self.buffer.borrow_mut())?
        {
            let [kind, sender] = &mut *self.names.borrow_mut();
            let names = (again(kind, message.kind()), again(sender, message.sender()));
            return Ok(Read::Item(Item::from(message.body()).with_names(names.0, names.1)));
        }
        Ok(match channel.try_read()? {
            Input::Data(bytes) => Read::Item(match queue_of(&mut **channel) {
                Some(_) => bytes.into(),
                None => Item::divisible(bytes),
            }),
            Input::Line(line) => Read::Item(line.bytes.into()),
            Input::Pending => Read::Nothing,
            Input::End => Read::End,
        })
    }

    pub(super) fn forget_handlers(&self) {
        self.data.set(None);
        self.end.set(None);
        self.read_exception.set(None);
        self.write_exception.set(None);
        *self.direct.borrow_mut() = None;
        let dropped = (self.on_drain.take(), self.on_end.take(), self.on_failure.take());
        drop(dropped);
    }

    /// Nobody looks at it any more.
    pub(super) fn abandon(&self) {
        self.is_closed.set(true);
        self.is_read_over.set(true);
        self.is_write_over.set(true);
        let closed = || StreamError::from(ChannelError::Closed);
        self.failure.borrow_mut().get_or_insert_with(closed);
        self.forget_handlers();
        self.borrow().close();
    }

    pub(super) fn weak(&self) -> Weak<ChannelStream> {
        self.me.clone()
    }
}

/// What one read gave.
enum Read {
    Item(Item),
    Nothing,
    End,
}

/// The same name as the last time is not made anew.
fn again(last: &mut Option<Arc<str>>, name: &str) -> Option<Arc<str>> {
    if last.as_deref() != Some(name) {
        *last = Some(name.into());
    }
    last.clone()
}

fn enqueue(channel: &mut dyn Channel, item: &Item) -> Result<(), ChannelError> {
    if let Some(kind) = item.kind()
        && let Some(queue) = queue_of(channel)
    {
        return queue.enqueue_message(kind, item.bytes());
    }
    channel.enqueue(&[IoSlice::new(item.bytes())])
}

/// As many messages as it takes. `piece` is the largest that has gone in so far.
fn enqueue_pieces(channel: &mut dyn Channel, bytes: &[u8], piece: &Cell<usize>) -> Result<(), ChannelError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let now = rest.len().min(piece.get());
        match channel.enqueue(&[IoSlice::new(&rest[..now])]) {
            Ok(()) => rest = &rest[now..],
            Err(ChannelError::Queue(Error::TooLarge { .. })) if now > 1 => piece.set(now / 2),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Something was done.
fn did(shared: &Shared) {
    shared.done.set(shared.done.get() + 1);
}

impl ReadStream for ChannelStream {
    fn data_handler(&self, handler: Option<DataHandler>) {
        self.data.set(handler);
        self.touch();
    }

    fn end_handler(&self, handler: Option<EndHandler>) {
        self.end.set(handler);
    }

    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        self.read_exception.set(handler);
    }

    fn pause(&self) {
        self.is_paused.set(true);
        self.settle();
        self.touch();
    }

    fn resume(&self) {
        self.is_paused.set(false);
        self.touch();
    }
}

impl WriteStream for ChannelStream {
    fn write(&self, item: Item) -> Result<(), StreamError> {
        if let Some(error) = &*self.failure.borrow() {
            return Err(error.clone());
        }
        let mut channel = self.borrow();
        let outcome = match enqueue(&mut **channel, &item) {
            Err(ChannelError::Full { .. }) => {
                let marks = channel.marks();
                channel.set_marks(Marks::up_to(usize::MAX));
                let outcome = enqueue(&mut **channel, &item);
                channel.set_marks(marks);
                outcome
            }
            Err(ChannelError::Queue(Error::TooLarge { .. })) if item.is_divisible => {
                let marks = channel.marks();
                channel.set_marks(Marks::up_to(usize::MAX));
                let outcome = enqueue_pieces(&mut **channel, item.bytes(), &self.piece);
                channel.set_marks(marks);
                outcome
            }
            outcome => outcome,
        };
        let must_wait = channel.queued() > 0;
        drop(channel);
        if must_wait {
            self.touch();
        }
        outcome.map_err(|error| {
            let error = StreamError::from(error);
            if !self.is_ending.get() && error.is_final() {
                self.fail_writing(error.clone());
            }
            error
        })
    }

    fn write_queue_full(&self) -> bool {
        !self.is_write_over.get() && self.borrow().is_full()
    }

    fn set_write_queue_max_size(&self, max: usize) {
        self.borrow().set_marks(Marks::up_to(max));
        self.touch();
    }

    fn drain_handler(&self, handler: Done) {
        self.on_drain.borrow_mut().0.push(handler);
        self.touch();
    }

    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        self.write_exception.set(handler);
    }

    fn failure_handler(&self, handler: FailureHandler) {
        let handlers = &mut self.on_failure.borrow_mut().0;
        handlers.retain(|handler| handler.strong_count() > 0);
        handlers.push(handler);
        self.touch();
    }

    fn end(&self, done: Done) {
        self.on_end.borrow_mut().0.push(done);
        self.touch();
        if !self.is_ending.replace(true) && !self.is_write_over.get() {
            let outcome = self.borrow().shutdown_write();
            if let Err(error) = outcome {
                self.fail_writing(error.into());
            }
        }
    }
}
