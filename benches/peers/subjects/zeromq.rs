//! ZeroMQ over Unix sockets (`ipc://`), with its own threads for input and output.

use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use std::error::Error;
use std::hint::{black_box, spin_loop};

pub struct ZeroMq;

impl Subject for ZeroMq {
    fn name(&self) -> &'static str {
        "ZeroMQ"
    }

    fn settings(&self) -> &'static str {
        "4.3.4 as its crate brings it, ipc://; PAIR for round trips, PUSH/PULL, XPUB (which drops nothing)/SUB for several readers; one \
         I/O thread a process, not pinned; high-water mark of the ring's messages; DONTWAIT and polling for spinning round trips"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.batch > 1 {
            return Some("it batches inside");
        }
        (shape.readers > 1 && shape.writers > 1).then_some("several writers to several readers need a broker")
    }

    fn open(&self, shape: &Shape, _: &str, folder: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        Ok(Box::new(Sockets {
            ways: [0, 1].map(|way| format!("ipc://{folder}/zmq-{way}")),
            shape: shape.clone(),
        }))
    }
}

struct Sockets {
    ways: [String; 2],
    shape: Shape,
}

struct Out {
    socket: zmq::Socket,
    is_broadcast: bool,
    polls: bool,
}

struct In {
    socket: zmq::Socket,
    message: zmq::Message,
    polls: bool,
}

impl Sockets {
    fn socket(&self, out: bool) -> zmq::Socket {
        let kind = match (self.shape.is_round_trip, self.shape.readers > 1, out) {
            (true, _, _) => zmq::PAIR,
            (false, false, true) => zmq::PUSH,
            (false, false, false) => zmq::PULL,
            (false, true, true) => zmq::XPUB,
            (false, true, false) => zmq::SUB,
        };
        let socket = zmq::Context::new().socket(kind).expect("a socket");
        let depth = self.shape.depth() as i32;
        socket.set_sndhwm(depth).expect("an option");
        socket.set_rcvhwm(depth).expect("an option");
        // The other end may bind a moment later.
        socket.set_reconnect_ivl(1).expect("an option");
        socket
    }

    fn polls(&self) -> bool {
        self.shape.is_round_trip && self.shape.waiting == Waiting::Spin
    }
}

impl Link for Sockets {
    type Sender = Out;
    type Receiver = In;

    fn sender(&self, way: usize) -> Out {
        let mut socket = self.socket(true);
        let is_broadcast = !self.shape.is_round_trip && self.shape.readers > 1;
        if is_broadcast {
            // Waits rather than drops, and hears of every subscription, not only of the first of its kind.
            set(&mut socket, zmq_sys::ZMQ_XPUB_NODROP);
            set(&mut socket, zmq_sys::ZMQ_XPUB_VERBOSE);
            socket.bind(&self.ways[way]).expect("an address");
        } else {
            socket.connect(&self.ways[way]).expect("an address");
        }
        Out {
            socket,
            is_broadcast,
            polls: self.polls(),
        }
    }

    fn receiver(&self, way: usize) -> In {
        let socket = self.socket(false);
        if !self.shape.is_round_trip && self.shape.readers > 1 {
            socket.connect(&self.ways[way]).expect("an address");
            socket.set_subscribe(b"").expect("an option");
        } else {
            socket.bind(&self.ways[way]).expect("an address");
        }
        In {
            socket,
            message: zmq::Message::new(),
            polls: self.polls(),
        }
    }
}

/// Sets an option for which the crate has no call.
fn set(socket: &mut zmq::Socket, option: u32) {
    let yes: std::ffi::c_int = 1;
    let (at, len) = ((&raw const yes).cast(), size_of_val(&yes));
    // SAFETY: a live socket, and an option of an int.
    let answer = unsafe { zmq_sys::zmq_setsockopt(socket.as_mut_ptr(), option as std::ffi::c_int, at, len) };
    assert_eq!(answer, 0, "option {option}");
}

impl Sender for Out {
    fn send(&mut self, body: &[u8]) {
        if !self.polls {
            return self.socket.send(body, 0).expect("send");
        }
        while let Err(error) = self.socket.send(body, zmq::DONTWAIT) {
            assert_eq!(error, zmq::Error::EAGAIN, "send");
            spin_loop();
        }
    }

    fn settle(&mut self, readers: usize) {
        if self.is_broadcast {
            // Each subscription arrives as a message.
            (0..readers).for_each(|_| drop(self.socket.recv_bytes(0).expect("a subscription")));
        }
    }
}

impl Receiver for In {
    fn receive(&mut self) {
        if !self.polls {
            self.socket.recv(&mut self.message, 0).expect("recv");
        } else {
            while let Err(error) = self.socket.recv(&mut self.message, zmq::DONTWAIT) {
                assert_eq!(error, zmq::Error::EAGAIN, "recv");
                spin_loop();
            }
        }
        black_box(&self.message[..]);
    }
}
