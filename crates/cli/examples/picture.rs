//! Turns what a terminal shows into an SVG picture: text with SGR colours on standard input (`tmux capture-pane -e -p`), the picture on
//! standard output. `crates/cli/docs.sh` makes the pictures of the documentation with it. Without input it draws a line of its own.

use std::fmt::Write as _;
use std::io::{IsTerminal, Read};

/// Width of a character and height of a line, in SVG units, for the font size below.
const CELL: (f64, f64) = (8.4, 18.0);
const FONT: f64 = 14.0;
const MARGIN: f64 = 12.0;

#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    colour: Option<u8>,
    is_bold: bool,
    is_dim: bool,
    is_reverse: bool,
}

impl Style {
    fn obey(&mut self, codes: &str) {
        for code in codes.split(';') {
            match code.parse::<u8>().unwrap_or(0) {
                0 => *self = Style::default(),
                1 => self.is_bold = true,
                2 => self.is_dim = true,
                7 => self.is_reverse = true,
                22 => (self.is_bold, self.is_dim) = (false, false),
                27 => self.is_reverse = false,
                39 => self.colour = None,
                c @ 30..=37 => self.colour = Some(c - 30),
                _ => {}
            }
        }
    }

    fn fill(self) -> &'static str {
        match self.colour {
            _ if self.is_reverse => "#101418",
            Some(1) => "#ff7b72",
            Some(2) => "#7ee787",
            Some(3) => "#e3b341",
            Some(6) => "#76e3ea",
            _ if self.is_dim => "#8b949e",
            _ => "#e6edf3",
        }
    }
}

fn main() {
    let mut input = String::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin()
            .read_to_string(&mut input)
            .expect("standard input is text");
    }
    if input.trim().is_empty() {
        input = "\x1b[1msyncq\x1b[0m \x1b[32mlive\x1b[0m".to_owned();
    }
    let lines: Vec<&str> = input.trim_end().lines().collect();
    let (mut body, mut widest) = (String::new(), 0);
    let mut style = Style::default();
    for (row, line) in lines.iter().enumerate() {
        let mut column = 0;
        let mut rest = *line;
        while !rest.is_empty() {
            if let Some((codes, behind)) = rest.strip_prefix("\x1b[").and_then(|r| r.split_once('m')) {
                style.obey(codes);
                rest = behind;
                continue;
            }
            let end = rest
                .char_indices()
                .skip(1)
                .find(|(_, c)| *c == '\x1b')
                .map_or(rest.len(), |(at, _)| at);
            draw(&mut body, &rest[..end], row, column, style);
            column += rest[..end].chars().count();
            rest = &rest[end..];
        }
        widest = widest.max(column);
    }
    let width = widest as f64 * CELL.0 + 2.0 * MARGIN;
    let height = lines.len() as f64 * CELL.1 + 2.0 * MARGIN;
    println!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"{FONT}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#101418\"/>\n{body}</svg>"
    );
}

fn draw(body: &mut String, text: &str, row: usize, column: usize, style: Style) {
    let (x, y) = (MARGIN + column as f64 * CELL.0, MARGIN + row as f64 * CELL.1);
    let width = text.chars().count() as f64 * CELL.0;
    if style.is_reverse {
        let _ = writeln!(
            body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"#e6edf3\"/>",
            CELL.1
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if style.is_bold { " font-weight=\"bold\"" } else { "" };
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // The width is said, so that columns stand where they should in any font.
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{}\"{weight} xml:space=\"preserve\" textLength=\"{width:.1}\">{escaped}</text>",
        y + CELL.1 - 5.0,
        style.fill()
    );
}
