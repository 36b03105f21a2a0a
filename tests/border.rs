//! Permissions are the border: who may open, observe and unlink a queue, and what the others are told.
//!
//! Only root can act as other users, so most of this is skipped, with a word about it, for anybody else.

mod support;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown, geteuid, setgroups, setresgid, setresuid};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use support::{Child, Named, SharedWord, folder, forked, minute, named, unique};
use syncq::{Error, Queue, QueueOptions, Start, Wait};

const NOBODY: u32 = 65534;

/// Whether this process can act as other users. Says so if not.
fn can_become_others(test: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("{test}: skipped, since only root can act as another user");
    }
    is_root
}

/// Makes a queue after forking a child that is user 65534 with no groups and runs `body` with its name, so that the child has
/// inherited nothing of it.
fn met_by_nobody(what: &str, options: &QueueOptions, body: impl FnOnce(&str)) -> (Named, Child) {
    let (name, is_there) = (unique(what), SharedWord::new());
    let child = nobody(|| {
        is_there.wait_for(1);
        body(&name);
    });
    let queue = options.create(&name).expect("a fresh name");
    is_there.raise();
    (
        Named {
            queue,
            name: name.clone(),
        },
        child,
    )
}

/// Runs `body` in a child that is user 65534 with no groups.
fn nobody(body: impl FnOnce()) -> Child {
    forked(|| {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[]).expect("root may");
        setresgid(group, group, group).expect("root may");
        setresuid(user, user, user).expect("root may");
        body();
        0
    })
}

/// As [`nobody`], and checks that it returned.
fn as_nobody(body: impl FnOnce()) {
    nobody(body).must_succeed();
}

fn small() -> QueueOptions {
    Queue::options().capacity(4096).slots(4)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn file_of(named: &Named) -> &Path {
    named.queue.path().unwrap()
}

#[test]
fn the_mode_is_the_owners_alone_by_default_and_else_exactly_what_was_asked_for_whatever_the_umask() {
    let _watchdog = minute();
    let folder = folder("modes");
    // The umask belongs to the whole process, so each is tried in a child.
    for mask in [0o000, 0o022, 0o077, 0o777] {
        forked(|| {
            umask(Mode::from_bits_truncate(mask));
            let queue = small().create_at(folder.0.join(format!("default-{mask:o}"))).unwrap();
            assert_eq!(mode_of(queue.path().unwrap()), 0o600);
            for mode in [0o600, 0o640, 0o644, 0o660, 0o666, 0o604, 0o700, 0o777] {
                let path = folder.0.join(format!("{mask:o}-{mode:o}"));
                small().mode(mode).create_at(&path).unwrap();
                assert_eq!(mode_of(&path), mode, "umask {mask:o}");
            }
            let name = unique("modes");
            let named = small().mode(0o644).create(&name).unwrap();
            let mode = mode_of(named.path().unwrap());
            named.unlink().unwrap();
            assert_eq!(mode, 0o644);
            0
        })
        .must_succeed();
    }
}

#[test]
fn a_queue_of_another_user_is_refused_with_both_users_and_opened_by_who_says_any_owner() {
    let _watchdog = minute();
    if !can_become_others("a queue of another user") {
        return;
    }
    let (theirs, child) = met_by_nobody("foreign", &small().mode(0o666), |name| {
        for answer in [
            Queue::open(name).map(drop),
            Queue::open_or_create(name).map(drop),
            small().observe(name, Start::Now).map(drop),
            Queue::unlink_name(name),
        ] {
            match answer {
                Err(error @ Error::ForeignOwner { .. }) => {
                    assert!(
                        matches!(
                            &error,
                            Error::ForeignOwner {
                                owner: 0,
                                me: NOBODY,
                                ..
                            }
                        ),
                        "{error:?}"
                    );
                    let text = error.to_string();
                    assert!(text.contains(name) && text.contains("65534") && text.contains("any_owner"));
                    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::PermissionDenied);
                }
                other => panic!("{other:?}"),
            }
        }
        let queue = small().any_owner(true).open(name).unwrap();
        queue
            .writer("guest")
            .unwrap()
            .append("", b"hello", Wait::Never)
            .unwrap();
    });
    child.must_succeed();
    let mut reader = theirs.queue.joining().start(Start::Oldest).reader().unwrap();
    assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().sender(), "guest");
    assert!(theirs.queue.is_current());
    // Root is nobody special here: a queue of another user is foreign to it too.
    chown(file_of(&theirs), Some(Uid::from_raw(NOBODY)), None).unwrap();
    forked(|| {
        let opened = Queue::open(&theirs.name);
        assert!(
            matches!(
                opened,
                Err(Error::ForeignOwner {
                    owner: NOBODY,
                    me: 0,
                    ..
                })
            ),
            "{opened:?}"
        );
        small().any_owner(true).open(&theirs.name).unwrap();
        0
    })
    .must_succeed();
    chown(file_of(&theirs), Some(Uid::from_raw(0)), None).unwrap();
}

#[test]
fn who_is_not_permitted_is_told_owner_and_mode() {
    let _watchdog = minute();
    if !can_become_others("permission denied") {
        return;
    }
    let denied = |name: &str, expected: u32, answer: syncq::Result<()>| match answer {
        Err(Error::PermissionDenied {
            queue,
            owner: Some(0),
            mode: Some(mode),
        }) => {
            assert_eq!((&*queue, mode), (name, expected));
        }
        other => panic!("{name}: {other:?}"),
    };
    let (closed, child) = met_by_nobody("closed", &small(), |name| {
        denied(name, 0o600, small().open(name).map(drop));
        denied(name, 0o600, small().open_or_create(name).map(drop));
        denied(name, 0o600, small().any_owner(true).open(name).map(drop));
        denied(name, 0o600, small().any_owner(true).observe(name, Start::Now).map(drop));
        let text = small().open(name).unwrap_err().to_string();
        assert!(text.contains("user 0") && text.contains("0600"), "{text}");
    });
    child.must_succeed();
    let (readable, child) = met_by_nobody("readable", &small().mode(0o644), |name| {
        denied(name, 0o644, small().any_owner(true).open(name).map(drop));
    });
    child.must_succeed();
    assert!(closed.queue.is_current() && readable.queue.is_current());
}

#[test]
fn an_observer_needs_permission_to_read_and_none_to_write() {
    let _watchdog = minute();
    if !can_become_others("an observer of another user") {
        return;
    }
    let (seen, written) = (SharedWord::new(), SharedWord::new());
    let (shown, child) = met_by_nobody("shown", &small().mode(0o644), |name| {
        written.wait_for(1);
        let mut observer = small().any_owner(true).observe(name, Start::Oldest).unwrap();
        assert_eq!(observer.pop(Wait::Never).unwrap().unwrap().body(), b"one");
        seen.raise();
        assert_eq!(observer.pop(Duration::from_secs(30)).unwrap().unwrap().body(), b"two");
        assert_eq!(observer.members().len(), 1);
        assert!(
            observer.members()[0].is_alive,
            "locks can be asked for by who may only read"
        );
        assert_eq!(observer.stats().appended, 2);
    });
    let mut writer = shown.queue.writer("w").unwrap();
    writer.append("k", b"one", Wait::Never).unwrap();
    written.raise();
    seen.wait_for(1);
    writer.append("k", b"two", Wait::Never).unwrap();
    child.must_succeed();
}

#[test]
fn a_name_squatted_by_another_user_is_named_as_such() {
    let _watchdog = minute();
    if !can_become_others("a squatted name") {
        return;
    }
    let name = unique("squatted");
    let path = Path::new("/dev/shm").join(format!("syncq.{name}"));
    fs::write(&path, b"mine!").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let squatted = || {
        [
            small().create(&name).map(drop),
            small().open(&name).map(drop),
            small().open_or_create(&name).map(drop),
            Queue::unlink_name(&name),
        ]
    };
    as_nobody(|| {
        for answer in squatted() {
            assert!(
                matches!(
                    answer,
                    Err(Error::ForeignOwner {
                        owner: 0,
                        me: NOBODY,
                        ..
                    })
                ),
                "{answer:?}"
            );
        }
    });
    chown(&path, Some(Uid::from_raw(NOBODY)), None).unwrap();
    let answers = squatted();
    let content = fs::read(&path);
    fs::remove_file(&path).unwrap();
    for answer in answers {
        assert!(
            matches!(
                answer,
                Err(Error::ForeignOwner {
                    owner: NOBODY,
                    me: 0,
                    ..
                })
            ),
            "{answer:?}"
        );
    }
    assert_eq!(content.unwrap(), b"mine!");
}

#[test]
fn a_dead_member_of_another_user_is_buried_too() {
    let _watchdog = minute();
    if !can_become_others("a dead member of another user") {
        return;
    }
    let shared = named("shared", &small().mode(0o666));
    let mut writer = shared.queue.writer("w").unwrap();
    as_nobody(|| {
        let queue = small().any_owner(true).open(&shared.name).unwrap();
        // Left behind, not left: the process ends with the slot in its hand.
        std::mem::forget(queue.reader().unwrap());
    });
    assert_eq!(
        shared.queue.members().iter().filter(|member| !member.is_alive).count(),
        1
    );
    let body = [0; 1000];
    for _ in 0..10 {
        writer.append("", &body, Duration::from_secs(30)).unwrap();
    }
    assert_eq!(shared.queue.members().len(), 1);
    // The other way round: nobody buries a member of root's.
    let child = forked(|| {
        std::mem::forget(shared.queue.reader().unwrap());
        0
    });
    child.must_succeed();
    as_nobody(|| {
        let queue = small().any_owner(true).open(&shared.name).unwrap();
        assert_eq!(queue.reap_all(), 1);
    });
}
