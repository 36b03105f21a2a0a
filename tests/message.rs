//! What a reader gets: names, body, numbers, time, and that owned and borrowed are the same.

mod support;

use std::time::{Duration, SystemTime};
use support::over_every_backing;
use syncq::{Error, Message, Queue, Start, Wait};

#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Reading {
    at: u64,
    celsius: f32,
    sensor: u32,
}

#[test]
fn a_plain_value_comes_back_as_it_was_sent() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let reading = Reading {
            at: u64::MAX - 1,
            celsius: 21.5,
            sensor: 7,
        };
        writer.append_pod("reading", &reading, Wait::Never).unwrap();
        writer.append_pod("array", &[1u16, 2, 3], Wait::Never).unwrap();
        writer.append_pod("nothing", &(), Wait::Never).unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(message.pod::<Reading>().unwrap(), reading);
        assert_eq!(
            message.pod::<[u8; 16]>().unwrap(),
            bytemuck::cast::<_, [u8; 16]>(reading)
        );
        match message.pod::<u64>() {
            Err(Error::WrongSize { expected: 8, found: 16 }) => {}
            other => panic!("unexpected: {other:?}"),
        }
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(message.pod::<[u16; 3]>().unwrap(), [1, 2, 3]);
        match message.pod::<Reading>() {
            Err(Error::WrongSize { expected: 16, found: 6 }) => {}
            other => panic!("unexpected: {other:?}"),
        }
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        message.pod::<()>().unwrap();
        match message.pod::<u8>() {
            Err(Error::WrongSize { expected: 1, found: 0 }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    });
}

#[test]
fn owned_and_borrowed_are_the_same_message() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut twin = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("k", b"body", Wait::Never).unwrap();
        let borrowed = reader.pop(Wait::Never).unwrap().unwrap();
        let owned: Message<'static> = twin.pop(Wait::Never).unwrap().unwrap().into_owned();
        assert_eq!(borrowed, owned);
        assert_eq!(borrowed.clone(), owned.clone().into_owned());
        assert_eq!(
            (
                borrowed.position(),
                borrowed.sequence(),
                borrowed.member(),
                borrowed.timestamp()
            ),
            (owned.position(), owned.sequence(), owned.member(), owned.timestamp())
        );
        assert_eq!(owned.body().as_ptr() as usize % 8, 0);
        // Outlives its reader and its queue's next messages.
        drop(twin);
        writer.append("k", b"else", Wait::Never).unwrap();
        assert_eq!((owned.sender(), owned.kind(), owned.body()), ("w", "k", &b"body"[..]));
        let text = format!("{owned:?}");
        assert!(text.contains("\"w\"") && text.contains("\"body\""), "{text}");
    });
}

#[test]
fn messages_are_equal_by_sender_kind_and_body_only() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        for (sender, kind, body) in [
            ("ab", "c", "d"),
            ("ab", "c", "d"),
            ("a", "bc", "d"),
            ("ab", "cd", ""),
            ("ab", "c", "e"),
            ("ab", "", "d"),
        ] {
            queue
                .writer(sender)
                .unwrap()
                .append(kind, body.as_bytes(), Wait::Never)
                .unwrap();
        }
        let all: Vec<_> = reader.drain().map(Result::unwrap).collect();
        assert_eq!(all[0], all[1], "though number and member differ");
        assert_ne!(
            (all[0].sequence(), all[0].member()),
            (all[1].sequence(), all[1].member())
        );
        for other in &all[2..] {
            assert_ne!(all[0], *other);
        }
    });
}

#[test]
fn numbers_have_no_gaps_and_positions_are_what_append_returned() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut a = queue.writer("a").unwrap();
        let mut b = queue.join("b").unwrap();
        for number in 0..500u64 {
            let body = vec![0; (number * 13 % 400) as usize];
            let position = match number % 2 {
                0 => a.append("", &body, Wait::Never).unwrap(),
                _ => b.append("", &body, Wait::Never).unwrap(),
            };
            let message = reader.pop(Wait::Never).unwrap().unwrap();
            assert_eq!((message.sequence(), message.position()), (number, position));
            assert_eq!(position % 64, 0);
            let id = if number % 2 == 0 { a.id() } else { b.id() };
            assert_eq!(message.member(), id);
            while b.pop(Wait::Never).unwrap().is_some() {}
        }
    });
}

#[test]
fn an_aborted_reservation_leaves_a_gap_and_a_shorter_commit_none() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"0", Wait::Never).unwrap();
        writer.reserve("", 10, Wait::Never).unwrap().abort();
        writer.append("", b"2", Wait::Never).unwrap();
        writer.reserve("", 1000, Wait::Never).unwrap().commit_first(1).unwrap();
        writer.append("", b"4", Wait::Never).unwrap();
        let numbers: Vec<u64> = reader.drain().map(|message| message.unwrap().sequence()).collect();
        assert_eq!(numbers, [0, 2, 3, 4]);
        assert_eq!(queue.stats().appended, 5);
    });
}

#[test]
fn members_of_one_name_and_one_slot_are_told_apart() {
    over_every_backing(&Queue::options().capacity(4096).slots(2), |queue| {
        let mut reader = queue.reader().unwrap();
        for _ in 0..3 {
            queue.writer("same").unwrap().append("", b"", Wait::Never).unwrap();
        }
        let ids: Vec<_> = reader.drain().map(|message| message.unwrap().member()).collect();
        assert!(ids.iter().all(|id| id.slot() == ids[0].slot()));
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    });
}

#[test]
fn the_time_is_there_only_where_it_was_asked_for() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        queue.writer("w").unwrap().append("", b"", Wait::Never).unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().timestamp(), None);
    });
    over_every_backing(&Queue::options().capacity(4096).timestamps(true), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let before = SystemTime::now();
        writer.append("", b"", Wait::Never).unwrap();
        writer.append_all([("", &b"1"[..]), ("", b"2")], Wait::Never).unwrap();
        writer.reserve("", 1, Wait::Never).unwrap().commit().unwrap();
        // The clock may be set back a little at any time; a test must not fail for that.
        let around = before - Duration::from_secs(60)..SystemTime::now() + Duration::from_secs(60);
        let times: Vec<_> = reader
            .drain()
            .map(|message| message.unwrap().timestamp().unwrap())
            .collect();
        assert_eq!(times.len(), 4);
        assert!(times.iter().all(|time| around.contains(time)));
        assert_eq!(times[1], times[2], "a batch is of one moment");
    });
}

#[test]
fn a_body_that_is_no_text_is_said_to_be_none_and_stays() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        writer.append("", "grüß".as_bytes(), Wait::Never).unwrap();
        writer.append("", b"a\xffb", Wait::Never).unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!((message.text().unwrap(), &*message.text_lossy()), ("grüß", "grüß"));
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!(message.text().unwrap_err().valid_up_to(), 1);
        assert_eq!(message.text_lossy(), "a\u{fffd}b");
        assert_eq!(message.body(), b"a\xffb");
    });
}

#[test]
fn names_are_text_and_bytes() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        queue
            .writer("größer")
            .unwrap()
            .append("日本", b"", Wait::Never)
            .unwrap();
        let message = reader.pop(Wait::Never).unwrap().unwrap();
        assert_eq!((message.sender(), message.kind()), ("größer", "日本"));
        assert_eq!(message.sender_bytes(), "größer".as_bytes());
        assert_eq!(message.kind_bytes(), "日本".as_bytes());
        assert!(message.body().is_empty());
    });
}

#[test]
fn a_message_says_the_same_to_every_role() {
    over_every_backing(&Queue::options().capacity(4096).timestamps(true), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut member = queue.join("m").unwrap();
        let mut observer = queue.observer().unwrap();
        queue.writer("w").unwrap().append("k", b"b", Wait::Never).unwrap();
        let mut late = queue.joining().start(Start::Oldest).reader().unwrap();
        let facts = |message: Message<'_>| {
            (
                message.position(),
                message.sequence(),
                message.timestamp(),
                message.member(),
                message.into_owned(),
            )
        };
        let first = facts(reader.pop(Wait::Never).unwrap().unwrap());
        assert_eq!(first, facts(member.pop(Wait::Never).unwrap().unwrap()));
        assert_eq!(first, facts(observer.pop(Wait::Never).unwrap().unwrap()));
        assert_eq!(first, facts(late.pop(Wait::Never).unwrap().unwrap()));
    });
}
