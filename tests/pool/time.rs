//! Time that is over before a peer has greeted, released or answered, and requests that are cancelled before it is.
//!
//! Not here: time that is over while waiting for room (`limits`).

use super::support::{eventually, minute};
use super::{SECOND, asynchronous, collecting, in_all_modes, is_timed_out, message, node, plain, quiet, synchronous};
use std::time::{Duration, Instant};
use syncq::pool::{Loop, Message, PoolError, SendOptions, Stage};

#[test]
fn a_peer_that_never_greets_is_given_up_in_time() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = node(&looper, plain().timeout(SECOND / 4), quiet);
    let to = silent.local_addr().unwrap();
    let start = Instant::now();
    let error = sender.send(Message::to(to, "x").unwrap()).result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    assert!(error.is_unsent());
    assert!(start.elapsed() >= SECOND / 2, "{:?}", start.elapsed());
    let start = Instant::now();
    let error = sender.request(Message::to(to, "x").unwrap()).result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    assert!(start.elapsed() >= SECOND / 4, "{:?}", start.elapsed());
}

#[test]
fn who_comes_while_a_peer_is_waited_for_has_all_of_its_own_time() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = node(&looper, plain().timeout(SECOND / 2), quiet);
    let to = silent.local_addr().unwrap();
    let first = sender.send(Message::to(to, "first").unwrap());
    // The attempt is given up a second after it began.
    std::thread::sleep(SECOND * 4 / 5);
    let start = Instant::now();
    let second = sender.send(Message::to(to, "second").unwrap());
    let error = first.result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    let error = second.result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    assert!(start.elapsed() >= SECOND, "{:?}", start.elapsed());
}

#[test]
fn a_request_that_nobody_answers_times_out_as_that_and_a_late_answer_goes_to_the_handler_once() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (keeping, kept) = collecting();
        let slow = node(&looper, theirs, keeping);
        let (handler, late) = collecting();
        let client = node(&looper, ours, handler);
        let options = SendOptions::new().within(Duration::from_millis(100));
        let start = Instant::now();
        let error = client
            .request_with(message(&slow, "late"), options)
            .result()
            .unwrap_err();
        assert!(is_timed_out(&error, Stage::Answer), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        let mut request = kept.recv().unwrap();
        let identity = request.identity();
        // Nobody else says it, where it is not known what a request is.
        eventually("it is known that nobody waits", || request.is_cancelled());
        request.set_data("at last");
        slow.send(request).result().unwrap();
        let answer = late.recv().unwrap();
        assert_eq!((answer.identity(), answer.data()), (identity, &b"at last"[..]));
        assert!(late.recv_timeout(Duration::from_millis(50)).is_err(), "and not twice");
    });
}

#[test]
fn a_synchronous_message_that_is_not_released_in_time_fails_as_that() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, synchronous().auto_release(false), handler);
    let sender = node(&looper, synchronous().timeout(SECOND / 2), quiet);
    let start = Instant::now();
    let error = sender.send(message(&receiver, "x")).result().unwrap_err();
    let took = start.elapsed();
    assert!(is_timed_out(&error, Stage::Release), "{error}");
    assert!(!error.is_unsent());
    assert!(took >= SECOND * 45 / 100 && took < 3 * SECOND, "{took:?}");
    // The next one goes over a new connection, where there is a slot.
    let kept = received.recv().unwrap();
    let second = sender.send(message(&receiver, "y"));
    drop(received.recv().unwrap());
    second.result().unwrap();
    drop(kept);
}

#[test]
fn a_cancelled_request_ends_at_once_and_is_not_handled_if_that_had_not_begun() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false).max_slots(1), handler);
    let client = node(&looper, asynchronous(), quiet);
    let first = client.request(message(&receiver, "first"));
    let second = client.request(message(&receiver, "second"));
    let third = client.request(message(&receiver, "third"));
    let held = received.recv().unwrap();
    // In this order on the wire: once the first is known to be cancelled, so is the second.
    assert!(second.cancel() && first.cancel());
    assert!(!second.cancel(), "once is enough");
    assert!(matches!(first.result(), Err(PoolError::Cancelled)));
    assert!(matches!(second.result(), Err(PoolError::Cancelled)));
    eventually("the handler can know", || held.is_cancelled());
    drop(held);
    let mut next = received.recv().unwrap();
    assert_eq!(next.data(), b"third");
    next.set_data("3");
    receiver.send(next).result().unwrap();
    assert_eq!(third.result().unwrap().data(), b"3");
}
