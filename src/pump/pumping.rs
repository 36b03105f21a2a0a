//! The pump: items from a source into a sink, no faster than the sink takes them.
//!
//! Not here: who calls the handlers.

use super::direct::Direct;
use super::error::{Outcome, PumpError};
use super::events::{Canceller, Idle};
use super::relay::Look;
use super::stream::{ExceptionHandler, Slot};
use super::{ChannelStream, EventLoop, Item, ReadStream, StreamError, Tee, WriteStream};
use crate::channel::ChannelError;
use crate::wait::{Deadline, Wait};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// Moves items from a source into a sink, and pauses the source while the sink is full.
///
/// ```
/// use syncq::Wait;
/// use syncq::channel::{Channel, PipeChannel, SocketChannel};
/// use syncq::pump::{EventLoop, Pump};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let (source, mut start) = PipeChannel::pipe()?;
/// let (sink, mut end) = SocketChannel::pair()?;
/// start.write(b"through the pump", Wait::Never)?;
/// drop(start);
///
/// let events = EventLoop::new()?;
/// let pump = Pump::new(events.add(source), events.add(sink));
/// pump.start();
/// let outcome = pump.run(&events, Wait::Forever)?.expect("it waited for ever");
/// outcome.result.expect("nothing failed");
/// assert_eq!(outcome.bytes, 16);
/// assert_eq!(end.read(Wait::Never)?.bytes(), b"through the pump");
/// # Ok(())
/// # }
/// ```
///
/// # How it ends
///
/// With the first of: the source's end, a failure of one of the two, [`cancel`](Pump::cancel), the
/// [idle timeout](Pump::idle_timeout). Then it lets go of the source (resumed if the pump had paused it), ends the sink unless
/// [told not to](Pump::end_on_success), and when the sink has acknowledged that, there is an [`Outcome`]. It cannot be started again.
///
/// # Several
///
/// Any number of pumps may go into one sink. The first one to end it ends it for all: have [`end_on_success`](Pump::end_on_success) and
/// [`end_on_failure`](Pump::end_on_failure) say no, and end the sink yourself. One source is pumped into several sinks through a [`Tee`](super::Tee).
///
/// # Life
///
/// Cheap to clone: a clone is the same pump. A started pump goes on when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Pump(Rc<Inner>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Running,
    /// It is decided how it ends.
    Ending,
    Ended,
}

type DoneHandler = Box<dyn FnOnce(Outcome)>;
type FailureListener = Rc<dyn Fn(StreamError)>;

pub(super) struct Inner {
    me: Weak<Inner>,
    source: Rc<dyn ReadStream>,
    sink: Rc<dyn WriteStream>,
    state: Cell<State>,
    /// The source is paused, by this pump.
    is_holding: Cell<bool>,
    /// Which start or stop it was: what a sink drains late means the one before.
    turn: Cell<u64>,
    items: Cell<u64>,
    bytes: Cell<u64>,
    ends_on_success: Cell<bool>,
    ends_on_failure: Cell<bool>,
    idle: Cell<Option<Idle>>,
    inspect: Slot<dyn FnMut(&Item)>,
    exception: Slot<dyn FnMut(StreamError)>,
    ended: Cell<Option<DoneHandler>>,
    outcome: RefCell<Option<Outcome>>,
    sink_failed: RefCell<Option<FailureListener>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("state", &self.state)
            .field("is_holding", &self.is_holding)
            .field("items", &self.items)
            .field("bytes", &self.bytes)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl Pump {
    /// A pump from `source` into `sink`, stopped.
    pub fn new(source: Rc<dyn ReadStream>, sink: Rc<dyn WriteStream>) -> Self {
        Pump(Rc::new_cyclic(|me| Inner {
            me: me.clone(),
            source,
            sink,
            state: Cell::new(State::Stopped),
            is_holding: Cell::new(false),
            turn: Cell::new(0),
            items: Cell::new(0),
            bytes: Cell::new(0),
            ends_on_success: Cell::new(true),
            ends_on_failure: Cell::new(true),
            idle: Cell::new(None),
            inspect: Slot::default(),
            exception: Slot::default(),
            ended: Cell::new(None),
            outcome: RefCell::new(None),
            sink_failed: RefCell::new(None),
        }))
    }

    /// Whether the sink is ended when the source has ended. It is, if nothing was said.
    pub fn end_on_success(self, yes: bool) -> Self {
        self.0.ends_on_success.set(yes);
        self
    }

    /// Whether the sink is ended when the pump has failed or was cancelled. It is, if nothing was said.
    pub fn end_on_failure(self, yes: bool) -> Self {
        self.0.ends_on_failure.set(yes);
        self
    }

    /// Fails with [`PumpError::Idle`] when nothing was moved for so long while it runs, whoever's fault it is.
    pub fn idle_timeout(self, events: &EventLoop, limit: Duration) -> Self {
        let last = Instant::now();
        self.0.idle.set(Some(Idle { limit, last }));
        // A time past the end of the clock never comes.
        if let Some(at) = last.checked_add(limit) {
            events.set_timer(at, &self.0);
        }
        self
    }

    /// Shows each item to `look` before it goes into the sink: exactly what is moved, in order. Between pipes and Unix sockets the kernel moves the bytes all the
    /// same, and those that are shown are copied once.
    /// To be said before [`start`](Pump::start).
    pub fn inspect(self, look: impl FnMut(&Item) + 'static) -> Self {
        self.0.inspect.set(Some(Box::new(look)));
        self
    }

    /// Who is given the source's errors that [are not final](StreamError::is_final): a line that was too long, messages missed on a lossy queue.
    /// The pump goes on then. Without this, it fails.
    pub fn exception_handler(self, handler: ExceptionHandler) -> Self {
        self.0.exception.set(Some(handler));
        self
    }

    /// Who is given the outcome, at once if there is one.
    pub fn done_handler(&self, handler: impl FnOnce(Outcome) + 'static) {
        match self.outcome() {
            Some(outcome) => handler(outcome),
            None => self.0.ended.set(Some(Box::new(handler))),
        }
    }

    /// Begins to pump, or goes on after a [`stop`](Pump::stop). Does nothing if it runs, or has ended.
    pub fn start(&self) {
        self.0.start();
    }

    /// Lets go of source and sink, as they are; a source that the pump had paused is resumed. Nothing is lost: what the source
    /// has it keeps, until somebody wants it. Does nothing if it does not run.
    pub fn stop(&self) {
        if self.0.state.get() == State::Running {
            self.0.state.set(State::Stopped);
            self.0.let_go();
        }
    }

    /// Ends it now, with [`PumpError::Cancelled`]. What was handed to the sink is in the sink. Does nothing if it has ended.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// What cancels it from another thread.
    pub fn canceller(&self, events: &EventLoop) -> Canceller {
        events.canceller(&self.0)
    }

    /// Whether it is started, and neither stopped nor ended.
    pub fn is_running(&self) -> bool {
        self.0.state.get() == State::Running
    }

    /// Bytes handed to the sink so far.
    pub fn bytes_pumped(&self) -> u64 {
        self.0.bytes.get()
    }

    /// Items handed to the sink so far; moves, where the kernel moves the bytes.
    pub fn items_pumped(&self) -> u64 {
        self.0.items.get()
    }

    /// When the sink counts as full: see [`WriteStream::set_write_queue_max_size`].
    pub fn set_write_queue_max_size(&self, max: usize) {
        self.0.sink.set_write_queue_max_size(max);
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome.borrow().clone()
    }

    /// Drives `events`, and by that everything in it, until this pump has ended. [`None`]: it had not in time, and can be run again. A pump that is not
    /// started is: [`None`] as well, after the whole time.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if the system refuses to wait.
    pub fn run(&self, events: &EventLoop, wait: impl Into<Wait>) -> Result<Option<Outcome>, ChannelError> {
        let deadline = Deadline::of(wait.into());
        loop {
            if let Some(outcome) = self.outcome() {
                return Ok(Some(outcome));
            }
            if events.step(deadline.wait())? == 0 && deadline.has_passed() {
                return Ok(self.outcome());
            }
        }
    }
}

impl Inner {
    fn start(&self) {
        let Some(me) = self.me.upgrade().filter(|_| self.state.get() == State::Stopped) else {
            return;
        };
        self.state.set(State::Running);
        self.turn.set(self.turn.get() + 1);
        self.moved();
        let pump = self.me.clone();
        let failed: FailureListener = Rc::new(move |error| {
            if let Some(pump) = pump.upgrade() {
                pump.finish(Err(PumpError::Sink(error)));
            }
        });
        self.sink.failure_handler(Rc::downgrade(&failed));
        *self.sink_failed.borrow_mut() = Some(failed);
        // First what ends it: whoever is ended or has failed already may say so at once.
        let pump = me.clone();
        self.source
            .exception_handler(Some(Box::new(move |error| pump.source_failed(error))));
        let pump = me.clone();
        self.source.end_handler(Some(Box::new(move || pump.finish(Ok(())))));
        if self.state.get() != State::Running {
            return;
        }
        if self.sink.write_queue_full() {
            self.hold();
        }
        self.find_short_way();
        let pump = me;
        self.source.data_handler(Some(Box::new(move |item| pump.take(item))));
    }

    /// Where both ends are channels of one loop.
    fn find_short_way(&self) {
        let (source, sink): (&dyn Any, Rc<dyn Any>) = (&*self.source, self.sink.clone());
        let source = source.downcast_ref::<ChannelStream>();
        if let Some(source) = source {
            source.raise_to_read();
        }
        let sinks = match sink.downcast::<Tee>() {
            Ok(tee) => tee.channels(),
            Err(sink) => sink.downcast().ok().map(|sink| vec![sink]),
        };
        let (Some(source), Some(sinks)) = (source, sinks) else {
            return;
        };
        for sink in &sinks {
            sink.raise_to_write();
        }
        let look = self.inspect.is_set().then(|| {
            let pump = self.me.clone();
            Box::new(move |item: &Item| {
                if let Some(pump) = pump.upgrade() {
                    pump.inspect.call(|look| look(item));
                }
            }) as Look
        });
        let pump = self.me.clone();
        let count = move |items, bytes| {
            if let Some(pump) = pump.upgrade() {
                pump.count(items, bytes);
            }
        };
        source.set_direct(Direct::between(source, sinks, look, Box::new(count)));
    }

    fn count(&self, items: u64, bytes: u64) {
        self.items.set(self.items.get() + items);
        self.bytes.set(self.bytes.get() + bytes);
        self.moved();
    }

    /// Something moved.
    fn moved(&self) {
        if let Some(idle) = self.idle.get() {
            let last = Instant::now();
            self.idle.set(Some(Idle { last, ..idle }));
        }
    }

    fn take(&self, item: Item) {
        if self.state.get() != State::Running {
            return;
        }
        self.inspect.call(|look| look(&item));
        let bytes = item.bytes().len() as u64;
        if let Err(error) = self.sink.write(item) {
            return self.finish(Err(PumpError::Sink(error)));
        }
        self.count(1, bytes);
        // Writing, or looking, may have led to anything.
        if self.state.get() == State::Running && self.sink.write_queue_full() {
            self.hold();
        }
    }

    fn source_failed(&self, error: StreamError) {
        if error.is_final() || !self.exception.is_set() {
            self.finish(Err(PumpError::Source(error)));
        } else {
            self.exception.call(|handler| handler(error));
        }
    }

    /// No more, until the sink has drained.
    fn hold(&self) {
        if !self.is_holding.replace(true) {
            self.source.pause();
            self.wait_for_drain();
        }
    }

    fn wait_for_drain(&self) {
        let (pump, turn) = (self.me.clone(), self.turn.get());
        self.sink.drain_handler(Box::new(move |outcome| {
            if let Some(pump) = pump.upgrade().filter(|pump| pump.turn.get() == turn) {
                pump.drained(outcome);
            }
        }));
    }

    fn drained(&self, outcome: Result<(), StreamError>) {
        match outcome {
            Err(error) => self.finish(Err(PumpError::Sink(error))),
            // Another pump was faster.
            Ok(()) if self.sink.write_queue_full() => self.wait_for_drain(),
            Ok(()) => {
                self.moved();
                self.is_holding.set(false);
                self.source.resume();
            }
        }
    }

    /// Takes this pump's hands off both streams.
    fn let_go(&self) {
        self.turn.set(self.turn.get() + 1);
        *self.sink_failed.borrow_mut() = None;
        let source: &dyn Any = &*self.source;
        if let Some(source) = source.downcast_ref::<ChannelStream>() {
            source.set_direct(None);
        }
        self.source.data_handler(None);
        self.source.end_handler(None);
        self.source.exception_handler(None);
        if self.is_holding.replace(false) {
            self.source.resume();
        }
    }

    pub(super) fn cancel(&self) {
        self.finish(Err(PumpError::Cancelled));
    }

    fn finish(&self, result: Result<(), PumpError>) {
        let was = self.state.get();
        if matches!(was, State::Ending | State::Ended) {
            return;
        }
        self.state.set(State::Ending);
        // The handlers hold the pump; this call needs it a little longer.
        let Some(me) = self.me.upgrade() else { return };
        if was == State::Running {
            self.let_go();
        }
        let ends = match &result {
            Ok(()) => self.ends_on_success.get(),
            Err(_) => self.ends_on_failure.get(),
        };
        if !ends {
            return self.complete(result);
        }
        self.sink.end(Box::new(move |ended| {
            let result = result.and_then(|()| ended.map_err(PumpError::Sink));
            me.complete(result);
        }));
    }

    fn complete(&self, result: Result<(), PumpError>) {
        if self.state.replace(State::Ended) == State::Ended {
            return;
        }
        let outcome = Outcome {
            bytes: self.bytes.get(),
            items: self.items.get(),
            result,
        };
        *self.outcome.borrow_mut() = Some(outcome.clone());
        self.inspect.set(None);
        self.exception.set(None);
        if let Some(handler) = self.ended.take() {
            handler(outcome);
        }
    }

    /// Ends it if nothing was moved for too long. Else, when to look again.
    pub(super) fn look_at_clock(&self, now: Instant) -> Option<Instant> {
        let idle = self.idle.get()?;
        let due = match self.state.get() {
            State::Running => idle.last.checked_add(idle.limit)?,
            State::Stopped => now.checked_add(idle.limit)?,
            State::Ending | State::Ended => return None,
        };
        if due > now {
            return Some(due);
        }
        self.finish(Err(PumpError::Idle(idle.limit)));
        None
    }
}
