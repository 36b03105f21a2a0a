//! What is sent arrives, a request is answered by sending its message back, and whoever sent learns of it, waiting, polling or awaiting.
//!
//! Not here: many requests at once (`many_at_once`), handlers that fail (`handlers`) and peers that are not there (`absent_peers`).

use super::support::minute;
use super::{asynchronous, block_on, collecting, echo, in_all_modes, message, node, quiet};
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError};

#[test]
fn a_message_arrives_and_its_sender_learns_that_it_was_sent() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (handler, received) = collecting();
        let receiver = node(&looper, theirs, handler);
        let sender = node(&looper, ours, quiet);
        let mut sent = message(&receiver, "hello");
        sent.set_header([1, 2, 3]);
        let identity = sent.identity();
        let back = sender.send(sent).result().unwrap();
        assert_eq!((back.identity(), back.data()), (identity, &b"hello"[..]));
        let got = received.recv().unwrap();
        assert_eq!(
            (got.identity(), got.data(), got.header()),
            (identity, &b"hello"[..], &[1, 2, 3][..])
        );
        assert_eq!(got.remote_identity(), sender.identity());
        assert_eq!((got.address(), got.port()), ("127.0.0.1".into(), sender.port()));
    });
}

#[test]
fn a_request_is_answered_by_sending_its_message_back() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for size in [0, 1, 64, 5000, 1 << 20] {
            let data = vec![7; size];
            let request = message(&echo, data.clone());
            let identity = request.identity();
            let answer = client.request(request).result().unwrap();
            assert_eq!(
                (answer.identity(), answer.remote_identity()),
                (identity, echo.identity())
            );
            assert!(answer.data() == data, "{size} bytes");
            assert!(!answer.has_slot());
        }
    });
}

#[test]
fn sending_to_oneself_works() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let node = node(&looper, ours, echo);
        let answer = node.request(message(&node, "me")).result().unwrap();
        assert_eq!(answer.remote_identity(), node.identity());
    });
}

#[test]
fn an_outcome_can_be_awaited_polled_and_is_given_away_once() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, asynchronous(), echo);
    let client = node(&looper, asynchronous(), quiet);
    let answer = block_on(async {
        let one = client.request(message(&echo, "one"));
        let two = client.request(message(&echo, "two"));
        (two.await.unwrap(), one.await.unwrap())
    });
    assert_eq!((answer.0.data(), answer.1.data()), (&b"two"[..], &b"one"[..]));

    let mut polled = client.request(message(&echo, "polled"));
    let got = loop {
        if let Some(answer) = polled.wait(Wait::Never).unwrap() {
            break answer;
        }
        std::thread::yield_now();
    };
    assert_eq!(got.data(), b"polled");
    assert!(matches!(polled.wait(Wait::Never), Err(PoolError::Taken)));
}

#[test]
fn a_second_answer_goes_to_the_handler() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let twice = |chirp: &Chirp, message: Message| {
            let mut second = message.clone();
            second.set_data("second");
            chirp.send(message).result().unwrap();
            chirp.send(second).result().unwrap();
        };
        let twice = node(&looper, theirs, twice);
        let (handler, seconds) = collecting();
        let client = node(&looper, ours, handler);
        for _ in 0..20 {
            assert_eq!(
                client.request(message(&twice, "first")).result().unwrap().data(),
                b"first"
            );
            assert_eq!(seconds.recv().unwrap().data(), b"second");
        }
    });
}
