//! `syncq latency`: how long a message takes there and back.

use super::peer::{PING, PONG, Player};
use crate::fail::{DONE, FAILED, Fail, Outcome, TIMED_OUT};
use crate::output::Output;
use crate::rig::{self, Own};
use crate::stop::Stop;
use crate::target::{Target, Trust};
use crate::{measure, show};
use hdrhistogram::Histogram;
use serde_json::json;
use std::time::{Duration, Instant};
use syncq::{Queue, Wait};

/// Round trips before the first one that counts.
const WARM_UP: u64 = 1000;

/// Measure round trips to another process and back
///
/// In a queue of its own; or in QUEUE, among everybody's messages: members there see kinds "latency-ping" and "latency-pong", which they may
/// screen.
#[derive(Debug, clap::Args)]
pub(crate) struct Latency {
    /// Measure in this queue
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    trust: Trust,
    /// How many round trips
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100_000)]
    count: u64,
    /// Bytes of each message
    #[arg(short, long, value_parser = measure::size, default_value = "32")]
    size: u64,
    /// Pause between round trips, so that the other side has fallen asleep
    #[arg(short, long, value_name = "TIME", value_parser = measure::duration)]
    interval: Option<Duration>,
    /// Give up, with exit code 124, when an answer takes this long
    #[arg(long, value_name = "TIME", value_parser = measure::duration, default_value = "5s")]
    timeout: Duration,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Latency {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let (own, queue, target) = match &self.queue {
            Some(queue) => {
                let target = Target::new(queue, self.trust);
                (None, target.open()?, target)
            }
            None => {
                let own = Own::new("latency", &Queue::options())?;
                let (queue, target) = (own.queue.clone(), Target::new(&own.name, self.trust));
                (Some(own), queue, target)
            }
        };
        let mut me = queue.join("latency")?;
        let mut echo = [Player::start("echo", &target, &[])?];
        rig::until_joined(&queue, &mut echo, stop)?;
        // Everybody is in: whatever happens now, no name is left.
        drop(own);
        let mut body = vec![0; self.size.max(8) as usize];
        let mut histogram = Histogram::<u64>::new_with_max(60_000_000_000, 3).map_err(Fail::new)?;
        for round in 0..WARM_UP.min(self.count) + self.count {
            if stop.is_asked() {
                break;
            }
            body[..8].copy_from_slice(&round.to_le_bytes());
            let begun = Instant::now();
            let end = begun + self.timeout;
            me.append(PING, &body, Wait::Until(end))?;
            loop {
                match me.pop(Wait::Until(end))? {
                    Some(pong) if pong.kind() == PONG && pong.body() == body => break,
                    Some(_) => {}
                    None => {
                        let waited = humantime::format_duration(self.timeout);
                        return Err(Fail::new(format!("no answer in queue {:?} for {waited}", target.queue))
                            .with_code(TIMED_OUT)
                            .with_hint(format!("`syncq doctor {}` tells who is in the way", target.queue)));
                    }
                }
            }
            let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if round >= WARM_UP.min(self.count) {
                histogram.saturating_record(nanos);
            }
            if let Some(interval) = self.interval {
                stop.sleep(interval);
            }
        }
        self.tell(&histogram, out)?;
        Ok(if histogram.len() < self.count { FAILED } else { DONE })
    }

    fn tell(&self, histogram: &Histogram<u64>, out: &mut Output) -> Result<(), Fail> {
        let quantiles = [
            ("p50", 0.5),
            ("p90", 0.9),
            ("p99", 0.99),
            ("p99.9", 0.999),
            ("p99.99", 0.9999),
        ];
        if self.json {
            let mut object = json!({
                "command": rig::command(), "machine": rig::machine(), "round_trips": histogram.len(), "size": self.size,
                "unit": "ns", "min": histogram.min(), "mean": histogram.mean().round(), "max": histogram.max(),
            });
            for (name, q) in quantiles {
                object[name] = histogram.value_at_quantile(q).into();
            }
            out.line(object.to_string())?;
        } else {
            out.line(format!("{}\n{}", rig::command(), rig::machine()))?;
            out.line(format!("{} round trips of {} bytes", histogram.len(), self.size))?;
            let mut line = |name: &str, nanos: u64| out.line(format!("  {name:<7}{:>10}", show::short_time(nanos)));
            line("min", histogram.min())?;
            quantiles
                .iter()
                .try_for_each(|(name, q)| line(name, histogram.value_at_quantile(*q)))?;
            line("max", histogram.max())?;
        }
        Ok(out.flush()?)
    }
}
