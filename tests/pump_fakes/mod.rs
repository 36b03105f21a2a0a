//! Streams in the test's hand: fakes whose every move the test makes.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use syncq::pump::{
    DataHandler, Done, EndHandler, ExceptionHandler, FailureHandler, Item, Outcome, Pump, PumpError, ReadStream,
    StreamError, WriteStream,
};

/// A source in the test's hand. As the contract says, it keeps what it cannot deliver.
#[derive(Default)]
pub struct Source {
    pub waiting: RefCell<Vec<Item>>,
    pub is_paused: Cell<bool>,
    pub pauses: Cell<u32>,
    pub resumes: Cell<u32>,
    pub is_over: Cell<bool>,
    pub data: RefCell<Option<Rc<RefCell<DataHandler>>>>,
    pub end: RefCell<Option<EndHandler>>,
    pub exception: RefCell<Option<ExceptionHandler>>,
}

impl Source {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn emit(&self, item: &str) {
        self.waiting.borrow_mut().push(item.into());
        self.deliver();
    }

    pub fn deliver(&self) {
        while !self.is_paused.get() && !self.waiting.borrow().is_empty() {
            let Some(handler) = self.data.borrow().clone() else {
                return;
            };
            let item = self.waiting.borrow_mut().remove(0);
            let Ok(mut handler) = handler.try_borrow_mut() else {
                return;
            };
            handler(item);
        }
    }

    pub fn finish(&self) {
        self.is_over.set(true);
        let handler = self.end.borrow_mut().take();
        if let Some(mut handler) = handler {
            handler();
        }
    }

    pub fn fail(&self, error: &str) {
        let handler = self.exception.borrow_mut().take();
        if let Some(mut handler) = handler {
            handler(StreamError::new(error.to_owned()));
        }
    }

    pub fn counts(&self) -> (u32, u32) {
        (self.pauses.get(), self.resumes.get())
    }

    pub fn has_handlers(&self) -> [bool; 3] {
        [
            self.data.borrow().is_some(),
            self.end.borrow().is_some(),
            self.exception.borrow().is_some(),
        ]
    }
}

impl ReadStream for Source {
    fn data_handler(&self, handler: Option<DataHandler>) {
        let old = self.data.replace(handler.map(|handler| Rc::new(RefCell::new(handler))));
        drop(old);
        self.deliver();
    }
    fn end_handler(&self, handler: Option<EndHandler>) {
        drop(self.end.replace(handler));
    }
    fn exception_handler(&self, handler: Option<ExceptionHandler>) {
        drop(self.exception.replace(handler));
    }
    fn pause(&self) {
        self.is_paused.set(true);
        self.pauses.set(self.pauses.get() + 1);
    }
    fn resume(&self) {
        self.is_paused.set(false);
        self.resumes.set(self.resumes.get() + 1);
        self.deliver();
    }
}

/// A sink in the test's hand: it drains when told to.
#[derive(Default)]
pub struct Sink {
    pub items: RefCell<Vec<Item>>,
    pub max: Cell<usize>,
    pub is_full: Cell<bool>,
    pub fails_with: RefCell<Option<StreamError>>,
    pub ends: Cell<u32>,
    /// The end waits until the test acknowledges it.
    pub is_slow_to_end: Cell<bool>,
    pub ending: RefCell<Vec<Done>>,
    pub waiting: RefCell<Vec<Done>>,
    pub listeners: RefCell<Vec<FailureHandler>>,
}

impl Sink {
    pub fn new() -> Rc<Self> {
        let sink = Sink::default();
        sink.max.set(1000);
        Rc::new(sink)
    }

    pub fn texts(&self) -> Vec<String> {
        let items = self.items.borrow();
        items
            .iter()
            .map(|item| String::from_utf8(item.bytes().to_vec()).unwrap())
            .collect()
    }

    pub fn drain(&self) {
        self.items.borrow_mut().clear();
        self.is_full.set(false);
        while !self.is_full.get() && !self.waiting.borrow().is_empty() {
            let handler = self.waiting.borrow_mut().remove(0);
            handler(Ok(()));
        }
    }

    pub fn fail(&self, error: &str) {
        let error = StreamError::new(error.to_owned());
        *self.fails_with.borrow_mut() = Some(error.clone());
        self.is_full.set(false);
        for listener in self.listeners.take().iter().filter_map(|one| one.upgrade()) {
            listener(error.clone());
        }
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(|handler| handler(Err(error.clone())));
    }

    pub fn acknowledge(&self, outcome: Result<(), StreamError>) {
        let ending = self.ending.take();
        ending.into_iter().for_each(|done| done(outcome.clone()));
    }
}

impl WriteStream for Sink {
    fn write(&self, item: Item) -> Result<(), StreamError> {
        if let Some(error) = &*self.fails_with.borrow() {
            return Err(error.clone());
        }
        self.items.borrow_mut().push(item);
        self.is_full
            .set(self.is_full.get() || self.items.borrow().len() >= self.max.get());
        Ok(())
    }
    fn write_queue_full(&self) -> bool {
        self.is_full.get()
    }
    fn set_write_queue_max_size(&self, max: usize) {
        self.max.set(max);
    }
    fn drain_handler(&self, handler: Done) {
        self.waiting.borrow_mut().push(handler);
    }
    fn exception_handler(&self, _: Option<ExceptionHandler>) {}
    fn failure_handler(&self, handler: FailureHandler) {
        self.listeners.borrow_mut().push(handler);
    }
    fn end(&self, done: Done) {
        self.ends.set(self.ends.get() + 1);
        match self.is_slow_to_end.get() {
            true => self.ending.borrow_mut().push(done),
            false => done(self.fails_with.borrow().clone().map_or(Ok(()), Err)),
        }
    }
}

pub fn between(source: &Rc<Source>, sink: &Rc<Sink>) -> Pump {
    Pump::new(source.clone(), sink.clone())
}

/// A source and a sink, and a pump between them that runs.
pub fn running() -> (Rc<Source>, Rc<Sink>, Pump) {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    (source, sink, pump)
}

/// Whether it has ended because it was cancelled.
pub fn is_cancelled(pump: &Pump) -> bool {
    matches!(pump.outcome().expect("it has ended").result, Err(PumpError::Cancelled))
}

pub fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

pub fn source_error(outcome: Option<Outcome>) -> String {
    match outcome.expect("it has ended").result {
        Err(PumpError::Source(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

pub fn sink_error(outcome: Option<Outcome>) -> String {
    match outcome.expect("it has ended").result {
        Err(PumpError::Sink(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}
