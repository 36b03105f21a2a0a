//! A poller and descriptors: of every kind, used again, copied, watched, and its own.

mod channel_kinds;
mod support;

use channel_kinds::{MOMENT, SOON, events, is_data, is_end, is_line, polled, processor_time};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{folder, forked, minute};
use syncq::Wait;
use syncq::channel::{Buffering, Interest, PipeChannel, Poller, SocketChannel, TestChannel, What};

#[test]
fn files_and_dev_null_are_sources_too() {
    let _watchdog = minute();
    let folder = folder("poller");
    let path = folder.0.join("file");
    std::fs::write(&path, "a line\n".repeat(50_000)).unwrap();
    let (mut poller, file) =
        polled(PipeChannel::reading(File::open(&path).unwrap()).with_buffering(Buffering::lines()));
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let null = poller.register(PipeChannel::new(
        OwnedFd::from(null.try_clone().unwrap()),
        OwnedFd::from(null),
    ));
    let mut test = TestChannel::new().unwrap();
    test.put(b"beside").unwrap();
    let beside = poller.register(test);
    let out = File::create(folder.0.join("out")).unwrap();
    let out = poller.register(PipeChannel::writing(out));
    poller.channel(out).unwrap().write(b"written", Wait::Never).unwrap();
    let (mut lines, mut ends, mut data) = (0, Vec::new(), 0);
    while ends.len() < 2 || data == 0 {
        for event in poller.poll(SOON).unwrap() {
            match event.what {
                What::Line(line) => lines += usize::from(line.bytes == b"a line\n"),
                What::End => ends.push(event.source),
                What::Data(bytes) => {
                    assert_eq!((event.source, &bytes[..]), (beside, &b"beside"[..]));
                    data += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    ends.sort();
    assert_eq!((lines, ends), (50_000, vec![file, null]));
    let start = Instant::now();
    assert!(
        poller.poll(MOMENT).unwrap().is_empty(),
        "a file at its end is no source of events"
    );
    assert!(start.elapsed() >= MOMENT);
    assert_eq!(std::fs::read(folder.0.join("out")).unwrap(), b"written");
}

#[test]
fn the_standard_input_of_a_program_is_a_source_whatever_it_is() {
    let _watchdog = minute();
    let folder = folder("stdin");
    let path = folder.0.join("file");
    std::fs::write(&path, "hello\n").unwrap();
    let socket = || {
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"hello\n").unwrap();
        OwnedFd::from(one)
    };
    let (pipe, start) = nix::unistd::pipe().unwrap();
    File::from(start).write_all(b"hello\n").unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut hand = File::from(pty.master);
    hand.write_all(b"hello\n\x04").unwrap();
    let inputs = [File::open(&path).unwrap().into(), pipe, socket(), pty.slave];
    for (n, input) in inputs.into_iter().enumerate() {
        let (mut poller, token) = polled(PipeChannel::reading(input).with_buffering(Buffering::lines()));
        let told = events(&mut poller, 2);
        assert!(
            is_line(&told[0], token, b"hello\n") && is_end(&told[1], token),
            "input {n}: {told:?}"
        );
    }
}

#[test]
fn one_socket_may_be_both_ends_of_a_pipe_channel() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let mut poller = Poller::new().unwrap();
    let channel = PipeChannel::new(OwnedFd::from(one.try_clone().unwrap()), OwnedFd::from(one));
    let token = poller.register(channel);
    other.write_all(b"in").unwrap();
    assert!(is_data(&events(&mut poller, 1)[0], token, b"in"));
    poller.channel(token).unwrap().write(b"out", Wait::Never).unwrap();
    poller.finish(token).unwrap();
    poller.poll(Wait::Never).unwrap();
    let mut out = Vec::new();
    other.read_to_end(&mut out).unwrap();
    assert_eq!(out, b"out");
    drop(other);
    assert!(is_end(&events(&mut poller, 2)[0], token));
    assert!(poller.is_empty());
}

#[test]
fn a_watched_descriptor_is_told_as_long_as_it_is_ready() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let one = Arc::new(one);
    let mut poller = Poller::new().unwrap();
    let token = poller.watch(one.clone(), Interest::READ);
    assert!(poller.poll(MOMENT).unwrap().is_empty());
    other.write_all(b"x").unwrap();
    for _ in 0..2 {
        assert!(matches!(events(&mut poller, 1)[0].what, What::Ready(Interest::READ)));
    }
    (&*one).read_exact(&mut [0]).unwrap();
    assert!(poller.poll(MOMENT).unwrap().is_empty());
    poller.set_interest(token, Interest::BOTH).unwrap();
    assert!(matches!(events(&mut poller, 1)[0].what, What::Ready(Interest::WRITE)));
    poller.set_interest(token, Interest::NONE).unwrap();
    drop(other);
    assert!(poller.poll(MOMENT).unwrap().is_empty());
    assert!(poller.unregister(token).is_none() && poller.is_empty());
}

#[test]
fn a_number_that_is_used_again_is_another_source() {
    let _watchdog = minute();
    // In a process of its own: no other thread may be given the number meanwhile.
    forked(|| {
        let mut poller = Poller::new().unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let number = one.as_raw_fd();
        let old = poller.register(SocketChannel::new(one).unwrap());
        poller.poll(Wait::Never).unwrap();
        poller.channel(old).unwrap().close();
        let (one, mut other) = UnixStream::pair().unwrap();
        assert_eq!(one.as_raw_fd(), number, "the kernel gives the lowest number");
        let new = poller.register(SocketChannel::new(one).unwrap());
        other.write_all(b"for the new one").unwrap();
        let told = events(&mut poller, 2);
        assert!(told.iter().any(|event| is_end(event, old)), "{told:?}");
        assert!(
            told.iter().any(|event| is_data(event, new, b"for the new one")),
            "{told:?}"
        );
        // Letting go of the old one must not take the new one's registration away.
        poller.unregister(old);
        other.write_all(b"and more").unwrap();
        assert!(is_data(&events(&mut poller, 1)[0], new, b"and more"));
        0
    })
    .must_succeed();
}

#[test]
fn a_copy_of_a_closed_descriptor_does_not_haunt_the_poller() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let copy = one.try_clone().unwrap();
    let (mut poller, token) = polled(SocketChannel::new(one).unwrap());
    let (calm, mut trickle) = UnixStream::pair().unwrap();
    let calm = poller.register(SocketChannel::new(calm).unwrap());
    poller.poll(Wait::Never).unwrap();
    // Closed while the kernel watches it, which goes on for the copy's sake.
    poller.channel(token).unwrap().close();
    assert!(is_end(&events(&mut poller, 1)[0], token));
    poller.unregister(token);
    other.write_all(b"for the copy").unwrap();
    let before = processor_time();
    assert!(poller.poll(Duration::from_millis(100)).unwrap().is_empty());
    assert!(processor_time() - before < MOMENT, "the poller spins");
    trickle.write_all(b"alive").unwrap();
    assert!(is_data(&events(&mut poller, 1)[0], calm, b"alive"));
    drop(copy);
}

#[test]
fn a_poller_can_be_waited_for_in_another_one() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let mut inner = Poller::new().unwrap();
    let token = inner.register(SocketChannel::new(one).unwrap());
    assert!(!inner.arm(), "it has not looked at its source yet");
    assert!(inner.poll(Wait::Never).unwrap().is_empty());
    assert!(inner.arm());
    let mut outer = Poller::new().unwrap();
    outer.watch(inner.as_fd().try_clone_to_owned().unwrap(), Interest::READ);
    assert!(outer.poll(MOMENT).unwrap().is_empty());
    other.write_all(b"through both").unwrap();
    assert!(matches!(events(&mut outer, 1)[0].what, What::Ready(_)));
    assert!(is_data(&events(&mut inner, 1)[0], token, b"through both"));
}
