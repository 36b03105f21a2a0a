//! The ends of pumps and what goes through them.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use syncq::Wait;
use syncq::channel::{PipeChannel, SocketChannel};
use syncq::pump::{EventLoop, Outcome, Pump};

/// Bytes that this thread has read and written by copying.
pub fn copied() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    number("rchar:") + number("wchar:")
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n as u64 * 2_654_435_761) >> 13) as u8).collect()
}

/// Pumps `bytes` through and returns what came out, how it went, and how much was copied.
pub fn pumped(
    source: impl syncq::channel::Channel,
    into: impl Write + Send + 'static,
    sink: impl syncq::channel::Channel,
    out: impl Read + Send + 'static,
    bytes: &[u8],
) -> (Vec<u8>, Outcome, u64) {
    let writer = write_from_a_thread(into, bytes);
    let reader = read_in_a_thread(out);
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add(source), events.add(sink));
    pump.start();
    let before = copied();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let copied = copied() - before;
    drop(events);
    writer.join().unwrap();
    (reader.join().unwrap(), outcome, copied)
}

pub fn write_from_a_thread(mut into: impl Write + Send + 'static, bytes: &[u8]) -> JoinHandle<()> {
    let mine = bytes.to_vec();
    thread::spawn(move || into.write_all(&mine).unwrap())
}

pub fn read_in_a_thread(mut out: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = vec![];
        out.read_to_end(&mut all).unwrap();
        all
    })
}

pub fn pipe() -> (PipeChannel, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    (PipeChannel::reading(OwnedFd::from(reader)), writer)
}

pub fn pipe_to() -> (PipeChannel, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    (PipeChannel::writing(OwnedFd::from(writer)), reader)
}

/// A Unix socket that does not block, as the pump's end, and its other end.
pub fn socket() -> (SocketChannel, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    (SocketChannel::new(here).unwrap(), there)
}

/// As [`read_in_a_thread`], so much at once, with a rest after each.
pub fn read_slowly(mut out: impl Read + Send + 'static, at_once: usize, rest: Duration) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut all, mut part) = (vec![], vec![0; at_once]);
        loop {
            match out.read(&mut part).unwrap() {
                0 => return all,
                len => all.extend(&part[..len]),
            }
            thread::sleep(rest);
        }
    })
}
