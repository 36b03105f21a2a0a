//! Where somebody looks, where both ends are sockets, and where one stream goes into several sinks, large pieces go through a pipe in between:
//! that nothing but the speed differs.

mod pump_ends;
mod support;

use pump_ends::{copied, pattern, pipe, pipe_to, pumped, read_in_a_thread, read_slowly, socket, write_from_a_thread};
use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use support::{forked, minute};
use syncq::Wait;
use syncq::channel::{Buffering, Channel, ChannelError, Input, Marks, PipeChannel, SocketChannel};
use syncq::pump::{EventLoop, Pump, PumpError, ReadStream, Tee, WriteStream};

/// A pump over these, that keeps what it was shown.
fn shown(pump: Pump) -> (Pump, Rc<RefCell<Vec<u8>>>) {
    let seen = Rc::new(RefCell::new(Vec::<u8>::new()));
    let into = seen.clone();
    let pump = pump.inspect(move |item| into.borrow_mut().extend(item.bytes()));
    (pump, seen)
}

#[test]
fn who_looks_sees_all_that_is_moved_and_it_is_copied_once() {
    let _watchdog = minute();
    let bytes = pattern(20 << 20);
    for is_socket in [false, true] {
        let ((source, into), (sink, out)) = (pipe(), pipe_to());
        let events = EventLoop::new().unwrap();
        let mut reader = None;
        let sink = match is_socket {
            false => {
                reader = Some(read_in_a_thread(out));
                events.add(sink)
            }
            true => {
                let (sink, out) = socket();
                reader.replace(read_in_a_thread(out));
                events.add(sink)
            }
        };
        let (pump, seen) = shown(Pump::new(events.add(source), sink));
        let writer = write_from_a_thread(into, &bytes);
        pump.start();
        let before = copied();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        let copied = copied() - before;
        outcome.result.unwrap();
        assert_eq!(outcome.bytes, bytes.len() as u64);
        drop(events);
        writer.join().unwrap();
        assert!(reader.unwrap().join().unwrap() == bytes);
        assert!(*seen.borrow() == bytes);
        // Twice would be 40 MiB.
        assert!(copied < 25 << 20, "{copied} bytes were copied");
    }
}

#[test]
fn from_socket_to_socket_nothing_is_copied_here_and_the_other_direction_stays_open() {
    let _watchdog = minute();
    let bytes = pattern(20 << 20);
    let ((source, into), (sink, mut out)) = (socket(), socket());
    let mut back = out.try_clone().unwrap();
    let answered = into.try_clone().unwrap();
    let events = EventLoop::new().unwrap();
    let (source, sink) = (events.add(source), events.add(sink));
    let there = Pump::new(source.clone(), sink.clone());
    let back_again = Pump::new(sink, source);
    there.start();
    back_again.start();
    let into = {
        let mine = bytes.clone();
        thread::spawn(move || {
            let mut into = into;
            into.write_all(&mine).unwrap();
            into.shutdown(std::net::Shutdown::Write).unwrap();
        })
    };
    let expected = bytes.clone();
    let out = thread::spawn(move || {
        let mut all = vec![];
        out.read_to_end(&mut all).unwrap();
        assert!(all == expected);
        // Only now, after the end of the one direction, the other one.
        back.write_all(&all).unwrap();
    });
    let answer = read_in_a_thread(answered);
    let before = copied();
    for pump in [there, back_again] {
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        outcome.result.unwrap();
        assert_eq!(outcome.bytes, bytes.len() as u64);
    }
    let copied = copied() - before;
    into.join().unwrap();
    out.join().unwrap();
    assert!(answer.join().unwrap() == bytes);
    assert!(copied < 4 << 20, "{copied} bytes were copied");
}

#[test]
fn a_tee_into_pipes_and_sockets_copies_nothing_and_each_gets_all_at_the_pace_of_the_slowest() {
    let _watchdog = minute();
    let bytes = pattern(10 << 20);
    let (source, into) = pipe();
    let [(first, from_first), (second, from_second)] = [pipe_to(), pipe_to()];
    let (third, from_third) = socket();
    let events = EventLoop::new().unwrap();
    let tee = Tee::new([events.add(first) as _, events.add(second) as _, events.add(third) as _]);
    let (pump, seen) = shown(Pump::new(events.add(source), tee));
    let writer = write_from_a_thread(into, &bytes);
    let readers = [read_in_a_thread(from_first), read_in_a_thread(from_third)];
    let slow = read_slowly(from_second, 50_001, Duration::from_millis(1));
    pump.start();
    let before = copied();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let copied = copied() - before;
    outcome.result.unwrap();
    assert_eq!(outcome.bytes, bytes.len() as u64);
    drop(events);
    writer.join().unwrap();
    assert!(slow.join().unwrap() == bytes);
    for reader in readers {
        assert!(reader.join().unwrap() == bytes);
    }
    assert!(*seen.borrow() == bytes);
    // What was shown, once, and not three times more.
    assert!(copied < 14 << 20, "{copied} bytes were copied");
}

#[test]
fn a_tee_that_lost_a_sink_in_the_middle_goes_on_with_the_others_if_it_was_told_so() {
    let _watchdog = minute();
    let bytes = pattern(6 << 20);
    for goes_on in [true, false] {
        let (source, mut into) = pipe();
        let [(first, mut from_first), (second, from_second)] = [pipe_to(), pipe_to()];
        let events = EventLoop::new().unwrap();
        let tee = Tee::new([events.add(first) as _, events.add(second) as _]).drop_failed(goes_on);
        let pump = Pump::new(events.add(source), tee.clone());
        let mine = bytes.clone();
        let writer = thread::spawn(move || into.write_all(&mine).is_ok());
        // The first one takes a little, and goes.
        let leaving = thread::spawn(move || {
            let mut some = vec![0; 1 << 20];
            from_first.read_exact(&mut some).unwrap();
            some
        });
        let reader = read_in_a_thread(from_second);
        pump.start();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        drop((events, pump));
        assert!(leaving.join().unwrap() == bytes[..1 << 20]);
        let came = reader.join().unwrap();
        assert!(bytes.starts_with(&came));
        assert!(tee.failures()[0].is_some() && tee.failures()[1].is_none());
        match goes_on {
            true => {
                outcome.result.unwrap();
                assert!(writer.join().unwrap());
                assert_eq!(came.len(), bytes.len());
                assert_eq!(outcome.bytes, bytes.len() as u64);
            }
            false => {
                assert!(
                    matches!(outcome.result, Err(PumpError::Sink(_))),
                    "{:?}",
                    outcome.result
                );
                writer.join().unwrap();
            }
        }
    }
}

#[test]
fn stopped_cancelled_or_paused_by_who_looks_what_was_shown_is_in_the_sink_and_no_more() {
    let _watchdog = minute();
    let bytes = pattern(8 << 20);
    for what in ["stop", "pause", "cancel"] {
        let ((source, into), (sink, out)) = (pipe(), pipe_to());
        let events = EventLoop::new().unwrap();
        let source = events.add(source);
        let handle: Rc<RefCell<Option<Pump>>> = Rc::default();
        let seen = Rc::new(RefCell::new(Vec::<u8>::new()));
        let (of_handle, into_seen, of_source) = (handle.clone(), seen.clone(), source.clone());
        let calls = Cell::new(0u32);
        let pump = Pump::new(source.clone(), events.add(sink))
            .end_on_failure(false)
            .inspect(move |item| {
                into_seen.borrow_mut().extend(item.bytes());
                calls.set(calls.get() + 1);
                if calls.get().is_multiple_of(7) {
                    match what {
                        "stop" => of_handle.borrow().as_ref().unwrap().stop(),
                        "cancel" => of_handle.borrow().as_ref().unwrap().cancel(),
                        _ => of_source.pause(),
                    }
                }
            });
        *handle.borrow_mut() = Some(pump.clone());
        let writer = {
            let (mine, mut into) = (bytes.clone(), into);
            thread::spawn(move || into.write_all(&mine).is_ok())
        };
        let reader = read_in_a_thread(out);
        pump.start();
        let mut halts = 0;
        let outcome = loop {
            if let Some(outcome) = pump.outcome() {
                break outcome;
            }
            if events.step(Duration::from_millis(5)).unwrap() == 0 && (!pump.is_running() || source.is_paused()) {
                halts += 1;
                // All that was shown was handed over.
                assert_eq!(pump.bytes_pumped(), seen.borrow().len() as u64);
                source.resume();
                pump.start();
            }
        };
        while events.step(Wait::Never).unwrap() > 0 {}
        assert_eq!(outcome.bytes, seen.borrow().len() as u64, "{what}");
        *handle.borrow_mut() = None;
        drop((pump, source));
        drop(events);
        let was_read = writer.join().unwrap();
        let came = reader.join().unwrap();
        assert!(came == *seen.borrow(), "{what}");
        match what {
            "cancel" => {
                assert!(matches!(outcome.result, Err(PumpError::Cancelled)));
                assert!(bytes.starts_with(&came) && came.len() < bytes.len());
            }
            _ => {
                outcome.result.unwrap();
                assert!(was_read && came == bytes);
                assert!(halts > 3, "{what}: {halts}");
            }
        }
    }
}

#[test]
fn stopped_and_started_at_random_with_a_slow_reader_nothing_is_lost_or_shown_twice() {
    let _watchdog = minute();
    let bytes = pattern(12 << 20);
    let ((source, into), (sink, out)) = (socket(), socket());
    let events = EventLoop::new().unwrap();
    let (pump, seen) = shown(Pump::new(events.add(source), events.add(sink)));
    let writer = write_from_a_thread(into, &bytes);
    let reader = read_slowly(out, 150_000, Duration::from_micros(100));
    pump.start();
    let mut random = 88_172_645_463_325_252u64;
    let mut stops = 0;
    while pump.outcome().is_none() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        events.step(Duration::from_micros(random % 500)).unwrap();
        if random.is_multiple_of(2) && pump.is_running() {
            pump.stop();
            assert_eq!(pump.bytes_pumped(), seen.borrow().len() as u64);
            stops += 1;
        } else {
            pump.start();
        }
    }
    let outcome = pump.outcome().unwrap();
    outcome.result.unwrap();
    assert_eq!(outcome.bytes, bytes.len() as u64);
    drop((pump, events));
    writer.join().unwrap();
    assert!(reader.join().unwrap() == bytes);
    assert!(*seen.borrow() == bytes);
    // A step moves 1 MiB at most.
    assert!(stops > 1, "{stops}");
}

#[test]
fn a_source_that_is_reset_fails_as_reset_whichever_way_its_bytes_go() {
    let _watchdog = minute();
    for looks in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let (sink, out) = pipe_to();
        let reader = read_in_a_thread(out);
        let events = EventLoop::new().unwrap();
        let mut pump = Pump::new(events.add(SocketChannel::new(server).unwrap()), events.add(sink));
        if looks {
            pump = pump.inspect(|_| ());
        }
        pump.start();
        client.write_all(&vec![1; 1 << 20]).unwrap();
        while pump.bytes_pumped() < 1 << 20 {
            events.step(Wait::Forever).unwrap();
        }
        nix::sys::socket::setsockopt(
            &client,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )
        .unwrap();
        drop(client);
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        match &outcome.result {
            Err(PumpError::Source(error)) => {
                assert!(
                    matches!(error.channel_error(), Some(ChannelError::Reset)),
                    "{looks} {error}"
                );
            }
            other => panic!("{looks}: {other:?}"),
        }
        drop(events);
        assert_eq!(reader.join().unwrap().len(), 1 << 20);
    }
}

#[test]
fn a_sink_that_goes_away_fails_the_pump_and_no_more_than_a_piece_is_gone() {
    let _watchdog = minute();
    let bytes = pattern(8 << 20);
    let ((source, into), (sink, mut out)) = (socket(), socket());
    let events = EventLoop::new().unwrap();
    let source = events.add(source);
    let pump = Pump::new(source.clone(), events.add(sink));
    let writer = write_from_a_thread(into, &bytes);
    let leaving = thread::spawn(move || {
        let mut some = vec![0; 3 << 20];
        out.read_exact(&mut some).unwrap();
        some
    });
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(
        matches!(outcome.result, Err(PumpError::Sink(_))),
        "{:?}",
        outcome.result
    );
    assert!(leaving.join().unwrap() == bytes[..3 << 20]);
    // What comes behind it is still in the source, for somebody else.
    let (sink, out) = pipe_to();
    let reader = read_in_a_thread(out);
    let rest = Pump::new(source, events.add(sink));
    rest.start();
    rest.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    writer.join().unwrap();
    let rest = reader.join().unwrap();
    assert!(bytes.ends_with(&rest));
    let gone = bytes.len() - rest.len() - usize::try_from(outcome.bytes).unwrap();
    assert!(gone <= 256 << 10, "{gone} bytes are gone");
}

#[test]
fn a_process_with_the_default_sigpipe_survives_a_pump_into_a_dead_socket() {
    let _watchdog = minute();
    let ((source, mut into), (sink, out)) = (pipe(), socket());
    into.write_all(&pattern(50_000)).unwrap();
    drop(out);
    forked(move || {
        // SAFETY: a plain system call in a child that does nothing else.
        unsafe { nix::libc::signal(nix::libc::SIGPIPE, nix::libc::SIG_DFL) };
        let events = EventLoop::new().unwrap();
        let pump = Pump::new(events.add(source), events.add(sink));
        pump.start();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        i32::from(!matches!(outcome.result, Err(PumpError::Sink(_))))
    })
    .must_succeed();
}

/// A channel whose bytes are not those of its descriptor.
#[derive(Debug)]
struct Upper(PipeChannel);

impl Channel for Upper {
    fn try_read(&mut self) -> Result<Input, ChannelError> {
        Ok(match self.0.try_read()? {
            Input::Data(bytes) => Input::Data(bytes.to_ascii_uppercase()),
            other => other,
        })
    }
    fn enqueue(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        self.0.enqueue(chunks)
    }
    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        self.0.try_write(bytes)
    }
    fn try_flush(&mut self) -> Result<bool, ChannelError> {
        self.0.try_flush()
    }
    fn queued(&self) -> usize {
        self.0.queued()
    }
    fn is_full(&self) -> bool {
        self.0.is_full()
    }
    fn marks(&self) -> Marks {
        self.0.marks()
    }
    fn set_marks(&mut self, marks: Marks) {
        self.0.set_marks(marks);
    }
    fn buffering(&self) -> Buffering {
        self.0.buffering()
    }
    fn set_buffering(&mut self, buffering: Buffering) {
        self.0.set_buffering(buffering);
    }
    fn set_read_limit(&mut self, bytes: usize) {
        self.0.set_read_limit(bytes);
    }
    fn has_buffered(&self) -> bool {
        self.0.has_buffered()
    }
    fn shutdown_write(&mut self) -> Result<(), ChannelError> {
        self.0.shutdown_write()
    }
    fn close(&mut self) {
        self.0.close();
    }
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.read_fd()
    }
    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.write_fd()
    }
}

#[test]
fn a_channel_of_the_users_own_is_read_and_written_by_its_own_methods() {
    let _watchdog = minute();
    let (reader, into) = std::io::pipe().unwrap();
    let source = Upper(PipeChannel::reading(OwnedFd::from(reader)));
    let (sink, out) = pipe_to();
    let bytes = b"whatever".repeat(100_000);
    let (came, outcome, _) = pumped(source, into, sink, out, &bytes);
    outcome.result.unwrap();
    assert!(came == bytes.to_ascii_uppercase());
}

#[test]
fn items_are_no_larger_than_what_the_source_reads_at_once() {
    let _watchdog = minute();
    for limit in [1000, 40 << 10, 64 << 10] {
        let bytes = pattern(2 << 20);
        let ((mut source, into), (sink, out)) = (pipe(), pipe_to());
        source.set_read_limit(limit);
        let events = EventLoop::new().unwrap();
        let most = Rc::new(Cell::new(0));
        let seen = most.clone();
        let pump = Pump::new(events.add(source), events.add(sink) as Rc<dyn WriteStream>)
            .inspect(move |item| seen.set(seen.get().max(item.bytes().len())));
        let (writer, reader) = (write_from_a_thread(into, &bytes), read_in_a_thread(out));
        pump.start();
        pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
        drop(events);
        writer.join().unwrap();
        assert!(reader.join().unwrap() == bytes);
        assert!(
            most.get() <= limit && most.get() >= limit / 2,
            "{} of {limit}",
            most.get()
        );
    }
}
