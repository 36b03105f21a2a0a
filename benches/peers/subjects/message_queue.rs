//! POSIX message queues.

use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use std::error::Error;
use std::hint::{black_box, spin_loop};

pub struct MessageQueue;

impl Subject for MessageQueue {
    fn name(&self) -> &'static str {
        "POSIX mq"
    }

    fn settings(&self) -> &'static str {
        "as deep as the system lets (tried: 1024, 256, 64, 10); O_NONBLOCK and polling for spinning round trips, else blocking"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.len > 8192 {
            return Some("8 KiB a message is the system's limit");
        }
        if shape.batch > 1 {
            return Some("no batches");
        }
        (shape.readers > 1).then_some("each message to one receiver")
    }

    fn open(&self, shape: &Shape, name: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        // Only root may; whoever may not has the usual limit.
        let _ = setrlimit(Resource::RLIMIT_MSGQUEUE, 64 << 20, 64 << 20);
        let mut flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
        if shape.is_round_trip && shape.waiting == Waiting::Spin {
            flags |= MQ_OFlag::O_NONBLOCK;
        }
        let way = |way: usize| {
            let name = format!("/{name}_{way}");
            let mut answer = Err(Errno::EINVAL);
            for depth in [1024, 256, 64, 10] {
                let attributes = MqAttr::new(0, depth, shape.len as i64, 0);
                answer = mq_open(name.as_str(), flags, Mode::S_IRWXU, Some(&attributes));
                if answer.is_ok() {
                    // The descriptor is enough for forked ends, and nothing can be left behind.
                    mq_unlink(name.as_str())?;
                    break;
                }
            }
            answer
        };
        Ok(Box::new(Queues {
            ways: [way(0)?, way(1)?],
            len: shape.len,
        }))
    }
}

struct Queues {
    ways: [MqdT; 2],
    len: usize,
}

struct End {
    queue: MqdT,
    buffer: Vec<u8>,
}

impl Link for Queues {
    type Sender = End;
    type Receiver = End;

    fn sender(&self, way: usize) -> End {
        use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
        // A descriptor of its own for each end, as each closes what it has.
        let copy = self.ways[way].as_fd().try_clone_to_owned().expect("a descriptor");
        End {
            // SAFETY: a message queue's descriptor, owned from here on.
            queue: unsafe { MqdT::from_raw_fd(copy.into_raw_fd()) },
            buffer: vec![0; self.len],
        }
    }

    fn receiver(&self, way: usize) -> End {
        self.sender(way)
    }
}

impl Sender for End {
    fn send(&mut self, body: &[u8]) {
        while let Err(error) = mq_send(&self.queue, body, 0) {
            assert_eq!(error, Errno::EAGAIN, "mq_send");
            spin_loop();
        }
    }
}

impl Receiver for End {
    fn receive(&mut self) {
        let mut priority = 0;
        while let Err(error) = mq_receive(&self.queue, &mut self.buffer, &mut priority) {
            assert_eq!(error, Errno::EAGAIN, "mq_receive");
            spin_loop();
        }
        black_box(&self.buffer);
    }
}
