//! PID namespaces: processes that do not see each other, or know each other by other numbers, on one queue. Who lives in another
//! one is never taken for dead, and who is killed in another one is noticed.
//!
//! Where the kernel refuses a namespace, what needs it is skipped, with a word about it.

mod support;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{Child, SharedWord, eventually, forked, minute, named, set_claim_holder};
use syncq::{Error, MemberInfo, Queue, Start, Wait};

/// The `/proc` that a process in a namespace of its own has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proc {
    /// That of the namespace it comes from: the numbers in it are not its own.
    Outer,
    Own,
}

/// The number that a process has in its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// 2, for all of them; here it is somebody else's.
    Second,
    /// That of this test.
    OfThisTest,
    /// One that nobody has here.
    OfNobodyHere,
}

/// Where a process of a test lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Here,
    Namespace(Proc, Number),
}

const HOMES: [Home; 4] = [
    Home::Namespace(Proc::Outer, Number::Second),
    Home::Namespace(Proc::Own, Number::Second),
    Home::Namespace(Proc::Own, Number::OfThisTest),
    Home::Namespace(Proc::Outer, Number::OfNobodyHere),
];

/// A process of a test, alone with its init in a namespace, or here.
struct Resident {
    /// Whose end ends everybody in the namespace; the process itself, if it lives here.
    child: Child,
    /// Its number here.
    pid: Pid,
}

impl Resident {
    /// Kills it, and waits until it has ended.
    fn kill(&self) {
        if self.child.pid == self.pid {
            return self.child.kill_unreaped();
        }
        kill(self.pid, Signal::SIGKILL).expect("kill");
        // Its init reaps it.
        eventually("it has ended", || kill(self.pid, None).is_err());
    }
}

/// What a resident says once its home is there: its number here, or that there is none.
const REFUSED: u32 = u32::MAX;

/// To the real standard error: the test harness keeps what is printed to itself.
fn say(words: &str) {
    let _ = std::io::stderr().write_all(format!("{words}\n").as_bytes());
}

/// Starts a process at `home`. [`None`], with a word about it, where the kernel refuses such a home.
fn start(home: Home, body: impl FnOnce() -> i32) -> Option<Resident> {
    let number = SharedWord::new();
    let tell = |value| number.get().store(value, Ordering::SeqCst);
    let child = match home {
        Home::Here => forked(|| {
            tell(std::process::id());
            body()
        }),
        Home::Namespace(proc, wanted) => {
            let wanted = match wanted {
                Number::Second => None,
                Number::OfThisTest => Some(std::process::id()),
                Number::OfNobodyHere => (300..30_000).rev().find(|n| !Path::new(&format!("/proc/{n}")).exists()),
            };
            forked(|| {
                enter_namespace(proc, wanted, &number, || {
                    tell(outer_number());
                    if proc == Proc::Own && !mount_own_proc() {
                        tell(REFUSED);
                        return 0;
                    }
                    assert_eq!(std::process::id(), wanted.unwrap_or(2));
                    body()
                })
            })
        }
    };
    number.wait_for(1);
    match number.get().load(Ordering::SeqCst) {
        REFUSED => {
            say(&format!("skipped: {home:?}, for the reason above"));
            child.must_succeed();
            None
        }
        pid => Some(Resident {
            child,
            pid: Pid::from_raw(pid as i32),
        }),
    }
}

/// In a child: becomes the parent of a namespace's init, which has `body` done by a child of its own.
fn enter_namespace(proc: Proc, wanted: Option<u32>, number: &SharedWord, body: impl FnOnce() -> i32) -> i32 {
    let refused = |what: &str, why: &dyn std::fmt::Display| {
        say(&format!("the kernel refuses {what}: {why}"));
        number.get().store(REFUSED, Ordering::SeqCst);
        0
    };
    let mut flags = CloneFlags::CLONE_NEWPID;
    flags.set(CloneFlags::CLONE_NEWUSER, !geteuid().is_root());
    flags.set(CloneFlags::CLONE_NEWNS, proc == Proc::Own);
    if let Err(errno) = unshare(flags) {
        return refused("a PID namespace", &errno);
    }
    let init = forked(|| {
        // An init is deaf to its alarm, but not to this.
        set_pdeathsig(Signal::SIGKILL).expect("a signal");
        if let Some(wanted) = wanted
            && let Err(error) = std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string())
        {
            return refused("to choose a number in a namespace", &error);
        }
        let resident = forked(body);
        // Killed is a good end.
        match nix::sys::wait::waitpid(resident.pid, None).expect("waitpid") {
            nix::sys::wait::WaitStatus::Exited(_, code) => code,
            _ => 0,
        }
    });
    init.must_succeed();
    0
}

/// This process's number where `/proc` was mounted.
fn outer_number() -> u32 {
    let link = std::fs::read_link("/proc/self").expect("/proc");
    link.to_str().and_then(|n| n.parse().ok()).expect("a number")
}

fn mount_own_proc() -> bool {
    let none = None::<&str>;
    let apart = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
    let mounted = apart.and_then(|()| mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none));
    if let Err(errno) = &mounted {
        say(&format!("the kernel refuses a /proc of its own: {errno}"));
    }
    mounted.is_ok()
}

fn member(queue: &Queue, name: &str) -> MemberInfo {
    let mut members = queue.members().into_iter();
    members.find(|member| member.name == name).expect("it has joined")
}

/// Reads nothing, owes a reservation, has kept the claim, and sleeps.
fn hold_everything(name: &str, pid_there: &SharedWord, ready: &SharedWord) -> i32 {
    let queue = Queue::open(name).expect("open");
    let _reader = queue.joining().sender("held reader").reader().expect("a slot");
    let mut writer = queue.writer("held writer").expect("a slot");
    // Alone for so long that it keeps the claim.
    for _ in 0..20 {
        writer.append("news", b"before", Wait::Never).expect("room");
    }
    let _place = writer.reserve("news", 100, Wait::Never).expect("room");
    pid_there.get().store(std::process::id(), Ordering::SeqCst);
    ready.raise();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Finds that everybody who holds something lives, has the test kill him, and finds that nothing is held any more.
fn judge(name: &str, pid_there: u32, has_judged: &SharedWord, is_killed: &SharedWord) -> i32 {
    const A_MOMENT: Wait = Wait::For(Duration::from_millis(30));
    const LONG: Wait = Wait::For(Duration::from_secs(40));
    let queue = Queue::open(name).expect("open");
    let mut reader = queue.joining().start(Start::Oldest).reader().expect("a slot");
    let mut writer = queue
        .writer("judge")
        .expect("a slot: the claim is kept by somebody who lives");
    for _ in 0..20 {
        assert_eq!(reader.pop(LONG).unwrap().unwrap().body(), b"before");
    }
    writer.append("news", b"behind", LONG).unwrap();
    assert!(reader.pop(A_MOMENT).unwrap().is_none(), "it may yet be committed");
    let mut appended = 0;
    let full = loop {
        match writer.append("news", &[1; 200], Wait::Never) {
            Ok(_) => appended += 1,
            Err(Error::Full(full)) => break full,
            Err(other) => panic!("{other}"),
        }
    };
    let slowest = full.slowest.expect("somebody");
    assert_eq!((&*slowest.name, slowest.pid), ("held reader", pid_there));
    assert!(matches!(
        writer.append("news", &[1; 200], A_MOMENT),
        Err(Error::Full(_))
    ));
    let slot = member(&queue, "held writer").id.slot();
    set_claim_holder(queue.path().unwrap(), Some(slot));
    match writer.append("news", &[1; 200], A_MOMENT) {
        Err(Error::Busy { pid, .. }) => assert_eq!(pid, pid_there),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        queue.joining().wait(A_MOMENT).reader(),
        Err(Error::Busy { .. })
    ));
    assert_eq!((queue.reap_all(), queue.reap(pid_there)), (0, 0));
    assert!(queue.members().iter().all(|member| member.is_alive));
    let stats = queue.stats();
    assert_eq!(
        (stats.takeovers, stats.reaped, stats.evicted),
        (0, 0, 0),
        "nobody was robbed"
    );

    has_judged.raise();
    is_killed.wait_for(1);
    for held in ["held reader", "held writer"] {
        assert!(!member(&queue, held).is_alive, "{held}");
    }
    writer.append("news", &[1; 200], LONG).unwrap();
    assert_eq!(reader.pop(LONG).unwrap().unwrap().body(), b"behind");
    for _ in 0..=appended {
        assert_eq!(reader.pop(LONG).unwrap().unwrap().body(), [1; 200]);
    }
    assert!(reader.pop(Wait::Never).unwrap().is_none());
    // All of the room is there again.
    for _ in 0..appended + 2 {
        writer.append("news", &[2; 200], Wait::Never).unwrap();
        reader.pop(LONG).unwrap().unwrap();
    }
    let stats = queue.stats();
    assert_eq!((stats.takeovers, stats.reaped, stats.writing), (1, 2, None));
    assert_eq!(queue.members().len(), 2);
    0
}

/// One who holds everything lives at `holder`, and another one at `judge` finds out what becomes of him.
fn the_living_are_waited_for_and_the_dead_are_not(holder: Home, judges: Home) {
    let named = named("namespaces", &Queue::options().capacity(8192));
    let (pid_there, ready, has_judged, is_killed) = (
        SharedWord::new(),
        SharedWord::new(),
        SharedWord::new(),
        SharedWord::new(),
    );
    let name = &*named.name;
    let Some(holder) = start(holder, || hold_everything(name, &pid_there, &ready)) else {
        return;
    };
    ready.wait_for(1);
    let pid_there = pid_there.get().load(Ordering::SeqCst);
    let Some(judge) = start(judges, || judge(name, pid_there, &has_judged, &is_killed)) else {
        return;
    };
    // Or its end, if it fails.
    eventually("the judge has judged", || {
        has_judged.get().load(Ordering::SeqCst) == 1 || kill(judge.pid, None).is_err()
    });
    holder.kill();
    is_killed.raise();
    judge.child.must_succeed();
}

#[test]
fn who_holds_something_in_another_namespace_is_waited_for_until_he_is_killed() {
    let _watchdog = minute();
    for home in HOMES {
        the_living_are_waited_for_and_the_dead_are_not(home, Home::Here);
    }
}

#[test]
fn who_holds_something_here_is_waited_for_by_others_in_a_namespace_until_he_is_killed() {
    let _watchdog = minute();
    for home in HOMES {
        the_living_are_waited_for_and_the_dead_are_not(Home::Here, home);
    }
}

#[test]
fn two_in_namespaces_of_their_own_wait_for_each_other_until_one_is_killed() {
    let _watchdog = minute();
    // Both have the same number, where they have one by chance.
    for (holder, judge) in [(0, 0), (1, 1), (1, 2), (2, 0), (0, 2)] {
        the_living_are_waited_for_and_the_dead_are_not(HOMES[holder], HOMES[judge]);
    }
}

#[test]
fn of_two_with_the_same_number_only_the_dead_one_is_buried() {
    let _watchdog = minute();
    let named = named("same-number", &Queue::options().capacity(4096));
    let (name, joined) = (&*named.name, SharedWord::new());
    let reads = |sender: &'static str| {
        let joined = &joined;
        move || {
            let queue = Queue::open(name).expect("open");
            let _reader = queue.joining().sender(sender).reader().expect("a slot");
            assert_eq!(std::process::id(), 2);
            joined.raise();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    };
    let home = Home::Namespace(Proc::Outer, Number::Second);
    let (Some(doomed), Some(_other)) = (start(home, reads("doomed")), start(home, reads("other"))) else {
        return;
    };
    joined.wait_for(2);
    assert_eq!(named.queue.reap_all(), 0);
    doomed.kill();
    assert_eq!(named.queue.reap(2), 0, "number 2 of this namespace is nobody here");
    assert_eq!(named.queue.reap_all(), 1);
    let members = named.queue.members();
    let left: Vec<_> = members.iter().map(|member| (&*member.name, member.is_alive)).collect();
    assert_eq!(left, [("other", true)]);
}

#[test]
fn two_that_do_not_see_each_other_talk() {
    let _watchdog = minute();
    for home in HOMES {
        let named = named("talk", &Queue::options().capacity(4096));
        let mut here = named.queue.join("here").unwrap();
        let name = &*named.name;
        let there = start(home, || {
            let mut there = Queue::open(name).expect("open").join("there").expect("a slot");
            for number in 0..200u32 {
                there.append_pod("question", &number, Wait::Forever).unwrap();
                let answer = there.pop(Wait::Forever).unwrap().unwrap();
                assert_eq!((answer.sender(), answer.pod::<u32>().unwrap()), ("here", number + 1));
            }
            0
        });
        let Some(there) = there else { continue };
        for number in 0..200u32 {
            let question = here.pop(Wait::Forever).unwrap().unwrap();
            assert_eq!(question.pod::<u32>().unwrap(), number);
            here.append_pod("answer", &(number + 1), Wait::Forever).unwrap();
        }
        there.child.must_succeed();
        assert_eq!(named.queue.members().len(), 1, "it has left");
    }
}
