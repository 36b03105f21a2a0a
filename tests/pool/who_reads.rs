//! Who reads for whom: a thread that waits for its answer reads in place of the loop, and nobody else may come off worse for it.
//!
//! Not here: many requests that are open together (`many_at_once`).

use super::{SECOND, block_on, collecting, echo, in_all_modes, message, node, quiet};
use std::sync::{Mutex, mpsc};
use syncq::pool::{Chirp, Loop, Message};

#[test]
fn what_comes_after_a_row_of_waits_is_handed_out_all_the_same() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let (handler, received) = collecting();
        let client = node(&looper, ours, handler);
        for round in 0..20u8 {
            // The waiting thread reads by now, and the loop keeps away.
            for _ in 0..30 {
                client.request(message(&echo, "row")).result().unwrap();
            }
            let sent = echo.send(message(&client, [round]));
            assert_eq!(received.recv().unwrap().data(), [round]);
            sent.result().unwrap();
        }
    });
}

#[test]
fn a_handler_that_blocks_after_a_row_of_single_messages_keeps_nobody_waiting() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (let_go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let handler = move |chirp: &Chirp, message: Message| {
            if message.data() == b"block" {
                gate.lock().unwrap().recv().unwrap();
            }
            chirp.send(message);
        };
        let server = node(&looper, theirs.max_slots(4), handler);
        let client = node(&looper, ours.clone(), quiet);
        let other = node(&looper, ours, quiet);
        for _ in 0..10 {
            for _ in 0..30 {
                client.request(message(&server, "row")).result().unwrap();
            }
            let blocked = client.request(message(&server, "block"));
            for _ in 0..3 {
                other.request(message(&server, "meanwhile")).result().unwrap();
            }
            let_go.send(()).unwrap();
            blocked.result().unwrap();
        }
    });
}

#[test]
fn waits_of_many_threads_and_of_one_take_turns() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for _ in 0..5 {
            for threads in [1, 3] {
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for _ in 0..30 {
                                client.request(message(&echo, "x")).result().unwrap();
                            }
                        });
                    }
                });
            }
            let awaited = block_on(client.request(message(&echo, "awaited"))).unwrap();
            assert_eq!(awaited.data(), b"awaited");
            let mut sent = client.request(message(&echo, "sent"));
            assert!(sent.wait_sent(2 * SECOND).unwrap());
            sent.result().unwrap();
        }
    });
}
