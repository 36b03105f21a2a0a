//! All figures of a session: what each round gave, and the median and spread of it.

use crate::cases::belongs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Median, and the range in which the middle eight tenths lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        (!values.is_empty()).then(|| Spread {
            low: at(0.1),
            median: at(0.5),
            high: at(0.9),
        })
    }
}

/// One case with one subject.
#[derive(Debug, Clone)]
pub struct Series {
    pub case: String,
    pub subject: String,
    pub unit: String,
    /// By round; NaN where the run failed.
    pub rounds: Vec<f64>,
}

#[derive(Debug, Default)]
pub struct Results {
    /// In the order in which they were first measured.
    pub series: Vec<Series>,
    index: BTreeMap<(String, String), usize>,
    /// What went wrong, in words.
    pub failures: Vec<String>,
}

impl Results {
    pub fn add(&mut self, case: &str, subject: &str, unit: &str, value: f64) {
        let key = (case.to_string(), subject.to_string());
        let at = *self.index.entry(key).or_insert_with(|| {
            self.series.push(Series {
                case: case.into(),
                subject: subject.into(),
                unit: unit.into(),
                rounds: Vec::new(),
            });
            self.series.len() - 1
        });
        self.series[at].rounds.push(value);
    }

    /// A round without a figure, in all series of this case and subject.
    pub fn miss(&mut self, case: &str, subject: &str) {
        let of_case = |series: &&mut Series| series.subject == subject && belongs(&series.case, case);
        self.series
            .iter_mut()
            .filter(of_case)
            .for_each(|series| series.rounds.push(f64::NAN));
    }

    pub fn rounds(&self, case: &str, subject: &str) -> Option<&[f64]> {
        let at = self.index.get(&(case.to_string(), subject.to_string()))?;
        Some(&self.series[*at].rounds)
    }

    pub fn spread(&self, case: &str, subject: &str) -> Option<Spread> {
        Spread::of(self.rounds(case, subject)?)
    }

    /// One by the other, round by round if both have every round, else by their medians.
    pub fn ratio(&self, one: (&str, &str), other: (&str, &str)) -> Option<Spread> {
        let (one, other) = (self.rounds(one.0, one.1)?, self.rounds(other.0, other.1)?);
        if one.len() == other.len() {
            let ratios: Vec<f64> = one.iter().zip(other).map(|(one, other)| one / other).collect();
            return Spread::of(&ratios);
        }
        let ratio = Spread::of(one)?.median / Spread::of(other)?.median;
        Some(Spread {
            low: ratio,
            median: ratio,
            high: ratio,
        })
    }

    pub fn to_json(&self) -> Vec<Value> {
        let spreads = self
            .series
            .iter()
            .filter_map(|series| Some((series, Spread::of(&series.rounds)?)));
        spreads
            .map(|(series, spread)| {
                json!({
                    "case": series.case,
                    "subject": series.subject,
                    "median": rounded(spread.median),
                    "low": rounded(spread.low),
                    "high": rounded(spread.high),
                    "unit": series.unit,
                })
            })
            .collect()
    }
}

/// Four digits that mean something.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 4 - 1 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// For people: three digits, thousands as they are.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
