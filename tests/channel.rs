//! What a channel does, whatever it is made of. The tests of the Python library `channels` are all here, for every kind.

mod channel_kinds;
mod support;

use channel_kinds::{EVERY, Kind, MOMENT, SOON, connect, pairs};
use std::io::IoSlice;
use std::time::{Duration, Instant};
use support::{forked, minute};
use syncq::Wait;
use syncq::channel::{Buffering, Channel, ChannelError, Fault, Input, Marks, TestChannel};

fn data(input: Input) -> Vec<u8> {
    match input {
        Input::Data(bytes) => bytes,
        other => panic!("not data: {other:?}"),
    }
}

#[test]
fn bytes_come_as_they_were_written_and_then_nothing() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        assert_eq!(wire.here.buffering(), Buffering::Bytes);
        assert_eq!(wire.read(), None, "{kind:?}");
        wire.feed(b"hello, world");
        assert_eq!(wire.read().unwrap(), b"hello, world", "{kind:?}");
        assert_eq!(wire.read(), None);
        assert_eq!(wire.read(), None);
    }
}

#[test]
fn both_directions_are_independent() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        assert_eq!(wire.got(), b"");
        wire.feed(b"hello, world");
        wire.here.write(b"good bye\n", Wait::Never).unwrap();
        assert_eq!(wire.got(), b"good bye\n", "{kind:?}");
        assert_eq!(wire.got(), b"");
        assert_eq!(wire.read().unwrap(), b"hello, world", "{kind:?}");
    }
}

#[test]
fn several_chunks_are_one_write() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        let chunks = [IoSlice::new(b"hello, "), IoSlice::new(b""), IoSlice::new(b"world\n")];
        wire.here.write_vectored(&chunks, Wait::Never).unwrap();
        assert_eq!(wire.got(), b"hello, world\n", "{kind:?}");
    }
}

#[test]
fn thousands_of_chunks_are_one_write() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        let pieces: Vec<[u8; 4]> = (0..5000u32).map(u32::to_ne_bytes).collect();
        let chunks: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        wire.here.write_vectored(&chunks, Wait::Never).unwrap();
        assert_eq!(wire.got(), pieces.concat(), "{kind:?}");
    }
}

#[test]
fn the_end_comes_after_the_data_and_stays() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.feed(b"hello, world");
        wire.end();
        assert_eq!(wire.read().unwrap(), b"hello, world", "{kind:?}");
        for _ in 0..3 {
            assert_eq!(wire.here.read(SOON).unwrap(), Input::End, "{kind:?}");
        }
    }
}

#[test]
fn who_has_heard_the_end_can_still_answer() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.feed(b"question");
        wire.end();
        assert_eq!(data(wire.here.read(SOON).unwrap()), b"question");
        assert_eq!(wire.here.read(SOON).unwrap(), Input::End);
        wire.here.write(b"answer", Wait::Never).unwrap();
        assert_eq!(wire.got(), b"answer", "{kind:?}");
    }
}

#[test]
fn a_peer_that_is_dropped_has_ended() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = connect(kind);
        wire.feed(b"last words");
        drop(wire.there.take());
        assert_eq!(wire.read().unwrap(), b"last words", "{kind:?}");
        assert_eq!(wire.here.read(SOON).unwrap(), Input::End, "{kind:?}");
    }
}

#[test]
fn a_closed_channel_says_that_it_is_closed_every_time() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.feed(b"never read");
        wire.here.close();
        wire.here.close();
        assert!(wire.here.is_closed());
        assert!(wire.here.read_fd().is_none() && wire.here.write_fd().is_none());
        for _ in 0..2 {
            assert!(matches!(wire.here.read(SOON), Err(ChannelError::Closed)), "{kind:?}");
            assert!(
                matches!(wire.here.write(b"x", SOON), Err(ChannelError::Closed)),
                "{kind:?}"
            );
            assert!(
                matches!(wire.here.try_write(b"x"), Err(ChannelError::Closed)),
                "{kind:?}"
            );
        }
        wire.here.shutdown_write().unwrap();
        assert!(wire.here.flush(SOON).unwrap());
    }
}

#[test]
fn after_a_half_close_nothing_more_is_taken() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.here.write(b"last", Wait::Never).unwrap();
        wire.here.shutdown_write().unwrap();
        wire.here.shutdown_write().unwrap();
        assert!(
            matches!(wire.here.write(b"more", SOON), Err(ChannelError::Closed)),
            "{kind:?}"
        );
        wire.feed(b"still heard");
        assert_eq!(wire.read().unwrap(), b"still heard", "{kind:?}");
        assert_eq!(wire.got(), b"last", "{kind:?}");
    }
}

#[test]
fn a_read_waits_its_time_and_not_longer_than_needed() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        let start = Instant::now();
        assert_eq!(wire.here.read(MOMENT.into()).unwrap(), Input::Pending);
        assert!(start.elapsed() >= MOMENT, "{kind:?}");
        let Some(mut there) = wire.there.take() else { continue };
        let late = std::thread::spawn(move || {
            std::thread::sleep(MOMENT);
            there.write(b"late", SOON).unwrap();
            there
        });
        assert_eq!(wire.here.read(Wait::Forever).unwrap().bytes(), b"late", "{kind:?}");
        drop(late.join());
    }
}

#[test]
fn a_full_peer_is_not_closed_and_loses_nothing() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.here.set_marks(Marks::new(1000, 100_000));
        let mut written = Vec::new();
        let chunk: Vec<u8> = (0..7919u32).map(|n| n as u8).collect();
        loop {
            match wire.here.write(&chunk, Wait::Never) {
                Ok(()) => written.extend_from_slice(&chunk),
                Err(ChannelError::Full { queued, .. }) => {
                    assert!((100_000..100_000 + chunk.len()).contains(&queued), "{kind:?}: {queued}");
                    assert_eq!(queued, wire.here.queued());
                    break;
                }
                Err(other) => panic!("{kind:?}: {other}"),
            }
            assert!(written.len() < 100 << 20, "{kind:?} is never full");
        }
        assert!(wire.here.is_full());
        // In time it says so again, and takes nothing.
        assert!(matches!(
            wire.here.write(b"x", MOMENT.into()),
            Err(ChannelError::Full { .. })
        ));
        assert!(!wire.here.flush(Wait::Never).unwrap());
        let mut got = Vec::new();
        while got.len() < written.len() {
            got.extend(wire.got());
            wire.here.try_flush().unwrap();
        }
        assert!(got == written, "{kind:?}");
        assert!(!wire.here.is_full());
        wire.here.write(b"x", Wait::Never).unwrap();
        assert_eq!(wire.got(), b"x");
    }
}

#[test]
fn full_lasts_from_the_high_mark_down_to_the_low_one() {
    let mut channel = TestChannel::new().unwrap();
    channel.set_marks(Marks::new(10, 100));
    for _ in 0..2 {
        channel.fault_write(Fault::WouldBlock);
    }
    channel.write(&[0; 99], Wait::Never).unwrap();
    assert!(!channel.is_full());
    channel.write(&[0; 30], Wait::Never).unwrap();
    assert_eq!((channel.queued(), channel.is_full()), (129, true));
    for (short, is_full) in [(118, true), (1, false)] {
        channel.fault_write(Fault::Short(short));
        channel.fault_write(Fault::WouldBlock);
        assert!(!channel.try_flush().unwrap());
        assert_eq!(channel.is_full(), is_full, "{} bytes are queued", channel.queued());
    }
    assert_eq!(channel.queued(), 10);
    assert!(channel.try_flush().unwrap());
    assert_eq!(channel.get().unwrap().len(), 129);
}

#[test]
fn sixty_four_mebibytes_to_a_slow_reader_arrive_and_take_no_more_memory_than_said() {
    let _watchdog = minute();
    const TOTAL: usize = 64 << 20;
    for kind in [Kind::Pipe, Kind::SocketPair, Kind::Tcp, Kind::Queue] {
        let mut wire = connect(kind);
        let mut there = wire.there.take().unwrap();
        let (chunk_len, high) = (16 << 10, 128 << 10);
        let pattern: Vec<u8> = (0..chunk_len as u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let chunk = move |number: usize| {
            let mut chunk = pattern.clone();
            chunk[..8].copy_from_slice(&number.to_le_bytes());
            chunk
        };
        let reader = std::thread::spawn({
            let chunk = chunk.clone();
            move || {
                let (mut checked, mut pending, mut reads) = (0, Vec::new(), 0u32);
                loop {
                    match there.read(SOON).unwrap() {
                        Input::Data(bytes) => pending.extend_from_slice(&bytes),
                        Input::End => return (checked, pending.len()),
                        other => panic!("{other:?}"),
                    }
                    while pending.len() >= chunk_len {
                        assert!(
                            pending[..chunk_len] == chunk(checked),
                            "{kind:?}: chunk {checked} is another"
                        );
                        pending.drain(..chunk_len);
                        checked += 1;
                    }
                    reads += 1;
                    if reads.is_multiple_of(64) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        wire.here.set_marks(Marks::up_to(high));
        let mut most = 0;
        for number in 0..TOTAL / chunk_len {
            wire.here.write(&chunk(number), SOON).unwrap();
            most = most.max(wire.here.queued());
        }
        assert!(wire.here.finish(SOON).unwrap());
        assert_eq!(reader.join().unwrap(), (TOTAL / chunk_len, 0), "{kind:?}");
        assert!(most < high + chunk_len, "{kind:?}: {most} bytes were queued");
    }
}

#[test]
fn a_count_says_what_was_written_and_nothing_is_queued() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        let chunk = [7; 5000];
        let mut written = 0;
        loop {
            match wire.here.try_write(&chunk).unwrap() {
                0 => break,
                taken => written += taken,
            }
        }
        assert_eq!(wire.here.queued(), 0);
        assert_eq!(wire.got().len(), written, "{kind:?}");
    }
}

#[test]
fn a_request_too_big_to_be_sent_at_once_does_not_keep_its_answer_waiting() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = connect(kind);
        let mut there = wire.there.take().unwrap();
        let answering = std::thread::spawn(move || {
            let mut got = 0;
            while got < 3 << 20 {
                got += there.read(SOON).unwrap().bytes().len();
            }
            there.write(b"thanks", SOON).unwrap();
            there
        });
        wire.here.set_marks(Marks::up_to(64 << 20));
        for _ in 0..3 << 8 {
            wire.here.write(&[1; 4096], Wait::Never).unwrap();
        }
        assert_eq!(wire.here.read(SOON).unwrap().bytes(), b"thanks", "{kind:?}");
        drop(answering.join());
    }
}

#[test]
fn faults_of_the_system_pass_unnoticed_or_are_named() {
    let mut channel = TestChannel::new().unwrap();
    channel.put(b"abcdef").unwrap();
    for fault in [
        Fault::Interrupted,
        Fault::Interrupted,
        Fault::Short(2),
        Fault::WouldBlock,
    ] {
        channel.fault_read(fault);
    }
    assert_eq!(data(channel.try_read().unwrap()), b"ab");
    assert_eq!(channel.try_read().unwrap(), Input::Pending);
    assert_eq!(data(channel.try_read().unwrap()), b"cdef");

    for fault in [Fault::Interrupted, Fault::Short(1), Fault::Short(3), Fault::WouldBlock] {
        channel.fault_write(fault);
    }
    channel.write(b"0123456789", Wait::Never).unwrap();
    assert_eq!((channel.queued(), channel.get().unwrap()), (6, b"0123".to_vec()));
    assert!(channel.flush(Wait::Never).unwrap());
    assert_eq!(channel.get().unwrap(), b"456789");

    channel.fault_write(Fault::Failed);
    let failed = channel.write(b"x", Wait::Never).unwrap_err();
    assert!(
        matches!(&failed, ChannelError::Os { source, .. } if source.raw_os_error() == Some(5)),
        "{failed}"
    );
    // It stays so, and reading goes on.
    assert!(matches!(channel.write(b"x", Wait::Never), Err(ChannelError::Os { .. })));
    channel.put(b"still").unwrap();
    assert_eq!(data(channel.try_read().unwrap()), b"still");
    channel.put(b"lost?").unwrap();
    channel.fault_read(Fault::Reset);
    for _ in 0..2 {
        assert!(matches!(channel.try_read(), Err(ChannelError::Reset)));
    }
}

#[test]
fn a_test_channel_gives_what_was_put_however_much() {
    let _watchdog = minute();
    let mut channel = TestChannel::new().unwrap();
    let much: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7) as u8).collect();
    channel.put(&much).unwrap();
    channel.end().unwrap();
    let mut got = Vec::new();
    while let Input::Data(bytes) = channel.read(SOON).unwrap() {
        got.extend(bytes);
    }
    assert!(got == much);
    assert!(channel.read_fd().is_some());
    channel.stop_reading();
    assert!(matches!(channel.write(b"x", SOON), Err(ChannelError::PeerGone)));
}

#[test]
fn a_pipe_without_a_reader_is_gone_and_a_socket_too_and_nobody_is_killed() {
    let _watchdog = minute();
    for kind in [Kind::Pipe, Kind::SocketPair, Kind::Tcp, Kind::UnixPath] {
        let mut wire = connect(kind);
        wire.feed(b"farewell");
        drop(wire.there.take());
        // TCP hears of it with the answer to the first write.
        let error = loop {
            match wire.here.write(b"hello?", SOON) {
                Ok(()) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, ChannelError::PeerGone | ChannelError::Reset),
            "{kind:?}: {error:?}"
        );
        if kind != Kind::Tcp {
            assert_eq!(wire.read().unwrap(), b"farewell", "{kind:?}");
        }
    }
}

#[test]
fn a_peer_that_resets_is_not_one_that_ended_and_its_lines_are_delivered_first() {
    let _watchdog = minute();
    let mut wire = connect(Kind::Tcp);
    wire.here.set_buffering(Buffering::lines());
    // Unread bytes at the peer's end make its closing a reset, which overtakes what is not read yet here.
    wire.feed(b"one\ntw");
    assert_eq!(wire.here.read(SOON).unwrap().bytes(), b"one\n");
    wire.here.write(b"never read", SOON).unwrap();
    std::thread::sleep(MOMENT);
    drop(wire.there.take());
    let Input::Line(line) = wire.here.read(SOON).unwrap() else {
        panic!("the begun line was lost")
    };
    assert_eq!((&line.bytes[..], line.is_complete), (&b"tw"[..], false));
    for _ in 0..2 {
        assert!(matches!(wire.here.read(SOON), Err(ChannelError::Reset)));
    }
}

/// A writer in another process that writes its last bytes and closes at once.
fn last_bytes(kind: Kind, rounds: u32) {
    // Many for each process: what takes time is the fork. A queue's writer belongs to the process that joined.
    let wires = 64;
    for batch in 0..rounds.div_ceil(wires) {
        let mut ends = Vec::new();
        let mut starts = Vec::new();
        for _ in 0..wires {
            if kind == Kind::Queue {
                let queue = syncq::Queue::options().capacity(4096).anonymous().unwrap();
                let reader = queue.reader().unwrap();
                ends.push(Box::new(syncq::channel::QueueChannel::reading(reader).unwrap()) as Box<dyn Channel>);
                starts.push(Err(queue));
            } else {
                let wire = connect(kind);
                ends.push(wire.here);
                starts.push(Ok(wire.there.unwrap()));
            }
        }
        let child = forked({
            let starts = &mut starts;
            move || {
                for (n, start) in starts.drain(..).enumerate() {
                    let mut start = start.unwrap_or_else(|queue| {
                        let writer = queue.writer("w").unwrap();
                        Box::new(syncq::channel::QueueChannel::writing(writer).unwrap())
                    });
                    start.write(b"almost ", Wait::Never).unwrap();
                    start
                        .write(format!("last {}", batch * wires + n as u32).as_bytes(), Wait::Never)
                        .unwrap();
                    drop(start);
                }
                0
            }
        });
        // The writing ends of this process: the end is the child's to make.
        drop(starts);
        for (n, mut end) in ends.into_iter().enumerate() {
            let mut got = Vec::new();
            loop {
                match end.read(SOON).unwrap() {
                    Input::Data(bytes) => got.extend(bytes),
                    Input::End => break,
                    other => panic!("{kind:?}: {other:?}"),
                }
            }
            let expected = format!("almost last {}", batch * wires + n as u32);
            assert_eq!(got, expected.as_bytes(), "{kind:?}");
        }
        child.must_succeed();
    }
    eprintln!("{kind:?}: {rounds} rounds, nothing lost");
}

#[test]
fn last_bytes_before_a_close_are_never_lost_between_processes() {
    let _watchdog = minute();
    for kind in [Kind::Pipe, Kind::SocketPair, Kind::Tcp, Kind::Queue] {
        last_bytes(kind, 2000);
    }
}

#[test]
#[ignore = "minutes: cargo test --release --test channel -- --ignored last_bytes --nocapture"]
fn a_quarter_of_a_million_last_bytes_are_never_lost_over_pipes() {
    last_bytes(Kind::Pipe, 250_000);
}

#[test]
#[ignore = "minutes: as over pipes"]
fn a_quarter_of_a_million_last_bytes_are_never_lost_over_socket_pairs() {
    last_bytes(Kind::SocketPair, 250_000);
}

#[test]
#[ignore = "minutes: as over pipes"]
fn a_quarter_of_a_million_last_bytes_are_never_lost_over_tcp() {
    last_bytes(Kind::Tcp, 250_000);
}

#[test]
#[ignore = "minutes: as over pipes"]
fn a_quarter_of_a_million_last_bytes_are_never_lost_over_queues() {
    last_bytes(Kind::Queue, 250_000);
}
