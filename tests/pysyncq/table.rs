//! The table of checks that PySyncQ's behaviour was measured with, in its order: rows a to q. Not here: row l, where somebody
//! is killed (`signals`).

use super::support::{self, Child, SharedWord, forked, minute, named, over_every_backing, over_every_shared_backing};
use super::{SOON, Triple, blocked_until, body, fill, ms, on_time, pop, small, triple};
use std::process::Command;
use std::time::{Duration, Instant};
use syncq::{Error, Queue, Wait};

/// Row a.
#[test]
fn two_readers_get_the_same_triple_and_room_comes_back_after_the_second_read() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut b) = (queue.join("A").unwrap(), queue.join("B").unwrap());
        let mut w = queue.writer("W").unwrap();
        w.append("type", b"hello", Wait::Never).unwrap();
        let expected: Triple = ("W".into(), "type".into(), b"hello".to_vec());
        let taken = all - queue.free();
        assert!(taken >= 1 + 4 + 5, "a message takes room");
        assert_eq!(pop(&mut a), Some(expected.clone()));
        assert_eq!(all - queue.free(), taken, "one of two has read it");
        assert_eq!(pop(&mut b), Some(expected));
        assert_eq!(queue.free(), all);
    });
}

/// Row b.
#[test]
fn a_member_that_screens_itself_pops_nothing_and_that_releases_its_share() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut b) = (queue.join("A").unwrap(), queue.join("B").unwrap());
        a.append("type", b"hello", Wait::Never).unwrap();
        assert!(pop(&mut b).is_some());
        assert!(queue.free() < all);
        assert_eq!(pop(&mut a), None);
        assert_eq!(queue.free(), all);
    });
}

/// Row c.
#[test]
fn the_largest_message_fits_whatever_came_before_and_one_byte_more_never_does() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("bee").unwrap());
        for history in 0..300usize {
            // Lengths that leave the ring at every place where a message can begin.
            for length in [history * 37 % 911, history * 101 % 1500] {
                a.append("", &vec![1; length], Wait::Never).unwrap();
                assert_eq!(pop(&mut b).unwrap().2.len(), length);
                assert_eq!(pop(&mut a), None);
            }
            let kind = "k".repeat(history % 256);
            let max = queue.max_body(1, kind.len()) as usize;
            let mut largest: Vec<u8> = (0..=max).map(|at| (at * 7 + history) as u8).collect();
            for wait in [Wait::Never, Wait::For(Duration::from_secs(1000)), Wait::Forever] {
                let refused = a.append(&kind, &largest, wait);
                assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
            }
            largest.pop();
            a.append(&kind, &largest, Wait::Never).unwrap();
            assert_eq!(queue.free(), 0);
            assert_eq!(pop(&mut b), Some(("a".into(), kind, largest)));
            assert_eq!(pop(&mut a), None);
            assert_eq!(queue.free(), all);
        }
    });
}

/// Row d.
#[test]
fn a_refused_append_changes_nothing() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        let held = fill(&mut a, "", &[7; 100]);
        let before = (queue.free(), queue.stats().position, queue.stats().appended);
        for wait in [Wait::Never, Wait::For(ms(5))] {
            match a.append("", &[8; 100], wait) {
                Err(Error::Full(full)) => {
                    assert_eq!(full.free, before.0);
                    assert!(full.needed > full.free);
                    assert_eq!(full.slowest.unwrap().name, "b");
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        let refused = a.append("", &vec![8; 1 << 20], Wait::Forever);
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        assert_eq!(before, (queue.free(), queue.stats().position, queue.stats().appended));
        let bodies: Vec<_> = b.drain().map(|m| m.unwrap().body().to_vec()).collect();
        assert_eq!(bodies, vec![vec![7; 100]; held]);
    });
}

/// Row e.
#[test]
fn a_blocked_append_goes_on_when_the_last_owed_read_happens() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b, mut c) = (
            queue.join("a").unwrap(),
            queue.join("b").unwrap(),
            queue.join("c").unwrap(),
        );
        fill(&mut a, "", &[0; 400]);
        blocked_until(
            || a.append("last", b"", Wait::Forever).unwrap(),
            || {
                assert!(pop(&mut b).is_some(), "one of two reads, the last owed is c's");
                assert!(pop(&mut c).is_some());
            },
        );
        for reader in [&mut b, &mut c] {
            assert_eq!(reader.drain().last().unwrap().unwrap().kind(), "last");
        }
    });
}

/// Row f (PySyncQ: not woken, MemoryError after the whole timer).
#[test]
fn a_blocked_append_goes_on_when_the_last_slow_reader_leaves() {
    over_every_backing(&small(), |queue| {
        let (mut a, b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        fill(&mut a, "", &[0; 400]);
        blocked_until(|| a.append("", &[0; 400], Wait::Forever).unwrap(), || drop(b));
    });
}

/// Row g (PySyncQ: leaks them for ever).
#[test]
fn leaving_with_a_backlog_gives_all_room_back() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        for round in 0..50 {
            let leaver = queue.join("leaver").unwrap();
            for _ in 0..5 {
                b.append("", &vec![0; 11 * round], Wait::Never).unwrap();
            }
            assert_eq!(a.drain().count(), 5);
            assert_eq!(pop(&mut b), None);
            assert!(queue.free() < all);
            drop(leaver);
            assert_eq!(queue.free(), all);
        }
        let largest = vec![0; queue.max_body(1, 0) as usize];
        b.append("", &largest, Wait::Never).unwrap();
        assert!(pop(&mut a).is_some());
    });
}

/// Row h (PySyncQ: spins for ever, raises, or steals the messages of others).
#[test]
fn a_late_member_gets_only_later_messages_and_its_timer_works() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut slow) = (queue.join("a").unwrap(), queue.join("slow").unwrap());
        // The three cases: everything read, something left, exactly full.
        for (case, earlier) in [(0, 3), (1, 3), (2, usize::MAX)] {
            let earlier = match earlier {
                usize::MAX => fill(&mut a, "early", b"x"),
                some => (0..some).map(|_| a.append("early", b"x", Wait::Never).unwrap()).count(),
            };
            let mut owed = earlier;
            if case == 0 {
                owed -= slow.drain().count();
            }
            let mut late = queue.join("late").unwrap();
            assert_eq!(pop(&mut late), None);
            assert!(on_time(ms(20), || late.pop(Wait::For(ms(20))).unwrap().is_none()));
            assert_eq!(slow.drain().count(), owed, "the newcomer took nothing from anybody");
            a.append("late", b"y", Wait::Never).unwrap();
            assert_eq!(body(&mut late).as_deref(), Some("y"));
            assert_eq!(body(&mut slow).as_deref(), Some("y"));
            assert_eq!(pop(&mut a), None);
        }
    });
}

/// Row i (PySyncQ: every later message is owed one read too many).
#[test]
fn joining_twice_in_one_process_is_harmless() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut one, mut two) = (queue.join("me").unwrap(), queue.join("me").unwrap());
        assert_ne!(one.id(), two.id());
        for _ in 0..200 {
            one.append("", &[0; 100], Wait::Never).unwrap();
            assert!(pop(&mut two).is_some());
            assert_eq!(pop(&mut one), None);
        }
        assert_eq!(queue.free(), all);
        one.append("", &[0; 100], Wait::Never).unwrap();
        drop(two);
        assert_eq!(pop(&mut one), None);
        assert_eq!(queue.free(), all);
    });
}

/// Row j (PySyncQ: waits the whole timer, or for ever).
#[test]
fn a_message_larger_than_the_ring_fails_at_once_even_when_it_may_wait() {
    over_every_backing(&small(), |queue| {
        let mut a = queue.join("a").unwrap();
        let _slow = queue.join("b").unwrap();
        fill(&mut a, "", b"also when the ring is full");
        for wait in [Wait::Never, Wait::For(Duration::from_secs(1000)), Wait::Forever] {
            match a.append("", &[0; 5000], wait) {
                Err(Error::TooLarge { len, max, .. }) => assert!(len > max),
                other => panic!("unexpected: {other:?}"),
            }
        }
    });
}

/// Row k (PySyncQ: a pop with timer 0 waits for ever).
#[test]
fn a_timer_of_zero_means_do_not_wait_in_both_calls() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        let past = Wait::Until(Instant::now());
        for wait in [Wait::Never, Wait::For(Duration::ZERO), past] {
            assert!(b.pop(wait).unwrap().is_none());
        }
        fill(&mut a, "", b"");
        for wait in [Wait::Never, Wait::For(Duration::ZERO), past] {
            let refused = a.append("", b"", wait);
            assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        }
    });
}

/// Row m (PySyncQ: a second program that attaches wipes the queue). The second program is this test binary, executed anew,
/// with nothing from the first one but the name.
#[test]
fn a_second_program_attaches_by_name_and_takes_part() {
    const NAME: &str = "SYNCQ_TEST_SECOND_PROGRAM";
    let _watchdog = minute();
    if let Ok(name) = std::env::var(NAME) {
        let queue = Queue::open(&name).unwrap();
        let mut second = queue.join("second").unwrap();
        second.append("here", b"", Wait::Never).unwrap();
        for number in 0..1000u32 {
            let message = second.pop(SOON).unwrap().expect("live traffic");
            assert_eq!((message.sender(), message.body()), ("first", &number.to_le_bytes()[..]));
        }
        return second.append("seen", b"all of it", SOON).map(|_| ()).unwrap();
    }
    let named = named("second", &small());
    let (mut first, mut slow) = (named.queue.join("first").unwrap(), named.queue.join("slow").unwrap());
    first
        .append("early", b"before the second program", Wait::Never)
        .unwrap();
    // A test runs in a thread of its name.
    let this = std::thread::current().name().unwrap().to_owned();
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &this, "--nocapture"])
        .env(NAME, &named.name)
        .spawn()
        .unwrap();
    let here = first.pop(Wait::Forever).unwrap().map(triple).unwrap();
    assert_eq!(here, ("second".into(), "here".into(), vec![]));
    assert_eq!(
        body(&mut slow).as_deref(),
        Some("before the second program"),
        "attaching changes nothing"
    );
    for number in 0..1000u32 {
        first.append("live", &number.to_le_bytes(), SOON).unwrap();
        slow.drain().for_each(drop);
    }
    assert_eq!(first.pop(SOON).unwrap().expect("an answer").body(), b"all of it");
    assert!(program.wait().unwrap().success());
    let names: Vec<_> = named.queue.members().into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["first", "slow"], "it left, and only it");
    assert!(named.queue.is_current(), "its leaving does not take the name away");
}

/// Row n (PySyncQ: the message is consumed and lost).
#[test]
fn a_body_that_is_no_text_is_never_lost() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        a.append("", b"\xff\xfe broken", Wait::Never).unwrap();
        a.append("", "whole: \u{e9}".as_bytes(), Wait::Never).unwrap();
        let broken = b.pop(Wait::Never).unwrap().unwrap();
        assert!(broken.text().is_err());
        assert_eq!(broken.body(), b"\xff\xfe broken", "the raw bytes are offered");
        assert_eq!(broken.text_lossy(), "\u{fffd}\u{fffd} broken");
        assert_eq!(b.pop(Wait::Never).unwrap().unwrap().text().unwrap(), "whole: \u{e9}");
    });
}

/// Row o.
#[test]
fn three_readers_with_short_random_timers_each_get_all_in_order() {
    const MESSAGES: u32 = 8000;
    over_every_shared_backing(&Queue::options().capacity(16 << 10), |queue| {
        let joined = SharedWord::new();
        let child = |seed: u64| {
            let (queue, joined) = (queue.clone(), &joined);
            forked(move || {
                let mut member = queue.join("reader").unwrap();
                joined.raise();
                let mut random = seed;
                let mut next = 0;
                while next < MESSAGES {
                    random = random
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    let timer = Duration::from_micros(200 + (random >> 33) % 1800);
                    if let Some(message) = member.pop(Wait::For(timer)).unwrap() {
                        assert_eq!(message.body(), next.to_le_bytes());
                        next += 1;
                    }
                }
                i32::from(member.pop(Wait::Never).unwrap().is_some())
            })
        };
        let children: Vec<_> = (1..=3).map(child).collect();
        joined.wait_for(3);
        let mut writer = queue.writer("w").unwrap();
        for number in 0..MESSAGES {
            writer.append("n", &number.to_le_bytes(), SOON).unwrap();
        }
        children.into_iter().for_each(Child::must_succeed);
    });
}

/// Row p.
#[test]
fn four_members_that_hear_themselves_see_one_total_order() {
    const EACH: u32 = 1500;
    over_every_shared_backing(&Queue::options().capacity(16 << 10), |queue| {
        let (joined, folder) = (SharedWord::new(), support::folder("total-order"));
        let child = |me: u32| {
            let (queue, joined, path) = (queue.clone(), &joined, folder.0.join(me.to_string()));
            forked(move || {
                let joining = queue.joining().sender(&me.to_string()).hear_own(true);
                let mut member = joining.member().unwrap();
                joined.raise();
                joined.wait_for(4);
                let mut seen = Vec::new();
                for number in 0..EACH {
                    member.append("n", &number.to_le_bytes(), Wait::Forever).unwrap();
                    while let Some(message) = member.pop(Wait::Never).unwrap() {
                        seen.extend([message.sender().as_bytes(), message.body()].concat());
                    }
                }
                while seen.len() < 4 * EACH as usize * 5 {
                    let message = member.pop(Wait::Forever).unwrap().unwrap();
                    seen.extend([message.sender().as_bytes(), message.body()].concat());
                }
                std::fs::write(path, seen).unwrap();
                i32::from(member.pop(Wait::Never).unwrap().is_some())
            })
        };
        let children: Vec<_> = (0..4).map(child).collect();
        children.into_iter().for_each(Child::must_succeed);
        let orders: Vec<_> = (0..4)
            .map(|me| std::fs::read(folder.0.join(me.to_string())).unwrap())
            .collect();
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]));
        for me in 0..4 {
            let mine = orders[0].chunks(5).filter(|seen| seen[0] == b'0' + me);
            let numbers: Vec<_> = mine
                .map(|seen| u32::from_le_bytes(seen[1..].try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..EACH).collect::<Vec<_>>());
        }
    });
}

/// Row q, and what an unlinked queue and its successor of the same name are to each other (PySyncQ: the old queue's last
/// close unlinks the new one).
#[test]
fn the_last_to_leave_unlinks_and_the_name_can_be_used_again() {
    let _watchdog = minute();
    let options = small().unlink_on_last_leave(true);
    let named = named("last", &options);
    let is_there = || Queue::names().unwrap().contains(&named.name);
    let (a, b) = (named.queue.join("a").unwrap(), named.queue.join("b").unwrap());
    drop(a);
    assert!(is_there());
    drop(b);
    assert!(!is_there());
    assert!(matches!(named.queue.join("c"), Err(Error::Retired { .. })));
    assert!(matches!(Queue::open(&named.name), Err(Error::NotFound { .. })));

    let second = options.create(&named.name).unwrap();
    let (mut a, mut b) = (second.join("a").unwrap(), second.join("b").unwrap());
    second.unlink().unwrap();
    let third = options.create(&named.name).unwrap();
    let _guest = third.join("guest").unwrap();
    a.append("", b"still here", Wait::Never).unwrap();
    assert_eq!(body(&mut b).as_deref(), Some("still here"));
    drop((a, b));
    assert!(third.is_current(), "the old queue's last leave left the new name alone");
}
