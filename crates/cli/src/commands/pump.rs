//! `syncq pump`: from one end to another, with the slower one setting the pace.

use crate::endpoint::{Endpoint, Side};
use crate::fail::{DONE, FAILED, Fail, Outcome, TIMED_OUT};
use crate::follow::{self, From, Limits, Sink};
use crate::lines::{Appender, Lines};
use crate::measure;
use crate::output::enlarge;
use crate::show;
use crate::stop::{SLICE, Stop, Woken};
use crate::target::{Target, Trust};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use syncq::Message;
use syncq::channel::{ChannelError, PipeChannel};
use syncq::host::{LineHostMirror, LineHostReader};
use syncq::line::Mirror;
use syncq::pump::{EventLoop, PumpError};

/// Between two looks at the progress.
const TICK: Duration = Duration::from_millis(500);

/// Pump from one end to another: queues, files, pipes, sockets, line services
///
/// An end is queue:NAME, file:PATH (also a named pipe), unix:PATH, unix-listen:PATH, tcp:HOST:PORT, tcp-listen:HOST:PORT,
/// http://HOST:PORT/ROUTE (a line service), or - for standard input or output.
///
/// Into a queue, every line becomes a message; out of a queue, every message a line. From queue to queue messages stay what they are, but the
/// sender is the pump. Ends when the source does; a queue and a line service have no end.
#[derive(Debug, clap::Args)]
pub(crate) struct Pump {
    #[arg(value_name = "FROM")]
    from: Endpoint,
    #[arg(value_name = "TO")]
    to: Endpoint,
    /// The kind of messages made of lines
    #[arg(short, long, default_value = "")]
    kind: String,
    /// The name to join with
    #[arg(short, long, default_value = "pump")]
    sender: String,
    /// With which message of a queue to begin
    #[arg(long, value_enum, default_value = "now")]
    begin: From,
    /// Read a queue as an observer, never holding writers back
    #[arg(long)]
    observe: bool,
    /// End when a queue is empty, instead of waiting for more
    #[arg(short, long)]
    drain: bool,
    /// Stop after this many messages or lines
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Give up, with exit code 124, when nothing comes, or finds room, for this long
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    /// Say nothing about progress on a terminal
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    trust: Trust,
}

/// Where it all goes.
enum To<'s> {
    Stream(File, Vec<u8>),
    Queue(Box<Appender<'s>>),
    Http(LineHostMirror),
}

struct Pumping<'s> {
    to: To<'s>,
    kind: String,
    progress: Progress,
}

impl Pump {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        let from = self.from.open(Side::From, stop)?;
        let to = match (self.to.open(Side::To, stop)?, &self.to) {
            (Some(stream), _) => {
                enlarge(&stream);
                To::Stream(stream, Vec::new())
            }
            (None, Endpoint::Http(address)) => To::Http(LineHostMirror::new(address)?),
            (None, Endpoint::Queue(name)) => {
                let queue = Target::new(name, self.trust).open()?;
                To::Queue(Box::new(Appender::join(&queue, &self.sender, self.timeout, stop)?))
            }
            (None, other) => return Err(Fail::usage(format!("{other:?} is no end of a pump"))),
        };
        let mut pumping = Pumping {
            to,
            kind: self.kind.clone(),
            progress: Progress::new(!self.quiet),
        };
        let result = match (from, &self.from) {
            (Some(from), _) => self.read_stream(from, &mut pumping, stop),
            (None, Endpoint::Http(address)) => self.read_http(address, &mut pumping, stop),
            (None, Endpoint::Queue(name)) => self.read_queue(name, &mut pumping, stop),
            (None, _) => Ok(DONE),
        };
        // Also after an error: what was read already is written.
        let flushed = pumping.flush();
        pumping.progress.end();
        let code = result?;
        flushed?;
        Ok(code)
    }

    fn limits(&self) -> Limits {
        Limits {
            count: self.count,
            timeout: self.timeout,
        }
    }

    fn read_queue(&self, name: &str, pumping: &mut Pumping<'_>, stop: &Stop) -> Outcome {
        let target = Target::new(name, self.trust);
        let begin = if self.drain { From::Oldest } else { self.begin };
        let limits = self.limits();
        let end = if self.observe {
            let mut observer = target.observe(begin.start())?;
            follow::follow(&mut observer, pumping, stop, &limits, self.drain)?
        } else {
            let queue = target.open()?;
            let mut reader = queue.joining().sender(&self.sender).start(begin.start()).reader()?;
            follow::follow(&mut reader, pumping, stop, &limits, self.drain)?
        };
        Ok(end.code(&limits))
    }

    /// Between two streams of bytes, which the kernel moves where it can.
    fn move_bytes(&self, from: File, to: File, progress: &mut Progress, stop: &Stop) -> Outcome {
        let failed = |error: ChannelError| Fail::from(io::Error::from(error));
        let events = EventLoop::new().map_err(failed)?;
        let (source, sink) = (PipeChannel::reading(from), events.add(PipeChannel::writing(to)));
        let mut pump = syncq::pump::Pump::new(events.add(source), sink.clone()).end_on_failure(false);
        if let Some(timeout) = self.timeout {
            pump = pump.idle_timeout(&events, timeout);
        }
        pump.start();
        let mut counted = 0;
        let outcome = loop {
            events.step(SLICE).map_err(failed)?;
            let all = pump.bytes_pumped();
            progress.count(0, usize::try_from(all - counted).unwrap_or(usize::MAX));
            counted = all;
            if stop.is_asked() {
                pump.cancel();
            }
            if let Some(outcome) = pump.outcome() {
                break outcome;
            }
        };
        match outcome.result {
            Ok(()) => Ok(DONE),
            Err(PumpError::Idle(_)) => Ok(TIMED_OUT),
            Err(PumpError::Cancelled) => {
                // What was read is written. A second signal ends that too.
                while sink.queued() > 0 {
                    events.step(SLICE).map_err(failed)?;
                }
                Ok(DONE)
            }
            Err(PumpError::Sink(error)) if matches!(error.channel_error(), Some(ChannelError::PeerGone)) => {
                Err(Fail::OutputClosed)
            }
            Err(PumpError::Source(error) | PumpError::Sink(error)) => Err(Fail::new(error)),
            Err(error) => Err(Fail::new(error)),
        }
    }

    fn read_stream(&self, mut from: File, pumping: &mut Pumping<'_>, stop: &Stop) -> Outcome {
        if let (To::Stream(to, _), None) = (&pumping.to, self.count) {
            let to = to.try_clone()?;
            return self.move_bytes(from, to, &mut pumping.progress, stop);
        }
        enlarge(&from);
        let mut lines = Lines::default();
        let mut left = self.count.unwrap_or(u64::MAX);
        loop {
            let end = self.timeout.map(|timeout| Instant::now() + timeout);
            match stop.wait_readable(from.as_fd(), end)? {
                Woken::Ready => {}
                Woken::TimedOut => return Ok(TIMED_OUT),
                Woken::Stopped => {
                    if !lines.rest().is_empty() {
                        pumping.lines(&[lines.rest()])?;
                    }
                    return Ok(DONE);
                }
            }
            let is_more = lines.fill(&mut from)?;
            if let To::Stream(to, _) = &mut pumping.to {
                let (count, len) = first_lines(lines.rest(), left);
                to.write_all(&lines.rest()[..len])?;
                pumping.progress.count(count, len);
                left -= count;
                lines.consume(len);
            } else {
                let (mut complete, mut rest) = lines.complete();
                if !is_more && rest < lines.rest().len() {
                    complete.push(&lines.rest()[rest..]);
                    rest = lines.rest().len();
                }
                complete.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= complete.len() as u64;
                pumping.lines(&complete)?;
                lines.consume(rest);
                pumping.refuse_endless(lines.rest().len())?;
            }
            if !is_more || left == 0 {
                return Ok(DONE);
            }
        }
    }

    fn read_http(&self, address: &str, pumping: &mut Pumping<'_>, stop: &Stop) -> Outcome {
        let reader = LineHostReader::new(address)?;
        // Asked at once, so that a service that is not there is told of.
        reader.len()?;
        let mut items = reader.follow(SLICE);
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut last = Instant::now();
        while left > 0 {
            match items.next() {
                Some(item) => {
                    let item = item?;
                    pumping.lines(&[item.text().as_bytes()])?;
                    (left, last) = (left - 1, Instant::now());
                }
                None => {
                    pumping.flush()?;
                    if self.drain {
                        return Ok(DONE);
                    }
                    if stop.is_asked() {
                        return Ok(if self.count.is_some() { FAILED } else { DONE });
                    }
                    if self.timeout.is_some_and(|timeout| last.elapsed() >= timeout) {
                        return Ok(TIMED_OUT);
                    }
                }
            }
        }
        Ok(DONE)
    }
}

/// How many lines end in these bytes, up to `most`, and where the last one of them does; without that many, all the bytes.
fn first_lines(bytes: &[u8], most: u64) -> (u64, usize) {
    let mut count = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' {
            count += 1;
            if count == most {
                return (count, at + 1);
            }
        }
    }
    (count, bytes.len())
}

impl Pumping<'_> {
    /// Lines without their ends.
    fn lines(&mut self, lines: &[&[u8]]) -> Result<(), Fail> {
        for line in lines {
            self.progress.count(1, line.len());
        }
        match &mut self.to {
            To::Queue(to) => {
                let messages: Vec<(&str, &[u8])> = lines.iter().map(|line| (self.kind.as_str(), *line)).collect();
                to.append_all(&messages)?;
            }
            To::Stream(_, buffer) => {
                for line in lines {
                    buffer.extend_from_slice(line);
                    buffer.push(b'\n');
                }
                self.settle()?;
            }
            To::Http(mirror) => {
                for line in lines {
                    mirror.write_bytes(syncq::line::Stream::Text, &[line, &b"\n"[..]].concat())?;
                }
            }
        }
        Ok(())
    }

    /// An unfinished line that can never become a message.
    fn refuse_endless(&self, len: usize) -> Result<(), Fail> {
        match &self.to {
            To::Queue(to) if len > to.longest(&self.kind) => {
                let longest = to.longest(&self.kind);
                Err(Fail::new(format!(
                    "a line is {len} bytes long, and the queue takes at most {longest}"
                ))
                .with_hint("a queue with a larger --capacity takes it"))
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Stream(to, buffer) if buffer.len() >= crate::output::WRITE_SIZE => {
                to.write_all(buffer)?;
                buffer.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Fail> {
        match &mut self.to {
            To::Stream(to, buffer) => {
                let result = to.write_all(buffer);
                buffer.clear();
                result?;
            }
            To::Http(mirror) => mirror.flush()?,
            To::Queue(_) => {}
        }
        Ok(())
    }
}

impl Sink for Pumping<'_> {
    fn take(&mut self, message: &Message<'_>) -> Result<bool, Fail> {
        match &mut self.to {
            To::Queue(to) => {
                self.progress.count(1, message.body().len());
                to.append(message.kind(), message.body())?;
            }
            To::Stream(_, buffer) => {
                self.progress.count(1, message.body().len());
                buffer.extend_from_slice(message.body());
                buffer.push(b'\n');
                self.settle()?;
            }
            To::Http(_) => self.lines(&[message.body()])?,
        }
        Ok(true)
    }

    fn pause(&mut self) -> Result<(), Fail> {
        self.progress.look();
        self.flush()
    }

    fn lagged(&mut self, missed: u64) -> Result<(), Fail> {
        eprintln!("syncq: lagged behind, missed {missed} messages");
        Ok(())
    }
}

/// How much has gone through, on a terminal.
#[derive(Debug)]
struct Progress {
    is_shown: bool,
    messages: u64,
    bytes: u64,
    begun: Instant,
    next: Instant,
    since: u32,
}

impl Progress {
    fn new(is_wanted: bool) -> Self {
        // Not over what the pump itself writes to the terminal.
        let is_shown = is_wanted && io::stderr().is_terminal() && !io::stdout().is_terminal();
        Progress {
            is_shown,
            messages: 0,
            bytes: 0,
            begun: Instant::now(),
            next: Instant::now() + TICK,
            since: 0,
        }
    }

    #[inline]
    fn count(&mut self, messages: u64, bytes: usize) {
        self.messages += messages;
        self.bytes += bytes as u64;
        self.since += 1;
        // A look at the clock now and then is enough, unless each step is large.
        if self.is_shown && (self.since >= 256 || bytes > 4096) {
            self.since = 0;
            self.look();
        }
    }

    fn look(&mut self) {
        if self.is_shown && Instant::now() >= self.next {
            self.next = Instant::now() + TICK;
            eprint!("\r{}\x1b[K", self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-9);
        let byte_rate = show::bytes((self.bytes as f64 / seconds) as u64);
        let messages = match self.messages {
            0 => String::new(),
            n => format!(
                "{} messages, {}, ",
                show::count(n as f64),
                show::rate(Some(n as f64 / seconds))
            ),
        };
        format!("{messages}{}, {byte_rate}/s", show::bytes(self.bytes))
    }

    fn end(&self) {
        if self.is_shown {
            eprintln!("\r{}\x1b[K", self.line());
        }
    }
}
