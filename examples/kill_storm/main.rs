//! A storm of deaths: members of all kinds come, work and are killed at random, and every byte, order and count is checked.
//!
//! ```text
//! cargo run --release --example kill_storm -- --seconds 60
//! cargo run --release --example kill_storm -- --seconds 60 --seed 7 --capacity 4096 --json
//! ```
//!
//! * `child`: what the forked processes do until a SIGKILL ends them.
//! * `check`: what a message must look like, and how readers compare what they see.
//!
//! One reader in the parent sees everything. It checks that the messages of each writer come without a gap, and in the end
//! that everything came whose append had returned, and at most one more append or batch, whole. Readers, members and
//! observers among the children compare the order of what they see with each other and with it, block by block.
//! Ends with one line and exit code 0 if nothing was wrong, 1 if something was, 2 for a wrong option.

mod check;
mod child;

use check::{Expected, Order, Seen};
use child::{Desk, Wall};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncq::{Queue, Wait};

const HELP: &str = "\
Kills members of a queue at random for a while, and checks everything.

Usage: kill_storm [OPTIONS]

  --seconds N    how long (default: 10)
  --seed N       which storm (default: from the clock); the same seed makes the same plans, not the same timing
  --capacity N   bytes in the ring, a power of two (default: 262144)
  --children N   how many processes at a time, 1 to 48 (default: 12)
  --json         the verdict as JSON
  --help         print this
";

#[derive(Debug, Clone, Copy)]
struct Options {
    seconds: u64,
    seed: u64,
    capacity: u64,
    children: usize,
    json: bool,
}

/// Xorshift: small, and the same on every machine.
#[derive(Debug, Clone, Copy)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        dice
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut options = Options {
        seconds: 10,
        seed: clock.map_or(1, |now| now.as_nanos() as u64 % 1_000_000),
        capacity: 256 << 10,
        children: 12,
        json: false,
    };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} needs a number"))?;
            value
                .parse::<u64>()
                .map_err(|_| format!("{word}: {value} is no number"))
        };
        match &*word {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--capacity" => options.capacity = number()?,
            "--children" => options.children = number()? as usize,
            "--json" => options.json = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    if !(1..=child::DESKS).contains(&options.children) {
        return Err(format!("--children: from 1 to {}", child::DESKS));
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("kill_storm: {wrong}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let name = format!("kill-storm-{}", std::process::id());
    let made = Queue::options().capacity(options.capacity).slots(64).create(&name);
    let queue = match made {
        Ok(queue) => queue,
        Err(error) => {
            eprintln!("kill_storm: {error}");
            return ExitCode::from(2);
        }
    };
    let verdict = storm(&options, &queue, &name);
    let _ = Queue::unlink_name(&name);
    verdict.print(&options);
    match verdict.violations {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[derive(Debug, Default)]
struct Verdict {
    took: Duration,
    kills: u64,
    ended: u64,
    messages: u64,
    bytes: u64,
    /// Blocks of messages whose order one reader has compared with another one's.
    compared: u64,
    takeovers: u64,
    reaped: u64,
    violations: u64,
}

impl Verdict {
    fn print(&self, options: &Options) {
        let Verdict {
            kills,
            ended,
            messages,
            bytes,
            compared,
            takeovers,
            reaped,
            violations,
            ..
        } = self;
        let (seconds, seed) = (self.took.as_secs_f64(), options.seed);
        let rate = *kills as f64 / seconds;
        if options.json {
            println!(
                "{{\"seconds\":{seconds:.1},\"seed\":{seed},\"kills\":{kills},\"kills_per_second\":{rate:.0},\"ended\":{ended},\
                 \"messages\":{messages},\"bytes\":{bytes},\"blocks_compared\":{compared},\"takeovers\":{takeovers},\
                 \"reaped\":{reaped},\"violations\":{violations}}}"
            );
        } else {
            println!(
                "{kills} kills in {seconds:.1} s ({rate:.0}/s, {takeovers} with the claim in hand), {messages} messages, \
                 {bytes} bytes, {compared} blocks compared, {violations} violations (seed {seed})"
            );
        }
    }
}

/// What is known of a child that has ended.
struct Ended {
    id: u32,
    committed: u32,
    attempted: u32,
}

fn storm(options: &Options, queue: &Queue, name: &str) -> Verdict {
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let wall = Wall::new();
    let reader = queue.reader().expect("the first reader");
    let (is_over, popped) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut verdict = Verdict::default();
    std::thread::scope(|scope| {
        let reference = scope.spawn(|| read_everything(reader, &wall, &is_over, &popped, end));
        let ended = kill_and_replace(options, queue, name, &wall, end, &mut verdict);
        is_over.store(true, Ordering::SeqCst);
        let expected = reference.join().expect("the reference reader does not panic");
        verdict.messages = expected.messages;
        verdict.bytes = expected.bytes;
        for one in ended {
            let came = expected.of(one.id);
            if came != one.committed && came != one.attempted {
                wall.blame(&format!(
                    "of writer {} came {came} messages; {} were committed, {} begun",
                    one.id, one.committed, one.attempted
                ));
            }
        }
    });
    all_room_comes_back(queue, &wall);
    let stats = queue.stats();
    verdict.took = start.elapsed();
    (verdict.takeovers, verdict.reaped) = (stats.takeovers, stats.reaped);
    verdict.compared = wall.compared();
    verdict.violations = wall.violations();
    verdict
}

/// The parent's reader: sees everything, until the storm is over and the queue empty.
fn read_everything(
    mut reader: syncq::Reader,
    wall: &Wall,
    is_over: &AtomicBool,
    popped: &AtomicU64,
    end: Instant,
) -> Expected {
    let mut expected = Expected::default();
    let mut order = Order::new();
    let mut last = Instant::now();
    loop {
        let is_last_look = is_over.load(Ordering::SeqCst);
        match reader.pop(Wait::For(Duration::from_millis(200))) {
            Ok(Some(message)) => {
                last = Instant::now();
                popped.fetch_add(1, Ordering::Relaxed);
                match Seen::of(&message) {
                    Ok(seen) => {
                        if let Err(wrong) = expected.note(&seen) {
                            wall.blame(&wrong);
                        }
                        order.note(&seen, wall);
                    }
                    Err(wrong) => wall.blame(&wrong),
                }
            }
            Ok(None) if is_last_look => return expected,
            Ok(None) if last.elapsed() > Duration::from_secs(5) && Instant::now() < end => {
                wall.blame("nothing came for five seconds: somebody is stuck");
                last = Instant::now();
            }
            Ok(None) => {}
            Err(error) => {
                wall.blame(&format!("the reference reader: {error}"));
                return expected;
            }
        }
    }
}

struct Running {
    pid: Pid,
    id: u32,
    dies_at: Instant,
    is_killed: bool,
}

fn kill_and_replace(
    options: &Options,
    queue: &Queue,
    name: &str,
    wall: &Wall,
    end: Instant,
    verdict: &mut Verdict,
) -> Vec<Ended> {
    let mut dice = Dice::new(options.seed);
    let mut running: HashMap<usize, Running> = HashMap::new();
    let mut ended = Vec::new();
    let mut next_id = 0;
    while Instant::now() < end || !running.is_empty() {
        for desk in 0..options.children {
            if let Some(child) = running.get_mut(&desk) {
                if !child.is_killed && Instant::now() >= child.dies_at {
                    let _ = kill(child.pid, Signal::SIGKILL);
                    child.is_killed = true;
                    verdict.kills += 1;
                    // Half of them stay unreaped for a while.
                    if dice.roll(2) == 0 {
                        continue;
                    }
                }
                let flag = Some(WaitPidFlag::WNOHANG).filter(|_| !child.is_killed || dice.roll(4) != 0);
                match waitpid(child.pid, flag) {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(WaitStatus::Signaled(..)) if child.is_killed => {}
                    Ok(WaitStatus::Exited(_, 0)) => verdict.ended += 1,
                    other => wall.blame(&format!("child {} ended by itself: {other:?}", child.id)),
                }
                let (committed, attempted) = wall.desk(desk).read();
                ended.push(Ended {
                    id: child.id,
                    committed,
                    attempted,
                });
                running.remove(&desk);
            } else if Instant::now() < end {
                wall.desk(desk).clear();
                // Mostly short lives, some of a quarter of a second.
                let most = 1 << (8 + dice.roll(11));
                let lives_for = Duration::from_micros(500 + dice.roll(most));
                let seed = options.seed ^ (u64::from(next_id) << 32);
                let pid = start_child(queue, name, wall, wall.desk(desk), next_id, seed);
                running.insert(
                    desk,
                    Running {
                        pid,
                        id: next_id,
                        dies_at: Instant::now() + lives_for,
                        is_killed: false,
                    },
                );
                next_id += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    ended
}

fn start_child(queue: &Queue, name: &str, wall: &Wall, desk: &Desk, id: u32, seed: u64) -> Pid {
    // SAFETY: the child runs only `child::live` and `_exit`s; glibc's own fork handlers keep the allocator usable.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: plain system calls. No child outlives this process.
            unsafe {
                nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL);
                nix::libc::alarm(60);
            }
            let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                child::live(queue, name, wall, desk, id, Dice::new(seed))
            }));
            let code = match lived {
                Ok(Ok(())) => 0,
                Ok(Err(wrong)) => {
                    wall.blame(&format!("child {id}: {wrong}"));
                    0
                }
                Err(_) => 101,
            };
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(code) }
        }
    }
}

/// When all are dead and everything is read, the whole ring can be written.
fn all_room_comes_back(queue: &Queue, wall: &Wall) {
    let mut writer = queue.writer("last").expect("a slot");
    let mut reader = queue.reader().expect("a slot");
    // The small one puts every dead reader behind, so that the large one finds it in its way.
    for len in [8, queue.max_body(4, 0) as usize] {
        let body = vec![7; len];
        match writer.append("", &body, Wait::For(Duration::from_secs(20))) {
            Ok(_) => match reader.pop(Wait::For(Duration::from_secs(20))) {
                Ok(Some(message)) if message.body() == body => {}
                other => wall.blame(&format!(
                    "the last messages: {:?}",
                    other.map(|m| m.map(|m| m.body().len()))
                )),
            },
            Err(error) => wall.blame(&format!("no room in the end: {error}")),
        }
    }
    if queue.free() != queue.capacity() - 64 {
        wall.blame(&format!("{} bytes free in the end", queue.free()));
    }
    queue.reap_all();
    let left: Vec<String> = queue.members().into_iter().map(|m| m.name).collect();
    if left.len() != 2 {
        wall.blame(&format!("members left in the end: {left:?}"));
    }
}
