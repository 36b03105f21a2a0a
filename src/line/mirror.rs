//! What every mirror and every buffer can do, whatever is between them.

use super::error::Result;
use super::item::{GroupedMessage, LineItem, Record, Stream};
use crate::wait::Wait;
use std::fmt::{Debug, Display};

/// Where lines are written: a [`LineBuffer`](super::LineBuffer) itself, or a mirror that leads to one somewhere else.
///
/// Every call takes `&self` and may be made from several threads; each thread has a pending line of its own, so what two threads write
/// in pieces never gets into one line. Captures and the sinks of `log` and `tracing` write to any `Mirror`.
pub trait Mirror: Send + Sync + Debug {
    /// Takes bytes of text that came out of `stream`. Lines that are complete with them go out; the rest stays pending.
    /// All of the bytes are taken, or there is an error and none is.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`](super::LineError::Closed), [`LineError::Stopped`](super::LineError::Stopped), and what may go wrong on the
    /// way to the buffer.
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()>;

    /// Ends the pending line of this thread, if there is one.
    ///
    /// # Errors
    ///
    /// As [`write_bytes`](Mirror::write_bytes).
    fn new_line(&self) -> Result<()>;

    /// Sees to it that all lines written until now are on their way to the buffer, the unfinished ones too where the way allows it.
    ///
    /// # Errors
    ///
    /// As [`write_bytes`](Mirror::write_bytes).
    fn flush(&self) -> Result<()>;

    /// Sends a message of several lines as one item, after [`new_line`](Mirror::new_line).
    ///
    /// # Errors
    ///
    /// As [`write_bytes`](Mirror::write_bytes), but never [`Stopped`](super::LineError::Stopped): the last words of who was told to stop
    /// arrive.
    fn send(&self, message: &GroupedMessage) -> Result<()>;

    /// Sends a log record as one item. Pending lines stay pending.
    ///
    /// # Errors
    ///
    /// As [`send`](Mirror::send).
    fn send_record(&self, record: &Record) -> Result<()>;

    /// Ends all pending lines and says that this mirror will write no more. Closes nothing on this side.
    ///
    /// # Errors
    ///
    /// As [`send`](Mirror::send).
    fn send_eof(&self) -> Result<()>;

    /// [`send_eof`](Mirror::send_eof), once, and then every write is [`LineError::Closed`](super::LineError::Closed). A second call
    /// does nothing.
    ///
    /// # Errors
    ///
    /// As [`send`](Mirror::send). The mirror is closed all the same.
    fn close(&self) -> Result<()>;

    /// Sends a warning: the lines of `text` as one item.
    ///
    /// # Errors
    ///
    /// As [`send`](Mirror::send).
    fn send_warning(&self, text: &dyn Display) -> Result<()> {
        self.send(&GroupedMessage::warning(text))
    }

    /// Sends an error: the lines of `text` as one item. For an error with causes send [`GroupedMessage::of_error`].
    ///
    /// # Errors
    ///
    /// As [`send`](Mirror::send).
    fn send_error(&self, text: &dyn Display) -> Result<()> {
        self.send(&GroupedMessage::error(text))
    }
}

/// Where lines are read: what every buffer can do. Reading never takes anything away.
pub trait Lines: Send + Sync + Debug {
    /// The last `n` items (all if `None`), oldest first. Pending lines come last, are marked
    /// [unfinished](super::Line::is_unfinished), and count.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`](super::LineError::Closed), [`LineError::Forked`](super::LineError::Forked), and what may go wrong on the way.
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>>;

    /// Finished items from number `seq` on, at most `n`, oldest first. If the first has a higher number, those between were
    /// rotated out or cleared.
    ///
    /// # Errors
    ///
    /// As [`read_items`](Lines::read_items).
    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>>;

    /// Waits until an item with number `seq` or higher has been stored. `false`: not in time.
    ///
    /// # Errors
    ///
    /// As [`read_items`](Lines::read_items).
    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool>;

    /// The number that the next item gets: how many were ever stored.
    ///
    /// # Errors
    ///
    /// As [`read_items`](Lines::read_items).
    fn next_seq(&self) -> Result<u64>;

    /// Forgets all items and pending lines. Numbers go on.
    ///
    /// # Errors
    ///
    /// As [`read_items`](Lines::read_items).
    fn clear(&self) -> Result<()>;

    /// How many items it holds at most.
    fn maxlen(&self) -> usize;

    /// Tells all mirrors to stop: their next write is [`LineError::Stopped`](super::LineError::Stopped).
    ///
    /// # Errors
    ///
    /// What may go wrong on the way to the mirrors.
    fn stop_all_mirrors(&self) -> Result<()>;

    /// Ends the stop: mirrors may write again.
    ///
    /// # Errors
    ///
    /// [`LineError::MirrorsAtWork`](super::LineError::MirrorsAtWork), where mirrors are known one by one.
    fn reset_states(&self) -> Result<()>;

    /// Whether the mirrors were told to stop.
    fn is_stopped(&self) -> bool;

    /// The items from number `seq` on, as they come. Ends when `wait` (for each of them) passes without one, when the buffer is closed,
    /// and after an error. Where items were rotated out before they could be given, there is a
    /// [`Content::Dropped`](super::Content::Dropped) with their number instead.
    fn follow_from(&self, seq: u64, wait: Wait) -> Follow<'_>
    where
        Self: Sized,
    {
        Follow::new(self, seq, wait)
    }
}

/// The items of a buffer as they come; see [`Lines::follow_from`].
#[derive(Debug)]
pub struct Follow<'l> {
    lines: &'l dyn Lines,
    next: u64,
    wait: Wait,
    ready: std::collections::VecDeque<LineItem>,
    is_over: bool,
}

impl<'l> Follow<'l> {
    /// Follows `lines` from item number `seq` on.
    pub fn new(lines: &'l dyn Lines, seq: u64, wait: Wait) -> Self {
        Follow {
            lines,
            next: seq,
            wait,
            ready: std::collections::VecDeque::new(),
            is_over: false,
        }
    }

    /// The number of the next item that it will give: where another `follow_from` would go on.
    pub fn next_seq(&self) -> u64 {
        self.ready.front().map_or(self.next, |item| item.seq)
    }

    /// How long it waits for the next item from now on.
    pub fn set_wait(&mut self, wait: impl Into<Wait>) {
        self.wait = wait.into();
        self.is_over = false;
    }

    fn fetch(&mut self) -> Result<()> {
        // Items may be cleared between the two calls; then there is nothing, and it waits on.
        let deadline = crate::wait::Deadline::of(self.wait);
        let wait = match deadline {
            crate::wait::Deadline::Now => Wait::Never,
            crate::wait::Deadline::At(at) => Wait::Until(at),
            crate::wait::Deadline::None => Wait::Forever,
        };
        let mut target = self.next;
        while self.lines.wait_for(target, wait)? {
            let mut items = self.lines.read_since(self.next, 256)?;
            if items.is_empty() {
                // Stored and gone again. What comes from now on is waited for; what came between that look and this number is looked for
                // once more, or it would be waited past.
                target = self.lines.next_seq()?;
                items = self.lines.read_since(self.next, 256)?;
            }
            let Some(first) = items.first() else { continue };
            if first.seq > self.next {
                let mut note = first.clone();
                (note.seq, note.origin) = (self.next, None);
                note.content = super::Content::Dropped(first.seq - self.next);
                self.ready.push_back(note);
            }
            self.next = items.last().map_or(self.next, |last| last.seq + 1);
            self.ready.extend(items);
            return Ok(());
        }
        Ok(())
    }
}

impl Iterator for Follow<'_> {
    type Item = Result<LineItem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && !self.is_over {
            match self.fetch() {
                Ok(()) => {}
                Err(super::LineError::Closed) => self.is_over = true,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Gives a mirror `std::io::Write`, also through a shared reference. `write!` of several parts is one write.
macro_rules! impl_write {
    ($($mirror:ty),+) => { $(
        impl std::io::Write for &$mirror {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.write_bytes($crate::line::Stream::Text, bytes)?;
                Ok(bytes.len())
            }

            fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
                Ok(self.write_bytes($crate::line::Stream::Text, bytes)?)
            }

            fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
                match text.as_str() {
                    Some(text) => self.write_all(text.as_bytes()),
                    None => self.write_all(text.to_string().as_bytes()),
                }
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok($crate::line::Mirror::flush(*self)?)
            }
        }

        impl std::io::Write for $mirror {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                std::io::Write::write(&mut &*self, bytes)
            }

            fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
                std::io::Write::write_all(&mut &*self, bytes)
            }

            fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
                std::io::Write::write_fmt(&mut &*self, text)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok($crate::line::Mirror::flush(self)?)
            }
        }
    )+ };
}
pub(crate) use impl_write;
