//! What is too large, send queues that are full, and who is held back by that. Not here: how many messages a receiver is handed at a
//! time (`slots`).

use super::support::minute;
use super::{SECOND, asynchronous, collecting, echo, in_all_modes, is_timed_out, message, node, plain, quiet};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError, SendOptions, SendPolicy, Stage};

#[test]
fn what_is_too_large_is_refused_before_anything_is_sent() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, plain(), echo);
    let sender = node(&looper, plain().max_message_size(100), quiet);
    let mut fits = message(&echo, vec![0; 90]);
    fits.set_header([0; 10]);
    assert_eq!(sender.request(fits).result().unwrap().data().len(), 90);
    let mut one_more = message(&echo, vec![0; 90]);
    one_more.set_header([0; 11]);
    let error = sender.send(one_more).result().unwrap_err();
    assert!(matches!(error, PoolError::TooLarge { size: 101, max: 100 }), "{error}");
    let sender = node(&looper, plain(), quiet);
    let mut long_header = message(&echo, "");
    long_header.set_header(vec![0; 65_535]);
    assert_eq!(
        sender.request(long_header.clone()).result().unwrap().header().len(),
        65_535
    );
    long_header.set_header(vec![0; 65_536]);
    let error = sender.send(long_header).result().unwrap_err();
    assert!(matches!(error, PoolError::HeaderTooLong { len: 65_536 }), "{error}");
}

#[test]
fn a_full_send_queue_does_what_its_policy_says() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = silent.local_addr().unwrap();
    let short = |policy| plain().send_queue_messages(3).send_queue_policy(policy);

    let failing = node(&looper, short(SendPolicy::Fail), quiet);
    let waiting: Vec<_> = (0..3).map(|_| failing.send(Message::to(to, "x").unwrap())).collect();
    match failing.send(Message::to(to, "y").unwrap()).result() {
        Err(PoolError::QueueFull {
            messages: 3, bytes: 3, ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert!(waiting.iter().all(|outcome| !outcome.is_done()));

    let dropping = node(&looper, short(SendPolicy::DropOldest), quiet);
    let waiting: Vec<_> = (0..4).map(|_| dropping.send(Message::to(to, "x").unwrap())).collect();
    let done: Vec<_> = waiting.iter().map(|outcome| outcome.is_done()).collect();
    assert_eq!(done, [true, false, false, false]);
    assert!(matches!(
        waiting.into_iter().next().unwrap().result(),
        Err(PoolError::Dropped { .. })
    ));

    let blocking = node(&looper, short(SendPolicy::Block), quiet);
    let _waiting: Vec<_> = (0..3).map(|_| blocking.send(Message::to(to, "x").unwrap())).collect();
    let start = Instant::now();
    let options = SendOptions::new().within(Duration::from_millis(100));
    let error = blocking
        .send_with(Message::to(to, "y").unwrap(), options)
        .result()
        .unwrap_err();
    assert!(is_timed_out(&error, Stage::Room), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(100));
    // By bytes as well; one that is larger than all the room may wait alone.
    let by_bytes = node(
        &looper,
        plain().send_queue_bytes(10).send_queue_policy(SendPolicy::Fail),
        quiet,
    );
    let alone = by_bytes.send(Message::to(to, [0; 50]).unwrap());
    let error = by_bytes.send(Message::to(to, "y").unwrap()).result().unwrap_err();
    assert!(
        matches!(
            error,
            PoolError::QueueFull {
                messages: 1,
                bytes: 50,
                ..
            }
        ),
        "{error}"
    );
    assert!(!alone.is_done());
    // What still waits has no peer: it need not be waited for.
    for node in [failing, dropping, blocking, by_bytes] {
        node.stop(Wait::Never).unwrap();
    }
}

#[test]
fn a_slow_receiver_holds_the_sender_back_and_gets_everything_in_order() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (to, received) = mpsc::channel();
    let to = Mutex::new(to);
    let slow = move |_: &Chirp, message: Message| {
        let number = u32::from_le_bytes(message.data()[..4].try_into().unwrap());
        if number % 100 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        to.lock().unwrap().send((number, message.data().len())).unwrap();
    };
    let receiver = node(&looper, asynchronous().workers(1), slow);
    let sender = node(&looper, asynchronous().send_queue_messages(10), quiet);
    let count = 2000u32;
    for n in 0..count {
        let mut data = vec![1; 5000];
        data[..4].copy_from_slice(&n.to_le_bytes());
        drop(sender.send(message(&receiver, data)));
    }
    for n in 0..count {
        assert_eq!(received.recv().unwrap(), (n, 5000));
    }
}

#[test]
fn handlers_that_fill_the_send_queue_of_whom_they_serve_wait_for_room_and_keep_nobody_else_waiting() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        // Room for one: nearly every message has to wait, while acknowledgements and messages come in.
        let talking = |chirp: &Chirp, message: Message| {
            for n in 0..10u8 {
                drop(chirp.send(Message::to(message.peer().clone(), [n]).unwrap()));
            }
        };
        let server = node(
            &looper,
            theirs.send_queue_messages(1).max_slots(2).timeout(20 * SECOND),
            talking,
        );
        let (handler, received) = collecting();
        let client = node(&looper, ours.timeout(20 * SECOND), handler);
        let sent: Vec<_> = (0..60).map(|_| client.send(message(&server, "talk"))).collect();
        for _ in 0..600 {
            received.recv_timeout(30 * SECOND).expect("nobody is stuck");
        }
        for outcome in sent {
            outcome.result().unwrap();
        }
    });
}
