//! Who is a member and what it gets to hear: joining and leaving, names and options, screens, and children that inherit a
//! membership. How long calls wait is in `waits`.

use super::support::{SharedWord, forked, minute, named, over_every_backing, over_every_shared_backing, unique};
use super::{SOON, Triple, body, pop, small, triple};
use syncq::{Error, Member, Queue, Result, Wait};

/// 1.3: defaults and empty parts.
#[test]
fn the_sender_is_the_process_number_by_default_and_every_part_may_be_empty() {
    over_every_shared_backing(&small(), |queue| {
        let mut parent = queue.joining().member().unwrap();
        assert_eq!(parent.sender(), std::process::id().to_string());
        let child = forked(|| {
            let mut child = queue.joining().member().unwrap();
            child.append("", b"", Wait::Never).unwrap();
            0
        });
        let pid = child.pid.to_string();
        child.must_succeed();
        assert_eq!(pop(&mut parent), Some((pid, String::new(), vec![])));
        let mut nameless = queue.join("").unwrap();
        nameless.append("", b"", Wait::Never).unwrap();
        assert_eq!(
            pop(&mut parent),
            Some(Triple::default()),
            "an empty message is a message"
        );
        assert_eq!(pop(&mut parent), None);
    });
}

/// 1.4 and 1.6: with nobody reading, messages are owed to nobody and poison nothing.
#[test]
fn appending_with_nobody_registered_keeps_no_room_and_harms_no_later_reader() {
    over_every_backing(&small(), |queue| {
        let mut writer = queue.writer("w").unwrap();
        for _ in 0..500 {
            writer.append("early", &[9; 100], Wait::Never).unwrap();
        }
        let mut member = queue.join("m").unwrap();
        assert_eq!(pop(&mut member), None);
        writer.append("late", b"", Wait::Never).unwrap();
        assert_eq!(pop(&mut member).unwrap().1, "late");
    });
}

/// 1.5: leaving has no order to keep, and handles do not need each other.
#[test]
fn handles_can_be_dropped_in_any_order() {
    let _watchdog = minute();
    let queue = small().anonymous().unwrap();
    let (mut a, b) = (queue.join("a").unwrap(), queue.join("b").unwrap());
    let mut c = queue.clone().join("c").unwrap();
    drop(queue);
    drop(b);
    a.append("", b"on", Wait::Never).unwrap();
    assert_eq!(body(&mut c).as_deref(), Some("on"));
}

/// 1.8: screens.
#[test]
fn screens_act_at_pop_and_can_be_changed_at_any_time() {
    over_every_backing(&small(), |queue| {
        let (mut a, mut b, mut me) = (
            queue.join("a").unwrap(),
            queue.join("b").unwrap(),
            queue.join("me").unwrap(),
        );
        let mut say = |kind: &str, body: &str| {
            a.append(kind, body.as_bytes(), Wait::Never).unwrap();
            b.append(kind, body.as_bytes(), Wait::Never).unwrap();
            a.drain().chain(b.drain()).for_each(drop);
        };
        let senders = |me: &mut Member| me.drain().map(|m| m.unwrap().sender().to_owned()).collect::<Vec<_>>();
        // On messages that are in the ring already.
        say("x", "1");
        me.screen().add_sender("a");
        assert_eq!(senders(&mut me), ["b"]);
        // Sender or kind: either is enough.
        say("y", "2");
        me.screen().add_kind("y");
        assert_eq!(senders(&mut me), [""; 0]);
        // Removing works, also for messages that came while they were screened.
        say("y", "3");
        me.screen().remove_kind("y").remove_sender("a");
        assert_eq!(senders(&mut me), ["a", "b"]);
        // Exactly, byte by byte: no prefixes, no patterns, the empty name is a name like others.
        me.screen().add_kind("").add_kind("xx").add_kind("*").add_sender("A");
        say("x", "4");
        say("", "5");
        assert_eq!(senders(&mut me), ["a", "b"]);
        assert!(me.screen().has_kind("") && me.screen().has_sender(b"A") && !me.screen().has_kind("x"));
        // Whole screens can be put in place.
        *me.screen() = Default::default();
        say("", "6");
        assert_eq!(senders(&mut me), ["a", "b"]);
    });
}

/// 1.8: a screen is one member's own, and its messages stay its debt until it pops.
#[test]
fn a_screen_takes_nothing_from_others_and_owes_until_the_pop() {
    over_every_backing(&small(), |queue| {
        let all = queue.free();
        let (mut a, mut deaf, mut b) = (
            queue.join("a").unwrap(),
            queue.join("deaf").unwrap(),
            queue.join("b").unwrap(),
        );
        deaf.screen().add_sender("a");
        a.append("", b"1", Wait::Never).unwrap();
        assert_eq!(body(&mut b).as_deref(), Some("1"));
        assert_eq!(pop(&mut a), None);
        assert!(queue.free() < all);
        assert_eq!(pop(&mut deaf), None);
        assert_eq!(queue.free(), all);
    });
}

/// 1.8 (PySyncQ: by name, so members of one name are deaf to each other), and 1.9.
#[test]
fn the_self_filter_goes_by_identity_and_can_be_switched() {
    over_every_backing(&small(), |queue| {
        let (mut one, mut two) = (queue.join("same").unwrap(), queue.join("same").unwrap());
        one.append("", b"from one", Wait::Never).unwrap();
        two.append("", b"from two", Wait::Never).unwrap();
        assert_eq!(
            (body(&mut one), body(&mut two)),
            (Some("from two".into()), Some("from one".into()))
        );
        assert_eq!((pop(&mut one), pop(&mut two)), (None, None));
        // Whoever comes into a slot later is not who was there before.
        two.append("", b"farewell", Wait::Never).unwrap();
        one.append("", b"to three", Wait::Never).unwrap();
        drop(two);
        let mut three = queue.join("same").unwrap();
        assert_eq!(body(&mut one).as_deref(), Some("farewell"));
        // filtself=False: its own messages too, in their place.
        one.screen().hear_own(true);
        one.append("", b"mine", Wait::Never).unwrap();
        three.append("", b"yours", Wait::Never).unwrap();
        assert_eq!(body(&mut one).as_deref(), Some("to three"), "at pop, as every screen");
        assert_eq!(body(&mut one).as_deref(), Some("mine"));
        assert_eq!(body(&mut one).as_deref(), Some("yours"));
    });
}

/// 1.8, last: a child that joins for itself inherits no screen against its parent.
#[test]
fn a_child_forked_after_the_parent_joined_hears_the_parent() {
    over_every_shared_backing(&small(), |queue| {
        let mut parent = queue.join("parent").unwrap();
        let joined = SharedWord::new();
        let child = forked(|| {
            let mut child = queue.join("child").unwrap();
            joined.raise();
            let heard = child.pop(SOON).unwrap().map(triple).unwrap();
            assert_eq!(heard, ("parent".into(), "hello".into(), vec![]));
            0
        });
        joined.wait_for(1);
        parent.append("hello", b"", Wait::Never).unwrap();
        child.must_succeed();
    });
}

/// 1.12, last (PySyncQ: it pops for the parent, and a third process loses its message).
#[test]
fn a_child_that_does_not_join_cannot_disturb_its_parents_membership() {
    over_every_shared_backing(&small(), |queue| {
        let all = queue.free();
        let (mut parent, mut third) = (queue.join("parent").unwrap(), queue.join("third").unwrap());
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"for both", Wait::Never).unwrap();
        let forked_error = |error: Option<Error>| assert!(matches!(error, Some(Error::Forked { .. })), "{error:?}");
        // Drops the inherited handles in the child, as a child that runs to its end does.
        let mut inherited = Some((parent, queue.clone()));
        forked(|| {
            let (mut parent, queue) = inherited.take().unwrap();
            forked_error(parent.pop(Wait::Never).err());
            forked_error(parent.peek(Wait::Never).err());
            forked_error(parent.append("", b"", Wait::Never).err());
            drop((parent, queue));
            0
        })
        .must_succeed();
        parent = inherited.take().unwrap().0;
        assert_eq!(queue.members().len(), 3);
        assert_eq!(body(&mut parent).as_deref(), Some("for both"));
        assert_eq!(body(&mut third).as_deref(), Some("for both"));
        assert_eq!(queue.free(), all);
        parent.append("", b"still a member", Wait::Never).unwrap();
        assert_eq!(body(&mut third).as_deref(), Some("still a member"));
    });
}

/// 1.10: sizes and names that cannot be, and nothing is left behind by them.
#[test]
fn impossible_sizes_and_names_are_refused_and_leave_nothing() {
    let _watchdog = minute();
    let name = unique("odd");
    for size in [
        0,
        1,
        39,
        40,
        57,
        4095,
        4097,
        5_242_880,
        (1 << 40) + 1,
        1 << 62,
        u64::MAX,
    ] {
        let refused = Queue::options().capacity(size).create(&name);
        assert!(
            matches!(refused, Err(Error::InvalidOption { .. })),
            "{size}: {refused:?}"
        );
        assert!(!Queue::names().unwrap().contains(&name));
    }
    for name in ["", "a/b", ".", "..", "nul\0", &"n".repeat(300)] {
        let refused = small().create(name);
        assert!(
            matches!(refused, Err(Error::InvalidName { .. })),
            "{name:?}: {refused:?}"
        );
    }
    assert!(matches!(Queue::open(&name), Err(Error::NotFound { .. })));
    let named = named("odd", &small());
    assert!(matches!(small().create(&named.name), Err(Error::AlreadyExists { .. })));
    let too_long = |result: Result<()>| assert!(matches!(result, Err(Error::TooLong { .. })), "{result:?}");
    too_long(named.queue.join(&"s".repeat(65)).map(drop));
    let mut member = named.queue.join(&"s".repeat(64)).unwrap();
    too_long(member.append(&"k".repeat(256), b"", Wait::Never).map(drop));
    member.append(&"k".repeat(255), b"", Wait::Never).unwrap();
}

/// 1.11 (PySyncQ: the options given must fit, and the live queue is zeroed).
#[test]
fn opening_changes_nothing_whatever_options_it_is_given() {
    let _watchdog = minute();
    let named = named("open", &small());
    let (mut a, mut b) = (named.queue.join("a").unwrap(), named.queue.join("b").unwrap());
    a.append("", b"in the ring", Wait::Never).unwrap();
    let other = Queue::options().capacity(1 << 16).slots(3).open(&named.name).unwrap();
    assert_eq!(other.capacity(), 4096);
    drop(other.join("guest").unwrap());
    drop(other);
    assert!(named.queue.is_current());
    assert_eq!(body(&mut b).as_deref(), Some("in the ring"));
}
