//! What can be asked about a queue from outside: who takes part, what they run, who is in the middle of an append.

mod support;

use support::{Child, SharedWord, forked, minute, named};
use syncq::{MemberInfo, Observer, Queue, QueueOptions, Start, Wait};

fn look(name: &str) -> Observer {
    QueueOptions::new().observe(name, Start::Now).expect("it is there")
}

fn member(name: &str, of: &Child) -> MemberInfo {
    let pid = of.pid.as_raw() as u32;
    let mut members = look(name).members();
    members.retain(|member| member.pid == pid);
    members.pop().expect("it joined")
}

#[test]
fn a_member_is_shown_with_its_command_until_it_is_dead() {
    let _watchdog = minute();
    let named = named("command", &Queue::options());
    let is_in = SharedWord::new();
    let child = forked(|| {
        let _me = named.queue.join("child").expect("there is a slot");
        is_in.raise();
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    is_in.wait_for(1);
    let alive = member(&named.name, &child);
    let mine = std::env::args().collect::<Vec<_>>().join(" ");
    assert_eq!(
        alive.command().as_deref(),
        Some(mine.as_str()),
        "a fork runs what its parent runs"
    );
    child.kill_unreaped();
    assert_eq!(alive.command(), None, "a zombie runs nothing");
    assert_eq!(member(&named.name, &child).command(), None);
    assert!(!member(&named.name, &child).is_alive);
    child.kill();
    assert_eq!(alive.command(), None);
}

#[test]
fn who_is_stopped_in_the_middle_of_an_append_is_named_at_an_unmoved_position() {
    let _watchdog = minute();
    let named = named("stuck", &Queue::options().capacity(1 << 16));
    let is_in = SharedWord::new();
    let child = forked(|| {
        let mut me = named.queue.writer("stuck").expect("there is a slot");
        is_in.raise();
        loop {
            me.append("kind", &[7; 20_000], Wait::Forever).expect("nobody reads");
        }
    });
    is_in.wait_for(1);
    let observer = look(&named.name);
    let pid = child.pid.as_raw() as u32;
    // Stopped at a random instruction: sooner or later it is one in the middle of an append.
    let (stats, member) = loop {
        child.signal(nix::sys::signal::Signal::SIGSTOP);
        std::thread::sleep(std::time::Duration::from_millis(2));
        let stats = observer.stats();
        if let Some(writer) = stats.writer {
            break (stats, writer);
        }
        child.signal(nix::sys::signal::Signal::SIGCONT);
        std::thread::sleep(std::time::Duration::from_micros(300));
    };
    assert_eq!(stats.writing, Some(pid));
    assert_eq!(
        observer.members().iter().find(|m| m.pid == pid).map(|m| m.id),
        Some(member)
    );
    for _ in 0..5 {
        let again = observer.stats();
        assert_eq!((again.writer, again.position), (Some(member), stats.position));
    }
    child.signal(nix::sys::signal::Signal::SIGCONT);
    support::eventually("it goes on", || observer.stats().position != stats.position);
    child.kill();
}

#[test]
fn an_observer_knows_whether_its_queue_still_has_its_name() {
    let _watchdog = minute();
    let named = named("current", &Queue::options());
    let observer = look(&named.name);
    assert!(observer.is_current());
    named.queue.unlink().expect("it has a name");
    assert!(!observer.is_current());
    let _second = Queue::options().create(&named.name).expect("the name is free");
    assert!(!observer.is_current(), "another queue of that name is not this one");
}
