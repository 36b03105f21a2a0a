//! Stopping a node: what it still finishes, what it gives up, and that nothing of it is left behind. Not here: processes that are
//! killed or suspended (`processes`).

use super::support::{eventually, minute};
use super::{SECOND, address, collecting, config, echo, in_all_modes, message, node, queues_called, quiet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use syncq::pool::{Chirp, Loop, Message, PoolError, SendOptions, SendPolicy};
use syncq::{Queue, Wait};

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
fn many_nodes_that_come_and_go_leave_no_queue_mapping_or_descriptor() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let hub = node(&looper, config(), echo);
    let mut names = Vec::new();
    for _ in 0..40 {
        let client = node(&looper, config(), quiet);
        let name = client.config().queue.clone().unwrap();
        assert_eq!(
            client.request(message(&hub, "hello")).result().unwrap().data(),
            b"hello"
        );
        client.stop(SECOND).unwrap();
        assert_eq!(queues_called(&name), Vec::<String>::new());
        names.push(name);
    }
    // Other tests have nodes of their own in this process, so what is held is told by its name.
    let is_theirs = |line: &str| names.iter().any(|name| line.contains(name));
    let held = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        // One may be closed meanwhile.
        let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        maps.lines().filter(|line| is_theirs(line)).count()
            + targets.filter(|target| is_theirs(&target.to_string_lossy())).count()
    };
    // Those of the hub go when it looks round, a few seconds later.
    eventually("the hub has let go of them", || held() == 0);
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
