//! Stopping a node: what it still finishes, what it gives up, and what others hear of it. Not here: stopping the loop (`loops`).

use super::support::{eventually, minute};
use super::{SECOND, asynchronous, collecting, echo, in_all_modes, message, node, plain, quiet};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError};

#[test]
fn stopping_lets_handlers_finish_and_their_answers_go_out() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let begun = Mutex::new(begun);
        let slow = move |chirp: &Chirp, message: Message| {
            begun.lock().unwrap().send(()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            chirp.send(message);
        };
        let echo = node(&looper, theirs, slow);
        let client = node(&looper, ours, quiet);
        let request = client.request(message(&echo, "slow"));
        has_begun.recv().unwrap();
        echo.stop(5 * SECOND).unwrap();
        assert_eq!(request.result().unwrap().data(), b"slow");
        assert!(matches!(
            echo.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        ));
        echo.stop(Wait::Forever).unwrap();
        // A closed port, or a connection that is just being closed.
        let error = client.send(message(&echo, "gone")).result().unwrap_err();
        assert!(
            matches!(
                error,
                PoolError::Refused { .. } | PoolError::PeerDied { .. } | PoolError::PeerStopping { .. }
            ),
            "{error}"
        );
    });
}

#[test]
fn a_node_that_is_stopping_says_so() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false), handler);
    let client = node(&looper, asynchronous(), quiet);
    client.send(message(&receiver, "held")).result().unwrap();
    let held = received.recv().unwrap();
    let stopping = std::thread::spawn({
        let receiver = receiver.clone();
        move || receiver.stop(10 * SECOND)
    });
    eventually("it is stopping", || {
        matches!(
            receiver.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        )
    });
    let error = client.request(message(&receiver, "new")).result().unwrap_err();
    assert!(matches!(error, PoolError::PeerStopping { .. }), "{error}");
    assert!(error.is_unsent());
    drop(held);
    stopping.join().unwrap().unwrap();
}

#[test]
fn what_is_not_released_in_time_is_released_by_stopping_and_counted() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false), handler);
    let client = node(&looper, asynchronous(), quiet);
    for _ in 0..3 {
        client.send(message(&receiver, "x")).result().unwrap();
    }
    let held: Vec<_> = (0..3).map(|_| received.recv().unwrap()).collect();
    match receiver.stop(Duration::from_millis(100)) {
        Err(PoolError::Unreleased { count: 3 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(held.iter().all(|message| !message.has_slot()));
    drop(held);
}

#[test]
fn own_sends_that_cannot_finish_fail_when_the_node_stops() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = node(&looper, plain(), quiet);
    let to = silent.local_addr().unwrap();
    let one = sender.send(Message::to(to, "x").unwrap());
    let other = sender.request(Message::to(to, "x").unwrap());
    sender.stop(Duration::from_millis(20)).unwrap();
    for outcome in [one, other] {
        let error = outcome.result().unwrap_err();
        assert!(matches!(error, PoolError::ShuttingDown), "{error}");
    }
}

#[test]
fn a_handler_may_stop_its_node() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let receiver = node(&looper, asynchronous(), |chirp: &Chirp, _: Message| {
        chirp.stop(SECOND).unwrap();
    });
    let client = node(&looper, asynchronous(), quiet);
    client.send(message(&receiver, "stop")).result().unwrap();
    eventually("it has stopped", || {
        matches!(
            receiver.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        )
    });
}

#[test]
fn stopping_under_load_leaves_no_request_without_an_end() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        let counts: Vec<_> = (0..4)
            .map(|_| {
                let (client, to) = (client.clone(), echo.local_address());
                std::thread::spawn(move || {
                    let mut answers = 0;
                    loop {
                        match client.request(Message::to(to, "x").unwrap()).result() {
                            Ok(_) => answers += 1,
                            Err(PoolError::HandlerFailed { text, .. }) => panic!("{text}"),
                            Err(_) => return answers,
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        echo.stop(5 * SECOND).unwrap();
        let answers: usize = counts.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(answers > 0);
    });
}
