//! What a call waits for, what ends the wait, and how long it may take at most. Not here: what a signal does to it
//! (`signals`).

use super::support::{eventually, forked, over_every_backing, over_every_shared_backing};
use super::{SOON, blocked_until, fill, ms, on_time, pop, small, triple};
use std::time::{Duration, Instant};
use syncq::{Error, Queue, Wait};

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
