//! Memory that is not there, names that are taken away, files that are cut: creation fails early and whole, and who is on a
//! queue goes on.

mod support;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::geteuid;
use std::fs;
use std::path::Path;
use support::{Child, folder, forked, minute, named, unique};
use syncq::{Error, Queue, Start, Wait};

/// What a child answers that cannot do what the test needs.
const NOT_PERMITTED: i32 = 77;

/// Runs `body` in a child in which `folder` is a file system of its own with room for `size`. Prints why, where that is not
/// permitted.
fn on_a_small_file_system(folder: &Path, size: &str, body: impl FnOnce()) {
    let child = forked(|| {
        let flags = match geteuid().is_root() {
            true => CloneFlags::CLONE_NEWNS,
            false => CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER,
        };
        if let Err(errno) = unshare(flags) {
            eprintln!("skipped: no mount namespace of its own for a small file system ({errno})");
            return NOT_PERMITTED;
        }
        let none = None::<&str>;
        // Not to be seen outside.
        let apart = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
        let mounted = apart.and_then(|()| {
            let options = format!("size={size}");
            mount(
                Some("tmpfs"),
                folder,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options.as_str()),
            )
        });
        if let Err(errno) = mounted {
            eprintln!("skipped: no small file system ({errno})");
            return NOT_PERMITTED;
        }
        body();
        0
    });
    match end_of(child) {
        WaitStatus::Exited(_, 0 | NOT_PERMITTED) => {}
        other => panic!("the child failed: {other:?}"),
    }
}

/// How a child ended.
fn end_of(child: Child) -> WaitStatus {
    let status = waitpid(child.pid, None).expect("waitpid");
    // It is gone; its drop must not signal a number that may be somebody else's by now.
    std::mem::forget(child);
    status
}

#[test]
fn a_file_system_without_room_is_an_error_with_the_numbers_and_nothing_is_left() {
    let _watchdog = minute();
    let folder = folder("small");
    on_a_small_file_system(&folder.0, "256k", || {
        let path = folder.0.join("ring");
        let entries = || fs::read_dir(&folder.0).unwrap().count();
        for capacity in [256 << 10, 1 << 20, 1 << 30, 1 << 40] {
            match Queue::options().capacity(capacity).create_at(&path) {
                Err(Error::NoSpace {
                    queue,
                    needed,
                    available: Some(available),
                }) => {
                    assert_eq!(&*queue, path.to_str().unwrap());
                    assert!(needed > capacity && available == 256 << 10, "{needed} {available}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(entries(), 0);
        }
        // The whole of what was given back can be used: each byte of a ring that was made is really there.
        let queue = Queue::options().capacity(128 << 10).slots(8).create_at(&path).unwrap();
        fs::write(folder.0.join("filler"), vec![1; 256 << 10]).unwrap_err();
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..1000 {
            writer.append("", &[7; 1000], Wait::Never).unwrap();
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), [7; 1000]);
        }
        // A second one does not fit beside it, and does not disturb it.
        let second = Queue::options().capacity(128 << 10).create_at(folder.0.join("second"));
        assert!(
            matches!(
                second,
                Err(Error::NoSpace {
                    available: Some(0..131_072),
                    ..
                })
            ),
            "{second:?}"
        );
        writer.append("", b"still", Wait::Never).unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"still");
        queue.unlink().unwrap();
        fs::remove_file(folder.0.join("filler")).unwrap();
        assert_eq!(entries(), 0);
    });
}

#[test]
fn a_name_taken_away_and_given_anew_leaves_the_old_ones_undisturbed() {
    let _watchdog = minute();
    let old = named("replaced", &Queue::options().capacity(4096));
    let mut old_reader = old.queue.reader().unwrap();
    let mut old_writer = old.queue.writer("old").unwrap();
    assert!(old.queue.is_current());
    old.queue.unlink().unwrap();
    assert!(!old.queue.is_current());
    assert!(matches!(Queue::open(&old.name), Err(Error::NotFound { .. })));
    let new = Queue::options().capacity(4096).create(&old.name).unwrap();
    assert!(new.is_current() && !old.queue.is_current());
    assert_ne!(new.stats().instance, old.queue.stats().instance);
    // The old one's handles do not take the new one's name away.
    assert!(matches!(old.queue.unlink(), Err(Error::NotFound { .. })));
    assert!(new.is_current());
    // Newcomers meet on the new one, the old ones among themselves, in this and in other processes.
    let mut new_reader = new.reader().unwrap();
    forked(|| {
        let met = Queue::open(&old.name).unwrap();
        met.writer("newcomer").unwrap().append("", b"new", Wait::Never).unwrap();
        old.queue
            .writer("heir")
            .unwrap()
            .append("", b"inherited", Wait::Never)
            .unwrap();
        0
    })
    .must_succeed();
    old_writer.append("", b"old", Wait::Never).unwrap();
    let bodies = |messages: syncq::Drain<'_>| {
        messages
            .map(|m| m.unwrap().text_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(bodies(old_reader.drain()), ["inherited", "old"]);
    assert_eq!(bodies(new_reader.drain()), ["new"]);
    // Also when the name leads to something that is no queue, or nowhere.
    fs::remove_file(new.path().unwrap()).unwrap();
    fs::write(old.queue.path().unwrap(), b"something else").unwrap();
    assert!(!new.is_current());
    assert!(matches!(new.unlink(), Err(Error::NotFound { .. })));
    old_writer.append("", b"and on", Wait::Never).unwrap();
    assert_eq!(bodies(old_reader.drain()), ["and on"]);
}

#[test]
fn a_file_moved_to_another_name_is_the_same_queue_there() {
    let _watchdog = minute();
    let folder = folder("moved");
    let (here, there) = (folder.0.join("here"), folder.0.join("there"));
    let queue = Queue::options().capacity(4096).create_at(&here).unwrap();
    queue.writer("w").unwrap().append("", b"x", Wait::Never).unwrap();
    fs::rename(&here, &there).unwrap();
    assert!(!queue.is_current());
    let moved = Queue::options().open_at(&there).unwrap();
    assert!(moved.is_current());
    assert_eq!(moved.stats().instance, queue.stats().instance);
    let mut reader = moved.joining().start(Start::Oldest).reader().unwrap();
    queue.writer("w").unwrap().append("", b"y", Wait::Never).unwrap();
    assert_eq!(reader.drain().count(), 2);
}

/// What no library can prevent: who may write the file may also cut it, and touching memory behind the end of a file is
/// SIGBUS. Permissions are the border, and the documentation says so; this holds it to what happens.
#[test]
fn a_file_cut_under_its_users_kills_who_touches_it_and_is_refused_to_newcomers() {
    let _watchdog = minute();
    let cut = named("cut", &Queue::options().capacity(1 << 16));
    let path = cut.queue.path().unwrap().to_owned();
    let whole = fs::metadata(&path).unwrap().len();
    let mut writer = cut.queue.writer("w").unwrap();
    // In children: opening and closing the file here would drop this process's locks.
    let truncate = |len: u64| {
        forked(|| {
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(len)
                .unwrap();
            0
        })
        .must_succeed();
    };
    truncate(8192);
    forked(|| {
        let refused = Queue::open(&cut.name);
        assert!(
            matches!(refused, Err(Error::Truncated { expected, found: 8192, .. }) if expected == whole),
            "{refused:?}"
        );
        0
    })
    .must_succeed();
    let user = forked(|| {
        let _ = cut
            .queue
            .writer("victim")
            .map(|mut writer| writer.append("", &[1; 60_000], Wait::Never));
        0
    });
    let end = end_of(user);
    assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "{end:?}");
    // Grown again, it holds zeros where it was cut, which the ring takes for what it is: nothing there yet, or corrupt.
    truncate(whole);
    let answer = writer.append("", b"x", Wait::Never);
    assert!(matches!(answer, Ok(_) | Err(Error::Corrupt { .. })), "{answer:?}");
}

#[test]
fn an_anonymous_queue_can_be_neither_cut_nor_grown() {
    let _watchdog = minute();
    // In a child that has only this one, so that its descriptor can be told.
    forked(|| {
        let before = memory_files();
        let queue = Queue::options().capacity(4096).anonymous().unwrap();
        let new: Vec<_> = memory_files()
            .into_iter()
            .filter(|file| !before.contains(file))
            .collect();
        let [file] = &new[..] else { panic!("{new:?}") };
        let again = fs::OpenOptions::new().write(true).open(file).unwrap();
        let len = again.metadata().unwrap().len();
        for other in [0, len - 1, len + 1, 1 << 30] {
            let error = again.set_len(other).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
        assert_eq!(again.metadata().unwrap().len(), len);
        queue.writer("w").unwrap().append("", b"x", Wait::Never).unwrap();
        0
    })
    .must_succeed();
}

fn memory_files() -> Vec<String> {
    (3..256)
        .map(|descriptor| format!("/proc/self/fd/{descriptor}"))
        .filter(|path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:syncq.")))
        .collect()
}

#[test]
fn who_is_killed_while_creating_leaves_nothing() {
    let _watchdog = minute();
    let name = unique("killed");
    for delay in 0..40u64 {
        let child = forked(|| {
            for round in 0.. {
                let queue = Queue::options()
                    .capacity(1 << 20)
                    .create(&format!("{name}-{round}"))
                    .unwrap();
                queue.unlink().unwrap();
            }
            0
        });
        std::thread::sleep(std::time::Duration::from_micros(500 + delay * 97));
        child.kill();
        // A whole queue under its name is the most there may be: it was killed between the two calls.
        for left in Queue::names().unwrap().into_iter().filter(|n| n.starts_with(&name)) {
            let queue = Queue::open(&left).expect("what has a name is whole");
            queue.writer("w").unwrap().append("", b"x", Wait::Never).unwrap();
            queue.unlink().unwrap();
        }
    }
}
