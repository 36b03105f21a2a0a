//! What an append and a pop cost in one process (criterion), and what a message costs between two (loops of our own: a round
//! trip next to that of a bare cache line in the same run, and one way).
//!
//! `cargo bench --bench queue` does all; a filter behind `--` picks criterion's, and `-- between` only the two processes.
//! For other tools there are plain loops: `-- stream MESSAGES LEN` between two processes (`strace -f -c`), and
//! `-- loop append|pair|batch|reserve|kind|screened MESSAGES LEN` in one (`valgrind --tool=callgrind`).

use criterion::{BenchmarkId, Criterion, Throughput};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::hint::{black_box, spin_loop};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncq::{Buffer, Queue, Reader, Wait, Writer};

const SIZES: [usize; 4] = [8, 64, 1024, 64 << 10];
const BATCH: usize = 16;
/// Messages appended before any is popped, where it is the popping that is to be counted.
const STRETCH: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let number = |index: usize| arguments[index].parse::<u32>().expect("a number");
    match arguments.first().map(String::as_str) {
        Some("stream") => return stream_for_tracing(number(1).into(), number(2) as usize),
        Some("loop") => return loop_for_counting(&arguments[1], number(2).into(), number(3) as usize),
        Some("between") => return between_processes(),
        _ => {}
    }
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    if is_bench && arguments.is_empty() {
        between_processes();
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    in_one_process(&mut criterion);
    criterion.final_summary();
}

fn queue() -> Queue {
    Queue::options().anonymous().expect("memory")
}

// ---------------------------------------------------------------------------------------------------------- one process

fn in_one_process(criterion: &mut Criterion) {
    for len in SIZES {
        let body = vec![7u8; len];
        let mut group = criterion.benchmark_group("one process");
        group.throughput(Throughput::Bytes(len as u64));

        group.bench_function(BenchmarkId::new("append+pop", len), |bencher| {
            let queue = queue();
            let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
            bencher.iter(|| {
                writer.append("", black_box(&body), Wait::Never).unwrap();
                black_box(reader.pop(Wait::Never).unwrap().unwrap().body().len())
            });
        });
        group.bench_function(BenchmarkId::new("append", len), |bencher| {
            bencher.iter_custom(|times| halves(times, &body).0);
        });
        group.bench_function(BenchmarkId::new("pop", len), |bencher| {
            bencher.iter_custom(|times| halves(times, &body).1);
        });
        group.bench_function(BenchmarkId::new("reserve+guard", len), |bencher| {
            let queue = queue();
            let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
            bencher.iter(|| {
                let mut place = writer.reserve("", len, Wait::Never).unwrap();
                place.write_at(0, &body[..8]);
                place.commit().unwrap();
                let guard = reader.peek(Wait::Never).unwrap().unwrap();
                let mut first = [0; 8];
                guard.copy_to(0, &mut first);
                black_box(first)
            });
        });
        if len * BATCH < queue().capacity() as usize {
            group.throughput(Throughput::Bytes((len * BATCH) as u64));
            group.bench_function(BenchmarkId::new("batch of 16", len), |bencher| {
                let queue = queue();
                let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
                bencher.iter(|| {
                    writer.append_all([("", &body[..]); BATCH], Wait::Never).unwrap();
                    for _ in 0..BATCH {
                        black_box(reader.pop(Wait::Never).unwrap().unwrap().body().len());
                    }
                });
            });
        }
        group.finish();
    }
}

/// The time of so many appends, and of as many pops: as many at a time as fill half the ring.
fn halves(times: u64, body: &[u8]) -> (Duration, Duration) {
    let queue = queue();
    let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
    let stretch = queue.capacity() / 2 / (body.len() as u64 + 64);
    let (mut appending, mut popping) = (Duration::ZERO, Duration::ZERO);
    let mut left = times;
    while left > 0 {
        let now = left.min(stretch);
        left -= now;
        let start = Instant::now();
        for _ in 0..now {
            writer.append("", black_box(body), Wait::Never).unwrap();
        }
        let middle = Instant::now();
        for _ in 0..now {
            black_box(reader.pop(Wait::Never).unwrap().unwrap().body().len());
        }
        appending += middle - start;
        popping += middle.elapsed();
    }
    (appending, popping)
}

fn loop_for_counting(what: &str, messages: u64, len: usize) {
    let queue = queue();
    let body = vec![7u8; len];
    let mut writer = queue.writer("").unwrap();
    let mut reader = matches!(what, "pair" | "batch" | "reserve").then(|| queue.reader().unwrap());
    let mut pop = |times: usize| {
        for _ in 0..times {
            if let Some(reader) = &mut reader {
                black_box(reader.pop(Wait::Never).unwrap().map(|message| message.body().len()));
            }
        }
    };
    match what {
        "batch" => (0..messages).step_by(BATCH).for_each(|_| {
            writer
                .append_all([("", black_box(&body[..])); BATCH], Wait::Never)
                .unwrap();
            pop(BATCH);
        }),
        "reserve" => (0..messages).for_each(|_| {
            let mut place = writer.reserve("", len, Wait::Never).unwrap();
            place.write_at(0, &body);
            place.commit().unwrap();
            pop(1);
        }),
        "append" | "pair" => (0..messages).for_each(|_| {
            writer.append("", black_box(&body), Wait::Never).unwrap();
            pop(1);
        }),
        "kind" | "screened" => {
            let mut reader = queue.reader().unwrap();
            if what == "screened" {
                reader.screen().add_kind("debug");
            }
            (0..messages).step_by(STRETCH).for_each(|_| {
                for _ in 0..STRETCH {
                    writer.append("debug", black_box(&body), Wait::Never).unwrap();
                }
                while let Some(message) = reader.pop(Wait::Never).unwrap() {
                    black_box(message.body().len());
                }
            });
        }
        _ => panic!("no loop is called {what}"),
    }
}

// -------------------------------------------------------------------------------------------------------- two processes

/// Words on cache lines of their own, shared with a forked child.
struct Lines(*const AtomicU64);

impl Lines {
    fn new() -> Self {
        let len = NonZeroUsize::new(4096).unwrap();
        // SAFETY: a fresh shared mapping that is never unmapped.
        let page = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )
        };
        Lines(page.expect("memory").as_ptr().cast_const().cast())
    }

    fn line(&self, index: usize) -> &AtomicU64 {
        assert!(index < 16);
        // SAFETY: inside the page, mapped for the life of the process, and only ever used as an atomic.
        unsafe { &*self.0.add(index * 32) }
    }

    fn wait(&self, index: usize, value: u64) {
        while self.line(index).load(Ordering::Acquire) < value {
            spin_loop();
        }
    }
}

/// A forked child. Ended and reaped when dropped, whatever happened.
struct Child(Option<Pid>);

fn forked(body: impl FnOnce()) -> Child {
    // SAFETY: this process has one thread here.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            // SAFETY: plain system calls; the alarm ends a child that waits for a parent that is gone.
            unsafe { nix::libc::alarm(300) };
            let is_fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(i32::from(!is_fine)) }
        }
        ForkResult::Parent { child } => Child(Some(child)),
    }
}

impl Child {
    fn join(mut self) {
        let pid = self.0.take().expect("not yet reaped");
        assert_eq!(
            waitpid(pid, None).expect("waitpid"),
            WaitStatus::Exited(pid, 0),
            "the child failed"
        );
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a processor number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("two processors");
}

const ROUNDS: usize = 21;
const TRIPS: u64 = 20_000;
/// Bodies of the round trips. With no names, a body of 32 bytes makes a record of one cache line.
const TRIP_SIZES: [usize; 2] = [32, 64];

/// One end of a pair of queues, one for each direction.
struct End {
    writer: Writer,
    reader: Reader,
    buffer: Buffer,
}

impl End {
    fn new(out: &Queue, back: &Queue) -> Self {
        let (writer, mut reader) = (out.writer("").unwrap(), back.reader().unwrap());
        reader.set_spin(Duration::from_secs(60));
        End {
            writer,
            reader,
            buffer: Buffer::new(),
        }
    }

    fn send(&mut self, body: &[u8]) {
        self.writer.append("", body, Wait::Forever).unwrap();
    }

    fn receive(&mut self) {
        black_box(
            self.reader
                .pop_into(&mut self.buffer, Wait::Forever)
                .unwrap()
                .unwrap()
                .body()
                .len(),
        );
    }
}

fn between_processes() {
    if std::thread::available_parallelism().is_ok_and(|n| n.get() < 2) {
        println!("between two processes: skipped, there is one processor");
        return;
    }
    round_trips();
    for len in [64, 1024] {
        for batch in [1, BATCH] {
            one_way(len, batch);
        }
    }
    // Whatever comes next may run anywhere.
    let mut all = CpuSet::new();
    (0..CpuSet::count()).for_each(|cpu| all.set(cpu).expect("a processor number"));
    sched_setaffinity(Pid::from_raw(0), &all).expect("to undo the pinning");
}

/// Round trips of a bare cache line and of messages, in turns.
fn round_trips() {
    let (there, back, lines) = (queue(), queue(), Lines::new());
    let (here, far) = (0, 1);
    let ready = 2;
    let child = forked(|| {
        pin(1);
        let mut end = End::new(&back, &there);
        let bodies = TRIP_SIZES.map(|len| vec![1u8; len]);
        lines.line(ready).store(1, Ordering::Release);
        for round in 0..ROUNDS as u64 {
            for trip in 1..=TRIPS {
                lines.wait(here, round * TRIPS + trip);
                lines.line(far).store(round * TRIPS + trip, Ordering::Release);
            }
            for body in &bodies {
                for _ in 0..TRIPS {
                    end.receive();
                    end.send(body);
                }
            }
        }
    });
    pin(0);
    let mut end = End::new(&there, &back);
    let bodies = TRIP_SIZES.map(|len| vec![1u8; len]);
    lines.wait(ready, 1);
    let mut bare = Vec::new();
    let mut messages = TRIP_SIZES.map(|_| Vec::new());
    for round in 0..ROUNDS as u64 {
        let start = Instant::now();
        for trip in 1..=TRIPS {
            lines.line(here).store(round * TRIPS + trip, Ordering::Release);
            lines.wait(far, round * TRIPS + trip);
        }
        bare.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
        for (body, times) in bodies.iter().zip(&mut messages) {
            let start = Instant::now();
            for _ in 0..TRIPS {
                end.send(body);
                end.receive();
            }
            times.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
        }
    }
    child.join();
    let spread_of_bare = Spread::of(&mut bare.clone());
    println!("round trip, bare cache line    {spread_of_bare} ns");
    for (len, times) in TRIP_SIZES.iter().zip(messages) {
        let mut ratios: Vec<f64> = times.iter().zip(&bare).map(|(message, bare)| message / bare).collect();
        let (times, ratios) = (Spread::of(&mut times.clone()), Spread::of(&mut ratios));
        println!("round trip, {len:5} bytes        {times} ns; times the bare one: {ratios}");
    }
}

/// Messages one way, the reader spinning.
fn one_way(len: usize, batch: usize) {
    const ROUNDS: u64 = 9;
    let messages = ((256 << 20) / (len as u64 + 192)) / batch as u64 * batch as u64;
    let (queue, lines) = (queue(), Lines::new());
    let (ready, done) = (0, 1);
    let child = forked(|| {
        pin(1);
        let mut reader = queue.reader().unwrap();
        reader.set_spin(Duration::from_secs(60));
        lines.line(ready).store(1, Ordering::Release);
        let mut buffer = Buffer::new();
        for round in 1..=ROUNDS {
            for _ in 0..messages {
                black_box(
                    reader
                        .pop_into(&mut buffer, Wait::Forever)
                        .unwrap()
                        .unwrap()
                        .body()
                        .len(),
                );
            }
            lines.line(done).store(round, Ordering::Release);
        }
    });
    pin(0);
    let mut writer = queue.writer("").unwrap();
    lines.wait(ready, 1);
    let body = vec![1u8; len];
    let all = vec![("", &body[..]); batch];
    let mut rates: Vec<f64> = (1..=ROUNDS)
        .map(|round| {
            let start = Instant::now();
            for _ in 0..messages / batch as u64 {
                match batch {
                    1 => drop(writer.append("", &body, Wait::Forever).unwrap()),
                    _ => writer.append_all(all.iter().copied(), Wait::Forever).unwrap(),
                }
            }
            lines.wait(done, round);
            messages as f64 / start.elapsed().as_nanos() as f64 * 1e3
        })
        .collect();
    child.join();
    println!(
        "one way, {len:5} bytes, {batch:2} at once  {} M messages/s",
        Spread::of(&mut rates)
    );
}

/// As users have it: nobody is pinned, and waits spin as long as they do by default.
fn stream_for_tracing(messages: u64, len: usize) {
    let (queue, lines) = (queue(), Lines::new());
    let child = forked(|| {
        let mut reader = queue.reader().unwrap();
        lines.line(0).store(1, Ordering::Release);
        for _ in 0..messages {
            black_box(reader.pop(Wait::Forever).unwrap().unwrap().body().len());
        }
    });
    let mut writer = queue.writer("").unwrap();
    lines.wait(0, 1);
    let body = vec![1u8; len];
    let start = Instant::now();
    for _ in 0..messages {
        writer.append("", &body, Wait::Forever).unwrap();
    }
    child.join();
    println!("{messages} messages of {len} bytes in {:?}", start.elapsed());
}

/// Median, and the range in which the middle eight tenths lie.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread {
            low: at(0.1),
            median: at(0.5),
            high: at(0.9),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}
