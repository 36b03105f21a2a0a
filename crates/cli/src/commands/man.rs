//! `syncq man`: manual pages, from the same words as the help.

use crate::fail::{DONE, Fail, Outcome};
use crate::output::Output;
use clap::CommandFactory;
use std::path::PathBuf;

/// Print the manual page, or write all pages into a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Only that of this command
    command: Option<String>,
    /// Write syncq.1 and a page for each command here
    #[arg(short, long, value_name = "FOLDER", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, out: &mut Output) -> Outcome {
        let mut all = crate::Cli::command();
        all.build();
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir)?;
            clap_mangen::generate_to(all, dir)?;
            return Ok(DONE);
        }
        let one = match &self.command {
            None => all,
            Some(name) => all
                .find_subcommand(name)
                .cloned()
                .ok_or_else(|| Fail::usage(format!("there is no command {name:?}")))?,
        };
        clap_mangen::Man::new(one).render(out.buffer())?;
        out.flush()?;
        Ok(DONE)
    }
}
