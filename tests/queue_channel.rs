//! Queues as channels, and the doorbells that make them pollable.

mod channel_kinds;
mod support;

use channel_kinds::{MOMENT, SOON, processor_time, queues};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use support::{SharedWord, forked, minute, named, over_every_backing, over_every_shared_backing};
use syncq::channel::{
    Buffering, Channel, ChannelError, Input, Interest, Marks, Poller, QueueChannel, SocketChannel, What,
};
use syncq::{Doorbell, Error, Queue, QueueOptions, Wait};

/// Waits until the descriptor is ready. For tests of the doorbell alone.
fn is_ready(bell: &Doorbell, interest: Interest, wait: impl Into<Wait>) -> bool {
    let mut poller = Poller::new().unwrap();
    poller.watch(bell.as_fd().try_clone_to_owned().unwrap(), interest);
    !poller.poll(wait).unwrap().is_empty()
}

#[test]
fn a_doorbell_rings_for_a_message_and_only_then() {
    over_every_backing(&QueueOptions::new(), |queue| {
        let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("w").unwrap());
        let mut bell = Doorbell::readable().unwrap();
        for n in 0..5u32 {
            assert!(reader.arm_to_read(&mut bell).unwrap());
            assert!(!is_ready(&bell, Interest::READ, MOMENT));
            writer.append_pod("n", &n, Wait::Never).unwrap();
            assert!(is_ready(&bell, Interest::READ, SOON));
            // It stays ready until it is armed again, which is no use while there is a message.
            assert!(!reader.arm_to_read(&mut bell).unwrap());
            assert!(is_ready(&bell, Interest::READ, Wait::Never));
            assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().pod::<u32>().unwrap(), n);
        }
        assert!(reader.arm_to_read(&mut bell).unwrap());
        bell.disarm();
        writer.append("n", b"unheard", Wait::Never).unwrap();
        assert!(!is_ready(&bell, Interest::READ, MOMENT));
        assert!(!reader.arm_to_read(&mut bell).unwrap());
    });
}

#[test]
fn a_doorbell_rings_for_room_and_only_then() {
    over_every_backing(&QueueOptions::new().capacity(4096), |queue| {
        let (mut reader, mut writer) = (queue.reader().unwrap(), queue.writer("w").unwrap());
        let mut bell = Doorbell::writable().unwrap();
        assert!(!writer.arm_to_write(&mut bell, "k", 1000).unwrap(), "there is room");
        while writer.append("k", &[0; 1000], Wait::Never).is_ok() {}
        for _ in 0..3 {
            assert!(writer.arm_to_write(&mut bell, "k", 1000).unwrap());
            assert!(!is_ready(&bell, Interest::WRITE, MOMENT));
            reader.pop(Wait::Never).unwrap().unwrap();
            assert!(is_ready(&bell, Interest::WRITE, SOON));
            writer.append("k", &[0; 1000], Wait::Never).unwrap();
        }
        let too_large = writer.arm_to_write(&mut bell, "k", 5000);
        assert!(matches!(too_large, Err(Error::TooLarge { .. })));
    });
}

#[test]
fn a_doorbell_rings_for_messages_of_other_processes_and_for_the_room_they_make() {
    over_every_shared_backing(&QueueOptions::new().capacity(1 << 16), |queue| {
        let mut here = QueueChannel::new(queue.reader().unwrap(), queue.writer("here").unwrap()).unwrap();
        here.set_marks(Marks::up_to(1 << 20));
        let child = forked(|| {
            let mut there = QueueChannel::of_member(queue.join("there").unwrap()).unwrap();
            for n in 0..2000u32 {
                std::thread::sleep(Duration::from_micros(u64::from(n % 3) * 50));
                there.write(&n.to_ne_bytes(), SOON).unwrap();
                if n % 100 == 0 {
                    assert!(there.flush(SOON).unwrap());
                }
                while let Input::Data(_) = there.try_read().unwrap() {}
            }
            i32::from(!there.finish(SOON).unwrap())
        });
        let mut poller = Poller::new().unwrap();
        let token = poller.register(here);
        let mut next = 0u32;
        'all: loop {
            for event in poller.poll(SOON).unwrap() {
                match event.what {
                    What::Data(bytes) => {
                        // It hears its own writer too, which is another member.
                        if bytes == next.to_ne_bytes() {
                            next += 1;
                            // More than there is room for at times: the member there is in no hurry to read.
                            let _ = poller.channel(token).unwrap().write(&[0; 1000], Wait::Never);
                        }
                    }
                    What::End => break 'all,
                    What::Drained => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(next, 2000);
        child.must_succeed();
    });
}

#[test]
fn a_queue_waits_beside_a_socket_in_one_poller() {
    let _watchdog = minute();
    let (here, mut there) = queues(1 << 16);
    let (socket, mut peer) = SocketChannel::pair().unwrap();
    let mut poller = Poller::new().unwrap();
    let queue = poller.register(here);
    let socket = poller.register(socket);
    for n in 0..200u32 {
        let bytes = n.to_ne_bytes();
        let from = if n % 2 == 0 { queue } else { socket };
        match n % 2 {
            0 => there.write(&bytes, SOON).unwrap(),
            _ => peer.write(&bytes, SOON).unwrap(),
        }
        let events = poller.poll(SOON).unwrap();
        assert!(
            matches!(&events[..], [event] if event.source == from && matches!(&event.what, What::Data(data) if *data == bytes))
        );
    }
    let start = processor_time();
    assert!(poller.poll(Duration::from_millis(200)).unwrap().is_empty());
    assert!(processor_time() - start < MOMENT, "an idle queue keeps the poller busy");
}

#[test]
fn messages_keep_their_borders_empty_ones_too() {
    let _watchdog = minute();
    let (mut here, mut there) = queues(1 << 16);
    for body in [&b"one"[..], b"", b"two\nlines\n", b"\0"] {
        there.write(body, Wait::Never).unwrap();
    }
    for body in [&b"one"[..], b"", b"two\nlines\n", b"\0"] {
        assert_eq!(here.read(Wait::Never).unwrap(), Input::Data(body.to_vec()));
    }
    // Also those that had to wait for room.
    there.set_marks(Marks::up_to(1 << 20));
    for n in 0..5000u32 {
        there.write(&n.to_ne_bytes()[..n as usize % 5], Wait::Never).unwrap();
    }
    assert!(there.queued() > 0);
    for n in 0..5000u32 {
        let input = match here.try_read().unwrap() {
            Input::Pending => {
                there.try_flush().unwrap();
                here.try_read().unwrap()
            }
            input => input,
        };
        assert_eq!(
            input,
            Input::Data(n.to_ne_bytes()[..n as usize % 5].to_vec()),
            "message {n}"
        );
    }
}

#[test]
fn what_can_never_fit_is_refused_at_once_also_behind_others() {
    let _watchdog = minute();
    let (_here, mut there) = queues(4096);
    let refused = |there: &mut QueueChannel| {
        let refused = there.write(&[0; 5000], SOON);
        assert!(
            matches!(refused, Err(ChannelError::Queue(Error::TooLarge { .. }))),
            "{refused:?}"
        );
    };
    refused(&mut there);
    while there.queued() == 0 {
        there.write(&[0; 500], Wait::Never).unwrap();
    }
    refused(&mut there);
    let mut long_kind = {
        let queue = Queue::options().heap().unwrap();
        QueueChannel::writing(queue.writer("w").unwrap())
            .unwrap()
            .with_kind(&"k".repeat(1000))
    };
    assert!(matches!(
        long_kind.write(b"x", SOON),
        Err(ChannelError::Queue(Error::TooLong { .. }))
    ));
}

#[test]
fn as_many_ends_as_writers_end_a_channel_and_other_kinds_of_end_do_not() {
    let _watchdog = minute();
    let queue = Queue::options().heap().unwrap();
    let reading = || QueueChannel::reading(queue.reader().unwrap()).unwrap();
    let writing = || QueueChannel::writing(queue.writer("w").unwrap()).unwrap();
    let (mut one, mut two) = (reading(), reading().with_writers(2));
    let (mut never, mut own) = (reading().with_end_kind(None), reading().with_end_kind(Some("own")));
    drop(writing());
    assert_eq!(one.read(Wait::Never).unwrap(), Input::End);
    assert_eq!(two.read(Wait::Never).unwrap(), Input::Pending);
    let mut last = writing();
    last.write(b"last", Wait::Never).unwrap();
    last.shutdown_write().unwrap();
    assert_eq!(two.read(Wait::Never).unwrap().bytes(), b"last");
    assert_eq!(two.read(Wait::Never).unwrap(), Input::End);
    assert_eq!(one.read(Wait::Never).unwrap(), Input::End);
    drop(last);
    for channel in [&mut never, &mut own] {
        for body in [&b""[..], b"last", b""] {
            assert_eq!(
                channel.read(Wait::Never).unwrap(),
                Input::Data(body.to_vec()),
                "an end was appended twice"
            );
        }
        assert_eq!(channel.read(Wait::Never).unwrap(), Input::Pending);
    }
    drop(writing().with_end_kind(Some("own")));
    assert_eq!(own.read(Wait::Never).unwrap(), Input::End);
    drop(writing().with_end_kind(None));
    assert!(
        matches!(never.read(Wait::Never).unwrap(), Input::Data(_)),
        "the kind of another's end is nothing special"
    );
    assert_eq!(never.read(Wait::Never).unwrap(), Input::Pending);
}

#[test]
fn roles_go_in_and_come_out_with_what_was_between() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut reading = QueueChannel::reading(queue.reader().unwrap())
        .unwrap()
        .with_buffering(Buffering::lines());
    let mut writing = QueueChannel::writing(queue.writer("w").unwrap()).unwrap();
    writing.write(b"one\ntwo\nthr", Wait::Never).unwrap();
    assert_eq!(reading.read(Wait::Never).unwrap().bytes(), b"one\n");
    while writing.queued() == 0 {
        writing.write(b"filling", Wait::Never).unwrap();
    }
    let parts = writing.into_inner();
    assert_eq!(parts.unwritten, [b"filling".to_vec()]);
    assert!(parts.writer.is_some() && parts.reader.is_none() && parts.member.is_none());
    let parts = reading.into_inner();
    assert_eq!(parts.unread, [b"two\n".to_vec(), b"thr".to_vec()]);
    assert_eq!(
        parts.reader.unwrap().pop(Wait::Never).unwrap().unwrap().body(),
        b"filling"
    );
    let member = QueueChannel::of_member(queue.join("m").unwrap())
        .unwrap()
        .into_inner()
        .member
        .unwrap();
    assert_eq!(member.sender(), "m");
    // Taking a channel apart is no end.
    assert!(queue.stats().appended < 100);
}

#[test]
fn a_queue_that_is_unlinked_goes_on_and_one_whose_member_is_evicted_says_so_alone() {
    let _watchdog = minute();
    let named = named("channel", &QueueOptions::new().capacity(1 << 16));
    let queue = &named.queue;
    let reader = queue.reader().unwrap();
    let id = reader.id();
    let mut poller = Poller::new().unwrap();
    let evicted = poller.register(QueueChannel::reading(reader).unwrap());
    let stays = poller.register(QueueChannel::reading(queue.reader().unwrap()).unwrap());
    let mut writer = QueueChannel::writing(queue.writer("w").unwrap()).unwrap();
    assert!(poller.poll(Wait::Never).unwrap().is_empty());
    queue.unlink().unwrap();
    writer.write(b"still", SOON).unwrap();
    let mut seen = 0;
    while seen < 2 {
        for event in poller.poll(SOON).unwrap() {
            assert!(matches!(&event.what, What::Data(data) if data == b"still"));
            seen += 1;
        }
    }
    queue.evict(id).unwrap();
    // Nobody rings for that, so it takes a moment.
    let events = poller.poll(SOON).unwrap();
    assert!(
        matches!(&events[..], [event] if event.source == evicted && matches!(&event.what, What::Error(ChannelError::Queue(Error::Evicted { .. })))),
        "{events:?}"
    );
    writer.write(b"to the other", SOON).unwrap();
    let events = poller.poll(SOON).unwrap();
    assert!(matches!(&events[..], [event] if event.source == stays), "{events:?}");
    assert!(poller.poll(MOMENT).unwrap().is_empty());
}

#[test]
fn a_queue_whose_bytes_are_broken_is_an_error_of_that_source_alone() {
    use std::os::unix::fs::FileExt;
    let _watchdog = minute();
    let folder = support::folder("channel-corrupt");
    let path = folder.0.join("ring");
    let queue = Queue::options().capacity(4096).create_at(&path).unwrap();
    let mut poller = Poller::new().unwrap();
    let broken = poller.register(QueueChannel::reading(queue.reader().unwrap()).unwrap());
    let (here, mut there) = queues(4096);
    let whole = poller.register(here);
    assert!(poller.poll(Wait::Never).unwrap().is_empty());
    // All of the ring but the control part: heads that nobody has written.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(&[0xA5; 4096], len - 4096).unwrap();
    there.write(b"whole", Wait::Never).unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        poller.poll_into(&mut told, SOON).unwrap();
    }
    for event in &told {
        match &event.what {
            What::Error(ChannelError::Queue(Error::Corrupt { .. })) => assert_eq!(event.source, broken),
            What::Data(data) => assert_eq!((event.source, &data[..]), (whole, &b"whole"[..])),
            other => panic!("{other:?}"),
        }
    }
    assert!(poller.poll(MOMENT).unwrap().is_empty(), "it is told once");
}

#[test]
fn a_lossy_queue_says_how_much_was_missed_and_goes_on() {
    let _watchdog = minute();
    let queue = Queue::options()
        .capacity(4096)
        .overflow(syncq::Overflow::Lossy)
        .heap()
        .unwrap();
    let mut poller = Poller::new().unwrap();
    poller.register(QueueChannel::reading(queue.reader().unwrap()).unwrap());
    let mut writer = QueueChannel::writing(queue.writer("w").unwrap()).unwrap();
    for n in 0..1000u32 {
        writer.write(&n.to_ne_bytes(), Wait::Never).unwrap();
    }
    writer.shutdown_write().unwrap();
    let (mut missed_by, mut got, mut is_over) = (0, 0, false);
    while !is_over {
        for event in poller.poll(SOON).unwrap() {
            match event.what {
                What::Error(ChannelError::Queue(Error::Lagged { missed })) => missed_by += missed,
                What::Data(_) => got += 1,
                What::End => is_over = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(missed_by > 0 && got > 0);
    assert_eq!(missed_by + got, 1000);
}

#[test]
fn what_a_screen_keeps_away_does_not_end_the_wait() {
    let _watchdog = minute();
    let queue = Queue::options().heap().unwrap();
    let mut reader = queue.reader().unwrap();
    reader.screen().add_kind("noise");
    let mut here = QueueChannel::reading(reader).unwrap();
    let mut writer = queue.writer("w").unwrap();
    let noisy = std::thread::spawn(move || {
        for _ in 0..20 {
            writer.append("noise", b"x", SOON).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        writer
    });
    let start = Instant::now();
    let wait = Duration::from_millis(40);
    assert_eq!(here.read(wait.into()).unwrap(), Input::Pending);
    assert!(start.elapsed() >= wait);
    let mut writer = noisy.join().unwrap();
    writer.append("signal", b"heard", SOON).unwrap();
    assert_eq!(here.read(SOON).unwrap().bytes(), b"heard");
}

#[test]
fn two_members_in_one_poller_answer_each_other() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut poller = Poller::new().unwrap();
    let tokens = ["a", "b"].map(|name| poller.register(QueueChannel::of_member(queue.join(name).unwrap()).unwrap()));
    poller
        .channel(tokens[0])
        .unwrap()
        .write(&0u32.to_ne_bytes(), Wait::Never)
        .unwrap();
    let mut last = 0;
    while last < 500 {
        for event in poller.poll(SOON).unwrap() {
            let What::Data(bytes) = event.what else {
                panic!("{event:?}")
            };
            let n = u32::from_ne_bytes(bytes.try_into().unwrap());
            assert_eq!(
                event.source,
                tokens[1 - n as usize % 2],
                "a member hears only the other"
            );
            last = n;
            poller
                .channel(event.source)
                .unwrap()
                .write(&(n + 1).to_ne_bytes(), Wait::Never)
                .unwrap();
        }
    }
}

#[test]
fn a_writer_that_waits_for_another_one_in_the_middle_of_an_append_does_not_spin() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(1 << 16).anonymous().unwrap();
    let started = SharedWord::new();
    // Stopped at some instruction of its many appends: in the middle of one, more often than not.
    let child = forked(|| {
        let mut writer = queue.writer("child").unwrap();
        let mut reader = queue.reader().unwrap();
        started.raise();
        loop {
            writer.append("k", &[1; 100], Wait::Forever).unwrap();
            reader.pop(Wait::Never).unwrap();
        }
    });
    // Joining takes the claim, so it comes first.
    let mut here = QueueChannel::writing(queue.writer("here").unwrap()).unwrap();
    started.wait_for(1);
    child.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(MOMENT);
    here.set_marks(Marks::up_to(1 << 20));
    let start = processor_time();
    for _ in 0..1000 {
        here.write(&[2; 100], Wait::Never).unwrap();
    }
    // The stopped one holds room back too, if not the claim.
    assert!(!here.flush(Wait::For(Duration::from_millis(300))).unwrap());
    assert!(processor_time() - start < Duration::from_millis(150), "it spins");
    child.kill();
    assert!(here.flush(SOON).unwrap(), "with the dead one buried there is room");
}

#[test]
fn an_inherited_channel_is_the_parents_and_its_end_too() {
    let _watchdog = minute();
    let queue = Queue::options().anonymous().unwrap();
    let mut here = QueueChannel::reading(queue.reader().unwrap()).unwrap();
    let mut there = QueueChannel::writing(queue.writer("w").unwrap()).unwrap();
    // With a thread that waits, which the child does not have.
    assert_eq!(here.read(MOMENT.into()).unwrap(), Input::Pending);
    forked(|| {
        let forked = matches!(here.read(SOON), Err(ChannelError::Queue(Error::Forked { .. })));
        let written = matches!(there.write(b"x", SOON), Err(ChannelError::Queue(Error::Forked { .. })));
        // As dropping them does.
        here.close();
        there.close();
        // A doorbell that was inherited, for a reader of its own.
        let mut reader = queue.reader().unwrap();
        let mut bell = Doorbell::readable().unwrap();
        let armed = reader.arm_to_read(&mut bell).unwrap();
        queue
            .writer("child")
            .unwrap()
            .append("data", b"from the child", Wait::Never)
            .unwrap();
        i32::from(!(forked && written && armed && is_ready(&bell, Interest::READ, SOON)))
    })
    .must_succeed();
    assert_eq!(here.read(SOON).unwrap().bytes(), b"from the child");
    there.write(b"from here", SOON).unwrap();
    assert_eq!(here.read(SOON).unwrap().bytes(), b"from here");
}

#[test]
fn an_inherited_doorbell_is_made_anew_when_it_is_armed() {
    let _watchdog = minute();
    let queue = Queue::options().anonymous().unwrap();
    let mut bell = Doorbell::readable().unwrap();
    let mut reader = queue.reader().unwrap();
    assert!(reader.arm_to_read(&mut bell).unwrap());
    forked(|| {
        let mut own = queue.reader().unwrap();
        let armed = own.arm_to_read(&mut bell).unwrap();
        queue.writer("child").unwrap().append("k", b"x", Wait::Never).unwrap();
        i32::from(!(armed && is_ready(&bell, Interest::READ, SOON)))
    })
    .must_succeed();
    assert!(is_ready(&bell, Interest::READ, SOON), "the parent's rings as well");
}

#[test]
fn an_observer_cannot_be_rung_for_and_a_dropped_channel_leaves_no_thread() {
    let _watchdog = minute();
    forked(|| {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let queue = Queue::options().heap().unwrap();
        let before = threads();
        let mut channels: Vec<QueueChannel> = (0..10)
            .map(|_| QueueChannel::reading(queue.reader().unwrap()).unwrap())
            .collect();
        assert_eq!(threads(), before, "a channel that nobody waits for needs no thread");
        for channel in &mut channels {
            assert_eq!(channel.read(Duration::from_millis(1).into()).unwrap(), Input::Pending);
        }
        assert_eq!(threads(), before + 10);
        drop(channels);
        assert_eq!(queue.members().len(), 0, "leaving does not wait for the thread");
        support::eventually("the threads have gone", || threads() == before);
        0
    })
    .must_succeed();
}

#[test]
fn a_hundred_thousand_messages_through_a_poller_arrive_in_order() {
    let _watchdog = minute();
    let (here, mut there) = queues(1 << 14);
    let mut poller = Poller::new().unwrap();
    poller.register(here);
    let writing = std::thread::spawn(move || {
        for n in 0..100_000u32 {
            there.write(&n.to_ne_bytes(), SOON).unwrap();
        }
        assert!(there.finish(SOON).unwrap());
    });
    let mut next = 0u32;
    let mut events = Vec::new();
    loop {
        poller.poll_into(&mut events, SOON).unwrap();
        for event in events.drain(..) {
            match event.what {
                What::Data(bytes) => {
                    assert_eq!(bytes, next.to_ne_bytes());
                    next += 1;
                }
                What::End => {
                    assert_eq!(next, 100_000);
                    writing.join().unwrap();
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
