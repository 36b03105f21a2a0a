//! `syncq bench`: what this machine moves through a queue.

use super::peer::Player;
use crate::fail::{DONE, Fail, Outcome};
use crate::output::Output;
use crate::rig::{self, Own};
use crate::sample::Sample;
use crate::stop::Stop;
use crate::target::{Target, Trust};
use crate::{measure, show};
use serde_json::json;
use std::time::Duration;
use syncq::{MemberInfo, Queue};

/// From the start of the processes until counting begins.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measure messages a second: writers and readers, one process each
///
/// In a queue of its own, lossless: every reader gets everything, and the slowest sets the pace. Prints the command and the machine with the
/// figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// How many processes write
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    writers: u32,
    /// How many processes read
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    readers: u32,
    /// Bytes of each body
    #[arg(short, long, value_parser = measure::size, default_value = "64")]
    size: u64,
    /// Append so many at a time
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// How long to count
    #[arg(long, value_name = "TIME", value_parser = measure::duration, default_value = "3")]
    seconds: Duration,
    /// Size of the ring
    #[arg(short, long, value_parser = measure::size, default_value = "1M")]
    capacity: u64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let options = Queue::options()
            .capacity(self.capacity)
            .slots(self.writers + self.readers);
        let own = Own::new("bench", &options)?;
        let longest = own.queue.max_body("bench-writer".len(), 0) / u64::from(self.batch);
        if self.size > longest {
            let fail = Fail::usage(format!(
                "bodies of {} bytes, {} at a time, do not fit the ring",
                self.size, self.batch
            ));
            return Err(fail.with_hint("a larger --capacity, or a smaller --batch"));
        }
        let target = Target::new(&own.name, Trust::default());
        let sizes = [
            "--size".to_owned(),
            self.size.to_string(),
            "--batch".to_owned(),
            self.batch.to_string(),
        ];
        let mut players = Vec::new();
        for _ in 0..self.readers {
            players.push(Player::start("read", &target, &[])?);
        }
        rig::until_joined(&own.queue, &mut players, stop)?;
        for _ in 0..self.writers {
            players.push(Player::start("write", &target, &sizes)?);
        }
        rig::until_joined(&own.queue, &mut players, stop)?;
        let observer = own.queue.observer()?;
        // Everybody is in: whatever happens now, no name is left.
        own.queue.unlink()?;
        stop.sleep(WARM_UP);
        let before = Sample::take(&observer);
        let was_stopped = stop.sleep(self.seconds);
        let after = Sample::take(&observer);
        if players.iter_mut().any(Player::has_failed) {
            return Err(Fail::new("a process of the measurement ended early"));
        }
        drop(players);
        self.tell(&before, &after, out)?;
        Ok(if was_stopped { crate::fail::FAILED } else { DONE })
    }

    fn tell(&self, before: &Sample, after: &Sample, out: &mut Output) -> Result<(), Fail> {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let rate = after.rate(before).unwrap_or(0.0);
        let by = |name: &str, count: fn(&MemberInfo) -> u64| -> Vec<f64> {
            let of = after.members.iter().filter(|m| m.name == name);
            of.filter_map(|m| Some((count(m).wrapping_sub(count(before.member(m.id)?))) as f64 / seconds))
                .collect()
        };
        let (written, read) = (by("bench-writer", |m| m.appended), by("bench-reader", |m| m.popped));
        let body_rate = rate * self.size as f64;
        if self.json {
            let object = json!({
                "command": rig::command(), "machine": rig::machine(), "seconds": seconds, "messages_per_second": rate,
                "body_bytes_per_second": body_rate, "writers": written, "readers": read,
            });
            out.line(object.to_string())?;
        } else {
            out.line(format!("{}\n{}", rig::command(), rig::machine()))?;
            out.line(format!(
                "{} of bodies of {} bytes, {:.1} s",
                show::rate(Some(rate)),
                self.size,
                seconds
            ))?;
            out.line(format!("  bodies   {}/s", show::bytes(body_rate as u64)))?;
            let list = |rates: &[f64]| {
                rates
                    .iter()
                    .map(|r| show::rate(Some(*r)))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            out.line(format!("  writers  {}", list(&written)))?;
            out.line(format!(
                "  readers  {}",
                if read.is_empty() {
                    "none".to_owned()
                } else {
                    list(&read)
                }
            ))?;
        }
        Ok(out.flush()?)
    }
}
