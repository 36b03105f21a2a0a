//! Slots: how many messages are handed out at a time, and what gives a slot back. Not here: what becomes of those that nobody gives
//! back when the node stops (`stopping`).

use super::support::{eventually, minute};
use super::{asynchronous, collecting, message, node, quiet, synchronous};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use syncq::pool::{Chirp, Loop, Message, SendOptions};

#[test]
fn as_many_messages_as_there_are_slots_are_handed_out_then_one_for_each_release_in_order() {
    let _watchdog = minute();
    for (slots, expected) in [(0, 16), (1, 1), (4, 4), (32, 32)] {
        let looper = Loop::new().unwrap();
        let (handler, received) = collecting();
        let config = asynchronous().max_slots(slots).auto_release(false).workers(1);
        let receiver = node(&looper, config, handler);
        let sender = node(&looper, asynchronous(), quiet);
        for n in 0..100u8 {
            drop(sender.send(message(&receiver, [n])));
        }
        let mut held: Vec<Message> = (0..expected).map(|_| received.recv().unwrap()).collect();
        assert!(
            received.recv_timeout(Duration::from_millis(100)).is_err(),
            "more than {expected}"
        );
        for next in 0..100 {
            let mut oldest = held.remove(0);
            assert_eq!(oldest.data(), [next]);
            assert!(oldest.has_slot());
            let released = oldest.release();
            assert_eq!(released, Some((oldest.identity(), oldest.serial())));
            assert_eq!((oldest.has_slot(), oldest.release()), (false, None));
            if usize::from(next) + expected < 100 {
                held.push(received.recv().unwrap());
                assert!(
                    received.recv_timeout(Duration::from_millis(2)).is_err(),
                    "more than one"
                );
            }
        }
    }
}

#[test]
fn a_synchronous_send_is_done_when_the_peer_has_released_the_message_and_not_before() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, synchronous().auto_release(false), handler);
    let sender = node(&looper, synchronous(), quiet);
    let mut sent = sender.send(message(&receiver, "x"));
    let mut got = received.recv().unwrap();
    assert!(sent.wait(Duration::from_millis(100)).unwrap().is_none());
    assert!(got.has_slot());
    got.release();
    sent.result().unwrap();
}

#[test]
fn a_message_that_its_handler_only_put_aside_is_released_when_the_handler_returns() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, synchronous(), handler);
    let sender = node(&looper, synchronous(), quiet);
    sender.send(message(&receiver, "x")).result().unwrap();
    let mut got = received.recv().unwrap();
    eventually("the message is released", || !got.has_slot());
    assert_eq!(got.release(), None);
}

#[test]
fn releasing_a_message_without_a_slot_does_nothing() {
    let mut fresh = Message::new();
    assert_eq!((fresh.release(), fresh.has_slot()), (None, false));
}

#[test]
fn an_answer_can_be_kept_unreleased() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (to, sent) = mpsc::channel();
    let to = Mutex::new(to);
    let answering = move |chirp: &Chirp, message: Message| {
        to.lock().unwrap().send(chirp.send(message)).unwrap();
    };
    let echo = node(&looper, synchronous(), answering);
    let client = node(&looper, asynchronous(), quiet);
    let options = SendOptions::new().auto_release(false);
    let mut answer = client.request_with(message(&echo, "x"), options).result().unwrap();
    let mut sent = sent.recv().unwrap();
    assert!(answer.has_slot());
    assert!(sent.wait(Duration::from_millis(50)).unwrap().is_none());
    answer.release();
    sent.result().unwrap();
}
