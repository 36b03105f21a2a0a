//! The parent's side of workers' lines: a line buffer that a queue leads to.
//!
//! Not here: the worker's side (`proc_mirror.rs`), what the parent knows of each worker (`workers.rs`).

use super::buffer::LineBuffer;
use super::error::{LineError, Result};
use super::item::LineItem;
use super::mirror::{Follow, Lines};
use super::proc_mirror::LineProcMirror;
use super::proc_options::LineProcBufferOptions;
use super::store::LineStats;
use super::workers::Workers;
use crate::sys::fork;
use crate::wait::Deadline;
use crate::{Queue, Reader, Wait, Writer};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Words of the parent to its mirrors. Their body is the number of the round.
pub(crate) const STOP: &str = "stop";
const GO: &str = "go";

/// How often a waiting parent looks whether all workers live, and lets others in.
const LOOK: Duration = Duration::from_millis(20);

/// How many messages one call takes without waiting, so that it ends even if workers never pause.
const BURST: usize = 100_000;

/// Keeps the last lines of workers, with their warnings, errors and log records, and with a note where one was lost.
///
/// Make it before forking, give each worker a [`mirror`](LineProcBuffer::mirror), and [`read`](LineProcBuffer::read),
/// [`follow`](LineProcBuffer::follow) or [`wait`](LineProcBuffer::wait). Each of these first takes what has arrived. Workers only wait when
/// the queue is full; [`receive_in_background`](LineProcBuffer::receive_in_background) empties it at any time.
///
/// # Workers that end
///
/// A worker that closes or drops its mirror is done. One that is killed, crashes or just exits is noticed within some 20 ms of waiting: its
/// unfinished line is stored as such, and behind it an item [`Content::Lost`](super::Content::Lost), with the signal or exit code if it is a
/// child of this process that was not reaped yet. What it had sent before is all there. Nobody hangs.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use syncq::Wait;
/// use syncq::line::{LineProcBuffer, Mirror};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let parent = LineProcBuffer::new(20)?;
/// let mut worker = parent.mirror("worker-1")?;
/// std::thread::spawn(move || {
///     // in a forked worker just the same
///     writeln!(worker, "half way").unwrap();
///     worker.send_warning(&"low on memory").unwrap();
/// });
/// assert!(parent.wait(Wait::For(Duration::from_secs(5)))?);
/// for item in parent.read(None)? {
///     println!("{}: {}", item.origin.as_ref().unwrap().name, item.printable());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineProcBuffer {
    lines: LineBuffer,
    data: Queue,
    control: Queue,
    inbox: Mutex<Inbox>,
    /// How many want the inbox for a moment: who receives over and over lets them in.
    wanting: AtomicUsize,
    voice: Mutex<Voice>,
    is_stopped: AtomicBool,
    /// `force_stop` was called: nobody is waited for.
    is_forced: AtomicBool,
    generation: u64,
    line_cap: usize,
}

#[derive(Debug)]
struct Inbox {
    reader: Reader,
    workers: Workers,
    /// When the workers' lives were looked at last.
    looked: Instant,
}

/// What the parent says to its mirrors.
#[derive(Debug)]
struct Voice {
    writer: Writer,
    round: u32,
    last_token: u32,
}

impl LineProcBuffer {
    /// A buffer for the last `maxlen` items, for this process and the children it forks.
    ///
    /// # Errors
    ///
    /// As [`LineProcBufferOptions::build`].
    pub fn new(maxlen: usize) -> Result<Self> {
        Self::options().maxlen(maxlen).build()
    }

    /// All choices.
    pub fn options() -> LineProcBufferOptions {
        LineProcBufferOptions::default()
    }

    pub(super) fn make(lines: LineBuffer, data: Queue, control: Queue, line_cap: usize) -> Result<Self> {
        let mut voice = control.writer("parent")?;
        voice.append_pod(GO, &1u32, Wait::Forever)?;
        Ok(LineProcBuffer {
            inbox: Mutex::new(Inbox {
                reader: data.reader()?,
                workers: Workers::new(lines.clone(), data.clone()),
                looked: Instant::now(),
            }),
            wanting: AtomicUsize::new(0),
            voice: Mutex::new(Voice {
                writer: voice,
                round: 1,
                last_token: 0,
            }),
            is_stopped: AtomicBool::new(false),
            is_forced: AtomicBool::new(false),
            lines,
            data,
            control,
            generation: fork::generation(),
            line_cap,
        })
    }

    /// A mirror for a worker, to be used after a fork or in a thread. [`wait`](LineProcBuffer::wait) waits for each mirror given out here.
    /// A name longer than 64 bytes is cut.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn mirror(&self, name: &str) -> Result<LineProcMirror> {
        self.check()?;
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        voice.last_token += 1;
        let (token, round) = (voice.last_token, voice.round);
        drop(voice);
        let (data, control) = (self.data.clone(), self.control.clone());
        let mirror = LineProcMirror::new(data, control, name, token, Some(round), self.line_cap);
        self.inbox().workers.expect(token, mirror.life());
        Ok(mirror)
    }

    /// Says that process `pid`, a child of this one, is a worker: [`wait`](LineProcBuffer::wait) waits for it also before it writes, and if it
    /// fails or is killed before, that is noted.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn watch(&self, pid: u32) -> Result<()> {
        self.check()?;
        self.inbox().workers.watch(pid);
        Ok(())
    }

    /// Takes one message of a worker, or as many as there are once one has come. Returns whether workers are still at work.
    ///
    /// # Errors
    ///
    /// [`LineError::Closed`], [`LineError::Forked`], [`LineError::Queue`].
    pub fn receive(&self, wait: impl Into<Wait>) -> Result<bool> {
        self.check()?;
        let deadline = Deadline::of(wait.into());
        loop {
            self.give_way();
            let before = self.lines.next_seq()?;
            let Some(mut inbox) = self.try_inbox() else {
                // Another thread receives: what it gets is in the buffer.
                if self.lines.wait_for(before, Wait::For(deadline.cap(LOOK)))? || deadline.has_passed() {
                    return self.is_at_work();
                }
                continue;
            };
            let taken = inbox.take(deadline.cap(LOOK))?;
            if taken > 0 || deadline.has_passed() || !inbox.workers.are_at_work() {
                return Ok(inbox.workers.are_at_work() && !self.is_forced.load(Ordering::Acquire));
            }
        }
    }

    /// Receives until all workers are done: each mirror was closed, dropped or lost. `false`: not in time. With no mirrors given out and none
    /// in use it returns at once.
    ///
    /// A mirror that was given out and never used is waited for until it is dropped in this process (drop it after forking, as one closes
    /// the writing end of a pipe) and this process has no children left that run.
    ///
    /// # Errors
    ///
    /// As [`receive`](LineProcBuffer::receive).
    pub fn wait(&self, wait: impl Into<Wait>) -> Result<bool> {
        let deadline = Deadline::of(wait.into());
        loop {
            // What is there is taken in any case.
            if !self.receive(deadline.cap(LOOK))? {
                self.receive(Wait::Never)?;
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
        }
    }

    /// Whether a mirror is in use or was given out and is expected to be used, as far as is known without waiting.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn is_at_work(&self) -> Result<bool> {
        self.check()?;
        Ok(!self.is_forced.load(Ordering::Acquire) && self.inbox().workers.are_at_work())
    }

    /// How many mirrors are in use.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn mirrors_at_work(&self) -> Result<usize> {
        self.check()?;
        Ok(self.inbox().workers.at_work())
    }

    /// Tells all mirrors to stop, as [`stop_all_mirrors`](Lines::stop_all_mirrors) does, and waits for none: [`wait`](LineProcBuffer::wait)
    /// returns, and [`reset_states`](Lines::reset_states) is allowed.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`], [`LineError::Queue`].
    pub fn force_stop(&self) -> Result<()> {
        self.stop_all_mirrors()?;
        self.is_forced.store(true, Ordering::Release);
        Ok(())
    }

    /// The last `n` items, oldest first; `None` for all. Unfinished lines as far as workers have sent them come last, are marked
    /// [unfinished](super::Line::is_unfinished), and count.
    ///
    /// # Errors
    ///
    /// As [`receive`](LineProcBuffer::receive).
    pub fn read(&self, n: impl Into<Option<usize>>) -> Result<Vec<LineItem>> {
        self.catch_up()?;
        self.lines.read(n)
    }

    /// How many items [`read`](LineProcBuffer::read) gives.
    ///
    /// # Errors
    ///
    /// As [`receive`](LineProcBuffer::receive).
    pub fn len(&self) -> Result<usize> {
        self.catch_up()?;
        self.lines.len()
    }

    /// Whether there is nothing to read.
    ///
    /// # Errors
    ///
    /// As [`receive`](LineProcBuffer::receive).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The finished items that are there and those that come; see [`Lines::follow_from`].
    pub fn follow(&self, wait: impl Into<Wait>) -> Follow<'_> {
        self.follow_from(0, wait.into())
    }

    /// The line buffer that everything goes to: to serve it elsewhere, or to write to it from here.
    pub fn lines(&self) -> &LineBuffer {
        &self.lines
    }

    /// The queue in between: to see its members and how full it is.
    pub fn queue(&self) -> &Queue {
        &self.data
    }

    /// Counts.
    ///
    /// # Errors
    ///
    /// As [`receive`](LineProcBuffer::receive).
    pub fn stats(&self) -> Result<LineStats> {
        self.catch_up()?;
        self.lines.stats()
    }

    /// Receives in a thread of its own until the returned guard is dropped or the buffer is closed, so that workers never wait for a parent
    /// that is busy. The guard's drop takes what is there before it returns.
    ///
    /// # Errors
    ///
    /// [`LineError::Io`] if there can be no thread.
    pub fn receive_in_background(self: &Arc<Self>) -> Result<Receiving> {
        self.check()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let run = {
            let (buffer, is_over) = (self.clone(), is_over.clone());
            move || {
                while !is_over.load(Ordering::Acquire) {
                    match buffer.take_for(LOOK) {
                        Ok(()) => {}
                        Err(_) => return,
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("syncq-lines".into())
            .spawn(run)
            .map_err(LineError::io("starting a thread"))?;
        Ok(Receiving {
            buffer: self.clone(),
            is_over,
            thread: Some(thread),
            generation: fork::generation(),
        })
    }

    fn check(&self) -> Result<()> {
        self.lines.check()
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.wanting.fetch_add(1, Ordering::Relaxed);
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanting.fetch_sub(1, Ordering::Relaxed);
        inbox
    }

    /// Lets others in who want the inbox. A mutex does not: it goes to who is quickest, and that is who just let go of it.
    fn give_way(&self) {
        while self.wanting.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn try_inbox(&self) -> Option<MutexGuard<'_, Inbox>> {
        match self.inbox.try_lock() {
            Ok(inbox) => Some(inbox),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// Takes what is there.
    fn catch_up(&self) -> Result<()> {
        self.check()?;
        if let Some(mut inbox) = self.try_inbox() {
            inbox.take(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Takes what is there, or comes for as long as `slice`.
    fn take_for(&self, slice: Duration) -> Result<()> {
        self.check()?;
        self.give_way();
        match self.try_inbox() {
            Some(mut inbox) => drop(inbox.take(slice)?),
            None => drop(self.lines.wait_for(self.lines.next_seq()?, Wait::For(slice))?),
        }
        Ok(())
    }

    fn say(&self, word: &str, next_round: bool) -> Result<()> {
        self.check()?;
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        voice.round += u32::from(next_round);
        let round = voice.round;
        voice
            .writer
            .append_pod(word, &round, Wait::For(Duration::from_secs(10)))?;
        Ok(())
    }
}

impl Inbox {
    /// Takes what is there, after waiting up to `slice` for a first message, and now and then looks whether all workers live. Returns how many
    /// messages there were.
    fn take(&mut self, slice: Duration) -> Result<usize> {
        let mut taken = 0;
        let mut wait = Wait::For(slice);
        while taken < BURST {
            // An item may be rejected, never the rest because of it.
            let Some(message) = self.reader.pop(wait)? else { break };
            self.workers.take(&message)?;
            wait = Wait::Never;
            taken += 1;
            if taken % 64 == 0 {
                self.workers.store()?;
            }
        }
        self.workers.store()?;
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let dead = self.workers.find_lost();
            // What they sent is in the queue before they are seen dead. So it is taken first.
            let end = self.data_position();
            while !dead.is_empty() {
                match self.reader.pop(Wait::Never)? {
                    Some(message) => {
                        let position = message.position();
                        self.workers.take(&message)?;
                        taken += 1;
                        if position >= end {
                            break;
                        }
                    }
                    None => break,
                }
            }
            self.workers.bury(dead)?;
        }
        Ok(taken)
    }

    fn data_position(&self) -> u64 {
        self.workers.queue().stats().position
    }
}

impl Lines for LineProcBuffer {
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>> {
        self.read(n)
    }

    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>> {
        self.catch_up()?;
        self.lines.read_since(seq, n)
    }

    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool> {
        let deadline = Deadline::of(wait);
        loop {
            self.take_for(Duration::ZERO)?;
            if self.lines.next_seq()? > seq {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            self.take_for(deadline.cap(LOOK))?;
        }
    }

    fn next_seq(&self) -> Result<u64> {
        self.catch_up()?;
        self.lines.next_seq()
    }

    fn clear(&self) -> Result<()> {
        self.catch_up()?;
        self.lines.clear()
    }

    fn maxlen(&self) -> usize {
        self.lines.maxlen()
    }

    /// A stopped mirror may still send its last words: warnings, errors, its unfinished line, its end.
    fn stop_all_mirrors(&self) -> Result<()> {
        self.say(STOP, false)?;
        self.is_stopped.store(true, Ordering::Release);
        Ok(())
    }

    /// Begins a new round: mirrors given out before are [`LineError::Outdated`], and what they may have sent is not stored any more.
    fn reset_states(&self) -> Result<()> {
        self.catch_up()?;
        let mut inbox = self.inbox();
        let count = inbox.workers.at_work();
        if count > 0 && !self.is_forced.load(Ordering::Acquire) {
            return Err(LineError::MirrorsAtWork { count });
        }
        self.say(GO, true)?;
        inbox.workers.next_round();
        self.is_forced.store(false, Ordering::Release);
        self.is_stopped.store(false, Ordering::Release);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}

impl<'b> IntoIterator for &'b LineProcBuffer {
    type Item = Result<LineItem>;
    type IntoIter = Follow<'b>;

    /// The finished items that are there.
    fn into_iter(self) -> Follow<'b> {
        self.follow(Wait::Never)
    }
}

impl Drop for LineProcBuffer {
    fn drop(&mut self) {
        // A child's copy has no say, and names may be taken by others since.
        if self.generation == fork::generation() && self.data.path().is_some() {
            let _ = self.data.unlink();
            let _ = self.control.unlink();
        }
    }
}

/// A thread that receives for a [`LineProcBuffer`], until this is dropped.
#[derive(Debug)]
#[must_use = "receiving ends when this is dropped"]
pub struct Receiving {
    buffer: Arc<LineProcBuffer>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    generation: u64,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // A forked child has not got the thread.
        if let Some(thread) = self.thread.take().filter(|_| self.generation == fork::generation()) {
            let _ = thread.join();
            let _ = self.buffer.catch_up();
        }
    }
}
