//! What encryption costs the pool: handshakes, a request and its answer, and big messages one way, each beside the same in plain.
//!
//! `cargo bench --features tls --bench pool_tls`. Both nodes are in this process, on a loop each, over loopback TCP. Rounds of what is compared take turns;
//! printed are the median and the 10th to 90th percentile.

#[path = "../tests/certificates/mod.rs"]
mod certificates;

use certificates::Authority;
use std::path::Path;
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::channel::SocketChannel;
use syncq::pool::{Chirp, Config, Loop, Message, TlsIdentity};

const ROUNDS: usize = 15;
const HANDSHAKES: usize = 50;
const REQUESTS: usize = 1000;
const BIG: usize = 64 << 10;
const BIG_ONES: usize = 2000;

fn main() {
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let authority = Authority::new("authority");
    let of_ecdsa = [authority.identity("one"), authority.identity("other")];
    println!("one encrypted connection made, both sides in one thread:");
    let samples = (0..ROUNDS).map(|_| handshakes(&of_ecdsa)).collect();
    print("ECDSA P-256", samples, "us");
    if let (Some(root), Some(key)) = (certificates::key_rsa(), certificates::key_rsa()) {
        let root = Authority::with_key("root", root);
        let node = root.issue_with("one", key, |_| {});
        let node = TlsIdentity::from_pem(node.pem().as_bytes()).expect("a good certificate");
        let samples = (0..ROUNDS).map(|_| handshakes(&[node.clone(), node.clone()])).collect();
        print("RSA 2048", samples, "us");
    }

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("bench-{}.pem", std::process::id()));
    std::fs::write(&path, authority.issue("node").pem()).expect("the target folder is writable");
    let plain = Pair::new(config().disable_encryption(true));
    let encrypted = Pair::new(config().cert_chain_pem(&path).always_encrypt(true));
    let _ = std::fs::remove_file(&path);
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        samples[0].push(plain.requests());
        samples[1].push(encrypted.requests());
        samples[2].push(plain.stream());
        samples[3].push(encrypted.stream());
    }
    let [asked, asked_secretly, sent, sent_secretly] = samples;
    println!("64 bytes and back, one at a time, asynchronous, median of each round:");
    print("plain", asked, "us");
    print("encrypted", asked_secretly, "us");
    println!("messages of 64 KiB one way, asynchronous, until the last was handled:");
    print("plain", sent, "MB/s");
    print("encrypted", sent_secretly, "MB/s");
}

fn print(what: &str, mut samples: Vec<f64>, unit: &str) {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
    println!(
        "  {what:<52} {:>9.2} {unit}   ({:.2} to {:.2})",
        at(0.5),
        at(0.1),
        at(0.9)
    );
}

/// Microseconds for each.
fn handshakes([one, other]: &[TlsIdentity; 2]) -> f64 {
    let begun = Instant::now();
    for _ in 0..HANDSHAKES {
        let (near, far) = SocketChannel::pair().expect("descriptors");
        let mut near = one.connect(near).expect("randomness");
        let mut far = other.accept(far).expect("randomness");
        while near.is_handshaking() || far.is_handshaking() {
            near.handshake(Wait::Never).expect("they trust each other");
            far.handshake(Wait::Never).expect("they trust each other");
        }
    }
    begun.elapsed().as_secs_f64() * 1e6 / HANDSHAKES as f64
}

fn config() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .synchronous(false)
        .timeout(Duration::from_secs(60))
}

struct Pair {
    client: Chirp,
    server: Chirp,
    _loops: [Loop; 2],
}

impl Pair {
    fn new(config: Config) -> Self {
        let loops = [Loop::new().expect("a loop"), Loop::new().expect("a loop")];
        let echo = |chirp: &Chirp, message: Message| {
            // The big ones are only taken.
            if message.data().len() < BIG {
                chirp.send(message);
            }
        };
        let pair = Pair {
            server: Chirp::new(&loops[0], config.clone(), echo).expect("a port"),
            client: Chirp::new(&loops[1], config, |_: &Chirp, _: Message| {}).expect("a port"),
            _loops: loops,
        };
        pair.requests();
        pair
    }

    fn message(&self, len: usize) -> Message {
        Message::to(self.server.local_address(), vec![b'x'; len]).expect("an address")
    }

    /// Microseconds, the median.
    fn requests(&self) -> f64 {
        let mut samples: Vec<f64> = (0..REQUESTS)
            .map(|_| {
                let message = self.message(64);
                let begun = Instant::now();
                self.client.request(message).result().expect("an answer");
                begun.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        samples[REQUESTS / 2]
    }

    /// Megabytes a second. The answer to the last comes when all are taken.
    fn stream(&self) -> f64 {
        let begun = Instant::now();
        for _ in 0..BIG_ONES {
            drop(self.client.send(self.message(BIG)));
        }
        self.client.request(self.message(64)).result().expect("an answer");
        (BIG * BIG_ONES) as f64 / begun.elapsed().as_secs_f64() / 1e6
    }
}
