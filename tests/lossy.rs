//! Queues that overwrite the oldest instead of waiting: nobody waits, and everybody is told exactly what was lost.

mod support;

use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{SharedWord, eventually, forked, over_every_backing, over_every_shared_backing};
use syncq::{Error, Overflow, Queue, QueueOptions, Reader, Start, Wait};

fn lossy() -> QueueOptions {
    Queue::options().capacity(4096).overflow(Overflow::Lossy)
}

/// Takes everything there is: how many came, how many were missed.
fn take_all(reader: &mut Reader, next: &mut u64) -> (u64, u64) {
    let (mut received, mut missed) = (0, 0);
    loop {
        match reader.pop(Wait::Never) {
            Ok(Some(message)) => {
                assert_eq!(message.sequence(), *next);
                assert_eq!(message.body(), body(*next));
                *next += 1;
                received += 1;
            }
            Ok(None) => return (received, missed),
            Err(Error::Lagged { missed: now }) => {
                *next += now;
                missed += now;
            }
            Err(other) => panic!("unexpected: {other:?}"),
        }
    }
}

fn body(number: u64) -> Vec<u8> {
    vec![number as u8; (number * 31 % 500) as usize]
}

#[test]
fn a_writer_never_waits_for_a_reader() {
    over_every_backing(&lossy(), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut member = queue.join("m").unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..1000 {
            writer.append("", &body(number), Wait::Never).unwrap();
            assert_eq!(queue.free(), 4096 - 64);
        }
        member.append("", b"", Wait::Never).unwrap();
        assert!(matches!(reader.pop(Wait::Never), Err(Error::Lagged { .. })));
        assert!(matches!(member.pop(Wait::Never), Err(Error::Lagged { .. })));
        assert_eq!(queue.stats().refused, 0);
    });
}

#[test]
fn a_reader_that_keeps_up_misses_nothing() {
    over_every_backing(&lossy(), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..1000 {
            writer.append("", &body(number), Wait::Never).unwrap();
            let message = reader.pop(Wait::Never).unwrap().unwrap();
            assert_eq!((message.sequence(), message.body()), (number, &body(number)[..]));
        }
        assert_eq!(queue.stats().missed, 0);
    });
}

#[test]
fn what_was_missed_is_counted_exactly() {
    over_every_backing(&lossy(), |queue| {
        let mut slow = queue.reader().unwrap();
        let mut slower = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let (mut appended, mut next, mut next_slower) = (0, 0, 0);
        let (mut missed, mut missed_slower) = (0, 0);
        for burst in 0..300u64 {
            for _ in 0..burst * 7 % 40 {
                writer.append("", &body(appended), Wait::Never).unwrap();
                appended += 1;
            }
            missed += take_all(&mut slow, &mut next).1;
            assert_eq!(next, appended);
            if burst % 10 == 9 {
                missed_slower += take_all(&mut slower, &mut next_slower).1;
                assert_eq!(next_slower, appended);
            }
        }
        assert!(missed > 0 && missed_slower > missed);
        let members = queue.members();
        let info = |reader: &Reader| &members[usize::from(reader.id().slot())];
        assert_eq!((info(&slow).missed, info(&slow).popped), (missed, appended - missed));
        assert_eq!(
            (info(&slower).missed, info(&slower).popped),
            (missed_slower, appended - missed_slower)
        );
        assert_eq!(queue.stats().missed, missed + missed_slower);
    });
}

#[test]
fn counts_are_exact_with_running_writers() {
    over_every_backing(&lossy(), |queue| {
        const EACH: u64 = 5_000;
        let mut readers: Vec<_> = (0..2).map(|_| queue.reader().unwrap()).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let writing: Vec<_> = (0..2u8)
                .map(|thread| {
                    threads.spawn(move || {
                        let mut writer = queue.writer(&thread.to_string()).unwrap();
                        for number in 0..EACH {
                            writer
                                .append("", &vec![thread; (number * 31 % 500) as usize], Wait::Forever)
                                .unwrap();
                        }
                    })
                })
                .collect();
            for reader in &mut readers {
                let done = &done;
                threads.spawn(move || {
                    let mut seen = 0;
                    loop {
                        let was_done = done.load(Ordering::SeqCst);
                        match reader.pop(Wait::For(Duration::from_millis(1))) {
                            Ok(Some(message)) => {
                                assert_eq!(message.sequence(), seen);
                                let thread: u8 = message.sender().parse().unwrap();
                                assert!(message.body().iter().all(|byte| *byte == thread), "torn");
                                seen += 1;
                            }
                            Ok(None) if was_done => break,
                            Ok(None) => {}
                            Err(Error::Lagged { missed }) => seen += missed,
                            Err(other) => panic!("unexpected: {other:?}"),
                        }
                    }
                    assert_eq!(seen, 2 * EACH);
                });
            }
            writing.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::SeqCst);
        });
    });
}

#[test]
fn what_was_passed_over_is_not_missed_a_second_time() {
    over_every_backing(&lossy(), |queue| {
        let mut reader = queue.reader().unwrap();
        reader.screen().add_kind("screened");
        let mut writer = queue.writer("w").unwrap();
        writer.append("screened", b"", Wait::Never).unwrap();
        writer.reserve("", 100, Wait::Never).unwrap().abort();
        writer.reserve("", 900, Wait::Never).unwrap().commit_first(2).unwrap();
        writer.reserve("", 100, Wait::Never).unwrap().abort();
        assert_eq!(reader.drain().map(Result::unwrap).count(), 1);
        for _ in 0..200 {
            writer.append("", b"", Wait::Never).unwrap();
        }
        let Err(Error::Lagged { missed }) = reader.pop(Wait::Never) else {
            panic!("200 messages do not fit");
        };
        assert_eq!(missed + reader.drain().map(Result::unwrap).count() as u64, 200);
    });
}

#[test]
fn looking_in_place_is_refused() {
    over_every_backing(&lossy(), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut member = queue.join("m").unwrap();
        queue.writer("w").unwrap().append("", b"", Wait::Never).unwrap();
        assert!(matches!(
            reader.peek(Wait::Never),
            Err(Error::Unsupported { what: "peek", .. })
        ));
        assert!(matches!(
            member.peek(Wait::Never),
            Err(Error::Unsupported { what: "peek", .. })
        ));
        assert!(reader.pop(Wait::Never).unwrap().is_some());
    });
}

#[test]
fn a_late_reader_begins_with_the_oldest_whole_message() {
    over_every_backing(&lossy(), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for number in 0..1000 {
            writer.append("", &body(number), Wait::Never).unwrap();
            if number % 17 == 0 {
                let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
                let all: Vec<u64> = late.drain().map(|message| message.unwrap().sequence()).collect();
                assert!(all.iter().copied().eq(all[0]..=number));
            }
        }
    });
}

#[test]
fn an_open_reservation_is_never_overwritten() {
    over_every_backing(&lossy(), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        let mut writer = queue.writer("w").unwrap();
        let mut place = owner.reserve("", 500, Wait::Never).unwrap();
        place.write_at(0, &[7; 500]);
        let mut behind = 0;
        let full = loop {
            match writer.append("", &[8; 300], Wait::Never) {
                Ok(_) => behind += 1,
                Err(error) => break error,
            }
        };
        match full {
            Error::Full(full) => assert_eq!(full.slowest.unwrap().name, "owner"),
            other => panic!("unexpected: {other:?}"),
        }
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        place.commit().unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), [7; 500]);
        assert_eq!(reader.drain().map(Result::unwrap).count(), behind);
        for _ in 0..100 {
            writer.append("", &[8; 300], Wait::Never).unwrap();
        }
    });
}

#[test]
fn a_batch_overwrites_as_one() {
    over_every_backing(&lossy(), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for round in 0..100u8 {
            let body = vec![round; 20 + usize::from(round)];
            writer
                .append_all([("a", &body[..]), ("b", &body), ("c", &body)], Wait::Never)
                .unwrap();
        }
        let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
        let all: Vec<_> = late.drain().map(Result::unwrap).collect();
        assert_eq!(all.last().unwrap().sequence(), 299);
        for message in &all {
            assert_eq!(message.kind(), ["a", "b", "c"][(message.sequence() % 3) as usize]);
            assert_eq!(u64::from(message.body()[0]), message.sequence() / 3);
        }
    });
}

/// The reader sleeps, is overtaken, and where its next message was stands a body whose bytes look like an empty place.
#[test]
fn a_sleeper_that_was_overtaken_is_told_whatever_lies_where_it_was() {
    over_every_shared_backing(&lossy(), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let mut reader = queue.reader().unwrap();
            reader.set_spin(Duration::ZERO);
            joined.raise();
            match reader.pop(Wait::For(Duration::from_secs(5))) {
                Err(Error::Lagged { missed }) => assert!(missed >= 1),
                other => panic!("unexpected: {other:?}"),
            }
            0
        });
        joined.wait_for(1);
        let state = |letter: char| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with(letter)
        };
        eventually("the child sleeps", || state('S'));
        child.signal(Signal::SIGSTOP);
        eventually("the child is stopped", || state('T'));
        let mut writer = queue.writer("w").unwrap();
        // Each takes 17 of the ring's 64 granules: the fourth lies across the ring's end, its body where the first began.
        for _ in 0..4 {
            writer.append("", &[0; 1000], Wait::Never).unwrap();
        }
        child.signal(Signal::SIGCONT);
        child.must_succeed();
    });
}
