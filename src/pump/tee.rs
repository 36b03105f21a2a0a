//! One stream into several sinks.

use super::stream::{Done, ExceptionHandler, FailureHandler, Slot};
use super::{ChannelStream, Item, StreamError, WriteStream};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// A sink that writes everything into several sinks. It is as fast as the slowest of them.
///
/// It is full while one of them is, and has ended when all have acknowledged the end. When one fails, the tee fails, so that
/// nobody takes half a stream for a whole one; unless it was told to [go on with the others](Tee::drop_failed).
///
/// From a pipe or socket into pipes and non-blocking Unix sockets, large pieces are not copied: the kernel doubles them.
///
/// ```
/// use syncq::Wait;
/// use syncq::channel::{Channel, PipeChannel};
/// use syncq::pump::{EventLoop, Pump, Tee};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let events = EventLoop::new()?;
/// let (source, mut start) = PipeChannel::pipe()?;
/// let (mut first, into_first) = PipeChannel::pipe()?;
/// let (mut second, into_second) = PipeChannel::pipe()?;
/// let tee = Tee::new([events.add(into_first) as _, events.add(into_second) as _]);
/// let pump = Pump::new(events.add(source), tee);
/// pump.start();
/// start.write(b"to both", Wait::Never)?;
/// drop(start);
/// assert!(pump.run(&events, Wait::Forever)?.unwrap().result.is_ok());
/// assert_eq!(first.read(Wait::Never)?.bytes(), b"to both");
/// assert_eq!(second.read(Wait::Never)?.bytes(), b"to both");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tee {
    me: Weak<Tee>,
    sinks: Vec<Sink>,
    goes_on: Cell<bool>,
    is_ended: Cell<bool>,
    failure: RefCell<Option<StreamError>>,
    exception: Slot<dyn FnMut(StreamError)>,
    on_failure: RefCell<Vec<FailureHandler>>,
}

struct Sink {
    stream: Rc<dyn WriteStream>,
    failure: RefCell<Option<StreamError>>,
    /// Held here, so that it is told of the failure as long as this is.
    failed: Rc<dyn Fn(StreamError)>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Tee {
    /// One into these sinks. Into none, everything is thrown away.
    pub fn new(sinks: impl IntoIterator<Item = Rc<dyn WriteStream>>) -> Rc<Self> {
        let tee = Rc::new_cyclic(|me: &Weak<Tee>| {
            let sink = |(at, stream)| {
                let me = me.clone();
                Sink {
                    stream,
                    failure: RefCell::new(None),
                    failed: Rc::new(move |error| {
                        if let Some(me) = me.upgrade() {
                            me.sink_failed(at, error);
                        }
                    }),
                }
            };
            Tee {
                me: me.clone(),
                sinks: sinks.into_iter().enumerate().map(sink).collect(),
                goes_on: Cell::new(false),
                is_ended: Cell::new(false),
                failure: RefCell::new(None),
                exception: Slot::default(),
                on_failure: RefCell::default(),
            }
        });
        for sink in &tee.sinks {
            sink.stream.failure_handler(Rc::downgrade(&sink.failed));
        }
        tee
    }

    /// Whether it goes on with the others when one sink has failed. Only when all have, the tee has failed then. It does not, if nothing
    /// was said.
    pub fn drop_failed(self: Rc<Self>, yes: bool) -> Rc<Self> {
        self.goes_on.set(yes);
        self
    }

    /// What went wrong with each sink, in the order in which they were given.
    pub fn failures(&self) -> Vec<Option<StreamError>> {
        self.sinks.iter().map(|sink| sink.failure.borrow().clone()).collect()
    }

    /// The sinks that have not failed, if all of them are channels.
    pub(super) fn channels(&self) -> Option<Vec<Rc<ChannelStream>>> {
        let channels = self.alive().map(|(_, sink)| {
            let sink: Rc<dyn Any> = sink.stream.clone();
            sink.downcast().ok()
        });
        channels.collect()
    }

    fn alive(&self) -> impl Iterator<Item = (usize, &Sink)> {
        let sinks = self.sinks.iter().enumerate();
        sinks.filter(|(_, sink)| sink.failure.borrow().is_none())
    }

    fn sink_failed(&self, at: usize, error: StreamError) {
        let is_news = self.sinks[at].failure.replace(Some(error.clone())).is_none();
        if !is_news || self.goes_on.get() && self.alive().next().is_some() {
            return;
        }
        if self.failure.borrow().is_some() {
            return;
        }
        *self.failure.borrow_mut() = Some(error.clone());
        self.exception.call(|handler| handler(error.clone()));
        let listeners = self.on_failure.take();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener(error.clone());
        }
    }

    fn check(&self) -> Result<(), StreamError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }
}

impl WriteStream for Tee {
    fn write(&self, item: Item) -> Result<(), StreamError> {
        self.check()?;
        let alive: Vec<usize> = self.alive().map(|(at, _)| at).collect();
        let Some((last, others)) = alive.split_last() else {
            return Ok(());
        };
        for at in others {
            if let Err(error) = self.sinks[*at].stream.write(item.clone()) {
                self.sink_failed(*at, error);
            }
        }
        if let Err(error) = self.sinks[*last].stream.write(item) {
            self.sink_failed(*last, error);
        }
        self.check()
    }

    fn write_queue_full(&self) -> bool {
        self.failure.borrow().is_none() && self.alive().any(|(_, sink)| sink.stream.write_queue_full())
    }

    /// Of each of the sinks.
    fn set_write_queue_max_size(&self, max: usize) {
        for (_, sink) in self.alive() {
            sink.stream.set_write_queue_max_size(max);
        }
    }

    fn drain_handler(&self, handler: Done) {
        let full = self.alive().find(|(_, sink)| sink.stream.write_queue_full());
        let one = full.or_else(|| self.alive().next());
        let (Some((at, sink)), None) = (one, &*self.failure.borrow()) else {
            return handler(self.check());
        };
        // When this one has drained, another one may still be full.
        let me = self.me.clone();
        sink.stream.drain_handler(Box::new(move |outcome| {
            let Some(me) = me.upgrade() else { return };
            if let Err(error) = outcome {
                me.sink_failed(at, error);
            }
            match me.check() {
                Ok(()) if me.write_queue_full() => me.drain_handler(handler),
                outcome => handler(outcome),
            }
        }));
    }

    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        self.exception.set(handler);
    }

    fn failure_handler(&self, handler: FailureHandler) {
        match self.check() {
            Ok(()) => self.on_failure.borrow_mut().push(handler),
            Err(error) => {
                if let Some(handler) = handler.upgrade() {
                    handler(error);
                }
            }
        }
    }

    /// Ends all of them, also those beside one that has failed.
    fn end(&self, done: Done) {
        self.is_ended.set(true);
        let alive: Vec<usize> = self.alive().map(|(at, _)| at).collect();
        if alive.is_empty() {
            return done(self.check());
        }
        let left = Rc::new((Cell::new(alive.len()), Cell::new(Some(done))));
        for at in alive {
            let (me, left) = (self.me.clone(), left.clone());
            self.sinks[at].stream.end(Box::new(move |outcome| {
                let me = me.upgrade();
                if let (Err(error), Some(me)) = (outcome, &me) {
                    me.sink_failed(at, error);
                }
                left.0.set(left.0.get() - 1);
                if left.0.get() == 0
                    && let Some(done) = left.1.take()
                {
                    done(me.map_or(Ok(()), |me| me.check()));
                }
            }));
        }
    }
}
