//! What is shown while the work goes on: warnings always, and one line of progress if stderr is a terminal.

use crate::walk::printable_text;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Warnings printed one by one; more are only counted.
const MOST_WARNINGS: u64 = 20;
const PAUSE: Duration = Duration::from_millis(100);
const WIDTH: usize = 79;

#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    next: Instant,
    pub warnings: u64,
}

impl Progress {
    pub fn new() -> Self {
        Progress {
            is_shown: stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
            next: Instant::now(),
            warnings: 0,
        }
    }

    /// Replaces the line, though not more often than eyes can follow.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        if self.is_shown && Instant::now() >= self.next {
            self.next = Instant::now() + PAUSE;
            let line: String = printable_text(&line()).chars().take(WIDTH).collect();
            let _ = write!(stderr(), "\r\x1b[K{line}");
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    pub fn warn(&mut self, what: impl FnOnce() -> String) {
        self.warnings += 1;
        if self.warnings <= MOST_WARNINGS {
            self.clear();
            let _ = writeln!(stderr(), "warning: {}", what());
        }
        if self.warnings == MOST_WARNINGS {
            let _ = writeln!(stderr(), "further warnings are only counted");
        }
    }
}
