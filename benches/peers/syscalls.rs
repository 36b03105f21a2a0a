//! System calls for each message while both sides are busy, counted by strace between marks that the ends leave in its log.

use crate::results::Results;
use crate::{bars, cases, subjects};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

const MESSAGES: u64 = 1_000_000;

/// Counts for our subjects, `rounds` times each.
pub fn count(results: &mut Results, rounds: usize) {
    for round in 0..rounds {
        for subject in ["syncq", "syncq single_writer"] {
            match count_once(subject) {
                Ok(each) => results.add(bars::SYSCALLS, subject, "a message", each),
                Err(why) => {
                    results.failures.push(format!("{}: {subject}: {why}", bars::SYSCALLS));
                    if round == 0 {
                        return;
                    }
                }
            }
        }
    }
}

fn count_once(subject: &str) -> Result<f64, String> {
    let log = std::env::temp_dir().join(format!("{}strace", crate::run::prefix()));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new("timeout")
        .args(["--kill-after=5", "60", "strace", "-f", "-o"])
        .arg(&log)
        .arg(program)
        .args(["--stream", subject, "64", &MESSAGES.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let text = std::fs::read_to_string(&log);
    let _ = std::fs::remove_file(&log);
    match status {
        Err(error) => return Err(format!("strace could not be started: {error}")),
        Ok(status) if !status.success() => return Err(format!("strace: {status}; is it installed and allowed?")),
        Ok(_) => {}
    }
    let text = text.map_err(|error| format!("strace left no log: {error}"))?;
    Ok(calls_between_marks(&text) as f64 / MESSAGES as f64)
}

/// Lines of processes that are between their marks. A line is a process number and a call.
fn calls_between_marks(log: &str) -> u64 {
    let (mut active, mut calls) = (BTreeSet::new(), 0);
    for line in log.lines() {
        let Some((process, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if call.contains("/syncq-peers-begins") {
            active.insert(process);
        } else if call.contains("/syncq-peers-ends") {
            active.remove(process);
        } else if active.contains(process) && call.starts_with(|first: char| first.is_ascii_lowercase()) {
            calls += 1;
        }
    }
    calls
}

/// What strace runs, and whoever wants to see one stream alone under some other tool.
pub fn stream(subject: &str, len: usize, messages: u64) -> Result<String, String> {
    let subject = subjects::all()
        .into_iter()
        .find(|known| known.name() == subject)
        .ok_or("no such subject")?;
    crate::run::MARKS.store(true, std::sync::atomic::Ordering::Relaxed);
    let entry = cases::one_stream(subject, len);
    let measured = entry.run(messages, crate::board::Board::new())?;
    let figure = entry.figures(&measured).remove(0);
    Ok(format!("{} {:.3} {}", subject.name(), figure.value, figure.unit))
}
