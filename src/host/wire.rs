//! What is sent and answered, in JSON: the original's bodies, and what our own ends add to them.
//!
//! The original ignores keys that it does not know. So what our mirror adds stands under one key, `syncq`, of an otherwise ordinary body.
//!
//! Not here: routes, codes and headers (`answer.rs`), and how an item is written with all that it has (`item.rs`).

use super::item::RecordWire;
use super::text::{Reading, Text, push_json};
use crate::line::{GroupedMessage, LineItem, Severity, Stream, split_lines};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a post brings.
#[derive(Debug)]
pub(super) enum Event {
    Text(Vec<u8>),
    Grouped(GroupedMessage),
    /// The end of a mirror: its pending line is whole.
    Close,
    /// Nothing: the original takes a post without data.
    Nothing,
}

/// What our own mirrors say about a post.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Extra<'a> {
    /// Tells mirrors apart, over all processes.
    pub(super) mirror: u128,
    /// Number of this post, from 1.
    pub(super) seq: u64,
    pub(super) name: Cow<'a, str>,
    pub(super) pid: u32,
    /// Microseconds since 1970.
    pub(super) time: u64,
    #[serde(default)]
    pub(super) stream: u8,
    /// Which pending line an unfinished tail belongs to.
    #[serde(default)]
    pub(super) lane: u64,
    /// Lines that were dropped before this post, for want of room.
    #[serde(default)]
    pub(super) dropped: u64,
    /// Bytes that were cut off the end of the only line of this post.
    #[serde(default)]
    pub(super) cut: u64,
    /// The text is this record, as one line.
    pub(super) record: Option<RecordWire>,
}

/// A post, read.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) event: Event,
    pub(super) extra: Option<Extra<'static>>,
}

/// Limits on what one post can bring. Who breaks one is told which.
#[derive(Debug, Clone, Copy)]
pub(super) struct PostLimits {
    pub(super) line: usize,
    pub(super) items: usize,
}

/// Why a post was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It cannot be understood.
    Malformed(String),
    /// Too much at once.
    TooMuch(String),
}

#[derive(Deserialize)]
struct RawPost<'a> {
    #[serde(rename = "type")]
    kind: Text,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    syncq: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawText {
    #[serde(default)]
    value: Option<Text>,
}

#[derive(Deserialize)]
struct RawGrouped {
    #[serde(rename = "/is_syncsdata")]
    is_syncsdata: bool,
    #[serde(rename = "/type")]
    marker: Text,
    #[serde(rename = "type")]
    severity: Text,
    data: Vec<Text>,
}

impl RawGrouped {
    fn message(self) -> Result<GroupedMessage, String> {
        if !self.is_syncsdata || self.marker.into_string() != "GroupedMessage" {
            return Err("it is not marked as a GroupedMessage".into());
        }
        let severity = self.severity.into_string();
        Ok(GroupedMessage {
            severity: Severity::from_name(&severity).ok_or_else(|| format!("unknown severity {severity:?}"))?,
            data: self.data.into_iter().map(Text::into_string).collect(),
        })
    }
}

fn malformed(what: &str) -> impl FnOnce(serde_json::Error) -> Refusal + '_ {
    move |error| Refusal::Malformed(format!("{what}: {error}"))
}

impl Post {
    /// Reads the body of a post.
    pub(super) fn read(body: &[u8], limits: &PostLimits) -> Result<Post, Refusal> {
        let text = std::str::from_utf8(body).map_err(|e| Refusal::Malformed(format!("the body is not UTF-8: {e}")))?;
        let raw: RawPost<'_> = serde_json::from_str(text).map_err(malformed("the body is not a message"))?;
        let extra = match raw.syncq {
            Some(extra) => Some(serde_json::from_str::<Extra<'_>>(extra.get()).map_err(malformed("syncq"))?),
            None => None,
        };
        let reading = if extra.is_some() {
            Reading::Bytes
        } else {
            Reading::Python
        };
        let kind = raw.kind.into_string();
        let event = match (kind.trim(), raw.data.map(RawValue::get)) {
            ("close", _) => Event::Close,
            // As the original: taken, and nothing is stored.
            ("str" | "warning" | "error", None) => Event::Nothing,
            ("str", Some(data)) => match serde_json::from_str::<RawText>(data).map_err(malformed("data"))?.value {
                Some(value) => Event::Text(limits.text(value.into_bytes(reading))?),
                None => Event::Nothing,
            },
            ("warning" | "error", Some(data)) => {
                let raw: RawGrouped = serde_json::from_str(data).map_err(malformed("data"))?;
                Event::Grouped(limits.grouped(raw.message().map_err(Refusal::Malformed)?)?)
            }
            (other, _) => {
                let why = format!("unknown type {other:?}: it is one of str, warning, error, close");
                return Err(Refusal::Malformed(why));
            }
        };
        Ok(Post {
            event,
            extra: extra.map(|extra| Extra {
                name: Cow::Owned(extra.name.chars().take(200).collect()),
                ..extra
            }),
        })
    }
}

impl PostLimits {
    fn text(&self, text: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        // A text that is short enough as a whole has neither too long lines nor too many.
        if text.len() > self.line || text.len() > self.items {
            let mut items = 0;
            for line in split_lines(&text) {
                items += 1;
                self.line(line.len())?;
            }
            self.items(items)?;
        }
        Ok(text)
    }

    fn grouped(&self, message: GroupedMessage) -> Result<GroupedMessage, Refusal> {
        self.items(message.data.len())?;
        message.data.iter().try_for_each(|line| self.line(line.len()))?;
        Ok(message)
    }

    fn line(&self, len: usize) -> Result<(), Refusal> {
        match len > self.line {
            true => Err(Refusal::TooMuch(format!(
                "a line of {len} bytes; at most {} are taken",
                self.line
            ))),
            false => Ok(()),
        }
    }

    fn items(&self, count: usize) -> Result<(), Refusal> {
        match count > self.items {
            true => Err(Refusal::TooMuch(format!(
                "{count} lines in one post; at most {} are taken",
                self.items
            ))),
            false => Ok(()),
        }
    }
}

/// An item as the original's readers know it: a string, or a marked object.
pub(super) fn push_plain_item(out: &mut Vec<u8>, item: &LineItem) {
    match (item.grouped(), item.line()) {
        (Some(message), _) => push_grouped(out, &message),
        (None, Some(line)) if line.cut() == 0 => push_json(out, line.bytes(), Reading::Python),
        (None, _) => push_json(out, item.text().as_bytes(), Reading::Python),
    }
}

fn push_grouped(out: &mut Vec<u8>, message: &GroupedMessage) {
    out.extend_from_slice(br#"{"/is_syncsdata":true,"/type":"GroupedMessage","data":"#);
    push_array(out, &message.data, |out, line| {
        push_json(out, line.as_bytes(), Reading::Python)
    });
    out.extend_from_slice(format!(r#","type":"{}"}}"#, message.severity.as_str()).as_bytes());
}

pub(super) fn push_array<T>(out: &mut Vec<u8>, items: &[T], mut push: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(b']');
}

/// Reads an item of a plain reply. It has no number, time or origin.
pub(super) fn read_plain_item(raw: &RawValue) -> Result<LineItem, String> {
    use crate::line::{Content, Line};
    let content = match raw.get().as_bytes().first() {
        Some(b'"') => {
            let text: Text = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
            Content::Line(Line::new(text.into_bytes(Reading::Bytes)))
        }
        _ => {
            let raw: RawGrouped = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
            Content::Grouped(raw.message()?)
        }
    };
    Ok(LineItem {
        seq: 0,
        time: UNIX_EPOCH,
        origin: None,
        stream: Stream::Text,
        content,
    })
}

/// The body of a post of our mirror.
pub(super) fn write_post(event: &Event, extra: &Extra<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    match event {
        Event::Text(text) => {
            out.extend_from_slice(br#"{"type":"str","data":{"value":"#);
            push_json(&mut out, text, Reading::Bytes);
            out.push(b'}');
        }
        Event::Grouped(message) => {
            // The outer type only says which way it takes; the original has none for a group that is neither.
            let outer = match message.severity {
                Severity::Error => "error",
                _ => "warning",
            };
            out.extend_from_slice(format!(r#"{{"type":"{outer}","data":"#).as_bytes());
            push_grouped(&mut out, message);
        }
        Event::Close | Event::Nothing => out.extend_from_slice(br#"{"type":"close""#),
    }
    let (mirror, seq, pid, time) = (extra.mirror, extra.seq, extra.pid, extra.time);
    out.extend_from_slice(
        format!(
            r#","syncq":{{"mirror":{mirror},"seq":{seq},"pid":{pid},"time":{time},"stream":{}"#,
            extra.stream
        )
        .as_bytes(),
    );
    for (name, value) in [("lane", extra.lane), ("dropped", extra.dropped), ("cut", extra.cut)] {
        if value > 0 {
            out.extend_from_slice(format!(r#","{name}":{value}"#).as_bytes());
        }
    }
    out.extend_from_slice(br#","name":"#);
    push_json(&mut out, extra.name.as_bytes(), Reading::Bytes);
    if let Some(record) = &extra.record {
        out.extend_from_slice(br#","record":"#);
        record.push(&mut out);
    }
    out.extend_from_slice(b"}}");
    out
}

pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn from_micros(micros: u64) -> SystemTime {
    // What is past the end of the clock is as good as its beginning: it came from outside.
    UNIX_EPOCH
        .checked_add(Duration::from_micros(micros))
        .unwrap_or(UNIX_EPOCH)
}

const STREAMS: [(Stream, &str); 4] = [
    (Stream::Text, "text"),
    (Stream::Out, "out"),
    (Stream::Err, "err"),
    (Stream::Both, "both"),
];

pub(super) fn stream_number(stream: Stream) -> u8 {
    STREAMS
        .iter()
        .position(|(known, _)| *known == stream)
        .map_or(0, |at| at as u8)
}

pub(super) fn stream_of(number: u8) -> Stream {
    STREAMS
        .get(usize::from(number))
        .map_or(Stream::Text, |(stream, _)| *stream)
}

pub(super) fn stream_name(stream: Stream) -> &'static str {
    STREAMS[usize::from(stream_number(stream))].1
}

pub(super) fn stream_called(name: &str) -> Stream {
    STREAMS
        .iter()
        .find(|(_, known)| *known == name)
        .map_or(Stream::Text, |(stream, _)| *stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PostLimits = PostLimits { line: 10, items: 3 };

    fn refusal(body: &str) -> String {
        match Post::read(body.as_bytes(), &LIMITS) {
            Err(Refusal::Malformed(why) | Refusal::TooMuch(why)) => why,
            Ok(post) => panic!("taken: {post:?}"),
        }
    }

    #[test]
    fn what_the_original_sends_is_understood() {
        let read = |body: &str| Post::read(body.as_bytes(), &LIMITS).unwrap().event;
        assert!(matches!(read(r#"{"type": "str", "data": {"value": "ab\n"}}"#), Event::Text(t) if t == b"ab\n"));
        assert!(matches!(read(r#"{"type": " close "}"#), Event::Close));
        assert!(matches!(
            read(r#"{"type": "str", "data": {"value": null}}"#),
            Event::Nothing
        ));
        let warning = r#"{"type": "warning", "data": {"/is_syncsdata": true, "/type": "GroupedMessage", "type": "warning", "data": ["a"]}}"#;
        assert!(matches!(read(warning), Event::Grouped(m) if m == GroupedMessage::warning("a")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(refusal("[1]").contains("not a message"));
        assert!(refusal("{}").contains("type"));
        assert!(refusal(r#"{"type":"nope"}"#).contains("unknown type \"nope\""));
        assert!(refusal(r#"{"type":"str","data":{"value":7}}"#).contains("expected a string"));
        assert!(refusal(r#"{"type":"error","data":{"msg":"hi"}}"#).contains("/is_syncsdata"));
        assert!(refusal(r#"{"type":"str","data":{"value":"12345678901"}}"#).contains("at most 10"));
        assert!(refusal(r#"{"type":"str","data":{"value":"1\n2\n3\n4"}}"#).contains("at most 3"));
        assert!(refusal(&format!(r#"{{"type":{}"#, "[".repeat(10_000))).contains("not a message"));
    }
}
