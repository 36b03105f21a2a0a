//! Messages filled in place: committing whole or in part, giving up, who waits for whom, and owners that die.

mod support;

use std::io::{ErrorKind, Write};
use std::time::Duration;
use support::{SharedWord, forked, over_every_backing, over_every_shared_backing};
use syncq::{Error, Queue, Reader, Wait, Writer};

fn bodies(reader: &mut Reader) -> Vec<Vec<u8>> {
    reader.drain().map(|message| message.unwrap().body().to_vec()).collect()
}

#[test]
fn every_length_can_be_reserved_and_committed_at_every_length() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("").unwrap();
        // With 32 bytes of header and no names, granules end at 32, 96, 160.
        let edges = [
            0, 1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 159, 160, 161, 1000,
        ];
        let mut sequence = 0;
        for reserved in edges {
            for committed in edges.into_iter().filter(|len| *len <= reserved) {
                let bytes: Vec<u8> = (0..reserved).map(|at| (at * 3 + committed) as u8).collect();
                let mut place = writer.reserve("", reserved, Wait::Never).unwrap();
                assert_eq!((place.len(), place.is_empty()), (reserved, reserved == 0));
                let position = place.position();
                place.write_at(0, &bytes);
                place.commit_first(committed).unwrap();
                writer.append("next", b"!", Wait::Never).unwrap();
                let message = reader.pop(Wait::Never).unwrap().unwrap();
                assert_eq!(message.body(), &bytes[..committed]);
                assert_eq!((message.position(), message.sequence()), (position, sequence));
                let next = reader.pop(Wait::Never).unwrap().unwrap();
                assert_eq!((next.kind(), next.sequence()), ("next", sequence + 1));
                sequence += 2;
                assert_eq!(queue.free(), 4096 - 64);
            }
        }
    });
}

#[test]
fn it_is_written_as_a_stream_or_anywhere_or_by_pointer() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();

        let mut place = writer.reserve("stream", 10, Wait::Never).unwrap();
        write!(place, "{}-", 42).unwrap();
        assert_eq!(place.write(b"abcdefghij").unwrap(), 7, "as much as fits");
        assert_eq!((place.write(b"x").unwrap(), place.written()), (0, 10));
        assert_eq!(place.write_all(b"x").unwrap_err().kind(), ErrorKind::WriteZero);
        place.flush().unwrap();
        place.commit_written().unwrap();

        let mut place = writer.reserve("part", 10, Wait::Never).unwrap();
        place.write_all(b"abc").unwrap();
        place.commit_written().unwrap();

        let mut place = writer.reserve("anywhere", 10, Wait::Never).unwrap();
        place.write_at(5, b"56789");
        place.write_at(0, b"01234");
        place.write_at(10, b"");
        assert_eq!(place.written(), 0);
        place.commit().unwrap();

        let mut place = writer.reserve("pointer", 9, Wait::Never).unwrap();
        assert_eq!(place.body_pointer() as usize % 8, 0);
        // SAFETY: every process on this queue is this one, and it keeps to the protocol.
        unsafe { place.body() }.copy_from_slice(b"in place!");
        place.commit().unwrap();

        let all: Vec<_> = reader
            .drain()
            .map(|message| {
                let message = message.unwrap();
                (message.kind().to_owned(), message.text().unwrap().to_owned())
            })
            .collect();
        let all: Vec<_> = all.iter().map(|(kind, text)| (&**kind, &**text)).collect();
        assert_eq!(
            all,
            [
                ("stream", "42-abcdefg"),
                ("part", "abc"),
                ("anywhere", "0123456789"),
                ("pointer", "in place!")
            ]
        );
        let info = &queue.members()[usize::from(writer.id().slot())];
        assert_eq!((info.appended, info.appended_bytes), (4, 10 + 3 + 10 + 9));
    });
}

#[test]
#[should_panic(expected = "of a reservation of 4")]
fn nothing_is_written_beyond_it() {
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut writer = queue.writer("w").unwrap();
    let mut place = writer.reserve("", 4, Wait::Never).unwrap();
    place.write_at(usize::MAX, b"ab");
}

#[test]
fn a_commit_longer_than_reserved_panics_and_aborts() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let place = writer.reserve("", 4, Wait::Never).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.commit_first(5)));
        assert!(panicked.is_err());
        writer.append("", b"next", Wait::Never).unwrap();
        assert_eq!(bodies(&mut reader), [b"next"]);
        assert_eq!(queue.free(), 4096 - 64);
    });
}

#[test]
fn a_dropped_reservation_is_passed_over() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        for number in 0..100u8 {
            let mut place = writer.reserve("", usize::from(number) * 9, Wait::Never).unwrap();
            place.write_at(0, &vec![1; usize::from(number) * 9]);
            match number % 2 {
                0 => drop(place),
                _ => place.abort(),
            }
            writer.append("", &[number], Wait::Never).unwrap();
            assert_eq!(bodies(&mut reader), [[number]]);
        }
        let info = &queue.members()[usize::from(writer.id().slot())];
        assert_eq!((info.appended, info.appended_bytes), (100, 100));
        assert_eq!(queue.stats().appended, 200);
        assert_eq!(queue.free(), 4096 - 64);
    });
}

#[test]
fn others_go_on_meanwhile_and_readers_wait_at_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        let mut second = queue.writer("second").unwrap();
        let mut other = queue.writer("other").unwrap();
        owner.append("", b"0", Wait::Never).unwrap();
        let mut first_place = owner.reserve("", 1, Wait::Never).unwrap();
        other.append("", b"2", Wait::Never).unwrap();
        let mut second_place = second.reserve("", 1, Wait::Never).unwrap();
        other.append_all([("", &b"4"[..]), ("", b"5")], Wait::Never).unwrap();
        let late = queue.reader().unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"0");
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        assert!(reader.peek(Wait::For(Duration::from_millis(5))).unwrap().is_none());
        second_place.write_at(0, b"3");
        second_place.commit().unwrap();
        assert!(reader.pop(Wait::For(Duration::from_millis(5))).unwrap().is_none());
        first_place.write_at(0, b"1");
        first_place.commit().unwrap();
        assert_eq!(bodies(&mut reader), [b"1", b"2", b"3", b"4", b"5"]);
        assert_eq!(late.lag(), 0);
    });
}

#[test]
fn a_commit_wakes_the_reader_that_waits_at_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        for round in 0..20 {
            let place = owner.reserve("", 1, Wait::Never).unwrap();
            std::thread::scope(|threads| {
                let reading = threads.spawn(|| reader.pop(Wait::Forever).unwrap().unwrap().into_owned());
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                place.commit().unwrap();
                reading.join().unwrap();
            });
        }
    });
}

#[test]
fn a_reservation_holds_room_back_until_it_is_finished() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut owner = queue.writer("owner").unwrap();
        let mut other = queue.writer("other").unwrap();
        let mut finish = |how: u8| {
            let mut place = owner.reserve("", 1000, Wait::Never).unwrap();
            place.write_at(0, &[how; 1000]);
            let full = loop {
                match other.append("", &[1; 200], Wait::Never) {
                    Ok(_) => {}
                    Err(Error::Full(full)) => break full,
                    Err(other) => panic!("unexpected: {other:?}"),
                }
            };
            let slowest = full.slowest.unwrap();
            assert_eq!((&*slowest.name, slowest.pid), ("owner", std::process::id()));
            assert_eq!(slowest.lag + full.free, 4096 - 64);
            // SAFETY: every process on this queue is this one, and it keeps to the protocol.
            assert_eq!(unsafe { place.body() }, [how; 1000], "nobody wrote there");
            match how {
                0 => place.commit().unwrap(),
                1 => place.commit_first(10).unwrap(),
                _ => drop(place),
            }
            assert_eq!(queue.free(), 4096 - 64);
            for _ in 0..30 {
                other.append("", &[1; 200], Wait::Never).unwrap();
            }
        };
        (0..3).for_each(&mut finish);
    });
}

#[test]
fn finishing_it_wakes_the_writer_that_waits_for_its_room() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut owner = queue.writer("owner").unwrap();
        let mut other = queue.writer("other").unwrap();
        for round in 0..10 {
            let place = owner.reserve("", 100, Wait::Never).unwrap();
            std::thread::scope(|threads| {
                let writing = threads.spawn(|| {
                    for _ in 0..10 {
                        other.append("", &[0; 1000], Wait::Forever).unwrap();
                    }
                });
                while other_is_not_held_back(queue) {
                    std::thread::yield_now();
                }
                match round % 2 {
                    0 => place.commit().unwrap(),
                    _ => place.abort(),
                }
                writing.join().unwrap();
            });
        }
    });

    fn other_is_not_held_back(queue: &Queue) -> bool {
        queue.free() >= 1088
    }
}

/// A child that holds an open reservation, with a message behind it.
fn owner_with_reservation(queue: &Queue, reserved: &SharedWord) -> support::Child {
    let child = forked(|| {
        let mut owner = queue.writer("owner").unwrap();
        let mut other = queue.writer("other").unwrap();
        let mut place = owner.reserve("", 100, Wait::Never).unwrap();
        place.write_at(0, &[1; 50]);
        other.append("", b"behind", Wait::Never).unwrap();
        reserved.raise();
        std::thread::sleep(Duration::from_secs(100));
        drop(place);
        1
    });
    reserved.wait_for(1);
    child
}

#[test]
fn the_reservation_of_a_killed_process_is_passed_over() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let child = owner_with_reservation(queue, &SharedWord::new());
        assert!(reader.pop(Wait::For(Duration::from_millis(5))).unwrap().is_none());
        child.kill_unreaped();
        let message = reader.pop(Wait::Forever).unwrap().unwrap();
        assert_eq!((message.body(), message.sequence()), (&b"behind"[..], 1));
    });
}

#[test]
fn a_reader_that_only_polls_passes_over_the_reservation_of_the_dead_too() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let child = owner_with_reservation(queue, &SharedWord::new());
        child.kill_unreaped();
        let is_there = (0..1000).any(|_| reader.pop(Wait::Never).unwrap().is_some());
        assert!(is_there, "looked a thousand times");
    });
}

#[test]
fn the_room_of_a_killed_owner_comes_back() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut writer = queue.writer("w").unwrap();
        let child = owner_with_reservation(queue, &SharedWord::new());
        let full = loop {
            match writer.append("", &[0; 200], Wait::Never) {
                Ok(_) => {}
                Err(Error::Full(full)) => break full,
                Err(other) => panic!("unexpected: {other:?}"),
            }
        };
        assert_eq!(full.slowest.unwrap().pid, child.pid.as_raw() as u32);
        child.kill_unreaped();
        writer.append("", &[0; 3000], Wait::Never).unwrap();
    });
}

#[test]
fn a_living_owner_is_waited_for_however_long_it_takes() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let (reserved, go_on) = (SharedWord::new(), SharedWord::new());
        let mut reader = queue.reader().unwrap();
        let child = forked(|| {
            let mut owner = queue.writer("owner").unwrap();
            let mut place = owner.reserve("", 3, Wait::Never).unwrap();
            reserved.raise();
            go_on.wait_for(1);
            place.write_at(0, b"yes");
            place.commit().unwrap();
            0
        });
        reserved.wait_for(1);
        child.signal(nix::sys::signal::Signal::SIGSTOP);
        assert!(reader.pop(Wait::For(Duration::from_millis(150))).unwrap().is_none());
        assert_eq!(queue.reap_all(), 0);
        go_on.raise();
        child.signal(nix::sys::signal::Signal::SIGCONT);
        assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"yes");
        child.must_succeed();
    });
}

#[test]
fn a_forgotten_reservation_is_given_up_by_the_next() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        std::mem::forget(owner.reserve("", 10, Wait::Never).unwrap());
        owner.reserve("", 1, Wait::Never).unwrap().commit().unwrap();
        assert_eq!(reader.drain().map(Result::unwrap).count(), 1);
        // And by leaving.
        std::mem::forget(owner.reserve("", 10, Wait::Never).unwrap());
        drop(owner);
        queue.writer("w").unwrap().append("", b"next", Wait::Never).unwrap();
        assert_eq!(
            reader.pop(Wait::For(Duration::from_secs(5))).unwrap().unwrap().body(),
            b"next"
        );
    });
}

/// A writer that has been alone for so long that it need not tell anybody of what it reserves, and a reader that has read all.
fn long_alone(queue: &Queue, name: &str) -> (Writer, Reader) {
    let mut reader = queue.reader().unwrap();
    let mut writer = queue.writer(name).unwrap();
    for _ in 0..24 {
        writer.append("", b"before", Wait::Never).unwrap();
        assert_eq!(bodies(&mut reader), [b"before"]);
    }
    (writer, reader)
}

/// Bytes that are reserved and unannounced: an observer begins in front of these, and behind others.
fn unannounced(queue: &Queue) -> u64 {
    queue.observer().unwrap().lag()
}

#[test]
fn an_unannounced_reservation_comes_before_what_others_append() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        let mut other = queue.writer("other").unwrap();
        for how in 0..4 {
            let (mut owner, mut reader) = long_alone(queue, "owner");
            let mut place = owner.reserve("", 300, Wait::Never).unwrap();
            place.write_at(0, &[0xff; 300]);
            let position = place.position();
            assert_eq!(unannounced(queue), 384);
            let behind = other.append("", b"behind", Wait::Never).unwrap();
            assert_eq!(behind, position + 384);
            assert_eq!(bodies(&mut reader), [b""; 0], "readers wait at it");
            match how {
                0 => place.commit().unwrap(),
                1 => place.commit_first(2).unwrap(),
                2 => drop(place),
                _ => {
                    queue.evict(owner_of(queue)).unwrap();
                    assert!(matches!(place.commit(), Err(Error::Evicted { .. })));
                }
            }
            let all = bodies(&mut reader);
            let own: &[&[u8]] = match how {
                0 => &[&[0xff; 300], b"behind"],
                1 => &[&[0xff; 2], b"behind"],
                _ => &[b"behind"],
            };
            assert_eq!(all, own);
            assert_eq!(queue.free(), queue.capacity() - 64);
        }
    });
}

fn owner_of(queue: &Queue) -> syncq::MemberId {
    let members = queue.members();
    members.iter().find(|member| member.name == "owner").unwrap().id
}

#[test]
fn an_eviction_ends_an_unannounced_reservation() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        let mut other = queue.writer("other").unwrap();
        let (mut owner, mut reader) = long_alone(queue, "owner");
        let mut place = owner.reserve("", 300, Wait::Never).unwrap();
        assert_eq!(unannounced(queue), 384);
        queue.evict(owner_of(queue)).unwrap();
        // The evicted one may still be writing there.
        let behind = other.append("", b"behind", Wait::Never).unwrap();
        assert_eq!(behind, place.position() + 384);
        assert_eq!(bodies(&mut reader), [b"behind"]);
        place.write_at(0, &[0xff; 300]);
        assert!(matches!(place.commit(), Err(Error::Evicted { .. })));
        other.append("", b"next", Wait::Never).unwrap();
        assert_eq!(bodies(&mut reader), [b"next"]);
        assert_eq!(queue.free(), queue.capacity() - 64);
    });
}

#[test]
fn a_forgotten_unannounced_reservation_is_in_nobodys_way() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        for how in 0..4 {
            let (mut owner, mut reader) = long_alone(queue, "owner");
            let mut place = owner.reserve("", 300, Wait::Never).unwrap();
            // What lies there then must not be taken for the beginning of anything.
            place.write_at(0, &[0xff; 300]);
            assert_eq!(unannounced(queue), 384);
            std::mem::forget(place);
            match how {
                0 => {
                    owner.append("", b"next", Wait::Never).unwrap();
                }
                1 => owner.append_all([("", &b"next"[..])], Wait::Never).unwrap(),
                2 => owner.reserve("", 4, Wait::Never).unwrap().commit().unwrap(),
                _ => drop(owner),
            }
            assert_eq!(reader.drain().map(Result::unwrap).count(), usize::from(how < 3));
            queue.writer("other").unwrap().append("", b"next", Wait::Never).unwrap();
            assert_eq!(bodies(&mut reader), [b"next"]);
        }
        assert_eq!(queue.free(), queue.capacity() - 64);
    });
}

#[test]
fn an_observer_that_came_meanwhile_sees_what_became_of_it() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        for is_committed in [true, false] {
            let (mut owner, _reader) = long_alone(queue, "owner");
            let place = owner.reserve("", 40, Wait::Never).unwrap();
            let mut observer = queue.observer().unwrap();
            assert_eq!(observer.lag(), 128);
            match is_committed {
                true => place.commit().unwrap(),
                // Unannounced, so it is as if it had never been.
                false => std::mem::forget(place),
            }
            drop(owner);
            let mut other = queue.writer("other").unwrap();
            other.append("", &[0xff; 300], Wait::Never).unwrap();
            let mut pop = || observer.pop(Wait::Never).unwrap().unwrap().body().len();
            assert!(!is_committed || pop() == 40);
            assert_eq!(pop(), 300);
        }
    });
}

#[test]
fn a_child_cannot_touch_an_inherited_reservation() {
    over_every_shared_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut owner = queue.writer("owner").unwrap();
        for how in 0..3 {
            let mut place = Some(owner.reserve("", 4, Wait::Never).unwrap());
            place.as_mut().unwrap().write_at(0, b"mine");
            forked(|| {
                let mut place = place.take().unwrap();
                match how {
                    0 => assert!(matches!(place.commit(), Err(Error::Forked { .. }))),
                    1 => drop(place),
                    _ => assert!(place.write(b"ours").is_err(), "it is the parent's"),
                }
                0
            })
            .must_succeed();
            assert!(reader.pop(Wait::Never).unwrap().is_none());
            place.unwrap().commit().unwrap();
            assert_eq!(bodies(&mut reader), [b"mine"]);
        }
    });
}
