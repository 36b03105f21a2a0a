//! Our node and the real libchirp (the Python package, its pool and its queue), in both directions.
//!
//! What libchirp says was recorded as well, by `interop_libchirp_record.rs`, and is checked in `pool_recorded.rs` wherever the package is missing.

#[path = "support/libchirp.rs"]
mod libchirp;
#[path = "support/python.rs"]
mod python;
mod support;

use libchirp::{
    MODES, SECONDS, SIZES, V4, V6, collecting, connections, echo, free_port, message, order, ours, patience, pattern,
    plain, pool, python, queue, quiet, with,
};
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::eventually;
use syncq::pool::{Chirp, Message, PoolError, Stage};

// ------------------------------------------------------------------------------------------------------- requests

#[test]
fn our_requests_are_answered_by_libchirp_in_all_modes_and_sizes_over_both_families() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in MODES {
        let mut theirs = pool("echo", their_mode).start(&python);
        let us = ours(plain(our_mode), quiet);
        let mut count = 0;
        for ip in [V4, V6] {
            for (header, data) in SIZES {
                let mut asked = message(ip, &theirs, pattern(data, count));
                asked.set_header(pattern(header, 1));
                let identity = asked.identity();
                let answer = us.request(asked).result().unwrap();
                let said = (answer.identity(), answer.remote_identity().to_string());
                assert_eq!(said, (identity, theirs.identity.clone()));
                assert!(answer.data() == pattern(data, count), "{data} bytes of data");
                assert!(answer.header() == pattern(header, 1), "{header} bytes of header");
                assert_eq!((answer.address(), answer.port()), (ip.to_string(), theirs.port));
                assert!(!answer.has_slot());
                count += 1;
            }
        }
        let seen = theirs.seen(count);
        assert_eq!(seen[0]["remote_identity"], us.identity().to_string());
        assert_eq!(seen[0]["port"], us.port());
        assert_eq!(seen[0]["address"], "127.0.0.1");
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn libchirps_requests_are_answered_by_us_in_all_modes_and_sizes_over_both_families() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in MODES {
        let us = ours(plain(our_mode), echo);
        let mut theirs = pool("note", their_mode).start(&python);
        for ip in [V4, V6] {
            for (header, data) in SIZES {
                let sizes = json!({"size": data, "header": header, "seed": header % 200});
                let answer = theirs.must(with(order("request", ip, &us), sizes));
                assert_eq!(answer["asked"], answer["identity"]);
                assert_eq!(answer["remote_identity"], us.identity().to_string());
                assert_eq!(
                    (answer["header"].as_u64(), answer["data"].as_u64()),
                    (Some(header as u64), Some(data as u64))
                );
                assert_eq!(
                    (&answer["address"], &answer["port"]),
                    (&json!(ip.to_string()), &json!(us.port()))
                );
            }
            let answer = theirs.must(with(
                order("requests", ip, &us),
                json!({"count": 100, "size": 100, "header": 10}),
            ));
            assert_eq!(answer["answered"], 100);
        }
        us.stop(SECONDS).unwrap();
    }
}

/// Who is asynchronous must not have several requests open with a synchronous libchirp: it has one slot, answers in it, and waits for its answer to
/// be acknowledged; and no longer reads, for want of a slot, what stands before that acknowledgement. Two of libchirp lock up in the same way, as
/// do two synchronous ones that ask each other.
const WITHOUT_LOCK_UP: [(bool, bool); 3] = [(true, true), (true, false), (false, false)];

#[test]
fn requests_of_many_threads_at_once_are_all_answered_by_libchirp() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in WITHOUT_LOCK_UP {
        let theirs = pool("echo", their_mode).start(&python);
        let us = ours(plain(our_mode), quiet);
        std::thread::scope(|threads| {
            for thread in 0..8 {
                let (us, theirs) = (&us, &theirs);
                threads.spawn(move || {
                    let open: Vec<_> = (0..50)
                        .map(|i| us.request(message(V4, theirs, pattern(i * 7, thread))))
                        .collect();
                    for (i, outcome) in open.into_iter().enumerate() {
                        let answer = outcome.result();
                        assert!(
                            answer
                                .as_ref()
                                .is_ok_and(|answer| answer.data() == pattern(i * 7, thread)),
                            "{our_mode} {their_mode}, {thread}, {i}: {answer:?}"
                        );
                    }
                });
            }
        });
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn both_ask_each_other_at_once() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in [(false, false), (true, false)] {
        let us = ours(plain(our_mode), echo);
        let mut theirs = pool("echo", their_mode).start(&python);
        // Both connect now, and there are two connections.
        theirs.tell(with(order("requests", V4, &us), json!({"count": 200, "size": 50})));
        for i in 0..200 {
            let answer = us.request(message(V4, &theirs, pattern(i, 1))).result();
            assert!(
                answer.as_ref().is_ok_and(|answer| answer.data() == pattern(i, 1)),
                "{our_mode} {their_mode}, {i}: {answer:?}"
            );
        }
        let said = theirs.answer();
        assert_eq!(said["answered"], 200, "{said}");
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn the_queue_flavour_takes_and_answers_our_requests_and_we_its_messages() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in MODES {
        let (handler, received) = collecting();
        let us = ours(plain(our_mode), handler);
        let mut theirs = queue(their_mode).start(&python);
        let asked = us.request(message(V4, &theirs, "from ours"));
        let got = theirs.must(json!({"do": "get", "answer": true}));
        assert_eq!(got["text"], "from ours");
        assert_eq!(asked.result().unwrap().data(), b"from ours");
        theirs.must(with(order("send", V6, &us), json!({"text": "from theirs"})));
        let got = received.recv().unwrap();
        assert_eq!((got.data(), got.port()), (&b"from theirs"[..], theirs.port));
        assert_eq!(got.remote_identity().to_string(), theirs.identity);
        drop(got);
        us.stop(SECONDS).unwrap();
    }
}

// ------------------------------------------------------------------------------------------------------- one way, releases

#[test]
fn messages_one_way_arrive_in_both_directions_and_their_senders_learn_it() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for (our_mode, their_mode) in MODES {
        let handled = Arc::new(AtomicUsize::new(0));
        let counter = handled.clone();
        let us = ours(plain(our_mode), move |_: &Chirp, message: Message| {
            assert_eq!(message.data().len(), 64);
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let mut theirs = pool("note", their_mode).start(&python);
        let sent = theirs.must(with(order("send_many", V4, &us), json!({"count": 500, "size": 64})));
        assert_eq!(sent["sent"], 500);
        eventually("all of theirs are here", || handled.load(Ordering::SeqCst) == 500);
        let open: Vec<_> = (0..500)
            .map(|i| us.send(message(V4, &theirs, pattern(64, i))))
            .collect();
        for outcome in open {
            outcome.result().unwrap();
        }
        theirs.seen(500);
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn our_synchronous_send_is_done_when_libchirp_releases_and_not_before() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for their_mode in [true, false] {
        let mut theirs = pool("hold", their_mode).with("AUTO_RELEASE", false).start(&python);
        let us = ours(plain(true), quiet);
        let mut sent = us.send(message(V4, &theirs, "held"));
        theirs.seen(1);
        assert!(sent.wait(Duration::from_millis(200)).unwrap().is_none());
        assert_eq!(theirs.must(json!({"do": "release", "count": 1}))["released"], 1);
        assert_eq!(sent.result().unwrap().data(), b"held");
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn libchirps_synchronous_send_is_done_when_we_release_and_not_before() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    for our_mode in [true, false] {
        let (handler, received) = collecting();
        let us = ours(plain(our_mode).auto_release(false), handler);
        let mut theirs = pool("note", true).start(&python);
        theirs.must(with(order("start_sending", V4, &us), json!({"count": 2, "size": 3})));
        for done in 0..2 {
            let mut got = received.recv().unwrap();
            assert!(got.has_slot());
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(theirs.must(json!({"do": "sent"}))["done"], done);
            // The next one is not even on its way: one at a time.
            assert!(received.try_recv().is_err());
            assert!(got.release().is_some());
        }
        loop {
            if theirs.must(json!({"do": "sent"}))["done"] == 2 {
                break;
            }
        }
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn a_message_that_libchirp_never_releases_times_out_at_that() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    // Its handler fails, and libchirp keeps the slot for ever.
    let mut theirs = pool("raise", false).start(&python);
    let us = ours(plain(true).timeout(Duration::from_millis(500)), quiet);
    let error = us.send(message(V4, &theirs, "x")).result().unwrap_err();
    assert!(
        matches!(
            error,
            PoolError::TimedOut {
                stage: Stage::Release,
                ..
            }
        ),
        "{error:?}"
    );
    theirs.seen(1);
    let error = us.request(message(V4, &theirs, "x")).result().unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error:?}");
    us.stop(SECONDS).unwrap();
}

#[test]
fn libchirp_learns_nothing_of_our_failures_but_is_released() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let fails = |_: &Chirp, _: Message| Err("on purpose, in a handler");
    let us = ours(plain(false), fails);
    let mut theirs = pool("note", true).with("TIMEOUT", 0.7).start(&python);
    for _ in 0..3 {
        theirs.must(with(order("send", V4, &us), json!({"text": "released all the same"})));
    }
    let said = theirs.ask(with(order("request", V4, &us), json!({"text": "no answer"})));
    assert_eq!(said["error"], "TimeoutError", "{said}");
    us.stop(SECONDS).unwrap();
}

// ------------------------------------------------------------------------------------------------------- back-pressure

#[test]
fn libchirps_slots_hold_our_messages_back_and_none_is_lost_or_disordered() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let mut theirs = queue(false)
        .with("AUTO_RELEASE", false)
        .with("MAX_SLOTS", 4)
        .start(&python);
    let us = ours(plain(false), quiet);
    let open: Vec<_> = (0..40).map(|i| us.send(message(V4, &theirs, format!("{i}")))).collect();
    for i in 0..40 {
        assert_eq!(theirs.must(json!({"do": "get", "hold": true}))["text"], i.to_string());
        if i % 4 == 3 {
            let next = theirs.ask(json!({"do": "get", "wait": 0.1}));
            assert_eq!(next["error"], "Empty", "{next}");
            assert_eq!(theirs.must(json!({"do": "release", "count": 4}))["released"], 4);
        }
    }
    for outcome in open {
        outcome.result().unwrap();
    }
    us.stop(SECONDS).unwrap();
}

#[test]
fn our_slots_hold_libchirps_messages_back_and_none_is_lost_or_disordered() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let (handler, received) = collecting();
    let us = ours(plain(false).auto_release(false).max_slots(4).workers(1), handler);
    let mut theirs = pool("note", false).start(&python);
    theirs.must(with(
        order("start_sending", V4, &us),
        json!({"count": 40, "size": 100_000}),
    ));
    let mut held = vec![];
    for i in 0..40 {
        let got = received.recv().unwrap();
        assert!(got.data() == pattern(100_000, i), "message {i}");
        held.push(got);
        if i % 4 == 3 {
            std::thread::sleep(Duration::from_millis(20));
            assert!(received.try_recv().is_err(), "a fifth after {i}");
            held.clear();
        }
    }
    us.stop(SECONDS).unwrap();
}

#[test]
fn more_than_libchirp_takes_is_refused_and_the_next_message_goes_through() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let theirs = pool("echo", false).with("MAX_MSG_SIZE", 1000).start(&python);
    let us = ours(plain(true).timeout(Duration::from_secs(2)), quiet);
    let error = us.send(message(V4, &theirs, vec![0; 1001])).result().unwrap_err();
    assert!(matches!(error, PoolError::PeerDied { .. }), "{error:?}");
    assert_eq!(
        us.request(message(V4, &theirs, vec![1; 1000]))
            .result()
            .unwrap()
            .data()
            .len(),
        1000
    );
    us.stop(SECONDS).unwrap();

    let us = ours(plain(false).max_message_size(1000), echo);
    let mut theirs = pool("note", true).start(&python);
    let said = theirs.ask(with(order("send", V4, &us), json!({"size": 1001})));
    assert_eq!(said["error"], "RuntimeError", "{said}");
    assert_eq!(
        theirs.must(with(order("request", V4, &us), json!({"size": 1000})))["data"],
        1000
    );
    us.stop(SECONDS).unwrap();
}

// ------------------------------------------------------------------------------------------------------- coming and going

#[test]
fn connections_that_libchirp_collects_are_made_anew_when_they_are_needed() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let theirs = pool("echo", false)
        .with("TIMEOUT", 0.3)
        .with("REUSE_TIME", 0.9)
        .start(&python);
    let us = ours(plain(true), quiet);
    for round in 0..3 {
        let answer = us.request(message(V4, &theirs, "again")).result();
        assert_eq!(answer.unwrap().data(), b"again", "round {round}");
        assert_eq!(connections(theirs.port), 1);
        eventually("libchirp has closed it", || connections(theirs.port) == 0);
    }
    us.stop(SECONDS).unwrap();
}

#[test]
fn connections_that_we_collect_are_made_anew_when_libchirp_needs_them() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let config = plain(false)
        .timeout(Duration::from_millis(300))
        .reuse_time(Duration::from_millis(900));
    let us = ours(config, echo);
    let mut theirs = pool("note", true).start(&python);
    for round in 0..3 {
        let start = Instant::now();
        let answer = theirs.must(with(order("request", V4, &us), json!({"text": "again"})));
        assert_eq!(answer["text"], "again", "round {round}");
        assert_eq!(connections(us.port()), 1);
        eventually("we have closed it", || connections(us.port()) == 0);
        assert!(start.elapsed() > Duration::from_millis(900), "not before it was idle");
    }
    us.stop(SECONDS).unwrap();
}

#[test]
fn a_sign_of_life_from_libchirp_is_no_message_and_keeps_the_connection() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let us = ours(plain(false), echo);
    let mut theirs = pool("note", true)
        .with("TIMEOUT", 0.5)
        .with("REUSE_TIME", 2.0)
        .start(&python);
    for _ in 0..3 {
        // More than three quarters of its reuse time: a sign of life goes before the message.
        theirs.must(with(order("request", V4, &us), json!({"text": "x"})));
        std::thread::sleep(Duration::from_millis(1600));
    }
    assert_eq!(
        theirs.must(with(order("request", V4, &us), json!({"text": "x"})))["text"],
        "x"
    );
    us.stop(SECONDS).unwrap();
}

#[test]
fn a_killed_libchirp_is_a_prompt_error_and_its_successor_is_found() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let us = ours(plain(true).timeout(SECONDS), quiet);
    let mut theirs = pool("hold", true).with("AUTO_RELEASE", false).start(&python);
    let waiting = us.request(message(V4, &theirs, "never answered"));
    theirs.seen(1);
    let (port, identity) = (theirs.port, theirs.identity.clone());
    let start = Instant::now();
    theirs.kill();
    let error = waiting.result().unwrap_err();
    assert!(matches!(error, PoolError::PeerDied { .. }), "{error:?}");
    let error = us
        .request(Message::to((V4, port), "nobody").unwrap())
        .result()
        .unwrap_err();
    assert!(
        matches!(error, PoolError::Refused { .. } | PoolError::PeerDied { .. }),
        "{error:?}"
    );
    assert!(start.elapsed() < SECONDS, "before any time was up");
    let theirs = pool("echo", true).port(port).start(&python);
    let answer = us.request(message(V4, &theirs, "welcome")).result().unwrap();
    assert_eq!(answer.remote_identity().to_string(), theirs.identity);
    assert_ne!(theirs.identity, identity);
    us.stop(SECONDS).unwrap();
}

#[test]
fn libchirp_finds_our_successor() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    let mut theirs = pool("note", true).start(&python);
    let first = ours(plain(false), echo);
    theirs.must(with(order("request", V4, &first), json!({"text": "x"})));
    let (port, identity) = (first.port(), first.identity());
    first.stop(SECONDS).unwrap();
    let to = json!({"do": "send", "address": "127.0.0.1", "port": port, "text": "nobody"});
    let said = theirs.ask(to);
    assert!(!said["error"].is_null(), "{said}");
    let second = ours(plain(false).port(port), echo);
    let answer = theirs.must(with(order("request", V4, &second), json!({"text": "welcome"})));
    assert_eq!(answer["remote_identity"], second.identity().to_string());
    assert_ne!(identity, second.identity());
    second.stop(SECONDS).unwrap();
}

#[test]
fn a_silent_port_and_a_refused_one_are_told_apart() {
    let Some(python) = python() else { return };
    let _watchdog = patience();
    // One of each library beside, which has to go on meanwhile.
    let theirs = pool("echo", false).start(&python);
    let us = ours(plain(true).timeout(Duration::from_millis(500)), quiet);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let never = us.send(Message::to(silent.local_addr().unwrap(), "x").unwrap());
    let refused = us.send(Message::to((V4, free_port()), "x").unwrap());
    assert_eq!(
        us.request(message(V4, &theirs, "meanwhile")).result().unwrap().data(),
        b"meanwhile"
    );
    let error = refused.result().unwrap_err();
    assert!(matches!(error, PoolError::Refused { .. }), "{error:?}");
    let error = never.result().unwrap_err();
    assert!(
        matches!(
            error,
            PoolError::TimedOut {
                stage: Stage::Connecting,
                ..
            }
        ),
        "{error:?}"
    );
    us.stop(SECONDS).unwrap();
}
