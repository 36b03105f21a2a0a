//! Channels and their descriptors: of every kind, in and out, with their flags, and those that are no good.

mod channel_kinds;
mod support;

use channel_kinds::{EVERY, Kind, MOMENT, SOON, connect};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use support::{folder, forked, minute};
use syncq::Wait;
use syncq::channel::{Buffering, Channel, ChannelError, Input, Marks, Peer, PipeChannel, SocketChannel};

#[test]
fn closing_a_channel_closes_its_descriptors() {
    let _watchdog = minute();
    for kind in EVERY {
        let mut wire = connect(kind);
        let folder = format!("/proc/{}/fd", std::process::id());
        let numbers = [wire.here.read_fd(), wire.here.write_fd()].map(|fd| fd.unwrap().as_raw_fd());
        // Other tests open descriptors at the same time, so what they lead to is compared.
        let leads_to = |number: i32| std::fs::read_link(format!("{folder}/{number}")).ok();
        let before = numbers.map(leads_to);
        wire.here.close();
        for (number, before) in numbers.into_iter().zip(before) {
            assert!(
                leads_to(number) != before || before.unwrap().ends_with("anon_inode:[eventfd]"),
                "{kind:?}"
            );
        }
    }
}

#[test]
fn a_side_that_is_not_there_has_an_error_of_its_own() {
    let (mut end, mut start) = PipeChannel::pipe().unwrap();
    assert!(matches!(end.write(b"x", Wait::Never), Err(ChannelError::NotWritable)));
    assert!(matches!(end.shutdown_write(), Err(ChannelError::NotWritable)));
    assert!(matches!(start.read(SOON), Err(ChannelError::NotReadable)));
    assert!(end.read_fd().is_some() && end.write_fd().is_none());
    assert!(start.read_fd().is_none() && start.write_fd().is_some());
    let mut neither = PipeChannel::new(None, None);
    assert!(matches!(neither.read(SOON), Err(ChannelError::NotReadable)));
    neither.close();
}

#[test]
fn a_process_with_the_default_sigpipe_survives_a_dead_socket() {
    let _watchdog = minute();
    let (here, there) = SocketChannel::pair().unwrap();
    drop(there);
    forked(move || {
        // SAFETY: a plain system call in a child that does nothing else.
        unsafe { nix::libc::signal(nix::libc::SIGPIPE, nix::libc::SIG_DFL) };
        let mut here = here;
        let chunks = [IoSlice::new(b"a"), IoSlice::new(b"b")];
        let alone = matches!(here.write(b"x", Wait::Never), Err(ChannelError::PeerGone));
        let together = matches!(here.write_vectored(&chunks, Wait::Never), Err(ChannelError::PeerGone));
        i32::from(!(alone && together))
    })
    .must_succeed();
}

#[test]
fn descriptors_go_in_and_come_out_with_what_was_between() {
    let _watchdog = minute();
    let (one, mut other) = UnixStream::pair().unwrap();
    let number = one.as_raw_fd();
    let mut channel = SocketChannel::new(one).unwrap().with_buffering(Buffering::lines());
    channel.set_marks(Marks::up_to(1 << 30));
    other.write_all(b"first\nsecond\nthi").unwrap();
    assert_eq!(channel.read(SOON).unwrap().bytes(), b"first\n");
    let much = vec![5u8; 4 << 20];
    channel.write(&much, Wait::Never).unwrap();
    let queued = channel.queued();
    let parts = channel.into_inner();
    assert_eq!(parts.socket.as_ref().unwrap().as_raw_fd(), number);
    assert_eq!(parts.unread, b"second\nthi");
    assert_eq!(parts.unwritten.len(), queued);
    drop(parts.socket);
    let mut rest = Vec::new();
    other.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() + queued, much.len());
}

#[test]
fn the_flags_of_a_descriptor_are_left_alone() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let _watchdog = minute();
    for kind in [Kind::Pipe, Kind::SocketPair] {
        let mut wire = connect(kind);
        let flags = |wire: &channel_kinds::Wire| {
            OFlag::from_bits_retain(fcntl(wire.here.read_fd().unwrap(), FcntlArg::F_GETFL).unwrap())
        };
        let before = flags(&wire);
        assert!(!before.contains(OFlag::O_NONBLOCK), "{kind:?}");
        assert_eq!(wire.read(), None, "an empty blocking {kind:?} would block");
        while wire.here.write(&[0; 4096], Wait::Never).is_ok() {}
        assert_eq!(flags(&wire), before);
        let sink = OFlag::from_bits_retain(fcntl(wire.here.write_fd().unwrap(), FcntlArg::F_GETFL).unwrap());
        assert!(!sink.contains(OFlag::O_NONBLOCK));
    }
}

#[test]
fn a_non_blocking_descriptor_is_as_good() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let _watchdog = minute();
    let (mut end, mut start) = PipeChannel::pipe().unwrap();
    for fd in [end.read_fd().unwrap(), start.write_fd().unwrap()] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }
    end = PipeChannel::reading(end.into_inner().faucet.unwrap());
    start = PipeChannel::writing(start.into_inner().sink.unwrap());
    assert_eq!(end.read(Wait::Never).unwrap(), Input::Pending);
    while start.write(&[1; 4096], Wait::Never).is_ok() {}
    assert!(matches!(
        start.write(b"x", MOMENT.into()),
        Err(ChannelError::Full { .. })
    ));
    assert!(matches!(end.read(Wait::Never).unwrap(), Input::Data(_)));
}

#[test]
fn a_named_pipe_is_a_pipe() {
    let _watchdog = minute();
    let folder = folder("fifo");
    let path = folder.0.join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Read and write, so that opening does not wait for the other end.
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let mut end = PipeChannel::reading(open()).with_buffering(Buffering::lines());
    let mut start = PipeChannel::writing(open());
    assert_eq!(end.read(Wait::Never).unwrap(), Input::Pending);
    start.write(b"a line\n", Wait::Never).unwrap();
    assert_eq!(end.read(SOON).unwrap().bytes(), b"a line\n");
    while start.write(&[b'x'; 4096], Wait::Never).is_ok() {}
    assert!(start.is_full());
}

#[test]
fn a_terminal_is_read_and_written() {
    let _watchdog = minute();
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut terminal = PipeChannel::new(pty.slave.try_clone().unwrap(), pty.slave).with_buffering(Buffering::lines());
    let mut hand = PipeChannel::new(pty.master.try_clone().unwrap(), pty.master);
    assert_eq!(terminal.read(Wait::Never).unwrap(), Input::Pending);
    hand.write(b"typed\n", Wait::Never).unwrap();
    assert_eq!(terminal.read(SOON).unwrap().bytes(), b"typed\n");
    terminal.write(b"shown\n", Wait::Never).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"shown\r\n") {
        seen.extend_from_slice(hand.read(SOON).unwrap().bytes());
    }
}

#[test]
fn a_file_and_dev_null_are_read_to_their_ends() {
    let _watchdog = minute();
    let folder = folder("file");
    let path = folder.0.join("file");
    std::fs::write(&path, b"one\ntwo\nrest").unwrap();
    let mut file = PipeChannel::reading(File::open(&path).unwrap()).with_buffering(Buffering::lines());
    for line in ["one\n", "two\n", "rest"] {
        assert_eq!(file.read(SOON).unwrap().bytes(), line.as_bytes());
    }
    assert_eq!(file.read(SOON).unwrap(), Input::End);
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut null = PipeChannel::new(OwnedFd::from(null()), OwnedFd::from(null()));
    assert_eq!(null.read(SOON).unwrap(), Input::End);
    null.write(&[0; 1 << 20], Wait::Never).unwrap();
    assert_eq!(null.queued(), 0);
}

#[test]
fn what_can_be_neither_read_nor_written_says_why() {
    let _watchdog = minute();
    let mut folder = PipeChannel::reading(File::open("/").unwrap());
    let error = folder.read(SOON).unwrap_err();
    assert!(
        matches!(&error, ChannelError::Os { source, .. } if source.raw_os_error() == Some(nix::libc::EISDIR)),
        "{error}"
    );
    let datagrams = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(matches!(SocketChannel::new(datagrams.0), Err(ChannelError::NotAStream)));
    let file = SocketChannel::new(File::open("/dev/null").unwrap()).unwrap_err();
    assert!(matches!(&file, ChannelError::Os { source, .. } if source.raw_os_error() == Some(nix::libc::ENOTSOCK)));
    let mut read_only = PipeChannel::writing(File::open("/dev/null").unwrap());
    assert!(matches!(read_only.write(b"x", SOON), Err(ChannelError::Os { .. })));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = PipeChannel::writing(full).write(b"x", SOON).unwrap_err();
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_descriptor_closed_behind_its_back_is_an_error_and_not_an_end() {
    let _watchdog = minute();
    // In a process of its own: no other thread may be given the number meanwhile.
    forked(|| {
        let wires = [connect(Kind::Pipe), connect(Kind::SocketPair)];
        for mut wire in wires {
            for fd in [wire.here.read_fd().unwrap().as_raw_fd(), wire.here.write_fd().unwrap().as_raw_fd()] {
                // SAFETY: that this breaks the rules of I/O safety is the point; the number is not used by anybody else.
                let _ = unsafe { nix::libc::close(fd) };
            }
            let is_bad = |error: ChannelError| matches!(error, ChannelError::Os { source, .. } if source.raw_os_error() == Some(nix::libc::EBADF));
            assert!(is_bad(wire.here.read(SOON).unwrap_err()));
            assert!(is_bad(wire.here.write(b"x", SOON).unwrap_err()));
            std::mem::forget(wire);
        }
        0
    })
    .must_succeed();
}

#[test]
fn peers_are_named() {
    let _watchdog = minute();
    let wire = connect(Kind::Tcp);
    let any: &dyn std::any::Any = &*wire.here;
    let socket: &SocketChannel = any.downcast_ref().unwrap();
    assert!(matches!(socket.peer().unwrap(), Peer::Ip(address) if address.ip().is_loopback() && address.port() > 0));
    let (one, _other) = SocketChannel::pair().unwrap();
    assert_eq!(one.peer().unwrap(), Peer::UnixUnnamed);
    assert_eq!(Peer::UnixAbstract(b"name".to_vec()).to_string(), "@name");
}

#[test]
fn connecting_to_nobody_fails_and_does_not_wait_longer_than_said() {
    let _watchdog = minute();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = std::io::Error::from(SocketChannel::connect_tcp(nobody, SOON).unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let folder = folder("nobody");
    assert!(SocketChannel::connect_unix(folder.0.join("none"), SOON).is_err());
    assert!(SocketChannel::connect_unix("/long".repeat(100), SOON).is_err());
    // A backlog that is full, and nobody who accepts.
    let path = folder.0.join("full");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match SocketChannel::connect_unix(&path, MOMENT.into()) {
            Ok(channel) => waiting.push(channel),
            Err(error) => break std::io::Error::from(error),
        }
        assert!(waiting.len() < 100_000, "the backlog is never full");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn an_owned_descriptor_is_enough() {
    let _watchdog = minute();
    let (one, other) = nix::unistd::pipe().unwrap();
    // SAFETY: a descriptor that nobody else has.
    let copy = unsafe { OwnedFd::from_raw_fd(nix::libc::dup(other.as_raw_fd())) };
    drop(other);
    PipeChannel::writing(copy).write(b"x", Wait::Never).unwrap();
    assert_eq!(PipeChannel::reading(one).read(SOON).unwrap().bytes(), b"x");
}
