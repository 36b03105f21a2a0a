//! How long calls take: every kind of `Wait` on every call that can block, for each reason to wait.

mod support;

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use support::{
    Named, SharedWord, eventually, forked, minute, named, over_every_backing, over_every_shared_backing,
    set_claim_holder,
};
use syncq::{Error, Member, MemberId, Queue, Reader, Wait, Writer};

const A_MOMENT: Duration = Duration::from_millis(30);

/// Waits that end by themselves, each with how long they last at least.
fn ending() -> [(Wait, Duration); 7] {
    let now = Instant::now();
    [
        (Wait::Never, Duration::ZERO),
        (Wait::For(Duration::ZERO), Duration::ZERO),
        (Wait::Until(now - A_MOMENT), Duration::ZERO),
        (Wait::Until(now), Duration::ZERO),
        (Wait::For(Duration::from_micros(10)), Duration::from_micros(10)),
        (Wait::For(A_MOMENT), A_MOMENT),
        (Wait::default(), Duration::ZERO),
    ]
}

/// Checks that a call which can get nothing lasts as long as it was told, and neither shorter nor for ever.
fn lasts_as_told(mut call: impl FnMut(Wait)) {
    for (wait, at_least) in ending() {
        let start = Instant::now();
        call(wait);
        let took = start.elapsed();
        assert!(took >= at_least, "{wait:?} lasted {took:?}");
        assert!(took < at_least + Duration::from_secs(10), "{wait:?} lasted {took:?}");
    }
    let until = Instant::now() + A_MOMENT;
    call(Wait::Until(until));
    assert!(Instant::now() >= until);
}

fn full_queue(queue: &Queue) -> (Reader, Writer) {
    let reader = queue.reader().unwrap();
    let mut writer = queue.writer("filler").unwrap();
    while writer.append("", &[0; 200], Wait::Never).is_ok() {}
    (reader, writer)
}

#[test]
fn durations_instants_and_options_are_waits() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut reader = queue.reader().unwrap();
    assert!(reader.pop(Duration::from_millis(1)).unwrap().is_none());
    assert!(reader.pop(Instant::now() + Duration::from_millis(1)).unwrap().is_none());
    assert!(reader.pop(Some(Duration::from_millis(1))).unwrap().is_none());
    queue.writer("w").unwrap().append("", b"", None).unwrap();
    assert!(reader.pop(None).unwrap().is_some());
    assert_eq!(Wait::default(), Wait::Never);
}

#[test]
fn a_pop_of_nothing_lasts_as_told() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        lasts_as_told(|wait| assert!(reader.pop(wait).unwrap().is_none()));
        lasts_as_told(|wait| assert!(reader.peek(wait).unwrap().is_none()));
        lasts_as_told(|wait| assert!(reader.pop_into(&mut syncq::Buffer::new(), wait).unwrap().is_none()));
        lasts_as_told(|wait| assert!(reader.messages(wait).next().is_none()));
        let mut member = queue.join("m").unwrap();
        lasts_as_told(|wait| assert!(member.pop(wait).unwrap().is_none()));
        member.append("", b"its own, screened", Wait::Never).unwrap();
        lasts_as_told(|wait| assert!(member.pop(wait).unwrap().is_none()));
        let mut observer = queue.observer().unwrap();
        lasts_as_told(|wait| assert!(observer.pop(wait).unwrap().is_none()));
    });
}

#[test]
fn a_pop_at_an_open_reservation_lasts_as_told() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut observer = queue.observer().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let _place = writer.reserve("", 10, Wait::Never).unwrap();
        lasts_as_told(|wait| assert!(reader.pop(wait).unwrap().is_none()));
        lasts_as_told(|wait| assert!(observer.pop(wait).unwrap().is_none()));
    });
}

#[test]
fn an_append_to_a_full_queue_lasts_as_told() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let (_reader, mut writer) = full_queue(queue);
        lasts_as_told(|wait| assert!(matches!(writer.append("", &[0; 200], wait), Err(Error::Full(_)))));
        lasts_as_told(|wait| {
            let batch = [("", &[0; 100][..]), ("", &[0; 100])];
            assert!(matches!(writer.append_all(batch, wait), Err(Error::Full(_))));
        });
        lasts_as_told(|wait| assert!(matches!(writer.reserve("", 200, wait), Err(Error::Full(_)))));
        let mut member = queue.join("m").unwrap();
        lasts_as_told(|wait| assert!(matches!(member.append("", &[0; 200], wait), Err(Error::Full(_)))));
    });
}

#[test]
fn a_join_without_a_free_slot_does_not_sleep_unless_it_may_wait() {
    over_every_backing(&Queue::options().capacity(4096).slots(1), |queue| {
        let _only = queue.reader().unwrap();
        let start = Instant::now();
        for _ in 0..400 {
            let joined = queue.joining().wait(Wait::Never).reader();
            assert!(matches!(joined, Err(Error::NoSlot { slots: 1, .. })), "{joined:?}");
        }
        // One that looks again after a sleep takes 2 ms.
        assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    });
}

#[test]
fn what_can_be_done_at_once_needs_no_time() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.joining().wait(Wait::Never).reader().unwrap();
        let mut writer = queue.joining().sender("w").wait(Wait::Never).writer().unwrap();
        let long_ago = Instant::now();
        for wait in ending()
            .map(|(wait, _)| wait)
            .into_iter()
            .chain([Wait::Until(long_ago), Wait::Forever])
        {
            writer.append("", b"", wait).unwrap();
            assert!(reader.pop(wait).unwrap().is_some());
            writer.append_all([("", &b""[..])], wait).unwrap();
            assert!(reader.peek(wait).unwrap().is_some());
            writer.reserve("", 0, wait).unwrap().commit().unwrap();
            assert!(reader.pop(wait).unwrap().is_some());
        }
    });
}

#[test]
fn a_waiting_pop_ends_when_something_comes() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let long = Duration::from_secs(50);
        for wait in [
            Wait::Forever,
            Wait::For(long),
            Wait::Until(Instant::now() + long),
            Wait::For(Duration::MAX),
        ] {
            for pause in [Duration::ZERO, Duration::from_millis(3)] {
                std::thread::scope(|threads| {
                    let reading = threads.spawn(|| reader.pop(wait).unwrap().is_some());
                    std::thread::sleep(pause);
                    writer.append("", b"", Wait::Never).unwrap();
                    assert!(reading.join().unwrap());
                });
            }
        }
    });
}

#[test]
fn a_waiting_append_ends_when_the_slowest_reads_on() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let (mut reader, mut writer) = full_queue(queue);
        let long = Duration::from_secs(50);
        for wait in [
            Wait::Forever,
            Wait::For(long),
            Wait::Until(Instant::now() + long),
            Wait::For(Duration::MAX),
        ] {
            for pause in [Duration::ZERO, Duration::from_millis(3)] {
                std::thread::scope(|threads| {
                    let writing = threads.spawn(|| writer.append("", &[0; 200], wait).unwrap());
                    std::thread::sleep(pause);
                    reader.pop(Wait::Never).unwrap().unwrap();
                    writing.join().unwrap();
                });
            }
        }
    });
}

/// Told by the processor's time of the writer's thread, whatever else the machine is doing. A writer that spun for each message would
/// use nearly all of the time that it waits.
#[test]
fn a_writer_that_waits_for_a_slow_reader_again_and_again_sleeps() {
    let _watchdog = minute();
    const MESSAGES: u32 = 40_000;
    let busy = || {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    };
    over_every_backing(&Queue::options().capacity(64 << 10), |queue| {
        let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("").unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    let message = reader.pop(Wait::Forever).unwrap().expect("waited for ever");
                    assert_eq!(message.body()[..4], number.to_le_bytes());
                    let until = Instant::now() + Duration::from_micros(5);
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                }
            });
            let (begin, before) = (Instant::now(), busy());
            for number in 0..MESSAGES {
                let mut body = [0; 64];
                body[..4].copy_from_slice(&number.to_le_bytes());
                writer.append("", &body, Wait::Forever).unwrap();
            }
            let (took, used) = (begin.elapsed(), busy() - before);
            assert!(used * 2 < took, "used {used:?} of {took:?}");
        });
    });
}

#[test]
fn a_waiting_append_ends_when_the_slowest_leaves_is_evicted_or_is_killed() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        for how in 0..3 {
            let joined = SharedWord::new();
            let leave = SharedWord::new();
            let child = forked(|| {
                let reader = queue.joining().sender("slow").reader().unwrap();
                joined.raise();
                leave.wait_for(1);
                drop(reader);
                0
            });
            joined.wait_for(1);
            let slow = id_of(queue, "slow");
            let mut writer = queue.writer("w").unwrap();
            while writer.append("", &[0; 200], Wait::Never).is_ok() {}
            std::thread::scope(|threads| {
                let writing = threads.spawn(|| writer.append("", &[0; 200], Wait::Forever).unwrap());
                std::thread::sleep(Duration::from_millis(3));
                match how {
                    0 => leave.raise(),
                    1 => queue.evict(slow).unwrap(),
                    _ => child.kill_unreaped(),
                }
                writing.join().unwrap();
            });
        }
    });
}

fn id_of(queue: &Queue, name: &str) -> MemberId {
    queue
        .members()
        .into_iter()
        .find(|member| member.name == name)
        .unwrap()
        .id
}

#[test]
fn a_waiting_pop_ends_when_its_reader_is_evicted() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let id = reader.id();
        std::thread::scope(|threads| {
            let reading = threads.spawn(|| reader.pop(Wait::For(Duration::from_secs(5))).map(|_| ()));
            std::thread::sleep(Duration::from_millis(3));
            queue.evict(id).unwrap();
            let answer = reading.join().unwrap();
            assert!(matches!(answer, Err(Error::Evicted { .. })), "{answer:?}");
        });
    });
}

#[test]
fn a_waiting_append_ends_when_its_writer_is_evicted() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let (_reader, mut writer) = full_queue(queue);
        let id = writer.id();
        std::thread::scope(|threads| {
            let writing = threads.spawn(|| {
                writer
                    .append("", &[0; 200], Wait::For(Duration::from_secs(10)))
                    .map(drop)
            });
            std::thread::sleep(Duration::from_millis(3));
            let start = Instant::now();
            queue.evict(id).unwrap();
            let answer = writing.join().unwrap();
            assert!(matches!(answer, Err(Error::Evicted { .. })), "{answer:?}");
            // Not only when its time is over. Expected: at once.
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        });
    });
}

#[test]
fn many_waiting_writers_all_get_their_turn() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        std::thread::scope(|threads| {
            for thread in 0..6 {
                threads.spawn(move || {
                    let mut writer = queue.writer(&thread.to_string()).unwrap();
                    for number in 0..200usize {
                        writer.append("", &vec![0; number * 17 % 3000], Wait::Forever).unwrap();
                    }
                });
            }
            for _ in 0..6 * 200 {
                reader.pop(Wait::Forever).unwrap().unwrap();
            }
        });
    });
}

#[test]
fn many_waiting_readers_are_all_woken() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let readers: Vec<_> = (0..6).map(|_| queue.reader().unwrap()).collect();
        let mut writer = queue.writer("w").unwrap();
        std::thread::scope(|threads| {
            for mut reader in readers {
                threads.spawn(move || {
                    for number in 0..100u32 {
                        assert_eq!(
                            reader.pop(Wait::Forever).unwrap().unwrap().pod::<u32>().unwrap(),
                            number
                        );
                    }
                });
            }
            for number in 0..100u32 {
                writer.append_pod("", &number, Wait::Forever).unwrap();
            }
        });
    });
}

#[test]
fn a_stopped_reader_delays_others_for_their_own_time_and_finds_everything() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let (joined, go_on) = (SharedWord::new(), SharedWord::new());
        let child = forked(|| {
            let mut reader = queue.joining().sender("stopped").reader().unwrap();
            joined.raise();
            go_on.wait_for(1);
            i32::from(
                !reader
                    .drain()
                    .map(Result::unwrap)
                    .map(|message| message.sequence())
                    .eq(0..15),
            )
        });
        joined.wait_for(1);
        child.signal(Signal::SIGSTOP);
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..15 {
            writer.append("", &[0; 200], Wait::Never).unwrap();
        }
        lasts_as_told(|wait| match writer.append("", &[0; 200], wait) {
            Err(Error::Full(full)) => assert_eq!(full.slowest.unwrap().name, "stopped"),
            other => panic!("unexpected: {other:?}"),
        });
        go_on.raise();
        child.signal(Signal::SIGCONT);
        child.must_succeed();
    });
}

/// A queue in which a live member is in the middle of an append.
fn busy_queue() -> (Named, Member) {
    let named = named("busy", &Queue::options().capacity(4096));
    let holder = named.queue.join("holder").unwrap();
    (named, holder)
}

#[test]
fn calls_that_need_their_turn_last_as_told_while_another_appends() {
    let _watchdog = minute();
    let (named, holder) = busy_queue();
    let queue = &named.queue;
    let path = queue.path().unwrap();
    let mut writer = queue.writer("w").unwrap();
    let mut reader = queue.reader().unwrap();
    set_claim_holder(path, Some(holder.id().slot()));
    assert_eq!(queue.stats().writing, Some(std::process::id()));
    let busy = |error: Error| match error {
        Error::Busy { pid, .. } => assert_eq!(pid, std::process::id()),
        other => panic!("unexpected: {other:?}"),
    };
    lasts_as_told(|wait| busy(writer.append("", b"", wait).unwrap_err()));
    lasts_as_told(|wait| busy(writer.append_all([("", &b""[..])], wait).unwrap_err()));
    lasts_as_told(|wait| busy(writer.reserve("", 0, wait).unwrap_err()));
    lasts_as_told(|wait| busy(queue.joining().wait(wait).reader().unwrap_err()));
    lasts_as_told(|wait| busy(queue.joining().wait(wait).writer().unwrap_err()));
    lasts_as_told(|wait| busy(queue.joining().wait(wait).member().unwrap_err()));
    // Reading needs no turn, and finds nothing.
    lasts_as_told(|wait| assert!(reader.pop(wait).unwrap().is_none()));
    busy(queue.evict(holder.id()).unwrap_err());
    assert_eq!(queue.members().len(), 3, "nobody who came too soon stays");
    assert_eq!(queue.reap_all(), 0, "it lives");
    std::thread::scope(|threads| {
        let joining = threads.spawn(|| queue.joining().wait(Wait::Forever).reader().unwrap());
        let writing = threads.spawn(|| writer.append("", b"at last", Wait::Forever).unwrap());
        eventually("the newcomer waits", || queue.members().len() == 4);
        set_claim_holder(path, None);
        joining.join().unwrap();
        writing.join().unwrap();
    });
    assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"at last");
    assert_eq!((queue.stats().writing, queue.stats().takeovers), (None, 0));
}

#[test]
fn the_claim_of_a_killed_process_is_taken_over_by_all_who_wait() {
    let _watchdog = minute();
    let named = named("takeover", &Queue::options().capacity(4096));
    let queue = &named.queue;
    let joined = SharedWord::new();
    let child = forked(|| {
        let _member = queue.join("doomed").unwrap();
        joined.raise();
        std::thread::sleep(Duration::from_secs(100));
        1
    });
    joined.wait_for(1);
    let mut writer = queue.writer("w").unwrap();
    let mut reader = queue.reader().unwrap();
    set_claim_holder(queue.path().unwrap(), Some(id_of(queue, "doomed").slot()));
    assert_eq!(queue.stats().writing, Some(child.pid.as_raw() as u32));
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| reader.pop(Wait::Forever).unwrap().unwrap().into_owned());
        let writing = threads.spawn(|| writer.append("", b"on", Wait::Forever).unwrap());
        let joining = threads.spawn(|| queue.joining().wait(Wait::Forever).reader().unwrap());
        eventually("the newcomer waits", || queue.members().len() == 4);
        child.kill_unreaped();
        writing.join().unwrap();
        joining.join().unwrap();
        assert_eq!(reading.join().unwrap().body(), b"on");
    });
    let stats = queue.stats();
    assert_eq!((stats.takeovers, stats.reaped, stats.writing), (1, 1, None));
}

#[test]
fn even_an_append_with_no_time_takes_the_claim_of_the_dead() {
    let _watchdog = minute();
    let named = named("at-once", &Queue::options().capacity(4096));
    let queue = &named.queue;
    let joined = SharedWord::new();
    let child = forked(|| {
        let _member = queue.join("doomed").unwrap();
        joined.raise();
        std::thread::sleep(Duration::from_secs(100));
        1
    });
    joined.wait_for(1);
    set_claim_holder(queue.path().unwrap(), Some(id_of(queue, "doomed").slot()));
    let joining = queue.joining().wait(Wait::Never);
    assert!(matches!(joining.writer(), Err(Error::Busy { .. })));
    child.kill_unreaped();
    let mut writer = queue.joining().sender("w").wait(Wait::Never).writer().unwrap();
    writer.append("", b"", Wait::Never).unwrap();
    assert_eq!(queue.stats().takeovers, 1);
}
