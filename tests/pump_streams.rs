//! Pumps and streams over every kind of channel.

#[path = "channel_kinds/mod.rs"]
mod channel_kinds;
mod support;

use channel_kinds::{Kind, connect, pairs, queues};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use support::{minute, watchdog};
use syncq::channel::{
    Buffering, Channel, ChannelError, Fault, Input, PipeChannel, QueueChannel, SocketChannel, TestChannel,
};
use syncq::pump::{EventLoop, Item, MemoryStream, Pump, PumpError, ReadStream, WriteStream};
use syncq::{Error, Queue, Start, Wait};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n as u64 * 2_654_435_761) >> 13) as u8).collect()
}

/// Reads to the end.
fn read_all(mut channel: Box<dyn Channel>) -> Vec<u8> {
    let mut all = vec![];
    loop {
        match channel.read(Wait::Forever).unwrap() {
            Input::Data(bytes) => all.extend(bytes),
            Input::End => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn write_all(mut channel: Box<dyn Channel>, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        channel.write(piece, Wait::Forever).unwrap();
    }
    assert!(channel.finish(Wait::Forever).unwrap());
}

/// Both ways to move bytes: with and without somebody who looks.
fn both_ways(pump: Pump, looks: bool) -> Pump {
    if looks { pump.inspect(|_| ()) } else { pump }
}

#[test]
fn every_kind_is_pumped_into_every_kind_to_the_last_byte() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let bytes = pattern(300_000);
    for (from, to, looks) in pairs().flat_map(|from| pairs().flat_map(move |to| [(from, to, false), (from, to, true)]))
    {
        let (source, sink) = (connect(from), connect(to));
        let mine = bytes.clone();
        let writer = thread::spawn(move || write_all(source.there.unwrap(), &mine, 7001));
        let reader = thread::spawn(move || read_all(sink.there.unwrap()));
        let events = EventLoop::new().unwrap();
        let pump = Pump::new(events.add_boxed(source.here), events.add_boxed(sink.here));
        let pump = both_ways(pump, looks);
        pump.start();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        outcome.result.unwrap();
        assert_eq!(outcome.bytes, 300_000, "{from:?} to {to:?}");
        writer.join().unwrap();
        drop(events);
        assert!(reader.join().unwrap() == bytes, "{from:?} to {to:?}");
    }
}

#[test]
fn through_a_slow_reader_64_mib_come_whole_and_what_is_held_stays_within_mark_and_item() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const ALL: usize = 64 << 20;
    const HIGH: usize = 128 << 10;
    let bytes = pattern(ALL);
    let (source, sink) = (connect(Kind::SocketPair), connect(Kind::SocketPair));
    let expected = bytes.clone();
    let writer = thread::spawn(move || write_all(source.there.unwrap(), &bytes, 1 << 20));
    let reader = thread::spawn(move || {
        let mut slow = sink.there.unwrap();
        let mut at = 0;
        loop {
            match slow.read(Wait::Forever).unwrap() {
                Input::Data(bytes) => {
                    assert!(bytes == expected[at..at + bytes.len()], "at {at}");
                    at += bytes.len();
                    if at % 7 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                Input::End => return at,
                other => panic!("{other:?}"),
            }
        }
    });
    let events = EventLoop::new().unwrap();
    let sink = events.add_boxed(sink.here);
    let most = Rc::new(Cell::new(0));
    let (held, of) = (most.clone(), sink.clone());
    let pump = Pump::new(events.add_boxed(source.here), sink).inspect(move |item| {
        held.set(held.get().max(of.queued() + item.bytes().len()));
    });
    pump.set_write_queue_max_size(HIGH);
    pump.start();
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), ALL);
    // A read takes 64 KiB at most.
    assert!(most.get() <= HIGH + (64 << 10), "{} bytes were held", most.get());
    assert!(most.get() > HIGH / 2, "the reader was not slow");
}

#[test]
fn the_last_bytes_before_the_end_are_never_lost() {
    let _watchdog = watchdog(Duration::from_secs(120));
    for from in [Kind::Pipe, Kind::SocketPair, Kind::Queue] {
        for round in 0..300 {
            let (source, sink) = (connect(from), connect(Kind::Pipe));
            let writer = thread::spawn(move || {
                let mut there = source.there.unwrap();
                there.write(format!("round {round}").as_bytes(), Wait::Forever).unwrap();
                // At once, and without being asked whether it is out.
                drop(there);
            });
            let events = EventLoop::new().unwrap();
            let pump = Pump::new(events.add_boxed(source.here), events.add_boxed(sink.here));
            let pump = both_ways(pump, round % 2 == 0);
            pump.start();
            pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
            drop(events);
            assert_eq!(
                read_all(sink.there.unwrap()),
                format!("round {round}").as_bytes(),
                "{from:?}"
            );
            writer.join().unwrap();
        }
    }
}

#[test]
fn a_random_schedule_of_stops_and_pauses_delivers_100_000_of_100_000_in_order() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const ALL: u32 = 100_000;
    for from in [Kind::Pipe, Kind::Queue] {
        let (source, (sink, out)) = (connect(from), queues(1 << 14));
        let writer = thread::spawn(move || {
            let mut there = source.there.unwrap();
            for n in 0..ALL {
                there.write(format!("{n}\n").as_bytes(), Wait::Forever).unwrap();
            }
            there.finish(Wait::Forever).unwrap();
        });
        let reader = thread::spawn(move || {
            let mut out = out.with_buffering(Buffering::lines());
            for n in 0..ALL {
                let input = out.read(Wait::Forever).unwrap();
                assert_eq!(input.bytes(), format!("{n}\n").as_bytes());
            }
            assert_eq!(out.read(Wait::Forever).unwrap(), Input::End);
        });
        let events = EventLoop::new().unwrap();
        let mut source = source.here;
        source.set_buffering(Buffering::lines());
        let source = events.add_boxed(source);
        let pump = Pump::new(source.clone(), events.add(sink));
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut is_over = false;
        while !is_over {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random % 16 {
                0 => pump.stop(),
                1 => source.pause(),
                2..6 => source.resume(),
                6 => pump.set_write_queue_max_size(1 + (random >> 32) as usize % 5000),
                _ => pump.start(),
            }
            is_over = pump.run(&events, Wait::Never).unwrap().is_some();
        }
        let outcome = pump.outcome().unwrap();
        outcome.result.unwrap();
        assert_eq!(outcome.items, u64::from(ALL), "{from:?}");
        writer.join().unwrap();
        reader.join().unwrap();
    }
}

#[test]
fn from_queue_to_queue_messages_stay_messages_with_kind_and_body() {
    let _watchdog = minute();
    for looks in [false, true] {
        let queue = || Queue::options().capacity(1 << 16).heap().unwrap();
        let (from, to) = (queue(), queue());
        let mut reader = to.reader().unwrap();
        let source = QueueChannel::reading(from.reader().unwrap()).unwrap();
        let sink = QueueChannel::writing(to.writer("pump").unwrap()).unwrap();
        let mut writer = from.writer("origin").unwrap();
        for (kind, body) in [
            ("a", &b"one"[..]),
            ("", b""),
            ("b", b"\0\n"),
            (&"k".repeat(100), &[7; 5000]),
        ] {
            writer.append(kind, body, Wait::Never).unwrap();
        }
        writer.append(QueueChannel::END_KIND, b"", Wait::Never).unwrap();
        let events = EventLoop::new().unwrap();
        let senders = Rc::new(RefCell::new(vec![]));
        let into = senders.clone();
        let mut pump = Pump::new(events.add(source), events.add(sink));
        if looks {
            pump = pump.inspect(move |item: &Item| into.borrow_mut().push(item.sender().map(str::to_owned)));
        }
        pump.start();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        outcome.result.unwrap();
        assert_eq!((outcome.items, outcome.bytes), (4, 3 + 2 + 5000));
        let came: Vec<_> = reader
            .drain()
            .map(|message| message.unwrap())
            .map(|message| {
                (
                    message.sender().to_owned(),
                    message.kind().to_owned(),
                    message.body().to_vec(),
                )
            })
            .collect();
        let pumped = |kind: &str, body: &[u8]| ("pump".to_owned(), kind.to_owned(), body.to_vec());
        assert_eq!(
            came,
            [
                pumped("a", b"one"),
                pumped("", b""),
                pumped("b", b"\0\n"),
                pumped(&"k".repeat(100), &[7; 5000]),
                pumped(QueueChannel::END_KIND, b""),
            ]
        );
        assert!(!looks || *senders.borrow() == vec![Some("origin".to_owned()); 4]);
    }
}

#[test]
fn lines_of_a_pipe_become_messages_of_the_channels_kind() {
    let _watchdog = minute();
    let queue = Queue::options().heap().unwrap();
    let mut reader = queue.reader().unwrap();
    let (end, mut start) = PipeChannel::pipe().unwrap();
    start.write(b"one\ntwo\nthr", Wait::Never).unwrap();
    drop(start);
    let events = EventLoop::new().unwrap();
    let sink = QueueChannel::writing(queue.writer("w").unwrap())
        .unwrap()
        .with_kind("line");
    let source = events.add(end.with_buffering(Buffering::lines()));
    let pump = Pump::new(source, events.add(sink));
    pump.start();
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    let lines: Vec<_> = reader
        .drain()
        .map(|m| m.unwrap())
        .map(|m| (m.kind().to_owned(), m.text_lossy().into_owned()))
        .collect();
    let line = |text: &str| ("line".to_owned(), text.to_owned());
    assert_eq!(lines[..3], [line("one\n"), line("two\n"), line("thr")]);
}

#[test]
fn several_pumps_into_one_queue_lose_nothing_and_each_keeps_its_order() {
    let _watchdog = minute();
    let (sink, out) = queues(1 << 13);
    let events = EventLoop::new().unwrap();
    let sink = events.add(sink);
    sink.set_write_queue_max_size(200);
    let mut pumps = vec![];
    let mut writers = vec![];
    for name in 0..4 {
        let (end, start) = PipeChannel::pipe().unwrap();
        writers.push(thread::spawn(move || {
            let lines: String = (0..5000).map(|n| format!("{name} {n}\n")).collect();
            write_all(Box::new(start), lines.as_bytes(), 1000);
        }));
        let source = events.add(end.with_buffering(Buffering::lines()));
        let pump = Pump::new(source, sink.clone()).end_on_success(false);
        pump.start();
        pumps.push(pump);
    }
    let reader = thread::spawn(move || {
        let mut out = out.with_buffering(Buffering::lines());
        let mut next = [0; 4];
        loop {
            match out.read(Wait::Forever).unwrap() {
                Input::Line(line) => {
                    let text = line.text_lossy().into_owned();
                    let (name, n) = text.trim().split_once(' ').unwrap();
                    let name: usize = name.parse().unwrap();
                    assert_eq!(n.parse::<u32>().unwrap(), next[name]);
                    next[name] += 1;
                }
                Input::End => return next,
                other => panic!("{other:?}"),
            }
        }
    });
    for pump in &pumps {
        pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    }
    let is_ended = Rc::new(Cell::new(false));
    let ended = is_ended.clone();
    WriteStream::end(
        &*sink,
        Box::new(move |outcome| {
            outcome.unwrap();
            ended.set(true);
        }),
    );
    events.run(Wait::Forever).unwrap();
    assert!(is_ended.get());
    assert_eq!(reader.join().unwrap(), [5000; 4]);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn a_peer_that_resets_is_the_sources_failure_after_what_had_arrived() {
    let _watchdog = minute();
    let mut test = TestChannel::new().unwrap();
    test.put(b"arrived and lost").unwrap();
    test.fault_read(Fault::Short(7));
    test.fault_read(Fault::Reset);
    let events = EventLoop::new().unwrap();
    let sink = MemoryStream::new(&events);
    let seen = Rc::new(RefCell::new(vec![]));
    let into = seen.clone();
    sink.data_handler(Some(Box::new(move |item| into.borrow_mut().extend(item.into_bytes()))));
    let pump = Pump::new(events.add(test), sink);
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let Err(PumpError::Source(error)) = outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert!(matches!(error.channel_error(), Some(ChannelError::Reset)));
    assert_eq!((outcome.bytes, seen.borrow().as_slice()), (7, &b"arrived"[..]));
}

#[test]
fn a_sink_whose_queued_bytes_cannot_be_written_fails_the_pump_though_nothing_more_comes() {
    let _watchdog = minute();
    let mut test = TestChannel::new().unwrap();
    test.fault_write(Fault::WouldBlock);
    test.fault_write(Fault::PeerGone);
    let (end, mut start) = PipeChannel::pipe().unwrap();
    start.write(b"x", Wait::Never).unwrap();
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add(end), events.add(test)).inspect(|_| ());
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let Err(PumpError::Sink(error)) = outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert!(matches!(error.channel_error(), Some(ChannelError::PeerGone)));
    // The source is free for somebody else.
    start.write(b"y", Wait::Never).unwrap();
}

#[test]
fn short_writes_interruptions_and_refusals_change_nothing() {
    let _watchdog = minute();
    let bytes = pattern(50_000);
    let (mut from, mut to) = (TestChannel::new().unwrap(), TestChannel::new().unwrap());
    for n in 0..200 {
        for fault in [Fault::Short(n), Fault::Interrupted, Fault::WouldBlock, Fault::Short(1)] {
            from.fault_read(fault);
            to.fault_write(fault);
        }
    }
    from.put(&bytes).unwrap();
    from.end().unwrap();
    let events = EventLoop::new().unwrap();
    let to = events.add(to);
    let pump = Pump::new(events.add(from), to.clone())
        .inspect(|_| ())
        .end_on_success(false);
    pump.set_write_queue_max_size(100);
    pump.start();
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    events.run(Wait::Forever).unwrap();
    drop(pump);
    let to = to.into_channel().expect("nobody else has it");
    let mut to: Box<TestChannel> = (to as Box<dyn std::any::Any>).downcast().unwrap();
    assert!(to.get().unwrap() == bytes);
}

#[test]
fn a_message_too_large_for_the_sink_fails_the_pump_by_name() {
    let _watchdog = minute();
    let (large, small) = (
        Queue::options().capacity(1 << 16).heap().unwrap(),
        Queue::options().capacity(1 << 12).heap().unwrap(),
    );
    let source = QueueChannel::reading(large.reader().unwrap()).unwrap();
    let sink = QueueChannel::writing(small.writer("pump").unwrap()).unwrap();
    let mut writer = large.writer("w").unwrap();
    writer.append("k", b"fits", Wait::Never).unwrap();
    writer.append("k", &[0; 10_000], Wait::Never).unwrap();
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add(source), events.add(sink));
    pump.start();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let Err(PumpError::Sink(error)) = outcome.result else {
        panic!("{:?}", outcome.result)
    };
    let cause = error.channel_error();
    assert!(
        matches!(cause, Some(ChannelError::Queue(Error::TooLarge { .. }))),
        "{cause:?}"
    );
    assert_eq!(outcome.items, 1);
}

#[test]
fn an_evicted_reader_is_the_sources_failure() {
    let _watchdog = minute();
    let queue = Queue::options().heap().unwrap();
    let reader = queue.reader().unwrap();
    let id = reader.id();
    let events = EventLoop::new().unwrap();
    let source = events.add(QueueChannel::reading(reader).unwrap());
    let sink = MemoryStream::new(&events);
    sink.data_handler(Some(Box::new(|item| panic!("{item:?}"))));
    let pump = Pump::new(source, sink);
    pump.start();
    assert!(pump.run(&events, Wait::Never).unwrap().is_none());
    queue.evict(id).unwrap();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    let Err(PumpError::Source(error)) = outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert!(matches!(
        error.channel_error(),
        Some(ChannelError::Queue(Error::Evicted { .. }))
    ));
}

#[test]
fn a_socket_pumped_into_itself_echoes() {
    let _watchdog = minute();
    let (here, mut there) = SocketChannel::pair().unwrap();
    let events = EventLoop::new().unwrap();
    let socket = events.add(here);
    let pump = Pump::new(socket.clone(), socket);
    pump.start();
    let client = thread::spawn(move || {
        there.write(b"hello", Wait::Forever).unwrap();
        there.shutdown_write().unwrap();
        read_all(Box::new(there))
    });
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    assert_eq!(client.join().unwrap(), b"hello");
}

#[test]
fn raising_the_mark_lets_a_held_pump_go_on() {
    let _watchdog = minute();
    let (source, (sink, mut out)) = (connect(Kind::Pipe), queues(1 << 12));
    let mut start = source.there.unwrap();
    let lines: String = (0..400).map(|n| format!("line {n:4}\n")).collect();
    start.write(lines.as_bytes(), Wait::Never).unwrap();
    drop(start);
    let mut end = source.here;
    end.set_buffering(Buffering::lines());
    let events = EventLoop::new().unwrap();
    let pump = Pump::new(events.add_boxed(end), events.add(sink));
    pump.set_write_queue_max_size(20);
    pump.start();
    while events.step(Wait::Never).unwrap() > 0 {}
    let held = pump.items_pumped();
    assert!(held < 400);
    pump.set_write_queue_max_size(1 << 20);
    while events.step(Wait::Never).unwrap() > 0 {}
    assert_eq!(pump.items_pumped(), 400, "{held} before");
    let reader = thread::spawn(move || {
        let mut count = 0;
        while let Input::Data(_) = out.read(Wait::Forever).unwrap() {
            count += 1;
        }
        count
    });
    pump.run(&events, Wait::Forever).unwrap().unwrap().result.unwrap();
    assert_eq!(reader.join().unwrap(), 400);
}

#[test]
fn nothing_is_read_from_a_stream_that_nobody_wants_anything_of() {
    let _watchdog = minute();
    let (end, mut start) = PipeChannel::pipe().unwrap();
    start.write(b"kept", Wait::Never).unwrap();
    let events = EventLoop::new().unwrap();
    let stream = events.add(end);
    assert!(events.run(Wait::Forever).unwrap(), "there is nothing to do");
    stream.data_handler(Some(Box::new(|item| panic!("{item:?}"))));
    stream.pause();
    assert!(events.run(Wait::Forever).unwrap());
    stream.data_handler(None);
    let mut channel = stream.into_channel().expect("nobody else has it");
    assert!(events.is_empty());
    assert_eq!(channel.read(Wait::Never).unwrap().bytes(), b"kept");
}

#[test]
fn a_closed_stream_tells_who_waits_for_it() {
    let _watchdog = minute();
    let (here, _there) = SocketChannel::pair().unwrap();
    let events = EventLoop::new().unwrap();
    let socket = events.add(here);
    let (end, _start) = PipeChannel::pipe().unwrap();
    let pump = Pump::new(events.add(end), socket.clone());
    pump.start();
    socket.close();
    socket.close();
    let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
    assert!(matches!(outcome.result, Err(PumpError::Sink(_))));
    assert!(socket.write("x".into()).is_err());
    assert!(socket.into_channel().is_none());
}

#[test]
fn five_hundred_pumps_run_in_one_loop() {
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let mut pumps = vec![];
    let mut ends = vec![];
    for n in 0..500 {
        // Two pipes each: within the descriptors that a process has by default.
        let (end, start) = SocketChannel::pair().unwrap();
        let socket = events.add(end);
        let pump = Pump::new(socket.clone(), socket);
        pump.start();
        pumps.push(pump);
        ends.push((n, start));
        if n >= 400 {
            // Some end while others come.
            let (n, mut start) = ends.swap_remove(n as usize % ends.len());
            start.write(format!("{n}").as_bytes(), Wait::Never).unwrap();
            start.shutdown_write().unwrap();
            ends.push((n, start));
            while events.step(Wait::Never).unwrap() > 0 {}
        }
    }
    for (n, start) in &mut ends {
        if start.shutdown_write().is_ok() {
            let _ = n;
        }
    }
    events.run(Wait::Forever).unwrap();
    assert!(
        pumps
            .iter()
            .all(|pump| pump.outcome().is_some_and(|outcome| outcome.result.is_ok()))
    );
    assert!(events.is_empty());
    let echoed: usize = pumps.iter().map(|pump| pump.bytes_pumped() as usize).sum();
    assert!(echoed >= 100);
}

#[test]
fn messages_missed_on_a_lossy_queue_fail_the_pump_unless_somebody_takes_note() {
    let _watchdog = minute();
    for takes_note in [false, true] {
        let queue = Queue::options()
            .capacity(1 << 12)
            .overflow(syncq::Overflow::Lossy)
            .heap()
            .unwrap();
        let source = QueueChannel::reading(queue.joining().start(Start::Now).reader().unwrap()).unwrap();
        let mut writer = queue.writer("w").unwrap();
        for n in 0..1000u32 {
            writer.append_pod("n", &n, Wait::Never).unwrap();
        }
        writer.append(QueueChannel::END_KIND, b"", Wait::Never).unwrap();
        let events = EventLoop::new().unwrap();
        let (end, sink) = queues(1 << 16);
        let mut pump = Pump::new(events.add(source), events.add(sink));
        let missed = Rc::new(Cell::new(0));
        if takes_note {
            let count = missed.clone();
            pump = pump.exception_handler(Box::new(move |error| {
                let Some(ChannelError::Queue(Error::Lagged { missed })) = error.channel_error() else {
                    panic!("{error:?}")
                };
                count.set(*missed);
            }));
        }
        pump.start();
        let outcome = pump.run(&events, Wait::Forever).unwrap().unwrap();
        match takes_note {
            true => {
                outcome.result.unwrap();
                assert_eq!(outcome.items + missed.get(), 1000);
            }
            false => assert!(matches!(outcome.result, Err(PumpError::Source(_)))),
        }
        drop(end);
    }
}

#[test]
fn the_loop_is_waited_for_from_outside_by_its_descriptor() {
    use std::os::fd::AsFd;
    use syncq::channel::{Interest, Poller, What};
    let _watchdog = minute();
    let events = EventLoop::new().unwrap();
    let (end, mut start) = PipeChannel::pipe().unwrap();
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    let stream = events.add(end);
    stream.data_handler(Some(Box::new(move |item| count.set(count.get() + item.bytes().len()))));
    let mut poller = Poller::new().unwrap();
    poller.watch(events.as_fd().try_clone_to_owned().unwrap(), Interest::READ);
    while !events.arm() {
        events.step(Wait::Never).unwrap();
    }
    assert!(poller.poll(Wait::Never).unwrap().is_empty());
    start.write(b"ring", Wait::Never).unwrap();
    assert!(matches!(poller.poll(Wait::Forever).unwrap()[0].what, What::Ready(_)));
    events.step(Wait::Never).unwrap();
    assert_eq!(seen.get(), 4);
}
