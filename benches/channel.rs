//! What channels and the poller cost: lines over a socket and a pipe next to a bare loop with std and the Python library `channels` in the same run, the cost of an event
//! with 1 to 4,000 sources registered, how long one source waits beside another that is always ready, and a queue's messages through a poller.
//!
//! `cargo bench --bench channel` does all; `-- lines`, `-- sources`, `-- fair` or `-- queue` one part. Rounds of what is compared take turns; printed are
//! the median and the 10th to 90th percentile. For other tools there are plain runs: `-- stream LINES` sends lines through a poller (`strace -f -c`,
//! `valgrind --tool=callgrind`), `-- events SOURCES EVENTS` makes that many events with that many sources registered.

#[path = "../tests/support/python.rs"]
mod python;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncq::channel::{Buffering, Channel, Input, PipeChannel, Poller, QueueChannel, SocketChannel, What};
use syncq::{Queue, Wait};

const LINE: [u8; 64] = {
    let mut line = [b'x'; 64];
    line[63] = b'\n';
    line
};
const SOON: Wait = Wait::For(Duration::from_secs(60));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
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
        ["stream", lines] => {
            let rate = through_poller(lines.parse().expect("a number of lines"), Over::Socket);
            println!("{:.2} M lines/s", rate / 1e6);
        }
        ["events", sources, events] => {
            raise_limit();
            let (sources, events): (usize, usize) = (
                sources.parse().expect("a number of sources"),
                events.parse().expect("a number of events"),
            );
            one_of(sources, events, 1);
        }
        ["lines"] => lines(),
        ["sources"] => sources(),
        ["fair"] => fair(),
        ["queue"] => queue(),
        _ => {
            lines();
            sources();
            fair();
            queue();
        }
    }
}

/// Median, and 10th and 90th percentile.
fn spread(mut samples: Vec<f64>) -> (f64, f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.1), at(0.9))
}

fn print(what: &str, samples: Vec<f64>, unit: &str) -> f64 {
    let (median, low, high) = spread(samples);
    println!("  {what:<44} {median:>9.2} {unit}   ({low:.2} to {high:.2})");
    median
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Socket,
    Pipe,
}

// --------------------------------------------------------------------------------------------------------------- lines

const LINES: usize = 500_000;
const ROUNDS: usize = 15;

fn descriptors(over: Over) -> (OwnedFd, OwnedFd) {
    match over {
        Over::Socket => {
            let (one, other) = UnixStream::pair().expect("a pair");
            (one.into(), other.into())
        }
        Over::Pipe => {
            let (faucet, sink) = PipeChannel::pipe().expect("a pipe");
            (
                faucet.into_inner().faucet.expect("a faucet"),
                sink.into_inner().sink.expect("a sink"),
            )
        }
    }
}

/// A thread that writes so many lines, 1024 in a write, as fast as they are taken.
fn writer(sink: OwnedFd, lines: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut sink = std::fs::File::from(sink);
        let chunk = LINE.repeat(1024);
        let mut left = lines * LINE.len();
        while left > 0 {
            let now = left.min(chunk.len());
            sink.write_all(&chunk[..now]).expect("a reader");
            left -= now;
        }
    })
}

/// Lines per second through a poller.
fn through_poller(lines: usize, over: Over) -> f64 {
    let (faucet, sink) = descriptors(over);
    let mut poller = Poller::new().expect("a poller");
    match over {
        Over::Socket => {
            let socket = SocketChannel::new(faucet).expect("a stream");
            poller.register(socket.with_buffering(Buffering::lines()))
        }
        Over::Pipe => poller.register(PipeChannel::reading(faucet).with_buffering(Buffering::lines())),
    };
    let start = Instant::now();
    let writer = writer(sink, lines);
    let (mut count, mut events) = (0, Vec::new());
    while count < lines {
        poller.poll_into(&mut events, SOON).expect("events");
        for event in events.drain(..) {
            if let What::Line(line) = event.what {
                assert_eq!(line.bytes.len(), LINE.len());
                count += 1;
            }
        }
    }
    let rate = lines as f64 / start.elapsed().as_secs_f64();
    writer.join().expect("it has written");
    rate
}

/// The same with std alone, blocking: a line at a time into the same buffer, and as lines of their own.
fn through_std(lines: usize, over: Over, is_owned: bool) -> f64 {
    let (faucet, sink) = descriptors(over);
    let start = Instant::now();
    let writer = writer(sink, lines);
    let mut reader = BufReader::with_capacity(64 << 10, std::fs::File::from(faucet));
    let (mut count, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line).expect("lines") > 0 {
        assert_eq!(line.len(), LINE.len());
        count += 1;
        match is_owned {
            true => drop(std::mem::take(&mut line)),
            false => line.clear(),
        }
    }
    assert_eq!(count, lines);
    let rate = lines as f64 / start.elapsed().as_secs_f64();
    writer.join().expect("it has written");
    rate
}

/// How many lines the Python library gets: what it does with a pipe takes longer with each that waits there.
fn python_lines(over: Over) -> usize {
    match over {
        Over::Socket => LINES,
        Over::Pipe => LINES / 25,
    }
}

fn environment() -> Option<python::Environment> {
    python::environment(&python::Wanted {
        name: "channels",
        packages: &["yet-another-io-channels-library==0.2.4.post1"],
        imports: &["channels"],
        ..python::Wanted::NOTHING
    })
}

/// Lines per second through the Python library's poller, from its first look to the last line; its start is not counted.
fn through_python(environment: &python::Environment, over: Over) -> f64 {
    let (faucet, sink) = descriptors(over);
    let lines = python_lines(over);
    let reading = environment
        .python()
        .args([
            "-c",
            PYTHON,
            if matches!(over, Over::Socket) { "socket" } else { "pipe" },
        ])
        .arg(lines.to_string())
        .stdin(Stdio::from(faucet))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let writer = writer(sink, lines);
    let output = reading.wait_with_output().expect("it ends");
    writer.join().expect("it has written");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().expect("a number")
}

const PYTHON: &str = "
import socket, sys, time
from channels import PipeChannel, SocketChannel
from channels.poller import Poller
poller, lines = Poller(), int(sys.argv[2])
if sys.argv[1] == 'socket':
    poller.register(SocketChannel(socket.socket(fileno=0), buffering='line'))
else:
    poller.register(PipeChannel(faucet=0, buffering='line'))
left, begin = lines, time.perf_counter()
while left > 0:
    for line, channel in poller.poll():
        left -= 1
print(lines / (time.perf_counter() - begin))
";

fn lines() {
    let environment = environment();
    for (name, over) in [("a socket pair", Over::Socket), ("a pipe", Over::Pipe)] {
        println!("lines of 64 bytes over {name}, one thread to another:");
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            samples[0].push(through_poller(LINES, over) / 1e6);
            samples[1].push(through_std(LINES, over, true) / 1e6);
            samples[2].push(through_std(LINES, over, false) / 1e6);
        }
        let [poller, owned, reused] = samples;
        let poller = print("poller, each line an event", poller, "M/s");
        let owned = print("BufReader::read_until, each line a Vec", owned, "M/s");
        print("BufReader::read_until, one Vec for all", reused, "M/s");
        println!("  ratio to the second: {:.2}", poller / owned);
        if let Some(environment) = &environment {
            let samples = (0..3).map(|_| through_python(environment, over) / 1e6).collect();
            let name = format!("Python library channels, {} lines", python_lines(over));
            let python = print(&name, samples, "M/s");
            println!("  poller, to Python: {:.1} times", poller / python);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- sources

/// Nanoseconds for write, poll and read of one byte, with so many sources registered.
fn one_of(sources: usize, per_sample: usize, sample_count: usize) -> Vec<f64> {
    let mut poller = Poller::new().expect("a poller");
    let mut others: Vec<UnixStream> = (0..sources)
        .map(|_| {
            let (one, other) = UnixStream::pair().expect("descriptors: see ulimit -n");
            poller.register(SocketChannel::new(one).expect("a stream"));
            other
        })
        .collect();
    let mut events = Vec::new();
    poller.poll_into(&mut events, Wait::Never).expect("nothing");
    let mut samples = Vec::new();
    for sample in 0..sample_count {
        let start = Instant::now();
        for n in 0..per_sample {
            // All over the place.
            let at = (sample * per_sample + n) * 7919 % sources;
            others[at].write_all(b"x").expect("a reader");
            assert_eq!(poller.poll_into(&mut events, SOON).expect("an event"), 1);
            events.clear();
        }
        samples.push(start.elapsed().as_nanos() as f64 / per_sample as f64);
    }
    samples
}

/// The same with nothing but `epoll` around the sockets: what the kernel takes for it.
fn one_of_bare(sources: usize, per_sample: usize, sample_count: usize) -> Vec<f64> {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    let mut pairs: Vec<(UnixStream, UnixStream)> = (0..sources)
        .map(|_| UnixStream::pair().expect("descriptors: see ulimit -n"))
        .collect();
    for (at, (here, _)) in pairs.iter().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
        epoll.add(here, event).expect("room in the epoll");
    }
    let (mut events, mut byte) = ([EpollEvent::empty(); 1], [0]);
    let mut samples = Vec::new();
    for sample in 0..sample_count {
        let start = Instant::now();
        for n in 0..per_sample {
            let at = (sample * per_sample + n) * 7919 % sources;
            pairs[at].1.write_all(b"x").expect("a reader");
            assert_eq!(epoll.wait(&mut events, EpollTimeout::NONE).expect("an event"), 1);
            let ready = events[0].data() as usize;
            pairs[ready].0.read_exact(&mut byte).expect("a byte");
        }
        samples.push(start.elapsed().as_nanos() as f64 / per_sample as f64);
    }
    samples
}

/// Two descriptors a source, and some.
fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8300.min(hard)), hard).expect("within the hard limit");
}

fn sources() {
    raise_limit();
    println!("one event (write a byte, poll, read it), by how many sources are registered:");
    let counts = [1, 10, 100, 1000, 4000];
    let mut samples = counts.map(|_| [Vec::new(), Vec::new()]);
    for _ in 0..3 {
        for ([ours, bare], count) in samples.iter_mut().zip(counts) {
            ours.extend(one_of(count, 500, 40));
            bare.extend(one_of_bare(count, 500, 40));
        }
    }
    println!(
        "  {:<14} {:>22} {:>22} {:>22}   ns: median (10th to 90th percentile)",
        "", "poller", "bare epoll", "poller minus bare"
    );
    let mut medians = Vec::new();
    for ([ours, bare], count) in samples.into_iter().zip(counts) {
        // Round by round: what the machine did meanwhile, it did to both.
        let beyond = ours.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
        let cells = [ours, bare, beyond].map(spread);
        let texts = cells.map(|(median, low, high)| format!("{median:.0} ({low:.0} to {high:.0})"));
        println!(
            "  {count:>6} sources {:>22} {:>22} {:>22}",
            texts[0], texts[1], texts[2]
        );
        medians.push(cells.map(|(median, ..)| median));
    }
    if let [few, .., many] = &medians[..] {
        println!(
            "  4,000 to 1: {:.2}, bare epoll {:.2}",
            many[0] / few[0],
            many[1] / few[1]
        );
    }
}

// ---------------------------------------------------------------------------------------------------------------- fair

/// Who is always ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nobody,
    Full(Over, Buffering),
    Queue,
}

/// Milliseconds from writing a tick to having it from the poller, sorted, with somebody beside it; and MB/s from there meanwhile. A tick comes each
/// millisecond, from a thread that has nothing else to do.
fn ticks(beside: Beside, count: usize) -> (Vec<f64>, f64) {
    let mut poller = Poller::new().expect("a poller");
    let (near, far) = UnixStream::pair().expect("a pair");
    let ticking = poller.register(SocketChannel::new(near).expect("a stream"));
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let busy = match beside {
        Beside::Nobody => None,
        Beside::Full(kind, buffering) => {
            let (faucet, sink) = descriptors(kind);
            match kind {
                Over::Socket => {
                    let socket = SocketChannel::new(faucet).expect("a stream");
                    poller.register(socket.with_buffering(buffering))
                }
                Over::Pipe => poller.register(PipeChannel::reading(faucet).with_buffering(buffering)),
            };
            Some(std::thread::spawn(move || {
                let (mut sink, chunk) = (std::fs::File::from(sink), LINE.repeat(1024));
                while !over.load(Ordering::Relaxed) && sink.write_all(&chunk).is_ok() {}
            }))
        }
        Beside::Queue => {
            let queue = Queue::options().capacity(1 << 20).anonymous().expect("memory");
            let mut writer = queue.writer("w").expect("a slot");
            poller.register(QueueChannel::reading(queue.reader().expect("a slot")).expect("descriptors"));
            Some(std::thread::spawn(move || {
                let wait = Wait::For(Duration::from_millis(10));
                while !over.load(Ordering::Relaxed) {
                    let _ = writer.append("data", &LINE, wait);
                }
            }))
        }
    };
    let start = Instant::now();
    let clock = std::thread::spawn(move || {
        let mut far = far;
        for _ in 0..count {
            std::thread::sleep(Duration::from_millis(1));
            let now = start.elapsed().as_nanos() as u64;
            far.write_all(&now.to_le_bytes()).expect("a reader");
        }
    });
    let (mut events, mut delays, mut bytes) = (Vec::new(), Vec::with_capacity(count), 0);
    while delays.len() < count {
        poller.poll_into(&mut events, SOON).expect("events");
        // Those of one poll are handled in their order, as a program would.
        for event in events.drain(..) {
            match event.what {
                What::Data(data) if event.source == ticking => {
                    let now = start.elapsed().as_nanos() as u64;
                    for sent in data.chunks_exact(8) {
                        let sent = u64::from_le_bytes(sent.try_into().expect("eight"));
                        delays.push((now - sent) as f64 / 1e6);
                    }
                }
                What::Data(data) => bytes += data.len(),
                What::Line(line) => bytes += line.bytes.len(),
                other => panic!("{other:?}"),
            }
        }
    }
    let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e6;
    is_over.store(true, Ordering::Relaxed);
    drop(poller);
    clock.join().expect("it has ticked");
    if let Some(busy) = busy {
        busy.join().expect("it has ended");
    }
    delays.sort_by(f64::total_cmp);
    (delays, rate)
}

fn fair() {
    const TICKS: usize = 1500;
    println!(
        "a tick each millisecond, beside a source that is always ready: milliseconds until it is served, {TICKS} ticks"
    );
    println!(
        "  {:<28} {:>8} {:>8} {:>8} {:>8}   beside it",
        "", "median", "90 %", "99 %", "worst"
    );
    for (name, beside) in [
        ("nobody", Beside::Nobody),
        ("a full pipe, bytes", Beside::Full(Over::Pipe, Buffering::Bytes)),
        ("a full pipe, lines", Beside::Full(Over::Pipe, Buffering::lines())),
        ("a full socket, bytes", Beside::Full(Over::Socket, Buffering::Bytes)),
        ("a full socket, lines", Beside::Full(Over::Socket, Buffering::lines())),
        ("a full queue", Beside::Queue),
    ] {
        let (delays, rate) = ticks(beside, TICKS);
        let at = |part: f64| delays[((delays.len() - 1) as f64 * part).round() as usize];
        println!(
            "  {name:<28} {:>8.3} {:>8.3} {:>8.3} {:>8.3}   {rate:.0} MB/s",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
}

// --------------------------------------------------------------------------------------------------------------- queue

/// Microseconds for a question and its answer between two threads, each with a poller.
fn round_trips(here: impl Channel, there: impl Channel, count: usize) -> f64 {
    let answering = std::thread::spawn(move || {
        let mut poller = Poller::new().expect("a poller");
        let token = poller.register(there);
        loop {
            for event in poller.poll(SOON).expect("events") {
                match event.what {
                    What::Data(data) => poller
                        .channel(token)
                        .expect("it is registered")
                        .write(&data, SOON)
                        .expect("room"),
                    _ => return,
                }
            }
        }
    });
    let mut poller = Poller::new().expect("a poller");
    let token = poller.register(here);
    let start = Instant::now();
    for _ in 0..count {
        let channel = poller.channel(token).expect("it is registered");
        channel.write(&LINE, SOON).expect("room");
        let events = poller.poll(SOON).expect("an answer");
        assert!(matches!(&events[..], [event] if matches!(event.what, What::Data(_))));
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / count as f64;
    poller
        .channel(token)
        .expect("it is registered")
        .shutdown_write()
        .expect("room");
    answering.join().expect("it has answered");
    each
}

/// Messages per second from one thread to another, through channels or through the queue itself.
fn messages(count: usize, how: How) -> f64 {
    let queue = Queue::options().capacity(1 << 20).anonymous().expect("memory");
    let (mut reader, mut writer) = (queue.reader().expect("a slot"), queue.writer("w").expect("a slot"));
    let start = Instant::now();
    let writing = std::thread::spawn(move || match how {
        How::Bare => {
            for _ in 0..count {
                writer.append("data", &LINE, SOON).expect("room");
            }
        }
        _ => {
            let mut channel = QueueChannel::writing(writer).expect("descriptors");
            for _ in 0..count {
                channel.write(&LINE, SOON).expect("room");
            }
            assert!(channel.finish(SOON).expect("room"));
        }
    });
    match how {
        How::Bare => {
            for _ in 0..count {
                reader.pop(SOON).expect("a whole queue").expect("a message");
            }
        }
        How::Channel => {
            let mut channel = QueueChannel::reading(reader).expect("descriptors");
            while channel.read(SOON).expect("a whole queue") != Input::End {}
        }
        How::Poller => {
            let mut poller = Poller::new().expect("a poller");
            poller.register(QueueChannel::reading(reader).expect("descriptors"));
            let (mut events, mut is_over) = (Vec::new(), false);
            while !is_over {
                poller.poll_into(&mut events, SOON).expect("events");
                is_over = events.drain(..).any(|event| matches!(event.what, What::End));
            }
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    writing.join().expect("it has written");
    rate
}

#[derive(Clone, Copy)]
enum How {
    Bare,
    Channel,
    Poller,
}

fn queue() {
    println!("64 bytes there and back, a thread with a poller at either end:");
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let [one, other] = [(), ()].map(|()| Queue::options().anonymous().expect("memory"));
        let channel = |reads: &Queue, writes: &Queue| {
            QueueChannel::new(reads.reader().expect("a slot"), writes.writer("w").expect("a slot"))
                .expect("descriptors")
        };
        samples[0].push(round_trips(channel(&one, &other), channel(&other, &one), 2000));
        let (one, other) = SocketChannel::pair().expect("descriptors");
        samples[1].push(round_trips(one, other, 2000));
    }
    let [queues, sockets] = samples;
    print("two queues, by their doorbells", queues, "us");
    print("a socket pair", sockets, "us");
    println!("messages of 64 bytes through a queue, one thread to another:");
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (samples, how) in samples.iter_mut().zip([How::Poller, How::Channel, How::Bare]) {
            samples.push(messages(300_000, how) / 1e6);
        }
    }
    let [poller, channel, bare] = samples;
    print("channels, read by a poller", poller, "M/s");
    print("channels, read one by one", channel, "M/s");
    print("append and pop", bare, "M/s");
}
