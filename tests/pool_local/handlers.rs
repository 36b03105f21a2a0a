//! Handlers that fail, panic, forget a request, give a reason that is too long, or ask whoever asks them.
//!
//! Not here: handlers that stop their node or outlive it (`stopping`).

use super::{SECOND, in_all_modes, message, node, queues_called, quiet};
use std::time::Duration;
use syncq::Queue;
use syncq::pool::{Chirp, Loop, Message, PoolError};

#[test]
fn a_handler_that_fails_panics_or_forgets_is_told_and_frees_its_slot() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let picky = |chirp: &Chirp, message: Message| -> Result<(), String> {
            match message.text_lossy().as_ref() {
                "error" => Err("no such thing".into()),
                "panic" => panic!("on purpose"),
                "forget" => Ok(()),
                _ => {
                    chirp.send(message);
                    Ok(())
                }
            }
        };
        let receiver = node(&looper, theirs.max_slots(1), picky);
        let client = node(&looper, ours, quiet);
        for (text, expected) in [
            ("error", "no such thing"),
            ("panic", "on purpose"),
            ("forget", "without an answer"),
        ] {
            let error = client.request(message(&receiver, text)).result().unwrap_err();
            assert!(
                matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains(expected)),
                "{text}: {error}"
            );
        }
        assert_eq!(
            client.request(message(&receiver, "fine")).result().unwrap().data(),
            b"fine"
        );
    });
}

#[test]
fn a_failure_whose_reason_is_too_long_for_the_other_node_is_told_once() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let failing = |_: &Chirp, _: Message| -> Result<(), String> { Err("x".repeat(200)) };
        let receiver = node(&looper, theirs.max_message_size(40), failing);
        let client = node(&looper, ours.max_message_size(40), quiet);
        let error = client.request(message(&receiver, "?")).result().unwrap_err();
        assert!(
            matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains("reason")),
            "{error}"
        );
        // And it is quiet then.
        let appended = || {
            let queues = queues_called(client.config().queue.as_deref().unwrap());
            let members = queues.iter().flat_map(|queue| Queue::open(queue).unwrap().members());
            members.map(|member| member.appended).sum::<u64>()
        };
        std::thread::sleep(Duration::from_millis(20));
        let before = appended();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(appended(), before);
    });
}

#[test]
fn handlers_that_ask_each_other_do_not_lock_up() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        // Each asks the other one, with one less to go.
        let ask_back = |chirp: &Chirp, mut message: Message| -> Result<(), String> {
            let left: u32 = message.text_lossy().parse().map_err(|_| "no number")?;
            if left > 0 {
                let next =
                    Message::to(&message.address(), (left - 1).to_string()).map_err(|error| error.to_string())?;
                let answer = chirp.request(next).result().map_err(|error| error.to_string())?;
                message.set_data(format!("{left} {}", answer.text_lossy()));
            }
            chirp.send(message);
            Ok(())
        };
        let one = node(&looper, ours.workers(1).timeout(20 * SECOND), ask_back);
        let other = node(&looper, theirs.workers(1).timeout(20 * SECOND), ask_back);
        for _ in 0..3 {
            assert_eq!(
                one.request(message(&other, "6")).result().unwrap().text_lossy(),
                "6 5 4 3 2 1 0"
            );
        }
    });
}
