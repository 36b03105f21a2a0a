//! The line buffer of one process.
//!
//! Not here: its mirrors (`buffer_mirror.rs`), the bounded store itself (`store.rs`), and buffers that others write to over a queue, files or a network.

use super::buffer_mirror::LineBufferMirror;
use super::error::{LineError, Result};
use super::item::{Content, GroupedMessage, LineItem, Origin, Record, Stream};
use super::mirror::{Follow, Lines, Mirror, impl_write};
use super::pending::thread_lane;
use super::store::{Label, Lane, LineStats, Store};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Decides whether an item is stored.
type Keep = Arc<dyn Fn(&LineItem) -> bool + Send + Sync>;

/// Choices for a [`LineBuffer`].
#[derive(Clone)]
pub struct LineBufferOptions {
    maxlen: usize,
    max_bytes: usize,
    line_cap: usize,
    keep: Option<Keep>,
}

impl Default for LineBufferOptions {
    fn default() -> Self {
        LineBufferOptions {
            maxlen: 20,
            max_bytes: 64 << 20,
            line_cap: 1 << 20,
            keep: None,
        }
    }
}

impl fmt::Debug for LineBufferOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineBufferOptions")
            .field("maxlen", &self.maxlen)
            .field("max_bytes", &self.max_bytes)
            .field("line_cap", &self.line_cap)
            .field("keep", &self.keep.is_some())
            .finish()
    }
}

impl LineBufferOptions {
    /// How many items are kept, at least 1. Default: 20.
    pub fn maxlen(mut self, items: usize) -> Self {
        self.maxlen = items;
        self
    }

    /// How many bytes of text are kept; older items make room for newer ones. The newest is kept whatever its size. Default: 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How many bytes a line, a grouped message or a record can have, at least 64; the rest is cut off, and the item says so.
    /// Default: 1 MiB.
    pub fn line_cap(mut self, bytes: usize) -> Self {
        self.line_cap = bytes;
        self
    }

    /// Stores only items for which `keep` is true: the original's `parse_lines`, to take progress lines out, say. It sees each item
    /// before it has a number, and may call the buffer.
    pub fn keep(mut self, keep: impl Fn(&LineItem) -> bool + Send + Sync + 'static) -> Self {
        self.keep = Some(Arc::new(keep));
        self
    }

    /// Makes the buffer.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`].
    pub fn build(self) -> Result<LineBuffer> {
        self.check()?;
        Ok(LineBuffer {
            inner: Arc::new(Inner {
                generation: fork::generation(),
                store: Mutex::new(Store::new(self.maxlen, self.max_bytes, self.line_cap)),
                news: Condvar::new(),
                state: State::default(),
                next_mirror: AtomicU64::new(1),
                waiting: AtomicUsize::new(0),
                maxlen: self.maxlen,
                line_cap: self.line_cap,
                keep: self.keep,
            }),
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |option, why: &str| {
            Err(LineError::InvalidOption {
                option,
                why: why.into(),
            })
        };
        match self {
            _ if self.maxlen < 1 => wrong("maxlen", "a buffer holds at least 1 item"),
            _ if self.line_cap < 64 => wrong("line_cap", "lines can have 64 bytes at least"),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    is_closed: AtomicBool,
    is_stopped: AtomicBool,
}

struct Inner {
    /// Of the process that made it.
    generation: u64,
    store: Mutex<Store>,
    news: Condvar,
    state: State,
    next_mirror: AtomicU64,
    /// How many wait for news, counted with the store locked: where nobody does, news are not worth a system call.
    waiting: AtomicUsize,
    maxlen: usize,
    line_cap: usize,
    keep: Option<Keep>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineBuffer")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Keeps the last lines that were written in this process, with warnings and errors among them.
///
/// It is written like a file ([`std::io::Write`], also through `&LineBuffer`) and read like a list. A clone is the same buffer. Lines end where
/// Python's `str.splitlines` ends them ([`split_lines`](super::split_lines)); `\r\n` is one break, also if it comes in two pieces. Each thread
/// has a pending line of its own.
///
/// # Bounds
///
/// [`maxlen`](LineBufferOptions::maxlen) items, [`max_bytes`](LineBufferOptions::max_bytes) bytes,
/// [`line_cap`](LineBufferOptions::line_cap) bytes for each; older items make room, and [`LineItem::seq`] shows how many have gone.
///
/// # Fork
///
/// In a forked child every call is [`LineError::Forked`]; nothing hangs and nothing is written to a copy that nobody reads.
///
/// ```
/// use std::io::Write;
/// use syncq::line::{LineBuffer, Lines, Mirror};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut buffer = LineBuffer::new(3)?;
/// writeln!(buffer, "one")?;
/// buffer.write("two\nthr")?;
/// buffer.send_warning(&"careful")?; // ends the pending line first
/// let items = buffer.read(2)?;
/// assert_eq!(items[0].text(), "thr");
/// assert_eq!(items[1].grouped().unwrap().data, ["careful"]);
/// assert_eq!(buffer.len()?, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LineBuffer {
    inner: Arc<Inner>,
}

impl LineBuffer {
    /// A buffer for the last `maxlen` items.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`] for 0.
    pub fn new(maxlen: usize) -> Result<Self> {
        Self::options().maxlen(maxlen).build()
    }

    /// All choices.
    pub fn options() -> LineBufferOptions {
        LineBufferOptions::default()
    }

    /// Takes text or bytes. Returns how many bytes that were: all.
    ///
    /// (The original returns the number of characters left pending, which its documentation calls the number of lines.)
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.write_bytes(Stream::Text, text.as_ref())?;
        Ok(text.as_ref().len())
    }

    /// The last `n` items, oldest first; `None` for all. Pending lines come last, are marked
    /// [unfinished](super::Line::is_unfinished), and count.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn read(&self, n: impl Into<Option<usize>>) -> Result<Vec<LineItem>> {
        Ok(self.lock()?.read(n.into().unwrap_or(usize::MAX)))
    }

    /// How many items [`read`](LineBuffer::read) gives, a pending line included.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn len(&self) -> Result<usize> {
        Ok(self.lock()?.len())
    }

    /// Whether there is nothing to read.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The finished items that are there and those that come; see [`Lines::follow_from`].
    pub fn follow(&self, wait: impl Into<Wait>) -> Follow<'_> {
        self.follow_from(0, wait.into())
    }

    /// A mirror called `name`: its lines carry the name, and it has pending lines of its own.
    pub fn mirror(&self, name: &str) -> LineBufferMirror {
        self.mirror_of(name, std::process::id())
    }

    /// A mirror for somebody who writes from process `pid` (0 if that is not known).
    pub fn mirror_of(&self, name: &str, pid: u32) -> LineBufferMirror {
        LineBufferMirror::new(self.clone(), self.new_origin(name, pid))
    }

    /// Who a new mirror is.
    pub(crate) fn new_origin(&self, name: &str, pid: u32) -> Arc<Origin> {
        Arc::new(Origin {
            name: name.to_owned(),
            pid,
            mirror: self.inner.next_mirror.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Stores an item as it is, but for its number. For those who bring items from elsewhere.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn push(&self, item: LineItem) -> Result<()> {
        self.store_all(&mut vec![item])
    }

    /// Stores a note that `count` items were dropped on their way here. Notes that follow each other are made one by who sends them.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn note_dropped(&self, count: u64) -> Result<()> {
        self.push(Label::now(None, Stream::Text).item(Content::Dropped(count)))
    }

    /// Counts.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn stats(&self) -> Result<LineStats> {
        Ok(self.lock()?.stats)
    }

    /// How many bytes a line can have.
    pub fn line_cap(&self) -> usize {
        self.inner.line_cap
    }

    /// Counts items that came a second time and were not stored again. For those who bring items from elsewhere.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`].
    pub fn note_repeated(&self, count: u64) -> Result<()> {
        self.lock()?.stats.repeated += count;
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        if fork::generation() != self.inner.generation {
            return Err(LineError::Forked);
        }
        match self.inner.state.is_closed.load(Ordering::Acquire) {
            true => Err(LineError::Closed),
            false => Ok(()),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Store>> {
        self.check()?;
        // Nothing in here panics with the store half changed.
        Ok(self.inner.store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes of a lane. Not for stopped mirrors to check: they do that before.
    pub(crate) fn write_lane(&self, lane: Lane, label: &Label, text: &[u8]) -> Result<()> {
        self.change(|store, out| store.write(lane, label, text, out))
    }

    pub(crate) fn end_lines(&self, which: impl Fn(Lane) -> bool, is_unfinished: bool) -> Result<()> {
        self.change(|store, out| store.end_lines(which, is_unfinished, out))
    }

    /// Puts a piece without breaks to a pending line.
    pub(crate) fn put_to_line(&self, lane: Lane, label: &Label, piece: &[u8], cut: u64) -> Result<()> {
        self.change(|store, out| store.put(lane, label, piece, cut, out))
    }

    /// Ends the pending line of `lane`, and stores an item, with nothing in between.
    pub(crate) fn end_and_store(&self, which: impl Fn(Lane) -> bool, item: LineItem) -> Result<()> {
        self.change(|store, out| {
            store.end_lines(which, false, out);
            out.push(item);
        })
    }

    /// Changes the store, and stores what comes out. What decides about keeping runs without the lock: it may call the buffer.
    fn change(&self, change: impl FnOnce(&mut Store, &mut Vec<LineItem>)) -> Result<()> {
        let mut out = Vec::new();
        let mut store = self.lock()?;
        change(&mut store, &mut out);
        if out.is_empty() {
            return Ok(());
        }
        if let Some(keep) = &self.inner.keep {
            drop(store);
            out.retain(|item| keep(item));
            return self.store_all_kept(&mut out);
        }
        out.into_iter().for_each(|item| store.push(item));
        self.tell(store);
        Ok(())
    }

    pub(crate) fn store_all(&self, items: &mut Vec<LineItem>) -> Result<()> {
        if let Some(keep) = &self.inner.keep {
            items.retain(|item| keep(item));
        }
        self.store_all_kept(items)
    }

    fn store_all_kept(&self, items: &mut Vec<LineItem>) -> Result<()> {
        let mut store = self.lock()?;
        items.drain(..).for_each(|item| store.push(item));
        self.tell(store);
        Ok(())
    }

    /// Wakes who waits for news.
    fn tell(&self, store: MutexGuard<'_, Store>) {
        let is_awaited = self.inner.waiting.load(Ordering::Relaxed) > 0;
        drop(store);
        if is_awaited {
            self.inner.news.notify_all();
        }
    }
}

/// Writing to the buffer itself is not stopped by `stop_all_mirrors`.
impl Mirror for LineBuffer {
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let lane = Lane {
            mirror: 0,
            lane: thread_lane(),
        };
        self.write_lane(lane, &Label::now(None, stream), bytes)
    }

    fn new_line(&self) -> Result<()> {
        let lane = thread_lane();
        self.end_lines(|begun| begun == Lane { mirror: 0, lane }, false)
    }

    fn flush(&self) -> Result<()> {
        self.check()
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        let lane = thread_lane();
        let item = Label::now(None, Stream::Text).item(Content::Grouped(message.clone()));
        self.end_and_store(|begun| begun == Lane { mirror: 0, lane }, item)
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        self.push(Label::now(None, Stream::Text).item(Content::Record(Box::new(record.clone()))))
    }

    fn send_eof(&self) -> Result<()> {
        self.end_lines(|begun| begun.mirror == 0, false)
    }

    /// Forgets everything and closes the buffer for all who have a clone or a mirror of it. Who follows it comes to the end.
    fn close(&self) -> Result<()> {
        match self.lock() {
            Ok(mut store) => {
                store.clear();
                self.inner.state.is_closed.store(true, Ordering::Release);
                self.tell(store);
                Ok(())
            }
            Err(LineError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Lines for LineBuffer {
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>> {
        self.read(n)
    }

    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>> {
        Ok(self.lock()?.read_since(seq, n))
    }

    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool> {
        let deadline = Deadline::of(wait);
        let mut store = self.lock()?;
        loop {
            if store.stats.stored > seq {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            let slice = deadline.cap(Duration::from_secs(3600));
            self.inner.waiting.fetch_add(1, Ordering::Relaxed);
            let waited = self.inner.news.wait_timeout(store, slice);
            store = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.inner.waiting.fetch_sub(1, Ordering::Relaxed);
            self.check()?;
        }
    }

    fn next_seq(&self) -> Result<u64> {
        Ok(self.lock()?.stats.stored)
    }

    fn clear(&self) -> Result<()> {
        self.lock()?.clear();
        Ok(())
    }

    fn maxlen(&self) -> usize {
        self.inner.maxlen
    }

    fn stop_all_mirrors(&self) -> Result<()> {
        self.check()?;
        self.inner.state.is_stopped.store(true, Ordering::Release);
        Ok(())
    }

    fn reset_states(&self) -> Result<()> {
        self.check()?;
        self.inner.state.is_stopped.store(false, Ordering::Release);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.inner.state.is_stopped.load(Ordering::Acquire)
    }
}

impl_write!(LineBuffer);

impl<'b> IntoIterator for &'b LineBuffer {
    type Item = Result<LineItem>;
    type IntoIter = Follow<'b>;

    /// The finished items that are there.
    fn into_iter(self) -> Follow<'b> {
        self.follow(Wait::Never)
    }
}
