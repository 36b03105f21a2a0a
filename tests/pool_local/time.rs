//! Time that is over before something is sent or answered, and requests that are cancelled before it is.
//!
//! Not here: peers that are not there, which takes no time to find out (`names`), or are there no more (`processes`).

use super::support::{eventually, minute};
use super::{SECOND, collecting, config, in_all_modes, message, node, quiet, soon_full};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError, SendOptions, SendPolicy, Stage};

#[test]
fn a_request_ends_when_its_time_is_over_and_a_late_answer_goes_to_the_handler() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (may_go, go) = mpsc::channel();
        let go = Mutex::new(go);
        let slow = node(
            &looper,
            theirs.timeout(10 * SECOND),
            move |chirp: &Chirp, message: Message| {
                go.lock().unwrap().recv().unwrap();
                chirp.send(message);
            },
        );
        let (handler, late) = collecting();
        let client = node(&looper, ours.timeout(10 * SECOND), handler);
        let within = SendOptions::new().within(Duration::from_millis(150));
        let begun = Instant::now();
        let error = client
            .request_with(message(&slow, "slow"), within)
            .result()
            .unwrap_err();
        assert!(
            matches!(
                error,
                PoolError::TimedOut {
                    stage: Stage::Answer,
                    ..
                }
            ),
            "{error}"
        );
        assert!(begun.elapsed() >= Duration::from_millis(150));
        may_go.send(()).unwrap();
        assert_eq!(late.recv().unwrap().data(), b"slow");
    });
}

#[test]
fn a_cancelled_request_ends_and_its_handler_can_see_it() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, config().auto_release(false), handler);
    let client = node(&looper, config().synchronous(false), quiet);
    let outcome = client.request(message(&receiver, "never mind"));
    let got = received.recv().unwrap();
    assert!(got.is_request() && !got.is_cancelled());
    assert!(outcome.cancel());
    assert!(matches!(outcome.result(), Err(PoolError::Cancelled)));
    eventually("the handler sees it", || got.is_cancelled());
}

#[test]
fn a_synchronous_message_that_was_not_sent_in_time_keeps_nobody_waiting() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full().synchronous(false), handler);
    let flood = config().synchronous(false).send_queue_policy(SendPolicy::Fail);
    let flood = node(&looper, flood.timeout(SECOND), quiet);
    let sender = node(&looper, config().timeout(30 * SECOND), quiet);
    // So that there is a way already.
    let first = sender.send(message(&receiver, "first"));
    drop(received.recv().unwrap());
    first.result().unwrap();
    while !matches!(
        flood.send(message(&receiver, vec![1; 4000])).wait_sent(Wait::Never),
        Err(PoolError::QueueFull { .. })
    ) {}
    let within = SendOptions::new().within(Duration::from_millis(200));
    let error = sender
        .send_with(message(&receiver, vec![2; 4000]), within)
        .result()
        .unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    flood.stop(Duration::ZERO).unwrap();
    let begun = Instant::now();
    let outcome = sender.send(message(&receiver, "second"));
    while !outcome.is_done() {
        drop(received.recv_timeout(Duration::from_millis(10)));
        assert!(begun.elapsed() < 20 * SECOND);
    }
    outcome.result().unwrap();
}

#[test]
fn a_message_behind_one_that_may_wait_for_ever_has_its_own_time() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full(), handler);
    let sender = node(&looper, config().synchronous(false).timeout(SECOND / 5), quiet);
    let for_ever = || {
        let patient = SendOptions::new().within(Wait::Forever);
        sender.send_with(message(&receiver, vec![1; 4000]), patient)
    };
    let first = for_ever();
    let held = received.recv().unwrap();
    first.result().unwrap();
    // Until the receiver puts no more aside and its queue is full: one is kept here, and the next one stands behind it.
    let mut patient = for_ever();
    while patient.wait_sent(SECOND / 4).unwrap() {
        patient = for_ever();
    }
    let error = sender.send(message(&receiver, "in time")).result().unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    assert!(!patient.is_done());
    drop((held, patient, received));
    let _ = sender.stop(Duration::ZERO);
}
