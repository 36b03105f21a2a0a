//! `syncq append`: messages from arguments, from lines, or a file as one body.

use crate::fail::{DONE, Fail, Outcome};
use crate::lines::{Appender, Lines};
use crate::measure;
use crate::output::enlarge;
use crate::stop::{Stop, Woken};
use crate::target::Target;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use syncq::Wait;

/// How much of a file is copied into its message at once.
const CHUNK: usize = 256 << 10;

/// Append messages: the arguments, or else lines of standard input
///
/// Lines are streamed: they are appended in batches as they come. A message that finds no room waits until the slowest reader has made some,
/// as long as --timeout says.
#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    #[command(flatten)]
    target: Target,
    /// Bodies, one message each; without any, and without a file, every line of standard input is a message
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
    /// What kind of messages they are
    #[arg(short, long, default_value = "")]
    kind: String,
    /// The name to join with
    #[arg(short, long, default_value = "append")]
    sender: String,
    /// Append this file as one message; - for standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["bodies", "lines"])]
    file: Option<PathBuf>,
    /// Append every line of this file (may be given more than once); - for standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "bodies")]
    lines: Vec<PathBuf>,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "file")]
    count: Option<u64>,
    /// Give up, with exit code 124, when there is no room for this long [default: wait for ever]
    #[arg(short = 'w', long, visible_alias = "wait", value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    /// Make the queue, with default options, if it is missing
    #[arg(short, long)]
    create: bool,
}

impl Append {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        let queue = match self.create {
            true => self.target.open_or_create()?,
            false => self.target.open()?,
        };
        let mut to = Appender::join(&queue, &self.sender, self.timeout, stop)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        if let Some(path) = &self.file {
            self.whole(path, &mut to, stop)?;
        } else if !self.bodies.is_empty() {
            for body in self.bodies.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                to.append(&self.kind, body.as_bytes())?;
            }
        } else if self.lines.is_empty() {
            self.each_line(Path::new("-"), &mut to, stop, &mut left)?;
        } else {
            for path in &self.lines {
                self.each_line(path, &mut to, stop, &mut left)?;
            }
        }
        Ok(DONE)
    }

    fn each_line(&self, path: &Path, to: &mut Appender<'_>, stop: &Stop, left: &mut u64) -> Result<(), Fail> {
        let mut from = open(path)?;
        let longest = to.longest(&self.kind);
        let mut lines = Lines::default();
        let mut number: u64 = 0;
        let too_long = |number: u64, len: usize| {
            Fail::new(format!(
                "line {number} of {} is {len} bytes long, and queue {:?} takes at most {longest}",
                name(path),
                self.target.queue
            ))
            .with_hint("a queue with a larger --capacity takes it; the lines before it were appended")
        };
        while *left > 0 {
            if stop.wait_readable(from.as_fd(), None)? == Woken::Stopped {
                break;
            }
            let is_more = lines.fill(&mut from).map_err(|e| Fail::from(e).during(name(path)))?;
            let (mut complete, rest) = lines.complete();
            if !is_more && rest < lines.rest().len() {
                complete.push(&lines.rest()[rest..]);
            }
            complete.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            let fit = complete.iter().take_while(|line| line.len() <= longest).count();
            let batch: Vec<(&str, &[u8])> = complete[..fit].iter().map(|line| (self.kind.as_str(), *line)).collect();
            to.append_all(&batch)?;
            number += fit as u64;
            *left -= fit as u64;
            if let Some(line) = complete.get(fit) {
                return Err(too_long(number + 1, line.len()));
            }
            if !is_more {
                return Ok(());
            }
            lines.consume(rest);
            if lines.rest().len() > longest {
                return Err(too_long(number + 1, lines.rest().len()));
            }
        }
        // Asked to stop: what was read already is written, also the line that was not ended.
        if *left > 0 && !lines.rest().is_empty() {
            to.append(&self.kind, lines.rest())?;
        }
        Ok(())
    }

    fn whole(&self, path: &Path, to: &mut Appender<'_>, stop: &Stop) -> Result<(), Fail> {
        let longest = to.longest(&self.kind);
        let mut from = open(path)?;
        let facts = from.metadata()?;
        let is_too_long = |len: u64| {
            Fail::new(format!(
                "{} is {len} bytes long or longer, and queue {:?} takes at most {longest} in one message",
                name(path),
                self.target.queue
            ))
            .with_hint("a queue with a larger --capacity takes it, or --lines appends its lines")
        };
        if facts.is_file() && facts.len() > longest as u64 {
            return Err(is_too_long(facts.len()));
        }
        if facts.is_file() {
            let len = facts.len() as usize;
            let kind = self.kind.as_str();
            // Waits for the room first, and has it in hand then.
            to.with_patience(|writer, wait| writer.reserve(kind, len, wait).map(|reserved| reserved.abort()))?;
            let mut reserved = to.writer().reserve(kind, len, Wait::Forever)?;
            std::io::copy(&mut from.take(len as u64), &mut reserved).map_err(|e| Fail::from(e).during(name(path)))?;
            return Ok(reserved.commit_written()?);
        }
        let mut body = Vec::new();
        while stop.wait_readable(from.as_fd(), None)? == Woken::Ready {
            let read = from.by_ref().take(CHUNK as u64).read_to_end_once(&mut body)?;
            if body.len() > longest {
                return Err(is_too_long(body.len() as u64));
            }
            if read == 0 {
                return to.append(&self.kind, &body);
            }
        }
        Err(Fail::new("stopped before the message was whole: nothing was appended"))
    }
}

/// One read, appended.
trait ReadOnce {
    fn read_to_end_once(&mut self, to: &mut Vec<u8>) -> std::io::Result<usize>;
}

impl<R: Read> ReadOnce for R {
    fn read_to_end_once(&mut self, to: &mut Vec<u8>) -> std::io::Result<usize> {
        let before = to.len();
        to.resize(before + CHUNK, 0);
        let read = self.read(&mut to[before..]);
        to.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }
}

fn open(path: &Path) -> Result<File, Fail> {
    let file = match path.as_os_str() == "-" {
        true => File::from(std::io::stdin().as_fd().try_clone_to_owned()?),
        false => File::open(path).map_err(|error| Fail::new(format!("{}: {error}", path.display())))?,
    };
    enlarge(&file);
    Ok(file)
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    match path.as_os_str() == "-" {
        true => "standard input".into(),
        false => path.to_string_lossy(),
    }
}
