//! crossbeam-channel, bounded: many writers in one process.

use crate::subject::{AnyLink, Link, Place, Receiver, Sender, Shape, Subject, Waiting};
use crossbeam_channel as channel;
use std::error::Error;
use std::hint::{black_box, spin_loop};

pub struct Crossbeam;

impl Subject for Crossbeam {
    fn name(&self) -> &'static str {
        "crossbeam (threads)"
    }

    fn settings(&self) -> &'static str {
        "between threads; bounded channel of [u8; N] for 8 and 64 bytes, else of Box<[u8]> (copied in, handed over, not copied out); try_recv and try_send when polling"
    }

    fn place(&self) -> Place {
        Place::Threads
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.batch > 1 {
            return Some("no batches");
        }
        (shape.readers > 1).then_some("each message to one receiver")
    }

    fn open(&self, shape: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        Ok(match shape.len {
            8 => Box::new(Channels::<[u8; 8]>::new(shape)),
            64 => Box::new(Channels::<[u8; 64]>::new(shape)),
            _ => Box::new(Channels::<Box<[u8]>>::new(shape)),
        })
    }
}

/// What a body becomes on its way.
trait Load: Send + 'static {
    fn of(body: &[u8]) -> Self;
}

impl<const N: usize> Load for [u8; N] {
    #[inline]
    fn of(body: &[u8]) -> Self {
        body.try_into().expect("a body of this length")
    }
}

impl Load for Box<[u8]> {
    fn of(body: &[u8]) -> Self {
        body.into()
    }
}

struct Channels<T> {
    ways: [(channel::Sender<T>, channel::Receiver<T>); 2],
    spins: bool,
}

impl<T> Channels<T> {
    fn new(shape: &Shape) -> Self {
        let way = || channel::bounded(shape.depth());
        Channels {
            ways: [way(), way()],
            spins: shape.waiting == Waiting::Spin,
        }
    }
}

struct End<C> {
    channel: C,
    spins: bool,
}

impl<T: Load> Link for Channels<T> {
    type Sender = End<channel::Sender<T>>;
    type Receiver = End<channel::Receiver<T>>;

    fn sender(&self, way: usize) -> Self::Sender {
        End {
            channel: self.ways[way].0.clone(),
            spins: self.spins,
        }
    }

    fn receiver(&self, way: usize) -> Self::Receiver {
        End {
            channel: self.ways[way].1.clone(),
            spins: self.spins,
        }
    }
}

impl<T: Load> Sender for End<channel::Sender<T>> {
    #[inline]
    fn send(&mut self, body: &[u8]) {
        let mut load = T::of(body);
        if !self.spins {
            return self.channel.send(load).expect("a receiver");
        }
        while let Err(channel::TrySendError::Full(back)) = self.channel.try_send(load) {
            load = back;
            spin_loop();
        }
    }

    fn try_send(&mut self, body: &[u8]) -> bool {
        self.channel.try_send(T::of(body)).is_ok()
    }
}

impl<T: Load> Receiver for End<channel::Receiver<T>> {
    #[inline]
    fn receive(&mut self) {
        if !self.spins {
            black_box(&self.channel.recv().expect("a sender"));
            return;
        }
        loop {
            if let Ok(load) = self.channel.try_recv() {
                black_box(&load);
                return;
            }
            spin_loop();
        }
    }
}
