//! What the pool's nodes cost over TCP: a request and its answer next to a bare blocking ping-pong over the same kind of socket and one hand-over
//! between threads, and next to libchirp's own Python pool; and a stream of messages one way.
//!
//! `cargo bench --features pool --bench pool` does all; `-- answer` or `-- stream` one part. The peer is another process. Rounds of what is compared take
//! turns; printed are the median and the 10th to 90th percentile. For other tools there are plain runs: `-- requests N` makes that many requests,
//! `-- messages N` sends that many messages one way (`strace -f -c`, `perf stat`).

#[path = "../tests/support/libchirp.rs"]
mod libchirp;
#[path = "../tests/support/python.rs"]
mod python;
#[path = "../tests/support/mod.rs"]
mod support;

use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use syncq::pool::{Chirp, Config, Loop, Message};

/// Bytes of a message's data, and what it is on the wire.
const SIZE: usize = 64;
const ON_WIRE: usize = SIZE + 27;

const ROUNDS: usize = 15;
const REQUESTS: usize = 2000;
const MESSAGES: usize = 500_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, kind] = &arguments[..]
        && role == "peer"
    {
        return peer(kind);
    }
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "--bench")
        .collect();
    match words[..] {
        ["requests", count] => {
            let peer = Peer::start("echo");
            let client = Client::new(&peer, true);
            let samples = client.requests(count.parse().expect("a number of requests"));
            print("request and answer", samples, "us");
        }
        ["messages", count] => {
            let peer = Peer::start("count");
            let client = Client::new(&peer, false);
            let rate = client.messages(count.parse().expect("a number of messages"));
            println!("{rate:.3} M messages/s");
        }
        ["answer"] => answer(),
        ["stream"] => stream(),
        _ => {
            answer();
            stream();
        }
    }
}

/// Median, and 10th and 90th percentile.
fn spread(mut samples: Vec<f64>) -> (f64, f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.1), at(0.9))
}

fn median(samples: Vec<f64>) -> f64 {
    spread(samples).0
}

fn print(what: &str, samples: Vec<f64>, unit: &str) -> f64 {
    let (median, low, high) = spread(samples);
    println!("  {what:<52} {median:>9.2} {unit}   ({low:.2} to {high:.2})");
    median
}

fn config() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(Duration::from_secs(60))
}

// ------------------------------------------------------------------------------------------------------- the other process

/// What the other process is: it says its port, and ends when its standard input does.
fn peer(kind: &str) {
    let looper = Loop::new().expect("a loop");
    let echo = |chirp: &Chirp, message: Message| {
        chirp.send(message);
    };
    let node = match kind {
        "bare" => {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            println!("{}", listener.local_addr().expect("bound").port());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || bounce(stream));
                }
            });
            None
        }
        "echo" => Some(Chirp::new(&looper, config().synchronous(false), echo)),
        "echo-synchronous" => Some(Chirp::new(&looper, config(), echo)),
        "count" => {
            let seen = AtomicU64::new(0);
            let counting = move |chirp: &Chirp, mut message: Message| {
                if message.data().len() == SIZE {
                    seen.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                // The last of them may still be in the hands of another thread.
                let expected = u64::from_le_bytes(message.data().try_into().expect("a count"));
                while seen.load(Ordering::Relaxed) < expected {
                    std::thread::yield_now();
                }
                seen.store(0, Ordering::Relaxed);
                message.set_data("all");
                chirp.send(message);
            };
            Some(Chirp::new(&looper, config().synchronous(false), counting))
        }
        other => panic!("no such peer: {other}"),
    };
    let node = node.map(|node| node.expect("a node"));
    if let Some(node) = &node {
        println!("{}", node.port());
    }
    let _ = std::io::stdin().read(&mut [0]);
}

fn bounce(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut buffer = [0; 4096];
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..got]).is_err() {
            return;
        }
    }
}

struct Peer {
    process: Child,
    _stdin: ChildStdin,
    address: SocketAddr,
}

impl Peer {
    fn start(kind: &str) -> Peer {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["peer", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("its port");
        let port: u16 = line.trim().parse().expect("its port");
        Peer {
            _stdin: process.stdin.take().expect("a pipe"),
            process,
            address: ([127, 0, 0, 1], port).into(),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client {
    node: Chirp,
    _looper: Loop,
    to: SocketAddr,
}

impl Client {
    fn new(peer: &Peer, is_warm: bool) -> Client {
        Client::with(peer, is_warm, config().synchronous(false))
    }

    fn with(peer: &Peer, is_warm: bool, config: Config) -> Client {
        let looper = Loop::new().expect("a loop");
        let node = Chirp::new(&looper, config, |_: &Chirp, _: Message| {}).expect("a node");
        let client = Client {
            node,
            _looper: looper,
            to: peer.address,
        };
        if is_warm {
            client.requests(100);
        }
        client
    }

    fn message(&self, data: impl Into<Vec<u8>>) -> Message {
        Message::to(self.to, data).expect("an address")
    }

    /// Microseconds for each.
    fn requests(&self, count: usize) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let message = self.message([b'x'; SIZE]);
                let start = Instant::now();
                let answer = self.node.request(message).result().expect("an answer");
                assert_eq!(answer.data().len(), SIZE);
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect()
    }

    /// Millions a second, until the last was handled.
    fn messages(&self, count: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..count {
            drop(self.node.send(self.message([b'x'; SIZE])));
        }
        let question = self.message((count as u64).to_le_bytes());
        self.node.request(question).result().expect("an answer");
        count as f64 / start.elapsed().as_secs_f64() / 1e6
    }
}

// -------------------------------------------------------------------------------------------------------------- answers

/// Two pools of the real libchirp, in Python, of which one asks the other.
struct Theirs {
    asking: libchirp::Libchirp,
    answering: libchirp::Libchirp,
    /// Answers that came before it had begun to wait, and so were lost.
    lost: usize,
}

impl Theirs {
    /// `None`, with a word about it, where the package cannot be had.
    fn start() -> Option<Theirs> {
        let python = libchirp::python()?;
        let mut theirs = Theirs {
            answering: libchirp::pool("bounce", false).start(&python),
            asking: libchirp::pool("note", false).with("TIMEOUT", 0.5).start(&python),
            lost: 0,
        };
        theirs.requests(100);
        Some(theirs)
    }

    /// The median, in microseconds.
    fn requests(&mut self, count: usize) -> f64 {
        let (address, port) = ("127.0.0.1", self.answering.port);
        let order =
            json!({"do": "requests", "count": count, "size": SIZE, "its_own": true, "address": address, "port": port});
        loop {
            let said = self.asking.ask(order.clone());
            if let Some(seconds) = said["median"].as_f64() {
                return seconds * 1e6;
            }
            assert_eq!(said["error"], "TimeoutError", "{said}");
            self.lost += 1;
            assert!(self.lost < 1000, "it loses them all");
        }
    }
}

/// Blocking reads and writes of as many bytes, and nothing else.
fn bare(stream: &mut TcpStream, count: usize) -> Vec<f64> {
    let mut buffer = [b'x'; ON_WIRE];
    (0..count)
        .map(|_| {
            let start = Instant::now();
            stream.write_all(&buffer).expect("a peer");
            stream.read_exact(&mut buffer).expect("a peer");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect()
}

/// From one thread to another that sleeps, by mutex and condition variable: half of there and back.
fn hand_over(count: usize) -> Vec<f64> {
    let turn = Arc::new((Mutex::new(0usize), Condvar::new()));
    let take = |turn: &(Mutex<usize>, Condvar), parity: usize| {
        let mut now = turn.0.lock().expect("no panics");
        while *now % 2 != parity {
            now = turn.1.wait(now).expect("no panics");
        }
        *now += 1;
        drop(now);
        turn.1.notify_one();
    };
    let other = turn.clone();
    let thread = std::thread::spawn(move || (0..count).for_each(|_| take(&other, 1)));
    let samples = (0..count)
        .map(|_| {
            let start = Instant::now();
            take(&turn, 0);
            drop(
                turn.1
                    .wait_while(turn.0.lock().expect("no panics"), |now| *now % 2 != 0),
            );
            start.elapsed().as_secs_f64() * 1e6 / 2.0
        })
        .collect();
    thread.join().expect("it has had its turns");
    samples
}

fn answer() {
    println!("{SIZE} bytes to another process and back over loopback TCP, one at a time, median of each round:");
    let bare_peer = Peer::start("bare");
    let mut socket = TcpStream::connect(bare_peer.address).expect("a peer");
    socket.set_nodelay(true).expect("a TCP socket");
    let echo = Peer::start("echo");
    let client = Client::new(&echo, true);
    let synchronous = Peer::start("echo-synchronous");
    let synchronous = (Client::with(&synchronous, true, config()), synchronous);
    let mut theirs = Theirs::start();
    let mut libchirp = Vec::new();
    let mut samples = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        libchirp.extend(theirs.as_mut().map(|theirs| theirs.requests(REQUESTS / 10)));
        samples[0].push(median(bare(&mut socket, REQUESTS)));
        samples[1].push(median(hand_over(REQUESTS)));
        samples[2].push(median(client.requests(REQUESTS)));
        samples[3].push(median(synchronous.0.requests(REQUESTS)));
    }
    let [bare, hand_over, ours, synchronous] = samples;
    let bare = print("bare blocking ping-pong", bare, "us");
    let hand_over = print("one hand-over between threads", hand_over, "us");
    let ours = print("request and answer, asynchronous nodes", ours, "us");
    print("request and answer, synchronous nodes", synchronous, "us");
    println!(
        "  ratio to ping-pong and one hand-over: {:.2}",
        ours / (bare + hand_over)
    );
    if let Some(theirs) = theirs {
        let libchirp = print("request and answer, libchirp's Python pool", libchirp, "us");
        println!(
            "  ours in its time: {:.1}; answers that it lost: {}",
            libchirp / ours,
            theirs.lost
        );
    }
}

// --------------------------------------------------------------------------------------------------------------- streams

fn stream() {
    println!("messages of {SIZE} bytes one way to another process, asynchronous, until the last was handled:");
    let peer = Peer::start("count");
    let client = Client::new(&peer, false);
    client.messages(MESSAGES / 10);
    let samples = (0..ROUNDS).map(|_| client.messages(MESSAGES)).collect();
    print("from one thread", samples, "M/s");
}
