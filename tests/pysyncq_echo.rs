//! The two programs that PySyncQ ships to be watched, as tests with an end: its benchmark, in which seven children echo
//! what the parent sends, and its demo, in which children chatter until they are told to stop.
//!
//! PySyncQ's own benchmark deadlocks from bodies of 8 KiB on: its members wait for room in `append`, each for another one to
//! read. Not measured here: how fast it is (`benches/`).

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Child, SharedWord, forked, named, watchdog};
use syncq::{Error, Member, Queue, Wait};

/// Children of the benchmark; with the parent, eight processes.
const CHILDREN: u32 = 7;

/// Lets a forked child live longer than a minute.
fn live_for(seconds: u32) {
    // SAFETY: a plain system call.
    unsafe { nix::libc::alarm(seconds) };
}

/// Appends without a timer. A member that has to read first reads, and what it hears goes to `heard`.
fn append(member: &mut Member, kind: &str, body: &[u8], mut heard: impl FnMut(syncq::Message<'_>)) {
    loop {
        match member.append(kind, body, Wait::Forever) {
            Ok(_) => return,
            Err(Error::ReadFirst { .. }) => {
                if let Some(message) = member.pop(Wait::Never).unwrap() {
                    heard(message);
                }
            }
            Err(error) => panic!("unexpected: {error}"),
        }
    }
}

/// A child of the benchmark: answers everything that is no echo with an echo, until it is told to end.
fn echo(queue: &Queue, number: u32, joined: &SharedWord, ended: &SharedWord) -> i32 {
    live_for(110);
    let mut member = queue.join(&format!("child-{number}")).unwrap();
    member.screen().add_kind("echo");
    joined.raise();
    loop {
        let heard = member
            .pop(Wait::Forever)
            .unwrap()
            .expect("an untimed pop has a message");
        if heard.kind() == "kill" {
            ended.raise();
            return 0;
        }
        let body = heard.body().to_vec();
        append(&mut member, "echo", &body, |message| {
            panic!("{message:?}: the parent says nothing more before it has its echo")
        });
    }
}

/// The benchmark: one transfer is an origin, its echo, and a drain, for bodies of 2 to 65,536 bytes.
fn the_benchmark_terminates(capacity: u64) {
    const TRANSFERS: usize = 30;
    let _watchdog = watchdog(Duration::from_secs(120));
    let named = named("echo", &Queue::options().capacity(capacity).unlink_on_last_leave(true));
    let (joined, ended) = (SharedWord::new(), SharedWord::new());
    let child = |number| forked(|| echo(&named.queue, number, &joined, &ended));
    let children: Vec<Child> = (0..CHILDREN).map(child).collect();
    let mut parent = named.queue.join("parent").unwrap();
    // Hears child-0 only.
    for other in 1..CHILDREN {
        parent.screen().add_sender(format!("child-{other}"));
    }
    joined.wait_for(CHILDREN);
    for power in 1..=16 {
        let start = Instant::now();
        for transfer in 0..TRANSFERS {
            let origin: Vec<u8> = (0..1usize << power)
                .map(|at| (at * 31 + transfer * 7 + power) as u8)
                .collect();
            append(&mut parent, "origin", &origin, |late| {
                panic!("{late:?}: an echo too many")
            });
            let echo = parent.pop(Wait::Forever).unwrap().unwrap();
            assert_eq!((echo.sender(), echo.kind()), ("child-0", "echo"));
            assert!(echo.body() == origin, "the echo of {} bytes differs", origin.len());
            assert_eq!(parent.drain().count(), 0, "one unscreened echo for each origin");
        }
        println!(
            "{capacity}: {} bytes, {:?} a transfer",
            1 << power,
            start.elapsed() / TRANSFERS as u32
        );
    }
    append(&mut parent, "kill", b"", |late| panic!("{late:?}: an echo too many"));
    // Reads on: some may still be echoing, and who is joined and does not read holds them back.
    while ended.get().load(Ordering::SeqCst) < CHILDREN {
        assert!(
            parent.pop(Duration::from_millis(1)).unwrap().is_none(),
            "an echo too many"
        );
    }
    children.into_iter().for_each(Child::must_succeed);
    assert_eq!(parent.drain().count(), 0);
    assert_eq!(named.queue.free(), named.queue.capacity() - 64, "all room comes back");
    drop(parent);
    assert!(!named.queue.is_current(), "the last to leave removes the name");
}

/// 10 x 8 x 65,536 bytes, and up to a power of two.
#[test]
fn the_benchmark_terminates_with_the_ring_it_came_with() {
    the_benchmark_terminates((10u64 * 8 * 65_536).next_power_of_two());
}

/// Three of the longest messages fit; every transfer of them is eight.
#[test]
fn the_benchmark_terminates_with_a_ring_far_smaller_than_one_transfer() {
    the_benchmark_terminates(256 << 10);
}

// ---------------------------------------------------------------------------------------------------------- the demo

/// Children of the demo.
const TALKERS: usize = 3;
/// Sentences of each.
const SENTENCES: usize = 40;

/// A child of the demo. Writes down what it heard from the others, a line each.
fn talk(queue: &Queue, number: usize, joined: &SharedWord, heard_path: std::path::PathBuf) -> i32 {
    let me = format!("Child-{number}");
    let mut member = queue.join(&me).unwrap();
    joined.raise();
    let first = member.pop(Wait::Forever).unwrap().unwrap();
    assert_eq!(
        (first.sender(), first.kind(), first.body()),
        ("parent", "user", &b"start"[..])
    );
    let mut heard = String::new();
    for said in 0.. {
        // The demo sleeps for up to three seconds between two sentences, and gives a sentence half a second. These are to be
        // heard, so they have longer, until they are told to stop.
        if said < SENTENCES {
            std::thread::sleep(Duration::from_micros(
                (said as u64 * 7919 + number as u64 * 104_729) % 3000,
            ));
            let sentence = format!("the {number} says a {said}");
            member
                .append("sentence", sentence.as_bytes(), Wait::For(Duration::from_secs(30)))
                .unwrap();
        }
        for message in member.messages(Wait::For(Duration::from_millis(2))) {
            let message = message.unwrap();
            if message.kind() == "user" {
                assert_eq!((message.sender(), message.body()), ("parent", &b"stop"[..]));
                std::fs::write(heard_path, heard).unwrap();
                return abort_when_full(&mut member);
            }
            assert_ne!(message.sender(), me, "no child hears itself");
            heard += &format!("{}: {}\n", message.sender(), message.text().unwrap());
        }
    }
    unreachable!()
}

/// After the stop nobody reads any more: sentences fill the ring, and then one fails when its time is up.
fn abort_when_full(member: &mut Member) -> i32 {
    let timer = Duration::from_millis(500);
    loop {
        let start = Instant::now();
        match member.append("sentence", &[b'.'; 200], timer) {
            Ok(_) => {}
            Err(Error::Full(_)) => {
                let took = start.elapsed();
                assert!(timer <= took && took < 20 * timer, "{took:?} for a timer of {timer:?}");
                return 0;
            }
            Err(error) => panic!("unexpected: {error}"),
        }
    }
}

#[test]
fn the_demo_starts_talks_and_stops() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let named = named("demo", &Queue::options().capacity(4096).unlink_on_last_leave(true));
    let folder = support::folder("demo");
    let joined = SharedWord::new();
    let path = |number: usize| folder.0.join(number.to_string());
    let child = |number| forked(|| talk(&named.queue, number, &joined, path(number)));
    let children: Vec<Child> = (0..TALKERS).map(child).collect();
    let mut parent = named.queue.join("parent").unwrap();
    joined.wait_for(TALKERS as u32);
    parent.append("user", b"start", Wait::Never).unwrap();
    let mut order = Vec::new();
    while order.len() < TALKERS * SENTENCES {
        let message = parent.pop(Wait::Forever).unwrap().unwrap();
        order.push((message.sender().to_owned(), message.text().unwrap().to_owned()));
    }
    assert_eq!(
        order.iter().collect::<BTreeSet<_>>().len(),
        order.len(),
        "nothing is heard twice"
    );
    parent
        .append("user", b"stop", Wait::For(Duration::from_secs(30)))
        .unwrap();
    children.into_iter().for_each(Child::must_succeed);
    for number in 0..TALKERS {
        let others = order.iter().filter(|(sender, _)| *sender != format!("Child-{number}"));
        let expected: String = others.map(|(sender, text)| format!("{sender}: {text}\n")).collect();
        let heard = std::fs::read_to_string(path(number)).unwrap();
        assert_eq!(heard, expected, "child {number} heard all others, in the one order");
    }
    drop(parent);
    assert!(
        !Queue::names().unwrap().contains(&named.name),
        "nothing is left in shared memory"
    );
}
