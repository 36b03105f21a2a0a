//! What a request and its answer cost over queues, between two processes: next to a bare cache line, a bare futex and a bare pair of queues in the same
//! run; and how many messages go one way.
//!
//! `cargo bench --bench pool_local --features pool` does all; `-- spinning`, `-- sleeping` or `-- one-way` a part. Rounds of what is compared take turns,
//! each in two fresh processes, one pinned to each of two processors. A round's figure is the median of its trips; printed are the median
//! and the spread over the rounds (10th to 90th percentile), and the ratio to the bare one, round by round.
//!
//! For other tools: `-- requests N SPIN_MICROSECONDS` makes N requests, the echo in a forked child (`strace -f -c`, `perf`).

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::thread::futex;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncq::pool::{Address, Chirp, Config, Loop, Message};
use syncq::{Buffer, Queue, Wait};

const ROUNDS: usize = 9;
const TRIPS: usize = 10_000;
const WARM_UP: usize = 1_000;
const LEN: usize = 32;
const SPIN: Duration = Duration::from_micros(20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "--bench")
        .collect();
    match words[..] {
        ["requests", trips, spin] => {
            let spin = Duration::from_micros(spin.parse().expect("microseconds"));
            let [p50, p99] = nodes(trips.parse().expect("a number of requests"), spin, [false, false]);
            println!("p50 {p50} ns, p99 {p99} ns");
        }
        ["spinning"] => spinning(),
        ["sleeping"] => sleeping(),
        ["one-way"] => one_way(),
        _ => {
            spinning();
            sleeping();
            one_way();
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- processes

/// Words shared with forked children, each on cache lines of its own.
#[derive(Clone, Copy)]
struct Words(*const AtomicU32);

// SAFETY: nothing but atomics is reached through it.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn new() -> Self {
        let len = NonZeroUsize::new(1 << 16).expect("not zero");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping that is never unmapped.
        let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) };
        Words(page.expect("memory").as_ptr().cast_const().cast())
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < 64);
        // SAFETY: inside the mapping, and only ever used as an atomic.
        unsafe { &*self.0.add(index * 64) }
    }

    fn long(&self, index: usize) -> &AtomicU64 {
        assert!(index < 64);
        // SAFETY: as above, in the half that `word` does not use; mapped pages are aligned.
        unsafe { &*self.0.add(8192 + index * 64).cast() }
    }

    fn wait_for(&self, index: usize, value: u32) {
        while self.word(index).load(Ordering::Acquire) < value {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a processor number");
    // With one processor there is nothing to choose.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// Runs both in processes of their own, of which this one waits for the first. The second is ended then. Neither has threads to begin with.
fn pair(first: impl FnOnce(), second: impl FnOnce()) {
    let child = |cpu: usize, body: &mut dyn FnMut()| -> Pid {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                // SAFETY: a plain system call; the alarm ends a child whose parent is gone.
                unsafe { nix::libc::alarm(300) };
                pin(cpu);
                let is_fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
                // SAFETY: leaves without running the parent's destructors.
                unsafe { nix::libc::_exit(i32::from(!is_fine)) }
            }
        }
    };
    let (mut first, mut second) = (Some(first), Some(second));
    let second = child(1, &mut || (second.take().expect("once"))());
    let first = child(0, &mut || (first.take().expect("once"))());
    assert_eq!(
        waitpid(first, None).expect("waitpid"),
        WaitStatus::Exited(first, 0),
        "the asker failed"
    );
    let _ = kill(second, Signal::SIGKILL);
    let _ = waitpid(second, None);
}

/// Median and 99th percentile of so many trips.
fn timed(trips: usize, mut trip: impl FnMut()) -> [u64; 2] {
    (0..WARM_UP.min(trips)).for_each(|_| trip());
    let mut times: Vec<u64> = (0..trips)
        .map(|_| {
            let begun = Instant::now();
            trip();
            begun.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    [times[trips / 2], times[trips * 99 / 100]]
}

/// As [`timed`], by the first of two processes.
fn measured(ask: impl FnOnce(&dyn Fn([u64; 2]), Words), answer: impl FnOnce(Words)) -> [u64; 2] {
    let words = Words::new();
    let tell = move |[p50, p99]: [u64; 2]| {
        words.long(0).store(p50, Ordering::SeqCst);
        words.long(1).store(p99, Ordering::SeqCst);
    };
    pair(|| ask(&tell, words), || answer(words));
    [0, 1].map(|index| words.long(index).load(Ordering::SeqCst))
}

// --------------------------------------------------------------------------------------------------------------- subjects

const THERE: usize = 1;
const BACK: usize = 2;
const READY: usize = 3;

/// A word for each direction, looked at all the time.
fn cache_line() -> [u64; 2] {
    let wait = |words: &Words, index, value| {
        while words.word(index).load(Ordering::Acquire) != value {
            std::hint::spin_loop();
        }
    };
    ping_pong(TRIPS, wait, |words, index, value| {
        words.word(index).store(value, Ordering::Release)
    })
}

/// A word for each direction, slept on.
fn bare_futex() -> [u64; 2] {
    let wait = |words: &Words, index, value: u32| {
        let word = words.word(index);
        while word.load(Ordering::Acquire) != value {
            let _ = futex::wait(word, futex::Flags::empty(), value.wrapping_sub(1), None);
        }
    };
    let post = |words: &Words, index, value| {
        words.word(index).store(value, Ordering::Release);
        let _ = futex::wake(words.word(index), futex::Flags::empty(), 1);
    };
    ping_pong(TRIPS, wait, post)
}

fn ping_pong(trips: usize, wait: impl Fn(&Words, usize, u32), post: impl Fn(&Words, usize, u32)) -> [u64; 2] {
    measured(
        |tell, words| {
            let mut trip = 0;
            tell(timed(trips, || {
                trip += 1;
                post(&words, THERE, trip);
                wait(&words, BACK, trip);
            }));
        },
        |words| {
            for trip in 1.. {
                wait(&words, THERE, trip);
                post(&words, BACK, trip);
            }
        },
    )
}

/// Two queues, a message there and one back.
fn queues(spin: Duration) -> [u64; 2] {
    let queue = || Queue::options().spin(spin).anonymous().expect("memory");
    let (there, back) = (queue(), queue());
    measured(
        |tell, words| {
            let (mut writer, mut reader) = (there.writer("asker").unwrap(), back.reader().unwrap());
            let (body, mut buffer) = ([7; 27 + LEN], Buffer::new());
            words.word(READY).fetch_add(1, Ordering::SeqCst);
            words.wait_for(READY, 2);
            tell(timed(TRIPS, || {
                writer.append("", &body, Wait::Forever).unwrap();
                reader.pop_into(&mut buffer, Wait::Forever).unwrap().unwrap();
            }));
        },
        |words| {
            let (mut writer, mut reader) = (back.writer("answerer").unwrap(), there.reader().unwrap());
            let (body, mut buffer) = ([7; 27 + LEN], Buffer::new());
            words.word(READY).fetch_add(1, Ordering::SeqCst);
            loop {
                reader.pop_into(&mut buffer, Wait::Forever).unwrap().unwrap();
                writer.append("", &body, Wait::Forever).unwrap();
            }
        },
    )
}

fn config(name: &str, spin: Duration, synchronous: bool) -> Config {
    let name = format!("bench-{name}-{}", std::process::id());
    Config::new().queue_only(name).queue_spin(spin).synchronous(synchronous)
}

fn echo_until_killed(config: Config, words: Words) {
    let looper = Loop::new().unwrap();
    let _echo = Chirp::new(&looper, config, |chirp: &Chirp, message: Message| {
        chirp.send(message);
    })
    .unwrap();
    words.word(READY).store(1, Ordering::SeqCst);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Two nodes, a request and its answer. Which of them are synchronous: the one who asks, the one who answers.
fn nodes(trips: usize, spin: Duration, synchronous: [bool; 2]) -> [u64; 2] {
    // Named by this process, which both are forked from.
    let (ours, theirs) = (
        config("asker", spin, synchronous[0]),
        config("echo", spin, synchronous[1]),
    );
    let to = theirs.queue.clone().expect("set");
    let its = theirs.clone();
    let times = measured(
        |tell, words| {
            words.wait_for(READY, 1);
            let looper = Loop::new().unwrap();
            let node = Chirp::new(&looper, ours, |_: &Chirp, _: Message| {}).unwrap();
            let peer = Address::queue(&to);
            tell(timed(trips, || {
                let request = Message::to(peer.clone(), [7; LEN]).unwrap();
                assert_eq!(node.request(request).result().unwrap().data().len(), LEN);
            }));
            node.stop(Duration::from_secs(5)).unwrap();
        },
        |words| echo_until_killed(its, words),
    );
    // The killed echo's.
    for name in [to.clone(), format!("{to}.answers")] {
        let _ = Queue::unlink_name(&name);
    }
    times
}

// ---------------------------------------------------------------------------------------------------------------- figures

type Subject<'s> = (&'s str, Box<dyn Fn() -> [u64; 2] + 's>);

/// All subjects in turns, and each against the first.
fn compare(title: &str, subjects: &[Subject<'_>]) {
    println!("{title} ({ROUNDS} rounds of {TRIPS} trips, {LEN} bytes)");
    let mut figures = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for ((_, measure), figures) in subjects.iter().zip(&mut figures) {
            figures.push(measure());
        }
    }
    for ((name, _), its) in subjects.iter().zip(&figures) {
        let p50 = Spread::of(its.iter().map(|figure| figure[0] as f64 / 1e3));
        let p99 = Spread::of(its.iter().map(|figure| figure[1] as f64 / 1e3));
        let ratio = Spread::of(
            its.iter()
                .zip(&figures[0])
                .map(|(its, bare)| its[0] as f64 / bare[0] as f64),
        );
        println!("  {name:34} p50 {p50} µs   p99 {p99} µs   times the first: {ratio}");
    }
}

fn spinning() {
    compare(
        "request and answer, both sides spinning",
        &[
            ("bare cache line", Box::new(cache_line)),
            ("two queues", Box::new(|| queues(SPIN))),
            ("nodes, asynchronous", Box::new(|| nodes(TRIPS, SPIN, [false, false]))),
            (
                "nodes, the asker synchronous",
                Box::new(|| nodes(TRIPS, SPIN, [true, false])),
            ),
            ("nodes, both synchronous", Box::new(|| nodes(TRIPS, SPIN, [true, true]))),
        ],
    );
}

fn sleeping() {
    compare(
        "request and answer, both sides sleeping",
        &[
            ("bare futex", Box::new(bare_futex)),
            ("two queues", Box::new(|| queues(Duration::ZERO))),
            (
                "nodes, asynchronous",
                Box::new(|| nodes(TRIPS, Duration::ZERO, [false, false])),
            ),
            (
                "nodes, both synchronous",
                Box::new(|| nodes(TRIPS, Duration::ZERO, [true, true])),
            ),
        ],
    );
}

/// Messages a second from one node to another, asynchronous, until the last one was handled.
fn one_way() {
    for (len, messages) in [(64, 200_000u32), (1024, 200_000), (64 << 10, 10_000)] {
        let rates = (0..5).map(|_| {
            let theirs = config("sink", SPIN, false).queue_capacity(1 << 22);
            let ours = config("source", SPIN, false);
            let to = theirs.queue.clone().expect("set");
            let its = theirs.clone();
            let [nanos, _] = measured(
                |tell, words| {
                    words.wait_for(READY, 1);
                    let looper = Loop::new().unwrap();
                    let node = Chirp::new(&looper, ours, |_: &Chirp, _: Message| {}).unwrap();
                    let peer = Address::queue(&to);
                    let begun = Instant::now();
                    for _ in 0..messages {
                        node.send(Message::to(peer.clone(), vec![7; len]).unwrap());
                    }
                    words.wait_for(BACK, messages);
                    tell([begun.elapsed().as_nanos() as u64, 0]);
                    node.stop(Duration::from_secs(5)).unwrap();
                },
                |words| {
                    let looper = Loop::new().unwrap();
                    let _sink = Chirp::new(&looper, its, move |_: &Chirp, message: Message| {
                        assert_eq!(message.data().len(), len);
                        words.word(BACK).fetch_add(1, Ordering::SeqCst);
                    });
                    words.word(READY).store(1, Ordering::SeqCst);
                    loop {
                        std::thread::sleep(Duration::from_secs(1));
                    }
                },
            );
            for name in [to.clone(), format!("{to}.answers")] {
                let _ = Queue::unlink_name(&name);
            }
            f64::from(messages) / nanos as f64 * 1e3
        });
        println!(
            "one way, asynchronous, {len:6} bytes: {} M messages/s",
            Spread::of(rates)
        );
    }
}

/// Median, and 10th to 90th percentile.
struct Spread([f64; 3]);

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Spread([at(0.5), at(0.1), at(0.9)])
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, low, high] = self.0;
        write!(f, "{median:7.2} ({low:.2} to {high:.2})")
    }
}
