//! ipc-channel: messages over sockets, to one receiver.

use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, bytes_channel};
use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::sync::Mutex;

pub struct IpcChannel;

impl Subject for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn settings(&self) -> &'static str {
        "bytes_channel (nothing is serialised), ends inherited by fork; try_recv and polling for spinning round trips, else recv"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.batch > 1 {
            return Some("no batches");
        }
        (shape.readers > 1).then_some("one receiver")
    }

    fn open(&self, shape: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let way = || -> std::io::Result<_> {
            let (sender, receiver) = bytes_channel()?;
            Ok((sender, Mutex::new(Some(receiver))))
        };
        Ok(Box::new(Channels {
            ways: [way()?, way()?],
            polls: shape.is_round_trip && shape.waiting == Waiting::Spin,
        }))
    }
}

struct Channels {
    ways: [(IpcBytesSender, Mutex<Option<IpcBytesReceiver>>); 2],
    polls: bool,
}

struct Out(IpcBytesSender);

struct In {
    receiver: IpcBytesReceiver,
    polls: bool,
}

impl Link for Channels {
    type Sender = Out;
    type Receiver = In;

    fn sender(&self, way: usize) -> Out {
        Out(self.ways[way].0.clone())
    }

    fn receiver(&self, way: usize) -> In {
        let receiver = self.ways[way].1.lock().expect("a lock").take();
        In {
            receiver: receiver.expect("one receiver in each process"),
            polls: self.polls,
        }
    }
}

impl Sender for Out {
    fn send(&mut self, body: &[u8]) {
        self.0.send(body).expect("send");
    }
}

impl Receiver for In {
    fn receive(&mut self) {
        if !self.polls {
            black_box(self.receiver.recv().expect("recv"));
            return;
        }
        loop {
            match self.receiver.try_recv() {
                Ok(body) => {
                    black_box(body);
                    return;
                }
                Err(TryRecvError::Empty) => spin_loop(),
                Err(error) => panic!("try_recv: {error}"),
            }
        }
    }
}
