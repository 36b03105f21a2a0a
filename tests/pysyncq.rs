//! The contract of PySyncQ, as it should have been: what its documentation says and its users rely on holds here too, and what
//! it gets wrong is right here.
//!
//! First the table of checks that its behaviour was measured with (rows a to q), then what else its calls mean. The programs
//! it ships, a benchmark and a demo, are in `pysyncq_echo.rs`.

mod support;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::gettid;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};
use support::{
    Child, SharedWord, eventually, forked, minute, named, over_every_backing, over_every_shared_backing, unique,
    watchdog,
};
use syncq::{Error, Member, Message, Queue, QueueOptions, Result, Wait};

/// For what should happen at once: if it takes longer than this, it will never happen.
const SOON: Wait = Wait::For(Duration::from_secs(20));

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The smallest ring there is.
fn small() -> QueueOptions {
    Queue::options().capacity(4096)
}

/// A message as PySyncQ gives it: sender, kind, body.
type Triple = (String, String, Vec<u8>);

fn triple(message: Message<'_>) -> Triple {
    (
        message.sender().to_owned(),
        message.kind().to_owned(),
        message.body().to_vec(),
    )
}

fn pop(member: &mut Member) -> Option<Triple> {
    member.pop(Wait::Never).expect("a pop that works").map(triple)
}

/// The body of the message that is there now, as text.
fn body(member: &mut Member) -> Option<String> {
    pop(member).map(|(_, _, body)| String::from_utf8(body).expect("text"))
}

/// Appends until the ring is full. How many went in.
fn fill(member: &mut Member, kind: &str, body: &[u8]) -> usize {
    for number in 0.. {
        match member.append(kind, body, Wait::Never) {
            Ok(_) => {}
            Err(Error::Full(_)) => return number,
            Err(error) => panic!("unexpected: {error}"),
        }
    }
    unreachable!()
}

/// What the thread or process with this folder in `/proc` is doing: `R` for running, `S` for sleeping, `Z` for dead.
fn state(proc: &str) -> char {
    let stat = std::fs::read_to_string(format!("{proc}/stat"));
    stat.map_or('Z', |stat| {
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    })
}

/// Waits until a child that has raised `ready`, and then does nothing but wait, is asleep.
fn until_asleep(child: &Child, ready: &SharedWord, children: u32) {
    ready.wait_for(children);
    eventually("the child sleeps", || state(&format!("/proc/{}", child.pid)) == 'S');
}

/// Runs `act` in a thread, and `release` when `act` sleeps. What `act` gave.
fn blocked_until<T: Send>(act: impl FnOnce() -> T + Send, release: impl FnOnce()) -> T {
    let thread = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            thread.store(gettid().as_raw(), Ordering::SeqCst);
            act()
        });
        eventually("the other thread sleeps", || {
            let id = thread.load(Ordering::SeqCst);
            id != 0 && matches!(state(&format!("/proc/self/task/{id}")), 'S' | 'Z')
        });
        assert!(!blocked.is_finished(), "it did not wait");
        release();
        blocked.join().expect("no panic")
    })
}

/// Runs `act`, which has a timer of `timer`: not early, and not much late (a loaded machine gets ten times as long).
fn on_time<T>(timer: Duration, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = act();
    let took = start.elapsed();
    assert!(took >= timer, "{took:?} is before the timer of {timer:?}");
    assert!(took < timer * 10 + ms(1000), "{took:?} for a timer of {timer:?}");
    answer
}

// ------------------------------------------------------------------------------------------------ the table, a to q

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

/// Several rings' worth of traffic past whoever died, each step within its bound.
fn traffic_goes_on(queue: &Queue, a: &mut Member, b: &mut Member) {
    for number in 0..200u32 {
        a.append("after", &number.to_le_bytes(), SOON).unwrap();
        let message = b.pop(SOON).unwrap().expect("what was just appended");
        assert_eq!((message.kind(), message.body()), ("after", &number.to_le_bytes()[..]));
        assert_eq!(pop(a), None);
    }
    assert_eq!(queue.free(), queue.capacity() - 64, "nothing is owed to the dead");
}

/// Kills a child with SIGKILL that does `what` with a member of its own and then sleeps; the others must not notice.
fn killing_a_member_that(what: fn(&Queue, &mut Member, &SharedWord)) {
    for is_reaped in [true, false] {
        over_every_shared_backing(&small(), |queue| {
            let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
            let ready = SharedWord::new();
            let child = forked(|| {
                let mut member = queue.join("victim").unwrap();
                what(queue, &mut member, &ready);
                0
            });
            until_asleep(&child, &ready, 1);
            let unreaped = if is_reaped {
                child.kill();
                None
            } else {
                child.kill_unreaped();
                Some(child)
            };
            // What the victim may have left is the others' to read.
            let (left, seen) = (a.drain().count(), b.drain().count());
            assert_eq!(left, seen);
            traffic_goes_on(queue, &mut a, &mut b);
            drop(unreaped);
        });
    }
}

/// Row l, first part (PySyncQ: the ring fills and stays full).
#[test]
fn killing_an_idle_member_does_not_stop_the_others() {
    killing_a_member_that(|_, _, ready| {
        ready.raise();
        std::thread::sleep(Duration::from_secs(50));
    });
}

/// Row l, second part (PySyncQ: the next append of anybody hangs, holding the lock).
#[test]
fn killing_a_member_that_waits_in_pop_does_not_stop_the_others() {
    killing_a_member_that(|_, member, ready| {
        ready.raise();
        let _ = member.pop(Wait::Forever);
    });
}

/// Row l, the same with SIGTERM, which is how `Process.terminate` ends a worker.
#[test]
fn terminating_a_member_that_waits_in_a_timed_pop_does_not_stop_the_others() {
    over_every_shared_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        let ready = SharedWord::new();
        let child = forked(|| {
            let mut member = queue.join("victim").unwrap();
            ready.raise();
            while member.pop(Wait::For(ms(500))).unwrap().is_none() {}
            1
        });
        until_asleep(&child, &ready, 1);
        child.signal(Signal::SIGTERM);
        traffic_goes_on(queue, &mut a, &mut b);
    });
}

/// Row l, a waiting appender: it holds up nobody, and its message never comes.
#[test]
fn killing_a_member_that_waits_in_append_does_not_stop_the_others() {
    killing_a_member_that(|_, member, ready| {
        fill(member, "", &[1; 100]);
        ready.raise();
        let _ = member.append("never", b"", Wait::Forever);
    });
}

/// Row l, third part (PySyncQ: every call of every process hangs, timers included). A child that copies long bodies into the
/// ring all the time is killed at random moments, so most often in the middle of an append.
#[test]
fn killing_members_in_the_middle_of_appends_loses_nothing_and_stops_nobody() {
    const KILLS: u64 = 100;
    let _watchdog = watchdog(Duration::from_secs(240));
    let queue = Queue::options().capacity(1 << 20).anonymous().unwrap();
    let mut reader = queue.join("reader").unwrap();
    let mut other = queue.join("other").unwrap();
    for kill in 0..KILLS {
        let ready = SharedWord::new();
        let child = forked(|| {
            let mut victim = queue.writer("victim").unwrap();
            let mut body = vec![0; 200_000];
            for number in 0u32.. {
                body.fill(number as u8);
                body[..4].copy_from_slice(&number.to_le_bytes());
                victim.append("long", &body, Wait::Forever).unwrap();
                ready.raise();
            }
            0
        });
        let mut expected = 0u32;
        let mut check = |message: Message<'_>| {
            assert_eq!(message.body()[..4], expected.to_le_bytes(), "lost or repeated");
            assert!(message.body()[4..].iter().all(|byte| *byte == expected as u8), "torn");
            expected += 1;
        };
        // Reads along for a time that differs from kill to kill, so that the end may come anywhere.
        let until = Instant::now() + Duration::from_micros(300 + kill * 7919 % 5000);
        ready.wait_for(1);
        while Instant::now() < until {
            if let Some(message) = reader.pop(Wait::Never).unwrap() {
                check(message);
            }
            other.drain().for_each(drop);
        }
        let unreaped = if kill % 2 == 0 {
            child.kill();
            None
        } else {
            child.kill_unreaped();
            Some(child)
        };
        other.append("after", b"", SOON).unwrap();
        loop {
            let message = reader.pop(SOON).unwrap().expect("what was appended after the death");
            match message.kind() {
                "long" => check(message),
                kind => break assert_eq!(kind, "after"),
            }
        }
        assert!(
            expected >= ready.get().load(Ordering::SeqCst),
            "an append that had returned was lost"
        );
        assert_eq!(pop(&mut reader), None);
        other.drain().for_each(drop);
        assert_eq!(queue.free(), queue.capacity() - 64);
        drop(unreaped);
    }
    let takeovers = queue.stats().takeovers;
    println!("{takeovers} of {KILLS} were killed with the claim in hand");
    assert!(
        takeovers > 0,
        "not one was killed in the middle of an append, so this has shown nothing"
    );
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
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_second_program_attaches_by_name_and_takes_part",
            "--nocapture",
        ])
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

// ------------------------------------------------------------------------------------------- what else its calls mean

/// 1.3: defaults and empty parts.
#[test]
fn the_sender_is_the_process_number_by_default_and_every_part_may_be_empty() {
    over_every_shared_backing(&small(), |queue| {
        let mut parent = queue.joining().member().unwrap();
        assert_eq!(parent.sender(), std::process::id().to_string());
        let child = forked(|| {
            let mut child = queue.joining().member().unwrap();
            child.append("", b"", Wait::Never).unwrap();
            0
        });
        let pid = child.pid.to_string();
        child.must_succeed();
        assert_eq!(pop(&mut parent), Some((pid, String::new(), vec![])));
        let mut nameless = queue.join("").unwrap();
        nameless.append("", b"", Wait::Never).unwrap();
        assert_eq!(
            pop(&mut parent),
            Some(Triple::default()),
            "an empty message is a message"
        );
        assert_eq!(pop(&mut parent), None);
    });
}

/// 1.4 and 1.6: with nobody reading, messages are owed to nobody and poison nothing.
#[test]
fn appending_with_nobody_registered_keeps_no_room_and_harms_no_later_reader() {
    over_every_backing(&small(), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..500 {
            writer.append("early", &[9; 100], Wait::Never).unwrap();
        }
        let mut member = queue.join("m").unwrap();
        assert_eq!(pop(&mut member), None);
        writer.append("late", b"", Wait::Never).unwrap();
        assert_eq!(pop(&mut member).unwrap().1, "late");
    });
}

/// 1.5: leaving has no order to keep, and handles do not need each other.
#[test]
fn handles_can_be_dropped_in_any_order() {
    let _watchdog = minute();
    let queue = small().anonymous().unwrap();
    let (mut a, b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
    let mut c = queue.clone().join("c").unwrap();
    drop(queue);
    drop(b);
    a.append("", b"on", Wait::Never).unwrap();
    assert_eq!(body(&mut c).as_deref(), Some("on"));
}

/// 1.7: both timers, and an iteration with one.
#[test]
fn timed_calls_return_on_time_and_not_early() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        assert!(on_time(ms(100), || b.pop(Wait::For(ms(100))).unwrap().is_none()));
        let until = Instant::now() + ms(100);
        assert!(b.pop(Wait::Until(until)).unwrap().is_none());
        assert!(Instant::now() >= until);
        let held = fill(&mut a, "", b"x");
        let refused = on_time(ms(100), || a.append("", b"x", Wait::For(ms(100))));
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        assert_eq!(on_time(ms(100), || b.messages(Wait::For(ms(100))).count()), held);
    });
}

/// 1.7: an untimed pop waits, and a message ends its wait.
#[test]
fn an_untimed_pop_waits_until_a_message_comes() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        let heard = blocked_until(
            || b.pop(Wait::Forever).map(|message| message.map(triple)),
            || assert!(a.append("wake", b"up", Wait::Never).is_ok()),
        );
        assert_eq!(heard.unwrap(), Some(("a".into(), "wake".into(), b"up".to_vec())));
    });
}

/// 1.7: the timer is over the whole call, also while screened messages keep coming (PySyncQ: a non-blocking pop took 0.33 s).
#[test]
fn a_flood_of_screened_messages_does_not_outlast_the_timer() {
    over_every_shared_backing(&Queue::options().capacity(64 << 10), |queue| {
        let mut member = queue.join("m").unwrap();
        member.screen().add_kind("noise");
        let flood = || {
            forked(|| {
                let mut writer = queue.writer("flood").unwrap();
                loop {
                    writer.append_all([("noise", &b""[..]); 100], Wait::Forever).unwrap();
                }
            })
        };
        let _floods = [flood(), flood()];
        eventually("the flood has come", || queue.free() < 8 << 10);
        for _ in 0..5 {
            let start = Instant::now();
            assert!(member.pop(Wait::Never).unwrap().is_none());
            assert!(start.elapsed() < ms(1000), "{:?} without waiting", start.elapsed());
            assert!(on_time(ms(50), || member.pop(Wait::For(ms(50))).unwrap().is_none()));
        }
    });
}

/// 1.8: screens.
#[test]
fn screens_act_at_pop_and_can_be_changed_at_any_time() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b, mut me) = (
            queue.join("a").unwrap(),
            queue.join("b").unwrap(),
            queue.join("me").unwrap(),
        );
        let mut say = |kind: &str, body: &str| {
            a.append(kind, body.as_bytes(), Wait::Never).unwrap();
            b.append(kind, body.as_bytes(), Wait::Never).unwrap();
            a.drain().chain(b.drain()).for_each(drop);
        };
        let senders = |me: &mut Member| me.drain().map(|m| m.unwrap().sender().to_owned()).collect::<Vec<_>>();
        // On messages that are in the ring already.
        say("x", "1");
        me.screen().add_sender("a");
        assert_eq!(senders(&mut me), ["b"]);
        // Sender or kind: either is enough.
        say("y", "2");
        me.screen().add_kind("y");
        assert_eq!(senders(&mut me), [""; 0]);
        // Removing works, also for messages that came while they were screened.
        say("y", "3");
        me.screen().remove_kind("y").remove_sender("a");
        assert_eq!(senders(&mut me), ["a", "b"]);
        // Exactly, byte by byte: no prefixes, no patterns, the empty name is a name like others.
        me.screen().add_kind("").add_kind("xx").add_kind("*").add_sender("A");
        say("x", "4");
        say("", "5");
        assert_eq!(senders(&mut me), ["a", "b"]);
        assert!(me.screen().has_kind("") && me.screen().has_sender(b"A") && !me.screen().has_kind("x"));
        // Whole screens can be put in place.
        *me.screen() = Default::default();
        say("", "6");
        assert_eq!(senders(&mut me), ["a", "b"]);
    });
}

/// 1.8: a screen is one member's own, and its messages stay its debt until it pops.
#[test]
fn a_screen_takes_nothing_from_others_and_owes_until_the_pop() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut deaf, mut b) = (
            queue.join("a").unwrap(),
            queue.join("deaf").unwrap(),
            queue.join("b").unwrap(),
        );
        deaf.screen().add_sender("a");
        a.append("", b"1", Wait::Never).unwrap();
        assert_eq!(body(&mut b).as_deref(), Some("1"));
        assert_eq!(pop(&mut a), None);
        assert!(queue.free() < all);
        assert_eq!(pop(&mut deaf), None);
        assert_eq!(queue.free(), all);
    });
}

/// 1.8 (PySyncQ: by name, so members of one name are deaf to each other), and 1.9.
#[test]
fn the_self_filter_goes_by_identity_and_can_be_switched() {
    over_every_backing(&small(), |queue| {
        let (mut one, mut two) = (queue.join("same").unwrap(), queue.join("same").unwrap());
        one.append("", b"from one", Wait::Never).unwrap();
        two.append("", b"from two", Wait::Never).unwrap();
        assert_eq!(
            (body(&mut one), body(&mut two)),
            (Some("from two".into()), Some("from one".into()))
        );
        assert_eq!((pop(&mut one), pop(&mut two)), (None, None));
        // Whoever comes into a slot later is not who was there before.
        two.append("", b"farewell", Wait::Never).unwrap();
        one.append("", b"to three", Wait::Never).unwrap();
        drop(two);
        let mut three = queue.join("same").unwrap();
        assert_eq!(body(&mut one).as_deref(), Some("farewell"));
        // filtself=False: its own messages too, in their place.
        one.screen().hear_own(true);
        one.append("", b"mine", Wait::Never).unwrap();
        three.append("", b"yours", Wait::Never).unwrap();
        assert_eq!(body(&mut one).as_deref(), Some("to three"), "at pop, as every screen");
        assert_eq!(body(&mut one).as_deref(), Some("mine"));
        assert_eq!(body(&mut one).as_deref(), Some("yours"));
    });
}

/// 1.8, last: a child that joins for itself inherits no screen against its parent.
#[test]
fn a_child_forked_after_the_parent_joined_hears_the_parent() {
    over_every_shared_backing(&small(), |queue| {
        let mut parent = queue.join("parent").unwrap();
        let joined = SharedWord::new();
        let child = forked(|| {
            let mut child = queue.join("child").unwrap();
            joined.raise();
            let heard = child.pop(SOON).unwrap().map(triple).unwrap();
            assert_eq!(heard, ("parent".into(), "hello".into(), vec![]));
            0
        });
        joined.wait_for(1);
        parent.append("hello", b"", Wait::Never).unwrap();
        child.must_succeed();
    });
}

/// 1.12, last (PySyncQ: it pops for the parent, and a third process loses its message).
#[test]
fn a_child_that_does_not_join_cannot_disturb_its_parents_membership() {
    over_every_shared_backing(&small(), |queue| {
        let all = queue.free();
        let (mut parent, mut third) = (queue.join("parent").unwrap(), queue.join("third").unwrap());
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"for both", Wait::Never).unwrap();
        let forked_error = |error: Option<Error>| assert!(matches!(error, Some(Error::Forked { .. })), "{error:?}");
        // Drops the inherited handles in the child, as a child that runs to its end does.
        let mut inherited = Some((parent, queue.clone()));
        forked(|| {
            let (mut parent, queue) = inherited.take().unwrap();
            forked_error(parent.pop(Wait::Never).err());
            forked_error(parent.peek(Wait::Never).err());
            forked_error(parent.append("", b"", Wait::Never).err());
            drop((parent, queue));
            0
        })
        .must_succeed();
        parent = inherited.take().unwrap().0;
        assert_eq!(queue.members().len(), 3);
        assert_eq!(body(&mut parent).as_deref(), Some("for both"));
        assert_eq!(body(&mut third).as_deref(), Some("for both"));
        assert_eq!(queue.free(), all);
        parent.append("", b"still a member", Wait::Never).unwrap();
        assert_eq!(body(&mut third).as_deref(), Some("still a member"));
    });
}

/// 1.10: sizes and names that cannot be, and nothing is left behind by them.
#[test]
fn impossible_sizes_and_names_are_refused_and_leave_nothing() {
    let _watchdog = minute();
    let name = unique("odd");
    for size in [
        0,
        1,
        39,
        40,
        57,
        4095,
        4097,
        5_242_880,
        (1 << 40) + 1,
        1 << 62,
        u64::MAX,
    ] {
        let refused = Queue::options().capacity(size).create(&name);
        assert!(
            matches!(refused, Err(Error::InvalidOption { .. })),
            "{size}: {refused:?}"
        );
        assert!(!Queue::names().unwrap().contains(&name));
    }
    for name in ["", "a/b", ".", "..", "nul\0", &"n".repeat(300)] {
        let refused = small().create(name);
        assert!(
            matches!(refused, Err(Error::InvalidName { .. })),
            "{name:?}: {refused:?}"
        );
    }
    assert!(matches!(Queue::open(&name), Err(Error::NotFound { .. })));
    let named = named("odd", &small());
    assert!(matches!(small().create(&named.name), Err(Error::AlreadyExists { .. })));
    let too_long = |result: Result<()>| assert!(matches!(result, Err(Error::TooLong { .. })), "{result:?}");
    too_long(named.queue.join(&"s".repeat(65)).map(drop));
    let mut member = named.queue.join(&"s".repeat(64)).unwrap();
    too_long(member.append(&"k".repeat(256), b"", Wait::Never).map(drop));
    member.append(&"k".repeat(255), b"", Wait::Never).unwrap();
}

/// 1.11 (PySyncQ: the options given must fit, and the live queue is zeroed).
#[test]
fn opening_changes_nothing_whatever_options_it_is_given() {
    let _watchdog = minute();
    let named = named("open", &small());
    let (mut a, mut b) = (named.queue.join("a").unwrap(), named.queue.join("b").unwrap());
    a.append("", b"in the ring", Wait::Never).unwrap();
    let other = Queue::options().capacity(1 << 16).slots(3).open(&named.name).unwrap();
    assert_eq!(other.capacity(), 4096);
    drop(other.join("guest").unwrap());
    drop(other);
    assert!(named.queue.is_current());
    assert_eq!(body(&mut b).as_deref(), Some("in the ring"));
}

/// 3.3 (PySyncQ: a deadlock of one): a member's own backlog is no obstacle, and none of it is lost or out of order.
#[test]
fn a_member_that_has_not_read_can_append_into_a_ring_full_of_its_own_backlog() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
        let mut said = 0u32;
        while b.append("", &said.to_le_bytes(), Wait::Never).is_ok() {
            said += 1;
            assert_eq!(pop(&mut b), None);
        }
        a.append("answer", b"", Wait::Forever).unwrap();
        b.append("", &said.to_le_bytes(), Wait::Never).unwrap();
        for number in 0..=said {
            assert_eq!(pop(&mut a).unwrap().2, number.to_le_bytes());
        }
        assert_eq!(pop(&mut a), None);
        assert_eq!(pop(&mut b).unwrap().1, "answer");
        // Without room at home it is told, at once, and reading helps.
        a.set_home_limit(0);
        while b.append("", b"", Wait::Never).is_ok() {
            assert_eq!(pop(&mut b), None);
        }
        let told = a.append("", b"", Wait::Forever);
        assert!(matches!(told, Err(Error::ReadFirst { .. })), "{told:?}");
        assert!(pop(&mut a).is_some());
        a.append("", b"", Wait::Forever).unwrap();
    });
}

/// 3.3, the other way round: what is in the way is somebody's unfinished reservation, which no pop would change.
#[test]
fn a_member_is_told_to_read_first_only_if_reading_helps() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut slow) = (queue.join("a").unwrap(), queue.writer("slow").unwrap());
        let mut filler = queue.writer("filler").unwrap();
        let reservation = slow.reserve("", 1, Wait::Never).unwrap();
        while filler.append("", b"", Wait::Never).is_ok() {}
        assert_eq!(pop(&mut a), None, "readers wait at the reservation");
        let refused = on_time(ms(20), || a.append("", b"", Wait::For(ms(20))));
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        drop(reservation);
        a.append("", b"", SOON).unwrap();
    });
}

/// 1.8 and 3.5: PySyncQ wakes everybody for everything. Here a sleeper is not woken for what it screens, and still must not
/// keep the room of it: it is there, and willing.
#[test]
fn a_reader_that_sleeps_through_what_it_screens_does_not_hold_writers_back() {
    const LAPS: usize = 50;
    over_every_backing(&small(), |queue| {
        let mut deaf = queue.join("deaf").unwrap();
        deaf.screen().add_kind("noise");
        let mut w = queue.writer("w").unwrap();
        let per_lap = queue.free() as usize / 64;
        let mut took = Duration::MAX;
        blocked_until(
            || assert_eq!(deaf.pop(Wait::Forever).unwrap().unwrap().kind(), "end"),
            || {
                let start = Instant::now();
                for _ in 0..LAPS * per_lap {
                    w.append("noise", b"", SOON).unwrap();
                }
                took = start.elapsed();
                w.append("end", b"", SOON).unwrap();
            },
        );
        // About 10 ms. Were it left asleep until it looks by itself, every lap would take up to 100 ms.
        assert!(took < ms(1000), "{took:?} for {LAPS} laps");
    });
}

/// 3.2, last row (PySyncQ: the append takes as long as the stop).
#[test]
fn a_stopped_sleeper_costs_the_others_nothing_and_finds_its_message() {
    over_every_shared_backing(&small(), |queue| {
        let mut a = queue.join("a").unwrap();
        let ready = SharedWord::new();
        let child = forked(|| {
            let mut sleeper = queue.join("sleeper").unwrap();
            ready.raise();
            assert_eq!(sleeper.pop(Wait::Forever).unwrap().unwrap().body(), b"good morning");
            0
        });
        until_asleep(&child, &ready, 1);
        child.signal(Signal::SIGSTOP);
        // Not waited for: whoever waited for the stopped sleeper would wait for ever.
        a.append("", b"good morning", Wait::Never).unwrap();
        child.signal(Signal::SIGCONT);
        child.must_succeed();
    });
}

/// 3.6 (PySyncQ: hangs the whole queue within a thousand messages).
#[test]
fn a_storm_of_signals_loses_no_message_and_ends_no_wait_early() {
    extern "C" fn ignore(_: i32) {}
    over_every_shared_backing(&small(), |queue| {
        let mut a = queue.join("a").unwrap();
        let ready = SharedWord::new();
        let child = forked(|| {
            // Without SA_RESTART: system calls end early.
            let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
            // SAFETY: the handler does nothing.
            unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
            let mut member = queue.join("b").unwrap();
            ready.raise();
            for number in 0..1000u32 {
                assert_eq!(member.pop(Wait::Forever).unwrap().unwrap().body(), number.to_le_bytes());
            }
            assert!(on_time(ms(100), || member.pop(Wait::For(ms(100))).unwrap().is_none()));
            while member.append("full", &[0; 100], Wait::For(ms(50))).is_ok() {}
            assert!(on_time(ms(50), || member
                .append("full", &[0; 100], Wait::For(ms(50)))
                .is_err()));
            0
        });
        ready.wait_for(1);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pid = child.pid;
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = nix::sys::signal::kill(pid, Signal::SIGUSR1);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            for number in 0..1000u32 {
                a.append("", &number.to_le_bytes(), SOON).unwrap();
                let _ = a.pop(Wait::Never).unwrap();
            }
            eventually("the child has ended", || state(&format!("/proc/{pid}")) == 'Z');
            is_over.store(true, Ordering::Relaxed);
        });
        child.must_succeed();
    });
}
