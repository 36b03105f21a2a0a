//! Who calls the handlers: a loop over the channels that are streams.
//!
//! Not here: what a stream does when it is ready.

use super::ChannelStream;
use super::pumping::Inner as PumpInner;
use crate::channel::epoll::{Epoll, Side};
use crate::channel::{Channel, ChannelError, Interest, Token};
use crate::wait::{Deadline, Wait};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A loop that drives streams over channels, and by that any number of pumps, in one thread.
///
/// [`add`](EventLoop::add) makes a stream of a channel. Nothing happens by itself: [`step`](EventLoop::step) waits until
/// something can be done and does it, [`run`](EventLoop::run) goes on until nothing is left to do, and
/// [`Pump::run`](super::Pump::run) until one pump has ended. All handlers are called from these three.
///
/// Cheap to clone: a clone is the same loop; when the last one is dropped, its streams are closed. It stays in its thread, and so do its streams and pumps. What ends a
/// [`step`](EventLoop::step) from another thread is a [`Canceller`], or an own channel.
///
/// # Waiting for more than streams
///
/// Accept connections with a [`Poller`](crate::channel::Poller), take them back with
/// [`unregister`](crate::channel::Poller::unregister) and add them here. To wait for both in one place, watch this loop's
/// [descriptor](AsFd) there, and call [`arm`](EventLoop::arm) before the poll and `step(Wait::Never)` after it.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use syncq::Wait;
/// use syncq::channel::{Channel, PipeChannel};
/// use syncq::pump::{EventLoop, ReadStream};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let events = EventLoop::new()?;
/// let (end, mut start) = PipeChannel::pipe()?;
/// let seen = Rc::new(RefCell::new(vec![]));
/// let stream = events.add(end);
/// let into = seen.clone();
/// stream.data_handler(Some(Box::new(move |item| into.borrow_mut().extend(item.into_bytes()))));
/// start.write(b"hello", Wait::Never)?;
/// drop(start);
/// events.run(Wait::Forever)?;
/// assert_eq!(*seen.borrow(), b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EventLoop(pub(super) Rc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    epoll: RefCell<Epoll>,
    /// The same, to be waited for from outside.
    descriptor: OwnedFd,
    /// Generation and stream. A slot that is used again has another generation.
    slots: RefCell<Vec<(u32, Option<Rc<ChannelStream>>)>>,
    free: RefCell<Vec<u32>>,
    /// To be looked at before the next sleep.
    hot: RefCell<VecDeque<Token>>,
    /// To be armed before the next sleep.
    unarmed: RefCell<Vec<Token>>,
    /// To be done before the next sleep.
    tasks: RefCell<Tasks>,
    timers: RefCell<Vec<(Instant, Weak<PumpInner>)>>,
    cancels: RefCell<Vec<(Arc<AtomicBool>, Weak<PumpInner>)>>,
    /// Grows with everything that was done.
    pub(super) done: Cell<u64>,
}

#[derive(Default)]
struct Tasks(Vec<Box<dyn FnOnce()>>);

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks", self.0.len())
    }
}

/// Cancels a pump from another thread.
#[derive(Debug, Clone)]
pub struct Canceller {
    is_cancelled: Arc<AtomicBool>,
    waker: Arc<OwnedFd>,
}

impl Canceller {
    /// Cancels the pump, at the loop's next step. A sleeping loop wakes up for it. Does nothing to a pump that has ended.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
    }
}

impl EventLoop {
    /// One without streams.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if there are no descriptors left: it takes three.
    pub fn new() -> Result<Self, ChannelError> {
        let failed = |errno| ChannelError::os("making an event loop", errno);
        let epoll = Epoll::new().map_err(failed)?;
        Ok(EventLoop(Rc::new(Shared {
            descriptor: epoll.fd().try_clone_to_owned().map_err(|source| ChannelError::Os {
                doing: "making an event loop",
                source,
            })?,
            epoll: RefCell::new(epoll),
            slots: RefCell::default(),
            free: RefCell::default(),
            hot: RefCell::default(),
            unarmed: RefCell::default(),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            cancels: RefCell::default(),
            done: Cell::new(0),
        })))
    }

    /// Makes a stream of a channel, in both roles. It is not read before it has a data handler.
    ///
    /// The loop keeps the stream until both its directions are over, or it is [closed](ChannelStream::close).
    pub fn add(&self, channel: impl Channel) -> Rc<ChannelStream> {
        self.add_boxed(Box::new(channel))
    }

    /// Calls `task` in the next step, from the loop and not from within this.
    pub fn defer(&self, task: impl FnOnce() + 'static) {
        self.0.defer(Box::new(task));
    }

    /// As [`add`](EventLoop::add).
    pub fn add_boxed(&self, channel: Box<dyn Channel>) -> Rc<ChannelStream> {
        let (mut slots, mut free) = (self.0.slots.borrow_mut(), self.0.free.borrow_mut());
        let index = free.pop().unwrap_or_else(|| {
            let index = u32::try_from(slots.len()).unwrap_or(Token::MOST);
            assert!(index < Token::MOST, "more streams than there can be descriptors");
            slots.push((0, None));
            index
        });
        let (generation, slot) = &mut slots[index as usize];
        let token = Token {
            index,
            generation: *generation,
        };
        let stream = ChannelStream::new(channel, token, Rc::downgrade(&self.0));
        *slot = Some(stream.clone());
        drop((slots, free));
        self.0.touch(&stream);
        stream
    }

    /// Waits until something can be done and does it, once round. Returns how much that was: 0 if the time was over before.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if the system refuses to wait. What goes wrong with a stream is told to its handlers.
    pub fn step(&self, wait: impl Into<Wait>) -> Result<u64, ChannelError> {
        let deadline = Deadline::of(wait.into());
        let failed = |errno| ChannelError::os("waiting for events", errno);
        let shared = &self.0;
        let before = shared.done.get();
        loop {
            let tasks = std::mem::take(&mut shared.tasks.borrow_mut().0);
            for task in tasks {
                shared.done.set(shared.done.get() + 1);
                task();
            }
            let hot = std::mem::take(&mut *shared.hot.borrow_mut());
            for token in hot {
                if let Some(stream) = shared.get(token) {
                    stream.is_hot.set(false);
                    stream.look(shared, Interest::NONE);
                }
            }
            let may_sleep = shared.done.get() == before && self.arm();
            let limit = match may_sleep {
                true => shared.until_timer(deadline),
                false => Deadline::Now,
            };
            let mut epoll = shared.epoll.borrow_mut();
            epoll.wait(crate::channel::timespec(&limit).as_ref()).map_err(failed)?;
            let ready: Vec<_> = (0..epoll.len()).map(|at| epoll.ready(at)).collect();
            drop(epoll);
            let mut is_woken = false;
            for ready in ready {
                if ready.token == Token::WAKER {
                    let _ = rustix::io::read(&shared.epoll.borrow().waker, &mut [0; 8]);
                    is_woken = true;
                } else if let Some(stream) = shared.get(ready.token) {
                    let interest = Interest {
                        readable: ready.side == Side::First && ready.readable,
                        writable: ready.writable,
                    };
                    stream.look(shared, interest);
                }
            }
            if is_woken {
                shared.cancel_marked();
            }
            shared.run_timers();
            let done = shared.done.get() - before;
            if done > 0 || is_woken || deadline.has_passed() {
                return Ok(done);
            }
        }
    }

    /// Steps until nothing is left to do: no stream is read, and nothing waits to be written. `false`: the time was over before.
    ///
    /// A stream that is read and never ends keeps it running; so does a paused one not, whoever may resume it.
    ///
    /// # Errors
    ///
    /// As [`step`](EventLoop::step).
    pub fn run(&self, wait: impl Into<Wait>) -> Result<bool, ChannelError> {
        let deadline = Deadline::of(wait.into());
        loop {
            // What was touched is looked at before it is asked whether there is anything to wait for.
            while self.step(Wait::Never)? > 0 {
                if deadline.has_passed() {
                    return Ok(self.is_idle());
                }
            }
            if self.is_idle() || deadline.has_passed() {
                return Ok(self.is_idle());
            }
            self.step(deadline.wait())?;
        }
    }

    /// Whether there is nothing left to do, as things are.
    pub fn is_idle(&self) -> bool {
        self.0.tasks.borrow().0.is_empty()
            && self.0.hot.borrow().is_empty()
            && (self.0.slots.borrow().iter())
                .flat_map(|(_, stream)| stream)
                .all(|stream| stream.interest() == Interest::NONE)
    }

    /// How many streams it has.
    pub fn len(&self) -> usize {
        self.0.slots.borrow().iter().filter(|(_, slot)| slot.is_some()).count()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// To be called before sleeping on this loop's own [descriptor](AsFd), which does not tell of what is in memory already, nor of timers.
    /// `false`: do not sleep, [`step`](EventLoop::step).
    pub fn arm(&self) -> bool {
        self.0.tasks.borrow().0.is_empty() && self.0.hot.borrow().is_empty() && self.0.arm_all()
    }

    pub(super) fn canceller(&self, pump: &Rc<PumpInner>) -> Canceller {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let mut cancels = self.0.cancels.borrow_mut();
        cancels.retain(|(_, pump)| pump.strong_count() > 0);
        cancels.push((is_cancelled.clone(), Rc::downgrade(pump)));
        Canceller {
            is_cancelled,
            waker: self.0.epoll.borrow().waker.clone(),
        }
    }

    pub(super) fn set_timer(&self, at: Instant, pump: &Rc<PumpInner>) {
        self.0.timers.borrow_mut().push((at, Rc::downgrade(pump)));
    }
}

impl AsFd for EventLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

impl Shared {
    fn get(&self, token: Token) -> Option<Rc<ChannelStream>> {
        let slots = self.slots.borrow();
        let (generation, stream) = slots.get(token.index as usize)?;
        stream.clone().filter(|_| *generation == token.generation)
    }

    /// Has the stream looked at before the next sleep.
    pub(super) fn touch(&self, stream: &ChannelStream) {
        if !stream.is_hot.replace(true) {
            self.hot.borrow_mut().push_back(stream.token);
        }
    }

    /// Has the stream armed before the next sleep.
    pub(super) fn unarmed(&self, stream: &ChannelStream) {
        if !stream.is_unarmed.replace(true) {
            self.unarmed.borrow_mut().push(stream.token);
        }
    }

    /// Has this called in the next step.
    pub(super) fn defer(&self, task: Box<dyn FnOnce()>) {
        self.tasks.borrow_mut().0.push(task);
    }

    pub(super) fn with_epoll(&self, watch: impl FnOnce(&Epoll) -> Result<(), Errno>) -> Result<(), Errno> {
        watch(&self.epoll.borrow())
    }

    /// Lets go of a stream.
    pub(super) fn remove(&self, token: Token) {
        let mut slots = self.slots.borrow_mut();
        let Some((generation, slot)) = slots.get_mut(token.index as usize) else {
            return;
        };
        if *generation != token.generation {
            return;
        }
        let stream = slot.take();
        // A slot whose generations are used up stays empty.
        if let Some(next) = generation.checked_add(1) {
            *generation = next;
            self.free.borrow_mut().push(token.index);
        }
        drop(slots);
        drop(stream);
    }

    fn arm_all(&self) -> bool {
        let unarmed = std::mem::take(&mut *self.unarmed.borrow_mut());
        for token in unarmed {
            if let Some(stream) = self.get(token) {
                stream.is_unarmed.set(false);
                if !stream.arm() {
                    self.touch(&stream);
                }
            }
        }
        self.hot.borrow().is_empty()
    }

    fn until_timer(&self, deadline: Deadline) -> Deadline {
        match (deadline, self.timers.borrow().iter().map(|(at, _)| *at).min()) {
            (Deadline::None, Some(at)) => Deadline::At(at),
            (Deadline::At(deadline), Some(at)) => Deadline::At(deadline.min(at)),
            (deadline, _) => deadline,
        }
    }

    fn run_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        let due: Vec<_> = self.timers.borrow_mut().extract_if(.., |(at, _)| *at <= now).collect();
        for pump in due.iter().filter_map(|(_, pump)| pump.upgrade()) {
            if let Some(next) = PumpInner::look_at_clock(&pump, now) {
                self.timers.borrow_mut().push((next, Rc::downgrade(&pump)));
            } else {
                self.done.set(self.done.get() + 1);
            }
        }
    }

    fn cancel_marked(&self) {
        let is_marked = |(mark, _): &mut (Arc<AtomicBool>, _)| mark.load(Ordering::Acquire);
        let marked: Vec<_> = self.cancels.borrow_mut().extract_if(.., is_marked).collect();
        for pump in marked.iter().filter_map(|(_, pump)| pump.upgrade()) {
            pump.cancel();
            self.done.set(self.done.get() + 1);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Handlers hold streams and pumps, which hold handlers.
        self.tasks.take();
        for (_, stream) in self.slots.take() {
            if let Some(stream) = stream {
                stream.abandon();
            }
        }
    }
}

/// How long nothing may have moved before a pump ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    pub(super) limit: Duration,
    pub(super) last: Instant,
}
