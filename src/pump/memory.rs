//! A stream in memory: what is written at one side comes out at the other.

use super::events::Shared;
use super::stream::{DataHandler, Done, EndHandler, ExceptionHandler, FailureHandler, Slot};
use super::{EventLoop, Item, ReadStream, StreamError, WriteStream};
use crate::channel::ChannelError;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

/// A sink and a source in one, within one thread: between a pump and code of your own, or between two pumps.
///
/// Its queue is counted in *items*: full at 16 if nothing was said, until it is down to half. An item that is written while the stream
/// is not paused and nothing waits is delivered at once, within [`write`](WriteStream::write); after
/// [`resume`](ReadStream::resume) and [`fetch`](MemoryStream::fetch), what waits is delivered by the loop's next step. Handlers are never called while one of
/// them runs: what they write waits its turn.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use syncq::Wait;
/// use syncq::pump::{EventLoop, MemoryStream, ReadStream, WriteStream};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let events = EventLoop::new()?;
/// let stream = MemoryStream::new(&events);
/// let seen = Rc::new(RefCell::new(vec![]));
/// let into = seen.clone();
/// stream.data_handler(Some(Box::new(move |item| into.borrow_mut().push(item))));
/// stream.write("at once".into())?;
/// stream.pause();
/// stream.write("later".into())?;
/// assert_eq!(seen.borrow().len(), 1);
/// stream.fetch(1);
/// events.step(Wait::Never)?;
/// assert_eq!(seen.borrow()[1].bytes(), b"later");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStream {
    me: Weak<MemoryStream>,
    shared: Weak<Shared>,
    queue: RefCell<VecDeque<Item>>,
    /// How many items are wanted. [`u64::MAX`]: any number.
    demand: Cell<u64>,
    high: Cell<usize>,
    is_full: Cell<bool>,
    is_emitting: Cell<bool>,
    is_scheduled: Cell<bool>,
    /// Nothing more is taken.
    is_ending: Cell<bool>,
    is_over: Cell<bool>,
    failure: RefCell<Option<StreamError>>,
    data: Slot<dyn FnMut(Item)>,
    end: Slot<dyn FnMut()>,
    read_exception: Slot<dyn FnMut(StreamError)>,
    write_exception: Slot<dyn FnMut(StreamError)>,
    waiting: RefCell<Waiting>,
}

#[derive(Default)]
struct Waiting {
    drain: VecDeque<Done>,
    end: Vec<Done>,
    failure: Vec<FailureHandler>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} for room, {} for the end", self.drain.len(), self.end.len())
    }
}

impl MemoryStream {
    /// An empty one, not paused.
    pub fn new(events: &EventLoop) -> Rc<Self> {
        Rc::new_cyclic(|me| MemoryStream {
            me: me.clone(),
            shared: Rc::downgrade(&events.0),
            queue: RefCell::default(),
            demand: Cell::new(u64::MAX),
            high: Cell::new(16),
            is_full: Cell::new(false),
            is_emitting: Cell::new(false),
            is_scheduled: Cell::new(false),
            is_ending: Cell::new(false),
            is_over: Cell::new(false),
            failure: RefCell::new(None),
            data: Slot::default(),
            end: Slot::default(),
            read_exception: Slot::default(),
            write_exception: Slot::default(),
            waiting: RefCell::default(),
        })
    }

    /// Wants `count` items more: of a paused stream so many are delivered, and then it is paused again.
    pub fn fetch(&self, count: u64) {
        self.demand.set(self.demand.get().saturating_add(count));
        self.schedule();
    }

    /// Whether no item is wanted.
    pub fn is_paused(&self) -> bool {
        self.demand.get() == 0
    }

    /// Items that wait.
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Breaks it: what waits is still delivered, then the source side fails with `error`; the sink side fails at once.
    pub fn fail(&self, error: StreamError) {
        if self.is_over.get() || self.is_ending.get() {
            return;
        }
        *self.failure.borrow_mut() = Some(error.clone());
        self.is_ending.set(true);
        self.is_full.set(false);
        let (drain, failure) = {
            let mut waiting = self.waiting.borrow_mut();
            (std::mem::take(&mut waiting.drain), std::mem::take(&mut waiting.failure))
        };
        self.write_exception.call(|handler| handler(error.clone()));
        for listener in failure.iter().filter_map(Weak::upgrade) {
            listener(error.clone());
        }
        for handler in drain {
            handler(Err(error.clone()));
        }
        self.schedule();
    }

    /// Has it looked at in the loop's next step.
    fn schedule(&self) {
        let (Some(shared), Some(me)) = (self.shared.upgrade(), self.me.upgrade()) else {
            return;
        };
        if !self.is_scheduled.replace(true) {
            shared.defer(Box::new(move || {
                me.is_scheduled.set(false);
                me.emit();
            }));
        }
    }

    fn next(&self) -> Option<Item> {
        let demand = self.demand.get();
        if demand == 0 || !self.data.is_set() {
            return None;
        }
        let item = self.queue.borrow_mut().pop_front()?;
        if demand != u64::MAX {
            self.demand.set(demand - 1);
        }
        if self.queue.borrow().len() <= self.high.get() / 2 {
            self.is_full.set(false);
        }
        Some(item)
    }

    fn next_drained(&self) -> Option<Done> {
        match self.is_full.get() {
            true => None,
            false => self.waiting.borrow_mut().drain.pop_front(),
        }
    }

    /// Delivers what is wanted, until nothing changes any more.
    fn emit(&self) {
        if self.is_emitting.replace(true) {
            return;
        }
        // Handlers may drop the last handle.
        let _me = self.me.upgrade();
        loop {
            while let Some(item) = self.next() {
                self.data.call(|handler| handler(item));
            }
            // Whoever is told of room may fill it, which may be wanted at once.
            match self.next_drained() {
                Some(handler) => handler(Ok(())),
                None => break,
            }
        }
        self.is_emitting.set(false);
        self.tell_end();
    }

    fn tell_end(&self) {
        let is_wanted = self.demand.get() > 0 && self.data.is_set();
        if !self.is_ending.get() || self.is_over.get() || !self.queue.borrow().is_empty() || !is_wanted {
            return;
        }
        self.is_over.set(true);
        let failure = self.failure.borrow().clone();
        match failure.clone() {
            None => drop(self.end.call(|handler| handler())),
            Some(error) => drop(self.read_exception.call(|handler| handler(error))),
        }
        let waiting = std::mem::take(&mut self.waiting.borrow_mut().end);
        for done in waiting {
            done(failure.clone().map_or(Ok(()), Err));
        }
    }

    fn closed(&self) -> StreamError {
        let failure = self.failure.borrow().clone();
        failure.unwrap_or_else(|| ChannelError::Closed.into())
    }
}

impl ReadStream for MemoryStream {
    fn data_handler(&self, handler: Option<DataHandler>) {
        self.data.set(handler);
        self.schedule();
    }

    fn end_handler(&self, handler: Option<EndHandler>) {
        self.end.set(handler);
    }

    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        self.read_exception.set(handler);
    }

    fn pause(&self) {
        self.demand.set(0);
    }

    fn resume(&self) {
        self.demand.set(u64::MAX);
        self.schedule();
    }
}

impl WriteStream for MemoryStream {
    fn write(&self, item: Item) -> Result<(), StreamError> {
        if self.is_ending.get() {
            return Err(self.closed());
        }
        let is_first = self.queue.borrow().is_empty();
        self.queue.borrow_mut().push_back(item);
        // What waits already is delivered by the loop, and this after it.
        if is_first {
            self.emit();
        }
        if self.queue.borrow().len() >= self.high.get() {
            self.is_full.set(true);
        }
        Ok(())
    }

    fn write_queue_full(&self) -> bool {
        self.is_full.get()
    }

    /// In items.
    fn set_write_queue_max_size(&self, max: usize) {
        self.high.set(max.max(1));
        self.is_full.set(self.queue.borrow().len() >= self.high.get());
        self.schedule();
    }

    fn drain_handler(&self, handler: Done) {
        if let Some(error) = &*self.failure.borrow() {
            return handler(Err(error.clone()));
        }
        self.waiting.borrow_mut().drain.push_back(handler);
        self.schedule();
    }

    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        self.write_exception.set(handler);
    }

    fn failure_handler(&self, handler: FailureHandler) {
        let failure = &mut self.waiting.borrow_mut().failure;
        failure.retain(|handler| handler.strong_count() > 0);
        failure.push(handler);
    }

    /// Acknowledged when the source side has delivered its end.
    fn end(&self, done: Done) {
        if self.is_over.get() {
            let failure = self.failure.borrow().clone();
            return done(failure.map_or(Ok(()), Err));
        }
        if let Some(error) = &*self.failure.borrow() {
            return done(Err(error.clone()));
        }
        self.waiting.borrow_mut().end.push(done);
        self.is_ending.set(true);
        self.schedule();
    }
}
