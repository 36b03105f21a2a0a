//! Members that are killed (row l of the table), terminated, stopped, or showered with signals: the others go on, and whoever
//! lives loses nothing. Killed at chosen instructions they are in `kill_every_instruction.rs`.

use super::support::{Child, SharedWord, eventually, forked, over_every_shared_backing, watchdog};
use super::{SOON, fill, ms, on_time, pop, small, state};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncq::{Member, Message, Queue, Wait};

/// Waits until a child that has raised `ready`, and then does nothing but wait, is asleep.
fn until_asleep(child: &Child, ready: &SharedWord) {
    ready.wait_for(1);
    eventually("the child sleeps", || state(&format!("/proc/{}", child.pid)) == 'S');
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
            until_asleep(&child, &ready);
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
        until_asleep(&child, &ready);
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
        until_asleep(&child, &ready);
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
