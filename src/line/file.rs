//! A line buffer of processes that share a folder and nothing else: no parent, no queue, and what was written is there after all have ended.
//!
//! Not here: how an item lies in the file (`frame.rs`, `file_format.rs`).

use super::buffer::LineBufferOptions;
use super::error::{LineError, Result};
use super::file_format::{self, Log};
use super::item::{Content, GroupedMessage, LineItem, Origin, Record, Stream};
use super::mirror::{Follow, Lines, Mirror, impl_write};
use super::pending::thread_lane;
use super::store::{Label, Lane, LineStats, Store};
use crate::sys::fork::{self, PerProcess};
use crate::wait::{Deadline, Wait};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often who waits for an item looks whether the file has grown.
const LOOK: Duration = Duration::from_millis(10);

/// Choices for a [`LineFileBuffer`].
#[derive(Debug, Clone)]
pub struct LineFileBufferOptions {
    lines: LineBufferOptions,
    maxlen: usize,
    line_cap: usize,
    name: String,
    wait: Wait,
}

impl Default for LineFileBufferOptions {
    fn default() -> Self {
        LineFileBufferOptions {
            lines: LineBufferOptions::default(),
            maxlen: 20,
            line_cap: 64 << 10,
            name: String::new(),
            wait: Wait::For(Duration::from_secs(10)),
        }
    }
}

impl LineFileBufferOptions {
    /// How many items are given back; a few times as many are kept. All who share the files should say the same. Default: 20.
    pub fn maxlen(mut self, items: usize) -> Self {
        self.maxlen = items;
        self
    }

    /// How many bytes a line, a message or a record can have, at least 64; the rest is cut off, and the item says so. Default: 64 KiB.
    pub fn line_cap(mut self, bytes: usize) -> Self {
        self.line_cap = bytes;
        self
    }

    /// What this writer is called in the items it writes (the original's `tmp_id`, but it needs not be unique). Default: nothing.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How long a call may wait for other processes that are just appending. Default: 10 s.
    pub fn timeout(mut self, wait: impl Into<Wait>) -> Self {
        self.wait = wait.into();
        self
    }

    /// Opens the buffer at `path`, making its files if need be: `path` with `.lines`, `.lines.old` and `.lock` put behind it.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`], [`LineError::Io`], [`LineError::NotALineFile`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<LineFileBuffer> {
        self.lines.maxlen(self.maxlen).line_cap(self.line_cap).check()?;
        let buffer = LineFileBuffer {
            path: path.as_ref().to_owned(),
            maxlen: self.maxlen,
            line_cap: self.line_cap,
            name: self.name,
            wait: self.wait,
            desk: PerProcess::new(),
            is_closed: AtomicBool::new(false),
            generation: fork::generation(),
        };
        buffer.lock()?.open()?;
        Ok(buffer)
    }
}

/// Keeps the last lines of all processes that open the same path, in files.
///
/// Each write appends the lines that it completes, whole, under a lock of the file; who is killed leaves no torn line and no lock. The unfinished
/// rest is kept in the process, and its own [`read`](LineFileBuffer::read) shows it. When the file holds twice what is to be kept, it becomes
/// `.lines.old` and a new one begins, so appending costs the same whatever is kept.
///
/// The files are this library's own, not those of the Python package (one file for each line, all renamed for each new one).
///
/// ```
/// use syncq::line::{LineFileBuffer, Lines, Mirror};
///
/// # fn main() -> Result<(), syncq::line::LineError> {
/// # let folder = std::env::temp_dir().join(format!("doc-lines-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// let one = LineFileBuffer::new(folder.join("log"), 20)?;
/// one.write("half way\n")?;
/// one.send_warning(&"low on memory")?;
/// // in another process
/// let two = LineFileBuffer::new(folder.join("log"), 20)?;
/// assert_eq!(two.read(None)?[1].to_string(), "low on memory");
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineFileBuffer {
    path: PathBuf,
    maxlen: usize,
    line_cap: usize,
    name: String,
    wait: Wait,
    desk: PerProcess<Mutex<Desk>>,
    is_closed: AtomicBool,
    /// Of the process that opened it.
    generation: u64,
}

/// What one process has of it.
#[derive(Debug)]
struct Desk {
    log: Log,
    /// Pending lines; its items are never used.
    begun: Store,
    origin: Arc<Origin>,
}

impl Desk {
    fn open(&mut self) -> Result<()> {
        self.log.locked(|_| Ok(()))
    }
}

impl LineFileBuffer {
    /// A buffer at `path` that gives back the last `maxlen` items.
    ///
    /// # Errors
    ///
    /// As [`LineFileBufferOptions::open`].
    pub fn new(path: impl AsRef<Path>, maxlen: usize) -> Result<Self> {
        Self::options().maxlen(maxlen).open(path)
    }

    /// All choices.
    pub fn options() -> LineFileBufferOptions {
        LineFileBufferOptions::default()
    }

    /// Takes text or bytes. Returns how many bytes that were: all.
    ///
    /// # Errors
    ///
    /// As [`write_bytes`](Mirror::write_bytes), and [`LineError::Io`].
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.write_bytes(Stream::Text, text.as_ref())?;
        Ok(text.as_ref().len())
    }

    /// The last `n` items of all processes, oldest first; `None` for all. Pending lines of this one come last, are marked
    /// [unfinished](super::Line::is_unfinished), and count.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Io`], [`LineError::NotALineFile`].
    pub fn read(&self, n: impl Into<Option<usize>>) -> Result<Vec<LineItem>> {
        let n = n.into().unwrap_or(usize::MAX).min(self.maxlen);
        let mut desk = self.lock()?;
        let pending = desk.begun.read(n);
        let kept = n - pending.len();
        let mut items = desk.log.locked(|log| log.read_last(kept))?;
        let next = items.last().map_or(0, |item| item.seq + 1);
        items.extend(
            pending
                .into_iter()
                .zip(next..)
                .map(|(item, seq)| LineItem { seq, ..item }),
        );
        Ok(items)
    }

    /// How many items [`read`](LineFileBuffer::read) gives.
    ///
    /// # Errors
    ///
    /// As [`read`](LineFileBuffer::read).
    pub fn len(&self) -> Result<usize> {
        Ok(self.read(None)?.len())
    }

    /// Whether there is nothing to read.
    ///
    /// # Errors
    ///
    /// As [`read`](LineFileBuffer::read).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Counts, as far as the files know them: how many items were ever stored, and how many are there.
    ///
    /// # Errors
    ///
    /// As [`read`](LineFileBuffer::read).
    pub fn stats(&self) -> Result<LineStats> {
        let mut desk = self.lock()?;
        let items = desk.log.locked(|log| log.read_last(self.maxlen))?;
        let stored = desk.log.locked(|log| log.next_seq())?;
        Ok(LineStats {
            stored,
            kept: items.len(),
            bytes: items.iter().map(LineItem::size).sum(),
            rotated: stored - items.len() as u64,
            ..LineStats::default()
        })
    }

    /// The finished items that are there and those that come; see [`Lines::follow_from`].
    pub fn follow(&self, wait: impl Into<Wait>) -> Follow<'_> {
        self.follow_from(0, wait.into())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Desk>> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LineError::Closed);
        }
        let desk = self.desk.get_or_make(|| {
            Mutex::new(Desk {
                log: Log::new(&self.path, self.maxlen, self.wait),
                begun: Store::new(usize::MAX, usize::MAX, self.line_cap),
                origin: Arc::new(Origin {
                    name: self.name.clone(),
                    pid: std::process::id(),
                    mirror: u64::from(std::process::id()),
                }),
            })
        });
        Ok(desk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes pending lines, and appends what comes out.
    fn change(&self, stream: Stream, change: impl FnOnce(&mut Store, &Label, &mut Vec<LineItem>)) -> Result<()> {
        let mut desk = self.lock()?;
        let label = Label::now(Some(desk.origin.clone()), stream);
        let mut out = Vec::new();
        let before = desk.begun.begun();
        change(&mut desk.begun, &label, &mut out);
        if out.is_empty() {
            return Ok(());
        }
        let appended = desk.log.locked(|log| log.append(&out));
        if appended.is_err() {
            desk.begun.set_begun(before);
        }
        appended
    }

    /// As much as is appended at once.
    fn write_piece(&self, stream: Stream, piece: &[u8]) -> Result<()> {
        let lane = lane();
        self.change(stream, |begun, label, out| begun.write(lane, label, piece, out))
    }
}

fn lane() -> Lane {
    Lane {
        mirror: 0,
        lane: thread_lane(),
    }
}

impl Mirror for LineFileBuffer {
    /// What is longer than 1 MiB is appended in several pieces; if one of them fails, those before are in the file.
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        bytes
            .chunks(file_format::PIECE)
            .try_for_each(|piece| self.write_piece(stream, piece))
    }

    fn new_line(&self) -> Result<()> {
        let lane = lane();
        self.change(Stream::Text, |begun, _, out| {
            begun.end_lines(|begun| begun == lane, false, out)
        })
    }

    /// What is complete is in the file already.
    fn flush(&self) -> Result<()> {
        drop(self.lock()?);
        Ok(())
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        let lane = lane();
        let mut message = message.clone();
        message.cap(self.line_cap);
        self.change(Stream::Text, |begun, label, out| {
            begun.end_lines(|begun| begun == lane, false, out);
            out.push(label.item(Content::Grouped(message)));
        })
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        let mut record = Box::new(record.clone());
        record.cap(self.line_cap);
        self.change(Stream::Text, |_, label, out| {
            out.push(label.item(Content::Record(record)))
        })
    }

    fn send_eof(&self) -> Result<()> {
        self.change(Stream::Text, |begun, _, out| begun.end_lines(|_| true, false, out))
    }

    /// Ends this process's pending lines. What is in the files stays there.
    fn close(&self) -> Result<()> {
        match self.send_eof() {
            Err(LineError::Closed) => Ok(()),
            sent => {
                self.is_closed.store(true, Ordering::Release);
                sent
            }
        }
    }
}

impl Lines for LineFileBuffer {
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>> {
        self.read(n)
    }

    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>> {
        let mut items = self.lock()?.log.locked(|log| log.read_last(self.maxlen))?;
        items.retain(|item| item.seq >= seq);
        items.truncate(n);
        Ok(items)
    }

    /// Nobody tells of a new item in a file: it looks every 10 ms.
    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool> {
        let deadline = Deadline::of(wait);
        loop {
            if self.next_seq()? > seq {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            std::thread::sleep(deadline.cap(LOOK));
        }
    }

    fn next_seq(&self) -> Result<u64> {
        self.lock()?.log.locked(|log| log.next_seq())
    }

    /// Empties the files of this path, and of no other, for all who have them open. Pending lines of other processes stay theirs.
    fn clear(&self) -> Result<()> {
        let mut desk = self.lock()?;
        desk.begun.clear();
        desk.log.locked(|log| log.clear())
    }

    fn maxlen(&self) -> usize {
        self.maxlen
    }

    /// There is nobody to tell: who shares the files is not known.
    ///
    /// # Errors
    ///
    /// Always [`Error::Unsupported`](crate::Error::Unsupported).
    fn stop_all_mirrors(&self) -> Result<()> {
        Err(unsupported("stop_all_mirrors"))
    }

    /// As [`stop_all_mirrors`](Lines::stop_all_mirrors).
    ///
    /// # Errors
    ///
    /// Always [`Error::Unsupported`](crate::Error::Unsupported).
    fn reset_states(&self) -> Result<()> {
        Err(unsupported("reset_states"))
    }

    fn is_stopped(&self) -> bool {
        false
    }
}

fn unsupported(what: &'static str) -> LineError {
    let why = "a LineFileBuffer has no mirrors that could be told";
    LineError::Queue(crate::Error::Unsupported { what, why })
}

impl<'b> IntoIterator for &'b LineFileBuffer {
    type Item = Result<LineItem>;
    type IntoIter = Follow<'b>;

    /// The finished items that are there.
    fn into_iter(self) -> Follow<'b> {
        self.follow(Wait::Never)
    }
}

impl Drop for LineFileBuffer {
    fn drop(&mut self) {
        // A forked child that has not written has nothing to end.
        if self.generation == fork::generation() || self.desk.get().is_some() {
            let _ = self.close();
        }
    }
}

impl_write!(LineFileBuffer);
