//! What Vert.x promises of its Pump, in black-box words, with the right answer where the original is wrong: pausing, draining, stopping, counting.
//!
//! How a pump ends is in `pump_end`, tees in `pump_tee`, channels in `pump_streams`.

mod pump_fakes;

use pump_fakes::{Sink, Source, between, running, texts};
use syncq::pump::StreamError;

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
    let (source, sink, pump) = running();
    pump.set_write_queue_max_size(5);
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
    let (source, sink, pump) = running();
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
    let (source, sink, pump) = running();
    pump.set_write_queue_max_size(2);
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
    let (source, sink, pump) = running();
    pump.set_write_queue_max_size(1);
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
    let (source, sink, pump) = running();
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

#[test]
fn a_random_schedule_of_pauses_and_resumes_delivers_all_in_order() {
    let (source, sink, pump) = running();
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
