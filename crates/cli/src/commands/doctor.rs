//! `syncq doctor`: what is wrong with queues, who it is about, and what can be done. What it finds is in `findings`.

use crate::fail::{DONE, FAILED, Fail, Outcome};
use crate::findings::{self, Finding};
use crate::measure;
use crate::output::Output;
use crate::sample;
use crate::show::{self, Look};
use crate::stop::Stop;
use crate::target::{Target, Trust};
use std::time::Duration;

/// Say what is wrong: dead members, stale queues, a claim held long, a reader far behind
///
/// Looks on for --patience, read-only, and changes nothing without --fix. With --fix it frees what dead members left behind, and removes
/// queues that were to go with their last member; nobody alive is touched. Exit code 1: something is wrong still.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Only these queues
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// Do what can be done without harm to anybody alive
    #[arg(long)]
    fix: bool,
    /// Put this member (its ID as in `syncq info`) out of the one queue given, alive as it is: writers no longer wait for it
    #[arg(long, value_name = "ID")]
    evict: Option<String>,
    /// How long an append may take, or a far-behind reader stand still, before it is worth a word
    #[arg(long, value_name = "TIME", value_parser = measure::duration, default_value = "500ms")]
    patience: Duration,
    /// One JSON object for each finding
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trust: Trust,
}

impl Doctor {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        if let Some(id) = &self.evict {
            return self.put_out(id);
        }
        let listed = sample::list(&self.queues, self.trust)?;
        let mut findings = findings::look(&listed, self.patience, stop);
        if self.fix {
            for finding in findings.iter_mut() {
                finding.fix(self.trust);
            }
        }
        for finding in &findings {
            match self.json {
                true => out.line(finding.json().to_string())?,
                false => out.lines(finding.lines(self.fix, out.is_coloured()))?,
            }
        }
        if findings.is_empty() && !self.json {
            let number = match listed.len() {
                1 => "1 queue".to_owned(),
                n => format!("{n} queues"),
            };
            out.line(Look::Green.on(out.is_coloured(), &format!("{number} looked at, nothing wrong")))?;
        }
        out.flush()?;
        Ok(if findings.iter().all(Finding::is_mended) {
            DONE
        } else {
            FAILED
        })
    }

    fn put_out(&self, id: &str) -> Outcome {
        let [name] = self.queues.as_slice() else {
            return Err(Fail::usage("--evict wants exactly one queue"));
        };
        let queue = Target::new(name, self.trust).open()?;
        let members = queue.members();
        let member = members
            .iter()
            .find(|member| member.id.to_string() == id)
            .ok_or_else(|| {
                Fail::new(format!("queue {name:?} has no member {}", show::printable(id)))
                    .with_hint(format!("`syncq info {name}` shows who there is"))
            })?;
        queue.evict(member.id)?;
        Ok(DONE)
    }
}
