//! The real binary, run by tests: to its end, or in the background.

#![allow(dead_code, reason = "each test file uses its own part")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};
use syncq::{Queue, QueueOptions, Start};

pub const SYNCQ: &str = env!("CARGO_BIN_EXE_syncq");

pub fn syncq(args: &[&str]) -> Command {
    let mut command = Command::new(SYNCQ);
    command.args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// What a run ended with.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }
}

impl Ran {
    /// Its output, if it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Its error output, if it ended with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.err
    }

    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }
}

pub fn run(args: &[&str]) -> Ran {
    syncq(args).output().expect("it starts").into()
}

pub fn run_with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut running = start(args);
    let mut stdin = running.stdin();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may have enough before the end.
        let _ = stdin.write_all(&input);
    });
    let ran = running.end();
    writer.join().expect("the writer does not panic");
    ran
}

/// One in the background; killed if it is still there at the end of the test.
#[derive(Debug)]
pub struct Running(Option<Child>);

pub fn start(args: &[&str]) -> Running {
    let mut command = syncq(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Running(Some(command.spawn().expect("it starts")))
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it was not ended")
    }

    pub fn pid(&self) -> u32 {
        self.0.as_ref().expect("it was not ended").id()
    }

    pub fn stdin(&mut self) -> ChildStdin {
        self.child().stdin.take().expect("asked for once")
    }

    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child().stdout.take().expect("asked for once")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        self.0
            .take()
            .expect("ended once")
            .wait_with_output()
            .expect("wait")
            .into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until process `pid` takes part in the queue.
#[track_caller]
pub fn until_joined(queue: &Queue, pid: u32) {
    until("it has joined", || {
        queue.members().iter().any(|m| m.pid == pid && m.role.is_some())
    });
}

/// Waits until it is so; a minute at most.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "waited a minute until {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All messages that can still be read, as (sender, kind, body).
pub fn history(name: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut observer = QueueOptions::new().observe(name, Start::Oldest).expect("it is there");
    observer
        .drain()
        .map(|m| m.expect("it is whole"))
        .map(|m| (m.sender().to_owned(), m.kind().to_owned(), m.body().to_vec()))
        .collect()
}
