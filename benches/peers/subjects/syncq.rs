//! Ours: an ordinary queue, one for a single writer, and one that is written and read in place.

use super::{make, read_all};
use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use std::error::Error;
use std::hint::black_box;
use std::time::Duration;
use syncq::{Buffer, Queue, Reader, Wait, Writer};

pub struct Syncq {
    name: &'static str,
    settings: &'static str,
    is_single: bool,
    is_in_place: bool,
    /// In place, and what is made is filled with zeros first.
    is_filled: bool,
}

pub const ORDINARY: Syncq = Syncq {
    name: "syncq",
    settings: "ordinary queue, any number of writers allowed, empty names; append and pop_into, append_all for batches",
    is_single: false,
    is_in_place: false,
    is_filled: false,
};

pub const SINGLE_WRITER: Syncq = Syncq {
    name: "syncq single_writer",
    settings: "as syncq, with the option single_writer",
    is_single: true,
    is_in_place: false,
    is_filled: false,
};

pub const IN_PLACE: Syncq = Syncq {
    name: "syncq in place",
    settings: "ordinary queue; reserve, every byte written there, commit; peek, every byte read there (\"made and used\": made there, and not copied there)",
    is_single: false,
    is_in_place: true,
    is_filled: false,
};

pub const FILLED: Syncq = Syncq {
    name: "syncq in place, filled first",
    settings: "as syncq in place, and the body is filled with zeros before it is made: processors take lines that are stored to as a whole without fetching them",
    is_single: false,
    is_in_place: true,
    is_filled: true,
};

pub fn options(shape: &Shape) -> syncq::QueueOptions {
    let room = shape.ring.next_power_of_two().max(4096) as u64;
    let options = Queue::options().capacity(room).slots(96);
    match shape.waiting {
        Waiting::Spin => options.spin(Duration::from_secs(60)),
        Waiting::Sleep => options.spin(Duration::ZERO),
        Waiting::Usual => options,
    }
}

impl Subject for Syncq {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if self.is_single && shape.writers > 1 {
            return Some("one writer");
        }
        if self.is_filled && !shape.is_made {
            return Some("nothing is made");
        }
        (self.is_in_place && shape.batch > 1).then_some("batches are copied")
    }

    fn open(&self, shape: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let options = options(shape).single_writer(self.is_single);
        let ways = [options.anonymous()?, options.anonymous()?];
        let (batch, is_made) = (shape.batch, shape.is_made);
        Ok(match (self.is_in_place, is_made) {
            (true, _) => Box::new(InPlace {
                ways,
                is_made,
                is_filled: self.is_filled,
            }),
            (false, false) => Box::new(Copied { ways, batch }),
            (false, true) => Box::new(Made(ways, shape.len)),
        })
    }
}

struct Copied {
    ways: [Queue; 2],
    batch: usize,
}

struct CopyIn {
    writer: Writer,
    batch: usize,
}

struct CopyOut {
    reader: Reader,
    buffer: Buffer,
}

fn reader(queue: &Queue) -> Reader {
    queue.reader().expect("a slot")
}

fn writer(queue: &Queue) -> Writer {
    queue.writer("").expect("a slot")
}

impl Link for Copied {
    type Sender = CopyIn;
    type Receiver = CopyOut;

    fn sender(&self, way: usize) -> CopyIn {
        CopyIn {
            writer: writer(&self.ways[way]),
            batch: self.batch,
        }
    }

    fn receiver(&self, way: usize) -> CopyOut {
        CopyOut {
            reader: reader(&self.ways[way]),
            buffer: Buffer::new(),
        }
    }
}

impl Sender for CopyIn {
    #[inline]
    fn send(&mut self, body: &[u8]) {
        self.writer.append("", body, Wait::Forever).expect("room");
    }

    fn try_send(&mut self, body: &[u8]) -> bool {
        self.writer.append("", body, Wait::Never).is_ok()
    }

    fn send_many(&mut self, body: &[u8], count: u64) {
        if self.batch == 1 {
            for _ in 0..count {
                self.send(body);
            }
            return;
        }
        let all = vec![("", body); self.batch];
        for _ in 0..count / self.batch as u64 {
            self.writer
                .append_all(all.iter().copied(), Wait::Forever)
                .expect("room");
        }
    }
}

impl Receiver for CopyOut {
    #[inline]
    fn receive(&mut self) {
        let message = self.reader.pop_into(&mut self.buffer, Wait::Forever).expect("a queue");
        black_box(message.expect("waited for ever").body());
    }
}

/// Copied from where the writer has made it, and to where the reader goes over it.
struct Made([Queue; 2], usize);

struct MakeAndCopyIn {
    writer: Writer,
    body: Vec<u8>,
    number: u64,
}

struct CopyOutAndRead {
    reader: Reader,
    buffer: Buffer,
}

impl Link for Made {
    type Sender = MakeAndCopyIn;
    type Receiver = CopyOutAndRead;

    fn sender(&self, way: usize) -> MakeAndCopyIn {
        MakeAndCopyIn {
            writer: writer(&self.0[way]),
            body: vec![0; self.1],
            number: 0,
        }
    }

    fn receiver(&self, way: usize) -> CopyOutAndRead {
        CopyOutAndRead {
            reader: reader(&self.0[way]),
            buffer: Buffer::new(),
        }
    }
}

impl Sender for MakeAndCopyIn {
    #[inline]
    fn send(&mut self, _: &[u8]) {
        self.number += 1;
        make(&mut self.body, self.number);
        self.writer.append("", &self.body, Wait::Forever).expect("room");
    }
}

impl Receiver for CopyOutAndRead {
    #[inline]
    fn receive(&mut self) {
        let message = self.reader.pop_into(&mut self.buffer, Wait::Forever).expect("a queue");
        read_all(message.expect("waited for ever").body());
    }
}

struct InPlace {
    ways: [Queue; 2],
    is_made: bool,
    is_filled: bool,
}

struct Filler {
    writer: Writer,
    makes: bool,
    fills: bool,
    number: u64,
}

struct Looker(Reader);

impl Link for InPlace {
    type Sender = Filler;
    type Receiver = Looker;

    fn sender(&self, way: usize) -> Filler {
        Filler {
            writer: writer(&self.ways[way]),
            makes: self.is_made,
            fills: self.is_filled,
            number: 0,
        }
    }

    fn receiver(&self, way: usize) -> Looker {
        Looker(reader(&self.ways[way]))
    }
}

impl Sender for Filler {
    #[inline]
    fn send(&mut self, body: &[u8]) {
        let mut place = self.writer.reserve("", body.len(), Wait::Forever).expect("room");
        match self.makes {
            true => {
                // SAFETY: the other processes of this run keep to the protocol.
                let body = unsafe { place.body() };
                if self.fills {
                    body.fill(0);
                }
                self.number += 1;
                make(body, self.number);
            }
            false => place.write_at(0, body),
        }
        place.commit().expect("nobody evicts");
    }
}

impl Receiver for Looker {
    #[inline]
    fn receive(&mut self) {
        let guard = self.0.peek(Wait::Forever).expect("a queue").expect("waited for ever");
        // SAFETY: the other processes of this run keep to the protocol, and nobody evicts.
        read_all(unsafe { guard.body() });
    }
}
