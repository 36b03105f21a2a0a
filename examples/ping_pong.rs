//! How long a message and its answer take between two processes, next to the least that the hardware allows.
//!
//! ```text
//! cargo run --release --example ping_pong
//! cargo run --release --example ping_pong -- --body 1024 --rounds 1000000
//! cargo run --release --example ping_pong -- --sleep      # both sides sleep until they are woken
//! ```
//!
//! Two forked processes, on two processors if there are two, pass one message to and fro. Each direction has a queue of its
//! own, with one `Writer` and one `Reader`. The *bare* figures come from the same two processes passing a counter to and fro
//! through two shared cache lines, with nothing around it: no queue can be faster.
//!
//! Figures mean something on a machine that does nothing else meanwhile.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncq::{Queue, QueueOptions, Reader, Writer};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Measures round trips between two processes.

Usage: ping_pong [OPTIONS]

  --body N     bytes in each message, 0 to 1000000 (default: 8)
  --rounds N   round trips, 1 to 10000000 (default: 200000)
  --spin       who waits never sleeps
  --sleep      who waits sleeps at once (default: look for 20 us, then sleep)
  --named      queues with a name instead of anonymous ones
  --help       print this
";

/// Nobody waits longer than this for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Options {
    body: usize,
    rounds: usize,
    /// How long a reader looks before it sleeps.
    spin: Duration,
    named: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("ping_pong: {why}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ping_pong: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: print the help.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        body: 8,
        rounds: 200_000,
        spin: Duration::from_micros(20),
        named: false,
    };
    while let Some(arg) = args.next() {
        let mut number = |max: usize, min: usize| match args.next().and_then(|n| n.parse().ok()) {
            Some(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(format!("{arg} needs a number from {min} to {max}")),
        };
        match arg.as_str() {
            "--body" => options.body = number(1_000_000, 0)?,
            "--rounds" => options.rounds = number(10_000_000, 1)?,
            "--spin" => options.spin = PATIENCE,
            "--sleep" => options.spin = Duration::ZERO,
            "--named" => options.named = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<()> {
    let processors = two_processors()?;
    match processors {
        Some((ours, theirs)) => println!("two processes, on processors {ours} and {theirs}"),
        None => println!("two processes on one processor: they take turns, so expect long times"),
    }
    let bare = measure_bare(options, processors)?;
    let slept_before = times_slept()?;
    let queue = measure_queue(options, processors)?;
    let slept = times_slept()? - slept_before;
    println!("{} round trips, bodies of {} bytes\n", options.rounds, options.body);
    println!(
        "{:<12}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "ns", "p50", "p90", "p99", "p99.9", "max"
    );
    print_percentiles("cache lines", &bare);
    print_percentiles("queue", &queue);
    let ratio = percentile(&queue, 50.0) as f64 / percentile(&bare, 50.0).max(1) as f64;
    println!("\nratio of the medians: {ratio:.2}");
    println!("the asking process slept {slept} times\n\nround trips through the queue, by how long they took:");
    print_bars(&queue);
    Ok(())
}

/// How often this process gave its processor away of its own accord.
fn times_slept() -> Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.voluntary_context_switches())
}

// ---- The queue -----------------------------------------------------------------------------------------------------------

/// Round trip times in nanoseconds, sorted.
fn measure_queue(options: &Options, processors: Option<(usize, usize)>) -> Result<Vec<u64>> {
    let there = Lane::new("there", options)?;
    let back = Lane::new("back", options)?;
    // Each reader is there before the first message to it is: ours because we join now, the other's because it starts with
    // the oldest message there is.
    let mut answers = back.queue.reader()?;
    let mut writer = there.queue.writer("ping")?;
    let other = {
        let (there, back, rounds) = (there.queue.clone(), back.queue.clone(), options.rounds);
        Other::start(processors, move || answer(&there, &back, rounds))?
    };
    let body = vec![7; options.body];
    let times = timed(options.rounds, || ask(&mut writer, &mut answers, &body))?;
    other.must_succeed()?;
    Ok(times)
}

fn ask(writer: &mut Writer, answers: &mut Reader, body: &[u8]) -> Result<()> {
    writer.append("ping", body, PATIENCE)?;
    let answer = answers.pop(PATIENCE)?.ok_or("no answer in time")?;
    match answer.body() == body {
        true => Ok(()),
        false => Err("the answer is not what was sent".into()),
    }
}

/// The other side: sends every message back.
fn answer(there: &Queue, back: &Queue, rounds: usize) -> Result<()> {
    let mut questions = there.joining().start(syncq::Start::Oldest).reader()?;
    let mut writer = back.writer("pong")?;
    for _ in 0..rounds {
        let question = questions.pop(PATIENCE)?.ok_or("no question in time")?;
        writer.append("pong", question.body(), PATIENCE)?;
    }
    Ok(())
}

/// A queue for one direction. Its name, if it has one, goes away with it.
struct Lane {
    queue: Queue,
    is_named: bool,
}

impl Lane {
    fn new(direction: &str, options: &Options) -> syncq::Result<Self> {
        let room = (4 * options.body as u64).next_power_of_two().max(64 << 10);
        let settings: QueueOptions = Queue::options().capacity(room).slots(2).spin(options.spin);
        let queue = match options.named {
            true => settings.create(&format!("ping-pong-{}-{direction}", std::process::id()))?,
            false => settings.anonymous()?,
        };
        Ok(Lane {
            queue,
            is_named: options.named,
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_named {
            let _ = self.queue.unlink();
        }
    }
}

// ---- Bare cache lines ----------------------------------------------------------------------------------------------------

/// As far apart as the processor's prefetching needs, so that each word has a line to itself.
#[repr(align(128))]
struct Line(AtomicU64);

struct Lines {
    there: Line,
    back: Line,
}

/// Round trip times in nanoseconds, sorted.
fn measure_bare(options: &Options, processors: Option<(usize, usize)>) -> Result<Vec<u64>> {
    let lines = shared_lines()?;
    let rounds = options.rounds as u64;
    let other = Other::start(processors, move || {
        for round in 1..=rounds {
            wait_for(&lines.there, round)?;
            lines.back.0.store(round, Ordering::Release);
        }
        Ok(())
    })?;
    let mut round = 0;
    let times = timed(options.rounds, || {
        round += 1;
        lines.there.0.store(round, Ordering::Release);
        wait_for(&lines.back, round)
    })?;
    other.must_succeed()?;
    Ok(times)
}

/// Two zeroed lines, shared with the processes that are forked from now on.
fn shared_lines() -> Result<&'static Lines> {
    let len = std::num::NonZeroUsize::new(size_of::<Lines>()).expect("two lines have bytes");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let memory = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }?;
    // SAFETY: zeroed, large enough, aligned to a page, never unmapped, and only used as atomics.
    Ok(unsafe { memory.cast::<Lines>().as_ref() })
}

fn wait_for(line: &Line, value: u64) -> Result<()> {
    let mut looks = 0u64;
    let mut deadline = None;
    while line.0.load(Ordering::Acquire) != value {
        looks += 1;
        std::hint::spin_loop();
        // The other one may need this very processor, or be gone.
        if looks.is_multiple_of(10_000) {
            std::thread::yield_now();
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
                return Err("the other process does not answer".into());
            }
        }
    }
    Ok(())
}

// ---- Two processes -------------------------------------------------------------------------------------------------------

/// The forked process. It does not outlive this one.
struct Other {
    pid: Pid,
    has_ended: bool,
}

impl Other {
    /// Forks a process that runs `work`, each of the two on its own processor.
    fn start(processors: Option<(usize, usize)>, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: this program has one thread, so the child may do whatever it could have done.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let pinned = || {
                    processors
                        .map_or(Ok(()), |(_, theirs)| pin(theirs))
                        .and_then(|()| work())
                };
                // Nothing may get past here: further up are the parent's values, and they are not ours to drop.
                let code = match catch_unwind(AssertUnwindSafe(pinned)) {
                    Ok(Ok(())) => 0,
                    Ok(Err(error)) => {
                        eprintln!("ping_pong, the other process: {error}");
                        1
                    }
                    Err(_) => 101,
                };
                // SAFETY: ends this process without running what it inherited.
                unsafe { nix::libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                let other = Other {
                    pid: child,
                    has_ended: false,
                };
                if let Some((ours, _)) = processors {
                    pin(ours)?;
                }
                Ok(other)
            }
        }
    }

    fn must_succeed(mut self) -> Result<()> {
        let status = waitpid(self.pid, None)?;
        self.has_ended = true;
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(format!("the other process: {other:?}").into()),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// The first two processors that this process may use, if there are two.
fn two_processors() -> Result<Option<(usize, usize)>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut processors = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    Ok(processors.next().zip(processors.next()))
}

fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

// ---- Figures -------------------------------------------------------------------------------------------------------------

/// Runs `round` so many times and returns how many nanoseconds each took, sorted.
fn timed(rounds: usize, mut round: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        round()?;
        times.push(start.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    Ok(times)
}

/// The value that `percent` of all do not exceed.
fn percentile(sorted: &[u64], percent: f64) -> u64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn print_percentiles(what: &str, sorted: &[u64]) {
    print!("{what:<12}");
    for percent in [50.0, 90.0, 99.0, 99.9] {
        print!("{:>10}", percentile(sorted, percent));
    }
    println!("{:>12}", percentile(sorted, 100.0));
}

/// A bar for each power of two, as long as the share of round trips that took at least this and less than twice this.
fn print_bars(sorted: &[u64]) {
    const WIDTH: usize = 50;
    let power = |nanos: &u64| nanos.max(&1).ilog2();
    let (Some(first), Some(last)) = (sorted.first().map(power), sorted.last().map(power)) else {
        return;
    };
    for bar in first..=last {
        let count = sorted.iter().filter(|nanos| power(nanos) == bar).count();
        let length = (count * WIDTH).div_ceil(sorted.len());
        println!("{:>12} ns {:<WIDTH$} {count}", 1u64 << bar, "#".repeat(length));
    }
}
