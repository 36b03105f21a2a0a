//! How a message is printed: as text, as its body, as JSON, or by a template.

use crate::json;
use crate::show::{self, Look};
use std::io::Write;
use syncq::Message;

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Sender, kind and body in one line, with control characters escaped
    Text,
    /// The body as it is, and a newline
    Line,
    /// The body as it is, and nothing else
    Raw,
    /// One JSON object a line
    Json,
}

/// What messages to show, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Shown {
    /// How a message is printed [default: text for tail, line for pop]
    #[arg(short, long, value_enum, conflicts_with_all = ["template", "json"])]
    format: Option<Format>,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// Print this for each message; {sender} {kind} {body} {sequence} {position} {member} {time} stand for what they say, \n and \t
    /// for newline and tab
    #[arg(short = 't', long)]
    template: Option<String>,
    /// Only messages of this kind (may be given more than once)
    #[arg(short, long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only messages of this sender (may be given more than once)
    #[arg(short, long, value_name = "SENDER")]
    sender: Vec<String>,
    /// Screen out messages of this kind (may be given more than once)
    #[arg(long, value_name = "KIND")]
    not_kind: Vec<String>,
    /// Screen out messages of this sender (may be given more than once)
    #[arg(long, value_name = "SENDER")]
    not_sender: Vec<String>,
}

impl Shown {
    /// What the library passes over by itself.
    pub(crate) fn set_screen(&self, screen: &mut syncq::Screen) {
        self.not_kind.iter().for_each(|kind| {
            screen.add_kind(kind);
        });
        self.not_sender.iter().for_each(|sender| {
            screen.add_sender(sender);
        });
    }

    /// Whether this one was asked for.
    #[inline]
    pub(crate) fn wants(&self, message: &Message<'_>) -> bool {
        let is_in = |asked: &[String], bytes: &[u8]| asked.is_empty() || asked.iter().any(|a| a.as_bytes() == bytes);
        is_in(&self.kind, message.kind_bytes()) && is_in(&self.sender, message.sender_bytes())
    }

    pub(crate) fn printer(&self, default: Format, is_coloured: bool) -> Result<Printer, String> {
        Ok(match &self.template {
            Some(template) => Printer::Template(parse(template)?),
            None if self.json => Printer::Of(Format::Json, is_coloured),
            None => Printer::Of(self.format.unwrap_or(default), is_coloured),
        })
    }
}

/// Prints messages into a buffer.
#[derive(Debug)]
pub(crate) enum Printer {
    Of(Format, bool),
    Template(Vec<Piece>),
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Sender,
    Kind,
    Body,
    Sequence,
    Position,
    Member,
    Time,
}

impl Printer {
    #[inline]
    pub(crate) fn print(&self, message: &Message<'_>, to: &mut Vec<u8>) {
        match self {
            Printer::Of(Format::Line, _) => {
                to.extend_from_slice(message.body());
                to.push(b'\n');
            }
            Printer::Of(Format::Raw, _) => to.extend_from_slice(message.body()),
            Printer::Of(Format::Text, is_coloured) => text(message, *is_coloured, to),
            Printer::Of(Format::Json, _) => {
                // Writing into a vector cannot fail.
                let _ = writeln!(to, "{}", json::message(message));
            }
            Printer::Template(pieces) => pieces.iter().for_each(|piece| piece.print(message, to)),
        }
    }
}

fn text(message: &Message<'_>, is_coloured: bool, to: &mut Vec<u8>) {
    let name = |name: &str| match name {
        "" => "-".to_owned(),
        name => show::printable(name).into_owned(),
    };
    let (sender, kind) = (name(message.sender()), name(message.kind()));
    let body = message.text_lossy();
    let _ = writeln!(
        to,
        "{} {} {}",
        Look::Cyan.on(is_coloured, &sender),
        Look::Yellow.on(is_coloured, &kind),
        show::printable(&body),
    );
}

impl Piece {
    fn print(&self, message: &Message<'_>, to: &mut Vec<u8>) {
        let _ = match self {
            Piece::Text(text) => to.write_all(text.as_bytes()),
            Piece::Sender => to.write_all(message.sender_bytes()),
            Piece::Kind => to.write_all(message.kind_bytes()),
            Piece::Body => to.write_all(message.body()),
            Piece::Sequence => write!(to, "{}", message.sequence()),
            Piece::Position => write!(to, "{}", message.position()),
            Piece::Member => write!(to, "{}", message.member()),
            Piece::Time => match message.timestamp() {
                Some(time) => write!(to, "{}", show::time(time)),
                None => write!(to, "-"),
            },
        };
    }
}

fn parse(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('0') => text.push('\0'),
                Some(other @ ('\\' | '{' | '}')) => text.push(other),
                other => {
                    return Err(format!(
                        "\\{} means nothing in a template",
                        other.map_or(String::new(), String::from)
                    ));
                }
            },
            '{' => {
                let (name, behind) = rest
                    .as_str()
                    .split_once('}')
                    .ok_or("a { without its } in the template")?;
                rest = behind.chars();
                let piece = match name {
                    "sender" => Piece::Sender,
                    "kind" => Piece::Kind,
                    "body" => Piece::Body,
                    "sequence" => Piece::Sequence,
                    "position" => Piece::Position,
                    "member" => Piece::Member,
                    "time" => Piece::Time,
                    other => {
                        return Err(format!(
                            "{{{other}}} means nothing in a template; there are sender, kind, body, sequence, position, member and time"
                        ));
                    }
                };
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(piece);
            }
            c => text.push(c),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read_or_refused() {
        let text = |t: &str| Piece::Text(t.to_owned());
        assert_eq!(
            parse("{sender}\\t{body}!\\n"),
            Ok(vec![Piece::Sender, text("\t"), Piece::Body, text("!\n")])
        );
        assert_eq!(parse("\\{x\\}"), Ok(vec![text("{x}")]));
        assert!(parse("{bdy}").is_err());
        assert!(parse("\\x").is_err());
        assert!(parse("{body").is_err());
    }
}
