//! The loop under the nodes: from when to when it runs, what it survives, and that a forked child has none.
//!
//! Not here: which thread reads while somebody waits (`who_reads`).

use super::support::{self, minute};
use super::{SECOND, asynchronous, collecting, echo, message, node, plain, quiet};
use std::sync::{Arc, mpsc};
use syncq::Wait;
use syncq::pool::{Chirp, Loop, Message, PoolError};

#[test]
fn a_loop_runs_until_it_was_stopped_and_its_last_chirp_has_stopped() {
    let _watchdog = minute();
    let looper = Loop::idle().unwrap();
    assert!(!looper.is_running());
    let (to, from) = mpsc::channel();
    let early = to.clone();
    looper.call_soon(move || early.send(std::thread::current().id()).unwrap());
    assert!(matches!(
        Chirp::new(&looper, plain(), quiet),
        Err(PoolError::LoopStopped)
    ));
    looper.run().unwrap();
    looper.run().unwrap();
    looper.call_soon(|| panic!("a call that panics is one call"));
    looper.call_soon(move || to.send(std::thread::current().id()).unwrap());
    let thread = from.recv().unwrap();
    assert_eq!(thread, from.recv().unwrap());
    assert_ne!(thread, std::thread::current().id());

    let one = node(&looper, plain(), quiet);
    let other = node(&looper, plain(), echo);
    looper.stop();
    assert!(looper.is_running(), "there are chirps");
    assert!(matches!(
        Chirp::new(&looper, plain(), quiet),
        Err(PoolError::LoopStopped)
    ));
    one.request(message(&other, "still")).result().unwrap();
    one.stop(SECOND).unwrap();
    assert!(looper.is_running());
    other.stop(SECOND).unwrap();
    looper.stop();
    assert!(!looper.is_running());
    assert!(matches!(looper.run(), Err(PoolError::LoopStopped)));
}

#[test]
fn a_loop_that_has_ended_keeps_nothing_of_what_it_is_given() {
    let _watchdog = minute();
    for looper in [Loop::new().unwrap(), Loop::idle().unwrap()] {
        let kept = Arc::new(());
        let before = kept.clone();
        looper.call_soon(move || drop(before));
        looper.stop();
        let after = kept.clone();
        looper.call_soon(move || drop(after));
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}

#[test]
fn a_waker_that_panics_does_not_end_the_loop() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the test");
        }
    }
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let theirs = node(&looper, plain(), handler);
    let ours = node(&looper, asynchronous(), quiet);
    let mut outcome = ours.request(message(&theirs, "?"));
    let waker = Arc::new(Panics).into();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(std::pin::Pin::new(&mut outcome).poll(&mut context).is_pending());
    theirs.send(received.recv().unwrap()).result().unwrap();
    outcome.wait(Wait::For(20 * SECOND)).unwrap().unwrap();
    let again = ours.request(message(&theirs, "again"));
    theirs.send(received.recv().unwrap()).result().unwrap();
    again.result().unwrap();
    let (to, from) = mpsc::channel();
    looper.call_soon(move || to.send(()).unwrap());
    from.recv_timeout(20 * SECOND).unwrap();
}

#[test]
fn a_forked_child_has_no_node_and_does_its_parents_no_harm() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, plain(), echo);
    let client = node(&looper, plain(), quiet);
    client.request(message(&echo, "before")).result().unwrap();
    let to = echo.local_address();
    let request = Message::to(to, "x").unwrap();
    support::forked(|| {
        let is_told = matches!(client.request(request.clone()).result(), Err(PoolError::Forked));
        let is_stopped = matches!(client.stop(Wait::Forever), Err(PoolError::Forked));
        i32::from(!(is_told && is_stopped && !looper.is_running()))
    })
    .must_succeed();
    client.request(message(&echo, "after")).result().unwrap();
}
