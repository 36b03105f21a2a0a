//! Lines over HTTP, beside the Python package syncstream in the same run.
//!
//! `cargo bench --features host --bench host` does all, in interleaved rounds, and prints medians, spreads and ratios. Each line is written by a call of
//! its own, as `print` does, and a round ends when the last has arrived. The Python package is installed into an environment under `target/`;
//! without it, its rows are left out and that is said.

#[path = "../tests/support/python.rs"]
mod python;

use python::{Environment, Peer};
use std::time::{Duration, Instant};
use syncq::host::{LineHostBuffer, LineHostMirror};

const LINE: &str = "worker 3 has done 1234 of 5678 files so far\n";
const ROUNDS: usize = 5;
const OURS: usize = 200_000;
const THEIRS: usize = 400;

/// The package's server.
const SERVER: &str = r#"
import sys, threading, logging
from flask import Flask
from werkzeug.serving import make_server
from syncstream import LineHostBuffer
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
app = Flask("service")
LineHostBuffer("/sync-stream", maxlen=20).serve(app)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}/sync-stream")
sys.stdin.read()
"#;

/// The package's mirror. Says lines/s.
const MIRROR: &str = r#"
import sys, time
from syncstream import LineHostMirror
address, line, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
mirror = LineHostMirror(address)
mirror.write("warm\n")
start = time.perf_counter()
for _ in range(count): mirror.write(line)
print(count / (time.perf_counter() - start))
"#;

fn main() {
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let peer = python::environment(&python::Wanted {
        name: "syncstream",
        packages: &[
            "syncstream[host]==1.2.2",
            "flask==3.1.3",
            "werkzeug==3.1.9",
            "urllib3==2.8.0",
        ],
        imports: &["flask", "urllib3", "syncstream"],
        ..python::Wanted::NOTHING
    });
    let buffer = LineHostBuffer::new("/sync-stream", 20).expect("a buffer");
    let service = buffer.serve("127.0.0.1:0").expect("an address");
    let original = peer.as_ref().map(serve);
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rates[0].push(ours(service.url()));
        if let (Some(python), Some((_, address))) = (&peer, &original) {
            rates[1].push(ours(address));
            rates[2].push(theirs(python, service.url()));
            rates[3].push(theirs(python, address));
        }
    }
    let original = median(&mut rates[3].clone());
    println!(
        "lines/s of {} bytes, median of {ROUNDS} interleaved rounds (lowest to highest)",
        LINE.len()
    );
    let names = [
        "our mirror, our service",
        "our mirror, the original's",
        "the original's mirror, our service",
        "both the original's",
    ];
    for (name, rates) in names.iter().zip(&mut rates) {
        let middle = median(rates);
        let (Some(lowest), Some(highest)) = (rates.first(), rates.last()) else {
            println!("{name:<36} not run");
            continue;
        };
        let ratio = middle / original;
        println!("{name:<36} {middle:>12.0}  ({lowest:.0} to {highest:.0})  {ratio:.1} times the original");
    }
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

fn serve(python: &Environment) -> (Peer, String) {
    let mut peer = python.start::<&str>(SERVER, &[]);
    let address = peer.must_say();
    (peer, address)
}

fn ours(address: &str) -> f64 {
    let mirror = LineHostMirror::options()
        .patience(Duration::from_secs(60))
        .connect(address)
        .expect("a mirror");
    mirror.write("warm\n").expect("a mirror writes");
    assert!(
        mirror.drain(Duration::from_secs(60)).expect("it is ours"),
        "the service answers"
    );
    let start = Instant::now();
    for _ in 0..OURS {
        mirror.write(LINE).expect("a mirror writes");
    }
    let report = mirror.finish(Duration::from_secs(60)).expect("all has arrived");
    assert_eq!(report.sent, OURS as u64 + 1);
    OURS as f64 / start.elapsed().as_secs_f64()
}

fn theirs(python: &Environment, address: &str) -> f64 {
    python
        .must_run(MIRROR, &[address, LINE, &THEIRS.to_string()])
        .trim()
        .parse()
        .expect("a rate")
}
