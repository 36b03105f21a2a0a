//! What the kernel has for streams of bytes: a pipe, and a Unix stream socket.

use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use std::error::Error;
use std::fs::File;
use std::hint::{black_box, spin_loop};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

pub struct Stream {
    name: &'static str,
    settings: &'static str,
    is_pipe: bool,
}

pub const PIPE: Stream = Stream {
    name: "pipe",
    settings: "no framing (the length is known), enlarged to the ring's size if the system lets; one write a message (one a batch), reads \
               of up to 64 KiB; O_NONBLOCK and polling for spinning round trips, else blocking",
    is_pipe: true,
};

pub const SOCKET: Stream = Stream {
    name: "Unix socket",
    settings: "stream; as the pipe, with send and receive buffers of the ring's size if the system lets",
    is_pipe: false,
};

impl Subject for Stream {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.readers > 1 {
            return Some("one reader");
        }
        (shape.writers > 1 && shape.len * shape.batch > 4096).then_some("writes of several writers mix")
    }

    fn open(&self, shape: &Shape, _: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let way = || -> nix::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = match self.is_pipe {
                true => {
                    let (read, write) = nix::unistd::pipe()?;
                    // The system's limit may be lower: then it stays as it is.
                    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(shape.ring.min(1 << 20) as i32));
                    (read, write)
                }
                false => {
                    let (read, write) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
                    setsockopt(&write, sockopt::SndBuf, &shape.ring)?;
                    setsockopt(&read, sockopt::RcvBuf, &shape.ring)?;
                    (read, write)
                }
            };
            if shape.is_round_trip && shape.waiting == Waiting::Spin {
                fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            }
            Ok((read, write))
        };
        Ok(Box::new(Streams {
            ways: [way()?, way()?],
            len: shape.len,
            batch: shape.batch,
        }))
    }
}

struct Streams {
    ways: [(OwnedFd, OwnedFd); 2],
    len: usize,
    batch: usize,
}

struct Out {
    file: File,
    batch: usize,
}

struct In {
    file: File,
    buffer: Vec<u8>,
    len: usize,
    /// Bytes read ahead: from..to.
    from: usize,
    to: usize,
}

impl Link for Streams {
    type Sender = Out;
    type Receiver = In;

    fn sender(&self, way: usize) -> Out {
        Out {
            file: self.ways[way].1.try_clone().expect("a descriptor").into(),
            batch: self.batch,
        }
    }

    fn receiver(&self, way: usize) -> In {
        In {
            file: self.ways[way].0.try_clone().expect("a descriptor").into(),
            buffer: vec![0; self.len.max(64 << 10)],
            len: self.len,
            from: 0,
            to: 0,
        }
    }
}

impl Sender for Out {
    fn send(&mut self, mut body: &[u8]) {
        while !body.is_empty() {
            match self.file.write(body) {
                Ok(written) => body = &body[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => spin_loop(),
                Err(error) => panic!("write: {error}"),
            }
        }
    }

    fn send_many(&mut self, body: &[u8], count: u64) {
        let all = body.repeat(self.batch);
        for _ in 0..count / self.batch as u64 {
            self.send(&all);
        }
    }
}

impl Receiver for In {
    fn receive(&mut self) {
        while self.to - self.from < self.len {
            if self.from == self.to {
                (self.from, self.to) = (0, 0);
            } else if self.from + self.len > self.buffer.len() {
                self.buffer.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            match self.file.read(&mut self.buffer[self.to..]) {
                Ok(0) => panic!("the other end is gone"),
                Ok(read) => self.to += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => spin_loop(),
                Err(error) => panic!("read: {error}"),
            }
        }
        black_box(&self.buffer[self.from..self.from + self.len]);
        self.from += self.len;
    }
}
