//! What a pump moves, next to bare loops and to the Python library `channels` in the same run.
//!
//! `cargo bench --bench pump` does all; `-- pipes`, `-- sockets`, `-- tee` or `-- queues` one part. Rounds of what is compared take turns; printed are the median, the 10th to
//! 90th percentile and the ratios. The Python package is installed into an environment under `target/`; without it, its row is left out and that is
//! said. For other tools: `-- loop splice|looks|queue AMOUNT` is one plain run (`strace -f -c`), in MiB or messages.

#[path = "../tests/support/python.rs"]
mod python;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use syncq::channel::{Channel, PipeChannel, QueueChannel, SocketChannel};
use syncq::pump::{EventLoop, Pump, Tee, WriteStream};
use syncq::{Buffer, Queue, Wait};

const ROUNDS: usize = 11;
const CHUNK: usize = 64 << 10;
const MIB: usize = 1 << 20;

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
        ["loop", way, amount] => {
            let amount: usize = amount.parse().expect("a number");
            match way {
                "splice" => println!("{:.2} GB/s", through(Way::Pump, amount * MIB)),
                "looks" => println!("{:.2} GB/s", through(Way::PumpThatLooks, amount * MIB)),
                _ => println!("{:.2} M messages/s", queue_to_queue(amount as u64)),
            }
        }
        ["pipes"] => pipes(),
        ["sockets"] => sockets(),
        ["tee"] => tee(),
        ["queues"] => queues(),
        _ => {
            pipes();
            sockets();
            tee();
            queues();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Copy,
    CopyThroughLargePipes,
    Pump,
    Loop,
    LoopThroughLargePipes,
    PumpThatLooks,
    Python,
}

/// GB/s from one thread through a pipe, the way, and a pipe to another thread.
fn through(way: Way, bytes: usize) -> f64 {
    let (source, start) = std::io::pipe().expect("a pipe");
    let (end, sink) = std::io::pipe().expect("a pipe");
    if matches!(way, Way::CopyThroughLargePipes | Way::LoopThroughLargePipes) {
        use nix::fcntl::{FcntlArg, fcntl};
        let large = FcntlArg::F_SETPIPE_SZ(1 << 20);
        if fcntl(&source, large).is_err() || fcntl(&sink, FcntlArg::F_SETPIPE_SZ(1 << 20)).is_err() {
            return f64::NAN;
        }
    }
    let writer = writer(start, bytes);
    let reader = reader(end);
    let begin = Instant::now();
    run(way, source, sink);
    assert_eq!(reader.join().expect("the reader"), bytes);
    let took = begin.elapsed();
    writer.join().expect("the writer");
    bytes as f64 / took.as_secs_f64() / 1e9
}

/// A thread that writes so much.
fn writer(mut start: impl Write + Send + 'static, bytes: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        let chunk = vec![7; CHUNK];
        for _ in 0..bytes / CHUNK {
            start.write_all(&chunk).expect("it is read");
        }
    })
}

/// A thread that reads to the end and says how much that was.
fn reader(mut end: impl Read + Send + 'static) -> JoinHandle<usize> {
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        let mut all = 0;
        loop {
            match end.read(&mut chunk).expect("it can be read") {
                0 => return all,
                len => all += len,
            }
        }
    })
}

/// 64 KiB read, and written into each of these.
fn copy_loop(mut source: impl Read, sinks: &mut [impl Write]) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk).expect("it can be read") {
            0 => return,
            len => {
                for sink in &mut *sinks {
                    sink.write_all(&chunk[..len]).expect("it is read");
                }
            }
        }
    }
}

/// Pumps to the end.
fn pump(events: &EventLoop, source: impl Channel, sink: Rc<dyn WriteStream>, looks: bool) {
    let mut pump = Pump::new(events.add(source), sink);
    if looks {
        pump = pump.inspect(|item| assert_eq!(item.bytes().first(), Some(&7)));
    }
    pump.start();
    let outcome = pump.run(events, Wait::Forever).expect("epoll").expect("for ever");
    outcome.result.expect("nothing fails");
}

fn run(way: Way, mut source: PipeReader, mut sink: PipeWriter) {
    match way {
        Way::Copy | Way::CopyThroughLargePipes => drop(std::io::copy(&mut source, &mut sink).expect("it is read")),
        Way::Loop | Way::LoopThroughLargePipes => copy_loop(source, &mut [sink]),
        Way::Pump | Way::PumpThatLooks => {
            let events = EventLoop::new().expect("descriptors");
            let sink = events.add(PipeChannel::writing(OwnedFd::from(sink)));
            let source = PipeChannel::reading(OwnedFd::from(source));
            pump(&events, source, sink, way == Way::PumpThatLooks);
        }
        Way::Python => {
            let environment = environment().expect("asked before");
            let status = environment
                .python()
                .args(["-c", PYTHON])
                .stdin(Stdio::from(source))
                .stdout(Stdio::from(sink))
                .status();
            assert!(status.expect("it starts").success());
        }
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

const PYTHON: &str = "
from channels import EndpointClosedException, PipeChannel
from channels.poller import Poller
source, sink, poller = PipeChannel(faucet=0), PipeChannel(sink=1), Poller()
poller.register(source)
while True:
    for data, channel in poller.poll():
        if not data:
            raise SystemExit
        sink.write(data)
";

fn pipes() {
    const BYTES: usize = 512 * MIB;
    println!("pipe to pipe, 512 MiB in chunks of 64 KiB, GB/s: median of {ROUNDS} rounds (10th to 90th percentile)");
    let mut ways = vec![
        (Way::Copy, "std::io::copy (splice)"),
        (Way::CopyThroughLargePipes, "the same, pipes of 1 MiB"),
        (Way::Pump, "pump, nobody looks"),
        (Way::Loop, "loop of read and write, 64 KiB"),
        (Way::LoopThroughLargePipes, "the same, pipes of 1 MiB"),
        (Way::PumpThatLooks, "pump, somebody looks"),
    ];
    if environment().is_some() {
        ways.push((Way::Python, "Python library channels, poller and pipes"));
    }
    let samples = rounds(&ways, |way| through(way, BYTES));
    ratios("nobody looks, to std::io::copy", &samples[2], &samples[0]);
    ratios(
        "nobody looks, to std::io::copy with large pipes",
        &samples[2],
        &samples[1],
    );
    ratios("somebody looks, to the loop", &samples[5], &samples[3]);
    ratios("somebody looks, to the loop with large pipes", &samples[5], &samples[4]);
    if let Some(python) = samples.get(6) {
        ratios("nobody looks, to Python", &samples[2], python);
        ratios("somebody looks, to Python", &samples[5], python);
    }
}

/// GB/s from one thread through a Unix socket, the way, and a Unix socket to another thread.
fn through_sockets(way: Way, bytes: usize) -> f64 {
    let pair = || UnixStream::pair().expect("descriptors");
    let ((mut source, start), (mut sink, end)) = (pair(), pair());
    let (writer, reader) = (writer(start, bytes), reader(end));
    let begin = Instant::now();
    match way {
        Way::Copy => {
            std::io::copy(&mut source, &mut sink).expect("it is read");
            drop(sink);
        }
        Way::Loop => copy_loop(source, &mut [sink]),
        _ => {
            // As those are that this library has connected or accepted.
            sink.set_nonblocking(true).expect("a socket");
            let events = EventLoop::new().expect("descriptors");
            let sink = events.add(SocketChannel::new(sink).expect("a stream"));
            let source = SocketChannel::new(source).expect("a stream");
            pump(&events, source, sink, way == Way::PumpThatLooks);
        }
    }
    assert_eq!(reader.join().expect("the reader"), bytes);
    let took = begin.elapsed();
    writer.join().expect("the writer");
    bytes as f64 / took.as_secs_f64() / 1e9
}

fn sockets() {
    println!(
        "Unix socket to Unix socket, 512 MiB in chunks of 64 KiB, GB/s: median of {ROUNDS} rounds (10th to 90th percentile)"
    );
    let ways = [
        (Way::Copy, "std::io::copy"),
        (Way::Loop, "loop of read and write, 64 KiB"),
        (Way::Pump, "pump, nobody looks"),
        (Way::PumpThatLooks, "pump, somebody looks"),
    ];
    let samples = rounds(&ways, |way| through_sockets(way, 512 * MIB));
    ratios("nobody looks, to std::io::copy", &samples[2], &samples[0]);
    ratios("nobody looks, to the loop", &samples[2], &samples[1]);
    ratios("somebody looks, to the loop", &samples[3], &samples[1]);
}

/// GB/s from one thread through a pipe, the way, and each of two pipes to a thread of its own.
fn through_tee(way: Way, bytes: usize) -> f64 {
    let (source, start) = std::io::pipe().expect("a pipe");
    let pipes = [(), ()].map(|()| std::io::pipe().expect("a pipe"));
    let (ends, mut sinks): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let writer = writer(start, bytes);
    let readers: Vec<_> = ends.into_iter().map(reader).collect();
    let begin = Instant::now();
    match way {
        Way::Loop => {
            copy_loop(source, &mut sinks);
            drop(sinks);
        }
        _ => {
            let events = EventLoop::new().expect("descriptors");
            let sinks = sinks
                .into_iter()
                .map(|sink| events.add(PipeChannel::writing(OwnedFd::from(sink))) as _);
            let tee = Tee::new(sinks.collect::<Vec<_>>());
            pump(&events, PipeChannel::reading(OwnedFd::from(source)), tee, false);
        }
    }
    for reader in readers {
        assert_eq!(reader.join().expect("the reader"), bytes);
    }
    let took = begin.elapsed();
    writer.join().expect("the writer");
    bytes as f64 / took.as_secs_f64() / 1e9
}

fn tee() {
    println!(
        "pipe to two pipes, 512 MiB in chunks of 64 KiB, GB/s: median of {ROUNDS} rounds (10th to 90th percentile)"
    );
    let ways = [
        (Way::Loop, "loop of read and two writes, 64 KiB"),
        (Way::Pump, "pump into a tee"),
    ];
    let samples = rounds(&ways, |way| through_tee(way, 512 * MIB));
    ratios("the tee, to the loop", &samples[1], &samples[0]);
}

/// Each of these in turn, so many times; prints the medians.
fn rounds(ways: &[(Way, &str)], measure: impl Fn(Way) -> f64) -> Vec<Vec<f64>> {
    let mut samples = vec![vec![]; ways.len()];
    for _ in 0..ROUNDS {
        for ((way, _), samples) in ways.iter().zip(&mut samples) {
            samples.push(measure(*way));
        }
    }
    for ((_, name), samples) in ways.iter().zip(&samples) {
        print(name, samples);
    }
    samples
}

/// Round by round: what the machine did meanwhile, it did to both.
fn ratios(what: &str, ours: &[f64], theirs: &[f64]) {
    let (median, low, high) = spread(ours.iter().zip(theirs).map(|(a, b)| a / b).collect());
    println!("  {what}: {median:.2} times ({low:.2} to {high:.2})");
}

fn print(what: &str, samples: &[f64]) {
    let (median, low, high) = spread(samples.to_vec());
    println!("  {what:<44} {median:>7.2}   ({low:.2} to {high:.2})");
}

/// Median, and 10th and 90th percentile.
fn spread(mut samples: Vec<f64>) -> (f64, f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.1), at(0.9))
}

/// Millions of messages of 64 bytes a second, from a writer through a queue, a pump and a queue to a reader; three threads.
fn queue_to_queue(messages: u64) -> f64 {
    let queue = || Queue::options().capacity(1 << 20).anonymous().expect("memory");
    let (from, to) = (queue(), queue());
    let source = QueueChannel::reading(from.reader().expect("a slot")).expect("descriptors");
    let sink = QueueChannel::writing(to.writer("pump").expect("a slot")).expect("descriptors");
    let mut writer = from.writer("writer").expect("a slot");
    let mut reader = to.reader().expect("a slot");
    let begin = Instant::now();
    let producer = thread::spawn(move || {
        for n in 0..messages {
            let mut body = [0; 64];
            body[..8].copy_from_slice(&n.to_le_bytes());
            writer.append("m", &body, Wait::Forever).expect("it is read");
        }
        writer
            .append(QueueChannel::END_KIND, b"", Wait::Forever)
            .expect("it is read");
    });
    let consumer = thread::spawn(move || {
        let mut buffer = Buffer::new();
        for n in 0..messages {
            let message = reader
                .pop_into(&mut buffer, Duration::from_secs(60))
                .expect("it is fine");
            let message = message.expect("it comes");
            assert_eq!(message.body()[..8], n.to_le_bytes());
        }
    });
    let events = EventLoop::new().expect("descriptors");
    let pump = Pump::new(events.add(source), events.add(sink));
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).expect("epoll").expect("for ever");
    outcome.result.expect("nothing fails");
    consumer.join().expect("the consumer");
    let took = begin.elapsed();
    producer.join().expect("the producer");
    messages as f64 / took.as_secs_f64() / 1e6
}

fn queues() {
    println!(
        "queue to queue, messages of 64 bytes, millions a second: median of {ROUNDS} rounds (10th to 90th percentile)"
    );
    let samples: Vec<f64> = (0..ROUNDS).map(|_| queue_to_queue(2_000_000)).collect();
    print("pump between two queues", &samples);
}
