//! `syncq record`: messages with their timing, into a file.

use crate::fail::{Fail, Outcome};
use crate::follow::{self, From, Limits, Sink};
use crate::recording;
use crate::stop::Stop;
use crate::target::Target;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use syncq::Message;

/// Record a queue into a file, with timing, for `syncq replay`
///
/// Takes part as a reader, so that nothing is missed; with --observe it holds nobody back, looks every few milliseconds, and what it misses is
/// noted in the recording. The times are those of the messages on a queue with timestamps, and those of arrival here elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Record {
    #[command(flatten)]
    target: Target,
    /// The file to make; - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Overwrite the file if it is there
    #[arg(long)]
    force: bool,
    /// Read as an observer, never holding writers back
    #[arg(long)]
    observe: bool,
    /// With which message to begin
    #[arg(long, value_enum, default_value = "now")]
    from: From,
    /// End when nothing more is there, instead of waiting for more
    #[arg(short, long)]
    drain: bool,
    #[command(flatten)]
    limits: Limits,
}

impl Record {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        // First, so that a queue that is not there leaves no file.
        let start = self.from.start();
        if self.observe {
            let mut observer = self.target.observe(start)?;
            return self.write_down(&mut observer, stop);
        }
        let queue = self.target.open()?;
        let mut reader = queue.joining().sender("record").start(start).reader()?;
        self.write_down(&mut reader, stop)
    }

    fn write_down(&self, source: &mut impl follow::Source, stop: &Stop) -> Outcome {
        let to: Box<dyn Write> = match self.file.as_os_str() == "-" {
            true => Box::new(std::io::stdout()),
            false => {
                let mut how = OpenOptions::new();
                how.write(true)
                    .create_new(!self.force)
                    .create(self.force)
                    .truncate(self.force);
                let open = |error| {
                    let fail = Fail::new(format!("{}: {error}", self.file.display()));
                    fail.with_hint("--force overwrites a file that is there")
                };
                Box::new(how.open(&self.file).map_err(open)?)
            }
        };
        let mut sink = Writing {
            to: BufWriter::with_capacity(crate::output::WRITE_SIZE, to),
            first: None,
            last: 0,
        };
        let end = follow::follow(source, &mut sink, stop, &self.limits, self.drain)?;
        // Also one without messages is a recording.
        sink.since_first(None)?;
        sink.to.flush()?;
        Ok(end.code(&self.limits))
    }
}

/// A recording in the making.
struct Writing<W: Write> {
    to: BufWriter<W>,
    /// When the first message came, by both clocks.
    first: Option<(Instant, SystemTime)>,
    last: u64,
}

impl<W: Write> Writing<W> {
    /// Nanoseconds since the first message; never less than the time before.
    fn since_first(&mut self, stamp: Option<SystemTime>) -> Result<u64, Fail> {
        let now = Instant::now();
        let (arrived, stamped) = match self.first {
            Some(first) => first,
            None => {
                let first = (now, stamp.unwrap_or_else(SystemTime::now));
                let nanos = first.1.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
                recording::begin(&mut self.to, nanos)?;
                *self.first.insert(first)
            }
        };
        let since = match stamp {
            Some(stamp) => stamp.duration_since(stamped).unwrap_or_default(),
            None => now.duration_since(arrived),
        };
        self.last = self.last.max(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Ok(self.last)
    }
}

impl<W: Write> Sink for Writing<W> {
    fn take(&mut self, message: &Message<'_>) -> Result<bool, Fail> {
        let at = self.since_first(message.timestamp())?;
        let (sender, kind) = (message.sender_bytes(), message.kind_bytes());
        recording::add(&mut self.to, at, message.sequence(), sender, kind, message.body())?;
        Ok(true)
    }

    fn pause(&mut self) -> Result<(), Fail> {
        Ok(self.to.flush()?)
    }

    fn lagged(&mut self, missed: u64) -> Result<(), Fail> {
        eprintln!("syncq: lagged behind, missed {missed} messages; the recording has a gap");
        let at = self.since_first(None)?;
        Ok(recording::add_gap(&mut self.to, at, missed)?)
    }
}
