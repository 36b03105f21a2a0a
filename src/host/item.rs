//! Items with all that they have, in JSON: for our reader, for followers and for the page.
//!
//! Not here: items as the original's readers know them (`wire.rs`).

use super::text::{Reading, Text, push_json};
use super::wire::{from_micros, micros, push_array, stream_called, stream_name};
use crate::line::{Content, Ending, GroupedMessage, Level, Line, LineItem, Lost, Origin, Record, Severity, Value};
use serde::Deserialize;
use std::sync::Arc;

/// The media type of a reply with such items.
pub(super) const MEDIA_TYPE: &str = "application/vnd.syncq.items+json";

/// A record: `[level, target, message, fields, spans, source]`; a named value is `[name, letter, text]`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RecordWire(
    Text,
    Text,
    Text,
    Vec<FieldWire>,
    Vec<(Text, Vec<FieldWire>)>,
    Option<(Text, u32)>,
);

#[derive(Debug, Clone, Deserialize)]
struct FieldWire(Text, char, Text);

const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

impl RecordWire {
    pub(super) fn of(record: &Record) -> Self {
        let json = |text: &str| {
            let mut out = Vec::new();
            push_json(&mut out, text.as_bytes(), Reading::Bytes);
            // A JSON string that was just written is one.
            serde_json::from_slice(&out).unwrap_or_default()
        };
        let fields = |fields: &[(String, Value)]| -> Vec<FieldWire> {
            let field = |(name, value): &(String, Value)| match value {
                Value::Bool(value) => FieldWire(json(name), 'b', json(&value.to_string())),
                Value::Int(value) => FieldWire(json(name), 'i', json(&value.to_string())),
                Value::Float(value) => FieldWire(json(name), 'f', json(&value.to_string())),
                Value::Text(value) => FieldWire(json(name), 't', json(value)),
            };
            fields.iter().map(field).collect()
        };
        RecordWire(
            json(record.level.as_str()),
            json(&record.target),
            json(&record.message),
            fields(&record.fields),
            record
                .spans
                .iter()
                .map(|(name, values)| (json(name), fields(values)))
                .collect(),
            record.source.as_ref().map(|(file, line)| (json(file), *line)),
        )
    }

    pub(super) fn into_record(self) -> Result<Record, String> {
        let fields = |fields: Vec<FieldWire>| -> Result<Vec<(String, Value)>, String> {
            fields.into_iter().map(FieldWire::into_field).collect()
        };
        let level = self.0.into_string();
        let spans = self
            .4
            .into_iter()
            .map(|(name, values)| Ok((name.into_string(), fields(values)?)));
        Ok(Record {
            level: (LEVELS.into_iter().find(|known| known.as_str() == level))
                .ok_or_else(|| format!("unknown level {level:?}"))?,
            target: self.1.into_string(),
            message: self.2.into_string(),
            fields: fields(self.3)?,
            spans: spans.collect::<Result<_, String>>()?,
            source: self.5.map(|(file, line)| (file.into_string(), line)),
        })
    }

    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let text =
            |out: &mut Vec<u8>, text: &Text| push_json(out, text.clone().into_string().as_bytes(), Reading::Bytes);
        let fields = |out: &mut Vec<u8>, fields: &[FieldWire]| {
            push_array(out, fields, |out, FieldWire(name, letter, value)| {
                out.push(b'[');
                text(out, name);
                out.extend_from_slice(format!(r#","{letter}","#).as_bytes());
                text(out, value);
                out.push(b']');
            });
        };
        out.push(b'[');
        for part in [&self.0, &self.1, &self.2] {
            text(out, part);
            out.push(b',');
        }
        fields(out, &self.3);
        out.push(b',');
        push_array(out, &self.4, |out, (name, values)| {
            out.push(b'[');
            text(out, name);
            out.push(b',');
            fields(out, values);
            out.push(b']');
        });
        match &self.5 {
            None => out.extend_from_slice(b",null]"),
            Some((file, line)) => {
                out.extend_from_slice(b",[");
                text(out, file);
                out.extend_from_slice(format!(",{line}]]").as_bytes());
            }
        }
    }
}

impl FieldWire {
    fn into_field(self) -> Result<(String, Value), String> {
        let text = self.2.into_string();
        let wrong = || format!("{text:?} is no value of the kind {:?}", self.1);
        let value = match self.1 {
            'b' => Value::Bool(text.parse().map_err(|_| wrong())?),
            'i' => Value::Int(text.parse().map_err(|_| wrong())?),
            'f' => Value::Float(text.parse().map_err(|_| wrong())?),
            't' => Value::Text(text),
            _ => return Err(wrong()),
        };
        Ok((self.0.into_string(), value))
    }
}

/// An item; which keys there are depends on its `kind`.
#[derive(Debug, Deserialize)]
struct ItemWire {
    seq: u64,
    time: u64,
    kind: String,
    #[serde(default)]
    stream: String,
    origin: Option<(Text, u32, u64)>,
    text: Option<Text>,
    #[serde(default)]
    lines: Vec<Text>,
    record: Option<RecordWire>,
    #[serde(default)]
    cut: u64,
    #[serde(default)]
    unfinished: bool,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    ending: String,
    #[serde(default)]
    code: i32,
}

/// Appends an item. `text` is always there, and is what people read.
pub(super) fn push_item(out: &mut Vec<u8>, item: &LineItem) {
    out.extend_from_slice(format!(r#"{{"seq":{},"time":{}"#, item.seq, micros(item.time)).as_bytes());
    out.extend_from_slice(format!(r#","stream":"{}""#, stream_name(item.stream)).as_bytes());
    if let Some(origin) = &item.origin {
        out.extend_from_slice(br#","origin":["#);
        push_json(out, origin.name.as_bytes(), Reading::Bytes);
        out.extend_from_slice(format!(",{},{}]", origin.pid, origin.mirror).as_bytes());
    }
    let mut more = |text: String| out.extend_from_slice(text.as_bytes());
    match &item.content {
        Content::Line(line) => {
            more(r#","kind":"line""#.into());
            if line.cut() > 0 {
                more(format!(r#","cut":{}"#, line.cut()));
            }
            if line.is_unfinished() {
                more(r#","unfinished":true"#.into());
            }
        }
        Content::Grouped(message) => more(format!(r#","kind":"{}""#, message.severity.as_str())),
        Content::Record(_) => more(r#","kind":"record""#.into()),
        Content::Lost(lost) => {
            let (ending, code) = match lost.ending {
                Ending::Exited(code) => ("exited", code),
                Ending::Killed(signal) => ("killed", signal),
                Ending::Unknown => ("unknown", 0),
            };
            more(format!(r#","kind":"lost","ending":"{ending}","code":{code}"#));
        }
        Content::Dropped(count) => more(format!(r#","kind":"dropped","count":{count}"#)),
    }
    match &item.content {
        Content::Grouped(message) => {
            out.extend_from_slice(br#","lines":"#);
            push_array(out, &message.data, |out, line| {
                push_json(out, line.as_bytes(), Reading::Bytes)
            });
        }
        Content::Record(record) => {
            out.extend_from_slice(format!(r#","level":"{}","record":"#, record.level.as_str()).as_bytes());
            RecordWire::of(record).push(out);
        }
        _ => {}
    }
    out.extend_from_slice(br#","text":"#);
    match &item.content {
        Content::Line(line) => push_json(out, line.bytes(), Reading::Bytes),
        _ => push_json(out, item.text().as_bytes(), Reading::Bytes),
    }
    out.push(b'}');
}

/// Reads an item again.
pub(super) fn read_item(json: &str) -> Result<LineItem, String> {
    let wire: ItemWire = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let content = match wire.kind.as_str() {
        "line" => {
            let bytes = wire.text.unwrap_or_default().into_bytes(Reading::Bytes);
            Content::Line(Line::cut_by(bytes, wire.cut, wire.unfinished))
        }
        "record" => Content::Record(Box::new(
            wire.record.ok_or("a record without its parts")?.into_record()?,
        )),
        "dropped" => Content::Dropped(wire.count),
        "lost" => Content::Lost(Lost {
            ending: match wire.ending.as_str() {
                "exited" => Ending::Exited(wire.code),
                "killed" => Ending::Killed(wire.code),
                _ => Ending::Unknown,
            },
        }),
        kind => Content::Grouped(GroupedMessage {
            severity: Severity::from_name(kind).ok_or_else(|| format!("unknown kind {kind:?}"))?,
            data: wire.lines.into_iter().map(Text::into_string).collect(),
        }),
    };
    Ok(LineItem {
        seq: wire.seq,
        time: from_micros(wire.time),
        origin: (wire.origin).map(|(name, pid, mirror)| {
            Arc::new(Origin {
                name: name.into_string(),
                pid,
                mirror,
            })
        }),
        stream: stream_called(&wire.stream),
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Stream;

    #[test]
    fn every_kind_of_item_comes_back_as_it_was() {
        let record = Record {
            level: Level::Warn,
            target: "a::b".into(),
            message: "m\n\"q\"".into(),
            fields: vec![
                ("b".into(), Value::Bool(true)),
                ("i".into(), Value::Int(i128::MIN)),
                ("f".into(), Value::Float(0.1)),
                ("t".into(), Value::Text("é".into())),
            ],
            spans: vec![("s".into(), vec![("x".into(), Value::Int(1))]), ("u".into(), vec![])],
            source: Some(("src/x.rs".into(), 7)),
        };
        let lost = |ending| Content::Lost(Lost { ending });
        let contents = [
            Content::Line(Line::new("plain")),
            Content::Line(Line::cut_by((0..=255).collect(), 9, true)),
            Content::Grouped(GroupedMessage::warning("a\nb")),
            Content::Grouped(GroupedMessage::new(Severity::Text, "")),
            Content::Record(Box::new(record.clone())),
            Content::Record(Box::new(Record { source: None, ..record })),
            lost(Ending::Unknown),
            lost(Ending::Exited(-3)),
            lost(Ending::Killed(9)),
            Content::Dropped(u64::MAX),
        ];
        let origin = Some(Arc::new(Origin {
            name: "w \"1\"".into(),
            pid: 7,
            mirror: 3,
        }));
        for (i, content) in contents.into_iter().enumerate() {
            let item = LineItem {
                seq: i as u64,
                time: from_micros(1_700_000_000_123_456),
                origin: origin.clone().filter(|_| i % 2 == 0),
                stream: [Stream::Text, Stream::Out, Stream::Err, Stream::Both][i % 4],
                content,
            };
            let mut out = Vec::new();
            push_item(&mut out, &item);
            assert_eq!(read_item(std::str::from_utf8(&out).unwrap()).unwrap(), item);
        }
    }
}
