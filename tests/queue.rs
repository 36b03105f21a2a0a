//! The queue itself: making, finding, asking, burying, evicting, unlinking, one writer, and positions that wrap.

mod support;

use nix::sys::signal::Signal;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};
use support::{
    SharedWord, eventually, folder, forked, minute, named, over_every_backing, over_every_shared_backing, unique,
};
use syncq::{Error, MemberInfo, Overflow, Queue, Role, Start, Wait};

/// The member of that name, as the queue shows it.
fn member_called(queue: &Queue, name: &str) -> Option<MemberInfo> {
    queue.members().into_iter().find(|member| member.name == name)
}

#[test]
fn a_queue_says_what_it_was_made_with() {
    let options = Queue::options()
        .capacity(8192)
        .slots(5)
        .overflow(Overflow::Lossy)
        .timestamps(true);
    over_every_backing(&options, |queue| {
        assert_eq!(queue.capacity(), 8192);
        let stats = queue.stats();
        assert_eq!((stats.capacity, stats.slots), (8192, 5));
        assert!(stats.is_lossy && stats.has_timestamps);
        assert!(!stats.is_single_writer && !stats.unlinks_on_last_leave);
        assert_eq!(stats.creator, std::process::id());
        assert!(stats.created <= SystemTime::now());
        assert_eq!((stats.appended, stats.position, stats.history), (0, 0, 0));
        assert_eq!((stats.free, queue.free()), (8192 - 64, 8192 - 64));
        assert_eq!(stats.writing, None);
        assert!(queue.members().is_empty());
        assert!(queue.is_current());
    });
    let stats = Queue::options()
        .single_writer(true)
        .unlink_on_last_leave(true)
        .anonymous()
        .unwrap()
        .stats();
    assert!(stats.is_single_writer && stats.unlinks_on_last_leave);
    assert!(!stats.is_lossy && !stats.has_timestamps);
}

#[test]
fn no_two_queues_are_the_same_instance() {
    let options = Queue::options().capacity(4096);
    let first = options.anonymous().unwrap().stats().instance;
    assert_ne!(first, options.anonymous().unwrap().stats().instance);
    assert_ne!(first, options.heap().unwrap().stats().instance);
}

#[test]
fn a_name_leads_to_the_queue_until_it_is_unlinked() {
    let _watchdog = minute();
    let named = named("name", &Queue::options().capacity(4096));
    assert_eq!(named.queue.name(), named.name);
    assert!(named.queue.path().unwrap().to_str().unwrap().ends_with(&named.name));
    assert!(Queue::names().unwrap().contains(&named.name));
    let again = Queue::open(&named.name).unwrap();
    assert_eq!(again.stats().instance, named.queue.stats().instance);
    match Queue::options().create(&named.name) {
        Err(Error::AlreadyExists { queue }) => assert_eq!(*queue, *named.name),
        other => panic!("unexpected: {other:?}"),
    }
    let opened = Queue::open_or_create(&named.name).unwrap();
    assert_eq!(opened.stats().instance, named.queue.stats().instance);

    // Unlinked: who is on it goes on, newcomers do not find it.
    let mut reader = named.queue.reader().unwrap();
    again.unlink().unwrap();
    assert!(!named.queue.is_current() && !again.is_current());
    assert!(!Queue::names().unwrap().contains(&named.name));
    assert!(matches!(Queue::open(&named.name), Err(Error::NotFound { .. })));
    assert!(matches!(named.queue.unlink(), Err(Error::NotFound { .. })));
    assert!(matches!(Queue::unlink_name(&named.name), Err(Error::NotFound { .. })));
    again
        .writer("w")
        .unwrap()
        .append("", b"still here", Wait::Never)
        .unwrap();
    assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"still here");

    // A new queue of that name is another one, and safe from the old handles.
    let fresh = Queue::open_or_create(&named.name).unwrap();
    assert_ne!(fresh.stats().instance, again.stats().instance);
    assert!(fresh.is_current() && !again.is_current());
    assert!(matches!(again.unlink(), Err(Error::NotFound { .. })));
    assert!(fresh.is_current());
    assert!(fresh.reader().unwrap().pop(Wait::Never).unwrap().is_none());
}

#[test]
fn a_queue_without_a_name_cannot_be_unlinked() {
    for queue in [
        Queue::options().capacity(4096).anonymous().unwrap(),
        Queue::options().capacity(4096).heap().unwrap(),
    ] {
        assert!(matches!(queue.unlink(), Err(Error::Unsupported { what: "unlink", .. })));
        assert_eq!(queue.path(), None);
        assert!(queue.is_current());
    }
}

#[test]
fn a_file_at_a_path_is_opened_by_that_path() {
    let _watchdog = minute();
    let folder = folder("path");
    let path = folder.0.join("ring");
    assert!(matches!(Queue::options().open_at(&path), Err(Error::NotFound { .. })));
    let queue = Queue::options().capacity(4096).create_at(&path).unwrap();
    assert_eq!(queue.path(), Some(&*path));
    let again = Queue::options().open_at(&path).unwrap();
    let mut reader = again.reader().unwrap();
    queue.writer("w").unwrap().append("k", b"b", Wait::Never).unwrap();
    assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"b");
    queue.unlink().unwrap();
    assert!(!path.exists());
    assert!(matches!(
        Queue::options().create_at(folder.0.join("nowhere/ring")),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn names_that_cannot_be_are_refused() {
    let long = "n".repeat(201);
    for name in ["", ".", "..", "a/b", "a\0b", "a\nb", &long] {
        for answer in [
            Queue::options().create(name),
            Queue::open(name),
            Queue::open_or_create(name),
        ] {
            assert!(
                matches!(&answer, Err(Error::InvalidName { name: n, .. }) if n == name),
                "{answer:?}"
            );
        }
        assert!(matches!(Queue::unlink_name(name), Err(Error::InvalidName { .. })));
    }
    let longest = format!("{:x<200}", unique("longest"));
    Queue::options()
        .capacity(4096)
        .create(&longest)
        .unwrap()
        .unlink()
        .unwrap();
}

#[test]
fn options_that_cannot_be_are_refused_and_named() {
    let refused = |options: syncq::QueueOptions, name: &str, wrong: u64| {
        for answer in [options.heap(), options.anonymous(), options.create(&unique("refused"))] {
            match answer {
                Err(Error::InvalidOption { option, value, why }) => {
                    assert_eq!((option, value), (name, wrong));
                    assert!(!why.is_empty());
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    };
    for capacity in [0, 1, 4095, 4097, (1 << 40) + 1, 1 << 41, u64::MAX] {
        refused(Queue::options().capacity(capacity), "capacity", capacity);
    }
    for slots in [0, 4097, u32::MAX] {
        refused(Queue::options().slots(slots), "slots", slots.into());
    }
    for mode in [0o000, 0o400, 0o4600, 0o60] {
        match Queue::options().mode(mode).create(&unique("mode")) {
            Err(Error::InvalidOption {
                option: "mode", value, ..
            }) => assert_eq!(value, u64::from(mode)),
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[test]
fn everybody_who_opens_or_creates_at_once_gets_the_same_queue() {
    let _watchdog = minute();
    for _ in 0..20 {
        let name = unique("race");
        let start = Barrier::new(8);
        let instances: Vec<u128> = std::thread::scope(|threads| {
            let all: Vec<_> = (0..8)
                .map(|_| {
                    threads.spawn(|| {
                        start.wait();
                        Queue::options()
                            .capacity(4096)
                            .open_or_create(&name)
                            .unwrap()
                            .stats()
                            .instance
                    })
                })
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        Queue::unlink_name(&name).unwrap();
        assert!(instances.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn the_longest_body_fits_and_one_byte_more_never_does() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        for (sender, kind) in [
            ("", ""),
            ("w", ""),
            ("12345678", ""),
            ("12345678", "k"),
            ("s", "a longer kind"),
        ] {
            let mut reader = queue.reader().unwrap();
            let mut writer = queue.writer(sender).unwrap();
            let max = queue.max_body(sender.len(), kind.len()) as usize;
            let body: Vec<u8> = (0..max).map(|at| at as u8).collect();
            writer.append(kind, &body, Wait::Never).unwrap();
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), body);
            match writer.append(kind, &vec![0; max + 1], Wait::Forever) {
                Err(Error::TooLarge { len, max, .. }) => assert!(len > max && max == 4096 - 64),
                other => panic!("unexpected: {other:?}"),
            }
            assert!(matches!(
                writer.reserve(kind, max + 1, Wait::Forever),
                Err(Error::TooLarge { .. })
            ));
            assert!(matches!(
                writer.reserve(kind, usize::MAX, Wait::Forever),
                Err(Error::TooLarge { .. })
            ));
        }
    });
}

#[test]
fn names_longer_than_can_be_count_as_the_longest() {
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let least = 4096 - 64 - 32 - (64u64 + 255).next_multiple_of(8);
    assert_eq!(queue.max_body(64, 255), least);
    assert_eq!(queue.max_body(65, 4096), least);
    assert_eq!(queue.max_body(usize::MAX, usize::MAX), least);
}

#[test]
fn members_are_shown_as_they_are() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let before = SystemTime::now();
        let mut member = queue.joining().sender("both").hear_own(true).member().unwrap();
        let mut writer = queue.writer("only writes").unwrap();
        let mut reader = queue.joining().sender("only reads").reader().unwrap();
        let nameless = queue.reader().unwrap();
        writer.append("k", b"12345", Wait::Never).unwrap();
        writer.append("debug", b"67", Wait::Never).unwrap();
        member.append("k", b"8", Wait::Never).unwrap();
        reader.screen().add_kind("debug").add_sender("nobody");
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"12345");
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"8");
        assert!(reader.pop(Wait::Never).unwrap().is_none());

        let members = queue.members();
        assert_eq!(members.len(), 4);
        for info in &members {
            assert_eq!(info.pid, std::process::id());
            assert!(info.is_alive && !info.is_evicted);
            assert!(info.joined >= before - Duration::from_secs(1) && info.joined <= SystemTime::now());
            assert_eq!((info.missed, info.refused), (0, 0));
        }
        let info = member_called(queue, "only writes").unwrap();
        assert_eq!((info.id, info.role, info.lag), (writer.id(), Some(Role::Writer), 0));
        assert_eq!((info.appended, info.appended_bytes), (2, 7));
        let info = member_called(queue, "both").unwrap();
        assert_eq!((info.id, info.role, info.lag), (member.id(), Some(Role::Member), 192));
        assert_eq!((info.appended, info.appended_bytes, info.popped), (1, 1, 0));
        let info = member_called(queue, "only reads").unwrap();
        assert_eq!((info.id, info.role, info.lag), (reader.id(), Some(Role::Reader), 0));
        assert_eq!((info.popped, info.popped_bytes, info.screened), (2, 6, 1));
        assert_eq!(info.screen, "sender:nobody, kind:debug");
        let info = member_called(queue, &std::process::id().to_string()).unwrap();
        assert_eq!(info.id, nameless.id());

        let stats = queue.stats();
        assert_eq!((stats.appended, stats.position, stats.history), (3, 192, 192));
        assert_eq!(stats.free, 4096 - 64 - 192);
        // A member shows that it hears its own from its first pop on.
        assert!(member.pop(Wait::Never).unwrap().is_some());
        assert_eq!(member_called(queue, "both").unwrap().screen, "hears own");
        drop((member, writer, reader, nameless));
        assert!(queue.members().is_empty());
    });
}

#[test]
fn a_slot_given_to_another_member_has_another_id() {
    over_every_backing(&Queue::options().capacity(4096).slots(1), |queue| {
        let first = queue.writer("a").unwrap();
        let old = first.id();
        match queue.reader() {
            Err(Error::NoSlot { slots: 1, .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
        drop(first);
        let second = queue.writer("a").unwrap();
        assert_eq!(second.id().slot(), old.slot());
        assert_ne!(second.id(), old);
        assert_ne!(second.id().to_string(), old.to_string());
        assert!(matches!(queue.evict(old), Err(Error::NoSuchMember { .. })));
        queue.evict(second.id()).unwrap();
    });
}

#[test]
fn the_dead_are_buried_by_whoever_needs_their_slot() {
    over_every_shared_backing(&Queue::options().capacity(4096).slots(2), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let _a = queue.reader().unwrap();
            let _b = queue.writer("b").unwrap();
            joined.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        joined.wait_for(1);
        assert!(matches!(queue.reader(), Err(Error::NoSlot { slots: 2, .. })));
        child.kill_unreaped();
        assert!(queue.members().iter().all(|member| !member.is_alive));
        let _mine = (queue.reader().unwrap(), queue.reader().unwrap());
        assert_eq!(queue.stats().reaped, 2);
    });
}

#[test]
fn reap_buries_the_dead_of_one_process_and_touches_no_living() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let joined = SharedWord::new();
        let doomed = || {
            forked(|| {
                let _members = (queue.reader().unwrap(), queue.writer("w").unwrap());
                joined.raise();
                std::thread::sleep(Duration::from_secs(100));
                1
            })
        };
        let (a, b, c) = (doomed(), doomed(), doomed());
        let mine = queue.reader().unwrap();
        joined.wait_for(3);
        let pid = |child: &support::Child| child.pid.as_raw() as u32;
        assert_eq!(queue.reap(pid(&a)), 0, "it lives");
        assert_eq!(queue.reap(std::process::id()), 0);
        assert_eq!(queue.reap_all(), 0);
        c.signal(Signal::SIGSTOP);
        a.kill_unreaped();
        assert_eq!(queue.reap(pid(&b)), 0);
        assert_eq!(queue.reap(pid(&a)), 2);
        assert_eq!(queue.reap(pid(&a)), 0, "once is enough");
        let a = pid(&a);
        assert!(queue.members().iter().all(|member| member.pid != a));
        b.kill();
        assert_eq!(queue.reap_all(), 2, "a stopped process is not dead");
        assert_eq!(queue.members().len(), 3);
        assert_eq!(queue.stats().reaped, 4);
        c.kill();
        assert_eq!(queue.reap_all(), 2);
        assert_eq!(queue.members()[0].id, mine.id());
    });
}

#[test]
fn an_evicted_reader_holds_nobody_back_and_is_told() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        while writer.append("", &[7; 500], Wait::Never).is_ok() {}
        queue.evict(reader.id()).unwrap();
        assert_eq!(queue.free(), 4096 - 64);
        let info = member_called(queue, &std::process::id().to_string()).unwrap();
        assert!(info.is_evicted && info.is_alive);
        assert_eq!(info.lag, 0);
        for _ in 0..100 {
            writer.append("", &[8; 500], Wait::Never).unwrap();
        }
        for _ in 0..2 {
            assert!(matches!(reader.pop(Wait::Forever), Err(Error::Evicted { .. })));
            assert!(matches!(reader.peek(Wait::Forever), Err(Error::Evicted { .. })));
        }
        assert!(matches!(queue.evict(reader.id()), Err(Error::NoSuchMember { .. })));
        assert_eq!(queue.stats().evicted, 1);
        drop(reader);
        assert_eq!(queue.members().len(), 1);
        assert!(queue.reader().unwrap().pop(Wait::Never).unwrap().is_none());
    });
}

#[test]
fn an_iterator_over_an_evicted_reader_ends_after_saying_so() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        queue.evict(reader.id()).unwrap();
        let said: Vec<_> = reader.drain().take(10).collect();
        assert!(matches!(said[..], [Err(Error::Evicted { .. })]), "{said:?}");
        let said: Vec<_> = reader.messages(Wait::Forever).take(10).collect();
        assert!(matches!(said[..], [Err(Error::Evicted { .. })]), "{said:?}");
    });
}

#[test]
fn an_evicted_writer_appends_nothing_more() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"before", Wait::Never).unwrap();
        queue.evict(writer.id()).unwrap();
        assert!(matches!(
            writer.append("", b"after", Wait::Never),
            Err(Error::Evicted { .. })
        ));
        assert!(matches!(
            writer.append_all([("", &b"after"[..])], Wait::Never),
            Err(Error::Evicted { .. })
        ));
        assert!(matches!(writer.reserve("", 9, Wait::Never), Err(Error::Evicted { .. })));
        let all: Vec<_> = reader.drain().map(Result::unwrap).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].body(), b"before");
    });
}

#[test]
fn an_evicted_reservation_fails_to_commit_and_its_room_waits_for_the_owner() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        let mut other = queue.writer("other").unwrap();
        let owner_id = owner.id();
        let mut place = owner.reserve("", 100, Wait::Never).unwrap();
        place.write_at(0, &[1; 100]);
        other.append("", b"behind it", Wait::Never).unwrap();
        assert!(reader.pop(Wait::Never).unwrap().is_none(), "readers wait at it");
        queue.evict(owner_id).unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"behind it");
        // Its owner may still be filling it, so nobody gets its room.
        let mut appended = 0;
        let full = loop {
            match other.append("", &[2; 400], Wait::Never) {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        assert!(appended > 0);
        match full {
            Error::Full(full) => assert_eq!(full.slowest.unwrap().name, "owner"),
            other => panic!("unexpected: {other:?}"),
        }
        assert_eq!(reader.drain().map(Result::unwrap).count(), appended);
        assert!(matches!(other.append("", &[2; 400], Wait::Never), Err(Error::Full(_))));
        place.write_at(50, &[3; 50]);
        assert!(matches!(place.commit(), Err(Error::Evicted { .. })));
        for _ in 0..50 {
            other.append("", &[4; 400], Wait::Never).unwrap();
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), [4; 400]);
        }
        assert_eq!(queue.free(), 4096 - 64);
        assert!(matches!(owner.append("", b"", Wait::Never), Err(Error::Evicted { .. })));
    });
}

#[test]
fn evicting_the_dead_buries_them() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let _reader = queue.joining().sender("doomed").reader().unwrap();
            joined.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        joined.wait_for(1);
        let id = member_called(queue, "doomed").unwrap().id;
        child.kill_unreaped();
        queue.evict(id).unwrap();
        assert!(queue.members().is_empty());
        assert_eq!((queue.stats().reaped, queue.stats().evicted), (1, 0));
        assert!(matches!(queue.evict(id), Err(Error::NoSuchMember { .. })));
    });
}

#[test]
fn a_member_of_another_process_can_be_evicted() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let (joined, evicted) = (SharedWord::new(), SharedWord::new());
        let child = forked(|| {
            let mut member = queue.join("child").unwrap();
            joined.raise();
            evicted.wait_for(1);
            assert!(matches!(member.pop(Wait::Never), Err(Error::Evicted { .. })));
            assert!(matches!(
                member.append("", b"", Wait::Never),
                Err(Error::Evicted { .. })
            ));
            drop(member);
            queue.join("again").unwrap().append("", b"back", Wait::Never).unwrap();
            0
        });
        let mut reader = queue.reader().unwrap();
        joined.wait_for(1);
        queue.evict(member_called(queue, "child").unwrap().id).unwrap();
        evicted.raise();
        assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"back");
        child.must_succeed();
    });
}

#[test]
fn a_queue_for_one_writer_refuses_the_second_and_names_the_first() {
    over_every_backing(&Queue::options().capacity(4096).single_writer(true), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("first").unwrap();
        for answer in [queue.writer("second").map(drop), queue.join("second").map(drop)] {
            match answer {
                Err(Error::WriterExists { pid, .. }) => assert_eq!(pid, std::process::id()),
                other => panic!("unexpected: {other:?}"),
            }
        }
        // Whoever was refused has left no trace.
        assert_eq!(queue.members().len(), 2);
        let _more = queue.reader().unwrap();
        writer.append("", b"1", Wait::Never).unwrap();
        drop(writer);
        let mut next = queue.join("next").unwrap();
        next.append("", b"2", Wait::Never).unwrap();
        assert_eq!(reader.drain().map(Result::unwrap).count(), 2);
        queue.evict(next.id()).unwrap();
        queue
            .writer("after the evicted")
            .unwrap()
            .append("", b"3", Wait::Never)
            .unwrap();
    });
}

#[test]
fn a_dead_only_writer_is_replaced() {
    over_every_shared_backing(&Queue::options().capacity(4096).single_writer(true), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let mut writer = queue.writer("child").unwrap();
            writer.append("", b"last words", Wait::Never).unwrap();
            joined.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        joined.wait_for(1);
        match queue.writer("mine") {
            Err(Error::WriterExists { pid, .. }) => assert_eq!(pid, child.pid.as_raw() as u32),
            other => panic!("unexpected: {other:?}"),
        }
        child.kill_unreaped();
        let mut writer = queue.writer("mine").unwrap();
        writer.append("", b"go on", Wait::Never).unwrap();
        let mut reader = queue.joining().start(Start::Oldest).reader().unwrap();
        let all: Vec<_> = reader.drain().map(|message| message.unwrap().body().to_vec()).collect();
        assert_eq!(all, [&b"last words"[..], b"go on"]);
    });
}

#[test]
fn the_last_to_leave_takes_the_name_away() {
    let _watchdog = minute();
    let named = named("last", &Queue::options().capacity(4096).unlink_on_last_leave(true));
    let a = named.queue.reader().unwrap();
    let b = named.queue.join("b").unwrap();
    let observer = named.queue.observer().unwrap();
    drop(a);
    assert!(named.queue.is_current());
    drop(b);
    assert!(!named.queue.is_current(), "observers do not count");
    drop(observer);
    assert!(matches!(Queue::open(&named.name), Err(Error::NotFound { .. })));
    match named.queue.reader() {
        Err(Error::Retired { queue }) => assert_eq!(*queue, *named.name),
        other => panic!("unexpected: {other:?}"),
    }
    assert!(named.queue.members().is_empty());
    let fresh = Queue::open_or_create(&named.name).unwrap();
    assert!(fresh.reader().is_ok());
    // Nobody of the retired queue touches the new one's name.
    assert!(named.queue.writer("w").is_err());
    assert!(fresh.is_current());
}

#[test]
fn two_last_members_that_leave_at_once_take_the_name_away() {
    let _watchdog = minute();
    let options = Queue::options().capacity(4096).unlink_on_last_leave(true);
    for _ in 0..200 {
        let named = named("two", &options);
        let pair = [named.queue.reader().unwrap(), named.queue.reader().unwrap()];
        let start = Barrier::new(2);
        std::thread::scope(|threads| {
            for reader in pair {
                let start = &start;
                threads.spawn(move || {
                    start.wait();
                    drop(reader);
                });
            }
        });
        assert!(!named.queue.is_current());
    }
    for _ in 0..20 {
        let named = named("two", &options);
        let joined = SharedWord::new();
        let child = || {
            forked(|| {
                let reader = named.queue.reader().unwrap();
                joined.raise();
                joined.wait_for(2);
                drop(reader);
                0
            })
        };
        let pair = [child(), child()];
        pair.into_iter().for_each(support::Child::must_succeed);
        assert!(!named.queue.is_current());
    }
}

#[test]
fn a_newcomer_and_the_last_to_leave_agree_on_who_was_first() {
    let _watchdog = minute();
    let options = Queue::options().capacity(4096).unlink_on_last_leave(true);
    for _ in 0..200 {
        let named = named("agree", &options);
        let last = named.queue.reader().unwrap();
        let start = Barrier::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                start.wait();
                drop(last);
            });
            start.wait();
            match named.queue.reader() {
                Ok(_newcomer) => assert!(named.queue.is_current(), "somebody is there"),
                Err(Error::Retired { .. }) => assert!(!named.queue.is_current()),
                Err(other) => panic!("unexpected: {other:?}"),
            }
        });
        assert!(!named.queue.is_current(), "everybody has left");
    }
}

#[test]
fn the_dead_do_not_keep_the_name() {
    let _watchdog = minute();
    let named = named("dead", &Queue::options().capacity(4096).unlink_on_last_leave(true));
    let mine = named.queue.reader().unwrap();
    let joined = SharedWord::new();
    let child = forked(|| {
        let _member = named.queue.join("child").unwrap();
        joined.raise();
        std::thread::sleep(Duration::from_secs(100));
        1
    });
    joined.wait_for(1);
    child.kill_unreaped();
    assert!(named.queue.is_current(), "a death is no leave");
    drop(mine);
    assert!(!named.queue.is_current());
}

#[test]
fn the_evicted_do_not_keep_the_name() {
    let _watchdog = minute();
    let named = named("evicted", &Queue::options().capacity(4096).unlink_on_last_leave(true));
    let evicted = named.queue.reader().unwrap();
    let last = named.queue.reader().unwrap();
    named.queue.evict(evicted.id()).unwrap();
    drop(last);
    drop(evicted);
    assert!(!named.queue.is_current());
}

#[test]
fn a_queue_without_a_name_outlives_its_last_member() {
    let options = Queue::options().capacity(4096).unlink_on_last_leave(true);
    for queue in [options.anonymous().unwrap(), options.heap().unwrap()] {
        drop(queue.reader().unwrap());
        assert!(queue.reader().is_ok(), "there was no name to remove: {}", queue.name());
    }
}

#[test]
fn a_forked_childs_drop_never_unlinks() {
    let _watchdog = minute();
    let named = named("childs", &Queue::options().capacity(4096).unlink_on_last_leave(true));
    let mut member = Some(named.queue.join("parent").unwrap());
    let queue = named.queue.clone();
    forked(|| {
        drop(member.take());
        drop(queue);
        0
    })
    .must_succeed();
    assert!(named.queue.is_current());
    assert_eq!(named.queue.members().len(), 1);
    member.as_mut().unwrap().append("", b"unharmed", Wait::Never).unwrap();
    drop(member);
    assert!(!named.queue.is_current());
}

#[test]
fn traffic_goes_on_where_positions_wrap() {
    // Where the claim word's few bits wrap, and where the whole position does.
    for start in [
        (1 << 43) - 2048,
        5 << 43,
        u64::MAX - 2047,
        u64::MAX - 63,
        (1 << 63) - 2048,
    ] {
        let options = Queue::options().capacity(4096).start_position(start);
        over_every_backing(&options, |queue| {
            assert_eq!(queue.stats().position, start);
            assert_eq!(queue.free(), 4096 - 64);
            let mut early = queue.reader().unwrap();
            let mut observer = queue.observer().unwrap();
            let mut writer = queue.writer("w").unwrap();
            let mut member = queue.join("m").unwrap();
            let mut expected = start;
            for number in 0u64..400 {
                let len = (number as usize * 37) % 700;
                let position = match number % 3 {
                    0 => writer.append("k", &vec![number as u8; len], Wait::Never).unwrap(),
                    1 => {
                        let mut place = member.reserve("k", len, Wait::Never).unwrap();
                        place.write_at(0, &vec![number as u8; len]);
                        let position = place.position();
                        place.commit().unwrap();
                        position
                    }
                    _ => {
                        let body = vec![number as u8; len];
                        writer.append_all([("k", &body[..])], Wait::Never).unwrap();
                        expected
                    }
                };
                assert_eq!(position, expected);
                for message in [
                    early.pop(Wait::Never).unwrap().unwrap(),
                    observer.pop(Wait::Never).unwrap().unwrap(),
                ] {
                    assert_eq!(message.body(), vec![number as u8; len]);
                    assert_eq!((message.position(), message.sequence()), (position, number));
                }
                if number % 3 != 1 {
                    assert_eq!(member.pop(Wait::Never).unwrap().unwrap().sequence(), number);
                } else {
                    assert!(member.pop(Wait::Never).unwrap().is_none(), "its own");
                }
                expected = queue.stats().position;
            }
            assert_eq!(queue.stats().appended, 400);
            assert_eq!(queue.free(), 4096 - 64);
            let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
            let oldest: Vec<u64> = late.drain().map(|message| message.unwrap().sequence()).collect();
            assert!(oldest.len() > 1 && oldest.ends_with(&[399]));
            assert!(oldest.windows(2).all(|pair| pair[1] == pair[0] + 1));
            // Full, and room again, across the wrap.
            let mut filled = 0;
            while writer.append("", &[1; 300], Wait::Never).is_ok() {
                filled += 1;
            }
            assert_eq!(early.drain().map(Result::unwrap).count(), filled);
        });
    }
}

#[test]
fn a_writer_that_waits_for_room_across_the_wrap_gets_it() {
    for start in [(1 << 43) - 1024, u64::MAX - 1023] {
        let options = Queue::options().capacity(4096).start_position(start);
        over_every_backing(&options, |queue| {
            let mut reader = queue.reader().unwrap();
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    let mut writer = queue.writer("w").unwrap();
                    for number in 0u32..500 {
                        writer.append_pod("", &number, Wait::Forever).unwrap();
                    }
                });
                for number in 0u32..500 {
                    let message = reader.pop(Wait::Forever).unwrap().unwrap();
                    assert_eq!(message.pod::<u32>().unwrap(), number);
                }
            });
        });
    }
}

#[test]
fn a_wait_for_the_dead_is_not_needed_to_see_that_they_are_dead() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let _reader = queue.joining().sender("doomed").reader().unwrap();
            joined.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        joined.wait_for(1);
        assert!(member_called(queue, "doomed").unwrap().is_alive);
        child.kill_unreaped();
        eventually("the queue shows the death", || {
            !member_called(queue, "doomed").unwrap().is_alive
        });
        assert!(!member_called(queue, "doomed").unwrap().is_evicted);
    });
}
