//! Nodes over TCP: sending, answering, releasing, slots, time, stopping, and what must not happen.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use support::{eventually, minute};
use syncq::Wait;
use syncq::pool::{Chirp, Config, Handler, Identity, Loop, Message, PoolError, SendOptions, SendPolicy, Stage};

const SECOND: Duration = Duration::from_secs(1);

fn plain() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(2 * SECOND)
}

fn synchronous() -> Config {
    plain().synchronous(true)
}

fn asynchronous() -> Config {
    plain().synchronous(false)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a port from the system")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(to.local_address(), data).unwrap()
}

/// The least that can await: it parks.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(result) => return result,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Both modes of the one who sends and the one who receives.
fn in_all_modes(test: impl Fn(Config, Config)) {
    let _watchdog = minute();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        test(plain().synchronous(ours), plain().synchronous(theirs));
    }
}

/// A handler that hands all messages to the test.
fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

fn is_timed_out(error: &PoolError, at: Stage) -> bool {
    matches!(error, PoolError::TimedOut { stage, .. } if *stage == at)
}

// ------------------------------------------------------------------------------------------------------- sending, answering

#[test]
fn a_message_arrives_and_its_sender_learns_that_it_was_sent() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (handler, received) = collecting();
        let receiver = node(&looper, theirs, handler);
        let sender = node(&looper, ours, quiet);
        let mut sent = message(&receiver, "hello");
        sent.set_header([1, 2, 3]);
        let identity = sent.identity();
        let back = sender.send(sent).result().unwrap();
        assert_eq!((back.identity(), back.data()), (identity, &b"hello"[..]));
        let got = received.recv().unwrap();
        assert_eq!(
            (got.identity(), got.data(), got.header()),
            (identity, &b"hello"[..], &[1, 2, 3][..])
        );
        assert_eq!(got.remote_identity(), sender.identity());
        assert_eq!((got.address(), got.port()), ("127.0.0.1".into(), sender.port()));
    });
}

#[test]
fn a_request_is_answered_by_sending_its_message_back() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for size in [0, 1, 64, 5000, 1 << 20] {
            let data = vec![7; size];
            let request = message(&echo, data.clone());
            let identity = request.identity();
            let answer = client.request(request).result().unwrap();
            assert_eq!(
                (answer.identity(), answer.remote_identity()),
                (identity, echo.identity())
            );
            assert!(answer.data() == data, "{size} bytes");
            assert!(!answer.has_slot());
        }
    });
}

#[test]
fn a_hundred_times_a_hundred_requests_at_once_are_all_answered() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for round in 0..if cfg!(debug_assertions) { 10 } else { 100 } {
            let open: Vec<_> = (0..100)
                .map(|n| client.request(message(&echo, format!("{round} {n}"))))
                .collect();
            for (n, outcome) in open.into_iter().enumerate() {
                assert_eq!(outcome.result().unwrap().text_lossy(), format!("{round} {n}"));
            }
        }
    });
}

#[test]
fn sending_to_oneself_works() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let node = node(&looper, ours, echo);
        let answer = node.request(message(&node, "me")).result().unwrap();
        assert_eq!(answer.remote_identity(), node.identity());
    });
}

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
fn an_outcome_can_be_awaited_polled_and_is_given_away_once() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, asynchronous(), echo);
    let client = node(&looper, asynchronous(), quiet);
    let answer = block_on(async {
        let one = client.request(message(&echo, "one"));
        let two = client.request(message(&echo, "two"));
        (two.await.unwrap(), one.await.unwrap())
    });
    assert_eq!((answer.0.data(), answer.1.data()), (&b"two"[..], &b"one"[..]));

    let mut polled = client.request(message(&echo, "polled"));
    let got = loop {
        if let Some(answer) = polled.wait(Wait::Never).unwrap() {
            break answer;
        }
        std::thread::yield_now();
    };
    assert_eq!(got.data(), b"polled");
    assert!(matches!(polled.wait(Wait::Never), Err(PoolError::Taken)));
}

// ------------------------------------------------------------------------------------------------------- slots and releases

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

// -------------------------------------------------------------------------------------------------------- handlers that fail

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

// ------------------------------------------------------------------------------------------------------- time, and no peer

/// A port at which nobody listens.
fn closed_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn sending_to_a_closed_port_is_refused_at_once_and_so_is_all_that_waits_for_it() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let sender = node(&looper, ours, quiet);
        let start = Instant::now();
        let to = closed_port();
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
    let mut request = Message::to(closed_port(), "hello").unwrap();
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
fn a_retry_finds_a_peer_that_comes_late() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let to = closed_port();
    let client = node(&looper, plain().retries(20), quiet);
    let mut request = client.request(Message::to(to, "late").unwrap());
    assert!(request.wait(Duration::from_millis(100)).unwrap().is_none());
    let _echo = node(&looper, plain().port(to.port()), echo);
    assert_eq!(request.result().unwrap().data(), b"late");
}

#[test]
fn a_peer_that_never_greets_is_given_up_in_time() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = node(&looper, plain().timeout(SECOND / 4), quiet);
    let to = silent.local_addr().unwrap();
    let start = Instant::now();
    let error = sender.send(Message::to(to, "x").unwrap()).result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    assert!(error.is_unsent());
    assert!(start.elapsed() >= SECOND / 2, "{:?}", start.elapsed());
    let start = Instant::now();
    let error = sender.request(Message::to(to, "x").unwrap()).result().unwrap_err();
    assert!(is_timed_out(&error, Stage::Connecting), "{error}");
    assert!(start.elapsed() >= SECOND / 4, "{:?}", start.elapsed());
}

#[test]
fn a_request_that_nobody_answers_times_out_as_that_and_a_late_answer_goes_to_the_handler_once() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (keeping, kept) = collecting();
        let slow = node(&looper, theirs, keeping);
        let (handler, late) = collecting();
        let client = node(&looper, ours, handler);
        let options = SendOptions::new().within(Duration::from_millis(100));
        let start = Instant::now();
        let error = client
            .request_with(message(&slow, "late"), options)
            .result()
            .unwrap_err();
        assert!(is_timed_out(&error, Stage::Answer), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        let mut request = kept.recv().unwrap();
        let identity = request.identity();
        // Nobody else says it, where it is not known what a request is.
        eventually("it is known that nobody waits", || request.is_cancelled());
        request.set_data("at last");
        slow.send(request).result().unwrap();
        let answer = late.recv().unwrap();
        assert_eq!((answer.identity(), answer.data()), (identity, &b"at last"[..]));
        assert!(late.recv_timeout(Duration::from_millis(50)).is_err(), "and not twice");
    });
}

#[test]
fn a_second_answer_goes_to_the_handler() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let twice = |chirp: &Chirp, message: Message| {
            let mut second = message.clone();
            second.set_data("second");
            chirp.send(message).result().unwrap();
            chirp.send(second).result().unwrap();
        };
        let twice = node(&looper, theirs, twice);
        let (handler, seconds) = collecting();
        let client = node(&looper, ours, handler);
        for _ in 0..20 {
            assert_eq!(
                client.request(message(&twice, "first")).result().unwrap().data(),
                b"first"
            );
            assert_eq!(seconds.recv().unwrap().data(), b"second");
        }
    });
}

#[test]
fn a_synchronous_message_that_is_not_released_in_time_fails_as_that() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, synchronous().auto_release(false), handler);
    let sender = node(&looper, synchronous().timeout(SECOND / 2), quiet);
    let start = Instant::now();
    let error = sender.send(message(&receiver, "x")).result().unwrap_err();
    let took = start.elapsed();
    assert!(is_timed_out(&error, Stage::Release), "{error}");
    assert!(!error.is_unsent());
    assert!(took >= SECOND * 45 / 100 && took < 3 * SECOND, "{took:?}");
    // The next one goes over a new connection, where there is a slot.
    let kept = received.recv().unwrap();
    let second = sender.send(message(&receiver, "y"));
    drop(received.recv().unwrap());
    second.result().unwrap();
    drop(kept);
}

#[test]
fn a_cancelled_request_ends_at_once_and_is_not_handled_if_that_had_not_begun() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false).max_slots(1), handler);
    let client = node(&looper, asynchronous(), quiet);
    let first = client.request(message(&receiver, "first"));
    let second = client.request(message(&receiver, "second"));
    let third = client.request(message(&receiver, "third"));
    let held = received.recv().unwrap();
    // In this order on the wire: once the first is known to be cancelled, so is the second.
    assert!(second.cancel() && first.cancel());
    assert!(!second.cancel(), "once is enough");
    assert!(matches!(first.result(), Err(PoolError::Cancelled)));
    assert!(matches!(second.result(), Err(PoolError::Cancelled)));
    eventually("the handler can know", || held.is_cancelled());
    drop(held);
    let mut next = received.recv().unwrap();
    assert_eq!(next.data(), b"third");
    next.set_data("3");
    receiver.send(next).result().unwrap();
    assert_eq!(third.result().unwrap().data(), b"3");
}

// ------------------------------------------------------------------------------------------------------------------ limits

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

// ---------------------------------------------------------------------------------------------------------------- stopping

#[test]
fn stopping_lets_handlers_finish_and_their_answers_go_out() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let begun = Mutex::new(begun);
        let slow = move |chirp: &Chirp, message: Message| {
            begun.lock().unwrap().send(()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            chirp.send(message);
        };
        let echo = node(&looper, theirs, slow);
        let client = node(&looper, ours, quiet);
        let request = client.request(message(&echo, "slow"));
        has_begun.recv().unwrap();
        echo.stop(5 * SECOND).unwrap();
        assert_eq!(request.result().unwrap().data(), b"slow");
        assert!(matches!(
            echo.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        ));
        echo.stop(Wait::Forever).unwrap();
        // A closed port, or a connection that is just being closed.
        let error = client.send(message(&echo, "gone")).result().unwrap_err();
        assert!(
            matches!(
                error,
                PoolError::Refused { .. } | PoolError::PeerDied { .. } | PoolError::PeerStopping { .. }
            ),
            "{error}"
        );
    });
}

#[test]
fn a_node_that_is_stopping_says_so() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false), handler);
    let client = node(&looper, asynchronous(), quiet);
    client.send(message(&receiver, "held")).result().unwrap();
    let held = received.recv().unwrap();
    let stopping = std::thread::spawn({
        let receiver = receiver.clone();
        move || receiver.stop(10 * SECOND)
    });
    eventually("it is stopping", || {
        matches!(
            receiver.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        )
    });
    let error = client.request(message(&receiver, "new")).result().unwrap_err();
    assert!(matches!(error, PoolError::PeerStopping { .. }), "{error}");
    assert!(error.is_unsent());
    drop(held);
    stopping.join().unwrap().unwrap();
}

#[test]
fn what_is_not_released_in_time_is_released_by_stopping_and_counted() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, asynchronous().auto_release(false), handler);
    let client = node(&looper, asynchronous(), quiet);
    for _ in 0..3 {
        client.send(message(&receiver, "x")).result().unwrap();
    }
    let held: Vec<_> = (0..3).map(|_| received.recv().unwrap()).collect();
    match receiver.stop(Duration::from_millis(100)) {
        Err(PoolError::Unreleased { count: 3 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(held.iter().all(|message| !message.has_slot()));
    drop(held);
}

#[test]
fn own_sends_that_cannot_finish_fail_when_the_node_stops() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = node(&looper, plain(), quiet);
    let to = silent.local_addr().unwrap();
    let one = sender.send(Message::to(to, "x").unwrap());
    let other = sender.request(Message::to(to, "x").unwrap());
    sender.stop(Duration::from_millis(20)).unwrap();
    for outcome in [one, other] {
        let error = outcome.result().unwrap_err();
        assert!(matches!(error, PoolError::ShuttingDown), "{error}");
    }
}

#[test]
fn a_handler_may_stop_its_node() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let receiver = node(&looper, asynchronous(), |chirp: &Chirp, _: Message| {
        chirp.stop(SECOND).unwrap();
    });
    let client = node(&looper, asynchronous(), quiet);
    client.send(message(&receiver, "stop")).result().unwrap();
    eventually("it has stopped", || {
        matches!(
            receiver.send(message(&client, "x")).result(),
            Err(PoolError::ShuttingDown)
        )
    });
}

#[test]
fn stopping_under_load_leaves_no_request_without_an_end() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        let counts: Vec<_> = (0..4)
            .map(|_| {
                let (client, to) = (client.clone(), echo.local_address());
                std::thread::spawn(move || {
                    let mut answers = 0;
                    loop {
                        match client.request(Message::to(to, "x").unwrap()).result() {
                            Ok(_) => answers += 1,
                            Err(PoolError::HandlerFailed { text, .. }) => panic!("{text}"),
                            Err(_) => return answers,
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        echo.stop(5 * SECOND).unwrap();
        let answers: usize = counts.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(answers > 0);
    });
}

// ---------------------------------------------------------------------------------------------------- the node and the loop

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

#[test]
fn both_may_connect_at_the_same_moment() {
    in_all_modes(|ours, theirs| {
        for _ in 0..if cfg!(debug_assertions) { 20 } else { 250 } {
            let looper = Loop::new().unwrap();
            let one = node(&looper, ours.clone(), echo);
            let other = node(&looper, theirs.clone(), echo);
            let there = one.request(message(&other, "there"));
            let back = other.request(message(&one, "back"));
            assert_eq!(there.result().unwrap().data(), b"there");
            assert_eq!(back.result().unwrap().data(), b"back");
            for (from, to) in [(&one, &other), (&other, &one)] {
                from.request(message(to, "again")).result().unwrap();
            }
        }
    });
}

#[test]
fn sixty_four_threads_get_every_answer_and_no_slot_leaks() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let echo = node(&looper, theirs, move |chirp: &Chirp, message: Message| {
            count.fetch_add(1, Ordering::Relaxed);
            chirp.send(message);
        });
        let client = node(&looper, ours, quiet);
        let each = if cfg!(debug_assertions) { 30 } else { 1500 };
        std::thread::scope(|scope| {
            for thread in 0..64 {
                let (client, echo) = (&client, &echo);
                scope.spawn(move || {
                    for n in 0..each {
                        let text = format!("{thread} {n}");
                        let answer = client.request(message(echo, text.clone())).result().unwrap();
                        assert_eq!(answer.text_lossy(), text);
                    }
                });
            }
        });
        assert_eq!(handled.load(Ordering::Relaxed), 64 * each);
        // All slots are free: as many as there are can be used at once.
        client.stop(5 * SECOND).unwrap();
        echo.stop(5 * SECOND).unwrap();
    });
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

// ------------------------------------------------------------------------------------------------- who reads for whom

#[test]
fn what_comes_after_a_row_of_waits_is_handed_out_all_the_same() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let (handler, received) = collecting();
        let client = node(&looper, ours, handler);
        for round in 0..20u8 {
            // The waiting thread reads by now, and the loop keeps away.
            for _ in 0..30 {
                client.request(message(&echo, "row")).result().unwrap();
            }
            let sent = echo.send(message(&client, [round]));
            assert_eq!(received.recv().unwrap().data(), [round]);
            sent.result().unwrap();
        }
    });
}

#[test]
fn a_handler_that_blocks_after_a_row_of_single_messages_keeps_nobody_waiting() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (let_go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let handler = move |chirp: &Chirp, message: Message| {
            if message.data() == b"block" {
                gate.lock().unwrap().recv().unwrap();
            }
            chirp.send(message);
        };
        let server = node(&looper, theirs.max_slots(4), handler);
        let client = node(&looper, ours.clone(), quiet);
        let other = node(&looper, ours, quiet);
        for _ in 0..10 {
            for _ in 0..30 {
                client.request(message(&server, "row")).result().unwrap();
            }
            let blocked = client.request(message(&server, "block"));
            for _ in 0..3 {
                other.request(message(&server, "meanwhile")).result().unwrap();
            }
            let_go.send(()).unwrap();
            blocked.result().unwrap();
        }
    });
}

#[test]
fn waits_of_many_threads_and_of_one_take_turns() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for _ in 0..5 {
            for threads in [1, 3] {
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for _ in 0..30 {
                                client.request(message(&echo, "x")).result().unwrap();
                            }
                        });
                    }
                });
            }
            let awaited = block_on(client.request(message(&echo, "awaited"))).unwrap();
            assert_eq!(awaited.data(), b"awaited");
            let mut sent = client.request(message(&echo, "sent"));
            assert!(sent.wait_sent(2 * SECOND).unwrap());
            sent.result().unwrap();
        }
    });
}

#[test]
fn a_request_that_has_failed_can_be_made_again_and_does_not_delay_stopping() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let client = node(&looper, plain().timeout(600 * SECOND), quiet);
    let mut again = Message::to(closed_port(), "hello").unwrap();
    for _ in 0..3 {
        let mut outcome = client.request(again);
        let error = outcome.wait(600 * SECOND).unwrap_err();
        assert!(matches!(error, PoolError::Refused { .. }), "{error}");
        again = outcome.take_message().expect("nothing of it was sent");
    }
    // Not before their time is over, if it waited for them: that is the watchdog's to see.
    client.stop(600 * SECOND).unwrap();
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

#[test]
#[ignore = "a soak of a minute: cargo test --release --features pool --test pool -- --ignored"]
fn sixty_four_open_requests_a_hundred_thousand_times() {
    let _watchdog = support::watchdog(Duration::from_secs(600));
    for (ours, theirs) in [(asynchronous(), asynchronous()), (synchronous(), asynchronous())] {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.timeout(30 * SECOND), echo);
        let (handler, strays) = collecting();
        let client = node(&looper, ours.timeout(30 * SECOND), handler);
        let mut open = std::collections::VecDeque::new();
        for n in 0..100_000u32 {
            open.push_back((n, client.request(message(&echo, n.to_le_bytes()))));
            if open.len() == 64 {
                let (n, outcome) = open.pop_front().unwrap();
                assert_eq!(outcome.result().unwrap().data(), n.to_le_bytes());
            }
        }
        for (n, outcome) in open {
            assert_eq!(outcome.result().unwrap().data(), n.to_le_bytes());
        }
        assert!(strays.try_recv().is_err());
        client.stop(5 * SECOND).unwrap();
        echo.stop(5 * SECOND).unwrap();
    }
}
