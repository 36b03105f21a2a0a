//! The file that `record` writes and `replay` reads.
//!
//! | bytes | holds |
//! |---|---|
//! | 16 | `syncq recording\n` |
//! | 4, 4 | version of this format (1); 0 |
//! | 8 | wall-clock time of the first message, in nanoseconds since 1970 |
//!
//! and then, for each message, in the order of the queue:
//!
//! | bytes | holds |
//! |---|---|
//! | 8 | nanoseconds since the first message |
//! | 8 | sequence number |
//! | 1, 1 | lengths of sender and kind |
//! | 2 | 0 for a message; 1 for a gap: as many messages as the body's 8 bytes say were missed here |
//! | 4 | length of the body |
//! | | sender, kind, body |
//!
//! All numbers are little-endian. A recording that ends in the middle of a message was cut off there; what is before it is whole.

use std::io::{self, Read, Write};

const MAGIC: [u8; 16] = *b"syncq recording\n";
const VERSION: u32 = 1;
const HEADER: usize = 24;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Nanoseconds since the first message.
    pub(crate) at: u64,
    pub(crate) sequence: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Message {
        sender: String,
        kind: String,
        body: Vec<u8>,
    },
    /// So many messages were missed.
    Gap(u64),
}

/// Begins a recording.
pub(crate) fn begin(to: &mut impl Write, first: u64) -> io::Result<()> {
    to.write_all(&MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(&0u32.to_le_bytes())?;
    to.write_all(&first.to_le_bytes())
}

/// Adds a message.
pub(crate) fn add(
    to: &mut impl Write,
    at: u64,
    sequence: u64,
    sender: &[u8],
    kind: &[u8],
    body: &[u8],
) -> io::Result<()> {
    put(to, at, sequence, 0, [sender, kind, body])
}

/// Adds a gap.
pub(crate) fn add_gap(to: &mut impl Write, at: u64, missed: u64) -> io::Result<()> {
    put(to, at, 0, 1, [b"", b"", &missed.to_le_bytes()])
}

fn put(to: &mut impl Write, at: u64, sequence: u64, mark: u16, [sender, kind, body]: [&[u8]; 3]) -> io::Result<()> {
    let mut head = [0; HEADER];
    head[..8].copy_from_slice(&at.to_le_bytes());
    head[8..16].copy_from_slice(&sequence.to_le_bytes());
    // The ring has the same limits, so these always fit.
    head[16] = sender.len() as u8;
    head[17] = kind.len() as u8;
    head[18..20].copy_from_slice(&mark.to_le_bytes());
    head[20..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    to.write_all(&head)?;
    [sender, kind, body].into_iter().try_for_each(|part| to.write_all(part))
}

/// Reads the beginning. `Err` with what is wrong.
pub(crate) fn open(from: &mut impl Read) -> io::Result<()> {
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut head = [0; 32];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return wrong("not a recording: it is too short"),
        result => result?,
    }
    if head[..16] != MAGIC {
        return wrong("not a recording: it does not begin like one");
    }
    match u32::from_le_bytes([head[16], head[17], head[18], head[19]]) {
        VERSION => Ok(()),
        other => wrong(&format!(
            "a recording of format version {other}, and this is for version {VERSION}"
        )),
    }
}

/// Reads the next entry; `None` at the end.
pub(crate) fn next(from: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut head = Vec::with_capacity(HEADER);
    from.by_ref().take(HEADER as u64).read_to_end(&mut head)?;
    let cut = || {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the recording ends in the middle of a message",
        )
    };
    if head.is_empty() {
        return Ok(None);
    }
    let Ok(head) = <[u8; HEADER]>::try_from(head) else {
        return Err(cut());
    };
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let body_len = u64::from(u32::from_le_bytes([head[20], head[21], head[22], head[23]]));
    let mut part = |len: u64| {
        // Grows as bytes come: a falsified length takes no memory.
        let mut bytes = Vec::new();
        from.by_ref().take(len).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < len {
            Err(cut())
        } else {
            Ok(bytes)
        }
    };
    let (sender, kind, body) = (part(head[16].into())?, part(head[17].into())?, part(body_len)?);
    let wrong = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let text =
        |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| wrong("a sender or kind in the recording is not UTF-8"));
    let what = match (u16::from_le_bytes([head[18], head[19]]), body.as_slice()) {
        (0, _) => What::Message {
            sender: text(sender)?,
            kind: text(kind)?,
            body,
        },
        (1, &[a, b, c, d, e, f, g, h]) => What::Gap(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => return Err(wrong("the recording has an entry that is neither a message nor a gap")),
    };
    Ok(Some(Entry {
        at: word(0),
        sequence: word(8),
        what,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut file = Vec::new();
        begin(&mut file, 7).unwrap();
        add(&mut file, 1, 2, b"me", b"", b"\xff\0").unwrap();
        add_gap(&mut file, 3, 99).unwrap();
        let mut from = &file[..];
        open(&mut from).unwrap();
        let what = What::Message {
            sender: "me".into(),
            kind: String::new(),
            body: vec![0xff, 0],
        };
        assert_eq!(
            next(&mut from).unwrap(),
            Some(Entry {
                at: 1,
                sequence: 2,
                what
            })
        );
        assert_eq!(next(&mut from).unwrap().unwrap().what, What::Gap(99));
        assert_eq!(next(&mut from).unwrap(), None);
    }

    #[test]
    fn every_cut_and_every_flip_is_an_error_or_another_recording_and_never_a_panic() {
        let mut file = Vec::new();
        begin(&mut file, 7).unwrap();
        add(&mut file, 1, 2, b"me", b"kind", b"body").unwrap();
        add_gap(&mut file, 3, 99).unwrap();
        let read = |mut from: &[u8]| -> io::Result<usize> {
            open(&mut from)?;
            let mut entries = 0;
            while next(&mut from)?.is_some() {
                entries += 1;
            }
            Ok(entries)
        };
        for end in 0..file.len() {
            let whole = [32, 32 + 24 + 10].contains(&end);
            assert_eq!(read(&file[..end]).is_ok(), whole, "{end}");
        }
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut other = file.clone();
                other[at] ^= 1 << bit;
                let _ = read(&other);
            }
        }
    }
}
