//! Lines from a worker to its parent, beside the Python package syncstream in the same run.
//!
//! `cargo bench --bench line` does all, in interleaved rounds, and prints medians, spreads and ratios. The Python package is installed into an
//! environment under `target/`; without it, its rows are left out and that is said. For other tools there is a plain loop:
//! `-- loop plain|delay|buffer LINES` (`strace -f -c`, `valgrind --tool=callgrind`).

#[path = "../tests/support/python.rs"]
mod python;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::io::Write;
use std::time::{Duration, Instant};
use syncq::Wait;
use syncq::line::{LineBuffer, LineProcBuffer, LineProcMirror};

const LINE: &str = "worker 3 has done 1234 of 5678 files so far\n";
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [first, way, lines] = arguments.as_slice()
        && first == "loop"
    {
        let lines = lines.parse().expect("a number of lines");
        println!("{:.0} lines/s", run(way, lines));
        return;
    }
    // `cargo test` runs benches once, without `--bench`; there is nothing to test about speed.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let peer = python::environment(&python::Wanted {
        name: "syncstream",
        packages: &["syncstream[host,file]==1.2.2"],
        imports: &["syncstream"],
        ..python::Wanted::NOTHING
    });
    let ways = ["plain", "four threads", "delay", "buffer"];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let (mut python_proc, mut python_buffer) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (way, rates) in ways.iter().zip(&mut rates) {
            rates.push(run(way, 1_000_000));
        }
        if let Some(peer) = &peer {
            let told = peer.must_run(PYTHON, &[LINE, "4000"]);
            let mut rates = told.split_whitespace().map(|rate| rate.parse::<f64>().expect("a rate"));
            python_proc.push(rates.next().expect("the first of two"));
            python_buffer.push(rates.next().expect("the second of two"));
        }
    }
    println!(
        "lines/s of {} bytes, median of {ROUNDS} interleaved rounds (lowest to highest)",
        LINE.len()
    );
    let mut medians = Vec::new();
    for (way, rates) in [
        "worker to parent, a message for each line",
        "worker to parent, four threads on one mirror",
        "worker to parent, gathered for up to 2 ms",
        "LineBuffer, one process",
    ]
    .iter()
    .zip(&mut rates)
    {
        medians.push(report(way, rates));
    }
    if peer.is_some() {
        let proc = report("syncstream 1.2.2, worker to parent", &mut python_proc);
        let buffer = report("syncstream 1.2.2, LineBuffer", &mut python_buffer);
        println!("worker to parent: {:.0} times the original", medians[0] / proc);
        println!("one process:      {:.0} times the original", medians[3] / buffer);
    }
}

fn report(what: &str, rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    println!(
        "{what:<46} {median:>12.0} ({:.0} to {:.0})",
        rates[0],
        rates[rates.len() - 1]
    );
    median
}

fn run(way: &str, lines: usize) -> f64 {
    match way {
        "plain" => across(lines, |mirror| mirror, write_all),
        "four threads" => across(
            lines,
            |mirror| mirror,
            |mirror, lines| {
                std::thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(move || write_all(mirror, lines / 4));
                    }
                });
            },
        ),
        "delay" => across(lines, |mirror| mirror.delay(Duration::from_millis(2)), write_all),
        "buffer" => {
            let mut buffer = LineBuffer::new(20).expect("memory");
            let start = Instant::now();
            for _ in 0..lines {
                buffer.write_all(LINE.as_bytes()).expect("open");
            }
            lines as f64 / start.elapsed().as_secs_f64()
        }
        other => panic!("no such way: {other}"),
    }
}

fn write_all(mut mirror: &LineProcMirror, lines: usize) {
    for _ in 0..lines {
        mirror.write_all(LINE.as_bytes()).expect("the parent lives");
    }
}

/// From the first line that a forked worker writes until the parent has stored the last.
fn across(lines: usize, set: impl Fn(LineProcMirror) -> LineProcMirror, write: impl Fn(&LineProcMirror, usize)) -> f64 {
    let buffer = LineProcBuffer::new(20).expect("memory");
    let mirror = set(buffer.mirror("worker").expect("not forked yet"));
    let start = Instant::now();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            write(&mirror, lines);
            drop(mirror);
            // SAFETY: leaves without the parent's destructors.
            unsafe { nix::libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(mirror);
            let is_done = buffer
                .wait(Wait::For(Duration::from_secs(100)))
                .expect("our own buffer");
            let took = start.elapsed();
            assert!(is_done, "the worker is stuck");
            assert_eq!(waitpid(child, None).expect("our child"), WaitStatus::Exited(child, 0));
            assert_eq!(buffer.stats().expect("open").stored, lines as u64);
            lines as f64 / took.as_secs_f64()
        }
    }
}

const PYTHON: &str = r#"
import multiprocessing, sys, time
import syncstream

def work(mirror, line, lines):
    for _ in range(lines):
        mirror.write(line)
    mirror.send_eof()

if __name__ == "__main__":
    line, lines = sys.argv[1], int(sys.argv[2])
    context = multiprocessing.get_context("fork")
    buffer = syncstream.LineProcBuffer(maxlen=20)
    worker = context.Process(target=work, args=(buffer.mirror, line, lines))
    start = time.perf_counter()
    worker.start()
    buffer.wait()
    proc = lines / (time.perf_counter() - start)
    worker.join()
    buffer = syncstream.LineBuffer(maxlen=20)
    start = time.perf_counter()
    for _ in range(10 * lines):
        buffer.write(line)
    print(proc, 10 * lines / (time.perf_counter() - start))
"#;
