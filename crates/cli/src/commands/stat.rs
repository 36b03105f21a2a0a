//! `syncq stat`: counters, once or again and again, for people and for programs.

use crate::fail::{DONE, FAILED, Fail, Outcome};
use crate::output::Output;
use crate::show::{self, Look, Table};
use crate::stop::Stop;
use crate::target::Trust;
use crate::watch::{Seen, Watch};
use crate::{json, measure, prometheus};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A table
    Text,
    /// One JSON object a queue, with its members
    Json,
    /// The text format of Prometheus, for its textfile collector or a small HTTP server
    Prometheus,
}

/// Show counters once, or repeatedly with --interval
///
/// Queues are mapped read-only: members notice nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Stat {
    /// Only these queues
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// Show them again every so often, with rates
    #[arg(short, long, value_name = "TIME", value_parser = measure::duration)]
    interval: Option<Duration>,
    /// Stop after so many times
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    #[arg(short, long, value_enum, default_value = "text")]
    format: Form,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trust: Trust,
}

impl Stat {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let form = if self.json { Form::Json } else { self.format };
        let mut watch = Watch::new(&self.queues, self.trust);
        let rounds = self.count.unwrap_or(if self.interval.is_some() { u64::MAX } else { 1 });
        let interval = self.interval.unwrap_or(Duration::from_secs(1));
        if interval.is_zero() {
            return Err(Fail::usage("an --interval of nothing would never rest"));
        }
        let end = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut next = Instant::now();
        let mut all_were_read = true;
        for round in 0..rounds {
            let seen = watch.look()?;
            all_were_read = seen.iter().all(|seen| seen.now.is_ok());
            match form {
                Form::Text => out.lines(table(&seen, round == 0, out.is_coloured()))?,
                Form::Json => out.lines(seen.iter().map(object))?,
                Form::Prometheus => out.lines(prometheus::lines(&seen))?,
            }
            out.flush()?;
            next += interval;
            let is_last = round + 1 == rounds || end.is_some_and(|end| end <= next);
            if is_last || stop.sleep_until(next) {
                break;
            }
        }
        Ok(if all_were_read || self.queues.is_empty() {
            DONE
        } else {
            FAILED
        })
    }
}

fn object(seen: &Seen) -> String {
    let mut object = match &seen.now {
        Ok(sample) => {
            let mut object = json::queue(&seen.name, sample, seen.before.as_ref());
            object.insert("list".to_owned(), sample.members.iter().map(json::member).collect());
            object
        }
        Err(error) => json::unreadable(&seen.name, error),
    };
    object.insert("at".to_owned(), show::time(SystemTime::now()).into());
    Value::Object(object).to_string()
}

fn table(seen: &[Seen], has_headings: bool, is_coloured: bool) -> Vec<String> {
    let mut table = Table::new(&[
        "QUEUE               ",
        ">    RATE",
        ">      BYTES/S",
        ">USED",
        ">MEMBERS",
        ">DEAD",
        ">       LAG",
        ">    APPENDED",
        ">REFUSED",
        ">MISSED",
        ">TAKEOVERS",
        ">REAPED",
        ">EVICTED",
    ]);
    for seen in seen {
        let name = (show::printable(&seen.name).into_owned(), Look::Plain);
        let plain = |text: String| (text, Look::Plain);
        let number = |n: u64| plain(n.to_string());
        match &seen.now {
            Ok(sample) => {
                let before = seen.before.as_ref();
                let stats = &sample.stats;
                let bytes = before.and_then(|b| sample.byte_rate(b));
                let dead = sample.dead().count() as u64;
                table.row(vec![
                    name,
                    plain(show::rate(before.and_then(|b| sample.rate(b)))),
                    plain(bytes.map_or("-".to_owned(), |b| format!("{}/s", show::bytes(b as u64)))),
                    plain(format!("{:.0}%", sample.fill() * 100.0)),
                    number(sample.members.len() as u64),
                    (dead.to_string(), if dead > 0 { Look::Yellow } else { Look::Plain }),
                    plain(show::bytes(sample.slowest().map_or(0, |slow| slow.lag))),
                    number(stats.appended),
                    number(stats.refused),
                    number(stats.missed),
                    number(stats.takeovers),
                    number(stats.reaped),
                    number(stats.evicted),
                ]);
            }
            Err(error) => {
                let mut row = vec![name];
                row.resize(12, plain("-".to_owned()));
                row.push((show::printable(&error.to_string()).into_owned(), Look::Red));
                table.row(row);
            }
        }
    }
    let skipped = if has_headings { 0 } else { 1 };
    table.lines(is_coloured).into_iter().skip(skipped).collect()
}
