//! Forked workers whose every word arrives at the parent, in order: what they print, log and panic with, and what their child processes print.
//!
//! ```text
//! cargo run --release --example line_pool --features log
//! ```
//!
//! Four workers do five steps each. In each step a worker prints with `println!`, logs, and runs a child process that prints. The third panics in
//! its last step, and the fourth is killed with SIGKILL in the middle of a line. The parent shows all of it as it comes, and checks at the end that
//! every worker's words came in the order in which it said them. It ends with 1 if they did not.

use nix::sys::signal::{Signal, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use std::collections::BTreeMap;
use std::error::Error;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use syncq::Wait;
use syncq::line::{Capture, Content, LineItem, LineLog, LineProcBuffer, LineProcMirror, Mirror, Streams};

const STEPS: usize = 5;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let parent = LineProcBuffer::new(1000)?;
    let mut pids = Vec::new();
    for name in ["anna", "bert", "cara", "dirk"] {
        let mirror = parent.mirror(name)?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => std::process::exit(work(mirror)),
            ForkResult::Parent { child } => pids.push(child),
        }
    }

    let mut said: BTreeMap<String, Vec<LineItem>> = BTreeMap::new();
    let mut lines = parent.follow(Wait::For(Duration::from_millis(50)));
    loop {
        for item in lines.by_ref() {
            let item = item?;
            let origin = item.origin.clone().ok_or("an item of nobody")?;
            println!("{:>5} {}: {}", origin.pid, origin.name, item.printable());
            said.entry(origin.name.clone()).or_default().push(item);
        }
        if !parent.is_at_work()? && parent.stats()?.stored == lines.next_seq() {
            break;
        }
    }
    for pid in pids {
        waitpid(pid, None)?;
    }

    let wrong: Vec<String> = said
        .iter()
        .filter_map(|(name, items)| check(name, items).err())
        .collect();
    wrong.iter().for_each(|wrong| println!("{wrong}"));
    let is_right = wrong.is_empty() && said.len() == 4;
    println!(
        "{} workers, {} items, {}",
        said.len(),
        parent.stats()?.stored,
        if is_right { "all in order" } else { "out of order" }
    );
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The life of a worker. Everything in here prints and logs as any program does, and knows nothing of the parent.
fn work(mirror: LineProcMirror) -> i32 {
    let name = mirror.name().to_owned();
    let mirror = Arc::new(mirror);
    let Ok(capture) = Capture::begin(mirror.clone(), Streams::Together) else {
        return 2;
    };
    if LineLog::new(mirror.clone()).install().is_err() {
        return 2;
    }
    let outcome = std::panic::catch_unwind(|| {
        for step in 1..=STEPS {
            println!("step {step}: printed");
            log::info!(step; "step {step}: logged");
            let _ = Command::new("echo")
                .arg(format!("step {step}: from a child process"))
                .status();
            if step == STEPS {
                match name.as_str() {
                    "cara" => panic!("step {step}: no more"),
                    "dirk" => {
                        eprint!("step {step}: in the middle of a li");
                        // What is printed goes through a pipe of this process. Given a moment, it is on its way.
                        capture.sync();
                        let _ = raise(Signal::SIGKILL).map_err(|_| Pid::this());
                    }
                    _ => {}
                }
            }
        }
    });
    // Sends what is left, and then says that this is the end.
    drop(capture);
    let _ = mirror.close();
    i32::from(outcome.is_err())
}

/// Whether a worker's words came as it said them.
fn check(name: &str, items: &[LineItem]) -> Result<(), String> {
    let mut texts = items.iter().map(|item| item.to_string());
    for step in 1..=STEPS {
        for word in ["printed", "logged", "from a child process"] {
            let text = texts.next().unwrap_or_default();
            if !text.contains(&format!("step {step}: {word}")) {
                return Err(format!("{name}: {text:?} where step {step} should have been {word}"));
            }
        }
    }
    let rest: Vec<String> = texts.collect();
    let last = items.last().map(|item| &item.content);
    let is_right = match name {
        "cara" => rest.iter().any(|text| text.contains("no more")),
        "dirk" => matches!(last, Some(Content::Lost(_))),
        _ => rest.is_empty(),
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("{name}: ended with {rest:?}"))
    }
}
