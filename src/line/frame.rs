//! How items travel as bytes: the messages of a `LineProcMirror` and the records of a `LineFileBuffer`.
//!
//! All numbers are little-endian. Reading trusts nothing: what does not fit is `None`.

use super::item::{GroupedMessage, Level, Record, Severity, Stream, Value};

/// Kinds of messages on the queue. A message that is none of these is not ours.
pub(crate) mod kind {
    /// A mirror begins: its name.
    pub(crate) const OPEN: &str = "open";
    /// Whole lines.
    pub(crate) const LINE: &str = "line";
    /// Bytes of a line that is not finished.
    pub(crate) const PART: &str = "part";
    /// A warning or an error.
    pub(crate) const GROUP: &str = "group";
    /// A log record.
    pub(crate) const RECORD: &str = "record";
    /// A mirror writes no more.
    pub(crate) const CLOSE: &str = "close";
}

/// What each message of a mirror begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Which round of the buffer the mirror is of.
    pub(crate) round: u32,
    /// Which mirror, of those the buffer has given out; 0 for one that was opened by name.
    pub(crate) token: u32,
    /// Items that the mirror has sent, or had to drop, before.
    pub(crate) seq: u64,
    /// Which pending line of the mirror it is about.
    pub(crate) lane: u32,
    pub(crate) stream: Stream,
}

pub(crate) const HEAD: usize = 24;

const CUT: u32 = 1 << 31;

impl Head {
    pub(crate) fn begin(&self, frame: &mut Vec<u8>) {
        frame.clear();
        frame.extend_from_slice(&self.round.to_le_bytes());
        frame.extend_from_slice(&self.token.to_le_bytes());
        frame.extend_from_slice(&self.seq.to_le_bytes());
        frame.extend_from_slice(&self.lane.to_le_bytes());
        frame.extend_from_slice(&u32::from(stream_number(self.stream)).to_le_bytes());
    }

    pub(crate) fn read(body: &[u8]) -> Option<(Head, Bytes<'_>)> {
        let mut bytes = Bytes(body);
        let head = Head {
            round: bytes.u32()?,
            token: bytes.u32()?,
            seq: bytes.u64()?,
            lane: bytes.u32()?,
            stream: stream_of(bytes.u32()?)?,
        };
        Some((head, bytes))
    }
}

fn stream_number(stream: Stream) -> u8 {
    match stream {
        Stream::Text => 0,
        Stream::Out => 1,
        Stream::Err => 2,
        Stream::Both => 3,
    }
}

fn stream_of(number: u32) -> Option<Stream> {
    [Stream::Text, Stream::Out, Stream::Err, Stream::Both]
        .get(usize::try_from(number).ok()?)
        .copied()
}

pub(crate) fn put_stream(frame: &mut Vec<u8>, stream: Stream) {
    frame.push(stream_number(stream));
}

/// Bytes on the way from the first to the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'b>(pub(crate) &'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|byte| byte[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn stream(&mut self) -> Option<Stream> {
        stream_of(self.u8()?.into())
    }

    pub(crate) fn blob(&mut self) -> Option<&'b [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    pub(crate) fn string(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.blob()?).into_owned())
    }

    /// A line, and how many bytes were cut off its end.
    pub(crate) fn line(&mut self) -> Option<(&'b [u8], u64)> {
        let len = self.u32()?;
        let cut = match len & CUT {
            0 => 0,
            _ => self.u64()?,
        };
        Some((self.take(usize::try_from(len & !CUT).ok()?)?, cut))
    }

    pub(crate) fn group(&mut self) -> Option<GroupedMessage> {
        let severity = match self.u8()? {
            0 => Severity::Text,
            1 => Severity::Warning,
            2 => Severity::Error,
            _ => return None,
        };
        let count = self.u32()?;
        // Not `with_capacity`: the number is not trusted.
        let data = (0..count).map(|_| self.string()).collect::<Option<Vec<_>>>()?;
        Some(GroupedMessage { severity, data })
    }

    pub(crate) fn record(&mut self) -> Option<Record> {
        Some(Record {
            level: LEVELS.get(usize::from(self.u8()?)).copied()?,
            target: self.string()?,
            message: self.string()?,
            fields: self.fields()?,
            spans: (0..self.u32()?)
                .map(|_| Some((self.string()?, self.fields()?)))
                .collect::<Option<Vec<_>>>()?,
            source: match self.u8()? {
                0 => None,
                _ => Some((self.string()?, self.u32()?)),
            },
        })
    }

    fn fields(&mut self) -> Option<Vec<(String, Value)>> {
        (0..self.u32()?)
            .map(|_| Some((self.string()?, self.value()?)))
            .collect()
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.u8()? {
            0 => Value::Bool(self.u8()? != 0),
            1 => Value::Int(i128::from_le_bytes(self.array()?)),
            2 => Value::Float(f64::from_le_bytes(self.array()?)),
            3 => Value::Text(self.string()?),
            _ => return None,
        })
    }
}

const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

/// A line in two parts. Lines are capped far below 2 GiB.
pub(crate) fn put_line(frame: &mut Vec<u8>, head: &[u8], tail: &[u8], cut: u64) {
    let len = (head.len() + tail.len()) as u32;
    debug_assert!(len & CUT == 0, "capped before");
    match cut {
        0 => frame.extend_from_slice(&len.to_le_bytes()),
        _ => {
            frame.extend_from_slice(&(len | CUT).to_le_bytes());
            frame.extend_from_slice(&cut.to_le_bytes());
        }
    }
    frame.extend_from_slice(head);
    frame.extend_from_slice(tail);
}

pub(crate) fn put_blob(frame: &mut Vec<u8>, bytes: &[u8]) {
    frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    frame.extend_from_slice(bytes);
}

pub(crate) fn put_group(frame: &mut Vec<u8>, message: &GroupedMessage) {
    frame.push(match message.severity {
        Severity::Text => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    });
    frame.extend_from_slice(&(message.data.len() as u32).to_le_bytes());
    message.data.iter().for_each(|line| put_blob(frame, line.as_bytes()));
}

pub(crate) fn put_record(frame: &mut Vec<u8>, record: &Record) {
    let level = LEVELS.iter().position(|level| *level == record.level);
    frame.push(level.expect("all levels are in the table") as u8);
    put_blob(frame, record.target.as_bytes());
    put_blob(frame, record.message.as_bytes());
    put_fields(frame, &record.fields);
    frame.extend_from_slice(&(record.spans.len() as u32).to_le_bytes());
    for (name, fields) in &record.spans {
        put_blob(frame, name.as_bytes());
        put_fields(frame, fields);
    }
    match &record.source {
        None => frame.push(0),
        Some((file, line)) => {
            frame.push(1);
            put_blob(frame, file.as_bytes());
            frame.extend_from_slice(&line.to_le_bytes());
        }
    }
}

fn put_fields(frame: &mut Vec<u8>, fields: &[(String, Value)]) {
    frame.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    for (name, value) in fields {
        put_blob(frame, name.as_bytes());
        match value {
            Value::Bool(value) => frame.extend_from_slice(&[0, u8::from(*value)]),
            Value::Int(value) => {
                frame.push(1);
                frame.extend_from_slice(&value.to_le_bytes());
            }
            Value::Float(value) => {
                frame.push(2);
                frame.extend_from_slice(&value.to_le_bytes());
            }
            Value::Text(value) => {
                frame.push(3);
                put_blob(frame, value.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i128>().prop_map(Value::Int),
            (-1e300..1e300f64).prop_map(Value::Float),
            ".*".prop_map(Value::Text),
        ]
    }

    fn fields() -> impl Strategy<Value = Vec<(String, Value)>> {
        prop::collection::vec((".*", value()), 0..4)
    }

    proptest! {
        #[test]
        fn a_record_comes_out_as_it_went_in_and_no_shorter_one_is_taken_for_it(
            (level, target, message) in (0usize..5, ".*", ".*"),
            fields in fields(),
            spans in prop::collection::vec((".*", fields()), 0..3),
            source in prop::option::of((".*", any::<u32>())),
        ) {
            let record = Record { level: LEVELS[level], target, message, fields, spans, source };
            let mut bytes = Vec::new();
            put_record(&mut bytes, &record);
            for len in 0..bytes.len() {
                prop_assert_eq!(Bytes(&bytes[..len]).record(), None);
            }
            prop_assert_eq!(Bytes(&bytes).record(), Some(record));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bytes(&bytes).record();
            let _ = Bytes(&bytes).group();
            let mut lines = Bytes(&bytes);
            while lines.line().is_some() {}
            let _ = Head::read(&bytes);
        }
    }
}
