//! The contract of PySyncQ, as it should have been: what its documentation says and its users rely on holds here too, and what
//! it gets wrong is right here.
//!
//! The table of checks that its behaviour was measured with, rows a to q, is in `table`, row l of it in `signals`. What else
//! its calls mean is in `members` and `waits`, and in `signals` too. Here is only what several of these use.
//! The programs it ships, a benchmark and a demo, are in `pysyncq_echo.rs`.

#[path = "pysyncq/members.rs"]
mod members;
#[path = "pysyncq/signals.rs"]
mod signals;
mod support;
#[path = "pysyncq/table.rs"]
mod table;
#[path = "pysyncq/waits.rs"]
mod waits;

use nix::unistd::gettid;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use support::eventually;
use syncq::{Error, Member, Message, Queue, QueueOptions, Wait};

/// For what should happen at once: if it takes longer than this, it will never happen.
const SOON: Wait = Wait::For(Duration::from_secs(20));

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The smallest ring there is.
fn small() -> QueueOptions {
    Queue::options().capacity(4096)
}

/// A message as PySyncQ gives it: sender, kind, body.
type Triple = (String, String, Vec<u8>);

fn triple(message: Message<'_>) -> Triple {
    (
        message.sender().to_owned(),
        message.kind().to_owned(),
        message.body().to_vec(),
    )
}

fn pop(member: &mut Member) -> Option<Triple> {
    member.pop(Wait::Never).expect("a pop that works").map(triple)
}

/// The body of the message that is there now, as text.
fn body(member: &mut Member) -> Option<String> {
    pop(member).map(|(_, _, body)| String::from_utf8(body).expect("text"))
}

/// Appends until the ring is full. How many went in.
fn fill(member: &mut Member, kind: &str, body: &[u8]) -> usize {
    for number in 0.. {
        match member.append(kind, body, Wait::Never) {
            Ok(_) => {}
            Err(Error::Full(_)) => return number,
            Err(error) => panic!("unexpected: {error}"),
        }
    }
    unreachable!()
}

/// What the thread or process with this folder in `/proc` is doing: `R` for running, `S` for sleeping, `Z` for dead.
fn state(proc: &str) -> char {
    let stat = std::fs::read_to_string(format!("{proc}/stat"));
    stat.map_or('Z', |stat| {
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    })
}

/// Runs `act` in a thread, and `release` when `act` sleeps. What `act` gave.
fn blocked_until<T: Send>(act: impl FnOnce() -> T + Send, release: impl FnOnce()) -> T {
    let thread = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            thread.store(gettid().as_raw(), Ordering::SeqCst);
            act()
        });
        eventually("the other thread sleeps", || {
            let id = thread.load(Ordering::SeqCst);
            id != 0 && matches!(state(&format!("/proc/self/task/{id}")), 'S' | 'Z')
        });
        assert!(!blocked.is_finished(), "it did not wait");
        release();
        blocked.join().expect("no panic")
    })
}

/// Runs `act`, which has a timer of `timer`: not early, and not much late (a loaded machine gets ten times as long).
fn on_time<T>(timer: Duration, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = act();
    let took = start.elapsed();
    assert!(took >= timer, "{took:?} is before the timer of {timer:?}");
    assert!(took < timer * 10 + ms(1000), "{took:?} for a timer of {timer:?}");
    answer
}
