//! Nodes in all modes under random use: every message arrives as it was sent, and every send and request has one end, in its time, whatever
//! happens to the connections.

#[cfg(feature = "tls")]
mod certificates;
mod support;
#[path = "support/tcp.rs"]
mod tcp;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::watchdog;
use syncq::Wait;
use syncq::pool::wire::Handshake;
use syncq::pool::{Chirp, Config, Identity, Loop, Message, Outcome, PoolError};
use tcp::refused;

const SECOND: Duration = Duration::from_secs(1);

/// xorshift: a seed gives the same steps each time.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

fn plain() -> Config {
    Config::new().port(0).disable_encryption(true)
}

fn has_v6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

// ------------------------------------------------------------------------------------------------------------ random messages

/// What the byte at this place of a message of this number is.
fn byte(number: u64, at: usize) -> u8 {
    (number as u8).wrapping_mul(7).wrapping_add((at * 31 + at / 255) as u8)
}

fn patterned(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte(number, at)).collect()
}

/// A header that begins with the number, and data that follows from it. Mostly small, at times up to 1 KiB and 1 MiB.
fn random_message(random: &mut Random, number: u64, to: SocketAddr) -> Message {
    let header = 8 + if random.is(4) { random.below(1024 - 8) } else { 0 } as usize;
    let len = match random.below(10) {
        0 => random.below(1 << 20),
        1..4 => random.below(20_000),
        _ => random.below(100),
    } as usize;
    let mut message = Message::to(to, patterned(number, len)).unwrap();
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(patterned(!number, header - 8));
    message.set_header(bytes);
    message
}

fn number_of(message: &Message) -> u64 {
    u64::from_be_bytes(message.header()[..8].try_into().unwrap())
}

fn must_be_whole(message: &Message) {
    let number = number_of(message);
    let is_good = |bytes: &[u8], number| bytes.iter().enumerate().all(|(at, is)| *is == byte(number, at));
    assert!(is_good(message.data(), number), "data of message {number}");
    assert!(is_good(&message.header()[8..], !number), "header of message {number}");
}

/// `count` messages, from four threads, some as requests, some as plain messages that are sent back as messages of their own.
fn exchange(name: &str, ours: Config, theirs: Config, count: u64, pause: Duration, seed: u64) {
    let looper = Loop::new().unwrap();
    let echo = Chirp::new(&looper, theirs, move |chirp: &Chirp, message: Message| {
        must_be_whole(&message);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        chirp.send(message);
    })
    .unwrap();
    let back = Arc::new(Mutex::new(HashMap::<Identity, u32>::new()));
    let (into, identity) = (back.clone(), echo.identity());
    let sender = Chirp::new(&looper, ours, move |_: &Chirp, message: Message| {
        must_be_whole(&message);
        assert_eq!(message.remote_identity(), identity);
        *into.lock().unwrap().entry(message.identity()).or_default() += 1;
    })
    .unwrap();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, echo.port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, echo.port()));
    let has_v6 = has_v6();
    let sent = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (sender, sent) = (&sender, &sent);
            let mut random = Random(seed ^ (thread + 1) << 20);
            scope.spawn(move || {
                let mut open: Vec<(u64, Outcome)> = vec![];
                for number in (thread..count).step_by(4) {
                    let to = if has_v6 && random.is(2) { v6 } else { v4 };
                    let message = random_message(&mut random, number, to);
                    if random.is(3) {
                        sent.lock().unwrap().push(message.identity());
                        let outcome = sender.send(message);
                        outcome
                            .result()
                            .unwrap_or_else(|error| panic!("{name}: message {number}: {error}"));
                    } else {
                        open.push((number, sender.request(message)));
                    }
                    if open.len() > 10 || random.is(5) {
                        for (number, outcome) in open.drain(..) {
                            must_be_answer(name, number, outcome);
                        }
                    }
                }
                for (number, outcome) in open {
                    must_be_answer(name, number, outcome);
                }
            });
        }
    });
    // What was sent and not asked comes back as messages for the handler.
    let sent = sent.into_inner().unwrap();
    support::eventually("all have come back", || back.lock().unwrap().len() >= sent.len());
    sender.stop(10 * SECOND).unwrap();
    echo.stop(10 * SECOND).unwrap();
    let back = back.lock().unwrap();
    assert!(
        sent.iter().all(|identity| back.get(identity) == Some(&1)),
        "{name}: each comes back once"
    );
    assert_eq!(back.len(), sent.len(), "{name}: nothing else does");
}

fn must_be_answer(name: &str, number: u64, outcome: Outcome) {
    match outcome.result() {
        Ok(answer) => {
            assert_eq!(number_of(&answer), number);
            must_be_whole(&answer);
        }
        Err(error) => panic!("{name}: request {number}: {error}"),
    }
}

#[test]
fn random_messages_arrive_whole_in_all_modes() {
    let _watchdog = watchdog(120 * SECOND);
    let patient = || plain().timeout(20 * SECOND);
    let none = Duration::ZERO;
    for (at, (ours, theirs)) in [(true, true), (true, false), (false, true), (false, false)]
        .into_iter()
        .enumerate()
    {
        let seed = 0x9e37_79b9 + at as u64;
        let config = |synchronous| patient().synchronous(synchronous);
        exchange(
            &format!("{ours} {theirs}"),
            config(ours),
            config(theirs),
            150,
            none,
            seed,
        );
    }
    let both = |config: fn(Config) -> Config| (config(patient()), config(patient()));
    let (ours, theirs) = both(|config| config.max_slots(1).synchronous(false));
    exchange("one slot", ours, theirs, 150, none, 11);
    let (ours, theirs) = both(|config| config.buffer_size(1024));
    exchange("a small buffer", ours, theirs, 100, none, 12);
    let (ours, theirs) = both(|config| config.workers(1));
    exchange("one worker", ours, theirs, 150, none, 13);
    let (ours, theirs) = both(|config| config.synchronous(false).send_queue_messages(1).send_queue_bytes(1));
    exchange("a send queue of one", ours, theirs, 100, none, 14);
    let (ours, theirs) = both(|config| config);
    exchange("a slow receiver", ours, theirs, 12, 100 * SECOND / 1000, 15);
}

#[cfg(feature = "tls")]
#[test]
fn random_messages_arrive_whole_encrypted() {
    let _watchdog = watchdog(120 * SECOND);
    let folder = support::folder("stateful");
    let authority = certificates::Authority::new("authority");
    let config = |name: &str, synchronous| {
        let path = folder.0.join(name);
        std::fs::write(&path, authority.issue(name).pem()).unwrap();
        let config = Config::new().port(0).timeout(20 * SECOND).synchronous(synchronous);
        config.cert_chain_pem(path).always_encrypt(true)
    };
    for (at, synchronous) in [true, false].into_iter().enumerate() {
        let (ours, theirs) = (config("ours", synchronous), config("theirs", synchronous));
        let name = format!("encrypted, {synchronous}");
        exchange(&name, ours, theirs, 150, Duration::ZERO, 0x51_7c_c1 + at as u64);
    }
}

#[test]
fn messages_over_the_limit_of_the_receiver_fail_and_hold_nothing_up() {
    let _watchdog = watchdog(60 * SECOND);
    let looper = Loop::new().unwrap();
    let echo = Chirp::new(
        &looper,
        plain().max_message_size(4),
        |chirp: &Chirp, message: Message| {
            chirp.send(message);
        },
    )
    .unwrap();
    let sender = Chirp::new(&looper, plain().timeout(2 * SECOND), |_: &Chirp, _: Message| {}).unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, echo.port()));
    for round in 0..5 {
        let error = sender.send(Message::to(at, "12345").unwrap()).result().unwrap_err();
        assert!(matches!(error, PoolError::PeerDied { .. }), "round {round}: {error:?}");
        let error = echo.send(Message::to(at, "12345").unwrap()).result().unwrap_err();
        assert!(matches!(error, PoolError::TooLarge { size: 5, max: 4 }), "{error:?}");
        let answer = sender.request(Message::to(at, "1234").unwrap()).result().unwrap();
        assert_eq!(answer.data(), b"1234");
    }
}

// ------------------------------------------------------------------------------------------------------------- random events

/// Carries what comes to another address, and can cut all connections.
struct Wire {
    at: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    is_over: Arc<AtomicBool>,
}

impl Wire {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wire = Wire {
            at: listener.local_addr().unwrap(),
            open: Arc::default(),
            is_over: Arc::default(),
        };
        let (open, is_over) = (wire.open.clone(), wire.is_over.clone());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                let mut open = open.lock().unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        wire
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.at);
        self.cut();
    }
}

/// What a message was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Echo,
    Wire,
    Refused,
    Silent,
}

struct Sent {
    outcome: Outcome,
    target: Target,
    begun: Instant,
    text: String,
    is_request: bool,
}

/// The nodes' timeout. In libchirp's own test it is half a second, which a machine that does other things as well takes now and then.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Ten times what a message may take at most: that is a connection, and then as long to be released.
const LIMIT: Duration = Duration::from_secs(60);

fn run(seed: u64, steps: usize, usual: &Config) -> [usize; 2] {
    let mut random = Random(seed);
    let synchronous = [random.is(2), random.is(2)];
    let may_cut = random.is(2);
    let config = |synchronous| {
        usual
            .clone()
            .synchronous(synchronous)
            .timeout(TIMEOUT)
            .reuse_time(3 * TIMEOUT)
            .handshake_timeout(TIMEOUT)
    };
    let looper = Loop::new().unwrap();
    let handled = Arc::new(Mutex::new(HashMap::<Identity, u32>::new()));
    let into = handled.clone();
    let echo = Chirp::new(
        &looper,
        config(synchronous[1]),
        move |chirp: &Chirp, message: Message| {
            *into.lock().unwrap().entry(message.identity()).or_default() += 1;
            chirp.send(message);
        },
    )
    .unwrap();
    let node = Chirp::new(&looper, config(synchronous[0]), |_: &Chirp, _: Message| {}).unwrap();
    let direct = SocketAddr::from((Ipv4Addr::LOCALHOST, echo.port()));
    let wire = Wire::to(direct);
    // Accepted by the system and by nobody else.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused = refused();
    let ips: &[IpAddr] = match has_v6() {
        true => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        false => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let mut sent = vec![];
    let mut has_cut = false;
    for step in 0..steps {
        let (target, to) = match random.below(10) {
            0 => (Target::Refused, refused.0),
            1 => (Target::Silent, silent.local_addr().unwrap()),
            2..4 if may_cut => (Target::Wire, wire.at),
            4 if may_cut => {
                wire.cut();
                has_cut = true;
                continue;
            }
            5 => {
                fuzz(&mut random, node.port());
                continue;
            }
            6 => {
                std::thread::sleep(Duration::from_millis(random.below(60)));
                continue;
            }
            _ => (
                Target::Echo,
                (ips[random.below(ips.len() as u64) as usize], echo.port()).into(),
            ),
        };
        let text = format!("{seed} {step} {}", "y".repeat(random.below(3000) as usize));
        let message = Message::to(to, text.clone()).unwrap();
        let is_request = random.is(2);
        let begun = Instant::now();
        let outcome = match is_request {
            true => node.request(message),
            false => node.send(message),
        };
        sent.push(Sent {
            outcome,
            target,
            begun,
            text,
            is_request,
        });
    }
    let mut ends = [0, 0];
    for Sent {
        mut outcome,
        target,
        begun,
        text,
        is_request,
    } in sent
    {
        let what = || format!("seed {seed}, {target:?}, request: {is_request}, modes {synchronous:?}");
        let end = outcome.wait(Wait::Until(begun + LIMIT));
        match &end {
            Ok(None) => panic!("no end: {}", what()),
            Ok(Some(message)) => {
                assert_eq!(message.text_lossy(), text, "{}", what());
                let may_be = matches!(target, Target::Echo | Target::Wire);
                assert!(may_be, "nobody was there: {}", what());
                ends[0] += 1;
            }
            Err(error) => {
                let is_fitting = match (target, error) {
                    (Target::Refused, PoolError::Refused { .. }) => true,
                    (Target::Silent, PoolError::TimedOut { .. }) => true,
                    (
                        Target::Wire,
                        PoolError::PeerDied { .. } | PoolError::NoPeer { .. } | PoolError::TimedOut { .. },
                    ) => true,
                    // Through the wire the echo has another connection with the same node: what is cut there may have been an answer.
                    (
                        Target::Echo,
                        PoolError::PeerDied { .. } | PoolError::TimedOut { .. } | PoolError::NoPeer { .. },
                    ) => has_cut,
                    // Cut in the middle of the handshake.
                    (Target::Wire | Target::Echo, PoolError::Tls { .. }) => has_cut && usual.always_encrypt,
                    _ => false,
                };
                assert!(is_fitting, "{error:?}: {}", what());
                ends[1] += 1;
            }
        }
        // There is one end: a message is given away once, an error stays the same.
        let again = outcome.wait(Duration::ZERO);
        match (end, again) {
            (Ok(_), again) => assert!(matches!(again, Err(PoolError::Taken)), "{again:?}: {}", what()),
            (Err(error), again) => assert_eq!(error.to_string(), again.unwrap_err().to_string()),
        }
    }
    node.stop(5 * SECOND)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    echo.stop(5 * SECOND)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let twice = handled.lock().unwrap().values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "seed {seed}: handled twice");
    ends
}

/// Random bytes, or a greeting and up to three random pieces, at the node's own port.
fn fuzz(random: &mut Random, port: u16) {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return;
    };
    let mut pieces = random.below(4);
    if random.is(2) {
        let identity = Identity::random();
        let greeting = Handshake {
            port: random.next() as u16,
            identity,
        };
        let _ = stream.write_all(&greeting.to_bytes());
    } else {
        pieces += 1;
    }
    for _ in 0..pieces {
        let bytes: Vec<u8> = (0..random.below(500)).map(|_| random.next() as u8).collect();
        let _ = stream.write_all(&bytes);
    }
    if random.is(2) {
        let _ = stream.shutdown(Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_millis(random.below(20) + 1)))
            .unwrap();
        let _ = stream.read(&mut [0; 100]);
    }
}

/// Some runs at a time: they mostly wait.
fn runs(seeds: std::ops::Range<u64>, steps: usize, usual: &Config) {
    let next = AtomicU64::new(seeds.start);
    let ends = Mutex::new([0, 0]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let [good, bad] = run(seed * 0x9e37_79b9 + 1, steps, usual);
                    let mut ends = ends.lock().unwrap();
                    *ends = [ends[0] + good, ends[1] + bad];
                }
            });
        }
    });
    let [good, bad] = ends.into_inner().unwrap();
    println!("{good} messages came through, {bad} did not");
    assert!(good > bad && bad > 0);
}

#[test]
fn every_send_and_request_has_one_end_in_its_time_whatever_happens() {
    let _watchdog = watchdog(240 * SECOND);
    runs(1..17, 40, &plain());
}

#[test]
#[ignore = "a soak of minutes: cargo test --release --all-features --test pool_stateful -- --ignored --nocapture"]
fn five_hundred_random_runs() {
    let _watchdog = watchdog(3600 * SECOND);
    runs(1000..1500, 80, &plain());
}

/// Encrypted everywhere.
#[cfg(feature = "tls")]
fn encrypted(folder: &support::Folder) -> Config {
    let path = folder.0.join("node.pem");
    std::fs::write(&path, certificates::Authority::new("authority").issue("node").pem()).unwrap();
    Config::new().port(0).cert_chain_pem(path).always_encrypt(true)
}

#[cfg(feature = "tls")]
#[test]
fn so_it_has_over_encrypted_connections() {
    let _watchdog = watchdog(240 * SECOND);
    runs(31..43, 40, &encrypted(&support::folder("stateful")));
}

#[cfg(feature = "tls")]
#[test]
#[ignore = "a soak of minutes: cargo test --release --all-features --test pool_stateful -- --ignored --nocapture"]
fn two_hundred_random_runs_over_encrypted_connections() {
    let _watchdog = watchdog(3600 * SECOND);
    runs(2000..2200, 80, &encrypted(&support::folder("stateful")));
}
