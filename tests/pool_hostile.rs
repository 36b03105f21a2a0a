//! What strangers may do to a node: stay silent, be slow, send what is no frame, claim to be others, take nothing. It goes on serving
//! others, and what that costs is bounded.

#[cfg(feature = "tls")]
mod certificates;
mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use support::{eventually, minute};
use syncq::pool::wire::{FrameHeader, Handshake, flags};
use syncq::pool::{Chirp, Config, Handler, Identity, Loop, Message, PoolError, Stage};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// Descriptors and memory of this process are looked at: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of this process in memory.
fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// As many descriptors as can be had; returns how many.
fn many_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

fn plain() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some(Ipv4Addr::LOCALHOST))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(2 * SECOND)
        .handshake_timeout(SECOND)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a port from the system")
}

fn quiet(_: &Chirp, _: Message) {}

/// Answers, and counts.
fn echo() -> (impl Handler, Arc<AtomicUsize>) {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let handler = move |chirp: &Chirp, message: Message| {
        count.fetch_add(1, Ordering::SeqCst);
        chirp.send(message);
    };
    (handler, handled)
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(to.local_address(), data).unwrap()
}

/// That the node serves others: one it knows already, and one it does not.
fn serves(chirp: &Chirp, friend: &Chirp) {
    let answer = friend.request(message(chirp, "still there?")).result().unwrap();
    assert_eq!(answer.data(), b"still there?");
    let looper = Loop::new().unwrap();
    let newcomer = node(&looper, plain(), quiet);
    let answer = newcomer.request(message(chirp, "hello")).result().unwrap();
    assert_eq!(answer.data(), b"hello");
    newcomer.stop(SECOND).unwrap();
}

fn handshake(port: u16) -> [u8; 18] {
    let identity = Identity::random();
    Handshake { port, identity }.to_bytes()
}

fn frame(bits: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
    let head = FrameHeader {
        identity: Identity::random(),
        flags: bits,
        header_len: header.len() as u16,
        data_len: data.len() as u32,
        ..FrameHeader::default()
    };
    [&head.to_bytes()[..], header, data].concat()
}

/// A connection that has introduced itself.
fn introduced(to: &Chirp) -> TcpStream {
    let mut stream = TcpStream::connect(to.local_address()).unwrap();
    stream.write_all(&handshake(5000)).unwrap();
    stream
}

/// Reads until the other side closes, and says whether it did within that.
fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let until = Instant::now() + within;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}

#[test]
fn who_wants_everything_acknowledged_and_hardly_reads_is_cut_off() {
    let _alone = alone();
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let chirp = node(&looper, plain().synchronous(false), quiet);
    let mut stream = introduced(&chirp);
    let mut reading = stream.try_clone().unwrap();
    // Enough for the node to see that something moves.
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while matches!(reading.read(&mut buffer), Ok(n) if n > 0) {
            std::thread::sleep(SECOND / 20);
        }
    });
    let many: Vec<u8> = (0..1000).flat_map(|_| frame(flags::REQ_ACK, b"", b"")).collect();
    // Each acknowledgement kept is more than 200 bytes here, so these would be 600 MiB.
    let is_cut_off = (0..3000).any(|_| stream.write_all(&many).is_err());
    assert!(
        is_cut_off,
        "three million acknowledgements are kept for a peer that does not read them"
    );
    drop(stream);
    reader.join().unwrap();
    chirp.stop(SECOND).unwrap();
}

#[test]
fn a_thousand_connections_that_never_greet_are_closed_in_time() {
    let _watchdog = minute();
    let _alone = alone();
    let most = 1000.min(many_descriptors() as usize / 2 - 50);
    if most < 1000 {
        eprintln!("only {most} connections: this machine allows no more descriptors");
    }
    let looper = Loop::new().unwrap();
    let (handler, handled) = echo();
    let chirp = node(&looper, plain(), handler);
    let friend = node(&looper, plain(), quiet);
    serves(&chirp, &friend);
    let (before, memory_before) = (descriptors(), memory());
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..most)
        .map(|n| {
            let mut stream = TcpStream::connect(chirp.local_address()).unwrap();
            // Nothing, or a part of a greeting.
            stream.write_all(&handshake(1)[..n % 18]).unwrap();
            stream
        })
        .collect();
    serves(&chirp, &friend);
    let used = memory().saturating_sub(memory_before);
    assert!(used < 32 * MIB, "{used} bytes for {most} connections");
    for stream in &mut silent {
        assert!(is_closed(stream, 20 * SECOND));
    }
    assert!(begun.elapsed() >= SECOND, "not before their time");
    drop(silent);
    eventually("their descriptors are closed", || descriptors() <= before);
    serves(&chirp, &friend);
    assert_eq!(handled.load(Ordering::SeqCst), 6);
}

#[test]
fn who_greets_or_sends_byte_by_byte_holds_nobody_up() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (handler, handled) = echo();
    let chirp = node(&looper, plain(), handler);
    let friend = node(&looper, plain(), quiet);
    // That something comes does not move the deadline of a greeting.
    let mut slow: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(chirp.local_address()).unwrap())
        .collect();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < 2 * SECOND && sent < 17 {
        for stream in &mut slow {
            let _ = stream.write_all(&[7]);
        }
        sent += 1;
        std::thread::sleep(SECOND / 10);
    }
    for stream in &mut slow {
        assert!(is_closed(stream, 20 * SECOND));
    }
    // A message may take its time, and is taken when it is whole.
    let mut stream = introduced(&chirp);
    let bytes = frame(0, b"h", b"drop by drop");
    for byte in &bytes {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(SECOND / 200);
    }
    eventually("it is handled", || handled.load(Ordering::SeqCst) == 1);
    serves(&chirp, &friend);
}

#[test]
fn big_promises_cost_nothing_before_they_are_kept() {
    let _watchdog = minute();
    let _alone = alone();
    many_descriptors();
    let looper = Loop::new().unwrap();
    let (handler, handled) = echo();
    let chirp = node(&looper, plain(), handler);
    let friend = node(&looper, plain(), quiet);
    serves(&chirp, &friend);
    let before = memory();
    let head = FrameHeader {
        data_len: 100 << 20,
        ..FrameHeader::default()
    };
    let promising: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = introduced(&chirp);
            stream.write_all(&head.to_bytes()).unwrap();
            stream.write_all(&[0; 1000]).unwrap();
            stream
        })
        .collect();
    serves(&chirp, &friend);
    let used = memory().saturating_sub(before);
    assert!(used < 64 * MIB, "{used} bytes for 20 GB promised");
    drop(promising);
    serves(&chirp, &friend);
    assert_eq!(handled.load(Ordering::SeqCst), 6);
}

#[test]
fn what_is_no_frame_closes_its_connection_and_no_other() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (handler, handled) = echo();
    let chirp = node(&looper, plain().max_message_size(10_000), handler);
    let friend = node(&looper, plain(), quiet);
    serves(&chirp, &friend);
    let begun = handled.load(Ordering::SeqCst);
    let head = |header_len: u16, data_len: u32, bits: u8| {
        let head = FrameHeader {
            header_len,
            data_len,
            flags: bits,
            ..FrameHeader::default()
        };
        head.to_bytes().to_vec()
    };
    let bad = [
        ("an acknowledgement with data", frame(flags::ACK, b"", b"x")),
        ("an acknowledgement with a header", frame(flags::ACK, b"x", b"")),
        ("a probe with data", frame(flags::NOOP, b"", b"x")),
        ("a probe with a header", frame(flags::NOOP, b"x", b"")),
        (
            "an acknowledgement to be acknowledged",
            head(0, 0, flags::ACK | flags::REQ_ACK),
        ),
        ("a probe to be acknowledged", head(0, 0, flags::NOOP | flags::REQ_ACK)),
        ("one byte too many", head(0, 10_001, 0)),
        ("too many with the header", head(1, 10_000, 0)),
        ("lengths whose sum is over 32 bits", head(1, u32::MAX, 0)),
        ("the greatest lengths", head(u16::MAX, u32::MAX, 0xff)),
    ];
    for (what, bytes) in &bad {
        // At once, after a good message, and byte by byte.
        for manner in 0..3 {
            let mut stream = introduced(&chirp);
            let expected = handled.load(Ordering::SeqCst) + usize::from(manner == 1);
            if manner == 1 {
                stream
                    .write_all(&[frame(0, b"", b"good"), bytes.clone()].concat())
                    .unwrap();
            } else if manner == 2 {
                for byte in bytes {
                    let _ = stream.write_all(&[*byte]);
                }
            } else {
                stream.write_all(bytes).unwrap();
            }
            assert!(is_closed(&mut stream, 20 * SECOND), "{what}, manner {manner}");
            eventually(what, || handled.load(Ordering::SeqCst) == expected);
        }
    }
    // What only looks strange is fine: unknown bits, empty ones, at the limit, news of things that never were.
    let mut stream = introduced(&chirp);
    let fine = [
        frame(0x80, b"", b"unknown bits"),
        frame(0, b"", b""),
        frame(0, &[1; 4000], &[2; 6000]),
        frame(flags::ACK, b"", b""),
        frame(flags::NOOP | flags::ACK, b"", b""),
        frame(0, b"", b"the last"),
    ];
    let expected = handled.load(Ordering::SeqCst) + 4;
    stream.write_all(&fine.concat()).unwrap();
    eventually("all are handled", || handled.load(Ordering::SeqCst) == expected);
    assert!(!is_closed(&mut stream, SECOND / 10));
    serves(&chirp, &friend);
    assert_eq!(handled.load(Ordering::SeqCst) - begun, bad.len() + 4 + 2);
}

#[test]
fn random_bytes_do_no_harm() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (handler, _) = echo();
    let chirp = node(&looper, plain().max_message_size(100_000), handler);
    let friend = node(&looper, plain(), quiet);
    serves(&chirp, &friend);
    let before = (descriptors(), memory());
    let mut state = 0x6a09_e667_f3bc_c908_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let mut stream = TcpStream::connect(chirp.local_address()).unwrap();
        if round % 3 > 0 {
            stream.write_all(&handshake(next() as u16)).unwrap();
        }
        for _ in 0..1 + next() % 4 {
            let len = next() % 3000;
            // Small numbers are lengths and flags that mean something.
            let most = if next() % 2 == 0 { 256 } else { 4 };
            let bytes: Vec<u8> = (0..len).map(|_| (next() % most) as u8).collect();
            let _ = stream.write_all(&bytes);
        }
        let end = match next() % 3 {
            0 => std::net::Shutdown::Write,
            1 => std::net::Shutdown::Both,
            _ => continue,
        };
        let _ = stream.shutdown(end);
    }
    serves(&chirp, &friend);
    eventually("nothing of it is left", || descriptors() <= before.0);
    let used = memory().saturating_sub(before.1);
    assert!(used < 32 * MIB, "{used} bytes");
}

#[test]
fn who_sends_more_than_is_handled_is_held_back() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let handler = move |_: &Chirp, _: Message| {
        let _ = gone.lock().unwrap().recv();
        count.fetch_add(1, Ordering::SeqCst);
    };
    let chirp = node(&looper, plain().max_slots(2).synchronous(false), handler);
    let before = memory();
    let mut stream = introduced(&chirp);
    stream.set_nonblocking(true).unwrap();
    let bytes = frame(0, b"", &[7; 10_000]);
    let (mut sent, mut at) = (0, 0);
    let mut idle = Instant::now();
    // Until nothing was taken for a while.
    while idle.elapsed() < SECOND / 2 {
        match stream.write(&bytes[at..]) {
            Ok(taken) => {
                at += taken;
                if at == bytes.len() {
                    (sent, at) = (sent + 1, 0);
                }
                idle = Instant::now();
                assert!(sent < 10_000, "100 MB were taken that nobody has handled");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(SECOND / 1000),
            Err(error) => panic!("{error}"),
        }
    }
    let used = memory().saturating_sub(before);
    assert!(used < 16 * MIB, "{used} bytes for {sent} messages");
    drop(go);
    eventually("what was taken is handled", || handled.load(Ordering::SeqCst) >= sent);
}

#[test]
fn who_takes_nothing_costs_what_the_send_queue_allows_and_no_one_elses_time() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (handler, _) = echo();
    let config = plain().synchronous(false).send_queue_bytes(2 * MIB).timeout(SECOND);
    let chirp = node(
        &looper,
        config.send_queue_policy(syncq::pool::SendPolicy::Fail),
        handler,
    );
    let friend = node(&looper, plain(), quiet);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at: SocketAddr = listener.local_addr().unwrap();
    let greeting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(&handshake(stream.local_addr().unwrap().port()))
            .unwrap();
        // Open, and never read; and nobody else is let in.
        (stream, listener)
    });
    let first = chirp.send(Message::to(at, "hello").unwrap());
    let held = greeting.join().unwrap();
    let before = memory();
    let begun = Instant::now();
    let open: Vec<_> = (0..2000)
        .map(|_| chirp.send(Message::to(at, vec![1; 20_000]).unwrap()))
        .collect();
    serves(&chirp, &friend);
    let used = memory().saturating_sub(before);
    // Outcomes give the message back where it was not sent: that much is the caller's.
    assert!(used < 60 * MIB, "{used} bytes");
    let (mut full, mut late, mut sent) = (0, 0, 0);
    for outcome in open {
        match outcome.result() {
            Ok(_) => sent += 1,
            Err(PoolError::QueueFull { .. }) => full += 1,
            Err(PoolError::TimedOut { stage, .. }) => {
                assert!(
                    matches!(stage, Stage::Writing | Stage::Queued | Stage::Connecting),
                    "{stage}"
                );
                late += 1;
            }
            Err(PoolError::PeerDied { .. } | PoolError::NoPeer { .. }) => late += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    first.result().unwrap();
    assert!(full > 0 && late > 0, "{sent} sent, {full} refused, {late} late");
    assert!(begun.elapsed() < 20 * SECOND);
    serves(&chirp, &friend);
    drop(held);
}

#[test]
fn who_claims_the_port_of_another_without_encryption_leaves_every_message_with_one_end() {
    let _watchdog = minute();
    let _alone = alone();
    let looper = Loop::new().unwrap();
    let (handler, _) = echo();
    let chirp = node(&looper, plain().timeout(SECOND), handler);
    let (to_victim, _) = echo();
    let victim = node(&looper, plain().timeout(SECOND), to_victim);
    serves(&chirp, &victim);
    // Without certificates nobody can tell them apart, in libchirp neither; but nothing hangs, and nothing ends twice.
    for round in 0..4 {
        let mut claimant = TcpStream::connect(chirp.local_address()).unwrap();
        claimant.write_all(&handshake(victim.port())).unwrap();
        claimant.write_all(&frame(flags::REQ_ACK, b"", b"mine")).unwrap();
        let begun = Instant::now();
        let mut outcomes: Vec<_> = (0..5)
            .map(|_| victim.request(message(&chirp, "question")))
            .chain((0..5).map(|_| chirp.send(message(&victim, "news"))))
            .collect();
        if round % 2 == 0 {
            std::thread::sleep(SECOND / 50);
            drop(claimant);
        }
        for outcome in &mut outcomes {
            match outcome.wait(20 * SECOND) {
                Ok(message) => assert!(message.is_some(), "it has an end"),
                Err(PoolError::TimedOut { .. } | PoolError::PeerDied { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(outcome.wait(Duration::ZERO).is_err(), "one end, given away once");
        }
        assert!(begun.elapsed() < 20 * SECOND);
    }
    serves(&chirp, &victim);
}

#[cfg(feature = "tls")]
#[test]
fn the_same_holds_for_those_who_never_encrypt() {
    let _watchdog = minute();
    let _alone = alone();
    many_descriptors();
    let folder = support::folder("hostile");
    let path = folder.0.join("node.pem");
    std::fs::write(&path, certificates::Authority::new("authority").issue("node").pem()).unwrap();
    let config = || {
        plain()
            .disable_encryption(false)
            .always_encrypt(true)
            .cert_chain_pem(&path)
    };
    let looper = Loop::new().unwrap();
    let (handler, handled) = echo();
    let chirp = node(&looper, config(), handler);
    let friend = node(&looper, config(), quiet);
    let ask = || friend.request(message(&chirp, "hello")).result().unwrap();
    assert_eq!(ask().data(), b"hello");
    let (before, memory_before) = (descriptors(), memory());
    // The beginning of a greeting that promises more than ever comes, and others.
    let beginnings: [&[u8]; 5] = [
        b"",
        &[22],
        &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc],
        b"GET / HTTP/1.1\r\n",
        &[0; 18],
    ];
    let mut strange: Vec<_> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(chirp.local_address()).unwrap();
            let _ = stream.write_all(beginnings[n % beginnings.len()]);
            stream
        })
        .collect();
    assert_eq!(ask().data(), b"hello");
    let used = memory().saturating_sub(memory_before);
    assert!(used < 64 * MIB, "{used} bytes for 300 connections");
    for stream in &mut strange {
        assert!(is_closed(stream, 20 * SECOND));
    }
    drop(strange);
    eventually("their descriptors are closed", || descriptors() <= before);
    assert_eq!(ask().data(), b"hello");
    assert_eq!(handled.load(Ordering::SeqCst), 3);
}
