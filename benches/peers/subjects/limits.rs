//! What bounds everybody: a cache line that goes to and fro between two processors, and a futex that wakes and sleeps.

use crate::board::{Board, Word};
use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use rustix::thread::futex;
use std::error::Error;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};

const ONLY_TRIPS: &str = "a round trip of nothing";

fn cannot(shape: &Shape, waiting: Waiting) -> Option<&'static str> {
    (!shape.is_round_trip || shape.waiting != waiting || shape.len > 64).then_some(ONLY_TRIPS)
}

/// One word that both sides write in turn.
pub struct OneLine;

impl Subject for OneLine {
    fn name(&self) -> &'static str {
        "bare cache line"
    }

    fn settings(&self) -> &'static str {
        "one 64-bit word, written by both sides in turn; nothing else is transferred"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        cannot(shape, Waiting::Spin)
    }

    fn open(&self, _: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let lines = &Board::new().lines;
        Ok(Box::new(Lines([&lines[0], &lines[0]])))
    }
}

/// A word for each direction.
pub struct TwoLines;

impl Subject for TwoLines {
    fn name(&self) -> &'static str {
        "two cache lines"
    }

    fn settings(&self) -> &'static str {
        "a 64-bit word for each direction, as two queues need at least"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        cannot(shape, Waiting::Spin)
    }

    fn open(&self, _: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let lines = &Board::new().lines;
        Ok(Box::new(Lines([&lines[0], &lines[1]])))
    }
}

/// Messages are odd numbers on way 0, even ones on way 1.
struct Lines([&'static Word; 2]);

struct Line {
    word: &'static Word,
    next: u64,
}

impl Link for Lines {
    type Sender = Line;
    type Receiver = Line;

    fn sender(&self, way: usize) -> Line {
        Line {
            word: self.0[way],
            next: way as u64 + 1,
        }
    }

    fn receiver(&self, way: usize) -> Line {
        self.sender(way)
    }
}

impl Sender for Line {
    #[inline]
    fn send(&mut self, _: &[u8]) {
        self.word.0.store(self.next, Ordering::Release);
        self.next += 2;
    }
}

impl Receiver for Line {
    #[inline]
    fn receive(&mut self) {
        while self.word.0.load(Ordering::Acquire) != self.next {
            spin_loop();
        }
        self.next += 2;
    }
}

/// A word for each direction to sleep on.
pub struct Futex;

impl Subject for Futex {
    fn name(&self) -> &'static str {
        "bare futex"
    }

    fn settings(&self) -> &'static str {
        "a 32-bit word for each direction; store and wake, sleep unless it is there already; no spinning"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        cannot(shape, Waiting::Sleep)
    }

    fn open(&self, _: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let lines = &Board::new().lines;
        // SAFETY: an aligned half of a word that is never unmapped; only ever used as this half.
        let halves = [0, 1].map(|way: usize| unsafe { AtomicU32::from_ptr(lines[way].0.as_ptr().cast()) });
        Ok(Box::new(Bells(halves)))
    }
}

struct Bells([&'static AtomicU32; 2]);

struct Bell {
    word: &'static AtomicU32,
    next: u32,
}

impl Link for Bells {
    type Sender = Bell;
    type Receiver = Bell;

    fn sender(&self, way: usize) -> Bell {
        Bell {
            word: self.0[way],
            next: 1,
        }
    }

    fn receiver(&self, way: usize) -> Bell {
        self.sender(way)
    }
}

impl Sender for Bell {
    fn send(&mut self, _: &[u8]) {
        self.word.store(self.next, Ordering::Release);
        self.next = self.next.wrapping_add(1);
        futex::wake(self.word, futex::Flags::empty(), 1).expect("futex");
    }
}

impl Receiver for Bell {
    fn receive(&mut self) {
        while self.word.load(Ordering::Acquire) != self.next {
            // An error is a change that came first, or a signal: look again.
            let _ = futex::wait(self.word, futex::Flags::empty(), self.next.wrapping_sub(1), None);
        }
        self.next = self.next.wrapping_add(1);
    }
}
