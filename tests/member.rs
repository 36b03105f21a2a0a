//! The role that writes and reads: its own messages, its backlog at home, threads, and everything a writer and a reader can.

mod support;

use std::io::Write;
use std::time::Duration;
use support::{minute, over_every_backing, over_every_shared_backing};
use syncq::{Buffer, Error, Member, Queue, Start, Wait};

/// All that is there now.
fn bodies(member: &mut Member) -> Vec<Vec<u8>> {
    member.drain().map(|message| message.unwrap().body().to_vec()).collect()
}

#[test]
fn members_hear_each_other_and_not_themselves() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut a = queue.join("a").unwrap();
        let mut b = queue.join("b").unwrap();
        // Of the same name, and still somebody else.
        let mut c = queue.join("a").unwrap();
        a.append("k", b"from a", Wait::Never).unwrap();
        b.append("k", b"from b", Wait::Never).unwrap();
        assert_eq!((a.sender(), b.sender(), c.sender()), ("a", "b", "a"));
        assert_ne!(a.id(), c.id());
        assert_eq!(bodies(&mut a), [b"from b"]);
        assert_eq!(bodies(&mut b), [b"from a"]);
        assert_eq!(bodies(&mut c), [b"from a", b"from b"]);
        assert_eq!((a.lag(), b.lag(), c.lag()), (0, 0, 0));
    });
}

#[test]
fn a_member_that_hears_its_own_hears_everything() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
        member.append("k", b"1", Wait::Never).unwrap();
        member.append_pod("k", &2u16, Wait::Never).unwrap();
        member.append_all([("k", &b"3"[..]), ("k", b"4")], Wait::Never).unwrap();
        let mut place = member.reserve("k", 10, Wait::Never).unwrap();
        place.write_all(b"5").unwrap();
        place.commit_written().unwrap();
        assert_eq!(
            bodies(&mut member),
            [
                b"1".to_vec(),
                2u16.to_ne_bytes().to_vec(),
                b"3".into(),
                b"4".into(),
                b"5".into()
            ]
        );
        member.screen().hear_own(false);
        member.append("k", b"6", Wait::Never).unwrap();
        assert!(bodies(&mut member).is_empty());
        member.screen().hear_own(true);
        member.append("k", b"7", Wait::Never).unwrap();
        assert_eq!(bodies(&mut member), [b"7"]);
    });
}

#[test]
fn a_member_reads_in_every_way() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("m").unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..5u8 {
            writer.append("k", &[number], Wait::Never).unwrap();
        }
        assert_eq!(member.lag(), 5 * 64);
        assert_eq!(member.peek(Wait::Never).unwrap().unwrap().len(), 1);
        assert_eq!(member.pop(Wait::Never).unwrap().unwrap().body(), [1]);
        let mut buffer = Buffer::with_capacity(100);
        let message = member.pop_into(&mut buffer, Wait::Never).unwrap().unwrap();
        assert_eq!(message.body(), [2]);
        assert_eq!(member.messages(Wait::Never).next().unwrap().unwrap().body(), [3]);
        assert_eq!(bodies(&mut member), [[4]]);
        assert!(member.pop(Wait::Never).unwrap().is_none());
        assert!(member.peek(Wait::Never).unwrap().is_none());
        assert!(member.pop_into(&mut buffer, Wait::Never).unwrap().is_none());
    });
}

#[test]
fn a_late_member_begins_now_or_with_the_oldest() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        writer.append("k", b"early", Wait::Never).unwrap();
        let mut now = queue.join("now").unwrap();
        let mut oldest = queue.joining().sender("o").start(Start::Oldest).member().unwrap();
        writer.append("k", b"late", Wait::Never).unwrap();
        assert_eq!(bodies(&mut now), [b"late"]);
        assert_eq!(bodies(&mut oldest), [&b"early"[..], b"late"]);
    });
}

#[test]
fn an_append_into_its_own_backlog_takes_it_home_in_order() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("m").unwrap();
        let mut writer = queue.writer("w").unwrap();
        let mut filled = 0u32;
        while writer.append_pod("n", &filled, Wait::Never).is_ok() {
            filled += 1;
        }
        assert_eq!(filled, 63);
        // Not blocked by itself, not even with no time to wait, not by any of the three ways to write.
        member.append("", b"a", Wait::Never).unwrap();
        for _ in 0..100 {
            member
                .append_all([("", &b"b"[..]), ("", &[0; 300])], Wait::Never)
                .unwrap();
            member.reserve("", 500, Wait::Never).unwrap().commit().unwrap();
        }
        writer.append_pod("n", &filled, Wait::Never).unwrap();
        for number in 0..=filled {
            let message = member.pop(Wait::Never).unwrap().unwrap();
            assert_eq!((message.sender(), message.pod::<u32>().unwrap()), ("w", number));
            assert_eq!(message.body().as_ptr() as usize % 8, 0);
        }
        assert!(member.pop(Wait::Never).unwrap().is_none());
        let info = &queue.members()[usize::from(member.id().slot())];
        assert_eq!(info.popped, u64::from(filled) + 1);
    });
}

#[test]
fn messages_at_home_come_in_every_way_of_reading() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("m").unwrap();
        let mut writer = queue.writer("w").unwrap();
        let mut filled = 0u64;
        while writer.append_pod("n", &filled, Wait::Never).is_ok() {
            filled += 1;
        }
        member.append("", b"", Wait::Never).unwrap();
        let mut next = 0;
        // Kept: it stays the first.
        for _ in 0..3 {
            let guard = member.peek(Wait::Never).unwrap().unwrap();
            assert_eq!((&*guard.sender(), &*guard.kind(), guard.len()), ("w", "n", 8));
            assert_eq!(guard.body_pointer() as usize % 8, 0);
            guard.check().unwrap();
            guard.keep();
        }
        while next < filled {
            let mut bytes = [0; 8];
            match next % 4 {
                0 => bytes.copy_from_slice(member.pop(Wait::Never).unwrap().unwrap().body()),
                1 => member.peek(Wait::Never).unwrap().unwrap().copy_to(0, &mut bytes),
                2 => {
                    let mut buffer = Buffer::new();
                    let message = member.pop_into(&mut buffer, Wait::Never).unwrap().unwrap();
                    bytes.copy_from_slice(message.body());
                }
                _ => bytes.copy_from_slice(member.drain().next().unwrap().unwrap().body()),
            }
            assert_eq!(u64::from_ne_bytes(bytes), next);
            next += 1;
        }
        assert!(member.peek(Wait::Never).unwrap().is_none());
    });
}

#[test]
fn the_screen_also_acts_on_what_is_at_home() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
        let mut writer = queue.writer("w").unwrap();
        member.append("own", b"", Wait::Never).unwrap();
        while writer.append("debug", b"", Wait::Never).is_ok() && writer.append("news", b"", Wait::Never).is_ok() {}
        member.append("own", b"", Wait::Never).unwrap();
        member.screen().add_kind("debug").hear_own(false);
        while let Some(message) = member.pop(Wait::Never).unwrap() {
            assert_eq!(message.kind(), "news");
        }
        let info = &queue.members()[usize::from(member.id().slot())];
        assert_eq!((info.popped, info.screened), (31, 33));
    });
}

#[test]
fn a_member_that_never_pops_meets_an_error_at_its_limit() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
        member.set_home_limit(20_000);
        let mut appended = 0usize;
        let backlog = loop {
            match member.append("", &[appended as u8; 1000], Wait::Forever) {
                Ok(_) => appended += 1,
                Err(Error::ReadFirst { backlog, .. }) => break backlog,
                Err(other) => panic!("unexpected: {other:?}"),
            }
            assert!(appended < 100);
        };
        assert!((20..=25).contains(&appended), "{appended}");
        assert!(backlog > 0 && backlog <= 4096);
        assert!(matches!(
            member.reserve("", 1000, Wait::Never),
            Err(Error::ReadFirst { .. })
        ));
        for number in 0..appended {
            assert_eq!(member.pop(Wait::Never).unwrap().unwrap().body(), [number as u8; 1000]);
        }
        assert!(member.pop(Wait::Never).unwrap().is_none());
        member.append("", b"again", Wait::Never).unwrap();
    });
}

#[test]
fn a_member_that_never_pops_meets_an_error_also_with_empty_bodies() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
    member.set_home_limit(10_000);
    let is_told = (0..100_000).any(|_| matches!(member.append("k", b"", Wait::Never), Err(Error::ReadFirst { .. })));
    assert!(
        is_told,
        "100,000 messages are at home, each with its names and its header"
    );
}

#[test]
fn another_slow_reader_still_holds_a_member_back() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
        let mut other = queue.joining().sender("slow").reader().unwrap();
        let mut appended = 0;
        let full = loop {
            match member.append("", &[1; 100], Wait::Never) {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        match full {
            Error::Full(full) => assert_eq!(full.slowest.unwrap().name, "slow"),
            other => panic!("unexpected: {other:?}"),
        }
        assert_eq!(other.drain().map(Result::unwrap).count(), appended);
        assert_eq!(bodies(&mut member).len(), appended);
    });
}

#[test]
fn members_that_only_append_never_block_each_other_for_good() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        std::thread::scope(|threads| {
            for name in ["a", "b", "c"] {
                let mut member = queue.join(name).unwrap();
                threads.spawn(move || {
                    for number in 0..300u32 {
                        // The question and, from time to time, what the others say.
                        member.append_pod(name, &number, Wait::Forever).unwrap();
                        if number % 3 == 0 {
                            while member.pop(Wait::Never).unwrap().is_some() {}
                        }
                    }
                });
            }
        });
        assert_eq!(queue.stats().appended, 900);
    });
}

#[test]
fn a_member_moves_to_another_thread_and_back() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut member = queue.join("m").unwrap();
        member.append("", b"here", Wait::Never).unwrap();
        let mut member = std::thread::spawn(move || {
            member.append("", b"there", Wait::Never).unwrap();
            member
        })
        .join()
        .unwrap();
        member.append("", b"here again", Wait::Never).unwrap();
        let all: Vec<_> = reader.drain().map(|message| message.unwrap().body().to_vec()).collect();
        assert_eq!(all, [&b"here"[..], b"there", b"here again"]);
        std::thread::spawn(move || drop(member)).join().unwrap();
        assert_eq!(queue.members().len(), 1);
    });
}

#[test]
fn threads_with_members_of_their_own_see_one_order() {
    over_every_backing(&Queue::options().capacity(16 << 10), |queue| {
        const THREADS: usize = 4;
        const EACH: usize = 500;
        let members: Vec<_> = (0..THREADS)
            .map(|n| queue.joining().sender(&n.to_string()).hear_own(true).member().unwrap())
            .collect();
        let orders: Vec<Vec<(String, u64)>> = std::thread::scope(|threads| {
            let all: Vec<_> = members
                .into_iter()
                .map(|mut member| {
                    threads.spawn(move || {
                        let mut seen = Vec::new();
                        let mut note = |member: &mut Member, wait: Wait| match member.pop(wait).unwrap() {
                            Some(message) => {
                                seen.push((message.sender().to_owned(), message.sequence()));
                                true
                            }
                            None => false,
                        };
                        let mut count = 0;
                        for _ in 0..EACH {
                            member.append("", b"x", Wait::Forever).unwrap();
                            while note(&mut member, Wait::Never) {
                                count += 1;
                            }
                        }
                        while count < THREADS * EACH {
                            assert!(note(&mut member, Wait::Forever));
                            count += 1;
                        }
                        seen
                    })
                })
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(orders[0].iter().enumerate().all(|(at, seen)| seen.1 == at as u64));
    });
}

#[test]
fn a_member_that_left_leaves_its_messages() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        queue.join("gone").unwrap().append("k", b"bye", Wait::Never).unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!((message.sender(), message.body()), ("gone", &b"bye"[..]));
    });
}

#[test]
fn an_evicted_member_is_told_by_every_call() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.joining().sender("m").hear_own(true).member().unwrap();
        member.append("", b"1", Wait::Never).unwrap();
        queue.evict(member.id()).unwrap();
        let soon = Wait::For(Duration::from_secs(30));
        assert!(matches!(member.append("", b"", soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.append_pod("", &1u8, soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.append_all([], soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.reserve("", 1, soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.pop(soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.peek(soon), Err(Error::Evicted { .. })));
        let mut buffer = Buffer::new();
        assert!(matches!(member.pop_into(&mut buffer, soon), Err(Error::Evicted { .. })));
        assert!(matches!(member.drain().next(), Some(Err(Error::Evicted { .. }))));
        assert!(matches!(member.messages(soon).next(), Some(Err(Error::Evicted { .. }))));
    });
}
