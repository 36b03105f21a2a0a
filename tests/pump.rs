//! What Vert.x promises of its Pump and its successor Pipe, in black-box words, with the right answer where the original is wrong.
//!
//! The streams here are fakes whose every move the test makes; for channels see `pump_streams`.

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use support::minute;
use syncq::Wait;
use syncq::pump::{
    DataHandler, Done, EndHandler, EventLoop, ExceptionHandler, FailureHandler, Item, Outcome, Pump, PumpError,
    ReadStream, StreamError, Tee, WriteStream,
};

/// A source in the test's hand. As the contract says, it keeps what it cannot deliver.
#[derive(Default)]
struct Source {
    waiting: RefCell<Vec<Item>>,
    is_paused: Cell<bool>,
    pauses: Cell<u32>,
    resumes: Cell<u32>,
    is_over: Cell<bool>,
    data: RefCell<Option<Rc<RefCell<DataHandler>>>>,
    end: RefCell<Option<EndHandler>>,
    exception: RefCell<Option<ExceptionHandler>>,
}

impl Source {
    fn new() -> Rc<Self> {
        Rc::default()
    }

    fn emit(&self, item: &str) {
        self.waiting.borrow_mut().push(item.into());
        self.deliver();
    }

    fn deliver(&self) {
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

    fn finish(&self) {
        self.is_over.set(true);
        let handler = self.end.borrow_mut().take();
        if let Some(mut handler) = handler {
            handler();
        }
    }

    fn fail(&self, error: &str) {
        let handler = self.exception.borrow_mut().take();
        if let Some(mut handler) = handler {
            handler(StreamError::new(error.to_owned()));
        }
    }

    fn counts(&self) -> (u32, u32) {
        (self.pauses.get(), self.resumes.get())
    }

    fn has_handlers(&self) -> [bool; 3] {
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
struct Sink {
    items: RefCell<Vec<Item>>,
    max: Cell<usize>,
    is_full: Cell<bool>,
    fails_with: RefCell<Option<StreamError>>,
    ends: Cell<u32>,
    /// The end waits until the test acknowledges it.
    is_slow_to_end: Cell<bool>,
    ending: RefCell<Vec<Done>>,
    waiting: RefCell<Vec<Done>>,
    listeners: RefCell<Vec<FailureHandler>>,
}

impl Sink {
    fn new() -> Rc<Self> {
        let sink = Sink::default();
        sink.max.set(1000);
        Rc::new(sink)
    }

    fn texts(&self) -> Vec<String> {
        let items = self.items.borrow();
        items
            .iter()
            .map(|item| String::from_utf8(item.bytes().to_vec()).unwrap())
            .collect()
    }

    fn drain(&self) {
        self.items.borrow_mut().clear();
        self.is_full.set(false);
        while !self.is_full.get() && !self.waiting.borrow().is_empty() {
            let handler = self.waiting.borrow_mut().remove(0);
            handler(Ok(()));
        }
    }

    fn fail(&self, error: &str) {
        let error = StreamError::new(error.to_owned());
        *self.fails_with.borrow_mut() = Some(error.clone());
        self.is_full.set(false);
        for listener in self.listeners.take().iter().filter_map(|one| one.upgrade()) {
            listener(error.clone());
        }
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(|handler| handler(Err(error.clone())));
    }

    fn acknowledge(&self, outcome: Result<(), StreamError>) {
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

fn between(source: &Rc<Source>, sink: &Rc<Sink>) -> Pump {
    Pump::new(source.clone(), sink.clone())
}

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn source_error(outcome: Option<Outcome>) -> String {
    match outcome.expect("it has ended").result {
        Err(PumpError::Source(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn sink_error(outcome: Option<Outcome>) -> String {
    match outcome.expect("it has ended").result {
        Err(PumpError::Sink(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

// Vert.x: PumpTest

#[test]
fn what_is_emitted_while_it_runs_is_in_the_sink_and_nothing_is_paused_for_it() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.set_write_queue_max_size(1001);
    for round in 0..10 {
        pump.start();
        texts(0..10).iter().for_each(|text| source.emit(text));
        assert_eq!(sink.texts(), texts(0..10));
        assert_eq!((source.is_paused.get(), source.counts()), (false, (0, 0)));
        pump.stop();
        sink.items.borrow_mut().clear();
        source.emit("while it is stopped");
        assert!(sink.items.borrow().is_empty());
        // The original loses it. Here it waits, and comes first in the next round.
        assert_eq!(source.waiting.take().len(), 1);
        assert_eq!(pump.items_pumped(), 10 * (round + 1));
        assert_eq!(pump.bytes_pumped(), 10 * (round + 1));
    }
}

#[test]
fn the_source_is_paused_when_the_sink_is_full_and_resumed_when_it_has_drained() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.set_write_queue_max_size(5);
    pump.start();
    for round in 0..10 {
        for n in 0..4 {
            source.emit(&n.to_string());
            assert_eq!((source.is_paused.get(), source.counts()), (false, (round, round)));
        }
        source.emit("4");
        assert_eq!((source.is_paused.get(), source.counts()), (true, (round + 1, round)));
        assert_eq!(sink.texts(), texts(0..5));
        sink.drain();
        assert_eq!(
            (source.is_paused.get(), source.counts()),
            (false, (round + 1, round + 1))
        );
    }
}

#[test]
fn items_that_come_while_it_is_stopped_are_pumped_after_the_next_start() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    pump.stop();
    source.emit("1");
    pump.start();
    source.emit("2");
    assert_eq!(sink.texts(), texts(0..3));
}

#[test]
fn starting_and_stopping_twice_is_as_good_as_once() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.stop();
    pump.start();
    pump.start();
    source.emit("0");
    assert_eq!((sink.texts(), pump.is_running()), (texts(0..1), true));
    pump.stop();
    pump.stop();
    assert!(!pump.is_running());
    assert_eq!(source.has_handlers(), [false; 3]);
}

#[test]
fn stopped_while_paused_and_drained_meanwhile_it_goes_on_when_started_again() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.set_write_queue_max_size(2);
    pump.start();
    source.emit("0");
    source.emit("1");
    assert!(source.is_paused.get());
    pump.stop();
    assert!(!source.is_paused.get(), "the source is handed back as it was");
    sink.drain();
    pump.start();
    source.emit("2");
    assert_eq!(sink.texts(), ["2"]);
    // And started again before the sink has drained, it waits for that.
    source.emit("3");
    pump.stop();
    pump.start();
    assert!(source.is_paused.get());
    source.emit("4");
    assert_eq!(sink.texts(), ["2", "3"]);
    sink.drain();
    assert_eq!(sink.texts(), ["4"]);
}

#[test]
fn a_drain_that_is_meant_for_an_earlier_start_changes_nothing() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.set_write_queue_max_size(1);
    pump.start();
    source.emit("0");
    let stale = sink.waiting.take();
    pump.stop();
    pump.start();
    assert!(source.is_paused.get());
    stale.into_iter().for_each(|handler| handler(Ok(())));
    assert!(source.is_paused.get());
    sink.drain();
    assert!(!source.is_paused.get());
}

#[test]
fn a_sink_that_is_full_before_the_start_gets_nothing_before_it_has_drained() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_full.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    assert!(sink.items.borrow().is_empty());
    sink.drain();
    assert_eq!(sink.texts(), texts(0..1));
}

#[test]
fn two_pumps_into_one_sink_both_go_on_when_it_has_drained() {
    let (one, other, sink) = (Source::new(), Source::new(), Sink::new());
    sink.max.set(2);
    let first = between(&one, &sink).end_on_success(false);
    let second = between(&other, &sink).end_on_success(false);
    first.start();
    second.start();
    for round in 1..=100 {
        one.emit("a");
        other.emit("b");
        // The second filled it, and was paused; the first is paused by its next item.
        assert_eq!((one.is_paused.get(), other.is_paused.get()), (false, true));
        one.emit("a");
        assert!(one.is_paused.get());
        sink.drain();
        assert_eq!((one.is_paused.get(), other.is_paused.get()), (false, false), "{round}");
    }
    one.finish();
    other.emit("b");
    other.finish();
    assert_eq!((first.items_pumped(), second.items_pumped()), (200, 101));
    assert_eq!(sink.ends.get(), 0);
}

#[test]
fn who_is_told_of_room_that_another_one_has_filled_waits_again() {
    let (one, other, sink) = (Source::new(), Source::new(), Sink::new());
    sink.max.set(1);
    let (first, second) = (between(&one, &sink), between(&other, &sink));
    sink.is_full.set(true);
    first.start();
    second.start();
    one.emit("a");
    one.emit("a");
    other.emit("b");
    // The first is told first, and its source delivers at once and fills the sink.
    sink.drain();
    assert_eq!(sink.texts(), ["a"]);
    sink.drain();
    assert_eq!(sink.texts(), ["b"]);
    sink.drain();
    assert_eq!(sink.texts(), ["a"]);
    assert_eq!((one.is_paused.get(), other.is_paused.get()), (true, true));
    // A sink that tells all of them at once does no harm either: one item too many is as far as it goes.
    other.waiting.borrow_mut().push("b".into());
    sink.items.borrow_mut().clear();
    sink.is_full.set(false);
    let both = sink.waiting.take();
    one.waiting.borrow_mut().push("a".into());
    both.into_iter().for_each(|handler| handler(Ok(())));
    assert_eq!(sink.texts().len(), 1);
    assert_eq!((one.is_paused.get(), other.is_paused.get()), (true, true));
}

#[test]
fn counters_do_not_wrap_at_31_bits_and_count_what_was_handed_over() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    let large = "x".repeat(1 << 20);
    for _ in 0..2100 {
        source.emit(&large);
        sink.items.borrow_mut().clear();
    }
    assert_eq!(pump.bytes_pumped(), 2100 << 20);
    *sink.fails_with.borrow_mut() = Some(StreamError::new("gone"));
    source.emit("not handed over");
    assert_eq!((pump.items_pumped(), pump.bytes_pumped()), (2100, 2100 << 20));
}

// Vert.x: PipeTest

#[test]
fn the_end_of_the_source_ends_the_sink_and_lets_go_of_the_source() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    texts(0..3).iter().for_each(|text| source.emit(text));
    source.finish();
    let outcome = pump.outcome().expect("it has ended");
    assert!(outcome.result.is_ok());
    assert_eq!((outcome.items, outcome.bytes), (3, 3));
    assert_eq!((sink.texts(), sink.ends.get()), (texts(0..3), 1));
    assert_eq!(source.has_handlers(), [false; 3]);
    pump.start();
    assert!(!pump.is_running(), "what has ended is not started again");
}

#[test]
fn a_failing_source_ends_the_sink_and_the_pump_fails_with_that_very_error() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_slow_to_end.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    source.fail("broken");
    assert!(pump.outcome().is_none(), "not before the sink has acknowledged its end");
    assert_eq!(sink.ends.get(), 1);
    // How the sink ends does not matter any more.
    sink.acknowledge(Err(StreamError::new("the end failed too")));
    assert_eq!(source_error(pump.outcome()), "broken");
    assert_eq!(pump.outcome().unwrap().items, 1);
    assert_eq!(sink.texts(), texts(0..1));
}

#[test]
fn without_end_on_failure_the_sink_is_left_open_when_the_source_fails() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink).end_on_failure(false);
    pump.start();
    source.fail("broken");
    assert_eq!((source_error(pump.outcome()), sink.ends.get()), ("broken".into(), 0));
}

#[test]
fn without_end_on_success_the_sink_is_left_open_when_the_source_ends() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink).end_on_success(false);
    pump.start();
    source.emit("0");
    source.finish();
    assert!(pump.outcome().unwrap().result.is_ok());
    assert_eq!((sink.texts(), sink.ends.get()), (texts(0..1), 0));
}

#[test]
fn a_failing_write_fails_the_pump_releases_the_source_and_ends_the_sink() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_slow_to_end.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    *sink.fails_with.borrow_mut() = Some(StreamError::new("disk full"));
    source.emit("1");
    assert_eq!((source.is_paused.get(), sink.ends.get()), (false, 1));
    assert_eq!(source.has_handlers(), [false; 3]);
    sink.acknowledge(Ok(()));
    assert_eq!(sink_error(pump.outcome()), "disk full");
    assert_eq!(pump.outcome().unwrap().items, 1);
}

#[test]
fn a_sink_that_fails_while_it_is_full_releases_the_paused_source() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.max.set(1);
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    assert!(source.is_paused.get());
    sink.fail("reset");
    assert!(!source.is_paused.get());
    assert_eq!(sink_error(pump.outcome()), "reset");
}

#[test]
fn a_sink_that_fails_while_nothing_comes_fails_the_pump_at_once() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    sink.fail("reset");
    assert_eq!(sink_error(pump.outcome()), "reset");
    assert_eq!(source.has_handlers(), [false; 3]);
}

#[test]
fn all_pumps_into_a_sink_are_told_that_it_failed() {
    let (one, other, sink) = (Source::new(), Source::new(), Sink::new());
    let (first, second) = (between(&one, &sink), between(&other, &sink));
    first.start();
    second.start();
    sink.fail("reset");
    assert_eq!(sink_error(first.outcome()), "reset");
    assert_eq!(sink_error(second.outcome()), "reset");
}

#[test]
fn the_result_comes_when_the_sink_has_acknowledged_its_end() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_slow_to_end.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.finish();
    assert!(pump.outcome().is_none());
    sink.acknowledge(Ok(()));
    assert!(pump.outcome().unwrap().result.is_ok());
}

#[test]
fn an_end_that_the_sink_does_not_get_done_fails_the_pump() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_slow_to_end.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.finish();
    sink.acknowledge(Err(StreamError::new("could not flush")));
    assert_eq!(sink_error(pump.outcome()), "could not flush");
}

#[test]
fn cancelled_before_the_start_it_ends_without_having_touched_the_source() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.cancel();
    assert!(matches!(pump.outcome().unwrap().result, Err(PumpError::Cancelled)));
    assert_eq!((source.counts(), source.has_handlers()), ((0, 0), [false; 3]));
    pump.start();
    assert!(!pump.is_running());
}

#[test]
fn cancelled_while_the_sink_is_full_it_resumes_the_source_and_leaves_no_handler() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.max.set(1);
    let pump = between(&source, &sink);
    pump.start();
    source.emit("0");
    assert!(source.is_paused.get());
    pump.cancel();
    assert!(!source.is_paused.get());
    assert_eq!(source.has_handlers(), [false; 3]);
    sink.drain();
    assert_eq!(source.counts(), (1, 1), "the drain handler means nobody any more");
    assert!(matches!(pump.outcome().unwrap().result, Err(PumpError::Cancelled)));
    assert_eq!(pump.outcome().unwrap().items, 1);
}

#[test]
fn cancelling_after_the_end_changes_nothing() {
    let (source, sink) = (Source::new(), Sink::new());
    sink.is_slow_to_end.set(true);
    let pump = between(&source, &sink);
    pump.start();
    source.finish();
    pump.cancel();
    sink.acknowledge(Ok(()));
    pump.cancel();
    assert!(pump.outcome().unwrap().result.is_ok());
    assert_eq!(sink.ends.get(), 1);
}

#[test]
fn there_is_one_outcome_and_the_handler_gets_it_once() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    pump.done_handler(move |_| count.set(count.get() + 1));
    pump.start();
    pump.cancel();
    source.finish();
    source.fail("too late");
    pump.cancel();
    assert_eq!(told.get(), 1);
    let count = told.clone();
    pump.done_handler(move |outcome| {
        assert!(matches!(outcome.result, Err(PumpError::Cancelled)));
        count.set(count.get() + 1);
    });
    assert_eq!(told.get(), 2, "who asks late is told at once");
}

#[test]
fn a_handler_may_stop_cancel_and_start_the_pump_that_called_it() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump: Rc<RefCell<Option<Pump>>> = Rc::default();
    let (inside, seen) = (pump.clone(), Rc::new(Cell::new(0)));
    let count = seen.clone();
    *pump.borrow_mut() = Some(between(&source, &sink).inspect(move |_| {
        count.set(count.get() + 1);
        let pump = inside.borrow().clone().unwrap();
        match count.get() {
            1 => {
                pump.stop();
                pump.start();
            }
            2 => pump.cancel(),
            _ => panic!("called after the end"),
        }
    }));
    let handle = pump.borrow().clone().unwrap();
    handle.start();
    for n in 0..4 {
        source.emit(&n.to_string());
    }
    assert_eq!(seen.get(), 2);
    assert!(matches!(handle.outcome().unwrap().result, Err(PumpError::Cancelled)));
    pump.borrow_mut().take();
}

#[test]
fn an_error_that_is_not_final_goes_to_the_handler_and_the_pump_goes_on() {
    // Made by a channel: a line that is too long.
    use syncq::channel::{Buffering, Channel, LineOptions, PipeChannel};
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let (end, mut start) = PipeChannel::pipe().unwrap();
    let lines = LineOptions::default().max_line(8);
    start
        .write(b"short\nmuch too long a line\nlast\n", Wait::Never)
        .unwrap();
    drop(start);
    let (sink, seen) = (Sink::new(), Rc::new(Cell::new(0)));
    let count = seen.clone();
    let source = events.add(end.with_buffering(Buffering::Lines(lines)));
    let pump = Pump::new(source, sink.clone()).exception_handler(Box::new(move |error| {
        assert!(!error.is_final());
        count.set(count.get() + 1);
    }));
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(outcome.result.is_ok());
    assert_eq!((sink.texts(), seen.get()), (vec!["short\n".into(), "last\n".into()], 1));
}

// What users asked for

#[test]
fn a_pump_through_which_nothing_goes_for_too_long_fails() {
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let (source, sink) = (Source::new(), Sink::new());
    let limit = Duration::from_millis(60);
    let pump = between(&source, &sink).idle_timeout(&events, limit);
    pump.start();
    let begin = Instant::now();
    for n in 0..4 {
        events.step(Wait::For(Duration::from_millis(30))).unwrap();
        source.emit(&n.to_string());
    }
    let last = Instant::now();
    assert!(begin.elapsed() >= Duration::from_millis(120));
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(
        matches!(outcome.result, Err(PumpError::Idle(time)) if time == limit),
        "{outcome:?}"
    );
    // On a machine that is busy for longer than the limit, it may rightly have failed earlier.
    assert!(outcome.items < 4 || last.elapsed() >= Duration::from_millis(55));
    assert_eq!(sink.ends.get(), 1);
}

#[test]
fn another_thread_cancels_a_pump_in_a_sleeping_loop() {
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    let canceller = pump.canceller(&events);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        canceller.cancel();
        canceller.cancel();
    });
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(matches!(outcome.result, Err(PumpError::Cancelled)));
    thread.join().unwrap();
}

#[test]
fn running_a_pump_ends_when_its_time_is_over_and_goes_on_later() {
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    assert!(pump.run(&events, Wait::Never).unwrap().is_none());
    let begin = Instant::now();
    assert!(
        pump.run(&events, Wait::For(Duration::from_millis(20)))
            .unwrap()
            .is_none()
    );
    assert!(begin.elapsed() >= Duration::from_millis(20));
    source.finish();
    assert!(pump.run(&events, Wait::Never).unwrap().is_some());
}

// One stream into several sinks

#[test]
fn a_tee_writes_everything_into_every_sink_at_the_pace_of_the_slowest() {
    let source = Source::new();
    let (fast, slow) = (Sink::new(), Sink::new());
    slow.max.set(2);
    let pump = Pump::new(source.clone(), Tee::new([fast.clone() as _, slow.clone() as _]));
    pump.start();
    for n in 0..4 {
        source.emit(&n.to_string());
    }
    assert_eq!((fast.texts(), slow.texts()), (texts(0..2), texts(0..2)));
    assert!(source.is_paused.get());
    slow.drain();
    assert_eq!((fast.texts(), slow.texts()), (texts(0..4), texts(2..4)));
    slow.is_slow_to_end.set(true);
    slow.drain();
    source.finish();
    assert_eq!((fast.ends.get(), slow.ends.get()), (1, 1));
    assert!(pump.outcome().is_none(), "one has not acknowledged the end");
    slow.acknowledge(Ok(()));
    assert!(pump.outcome().unwrap().result.is_ok());
}

#[test]
fn a_tee_drains_only_when_no_sink_is_full_any_more() {
    let source = Source::new();
    let (one, other) = (Sink::new(), Sink::new());
    one.max.set(1);
    other.max.set(1);
    let pump = Pump::new(source.clone(), Tee::new([one.clone() as _, other.clone() as _]));
    pump.start();
    source.emit("0");
    one.drain();
    assert!(source.is_paused.get());
    other.drain();
    assert!(!source.is_paused.get());
}

#[test]
fn a_tee_fails_with_its_first_sink_or_goes_on_with_the_others() {
    let source = Source::new();
    let (good, bad) = (Sink::new(), Sink::new());
    let pump = Pump::new(source.clone(), Tee::new([bad.clone() as _, good.clone() as _]));
    pump.start();
    source.emit("0");
    bad.fail("reset");
    assert_eq!(sink_error(pump.outcome()), "reset");
    assert_eq!(good.ends.get(), 1);

    let source = Source::new();
    let (good, bad) = (Sink::new(), Sink::new());
    bad.max.set(1);
    let tee = Tee::new([bad.clone() as _, good.clone() as _]).drop_failed(true);
    let pump = Pump::new(source.clone(), tee.clone());
    pump.start();
    source.emit("0");
    assert!(source.is_paused.get());
    bad.fail("reset");
    source.emit("1");
    assert_eq!(good.texts(), texts(0..2));
    let failures = tee.failures();
    assert!(failures[0].is_some() && failures[1].is_none());
    good.fail("the last one");
    assert_eq!(sink_error(pump.outcome()), "the last one");
}

// A schedule nobody would think of

#[test]
fn a_random_schedule_of_pauses_and_resumes_delivers_all_in_order() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.start();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut sent, mut seen) = (0u32, Vec::new());
    while sent < 100_000 || !source.waiting.borrow().is_empty() {
        match next(8) {
            0 => {
                seen.extend(sink.texts());
                sink.drain();
            }
            1 => pump.stop(),
            2 | 3 => pump.start(),
            4 => sink.max.set(1 + next(20) as usize),
            _ => {
                for _ in 0..next(5) {
                    if sent < 100_000 {
                        source.emit(&sent.to_string());
                        sent += 1;
                    }
                }
            }
        }
    }
    pump.start();
    source.finish();
    seen.extend(sink.texts());
    assert_eq!(pump.items_pumped(), 100_000);
    assert!(seen.iter().map(|text| text.parse::<u32>().unwrap()).eq(0..100_000));
    assert!(pump.outcome().unwrap().result.is_ok());
}
