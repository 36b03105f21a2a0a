//! Every option of a node: its default, both ends of its range, and what is said about a value outside.

mod support;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use syncq::pool::{Config, ConfigError, Identity, SendPolicy};

fn plain() -> Config {
    Config::new().disable_encryption(true)
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

fn refused(config: &Config) -> ConfigError {
    config.validate().expect_err("a value that cannot be")
}

#[test]
fn the_defaults_are_libchirps() {
    let config = Config::default();
    assert!(config.synchronous && config.auto_release);
    assert_eq!((config.max_slots, config.slots()), (0, 1));
    assert_eq!(config.timeout, Duration::from_secs(5));
    assert_eq!(config.reuse_time, Duration::from_secs(30));
    assert_eq!((config.port, config.backlog), (2998, 100));
    assert_eq!(config.bind_v4, Some(Ipv4Addr::UNSPECIFIED));
    assert_eq!(config.bind_v6, Some(Ipv6Addr::UNSPECIFIED));
    assert_eq!((config.buffer_size, config.read_buffer()), (0, 65536));
    assert_eq!(config.max_message_size, 104_857_600);
    assert_eq!(config.identity, None);
    assert_eq!((&config.cert_chain_pem, &config.dh_params_pem), (&None, &None));
    assert!(!config.disable_encryption && !config.disable_signals);
    assert_eq!(config.connect_timeout(), Duration::from_secs(10));
    assert_eq!(config, Config::new());
}

#[test]
fn the_defaults_of_what_libchirp_has_not() {
    let config = Config::default();
    assert_eq!(config.retries, 0);
    assert_eq!((config.send_queue_messages, config.send_queue_bytes), (1000, 64 << 20));
    assert_eq!(config.send_queue_policy, SendPolicy::Block);
    assert_eq!(config.handshake_timeout, Duration::from_secs(5));
    assert_eq!(config.workers, 0);
    assert!((5..=32).contains(&config.worker_count()));
    assert!(!config.always_encrypt);
    assert_eq!((config.queue.as_deref(), config.queue_capacity), (None, 1 << 20));
}

/// An option's name, and what sets it to a value.
type Choice<V> = (&'static str, fn(Config, V) -> Config);

fn check<V: Copy + std::fmt::Debug>((name, set): Choice<V>, good: &[V], bad: &[V]) {
    for value in good {
        let config = set(plain(), *value);
        assert_eq!(config.validate(), Ok(()), "{name} {value:?}");
    }
    for value in bad {
        let error = refused(&set(plain(), *value));
        assert_eq!(error.option, name, "{value:?}");
        assert_eq!(error.value, format!("{value:?}"));
        let words = error.to_string();
        assert!(
            words.starts_with(&format!("Config: {name} is {value:?}, and must be ")),
            "{words}"
        );
    }
}

#[test]
fn every_range_is_checked_at_both_ends() {
    check(("max_slots", Config::max_slots), &[0, 1, 32], &[33, 255]);
    check(
        ("timeout", Config::timeout),
        &[seconds(0.1), seconds(5.0), seconds(1200.0)],
        &[
            seconds(0.0),
            seconds(0.099),
            seconds(1200.001),
            seconds(1201.0),
            Duration::MAX,
        ],
    );
    check(("port", Config::port), &[0, 1025, 2998, 65535], &[1, 34, 1024]);
    check(("backlog", Config::backlog), &[0, 1, 127], &[128, 255]);
    check(
        ("buffer_size", Config::buffer_size),
        &[0, 1024, 65536, u32::MAX],
        &[1, 1023],
    );
    check(("max_message_size", Config::max_message_size), &[0, 1, u32::MAX], &[]);
    check(("retries", Config::retries), &[0, 255], &[]);
    check(
        ("send_queue_messages", Config::send_queue_messages),
        &[1, usize::MAX],
        &[0],
    );
    check(("send_queue_bytes", Config::send_queue_bytes), &[1, usize::MAX], &[0]);
    for policy in [SendPolicy::Block, SendPolicy::Fail, SendPolicy::DropOldest] {
        assert_eq!(plain().send_queue_policy(policy).validate(), Ok(()));
    }
    check(
        ("handshake_timeout", Config::handshake_timeout),
        &[seconds(0.01), seconds(1200.0)],
        &[seconds(0.0), seconds(0.009), seconds(1200.1), Duration::MAX],
    );
    check(("workers", Config::workers), &[0, 1, 4096], &[4097]);
    check(
        ("queue_capacity", Config::queue_capacity),
        &[4096, 1 << 20, 1 << 40],
        &[0, 2048, 4097, 1 << 41],
    );
}

#[test]
fn booleans_are_kept_and_need_no_check() {
    for yes in [true, false] {
        let config = plain().synchronous(yes).auto_release(yes).disable_signals(yes);
        assert_eq!(
            (config.synchronous, config.auto_release, config.disable_signals),
            (yes, yes, yes)
        );
        assert_eq!(config.validate(), Ok(()));
    }
}

#[test]
fn idle_connections_live_for_three_timeouts_at_least() {
    // Less than the range allows is taken, as libchirp does, since it counts as more.
    let config = plain().reuse_time(seconds(0.4));
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.idle_limit(), seconds(15.0));
    let config = plain().timeout(seconds(0.1)).reuse_time(seconds(0.5));
    assert_eq!((config.validate(), config.idle_limit()), (Ok(()), seconds(0.5)));
    assert_eq!(
        refused(&plain().timeout(seconds(0.1)).reuse_time(seconds(0.4))).option,
        "reuse_time"
    );
    assert_eq!(plain().reuse_time(seconds(3600.0)).validate(), Ok(()));
    assert_eq!(refused(&plain().reuse_time(seconds(3600.1))).option, "reuse_time");
    assert_eq!(refused(&plain().reuse_time(Duration::MAX)).option, "reuse_time");
}

#[test]
fn connecting_takes_a_minute_at_most() {
    assert_eq!(plain().timeout(seconds(0.5)).connect_timeout(), seconds(1.0));
    assert_eq!(plain().timeout(seconds(31.0)).connect_timeout(), seconds(60.0));
}

#[test]
fn slots_are_one_in_synchronous_mode_and_sixteen_by_default_otherwise() {
    assert_eq!(plain().max_slots(7).slots(), 1);
    assert_eq!(plain().synchronous(false).slots(), 16);
    assert_eq!(plain().synchronous(false).max_slots(32).slots(), 32);
    assert_eq!(plain().buffer_size(1024).read_buffer(), 1024);
    assert_eq!(plain().workers(3).worker_count(), 3);
}

#[test]
fn without_certificates_encryption_must_be_disabled() {
    let error = refused(&Config::new());
    let option = if cfg!(feature = "tls") {
        "cert_chain_pem"
    } else {
        "disable_encryption"
    };
    assert_eq!(error.option, option);
    assert!(error.to_string().contains("disable_encryption"), "{error}");
    // What has no network has nothing to encrypt.
    assert_eq!(Config::new().queue_only("a-node").validate(), Ok(()));
}

#[test]
fn files_that_are_named_must_be_there() {
    let folder = support::folder("pool-config");
    let file = folder.0.join("chain.pem");
    std::fs::write(&file, "").unwrap();
    let missing = folder.0.join("missing.pem");
    assert_eq!(plain().cert_chain_pem(&file).dh_params_pem(&file).validate(), Ok(()));
    let is_possible = Config::new().cert_chain_pem(&file).validate().is_ok();
    assert_eq!(is_possible, cfg!(feature = "tls"));
    let error = refused(&plain().cert_chain_pem(&missing));
    assert_eq!(error.option, "cert_chain_pem");
    assert!(error.to_string().contains("missing.pem"), "{error}");
    assert_eq!(refused(&plain().dh_params_pem(&missing)).option, "dh_params_pem");
    assert_eq!(refused(&plain().dh_params_pem(&folder.0)).option, "dh_params_pem");
}

#[test]
fn encrypting_always_and_never_is_refused() {
    assert_eq!(refused(&plain().always_encrypt(true)).option, "always_encrypt");
}

#[test]
fn a_node_can_be_reached_somehow() {
    assert_eq!(refused(&plain().bind_v4(None).bind_v6(None)).option, "bind_v4");
    assert_eq!(plain().bind_v4(None).validate(), Ok(()));
    assert_eq!(plain().bind_v6(None).validate(), Ok(()));
    assert_eq!(plain().bind_v4(None).bind_v6(None).queue("a-node").validate(), Ok(()));
}

#[test]
fn an_identity_that_is_configured_is_kept_whole() {
    let bytes: [u8; 16] = std::array::from_fn(|i| i as u8 + 1);
    let config = plain().identity(Some(Identity::from(bytes)));
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.identity.unwrap().as_bytes(), &bytes);
}

#[test]
fn a_config_error_is_bad_input_for_who_speaks_io() {
    let error = std::io::Error::from(refused(&plain().port(80)));
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "Config: port is 80, and must be 0 (for any) or 1025 to 65535"
    );
}
