//! What handlers may do: fail, panic, forget a request, answer it later from elsewhere, and ask whoever asks them.
//!
//! Not here: handlers that stop their node (`stopping`) and handlers that take their time (`who_reads`, `limits`).

use super::support::minute;
use super::{in_all_modes, message, node, quiet, synchronous};
use std::time::Duration;
use syncq::pool::{Chirp, Loop, Message, PoolError};

#[test]
fn a_handler_that_fails_or_panics_or_drops_a_request_frees_its_slot_and_the_requester_learns_it() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let failing = |_: &Chirp, message: Message| -> Result<(), String> {
            match message.data() {
                b"fail" => Err("no such thing".into()),
                b"panic" => std::panic::panic_any("deliberately".to_owned()),
                b"explain" => {
                    message.fail("because");
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        let receiver = node(&looper, theirs.max_slots(1), failing);
        let client = node(&looper, ours, quiet);
        for _ in 0..3 {
            for (what, why) in [
                ("fail", "no such thing"),
                ("panic", "the handler panicked: deliberately"),
                ("explain", "because"),
                ("drop", "the message was dropped without an answer"),
            ] {
                match client.request(message(&receiver, what)).result() {
                    Err(PoolError::HandlerFailed { text, .. }) => assert_eq!(text, why),
                    other => panic!("{what}: {other:?}"),
                }
            }
        }
    });
}

#[test]
fn a_synchronous_sender_learns_that_the_handler_failed() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let receiver = node(&looper, synchronous(), |_: &Chirp, _: Message| Err::<(), _>("broken"));
    let sender = node(&looper, synchronous(), quiet);
    for _ in 0..3 {
        match sender.send(message(&receiver, "x")).result() {
            Err(PoolError::HandlerFailed { text, .. }) => assert_eq!(text, "broken"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_handler_may_keep_the_request_and_answer_later_from_elsewhere() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let later = |chirp: &Chirp, message: Message| {
            let chirp = chirp.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                chirp.send(message)
            });
        };
        let echo = node(&looper, theirs, later);
        let client = node(&looper, ours, quiet);
        assert_eq!(
            client.request(message(&echo, "later")).result().unwrap().data(),
            b"later"
        );
    });
}

#[test]
fn handlers_that_ask_each_other_do_not_wait_for_ever() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        // Each asks the one it was asked by, until the number is 0. One thread, one slot: as narrow as can be.
        let asking = |chirp: &Chirp, mut message: Message| {
            let depth = message.data()[0];
            let below = match depth {
                0 => vec![],
                _ => {
                    let question = Message::to(message.peer().clone(), [depth - 1]).unwrap();
                    chirp.request(question).result().unwrap().take_data()
                }
            };
            message.set_data([vec![depth], below].concat());
            chirp.send(message).result().unwrap();
        };
        let one = node(&looper, ours.workers(1).max_slots(1), asking);
        let other = node(&looper, theirs.workers(1).max_slots(1), asking);
        let mut question = message(&other, [9]);
        question.set_data([9]);
        let answer = one.request(question).result().unwrap();
        assert_eq!(answer.data(), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    });
}
