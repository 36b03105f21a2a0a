//! A line that is not finished yet: bytes come in pieces, lines go out whole.
//!
//! Not here: whose pending line it is. Each mirror has one for each thread that writes to it, so lines never glue or tear.

use super::breaks;
use super::item::floor_char;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);
thread_local!(static LANE: Cell<u64> = const { Cell::new(0) });

/// A number that no lane in this process has or had. Never 0.
pub(crate) fn new_lane() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The lane of the calling thread: a number that no other thread in this process has or had. Never 0.
pub(crate) fn thread_lane() -> u64 {
    // A thread that is being torn down has no thread-locals left; such threads share a lane.
    LANE.try_with(|lane| {
        if lane.get() == 0 {
            lane.set(new_lane());
        }
        lane.get()
    })
    .unwrap_or(u64::MAX)
}

/// Runs `body` with another lane for this thread: so that what comes out of one pipe is one line, whichever thread carries it.
pub(crate) fn in_lane<T>(lane: u64, body: impl FnOnce() -> T) -> T {
    /// Goes back also if `body` panics.
    struct Back(u64);
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = LANE.try_with(|lane| lane.set(self.0));
        }
    }
    let _back = Back(LANE.try_with(|own| own.replace(lane)).unwrap_or(0));
    body()
}

/// The beginning of a line, at most `cap` bytes of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    /// Bytes of the line that were taken out before, and count towards the cap.
    sent: usize,
    /// Bytes of the line over the cap, which are gone.
    cut: u64,
    /// The last two bytes that came in, for breaks of several bytes that come in two pieces.
    last: [u8; 2],
    /// The last thing that came in was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
}

impl Pending {
    /// Whether nothing of the line has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.cut == 0 && self.sent == 0
    }

    /// Whether forgetting it changes nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && !self.after_return
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    /// Takes more bytes. Each line that is complete with them goes to `emit`, in two parts to be put together, with the number of
    /// bytes that were cut off its end.
    pub(crate) fn feed(&mut self, text: &[u8], cap: usize, mut emit: impl FnMut(&[u8], &[u8], u64)) {
        if text.is_empty() {
            return;
        }
        let mut at = 0;
        if self.after_return {
            self.after_return = false;
            at = usize::from(text[0] == b'\n');
        } else if let Some((before, after)) = torn_break(self.last, text)
            && !self.is_empty()
        {
            match self.cut {
                0 => self.bytes.truncate(self.bytes.len().saturating_sub(before)),
                _ => self.cut = self.cut.saturating_sub(before as u64),
            }
            self.finish(&mut emit);
            at = after;
        }
        while let Some((start, end)) = breaks::find(text, at) {
            let line = &text[at..start];
            if self.is_empty() && line.len() <= cap {
                emit(&[], line, 0);
            } else {
                self.append(line, cap);
                self.finish(&mut emit);
            }
            self.last = [0; 2];
            self.after_return = end == text.len() && text[end - 1] == b'\r';
            at = end;
        }
        self.append(&text[at..], cap);
    }

    /// Ends the line here, if it has begun.
    pub(crate) fn end(&mut self, mut emit: impl FnMut(&[u8], &[u8], u64)) {
        self.after_return = false;
        if !self.is_empty() {
            self.finish(&mut emit);
        }
    }

    /// Puts a piece to the line that holds no break, and of which `cut` bytes were cut off before it came here.
    pub(crate) fn put(&mut self, piece: &[u8], cut: u64, cap: usize) {
        self.append(piece, cap);
        self.cut += cut;
    }

    /// Whether something can go ahead of the rest of the line.
    pub(crate) fn has_ahead(&self) -> bool {
        self.bytes.len() > self.held()
    }

    /// Takes out what can go ahead of the rest of the line: all but bytes that may be the beginning of a break.
    pub(crate) fn take_ahead(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.bytes.len() - self.held());
        let ahead = std::mem::replace(&mut self.bytes, rest);
        self.sent += ahead.len();
        ahead
    }

    fn held(&self) -> usize {
        match self.bytes.as_slice() {
            [.., 0xc2] | [.., 0xe2] => 1,
            [.., 0xe2, 0x80] => 2,
            _ => 0,
        }
    }

    /// Puts bytes in front again that could not be sent.
    pub(crate) fn put_back(&mut self, ahead: &[u8]) {
        self.sent -= ahead.len();
        self.bytes.splice(0..0, ahead.iter().copied());
    }

    fn finish(&mut self, emit: &mut impl FnMut(&[u8], &[u8], u64)) {
        emit(&self.bytes, &[], self.cut);
        self.bytes.clear();
        (self.sent, self.cut, self.last) = (0, 0, [0; 2]);
    }

    fn append(&mut self, more: &[u8], cap: usize) {
        let Some(&last) = more.last() else { return };
        self.last = match more {
            [_] => [self.last[1], last],
            [.., before, last] => [*before, *last],
            [] => unreachable!("there is a last one"),
        };
        let room = if self.cut > 0 {
            0
        } else {
            cap.saturating_sub(self.sent + self.bytes.len())
        };
        let kept = if more.len() <= room {
            more.len()
        } else {
            floor_char(more, room)
        };
        self.bytes.extend_from_slice(&more[..kept]);
        self.cut += (more.len() - kept) as u64;
    }
}

/// Whether a break of several bytes ends in `text` that began in `last`: how many of its bytes are on each side.
fn torn_break(last: [u8; 2], text: &[u8]) -> Option<(usize, usize)> {
    match (last, text) {
        ([_, 0xc2], [0x85, ..]) => Some((1, 1)),
        ([0xe2, 0x80], [0xa8 | 0xa9, ..]) => Some((2, 1)),
        ([_, 0xe2], [0x80, 0xa8 | 0xa9, ..]) => Some((1, 2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::split_lines;

    fn feed_in_pieces(pieces: &[&[u8]], cap: usize) -> Vec<(Vec<u8>, u64)> {
        let (mut pending, mut lines) = (Pending::default(), Vec::new());
        for piece in pieces {
            pending.feed(piece, cap, |head, tail, cut| lines.push(([head, tail].concat(), cut)));
        }
        pending.end(|head, tail, cut| lines.push(([head, tail].concat(), cut)));
        lines
    }

    #[test]
    fn wherever_a_text_is_torn_its_lines_are_the_same() {
        let text = "a\r\nb\u{85}c\u{2028}d\u{2029}é€\r\r\n\n\u{1c}x\u{80}\u{2027}\u{2030}end".as_bytes();
        let whole: Vec<(Vec<u8>, u64)> = split_lines(text).map(|line| (line.to_vec(), 0)).collect();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(feed_in_pieces(&pieces, 1000), whole, "torn at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(feed_in_pieces(&bytes, 1000), whole);
    }

    #[test]
    fn a_line_over_the_cap_is_cut_between_characters_and_the_rest_is_counted() {
        for pieces in [
            &["ééééé\nx\n".as_bytes()][..],
            &["éé".as_bytes(), "ééé\nx\n".as_bytes()],
        ] {
            assert_eq!(feed_in_pieces(pieces, 5), [("éé".into(), 6), ("x".into(), 0)]);
        }
        // A break in two pieces, beyond the cap.
        assert_eq!(
            feed_in_pieces(&[b"abcdefgh\xe2", b"\x80\xa8x\n"], 4),
            [(b"abcd".to_vec(), 4), (b"x".to_vec(), 0)]
        );
    }

    #[test]
    fn what_went_ahead_counts_towards_the_cap_and_no_beginning_of_a_break_goes_ahead() {
        let mut pending = Pending::default();
        pending.feed(b"abc\xe2\x80", 6, |_, _, _| panic!("no line is complete"));
        assert_eq!(pending.take_ahead(), b"abc");
        let mut lines = Vec::new();
        pending.feed(b"\xa8defghijk\n", 6, |head, tail, cut| {
            lines.push(([head, tail].concat(), cut))
        });
        assert_eq!(lines, [(b"".to_vec(), 0), (b"defghi".to_vec(), 2)]);
    }
}
