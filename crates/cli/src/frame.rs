//! What `top` shows: queues and their members, with rate and lag over time, as lines of styled pieces. No terminal here.

use crate::sample::{Sample, role_name};
use crate::show::{self, Look};
use crate::watch::Seen;
use std::collections::{HashMap, VecDeque};
use syncq::MemberId;

/// How many moments the history keeps.
const HISTORY: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// By what queues are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Order {
    #[default]
    Name,
    Rate,
    Used,
}

impl Order {
    pub(crate) fn next(self) -> Self {
        match self {
            Order::Name => Order::Rate,
            Order::Rate => Order::Used,
            Order::Used => Order::Name,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Order::Name => "name",
            Order::Rate => "rate",
            Order::Used => "used",
        }
    }
}

/// A line of the screen.
pub(crate) type Line = Vec<(String, Look)>;

/// Values over time, the newest last.
type Series = VecDeque<f64>;

/// What was seen before.
#[derive(Debug, Default)]
pub(crate) struct History {
    queues: HashMap<(String, u128), Series>,
    members: HashMap<(u128, MemberId), (Series, Series)>,
}

impl History {
    /// Adds what was seen now, and forgets what is gone.
    pub(crate) fn add(&mut self, seen: &[Seen]) {
        let mut history = History::default();
        for seen in seen {
            let (Ok(now), Some(before)) = (&seen.now, &seen.before) else {
                continue;
            };
            let instance = now.stats.instance;
            let key = (seen.name.clone(), instance);
            let mut rates = self.queues.remove(&key).unwrap_or_default();
            push(&mut rates, now.rate(before).unwrap_or(0.0));
            history.queues.insert(key, rates);
            for member in &now.members {
                let key = (instance, member.id);
                let (mut rates, mut lags) = self.members.remove(&key).unwrap_or_default();
                push(&mut rates, now.member_rate(before, member).unwrap_or(0.0));
                push(&mut lags, member.lag as f64);
                history.members.insert(key, (rates, lags));
            }
        }
        *self = history;
    }
}

fn push(series: &mut Series, value: f64) {
    series.push_back(value);
    if series.len() > HISTORY {
        series.pop_front();
    }
}

/// A small graph, `width` characters wide, up to `top`.
fn graph(series: Option<&Series>, width: usize, top: Option<f64>) -> String {
    let Some(series) = series else { return " ".repeat(width) };
    let shown: Vec<f64> = series
        .iter()
        .copied()
        .skip(series.len().saturating_sub(width))
        .collect();
    let top = top.unwrap_or_else(|| series.iter().copied().fold(0.0, f64::max));
    let bar = |value: f64| match value {
        v if v <= 0.0 || top <= 0.0 => ' ',
        v => BARS[((v / top * BARS.len() as f64).ceil() as usize).clamp(1, BARS.len()) - 1],
    };
    let gap = " ".repeat(width - shown.len());
    gap + &shown.into_iter().map(bar).collect::<String>()
}

/// What the frame is to look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) order: Order,
    /// Which queue is chosen: its members are always shown.
    pub(crate) chosen: usize,
    pub(crate) is_paused: bool,
}

/// Brings queues into the order of the view.
pub(crate) fn sort(seen: &mut [Seen], order: Order) {
    let value = |seen: &Seen| -> f64 {
        let Ok(now) = &seen.now else { return -1.0 };
        match order {
            Order::Name => 0.0,
            Order::Rate => seen.before.as_ref().and_then(|before| now.rate(before)).unwrap_or(0.0),
            Order::Used => now.fill(),
        }
    };
    seen.sort_by(|a, b| value(b).total_cmp(&value(a)).then_with(|| a.name.cmp(&b.name)));
}

/// The whole screen.
pub(crate) fn frame(seen: &[Seen], history: &History, view: &View) -> Vec<Line> {
    let mut lines = vec![title(seen, view), Vec::new(), heading()];
    let room = view.height.saturating_sub(lines.len());
    let chosen = view.chosen.min(seen.len().saturating_sub(1));
    let blocks: Vec<Vec<Line>> = seen
        .iter()
        .enumerate()
        .map(|(index, seen)| block(seen, history, index == chosen && seen.now.is_ok()))
        .collect();
    // Everything if it fits; else members of the chosen one only, and what is around it.
    let fits = blocks.iter().map(Vec::len).sum::<usize>() <= room;
    let mut body: Vec<Line> = Vec::new();
    let mut chosen_at = 0;
    for (index, block) in blocks.into_iter().enumerate() {
        if index == chosen {
            chosen_at = body.len();
        }
        let shown = if fits || index == chosen { block.len() } else { 1 };
        body.extend(block.into_iter().take(shown));
    }
    let skipped = if body.len() > room {
        chosen_at.min(body.len() - room)
    } else {
        0
    };
    lines.extend(body.into_iter().skip(skipped).take(room));
    if seen.is_empty() && room > 0 {
        lines.push(vec![("no queues; `syncq create NAME` makes one".to_owned(), Look::Dim)]);
    }
    lines.into_iter().map(|line| cut(line, view.width)).collect()
}

fn title(seen: &[Seen], view: &View) -> Line {
    let samples = || {
        seen.iter()
            .filter_map(|s| Some((s.now.as_ref().ok()?, s.before.as_ref())))
    };
    let rate: f64 = samples().filter_map(|(now, before)| now.rate(before?)).sum();
    let members: usize = samples().map(|(now, _)| now.members.len()).sum();
    let dead: usize = samples().map(|(now, _)| now.dead().count()).sum();
    let mut line = vec![
        ("syncq top".to_owned(), Look::Bold),
        (
            format!(
                "  {} queues  {members} members  {}  by {}",
                seen.len(),
                show::rate(Some(rate)),
                view.order.name()
            ),
            Look::Plain,
        ),
    ];
    if dead > 0 {
        line.push((format!("  {dead} dead"), Look::Red));
    }
    if view.is_paused {
        line.push(("  paused".to_owned(), Look::Yellow));
    }
    line.push(("  q quit  ↑↓ choose  s sort  space pause".to_owned(), Look::Dim));
    line
}

fn heading() -> Line {
    let text = format!(
        "{:<24} {:<10} {:>9} {:>5} {:>9} {:<24} {:>9} {:<12} {}",
        "QUEUE / MEMBER", "STATE", "SIZE/PID", "USED", "RATE", "RATE OVER TIME", "LAG", "LAG", "COMMAND"
    );
    vec![(format!("{text:<120}"), Look::Reverse)]
}

/// A queue and its members.
fn block(seen: &Seen, history: &History, is_chosen: bool) -> Vec<Line> {
    let name_look = if is_chosen { Look::Cyan } else { Look::Bold };
    let mark = if is_chosen { "▶ " } else { "  " };
    let name = format!("{mark}{:<22} ", show::cut(&show::printable(&seen.name), 22));
    let now = match &seen.now {
        Ok(now) => now,
        Err(error) => {
            return vec![vec![
                (name, name_look),
                (format!("{:<10} ", "unreadable"), Look::Red),
                (show::printable(&error.to_string()).into_owned(), Look::Dim),
            ]];
        }
    };
    let state = now.state();
    let fill = now.fill();
    let rates = history.queues.get(&(seen.name.clone(), now.stats.instance));
    let rate = seen.before.as_ref().and_then(|before| now.rate(before));
    let lag = now.slowest().map_or(0, |slow| slow.lag);
    let queue = vec![
        (name, name_look),
        (format!("{:<10} ", state.name()), state.look()),
        (format!("{:>9} ", show::bytes(now.stats.capacity)), Look::Plain),
        (format!("{:>4.0}% ", fill * 100.0), alarm(fill)),
        (format!("{:>9} ", show::rate(rate)), Look::Plain),
        (format!("{} ", graph(rates, HISTORY, None)), Look::Green),
        (
            format!("{:>9} ", show::bytes(lag)),
            alarm(lag as f64 / now.stats.capacity.max(1) as f64),
        ),
        (notes(now), Look::Dim),
    ];
    let members = now.members.iter().map(|m| member(m, seen, now, history));
    [queue].into_iter().chain(members).collect()
}

fn notes(now: &Sample) -> String {
    let stats = &now.stats;
    [
        (stats.refused, "refused"),
        (stats.missed, "missed"),
        (stats.takeovers, "takeovers"),
        (stats.reaped, "reaped"),
        (stats.evicted, "evicted"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what} ", show::count(*number as f64)))
    .collect()
}

fn member(member: &syncq::MemberInfo, seen: &Seen, now: &Sample, history: &History) -> Line {
    let (state, look) = crate::commands::info::state(member);
    let series = history.members.get(&(now.stats.instance, member.id));
    let rate = seen.before.as_ref().and_then(|before| now.member_rate(before, member));
    let capacity = now.stats.capacity as f64;
    let share = member.lag as f64 / capacity.max(1.0);
    let command = member.command().unwrap_or_default();
    let role = role_name(member.role);
    vec![
        (
            format!("    {:<20} ", show::cut(&show::printable(&member.name), 20)),
            Look::Plain,
        ),
        (format!("{:<10} ", if state == "alive" { role } else { state }), look),
        (format!("{:>9} ", member.pid), Look::Dim),
        (format!("{:>4.0}% ", share * 100.0), alarm(share)),
        (format!("{:>9} ", show::rate(rate)), Look::Plain),
        (
            format!("{} ", graph(series.map(|(rates, _)| rates), HISTORY, None)),
            Look::Green,
        ),
        (format!("{:>9} ", show::bytes(member.lag)), alarm(share)),
        (
            format!("{} ", graph(series.map(|(_, lags)| lags), 12, Some(capacity))),
            Look::Yellow,
        ),
        (show::printable(&command).into_owned(), Look::Dim),
    ]
}

/// Full is red.
fn alarm(share: f64) -> Look {
    match share {
        s if s > 0.9 => Look::Red,
        s if s > 0.5 => Look::Yellow,
        _ => Look::Plain,
    }
}

/// At most so many characters.
fn cut(line: Line, width: usize) -> Line {
    let mut left = width;
    line.into_iter()
        .map(|(text, look)| {
            let short: String = text.chars().take(left).collect();
            left -= short.chars().count();
            (short, look)
        })
        .filter(|(text, _)| !text.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_grows_from_the_right_and_fills_its_width() {
        let series: Series = [0.0, 1.0, 4.0, 8.0].into();
        assert_eq!(graph(Some(&series), 6, None), "   ▁▄█");
        assert_eq!(graph(Some(&series), 2, Some(16.0)), "▂▄");
        assert_eq!(graph(None, 3, None), "   ");
    }

    #[test]
    fn lines_are_cut_to_the_screen() {
        let line = vec![
            ("abc".to_owned(), Look::Plain),
            ("def".to_owned(), Look::Red),
            ("ghi".to_owned(), Look::Dim),
        ];
        let short = cut(line, 5);
        assert_eq!(short, [("abc".to_owned(), Look::Plain), ("de".to_owned(), Look::Red)]);
    }
}
