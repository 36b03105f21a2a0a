//! Nodes over TCP: sending, answering, releasing, slots, time, stopping, and what must not happen.

mod support;

use std::sync::{Mutex, mpsc};
use std::time::Duration;
use support::minute;
use syncq::pool::{Chirp, Config, Handler, Loop, Message};

const SECOND: Duration = Duration::from_secs(1);

fn plain() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(2 * SECOND)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a port from the system")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(to.local_address(), data).unwrap()
}

/// Both modes of the one who sends and the one who receives.
fn in_all_modes(test: impl Fn(Config, Config)) {
    let _watchdog = minute();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        test(plain().synchronous(ours), plain().synchronous(theirs));
    }
}

/// A handler that hands all messages to the test.
fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

// ------------------------------------------------------------------------------------------------------- sending, answering

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
fn a_hundred_times_a_hundred_requests_at_once_are_all_answered() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for round in 0..if cfg!(debug_assertions) { 10 } else { 100 } {
            let open: Vec<_> = (0..100)
                .map(|n| client.request(message(&echo, format!("{round} {n}"))))
                .collect();
            for (n, outcome) in open.into_iter().enumerate() {
                assert_eq!(outcome.result().unwrap().text_lossy(), format!("{round} {n}"));
            }
        }
    });
}
