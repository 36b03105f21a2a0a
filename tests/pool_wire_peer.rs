//! A node and a peer played by the test, byte by byte: what goes over the wire, in which order, and what is made of odd things that come.
//! The peer is no node of this library: it announces nothing, as libchirp.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use support::minute;
use syncq::Wait;
use syncq::pool::wire::{Announcement, Frame, FrameHeader, HANDSHAKE_LEN, HEADER_LEN, Handshake, flags};
use syncq::pool::{Chirp, Config, Identity, Loop, Message, PoolError, SendOptions, Stage};

const SECOND: Duration = Duration::from_secs(1);

fn plain() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(2 * SECOND)
}

fn node(on: &Loop, config: Config) -> (Chirp, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (Chirp::new(on, config, handler).unwrap(), from)
}

/// The peer that the test plays.
struct Scripted {
    stream: TcpStream,
    serial: u32,
}

impl Scripted {
    /// Connects to a node, says that it listens at `port`, and hears what the node says.
    fn connect(to: &Chirp, port: u16) -> Scripted {
        let mut it = Scripted::silent(TcpStream::connect(to.local_address()).unwrap());
        it.greet(port);
        it
    }

    fn accept(listener: &TcpListener) -> Scripted {
        let mut it = Scripted::silent(listener.accept().unwrap().0);
        it.greet(listener.local_addr().unwrap().port());
        it
    }

    fn silent(stream: TcpStream) -> Scripted {
        stream.set_read_timeout(Some(20 * SECOND)).unwrap();
        stream.set_nodelay(true).unwrap();
        Scripted { stream, serial: 100 }
    }

    fn greet(&mut self, port: u16) {
        let identity = Identity::from([9; 16]);
        self.stream.write_all(&Handshake { port, identity }.to_bytes()).unwrap();
        let mut theirs = [0; HANDSHAKE_LEN];
        self.stream.read_exact(&mut theirs).unwrap();
        assert!(!Handshake::from_bytes(&theirs).identity.is_zero());
        let announced = self.frame();
        assert!(Announcement::from_header(&announced.head).is_some(), "{announced:?}");
    }

    fn frame(&mut self) -> Frame {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).unwrap();
        let head = FrameHeader::from_bytes(&head);
        let mut header = vec![0; head.header_len.into()];
        self.stream.read_exact(&mut header).unwrap();
        let mut data = vec![0; head.data_len as usize];
        self.stream.read_exact(&mut data).unwrap();
        Frame { head, header, data }
    }

    /// Nothing comes, for a moment.
    fn hears_nothing(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut byte = [0];
        let heard = self.stream.read(&mut byte);
        assert!(heard.is_err(), "{heard:?} {byte:?}");
        self.stream.set_read_timeout(Some(20 * SECOND)).unwrap();
    }

    /// The node closes the connection.
    fn must_be_closed(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    fn send(&mut self, identity: Identity, flags: u8, data: &[u8]) {
        let mut bytes = Vec::new();
        self.serial += 1;
        let frame = Frame::new(identity, self.serial, flags, vec![], data.to_vec()).unwrap();
        frame.encode_into(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn ack(&mut self, identity: Identity) {
        self.send(identity, flags::ACK, &[]);
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_handshake_may_come_in_pieces_and_messages_cut_anywhere() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (node, received) = node(&looper, plain());
    for piece in [1, 2, 9, 17, 18, 19, 30, 1000] {
        let mut bytes = Handshake {
            port: 4000,
            identity: Identity::random(),
        }
        .to_bytes()
        .to_vec();
        for n in 0..3u8 {
            let frame = Frame::new(Identity::random(), n.into(), 0x80, vec![1], vec![n; 5]).unwrap();
            frame.encode_into(&mut bytes);
        }
        let mut stream = TcpStream::connect(node.local_address()).unwrap();
        stream.set_nodelay(true).unwrap();
        for part in bytes.chunks(piece) {
            stream.write_all(part).unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        for n in 0..3 {
            let message = received.recv().unwrap();
            assert_eq!(
                (message.data(), message.header(), message.serial()),
                (&[n; 5][..], &[1][..], n.into())
            );
            assert_eq!(message.port(), 4000);
        }
    }
}

#[test]
fn a_synchronous_node_has_one_message_under_way_and_only_its_own_acknowledgement_counts() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (sender, _) = node(&looper, plain().synchronous(true));
    let (listener, to) = listener();
    let first = sender.send(Message::to(to, "first").unwrap());
    let second = sender.send(Message::to(to, "second").unwrap());
    let mut peer = Scripted::accept(&listener);
    let got = peer.frame();
    assert_eq!(
        (got.head.identity, &got.data[..], got.head.flags),
        (first.identity(), &b"first"[..], flags::REQ_ACK)
    );
    peer.hears_nothing();
    peer.ack(Identity::random());
    peer.ack(second.identity());
    peer.hears_nothing();
    assert!(!first.is_done() && !second.is_done());
    peer.ack(first.identity());
    let next = peer.frame();
    assert_eq!(
        (next.head.identity, &next.data[..]),
        (second.identity(), &b"second"[..])
    );
    assert_eq!(next.head.serial, got.head.serial + 1);
    first.result().unwrap();
    peer.ack(next.head.identity);
    peer.ack(next.head.identity);
    second.result().unwrap();
    // The connection is as good as before.
    let third = sender.send(Message::to(to, "third").unwrap());
    let got = peer.frame();
    peer.ack(got.head.identity);
    third.result().unwrap();
}

#[test]
fn an_answer_may_come_before_the_acknowledgement_of_its_request_or_after_it() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (client, others) = node(&looper, plain().synchronous(true));
    let (listener, to) = listener();
    let mut request = Some(client.request(Message::to(to, "0").unwrap()));
    let mut peer = Scripted::accept(&listener);
    for round in 0..6 {
        let outcome = request
            .take()
            .unwrap_or_else(|| client.request(Message::to(to, "n").unwrap()));
        let got = peer.frame();
        let identity = got.head.identity;
        let wants_ack = round % 3 == 2;
        let bits = if wants_ack { flags::REQ_ACK } else { 0 };
        if round % 2 == 0 {
            peer.send(identity, bits, b"answer");
            peer.ack(identity);
        } else {
            peer.ack(identity);
            peer.send(identity, bits, b"answer");
        }
        assert_eq!(outcome.result().unwrap().data(), b"answer");
        if wants_ack {
            let ack = peer.frame();
            assert_eq!(
                (ack.head.identity, ack.head.flags, ack.data.len()),
                (identity, flags::ACK, 0)
            );
        }
    }
    assert!(others.recv_timeout(Duration::from_millis(20)).is_err());
}

#[test]
fn an_acknowledgement_on_another_connection_of_the_same_peer_counts() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (sender, received) = node(&looper, plain().synchronous(true));
    let (listener, to) = listener();
    let sent = sender.send(Message::to(to, "x").unwrap());
    let mut first = Scripted::accept(&listener);
    let got = first.frame();
    let mut second = Scripted::connect(&sender, to.port());
    second.ack(got.head.identity);
    sent.result().unwrap();
    // The acknowledgement came with the handshake, and may be known a little before the connection counts as made.
    std::thread::sleep(Duration::from_millis(50));
    // What is sent goes over the newest, and both are read.
    let next = sender.send(Message::to(to, "y").unwrap());
    let got = second.frame();
    first.ack(got.head.identity);
    next.result().unwrap();
    for peer in [&mut first, &mut second] {
        peer.send(Identity::random(), flags::REQ_ACK, b"both");
        assert_eq!(received.recv().unwrap().data(), b"both");
        assert_eq!(peer.frame().head.flags, flags::ACK);
    }
}

#[test]
fn every_message_that_wants_it_is_acknowledged_however_many_are_released_together() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (receiver, received) = node(&looper, plain().synchronous(false).auto_release(false));
    let mut peer = Scripted::connect(&receiver, 4000);
    let sent: Vec<_> = (0..16).map(|_| Identity::random()).collect();
    for identity in &sent {
        peer.send(*identity, flags::REQ_ACK, b"x");
    }
    let held: Vec<_> = (0..16).map(|_| received.recv().unwrap()).collect();
    peer.hears_nothing();
    drop(held);
    let mut acked: Vec<_> = (0..16).map(|_| peer.frame().head).collect();
    assert!(acked.iter().all(|head| head.flags == flags::ACK));
    assert!(acked.windows(2).all(|two| two[1].serial == two[0].serial + 1));
    acked.sort_by_key(|head| sent.iter().position(|identity| *identity == head.identity));
    assert_eq!(acked.iter().map(|head| head.identity).collect::<Vec<_>>(), sent);
}

#[test]
fn what_is_not_acknowledged_times_out_while_acknowledgements_flow_the_other_way() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (sender, received) = node(&looper, plain().synchronous(true).timeout(SECOND / 2));
    let (listener, to) = listener();
    let mut sent = sender.send(Message::to(to, "x").unwrap());
    let mut peer = Scripted::accept(&listener);
    peer.frame();
    let start = Instant::now();
    let error = loop {
        // An acknowledgement of ours is no answer to what we wait for.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            peer.send(Identity::random(), flags::REQ_ACK, b"y");
        }));
        let _ = received.recv_timeout(Duration::from_millis(20));
        match sent.wait(Wait::Never) {
            Ok(None) => {}
            Ok(Some(message)) => panic!("{message:?}"),
            Err(error) => break error,
        }
    };
    let took = start.elapsed();
    assert!(
        matches!(
            error,
            PoolError::TimedOut {
                stage: Stage::Release,
                ..
            }
        ),
        "{error}"
    );
    assert!(took >= SECOND * 40 / 100 && took < 3 * SECOND, "{took:?}");
}

#[test]
fn a_peer_that_breaks_off_in_the_middle_of_anything_ends_what_was_on_its_way_and_nothing_else() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (sender, received) = node(&looper, plain().synchronous(true));
    let (listener, to) = listener();
    let frame = Frame::new(Identity::random(), 1, 0, vec![], vec![1; 100]).unwrap();
    let mut bytes = Vec::new();
    frame.encode_into(&mut bytes);
    for cut in [0, 1, 26, 27, 28, 126] {
        let under_way = sender.send(Message::to(to, "under way").unwrap());
        let waiting = sender.send(Message::to(to, "waiting").unwrap());
        let mut peer = Scripted::accept(&listener);
        assert_eq!(peer.frame().data, b"under way");
        peer.stream.write_all(&bytes[..cut]).unwrap();
        drop(peer);
        let error = under_way.result().unwrap_err();
        assert!(matches!(error, PoolError::PeerDied { .. }), "{error}");
        assert!(!error.is_unsent());
        // The other one goes over a new connection.
        let mut peer = Scripted::accept(&listener);
        let got = peer.frame();
        assert_eq!(got.data, b"waiting");
        peer.ack(got.head.identity);
        waiting.result().unwrap();
        drop(peer);
        // Until that is known too, a message may still be tried on the old one.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(received.try_recv().is_err(), "no half message was handed out");
}

#[test]
fn a_peer_that_advertises_another_port_than_it_was_reached_at_is_answered_all_the_same() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (sender, received) = node(&looper, plain().synchronous(true));
    let (listener, to) = listener();
    let sent = sender.send(Message::to(to, "x").unwrap());
    let mut peer = Scripted::silent(listener.accept().unwrap().0);
    peer.greet(5555);
    let got = peer.frame();
    peer.ack(got.head.identity);
    sent.result().unwrap();
    // Its messages come from the port that it says, and answers to there find the way.
    peer.send(Identity::random(), 0, b"question");
    let message = received.recv().unwrap();
    assert_eq!(message.port(), 5555);
    let answered = sender.send(message);
    let got = peer.frame();
    assert_eq!(got.data, b"question");
    peer.ack(got.head.identity);
    answered.result().unwrap();
}

#[test]
fn what_breaks_the_protocol_closes_the_connection() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (node, received) = node(&looper, plain().max_message_size(1000));
    let head = |flags, header_len, data_len| FrameHeader {
        identity: Identity::random(),
        serial: 1,
        data_len,
        header_len,
        flags,
    };
    for bad in [
        head(flags::ACK, 0, 1),
        head(flags::ACK, 1, 0),
        head(flags::NOOP, 0, 1),
        head(flags::ACK | flags::REQ_ACK, 0, 0),
        head(flags::NOOP | flags::REQ_ACK, 0, 0),
        head(0, 1, 1000),
        head(0, 0, 1001),
        // In 32 bits the sum is 0.
        head(0, 1, u32::MAX),
    ] {
        let mut peer = Scripted::connect(&node, 4000);
        peer.stream.write_all(&bad.to_bytes()).unwrap();
        peer.must_be_closed();
    }
    let mut peer = Scripted::connect(&node, 4000);
    peer.send(Identity::random(), 0xc0 & !flags::REQUEST | 0x80, &[7; 1000]);
    assert_eq!(received.recv().unwrap().data().len(), 1000);
    // Bits that only nodes of this library mean something by are nothing from others.
    for bits in [flags::FAILED, flags::CANCEL, flags::STOPPING, flags::REQUEST] {
        peer.send(Identity::random(), bits, b"plain");
        assert_eq!(received.recv().unwrap().data(), b"plain");
    }
}

#[test]
fn who_connects_and_never_greets_is_cut_off() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (node, _) = node(&looper, plain().handshake_timeout(Duration::from_millis(200)));
    let start = Instant::now();
    let mut slow = Scripted::silent(TcpStream::connect(node.local_address()).unwrap());
    slow.stream.write_all(&[1; 17]).unwrap();
    let silent = Scripted::silent(TcpStream::connect(node.local_address()).unwrap());
    silent.must_be_closed();
    slow.must_be_closed();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200) && took < 5 * SECOND, "{took:?}");
}

#[test]
fn an_idle_connection_is_closed_after_its_time_and_one_that_is_used_late_gives_a_sign_of_life_first() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    // Three timeouts are the least that counts: 0.6 s.
    let config = plain().synchronous(false).timeout(SECOND / 5).reuse_time(SECOND / 2);
    let (sender, _) = node(&looper, config);
    let (listener, to) = listener();
    sender.send(Message::to(to, "first").unwrap());
    let mut peer = Scripted::accept(&listener);
    assert_eq!(peer.frame().data, b"first");
    std::thread::sleep(Duration::from_millis(510));
    drop(sender.send(Message::to(to, "late").unwrap()));
    let probe = peer.frame().head;
    assert_eq!(
        (probe.flags, probe.identity, probe.payload_len()),
        (flags::NOOP, Identity::ZERO, 0)
    );
    let late = peer.frame();
    assert_eq!((&late.data[..], late.head.serial), (&b"late"[..], probe.serial + 1));
    let start = Instant::now();
    peer.must_be_closed();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(590) && took < 12 * SECOND, "{took:?}");
}

// ------------------------------------------------------------------------------------------------- what ends, and with which words

#[test]
fn results_that_are_polled_end_when_the_connection_breaks_at_the_first_write() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (ours, _messages) = node(&looper, plain().synchronous(false));
    let (listener, address) = listener();
    let mut outcomes: Vec<_> = (0..3)
        .map(|_| ours.request(Message::to(address, "?").unwrap()))
        .collect();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for outcome in &mut outcomes {
        assert!(std::pin::Pin::new(outcome).poll(&mut context).is_pending());
    }
    let mut stream = listener.accept().unwrap().0;
    // It has greeted. What is not read when the socket is closed makes that a reset.
    stream.peek(&mut [0]).unwrap();
    let (is_held, held) = mpsc::channel();
    let (go_on, until) = mpsc::channel::<()>();
    looper.call_soon(move || {
        is_held.send(()).unwrap();
        let _ = until.recv();
    });
    held.recv().unwrap();
    let greeting = Handshake {
        port: address.port(),
        identity: Identity::from([9; 16]),
    };
    stream.write_all(&greeting.to_bytes()).unwrap();
    drop(stream);
    drop(go_on);
    for mut outcome in outcomes {
        outcome.wait(Wait::For(20 * SECOND)).unwrap_err();
    }
    ours.stop(SECOND).unwrap();
    looper.stop();
}

#[test]
fn what_a_peer_has_read_before_it_took_no_more_is_not_said_to_be_unsent() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (ours, _messages) = node(&looper, plain().synchronous(false).timeout(SECOND));
    let (listener, address) = listener();
    let long = || SendOptions::new().within(30 * SECOND);
    let read = ours.request_with(Message::to(address, "read").unwrap(), long());
    let mut peer = Scripted::accept(&listener);
    assert_eq!(peer.frame().data, b"read");
    let half = ours.send_with(Message::to(address, vec![7; 64 << 20]).unwrap(), long());
    let error = half.result().unwrap_err();
    let is_writing = matches!(&error, PoolError::TimedOut { stage, .. } if *stage == Stage::Writing);
    assert!(is_writing && error.is_unsent(), "{error:?}");
    let error = read.result().unwrap_err();
    assert!(
        matches!(error, PoolError::PeerDied { .. }) && !error.is_unsent(),
        "{error:?}"
    );
    ours.stop(SECOND).unwrap();
    looper.stop();
}

#[test]
fn the_time_of_an_asynchronous_send_is_kept_while_its_peer_takes_nothing() {
    let _watchdog = minute();
    let looper = Loop::new().unwrap();
    let (ours, _messages) = node(&looper, plain().synchronous(false).timeout(40 * SECOND));
    let (listener, address) = listener();
    let big = Message::to(address, vec![7; 64 << 20]).unwrap();
    let mut sent = ours.send_with(big, SendOptions::new().within(SECOND / 2));
    let _peer = Scripted::accept(&listener);
    let error = sent.wait(Wait::For(10 * SECOND)).unwrap_err();
    assert!(
        matches!(error, PoolError::TimedOut { stage, .. } if stage == Stage::Release) && !error.is_unsent(),
        "{error:?}"
    );
    ours.stop(Wait::Never).unwrap();
    looper.stop();
}
