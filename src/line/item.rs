//! What a line buffer holds: items, each one line, a grouped warning or error, a log record, or a note of the buffer itself.
//!
//! Not here: how items travel as bytes (`frame.rs`).

use super::breaks::split_lines;
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::SystemTime;

/// One item of a buffer, oldest first in what `read` gives.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LineItem {
    /// Its number: how many items the buffer had stored before. Grows by one from item to item, also over `clear`, so a gap in
    /// what a reader has seen is what it has missed. An [unfinished](Line::is_unfinished) line that is only shown has the
    /// number that the next item may get.
    pub seq: u64,
    /// When it was written.
    pub time: SystemTime,
    /// Which mirror wrote it; `None` for what was written to the buffer itself.
    pub origin: Option<Arc<Origin>>,
    /// What it came out of.
    pub stream: Stream,
    /// What it is.
    pub content: Content,
}

/// Who wrote an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    /// The name of the mirror.
    pub name: String,
    /// The process it writes from; 0 if that is not known.
    pub pid: u32,
    /// Tells mirrors of the same name and process apart; the same number means the same mirror.
    pub mirror: u64,
}

/// What a line came out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stream {
    /// Written to a mirror or buffer.
    #[default]
    Text,
    /// Captured, from standard output.
    Out,
    /// Captured, from standard error.
    Err,
    /// Captured, with standard output and standard error in one pipe, so that their order is kept.
    Both,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// One line.
    Line(Line),
    /// A warning or an error, with all its lines.
    Grouped(GroupedMessage),
    /// A record of `log` or `tracing`.
    Record(Box<Record>),
    /// The buffer's own note: a worker is gone without having closed its mirror.
    Lost(Lost),
    /// The buffer's own note: this many items were dropped here, for want of room or as too much at once.
    Dropped(u64),
}

/// A line, without its line break.
///
/// Its bytes are those that were written, also where they are not UTF-8. [`text`](Line::text) and `Display` show `U+FFFD` for
/// what is not.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Line {
    bytes: Vec<u8>,
    cut: u64,
    is_unfinished: bool,
}

impl Line {
    /// A whole line of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Line {
            bytes: bytes.into(),
            cut: 0,
            is_unfinished: false,
        }
    }

    pub(crate) fn cut_by(bytes: Vec<u8>, cut: u64, is_unfinished: bool) -> Self {
        Line {
            bytes,
            cut,
            is_unfinished,
        }
    }

    /// The bytes, as they were written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The text, with `U+FFFD` for what is not UTF-8.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// How many bytes at its end were cut off, because the line was longer than the buffer or mirror allows.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Whether its line break has not come: it is still being written, or its writer is gone.
    pub fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }
}

/// The text, and for a line that was cut how much is missing.
impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())?;
        match self.cut {
            0 => Ok(()),
            cut => write!(f, " [{cut} bytes cut]"),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())?;
        if self.cut > 0 {
            write!(f, " [{} bytes cut]", self.cut)?;
        }
        if self.is_unfinished {
            write!(f, " [unfinished]")?;
        }
        Ok(())
    }
}

/// What a [`GroupedMessage`] is: the original's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Just lines that belong together: `"str"`.
    Text,
    /// A warning: `"warning"`.
    Warning,
    /// An error, or the text of a panic: `"error"`.
    Error,
}

impl Severity {
    /// The original's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Text => "str",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }

    /// Reads the original's word.
    pub fn from_name(name: &str) -> Option<Severity> {
        [Severity::Text, Severity::Warning, Severity::Error]
            .into_iter()
            .find(|severity| severity.as_str() == name)
    }
}

/// A warning or an error: several lines that are one item.
///
/// ```
/// use syncq::line::{GroupedMessage, Severity};
///
/// let message = GroupedMessage::warning("the disk is\nnearly full");
/// assert_eq!(message.severity, Severity::Warning);
/// assert_eq!(message.data, ["the disk is", "nearly full"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupedMessage {
    /// What it is.
    pub severity: Severity,
    /// Its lines.
    pub data: Vec<String>,
}

impl GroupedMessage {
    /// A message of `severity` with the lines of `text`.
    pub fn new(severity: Severity, text: impl Display) -> Self {
        let text = text.to_string();
        let mut data: Vec<String> = split_lines(text.as_bytes())
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        if data.is_empty() {
            data.push(String::new());
        }
        GroupedMessage { severity, data }
    }

    /// A warning with the lines of `text`.
    pub fn warning(text: impl Display) -> Self {
        Self::new(Severity::Warning, text)
    }

    /// An error with the lines of `text`.
    pub fn error(text: impl Display) -> Self {
        Self::new(Severity::Error, text)
    }

    /// An error, and below it what caused it, and what caused that.
    pub fn of_error(error: &dyn std::error::Error) -> Self {
        let mut message = Self::error(error);
        let mut cause = error.source();
        while let Some(error) = cause {
            message
                .data
                .extend(Self::error(format_args!("caused by: {error}")).data);
            cause = error.source();
        }
        message
    }

    /// A panic, from what `catch_unwind` gives.
    pub fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let words = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(words), _) => words,
            (_, Some(words)) => words.as_str(),
            _ => "(no words)",
        };
        Self::error(format_args!("panic: {words}"))
    }

    /// Bytes of its text.
    pub(crate) fn size(&self) -> usize {
        self.data.iter().map(|line| line.len() + 1).sum()
    }

    /// Cuts it down to `cap` bytes of text and says so in a last line.
    pub(crate) fn cap(&mut self, cap: usize) {
        let size = self.size();
        if size <= cap {
            return;
        }
        // With room for the mark, so that what was cut once is not cut again.
        let mut room = cap.saturating_sub(MARK);
        let mut kept = Vec::new();
        for mut line in std::mem::take(&mut self.data) {
            if line.len() + 1 > room {
                if room > 1 {
                    line.truncate(floor_char(line.as_bytes(), room - 1));
                    kept.push(line);
                }
                break;
            }
            room -= line.len() + 1;
            kept.push(line);
        }
        let cut = size - kept.iter().map(|line| line.len() + 1).sum::<usize>();
        kept.push(format!("[{cut} bytes cut]"));
        self.data = kept;
    }
}

/// Room for `[n bytes cut]`.
const MARK: usize = 40;

/// The longest length up to `len` that cuts no character in two.
pub(crate) fn floor_char(bytes: &[u8], len: usize) -> usize {
    if len >= bytes.len() {
        return bytes.len();
    }
    (len.saturating_sub(3)..=len)
        .rev()
        .find(|&at| bytes[at] & 0xc0 != 0x80)
        .unwrap_or(len)
}

impl Display for GroupedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.data.join("\n"))
    }
}

/// How much a [`Record`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something worth knowing happened.
    Info,
    /// For those who look for a fault.
    Debug,
    /// Every step.
    Trace,
}

impl Level {
    /// In capital letters, as `log` and `tracing` print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }
}

/// A record of `log` or `tracing`, with all that was said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// How much it matters.
    pub level: Level,
    /// What it is about; as a rule the module.
    pub target: String,
    /// What it says.
    pub message: String,
    /// Named values beside the words.
    pub fields: Vec<(String, Value)>,
    /// The spans it is in, the outermost first, each with its named values (`tracing` only).
    pub spans: Vec<(String, Vec<(String, Value)>)>,
    /// The file and line of the source.
    pub source: Option<(String, u32)>,
}

/// A named value of a [`Record`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// Words, or anything else as it prints.
    Text(String),
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            Value::Float(value) => value.fmt(f),
            Value::Text(value) => write!(f, "{value:?}"),
        }
    }
}

/// One line: `LEVEL target: message name=value {span name=value}`.
impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.level.as_str(), self.target, self.message)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        for (span, fields) in &self.spans {
            write!(f, " {{{span}")?;
            for (name, value) in fields {
                write!(f, " {name}={value}")?;
            }
            write!(f, "}}")?;
        }
        Ok(())
    }
}

/// A worker that is gone without having closed its mirror. Its [`Origin`] is that of the item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lost {
    /// How it ended.
    pub ending: Ending,
}

/// How a process ended, as far as it is known: of a child of this process, more is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// It is gone; more is not known.
    Unknown,
    /// It ended by itself with this exit code, but did not close its mirror.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
}

impl Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ending {
            Ending::Unknown => write!(f, "worker lost"),
            Ending::Exited(code) => write!(f, "worker lost: it exited with code {code}"),
            Ending::Killed(signal) => write!(f, "worker lost: signal {signal} ended it"),
        }
    }
}

impl LineItem {
    /// The line, if it is one.
    pub fn line(&self) -> Option<&Line> {
        match &self.content {
            Content::Line(line) => Some(line),
            _ => None,
        }
    }

    /// What it is for the original's readers: a message of several lines for warnings, errors and the buffer's own notes (a lost
    /// worker is an error, dropped items are a warning), `None` for what is a plain string to them.
    pub fn grouped(&self) -> Option<Cow<'_, GroupedMessage>> {
        match &self.content {
            Content::Grouped(message) => Some(Cow::Borrowed(message)),
            Content::Lost(_) => Some(Cow::Owned(GroupedMessage::error(self.content_text()))),
            Content::Dropped(_) => Some(Cow::Owned(GroupedMessage::warning(self.content_text()))),
            Content::Line(_) | Content::Record(_) => None,
        }
    }

    /// The text of it, several lines for a grouped message, `U+FFFD` for what is not UTF-8. Control characters are in it as they
    /// were written; for a terminal, see [`printable`](LineItem::printable).
    pub fn text(&self) -> Cow<'_, str> {
        match &self.content {
            Content::Line(line) if line.cut() == 0 => line.text(),
            _ => Cow::Owned(self.content_text()),
        }
    }

    fn content_text(&self) -> String {
        match &self.content {
            Content::Line(line) => line.to_string(),
            Content::Grouped(message) => message.to_string(),
            Content::Record(record) => record.to_string(),
            Content::Lost(lost) => match self.origin.as_deref() {
                Some(Origin { name, pid, .. }) => format!("{lost} ({name:?}, process {pid})"),
                None => lost.to_string(),
            },
            Content::Dropped(count) => format!("{count} items dropped"),
        }
    }

    /// The text with control characters escaped, so that who wrote it cannot steer the terminal it is shown on, nor forge further lines.
    /// Tabs, and the line breaks of a grouped message, stay.
    pub fn printable(&self) -> String {
        let mut out = String::new();
        let keeps_breaks = self.grouped().is_some();
        for c in self.text().chars() {
            match c {
                '\t' => out.push(c),
                '\n' if keeps_breaks => out.push(c),
                // Beside the control characters proper: those that turn the direction of text round.
                c if c.is_control()
                    || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    out.extend(c.escape_default());
                }
                c => out.push(c),
            }
        }
        out
    }

    /// Bytes that count towards a buffer's limit.
    pub(crate) fn size(&self) -> usize {
        match &self.content {
            Content::Line(line) => line.bytes.len(),
            Content::Grouped(message) => message.size(),
            Content::Record(record) => record.size(),
            Content::Lost(_) | Content::Dropped(_) => 0,
        }
    }
}

impl Display for LineItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Record {
    /// About how many bytes of text it holds.
    pub(crate) fn size(&self) -> usize {
        let fields = |fields: &[(String, Value)]| -> usize {
            let len = |value: &Value| match value {
                Value::Text(text) => text.len(),
                _ => 16,
            };
            fields.iter().map(|(name, value)| name.len() + len(value)).sum()
        };
        let spans: usize = self
            .spans
            .iter()
            .map(|(name, values)| name.len() + fields(values))
            .sum();
        self.target.len() + self.message.len() + fields(&self.fields) + spans
    }

    /// Cuts it down to about `cap` bytes: the words first, then the named values, from the last on.
    pub(crate) fn cap(&mut self, cap: usize) {
        let size = self.size();
        if size <= cap {
            return;
        }
        let over = size - cap;
        let keep = floor_char(self.message.as_bytes(), self.message.len().saturating_sub(over + MARK));
        let cut = self.message.len() - keep;
        self.message.truncate(keep);
        self.message.push_str(&format!(" [{cut} bytes cut]"));
        while self.size() > cap && self.spans.pop().is_some() {}
        while self.size() > cap && self.fields.pop().is_some() {}
        self.target.truncate(floor_char(self.target.as_bytes(), cap));
    }
}
