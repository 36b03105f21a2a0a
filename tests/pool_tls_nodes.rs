//! Whole nodes over TLS: both modes, who is encrypted, who is refused, and who cannot be robbed of an answer.

mod certificates;
mod support;

use certificates::Authority;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use support::{Folder, folder, minute};
use syncq::Wait;
use syncq::channel::{Channel, Input, SocketChannel};
use syncq::pool::wire::{Decoder, Frame, FrameHeader, FrameKind, Handshake, Incoming, flags};
use syncq::pool::{Chirp, Config, Handler, Identity, Loop, Message, PoolError, TlsChannel, TlsIdentity};

const SECOND: Duration = Duration::from_secs(1);

/// An authority, and the files of its nodes.
struct Company {
    authority: Authority,
    folder: Folder,
}

impl Company {
    fn new() -> Self {
        Company {
            authority: Authority::new("authority"),
            folder: folder("certificates"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.0.join(format!("{name}.pem"));
        if !path.exists() {
            std::fs::write(&path, self.authority.issue(name).pem()).unwrap();
        }
        path
    }

    /// Encrypted also on loopback.
    fn config(&self, name: &str) -> Config {
        Config::new()
            .port(0)
            .bind_v4(Some(Ipv4Addr::LOCALHOST))
            .bind_v6(None)
            .cert_chain_pem(self.file(name))
            .always_encrypt(true)
            .timeout(20 * SECOND)
    }

    fn identity(&self, name: &str) -> TlsIdentity {
        TlsIdentity::from_pem_file(self.file(name)).unwrap()
    }
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a port from the system")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(to.local_address(), data).unwrap()
}

/// A handler that hands all messages to the test.
fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

#[test]
fn nodes_send_request_and_answer_in_all_modes() {
    let _watchdog = minute();
    let company = Company::new();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        let looper = Loop::new().unwrap();
        let server = node(&looper, company.config("server").synchronous(theirs), echo);
        let client = node(&looper, company.config("client").synchronous(ours), quiet);
        for size in [0, 1, 5000, 4 << 20] {
            let data: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
            let mut request = message(&server, data.clone());
            request.set_header(vec![9; 65_535]);
            let answer = client.request(request).result().unwrap();
            assert!(
                answer.data() == data && answer.header() == vec![9; 65_535],
                "{size} bytes"
            );
            assert_eq!(answer.remote_identity(), server.identity());
            let shown = answer.peer_certificate().expect("it came encrypted");
            assert_eq!(shown, company.identity("server").certificate());
        }
        let open: Vec<_> = (0..200)
            .map(|n| client.request(message(&server, format!("{n}"))))
            .collect();
        for (n, outcome) in open.into_iter().enumerate() {
            assert_eq!(outcome.result().unwrap().text_lossy(), format!("{n}"));
        }
        client.stop(SECOND).unwrap();
        server.stop(SECOND).unwrap();
    }
}

#[test]
fn both_may_begin_at_once_and_answer_each_other() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let nodes = [
        node(&looper, company.config("one"), echo),
        node(&looper, company.config("other"), echo),
    ];
    for _ in 0..20 {
        let open: Vec<_> = (0..10)
            .map(|n| nodes[n % 2].request(message(&nodes[1 - n % 2], format!("{n}"))))
            .collect();
        for (n, outcome) in open.into_iter().enumerate() {
            assert_eq!(outcome.result().unwrap().text_lossy(), format!("{n}"));
        }
    }
}

/// An address of this machine that is not on the loopback network; connecting a datagram socket sends nothing.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn what_stays_on_the_loopback_address_is_plain_and_the_rest_is_encrypted() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let config = |name: &str| {
        company
            .config(name)
            .always_encrypt(false)
            .bind_v4(Some(Ipv4Addr::UNSPECIFIED))
    };
    let server = node(&looper, config("server"), echo);
    let client = node(&looper, config("client"), quiet);
    let ask = |ip: IpAddr| {
        let request = Message::to((ip, server.port()), "hello").unwrap();
        let answer = client.request(request).result().unwrap();
        assert_eq!(answer.data(), b"hello");
        answer.peer_certificate().cloned()
    };
    assert_eq!(ask(Ipv4Addr::LOCALHOST.into()), None);
    // libchirp's two sides disagree about this one.
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 2).into()), None);
    match outside() {
        Some(ip) => assert_eq!(ask(ip).as_ref(), Some(company.identity("server").certificate())),
        None => eprintln!("SKIPPED: this machine has the loopback network only"),
    }
}

#[test]
fn who_disagrees_about_encryption_learns_it_in_time() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let plain = || {
        Config::new()
            .port(0)
            .bind_v4(Some(Ipv4Addr::LOCALHOST))
            .bind_v6(None)
            .disable_encryption(true)
            .timeout(SECOND)
            .handshake_timeout(SECOND)
    };
    let secret = || company.config("node").timeout(SECOND).handshake_timeout(SECOND);
    for (ours, theirs) in [(secret(), plain()), (plain(), secret())] {
        let server = node(&looper, theirs, quiet);
        let client = node(&looper, ours, quiet);
        let begun = Instant::now();
        for outcome in [
            client.send(message(&server, "hello")),
            client.request(message(&server, "hello")),
        ] {
            let error = outcome.result().unwrap_err();
            let is_told = matches!(
                error,
                PoolError::Tls { .. }
                    | PoolError::NoPeer { .. }
                    | PoolError::TimedOut { .. }
                    | PoolError::Protocol { .. }
            );
            assert!(is_told, "{error:?}");
        }
        assert!(begun.elapsed() < 20 * SECOND);
    }
}

#[test]
fn a_node_of_another_authority_gets_and_gives_nothing() {
    let _watchdog = minute();
    let (ours, theirs) = (Company::new(), Company::new());
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let server = node(&looper, ours.config("server"), handler);
    let stranger = node(&looper, theirs.config("server"), quiet);
    let error = stranger.send(message(&server, "let me in")).result().unwrap_err();
    assert!(matches!(error, PoolError::Tls { .. }), "{error:?}");
    let error = server.request(message(&stranger, "secret")).result().unwrap_err();
    assert!(matches!(error, PoolError::Tls { .. }), "{error:?}");
    assert!(received.try_recv().is_err());
    let friend = node(&looper, ours.config("friend"), quiet);
    friend.send(message(&server, "hello")).result().unwrap();
    assert_eq!(received.recv().unwrap().data(), b"hello");
}

#[test]
fn a_file_without_what_is_needed_is_an_error_when_the_node_is_made() {
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let path = company.folder.0.join("bad.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let error = Chirp::new(&looper, company.config("good").cert_chain_pem(&path), quiet).unwrap_err();
    assert!(
        error.to_string().contains("bad.pem") && error.to_string().contains("private key"),
        "{error}"
    );
}

/// A peer by hand: one encrypted connection, and what comes over it.
struct Peer {
    channel: TlsChannel,
    decoder: Decoder,
}

impl Peer {
    /// Says that it listens at `port`.
    fn over(mut channel: TlsChannel, port: u16, identity: Identity) -> Self {
        let handshake = Handshake { port, identity };
        channel.write(&handshake.to_bytes(), Wait::Never).unwrap();
        assert!(channel.handshake(Wait::For(10 * SECOND)).unwrap());
        channel.flush(Wait::For(10 * SECOND)).unwrap();
        Peer {
            channel,
            decoder: Decoder::new(100 << 20),
        }
    }

    fn connect(to: &Chirp, identity: &TlsIdentity, port: u16) -> Self {
        let stream = TcpStream::connect(to.local_address()).unwrap();
        let channel = identity.connect(SocketChannel::new(stream).unwrap()).unwrap();
        Peer::over(channel, port, Identity::random())
    }

    fn accept(listener: &TcpListener, identity: &TlsIdentity) -> Self {
        let channel = identity.accept(SocketChannel::new(listener.accept().unwrap().0).unwrap());
        Peer::over(
            channel.unwrap(),
            listener.local_addr().unwrap().port(),
            Identity::random(),
        )
    }

    fn write(&mut self, head: FrameHeader, data: &[u8]) {
        let head = FrameHeader {
            data_len: data.len() as u32,
            ..head
        };
        let bytes = [&head.to_bytes()[..], data].concat();
        self.channel.write(&bytes, Wait::For(10 * SECOND)).unwrap();
    }

    fn send(&mut self, bits: u8, data: &[u8]) -> Identity {
        let identity = Identity::random();
        let head = FrameHeader {
            identity,
            flags: bits,
            ..FrameHeader::default()
        };
        self.write(head, data);
        identity
    }

    /// The next frame that is no NOOP, if one comes within that.
    fn next(&mut self, within: Duration) -> Option<Frame> {
        let until = Instant::now() + within;
        loop {
            match self.decoder.next().unwrap() {
                Some(Incoming::Frame(frame)) if frame.head.kind() != FrameKind::Noop => return Some(frame),
                Some(_) => continue,
                None => {}
            }
            match self.channel.read(Wait::Until(until)) {
                Ok(Input::Data(bytes)) => self.decoder.push(&bytes),
                _ => return None,
            }
        }
    }
}

#[test]
fn who_claims_the_port_of_another_gets_none_of_its_answers_and_requests() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    // Answers only when it is told to.
    let (handler, received) = collecting();
    let server = node(&looper, company.config("server").synchronous(false), handler);
    let (at_victim, for_victim) = collecting();
    let victim = node(&looper, company.config("victim").synchronous(false), at_victim);

    // One claims the port before the victim has said anything, one while it waits, and both after that go on.
    let thief = company.identity("thief");
    let mut first = Peer::connect(&server, &thief, victim.port());
    let asked = victim.request(message(&server, "what is the secret?"));
    let mut question = received.recv().unwrap();
    let mut second = Peer::connect(&server, &thief, victim.port());
    let of_thief = second.send(0, b"what do others ask?");
    let mut other = received.recv().unwrap();
    assert_eq!(
        question.peer(),
        other.peer(),
        "they say that they are at the same place"
    );
    assert_ne!(question.peer_certificate(), other.peer_certificate());

    question.set_data("42");
    server.send(question).result().unwrap();
    assert_eq!(asked.result().unwrap().data(), b"42");
    // What the server sends there of its own goes to who is reached there.
    server.send(message(&victim, "news")).result().unwrap();
    assert_eq!(for_victim.recv().unwrap().data(), b"news");
    // The thief gets the answer to its own question, and nothing else.
    other.set_data("nothing");
    server.send(other).result().unwrap();
    let frame = second.next(10 * SECOND).unwrap();
    assert_eq!((frame.head.identity, &frame.data[..]), (of_thief, &b"nothing"[..]));
    assert!(first.next(SECOND / 5).is_none() && second.next(SECOND / 5).is_none());

    // A claimant that has gone is not mistaken for the victim, nor the victim for it.
    second.send(0, b"and now?");
    let last = received.recv().unwrap();
    drop((first, second));
    let error = loop {
        // Until the server has seen that it has gone, it may write to nobody.
        match server.send(last.clone()).result() {
            Ok(_) => std::thread::sleep(SECOND / 100),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, PoolError::Tls { .. } | PoolError::PeerDied { .. }),
        "{error:?}"
    );
    let error = server.send(last).result().unwrap_err();
    assert!(matches!(error, PoolError::Tls { .. }), "{error:?}");
    assert!(
        for_victim.recv_timeout(SECOND / 5).is_err(),
        "what was for the thief does not go to the victim"
    );
}

#[test]
fn an_acknowledgement_counts_over_whichever_connection_of_the_same_node_it_comes() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    // What the thief never releases, it waits for when it stops.
    let sender = node(&looper, company.config("sender").timeout(4 * SECOND), echo);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let identity = company.identity("libchirp");
    let sent = sender.send(Message::to(at, "one").unwrap());
    let mut dialed = Peer::accept(&listener, &identity);
    let frame = dialed.next(10 * SECOND).unwrap();
    assert!(frame.head.wants_ack());
    // One of another node, by another key, does not.
    let mut thief = Peer::connect(&sender, &company.identity("thief"), at.port());
    thief.write(FrameHeader::ack(frame.head.identity, 1), b"");
    thief.send(flags::REQ_ACK, b"round trip");
    assert!(thief.next(10 * SECOND).is_some());
    assert!(!sent.is_done());
    let mut newest = Peer::connect(&sender, &identity, at.port());
    newest.write(FrameHeader::ack(frame.head.identity, 1), b"");
    assert_eq!(sent.result().unwrap().data(), b"one");

    // And the other way round: what goes out over one of the two is acknowledged over the other one.
    newest.send(0, b"question");
    let next = sender.send(Message::to(at, "two").unwrap());
    for _ in 0..2 {
        let [one, other] = [&mut newest, &mut dialed];
        let of_one = one.next(SECOND / 5);
        let (frame, other) = match of_one {
            Some(frame) => (frame, other),
            None => (other.next(10 * SECOND).unwrap(), one),
        };
        assert!(frame.data == b"question" || frame.data == b"two");
        other.write(FrameHeader::ack(frame.head.identity, 2), b"");
    }
    next.result().unwrap();
}

#[test]
fn a_peer_that_starts_anew_is_found_again() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let client = node(&looper, company.config("client").retries(20), quiet);
    let mut port = 0;
    let mut identities = vec![];
    for round in 0..4 {
        let server = node(&looper, company.config("server").port(port), echo);
        port = server.port();
        identities.push(server.identity());
        let answer = loop {
            match client.request(message(&server, format!("{round}"))).result() {
                Ok(answer) => break answer,
                // The end of the last connection has not come through yet.
                Err(PoolError::PeerStopping { .. } | PoolError::PeerDied { .. }) => std::thread::sleep(SECOND / 100),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(answer.text_lossy(), format!("{round}"));
        assert_eq!(answer.remote_identity(), server.identity());
        server.stop(SECOND).unwrap();
    }
    identities.dedup();
    assert_eq!(identities.len(), 4);
}

#[test]
fn one_slot_and_big_messages_lose_nothing() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let config = company.config("server").auto_release(false).max_slots(1);
    let server = node(&looper, config, handler);
    let client = node(&looper, company.config("client").synchronous(false), quiet);
    let sent: Vec<_> = (0..20u8)
        .map(|n| client.send(message(&server, vec![n; 700_000])))
        .collect();
    for n in 0..20 {
        let mut message = received.recv().unwrap();
        assert!(message.data() == vec![n; 700_000], "in order and whole");
        assert!(received.recv_timeout(SECOND / 100).is_err(), "one at a time");
        assert!(message.release().is_some());
    }
    for outcome in sent {
        outcome.result().unwrap();
    }
}

#[test]
fn messages_beyond_what_a_peer_takes_all_have_an_end_when_the_connection_breaks() {
    let _watchdog = minute();
    let company = Company::new();
    let looper = Loop::new().unwrap();
    let (handler, received) = collecting();
    let held = company.config("server").synchronous(false).auto_release(false);
    let server = node(&looper, held, handler);
    let sending = company.config("client").synchronous(false).send_queue_messages(10_000);
    let client = node(&looper, sending, quiet);
    // Many small ones, which are gathered; more than the peer and the kernel take while nothing is released.
    let sent: Vec<_> = (0..8000)
        .map(|_| client.send(message(&server, vec![1; 2000])))
        .collect();
    let kept: Vec<_> = (0..16).map(|_| received.recv().unwrap()).collect();
    assert!(!sent[7999].is_done());
    let _ = server.stop(Wait::Never);
    let (mut good, mut failed) = (0, 0);
    for outcome in sent {
        match outcome.result() {
            Ok(_) => good += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(good >= 16 && failed > 0, "{good} {failed}");
    drop(kept);
}
