//! `syncq completions`: for shells.

use crate::fail::{DONE, Outcome};
use crate::output::Output;
use clap::CommandFactory;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self, out: &mut Output) -> Outcome {
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "syncq", out.buffer());
        out.flush()?;
        Ok(DONE)
    }
}
