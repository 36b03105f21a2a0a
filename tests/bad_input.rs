//! What users and strangers can get wrong at the front door: names, options, limits, files that are no queue. Each has an
//! error of its own with the values in it, and nothing is made, changed or left behind.

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{SharedWord, folder, forked, minute, named, over_every_backing, over_every_shared_backing, unique};
use syncq::{Error, Queue, QueueOptions, Start, Wait};

/// Names of queues that begin like `name`, as the folder of shared memory has them.
fn left_behind(name: &str) -> Vec<String> {
    Queue::names()
        .unwrap()
        .into_iter()
        .filter(|n| n.starts_with(name))
        .collect()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn a_name_that_is_none_is_refused_by_every_call_that_takes_one() {
    let options = Queue::options();
    let long = "x".repeat(201);
    let long_in_bytes = "ä".repeat(101);
    for (name, what) in [
        ("", "empty"),
        (".", "folder"),
        ("..", "folder"),
        ("a/b", "slash"),
        ("/a", "slash"),
        ("../escaped", "slash"),
        ("a\0b", "NUL"),
        ("a\nb", "control"),
        ("\u{7f}", "control"),
        ("\u{85}", "control"),
        (long.as_str(), "200 bytes"),
        (long_in_bytes.as_str(), "200 bytes"),
    ] {
        let answers = [
            options.create(name).map(drop),
            options.open(name).map(drop),
            options.open_or_create(name).map(drop),
            options.observe(name, Start::Now).map(drop),
            Queue::open(name).map(drop),
            Queue::open_or_create(name).map(drop),
            Queue::unlink_name(name),
        ];
        for answer in answers {
            match answer {
                Err(Error::InvalidName { name: told, why }) => {
                    assert_eq!(told, name);
                    assert!(why.contains(what), "{name:?}: {why}");
                }
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_longest_name_is_a_name() {
    let name = format!("{:x<200}", unique("long"));
    let queue = Queue::options().capacity(4096).create(&name).unwrap();
    assert_eq!(Queue::open(&name).unwrap().name(), name);
    queue.unlink().unwrap();
    let odd = format!("{} 'with' spaces, ünïcode & $ <*?>", unique("odd"));
    let queue = Queue::options().capacity(4096).create(&odd).unwrap();
    assert!(Queue::names().unwrap().contains(&odd));
    queue.unlink().unwrap();
}

/// Tries to make a queue with these options in every way there is; gives the errors and checks that nothing was left.
fn refusals(options: &QueueOptions) -> Vec<Error> {
    let (name, folder) = (unique("refused"), folder("refused"));
    let answers = [
        options.create(&name),
        options.open_or_create(&name),
        options.create_at(folder.0.join("ring")),
        options.anonymous(),
        options.heap(),
    ];
    let errors = answers.map(|answer| answer.expect_err("it cannot be made"));
    assert_eq!(left_behind(&name), [""; 0]);
    assert_eq!(files_in(&folder.0), [""; 0].map(PathBuf::from));
    errors.into()
}

#[test]
fn a_capacity_that_cannot_be_is_refused_with_what_could() {
    for (capacity, hint) in [
        (0, "at least 4096"),
        (1, "at least 4096"),
        (4095, "at least 4096"),
        (2048, "at least 4096"),
        (5000, "4096 and 8192 are"),
        ((1 << 20) + 1, "1048576 and 2097152 are"),
        (1 << 41, "at most 1099511627776"),
        (u64::MAX, "at most 1099511627776"),
    ] {
        for error in refusals(&Queue::options().capacity(capacity)) {
            match error {
                Error::InvalidOption { option, value, why } => {
                    assert_eq!((option, value), ("capacity", capacity));
                    assert!(why.contains(hint), "{why}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn slots_that_cannot_be_are_refused() {
    for slots in [0, 4097, u32::MAX] {
        for error in refusals(&Queue::options().slots(slots)) {
            match error {
                Error::InvalidOption { option, value, why } => {
                    assert_eq!((option, value), ("slots", u64::from(slots)));
                    assert!(why.contains("from 1 to 4096"), "{why}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // The limits themselves are none.
    for slots in [1, 4096] {
        let queue = Queue::options().capacity(4096).slots(slots).anonymous().unwrap();
        assert_eq!(queue.stats().slots, slots);
        queue.writer("last").unwrap();
    }
}

#[test]
fn more_memory_than_there_is_is_an_error_with_the_numbers() {
    let _watchdog = minute();
    let wanted = 1 << 39;
    for error in refusals(&Queue::options().capacity(wanted)) {
        match error {
            Error::NoSpace { needed, available, .. } => {
                assert!(needed > wanted, "{needed}");
                assert!(available.is_none_or(|free| free < needed), "{available:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mode_without_the_owner_or_with_odd_bits_is_refused() {
    for mode in [0, 0o400, 0o200, 0o066, 0o477, 0o1600, 0o4600, 0o10600, u32::MAX] {
        let (name, folder) = (unique("mode"), folder("mode"));
        let options = Queue::options().capacity(4096).mode(mode);
        for answer in [options.create(&name), options.create_at(folder.0.join("ring"))] {
            match answer {
                Err(Error::InvalidOption { option, value, .. }) => {
                    assert_eq!((option, value), ("mode", u64::from(mode)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(left_behind(&name), [""; 0]);
        assert!(files_in(&folder.0).is_empty());
    }
}

#[test]
fn who_finds_no_slot_is_told_how_many_there_are_and_gets_the_first_one_freed() {
    over_every_backing(&Queue::options().capacity(4096).slots(2), |queue| {
        let (first, _second) = (queue.reader().unwrap(), queue.writer("w").unwrap());
        for answer in [
            queue.join("late").map(drop),
            queue.reader().map(drop),
            queue.writer("late").map(drop),
        ] {
            match answer {
                Err(Error::NoSlot { queue: told, slots: 2 }) => assert_eq!(&*told, queue.name()),
                other => panic!("{other:?}"),
            }
        }
        // Observers need none.
        queue.observer().unwrap();
        drop(first);
        queue.join("late").unwrap();
        assert_eq!(queue.members().len(), 1);
    });
}

#[test]
fn a_death_frees_a_slot_for_who_finds_none() {
    over_every_shared_backing(&Queue::options().capacity(4096).slots(1), |queue| {
        let joined = SharedWord::new();
        let child = forked(|| {
            let _holds = queue.reader().unwrap();
            joined.raise();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        joined.wait_for(1);
        assert!(matches!(queue.reader(), Err(Error::NoSlot { slots: 1, .. })));
        // A zombie is dead enough.
        child.kill_unreaped();
        queue.reader().unwrap();
        child.kill();
    });
}

#[test]
fn a_kind_or_sender_over_its_limit_is_refused_and_at_its_limit_is_not() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        for answer in [
            queue.join(&"s".repeat(65)).map(drop),
            queue.writer(&"ä".repeat(33)).map(drop),
            queue.joining().sender(&"s".repeat(1000)).reader().map(drop),
        ] {
            assert!(
                matches!(answer, Err(Error::TooLong { what: "sender", len, max: 64 }) if len > 64),
                "{answer:?}"
            );
        }
        assert!(queue.members().is_empty());
        let mut reader = queue.reader().unwrap();
        let sender = "s".repeat(64);
        let mut member = queue.join(&sender).unwrap();
        let (kind, too_long) = ("k".repeat(255), "k".repeat(256));
        for answer in [
            member.append(&too_long, b"", Wait::Forever).map(drop),
            member.append_all([("fine", &b""[..]), (&too_long, b"")], Wait::Forever),
            member.reserve(&too_long, 1, Wait::Forever).map(drop),
        ] {
            assert!(
                matches!(
                    answer,
                    Err(Error::TooLong {
                        what: "kind",
                        len: 256,
                        max: 255
                    })
                ),
                "{answer:?}"
            );
        }
        member.append(&kind, b"body", Wait::Never).unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!((message.sender(), message.kind()), (&*sender, &*kind));
        assert!(
            reader.pop(Wait::Never).unwrap().is_none(),
            "nothing of the refused ones was appended"
        );
    });
}

#[test]
fn a_message_over_the_rings_is_refused_at_once_and_the_longest_is_not() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let longest = queue.max_body(1, 1) as usize;
        let body = vec![7; longest + 1];
        for answer in [
            writer.append("k", &body, Wait::Forever).map(drop),
            writer.reserve("k", longest + 1, Wait::Forever).map(drop),
            writer.reserve("k", usize::MAX, Wait::Forever).map(drop),
            writer.append_all([("k", &body[..longest]), ("k", b"")], Wait::Forever),
            writer.append_all([("k", &body[..]); 3], Wait::Forever),
        ] {
            match answer {
                Err(Error::TooLarge { queue: told, len, max }) => {
                    assert_eq!(&*told, queue.name());
                    assert!(len > max && max < 4096, "{len} {max}");
                }
                other => panic!("{other:?}"),
            }
        }
        writer.append("k", &body[..longest], Wait::Never).unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body().len(), longest);
    });
}

#[test]
fn senseless_numbers_get_sensible_answers() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).spin(Duration::MAX).heap().unwrap();
    assert_eq!(queue.max_body(usize::MAX, usize::MAX), queue.max_body(64, 255));
    assert_eq!(queue.max_body(5000, 0), queue.max_body(64, 0));
    let mut reader = queue.reader().unwrap();
    // A spin without end still ends with the wait, and with a message.
    assert!(reader.pop(Duration::from_millis(1)).unwrap().is_none());
    std::thread::scope(|scope| {
        let popped = scope.spawn(|| reader.pop(Wait::For(Duration::MAX)).unwrap().map(|m| m.body().to_vec()));
        queue.writer("w").unwrap().append("", b"x", Duration::MAX).unwrap();
        assert_eq!(popped.join().unwrap().unwrap(), b"x");
    });
}

#[test]
fn a_name_that_exists_and_one_that_does_not() {
    let there = named("there", &Queue::options().capacity(4096));
    match Queue::options().create(&there.name) {
        Err(Error::AlreadyExists { queue }) => assert_eq!(*queue, *there.name),
        other => panic!("{other:?}"),
    }
    let missing = unique("missing");
    for answer in [
        Queue::open(&missing).map(drop),
        Queue::options().observe(&missing, Start::Now).map(drop),
        Queue::unlink_name(&missing),
    ] {
        assert!(
            matches!(&answer, Err(Error::NotFound { queue }) if **queue == *missing),
            "{answer:?}"
        );
    }
    let folder = folder("missing");
    let nowhere = folder.0.join("no").join("where");
    for answer in [Queue::options().create_at(&nowhere), Queue::options().open_at(&nowhere)] {
        assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
    }
    assert_eq!(left_behind(&missing), [""; 0]);
    assert!(files_in(&folder.0).is_empty());
    there.queue.unlink().unwrap();
    assert!(matches!(there.queue.unlink(), Err(Error::NotFound { .. })));
}

/// Opens the file in every way; gives the errors.
fn open_errors(path: &Path) -> [Error; 2] {
    let options = Queue::options().any_owner(true);
    [
        options.open_at(path).expect_err("it is no good queue"),
        options
            .observe_at(path, Start::Oldest)
            .expect_err("it is no good queue"),
    ]
}

#[test]
fn what_is_no_queue_is_not_taken_for_one_and_not_changed() {
    let _watchdog = minute();
    let folder = folder("strange");
    let at = |name: &str| folder.0.join(name);
    let noise: Vec<u8> = (0..20_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(at("noise"), &noise).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("short"), b"syncq\r\n\0").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink(at("noise"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    for (name, hint) in [
        ("noise", "does not begin like one"),
        ("empty", "empty"),
        ("short", "only 8 bytes"),
        ("folder", "folder"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("fifo", "not a regular file"),
        ("socket", "not a regular file"),
    ] {
        for (error, how) in open_errors(&at(name)).into_iter().zip(["open", "observe"]) {
            match error {
                Error::NotAQueue { queue, why } => {
                    assert_eq!(&*queue, at(name).to_str().unwrap());
                    // A folder may be opened for reading, and shows what it is then.
                    let is_folder = name == "folder" && why.contains("not a regular file");
                    assert!(why.contains(hint) || is_folder, "{how} {name}: {why}");
                }
                other => panic!("{how} {name}: {other:?}"),
            }
        }
        let made = Queue::options().create_at(at(name));
        assert!(matches!(made, Err(Error::AlreadyExists { .. })), "{name}: {made:?}");
    }
    assert_eq!(fs::read(at("noise")).unwrap(), noise);
    assert_eq!(fs::read(at("short")).unwrap(), b"syncq\r\n\0");
    assert_eq!(files_in(&folder.0).len(), 8);
    for error in open_errors(Path::new("/dev/null")) {
        assert!(
            matches!(&error, Error::NotAQueue { why, .. } if why.contains("regular")),
            "{error:?}"
        );
    }
}

#[test]
fn a_name_in_shared_memory_that_leads_elsewhere_is_not_followed() {
    let real = named("real", &Queue::options().capacity(4096));
    let alias = unique("alias");
    let link = Path::new("/dev/shm").join(format!("syncq.{alias}"));
    symlink(real.queue.path().unwrap(), &link).unwrap();
    let answers = [
        Queue::open(&alias).map(drop),
        Queue::options().create(&alias).map(drop),
        Queue::open_or_create(&alias).map(drop),
        Queue::unlink_name(&alias),
    ];
    fs::remove_file(&link).unwrap();
    let [opened, created, either, unlinked] = answers;
    assert!(matches!(opened, Err(Error::NotAQueue { .. })), "{opened:?}");
    assert!(matches!(created, Err(Error::AlreadyExists { .. })), "{created:?}");
    assert!(matches!(either, Err(Error::NotAQueue { .. })), "{either:?}");
    assert!(matches!(unlinked, Err(Error::NotAQueue { .. })), "{unlinked:?}");
    assert!(real.queue.is_current());
}

/// A queue's file with one message in it, whose queue is closed.
fn closed_queue(path: &Path) -> Vec<u8> {
    let queue = Queue::options().capacity(4096).slots(2).create_at(path).unwrap();
    queue.writer("w").unwrap().append("k", b"body", Wait::Never).unwrap();
    drop(queue);
    fs::read(path).unwrap()
}

/// FNV-1a over the header's first 96 bytes, as the format has it.
fn sign(bytes: &mut [u8]) {
    let sum = bytes[..96].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    bytes[96..104].copy_from_slice(&sum.to_ne_bytes());
}

#[test]
fn a_header_that_is_not_right_is_refused_and_nothing_is_changed() {
    let _watchdog = minute();
    let folder = folder("header");
    let path = folder.0.join("ring");
    let good = closed_queue(&path);
    let refused = |what: &str, change: &dyn Fn(&mut Vec<u8>), is_right: &dyn Fn(&Error) -> bool| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        for error in open_errors(&path) {
            assert!(is_right(&error), "{what}: {error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(
            fs::read(&path).unwrap(),
            bytes,
            "{what}: an open that is refused changes nothing"
        );
    };
    let put = |at: usize, bytes: &'static [u8]| {
        move |file: &mut Vec<u8>| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
            sign(file);
        }
    };
    refused("magic", &put(0, b"SYNCQ"), &|e| matches!(e, Error::NotAQueue { .. }));
    refused("version", &put(12, &[99, 0, 0, 0]), &|e| {
        matches!(
            e,
            Error::WrongVersion {
                found: 99,
                supported: 6,
                ..
            }
        )
    });
    refused("version 0", &put(12, &[0; 4]), &|e| {
        matches!(e, Error::WrongVersion { found: 0, .. })
    });
    refused("byte order", &|file| file[8..12].reverse(), &|e| {
        matches!(e, Error::WrongByteOrder { .. })
    });
    refused(
        "checksum",
        &|file| file[96] ^= 1,
        &|e| matches!(e, Error::Corrupt { what, .. } if what.contains("checksum")),
    );
    // Any bit at all of what the checksum covers behind the version.
    for bit in (16 * 8..96 * 8).step_by(7) {
        refused(
            "a bit",
            &|file| file[bit / 8] ^= 1 << (bit % 8),
            &|e| matches!(e, Error::Corrupt { what, .. } if what.contains("checksum")),
        );
    }
    let sizes: [(&str, usize, &'static [u8]); 12] = [
        ("capacity 0", 24, &[0; 8]),
        ("capacity odd", 24, &[1, 16, 0, 0, 0, 0, 0, 0]),
        ("capacity huge", 24, &[0, 0, 0, 0, 0, 0, 0, 128]),
        ("file shorter than its parts", 16, &[0, 16, 0, 0, 0, 0, 0, 0]),
        ("data inside the slots", 32, &[0, 16, 0, 0, 0, 0, 0, 0]),
        ("data behind the end of numbers", 32, &[255; 8]),
        ("no slots", 40, &[0; 4]),
        ("too many slots", 40, &[255; 4]),
        ("slot size", 44, &[0, 1, 0, 0]),
        ("options", 48, &[255; 4]),
        ("granule", 52, &[32, 0, 0, 0]),
        ("start", 88, &[1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (what, at, bytes) in sizes {
        refused(
            what,
            &put(at, bytes),
            &|e| matches!(e, Error::Corrupt { what, .. } if what.contains("size in the header")),
        );
    }
    for len in [good.len() - 1, good.len() / 2, 4096] {
        refused(
            "truncated",
            &move |file| file.truncate(len),
            &|e| matches!(e, Error::Truncated { expected, found, .. } if *found == len as u64 && *expected > *found),
        );
    }
    refused("hardly anything", &|file| file.truncate(100), &|e| {
        matches!(e, Error::NotAQueue { .. })
    });
    fs::write(&path, &good).unwrap();
    let queue = Queue::options().open_at(&path).unwrap();
    let mut reader = queue.joining().start(Start::Oldest).reader().unwrap();
    assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"body");
}

#[test]
fn a_live_queue_is_not_changed_by_opens_that_are_refused() {
    let _watchdog = minute();
    let folder = folder("live");
    let path = folder.0.join("ring");
    let queue = Queue::options().capacity(4096).create_at(&path).unwrap();
    let mut reader = queue.reader().unwrap();
    let mut writer = queue.writer("w").unwrap();
    writer.append("k", b"before", Wait::Never).unwrap();
    // In a child, where closing descriptors drops none of this process's locks.
    let child = forked(|| {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&[99], 12).unwrap();
        let before = fs::read(&path).unwrap();
        for error in open_errors(&path) {
            assert!(matches!(error, Error::WrongVersion { found: 99, .. }), "{error:?}");
        }
        assert!(matches!(
            Queue::options().create_at(&path),
            Err(Error::AlreadyExists { .. })
        ));
        assert!(fs::read(&path).unwrap() == before, "the file was changed");
        file.write_all_at(&[3], 12).unwrap();
        0
    });
    child.must_succeed();
    // A process that has the queue open may also be refused, and keeps its slots.
    let path_again = path.clone();
    forked(move || {
        let file = fs::OpenOptions::new().write(true).open(&path_again).unwrap();
        file.write_all_at(&[98], 12).unwrap();
        0
    })
    .must_succeed();
    for error in open_errors(&path) {
        assert!(matches!(error, Error::WrongVersion { found: 98, .. }), "{error:?}");
    }
    forked(|| i32::from(!queue.members().iter().all(|member| member.is_alive))).must_succeed();
    writer.append("k", b"after", Wait::Never).unwrap();
    let bodies: Vec<_> = reader.drain().map(|m| m.unwrap().body().to_vec()).collect();
    assert_eq!(bodies, [&b"before"[..], b"after"]);
}

#[test]
fn errors_name_the_queue_and_become_io_errors_of_the_fitting_kind() {
    let _watchdog = minute();
    use io::ErrorKind::*;
    let there = named("kinds", &Queue::options().capacity(4096).slots(2));
    let name = &there.name;
    let mut reader = there.queue.reader().unwrap();
    let mut writer = there.queue.writer("w").unwrap();
    let body = vec![0; there.queue.max_body(1, 0) as usize];
    writer.append("", &body, Wait::Never).unwrap();
    let errors = [
        (Queue::open(".").map(drop).unwrap_err(), InvalidInput, "."),
        (
            Queue::options().slots(0).heap().map(drop).unwrap_err(),
            InvalidInput,
            "slots 0",
        ),
        (
            there.queue.writer(&"s".repeat(65)).map(drop).unwrap_err(),
            InvalidInput,
            "65 bytes",
        ),
        (
            Queue::options().create(name).map(drop).unwrap_err(),
            AlreadyExists,
            name,
        ),
        (
            Queue::open(&format!("{name}-not")).map(drop).unwrap_err(),
            NotFound,
            name,
        ),
        (there.queue.writer("third").map(drop).unwrap_err(), Other, name),
        (
            writer.append("", b"", Wait::Never).map(drop).unwrap_err(),
            WouldBlock,
            name,
        ),
        (
            writer.append("", &[0; 5000], Wait::Never).map(drop).unwrap_err(),
            Other,
            name,
        ),
        (
            reader
                .pop(Wait::Never)
                .unwrap()
                .unwrap()
                .pod::<u64>()
                .map(drop)
                .unwrap_err(),
            InvalidData,
            "8",
        ),
        (
            Queue::options()
                .capacity(1 << 39)
                .create(&unique("big"))
                .map(drop)
                .unwrap_err(),
            StorageFull,
            "test-big",
        ),
        (
            Queue::options().heap().unwrap().unlink().unwrap_err(),
            Unsupported,
            "no name",
        ),
        (
            Queue::options().open_at("/dev/null").map(drop).unwrap_err(),
            InvalidData,
            "/dev/null",
        ),
    ];
    for (error, kind, text) in errors {
        let shown = error.to_string();
        assert!(shown.contains(text), "{shown}");
        let converted = io::Error::from(error);
        assert_eq!(converted.kind(), kind, "{shown}");
        assert_eq!(converted.to_string(), shown);
        assert!(converted.get_ref().is_some_and(|inner| inner.is::<Error>()), "{shown}");
    }
}
