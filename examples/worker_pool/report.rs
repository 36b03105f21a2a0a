//! The outcome, as a table or as one JSON object.

use crate::parent::Harvest;
use crate::totals::{Top, Totals};
use crate::verify::Verdict;
use crate::walk::printable;
use std::fmt::Write;
use std::io::IsTerminal;

/// The table, with bold headings where a terminal shows them and `NO_COLOR` is not set.
pub fn table(harvest: &Harvest, verdict: Option<&Verdict>) -> String {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_bold = std::io::stdout().is_terminal() && !is_plain;
    let (bold, normal) = if is_bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let mut out = String::new();
    let heading = ["worker", "process", "files", "lines", "words", "bytes"];
    out += &format!("{bold}{} end{normal}\n", columns(&heading.map(str::to_owned)));
    for worker in &harvest.workers {
        let row = row(&worker.name, &worker.pid.to_string(), &worker.done);
        out += &format!("{row} {}\n", worker.end);
    }
    out += &format!("{bold}{}{normal}\n", row("total", "", &harvest.totals));
    out += &top(&format!("\n{bold}Largest files{normal}"), &harvest.totals.largest);
    out += &top(&format!("{bold}Longest lines{normal}"), &harvest.totals.longest);
    out += &summary(harvest);
    if let Some(verdict) = verdict {
        out += &verdict_line(harvest, verdict);
    }
    out
}

fn columns(cells: &[String; 6]) -> String {
    let [name, process, files, lines, words, bytes] = cells;
    format!("{name:<11}{process:>9}{files:>9}{lines:>12}{words:>13}{bytes:>15} ")
}

fn row(name: &str, process: &str, sums: &Totals) -> String {
    let figures = [sums.files + sums.unreadable, sums.lines, sums.words, sums.bytes].map(|n| n.to_string());
    let [files, lines, words, bytes] = figures;
    columns(&[name.to_owned(), process.to_owned(), files, lines, words, bytes])
}

fn top(heading: &str, top: &Top) -> String {
    let mut out = format!("{heading}\n");
    for (value, path) in &top.0 {
        let _ = writeln!(out, "{value:>15}  {}", printable(path));
    }
    out
}

fn summary(harvest: &Harvest) -> String {
    let Harvest { totals, .. } = harvest;
    format!(
        "\n{} files read ({} not text), {} unreadable, {} warnings, {} progress notes\n\
         {} workers killed, {} repeated results, checksum {:016x}, {:.2} s\n",
        totals.files,
        totals.not_text,
        totals.unreadable,
        harvest.warnings,
        harvest.notes,
        harvest.killed,
        harvest.repeats,
        totals.checksum,
        harvest.took.as_secs_f64(),
    )
}

fn verdict_line(harvest: &Harvest, verdict: &Verdict) -> String {
    format!(
        "{}: {} files agree, {} differ, {} changed meanwhile; one process took {:.2} s, {:.2} times as long\n",
        if verdict.is_good() { "verified" } else { "NOT VERIFIED" },
        verdict.agree,
        verdict.differ,
        verdict.changed,
        verdict.took.as_secs_f64(),
        verdict.took.as_secs_f64() / harvest.took.as_secs_f64(),
    )
}

/// One object, for programs to read. Paths that are not UTF-8 have `\u{fffd}` for what is not.
pub fn json(harvest: &Harvest, verdict: Option<&Verdict>) -> String {
    let workers: Vec<String> = harvest.workers.iter().map(json_worker).collect();
    let mut fields = vec![
        json_sums(&harvest.totals),
        format!("\"checksum\":\"{:016x}\"", harvest.totals.checksum),
        format!("\"largest\":{}", json_top(&harvest.totals.largest)),
        format!("\"longest\":{}", json_top(&harvest.totals.longest)),
        format!("\"warnings\":{}", harvest.warnings),
        format!("\"progress_notes\":{}", harvest.notes),
        format!("\"killed\":{}", harvest.killed),
        format!("\"repeated\":{}", harvest.repeats),
        format!("\"seconds\":{:.6}", harvest.took.as_secs_f64()),
        format!("\"workers\":[{}]", workers.join(",")),
    ];
    if let Some(verdict) = verdict {
        fields.push(format!(
            "\"verified\":{},\"agree\":{},\"differ\":{},\"changed\":{},\"verify_seconds\":{:.6}",
            verdict.is_good(),
            verdict.agree,
            verdict.differ,
            verdict.changed,
            verdict.took.as_secs_f64(),
        ));
    }
    format!("{{{}}}\n", fields.join(","))
}

fn json_worker(worker: &crate::parent::Worker) -> String {
    format!(
        "{{\"name\":{},\"pid\":{},\"end\":{},{}}}",
        json_text(&worker.name),
        worker.pid,
        json_text(&worker.end),
        json_sums(&worker.done),
    )
}

fn json_sums(sums: &Totals) -> String {
    format!(
        "\"files\":{},\"not_text\":{},\"unreadable\":{},\"lines\":{},\"words\":{},\"bytes\":{}",
        sums.files, sums.not_text, sums.unreadable, sums.lines, sums.words, sums.bytes
    )
}

fn json_top(top: &Top) -> String {
    let entry = |(value, path): &(u64, std::path::PathBuf)| {
        format!("{{\"path\":{},\"value\":{value}}}", json_text(&path.to_string_lossy()))
    };
    format!("[{}]", top.0.iter().map(entry).collect::<Vec<_>>().join(","))
}

fn json_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}
