//! One stream into several sinks in the test's hand. For those that the kernel serves see `pump_relay`.

mod pump_fakes;

use pump_fakes::{Sink, Source, sink_error, texts};
use syncq::pump::{Pump, Tee};

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
