//! What is too large, queues and send queues that are full, and what is kept for a node that reads nothing.
//!
//! Not here: how long a message may wait for room (`time`), and what ends that wait when the node stops (`stopping`).

use super::forked_node::forked_node;
use super::support::{SharedWord, minute};
use super::{SECOND, collecting, config, echo, in_all_modes, message, node, quiet, soon_full};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError, SendOptions, SendPolicy, Stage};

#[test]
fn answers_to_a_node_that_reads_none_are_kept_up_to_a_limit() {
    let _watchdog = minute();
    let ready = SharedWord::new();
    let theirs = config().synchronous(false).queue_capacity(1 << 16);
    let to = format!("queue:{}", theirs.queue.as_deref().unwrap());
    let child = forked_node(theirs, &ready, |chirp: &Chirp, message: Message| {
        // Its answers come here as well.
        let how_many = if message.data() == b"ask" { 20 } else { 0 };
        for n in 0..how_many {
            let asked = Message::to(&message.address(), n.to_string()).unwrap();
            chirp.send(asked).result().unwrap();
        }
    });
    ready.wait_for(1);
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let ours = config()
        .synchronous(false)
        .auto_release(false)
        .max_slots(32)
        .send_queue_messages(2)
        .send_queue_policy(SendPolicy::Fail);
    let receiver = node(&looper, ours, handler);
    receiver.send(Message::to(&to, "ask").unwrap()).result().unwrap();
    let asked: Vec<_> = (0..20).map(|_| received.recv().unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    child.suspend();
    let mut refused = 0;
    let answers: Vec<_> = asked
        .into_iter()
        .map(|mut answer| {
            answer.set_data(vec![1; 64 << 10]);
            let mut outcome = receiver.send(answer);
            let is_refused = outcome.is_done()
                && matches!(
                    outcome.wait_sent(Wait::Never),
                    Err(PoolError::QueueFull { messages: 2, .. })
                );
            refused += usize::from(is_refused);
            outcome
        })
        .collect();
    assert!((10..20).contains(&refused), "{refused}");
    // Those that are kept arrive when it goes on.
    child.child().signal(Signal::SIGCONT);
    let arrived = answers.into_iter().filter_map(|answer| answer.result().ok()).count();
    assert_eq!(arrived + refused, 20);
}

#[test]
fn sending_for_the_first_time_to_a_node_with_a_full_queue_does_not_wait_longer_than_it_may() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full().synchronous(false), handler);
    let flood = config().synchronous(false).send_queue_policy(SendPolicy::Fail);
    let flood = node(&looper, flood.timeout(5 * SECOND), quiet);
    // Smaller than a greeting, until there is no room left, and what is put aside is full as well.
    for _ in 0..3 {
        while !matches!(
            flood.send(message(&receiver, b"")).wait_sent(Wait::Never),
            Err(PoolError::QueueFull { .. })
        ) {}
        std::thread::sleep(Duration::from_millis(100));
    }
    let sender = node(&looper, config().queue_capacity(1 << 14), quiet);
    let begun = Instant::now();
    let within = SendOptions::new().within(Duration::from_millis(20));
    let outcome = sender.send_with(message(&receiver, "?"), within);
    let took = begun.elapsed();
    let error = outcome.result().unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    flood.stop(Duration::ZERO).unwrap();
    drop(received);
}

#[test]
fn a_full_queue_is_what_the_policy_says() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    for policy in [SendPolicy::Block, SendPolicy::Fail, SendPolicy::DropOldest] {
        let (handler, received) = collecting();
        let theirs = config()
            .synchronous(false)
            .auto_release(false)
            .max_slots(1)
            .queue_capacity(1 << 14);
        let receiver = node(&looper, theirs, handler);
        let ours = config()
            .synchronous(false)
            .send_queue_policy(policy)
            .send_queue_messages(10);
        let sender = node(&looper, ours.timeout(Duration::from_millis(300)), quiet);
        let mut open = Vec::new();
        let begun = Instant::now();
        // More than its queue, what is put aside there, and what is kept here.
        let error = loop {
            open.push(sender.send(message(&receiver, vec![1; 4000])));
            let failed = open
                .iter_mut()
                .position(|outcome| outcome.is_done() && outcome.wait_sent(Wait::Never).is_err());
            if let Some(at) = failed {
                break open.swap_remove(at).result().unwrap_err();
            }
            assert!(begun.elapsed() < 20 * SECOND, "{policy:?}");
        };
        match policy {
            SendPolicy::Fail => assert!(matches!(error, PoolError::QueueFull { messages: 10, .. }), "{error}"),
            SendPolicy::DropOldest => assert!(matches!(error, PoolError::Dropped { .. }), "{error}"),
            _ => assert!(
                matches!(
                    error,
                    PoolError::TimedOut {
                        stage: Stage::Room | Stage::Queued,
                        ..
                    }
                ),
                "{error}"
            ),
        }
        assert!(error.is_unsent() || policy == SendPolicy::DropOldest);
        drop(received);
    }
}

#[test]
fn too_large_is_an_error_at_the_sender_whoever_finds_it_too_large() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.max_message_size(1000), echo);
        let client = node(&looper, ours.max_message_size(100_000), quiet);
        let error = client.request(message(&echo, vec![0; 100_001])).result().unwrap_err();
        assert!(
            matches!(
                error,
                PoolError::TooLarge {
                    size: 100_001,
                    max: 100_000
                }
            ),
            "{error}"
        );
        for size in [1001, 100_000] {
            let error = client.request(message(&echo, vec![0; size])).result().unwrap_err();
            assert!(
                matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains("1000")),
                "{error}"
            );
        }
        assert_eq!(
            client.request(message(&echo, vec![7; 1000])).result().unwrap().data(),
            [7; 1000]
        );
    });
}
