//! `syncq`: see, use and mend queues from a terminal.
//!
//! Not here: anything about the ring; every command uses the library's public API only.

#![forbid(unsafe_code)]

mod commands;
mod endpoint;
mod fail;
mod findings;
mod follow;
mod format;
mod frame;
mod json;
mod lines;
mod measure;
mod output;
mod prometheus;
mod recording;
mod rig;
mod sample;
mod show;
mod stop;
mod target;
mod watch;

use clap::Parser;
use commands::*;
use fail::{Fail, Outcome};
use output::{Colour, Output};
use std::process::ExitCode;
use stop::Stop;

/// See, use and mend queues in shared memory
///
/// Exit codes: 0 done, 1 failed or found something wrong, 2 wrong usage, 124 timed out.
#[derive(Debug, Parser)]
#[command(name = "syncq", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    /// When to use colours; NO_COLOR in the environment means never
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Ls(ls::Ls),
    Info(info::Info),
    Create(create::Create),
    Rm(rm::Rm),
    Append(append::Append),
    Tail(tail::Tail),
    Pop(pop::Pop),
    Run(run::Run),
    Pump(pump::Pump),
    Stat(stat::Stat),
    Doctor(doctor::Doctor),
    Top(top::Top),
    Latency(latency::Latency),
    Bench(bench::Bench),
    Record(record::Record),
    Replay(replay::Replay),
    Serve(serve::Serve),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Peer(peer::Peer),
}

fn execute(cli: Cli) -> Outcome {
    let stop = &Stop::listen()?;
    let out = &mut Output::new(cli.color)?;
    match cli.command {
        Command::Ls(ls) => ls.run(out, stop),
        Command::Info(info) => info.run(out),
        Command::Create(create) => create.run(),
        Command::Rm(rm) => rm.run(),
        Command::Append(append) => append.run(stop),
        Command::Tail(tail) => tail.run(out, stop),
        Command::Pop(pop) => pop.run(out, stop),
        Command::Run(run) => run.run(stop),
        Command::Pump(pump) => pump.run(stop),
        Command::Serve(serve) => serve.run(out, stop),
        Command::Stat(stat) => stat.run(out, stop),
        Command::Doctor(doctor) => doctor.run(out, stop),
        Command::Top(top) => top.run(out, stop),
        Command::Latency(latency) => latency.run(out, stop),
        Command::Bench(bench) => bench.run(out, stop),
        Command::Record(record) => record.run(stop),
        Command::Replay(replay) => replay.run(stop),
        Command::Peer(peer) => peer.run(stop),
        Command::Completions(completions) => completions.run(out),
        Command::Man(man) => man.run(out),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_coloured = cli.color.is_wanted(&std::io::stderr());
    match execute(cli) {
        Ok(code) => ExitCode::from(code),
        Err(Fail::OutputClosed) => ExitCode::from(fail::DONE),
        Err(Fail::Told { code, message, hint }) => {
            let name = show::Look::Red.on(is_coloured, "syncq:").into_owned();
            eprintln!("{name} {}", show::printable(&message));
            if let Some(hint) = hint {
                eprintln!("  {}", show::printable(&hint));
            }
            ExitCode::from(code)
        }
    }
}
