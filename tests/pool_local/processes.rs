//! Nodes whose process is killed, suspended or forked: what others see of it, and what the next start under the name finds.
//!
//! Not here: deaths at random moments, over and over (`pool_local_kill.rs`).

use super::forked_node::forked_node;
use super::support::{SharedWord, eventually, forked, minute};
use super::{SECOND, collecting, config, echo, message, node, queues_called, quiet};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use syncq::pool::{Chirp, Loop, Message, PoolError, SendOptions, Stage};

#[test]
fn a_killed_node_is_an_error_for_whoever_waits_for_it_and_its_next_start_serves() {
    for synchronous in [true, false] {
        let _watchdog = minute();
        let ready = SharedWord::new();
        let theirs = config().synchronous(false);
        let name = theirs.queue.clone().unwrap();
        let to = |data: &str| Message::to(&format!("queue:{name}"), data).unwrap();
        let child = forked_node(theirs.clone(), &ready, |chirp: &Chirp, message: Message| {
            if message.data() == b"hold" {
                std::thread::sleep(60 * SECOND);
            }
            chirp.send(message);
        });
        ready.wait_for(1);
        let looper = Loop::new().unwrap();
        let client = node(&looper, config().synchronous(synchronous).timeout(30 * SECOND), quiet);
        let first = client.request(to("hello")).result().unwrap();
        let held = client.request(to("hold"));
        let also = client.request(to("hold"));
        let begun = Instant::now();
        child.child().kill_unreaped();
        for outcome in [held, also] {
            let error = outcome.result().unwrap_err();
            assert!(
                matches!(error, PoolError::PeerDied { .. } | PoolError::Refused { .. }),
                "{error} after {:?}",
                begun.elapsed()
            );
        }
        // Long before its time: which says that it was seen.
        assert!(begun.elapsed() < 15 * SECOND);
        let error = client.request(to("hello")).result().unwrap_err();
        assert!(matches!(error, PoolError::Refused { .. }), "{error}");
        // Its queues are still there; what is in them is not for the next one.
        assert_eq!(queues_called(&name).len(), 2);
        assert!(synchronous || Chirp::remove_queues(&name).unwrap());
        let again = node(&looper, theirs, echo);
        assert!(matches!(Chirp::remove_queues(&name), Err(PoolError::NameInUse { .. })));
        let answer = client.request(to("hello again")).result().unwrap();
        assert_eq!(answer.data(), b"hello again");
        assert_ne!(answer.remote_identity(), first.remote_identity());
        again.stop(SECOND).unwrap();
        assert_eq!(queues_called(&name), Vec::<String>::new());
    }
}

#[test]
fn what_a_killed_node_had_not_read_is_dropped_by_its_next_start() {
    let _watchdog = minute();
    let ready = SharedWord::new();
    let theirs = config().synchronous(false).auto_release(false).max_slots(1);
    let name = theirs.queue.clone().unwrap();
    let mut child = forked_node(theirs.clone(), &ready, |_: &Chirp, _message: Message| {
        std::thread::sleep(60 * SECOND)
    });
    ready.wait_for(1);
    let looper = Loop::new().unwrap();
    let client = node(&looper, config().synchronous(false), quiet);
    for n in 0..50 {
        client
            .send(Message::to(&format!("queue:{name}"), n.to_string()).unwrap())
            .result()
            .unwrap();
    }
    child.kill();
    let (handler, received) = collecting();
    let again = node(&looper, theirs, handler);
    // What an asynchronous node sends to one that was killed a moment ago goes the way of what had been sent before.
    eventually("the next one is reached", || {
        client.send(message(&again, "new")).result().unwrap();
        match received.recv_timeout(Duration::from_millis(20)) {
            Ok(first) => first.data() == b"new",
            Err(_) => false,
        }
    });
    while let Ok(more) = received.recv_timeout(Duration::from_millis(100)) {
        assert_eq!(more.data(), b"new");
    }
}

#[test]
fn a_stopped_process_delays_nobody_but_those_who_ask_it() {
    let _watchdog = minute();
    let ready = SharedWord::new();
    let theirs = config().synchronous(false);
    let name = theirs.queue.clone().unwrap();
    let child = forked_node(theirs, &ready, echo);
    ready.wait_for(1);
    let looper = Loop::new().unwrap();
    let (handler, late) = collecting();
    let client = node(&looper, config().synchronous(false), handler);
    let other = node(&looper, config(), echo);
    let to_stopped = || Message::to(&format!("queue:{name}"), "asleep").unwrap();
    client.request(to_stopped()).result().unwrap();
    // Not in the very middle of an append: whoever else writes into that queue would wait for it, as members of any queue do.
    std::thread::sleep(Duration::from_millis(200));
    child.suspend();
    let short = SendOptions::new().within(Duration::from_millis(300));
    let asked = client.request_with(to_stopped(), short);
    for n in 0..100 {
        assert_eq!(
            client
                .request(message(&other, n.to_string()))
                .result()
                .unwrap()
                .text_lossy(),
            n.to_string()
        );
    }
    let error = asked.result().unwrap_err();
    assert!(
        matches!(
            error,
            PoolError::TimedOut {
                stage: Stage::Answer,
                ..
            }
        ),
        "{error}"
    );
    child.child().signal(Signal::SIGCONT);
    // It was cancelled there before it was begun, or it is answered late; whichever comes first.
    let _ = late.recv_timeout(Duration::from_millis(200));
    assert_eq!(client.request(to_stopped()).result().unwrap().data(), b"asleep");
}

#[test]
fn a_forked_child_is_told_that_the_node_is_its_parents() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, config(), echo);
    let client = node(&looper, config(), quiet);
    assert_eq!(
        client.request(message(&echo, "before")).result().unwrap().data(),
        b"before"
    );
    forked(|| {
        let is_told = matches!(client.request(message(&echo, "child")).result(), Err(PoolError::Forked));
        let is_told = is_told && matches!(client.stop(SECOND), Err(PoolError::Forked));
        drop((client.clone(), echo.clone()));
        i32::from(!is_told)
    })
    .must_succeed();
    assert_eq!(
        client.request(message(&echo, "after")).result().unwrap().data(),
        b"after"
    );
    assert_eq!(queues_called(client.config().queue.as_deref().unwrap()).len(), 2);
}
