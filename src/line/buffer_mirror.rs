//! Mirrors of a line buffer in the same process, for those who want a pending line and a name of their own.

use super::buffer::LineBuffer;
use super::error::{LineError, Result};
use super::item::{Content, GroupedMessage, LineItem, Origin, Record, Stream};
use super::mirror::{Lines, Mirror, impl_write};
use super::pending::thread_lane;
use super::store::{Label, Lane};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// A mirror of a [`LineBuffer`] in the same process, with a name and pending lines of its own. Dropping it ends its lines.
///
/// ```
/// use syncq::line::{LineBuffer, LineError, Lines, Mirror};
///
/// # fn main() -> Result<(), LineError> {
/// let buffer = LineBuffer::new(10)?;
/// let (one, two) = (buffer.mirror("one"), buffer.mirror("two"));
/// one.write("a")?;
/// two.write("c\nd")?;
/// one.write("b\n")?;
/// let texts: Vec<String> = buffer.read(None)?.iter().map(|item| item.to_string()).collect();
/// assert_eq!(texts, ["c", "ab", "d"]);
/// buffer.stop_all_mirrors()?;
/// assert!(matches!(one.write("more\n"), Err(LineError::Stopped)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineBufferMirror {
    buffer: LineBuffer,
    origin: Arc<Origin>,
    /// One for all threads, or else each thread's own.
    lane: Option<u64>,
    is_closed: AtomicBool,
}

impl LineBufferMirror {
    pub(super) fn new(buffer: LineBuffer, origin: Arc<Origin>) -> Self {
        LineBufferMirror {
            buffer,
            origin,
            lane: None,
            is_closed: AtomicBool::new(false),
        }
    }

    /// One pending line for all threads instead of one for each: for who serves one client with changing threads.
    pub fn one_line(mut self) -> Self {
        self.lane = Some(0);
        self
    }

    /// Takes text or bytes. Returns how many bytes that were: all.
    ///
    /// # Errors
    ///
    /// [`LineError::Stopped`], [`LineError::Closed`], [`LineError::Forked`].
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.write_bytes(Stream::Text, text.as_ref())?;
        Ok(text.as_ref().len())
    }

    /// As [`write_bytes`](Mirror::write_bytes), for what was written at `time`, and also when the mirrors were told to stop.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn write_at(&self, time: SystemTime, stream: Stream, bytes: &[u8]) -> Result<()> {
        self.check()?;
        let label = Label {
            time,
            origin: Some(self.origin.clone()),
            stream,
        };
        self.buffer.write_lane(self.lane(), &label, bytes)
    }

    /// Who it writes as.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    fn lane(&self) -> Lane {
        Lane {
            mirror: self.origin.mirror,
            lane: self.lane.unwrap_or_else(thread_lane),
        }
    }

    fn check(&self) -> Result<()> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(LineError::Closed),
            false => self.buffer.check(),
        }
    }

    fn item(&self, content: Content) -> LineItem {
        Label::now(Some(self.origin.clone()), Stream::Text).item(content)
    }
}

impl Mirror for LineBufferMirror {
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        self.check()?;
        match self.buffer.is_stopped() {
            true => Err(LineError::Stopped),
            false => self.write_at(SystemTime::now(), stream, bytes),
        }
    }

    fn new_line(&self) -> Result<()> {
        self.check()?;
        let lane = self.lane();
        self.buffer.end_lines(|begun| begun == lane, false)
    }

    fn flush(&self) -> Result<()> {
        self.check()
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        self.check()?;
        let lane = self.lane();
        let item = self.item(Content::Grouped(message.clone()));
        self.buffer.end_and_store(|begun| begun == lane, item)
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        self.check()?;
        self.buffer.push(self.item(Content::Record(Box::new(record.clone()))))
    }

    fn send_eof(&self) -> Result<()> {
        self.check()?;
        self.buffer.end_lines(|begun| begun.mirror == self.origin.mirror, false)
    }

    fn close(&self) -> Result<()> {
        match self.is_closed.swap(true, Ordering::AcqRel) {
            true => Ok(()),
            false => self.buffer.end_lines(|begun| begun.mirror == self.origin.mirror, false),
        }
    }
}

impl Drop for LineBufferMirror {
    fn drop(&mut self) {
        // The buffer may be closed, or the parent's; then there is nothing to end.
        let _ = self.close();
    }
}

impl_write!(LineBufferMirror);
