//! The role that disturbs nobody: never in the way, told exactly what it missed, content with permission to read.

mod support;

use nix::unistd::{Uid, setuid};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{SharedWord, folder, forked, minute, over_every_backing, over_every_shared_backing, unique};
use syncq::{Buffer, Error, Observer, Overflow, Queue, QueueOptions, Start, Wait};

/// Takes everything there is. Returns how many messages came and how many were missed, having checked the numbers.
fn take_all(observer: &mut Observer, next: &mut u64) -> (u64, u64) {
    let (mut received, mut missed) = (0, 0);
    loop {
        match observer.pop(Wait::Never) {
            Ok(Some(message)) => {
                assert_eq!(message.sequence(), *next, "exactly the missed ones are missing");
                let number: u64 = bytemuck::pod_read_unaligned(&message.body()[..8]);
                assert_eq!(number, *next);
                assert!(message.body()[8..].iter().all(|byte| *byte == number as u8), "torn");
                *next += 1;
                received += 1;
            }
            Ok(None) => return (received, missed),
            Err(Error::Lagged { missed: now }) => {
                assert!(now > 0);
                *next += now;
                missed += now;
            }
            Err(other) => panic!("unexpected: {other:?}"),
        }
    }
}

fn body(number: u64) -> Vec<u8> {
    let mut body = vec![number as u8; 8 + (number * 31 % 500) as usize];
    body[..8].copy_from_slice(&number.to_ne_bytes());
    body
}

#[test]
fn an_observer_reads_along_and_does_not_show() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        assert!(observer.pop(Wait::Never).unwrap().is_none());
        for number in 0..5u8 {
            writer.append("k", &[number], Wait::Never).unwrap();
        }
        assert_eq!(observer.lag(), 5 * 64);
        assert_eq!(observer.pop(Wait::Never).unwrap().unwrap().body(), [0]);
        let mut buffer = Buffer::new();
        assert_eq!(
            observer.pop_into(&mut buffer, Wait::Never).unwrap().unwrap().body(),
            [1]
        );
        assert_eq!(observer.messages(Wait::Never).next().unwrap().unwrap().body(), [2]);
        assert_eq!(observer.drain().map(Result::unwrap).count(), 2);
        assert_eq!(observer.lag(), 0);
        assert_eq!(queue.members().len(), 1);
        assert_eq!(observer.members(), queue.members());
        assert_eq!(observer.stats(), queue.stats());
        assert_eq!(queue.free(), 4096 - 64);
    });
}

#[test]
fn an_observer_needs_no_slot() {
    over_every_backing(&Queue::options().capacity(4096).slots(1), |queue| {
        let mut writer = queue.writer("w").unwrap();
        let mut observers: Vec<_> = (0..5).map(|_| queue.observer().unwrap()).collect();
        writer.append("", b"x", Wait::Never).unwrap();
        for observer in &mut observers {
            assert_eq!(observer.pop(Wait::Never).unwrap().unwrap().body(), b"x");
        }
    });
}

#[test]
fn an_observer_never_holds_writers_back_and_is_told_exactly_what_it_missed() {
    for overflow in [Overflow::Block, Overflow::Lossy] {
        over_every_backing(&Queue::options().capacity(4096).overflow(overflow), |queue| {
            let mut observer = queue.observer().unwrap();
            let mut writer = queue.writer("w").unwrap();
            let (mut next, mut total_missed) = (0, 0);
            let mut appended = 0;
            for burst in 0..300u64 {
                for _ in 0..burst * 7 % 40 {
                    writer.append("", &body(appended), Wait::Never).unwrap();
                    appended += 1;
                }
                let (_, missed) = take_all(&mut observer, &mut next);
                total_missed += missed;
                assert_eq!(next, appended);
            }
            assert!(total_missed > 0 && total_missed < appended);
        });
    }
}

#[test]
fn what_an_observer_missed_and_what_it_got_is_all_there_was() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut writer = queue.writer("w").unwrap();
                for number in 0..20_000 {
                    writer.append("", &body(number), Wait::Never).unwrap();
                }
                is_done.store(true, Ordering::SeqCst);
            });
            let mut next = 0;
            while !is_done.load(Ordering::SeqCst) {
                take_all(&mut observer, &mut next);
            }
            take_all(&mut observer, &mut next);
            assert_eq!(next, 20_000);
        });
    });
}

#[test]
fn what_was_passed_over_is_not_missed_a_second_time() {
    for overflow in [Overflow::Block, Overflow::Lossy] {
        over_every_backing(&Queue::options().capacity(4096).overflow(overflow), |queue| {
            let mut observer = queue.observer().unwrap();
            observer.screen().add_kind("screened");
            let mut writer = queue.writer("w").unwrap();
            writer.append("", b"0", Wait::Never).unwrap();
            writer.append("screened", b"1", Wait::Never).unwrap();
            writer.reserve("", 100, Wait::Never).unwrap().abort();
            writer.reserve("", 500, Wait::Never).unwrap().commit_first(1).unwrap();
            writer.reserve("", 100, Wait::Never).unwrap().abort();
            // Goes past all five, two of which were aborted.
            assert_eq!(observer.drain().map(Result::unwrap).count(), 2);
            for _ in 0..200 {
                writer.append("", b"", Wait::Never).unwrap();
            }
            let Err(Error::Lagged { missed }) = observer.pop(Wait::Never) else {
                panic!("200 messages do not fit");
            };
            let received = observer.drain().map(Result::unwrap).count() as u64;
            assert_eq!(missed + received, 200);
        });
    }
}

#[test]
fn the_oldest_is_whole_also_for_an_observer() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for number in 0..1000 {
            writer.append("", &body(number), Wait::Never).unwrap();
            if number % 13 == 0 {
                let mut observer = queue.joining().start(Start::Oldest).observer().unwrap();
                let all: Vec<u64> = observer.drain().map(|message| message.unwrap().sequence()).collect();
                let first = all[0];
                assert!(all.iter().copied().eq(first..=number));
                assert!(number < 20 || all.len() > 3, "no less than half a ring");
            }
        }
    });
}

#[test]
fn a_lapped_observer_goes_on_with_the_oldest_there_is() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..1000u64 {
            writer.append_pod("", &number, Wait::Never).unwrap();
        }
        let oldest = {
            let mut fresh = queue.joining().start(Start::Oldest).observer().unwrap();
            fresh.pop(Wait::Never).unwrap().unwrap().sequence()
        };
        match observer.pop(Wait::Never) {
            Err(Error::Lagged { missed }) => assert_eq!(missed, oldest),
            other => panic!("unexpected: {other:?}"),
        }
        // Told once.
        assert_eq!(observer.pop(Wait::Never).unwrap().unwrap().sequence(), oldest);
    });
}

#[test]
fn a_waiting_observer_finds_what_comes_though_nobody_wakes_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        observer.set_spin(Duration::ZERO);
        let start = Instant::now();
        assert!(observer.pop(Wait::For(Duration::from_millis(20))).unwrap().is_none());
        assert!(start.elapsed() >= Duration::from_millis(20));
        std::thread::scope(|threads| {
            let observing = threads.spawn(|| observer.messages(Wait::Forever).take(10).map(Result::unwrap).count());
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(1));
                writer.append("", b"x", Wait::Never).unwrap();
            }
            assert_eq!(observing.join().unwrap(), 10);
        });
    });
}

#[test]
fn an_observer_waits_at_a_reservation_and_goes_on_behind_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let mut other = queue.writer("o").unwrap();
        let place = writer.reserve("", 10, Wait::Never).unwrap();
        other.append("", b"behind", Wait::Never).unwrap();
        assert!(observer.pop(Wait::For(Duration::from_millis(5))).unwrap().is_none());
        std::thread::scope(|threads| {
            let observing = threads.spawn(|| observer.messages(Wait::Forever).take(2).map(Result::unwrap).count());
            place.commit().unwrap();
            assert_eq!(observing.join().unwrap(), 2);
        });
    });
}

/// An observer can write nothing, so it cannot abort what a dead writer reserved; with nobody else around it has to
/// pass over it by itself.
#[test]
fn an_observer_alone_passes_over_the_reservation_of_the_dead() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let reserved = SharedWord::new();
        let child = forked(|| {
            let mut writer = queue.writer("doomed").unwrap();
            let mut other = queue.writer("other").unwrap();
            std::mem::forget(writer.reserve("", 10, Wait::Never).unwrap());
            other.append("", b"behind", Wait::Never).unwrap();
            reserved.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        reserved.wait_for(1);
        child.kill_unreaped();
        let message = observer.pop(Wait::For(Duration::from_secs(5))).unwrap();
        assert_eq!(message.expect("its owner is dead").body(), b"behind");
    });
}

/// Runs `observe` as a user who may read the file and not write it.
fn as_one_who_may_only_read(path: &std::path::Path, observe: impl FnOnce(&QueueOptions)) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
    forked(|| {
        let mut options = Queue::options();
        if Uid::effective().is_root() {
            setuid(Uid::from_raw(65534)).unwrap();
            options = options.any_owner(true);
        }
        match options.open_at(path) {
            Err(Error::PermissionDenied { mode, .. }) => assert_eq!(mode, Some(0o444)),
            other => panic!("unexpected: {other:?}"),
        }
        observe(&options);
        0
    })
    .must_succeed();
}

#[test]
fn permission_to_read_is_enough_to_observe() {
    let _watchdog = minute();
    let unlinked = Unlink(unique("readonly"));
    let name = &unlinked.0;
    // Every handle goes before the child comes, so that it has to open the file itself.
    let path = {
        let queue = Queue::options().capacity(4096).create(name).unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..100 {
            writer.append("", &body(number), Wait::Never).unwrap();
        }
        queue.path().unwrap().to_owned()
    };
    as_one_who_may_only_read(&path, |options| {
        for observer in [
            options.observe(name, Start::Oldest),
            options.observe_at(&path, Start::Oldest),
        ] {
            let mut observer = observer.unwrap();
            let all: Vec<u64> = observer.drain().map(|message| message.unwrap().sequence()).collect();
            assert!(all.len() > 3 && all.ends_with(&[99]));
            assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1));
            assert!(observer.pop(Wait::For(Duration::from_millis(5))).unwrap().is_none());
            assert_eq!(observer.stats().appended, 100);
        }
        let mut observer = options.observe(name, Start::Now).unwrap();
        assert!(observer.pop(Wait::Never).unwrap().is_none());
    });
}

/// Removes a queue's name.
struct Unlink(String);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = Queue::unlink_name(&self.0);
    }
}

#[test]
fn an_observer_of_a_read_only_file_is_told_what_it_missed() {
    let _watchdog = minute();
    let folder = folder("observe");
    let path = folder.0.join("ring");
    let queue = Queue::options().capacity(4096).create_at(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o440)).unwrap();
    let mut observer = Queue::options().observe_at(&path, Start::Now).unwrap();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut writer = queue.writer("w").unwrap();
            for number in 0..20_000 {
                writer.append("", &body(number), Wait::Never).unwrap();
            }
            is_done.store(true, Ordering::SeqCst);
        });
        let mut next = 0;
        while !is_done.load(Ordering::SeqCst) {
            take_all(&mut observer, &mut next);
        }
        take_all(&mut observer, &mut next);
        assert_eq!(next, 20_000);
    });
    drop(queue);
    assert!(
        observer.pop(Wait::Never).unwrap().is_none(),
        "it keeps the memory by itself"
    );
}

#[test]
fn observing_what_is_not_there_is_said() {
    assert!(matches!(
        Queue::options().observe("no-such-queue-at-all", Start::Now),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        Queue::options().observe("a/b", Start::Now),
        Err(Error::InvalidName { .. })
    ));
}

#[test]
fn an_inherited_observer_works_in_the_child() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"before", Wait::Never).unwrap();
        let child = forked(|| {
            assert_eq!(observer.pop(Wait::Never).unwrap().unwrap().body(), b"before");
            assert_eq!(observer.pop(Wait::Forever).unwrap().unwrap().body(), b"after");
            0
        });
        writer.append("", b"after", Wait::Never).unwrap();
        child.must_succeed();
        assert_eq!(observer.drain().map(Result::unwrap).count(), 2);
    });
}
