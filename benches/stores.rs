//! What bare stores cost when another processor has read their lines: loops without any queue, which show what the order of
//! the stores in `ring::append` is for. `cargo bench --bench stores` takes ten seconds.
//!
//! Everything takes turns, with a bare cache line between the two processors first in each turn: on virtual machines the way between them can
//! be three times as long a minute later, so the turns are told apart by that.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WORDS_A_LINE: usize = 8;
/// Half a mebibyte: less than a second-level cache.
const LINES: usize = 8192;
const TRIPS: u64 = 5_000;
const LAST: Duration = Duration::from_secs(10);
/// A round trip of a bare line that takes longer than this is one between processors that are far from each other, in nanoseconds.
const FAR: f64 = 150.0;

/// The lines that both use, and a few that only the writer stores to.
struct Memory {
    ring: Vec<Line>,
    own: Vec<Line>,
    turn: Line,
    step: Line,
    bare: [BareRing; 2],
}

#[repr(align(64))]
struct Line([AtomicU64; WORDS_A_LINE]);

impl Line {
    fn new() -> Self {
        Line([const { AtomicU64::new(0) }; WORDS_A_LINE])
    }

    fn many(count: usize) -> Vec<Self> {
        (0..count).map(|_| Line::new()).collect()
    }

    fn put(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }
}

/// One message of two lines, its head last, and the 0 where the next head will be.
fn forwards(first: &[Line], value: u64) {
    (1..8).for_each(|word| first[0].put(word, value));
    (0..4).for_each(|word| first[1].put(word, value));
    first[2].put(0, 0);
    first[0].0[0].store(value, Ordering::Release);
}

/// The same from the end to the beginning.
fn backwards(first: &[Line], value: u64) {
    first[2].put(0, 0);
    (0..4).rev().for_each(|word| first[1].put(word, value));
    (1..8).rev().for_each(|word| first[0].put(word, value));
    first[0].0[0].store(value, Ordering::Release);
}

type Message = fn(&[Line], u64);

/// What is written one way: how each message is, how many own lines are stored to before and behind each, and how many of the
/// lines to come are stored to at a time, before they are needed.
const STREAMS: [(&str, Message, usize, usize); 9] = [
    ("forwards, one own line", forwards, 1, 0),
    ("forwards, two own lines", forwards, 2, 0),
    ("forwards, four own lines", forwards, 4, 0),
    ("backwards, one own line", backwards, 1, 0),
    ("backwards, two own lines", backwards, 2, 0),
    ("backwards, four own lines", backwards, 4, 0),
    ("backwards, two own lines, 2 lines ahead", backwards, 2, 2),
    ("backwards, two own lines, 8 lines ahead", backwards, 2, 8),
    ("backwards, two own lines, 32 lines ahead", backwards, 2, 32),
];

/// What goes back and forth: whether the head alone, and whether lines are stored to before they are needed.
const TRIPS_OF: [(&str, bool, bool); 3] = [
    ("round trip of a head", true, false),
    ("round trip of a message", false, false),
    ("round trip of a message, lines stored to before", false, true),
];

fn write_all(memory: &Memory, message: Message, own: usize, ahead: usize, value: u64) -> f64 {
    let start = Instant::now();
    let mut messages = 0;
    for at in (0..LINES - 2).step_by(2) {
        if ahead > 0 && at % ahead == 0 {
            let to_come = at + 1..(at + 1 + ahead).min(LINES);
            memory.ring[to_come].iter().for_each(|line| line.put(3, 0));
        }
        memory.own[..own].iter().for_each(|line| line.put(0, value));
        message(&memory.ring[at..], value);
        memory.own[..own].iter().rev().for_each(|line| line.put(1, value));
        messages += 1;
    }
    start.elapsed().as_nanos() as f64 / f64::from(messages)
}

fn read_all(memory: &Memory) {
    memory.ring.iter().for_each(|line| {
        black_box(line.0[0].load(Ordering::Acquire));
    });
}

/// One side of a round trip: both write on, line after line, into halves of their own.
struct Side<'m> {
    out: &'m [Line],
    back: &'m [Line],
    at: usize,
    count: u64,
}

impl Side<'_> {
    fn send(&self, is_head: bool, is_touching: bool) {
        let out = &self.out[self.at..];
        match is_head {
            true => out[0].0[0].store(self.count, Ordering::Release),
            false => backwards(out, self.count),
        }
        if is_touching {
            out[3].put(0, 0);
            out[4].put(1, 0);
        }
    }

    fn receive(&self, is_head: bool) {
        let back = &self.back[self.at..];
        while back[0].0[0].load(Ordering::Acquire) != self.count {
            spin_loop();
        }
        if !is_head {
            black_box(back[1].0[3].load(Ordering::Relaxed));
        }
    }

    fn next(&mut self) {
        self.count += 1;
        self.at = (self.at + 2) % (LINES / 2 - 8);
    }
}

/// What is least for messages that go through a ring of the default capacity while both sides are busy: lines, and where the reader is.
struct BareRing {
    lines: Vec<Line>,
    cursor: Line,
}

const BARE_LINES: usize = (4 << 20) / 64;
/// How many messages of a bare ring are timed at a time.
const BARE_MESSAGES: u64 = 200_000;
/// How often a reader that has caught up pauses.
const PAUSES: usize = 512;
const BARE: [&str; 2] = [
    "both sides busy, one line a message",
    "both sides busy, two lines a message",
];

impl BareRing {
    fn new() -> Self {
        BareRing {
            lines: Line::many(BARE_LINES),
            cursor: Line::new(),
        }
    }

    fn line(&self, number: usize) -> &Line {
        &self.lines[number % BARE_LINES]
    }

    /// Writes messages of `EACH` lines: eight lines ahead at a time, each message from its end to its beginning.
    fn write<const EACH: usize>(&self, own: &Line, from: u64) {
        let mut read = 0;
        for number in from..from + BARE_MESSAGES {
            let at = number as usize * EACH;
            while at + EACH + 16 > read + BARE_LINES {
                read = self.cursor.0[0].load(Ordering::Acquire) as usize * EACH;
            }
            own.put(0, 1);
            if at.is_multiple_of(8) {
                (1..=8).for_each(|ahead| self.line(at + ahead).put(3, 0));
            }
            self.line(at + EACH).put(0, 0);
            if EACH > 1 {
                (0..4).rev().for_each(|word| self.line(at + 1).put(word, number));
            }
            (1..8).rev().for_each(|word| self.line(at).put(word, number));
            self.line(at).0[0].store(number + 1, Ordering::Release);
            own.0[0].store(0, Ordering::Release);
        }
    }

    fn read<const EACH: usize>(&self, from: u64) {
        let mut caught_up = from;
        for number in from..from + BARE_MESSAGES {
            let first = self.line(number as usize * EACH);
            if first.0[0].load(Ordering::Acquire) != number + 1 {
                if number - caught_up > 4 {
                    (0..PAUSES).for_each(|_| spin_loop());
                }
                caught_up = number;
                wait(first, number + 1);
            }
            let words = first.0.each_ref().map(|word| word.load(Ordering::Relaxed));
            black_box(&words);
            if EACH > 1 {
                let second = self.line(number as usize * EACH + 1);
                let words: [u64; 4] = std::array::from_fn(|word| second.0[word].load(Ordering::Relaxed));
                black_box(&words);
            }
            self.cursor.0[0].store(number + 1, Ordering::Release);
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a processor number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("two processors");
}

fn wait(line: &Line, value: u64) {
    while line.0[0].load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// The other processor: does its part of each step, for as long as there are steps.
fn other(memory: &Memory) {
    pin(1);
    let (there, back) = memory.ring.split_at(LINES / 2);
    let mut side = Side {
        out: back,
        back: there,
        at: 0,
        count: 1,
    };
    let (mut step, mut turns) = (0, 0);
    let mut next = || {
        step += 1;
        while memory.step.0[0].load(Ordering::Acquire) < step {
            spin_loop();
        }
        memory.step.0[0].load(Ordering::Acquire) != u64::MAX
    };
    loop {
        if !next() {
            return;
        }
        for trip in 0..TRIPS {
            wait(&memory.turn, 2 * trip + 1);
            memory.turn.put(0, 2 * trip + 2);
        }
        for (_, is_head, is_touching) in TRIPS_OF {
            next();
            for _ in 0..TRIPS {
                side.receive(is_head);
                side.send(is_head, is_touching);
                side.next();
            }
        }
        for _ in STREAMS {
            next();
            read_all(memory);
            memory.step.0[1].fetch_add(1, Ordering::Release);
        }
        for (ring, of_two) in memory.bare.iter().zip([false, true]) {
            next();
            match of_two {
                false => ring.read::<1>(turns * BARE_MESSAGES),
                true => ring.read::<2>(turns * BARE_MESSAGES),
            }
            memory.step.0[1].fetch_add(1, Ordering::Release);
        }
        turns += 1;
    }
}

/// One turn of everything, in nanoseconds: the bare line, the round trips, the streams.
fn turn(memory: &Memory, side: &mut Side<'_>, step: &mut u64) -> Vec<f64> {
    let go = |step: &mut u64| {
        *step += 1;
        memory.step.0[0].store(*step, Ordering::Release);
    };
    let wait_for_other = |read: u64| {
        while memory.step.0[1].load(Ordering::Acquire) == read {
            spin_loop();
        }
    };
    let per_trip = |start: Instant| start.elapsed().as_nanos() as f64 / TRIPS as f64;
    let mut took = Vec::new();
    memory.turn.put(0, 0);
    go(step);
    let start = Instant::now();
    for trip in 0..TRIPS {
        memory.turn.put(0, 2 * trip + 1);
        wait(&memory.turn, 2 * trip + 2);
    }
    took.push(per_trip(start));
    for (_, is_head, is_touching) in TRIPS_OF {
        go(step);
        let start = Instant::now();
        for _ in 0..TRIPS {
            side.send(is_head, is_touching);
            side.receive(is_head);
            side.next();
        }
        took.push(per_trip(start));
    }
    for (_, message, own, ahead) in STREAMS {
        // A head that no side waits for.
        took.push(write_all(memory, message, own, ahead, u64::MAX));
        let read = memory.step.0[1].load(Ordering::Acquire);
        go(step);
        wait_for_other(read);
    }
    for (ring, of_two) in memory.bare.iter().zip([false, true]) {
        let (read, from) = (
            memory.step.0[1].load(Ordering::Acquire),
            ring.cursor.0[0].load(Ordering::Acquire),
        );
        go(step);
        let start = Instant::now();
        match of_two {
            false => ring.write::<1>(&memory.own[0], from),
            true => ring.write::<2>(&memory.own[0], from),
        }
        wait_for_other(read);
        took.push(start.elapsed().as_nanos() as f64 / BARE_MESSAGES as f64);
    }
    took
}

fn main() {
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if std::thread::available_parallelism().is_ok_and(|n| n.get() < 2) {
        println!("skipped: there is one processor");
        return;
    }
    let memory = Memory {
        ring: Line::many(LINES),
        own: Line::many(4),
        turn: Line::new(),
        step: Line::new(),
        bare: [BareRing::new(), BareRing::new()],
    };
    let mut turns: [Vec<Vec<f64>>; 2] = Default::default();
    std::thread::scope(|scope| {
        scope.spawn(|| other(&memory));
        pin(0);
        let (there, back) = memory.ring.split_at(LINES / 2);
        let mut side = Side {
            out: there,
            back,
            at: 0,
            count: 1,
        };
        let (began, mut step) = (Instant::now(), 0);
        while began.elapsed() < LAST {
            let took = turn(&memory, &mut side, &mut step);
            turns[usize::from(took[0] > FAR)].push(took);
        }
        memory.step.0[0].store(u64::MAX, Ordering::Release);
    });
    let names = TRIPS_OF
        .map(|(name, ..)| name)
        .into_iter()
        .chain(STREAMS.map(|(name, ..)| name))
        .chain(BARE);
    let names: Vec<&str> = ["round trip of a bare line"].into_iter().chain(names).collect();
    for (way, turns) in ["near", "far"].into_iter().zip(&turns) {
        if turns.is_empty() {
            println!("the processors were never {way}");
            continue;
        }
        println!(
            "the processors {way}, {} turns, median and middle eight tenths, ns:",
            turns.len()
        );
        for (index, name) in names.iter().enumerate() {
            let mut values: Vec<f64> = turns.iter().map(|took| took[index]).collect();
            values.sort_by(f64::total_cmp);
            let at = |tenth: usize| values[(values.len() - 1) * tenth / 10];
            println!("  {name:50} {:7.1}  ({:.1} to {:.1})", at(5), at(1), at(9));
        }
    }
}
