//! Nodes over queues, one of which is killed at random, again and again, in the middle of whatever it is doing.
//!
//! Each request ends in the answer to it, or in an error that says what became of it, in its time; and nothing is left over: no thread, descriptor,
//! mapping, slot or queue. A dozen deaths each in the ordinary suite; a thousand with
//!
//! ```text
//! cargo test --release --features pool --test pool_local_kill -- --ignored --nocapture
//! ```

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{SharedWord, eventually, forked, unique, watchdog};
use syncq::Queue;
use syncq::pool::{Chirp, Config, Identity, Loop, Message, PoolError};

const SECOND: Duration = Duration::from_secs(1);
const THREADS: u64 = 8;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long it is waited for before it counts as one that never ends. (The machine may be busy with anything.)
const PATIENCE: Duration = Duration::from_secs(30);

/// What is left over if it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    threads: usize,
    descriptors: usize,
    segments: usize,
}

fn held() -> Held {
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).expect("our own").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("our own");
    Held {
        threads: count("task"),
        descriptors: count("fd"),
        segments: maps.lines().filter(|line| line.contains("/dev/shm/syncq.")).count(),
    }
}

impl Held {
    fn is_within(self, most: Held) -> bool {
        self.threads <= most.threads && self.descriptors <= most.descriptors && self.segments <= most.segments
    }
}

fn config(name: &str, synchronous: bool) -> Config {
    Config::new()
        .queue_only(name)
        .timeout(TIMEOUT)
        .synchronous(synchronous)
        .queue_capacity(1 << 16)
}

/// A time up to `most`, different each time.
fn random(most: Duration) -> Duration {
    let bytes = *Identity::random().as_bytes();
    most.mul_f64(f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 65536.0)
}

fn echo(chirp: &Chirp, message: Message) {
    // Some take longer, so that deaths meet handlers, too.
    if message.data().first() == Some(&0) {
        std::thread::sleep(Duration::from_micros(500));
    }
    chirp.send(message);
}

/// Asks `whom` until told to stop; returns how requests ended.
fn ask(
    node: &Chirp,
    whom: &str,
    thread: u64,
    is_over: &dyn Fn() -> bool,
    answered: &AtomicU64,
) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    let mut number = 0u64;
    while !is_over() {
        number += 1;
        // Of all sizes: short ones, long ones, some in pieces.
        let len = [8, 40, 600, 20_000][(number % 4) as usize];
        let mut data = vec![(number % 16) as u8; len];
        data[len - 8..].copy_from_slice(&(thread << 48 | number).to_le_bytes());
        let request = Message::to(&format!("queue:{whom}"), data.clone()).expect("an address");
        let begun = Instant::now();
        let mut outcome = node.request(request);
        let end = match outcome.wait(PATIENCE) {
            Ok(None) => panic!("no end of a request after {:?}", begun.elapsed()),
            Ok(Some(answer)) => {
                assert!(answer.data() == data, "the answer to another request");
                answered.fetch_add(1, Ordering::SeqCst);
                "answered".to_owned()
            }
            Err(PoolError::PeerDied { .. }) => "died".to_owned(),
            Err(PoolError::Refused { .. }) => {
                std::thread::sleep(Duration::from_micros(200));
                "nobody there".to_owned()
            }
            Err(PoolError::TimedOut { stage, .. }) => format!("timed out while {stage}"),
            Err(PoolError::ShuttingDown) => break,
            Err(error) => panic!("{error:?}"),
        };
        *ends.entry(end).or_default() += 1;
    }
    ends
}

/// A node that answers is killed `deaths` times while the threads of another one ask.
fn answerer_is_killed(deaths: u32, synchronous: bool) {
    let (name, mine) = (unique("victim"), unique("asker"));
    let before = held();
    let looper = Loop::new().unwrap();
    let node = Chirp::new(&looper, config(&mine, synchronous), |_: &Chirp, _: Message| {}).unwrap();
    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let over = move || is_over.load(Ordering::SeqCst);
        let mut threads: Option<Vec<_>> = Some(
            (0..THREADS)
                .map(|thread| {
                    let (node, name, answered) = (&node, &name, &answered);
                    scope.spawn(move || ask(node, name, thread, &over, answered))
                })
                .collect(),
        );
        for death in 0..=deaths {
            let ready = SharedWord::new();
            let child = forked(|| {
                let looper = Loop::new().unwrap();
                let _node = Chirp::new(&looper, config(&name, death % 2 == 0).workers(4), echo).unwrap();
                ready.raise();
                loop {
                    std::thread::sleep(SECOND);
                }
            });
            if death == deaths {
                // The last one is left in peace until all threads were answered again.
                let since = answered.load(Ordering::SeqCst);
                eventually("the node that lives answers", || {
                    answered.load(Ordering::SeqCst) > since + 100
                });
                is_over.store(true, Ordering::SeqCst);
                for thread in threads.take().expect("the last round is one") {
                    for (end, count) in thread.join().expect("no thread panics") {
                        *ends.entry(end).or_default() += count;
                    }
                }
                return child.kill();
            }
            // Also before it is ready, and also while it is being asked; unreaped for a while, as a busy parent's are.
            if death % 4 != 0 {
                ready.wait_for(1);
            }
            std::thread::sleep(random(Duration::from_millis(15)));
            child.kill_unreaped();
            std::thread::sleep(random(Duration::from_millis(5)));
            child.kill();
        }
    });
    node.stop(10 * SECOND).expect("nothing is held");
    drop((node, looper));
    Chirp::remove_queues(&name).expect("it is dead");
    println!("{deaths} deaths, synchronous {synchronous}: {ends:?}");
    assert!(ends.get("answered").is_some_and(|answers| *answers >= 100), "{ends:?}");
    nothing_is_left(before, &[&name, &mine]);
}

/// A node that asks is killed `deaths` times, and the one that answers goes on.
fn asker_is_killed(deaths: u32, synchronous: bool) {
    let name = unique("answerer");
    let before = held();
    let looper = Loop::new().unwrap();
    let node = Chirp::new(&looper, config(&name, synchronous).workers(4), echo).unwrap();
    for death in 0..deaths {
        let mine = format!("{name}-asker-{}", death % 3);
        let ready = SharedWord::new();
        let child = forked(|| {
            let looper = Loop::new().unwrap();
            let node = Chirp::new(&looper, config(&mine, death % 2 == 0), |_: &Chirp, _: Message| {}).unwrap();
            let answered = AtomicU64::new(0);
            ready.raise();
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (node, name, answered) = (&node, &name, &answered);
                    scope.spawn(move || ask(node, name, thread, &|| false, answered));
                }
            });
            0
        });
        if death % 4 != 0 {
            ready.wait_for(1);
        }
        std::thread::sleep(random(Duration::from_millis(15)));
        child.kill();
    }
    // Whoever comes now is served.
    let last = Chirp::new(
        &looper,
        config(&unique("last"), synchronous),
        |_: &Chirp, _: Message| {},
    )
    .unwrap();
    for n in 0..100u32 {
        let request = Message::to(&format!("queue:{name}"), n.to_le_bytes()).unwrap();
        assert_eq!(last.request(request).result().unwrap().data(), n.to_le_bytes());
    }
    last.stop(10 * SECOND).expect("nothing is held");
    node.stop(10 * SECOND).expect("no slot is held for the dead");
    drop((last, node, looper));
    for number in 0..3 {
        Chirp::remove_queues(&format!("{name}-asker-{number}")).expect("it is dead");
    }
    println!("{deaths} deaths of who asks, synchronous {synchronous}: served to the end");
    nothing_is_left(before, &[&name]);
}

fn nothing_is_left(before: Held, names: &[&str]) {
    // Threads end when they next look.
    eventually("all is let go of", || held().is_within(before));
    let queues = Queue::names().expect("/dev/shm");
    let left: Vec<_> = queues
        .iter()
        .filter(|queue| names.iter().any(|name| queue.starts_with(name)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

// One test: what is left over is counted in the whole process.
#[test]
fn every_request_ends_whoever_is_killed_and_nothing_is_left_over() {
    let _watchdog = watchdog(Duration::from_secs(120));
    for synchronous in [false, true] {
        answerer_is_killed(6, synchronous);
        asker_is_killed(6, synchronous);
    }
}

#[test]
#[ignore = "a soak of minutes; see the head of this file"]
fn every_request_ends_through_a_thousand_deaths() {
    let _watchdog = watchdog(Duration::from_secs(3000));
    for synchronous in [false, true] {
        answerer_is_killed(500, synchronous);
        asker_is_killed(500, synchronous);
    }
}
