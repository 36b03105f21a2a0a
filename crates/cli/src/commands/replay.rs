//! `syncq replay`: a recording into a queue, in order and in time.

use crate::fail::{DONE, FAILED, Fail, Outcome};
use crate::lines::Appender;
use crate::measure;
use crate::recording::{self, What};
use crate::stop::Stop;
use crate::target::{Target, Trust};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Append what `syncq record` recorded, in the same order, with the same timing
///
/// Every sender of the recording joins under its name, so the queue needs a slot for each.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The recording; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the queue, or a path (with a slash)
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// So many times as fast; 0 for as fast as it goes
    #[arg(short = 'x', long, value_name = "N", default_value_t = 1.0)]
    speed: f64,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Give up, with exit code 124, when there is no room for this long [default: wait for ever]
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    /// Make the queue, with default options, if it is missing
    #[arg(short, long)]
    create: bool,
    #[command(flatten)]
    trust: Trust,
}

impl Replay {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        if !(self.speed >= 0.0 && self.speed.is_finite()) {
            return Err(Fail::usage("--speed wants a number from 0 on"));
        }
        let told = |error: std::io::Error| Fail::new(format!("{}: {error}", self.file.display()));
        let from: Box<dyn Read> = match self.file.as_os_str() == "-" {
            true => Box::new(std::io::stdin()),
            false => Box::new(File::open(&self.file).map_err(told)?),
        };
        let mut from = BufReader::with_capacity(crate::output::WRITE_SIZE, from);
        recording::open(&mut from).map_err(told)?;
        let target = Target::new(&self.queue, self.trust);
        let queue = match self.create {
            true => target.open_or_create()?,
            false => target.open()?,
        };
        let mut senders: HashMap<String, Appender<'_>> = HashMap::new();
        let begun = Instant::now();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(entry) = recording::next(&mut from).map_err(told)? else {
                return Ok(DONE);
            };
            let (sender, kind, body) = match entry.what {
                What::Message { sender, kind, body } => (sender, kind, body),
                What::Gap(missed) => {
                    eprintln!("syncq: {missed} messages are missing in the recording here");
                    continue;
                }
            };
            if self.speed > 0.0 {
                let after = entry.at as f64 / 1e9 / self.speed;
                let due = Duration::try_from_secs_f64(after)
                    .ok()
                    .and_then(|after| begun.checked_add(after));
                let due = due.ok_or_else(|| Fail::new("the recording has a time beyond the end of the clock"))?;
                stop.sleep_until(due);
            }
            if stop.is_asked() {
                return Ok(FAILED);
            }
            let to = match senders.get_mut(&sender) {
                Some(to) => to,
                None => {
                    let joined = Appender::join(&queue, &sender, self.timeout, stop)?;
                    senders.entry(sender).or_insert(joined)
                }
            };
            to.append(&kind, &body)?;
            left -= 1;
        }
        Ok(DONE)
    }
}
