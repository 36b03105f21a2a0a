//! `syncq run`: a command whose output goes into a queue, line by line, and its exit status last.

use crate::fail::{Fail, Outcome};
use crate::lines::{Appender, Lines};
use crate::measure;
use crate::output::enlarge;
use crate::stop::{Stop, Woken};
use crate::target::Target;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Longest name to join with.
const LONGEST_SENDER: usize = 64;
/// As in sh(1).
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// Run a command with its output as messages, its exit status as the last one
///
/// Lines of standard output have the kind "out", of standard error "err"; an unfinished last line is a message too. Order is kept within
/// each of the two. A line too long for the queue comes in pieces, of which all but the last have the kind "out-part" or "err-part". The last
/// message has the kind "exit": the exit code, or "signal N". SIGTERM and SIGINT are handed on to the command; what it still writes is read to
/// its end.
///
/// Exit code: that of the command, 128 + N if signal N ended it, 127 if it was not found, 126 if it could not be started.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    target: Target,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
    /// The name to join with [default: the command's]
    #[arg(short, long)]
    sender: Option<String>,
    /// Also write what the command writes
    #[arg(short, long)]
    tee: bool,
    /// Give up, with exit code 124, when there is no room for this long [default: wait for ever, and the command with it]
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    /// Make the queue, with default options, if it is missing
    #[arg(short, long)]
    create: bool,
}

/// One of the command's two streams.
struct Stream {
    kind: &'static str,
    part: &'static str,
    from: File,
    lines: Lines,
    is_open: bool,
}

impl Stream {
    fn new(from: impl Into<OwnedFd>, kind: &'static str, part: &'static str) -> Self {
        let from = File::from(from.into());
        enlarge(&from);
        Stream {
            kind,
            part,
            from,
            lines: Lines::default(),
            is_open: true,
        }
    }

    /// Reads once and appends what lines there are.
    fn pass_on(&mut self, to: &mut Appender<'_>, tee: Option<&mut dyn Write>) -> Result<(), Fail> {
        let known = self.lines.rest().len();
        self.is_open = self.lines.fill(&mut self.from)?;
        if let Some(tee) = tee {
            tee.write_all(&self.lines.rest()[known..])?;
        }
        let longest = to.longest(self.part).max(1);
        let (mut complete, mut rest) = self.lines.complete();
        if !self.is_open && rest < self.lines.rest().len() {
            complete.push(&self.lines.rest()[rest..]);
            rest = self.lines.rest().len();
        }
        let mut messages: Vec<(&str, &[u8])> = Vec::with_capacity(complete.len());
        for line in complete {
            let mut line = line;
            while line.len() > longest {
                messages.push((self.part, &line[..longest]));
                line = &line[longest..];
            }
            messages.push((self.kind, line));
        }
        // A line that is too long already will not become shorter.
        while self.lines.rest().len() - rest > longest {
            messages.push((self.part, &self.lines.rest()[rest..rest + longest]));
            rest += longest;
        }
        to.append_all(&messages)?;
        self.lines.consume(rest);
        Ok(())
    }
}

impl Run {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        let queue = match self.create {
            true => self.target.open_or_create()?,
            false => self.target.open()?,
        };
        let program = &self.command[0];
        let mut to = Appender::join(&queue, &self.sender(), self.timeout, stop)?;
        // Losing nothing goes before ending early; who is in a hurry sends the signal twice.
        to.go_on_regardless();
        let mut child = Command::new(program)
            .args(&self.command[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let code = if error.kind() == io::ErrorKind::NotFound {
                    NOT_FOUND
                } else {
                    NOT_RUNNABLE
                };
                Fail::new(format!("{program}: {error}")).with_code(code)
            })?;
        let streams = [
            child.stdout.take().map(|s| Stream::new(s, "out", "out-part")),
            child.stderr.take().map(|s| Stream::new(s, "err", "err-part")),
        ];
        let streams: Vec<Stream> = streams.into_iter().flatten().collect();
        let passed = self.pass_on_all(streams, &mut child, &mut to, stop);
        // If nobody reads it any more, it learns that when it writes on.
        let status = child.wait()?;
        passed?;
        let (code, told) = tell(status);
        to.append("exit", told.as_bytes())?;
        Ok(code)
    }

    fn sender(&self) -> String {
        let name = self.sender.clone().unwrap_or_else(|| {
            let path = std::path::Path::new(&self.command[0]);
            path.file_name()
                .map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
        });
        match self.sender {
            Some(_) => name,
            None => name
                .chars()
                .scan(0, |len, c| {
                    *len += c.len_utf8();
                    (*len <= LONGEST_SENDER).then_some(c)
                })
                .collect(),
        }
    }

    fn pass_on_all(
        &self,
        mut streams: Vec<Stream>,
        child: &mut Child,
        to: &mut Appender<'_>,
        stop: &Stop,
    ) -> Result<(), Fail> {
        let mut is_told = false;
        while streams.iter().any(|stream| stream.is_open) {
            streams.retain(|stream| stream.is_open);
            let those: Vec<_> = streams.iter().map(|stream| stream.from.as_fd()).collect();
            let ready = if is_told {
                stop.wait_any_regardless(&those)?
            } else {
                match stop.wait_any(&those, None)? {
                    (Woken::Stopped, _) => {
                        hand_on(stop, child);
                        is_told = true;
                        continue;
                    }
                    (_, ready) => ready,
                }
            };
            for (stream, _) in streams.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
                let (mut out, mut err) = (io::stdout(), io::stderr());
                let tee: &mut dyn Write = if stream.kind == "out" { &mut out } else { &mut err };
                stream.pass_on(to, self.tee.then_some(tee))?;
            }
        }
        Ok(())
    }
}

/// Gives the command the signal that this process got. On a terminal, Ctrl-C has reached it already.
fn hand_on(stop: &Stop, child: &Child) {
    let Some(signal) = stop.signal().and_then(|number| Signal::try_from(number).ok()) else {
        return;
    };
    if signal == Signal::SIGINT && io::stdin().is_terminal() {
        return;
    }
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
}

fn tell(status: ExitStatus) -> (u8, String) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (code as u8, code.to_string()),
        (None, Some(signal)) => (128 + signal as u8, format!("signal {signal}")),
        (None, None) => (crate::fail::FAILED, "unknown".to_owned()),
    }
}
