//! What a peer has to offer so that it can be measured: one file with one [`Subject`] in `subjects/`, and a line in its list.
//!
//! The loops around `send` and `receive` are default methods, so they are compiled for each subject with its calls inlined; only
//! a whole loop is reached through a `dyn`.

use crate::clock;
use std::error::Error;
use std::time::Duration;

/// What is asked of a subject.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Bytes of a body.
    pub len: usize,
    pub waiting: Waiting,
    pub writers: usize,
    pub readers: usize,
    /// Bytes of room, where the subject has any choice.
    pub ring: usize,
    /// Messages that are handed over together.
    pub batch: usize,
    /// Whether messages also go back, on a second way.
    pub is_round_trip: bool,
    /// Whether each message is made by its writer, and gone over by its reader, word by word: in the ring, or where it is copied from
    /// and to. (Else the same bytes are sent over and over, and who copies them out does not look at them.)
    pub is_made: bool,
}

impl Shape {
    /// How many messages the room is for.
    pub fn depth(&self) -> usize {
        (self.ring / self.len.max(1)).max(2)
    }
}

/// How the ends wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Polling, each end on a processor of its own.
    Spin,
    /// Asleep in the kernel, from the start.
    Sleep,
    /// As a user gets it who asks for nothing: for more parties than processors.
    Usual,
}

/// Where the ends live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Processes,
    Threads,
}

/// One thing to measure.
pub trait Subject: Sync {
    /// As in the tables.
    fn name(&self) -> &'static str;

    /// The settings it is measured with, for the reader of the tables.
    fn settings(&self) -> &'static str;

    fn place(&self) -> Place {
        Place::Processes
    }

    /// Why this shape is beyond it; `None` if it is not.
    fn cannot(&self, shape: &Shape) -> Option<&'static str>;

    /// Makes what must be there before the ends are forked. `name` is unique, for whatever needs one; what stays behind under
    /// that name in `/dev/shm` or in `folder` is removed afterwards.
    fn open(&self, shape: &Shape, name: &str, folder: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>>;
}

/// What the two ends have in common. Way 0 leads from the writers to the readers, way 1 back.
pub trait Link: Sync {
    type Sender: Sender + 'static;
    type Receiver: Receiver + 'static;

    /// Called in the process or thread that will send.
    fn sender(&self, way: usize) -> Self::Sender;
    /// Called in the process or thread that will receive.
    fn receiver(&self, way: usize) -> Self::Receiver;
}

/// A [`Link`] whose types are forgotten.
pub trait AnyLink: Sync {
    fn any_sender(&self) -> Box<dyn Sender>;
    fn any_receiver(&self) -> Box<dyn Receiver>;
    /// An end of a round trip: sends on `out`, receives on the other way.
    fn any_both(&self, out: usize) -> Box<dyn Both>;
    /// Both ends of one way, for one process that plays alone.
    fn any_alone(&self) -> Box<dyn Both>;
}

impl<L: Link> AnyLink for L {
    fn any_sender(&self) -> Box<dyn Sender> {
        Box::new(self.sender(0))
    }

    fn any_receiver(&self) -> Box<dyn Receiver> {
        Box::new(self.receiver(0))
    }

    fn any_both(&self, out: usize) -> Box<dyn Both> {
        Box::new((self.sender(out), self.receiver(1 - out)))
    }

    fn any_alone(&self) -> Box<dyn Both> {
        // The reader first: it hears what is appended from then on.
        let receiver = self.receiver(0);
        Box::new((self.sender(0), receiver))
    }
}

pub trait Sender {
    /// Hands over one message, waiting for room if need be.
    fn send(&mut self, body: &[u8]);

    /// Hands over one message if there is room now.
    fn try_send(&mut self, _body: &[u8]) -> bool {
        unimplemented!("for the subjects of the nearly full ring")
    }

    /// Called when every end exists, before anything is sent.
    fn settle(&mut self, _readers: usize) {}

    /// `count` messages; a multiple of the batch.
    fn send_many(&mut self, body: &[u8], count: u64) {
        for _ in 0..count {
            self.send(body);
        }
    }
}

pub trait Receiver {
    /// Takes one message, waiting for it if need be.
    fn receive(&mut self);

    fn receive_many(&mut self, count: u64) {
        for _ in 0..count {
            self.receive();
        }
    }

    /// As [`receive_many`](Receiver::receive_many), with `work` after each message.
    fn receive_slowly(&mut self, count: u64, work: Duration) {
        let work = work.as_nanos() as u64;
        for _ in 0..count {
            self.receive();
            let until = clock::now() + work;
            while clock::now() < until {
                std::hint::spin_loop();
            }
        }
    }
}

/// Both halves, for round trips.
pub trait Both {
    fn settle(&mut self);
    /// Round trips, begun here; the time of each `chunk` of them, in nanoseconds, goes to `times`.
    fn ping(&mut self, body: &[u8], chunks: u64, chunk: u64, times: &mut Vec<u32>);
    /// As many round trips, answered here.
    fn pong(&mut self, body: &[u8], trips: u64);
    /// Fills the way to the last message that fits, if `is_full`; then appends and takes `count` times, alone.
    fn alternate(&mut self, body: &[u8], is_full: bool, count: u64) -> f64;
}

impl<S: Sender, R: Receiver> Both for (S, R) {
    fn settle(&mut self) {
        self.0.settle(1);
    }

    fn ping(&mut self, body: &[u8], chunks: u64, chunk: u64, times: &mut Vec<u32>) {
        let mut before = clock::now();
        for _ in 0..chunks {
            for _ in 0..chunk {
                self.0.send(body);
                self.1.receive();
            }
            let now = clock::now();
            times.push((now - before).min(u32::MAX.into()) as u32);
            before = now;
        }
    }

    fn pong(&mut self, body: &[u8], trips: u64) {
        for _ in 0..trips {
            self.1.receive();
            self.0.send(body);
        }
    }

    fn alternate(&mut self, body: &[u8], is_full: bool, count: u64) -> f64 {
        while is_full && self.0.try_send(body) {}
        if is_full {
            self.1.receive();
        }
        let start = clock::now();
        for _ in 0..count {
            self.0.send(body);
            self.1.receive();
        }
        (clock::now() - start) as f64
    }
}
