//! Where a node can be and what can be said to be an address: IPv4 and IPv6, the loopback's others, nowhere, a port that is taken.
//!
//! Not here: good addresses at which nobody listens (`absent_peers`), and the ranges of all options (`pool_config.rs`).

use super::support::minute;
use super::{SECOND, echo, message, node, plain, quiet};
use syncq::pool::{Chirp, Identity, Loop, Message, PoolError};

#[test]
fn ipv6_works() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let config = || plain().bind_v6(Some(std::net::Ipv6Addr::LOCALHOST));
    let v6_only = config().bind_v4(None);
    let echo = match Chirp::new(&looper, v6_only.clone(), echo) {
        Ok(echo) => echo,
        Err(PoolError::Bind { source, .. }) => return println!("not run: this machine has no IPv6 ({source})"),
        Err(error) => panic!("{error}"),
    };
    let client = node(&looper, v6_only, quiet);
    let answer = client.request(message(&echo, "six")).result().unwrap();
    assert_eq!((answer.data(), answer.address()), (&b"six"[..], "::1".into()));
    // Both at one port.
    let both = node(&looper, config(), quiet);
    for ip in [
        std::net::IpAddr::from([127, 0, 0, 1]),
        std::net::Ipv6Addr::LOCALHOST.into(),
    ] {
        client
            .send(Message::to((ip, both.port()), "").unwrap())
            .result()
            .unwrap();
    }
}

#[test]
fn an_address_that_leads_nowhere_is_no_peer() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let sender = node(&looper, plain(), quiet);
    for to in ["127.0.0.0:4000", "0.0.0.0:4000", "127.0.0.1:0"] {
        match sender.send(Message::to(to, "x").unwrap()).result() {
            Err(PoolError::NoPeer { .. } | PoolError::Refused { .. }) => {}
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn other_addresses_of_the_loopback_network_are_as_good() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, plain().bind_v4(Some([0, 0, 0, 0].into())), echo);
    let client = node(&looper, plain(), quiet);
    let to = std::net::SocketAddr::from(([127, 0, 0, 2], echo.port()));
    for _ in 0..3 {
        assert_eq!(
            client.request(Message::to(to, "two").unwrap()).result().unwrap().data(),
            b"two"
        );
    }
}

#[test]
fn a_port_that_is_taken_and_options_out_of_range_are_errors_with_words() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let one = node(&looper, plain(), quiet);
    let error = Chirp::new(&looper, plain().port(one.port()), quiet).unwrap_err();
    assert!(matches!(error, PoolError::Bind { .. }), "{error}");
    let error = Chirp::new(&looper, plain().timeout(1201 * SECOND), quiet).unwrap_err();
    assert!(error.to_string().starts_with("Config: timeout is 1201s"), "{error}");
    let error = Chirp::new(&looper, plain().disable_encryption(false), quiet).unwrap_err();
    assert!(matches!(error, PoolError::Config(_)), "{error}");
    assert!(!one.identity().is_zero());
    let fixed = Identity::from([7; 16]);
    assert_eq!(node(&looper, plain().identity(Some(fixed)), quiet).identity(), fixed);
}

#[test]
fn a_new_message_is_empty_for_nobody_and_has_an_identity_of_its_own() {
    let fresh = Message::new();
    assert!(!fresh.identity().is_zero());
    assert_eq!((fresh.serial(), fresh.header(), fresh.data()), (0, &[][..], &[][..]));
    assert_eq!((fresh.address(), fresh.port()), ("0.0.0.0".into(), 0));
    assert!(fresh.remote_identity().is_zero());
    let mut changed = Message::new();
    let identity = changed.identity();
    changed.set_address("::1").unwrap();
    changed.set_port(2998);
    assert_eq!((changed.address(), changed.port()), ("::1".into(), 2998));
    changed.set_address("10.0.0.1").unwrap();
    assert_eq!((changed.address(), changed.port()), ("10.0.0.1".into(), 2998));
    for bad in ["", "1.2.3", "host", "queue:", "1.2.3.4:5"] {
        assert!(
            matches!(changed.set_address(bad), Err(PoolError::Address(_))),
            "{bad:?}"
        );
    }
    assert_eq!((changed.address(), changed.identity()), ("10.0.0.1".into(), identity));
    changed.set_address("queue:jobs").unwrap();
    assert_eq!((changed.address(), changed.port()), ("queue:jobs".into(), 0));
}
