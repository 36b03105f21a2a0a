//! Nodes over queues: what holds over TCP holds here, and what shared memory adds: names, deaths, rings that are full.

mod support;

use nix::sys::signal::Signal;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use support::{SharedWord, eventually, forked, minute, unique};
use syncq::pool::{Chirp, Config, Handler, Loop, Message, PoolError, SendOptions, SendPolicy, Stage};
use syncq::{Queue, Wait};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config::new().queue_only(unique("pool")).timeout(5 * SECOND)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a fresh name")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn address(of: &Chirp) -> String {
    format!("queue:{}", of.config().queue.as_deref().expect("the node has a queue"))
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(&address(to), data).unwrap()
}

fn in_all_modes(test: impl Fn(Config, Config)) {
    let _watchdog = minute();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        test(config().synchronous(ours), config().synchronous(theirs));
    }
}

fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

/// A node in a process of its own, that is there for as long as it is not killed. `ready` is raised when it can be asked.
fn forked_node(config: Config, ready: &SharedWord, handler: impl Handler) -> ForkedNode {
    let name = config.queue.clone().unwrap();
    let child = forked(|| {
        let looper = Loop::new().unwrap();
        let _node = node(&looper, config, handler);
        ready.raise();
        loop {
            std::thread::sleep(SECOND);
        }
    });
    ForkedNode {
        child: Some(child),
        name,
    }
}

struct ForkedNode {
    child: Option<support::Child>,
    name: String,
}

impl ForkedNode {
    fn child(&self) -> &support::Child {
        self.child.as_ref().expect("not killed yet")
    }

    fn kill(&mut self) {
        self.child.take().expect("not killed yet").kill();
    }

    /// Not gone, but none of its threads runs.
    fn suspend(&self) {
        self.child().signal(Signal::SIGSTOP);
        eventually("all its threads have stopped", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child().pid)).unwrap();
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
                stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
            })
        });
    }
}

impl Drop for ForkedNode {
    fn drop(&mut self) {
        drop(self.child.take());
        // In use where the test has started the node anew.
        let _ = Chirp::remove_queues(&self.name);
    }
}

fn queues_called(name: &str) -> Vec<String> {
    let all = Queue::names().unwrap();
    all.into_iter().filter(|queue| queue.starts_with(name)).collect()
}

// ------------------------------------------------------------------------------------------------------- sending, answering

/// That of a node which takes one message at a time, and whose queue is soon full meanwhile.
fn soon_full() -> Config {
    config().auto_release(false).max_slots(1).queue_capacity(1 << 14)
}

#[test]
fn a_message_arrives_with_all_that_belongs_to_it() {
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
        assert_eq!((got.address(), got.port()), (address(&sender), 0));
    });
}

#[test]
fn a_request_is_answered_also_when_it_is_larger_than_the_ring() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.queue_capacity(1 << 16), echo);
        let client = node(&looper, ours.queue_capacity(1 << 16), quiet);
        for size in [0, 1, 64, 485, 486, 5000, 16 << 10, 64 << 10, 1 << 20] {
            let data: Vec<u8> = (0..size as u32).map(|n| (n * 31 + n / 251) as u8).collect();
            let mut request = message(&echo, data.clone());
            request.set_header(&data[..size.min(60_000)]);
            let identity = request.identity();
            let answer = client.request(request).result().unwrap();
            assert_eq!(
                (answer.identity(), answer.remote_identity()),
                (identity, echo.identity())
            );
            assert!(
                answer.data() == data && answer.header() == &data[..size.min(60_000)],
                "{size} bytes"
            );
            assert!(!answer.has_slot());
        }
    });
}

#[test]
fn a_hundred_requests_at_once_are_all_answered_again_and_again() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for round in 0..if cfg!(debug_assertions) { 5 } else { 100 } {
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
fn threads_that_ask_at_the_same_time_get_their_own_answers() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (client, echo) = (&client, &echo);
                scope.spawn(move || {
                    for n in 0..100 {
                        let text = format!("{thread} {n}");
                        let answer = client.request(message(echo, text.clone())).result().unwrap();
                        assert_eq!(answer.text_lossy(), text);
                    }
                });
            }
        });
    });
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn outcomes_can_be_awaited_and_looked_at_without_a_thread_that_waits() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        for n in 0..20 {
            let answer = block_on(client.request(message(&echo, n.to_string()))).unwrap();
            assert_eq!(answer.text_lossy(), n.to_string());
        }
        let open: Vec<_> = (0..20).map(|n| client.request(message(&echo, n.to_string()))).collect();
        eventually("all are answered", || open.iter().all(|outcome| outcome.is_done()));
    });
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

#[test]
fn a_node_can_ask_itself() {
    in_all_modes(|ours, _| {
        let looper = Loop::new().unwrap();
        let node = node(&looper, ours, echo);
        for n in 0..20 {
            let answer = node.request(message(&node, n.to_string())).result();
            // It is its own answer that comes first, and is taken for one.
            assert_eq!(answer.unwrap().text_lossy(), n.to_string());
        }
    });
}

// ------------------------------------------------------------------------------------------------------ slots, back-pressure

#[test]
fn as_many_messages_are_handed_out_as_there_are_slots_and_one_more_for_each_release() {
    let _watchdog = minute();
    for slots in [1, 4, 16, 32] {
        let looper = Loop::new().unwrap();
        let (handler, received) = collecting();
        let theirs = config()
            .synchronous(false)
            .auto_release(false)
            .max_slots(slots)
            .workers(1);
        let receiver = node(&looper, theirs, handler);
        let sender = node(&looper, config().synchronous(false), quiet);
        for n in 0..100 {
            sender.send(message(&receiver, n.to_string())).result().unwrap();
        }
        let mut held: Vec<_> = (0..slots).map(|_| received.recv().unwrap()).collect();
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        let mut texts: Vec<_> = held.iter().map(|message| message.text_lossy().into_owned()).collect();
        while texts.len() < 100 {
            assert!(held.remove(0).release().is_some());
            let next = received.recv().unwrap();
            texts.push(next.text_lossy().into_owned());
            held.push(next);
        }
        assert_eq!(
            texts,
            (0..100).map(|n| n.to_string()).collect::<Vec<_>>(),
            "{slots} slots"
        );
    }
}

#[test]
fn answers_get_through_to_a_node_that_takes_no_more_messages() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let echo = node(&looper, config(), echo);
    let (handler, received) = collecting();
    let busy = config()
        .synchronous(false)
        .auto_release(false)
        .max_slots(1)
        .timeout(SECOND)
        .queue_capacity(1 << 14);
    let busy = node(&looper, busy, handler);
    let sender = node(
        &looper,
        config()
            .synchronous(false)
            .timeout(SECOND)
            .send_queue_policy(SendPolicy::Fail),
        quiet,
    );
    let held = {
        sender.send(message(&busy, "held")).result().unwrap();
        received.recv().unwrap()
    };
    // Until nothing more goes in anywhere: neither into its queue nor into the sender's.
    let mut sent = Vec::new();
    loop {
        let outcome = sender.send(message(&busy, vec![1; 4000]));
        if outcome.is_done() && matches!(outcome.result(), Err(PoolError::QueueFull { .. })) {
            break;
        }
        sent.push(());
    }
    for n in 0..50 {
        assert_eq!(
            busy.request(message(&echo, n.to_string()))
                .result()
                .unwrap()
                .text_lossy(),
            n.to_string()
        );
    }
    drop(held);
    for _ in 0..20 {
        drop(received.recv().unwrap());
    }
}

#[test]
fn answers_to_a_node_that_reads_none_are_kept_up_to_a_limit() {
    let _watchdog = minute();
    let ready = SharedWord::new();
    let theirs = config().synchronous(false).queue_capacity(1 << 16);
    let to = format!("queue:{}", theirs.queue.as_deref().unwrap());
    let child = forked_node(theirs, &ready, |chirp: &Chirp, message: Message| {
        // Its answers come here as well.
        let how_many = if message.data() == b"ask" { 20 } else { 0 };
        for n in 0..how_many {
            let asked = Message::to(&message.address(), n.to_string()).unwrap();
            chirp.send(asked).result().unwrap();
        }
    });
    ready.wait_for(1);
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let ours = config()
        .synchronous(false)
        .auto_release(false)
        .max_slots(32)
        .send_queue_messages(2)
        .send_queue_policy(SendPolicy::Fail);
    let receiver = node(&looper, ours, handler);
    receiver.send(Message::to(&to, "ask").unwrap()).result().unwrap();
    let asked: Vec<_> = (0..20).map(|_| received.recv().unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    child.suspend();
    let mut refused = 0;
    let answers: Vec<_> = asked
        .into_iter()
        .map(|mut answer| {
            answer.set_data(vec![1; 64 << 10]);
            let mut outcome = receiver.send(answer);
            let is_refused = outcome.is_done()
                && matches!(
                    outcome.wait_sent(Wait::Never),
                    Err(PoolError::QueueFull { messages: 2, .. })
                );
            refused += usize::from(is_refused);
            outcome
        })
        .collect();
    assert!((10..20).contains(&refused), "{refused}");
    // Those that are kept arrive when it goes on.
    child.child().signal(Signal::SIGCONT);
    let arrived = answers.into_iter().filter_map(|answer| answer.result().ok()).count();
    assert_eq!(arrived + refused, 20);
}

#[test]
fn sending_for_the_first_time_to_a_node_with_a_full_queue_does_not_wait_longer_than_it_may() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full().synchronous(false), handler);
    let flood = config().synchronous(false).send_queue_policy(SendPolicy::Fail);
    let flood = node(&looper, flood.timeout(5 * SECOND), quiet);
    // Smaller than a greeting, until there is no room left, and what is put aside is full as well.
    for _ in 0..3 {
        while !matches!(
            flood.send(message(&receiver, b"")).wait_sent(Wait::Never),
            Err(PoolError::QueueFull { .. })
        ) {}
        std::thread::sleep(Duration::from_millis(100));
    }
    let sender = node(&looper, config().queue_capacity(1 << 14), quiet);
    let begun = Instant::now();
    let within = SendOptions::new().within(Duration::from_millis(20));
    let outcome = sender.send_with(message(&receiver, "?"), within);
    let took = begun.elapsed();
    let error = outcome.result().unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    flood.stop(Duration::ZERO).unwrap();
    drop(received);
}

#[test]
fn a_full_queue_is_what_the_policy_says() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    for policy in [SendPolicy::Block, SendPolicy::Fail, SendPolicy::DropOldest] {
        let (handler, received) = collecting();
        let theirs = config()
            .synchronous(false)
            .auto_release(false)
            .max_slots(1)
            .queue_capacity(1 << 14);
        let receiver = node(&looper, theirs, handler);
        let ours = config()
            .synchronous(false)
            .send_queue_policy(policy)
            .send_queue_messages(10);
        let sender = node(&looper, ours.timeout(Duration::from_millis(300)), quiet);
        let mut open = Vec::new();
        let begun = Instant::now();
        // More than its queue, what is put aside there, and what is kept here.
        let error = loop {
            open.push(sender.send(message(&receiver, vec![1; 4000])));
            let failed = open
                .iter_mut()
                .position(|outcome| outcome.is_done() && outcome.wait_sent(Wait::Never).is_err());
            if let Some(at) = failed {
                break open.swap_remove(at).result().unwrap_err();
            }
            assert!(begun.elapsed() < 20 * SECOND, "{policy:?}");
        };
        match policy {
            SendPolicy::Fail => assert!(matches!(error, PoolError::QueueFull { messages: 10, .. }), "{error}"),
            SendPolicy::DropOldest => assert!(matches!(error, PoolError::Dropped { .. }), "{error}"),
            _ => assert!(
                matches!(
                    error,
                    PoolError::TimedOut {
                        stage: Stage::Room | Stage::Queued,
                        ..
                    }
                ),
                "{error}"
            ),
        }
        assert!(error.is_unsent() || policy == SendPolicy::DropOldest);
        drop(received);
    }
}

// ------------------------------------------------------------------------------------------------------ failures, time, cancelling

#[test]
fn a_handler_that_fails_panics_or_forgets_is_told_and_frees_its_slot() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let picky = |chirp: &Chirp, message: Message| -> Result<(), String> {
            match message.text_lossy().as_ref() {
                "error" => Err("no such thing".into()),
                "panic" => panic!("on purpose"),
                "forget" => Ok(()),
                _ => {
                    chirp.send(message);
                    Ok(())
                }
            }
        };
        let receiver = node(&looper, theirs.max_slots(1), picky);
        let client = node(&looper, ours, quiet);
        for (text, expected) in [
            ("error", "no such thing"),
            ("panic", "on purpose"),
            ("forget", "without an answer"),
        ] {
            let error = client.request(message(&receiver, text)).result().unwrap_err();
            assert!(
                matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains(expected)),
                "{text}: {error}"
            );
        }
        assert_eq!(
            client.request(message(&receiver, "fine")).result().unwrap().data(),
            b"fine"
        );
    });
}

#[test]
fn a_request_ends_when_its_time_is_over_and_a_late_answer_goes_to_the_handler() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let (may_go, go) = mpsc::channel();
        let go = Mutex::new(go);
        let slow = node(
            &looper,
            theirs.timeout(10 * SECOND),
            move |chirp: &Chirp, message: Message| {
                go.lock().unwrap().recv().unwrap();
                chirp.send(message);
            },
        );
        let (handler, late) = collecting();
        let client = node(&looper, ours.timeout(10 * SECOND), handler);
        let within = SendOptions::new().within(Duration::from_millis(150));
        let begun = Instant::now();
        let error = client
            .request_with(message(&slow, "slow"), within)
            .result()
            .unwrap_err();
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
        assert!(begun.elapsed() >= Duration::from_millis(150));
        may_go.send(()).unwrap();
        assert_eq!(late.recv().unwrap().data(), b"slow");
    });
}

#[test]
fn a_cancelled_request_ends_and_its_handler_can_see_it() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, config().auto_release(false), handler);
    let client = node(&looper, config().synchronous(false), quiet);
    let outcome = client.request(message(&receiver, "never mind"));
    let got = received.recv().unwrap();
    assert!(got.is_request() && !got.is_cancelled());
    assert!(outcome.cancel());
    assert!(matches!(outcome.result(), Err(PoolError::Cancelled)));
    eventually("the handler sees it", || got.is_cancelled());
}

#[test]
fn too_large_is_an_error_at_the_sender_whoever_finds_it_too_large() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs.max_message_size(1000), echo);
        let client = node(&looper, ours.max_message_size(100_000), quiet);
        let error = client.request(message(&echo, vec![0; 100_001])).result().unwrap_err();
        assert!(
            matches!(
                error,
                PoolError::TooLarge {
                    size: 100_001,
                    max: 100_000
                }
            ),
            "{error}"
        );
        for size in [1001, 100_000] {
            let error = client.request(message(&echo, vec![0; size])).result().unwrap_err();
            assert!(
                matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains("1000")),
                "{error}"
            );
        }
        assert_eq!(
            client.request(message(&echo, vec![7; 1000])).result().unwrap().data(),
            [7; 1000]
        );
    });
}

#[test]
fn a_failure_whose_reason_is_too_long_for_the_other_node_is_told_once() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let failing = |_: &Chirp, _: Message| -> Result<(), String> { Err("x".repeat(200)) };
        let receiver = node(&looper, theirs.max_message_size(40), failing);
        let client = node(&looper, ours.max_message_size(40), quiet);
        let error = client.request(message(&receiver, "?")).result().unwrap_err();
        assert!(
            matches!(&error, PoolError::HandlerFailed { text, .. } if text.contains("reason")),
            "{error}"
        );
        // And it is quiet then.
        let appended = || {
            let queues = queues_called(client.config().queue.as_deref().unwrap());
            let members = queues.iter().flat_map(|queue| Queue::open(queue).unwrap().members());
            members.map(|member| member.appended).sum::<u64>()
        };
        std::thread::sleep(Duration::from_millis(20));
        let before = appended();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(appended(), before);
    });
}

#[test]
fn a_synchronous_message_that_was_not_sent_in_time_keeps_nobody_waiting() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full().synchronous(false), handler);
    let flood = config().synchronous(false).send_queue_policy(SendPolicy::Fail);
    let flood = node(&looper, flood.timeout(SECOND), quiet);
    let sender = node(&looper, config().timeout(30 * SECOND), quiet);
    // So that there is a way already.
    let first = sender.send(message(&receiver, "first"));
    drop(received.recv().unwrap());
    first.result().unwrap();
    while !matches!(
        flood.send(message(&receiver, vec![1; 4000])).wait_sent(Wait::Never),
        Err(PoolError::QueueFull { .. })
    ) {}
    let within = SendOptions::new().within(Duration::from_millis(200));
    let error = sender
        .send_with(message(&receiver, vec![2; 4000]), within)
        .result()
        .unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    flood.stop(Duration::ZERO).unwrap();
    let begun = Instant::now();
    let outcome = sender.send(message(&receiver, "second"));
    while !outcome.is_done() {
        drop(received.recv_timeout(Duration::from_millis(10)));
        assert!(begun.elapsed() < 20 * SECOND);
    }
    outcome.result().unwrap();
}

#[test]
fn a_message_behind_one_that_may_wait_for_ever_has_its_own_time() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, soon_full(), handler);
    let sender = node(&looper, config().synchronous(false).timeout(SECOND / 5), quiet);
    let for_ever = || {
        let patient = SendOptions::new().within(Wait::Forever);
        sender.send_with(message(&receiver, vec![1; 4000]), patient)
    };
    let first = for_ever();
    let held = received.recv().unwrap();
    first.result().unwrap();
    // Until the receiver puts no more aside and its queue is full: one is kept here, and the next one stands behind it.
    let mut patient = for_ever();
    while patient.wait_sent(SECOND / 4).unwrap() {
        patient = for_ever();
    }
    let error = sender.send(message(&receiver, "in time")).result().unwrap_err();
    assert!(matches!(error, PoolError::TimedOut { .. }), "{error}");
    assert!(!patient.is_done());
    drop((held, patient, received));
    let _ = sender.stop(Duration::ZERO);
}

#[test]
fn handlers_that_ask_each_other_do_not_lock_up() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        // Each asks the other one, with one less to go.
        let ask_back = |chirp: &Chirp, mut message: Message| -> Result<(), String> {
            let left: u32 = message.text_lossy().parse().map_err(|_| "no number")?;
            if left > 0 {
                let next =
                    Message::to(&message.address(), (left - 1).to_string()).map_err(|error| error.to_string())?;
                let answer = chirp.request(next).result().map_err(|error| error.to_string())?;
                message.set_data(format!("{left} {}", answer.text_lossy()));
            }
            chirp.send(message);
            Ok(())
        };
        let one = node(&looper, ours.workers(1).timeout(20 * SECOND), ask_back);
        let other = node(&looper, theirs.workers(1).timeout(20 * SECOND), ask_back);
        for _ in 0..3 {
            assert_eq!(
                one.request(message(&other, "6")).result().unwrap().text_lossy(),
                "6 5 4 3 2 1 0"
            );
        }
    });
}

// --------------------------------------------------------------------------------------------------------------- names, deaths

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
    assert!(received.recv_timeout(Duration::from_millis(100)).is_err());
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

// ------------------------------------------------------------------------------------------------------------- stopping, forks

#[test]
fn stopping_finishes_what_has_begun_and_leaves_nothing_behind() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let its = begun.clone();
        let slow = node(&looper, theirs, move |chirp: &Chirp, message: Message| {
            its.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            chirp.send(message);
        });
        let name = slow.config().queue.clone().unwrap();
        let client = node(&looper, ours, quiet);
        let outcome = client.request(message(&slow, "last"));
        eventually("it was begun", || begun.load(Ordering::SeqCst) == 1);
        slow.stop(10 * SECOND).unwrap();
        assert_eq!(outcome.result().unwrap().data(), b"last");
        assert_eq!(queues_called(&name), Vec::<String>::new());
        let error = client.request(message(&slow, "more")).result().unwrap_err();
        assert!(
            matches!(error, PoolError::PeerStopping { .. } | PoolError::Refused { .. }),
            "{error}"
        );
        assert!(matches!(
            slow.send(message(&client, "?")).result(),
            Err(PoolError::ShuttingDown)
        ));
    });
}

#[test]
fn a_handler_that_outlives_its_node_leaves_nothing_behind() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let client = node(&looper, config().synchronous(false), quiet);
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (its_begin, its_end) = (begun.clone(), ended.clone());
    let slow = node(&looper, config(), move |_: &Chirp, _: Message| -> Result<(), String> {
        its_begin.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        its_end.fetch_add(1, Ordering::SeqCst);
        Err("too late".into())
    });
    let name = slow.config().queue.clone().unwrap();
    let outcome = client.request(message(&slow, "?"));
    eventually("it was begun", || begun.load(Ordering::SeqCst) == 1);
    let _ = slow.stop(Duration::from_millis(20));
    drop(slow);
    assert!(outcome.result().is_err());
    eventually("the handler has ended", || ended.load(Ordering::SeqCst) == 1);
    // What it has to say would be said now.
    std::thread::sleep(Duration::from_millis(100));
    for queue in queues_called(client.config().queue.as_deref().unwrap()) {
        let members = Queue::open(&queue).unwrap().members();
        assert!(members.iter().all(|member| member.name != name), "{members:?}");
    }
}

#[test]
fn what_was_not_released_is_counted_when_the_node_stops() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let receiver = node(&looper, config().synchronous(false).auto_release(false), handler);
    let client = node(&looper, config().synchronous(true), quiet);
    let outcome = client.send(message(&receiver, "held"));
    let held = received.recv().unwrap();
    let error = receiver.stop(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, PoolError::Unreleased { count: 1 }), "{error}");
    assert!(!held.has_slot());
    // It was told, or saw the end of it: either is one.
    let _ = outcome.result();
}

#[test]
fn a_handler_may_stop_its_node() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let receiver = node(
        &looper,
        config().synchronous(false),
        |chirp: &Chirp, message: Message| {
            drop(message);
            let _ = chirp.stop(SECOND);
        },
    );
    let name = receiver.config().queue.clone().unwrap();
    let client = node(&looper, config().synchronous(false), quiet);
    client.send(message(&receiver, "stop")).result().unwrap();
    eventually("it has stopped", || {
        let answer = receiver.send(message(&client, "x")).result();
        matches!(answer, Err(PoolError::ShuttingDown)) && queues_called(&name).is_empty()
    });
}

#[test]
fn stopping_under_load_leaves_no_request_without_an_end() {
    in_all_modes(|ours, theirs| {
        let looper = Loop::new().unwrap();
        let echo = node(&looper, theirs, echo);
        let client = node(&looper, ours, quiet);
        let answers = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (client, to, answers) = (client.clone(), address(&echo), answers.clone());
                std::thread::spawn(move || {
                    loop {
                        match client.request(Message::to(&to, "x").unwrap()).result() {
                            Ok(_) => drop(answers.fetch_add(1, Ordering::SeqCst)),
                            Err(PoolError::HandlerFailed { text, .. }) => panic!("{text}"),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        eventually("requests are answered", || answers.load(Ordering::SeqCst) > 20);
        echo.stop(5 * SECOND).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn many_nodes_that_come_and_go_leave_no_thread_descriptor_or_queue() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count();
    let hub = node(&looper, config(), echo);
    let round = || {
        let client = node(&looper, config(), quiet);
        let name = client.config().queue.clone().unwrap();
        assert_eq!(
            client.request(message(&hub, "hello")).result().unwrap().data(),
            b"hello"
        );
        client.stop(SECOND).unwrap();
        assert_eq!(queues_called(&name), Vec::<String>::new());
    };
    (0..5).for_each(|_| round());
    let before = count("fd");
    (0..40).for_each(|_| round());
    // Those of the hub go when it looks round, a few seconds later.
    eventually("the hub has let go of them", || count("fd") < before + 20);
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

#[test]
fn what_waits_for_room_in_a_queue_ends_when_its_node_stops() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let busy = config()
        .synchronous(false)
        .auto_release(false)
        .max_slots(1)
        .queue_capacity(1 << 14);
    let busy = node(&looper, busy, handler);
    let sender = config()
        .synchronous(false)
        .send_queue_policy(SendPolicy::Fail)
        .send_queue_messages(40);
    let sender = node(&looper, sender, quiet);
    sender.send(message(&busy, "held")).result().unwrap();
    let held = received.recv().unwrap();
    let long = || SendOptions::new().within(Wait::Forever);
    // Until nothing more goes in for a while: the receiver has put aside what it may.
    let mut sent = Vec::new();
    let mut refused = 0;
    while refused < 300 {
        let mut outcome = sender.send_with(message(&busy, vec![1; 4000]), long());
        match outcome.is_done().then(|| outcome.wait(Wait::Never)) {
            None => sent.push(outcome),
            Some(Ok(_)) => refused = 0,
            Some(Err(_)) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    sender.stop(SECOND / 10).unwrap();
    let mut failed = 0;
    for mut outcome in sent {
        match outcome.wait(20 * SECOND) {
            Ok(Some(_)) => {}
            Err(PoolError::ShuttingDown) => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(failed > 0);
    drop((held, received, busy));
    looper.stop();
}
