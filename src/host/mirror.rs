//! The side that writes, over HTTP: `LineHostMirror`.
//!
//! Writing never waits for the network: lines go into a spool, and a thread of the mirror sends them.
//!
//! Not here: that thread (`sender.rs`), the spool (`spool.rs`).

use super::client::ClientOptions;
use super::item::RecordWire;
use super::sender::{Sender, Way};
use super::spool::{Entry, Piece, Spool};
use super::wire::Event;
use crate::line::mirror::impl_write;
use crate::line::pending::{Pending, thread_lane};
use crate::line::{GroupedMessage, LineError, Mirror, Record, Result, Stream};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Choices for a [`LineHostMirror`].
#[derive(Clone)]
pub struct LineHostMirrorOptions {
    client: ClientOptions,
    name: String,
    is_aggressive: bool,
    spool: usize,
    line_cap: usize,
    patience: Duration,
    last_wait: Duration,
}

impl fmt::Debug for LineHostMirrorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineHostMirrorOptions")
            .field("timeout", &self.client.timeout)
            .field("token", &self.client.token.as_ref().map(|_| "..."))
            .field("name", &self.name)
            .field("is_aggressive", &self.is_aggressive)
            .field("spool", &self.spool)
            .field("line_cap", &self.line_cap)
            .field("patience", &self.patience)
            .field("last_wait", &self.last_wait)
            .finish()
    }
}

impl Default for LineHostMirrorOptions {
    fn default() -> Self {
        LineHostMirrorOptions {
            client: ClientOptions::DEFAULT,
            name: String::new(),
            is_aggressive: false,
            spool: 8 << 20,
            line_cap: 1 << 20,
            patience: Duration::from_secs(5),
            last_wait: Duration::from_secs(2),
        }
    }
}

impl LineHostMirrorOptions {
    /// What the mirror is called in the items it writes. Default: nothing.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sends `Authorization: Bearer TOKEN`.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.client.token = Some(token.into());
        self
    }

    /// Sends the beginning of a line too, as soon as it is written, instead of whole lines only.
    pub fn aggressive(mut self, is_aggressive: bool) -> Self {
        self.is_aggressive = is_aggressive;
        self
    }

    /// How long one request may take, before it is given up and made again. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }

    /// Bytes that wait to be sent, at most; then the oldest lines are dropped, counted, and the reader is told how many. Default: 8 MiB.
    pub fn spool(mut self, bytes: usize) -> Self {
        self.spool = bytes;
        self
    }

    /// How long a write waits for room in a full spool while the service answers, before lines are dropped. While it does not answer, no
    /// write waits. Default: 5 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Bytes of a line, at least 16; the rest is cut off, and the item says so. Default: 1 MiB.
    pub fn line_cap(mut self, bytes: usize) -> Self {
        self.line_cap = bytes;
        self
    }

    /// How long `close`, or dropping the mirror, waits for what is still to be sent. Default: 2 s.
    pub fn last_wait(mut self, wait: Duration) -> Self {
        self.last_wait = wait;
        self
    }

    /// Makes the mirror. The service need not be there yet.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`], [`LineError::Io`] where no thread can be made.
    pub fn connect(self, address: &str) -> Result<LineHostMirror> {
        let wrong = |option, why: &str| {
            Err(LineError::InvalidOption {
                option,
                why: why.into(),
            })
        };
        let client = self.client.client(address)?;
        if self.line_cap < 16 {
            return wrong("line_cap", "a line has at least 16 bytes");
        }
        if self.spool < 1024 {
            return wrong("spool", "it has room for at least 1024 bytes");
        }
        let way = Arc::new(Way {
            state: Mutex::new(State {
                lanes: HashMap::new(),
                spool: Spool::new(self.spool),
                report: HostReport::default(),
                in_hand: 0,
                is_away: false,
                is_stopped: false,
                is_closed: false,
                is_ending: false,
                is_given_up: false,
                is_over: false,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        // Unlike for all mirrors there are: random, and the standard library has no other source.
        let id = |salt: u8| u128::from(RandomState::new().hash_one((salt, std::process::id(), SystemTime::now())));
        let sender = Sender::new(client, way.clone(), id(0) << 64 | id(1), self.name.clone());
        std::thread::Builder::new()
            .name("syncq-mirror".into())
            .spawn(move || sender.run())
            .map_err(LineError::io("starting the thread of a mirror"))?;
        Ok(LineHostMirror {
            way,
            generation: fork::generation(),
            address: address.to_owned(),
            options: self,
        })
    }
}

/// What became of what a mirror wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostReport {
    /// Lines and items that arrived.
    pub sent: u64,
    /// Those that were dropped, for want of room or since the service refused them for good.
    pub dropped: u64,
    /// Those that were still to be sent when the mirror was closed.
    pub unsent: u64,
    /// Requests that were made again.
    pub retries: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines sent, {} dropped, {} not sent",
            self.sent, self.dropped, self.unsent
        )?;
        match &self.last_error {
            Some(error) => write!(f, "; last error: {error}"),
            None => Ok(()),
        }
    }
}

/// What the writing threads and the sending one share.
#[derive(Debug)]
pub(super) struct State {
    lanes: HashMap<u64, LanePending>,
    pub(super) spool: Spool,
    pub(super) report: HostReport,
    /// Lines that are being sent.
    pub(super) in_hand: u64,
    /// The service did not answer the last time.
    pub(super) is_away: bool,
    pub(super) is_stopped: bool,
    is_closed: bool,
    /// The sender is to end when all is sent.
    pub(super) is_ending: bool,
    /// The sender is to end now.
    pub(super) is_given_up: bool,
    /// The sender has ended.
    pub(super) is_over: bool,
}

/// The pending line of one thread.
#[derive(Debug, Default)]
struct LanePending {
    pending: Pending,
    /// Of what its beginning was, where that has gone ahead.
    number: u64,
}

/// Writes lines to a line service over HTTP: to a [`LineHostBuffer`](super::LineHostBuffer), or to the original's.
///
/// It is [`std::io::Write`], also through `&LineHostMirror`, and a [`Mirror`]: captures and log sinks write to it. Each thread has a pending
/// line of its own.
///
/// # When the service is away
///
/// Writing is never an error for that, and does not wait for it. Lines are kept ([`spool`](LineHostMirrorOptions::spool)) and sent when it is back,
/// in order; it is asked again after 50 ms, then after twice that, and so on up to 5 s. [`finish`](LineHostMirror::finish) says what became of them.
///
/// # Once, and in order
///
/// To a service of ours each line arrives at most once: posts have numbers, and one that comes again is known. The original knows no
/// numbers: there a post whose answer was lost is sent again, and its lines may be there twice.
///
/// # Stop
///
/// After `stop_all_mirrors` on the other side, writing is [`LineError::Stopped`], from the next answer on, or half a second later
/// if nothing is written. What was written before is sent, and so are `send_error` and the end.
///
/// # Fork
///
/// In a forked child every call is [`LineError::Forked`]: the thread that sends is the parent's. Make a mirror after the fork.
#[derive(Debug)]
pub struct LineHostMirror {
    way: Arc<Way>,
    generation: u64,
    address: String,
    options: LineHostMirrorOptions,
}

impl LineHostMirror {
    /// A mirror of the service at `address`, such as `http://127.0.0.1:5000/sync-stream`.
    ///
    /// # Errors
    ///
    /// As [`LineHostMirrorOptions::connect`].
    pub fn new(address: &str) -> Result<Self> {
        Self::options().connect(address)
    }

    /// All choices.
    pub fn options() -> LineHostMirrorOptions {
        LineHostMirrorOptions::default()
    }

    /// Takes text or bytes. Returns how many bytes that were: all.
    ///
    /// # Errors
    ///
    /// [`LineError::Stopped`], [`LineError::Closed`], [`LineError::Forked`]. Never for want of the service.
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.write_bytes(Stream::Text, text.as_ref())?;
        Ok(text.as_ref().len())
    }

    /// What became of what was written, until now.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn report(&self) -> Result<HostReport> {
        Ok(self.lock()?.report())
    }

    /// Waits until all that was written until now has arrived. `false`: not in time.
    ///
    /// # Errors
    ///
    /// [`LineError::Forked`].
    pub fn drain(&self, wait: impl Into<Wait>) -> Result<bool> {
        let deadline = Deadline::of(wait.into());
        let mut state = self.lock()?;
        let until = state.report.sent + state.report.dropped + state.in_hand + state.spool.lines();
        // Without lines of text there may still be an end to be told.
        while (state.report.sent + state.report.dropped < until || !state.is_idle()) && !state.is_over {
            if deadline.has_passed() {
                return Ok(false);
            }
            if state.report.sent + state.report.dropped >= until && until > 0 {
                return Ok(true);
            }
            state = self.wait_done(state, &deadline);
        }
        Ok(!state.is_over || state.is_idle())
    }

    /// Closes the mirror: ends its pending lines, says the end, and waits until all has arrived.
    ///
    /// # Errors
    ///
    /// [`LineError::Remote`] with the report in its words, if something did not arrive in time, or was dropped before.
    /// [`LineError::Forked`].
    pub fn finish(&self, wait: impl Into<Wait>) -> Result<HostReport> {
        let deadline = Deadline::of(wait.into());
        let mut state = self.lock()?;
        if !state.is_closed {
            self.end_lines(&mut state, |_| true);
            state.spool.push(Entry::new(Event::Close));
            state.is_closed = true;
        }
        state.is_ending = true;
        self.way.work.notify_all();
        while !state.is_over && !deadline.has_passed() {
            state = self.wait_done(state, &deadline);
        }
        state.is_given_up = true;
        self.way.work.notify_all();
        let report = state.report();
        match report.unsent + report.dropped {
            0 => Ok(report),
            _ => Err(LineError::Remote {
                doing: format!("sending lines to {}", self.address),
                why: report.to_string(),
            }),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        // Before the lock, which a forked child may have inherited locked.
        if fork::generation() != self.generation {
            return Err(LineError::Forked);
        }
        Ok(self.way.lock())
    }

    fn wait_done<'s>(&self, state: MutexGuard<'s, State>, deadline: &Deadline) -> MutexGuard<'s, State> {
        let slice = deadline.cap(Duration::from_secs(3600));
        self.way
            .done
            .wait_timeout(state, slice)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock()?;
        match state.is_closed {
            true => Err(LineError::Closed),
            false => Ok(state),
        }
    }

    fn end_lines(&self, state: &mut State, which: impl Fn(u64) -> bool) {
        let State { lanes, spool, .. } = state;
        lanes.retain(|lane, begun| {
            if which(*lane) {
                let number = begun.number;
                begun
                    .pending
                    .end(|head, tail, cut| push_line(spool, Stream::Text, number, head, tail, cut, SystemTime::now()));
            }
            !which(*lane)
        });
    }

    /// After a change: hands it to the sender, and sees to the bound.
    fn hand_over(&self, mut state: MutexGuard<'_, State>) {
        self.way.work.notify_all();
        if state.spool.is_full() && !self.options.patience.is_zero() {
            let deadline = Deadline::of(Wait::For(self.options.patience));
            while state.spool.is_full() && !state.is_away && !state.is_over && !deadline.has_passed() {
                state = self.wait_done(state, &deadline);
            }
        }
        let dropped = state.spool.shrink();
        state.report.dropped += dropped;
    }
}

fn push_line(spool: &mut Spool, stream: Stream, lane: u64, head: &[u8], tail: &[u8], cut: u64, time: SystemTime) {
    match cut {
        0 => spool.push_text(
            &Piece {
                parts: [head, tail],
                is_whole: true,
                stream,
                lane,
            },
            time,
        ),
        _ if lane > 0 => {
            // Its beginning is there already: the note can only go into the text.
            let note = [tail, format!(" [{cut} bytes cut]").as_bytes()].concat();
            spool.push_text(
                &Piece {
                    parts: [head, &note],
                    is_whole: true,
                    stream,
                    lane,
                },
                time,
            );
        }
        _ => {
            let mut entry = Entry::new(Event::Text([head, tail, b"\n"].concat()));
            (entry.stream, entry.cut, entry.time) = (stream, cut, time);
            spool.push(entry);
        }
    }
}

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.spool.is_empty() && self.in_hand == 0
    }

    fn report(&self) -> HostReport {
        HostReport {
            unsent: self.spool.lines() + self.in_hand,
            ..self.report.clone()
        }
    }

    /// A number for a pending line whose beginning goes ahead: one that no other has.
    fn free_number(&self) -> u64 {
        (1..)
            .find(|number| self.lanes.values().all(|begun| begun.number != *number))
            .unwrap_or(u64::MAX)
    }
}

impl Mirror for LineHostMirror {
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let mut state = self.open()?;
        if state.is_stopped {
            return Err(LineError::Stopped);
        }
        let (lane, time) = (thread_lane(), SystemTime::now());
        if self.options.is_aggressive && !state.lanes.contains_key(&lane) {
            let number = state.free_number();
            state.lanes.insert(
                lane,
                LanePending {
                    number,
                    ..LanePending::default()
                },
            );
        }
        let State { lanes, spool, .. } = &mut *state;
        let begun = lanes.entry(lane).or_default();
        let number = begun.number;
        begun.pending.feed(bytes, self.options.line_cap, |head, tail, cut| {
            push_line(spool, stream, number, head, tail, cut, time);
        });
        if self.options.is_aggressive {
            let ahead = begun.pending.take_ahead();
            if !ahead.is_empty() {
                spool.push_text(
                    &Piece {
                        parts: [&ahead, b""],
                        is_whole: false,
                        stream,
                        lane: number,
                    },
                    time,
                );
            }
        }
        if begun.pending.is_idle() {
            lanes.remove(&lane);
        }
        if !spool.is_empty() {
            self.hand_over(state);
        }
        Ok(())
    }

    fn new_line(&self) -> Result<()> {
        let mut state = self.open()?;
        let lane = thread_lane();
        self.end_lines(&mut state, |begun| begun == lane);
        self.hand_over(state);
        Ok(())
    }

    /// Lines are always on their way; unfinished ones stay here until they are whole, unless the mirror is aggressive.
    fn flush(&self) -> Result<()> {
        drop(self.open()?);
        Ok(())
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        let mut state = self.open()?;
        let lane = thread_lane();
        self.end_lines(&mut state, |begun| begun == lane);
        let mut message = message.clone();
        message.cap(self.options.line_cap);
        state.spool.push(Entry::new(Event::Grouped(message)));
        self.hand_over(state);
        Ok(())
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        let mut record = record.clone();
        record.cap(self.options.line_cap);
        let mut entry = Entry::new(Event::Text(format!("{record}\n").into_bytes()));
        entry.record = Some(RecordWire::of(&record));
        let mut state = self.open()?;
        state.spool.push(entry);
        self.hand_over(state);
        Ok(())
    }

    fn send_eof(&self) -> Result<()> {
        let mut state = self.open()?;
        self.end_lines(&mut state, |_| true);
        state.spool.push(Entry::new(Event::Close));
        self.hand_over(state);
        Ok(())
    }

    /// [`finish`](LineHostMirror::finish) with the [wait](LineHostMirrorOptions::last_wait) that was chosen.
    fn close(&self) -> Result<()> {
        // A statement of its own, so that the lock is let go.
        let is_closed = self.lock()?.is_closed;
        match is_closed {
            true => Ok(()),
            false => self.finish(self.options.last_wait).map(drop),
        }
    }
}

impl Drop for LineHostMirror {
    fn drop(&mut self) {
        // Whoever wants to know calls finish.
        let _ = self.close();
    }
}

impl_write!(LineHostMirror);
