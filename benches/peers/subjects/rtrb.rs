//! rtrb: a ring for one writer and one reader in one process; the bar that crossing a process should not have to lower.

use crate::subject::{AnyLink, Link, Place, Receiver, Sender, Shape, Subject, Waiting};
use rtrb::{Consumer, Producer, RingBuffer};
use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::sync::Mutex;

pub struct Rtrb;

impl Subject for Rtrb {
    fn name(&self) -> &'static str {
        "rtrb (threads)"
    }

    fn settings(&self) -> &'static str {
        "between threads; ring of [u8; N] for 8 and 64 bytes, else of bytes by whole slices; polling; batches by whole slices"
    }

    fn place(&self) -> Place {
        Place::Threads
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.waiting == Waiting::Sleep {
            return Some("has no way to wait");
        }
        (shape.writers > 1 || shape.readers > 1).then_some("one writer, one reader")
    }

    fn open(&self, shape: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        Ok(match shape.len {
            8 if shape.batch == 1 => Box::new(Rings::<[u8; 8]>::new(shape.depth(), shape)),
            64 if shape.batch == 1 => Box::new(Rings::<[u8; 64]>::new(shape.depth(), shape)),
            _ => Box::new(Rings::<u8>::new(shape.ring, shape)),
        })
    }
}

type Ends<T> = (Option<Producer<T>>, Option<Consumer<T>>);

struct Rings<T> {
    ways: [Mutex<Ends<T>>; 2],
    len: usize,
    batch: usize,
}

impl<T> Rings<T> {
    fn new(capacity: usize, shape: &Shape) -> Self {
        let way = || {
            let (producer, consumer) = RingBuffer::new(capacity);
            Mutex::new((Some(producer), Some(consumer)))
        };
        Rings {
            ways: [way(), way()],
            len: shape.len,
            batch: shape.batch,
        }
    }

    fn producer(&self, way: usize) -> Producer<T> {
        self.ways[way].lock().expect("a lock").0.take().expect("one sender")
    }

    fn consumer(&self, way: usize) -> Consumer<T> {
        self.ways[way].lock().expect("a lock").1.take().expect("one receiver")
    }
}

struct Values<E>(E);

impl<const N: usize> Link for Rings<[u8; N]> {
    type Sender = Values<Producer<[u8; N]>>;
    type Receiver = Values<Consumer<[u8; N]>>;

    fn sender(&self, way: usize) -> Self::Sender {
        Values(self.producer(way))
    }

    fn receiver(&self, way: usize) -> Self::Receiver {
        Values(self.consumer(way))
    }
}

impl<const N: usize> Sender for Values<Producer<[u8; N]>> {
    #[inline]
    fn send(&mut self, body: &[u8]) {
        let value: [u8; N] = body.try_into().expect("a body of this length");
        while self.0.push(value).is_err() {
            spin_loop();
        }
    }

    fn try_send(&mut self, body: &[u8]) -> bool {
        self.0.push(body.try_into().expect("a body of this length")).is_ok()
    }
}

impl<const N: usize> Receiver for Values<Consumer<[u8; N]>> {
    #[inline]
    fn receive(&mut self) {
        loop {
            if let Ok(value) = self.0.pop() {
                black_box(&value);
                return;
            }
            spin_loop();
        }
    }
}

struct BytesIn {
    producer: Producer<u8>,
    batch: usize,
}

struct BytesOut {
    consumer: Consumer<u8>,
    buffer: Vec<u8>,
}

impl Link for Rings<u8> {
    type Sender = BytesIn;
    type Receiver = BytesOut;

    fn sender(&self, way: usize) -> BytesIn {
        BytesIn {
            producer: self.producer(way),
            batch: self.batch,
        }
    }

    fn receiver(&self, way: usize) -> BytesOut {
        BytesOut {
            consumer: self.consumer(way),
            buffer: vec![0; self.len],
        }
    }
}

impl Sender for BytesIn {
    #[inline]
    fn send(&mut self, body: &[u8]) {
        while self.producer.push_entire_slice(body).is_err() {
            spin_loop();
        }
    }

    fn send_many(&mut self, body: &[u8], count: u64) {
        let all = body.repeat(self.batch);
        for _ in 0..count / self.batch as u64 {
            self.send(&all);
        }
    }
}

impl Receiver for BytesOut {
    #[inline]
    fn receive(&mut self) {
        while self.consumer.pop_entire_slice(&mut self.buffer).is_err() {
            spin_loop();
        }
        black_box(&self.buffer);
    }
}
