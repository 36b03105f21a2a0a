//! `syncq pop`: reads as a member that writers wait for.

use super::tail::Print;
use crate::fail::{Fail, Outcome};
use crate::follow::{self, From, Limits};
use crate::format::{Format, Shown};
use crate::output::Output;
use crate::stop::Stop;
use crate::target::Target;

/// Read a queue as a real reader: nothing is lost, and writers wait for it
#[derive(Debug, clap::Args)]
pub(crate) struct Pop {
    #[command(flatten)]
    target: Target,
    /// With which message to begin [default: now; oldest with --drain]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Print what is there and end, instead of waiting for more
    #[arg(short, long)]
    drain: bool,
    /// The name to join with
    #[arg(long, default_value = "pop")]
    name: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    limits: Limits,
}

impl Pop {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let printer = self
            .shown
            .printer(Format::Line, out.is_coloured())
            .map_err(Fail::usage)?;
        let from = self.from.unwrap_or(if self.drain { From::Oldest } else { From::Now });
        let queue = self.target.open()?;
        let mut reader = queue.joining().sender(&self.name).start(from.start()).reader()?;
        self.shown.set_screen(reader.screen());
        let mut sink = Print::new(&self.shown, printer, out);
        let end = follow::follow(&mut reader, &mut sink, stop, &self.limits, self.drain)?;
        Ok(end.code(&self.limits))
    }
}
