//! All choices about making a `LineProcBuffer`.

use super::buffer::{LineBuffer, LineBufferOptions};
use super::error::{LineError, Result};
use super::item::LineItem;
use super::proc::LineProcBuffer;
use super::proc_mirror::{PARTS, control_name};
use crate::{Overflow, Queue};

/// How many bytes a line of a worker can have unless asked otherwise.
pub(crate) const LINE_CAP: usize = 64 << 10;

/// Choices for a [`LineProcBuffer`].
#[derive(Debug, Clone)]
pub struct LineProcBufferOptions {
    lines: LineBufferOptions,
    line_cap: usize,
    capacity: u64,
    slots: u32,
}

impl Default for LineProcBufferOptions {
    fn default() -> Self {
        LineProcBufferOptions {
            lines: LineBuffer::options(),
            line_cap: LINE_CAP,
            capacity: 1 << 20,
            slots: 256,
        }
    }
}

impl LineProcBufferOptions {
    /// How many items are kept; see [`LineBufferOptions::maxlen`].
    pub fn maxlen(mut self, items: usize) -> Self {
        self.lines = self.lines.maxlen(items);
        self
    }

    /// How many bytes of text are kept; see [`LineBufferOptions::max_bytes`].
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.lines = self.lines.max_bytes(bytes);
        self
    }

    /// How many bytes a line, a message or a record can have, at most an eighth of [`capacity`](LineProcBufferOptions::capacity); the rest is
    /// cut off, and the item says so. Default: 64 KiB.
    pub fn line_cap(mut self, bytes: usize) -> Self {
        self.line_cap = bytes;
        self
    }

    /// Stores only items for which `keep` is true; see [`LineBufferOptions::keep`].
    pub fn keep(mut self, keep: impl Fn(&LineItem) -> bool + Send + Sync + 'static) -> Self {
        self.lines = self.lines.keep(keep);
        self
    }

    /// Size of the queue between workers and parent in bytes, a power of two from 4096. When it is full, workers wait or drop, as
    /// [`WhenFull`](super::WhenFull) says. Default: 1 MiB.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// How many mirrors can be in use at a time. Default: 255.
    pub fn mirrors(mut self, count: u32) -> Self {
        self.slots = count.saturating_add(1);
        self
    }

    /// Makes the buffer, for this process and the children it forks.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`], [`LineError::Queue`].
    pub fn build(&self) -> Result<LineProcBuffer> {
        self.make(None)
    }

    /// Makes the buffer under the queue name `name`, for any program to open with [`LineProcMirror::open`](super::LineProcMirror::open). The names (`name` and
    /// `name.control`) go away when it is dropped.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`], [`LineError::Queue`].
    pub fn create(&self, name: &str) -> Result<LineProcBuffer> {
        self.make(Some(name))
    }

    fn make(&self, name: Option<&str>) -> Result<LineProcBuffer> {
        if self.line_cap as u64 > self.capacity / PARTS {
            return Err(LineError::InvalidOption {
                option: "line_cap",
                why: format!(
                    "a capacity of {} carries lines of at most {} bytes",
                    self.capacity,
                    self.capacity / PARTS
                ),
            });
        }
        let lines = self.lines.clone().line_cap(self.line_cap).build()?;
        let data = Queue::options()
            .capacity(self.capacity)
            .slots(self.slots)
            .timestamps(true);
        let control = Queue::options().capacity(4096).slots(1).overflow(Overflow::Lossy);
        let (data, control) = match name {
            None => (data.anonymous()?, control.anonymous()?),
            Some(name) => {
                let control = control.create(&control_name(name))?;
                match data.create(name) {
                    Ok(data) => (data, control),
                    Err(error) => {
                        let _ = control.unlink();
                        return Err(error.into());
                    }
                }
            }
        };
        LineProcBuffer::make(lines, data, control, self.line_cap)
    }
}
