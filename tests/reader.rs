//! The role that only reads: where it begins, its buffer, its iterators, and looking at a message where it lies.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{over_every_backing, over_every_shared_backing};
use syncq::{Buffer, Error, Queue, Reader, Start, Wait};

/// Tells the threads of a test to end, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn bodies(reader: &mut Reader) -> Vec<Vec<u8>> {
    reader.drain().map(|message| message.unwrap().body().to_vec()).collect()
}

#[test]
fn every_reader_hears_everything_from_when_it_joined() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"0", Wait::Never).unwrap();
        let mut first = queue.reader().unwrap();
        writer.append("", b"1", Wait::Never).unwrap();
        let mut second = queue.reader().unwrap();
        writer.append("", b"2", Wait::Never).unwrap();
        assert_eq!((first.lag(), second.lag()), (128, 64));
        assert_eq!(bodies(&mut second), [b"2"]);
        assert_eq!(bodies(&mut first), [b"1", b"2"]);
        assert_ne!(first.id(), second.id());
    });
}

#[test]
fn the_oldest_is_all_there_is_as_long_as_nothing_was_overwritten() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let start = || queue.joining().start(Start::Oldest).reader().unwrap();
        assert!(start().pop(Wait::Never).unwrap().is_none());
        let mut writer = queue.writer("w").unwrap();
        for number in 0..10u8 {
            writer.append("", &[number], Wait::Never).unwrap();
            let all: Vec<u8> = start().drain().map(|message| message.unwrap().body()[0]).collect();
            assert!(all.iter().copied().eq(0..=number));
        }
    });
}

#[test]
fn the_oldest_is_whole_and_contiguous_also_after_many_laps() {
    over_every_backing(&Queue::options().capacity(8192), |queue| {
        let mut writer = queue.writer("w").unwrap();
        let len = |number: u64| (number * 61 % 900) as usize;
        for number in 0..2000u64 {
            writer
                .append("k", &vec![number as u8; len(number)], Wait::Never)
                .unwrap();
            if number % 7 != 0 {
                continue;
            }
            let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
            // It holds the writers back from the start, so what it has found stays.
            let history = queue.stats().history;
            assert_eq!(late.lag(), history);
            let mut next = None;
            let mut bytes = 0;
            for message in late.drain() {
                let message = message.unwrap();
                let sequence = message.sequence();
                assert_eq!(next.unwrap_or(sequence), sequence);
                assert_eq!(message.body(), vec![sequence as u8; len(sequence)]);
                bytes += (40 + len(sequence) as u64).next_multiple_of(64);
                next = Some(sequence + 1);
            }
            assert_eq!(next, Some(number + 1), "up to the newest");
            assert_eq!(bytes, history);
            if number > 100 {
                assert!(history > 8192 / 2, "and no less than half a ring: {history}");
            }
        }
    });
}

#[test]
fn a_reader_that_began_with_the_oldest_holds_writers_back() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for number in 0..500u64 {
            writer.append_pod("", &number, Wait::Never).unwrap();
        }
        let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
        let mut number = 500u64;
        while writer.append_pod("", &number, Wait::Never).is_ok() {
            number += 1;
        }
        let all: Vec<u64> = late.drain().map(|message| message.unwrap().pod().unwrap()).collect();
        assert_eq!(all.len(), 63);
        assert!(all.iter().copied().eq(number - 63..number));
    });
}

#[test]
fn a_late_reader_is_safe_among_running_writers() {
    over_every_backing(&Queue::options().capacity(8192), |queue| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _stop = StopOnDrop(&stop);
            threads.spawn(|| {
                let mut writer = queue.writer("w").unwrap();
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let body = vec![number as u8; (number * 61 % 700) as usize];
                    writer.append("", &body, Wait::Forever).unwrap();
                    number += 1;
                }
            });
            for round in 0..200 {
                let start = if round % 2 == 0 { Start::Oldest } else { Start::Now };
                let mut late = queue.joining().start(start).reader().unwrap();
                let mut next = None;
                for _ in 0..20 {
                    let message = late.pop(Wait::Forever).unwrap().unwrap();
                    let sequence = message.sequence();
                    assert_eq!(next.unwrap_or(sequence), sequence);
                    assert_eq!(message.body(), vec![sequence as u8; (sequence * 61 % 700) as usize]);
                    next = Some(sequence + 1);
                }
            }
        });
    });
}

#[test]
fn a_callers_buffer_serves_message_after_message() {
    over_every_backing(&Queue::options().capacity(8192), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let (mut one, mut other) = (Buffer::new(), Buffer::with_capacity(10));
        for len in [0, 5000, 1, 64, 700] {
            writer.append("a", &vec![1; len], Wait::Never).unwrap();
            writer.append("b", &vec![2; len / 2], Wait::Never).unwrap();
            // Two messages at a time, each in a buffer of its own, outliving the calls.
            let first = reader.pop_into(&mut one, Wait::Never).unwrap().unwrap();
            let second = reader.pop_into(&mut other, Wait::Never).unwrap().unwrap();
            assert_eq!((first.kind(), first.body()), ("a", &vec![1; len][..]));
            assert_eq!((second.kind(), second.body()), ("b", &vec![2; len / 2][..]));
            assert_eq!(first.body().as_ptr() as usize % 8, 0);
        }
        assert!(reader.pop_into(&mut one, Wait::Never).unwrap().is_none());
    });
}

#[test]
fn drain_ends_when_there_is_nothing_and_takes_only_what_it_gave() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        assert_eq!(reader.drain().count(), 0);
        for number in 0..10u8 {
            writer.append("", &[number], Wait::Never).unwrap();
        }
        assert_eq!(reader.drain().take(3).count(), 3);
        let rest: Vec<u8> = reader.drain().map(|message| message.unwrap().body()[0]).collect();
        assert_eq!(rest, [3, 4, 5, 6, 7, 8, 9]);
    });
}

#[test]
fn messages_waits_for_each_and_ends_when_none_comes() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        std::thread::scope(|threads| {
            let reading = threads.spawn(|| reader.messages(Wait::Forever).take(5).map(Result::unwrap).count());
            for _ in 0..5 {
                writer.append("", b"x", Wait::Never).unwrap();
                std::thread::yield_now();
            }
            assert_eq!(reading.join().unwrap(), 5);
        });
        writer.append("", b"last", Wait::Never).unwrap();
        let rest: Vec<_> = reader.messages(Duration::from_millis(20)).map(Result::unwrap).collect();
        assert_eq!(rest.len(), 1);
    });
}

#[test]
fn a_guard_shows_the_message_where_it_lies() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("sender").unwrap();
        for number in 0..300usize {
            let body: Vec<u8> = (0..number * 7 % 1500).map(|at| (at + number) as u8).collect();
            writer.append("kind", &body, Wait::Never).unwrap();
            let guard = reader.peek(Wait::Never).unwrap().unwrap();
            assert_eq!((&*guard.sender(), &*guard.kind()), ("sender", "kind"));
            assert_eq!((guard.len(), guard.is_empty()), (body.len(), body.is_empty()));
            assert_eq!(guard.body_pointer() as usize % 8, 0);
            let mut copy = vec![0; body.len()];
            guard.copy_to(0, &mut copy);
            assert_eq!(copy, body);
            if let Some(last) = body.last() {
                let mut byte = [0];
                guard.copy_to(body.len() - 1, &mut byte);
                assert_eq!(byte, [*last]);
            }
            guard.copy_to(body.len(), &mut []);
            // SAFETY: nobody else appends while the guard lives, and nobody evicts.
            assert_eq!(unsafe { guard.body() }, body);
            guard.check().unwrap();
            assert!(format!("{guard:?}").contains("sender"));
        }
        assert!(
            reader.peek(Wait::Never).unwrap().is_none(),
            "each was let go by its drop"
        );
    });
}

#[test]
fn a_guard_holds_its_message_until_it_is_dropped_and_can_keep_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", &[7; 3000], Wait::Never).unwrap();
        reader.peek(Wait::Never).unwrap().unwrap().keep();
        let free = queue.free();
        let guard = reader.peek(Wait::Never).unwrap().unwrap();
        assert_eq!(queue.free(), free);
        assert!(matches!(
            writer.append("", &[8; 3000], Wait::Never),
            Err(Error::Full(_))
        ));
        let mut copy = [0; 3000];
        guard.copy_to(0, &mut copy);
        assert_eq!(copy, [7; 3000]);
        drop(guard);
        assert_eq!(queue.free(), 4096 - 64);
        writer.append("", &[8; 3000], Wait::Never).unwrap();
        // Forgotten is kept.
        std::mem::forget(reader.peek(Wait::Never).unwrap().unwrap());
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), [8; 3000]);
    });
}

#[test]
fn a_guard_of_an_evicted_reader_says_so() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let id = reader.id();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", &[7; 100], Wait::Never).unwrap();
        let guard = reader.peek(Wait::Never).unwrap().unwrap();
        guard.check().unwrap();
        queue.evict(id).unwrap();
        assert!(matches!(guard.check(), Err(Error::Evicted { .. })));
        for _ in 0..100 {
            writer.append("", &[9; 100], Wait::Never).unwrap();
        }
        assert!(matches!(guard.check(), Err(Error::Evicted { .. })));
        drop(guard);
        assert!(matches!(reader.pop(Wait::Never), Err(Error::Evicted { .. })));
        assert_eq!(queue.free(), 4096 - 64);
    });
}

#[test]
#[should_panic(expected = "of a body of 3")]
fn a_guard_copies_nothing_beyond_the_body() {
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut reader = queue.reader().unwrap();
    queue.writer("w").unwrap().append("", b"abc", Wait::Never).unwrap();
    let guard = reader.peek(Wait::Never).unwrap().unwrap();
    guard.copy_to(usize::MAX, &mut [0; 2]);
}

#[test]
fn a_reader_that_leaves_gives_up_what_it_has_not_read() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..10 {
            let reader = queue.reader().unwrap();
            while writer.append("", &[0; 200], Wait::Never).is_ok() {}
            drop(reader);
            assert_eq!(queue.free(), 4096 - 64);
        }
    });
}

#[test]
fn a_reader_moves_to_another_thread() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let reading = std::thread::spawn(move || {
            let body = reader.pop(Wait::Forever).unwrap().unwrap().body().to_vec();
            (reader, body)
        });
        writer.append("", b"1", Wait::Never).unwrap();
        let (mut reader, body) = reading.join().unwrap();
        assert_eq!(body, b"1");
        writer.append("", b"2", Wait::Never).unwrap();
        assert_eq!(bodies(&mut reader), [b"2"]);
    });
}

#[test]
fn spinning_as_long_as_it_takes_is_a_way_to_wait() {
    for spin in [Duration::ZERO, Duration::from_millis(5), Duration::MAX] {
        over_every_backing(&Queue::options().capacity(4096).spin(spin), |queue| {
            let mut reader = queue.reader().unwrap();
            let mut writer = queue.writer("w").unwrap();
            std::thread::scope(|threads| {
                let reading = threads.spawn(|| {
                    reader.set_spin(spin);
                    for wait in [
                        Wait::Forever,
                        Wait::For(Duration::MAX),
                        Wait::For(Duration::from_secs(50)),
                    ] {
                        reader.pop(wait).unwrap().unwrap();
                    }
                });
                for _ in 0..3 {
                    std::thread::sleep(Duration::from_millis(1));
                    writer.append("", b"", Wait::Never).unwrap();
                }
                reading.join().unwrap();
            });
        });
    }
}
