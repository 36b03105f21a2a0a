//! Exchanges recorded from the real libchirp, said again to our node, which has to answer byte for byte as libchirp did; whichever of the
//! two it stands for. So a change of what goes over the wire is seen also where the package is missing.
//!
//! What differs from one run to the next (identities, the first serial, ports) is taken from the wire. What our node says beyond libchirp is one sign of
//! life behind its handshake, which libchirp passes over.

mod support;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::minute;
use syncq::pool::wire::{
    Announcement, Decoder, Frame, FrameHeader, FrameKind, HANDSHAKE_LEN, HEADER_LEN, Handshake, Incoming, flags,
};
use syncq::pool::{Chirp, Config, Identity, Loop, Message, Outcome};

fn bytes(digits: &str) -> Vec<u8> {
    let digit = |c: &u8| (*c as char).to_digit(16).expect("a hexadecimal digit") as u8;
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| digit(&pair[0]) << 4 | digit(&pair[1]))
        .collect()
}

fn decoded(wire: &[u8]) -> Vec<Incoming> {
    let mut decoder = Decoder::new(100 << 20);
    decoder.push(wire);
    std::iter::from_fn(|| decoder.next().expect("what libchirp says is right")).collect()
}

fn frame_of(incoming: Incoming) -> Option<Frame> {
    match incoming {
        Incoming::Frame(frame) => Some(frame),
        Incoming::Handshake(_) => None,
    }
}

fn encoded(incoming: &[Incoming]) -> Vec<u8> {
    let mut out = vec![];
    for one in incoming {
        match one {
            Incoming::Handshake(handshake) => out.extend_from_slice(&handshake.to_bytes()),
            Incoming::Frame(frame) => frame.encode_into(&mut out),
        }
    }
    out
}

/// Exchanges recorded from libchirp 1.2.1b3 by `interop_libchirp_record.rs`.
const EXCHANGES: &str = include_str!("libchirp/exchanges.txt");

/// A recorded exchange: its title, and in order who spoke ('C' has connected, 'S' has listened) and the bytes.
struct Exchange {
    title: &'static str,
    lines: Vec<(char, Vec<u8>)>,
}

impl Exchange {
    /// All that one side said, decoded.
    fn said_by(&self, who: char) -> Vec<Incoming> {
        let wire: Vec<u8> = self
            .lines
            .iter()
            .filter(|line| line.0 == who)
            .flat_map(|line| line.1.clone())
            .collect();
        let said = decoded(&wire);
        assert_eq!(encoded(&said), wire, "{}", self.title);
        said
    }

    /// Who said which frames, one after the other. (A handshake waits for nothing, so it has no place in the order.)
    fn steps(&self) -> Vec<(char, Vec<Frame>)> {
        let mut steps = vec![];
        let mut has_greeted = vec![];
        for (who, line) in &self.lines {
            let mut wire = line.clone();
            if has_greeted.contains(who) {
                wire.splice(..0, [0; HANDSHAKE_LEN]);
            }
            has_greeted.push(*who);
            let frames: Vec<Frame> = decoded(&wire).into_iter().filter_map(frame_of).collect();
            if !frames.is_empty() {
                steps.push((*who, frames));
            }
        }
        steps
    }

    /// One side's frames, behind its handshake.
    fn frames_of(&self, who: char) -> Vec<Frame> {
        let mut said = self.said_by(who).into_iter();
        assert!(matches!(said.next(), Some(Incoming::Handshake(_))), "{}", self.title);
        said.filter_map(frame_of).collect()
    }
}

fn exchanges() -> Vec<Exchange> {
    let mut all: Vec<Exchange> = vec![];
    for line in EXCHANGES.lines().skip(3).filter(|line| !line.is_empty()) {
        match (line.strip_prefix("# "), line.split_once(' ')) {
            (Some(title), _) => all.push(Exchange { title, lines: vec![] }),
            (None, Some((who, digits))) => {
                let who = who.chars().next().expect("C or S");
                all.last_mut().expect("a title").lines.push((who, bytes(digits)));
            }
            _ => panic!("no line of an exchange: {line}"),
        }
    }
    all
}

#[test]
fn everything_recorded_keeps_to_the_rules_that_the_node_relies_on() {
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 8);
    for exchange in &exchanges {
        for (who, other) in [('C', 'S'), ('S', 'C')] {
            let (mine, theirs) = (exchange.frames_of(who), exchange.frames_of(other));
            // Whatever it is, it counts.
            for pair in mine.windows(2) {
                assert_eq!(
                    pair[1].head.serial,
                    pair[0].head.serial.wrapping_add(1),
                    "{}",
                    exchange.title
                );
            }
            // What wants to be acknowledged is, once.
            for frame in mine.iter().filter(|frame| frame.head.wants_ack()) {
                let is_its_ack = |ack: &&Frame| ack.head == FrameHeader::ack(frame.head.identity, ack.head.serial);
                assert_eq!(theirs.iter().filter(is_its_ack).count(), 1, "{}", exchange.title);
            }
            let acks = mine.iter().filter(|frame| frame.head.kind() == FrameKind::Ack).count();
            let wanted = theirs.iter().filter(|frame| frame.head.wants_ack()).count();
            assert_eq!(acks, wanted, "{}", exchange.title);
        }
    }
    // An answer comes before the acknowledgement of its request, under the same identity.
    let synchronous = &exchanges[1];
    let kinds: Vec<FrameKind> = synchronous
        .frames_of('S')
        .iter()
        .map(|frame| frame.head.kind())
        .collect();
    assert_eq!(
        kinds,
        [FrameKind::Message, FrameKind::Ack, FrameKind::Message, FrameKind::Ack]
    );
    // A sign of life stands before the message that it is for.
    let idle = exchanges[6].frames_of('C');
    let kinds: Vec<FrameKind> = idle.iter().map(|frame| frame.head.kind()).collect();
    assert_eq!(kinds, [FrameKind::Message, FrameKind::Noop, FrameKind::Message]);
    assert_eq!(idle[1].head, FrameHeader::noop(idle[0].head.serial + 1));
}

// ------------------------------------------------------------------------------------------------------- said again

fn plain(is_synchronous: bool) -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some(Ipv4Addr::LOCALHOST))
        .bind_v6(None)
        .disable_encryption(true)
        .synchronous(is_synchronous)
        .timeout(Duration::from_millis(500))
        .reuse_time(Duration::from_millis(2000))
}

fn node(config: Config, is_echo: bool) -> Chirp {
    let handler = move |chirp: &Chirp, message: Message| {
        if is_echo {
            chirp.send(message);
        }
    };
    Chirp::new(&Loop::new().unwrap(), config, handler).unwrap()
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut got = vec![0; length];
    stream.read_exact(&mut got).expect("as many bytes as libchirp sent");
    got
}

/// That the node says nothing more.
fn is_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut more = [0; 64];
    match stream.read(&mut more) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => panic!("more than libchirp says: {other:?} {more:02x?}"),
    }
}

/// Reads the node's handshake and its announcement.
fn greeted(stream: &mut TcpStream, node: &Chirp) {
    let handshake = Handshake {
        port: node.port(),
        identity: node.identity(),
    };
    assert_eq!(read(stream, HANDSHAKE_LEN), handshake.to_bytes());
    let announced = read(stream, HEADER_LEN);
    let announced = FrameHeader::from_bytes(&announced.try_into().unwrap());
    assert_eq!(announced, Announcement::OURS.to_header(announced.serial));
}

/// The recorded frames as they have to come from our node: the same but for identities, where they are its own, and serials.
#[derive(Default)]
struct Translation {
    serial: Option<u32>,
    identities: HashMap<Identity, Identity>,
}

impl Translation {
    fn identity(&self, recorded: Identity) -> Identity {
        self.identities.get(&recorded).copied().unwrap_or(recorded)
    }

    /// Reads what has to come in place of a recorded frame. The first serial is the node's choice.
    fn must_come(&mut self, stream: &mut TcpStream, recorded: &Frame, title: &str) {
        let mut frame = recorded.clone();
        frame.head.identity = self.identity(recorded.head.identity);
        let got = read(stream, encoded(&[Incoming::Frame(frame.clone())]).len());
        let head = FrameHeader::from_bytes(got[..HEADER_LEN].try_into().unwrap());
        frame.head.serial = self.serial.map_or(head.serial, |last| last.wrapping_add(1));
        self.serial = Some(frame.head.serial);
        assert_eq!(got, encoded(&[Incoming::Frame(frame)]), "{title}: {recorded:?}");
    }
}

/// Our node in place of the one that listened.
fn replay_as_listener(exchange: &Exchange) {
    let theirs = exchange.frames_of('S');
    let is_echo = theirs.iter().any(|frame| frame.head.kind() == FrameKind::Message);
    let is_synchronous = theirs.iter().any(|frame| frame.head.wants_ack());
    let node = node(plain(is_synchronous), is_echo);
    let mut stream = TcpStream::connect(node.local_address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut translation = Translation::default();
    // With what is said first, in one piece.
    let mut said = encoded(&exchange.said_by('C')[..1]);
    let mut is_greeted = false;
    for (who, frames) in exchange.steps() {
        if who == 'C' {
            frames.iter().for_each(|frame| frame.encode_into(&mut said));
            stream.write_all(&said).unwrap();
            said.clear();
            if !is_greeted {
                greeted(&mut stream, &node);
                is_greeted = true;
            }
            continue;
        }
        for frame in &frames {
            translation.must_come(&mut stream, frame, exchange.title);
        }
    }
    is_silent(&mut stream);
    drop(stream);
    node.stop(Duration::from_secs(5)).unwrap();
}

/// Our node in place of the one that connected.
fn replay_as_connector(exchange: &Exchange) {
    let is_synchronous = exchange.frames_of('C').iter().any(|f| f.head.wants_ack());
    let is_asking = exchange
        .frames_of('S')
        .iter()
        .any(|f| f.head.kind() == FrameKind::Message);
    let node = node(plain(is_synchronous), false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stream: Option<TcpStream> = None;
    let mut open: Vec<(Outcome, Vec<u8>)> = vec![];
    let mut translation = Translation::default();
    for (who, frames) in exchange.steps() {
        if who == 'S' {
            let stream = stream.as_mut().expect("C has spoken first");
            let mut said = vec![];
            for mut frame in frames {
                frame.head.identity = translation.identity(frame.head.identity);
                frame.encode_into(&mut said);
            }
            stream.write_all(&said).unwrap();
            continue;
        }
        if frames.iter().any(|f| f.head.kind() == FrameKind::Noop) {
            // More than three quarters of its reuse time.
            std::thread::sleep(Duration::from_millis(1600));
        }
        for frame in frames.iter().filter(|f| f.head.kind() == FrameKind::Message) {
            // What was asked before was answered before.
            if is_synchronous || is_asking {
                finish(&mut open, exchange);
            }
            let mut message = Message::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), frame.data.clone()).unwrap();
            message.set_header(frame.header.clone());
            translation.identities.insert(frame.head.identity, message.identity());
            let outcome = match is_asking {
                true => node.request(message),
                false => node.send(message),
            };
            open.push((outcome, frame.data.clone()));
        }
        let stream = stream.get_or_insert_with(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            greeted(&mut stream, &node);
            let Some(Incoming::Handshake(mut handshake)) = exchange.said_by('S').into_iter().next() else {
                panic!("{}: no handshake", exchange.title);
            };
            handshake.port = port;
            stream.write_all(&handshake.to_bytes()).unwrap();
            stream
        });
        for frame in &frames {
            translation.must_come(stream, frame, exchange.title);
        }
    }
    finish(&mut open, exchange);
    is_silent(stream.as_mut().expect("C has spoken"));
    drop(stream);
    node.stop(Duration::from_secs(5)).unwrap();
}

fn finish(open: &mut Vec<(Outcome, Vec<u8>)>, exchange: &Exchange) {
    for (outcome, data) in open.drain(..) {
        let message = outcome
            .result()
            .unwrap_or_else(|error| panic!("{}: {error}", exchange.title));
        assert_eq!(message.data(), data, "{}", exchange.title);
    }
}

#[test]
fn our_node_answers_recorded_libchirps_byte_for_byte_as_libchirp_did() {
    let _watchdog = minute();
    let exchanges = exchanges();
    exchanges.iter().for_each(replay_as_listener);
    // A request right behind the handshake is answered the same way each time.
    (0..20).for_each(|_| replay_as_listener(&exchanges[0]));
}

#[test]
fn our_node_asks_recorded_libchirps_byte_for_byte_as_libchirp_did() {
    let _watchdog = minute();
    exchanges().iter().for_each(replay_as_connector);
}

#[test]
fn an_answer_is_acknowledged_before_what_its_requester_sends_next() {
    let _watchdog = minute();
    // A synchronous libchirp has one slot. It would not read a second request while the first one has it, nor what comes behind.
    const ROUNDS: u32 = 500;
    let node = node(plain(false), false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asking = {
        let node = node.clone();
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                node.request(Message::to(address, "hello").unwrap()).result().unwrap();
            }
        })
    };
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    greeted(&mut stream, &node);
    let handshake = Handshake {
        port: address.port(),
        identity: Identity::random(),
    };
    stream.write_all(&handshake.to_bytes()).unwrap();
    for round in 0..ROUNDS {
        let request: [u8; HEADER_LEN + 5] = read(&mut stream, HEADER_LEN + 5).try_into().unwrap();
        let head = FrameHeader::from_bytes(request[..HEADER_LEN].try_into().unwrap());
        assert_eq!((head.kind(), head.data_len), (FrameKind::Message, 5), "round {round}");
        let mut answer = request;
        answer[HEADER_LEN - 1] = flags::REQ_ACK;
        stream.write_all(&answer).unwrap();
        let ack = read(&mut stream, HEADER_LEN).try_into().unwrap();
        let ack = FrameHeader::from_bytes(&ack);
        assert_eq!(ack, FrameHeader::ack(head.identity, ack.serial), "round {round}");
    }
    asking.join().unwrap();
    drop(stream);
    node.stop(Duration::from_secs(5)).unwrap();
}
