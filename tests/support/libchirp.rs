//! Nodes of the real libchirp, the Python package of 2018, as peers of a test: its environment, how it is told what to do, and nodes of ours beside it.
//!
//! Not here: what a node does with that (`tests/libchirp/peer.py`). A test that wants one says `mod support;`, `mod python;` (see `python.rs`) and
//! `#[path = "support/libchirp.rs"] mod libchirp;`.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::python::{Environment, Peer, Wanted, environment};
use super::support::{Watchdog, watchdog};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use syncq::pool::{Chirp, Config, Handler, Loop, Message};

/// The newest version there is. It is compiled here, and needs two things for that: the headers of libuv, and a call of OpenSSL 1 taken out that
/// OpenSSL 3 no longer has (the module would not load). pip's cache may hold one that was compiled without.
pub const LIBCHIRP: Wanted<'static> = Wanted {
    name: "libchirp",
    packages: &["libchirp==1.2.1b3"],
    pip_args: &["--no-binary", "libchirp", "--no-cache-dir"],
    pip_env: &[("CFLAGS", "-DFIPS_mode_set(x)=")],
    imports: &["libchirp.pool", "libchirp.queue"],
    system_packages: &["gcc", "python3-dev", "libuv1-dev", "libssl-dev", "libffi-dev"],
};

const SCRIPT: &str = include_str!("../libchirp/peer.py");

/// The environment, or `None` (said on the terminal) where it cannot be made.
pub fn python() -> Option<Environment> {
    environment(&LIBCHIRP)
}

/// How a node is to be.
#[derive(Debug, Clone)]
pub struct Wish {
    pub flavour: &'static str,
    /// What a pool's handler does with a message.
    pub behaviour: &'static str,
    /// libchirp's options, by its names.
    pub config: Value,
    /// Threads of a pool; 0 for its default.
    pub workers: u32,
    /// Seconds that a slow handler takes.
    pub delay: f64,
    /// Where it is to listen; 0 for any free port.
    pub port: u16,
}

/// A pool whose handler does this, synchronous or not, without encryption.
pub fn pool(behaviour: &'static str, is_synchronous: bool) -> Wish {
    Wish {
        flavour: "pool",
        behaviour,
        config: json!({"SYNCHRONOUS": is_synchronous, "DISABLE_ENCRYPTION": true}),
        workers: 0,
        delay: 0.0,
        port: 0,
    }
}

/// A queue, whose messages are taken on command.
pub fn queue(is_synchronous: bool) -> Wish {
    Wish {
        flavour: "queue",
        ..pool("", is_synchronous)
    }
}

impl Wish {
    /// With one more option, by libchirp's name.
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.config[option] = value.into();
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts it.
    pub fn start(&self, python: &Environment) -> Libchirp {
        for _ in 0..20 {
            let port = if self.port == 0 { free_port() } else { self.port };
            let settings = json!({
                "port": port,
                "flavour": self.flavour,
                "behaviour": self.behaviour,
                "config": self.config,
                "workers": self.workers,
                "delay": self.delay,
            });
            let mut peer = python.start(SCRIPT, &[settings.to_string()]);
            let said: Value = serde_json::from_str(&peer.must_say()).expect("a line of JSON");
            if let Some(identity) = said["identity"].as_str() {
                let identity = identity.to_owned();
                return Libchirp { peer, port, identity };
            }
            // It has no port 0: somebody was faster.
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no port for libchirp");
    }
}

/// A port that nobody uses, in both families, at the moment.
pub fn free_port() -> u16 {
    loop {
        let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
        let port = v6.local_addr().expect("bound").port();
        drop(v6);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A running node. Killed with the test.
#[derive(Debug)]
pub struct Libchirp {
    pub peer: Peer,
    pub port: u16,
    /// Hexadecimal.
    pub identity: String,
}

impl Libchirp {
    /// Tells it to do something, and waits for what it says.
    pub fn ask(&mut self, order: Value) -> Value {
        self.tell(order);
        self.answer()
    }

    /// Tells it to do something.
    pub fn tell(&mut self, order: Value) {
        self.peer.tell(&order.to_string());
    }

    /// What it says to what it was told first and has not answered yet.
    pub fn answer(&mut self) -> Value {
        serde_json::from_str(&self.peer.must_say()).expect("a line of JSON")
    }

    /// As [`ask`](Self::ask); that it fails is a failure.
    pub fn must(&mut self, order: Value) -> Value {
        let said = self.ask(order.clone());
        assert!(said["error"].is_null(), "{order}: {said}");
        said
    }

    /// Waits until its handler has seen so many messages; gives the first ones.
    pub fn seen(&mut self, count: usize) -> Value {
        let said = self.must(json!({"do": "seen", "count": count}));
        assert!(said["count"].as_u64() >= Some(count as u64), "{said}");
        said["messages"].clone()
    }

    /// Kills it, as a power cut would.
    pub fn kill(mut self) {
        let _ = self.peer.child.kill();
        let _ = self.peer.child.wait();
    }
}

/// The bytes that the peer makes of a size and a seed.
pub fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| ((i % (251 * 4) * 7 + seed) % 251) as u8).collect()
}

// ------------------------------------------------------------------------------------------------------- ours beside them

/// Around every border: what fits into libchirp's message itself, one read, one TLS record; the longest header.
pub const SIZES: [(usize, usize); 9] = [
    (0, 0),
    (0, 1),
    (1, 0),
    (32, 1024),
    (33, 1025),
    (255, 65_536 - 27),
    (65_535, 0),
    (65_535, 70_000),
    (100, 4 << 20),
];

pub const SECONDS: Duration = Duration::from_secs(20);

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub const MODES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

/// For all that one test does.
pub fn patience() -> Watchdog {
    watchdog(SECONDS * 6)
}

/// A configuration of ours.
pub fn plain(is_synchronous: bool) -> Config {
    Config::new()
        .port(0)
        .disable_encryption(true)
        .synchronous(is_synchronous)
}

/// A node of ours on a loop of its own.
pub fn ours(config: Config, handler: impl Handler) -> Chirp {
    let looper = Loop::new().unwrap();
    Chirp::new(&looper, config, handler).unwrap()
}

pub fn quiet(_: &Chirp, _: Message) {}

pub fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

/// A handler that hands all messages to the test.
pub fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

pub fn message(ip: IpAddr, theirs: &Libchirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to((ip, theirs.port), data).unwrap()
}

/// An order to send or ask our node something.
pub fn order(what: &str, ip: IpAddr, ours: &Chirp) -> Value {
    json!({"do": what, "address": ip.to_string(), "port": ours.port()})
}

pub fn with(mut order: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    order.as_object_mut().expect("an object").extend(more);
    order
}

/// Established TCP connections with this local port.
pub fn connections(port: u16) -> usize {
    let lines = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields
            .get(1)
            .is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
            && fields.get(3) == Some(&"01")
    };
    lines.iter().flat_map(|text| text.lines()).filter(is_one).count()
}
