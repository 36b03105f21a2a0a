//! Slots: how many messages are handed out at a time, and that answers need none. Not here: queues that are full for other reasons, and
//! what is done about it (`limits`).

use super::support::minute;
use super::{SECOND, collecting, config, echo, message, node, quiet};
use std::time::Duration;
use syncq::pool::{Loop, PoolError, SendPolicy};

#[test]
fn as_many_messages_are_handed_out_as_there_are_slots_and_one_more_for_each_release() {
    let _watchdog = minute();
    for slots in [1, 4, 16, 32] {
        let looper = Loop::new().unwrap();
        let (handler, received) = collecting();
        let theirs = config()
            .synchronous(false)
            .auto_release(false)
            .max_slots(slots)
            .workers(1);
        let receiver = node(&looper, theirs, handler);
        let sender = node(&looper, config().synchronous(false), quiet);
        for n in 0..100 {
            sender.send(message(&receiver, n.to_string())).result().unwrap();
        }
        let mut held: Vec<_> = (0..slots).map(|_| received.recv().unwrap()).collect();
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        let mut texts: Vec<_> = held.iter().map(|message| message.text_lossy().into_owned()).collect();
        while texts.len() < 100 {
            assert!(held.remove(0).release().is_some());
            let next = received.recv().unwrap();
            texts.push(next.text_lossy().into_owned());
            held.push(next);
        }
        assert_eq!(
            texts,
            (0..100).map(|n| n.to_string()).collect::<Vec<_>>(),
            "{slots} slots"
        );
    }
}

#[test]
fn answers_get_through_to_a_node_that_takes_no_more_messages() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, config(), echo);
    let (handler, received) = collecting();
    let busy = config()
        .synchronous(false)
        .auto_release(false)
        .max_slots(1)
        .timeout(SECOND)
        .queue_capacity(1 << 14);
    let busy = node(&looper, busy, handler);
    let sender = node(
        &looper,
        config()
            .synchronous(false)
            .timeout(SECOND)
            .send_queue_policy(SendPolicy::Fail),
        quiet,
    );
    let held = {
        sender.send(message(&busy, "held")).result().unwrap();
        received.recv().unwrap()
    };
    // Until nothing more goes in anywhere: neither into its queue nor into the sender's.
    loop {
        let outcome = sender.send(message(&busy, vec![1; 4000]));
        if outcome.is_done() && matches!(outcome.result(), Err(PoolError::QueueFull { .. })) {
            break;
        }
    }
    for n in 0..50 {
        assert_eq!(
            busy.request(message(&echo, n.to_string()))
                .result()
                .unwrap()
                .text_lossy(),
            n.to_string()
        );
    }
    drop(held);
    for _ in 0..20 {
        drop(received.recv().unwrap());
    }
}
