//! What is sent arrives, and what is asked is answered: of any size, by many at the same time, and awaited.
//!
//! Not here: who has which name (`names`), handlers that fail (`handlers`), and peers that take nothing (`limits`).

use super::support::eventually;
use super::{address, collecting, echo, in_all_modes, message, node, quiet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use syncq::pool::Loop;

#[test]
fn a_message_arrives_with_all_that_belongs_to_it() {
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
        assert_eq!((got.address(), got.port()), (address(&sender), 0));
    });
}

#[test]
fn a_request_is_answered_also_when_it_is_larger_than_the_ring() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.queue_capacity(1 << 16), echo);
        let client = node(&looper, ours.queue_capacity(1 << 16), quiet);
        for size in [0, 1, 64, 485, 486, 5000, 16 << 10, 64 << 10, 1 << 20] {
            let data: Vec<u8> = (0..size as u32).map(|n| (n * 31 + n / 251) as u8).collect();
            let mut request = message(&echo, data.clone());
            request.set_header(&data[..size.min(60_000)]);
            let identity = request.identity();
            let answer = client.request(request).result().unwrap();
            assert_eq!(
                (answer.identity(), answer.remote_identity()),
                (identity, echo.identity())
            );
            assert!(
                answer.data() == data && answer.header() == &data[..size.min(60_000)],
                "{size} bytes"
            );
            assert!(!answer.has_slot());
        }
    });
}

#[test]
fn a_hundred_requests_at_once_are_all_answered_again_and_again() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for round in 0..if cfg!(debug_assertions) { 5 } else { 100 } {
            let open: Vec<_> = (0..100)
                .map(|n| client.request(message(&echo, format!("{round} {n}"))))
                .collect();
            for (n, outcome) in open.into_iter().enumerate() {
                assert_eq!(outcome.result().unwrap().text_lossy(), format!("{round} {n}"));
            }
        }
    });
}

#[test]
fn threads_that_ask_at_the_same_time_get_their_own_answers() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (client, echo) = (&client, &echo);
                scope.spawn(move || {
                    for n in 0..100 {
                        let text = format!("{thread} {n}");
                        let answer = client.request(message(echo, text.clone())).result().unwrap();
                        assert_eq!(answer.text_lossy(), text);
                    }
                });
            }
        });
    });
}

#[test]
fn a_node_can_ask_itself() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let node = node(&looper, ours, echo);
        for n in 0..20 {
            let answer = node.request(message(&node, n.to_string())).result();
            // It is its own answer that comes first, and is taken for one.
            assert_eq!(answer.unwrap().text_lossy(), n.to_string());
        }
    });
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn outcomes_can_be_awaited_and_looked_at_without_a_thread_that_waits() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for n in 0..20 {
            let answer = block_on(client.request(message(&echo, n.to_string()))).unwrap();
            assert_eq!(answer.text_lossy(), n.to_string());
        }
        let open: Vec<_> = (0..20).map(|n| client.request(message(&echo, n.to_string()))).collect();
        eventually("all are answered", || open.iter().all(|outcome| outcome.is_done()));
    });
}
