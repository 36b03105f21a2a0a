//! Fork and exec: what a child may do with what it inherits, what its ends never do to the parent, and who counts as dead.

mod support;

use nix::unistd::execvp;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    Child, SharedWord, eventually, folder, forked, minute, named, over_every_backing, over_every_shared_backing,
};
use syncq::{Buffer, Error, Member, Queue, Start, Wait};

/// Tells the threads of a test to end, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks that every call on an inherited member is refused.
fn assert_all_refused(member: &mut Member) {
    let wait = Wait::Forever;
    assert!(matches!(member.append("", b"", wait), Err(Error::Forked { .. })));
    assert!(matches!(member.append_pod("", &1u8, wait), Err(Error::Forked { .. })));
    assert!(matches!(
        member.append_all([("", &b""[..])], wait),
        Err(Error::Forked { .. })
    ));
    assert!(matches!(member.reserve("", 1, wait), Err(Error::Forked { .. })));
    assert!(matches!(member.pop(wait), Err(Error::Forked { .. })));
    assert!(matches!(member.peek(wait), Err(Error::Forked { .. })));
    let mut buffer = Buffer::new();
    assert!(matches!(member.pop_into(&mut buffer, wait), Err(Error::Forked { .. })));
    assert!(matches!(member.drain().next(), Some(Err(Error::Forked { .. }))));
    assert!(matches!(member.messages(wait).next(), Some(Err(Error::Forked { .. }))));
}

#[test]
fn inherited_roles_are_the_parents() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = Some(queue.joining().sender("parent").hear_own(true).member().unwrap());
        let mut reader = Some(queue.reader().unwrap());
        let mut writer = Some(queue.writer("w").unwrap());
        writer.as_mut().unwrap().append("", b"unread", Wait::Never).unwrap();
        let before = queue.members();
        forked(|| {
            let (mut member, mut reader, mut writer) =
                (member.take().unwrap(), reader.take().unwrap(), writer.take().unwrap());
            assert_all_refused(&mut member);
            assert!(matches!(reader.pop(Wait::Forever), Err(Error::Forked { .. })));
            assert!(matches!(
                writer.append("", b"", Wait::Forever),
                Err(Error::Forked { .. })
            ));
            drop((member, reader, writer));
            0
        })
        .must_succeed();
        assert_eq!(queue.members(), before, "the child's drops did nothing");
        let mut member = member.unwrap();
        member.append("", b"still here", Wait::Never).unwrap();
        for mut all in [member.drain(), reader.as_mut().unwrap().drain()] {
            assert_eq!(all.next().unwrap().unwrap().body(), b"unread");
            assert_eq!(all.next().unwrap().unwrap().body(), b"still here");
            assert!(all.next().is_none());
        }
    });
}

#[test]
fn a_fork_past_libc_is_noticed_too() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("parent").unwrap();
        // SAFETY: as `fork`, but without its handlers. The child calls only what allocates nothing, and `_exit`s.
        let pid = unsafe { nix::libc::syscall(nix::libc::SYS_clone, nix::libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            let is_refused = matches!(member.append("", b"", Wait::Never), Err(Error::Forked { .. }))
                && matches!(member.pop(Wait::Never), Err(Error::Forked { .. }));
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(i32::from(!is_refused)) }
        }
        assert!(pid > 0);
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
        member.append("", b"", Wait::Never).unwrap();
    });
}

#[test]
fn a_child_joins_through_an_inherited_queue() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut parent = queue.join("parent").unwrap();
        let child = forked(|| {
            let mut child = queue.join("child").unwrap();
            child.append("hello", b"", Wait::Never).unwrap();
            assert_eq!(child.pop(Wait::Forever).unwrap().unwrap().kind(), "welcome");
            let members = queue.members();
            assert!(members.iter().all(|member| member.is_alive));
            assert_eq!(members.len(), 2);
            // What it does with its own does not touch the parent's.
            assert_eq!(queue.reap_all(), 0);
            0
        });
        let hello = parent.pop(Wait::Forever).unwrap().unwrap();
        assert_eq!((hello.sender(), hello.kind()), ("child", "hello"));
        assert_ne!(hello.member(), parent.id());
        parent.append("welcome", b"", Wait::Never).unwrap();
        child.must_succeed();
        assert_eq!(queue.members().len(), 1, "it has left");
    });
}

#[test]
fn a_child_opens_for_itself_what_it_did_and_did_not_inherit() {
    let _watchdog = minute();
    let inherited = named("inherited", &Queue::options().capacity(4096));
    let mut parent = inherited.queue.join("parent").unwrap();
    let later = SharedWord::new();
    let name = format!("{}-later", inherited.name);
    let child = forked(|| {
        // Inherited, opened once more, and closed again: the child's own member must not lose its slot over it.
        let mut member = inherited.queue.join("child").unwrap();
        drop(Queue::open(&inherited.name).unwrap());
        drop(Queue::open(&inherited.name).unwrap().observer().unwrap());
        member.append("first", b"", Wait::Never).unwrap();
        later.wait_for(1);
        // Made by the parent after the fork.
        Queue::open(&name)
            .unwrap()
            .writer("child")
            .unwrap()
            .append("second", b"", Wait::Never)
            .unwrap();
        assert_eq!(member.pop(Wait::Forever).unwrap().unwrap().kind(), "end");
        0
    });
    assert_eq!(parent.pop(Wait::Forever).unwrap().unwrap().kind(), "first");
    assert!(inherited.queue.members().iter().all(|member| member.is_alive));
    assert_eq!(inherited.queue.reap_all(), 0);
    let second = Queue::options().capacity(4096).create(&name).unwrap();
    let mut reader = second.reader().unwrap();
    later.raise();
    assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().kind(), "second");
    second.unlink().unwrap();
    parent.append("end", b"", Wait::Never).unwrap();
    child.must_succeed();
}

#[test]
fn opening_and_closing_again_costs_nobody_the_slot() {
    let _watchdog = minute();
    let folder = folder("again");
    let named = named("again", &Queue::options().capacity(4096));
    let path = folder.0.join("ring");
    let at_path = Queue::options().capacity(4096).create_at(&path).unwrap();
    for queue in [&named.queue, &at_path] {
        let member = queue.join("here").unwrap();
        for _ in 0..3 {
            drop(Queue::options().open_at(queue.path().unwrap()).unwrap());
            drop(Queue::options().observe_at(queue.path().unwrap(), Start::Now).unwrap());
            drop(queue.observer().unwrap());
            drop(queue.clone());
        }
        // Only another process can see a lock of this one.
        forked(|| {
            assert!(queue.members()[0].is_alive);
            assert_eq!(queue.reap_all(), 0);
            0
        })
        .must_succeed();
        drop(member);
        forked(|| i32::from(!queue.members().is_empty())).must_succeed();
    }
}

#[test]
fn a_member_outlives_the_handles_on_its_queue() {
    let _watchdog = minute();
    let named = named("outlives", &Queue::options().capacity(4096));
    let other = Queue::open(&named.name).unwrap();
    let mut member = other.join("here").unwrap();
    drop(other);
    forked(|| i32::from(!named.queue.members()[0].is_alive)).must_succeed();
    member.append("", b"", Wait::Never).unwrap();
}

#[test]
fn a_heap_queue_is_the_parents_alone() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut member = queue.join("parent").unwrap();
    forked(|| {
        assert!(matches!(queue.join("child"), Err(Error::Forked { .. })));
        assert!(matches!(queue.writer("child"), Err(Error::Forked { .. })));
        assert!(matches!(queue.reader(), Err(Error::Forked { .. })));
        // One that the child makes is its own.
        let own = Queue::options().capacity(4096).heap().unwrap();
        own.join("child").unwrap().append("", b"", Wait::Never).unwrap();
        0
    })
    .must_succeed();
    member.append("", b"", Wait::Never).unwrap();
    assert_eq!(queue.members().len(), 1);
}

#[test]
fn a_child_cannot_observe_a_heap_queue_that_it_has_only_a_copy_of() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    forked(|| i32::from(!matches!(queue.observer(), Err(Error::Forked { .. })))).must_succeed();
}

#[test]
fn an_inherited_guard_lets_nothing_go() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", &[7; 3000], Wait::Never).unwrap();
        let mut guard = Some(reader.peek(Wait::Never).unwrap().unwrap());
        let free = queue.free();
        forked(|| {
            drop(guard.take());
            0
        })
        .must_succeed();
        assert_eq!(queue.free(), free, "it is the parent's to let go");
        assert!(matches!(
            writer.append("", &[8; 3000], Wait::Never),
            Err(Error::Full(_))
        ));
        let mut copy = [0; 3000];
        guard.as_ref().unwrap().copy_to(0, &mut copy);
        assert_eq!(copy, [7; 3000]);
        forked(|| i32::from(guard.as_ref().unwrap().check().is_ok())).must_succeed();
        guard.as_ref().unwrap().check().unwrap();
    });
}

#[test]
fn a_dead_child_that_nobody_reaped_holds_nobody_back() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let joined = SharedWord::new();
        let mut writer = queue.writer("w").unwrap();
        let zombies: Vec<Child> = (0..3)
            .map(|_| {
                forked(|| {
                    let _reader = queue.reader().unwrap();
                    joined.raise();
                    std::thread::sleep(Duration::from_secs(100));
                    1
                })
            })
            .collect();
        joined.wait_for(3);
        zombies.iter().for_each(Child::kill_unreaped);
        for _ in 0..100 {
            writer.append("", &[0; 200], Wait::Never).unwrap();
        }
        // And more children can be made meanwhile.
        forked(|| {
            queue.join("late").unwrap().append("", b"", Wait::Never).unwrap();
            0
        })
        .must_succeed();
        assert_eq!(queue.stats().reaped, 3);
    });
}

#[test]
fn a_grandchild_that_keeps_the_descriptors_does_not_keep_its_dead_parent_alive() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let (joined, grandchild) = (SharedWord::new(), SharedWord::new());
        let child = forked(|| {
            let _reader = queue.joining().sender("child").reader().unwrap();
            let inheritor = forked(|| {
                joined.raise();
                std::thread::sleep(Duration::from_secs(100));
                0
            });
            grandchild.get().store(inheritor.pid.as_raw() as u32, Ordering::SeqCst);
            joined.raise();
            std::thread::sleep(Duration::from_secs(100));
            1
        });
        joined.wait_for(2);
        child.kill_unreaped();
        assert!(!queue.members()[0].is_alive);
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..100 {
            writer.append("", &[0; 200], Wait::Never).unwrap();
        }
        let pid = grandchild.get().load(Ordering::SeqCst) as i32;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        child.kill();
    });
}

#[test]
fn a_grandchild_is_a_child_like_any_other() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        forked(|| {
            let mut child = queue.join("child").unwrap();
            child.append("", b"1", Wait::Never).unwrap();
            forked(|| {
                assert_all_refused(&mut child);
                queue.join("grandchild").unwrap().append("", b"2", Wait::Never).unwrap();
                0
            })
            .must_succeed();
            child.append("", b"3", Wait::Never).unwrap();
            0
        })
        .must_succeed();
        let senders: Vec<_> = reader
            .drain()
            .map(|message| message.unwrap().sender().to_owned())
            .collect();
        assert_eq!(senders, ["child", "grandchild", "child"]);
    });
}

#[test]
fn a_parent_of_many_threads_forks_children_that_work() {
    over_every_shared_backing(&Queue::options().capacity(1 << 16), |queue| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _stop = StopOnDrop(&stop);
            let stop = &stop;
            for thread in 0..2 {
                let mut member = queue.join(&thread.to_string()).unwrap();
                threads.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        member.append("", &[0; 100], Wait::Forever).unwrap();
                        while member.pop(Wait::Never).unwrap().is_some() {}
                    }
                });
            }
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(queue.reader().unwrap());
                    queue.reap_all();
                }
            });
            for _ in 0..50 {
                forked(|| {
                    // SAFETY: a plain system call: a child that hangs is not to hold up the test for long.
                    unsafe { nix::libc::alarm(10) };
                    let mut child = queue.join("child").unwrap();
                    child.append("", b"", Wait::Forever).unwrap();
                    child.pop(Wait::Forever).unwrap().unwrap();
                    drop(child);
                    0
                })
                .must_succeed();
            }
        });
    });
}

/// Asking who is alive takes no part in the lock that is held across a fork, so what it locks must be usable in a child too.
#[test]
fn a_child_made_while_another_thread_asks_for_the_members_can_join() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let _members: Vec<_> = (0..40).map(|_| queue.writer("w").unwrap()).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _stop = StopOnDrop(&stop);
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!(queue.members().len() >= 40);
                }
            });
            let is_stuck = (0..100).any(|_| {
                let child = forked(|| {
                    // SAFETY: a plain system call: a child that hangs is not to hold up the test for long.
                    unsafe { nix::libc::alarm(5) };
                    drop(queue.reader().unwrap());
                    0
                });
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child.must_succeed())).is_err()
            });
            assert!(!is_stuck, "a child could not join");
        });
    });
}

#[test]
fn a_childs_end_leaves_the_parents_slots_locked() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("parent").unwrap();
        for _ in 0..3 {
            forked(|| {
                drop(queue.join("child").unwrap());
                drop(queue.clone());
                0
            })
            .must_succeed();
        }
        // Another process is the judge.
        forked(|| {
            assert!(queue.members()[0].is_alive);
            assert_eq!(queue.reap_all(), 0);
            0
        })
        .must_succeed();
        member.append("", b"", Wait::Never).unwrap();
    });
}

/// Device and inode of each descriptor of this process that leads to this queue, or to any anonymous one.
fn files_of_queues(queue: &Queue) -> Vec<String> {
    let named = queue.path().map(|path| std::fs::metadata(path).unwrap().ino());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .filter_map(|descriptor| {
            let path = descriptor.unwrap().path();
            // Other tests of this process close theirs meanwhile.
            let facts = std::fs::metadata(&path).ok()?;
            let leads_to = std::fs::read_link(&path).ok()?;
            let is_anonymous = leads_to.to_string_lossy().contains("memfd:syncq");
            (is_anonymous || Some(facts.ino()) == named).then(|| format!("{}:{}", facts.dev(), facts.ino()))
        })
        .collect()
}

#[test]
fn a_program_started_by_a_member_inherits_no_descriptor() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("parent").unwrap();
        let _observer = queue.observer().unwrap();
        let ours = files_of_queues(queue);
        assert!(!ours.is_empty());
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for file in /proc/$$/fd/*; do stat -L -c %d:%i $file; done 2> /dev/null; echo end",
        ]);
        let assert_has_none = |command: &mut Command| {
            let output = command.output().expect("a shell");
            let inherited = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(inherited.contains(':') && inherited.ends_with("end\n"), "{inherited}");
            assert!(
                inherited.lines().all(|file| !ours.iter().any(|our| our == file)),
                "{inherited}"
            );
        };
        assert_has_none(&mut command);
        // The same by way of `fork`.
        // SAFETY: the closure does nothing; it only makes std fork instead of spawn.
        unsafe { command.pre_exec(|| Ok(())) };
        assert_has_none(&mut command);
        forked(|| i32::from(!queue.members()[0].is_alive)).must_succeed();
        member.append("", b"", Wait::Never).unwrap();
    });
}

#[test]
fn a_member_that_becomes_another_program_is_dead() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        let joined = SharedWord::new();
        let child = forked(|| {
            let mut member = queue.join("child").unwrap();
            member.append("", b"last words", Wait::Never).unwrap();
            let mut other = queue.writer("other").unwrap();
            std::mem::forget(other.reserve("", 100, Wait::Never).unwrap());
            joined.raise();
            execvp(c"sleep", &[c"sleep", c"50"]).unwrap();
            1
        });
        let mut reader = queue.joining().start(Start::Oldest).reader().unwrap();
        joined.wait_for(1);
        eventually("the child sleeps as another program", || {
            std::fs::read_to_string(format!("/proc/{}/comm", child.pid))
                .unwrap()
                .trim()
                == "sleep"
        });
        writer.append("", b"behind", Wait::Never).unwrap();
        assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"last words");
        assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"behind");
        drop(reader);
        for _ in 0..100 {
            writer.append("", &[0; 200], Wait::Never).unwrap();
        }
        assert_eq!(queue.members().len(), 1);
        assert_eq!(queue.stats().reaped, 2);
    });
}

#[test]
fn many_children_talk_to_their_parent() {
    over_every_shared_backing(&Queue::options().capacity(8192), |queue| {
        let mut parent = queue.join("parent").unwrap();
        let children: Vec<Child> = (0..8u32)
            .map(|child| {
                forked(move || {
                    let mut me = queue.join(&child.to_string()).unwrap();
                    for number in 0..100 {
                        me.append_pod("number", &(child * 1000 + number), Wait::Forever)
                            .unwrap();
                    }
                    // Without leaving: the parent reads it all the same.
                    std::mem::forget(me);
                    0
                })
            })
            .collect();
        let mut next = [0; 8];
        for _ in 0..800 {
            let message = parent.pop(Wait::Forever).unwrap().unwrap();
            let number: u32 = message.pod().unwrap();
            let child = number / 1000;
            assert_eq!(message.sender(), child.to_string());
            assert_eq!(number % 1000, next[child as usize]);
            next[child as usize] += 1;
        }
        children.into_iter().for_each(Child::must_succeed);
        // Some were in somebody's way and are buried already.
        queue.reap_all();
        assert_eq!(queue.stats().reaped, 8);
    });
}
