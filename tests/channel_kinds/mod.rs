//! Every kind of channel as two connected ends, so that one test can go over all of them.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;
use syncq::channel::{
    Buffering, Channel, Event, Input, PipeChannel, Poller, QueueChannel, SocketChannel, TestChannel, Token, What,
};
use syncq::{Queue, Wait};

pub const SOON: Wait = Wait::For(Duration::from_secs(30));
/// Long enough for what must not happen to happen, if it does.
pub const MOMENT: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pipe,
    SocketPair,
    Tcp,
    UnixPath,
    UnixAbstract,
    Test,
    Queue,
}

pub const EVERY: [Kind; 7] = [
    Kind::Pipe,
    Kind::SocketPair,
    Kind::Tcp,
    Kind::UnixPath,
    Kind::UnixAbstract,
    Kind::Test,
    Kind::Queue,
];

/// All kinds whose two ends are two channels.
pub fn pairs() -> impl Iterator<Item = Kind> {
    EVERY.into_iter().filter(|kind| *kind != Kind::Test)
}

/// This end is the one under test.
pub struct Wire {
    pub kind: Kind,
    pub here: Box<dyn Channel>,
    /// A test channel has its other end in itself.
    pub there: Option<Box<dyn Channel>>,
}

fn boxed(channel: impl Channel) -> Box<dyn Channel> {
    Box::new(channel)
}

fn cross() -> (Box<dyn Channel>, Box<dyn Channel>) {
    let [a, b] = [(), ()].map(|()| PipeChannel::pipe().unwrap());
    let (a_out, a_in) = (a.0.into_inner(), a.1.into_inner());
    let (b_out, b_in) = (b.0.into_inner(), b.1.into_inner());
    let here = PipeChannel::new(a_out.faucet, b_in.sink);
    let there = PipeChannel::new(b_out.faucet, a_in.sink);
    (boxed(here), boxed(there))
}

/// Two channels over two queues in shared memory, with `capacity` bytes each.
pub fn queues(capacity: u64) -> (QueueChannel, QueueChannel) {
    let [one, other] = [(), ()].map(|()| Queue::options().capacity(capacity).anonymous().unwrap());
    let here = QueueChannel::new(one.reader().unwrap(), other.writer("here").unwrap()).unwrap();
    let there = QueueChannel::new(other.reader().unwrap(), one.writer("there").unwrap()).unwrap();
    (here, there)
}

pub fn connect(kind: Kind) -> Wire {
    let accepted = |client: SocketChannel, socket: SocketChannel| (boxed(client), boxed(socket));
    let (here, there) = match kind {
        Kind::Pipe => cross(),
        Kind::SocketPair => {
            let (one, other) = SocketChannel::pair().unwrap();
            (boxed(one), boxed(other))
        }
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = SocketChannel::connect_tcp(listener.local_addr().unwrap(), SOON).unwrap();
            accepted(client, SocketChannel::new(listener.accept().unwrap().0).unwrap())
        }
        Kind::UnixPath => {
            let folder = crate::support::folder("channel");
            let path = folder.0.join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let client = SocketChannel::connect_unix(&path, SOON).unwrap();
            accepted(client, SocketChannel::new(listener.accept().unwrap().0).unwrap())
        }
        Kind::UnixAbstract => {
            let name = crate::support::unique("channel");
            let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
            let client = SocketChannel::connect_abstract(&name, SOON).unwrap();
            accepted(client, SocketChannel::new(listener.accept().unwrap().0).unwrap())
        }
        Kind::Test => {
            return Wire {
                kind,
                here: boxed(TestChannel::new().unwrap()),
                there: None,
            };
        }
        Kind::Queue => {
            let (here, there) = queues(1 << 16);
            (boxed(here), boxed(there))
        }
    };
    Wire {
        kind,
        here,
        there: Some(there),
    }
}

pub fn by_lines(kind: Kind) -> Wire {
    let mut wire = connect(kind);
    wire.here.set_buffering(Buffering::lines());
    wire
}

impl Wire {
    fn test(&mut self) -> &mut TestChannel {
        let any: &mut dyn std::any::Any = &mut *self.here;
        any.downcast_mut().expect("only a test channel has no other end")
    }

    /// The other end writes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.there {
            Some(there) => there.write(bytes, SOON).unwrap(),
            None => self.test().put(bytes).unwrap(),
        }
    }

    /// The other end has written its last.
    pub fn end(&mut self) {
        match &mut self.there {
            Some(there) => assert!(there.finish(SOON).unwrap()),
            None => self.test().end().unwrap(),
        }
    }

    /// The other end reads all there is.
    pub fn got(&mut self) -> Vec<u8> {
        let Some(there) = &mut self.there else {
            return self.test().get().unwrap();
        };
        let mut got = Vec::new();
        loop {
            match there.try_read().unwrap() {
                Input::Data(bytes) => got.extend(bytes),
                _ => return got,
            }
        }
    }

    /// Reads one line or piece of data; `None` if there is nothing.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        match self.here.read(Wait::Never).unwrap() {
            Input::Pending => None,
            Input::End => panic!("{:?} ended", self.kind),
            input => Some(input.bytes().to_vec()),
        }
    }
}

/// What this thread has used so far: that other processes keep the machine busy does not count.
pub fn processor_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// A poller with this channel in it.
pub fn polled(channel: impl Channel) -> (Poller, Token) {
    polled_boxed(boxed(channel))
}

/// As [`polled`].
pub fn polled_boxed(channel: Box<dyn Channel>) -> (Poller, Token) {
    let mut poller = Poller::new().unwrap();
    let token = poller.register_boxed(channel);
    (poller, token)
}

/// Polls until `count` events have come.
pub fn events(poller: &mut Poller, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        assert!(poller.poll_into(&mut events, SOON).unwrap() > 0, "only {events:?}");
    }
    events
}

pub fn is_data(event: &Event, token: Token, bytes: &[u8]) -> bool {
    event.source == token && matches!(&event.what, What::Data(data) if data == bytes)
}

pub fn is_line(event: &Event, token: Token, bytes: &[u8]) -> bool {
    event.source == token && matches!(&event.what, What::Line(line) if line.bytes == bytes && line.is_complete)
}

pub fn is_end(event: &Event, token: Token) -> bool {
    event.source == token && matches!(event.what, What::End)
}
