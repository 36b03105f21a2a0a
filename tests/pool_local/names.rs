//! Names: which node has one, what one can be, what is there under one, and nodes that have none or a port beside it.
//!
//! Not here: the name of a node that was killed (`processes`).

use super::support::{self, minute, unique};
use super::{SECOND, config, echo, message, node, queues_called, quiet};
use syncq::Queue;
use syncq::pool::{Chirp, Config, Loop, Message, PoolError};

#[test]
fn a_name_belongs_to_one_live_node() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let first = node(&looper, config(), echo);
    let name = first.config().queue.clone().unwrap();
    let error = Chirp::new(&looper, config().queue_only(&name), quiet).unwrap_err();
    let me = std::process::id();
    assert!(
        matches!(&error, PoolError::NameInUse { pid, .. } if *pid == me),
        "{error}"
    );
    assert!(error.to_string().contains(&name));
    first.stop(SECOND).unwrap();
    assert_eq!(queues_called(&name), Vec::<String>::new());
    let second = node(&looper, config().queue_only(&name), echo);
    let client = node(&looper, config(), quiet);
    assert_eq!(
        client.request(message(&second, "again")).result().unwrap().data(),
        b"again"
    );
}

#[test]
fn a_name_that_cannot_be_is_refused() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    for name in ["", "a/b", &"x".repeat(65)] {
        let error = Chirp::new(&looper, config().queue_only(name), quiet).unwrap_err();
        assert!(matches!(error, PoolError::Queue(_)), "{name:?}: {error}");
    }
}

#[test]
fn who_is_not_there_is_an_error_at_once() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let client = node(&looper, config(), quiet);
    for _ in 0..3 {
        let nobody = Message::to(&format!("queue:{}", unique("nobody")), "?").unwrap();
        let error = client.request(nobody).result().unwrap_err();
        assert!(
            matches!(error, PoolError::Refused { .. }) && error.is_unsent(),
            "{error}"
        );
    }
    // A queue that is no node's.
    let plain = support::named("plain", &Queue::options());
    let error = client
        .send(Message::to(&format!("queue:{}", plain.name), "?").unwrap())
        .result()
        .unwrap_err();
    assert!(matches!(error, PoolError::Refused { .. }), "{error}");
}

#[test]
fn a_node_without_a_name_asks_and_is_answered() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, config(), echo);
    let tcp = Config::new().port(0).disable_encryption(true).bind_v6(None);
    let client = node(&looper, tcp, quiet);
    assert_eq!(
        client.request(message(&echo, "hello")).result().unwrap().data(),
        b"hello"
    );
    let its = format!("chirp-{}", client.identity());
    assert!(!queues_called(&its).is_empty());
    client.stop(SECOND).unwrap();
    assert!(queues_called(&its).is_empty());
}

#[test]
fn one_handler_serves_a_queue_and_a_port() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let both = Config::new()
        .port(0)
        .disable_encryption(true)
        .bind_v6(None)
        .queue(unique("both"));
    let echo = node(&looper, both, echo);
    let client = node(&looper, config(), quiet);
    let over_tcp = node(
        &looper,
        Config::new().port(0).disable_encryption(true).bind_v6(None),
        quiet,
    );
    assert_eq!(
        client.request(message(&echo, "queue")).result().unwrap().data(),
        b"queue"
    );
    let request = Message::to(echo.local_address(), "port").unwrap();
    assert_eq!(over_tcp.request(request).result().unwrap().data(), b"port");
}
