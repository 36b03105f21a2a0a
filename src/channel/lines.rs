//! Cutting a stream of bytes into lines: linear in the bytes, bounded in memory, and nothing lost.
//!
//! Not here: where the bytes come from.

use super::ChannelError;
use std::io::BufRead;

/// How a stream of bytes is cut into lines.
///
/// ```
/// use syncq::channel::LineOptions;
///
/// let http = LineOptions::default().max_line(8192).crlf(true).keep_end(false);
/// assert_eq!(http.longest(), 8192);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineOptions {
    max_line: usize,
    crlf: bool,
    keep_end: bool,
}

impl Default for LineOptions {
    /// Lines end with `\n`, which stays with them, and have up to 16 MiB.
    fn default() -> Self {
        LineOptions {
            max_line: 16 << 20,
            crlf: false,
            keep_end: true,
        }
    }
}

impl LineOptions {
    /// The longest line allowed, in bytes without its end. A longer one is [`ChannelError::LineTooLong`], once, and is dropped up
    /// to its end. This bounds the memory a peer can make a channel use.
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// Whether a `\r` just before the `\n` belongs to the line's end. A lone `\r` never ends a line.
    pub fn crlf(mut self, yes: bool) -> Self {
        self.crlf = yes;
        self
    }

    /// Whether a line is delivered with its end, as it came. `true` by default.
    pub fn keep_end(mut self, yes: bool) -> Self {
        self.keep_end = yes;
        self
    }

    /// The longest line allowed.
    pub fn longest(&self) -> usize {
        self.max_line
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its bytes: with its end or without, as [chosen](LineOptions::keep_end). Any bytes, `\0` too.
    pub bytes: Vec<u8>,
    /// `false`: the stream ended, broke off or was closed here in the middle of it.
    pub is_complete: bool,
}

impl Line {
    /// As text, with `\u{fffd}` for what is none.
    pub fn text_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Cuts bytes into lines, in whatever pieces they come.
///
/// ```
/// use syncq::channel::{LineOptions, LineSplitter};
///
/// let mut lines = LineSplitter::new(LineOptions::default());
/// lines.push(b"one\ntw");
/// assert_eq!(lines.next_line().unwrap().unwrap().bytes, b"one\n");
/// assert!(lines.next_line().is_none());
/// lines.push(b"o");
/// let rest = lines.rest().unwrap();
/// assert_eq!((&rest.bytes[..], rest.is_complete), (&b"two"[..], false));
/// ```
#[derive(Debug)]
pub struct LineSplitter {
    options: LineOptions,
    bytes: Vec<u8>,
    /// Before this, all is delivered.
    start: usize,
    /// Before this, and from `start` on, there is no end of a line.
    scanned: usize,
    /// In the middle of a line that was too long.
    is_dropping: bool,
}

/// A buffer that is empty keeps this much memory at most: there may be thousands of idle channels.
const IDLE_CAPACITY: usize = 4096;

impl LineSplitter {
    /// One that has seen nothing yet.
    pub fn new(options: LineOptions) -> Self {
        LineSplitter {
            options,
            bytes: Vec::new(),
            start: 0,
            scanned: 0,
            is_dropping: false,
        }
    }

    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// Where more of the stream is to be appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            // At most the beginning of one line is moved, and only once: it begins at 0 from then on.
            self.bytes.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        &mut self.bytes
    }

    /// The next line that is complete, or [`ChannelError::LineTooLong`] where there was one too long.
    pub fn next_line(&mut self) -> Option<Result<Line, ChannelError>> {
        loop {
            let mut rest = &self.bytes[self.scanned..];
            // `skip_until` is libc's memchr, made safe; a slice does not fail.
            let skipped = rest.skip_until(b'\n').unwrap_or(0);
            let is_ended = skipped > 0 && self.bytes[self.scanned + skipped - 1] == b'\n';
            self.scanned += skipped;
            if !is_ended {
                return self.check_open_line();
            }
            let line = &self.bytes[self.start..self.scanned];
            let end = match line {
                [.., b'\r', b'\n'] if self.options.crlf => 2,
                _ => 1,
            };
            let content = line.len() - end;
            self.start = self.scanned;
            if std::mem::take(&mut self.is_dropping) {
                continue;
            }
            if content > self.options.max_line {
                return Some(Err(self.too_long()));
            }
            let kept = if self.options.keep_end { line.len() } else { content };
            let bytes = line[..kept].to_vec();
            return Some(Ok(Line {
                bytes,
                is_complete: true,
            }));
        }
    }

    /// What is there has no end. It may be too long already.
    fn check_open_line(&mut self) -> Option<Result<Line, ChannelError>> {
        if self.is_dropping {
            self.forget();
            return None;
        }
        // One more: it may be the `\r` of the end.
        let most = self.options.max_line.saturating_add(usize::from(self.options.crlf));
        if self.bytes.len() - self.start > most {
            self.is_dropping = true;
            self.forget();
            return Some(Err(self.too_long()));
        }
        if self.is_empty() {
            self.forget();
        }
        None
    }

    fn forget(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.start = 0;
        self.scanned = 0;
    }

    fn too_long(&self) -> ChannelError {
        ChannelError::LineTooLong {
            max: self.options.max_line,
        }
    }

    /// What is left when the stream has ended: the beginning of a line, if there is one, and only after all complete lines.
    pub fn rest(&mut self) -> Option<Line> {
        if self.is_dropping || self.is_empty() {
            self.forget();
            return None;
        }
        let bytes = self.bytes.split_off(self.start);
        self.forget();
        Some(Line {
            bytes,
            is_complete: false,
        })
    }

    /// Whether nothing is waiting to be delivered or completed.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Bytes waiting to be delivered or completed.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether [`next_line`](LineSplitter::next_line) may have something. Errs on the side of `true`, once.
    pub(super) fn may_have_line(&self) -> bool {
        self.scanned < self.bytes.len()
    }

    /// Whether it may be forgotten: nothing was begun.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && !self.is_dropping
    }

    /// Everything not delivered.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.split_off(self.start)
    }
}
