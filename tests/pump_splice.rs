//! Where nobody looks, the kernel moves the bytes: that it does, and that nothing but the speed differs.

mod pump_ends;
mod support;

use pump_ends::{pattern, pipe, pipe_to, pumped};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use support::{folder, minute};
use syncq::Wait;
use syncq::channel::{PipeChannel, SocketChannel};
use syncq::pump::{EventLoop, Pump, PumpError};

#[test]
fn from_pipe_to_pipe_nothing_is_copied_here() {
    let _watchdog = minute();
    let bytes = pattern(20 << 20);
    let ((source, into), (sink, out)) = (pipe(), pipe_to());
    let (came, outcome, copied) = pumped(source, into, sink, out, &bytes);
    assert!(came == bytes);
    outcome.result.unwrap();
    assert_eq!(outcome.bytes, bytes.len() as u64);
    assert!(copied < 1 << 20, "{copied} bytes were copied");
}

#[test]
fn from_a_socket_to_a_pipe_and_from_a_pipe_to_a_non_blocking_socket_nothing_is_copied_here() {
    let _watchdog = minute();
    let bytes = pattern(4 << 20);
    let (here, there) = UnixStream::pair().unwrap();
    let (sink, out) = pipe_to();
    let source = SocketChannel::new(here).unwrap();
    let (came, outcome, copied) = pumped(source, there, sink, out, &bytes);
    outcome.result.unwrap();
    assert!(came == bytes);
    assert!(copied < 1 << 19, "{copied} bytes were copied");

    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let (source, into) = pipe();
    let sink = SocketChannel::new(here).unwrap();
    let (came, outcome, copied) = pumped(source, into, sink, there, &bytes);
    outcome.result.unwrap();
    assert!(came == bytes);
    assert!(copied < 1 << 19, "{copied} bytes were copied");
}

#[test]
fn a_blocking_socket_that_nobody_reads_does_not_stop_the_loop() {
    let _watchdog = minute();
    let (here, there) = UnixStream::pair().unwrap();
    let (source, mut into) = pipe();
    let events = EventLoop::new().unwrap();
    let stuck = Pump::new(events.add(source), events.add(SocketChannel::new(here).unwrap()));
    stuck.start();
    let writer = thread::spawn(move || into.write_all(&pattern(4 << 20)));
    // Another pump in the same loop goes on.
    let ((source, mut into), (sink, mut out)) = (pipe(), pipe_to());
    let other = Pump::new(events.add(source), events.add(sink));
    other.start();
    into.write_all(b"goes on").unwrap();
    drop(into);
    other.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "goes on");
    drop(there);
    let outcome = stuck.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(matches!(outcome.result, Err(PumpError::Sink(_))), "{outcome:?}");
    drop(events);
    // Its reader has gone.
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn files_at_either_end_work_also_one_that_is_appended_to() {
    let _watchdog = minute();
    let folder = folder("splice");
    let bytes = pattern(3 << 20);
    let path = folder.0.join("file");
    for append in [false, true] {
        std::fs::write(&path, b"before").unwrap();
        let file = File::options()
            .write(true)
            .append(append)
            .truncate(!append)
            .open(&path)
            .unwrap();
        let (source, into) = pipe();
        let sink = PipeChannel::writing(file);
        let (_, outcome, _) = pumped(source, into, sink, std::io::empty(), &bytes);
        outcome.result.unwrap();
        let expected = match append {
            true => [&b"before"[..], &bytes].concat(),
            false => bytes.clone(),
        };
        assert!(std::fs::read(&path).unwrap() == expected);
        // And out of it again.
        let (sink, out) = pipe_to();
        let source = PipeChannel::reading(File::open(&path).unwrap());
        let (came, outcome, _) = pumped(source, std::io::sink(), sink, out, b"");
        outcome.result.unwrap();
        assert!(came == expected);
    }
    let (source, into) = pipe();
    let sink = PipeChannel::writing(File::options().write(true).open("/dev/null").unwrap());
    let (_, outcome, _) = pumped(source, into, sink, std::io::empty(), &bytes);
    outcome.result.unwrap();
    assert_eq!(outcome.bytes, bytes.len() as u64);
}

#[test]
fn a_reader_that_goes_away_is_the_sinks_failure_and_what_was_moved_is_counted() {
    let _watchdog = minute();
    let ((source, mut into), (sink, mut out)) = (pipe(), pipe_to());
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add(source), events.add(sink));
    pump.start();
    into.write_all(b"first").unwrap();
    while pump.bytes_pumped() < 5 {
        events.step(Wait::Forever).unwrap();
    }
    let mut five = [0; 5];
    out.read_exact(&mut five).unwrap();
    drop(out);
    into.write_all(b"second").unwrap();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(matches!(&outcome.result, Err(PumpError::Sink(error)) if error.channel_error().is_some()));
    assert_eq!(outcome.bytes, 5);
}

#[test]
fn stopped_in_the_middle_the_rest_stays_in_the_source() {
    let _watchdog = minute();
    let ((source, mut into), (sink, mut out)) = (pipe(), pipe_to());
    let events = EventLoop::new().unwrap();
    let source = events.add(source);
    let pump = Pump::new(source.clone(), events.add(sink)).end_on_failure(true);
    pump.start();
    into.write_all(b"pumped").unwrap();
    while pump.bytes_pumped() < 6 {
        events.step(Wait::Forever).unwrap();
    }
    pump.stop();
    into.write_all(b", kept").unwrap();
    while events.step(Wait::Never).unwrap() > 0 {}
    assert_eq!(pump.bytes_pumped(), 6);
    pump.start();
    drop(into);
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "pumped, kept");
}

#[test]
fn pipes_are_made_larger_where_that_is_allowed() {
    let _watchdog = minute();
    let ((source, _into), (sink, out)) = (pipe(), pipe_to());
    let size = |fd: &dyn Fn() -> usize| fd();
    let before = size(&|| rustix_pipe_size(&out));
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add(source), events.add(sink));
    pump.start();
    // Who may not have more goes on with what there is, and is not told.
    assert!(rustix_pipe_size(&out) >= before);
    assert!(pump.outcome().is_none());
}

fn rustix_pipe_size(pipe: &std::io::PipeReader) -> usize {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(pipe, FcntlArg::F_GETPIPE_SZ).unwrap() as usize
}
