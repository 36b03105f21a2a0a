//! The figures as text, for people.

use crate::bars::Bar;
use crate::cases::{Group, belongs};
use crate::results::{Results, Series, Spread, short};

const OURS: &str = "syncq";

/// The series of one case, with their spread, as they are shown: in the order measured.
fn series_of<'r>(results: &'r Results, case: &'r str) -> impl Iterator<Item = (&'r Series, Spread)> {
    let of_case = results.series.iter().filter(move |series| series.case == case);
    of_case.filter_map(|series| Some((series, Spread::of(&series.rounds)?)))
}

/// The cases of a group, each once, with those that its figures add.
fn cases_of(group: &Group, results: &Results) -> Vec<String> {
    let mut cases: Vec<String> = Vec::new();
    for series in &results.series {
        let is_of_group = group
            .entries
            .iter()
            .any(|entry| series.subject == entry.subject() && belongs(&series.case, &entry.case));
        if is_of_group && !cases.contains(&series.case) {
            cases.push(series.case.clone());
        }
    }
    cases
}

pub fn print_group(group: &Group, results: &Results) {
    for case in cases_of(group, results) {
        let ours = results.spread(&case, OURS);
        println!("\n{case}");
        for (series, spread) in series_of(results, &case) {
            let ratio = ours.filter(|_| series.subject != OURS);
            let ratio = ratio.map_or(String::new(), |ours| {
                format!("  syncq is {} times that", short(ours.median / spread.median))
            });
            println!(
                "  {:26} {:>9}  ({} to {}) {}{ratio}",
                series.subject,
                short(spread.median),
                short(spread.low),
                short(spread.high),
                series.unit,
            );
        }
    }
}

pub fn print_bars(bars: &[Bar]) {
    println!("\nbars");
    for bar in bars {
        let found = bar.ratio.map_or("not measured".into(), |ratio| {
            format!(
                "{} ({} to {})",
                short(ratio.median),
                short(ratio.low),
                short(ratio.high)
            )
        });
        let limit = format!("{} {}", if bar.is_at_most { "at most" } else { "at least" }, bar.limit);
        let holds = match bar.holds() {
            Some(true) => "holds",
            Some(false) => "FALLS SHORT",
            None => "-",
        };
        println!("  {holds:11} {:82} {found:>28}  {limit}", bar.bar);
    }
}
