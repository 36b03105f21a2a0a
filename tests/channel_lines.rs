//! Channels read by lines.

mod channel_kinds;
mod support;

use channel_kinds::{EVERY, Kind, SOON, by_lines, connect, pairs, processor_time, queues};
use std::time::{Duration, Instant};
use support::{minute, watchdog};
use syncq::channel::{
    Buffering, Channel, ChannelError, Fault, Input, Line, LineOptions, LineSplitter, PipeChannel, Poller, QueueChannel,
    SocketChannel, TestChannel, What,
};
use syncq::{Queue, Wait};

fn partial(input: Input) -> Vec<u8> {
    match input {
        Input::Line(Line {
            bytes,
            is_complete: false,
        }) => bytes,
        other => panic!("not a line that was only begun: {other:?}"),
    }
}

#[test]
fn a_line_is_read_whole_and_its_pieces_wait() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = by_lines(kind);
        assert_eq!(wire.here.buffering(), Buffering::lines());
        wire.feed(b"test\n");
        assert_eq!(wire.read().unwrap(), b"test\n", "{kind:?}");
        wire.feed(b"te");
        assert_eq!(wire.read(), None, "{kind:?}");
        wire.feed(b"st\n");
        assert_eq!(wire.read().unwrap(), b"test\n", "{kind:?}");
        assert_eq!(wire.read(), None);
    }
}

#[test]
fn several_lines_come_one_by_one() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = by_lines(kind);
        wire.feed(b"a\nb\n\n\0c\r\n");
        for line in [&b"a\n"[..], b"b\n", b"\n", b"\0c\r\n"] {
            assert_eq!(wire.read().unwrap(), line, "{kind:?}");
        }
        assert_eq!(wire.read(), None);
    }
}

#[test]
fn what_was_read_before_closing_is_delivered_after_it() {
    let _watchdog = minute();
    for kind in EVERY {
        for (fed, after) in [(&b"\ntest"[..], &[][..]), (b"\nhello\nworld", &[&b"hello\n"[..]])] {
            let mut wire = by_lines(kind);
            wire.feed(fed);
            assert_eq!(wire.read().unwrap(), b"\n");
            wire.here.close();
            for line in after {
                assert_eq!(wire.read().unwrap(), *line, "{kind:?}");
            }
            let rest = fed.rsplit(|byte| *byte == b'\n').next().unwrap();
            assert_eq!(partial(wire.here.read(Wait::Never).unwrap()), rest, "{kind:?}");
            for _ in 0..2 {
                assert!(matches!(wire.here.read(SOON), Err(ChannelError::Closed)), "{kind:?}");
            }
        }
    }
}

#[test]
fn lines_a_beginning_and_a_hang_up_in_one_go_are_all_told_in_order_and_the_end_once() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = by_lines(kind);
        wire.feed(b"one\ntwo\nlast");
        wire.end();
        let mut poller = Poller::new().unwrap();
        poller.register_boxed(wire.here);
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != "end") {
            for event in poller.poll(SOON).unwrap() {
                told.push(match event.what {
                    What::Line(line) => format!("{} {}", line.text_lossy().trim_end(), line.is_complete),
                    What::End => "end".into(),
                    other => panic!("{kind:?}: {other:?}"),
                });
            }
        }
        assert_eq!(told, ["one true", "two true", "last false", "end"], "{kind:?}");
        assert!(poller.poll(channel_kinds::MOMENT).unwrap().is_empty(), "{kind:?}");
    }
}

#[test]
fn a_line_of_any_length_arrives_although_the_peer_then_is_silent() {
    let _watchdog = minute();
    for kind in EVERY {
        for len in [4095, 4096, 4097, 5000, 8193, 20_000, 1 << 20] {
            let mut wire = by_lines(kind);
            // A message has to fit into its queue.
            if kind == Kind::Queue {
                let (here, there) = queues(4 << 20);
                wire.here = Box::new(here.with_buffering(Buffering::lines()));
                wire.there = Some(Box::new(there));
            }
            let mut line = vec![b'x'; len - 1];
            line.push(b'\n');
            let mut there = wire.there.take();
            if there.is_none() {
                wire.feed(&line);
            }
            let fed = line.clone();
            let writing = there.take().map(|mut there| {
                std::thread::spawn(move || {
                    there.write(&fed, SOON).unwrap();
                    assert!(there.flush(SOON).unwrap());
                    there
                })
            });
            let mut poller = Poller::new().unwrap();
            poller.register_boxed(wire.here);
            let events = poller.poll(SOON).unwrap();
            assert!(matches!(&events[..], [event] if matches!(&event.what, What::Line(got) if got.bytes == line)));
            drop(writing.map(|writing| writing.join()));
        }
    }
}

#[test]
fn lines_that_never_end_are_named_once_and_reading_goes_on_with_the_next() {
    let _watchdog = minute();
    let options = LineOptions::default().max_line(100);
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.here.set_buffering(Buffering::Lines(options));
        let at_most = [vec![b'x'; 100], b"\n".to_vec()].concat();
        wire.feed(&at_most);
        assert_eq!(wire.read().unwrap(), at_most, "{kind:?}");
        for _ in 0..3 {
            wire.feed(&[b'y'; 101]);
        }
        let too_long = wire.here.read(Wait::Never);
        assert!(
            matches!(&too_long, Err(error @ ChannelError::LineTooLong { max: 100 }) if !error.is_final()),
            "{kind:?}"
        );
        for _ in 0..100 {
            wire.feed(&[b'y'; 1000]);
            assert_eq!(wire.read(), None, "{kind:?}");
        }
        wire.feed(b"its end\nnext\n");
        assert_eq!(wire.read().unwrap(), b"next\n", "{kind:?}");
        // Too long and ended in one piece is as well.
        wire.feed(&[&[b'z'; 101][..], b"\nlast\n"].concat());
        assert!(
            matches!(wire.here.read(Wait::Never), Err(ChannelError::LineTooLong { .. })),
            "{kind:?}"
        );
        assert_eq!(wire.read().unwrap(), b"last\n", "{kind:?}");
        // What was dropped has no rest.
        wire.feed(&[b'z'; 200]);
        wire.end();
        assert!(
            matches!(wire.here.read(SOON), Err(ChannelError::LineTooLong { .. })),
            "{kind:?}"
        );
        assert_eq!(wire.here.read(SOON).unwrap(), Input::End, "{kind:?}");
    }
}

#[test]
fn ends_of_lines_are_kept_or_not_and_may_have_a_carriage_return() {
    let cut = |options: LineOptions, pieces: &[&[u8]]| {
        let mut lines = LineSplitter::new(options.max_line(4));
        let mut cut = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next_line() {
                cut.push(line.map_or_else(|_| "too long".into(), |line| line.text_lossy().into_owned()));
            }
        }
        cut
    };
    let pieces: &[&[u8]] = &[b"ab\r\nc\n\r\n\n1234\r\n1234\n123\r", b"\n12345\r\nd\re\n"];
    let kept = LineOptions::default();
    assert_eq!(
        cut(kept, pieces),
        [
            "ab\r\n", "c\n", "\r\n", "\n", "too long", "1234\n", "123\r\n", "too long", "d\re\n"
        ]
    );
    let stripped = kept.keep_end(false);
    assert_eq!(
        cut(stripped, pieces),
        ["ab\r", "c", "\r", "", "too long", "1234", "123\r", "too long", "d\re"]
    );
    let crlf = stripped.crlf(true);
    assert_eq!(
        cut(crlf, pieces),
        ["ab", "c", "", "", "1234", "1234", "123", "too long", "d\re"]
    );
    assert_eq!(cut(crlf.keep_end(true), pieces)[..2], ["ab\r\n", "c\n"]);
}

#[test]
fn a_splitter_agrees_with_split_however_the_bytes_are_cut() {
    let text: Vec<u8> = (0..20_000u32)
        .map(|n| {
            if n.wrapping_mul(2_654_435_761) >> 29 == 0 {
                b'\n'
            } else {
                b'a' + (n % 26) as u8
            }
        })
        .collect();
    let expected: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    for piece in [1, 2, 3, 7, 64, 1000, 20_000] {
        let mut lines = LineSplitter::new(LineOptions::default());
        let mut got = Vec::new();
        for bytes in text.chunks(piece) {
            lines.push(bytes);
            while let Some(line) = lines.next_line() {
                got.push(line.unwrap().bytes);
            }
        }
        got.extend(lines.rest().map(|rest| rest.bytes));
        assert!(
            got.iter().map(Vec::as_slice).eq(expected.iter().copied()),
            "in pieces of {piece}"
        );
        assert!(lines.is_empty());
    }
}

#[test]
fn the_time_for_lines_grows_as_their_number() {
    let _watchdog = minute();
    let time = |lines: usize, piece: usize| {
        let text = b"short\n".repeat(lines);
        let best = (0..3).map(|_| {
            let mut splitter = LineSplitter::new(LineOptions::default());
            let start = processor_time();
            let mut count = 0;
            for bytes in text.chunks(piece) {
                splitter.push(bytes);
                while splitter.next_line().is_some() {
                    count += 1;
                }
            }
            assert_eq!(count, lines);
            processor_time() - start
        });
        best.min().unwrap()
    };
    // All in one piece, and in pieces. Ten times as many in a quadratic splitter would take a hundred times as long.
    for piece in [usize::MAX, 4096] {
        let (one, ten) = (time(20_000, piece), time(200_000, piece));
        assert!(ten < one * 40, "{one:?} for 20,000 lines, {ten:?} for 200,000");
    }
    // One long line in many pieces is looked at once, not once for each piece.
    let long = |len: usize| {
        let mut splitter = LineSplitter::new(LineOptions::default());
        let start = processor_time();
        for _ in 0..len / 64 {
            splitter.push(&[b'x'; 64]);
            assert!(splitter.next_line().is_none());
        }
        processor_time() - start
    };
    let (one, ten) = (long(400_000), long(4_000_000));
    assert!(ten < one * 40, "{one:?} for 400 kB, {ten:?} for 4 MB");
}

#[test]
fn a_switch_between_bytes_and_lines_loses_nothing() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = by_lines(kind);
        wire.feed(b"one\ntwo\nthr");
        assert_eq!(wire.read().unwrap(), b"one\n");
        wire.here.set_buffering(Buffering::Bytes);
        let mut bytes = Vec::new();
        while bytes.len() < 7 {
            bytes.extend(wire.read().expect("it was read before"));
        }
        assert_eq!(bytes, b"two\nthr", "{kind:?}");
        wire.feed(b"ee\nfour\n");
        wire.here.set_buffering(Buffering::lines());
        assert_eq!(wire.read().unwrap(), b"ee\n", "{kind:?}");
        wire.here
            .set_buffering(Buffering::Lines(LineOptions::default().keep_end(false)));
        let four = wire.read().unwrap();
        // What a queue has cut already, it has cut.
        assert!(
            four == b"four" || kind == Kind::Queue && four == b"four\n",
            "{kind:?}: {four:?}"
        );
    }
}

#[test]
fn a_begun_line_is_told_before_the_error_that_broke_it_off() {
    let mut channel = TestChannel::new().unwrap().with_buffering(Buffering::lines());
    channel.put(b"one\ntw").unwrap();
    assert_eq!(channel.read(SOON).unwrap().bytes(), b"one\n");
    channel.fault_read(Fault::Failed);
    assert_eq!(partial(channel.read(SOON).unwrap()), b"tw");
    assert!(matches!(channel.read(SOON), Err(ChannelError::Os { .. })));
}

#[test]
fn lines_that_arrive_byte_by_byte_arrive() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = by_lines(kind);
        for (n, byte) in b"slow\nline\n".iter().enumerate() {
            wire.feed(&[*byte]);
            let whole = matches!(n, 4 | 9);
            assert_eq!(wire.read().is_some(), whole, "{kind:?}: byte {n}");
        }
    }
}

#[test]
fn lines_of_two_members_never_mix() {
    let _watchdog = minute();
    let queue = Queue::options().heap().unwrap();
    let mut all = QueueChannel::reading(queue.reader().unwrap())
        .unwrap()
        .with_buffering(Buffering::lines())
        .with_writers(2);
    let [mut a, mut b] = ["a", "b"].map(|name| QueueChannel::writing(queue.writer(name).unwrap()).unwrap());
    a.write(b"from ", Wait::Never).unwrap();
    b.write(b"of ", Wait::Never).unwrap();
    a.write(b"a\nrest of a", Wait::Never).unwrap();
    b.write(b"b\n", Wait::Never).unwrap();
    assert_eq!(all.read(Wait::Never).unwrap().bytes(), b"from a\n");
    assert_eq!(all.read(Wait::Never).unwrap().bytes(), b"of b\n");
    drop(a);
    assert_eq!(partial(all.read(Wait::Never).unwrap()), b"rest of a");
    assert_eq!(all.read(Wait::Never).unwrap(), Input::Pending);
    b.write(b"end", Wait::Never).unwrap();
    drop(b);
    assert_eq!(partial(all.read(Wait::Never).unwrap()), b"end");
    assert_eq!(all.read(Wait::Never).unwrap(), Input::End);
}

#[test]
fn a_fast_writer_of_lines_does_not_starve_a_slow_one() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let (busy, mut flood) = PipeChannel::pipe().unwrap();
    let (calm, mut trickle) = SocketChannel::pair().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooding = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let lines = [b'x'; 63]
                .iter()
                .copied()
                .chain([b'\n'])
                .collect::<Vec<u8>>()
                .repeat(64);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = flood.write(&lines, Wait::For(Duration::from_millis(100)));
            }
        }
    });
    let mut poller = Poller::new().unwrap();
    poller.register(busy.with_buffering(Buffering::lines()));
    let calm = poller.register(calm);
    let (mut lines, mut worst, mut answered) = (0u64, Duration::ZERO, 0);
    let start = Instant::now();
    let mut asked = Instant::now();
    trickle.write(b"?", SOON).unwrap();
    while answered < 100 || lines < 20_000 {
        for event in poller.poll(SOON).unwrap() {
            match event.what {
                What::Line(_) => lines += 1,
                What::Data(_) => {
                    assert_eq!(event.source, calm);
                    worst = worst.max(asked.elapsed());
                    answered += 1;
                    asked = Instant::now();
                    trickle.write(b"?", SOON).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let rate = lines as f64 / start.elapsed().as_secs_f64();
    eprintln!("{rate:.0} lines/s; the other one waited {worst:?} at most");
    // The aim is 10 ms; this is ten times that, on a busy machine, without optimization.
    assert!(
        worst < Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 100 }),
        "{worst:?}"
    );
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(poller);
    flooding.join().unwrap();
}
