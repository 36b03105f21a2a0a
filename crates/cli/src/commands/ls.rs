//! `syncq ls`: all queues, what is in them, who is behind, what is stale.

use crate::fail::{DONE, FAILED, Outcome};
use crate::output::Output;
use crate::sample::{self, Listed, Sample};
use crate::show::{self, Look, Table};
use crate::stop::Stop;
use crate::target::Trust;
use crate::{json, measure};
use std::time::Duration;

/// List queues: size, fill, members, rate, who is behind, what is stale
///
/// Looks twice, --interval apart, to tell the rate. Everything is mapped read-only: members notice nothing.
///
/// STATE is live (somebody takes part), idle (nobody does), stale (only dead members are left), or unreadable. Exit code 1: a queue that was
/// asked for cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Only these queues
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Time between the two looks that tell the rate; 0 for one look and no rate
    #[arg(long, value_name = "TIME", value_parser = measure::duration, default_value = "100ms")]
    interval: Duration,
    #[command(flatten)]
    trust: Trust,
}

impl Ls {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let listed = sample::list(&self.queues, self.trust)?;
        let take = || -> Vec<Option<Sample>> {
            listed
                .iter()
                .map(|l| l.observer.as_ref().ok().map(Sample::take))
                .collect()
        };
        let before = take();
        let now = match self.interval.is_zero() || listed.is_empty() {
            true => vec![None; listed.len()],
            false => {
                stop.sleep(self.interval);
                take()
            }
        };
        let mut table = Table::new(&[
            "NAME",
            "STATE",
            ">SIZE",
            ">USED",
            ">MEMBERS",
            ">RATE",
            ">APPENDED",
            "BEHIND",
        ]);
        let mut is_one_unreadable = false;
        for ((queue, before), now) in listed.iter().zip(before).zip(now) {
            match (&queue.observer, before) {
                (Ok(_), Some(before)) => {
                    let (sample, before) = match now {
                        Some(now) => (now, Some(before)),
                        None => (before, None),
                    };
                    if self.json {
                        let object = json::queue(&queue.name, &sample, before.as_ref());
                        out.line(serde_json::Value::Object(object).to_string())?;
                    } else {
                        table.row(row(queue, &sample, before.as_ref()));
                    }
                }
                (Err(error), _) => {
                    is_one_unreadable = true;
                    if self.json {
                        out.line(serde_json::Value::Object(json::unreadable(&queue.name, error)).to_string())?;
                    } else {
                        table.row(unreadable(queue, error));
                    }
                }
                (Ok(_), None) => {}
            }
        }
        if !self.json {
            let lines = table.lines(out.is_coloured());
            out.lines(lines)?;
        }
        out.flush()?;
        Ok(if is_one_unreadable && !self.queues.is_empty() {
            FAILED
        } else {
            DONE
        })
    }
}

fn row(queue: &Listed, sample: &Sample, before: Option<&Sample>) -> Vec<(String, Look)> {
    let state = sample.state();
    let dead = sample.dead().count();
    let members = match dead {
        0 => (sample.members.len().to_string(), Look::Plain),
        dead => (format!("{} ({dead} dead)", sample.members.len()), Look::Yellow),
    };
    let behind = sample.slowest().map(|slow| {
        format!(
            "{} ({}) {}",
            show::printable(&slow.name),
            slow.pid,
            show::bytes(slow.lag)
        )
    });
    let fill = sample.fill();
    let fill_look = if fill > 0.9 { Look::Red } else { Look::Plain };
    vec![
        (show::printable(&queue.name).into_owned(), Look::Plain),
        (state.name().to_owned(), state.look()),
        (show::bytes(sample.stats.capacity), Look::Plain),
        (format!("{:.0}%", fill * 100.0), fill_look),
        members,
        (show::rate(before.and_then(|b| sample.rate(b))), Look::Plain),
        (show::count(sample.stats.appended as f64), Look::Plain),
        (behind.unwrap_or_default(), Look::Plain),
    ]
}

fn unreadable(queue: &Listed, error: &syncq::Error) -> Vec<(String, Look)> {
    let nothing = || ("-".to_owned(), Look::Dim);
    vec![
        (show::printable(&queue.name).into_owned(), Look::Plain),
        ("unreadable".to_owned(), Look::Red),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        (show::printable(&error.to_string()).into_owned(), Look::Plain),
    ]
}
