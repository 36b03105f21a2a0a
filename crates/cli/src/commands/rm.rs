//! `syncq rm`: a queue's name goes away.

use crate::fail::{DONE, Fail, Outcome};
use crate::sample::{Sample, State};
use crate::show;
use crate::target::{Target, Trust};
use syncq::{Error, Queue, Start};

/// Remove queues; refuses one that somebody takes part in
///
/// Who is on a removed queue goes on undisturbed, but newcomers do not find it.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names of queues, or paths (with a slash)
    #[arg(value_name = "QUEUE", required = true)]
    queues: Vec<String>,
    /// Also remove queues that are in use, and files that are no queues or broken ones
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    trust: Trust,
}

impl Rm {
    pub(crate) fn run(self) -> Outcome {
        self.queues.iter().try_for_each(|queue| self.remove(queue))?;
        Ok(DONE)
    }

    fn remove(&self, queue: &str) -> Result<(), Fail> {
        let target = Target::new(queue, self.trust);
        if !self.force {
            match target.observe(Start::Now) {
                Ok(observer) => refuse_live(queue, &Sample::take(&observer))?,
                Err(error @ (Error::NotFound { .. } | Error::InvalidName { .. })) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        match target.is_path() {
            false => Queue::unlink_name(queue)?,
            // By path there is only the whole way in: a file that is no queue is for rm(1).
            true => target.open()?.unlink()?,
        }
        Ok(())
    }
}

fn refuse_live(queue: &str, sample: &Sample) -> Result<(), Fail> {
    if sample.state() != State::Live {
        return Ok(());
    }
    let living = sample.members.iter().filter(|member| member.is_alive);
    let names: Vec<String> = living
        .map(|m| format!("{} ({})", show::printable(&m.name), m.pid))
        .collect();
    let who = match names.as_slice() {
        few if few.len() <= 5 => few.join(", "),
        many => format!("{} and {} more", many[..5].join(", "), many.len() - 5),
    };
    Err(
        Fail::new(format!("queue {queue:?} is in use by {who}")).with_hint(format!(
            "`syncq rm --force {queue}` removes it all the same; they go on undisturbed"
        )),
    )
}
