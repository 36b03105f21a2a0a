//! A whole session: every group, round after round, its members in turns, within the time there is.

use crate::board::Board;
use crate::cases::{Entry, Group};
use crate::results::Results;
use std::time::{Duration, Instant};

pub struct Plan {
    pub rounds: usize,
    /// For all runs together.
    pub budget: Duration,
    /// How long one run measures, at most.
    pub longest: Duration,
    /// How long the idle readers sleep.
    pub idle_seconds: u64,
}

pub const FULL: Plan = Plan {
    rounds: 7,
    budget: Duration::from_secs(560),
    longest: Duration::from_millis(250),
    idle_seconds: 10,
};

pub const QUICK: Plan = Plan {
    rounds: 5,
    budget: Duration::from_secs(80),
    longest: Duration::from_millis(60),
    idle_seconds: 5,
};

/// Less would be noise.
const SHORTEST: Duration = Duration::from_millis(4);
/// After so many failures a subject is left out of a case.
const PATIENCE: u32 = 2;

/// What is known of an entry from its runs so far.
struct Progress {
    /// Nanoseconds of one trip or message; `None` before the first run.
    each: Option<f64>,
    /// What a run costs beside its measured part: processes, warm-up, tidying up.
    overhead: Duration,
    failures: u32,
}

/// Runs all groups and calls `done` after each.
pub fn play(plan: &Plan, groups: &[Group], results: &mut Results, mut done: impl FnMut(&Group, &Results)) {
    let board = Board::new();
    let end = Instant::now() + plan.budget;
    // One round more, for finding out how many a run can do; its figures are not used.
    let mut left: usize = groups.iter().map(|group| group.entries.len() * (plan.rounds + 1)).sum();
    for group in groups {
        let fresh = |_: &Entry| Progress {
            each: None,
            overhead: Duration::ZERO,
            failures: 0,
        };
        let mut progress: Vec<Progress> = group.entries.iter().map(fresh).collect();
        for round in 0..=plan.rounds {
            for place in 0..group.entries.len() {
                // Nobody always follows the same one.
                let at = (place + round) % group.entries.len();
                let (entry, state) = (&group.entries[at], &mut progress[at]);
                let start = Instant::now();
                let share = end.saturating_duration_since(start) / left.max(1) as u32;
                left = left.saturating_sub(1);
                let mut measured = None;
                if state.failures < PATIENCE {
                    let target = share.saturating_sub(state.overhead).clamp(SHORTEST, plan.longest);
                    let fits = |each: f64| (target.as_nanos() as f64 / each) as u64;
                    let count = state
                        .each
                        .map_or(entry.first_count(), fits)
                        .clamp(entry.least(), 100_000_000);
                    match entry.run(count, board) {
                        Ok(found) => measured = Some(found),
                        Err(why) => {
                            state.failures += 1;
                            results.failures.push(format!("{}: round {round}: {why}", entry.case));
                        }
                    }
                }
                match measured {
                    Some(found) => {
                        state.each = Some(found.each.max(0.1));
                        state.overhead = start.elapsed().saturating_sub(found.elapsed);
                        if round > 0 {
                            for figure in entry.figures(&found) {
                                results.add(&figure.case, entry.subject(), figure.unit, figure.value);
                            }
                        }
                    }
                    // Keeps the rounds of all subjects in step.
                    None if round > 0 => results.miss(&entry.case, entry.subject()),
                    None => {}
                }
            }
        }
        done(group, results);
    }
}
