//! The writing half: appends, batches, what fits, who holds it back, and what `Full` says.

mod support;

use std::sync::Barrier;
use support::{Child, SharedWord, forked, over_every_backing, over_every_shared_backing};
use syncq::{Error, Full, Queue, Reader, Wait, Writer};

fn fill(writer: &mut Writer, len: usize) -> (usize, Full) {
    let mut appended = 0;
    loop {
        match writer.append("", &vec![appended as u8; len], Wait::Never) {
            Ok(_) => appended += 1,
            Err(Error::Full(full)) => return (appended, *full),
            Err(other) => panic!("unexpected: {other:?}"),
        }
    }
}

#[test]
fn what_is_appended_comes_out_whole_whatever_its_length() {
    over_every_backing(&Queue::options().capacity(64 << 10), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut expected = 0;
        for sender in ["", "w", "sender-7", "a sender of more bytes than eight"] {
            let mut writer = queue.writer(sender).unwrap();
            assert_eq!(writer.sender(), sender);
            for kind in ["", "k", "kind-of8", "a longer kind of message"] {
                let edges = (0..140).chain([191, 192, 255, 256, 257, 511, 512, 513, 1023, 4096, 9999]);
                for len in edges {
                    let body: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
                    let position = writer.append(kind, &body, Wait::Never).unwrap();
                    assert_eq!(position, expected);
                    let names = (sender.len() + kind.len()).next_multiple_of(8) as u64;
                    expected += (32 + names + len as u64).next_multiple_of(64);
                    let message = reader.pop(Wait::Never).unwrap().unwrap();
                    assert_eq!((message.sender(), message.kind()), (sender, kind));
                    assert_eq!(message.body(), body);
                    assert_eq!(message.member(), writer.id());
                }
            }
        }
        assert_eq!(queue.stats().position, expected);
    });
}

#[test]
fn a_kind_or_sender_too_long_is_refused() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let longest = "s".repeat(64);
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer(&longest).unwrap();
        let kind = "k".repeat(255);
        writer.append(&kind, b"b", Wait::Never).unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(
            (message.sender(), message.kind(), message.body()),
            (&*longest, &*kind, &b"b"[..])
        );
        let too_long = "k".repeat(256);
        for answer in [
            writer.append(&too_long, b"", Wait::Never).map(drop),
            writer.append_all([("", &b"first"[..]), (&too_long, b"")], Wait::Never),
            writer.reserve(&too_long, 0, Wait::Never).map(drop),
        ] {
            match answer {
                Err(Error::TooLong {
                    what: "kind",
                    len: 256,
                    max: 255,
                }) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        for answer in [
            queue.writer(&"s".repeat(65)).map(drop),
            queue.join(&"s".repeat(65)).map(drop),
        ] {
            match answer {
                Err(Error::TooLong {
                    what: "sender",
                    len: 65,
                    max: 64,
                }) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    });
}

#[test]
fn full_says_how_much_is_needed_and_who_is_slow() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut slow = queue.joining().sender("slow one").reader().unwrap();
        let mut fast = queue.joining().sender("fast one").reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let (appended, full) = fill(&mut writer, 300);
        // 32 for the header, 8 for the names, 300: six granules.
        assert_eq!(appended, 10);
        assert_eq!(full.needed, 384);
        assert_eq!(full.free, 4096 - 64 - 3840);
        assert_eq!(full.free, queue.free());
        assert_eq!(&*full.queue, queue.name());
        assert_eq!(fast.drain().map(Result::unwrap).count(), 10);
        let (appended, full) = fill(&mut writer, 300);
        assert_eq!(appended, 0);
        let slowest = full.slowest.clone().unwrap();
        assert_eq!(
            (&*slowest.name, slowest.pid, slowest.lag),
            ("slow one", std::process::id(), 3840)
        );
        let text = Error::Full(Box::new(full)).to_string();
        assert!(
            text.contains("slow one") && text.contains("384") && text.contains("192"),
            "{text}"
        );
        // What still fits is taken.
        writer.append("", &[0; 192 - 40], Wait::Never).unwrap();
        assert_eq!(queue.free(), 0);
        assert!(matches!(writer.append("", b"", Wait::Never), Err(Error::Full(_))));
        assert_eq!(queue.stats().refused, 3);
        let info = &queue.members()[usize::from(writer.id().slot())];
        assert_eq!((info.refused, info.appended), (3, 11));
        slow.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(queue.free(), 384);
        writer.append("", &[0; 300], Wait::Never).unwrap();
    });
}

#[test]
fn without_readers_nobody_holds_a_writer_back() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..1000 {
            writer.append("", &[0; 1000], Wait::Never).unwrap();
        }
        let max = queue.max_body(1, 0) as usize;
        for _ in 0..10 {
            writer.append("", &vec![0; max], Wait::Never).unwrap();
        }
        assert_eq!(queue.stats().appended, 1010);
    });
}

#[test]
fn room_comes_back_when_the_slowest_reads_leaves_or_is_killed() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        let mut reader = queue.reader().unwrap();
        fill(&mut writer, 300);
        reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(fill(&mut writer, 300).0, 1);
        drop(reader);
        writer.append("", &[0; 3000], Wait::Never).unwrap();
        let joined = SharedWord::new();
        let child = forked(|| {
            let _reader = queue.joining().sender("child").reader().unwrap();
            joined.raise();
            std::thread::sleep(std::time::Duration::from_secs(100));
            1
        });
        joined.wait_for(1);
        let (_, full) = fill(&mut writer, 300);
        assert_eq!(full.slowest.unwrap().pid, child.pid.as_raw() as u32);
        child.kill_unreaped();
        // With no time to wait: its death is found out on the spot.
        writer.append("", &[0; 3000], Wait::Never).unwrap();
        assert_eq!(queue.stats().reaped, 1);
    });
}

#[test]
fn a_batch_is_appended_whole_or_not_at_all() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append_all([], Wait::Never).unwrap();
        assert_eq!(queue.stats().appended, 0);
        let parts: Vec<Vec<u8>> = (0..20).map(|n| vec![n; usize::from(n) * 7]).collect();
        let batch = || parts.iter().map(|part| ("part", &part[..]));
        let mut batches = 0;
        loop {
            match writer.append_all(batch(), Wait::Never) {
                Ok(()) => batches += 1,
                Err(Error::Full(full)) => {
                    let size: u64 = parts
                        .iter()
                        .map(|part| (40 + part.len() as u64).next_multiple_of(64))
                        .sum();
                    assert_eq!(full.needed, size);
                    assert!(full.free < size);
                    break;
                }
                Err(other) => panic!("unexpected: {other:?}"),
            }
        }
        let mut sequence = 0;
        for _ in 0..batches {
            for part in &parts {
                let message = reader.pop(Wait::Never).unwrap().unwrap();
                assert_eq!(
                    (message.sender(), message.kind(), message.body()),
                    ("w", "part", &part[..])
                );
                assert_eq!(message.sequence(), sequence);
                sequence += 1;
            }
        }
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        let info = &queue.members()[usize::from(writer.id().slot())];
        assert_eq!(info.appended, sequence);
        // Never too often, so that the batch passes every place of the ring.
        for _ in 0..100 {
            writer.append_all(batch(), Wait::Never).unwrap();
            assert_eq!(reader.drain().map(Result::unwrap).count(), 20);
        }
    });
}

#[test]
fn a_batch_that_never_fits_is_refused_at_once() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let one = [0u8; 24];
        writer
            .append_all(std::iter::repeat_n(("", &one[..]), 63), Wait::Never)
            .unwrap();
        match writer.append_all(std::iter::repeat_n(("", &one[..]), 64), Wait::Forever) {
            Err(Error::TooLarge {
                len: 4096, max: 4032, ..
            }) => {}
            other => panic!("unexpected: {other:?}"),
        }
        assert_eq!(reader.drain().map(Result::unwrap).count(), 63);
    });
}

/// Reads `batches` batches of five and checks that nobody came between.
fn read_batches(reader: &mut Reader, batches: usize) {
    for _ in 0..batches {
        let first = reader.pop(Wait::Forever).unwrap().unwrap().into_owned();
        assert_eq!(first.kind(), "0");
        for number in 1..5 {
            let next = reader.pop(Wait::Never).unwrap().expect("a batch appears at once");
            assert_eq!(next.kind(), number.to_string());
            assert_eq!((next.sender(), next.body()), (first.sender(), first.body()));
            assert_eq!(next.sequence(), first.sequence() + number);
        }
    }
}

const KINDS: [&str; 5] = ["0", "1", "2", "3", "4"];

fn write_batches(queue: &Queue, name: &str, batches: u32) {
    let mut writer = queue.writer(name).unwrap();
    for number in 0..batches {
        let body = vec![number as u8; number as usize % 300];
        writer
            .append_all(KINDS.map(|kind| (kind, &body[..])), Wait::Forever)
            .unwrap();
    }
}

#[test]
fn nobody_comes_between_the_messages_of_a_threads_batch() {
    over_every_backing(&Queue::options().capacity(8192), |queue| {
        let mut reader = queue.reader().unwrap();
        let start = Barrier::new(4);
        std::thread::scope(|threads| {
            for thread in 0..4 {
                let start = &start;
                threads.spawn(move || {
                    start.wait();
                    write_batches(queue, &thread.to_string(), 300);
                });
            }
            read_batches(&mut reader, 4 * 300);
        });
        assert!(reader.pop(Wait::Never).unwrap().is_none());
    });
}

#[test]
fn nobody_comes_between_the_messages_of_a_processs_batch() {
    over_every_shared_backing(&Queue::options().capacity(8192), |queue| {
        let mut reader = queue.reader().unwrap();
        let children: Vec<Child> = (0..3)
            .map(|child| {
                forked(|| {
                    write_batches(queue, &child.to_string(), 300);
                    0
                })
            })
            .collect();
        read_batches(&mut reader, 3 * 300);
        children.into_iter().for_each(Child::must_succeed);
        assert!(reader.pop(Wait::Never).unwrap().is_none());
    });
}

#[test]
fn messages_of_contending_processes_arrive_whole_and_each_ones_in_order() {
    over_every_shared_backing(&Queue::options().capacity(8192), |queue| {
        let mut reader = queue.reader().unwrap();
        let children: Vec<Child> = (0..4u8)
            .map(|child| {
                forked(move || {
                    let mut writer = queue.writer(&child.to_string()).unwrap();
                    for number in 0..1000u32 {
                        let mut body = vec![child; 4 + number as usize % 100];
                        body[..4].copy_from_slice(&number.to_le_bytes());
                        writer.append("", &body, Wait::Forever).unwrap();
                    }
                    0
                })
            })
            .collect();
        let mut next = [0u32; 4];
        for sequence in 0..4000 {
            let message = reader.pop(Wait::Forever).unwrap().unwrap();
            assert_eq!(message.sequence(), sequence, "no gaps");
            let child: u8 = message.sender().parse().unwrap();
            let number = next[usize::from(child)];
            next[usize::from(child)] += 1;
            assert_eq!(message.body()[..4], number.to_le_bytes());
            assert_eq!(message.body().len(), 4 + number as usize % 100);
            assert!(message.body()[4..].iter().all(|byte| *byte == child));
        }
        children.into_iter().for_each(Child::must_succeed);
    });
}

#[test]
fn the_largest_message_passes_again_and_again() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let max = queue.max_body(1, 0) as usize;
        for number in 0..200u8 {
            // Shifts the place where the large one begins.
            writer.append("", &[number], Wait::Never).unwrap();
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), [number]);
            writer.append("", &vec![number; max], Wait::Never).unwrap();
            assert_eq!(queue.free(), 0);
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), vec![number; max]);
        }
    });
}

/// Laps of a ring in which steps are made ready as a whole, beside everything else that moves the frontier.
#[test]
fn records_of_all_ways_to_append_come_out_whole_lap_after_lap() {
    for single_writer in [true, false] {
        let options = Queue::options().capacity(64 << 10).single_writer(single_writer);
        over_every_backing(&options, |queue| {
            let mut reader = queue.reader().unwrap();
            let mut writer = queue.writer("w").unwrap();
            let mut other = (!single_writer).then(|| queue.writer("other").unwrap());
            let (mut sent, mut taken) = (std::collections::VecDeque::new(), 0);
            let mut positions = std::collections::VecDeque::new();
            let body = |number: usize, len: usize| -> Vec<u8> { (0..len).map(|at| (at * 31 + number) as u8).collect() };
            for number in 0..30_000_usize {
                let len = (number * number) % 97 * [1, 1, 1, 1, 3, 9][number % 6];
                let bytes = body(number, len);
                match number % 193 {
                    7 => {
                        let bodies = [bytes, body(number + 1, 5), body(number + 2, 600)];
                        writer
                            .append_all(bodies.iter().map(|body| ("batch", &body[..])), Wait::Never)
                            .unwrap();
                        sent.extend(bodies.map(|body| (body, "batch")));
                    }
                    31 => {
                        let mut place = writer.reserve("kept", len + 200, Wait::Never).unwrap();
                        place.write_at(0, &bytes);
                        place.commit_first(len).unwrap();
                        sent.push_back((bytes, "kept"));
                    }
                    57 => writer.reserve("aborted", len, Wait::Never).unwrap().abort(),
                    101 if other.is_some() => {
                        let other = other.as_mut().unwrap();
                        other.append("o", &bytes, Wait::Never).unwrap();
                        sent.push_back((bytes, "o"));
                    }
                    _ => {
                        positions.push_back(writer.append("", &bytes, Wait::Never).unwrap());
                        sent.push_back((bytes, ""));
                    }
                }
                while sent.len() > number % 5 {
                    let message = reader.pop(Wait::Never).unwrap().unwrap();
                    let (body, kind) = sent.pop_front().unwrap();
                    assert_eq!((message.body(), message.kind()), (&body[..], kind), "number {taken}");
                    if kind.is_empty() {
                        assert_eq!(Some(message.position()), positions.pop_front());
                    }
                    assert!(message.sequence() >= taken, "{} after {taken}", message.sequence());
                    taken = message.sequence() + 1;
                }
                if sent.is_empty() {
                    // What the last lap left behind the frontier is nothing now.
                    assert!(reader.pop(Wait::Never).unwrap().is_none());
                }
            }
            while !sent.is_empty() {
                assert_eq!(
                    reader.pop(Wait::Never).unwrap().unwrap().body(),
                    sent.pop_front().unwrap().0
                );
            }
            assert!(reader.pop(Wait::Never).unwrap().is_none());
            let info = |id| queue.members().into_iter().find(|member| member.id == id).unwrap();
            let aborted = (0..30_000).filter(|number| number % 193 == 57).count() as u64;
            let others = other.as_ref().map_or(0, |other| info(other.id()).appended);
            assert_eq!(info(writer.id()).appended + others + aborted, queue.stats().appended);
            assert!(queue.stats().position > 20 * (64 << 10));
        });
    }
}
