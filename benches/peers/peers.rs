//! syncq beside its limits and its peers, in one session: between processes and between threads, in turns, pinned where there are two
//! ends, medians and spread over rounds. One command makes the tables, the plots and `target/peers/results.json`:
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml` (`-- --quick` in under two minutes, `-- --help` for parts of it).
//!
//! Not here: what an append or a pop costs inside one process, which is `benches/queue.rs`, on criterion.

mod bars;
mod board;
mod cases;
mod clock;
mod machine;
mod ours;
mod plots;
mod process;
mod report;
mod results;
mod run;
mod session;
mod subject;
mod subjects;
mod syscalls;
mod table;

use crate::results::Results;
use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
cargo bench --manifest-path benches/peers/Cargo.toml -- [options]

  --quick              shorter runs, fewer rounds: under two minutes instead of under twelve
  --case TEXT          only cases whose name contains this (may be given several times)
  --subject TEXT       only subjects whose name contains this (may be given several times)
  --rounds N           so many rounds
  --list               name all cases and subjects, and measure nothing
  --report             fill docs/performance.md and draw the plots from target/peers/results.json, and measure nothing
  --stream SUBJECT LEN COUNT
                       one stream of messages between two processes, for strace, perf and the like

With --case or --subject, results.json, plots and docs stay as they are. Filling the page is a step of its own (--report).";

#[derive(Default)]
struct Arguments {
    is_quick: bool,
    cases: Vec<String>,
    subjects: Vec<String>,
    rounds: Option<usize>,
    does: Does,
}

#[derive(Default)]
enum Does {
    #[default]
    Measure,
    List,
    Report,
    Stream(String, usize, u64),
    Help,
    /// `cargo test` runs benches too; there is nothing to test about speed.
    Nothing,
}

fn parse() -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut is_bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value; see --help"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--bench" => is_bench = true,
            "--quick" => arguments.is_quick = true,
            "--case" => arguments.cases.push(value()?),
            "--subject" => arguments.subjects.push(value()?),
            "--rounds" => arguments.rounds = Some(number(value()?)?.max(1) as usize),
            "--list" => arguments.does = Does::List,
            "--report" => arguments.does = Does::Report,
            "--help" | "-h" => arguments.does = Does::Help,
            "--stream" => arguments.does = Does::Stream(value()?, number(value()?)? as usize, number(value()?)?),
            other => return Err(format!("unknown argument {other}; see --help")),
        }
    }
    if !is_bench && matches!(arguments.does, Does::Measure) {
        arguments.does = Does::Nothing;
    }
    Ok(arguments)
}

/// The repository's target folder, wherever this package's is.
pub fn results_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers"))
}

/// The repository's `docs`.
pub fn docs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"))
}

fn main() -> ExitCode {
    let answer = parse().and_then(|arguments| run_command(&arguments));
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(arguments: &Arguments) -> Result<(), String> {
    match &arguments.does {
        Does::Measure => return supervise(arguments),
        Does::Report => return report::write(),
        Does::Stream(subject, len, count) => println!("{}", syscalls::stream(subject, *len, *count)?),
        Does::List => list(arguments),
        Does::Help => println!("{HELP}"),
        Does::Nothing => println!("nothing is measured without --bench (cargo bench gives it)"),
    }
    Ok(())
}

/// Measures in a child, so that whatever happens to it (an interrupt too) somebody is left to tidy up.
fn supervise(arguments: &Arguments) -> Result<(), String> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Err("two ends need two processors, and there is one".into());
    }
    run::sweep(false);
    let child = process::forked(false, || measure(arguments).unwrap_or_else(|why| panic!("{why}")));
    // The child has the usual answer to an interrupt, and ends of it; this process then sweeps.
    // SAFETY: ignoring a signal runs no handler.
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.map_err(|error| error.to_string())?;
    let is_fine = process::ended_well(child);
    run::sweep(false);
    if is_fine {
        Ok(())
    } else {
        Err("the session was not finished".into())
    }
}

fn chosen(arguments: &Arguments) -> Vec<cases::Group> {
    let fits = |choices: &[String], name: &str| {
        choices.is_empty() || choices.iter().any(|choice| name.contains(choice.as_str()))
    };
    let mut groups = cases::all();
    for group in &mut groups {
        group
            .entries
            .retain(|entry| fits(&arguments.cases, &entry.case) && fits(&arguments.subjects, entry.subject()));
    }
    groups.retain(|group| !group.entries.is_empty());
    groups
}

fn list(arguments: &Arguments) {
    for group in chosen(arguments) {
        println!("{}", group.title);
        for entry in &group.entries {
            println!("  {:50} {}", entry.case, entry.subject());
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), String> {
    let start = Instant::now();
    let mut plan = if arguments.is_quick {
        session::QUICK
    } else {
        session::FULL
    };
    plan.rounds = arguments.rounds.unwrap_or(plan.rounds);
    let is_whole = arguments.cases.is_empty() && arguments.subjects.is_empty();
    let groups = chosen(arguments);
    let command = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect::<Vec<_>>()
        .join(" ");
    let command = format!(
        "cargo bench --manifest-path benches/peers/Cargo.toml{}{command}",
        if command.is_empty() { "" } else { " -- " }
    );
    let mut machine = machine::describe(&command);
    for (what, value) in machine.as_object().expect("an object") {
        println!("{what:20} {}", value.as_str().map_or(value.to_string(), String::from));
    }
    println!(
        "{} rounds; medians, and in brackets the middle eight tenths of the rounds",
        plan.rounds
    );

    let mut results = Results::default();
    session::play(&plan, &groups, &mut results, table::print_group);
    machine["load after"] = machine::load().into();
    if is_whole {
        alone(&plan, &mut results);
        let bars = bars::all(&results);
        table::print_bars(&bars);
        let settings = subjects::all()
            .into_iter()
            .map(|subject| json!({ "subject": subject.name(), "settings": subject.settings() }));
        let all = json!({
            "machine": machine,
            "rounds": plan.rounds,
            "seconds": start.elapsed().as_secs(),
            "settings": settings.collect::<Vec<_>>(),
            "results": results.to_json(),
            "bars": bars.iter().map(bars::Bar::to_json).collect::<Vec<_>>(),
            "failures": results.failures,
        });
        let folder = results_folder();
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            let text = serde_json::to_string_pretty(&all).expect("plain values");
            std::fs::write(folder.join("results.json"), text + "\n")
        });
        written.map_err(|error| format!("{}: {error}", folder.display()))?;
        plots::draw(&all)?;
        println!("\nresults: target/peers/results.json; plots: docs/performance/");
    }
    for failure in &results.failures {
        println!("failed: {failure}");
    }
    println!("{} s", start.elapsed().as_secs());
    Ok(())
}

/// What is not measured in turns: nothing is beside it.
fn alone(plan: &session::Plan, results: &mut Results) {
    syscalls::count(results, plan.rounds);
    println!("\n{} readers wait for {} s", plan.rounds, plan.idle_seconds);
    match ours::idle_readers(plan.idle_seconds, plan.rounds, board::Board::new()) {
        Ok(found) => found
            .into_iter()
            .for_each(|value| results.add(bars::IDLE, "syncq", "ms", value)),
        Err(why) => results.failures.push(format!("{}: {why}", bars::IDLE)),
    }
    match ours::fixed_memory() {
        Ok(value) => results.add(bars::FIXED, "syncq", "KiB", value),
        Err(why) => results.failures.push(format!("{}: {why}", bars::FIXED)),
    }
    // Processes of the strace runs may still be ending.
    std::thread::sleep(Duration::from_millis(10));
}
