//! Streams of bytes cut into lines, and lines appended in batches: what `append` and `run` do at full speed.

use crate::fail::Fail;
use crate::stop::Stop;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use syncq::{Error, Queue, Wait, Writer};

/// How much is read at once.
const READ_SIZE: usize = 256 << 10;
/// How long an append waits before somebody looks whether to stop. Each time counts as a refused append of this member.
const APPEND_SLICE: Duration = Duration::from_millis(500);
/// One batch takes at most this part of the ring, so that who writes and who reads can work at the same time.
const BATCH_PART: u64 = 16;

/// Bytes read from somewhere, as lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    filled: usize,
}

impl Lines {
    /// Reads once. `false`: the stream has ended.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        if self.buffer.len() - self.filled < READ_SIZE / 2 {
            self.buffer.resize(self.filled + READ_SIZE, 0);
        }
        loop {
            match from.read(&mut self.buffer[self.filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    self.filled += read;
                    return Ok(read > 0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The lines that are complete, and where the rest begins.
    pub(crate) fn complete(&self) -> (Vec<&[u8]>, usize) {
        let bytes = &self.buffer[..self.filled];
        let mut lines = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            lines.push(&bytes[start..end]);
            start = end + 1;
        }
        (lines, start)
    }

    /// Lets go of everything before `rest`.
    pub(crate) fn consume(&mut self, rest: usize) {
        self.buffer.copy_within(rest..self.filled, 0);
        self.filled -= rest;
    }

    /// What is there of an unfinished line.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// A writer that waits as the user said, and stops when asked.
#[derive(Debug)]
pub(crate) struct Appender<'s> {
    writer: Writer,
    sender_len: usize,
    queue: Queue,
    timeout: Option<Duration>,
    stop: &'s Stop,
    regardless: bool,
}

impl<'s> Appender<'s> {
    /// Joins as `sender`. `timeout` is for each append; without it they wait until there is room.
    pub(crate) fn join(queue: &Queue, sender: &str, timeout: Option<Duration>, stop: &'s Stop) -> Result<Self, Fail> {
        Ok(Appender {
            writer: queue.writer(sender)?,
            sender_len: sender.len(),
            queue: queue.clone(),
            timeout,
            stop,
            regardless: false,
        })
    }

    /// From now on appends wait for room also when the user has asked to stop.
    pub(crate) fn go_on_regardless(&mut self) {
        self.regardless = true;
    }

    /// The longest body of this kind.
    pub(crate) fn longest(&self, kind: &str) -> usize {
        usize::try_from(self.queue.max_body(self.sender_len, kind.len())).unwrap_or(usize::MAX)
    }

    pub(crate) fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// Appends all of them, in order, in batches that become visible at once.
    pub(crate) fn append_all(&mut self, messages: &[(&str, &[u8])]) -> Result<(), Fail> {
        let limit = self.queue.capacity() / BATCH_PART;
        let mut batch = messages;
        while !batch.is_empty() {
            let mut size = 0;
            let fits = batch.iter().take_while(|(kind, body)| {
                size += self.size_in_ring(kind, body);
                size <= limit
            });
            let (now, later) = batch.split_at(fits.count().max(1));
            self.with_patience(|writer, wait| writer.append_all(now.iter().copied(), wait))?;
            batch = later;
        }
        Ok(())
    }

    fn size_in_ring(&self, kind: &str, body: &[u8]) -> u64 {
        (32 + (self.sender_len + kind.len()).next_multiple_of(8) + body.len()).next_multiple_of(64) as u64
    }

    /// Appends one.
    pub(crate) fn append(&mut self, kind: &str, body: &[u8]) -> Result<(), Fail> {
        self.with_patience(|writer, wait| writer.append(kind, body, wait).map(drop))
    }

    /// Does it again and again until it is done, the time is over, or the user wants to stop.
    pub(crate) fn with_patience<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Writer, Wait) -> syncq::Result<T>,
    ) -> Result<T, Fail> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map_or(APPEND_SLICE, |end| end.saturating_duration_since(Instant::now()));
            match attempt(&mut self.writer, Wait::For(left.min(APPEND_SLICE))) {
                Err(error @ (Error::Full(_) | Error::Busy { .. })) => {
                    if deadline.is_some_and(|end| end <= Instant::now()) {
                        return Err(error.into());
                    }
                    if self.stop.is_asked() && !self.regardless {
                        return Err(Fail::from(error).with_code(crate::fail::FAILED).during("stopped"));
                    }
                }
                answer => return Ok(answer?),
            }
        }
    }
}
