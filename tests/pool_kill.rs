//! A node is killed while others ask it for something: every request ends, in time, in an answer or an error; and nothing is left behind.

#[cfg(feature = "tls")]
mod certificates;
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{eventually, watchdog};
use syncq::pool::{Chirp, Config, Loop, Message, PoolError};

const SECOND: Duration = Duration::from_secs(1);
/// What a request may take.
const LIMIT: Duration = SECOND;
const THREADS: u64 = 8;

/// Descriptors and threads of this process are counted: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Of nodes and loops; the test harness has some of its own.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.starts_with("chirp")).count()
}

fn config(synchronous: bool, certificates: Option<&Path>) -> Config {
    let config = Config::new()
        .bind_v4(Some(Ipv4Addr::LOCALHOST))
        .bind_v6(None)
        .timeout(LIMIT)
        .handshake_timeout(LIMIT)
        .synchronous(synchronous);
    match certificates {
        Some(path) => config.cert_chain_pem(path).always_encrypt(true),
        None => config.disable_encryption(true),
    }
}

/// The node that is killed: a process of its own, which is this program with another environment. It ends when its standard input does.
struct Victim(Child);

const ROLE: &str = "SYNCQ_TEST_POOL_VICTIM";

impl Victim {
    fn start(port: u16, synchronous: bool, certificates: Option<&Path>) -> (Self, u16) {
        let file = certificates.map_or(String::new(), |path| path.display().to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "the_process_that_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, format!("{port} {synchronous} {file}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let said = line.split("listens at ").nth(1)?;
            said.parse().ok()
        });
        (Victim(child), said.expect("it says where it listens"))
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Not a test of its own: the other process of those below. Answers everything; every third message only after it has asked the sender
/// something itself.
#[test]
fn the_process_that_is_killed() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut words = role.splitn(3, ' ');
    let (port, synchronous) = (words.next().unwrap().parse().unwrap(), words.next().unwrap() == "true");
    let file = words.next().filter(|file| !file.is_empty()).map(PathBuf::from);
    let looper = Loop::new().unwrap();
    let handled = AtomicU64::new(0);
    let answer = Arc::new(move |chirp: &Chirp, message: Message| {
        if handled.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            let question = Message::to(message.peer().clone(), "and you?").unwrap();
            let _ = chirp.request(question).result();
        }
        chirp.send(message);
    });
    // The port of one that was killed just now.
    let until = Instant::now() + 20 * SECOND;
    let config = config(synchronous, file.as_deref()).port(port);
    let chirp = loop {
        let answer = answer.clone();
        match Chirp::new(&looper, config.clone(), move |chirp: &Chirp, message: Message| {
            answer(chirp, message)
        }) {
            Ok(chirp) => break chirp,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    println!("listens at {}", chirp.port());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

/// xorshift: the moments of death.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn storm(kills: u64, seed: u64, certificates: Option<&Path>) {
    let _alone = alone();
    assert_eq!(threads(), 0);
    let before = descriptors();
    let looper = Loop::new().unwrap();
    let respond = |chirp: &Chirp, message: Message| {
        chirp.send(message);
    };
    let client = Chirp::new(&looper, config(true, certificates).port(0), respond).unwrap();
    let (mut victim, port) = Victim::start(0, true, certificates);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (is_over, answered, slowest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let errors = Mutex::new(BTreeMap::<String, u64>::new());
    let mut random = Random(seed);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, is_over, answered, slowest, errors) = (&client, &is_over, &answered, &slowest, &errors);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let text = format!("{thread} {number} {}", "x".repeat((number * 37 % 3000) as usize));
                    let request = Message::to(at, text.clone()).unwrap();
                    let begun = Instant::now();
                    let outcome = client.request(request).result();
                    slowest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                    match outcome {
                        Ok(answer) => {
                            assert_eq!(answer.text_lossy(), text);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            let name = match &error {
                                PoolError::Refused { .. } => "refused".into(),
                                PoolError::NoPeer { .. } => "no peer".into(),
                                PoolError::PeerDied { .. } => "died".into(),
                                PoolError::TimedOut { stage, .. } => format!("timed out: {stage}"),
                                // The process was killed in the middle of the handshake.
                                PoolError::Tls { .. } if certificates.is_some() => "encryption".into(),
                                other => panic!("{other:?}"),
                            };
                            *errors.lock().unwrap().entry(name).or_default() += 1;
                            // Refusals come fast: leave the processors to the one that starts.
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
            });
        }
        for kill in 0..kills {
            let life = Duration::from_micros(random.below(60_000));
            // Some die before anything was said, most in the middle of it.
            if random.below(8) > 0 {
                let seen = answered.load(Ordering::Relaxed);
                eventually("the node answers", || answered.load(Ordering::Relaxed) > seen);
            }
            std::thread::sleep(life);
            victim.kill();
            victim = Victim::start(port, kill % 2 == 0, certificates).0;
        }
        let seen = answered.load(Ordering::Relaxed);
        eventually("the last one answers", || answered.load(Ordering::Relaxed) > seen + 100);
        is_over.store(true, Ordering::Relaxed);
    });
    let (answered, slowest) = (answered.into_inner(), slowest.into_inner());
    let errors = errors.into_inner().unwrap();
    println!("{kills} kills: {answered} answered, slowest {slowest} ms, errors {errors:?}");
    let failed: u64 = errors.values().sum();
    assert!(kills < 8 || failed > 0, "the kills were noticed");
    assert!(
        Duration::from_millis(slowest) < 10 * LIMIT,
        "a request took {slowest} ms"
    );

    // While it lives: the loop, the listener, and what connects it to the one that is there.
    eventually("the connections of the dead are closed", || descriptors() < before + 16);
    drop(victim);
    // Says so if a message was not released.
    client.stop(10 * SECOND).unwrap();
    drop(client);
    looper.stop();
    drop(looper);
    eventually("all descriptors are closed", || descriptors() <= before);
    eventually("all threads have ended", || threads() == 0);
}

#[test]
fn every_request_ends_when_the_node_that_is_asked_is_killed() {
    let _watchdog = watchdog(120 * SECOND);
    storm(12, 0x9e37_79b9_7f4a_7c15, None);
}

#[cfg(feature = "tls")]
fn encrypted_storm(kills: u64, seed: u64) {
    let folder = support::folder("kill");
    let path = folder.0.join("node.pem");
    std::fs::write(&path, certificates::Authority::new("authority").issue("node").pem()).unwrap();
    storm(kills, seed, Some(&path));
}

#[cfg(feature = "tls")]
#[test]
fn so_it_does_over_encrypted_connections() {
    let _watchdog = watchdog(120 * SECOND);
    encrypted_storm(6, 0x0123_4567_89ab_cdef);
}

#[test]
#[ignore = "a soak of minutes: cargo test --release --all-features --test pool_kill -- --ignored --nocapture a_thousand"]
fn a_thousand_kills() {
    let _watchdog = watchdog(1800 * SECOND);
    storm(1000, 0x2545_f491_4f6c_dd1d, None);
}

#[cfg(feature = "tls")]
#[test]
#[ignore = "a soak of minutes: cargo test --release --all-features --test pool_kill -- --ignored --nocapture encrypted"]
fn a_thousand_kills_over_encrypted_connections() {
    let _watchdog = watchdog(1800 * SECOND);
    encrypted_storm(1000, 0x2545_f491_4f6c_dd1d);
}
