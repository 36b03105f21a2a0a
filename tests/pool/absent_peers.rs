//! Peers that do not listen, or not yet: that is known at once, costs nothing later, and what was not sent can be sent again.
//!
//! Not here: peers that listen and say nothing (`time`), and nodes that were killed (`pool_kill.rs`).

use super::support::minute;
use super::tcp::refused;
use super::{SECOND, echo, in_all_modes, node, plain, quiet};
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::pool::{Loop, Message, PoolError};

#[test]
fn sending_to_a_closed_port_is_refused_at_once_and_so_is_all_that_waits_for_it() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let sender = node(&looper, ours, quiet);
        let start = Instant::now();
        let (to, _held) = refused();
        let mut open: Vec<_> = (0..4).map(|_| sender.send(Message::to(to, "x").unwrap())).collect();
        open.extend((0..4).map(|_| sender.request(Message::to(to, "x").unwrap())));
        for mut outcome in open {
            let error = loop {
                match outcome.wait(Wait::Forever) {
                    Ok(None) => {}
                    Ok(Some(message)) => panic!("{message:?}"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, PoolError::Refused { .. }), "{error}");
            assert!(error.is_unsent());
            assert!(outcome.take_message().is_some(), "what was not sent is given back");
        }
        assert!(start.elapsed() < SECOND, "long before any timeout");
    });
}

#[test]
fn a_request_that_was_not_sent_is_not_waited_for_and_can_be_sent_again() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let client = node(&looper, plain().timeout(20 * SECOND), quiet);
    let (to, _held) = refused();
    let mut request = Message::to(to, "hello").unwrap();
    for _ in 0..3 {
        let mut outcome = client.request(request);
        let error = outcome.wait(Wait::Forever).unwrap_err();
        assert!(matches!(error, PoolError::Refused { .. }), "{error}");
        request = outcome.take_message().expect("it was not sent");
    }
    let begun = Instant::now();
    client.stop(20 * SECOND).unwrap();
    assert!(begun.elapsed() < 10 * SECOND, "there is nothing to wait for");
}

#[test]
fn a_retry_finds_a_peer_that_comes_late() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (to, held) = refused();
    let client = node(&looper, plain().retries(20), quiet);
    let mut request = client.request(Message::to(to, "late").unwrap());
    assert!(request.wait(Duration::from_millis(100)).unwrap().is_none());
    drop(held);
    let _echo = node(&looper, plain().port(to.port()), echo);
    assert_eq!(request.result().unwrap().data(), b"late");
}
