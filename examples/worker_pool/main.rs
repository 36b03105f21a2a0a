//! Forked workers share the files of a tree between them and log everything they find through one queue.
//!
//! ```text
//! cargo run --release --example worker_pool                        # this folder, one worker per processor
//! cargo run --release --example worker_pool -- /usr/share --verify # then once more in one process, and compare
//! cargo run --release --example worker_pool -- --verify --kill     # and SIGKILL workers meanwhile
//! ```
//!
//! What it shows:
//!
//! * **One log queue.** Each worker is a `Writer` on it, the parent its only `Reader`. Results, warnings and progress notes
//!   come in one order. What belongs together (a warning and the result it is about) is appended with `append_all`.
//! * **A mailbox per worker**, a small queue on which the parent is the `Writer`. A worker that is busy with a huge file for
//!   a minute reads nothing meanwhile, and so holds back nobody but itself.
//! * **Death.** A result is in the queue or it is not; there is no half. So when `waitpid` tells that a worker has died, the
//!   parent reads what the log still holds, and hands the files without a result to others.
//!
//! Where to look: `worker.rs` is what a worker does, `parent.rs` what the parent does, `messages.rs` what they say to each
//! other. The rest has to do with files and figures, not with queues.
//!
//! Memory does not grow with the tree: the parent walks it as workers ask for more. Only `--verify` has to remember every
//! file. Content hashes are FNV-1a, 64 bits.

mod analyse;
mod messages;
mod options;
mod parent;
mod progress;
mod report;
mod totals;
mod verify;
mod walk;
mod worker;

use options::{Options, Parsed};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match options::parse(std::env::args_os().skip(1)) {
        Parsed::Help => {
            say(options::HELP);
            ExitCode::SUCCESS
        }
        Parsed::Wrong(why) => {
            eprintln!("worker_pool: {why}\nTry --help.");
            ExitCode::from(2)
        }
        Parsed::Run(options) => match run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("worker_pool: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Whether all went well.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let roots = walk::roots(&options.paths)?;
    let harvest = parent::run(options, &roots)?;
    let verdict = options.verify.then(|| verify::verify(&roots, &harvest));
    say(&match options.json {
        true => report::json(&harvest, verdict.as_ref()),
        false => report::table(&harvest, verdict.as_ref()),
    });
    Ok(verdict.is_none_or(|v| v.is_good()))
}

/// Prints it; that nobody reads on (`| head`) is no failure.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
