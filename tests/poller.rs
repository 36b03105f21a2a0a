//! The poller: many sources, one wait.

mod channel_kinds;
mod support;

use channel_kinds::{
    EVERY, Kind, MOMENT, SOON, connect, events, is_data, is_end, is_line, pairs, polled, polled_boxed, processor_time,
};
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{forked, minute};
use syncq::Wait;
use syncq::channel::{
    Buffering, Channel, ChannelError, Event, Fault, Input, Marks, PipeChannel, Poller, SocketChannel, TestChannel,
    Token, What,
};

#[test]
fn a_poller_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Poller>();
    is_send::<Event>();
    is_send::<syncq::channel::Waker>();
}

#[test]
fn an_empty_poller_waits_its_time_and_says_nothing() {
    let _watchdog = minute();
    let mut poller = Poller::new().unwrap();
    for millis in [0.0, 0.3, 1.5, 10.0, 30.0] {
        let wait = Duration::from_secs_f64(millis / 1000.0);
        let start = Instant::now();
        assert!(poller.poll(wait).unwrap().is_empty());
        assert!(start.elapsed() >= wait);
    }
}

#[test]
fn a_signal_does_not_shorten_the_wait() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let _watchdog = minute();
    extern "C" fn nothing(_: i32) {}
    forked(|| {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let me = nix::unistd::Pid::this();
        let child = forked(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(2));
                nix::sys::signal::kill(me, Signal::SIGUSR1).unwrap();
            }
            0
        });
        let mut poller = Poller::new().unwrap();
        let start = Instant::now();
        assert!(poller.poll(Duration::from_millis(100)).unwrap().is_empty());
        assert!(start.elapsed() >= Duration::from_millis(100));
        child.must_succeed();
        0
    })
    .must_succeed();
}

#[test]
fn a_channel_with_data_says_so_and_its_end_is_told_once() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.feed(b"early");
        let mut poller = Poller::new().unwrap();
        let there = wire.there.take();
        let token = poller.register_boxed(wire.here);
        assert!(is_data(&events(&mut poller, 1)[0], token, b"early"), "{kind:?}");
        assert!(poller.poll(Wait::Never).unwrap().is_empty(), "{kind:?}");
        assert!(poller.poll(MOMENT).unwrap().is_empty(), "{kind:?}");
        match there {
            Some(mut there) => {
                there.write(b"hello", Wait::Never).unwrap();
                drop(there);
            }
            None => {
                let test: &mut TestChannel = poller.channel_as(token).unwrap();
                test.put(b"hello").unwrap();
                test.end().unwrap();
            }
        }
        let told = events(&mut poller, 2);
        assert!(
            is_data(&told[0], token, b"hello") && is_end(&told[1], token),
            "{kind:?}: {told:?}"
        );
        assert!(poller.poll(MOMENT).unwrap().is_empty(), "{kind:?}");
        let mut here = poller.unregister(token).unwrap();
        assert!(poller.unregister(token).is_none());
        assert_eq!(here.try_read().unwrap(), Input::End);
    }
}

#[test]
fn lines_are_told_one_by_one_and_a_begun_one_does_not_end_the_wait() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = channel_kinds::by_lines(kind);
        wire.feed(b"test");
        let Some(mut there) = wire.there.take() else { continue };
        let (mut poller, token) = polled_boxed(wire.here);
        let start = Instant::now();
        assert!(poller.poll(MOMENT).unwrap().is_empty(), "{kind:?}");
        assert!(start.elapsed() >= MOMENT, "{kind:?}");
        there.write(b"post\n", Wait::Never).unwrap();
        assert!(is_line(&events(&mut poller, 1)[0], token, b"testpost\n"), "{kind:?}");
        there.write(b"test\nrest\n", Wait::Never).unwrap();
        let told = events(&mut poller, 2);
        assert!(
            is_line(&told[0], token, b"test\n") && is_line(&told[1], token, b"rest\n"),
            "{kind:?}"
        );
    }
}

#[test]
fn what_a_channel_has_in_memory_when_it_is_registered_is_told_without_more_coming() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = channel_kinds::by_lines(kind);
        wire.feed(b"one\ntwo\nthree\n");
        assert_eq!(wire.read().unwrap(), b"one\n");
        let (mut poller, token) = polled_boxed(wire.here);
        let told = events(&mut poller, 2);
        assert!(
            is_line(&told[0], token, b"two\n") && is_line(&told[1], token, b"three\n"),
            "{kind:?}"
        );
        // And what is read by hand in between.
        if let Some(there) = &mut wire.there {
            there.write(b"four\nfive\n", Wait::Never).unwrap();
            assert_eq!(poller.channel(token).unwrap().read(SOON).unwrap().bytes(), b"four\n");
            assert!(is_line(&events(&mut poller, 1)[0], token, b"five\n"), "{kind:?}");
        }
    }
}

#[test]
fn a_channel_closed_here_has_ended_and_what_it_had_read_is_told_before() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = channel_kinds::by_lines(kind);
        wire.feed(b"one\ntwo\n");
        assert_eq!(wire.read().unwrap(), b"one\n");
        let (mut poller, token) = polled_boxed(wire.here);
        poller.channel(token).unwrap().close();
        let told = events(&mut poller, 2);
        // A queue had not read the second line from the ring... unless both came in one message, as here.
        assert!(
            is_line(&told[0], token, b"two\n") && is_end(&told[1], token),
            "{kind:?}: {told:?}"
        );
        assert!(poller.poll(MOMENT).unwrap().is_empty());
        assert!(poller.contains(token));
        poller.finish(token).unwrap();
        assert!(matches!(events(&mut poller, 1)[0].what, What::Finished), "{kind:?}");
        assert!(!poller.contains(token));
    }
}

#[test]
fn sources_come_and_go_in_every_order_and_twice() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        wire.feed(b"waiting");
        let (mut poller, token) = polled_boxed(wire.here);
        let here = poller.unregister(token).unwrap();
        assert!(poller.poll(MOMENT).unwrap().is_empty(), "{kind:?}: it was unregistered");
        assert!(poller.unregister(token).is_none() && poller.channel(token).is_none());
        assert!(matches!(poller.finish(token), Err(ChannelError::NoSuchSource)));
        assert!(matches!(
            poller.set_reading(token, true),
            Err(ChannelError::NoSuchSource)
        ));
        let again = poller.register_boxed(here);
        assert_ne!(again, token);
        assert!(is_data(&events(&mut poller, 1)[0], again, b"waiting"), "{kind:?}");
        // Closed first, unregistered then.
        poller.channel(again).unwrap().close();
        assert!(poller.unregister(again).unwrap().is_closed());
        assert!(poller.poll(Wait::Never).unwrap().is_empty() && poller.is_empty());
        // Unregistered and registered again between two polls, and after one.
        let here = poller.register_boxed(connect(kind).here);
        poller.poll(Wait::Never).unwrap();
        let here = poller.unregister(here).unwrap();
        poller.register_boxed(here);
        poller.close_all();
        poller.close_all();
        assert!(poller.is_empty() && poller.poll(MOMENT).unwrap().is_empty());
    }
}

#[test]
fn a_pause_loses_nothing_and_does_not_spin() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = connect(kind);
        let mut there = wire.there.take().unwrap();
        let (mut poller, token) = polled_boxed(wire.here);
        poller.set_reading(token, false).unwrap();
        there.write(b"while paused", Wait::Never).unwrap();
        there.finish(SOON).unwrap();
        drop(there);
        let before = processor_time();
        assert!(poller.poll(Duration::from_millis(50)).unwrap().is_empty(), "{kind:?}");
        assert!(
            processor_time() - before < MOMENT,
            "{kind:?}: the hang-up keeps waking it"
        );
        poller.set_reading(token, true).unwrap();
        let told = events(&mut poller, 2);
        assert!(
            is_data(&told[0], token, b"while paused") && is_end(&told[1], token),
            "{kind:?}"
        );
    }
}

#[test]
fn what_is_queued_goes_out_by_polling_and_draining_is_told() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = connect(kind);
        let mut there = wire.there.take().unwrap();
        let (mut poller, token) = polled_boxed(wire.here);
        let channel = poller.channel(token).unwrap();
        channel.set_marks(Marks::up_to(100_000));
        let mut written = 0;
        while !channel.is_full() {
            channel.write(&[3; 5000], Wait::Never).unwrap();
            written += 5000;
        }
        assert!(poller.poll(MOMENT).unwrap().is_empty(), "{kind:?}: nothing has drained");
        let reading = std::thread::spawn(move || {
            let mut got = 0;
            while got < written {
                got += there.read(SOON).unwrap().bytes().len();
            }
            (there, got)
        });
        let told = events(&mut poller, 1);
        assert!(
            told[0].source == token && matches!(told[0].what, What::Drained),
            "{kind:?}: {told:?}"
        );
        while poller.channel(token).unwrap().queued() > 0 {
            poller.poll(MOMENT).unwrap();
        }
        let (there, got) = reading.join().unwrap();
        assert_eq!(got, written, "{kind:?}");
        drop(there);
        assert!(is_end(&events(&mut poller, 1)[0], token), "{kind:?}");
    }
}

#[test]
fn finishing_sees_out_what_is_queued_and_then_the_peers_end() {
    let _watchdog = minute();
    for kind in pairs() {
        let mut wire = connect(kind);
        let mut there = wire.there.take().unwrap();
        let (mut poller, token) = polled_boxed(wire.here);
        let channel = poller.channel(token).unwrap();
        channel.set_marks(Marks::up_to(1 << 30));
        for _ in 0..200 {
            channel.write(&[3; 10_000], Wait::Never).unwrap();
        }
        poller.finish(token).unwrap();
        assert!(
            matches!(poller.channel(token).unwrap().write(b"more", Wait::Never), Ok(())),
            "{kind:?}: before the next poll it is not over"
        );
        let reading = std::thread::spawn(move || {
            let mut got = 0;
            loop {
                match there.read(SOON).unwrap() {
                    Input::End => break,
                    input => got += input.bytes().len(),
                }
            }
            there.write(b"thanks", SOON).unwrap();
            drop(there);
            got
        });
        let told = events(&mut poller, 3);
        assert!(is_data(&told[0], token, b"thanks"), "{kind:?}: {told:?}");
        assert!(
            is_end(&told[1], token) && matches!(told[2].what, What::Finished),
            "{kind:?}: {told:?}"
        );
        assert!(poller.is_empty());
        assert_eq!(reading.join().unwrap(), 2_000_004, "{kind:?}");
    }
}

#[test]
fn a_write_that_fails_is_told_and_what_had_arrived_is_still_read() {
    let _watchdog = minute();
    for kind in [Kind::Pipe, Kind::SocketPair] {
        let mut wire = connect(kind);
        wire.feed(b"arrived");
        let mut poller = Poller::new().unwrap();
        let there = wire.there.take();
        let token = poller.register_boxed(wire.here);
        poller.set_reading(token, false).unwrap();
        let channel = poller.channel(token).unwrap();
        while !channel.is_full() {
            channel.write(&[0; 4096], Wait::Never).unwrap();
        }
        assert!(poller.poll(Wait::Never).unwrap().is_empty());
        drop(there);
        let told = events(&mut poller, 1);
        assert!(
            matches!(
                &told[0].what,
                What::WriteFailed(ChannelError::PeerGone | ChannelError::Reset)
            ),
            "{kind:?}: {told:?}"
        );
        poller.set_reading(token, true).unwrap();
        assert!(is_data(&events(&mut poller, 1)[0], token, b"arrived"), "{kind:?}");
    }
}

#[test]
fn an_error_concerns_its_source_alone_and_is_told_once() {
    let _watchdog = minute();
    let mut poller = Poller::new().unwrap();
    let mut bad = TestChannel::new().unwrap();
    bad.put(b"x").unwrap();
    bad.fault_read(Fault::Failed);
    let bad = poller.register(bad);
    let folder = poller.register(PipeChannel::reading(File::open("/").unwrap()));
    let mut good = TestChannel::new().unwrap();
    good.put(b"good").unwrap();
    let good = poller.register(good);
    let told = events(&mut poller, 3);
    let of = |token| {
        told.iter()
            .filter(move |event| event.source == token)
            .collect::<Vec<_>>()
    };
    assert!(matches!(
        of(bad)[..],
        [Event {
            what: What::Error(ChannelError::Os { .. }),
            ..
        }]
    ));
    assert!(matches!(
        of(folder)[..],
        [Event {
            what: What::Error(ChannelError::Os { .. }),
            ..
        }]
    ));
    assert!(is_data(of(good)[0], good, b"good"));
    assert!(poller.poll(MOMENT).unwrap().is_empty());
}

#[test]
fn a_waker_ends_the_wait_from_a_thread_and_from_another_process() {
    let _watchdog = minute();
    let mut poller = Poller::new().unwrap();
    let waker = poller.waker();
    for _ in 0..3 {
        waker.wake();
    }
    let told = poller.poll(SOON).unwrap();
    assert!(
        matches!(
            told[..],
            [Event {
                source: Token::WAKER,
                what: What::Woken
            }]
        ),
        "{told:?}"
    );
    assert!(poller.poll(Wait::Never).unwrap().is_empty());
    let thread = std::thread::spawn({
        let waker = waker.clone();
        move || {
            std::thread::sleep(MOMENT);
            waker.wake();
        }
    });
    assert!(matches!(poller.poll(Wait::Forever).unwrap()[0].what, What::Woken));
    thread.join().unwrap();
    let child = forked(move || {
        waker.wake();
        0
    });
    assert!(matches!(poller.poll(Wait::Forever).unwrap()[0].what, What::Woken));
    child.must_succeed();
}

#[test]
fn a_forked_child_has_a_poller_of_its_own() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let (mut poller, token) = polled(SocketChannel::new(one).unwrap());
    poller.poll(Wait::Never).unwrap();
    let child = forked(|| {
        // What the child lets go of stays the parent's.
        poller.unregister(token);
        let mut test = TestChannel::new().unwrap();
        test.put(b"mine").unwrap();
        let mine = poller.register(test);
        i32::from(!is_data(&events(&mut poller, 1)[0], mine, b"mine"))
    });
    child.must_succeed();
    other.write_all(b"still here").unwrap();
    assert!(is_data(&events(&mut poller, 1)[0], token, b"still here"));
}

#[test]
fn four_thousand_sources_are_served_each_in_its_turn() {
    let _watchdog = minute();
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let sources = 4000.min((limit.0.saturating_sub(200) / 2) as usize);
    if sources < 4000 {
        let wanted = 8200.min(limit.1);
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, wanted, limit.1).unwrap();
    }
    let mut poller = Poller::new().unwrap();
    let mut others: Vec<(Token, UnixStream)> = (0..4000)
        .map(|_| {
            let (one, other) = UnixStream::pair().unwrap();
            (
                poller.register(SocketChannel::new(one).unwrap().with_buffering(Buffering::lines())),
                other,
            )
        })
        .collect();
    assert_eq!(poller.len(), 4000);
    for round in 0..3 {
        for (_, other) in &mut others {
            writeln!(other, "round {round}").unwrap();
        }
        let mut seen: Vec<Token> = events(&mut poller, 4000)
            .iter()
            .map(|event| {
                assert!(is_line(event, event.source, format!("round {round}\n").as_bytes()));
                event.source
            })
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 4000);
    }
    for (token, other) in others.into_iter().step_by(2) {
        drop(other);
        assert!(poller.contains(token));
    }
    let ends = events(&mut poller, 4000);
    assert!(ends.iter().all(|event| matches!(event.what, What::End)));
}

#[test]
fn peers_that_are_killed_or_never_read_concern_nobody_else() {
    let _watchdog = minute();
    let mut poller = Poller::new().unwrap();
    let (one, other) = SocketChannel::pair().unwrap();
    let never_reads = poller.register(one);
    let (one, victim) = SocketChannel::pair().unwrap();
    let killed = poller.register(one.with_buffering(Buffering::lines()));
    let (said, is_said) = (support::SharedWord::new(), 1);
    let child = forked(|| {
        let mut victim = victim;
        victim.write(b"a line\nand half of", SOON).unwrap();
        said.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    said.wait_for(is_said);
    let channel = poller.channel(never_reads).unwrap();
    while !channel.is_full() {
        channel.write(&[0; 10_000], Wait::Never).unwrap();
    }
    assert!(is_line(&events(&mut poller, 1)[0], killed, b"a line\n"));
    child.kill();
    // The parent's copy of the victim's end went into the closure of the child; only the child's is left.
    drop(other);
    let mut told = Vec::new();
    while !told.iter().any(|event: &Event| is_end(event, killed)) {
        poller.poll_into(&mut told, SOON).unwrap();
    }
    let of_killed: Vec<_> = told.iter().filter(|event| event.source == killed).collect();
    assert!(
        matches!(&of_killed[0].what, What::Line(line) if line.bytes == b"and half of" && !line.is_complete),
        "{told:?}"
    );
}

#[test]
fn a_channel_that_was_filled_and_drained_between_two_polls_is_said_to_have_drained() {
    let _watchdog = minute();
    let (here, mut there) = SocketChannel::pair().unwrap();
    let (mut poller, token) = polled(here);
    assert!(poller.poll(Wait::Never).unwrap().is_empty());
    let channel = poller.channel(token).unwrap();
    channel.set_marks(Marks::up_to(1000));
    while channel.write(&[0; 1000], Wait::Never).is_ok() {}
    assert!(channel.is_full());
    while let Input::Data(_) = there.read(Wait::Never).unwrap() {}
    let events = poller.poll(Duration::from_secs(30)).unwrap();
    assert!(matches!(events[0].what, What::Drained), "{events:?}");
}
