//! Text as JSON strings, for bytes that need not be UTF-8 and for text that Python can hold and Rust cannot.
//!
//! Python has strings with lone surrogates: `os.fsdecode` makes U+DC80 to U+DCFF of bytes that are not UTF-8. In JSON they are `\udc80`,
//! which `serde_json` refuses for a `String`; for bytes it gives them in the way of WTF-8, as three bytes. There are two readings:
//!
//! * [`Reading::Bytes`], between our own ends: a lone surrogate from U+DC80 to U+DCFF is the byte it stands for, and each byte
//!   that is not UTF-8 is written as its surrogate. Whatever the bytes, they arrive as they were.
//! * [`Reading::Python`], where the other side is the original: a lone surrogate is kept (as WTF-8) and comes back as itself. Other bytes
//!   that are not UTF-8 are written as the surrogates that Python would have made of them.
//!
//! Not here: what the strings mean (`wire.rs`, `item.rs`).

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// What a lone surrogate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Bytes,
    Python,
}

/// A JSON string as bytes, lone surrogates as WTF-8.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// The bytes that it stands for.
    pub(super) fn into_bytes(self, reading: Reading) -> Vec<u8> {
        match reading {
            // 0xED begins the surrogates of WTF-8, and little else.
            Reading::Bytes if self.0.contains(&0xed) => unescape(&self.0),
            _ => self.0,
        }
    }

    /// As text, lone surrogates as `\udc80`, which is how Python prints them on its standard error.
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.0).unwrap_or_else(|error| {
            let bytes = error.into_bytes();
            let mut text = String::new();
            each_part(&bytes, Reading::Python, |part| match part {
                Part::Text(valid) => text.push_str(valid),
                Part::Unit(unit) => text.push_str(&format!("\\u{unit:04x}")),
            });
            text
        })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(bytes.to_vec()))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Text, E> {
                Ok(Text(bytes))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The UTF-16 unit that three bytes stand for, if they are a surrogate in WTF-8.
fn surrogate(bytes: &[u8]) -> Option<u16> {
    match *bytes {
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] => {
            Some(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f))
        }
        _ => None,
    }
}

fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match surrogate(&bytes[at..]) {
            Some(unit @ 0xdc80..=0xdcff) => {
                out.push(unit as u8);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

enum Part<'b> {
    Text(&'b str),
    Unit(u16),
}

/// Goes through bytes: what is UTF-8, and units for what is not.
fn each_part<'b>(mut bytes: &'b [u8], reading: Reading, mut each: impl FnMut(Part<'b>)) {
    while !bytes.is_empty() {
        let valid = match std::str::from_utf8(bytes) {
            Ok(text) => return each(Part::Text(text)),
            Err(error) => error.valid_up_to(),
        };
        let (text, rest) = bytes.split_at(valid);
        if let Ok(text) = std::str::from_utf8(text) {
            each(Part::Text(text));
        }
        let (unit, len) = match (surrogate(rest), reading) {
            (Some(unit), Reading::Python) => (unit, 3),
            _ => (0xdc00 | u16::from(rest[0]), 1),
        };
        each(Part::Unit(unit));
        bytes = &rest[len..];
    }
}

/// Appends bytes as a JSON string in ASCII, as Python's `json.dumps` writes it.
pub(super) fn push_json(out: &mut Vec<u8>, bytes: &[u8], reading: Reading) {
    out.push(b'"');
    each_part(bytes, reading, |part| match part {
        Part::Text(text) => push_text(out, text),
        Part::Unit(unit) => push_unit(out, unit),
    });
    out.push(b'"');
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if matches!(c, ' '..='~') && c != '"' && c != '\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            _ => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|&unit| push_unit(out, unit)),
        }
    }
    out.extend_from_slice(&bytes[plain..]);
}

fn push_unit(out: &mut Vec<u8>, unit: u16) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(unit >> shift & 0xf)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8], reading: Reading) -> String {
        let mut out = Vec::new();
        push_json(&mut out, bytes, reading);
        String::from_utf8(out).unwrap()
    }

    fn read(json: &str, reading: Reading) -> Vec<u8> {
        serde_json::from_str::<Text>(json).unwrap().into_bytes(reading)
    }

    #[test]
    fn it_is_written_as_python_writes_it() {
        let text = "plain \"q\" \\ \n\r\t\u{1}\u{7f}é中\u{1f600}/";
        let expected = r#""plain \"q\" \\ \n\r\t\u0001\u007f\u00e9\u4e2d\ud83d\ude00/""#;
        assert_eq!(json(text.as_bytes(), Reading::Python), expected);
        assert_eq!(read(expected, Reading::Python), text.as_bytes());
    }

    #[test]
    fn lone_surrogates_of_python_come_back_as_themselves() {
        for unit in [0xd800u32, 0xdbff, 0xdc00, 0xdc7f, 0xdc80, 0xdcff, 0xdd00, 0xdfff] {
            let text = format!("\"a\\u{unit:04x}b\"");
            assert_eq!(json(&read(&text, Reading::Python), Reading::Python), text);
        }
        assert_eq!(
            serde_json::from_str::<Text>("\"\\udc80x\"").unwrap().into_string(),
            "\\udc80x"
        );
    }

    #[test]
    fn between_our_ends_all_bytes_come_back_as_themselves() {
        let every: Vec<u8> = (0..=255).collect();
        for bytes in [
            &every[..],
            b"\xed\xb2\x80",
            b"\xff",
            "é\u{10ffff}".as_bytes(),
            b"\xe2\x80",
            b"",
        ] {
            let written = json(bytes, Reading::Bytes);
            assert!(written.is_ascii());
            assert_eq!(read(&written, Reading::Bytes), bytes);
        }
    }
}
