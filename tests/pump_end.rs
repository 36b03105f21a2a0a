//! How a pump ends: what Vert.x promises of Pipe, Pump's successor, with the right answer where the original is wrong; and what its users asked for.

mod pump_fakes;
mod support;

use pump_fakes::{Sink, Source, between, is_cancelled, running, sink_error, source_error, texts};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use support::minute;
use syncq::Wait;
use syncq::pump::{EventLoop, Pump, PumpError, StreamError};

#[test]
fn the_end_of_the_source_ends_the_sink_and_lets_go_of_the_source() {
    let (source, sink, pump) = running();
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
    let (source, sink, pump) = running();
    sink.is_slow_to_end.set(true);
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
    let (source, sink, pump) = running();
    sink.is_slow_to_end.set(true);
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
    let (source, sink, pump) = running();
    sink.max.set(1);
    source.emit("0");
    assert!(source.is_paused.get());
    sink.fail("reset");
    assert!(!source.is_paused.get());
    assert_eq!(sink_error(pump.outcome()), "reset");
}

#[test]
fn a_sink_that_fails_while_nothing_comes_fails_the_pump_at_once() {
    let (source, sink, pump) = running();
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
    let (source, sink, pump) = running();
    sink.is_slow_to_end.set(true);
    source.finish();
    assert!(pump.outcome().is_none());
    sink.acknowledge(Ok(()));
    assert!(pump.outcome().unwrap().result.is_ok());
}

#[test]
fn an_end_that_the_sink_does_not_get_done_fails_the_pump() {
    let (source, sink, pump) = running();
    sink.is_slow_to_end.set(true);
    source.finish();
    sink.acknowledge(Err(StreamError::new("could not flush")));
    assert_eq!(sink_error(pump.outcome()), "could not flush");
}

#[test]
fn cancelled_before_the_start_it_ends_without_having_touched_the_source() {
    let (source, sink) = (Source::new(), Sink::new());
    let pump = between(&source, &sink);
    pump.cancel();
    assert!(is_cancelled(&pump));
    assert_eq!((source.counts(), source.has_handlers()), ((0, 0), [false; 3]));
    pump.start();
    assert!(!pump.is_running());
}

#[test]
fn cancelled_while_the_sink_is_full_it_resumes_the_source_and_leaves_no_handler() {
    let (source, sink, pump) = running();
    sink.max.set(1);
    source.emit("0");
    assert!(source.is_paused.get());
    pump.cancel();
    assert!(!source.is_paused.get());
    assert_eq!(source.has_handlers(), [false; 3]);
    sink.drain();
    assert_eq!(source.counts(), (1, 1), "the drain handler means nobody any more");
    assert!(is_cancelled(&pump));
    assert_eq!(pump.outcome().unwrap().items, 1);
}

#[test]
fn cancelling_after_the_end_changes_nothing() {
    let (source, sink, pump) = running();
    sink.is_slow_to_end.set(true);
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
    assert!(is_cancelled(&handle));
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
    let (_source, _sink, pump) = running();
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
    let (source, _sink, pump) = running();
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
