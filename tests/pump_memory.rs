//! A stream in memory, as Vert.x's tests of its buffers and of its test double describe one; with the right answer where the
//! original is wrong.

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use syncq::Wait;
use syncq::pump::{EventLoop, Item, MemoryStream, Pump, ReadStream, StreamError, WriteStream};

struct Bench {
    events: EventLoop,
    stream: Rc<MemoryStream>,
    seen: Rc<RefCell<Vec<String>>>,
    drained: Rc<Cell<u32>>,
    ended: Rc<Cell<u32>>,
}

fn text(item: Item) -> String {
    String::from_utf8(item.into_bytes()).unwrap()
}

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

impl Bench {
    /// Flowing, with this high mark, and with handlers that write down what they are told.
    fn new(high: usize) -> Self {
        let events = EventLoop::new().unwrap();
        let bench = Bench {
            stream: MemoryStream::new(&events),
            events,
            seen: Rc::default(),
            drained: Rc::default(),
            ended: Rc::default(),
        };
        bench.stream.set_write_queue_max_size(high);
        let seen = bench.seen.clone();
        bench
            .stream
            .data_handler(Some(Box::new(move |item| seen.borrow_mut().push(text(item)))));
        let ended = bench.ended.clone();
        bench
            .stream
            .end_handler(Some(Box::new(move || ended.set(ended.get() + 1))));
        bench.turn();
        bench
    }

    fn paused(high: usize) -> Self {
        let bench = Self::new(high);
        bench.stream.pause();
        bench
    }

    /// Everything that is to be done is done.
    fn turn(&self) {
        while self.events.step(Wait::Never).unwrap() > 0 {}
    }

    /// Writes and says whether one may go on.
    fn emit(&self, what: u32) -> bool {
        self.stream.write(what.to_string().as_str().into()).unwrap();
        !self.stream.write_queue_full()
    }

    fn wait_for_drain(&self) {
        let drained = self.drained.clone();
        self.stream.drain_handler(Box::new(move |outcome| {
            outcome.unwrap();
            drained.set(drained.get() + 1);
        }));
        self.turn();
    }

    fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }
}

#[test]
fn a_flowing_stream_delivers_within_the_write() {
    let bench = Bench::new(5);
    for n in 0..8 {
        assert!(bench.emit(n));
        assert_eq!(bench.seen(), texts(0..n + 1));
    }
}

#[test]
fn a_paused_stream_takes_everything_and_says_when_it_is_full() {
    let bench = Bench::paused(5);
    let answers: Vec<bool> = (0..8).map(|n| bench.emit(n)).collect();
    assert_eq!(answers, [true, true, true, true, false, false, false, false]);
    assert_eq!((bench.seen().len(), bench.stream.queued()), (0, 8));
    bench.wait_for_drain();
    assert_eq!(bench.drained.get(), 0);
    bench.stream.resume();
    assert!(bench.seen().is_empty(), "not before the next turn");
    bench.turn();
    assert_eq!((bench.seen(), bench.drained.get()), (texts(0..8), 1));
}

#[test]
fn resumed_and_paused_in_one_turn_it_delivers_nothing() {
    let bench = Bench::paused(5);
    bench.emit(0);
    bench.stream.resume();
    bench.stream.pause();
    bench.turn();
    assert!(bench.seen().is_empty());
}

#[test]
fn a_fetch_is_for_so_many_items_and_no_more() {
    let bench = Bench::paused(3);
    bench.stream.fetch(1);
    let answers: Vec<bool> = (0..4).map(|n| bench.emit(n)).collect();
    assert_eq!((answers, bench.seen()), (vec![true, true, true, false], texts(0..1)));
    let bench = Bench::paused(2);
    bench.stream.fetch(1);
    let answers: Vec<bool> = (0..3).map(|n| bench.emit(n)).collect();
    assert_eq!(answers, [true, true, false]);
    bench.stream.fetch(u64::MAX);
    bench.stream.fetch(u64::MAX);
    bench.turn();
    assert_eq!(bench.seen(), texts(0..3));
}

#[test]
fn one_fetch_of_a_full_stream_does_not_drain_it_and_half_does_once() {
    let bench = Bench::paused(6);
    for n in 0..6 {
        bench.emit(n);
    }
    bench.wait_for_drain();
    for n in 0..6 {
        // Full until it is down to half.
        assert_eq!(
            (bench.drained.get(), bench.stream.write_queue_full()),
            (u32::from(n >= 3), n < 3)
        );
        bench.stream.fetch(1);
        bench.turn();
        assert_eq!(bench.seen().len(), n + 1);
    }
    assert_eq!(bench.drained.get(), 1, "once for each handler");
}

#[test]
fn seventeen_items_of_a_stream_for_sixteen_come_one_by_one() {
    let bench = Bench::paused(16);
    for n in 0..17 {
        assert_eq!(bench.emit(n), n < 15);
    }
    bench.wait_for_drain();
    for n in 0..17 {
        bench.stream.fetch(1);
        bench.turn();
        assert_eq!(bench.seen(), texts(0..n + 1));
    }
    assert_eq!(bench.drained.get(), 1);
}

#[test]
fn who_waits_for_room_that_is_there_is_told() {
    let bench = Bench::new(5);
    bench.wait_for_drain();
    assert_eq!(bench.drained.get(), 1);
    // Also when it was seen full, and has drained before anybody waited.
    bench.stream.pause();
    for n in 0..5 {
        bench.emit(n);
    }
    assert!(bench.stream.write_queue_full());
    bench.stream.resume();
    bench.turn();
    bench.wait_for_drain();
    assert_eq!(bench.drained.get(), 2);
}

#[test]
fn raising_the_mark_of_a_full_stream_tells_who_waits() {
    let bench = Bench::paused(2);
    bench.emit(0);
    bench.emit(1);
    bench.wait_for_drain();
    assert_eq!(bench.drained.get(), 0);
    bench.stream.set_write_queue_max_size(10);
    bench.turn();
    assert_eq!(bench.drained.get(), 1);
}

#[test]
fn a_mark_of_nothing_counts_as_one() {
    let bench = Bench::new(0);
    assert!(bench.emit(0));
    bench.stream.pause();
    assert!(!bench.emit(1));
    bench.wait_for_drain();
    bench.stream.resume();
    bench.turn();
    assert_eq!((bench.seen(), bench.drained.get()), (texts(0..2), 1));
}

/// A handler that writes more: the stream is given to it at its first item.
fn with_writing_handler(bench: &Bench, more: impl Fn(&Rc<MemoryStream>, u32) + 'static) -> Rc<Cell<u32>> {
    let (stream, seen) = (Rc::downgrade(&bench.stream), bench.seen.clone());
    let (depth, deepest) = (Cell::new(0), Rc::new(Cell::new(0)));
    let reached = deepest.clone();
    bench.stream.data_handler(Some(Box::new(move |item| {
        depth.set(depth.get() + 1);
        reached.set(reached.get().max(depth.get()));
        let text = text(item);
        seen.borrow_mut().push(text.clone());
        more(&stream.upgrade().unwrap(), text.parse().unwrap());
        depth.set(depth.get() - 1);
    })));
    bench.turn();
    deepest
}

fn put(stream: &MemoryStream, what: u32) {
    stream.write(what.to_string().as_str().into()).unwrap();
}

#[test]
fn what_a_handler_writes_comes_after_it_in_order_and_never_within() {
    let bench = Bench::new(16);
    let deepest = with_writing_handler(&bench, |stream, n| {
        if n < 5 {
            put(stream, n + 1);
            assert_eq!(stream.queued(), 1);
        }
    });
    bench.emit(0);
    assert_eq!((bench.seen(), deepest.get()), (texts(0..6), 1));
}

#[test]
fn a_handler_that_fills_the_stream_sees_it_full() {
    let bench = Bench::new(5);
    let full = Rc::new(Cell::new(0));
    let count = full.clone();
    with_writing_handler(&bench, move |stream, n| {
        if n == 0 {
            for more in 1..6 {
                put(stream, more);
                count.set(count.get() + u32::from(stream.write_queue_full()));
            }
        }
    });
    bench.wait_for_drain();
    bench.emit(0);
    assert_eq!((full.get(), bench.seen(), bench.drained.get()), (1, texts(0..6), 1));
}

#[test]
fn a_handler_that_pauses_and_fills_gets_nothing_more() {
    let bench = Bench::new(5);
    with_writing_handler(&bench, |stream, n| {
        stream.pause();
        if n == 0 {
            (1..6).for_each(|more| put(stream, more));
        }
    });
    assert!(!bench.emit(0));
    assert_eq!((bench.seen(), bench.stream.queued()), (texts(0..1), 5));
    bench.stream.fetch(2);
    bench.turn();
    assert_eq!(bench.seen(), texts(0..2), "it pauses again at the first");
}

#[test]
fn what_is_written_by_who_is_told_of_room_comes_too() {
    let bench = Bench::paused(4);
    for n in 0..4 {
        bench.emit(n);
    }
    let stream = bench.stream.clone();
    bench.stream.drain_handler(Box::new(move |outcome| {
        outcome.unwrap();
        (4..10).for_each(|n| put(&stream, n));
    }));
    bench.turn();
    bench.stream.resume();
    bench.turn();
    assert_eq!(bench.seen(), texts(0..10), "the original stalls here");
}

#[test]
fn the_end_comes_after_all_items_and_once() {
    let bench = Bench::paused(5);
    for n in 0..2 {
        bench.emit(n);
    }
    let acknowledged = Rc::new(Cell::new(false));
    let told = acknowledged.clone();
    bench.stream.end(Box::new(move |outcome| {
        outcome.unwrap();
        told.set(true);
    }));
    assert!(bench.stream.write("too late".into()).is_err());
    bench.turn();
    bench.stream.fetch(2);
    bench.turn();
    assert_eq!((bench.seen(), bench.ended.get()), (texts(0..2), 0));
    assert!(!acknowledged.get(), "paused, and so without an end");
    bench.stream.fetch(1);
    bench.turn();
    bench.stream.pause();
    bench.stream.resume();
    bench.turn();
    assert_eq!((bench.ended.get(), acknowledged.get()), (1, true));
}

#[test]
fn an_end_without_items_and_an_end_twice_are_told_once() {
    let bench = Bench::new(5);
    bench.stream.end(Box::new(|outcome| outcome.unwrap()));
    bench.stream.end(Box::new(|outcome| outcome.unwrap()));
    bench.turn();
    let late = Rc::new(Cell::new(0));
    let told = late.clone();
    bench.stream.end(Box::new(move |outcome| {
        outcome.unwrap();
        told.set(1);
    }));
    bench.turn();
    assert_eq!((bench.ended.get(), late.get()), (1, 1));
}

#[test]
fn a_failure_comes_after_the_items_before_it_and_at_once_to_who_writes() {
    let bench = Bench::paused(1);
    bench.emit(0);
    let (read, drain) = (
        Rc::new(RefCell::new(String::new())),
        Rc::new(RefCell::new(String::new())),
    );
    let (of_read, of_drain) = (read.clone(), drain.clone());
    ReadStream::exception_handler(
        &*bench.stream,
        Some(Box::new(move |error| *of_read.borrow_mut() = error.to_string())),
    );
    bench.stream.drain_handler(Box::new(move |outcome| {
        *of_drain.borrow_mut() = outcome.unwrap_err().to_string();
    }));
    bench.turn();
    bench.stream.fail(StreamError::new("broken"));
    assert_eq!((read.borrow().as_str(), drain.borrow().as_str()), ("", "broken"));
    assert_eq!(bench.stream.write("x".into()).unwrap_err().to_string(), "broken");
    bench.stream.resume();
    bench.turn();
    assert_eq!((bench.seen(), read.borrow().as_str()), (texts(0..1), "broken"));
}

#[test]
fn without_a_handler_items_wait() {
    let bench = Bench::new(5);
    bench.stream.data_handler(None);
    bench.emit(0);
    bench.stream.end(Box::new(|outcome| outcome.unwrap()));
    bench.turn();
    assert_eq!((bench.seen().len(), bench.ended.get()), (0, 0));
    let seen = bench.seen.clone();
    bench
        .stream
        .data_handler(Some(Box::new(move |item| seen.borrow_mut().push(text(item)))));
    bench.turn();
    assert_eq!((bench.seen(), bench.ended.get()), (texts(0..1), 1));
}

#[test]
fn streams_in_a_row_pass_everything_on_at_the_last_ones_pace() {
    let _watchdog = support::minute();
    let events = EventLoop::new().unwrap();
    let streams: Vec<_> = (0..5).map(|_| MemoryStream::new(&events)).collect();
    for stream in &streams {
        stream.set_write_queue_max_size(3);
    }
    let pumps: Vec<_> = streams
        .windows(2)
        .map(|pair| Pump::new(pair[0].clone(), pair[1].clone()))
        .collect();
    pumps.iter().for_each(Pump::start);
    let (first, last) = (streams[0].clone(), streams[4].clone());
    let seen = Rc::new(RefCell::new(vec![]));
    let into = seen.clone();
    last.pause();
    last.data_handler(Some(Box::new(move |item| into.borrow_mut().push(text(item)))));
    let mut sent = 0;
    while seen.borrow().len() < 1000 {
        while sent < 1000 && !first.write_queue_full() {
            put(&first, sent);
            sent += 1;
        }
        // No stream holds more than its mark.
        assert!(streams.iter().all(|stream| stream.queued() <= 3));
        last.fetch(1);
        while events.step(Wait::Never).unwrap() > 0 {}
    }
    first.end(Box::new(|outcome| outcome.unwrap()));
    last.resume();
    let outcome = pumps[3].run(&events, Wait::Forever).unwrap().unwrap();
    assert!(outcome.result.is_ok());
    assert_eq!(*seen.borrow(), texts(0..1000));
}
