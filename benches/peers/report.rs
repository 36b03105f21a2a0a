//! Fills docs/performance.md from `target/peers/results.json`: between marks, so that no figure on the page is written by hand.

use crate::cases::{
    self, BATCH, LARGE_RINGS, ONE_WAY_SIZES, P99, P999, READERS, SMALL_RINGS, TRIP_SIZES, WRITERS, bytes,
};
use crate::plots::{self, find};
use crate::results::{Spread, short};
use crate::subject::Waiting;
use crate::subjects;
use serde_json::Value;

pub fn write() -> Result<(), String> {
    let from = crate::results_folder().join("results.json");
    let text =
        std::fs::read_to_string(&from).map_err(|error| format!("{}: {error}; run the bench first", from.display()))?;
    let all: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", from.display()))?;
    plots::draw(&all)?;
    let page = crate::docs().join("performance.md");
    let mut text = std::fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
    for (name, table) in tables(&all) {
        text = replaced(&text, name, &table)?;
    }
    std::fs::write(&page, text).map_err(|error| format!("{}: {error}", page.display()))?;
    println!("docs/performance.md and docs/performance/ are filled from target/peers/results.json");
    Ok(())
}

/// The text with what stands between the marks of this name replaced.
fn replaced(text: &str, name: &str, by: &str) -> Result<String, String> {
    let (begins, ends) = (format!("<!-- results: {name} -->"), format!("<!-- end: {name} -->"));
    let from = text
        .find(&begins)
        .ok_or(format!("docs/performance.md has no mark {begins}"))?
        + begins.len();
    let to = from
        + text[from..]
            .find(&ends)
            .ok_or(format!("docs/performance.md has no mark {ends}"))?;
    Ok(format!("{}\n{}\n{}", &text[..from], by.trim_end(), &text[to..]))
}

fn tables(all: &Value) -> Vec<(&'static str, String)> {
    let trips =
        |waiting, tail: &'static str| grid(all, &TRIP_SIZES, bytes, move |len| cases::trip(waiting, len) + tail);
    vec![
        ("machine", machine(all)),
        ("bars", bars(all)),
        ("round trips, spinning", trips(Waiting::Spin, "")),
        ("round trips, spinning, 99th", trips(Waiting::Spin, P99)),
        ("round trips, spinning, 99.9th", trips(Waiting::Spin, P999)),
        ("round trips, sleeping", trips(Waiting::Sleep, "")),
        ("round trips, sleeping, 99th", trips(Waiting::Sleep, P99)),
        (
            "round trips, usual",
            rows(
                all,
                &[cases::trip(Waiting::Usual, 64), cases::trip(Waiting::Usual, 64) + P99],
            ),
        ),
        (
            "one way",
            grid(all, &ONE_WAY_SIZES, bytes, |len| {
                cases::one_way(len, cases::ring_for(len))
            }),
        ),
        ("memcpy", rows(all, &["memcpy, 64 MiB".into()])),
        (
            "rings, 64 B",
            grid(all, &SMALL_RINGS, bytes, |ring| cases::one_way(64, ring)),
        ),
        (
            "rings, 64 KiB",
            grid(all, &LARGE_RINGS, bytes, |ring| cases::one_way(64 << 10, ring)),
        ),
        (
            "made and used",
            grid(all, &LARGE_RINGS, bytes, |ring| cases::made(64 << 10, ring)),
        ),
        (
            "writers",
            grid(
                all,
                &WRITERS,
                |count| format!("{count} writers"),
                |count| cases::writers(count, 1),
            ),
        ),
        (
            "batches",
            grid(
                all,
                &[1, 4],
                |count| format!("{count} writers"),
                |count| cases::writers(count, BATCH),
            ),
        ),
        (
            "readers",
            grid(all, &READERS[1..], |count| format!("{count} readers"), cases::readers),
        ),
        (
            "joined readers",
            grid(all, &READERS, |count| format!("{count} joined"), cases::append_among),
        ),
        ("screened", screened(all)),
        ("slow reader", rows(all, &[cases::slow(), cases::slow() + cases::BUSY])),
        (
            "nearly full",
            rows(all, &[cases::alternate(false, 64), cases::alternate(true, 64)]),
        ),
        ("settings", settings(all)),
        ("failures", failures(all)),
    ]
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn machine(all: &Value) -> String {
    let fields = all["machine"].as_object().into_iter().flatten();
    let mut table = String::from("| | |\n|---|---|\n");
    for (name, value) in fields {
        let value = if name == "command" {
            format!("`{}`", text(value))
        } else {
            text(value)
        };
        table += &format!("| {name} | {value} |\n");
    }
    table
        + &format!(
            "| rounds | {}, of which the median and the middle eight tenths are shown |\n| took | {} s |\n",
            all["rounds"], all["seconds"]
        )
}

fn bars(all: &Value) -> String {
    let mut table = String::from("| | bar | measured | spread | |\n|---|--:|--:|--:|---|\n");
    for bar in all["bars"].as_array().into_iter().flatten() {
        let sign = if bar["is"] == "at most" { "≤" } else { "≥" };
        let number = |field: &str| bar[field].as_f64().map_or("–".into(), short);
        let holds = match bar["holds"].as_bool() {
            Some(true) => "holds",
            Some(false) => "**falls short**",
            None => "not measured",
        };
        table += &format!(
            "| {} | {sign} {} | {} | {} to {} | {holds} |\n",
            text(&bar["bar"]),
            bar["limit"].as_f64().unwrap_or_default(),
            number("ratio"),
            number("low"),
            number("high")
        );
    }
    table
}

fn unit(all: &Value, case: &str) -> Option<String> {
    let mut results = all["results"].as_array()?.iter();
    results
        .find(|result| result["case"] == case)
        .map(|result| text(&result["unit"]))
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or("–".into(), |Spread { low, median, high }| {
        format!("**{}** ({}–{})", short(median), short(low), short(high))
    })
}

/// A row for each subject, a column for each value.
fn grid(all: &Value, over: &[usize], label: impl Fn(usize) -> String, case: impl Fn(usize) -> String) -> String {
    let cases: Vec<String> = over.iter().map(|&value| case(value)).collect();
    let mut head = String::from("|");
    for (&value, case) in over.iter().zip(&cases) {
        head += &format!(" | {}, {}", label(value), unit(all, case).unwrap_or_default());
    }
    let mut table = format!("{head} |\n|---{}|\n", "|--:".repeat(over.len()));
    for subject in subjects::all() {
        let found: Vec<_> = cases.iter().map(|case| find(all, case, subject.name())).collect();
        if found.iter().any(Option::is_some) {
            let cells: Vec<String> = found.into_iter().map(cell).collect();
            table += &format!("| {} | {} |\n", subject.name(), cells.join(" | "));
        }
    }
    table
}

/// A row for each subject, a column for each case.
fn rows(all: &Value, cases: &[String]) -> String {
    let heads: Vec<String> = cases
        .iter()
        .map(|case| format!("{case}, {}", unit(all, case).unwrap_or_default()))
        .collect();
    let mut table = format!("| | {} |\n|---{}|\n", heads.join(" | "), "|--:".repeat(cases.len()));
    let mut names: Vec<&str> = subjects::all().iter().map(|subject| subject.name()).collect();
    names.push("memcpy");
    for name in names {
        let found: Vec<_> = cases.iter().map(|case| find(all, case, name)).collect();
        if found.iter().any(Option::is_some) {
            let cells: Vec<String> = found.into_iter().map(cell).collect();
            table += &format!("| {name} | {} |\n", cells.join(" | "));
        }
    }
    table
}

fn screened(all: &Value) -> String {
    let mut table = String::from("| | 64 B, ns | 1 KiB, ns |\n|---|--:|--:|\n");
    for (what, pops) in [("popping a message", true), ("passing over a screened one", false)] {
        let of = |len| cell(find(all, &cases::screened(pops, len), "syncq"));
        table += &format!("| {what} | {} | {} |\n", of(64), of(1 << 10));
    }
    table
}

fn settings(all: &Value) -> String {
    let settings = all["settings"].as_array().into_iter().flatten();
    let rows = settings.map(|one| format!("| {} | {} |\n", text(&one["subject"]), text(&one["settings"])));
    format!("| | |\n|---|---|\n{}", rows.collect::<String>())
}

fn failures(all: &Value) -> String {
    let failures: Vec<String> = all["failures"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| format!("* {}\n", text(one)))
        .collect();
    if failures.is_empty() {
        "No run failed.\n".into()
    } else {
        failures.concat()
    }
}
