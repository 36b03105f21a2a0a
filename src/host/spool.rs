//! What a mirror has written and not sent yet, with a bound, and batched into posts.
//!
//! Not here: sending (`sender.rs`), pending lines (`mirror.rs`).

use super::item::RecordWire;
use super::wire::Event;
use crate::line::Stream;
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// Text of one stream is put into one post until it has this many bytes.
const BATCH: usize = 256 << 10;

/// ... or this many lines: a service may limit them.
const BATCH_LINES: u64 = 20_000;

/// Lines further apart in time than this go in posts of their own, since a post has one time.
const BATCH_TIME: Duration = Duration::from_millis(200);

/// What an entry counts beside its text.
const ENTRY: usize = 128;

/// What becomes one post.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Event,
    pub(super) stream: Stream,
    pub(super) time: SystemTime,
    pub(super) lane: u64,
    pub(super) cut: u64,
    pub(super) record: Option<RecordWire>,
    /// Lines or items in it.
    pub(super) lines: u64,
}

impl Entry {
    pub(super) fn new(event: Event) -> Self {
        Entry {
            lines: u64::from(!matches!(event, Event::Close)),
            event,
            stream: Stream::Text,
            time: SystemTime::now(),
            lane: 0,
            cut: 0,
            record: None,
        }
    }

    fn size(&self) -> usize {
        ENTRY
            + match &self.event {
                Event::Text(text) => text.len(),
                Event::Grouped(message) => message.data.iter().map(|line| line.len() + 1).sum(),
                Event::Close | Event::Nothing => 0,
            }
    }
}

/// A piece of text: a whole line with its break, or the beginning of one.
pub(super) struct Piece<'b> {
    pub(super) parts: [&'b [u8]; 2],
    pub(super) is_whole: bool,
    pub(super) stream: Stream,
    pub(super) lane: u64,
}

#[derive(Debug)]
pub(super) struct Spool {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
    /// Lines that were dropped and that the other side has not been told of.
    dropped: u64,
}

impl Spool {
    pub(super) fn new(limit: usize) -> Self {
        Spool {
            entries: VecDeque::new(),
            size: 0,
            limit,
            dropped: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dropped == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.size >= self.limit
    }

    /// Lines in it.
    pub(super) fn lines(&self) -> u64 {
        self.entries.iter().map(|entry| entry.lines).sum()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.size += entry.size();
        self.entries.push_back(entry);
    }

    pub(super) fn push_text(&mut self, piece: &Piece<'_>, time: SystemTime) {
        let len = piece.parts[0].len() + piece.parts[1].len() + 1;
        let more = u64::from(piece.is_whole);
        let is_like = |last: &Entry| {
            last.stream == piece.stream
                && last.lane == piece.lane
                && last.cut == 0
                && last.record.is_none()
                && last.lines < BATCH_LINES
                && time.duration_since(last.time).is_ok_and(|since| since < BATCH_TIME)
        };
        let text = match self.entries.back_mut() {
            Some(last) if is_like(last) => match &mut last.event {
                Event::Text(text) if text.len() + len <= BATCH => {
                    last.lines += more;
                    Some(text)
                }
                _ => None,
            },
            _ => None,
        };
        let text = match text {
            Some(text) => text,
            None => {
                let mut entry = Entry::new(Event::Text(Vec::new()));
                (entry.stream, entry.lane, entry.time, entry.lines) = (piece.stream, piece.lane, time, more);
                self.push(entry);
                match self.entries.back_mut().map(|entry| &mut entry.event) {
                    Some(Event::Text(text)) => text,
                    _ => return,
                }
            }
        };
        let before = text.len();
        piece.parts.iter().for_each(|part| text.extend_from_slice(part));
        if piece.is_whole {
            text.push(b'\n');
        }
        self.size += text.len() - before;
    }

    /// Puts an entry that was too large for one post in front again, as two. Gives it back if it cannot be cut.
    pub(super) fn push_halves(&mut self, mut entry: Entry) -> Result<(), Box<Entry>> {
        let Event::Text(text) = &mut entry.event else {
            return Err(Box::new(entry));
        };
        let middle = text.len() / 2;
        let ends = |part: &[u8]| part.iter().filter(|byte| **byte == b'\n').count() as u64;
        let at = match text[middle..].iter().position(|byte| *byte == b'\n') {
            Some(at) if middle + at + 1 < text.len() => middle + at + 1,
            _ => match text[..middle].iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None => return Err(Box::new(entry)),
            },
        };
        if entry.record.is_some() || entry.cut > 0 {
            return Err(Box::new(entry));
        }
        let rest = text.split_off(at);
        let mut second = Entry::new(Event::Text(rest));
        (second.stream, second.time, second.lane) = (entry.stream, entry.time, entry.lane);
        (second.lines, entry.lines) = (entry.lines - ends(text), ends(text));
        for half in [second, entry] {
            self.size += half.size();
            self.entries.push_front(half);
        }
        Ok(())
    }

    /// Lets the oldest go until the bound holds. Returns how many lines that were.
    pub(super) fn shrink(&mut self) -> u64 {
        let before = self.dropped;
        while self.size > self.limit && self.entries.len() > 1 {
            self.drop_oldest();
        }
        self.dropped - before
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else { return };
        self.size -= oldest.size();
        self.dropped += oldest.lines;
    }

    /// The oldest, to be sent, and how many lines were dropped before it.
    pub(super) fn take(&mut self) -> Option<(Entry, u64)> {
        let entry = match self.entries.pop_front() {
            Some(entry) => {
                self.size -= entry.size();
                entry
            }
            None if self.dropped > 0 => Entry::new(Event::Close),
            None => return None,
        };
        Some((entry, std::mem::take(&mut self.dropped)))
    }

    /// Notes lines that the other side is to be told were dropped.
    pub(super) fn note_dropped(&mut self, lines: u64) {
        self.dropped += lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: Stream, text: &str) -> Piece<'_> {
        Piece {
            parts: [b"", text.as_bytes()],
            is_whole: true,
            stream,
            lane: 0,
        }
    }

    #[test]
    fn lines_of_one_stream_go_in_one_post() {
        let (mut spool, now) = (Spool::new(1 << 20), SystemTime::now());
        for (stream, text) in [
            (Stream::Out, "a"),
            (Stream::Out, "b"),
            (Stream::Err, "c"),
            (Stream::Out, "d"),
        ] {
            spool.push_text(&line(stream, text), now);
        }
        let texts: Vec<_> = std::iter::from_fn(|| spool.take())
            .map(|(entry, _)| match entry.event {
                Event::Text(text) => (entry.stream, String::from_utf8(text).unwrap(), entry.lines),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (Stream::Out, "a\nb\n".into(), 2),
            (Stream::Err, "c\n".into(), 1),
            (Stream::Out, "d\n".into(), 1),
        ];
        assert_eq!(texts, expected);
        assert_eq!(spool.size, 0);
    }

    #[test]
    fn what_is_too_large_for_one_post_is_cut_at_a_line() {
        let (mut spool, now) = (Spool::new(1 << 20), SystemTime::now());
        let long = "x".repeat(50);
        for text in ["a", "b", long.as_str(), "c"] {
            spool.push_text(&line(Stream::Out, text), now);
        }
        let mut posts = Vec::new();
        while let Some((entry, _)) = spool.take() {
            match spool.push_halves(entry) {
                Ok(()) => {}
                Err(entry) => posts.push(*entry),
            }
        }
        let texts: Vec<_> = posts
            .iter()
            .map(|entry| match &entry.event {
                Event::Text(text) => (String::from_utf8_lossy(text).into_owned(), entry.lines, entry.stream),
                other => panic!("{other:?}"),
            })
            .collect();
        let whole = |text: &str| (format!("{text}\n"), 1, Stream::Out);
        assert_eq!(texts, [whole("a"), whole("b"), whole(&long), whole("c")]);
        assert_eq!(spool.size, 0);
    }

    #[test]
    fn over_the_bound_the_oldest_go_and_are_counted() {
        let (mut spool, now) = (Spool::new(1000), SystemTime::now());
        for i in 0..100 {
            // Not alike, so each is an entry.
            spool.push_text(&line([Stream::Out, Stream::Err][i % 2], &i.to_string()), now);
            spool.shrink();
            assert!(spool.size <= 1000);
        }
        let kept = spool.lines();
        let (first, dropped) = spool.take().unwrap();
        assert_eq!(dropped + kept, 100);
        assert!(matches!(first.event, Event::Text(text) if text == format!("{dropped}\n").as_bytes()));
        while let Some((_, dropped)) = spool.take() {
            assert_eq!(dropped, 0, "they are told once");
        }
    }
}
