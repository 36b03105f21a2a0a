//! Many requests, threads or connections at the same time: each request gets its own answer. Not here: random use, with connections
//! that break (`pool_stateful.rs`).

use super::{SECOND, asynchronous, collecting, echo, in_all_modes, message, node, quiet, support, synchronous};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use syncq::pool::{Chirp, Loop, Message};

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

#[test]
fn both_may_connect_at_the_same_moment() {
    in_all_modes(|ours, theirs| {
        for _ in 0..if cfg!(debug_assertions) { 20 } else { 250 } {
            let looper = Loop::new().unwrap();
            let one = node(&looper, ours.clone(), echo);
            let other = node(&looper, theirs.clone(), echo);
            let there = one.request(message(&other, "there"));
            let back = other.request(message(&one, "back"));
            assert_eq!(there.result().unwrap().data(), b"there");
            assert_eq!(back.result().unwrap().data(), b"back");
            for (from, to) in [(&one, &other), (&other, &one)] {
                from.request(message(to, "again")).result().unwrap();
            }
        }
    });
}

#[test]
fn sixty_four_threads_get_every_answer_and_no_slot_leaks() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let echo = node(&looper, theirs, move |chirp: &Chirp, message: Message| {
            count.fetch_add(1, Ordering::Relaxed);
            chirp.send(message);
        });
        let client = node(&looper, ours, quiet);
        let each = if cfg!(debug_assertions) { 30 } else { 1500 };
        std::thread::scope(|scope| {
            for thread in 0..64 {
                let (client, echo) = (&client, &echo);
                scope.spawn(move || {
                    for n in 0..each {
                        let text = format!("{thread} {n}");
                        let answer = client.request(message(echo, text.clone())).result().unwrap();
                        assert_eq!(answer.text_lossy(), text);
                    }
                });
            }
        });
        assert_eq!(handled.load(Ordering::Relaxed), 64 * each);
        // All slots are free: as many as there are can be used at once.
        client.stop(5 * SECOND).unwrap();
        echo.stop(5 * SECOND).unwrap();
    });
}

#[test]
#[ignore = "a soak of a minute: cargo test --release --features pool --test pool -- --ignored"]
fn sixty_four_open_requests_a_hundred_thousand_times() {
    let _watchdog = support::watchdog(Duration::from_secs(600));
    for (ours, theirs) in [(asynchronous(), asynchronous()), (synchronous(), asynchronous())] {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.timeout(30 * SECOND), echo);
        let (handler, strays) = collecting();
        let client = node(&looper, ours.timeout(30 * SECOND), handler);
        let mut open = std::collections::VecDeque::new();
        for n in 0..100_000u32 {
            open.push_back((n, client.request(message(&echo, n.to_le_bytes()))));
            if open.len() == 64 {
                let (n, outcome) = open.pop_front().unwrap();
                assert_eq!(outcome.result().unwrap().data(), n.to_le_bytes());
            }
        }
        for (n, outcome) in open {
            assert_eq!(outcome.result().unwrap().data(), n.to_le_bytes());
        }
        assert!(strays.try_recv().is_err());
        client.stop(5 * SECOND).unwrap();
        echo.stop(5 * SECOND).unwrap();
    }
}
