//! Threads of one process on a queue on the heap, where Miri and ThreadSanitizer can look on: no file, no fork, no second mapping.
//!
//! In an ordinary run these are tests like any other. `docs/guarantees.md` says how to run them with the two, and what the two
//! cannot see.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Watchdog, watchdog};
use syncq::{Error, Message, Overflow, Queue, QueueOptions, Start, Wait};

/// Miri takes a thousand times as long for everything.
const MANY: u32 = if cfg!(miri) { 12 } else { 2000 };

/// From this length on a body moves by `memcpy`. Readers that writers do not wait for throw away what was overwritten meanwhile,
/// and ThreadSanitizer cannot know that they do.
const MOVED_BY_WORDS: u32 = 511;

fn patient() -> Watchdog {
    watchdog(Duration::from_secs(if cfg!(miri) { 1500 } else { 120 }))
}

fn small() -> QueueOptions {
    Queue::options().capacity(4096).slots(8)
}

/// A body of at most `longest` bytes, and of 8 at least, that says which it is.
fn body(sender: u32, number: u32, longest: u32) -> Vec<u8> {
    let len = 8 + (number.wrapping_mul(2_654_435_761) >> 7) % (longest - 7);
    let mut body: Vec<u8> = (0..len)
        .map(|at| (sender ^ number.wrapping_mul(7) ^ at) as u8)
        .collect();
    body[..4].copy_from_slice(&sender.to_le_bytes());
    body[4..8].copy_from_slice(&number.to_le_bytes());
    body
}

/// Sender and number of a message that is whole.
fn read(message: &Message<'_>, longest: u32) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(message.body()[at..at + 4].try_into().unwrap());
    let (sender, number) = (word(0), word(4));
    assert_eq!(message.body(), body(sender, number, longest), "torn");
    (sender, number)
}

/// Checks that the messages of `sender` are all there, in order.
fn assert_all_of(sender: u32, seen: &[(u32, u32)], count: u32) {
    let numbers = seen.iter().filter(|it| it.0 == sender).map(|it| it.1);
    assert!(
        numbers.eq(0..count),
        "of {sender}, some are lost, repeated or out of order"
    );
}

#[test]
fn threads_that_write_and_read_see_one_order_and_lose_nothing() {
    const LONGEST: u32 = 900;
    const MEMBERS: u32 = 3;
    let _watchdog = patient();
    let queue = small().heap().unwrap();
    let all_are_there = Barrier::new(MEMBERS as usize);
    let all_seen: Vec<_> = std::thread::scope(|threads| {
        let threads: Vec<_> = (0..MEMBERS)
            .map(|me| {
                let (queue, all_are_there) = (&queue, &all_are_there);
                threads.spawn(move || {
                    let mut member = queue.joining().hear_own(true).member().unwrap();
                    all_are_there.wait();
                    let mut seen = Vec::new();
                    for number in 0..MANY {
                        member
                            .append("news", &body(me, number, LONGEST), Wait::Forever)
                            .unwrap();
                        while let Some(message) = member.pop(Wait::Never).unwrap() {
                            seen.push(read(&message, LONGEST));
                        }
                    }
                    while seen.len() < (MEMBERS * MANY) as usize {
                        seen.push(read(&member.pop(Wait::Forever).unwrap().unwrap(), LONGEST));
                    }
                    seen
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for seen in &all_seen {
        assert_eq!(seen, &all_seen[0], "two orders");
    }
    (0..MEMBERS).for_each(|sender| assert_all_of(sender, &all_seen[0], MANY));
}

/// One that sleeps, one that looks in place, a writer that keeps the claim and another one that revokes it now and then.
#[test]
fn a_kept_claim_changes_hands_and_every_reader_gets_everything() {
    const LONGEST: u32 = 700;
    let _watchdog = patient();
    let queue = small().heap().unwrap();
    let (mut pops, mut peeks) = (queue.reader().unwrap(), queue.reader().unwrap());
    let mut keeper = queue.writer("keeper").unwrap();
    let mut other = queue.writer("other").unwrap();
    let few = MANY / 6;
    let total = (MANY + few) as usize;
    std::thread::scope(|threads| {
        threads.spawn(move || {
            for number in 0..MANY {
                keeper.append("news", &body(0, number, LONGEST), Wait::Forever).unwrap();
            }
        });
        threads.spawn(move || {
            for number in 0..few {
                std::thread::sleep(Duration::from_micros(150));
                let body = body(1, number, LONGEST);
                other.append_all([("batch", &body[..])], Wait::Forever).unwrap();
            }
        });
        let popped = threads.spawn(move || {
            let next = |_| read(&pops.pop(Wait::Forever).unwrap().unwrap(), LONGEST);
            (0..total).map(next).collect::<Vec<_>>()
        });
        let next = |_| {
            let guard = peeks.peek(Wait::Forever).unwrap().unwrap();
            let mut copy = vec![0; guard.len()];
            guard.copy_to(0, &mut copy);
            let word = |at: usize| u32::from_le_bytes(copy[at..at + 4].try_into().unwrap());
            assert_eq!(copy, body(word(0), word(4), LONGEST), "torn");
            (word(0), word(4))
        };
        let peeked: Vec<_> = (0..total).map(next).collect();
        assert_eq!(popped.join().unwrap(), peeked, "two orders");
        assert_all_of(0, &peeked, MANY);
        assert_all_of(1, &peeked, few);
    });
}

#[test]
fn reservations_of_threads_are_filled_at_leisure_and_delivered_whole_or_not_at_all() {
    const LONGEST: u32 = 800;
    let _watchdog = patient();
    let queue = small().heap().unwrap();
    let mut reader = queue.reader().unwrap();
    std::thread::scope(|threads| {
        for me in 0..2 {
            let mut writer = queue.writer("w").unwrap();
            threads.spawn(move || {
                let mut number = 0;
                for round in 0.. {
                    let body = body(me, number, LONGEST);
                    // One in four is given up, one in four is longer than what is committed of it.
                    let spare = if round % 4 == 1 { 200 } else { 0 };
                    let mut place = writer.reserve("news", body.len() + spare, Wait::Forever).unwrap();
                    place.write_at(0, &body);
                    if round % 4 == 3 {
                        place.abort();
                        continue;
                    }
                    place.commit_first(body.len()).unwrap();
                    number += 1;
                    if number == MANY {
                        break;
                    }
                }
            });
        }
        let next = |_| read(&reader.pop(Wait::Forever).unwrap().unwrap(), LONGEST);
        let seen: Vec<_> = (0..2 * MANY).map(next).collect();
        (0..2).for_each(|sender| assert_all_of(sender, &seen, MANY));
        assert!(reader.pop(Wait::Never).unwrap().is_none());
    });
}

#[test]
fn who_comes_and_goes_among_running_threads_gets_all_from_where_it_began() {
    const LONGEST: u32 = 300;
    let _watchdog = patient();
    let queue = small().heap().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let mut writer = queue.writer("w").unwrap();
        let writing = threads.spawn(move || {
            for number in 0..MANY {
                writer.append("news", &body(0, number, LONGEST), Wait::Forever).unwrap();
            }
        });
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mut guest = queue.joining().start(Start::Oldest).member().unwrap();
                let mut last = None;
                for _ in 0..5 {
                    let popped = guest.pop(Duration::from_millis(1)).unwrap();
                    let Some(number) = popped.map(|message| read(&message, LONGEST).1) else {
                        break;
                    };
                    assert!(last.is_none_or(|last| number == last + 1), "{last:?}, then {number}");
                    last = Some(number);
                }
                let mut observer = queue.observer().unwrap();
                let _ = (queue.members(), queue.stats(), observer.pop(Wait::Never).is_ok());
            }
        });
        writing.join().unwrap();
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(queue.members().len(), 0);
}

#[test]
fn readers_that_nobody_waits_for_never_take_a_torn_message_for_a_whole_one() {
    let _watchdog = patient();
    let queue = small().overflow(Overflow::Lossy).heap().unwrap();
    let mut reader = queue.reader().unwrap();
    let mut observer = queue.observer().unwrap();
    std::thread::scope(|threads| {
        let mut writer = queue.writer("w").unwrap();
        threads.spawn(move || {
            for number in 0..MANY {
                writer
                    .append("news", &body(0, number, MOVED_BY_WORDS), Wait::Forever)
                    .unwrap();
            }
        });
        // What came and what was missed is all that there was.
        fn count(mut pop: impl FnMut() -> Result<Option<u32>, Error>) {
            let mut next = 0;
            while next < MANY {
                match pop() {
                    Ok(Some(number)) => {
                        assert_eq!(number, next);
                        next += 1;
                    }
                    Ok(None) => panic!("for ever is longer"),
                    Err(Error::Lagged { missed }) => next += missed as u32,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        let number_of = |message: Option<Message<'_>>| message.map(|message| read(&message, MOVED_BY_WORDS).1);
        threads.spawn(move || count(|| observer.pop(Wait::Forever).map(number_of)));
        count(|| reader.pop(Wait::Forever).map(number_of));
    });
}

#[test]
fn a_thread_that_is_put_out_in_the_middle_is_told_and_reads_nothing_torn() {
    let _watchdog = patient();
    let rounds = if cfg!(miri) { 3 } else { 60 };
    for _ in 0..rounds {
        let queue = small().heap().unwrap();
        let mut reader = queue.joining().sender("slow").reader().unwrap();
        let id = reader.id();
        std::thread::scope(|threads| {
            let mut writer = queue.writer("w").unwrap();
            threads.spawn(move || {
                for number in 0..40 {
                    writer
                        .append("news", &body(0, number, MOVED_BY_WORDS), Wait::Forever)
                        .unwrap();
                }
            });
            threads.spawn(|| {
                let mut next = 0;
                loop {
                    match reader.pop(Wait::Forever) {
                        Ok(message) => {
                            assert_eq!(read(&message.unwrap(), MOVED_BY_WORDS), (0, next));
                            next += 1;
                        }
                        Err(Error::Evicted { .. }) => return,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            std::thread::sleep(Duration::from_micros(200));
            queue.evict(id).unwrap();
        });
    }
}
