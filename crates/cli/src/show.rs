//! Numbers, names and tables as people read them. Not here: messages (`format`), and what is for programs (`json`).

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value >= 100.0 => format!("{value:.0} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// `1.2k`, `34M`.
pub(crate) fn count(count: f64) -> String {
    let (value, unit) = match count.abs() {
        c if c >= 1e9 => (count / 1e9, "G"),
        c if c >= 1e6 => (count / 1e6, "M"),
        c if c >= 1e3 => (count / 1e3, "k"),
        _ => (count, ""),
    };
    match unit {
        "" if value == value.trunc() || value >= 10.0 => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}{unit}"),
        _ => format!("{value:.1}{unit}"),
    }
}

/// `1.2k/s`; nothing where there is no rate.
pub(crate) fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", count(rate)))
}

/// `3.2 µs`.
pub(crate) fn short_time(nanos: u64) -> String {
    match nanos {
        n if n < 1_000 => format!("{n} ns"),
        n if n < 1_000_000 => format!("{:.2} µs", n as f64 / 1e3),
        n if n < 1_000_000_000 => format!("{:.2} ms", n as f64 / 1e6),
        n => format!("{:.2} s", n as f64 / 1e9),
    }
}

/// Time since then, in its two largest units.
pub(crate) fn age(since: SystemTime) -> String {
    let seconds = since.elapsed().unwrap_or(Duration::ZERO).as_secs();
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        s if s < 86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// RFC 3339, UTC, to the microsecond.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

/// The text without anything that a terminal would obey.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if needs_escape(c) {
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, and those that turn the direction of text.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// At most `width` characters, with `…` for what is cut off.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// How a piece of text looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Look {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
    Reverse,
}

impl Look {
    /// The SGR parameter.
    fn code(self) -> &'static str {
        match self {
            Look::Plain => "0",
            Look::Bold => "1",
            Look::Dim => "2",
            Look::Red => "31",
            Look::Green => "32",
            Look::Yellow => "33",
            Look::Cyan => "36",
            Look::Reverse => "7",
        }
    }

    /// The text in this look, where looks are wanted.
    pub(crate) fn on<'t>(self, is_coloured: bool, text: &'t str) -> Cow<'t, str> {
        match self {
            Look::Plain => Cow::Borrowed(text),
            _ if !is_coloured => Cow::Borrowed(text),
            look => Cow::Owned(format!("\x1b[{}m{text}\x1b[0m", look.code())),
        }
    }
}

/// Rows in columns that line up. A heading that begins with `>` is for numbers: to the right.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<(String, Look)>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Table {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<(String, Look)>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// One line each, headings first.
    pub(crate) fn lines(&self, is_coloured: bool) -> Vec<String> {
        let headings: Vec<(String, Look)> = self
            .headings
            .iter()
            .map(|h| (h.trim_start_matches('>').to_owned(), Look::Bold))
            .collect();
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&headings])
                .map(|row| row[column].0.chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        [&headings]
            .into_iter()
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, is_coloured))
            .collect()
    }

    fn line(&self, row: &[(String, Look)], widths: &[usize], is_coloured: bool) -> String {
        let mut line = String::new();
        for (column, (text, look)) in row.iter().enumerate() {
            let gap = " ".repeat(widths[column] - text.chars().count());
            let text = look.on(is_coloured, text);
            match self.headings[column].starts_with('>') {
                true => line.push_str(&format!("{gap}{text}")),
                false if column + 1 == row.len() => line.push_str(&text),
                false => line.push_str(&format!("{text}{gap}")),
            }
            if column + 1 < row.len() {
                line.push_str("  ");
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_times_are_short() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(count(0.0), "0");
        assert_eq!(count(0.5), "0.5");
        assert_eq!(count(1234.0), "1.2k");
        assert_eq!(count(123_456_789.0), "123M");
        assert_eq!(short_time(1_500), "1.50 µs");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(printable("\x1b[31m\u{202e}\n"), "\\u{1b}[31m\\u{202e}\\n");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(vec![("a".into(), Look::Plain), ("1".into(), Look::Red)]);
        table.row(vec![("long".into(), Look::Plain), ("22222".into(), Look::Plain)]);
        assert_eq!(table.lines(false), ["NAME   SIZE", "a         1", "long  22222"]);
        assert!(table.lines(true)[1].ends_with("    \x1b[31m1\x1b[0m"));
    }
}
