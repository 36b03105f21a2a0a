//! The worker's side of a `LineProcBuffer`: what is written here arrives at the parent.
//!
//! Not here: what the parent makes of it (`proc.rs`).

use super::desk::{Begun, Desk, Gathered, Seat, State};
use super::error::{LineError, Result};
use super::frame::{self, Head, kind};
use super::item::{GroupedMessage, Record, Stream};
use super::mirror::{Mirror, impl_write};
use super::pending::{Pending, thread_lane};
use crate::error::Error;
use crate::sys::fork::PerProcess;
use crate::{Queue, Start, Wait};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// What happens to what a worker writes when the parent is behind and the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The write waits this long for room. Then it fails with [`Error::Full`], and has taken nothing.
    Wait(Wait),
    /// The lines are dropped and counted. As soon as there is room again, the parent gets an item that says how many.
    Drop,
}

/// How many bytes of text go into one message at most, as a part of the queue's capacity.
pub(crate) const PARTS: u64 = 8;

/// More threads than this do not have a pending line each; the oldest then ends where it is.
const MAX_LANES: usize = 1024;

/// Longest name of a mirror, as that of a member of a queue.
const MAX_NAME: usize = 64;

/// Where a worker writes, for the parent's [`LineProcBuffer`](super::LineProcBuffer).
///
/// Got from [`LineProcBuffer::mirror`](super::LineProcBuffer::mirror) before a fork, or [opened](LineProcMirror::open) by name. It takes its
/// place on the queue at the first use in a process; a forked child takes a place of its own. Several threads may share one: their lines never
/// glue or tear.
///
/// # When lines arrive
///
/// Each write sends the lines that it completes, in one message: when it has returned, they are in shared memory and arrive, whatever
/// happens to this process. The unfinished rest is kept here, and sent ahead by [`flush`](Mirror::flush), or by each write if the mirror is
/// [aggressive](LineProcMirror::aggressive); the parent shows it as unfinished and puts the rest to it. A [delay](LineProcMirror::delay) lets lines
/// gather here first.
///
/// # End
///
/// Dropping or closing it says so to the parent. A worker that ends otherwise is noticed and shown as lost.
#[derive(Debug)]
pub struct LineProcMirror {
    data: Queue,
    control: Queue,
    name: String,
    token: u32,
    /// `None`: the one that runs when it joins.
    round: Option<u32>,
    line_cap: usize,
    piece: usize,
    when_full: WhenFull,
    is_aggressive: bool,
    delay: Duration,
    desk: PerProcess<Arc<Desk>>,
    /// Tells the buffer, in the process that made both, that this one may still be used.
    alive: Arc<()>,
}

impl LineProcMirror {
    pub(crate) fn new(
        data: Queue,
        control: Queue,
        name: &str,
        token: u32,
        round: Option<u32>,
        line_cap: usize,
    ) -> Self {
        let piece = (data.capacity() / PARTS) as usize;
        LineProcMirror {
            name: name[..super::item::floor_char(name.as_bytes(), MAX_NAME)].to_owned(),
            data,
            control,
            token,
            round,
            line_cap: line_cap.min(piece),
            piece,
            when_full: WhenFull::Wait(Wait::For(Duration::from_secs(10))),
            is_aggressive: false,
            delay: Duration::ZERO,
            desk: PerProcess::new(),
            alive: Arc::new(()),
        }
    }

    pub(crate) fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// Opens the buffer that was made under `queue` as a mirror called `name`, from any program.
    ///
    /// # Errors
    ///
    /// [`LineError::Queue`] with what [`Queue::open`] says.
    pub fn open(queue: &str, name: &str) -> Result<Self> {
        let (data, control) = (Queue::open(queue)?, Queue::open(&control_name(queue))?);
        Ok(Self::new(data, control, name, 0, None, super::proc_options::LINE_CAP))
    }

    /// Sends each write at once, also unfinished lines. Default: no.
    pub fn aggressive(mut self, yes: bool) -> Self {
        self.is_aggressive = yes;
        self
    }

    /// What happens when the parent is behind. Default: a write waits 10 s for room.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Lets whole lines gather here for at most this long, or until they fill a message, before they are sent: fewer messages, but lines that
    /// are still here when the worker is killed are gone. [`flush`](Mirror::flush), warnings, errors and closing send them. Default: no time.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Cuts lines after this many bytes; at most an eighth of the queue's capacity. Default: what the buffer says, or 64 KiB.
    pub fn line_cap(mut self, bytes: usize) -> Self {
        self.line_cap = bytes.clamp(64, self.piece);
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes text or bytes. Returns how many bytes that were: all.
    ///
    /// # Errors
    ///
    /// As [`write_bytes`](Mirror::write_bytes).
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.write_bytes(Stream::Text, text.as_ref())?;
        Ok(text.as_ref().len())
    }

    /// The pending text of this thread.
    pub fn read(&self) -> String {
        let state = self.lock();
        let lane = thread_lane();
        let begun = state.lanes.iter().find(|begun| begun.lane == lane);
        begun.map_or_else(String::new, |begun| {
            String::from_utf8_lossy(begun.pending.bytes()).into_owned()
        })
    }

    /// Drops the pending text of this thread.
    pub fn clear(&self) {
        let lane = thread_lane();
        self.lock().lanes.retain(|begun| begun.lane != lane);
    }

    /// Runs `body`, and closes the mirror: with the error item first if `body` returns an error or panics. The error is returned, the
    /// panic goes on. What the original does at the end of its `with`.
    ///
    /// # Errors
    ///
    /// That of `body`; its own are left out in favour of it.
    pub fn run<T, E: std::fmt::Display>(&self, body: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(self)));
        // The last words are sent as well as they can be; what happened to the user matters more than what happens to them.
        let _ = match &outcome {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => self.send_error(error),
            Err(payload) => self.send(&GroupedMessage::of_panic(&**payload)),
        };
        let _ = self.close();
        outcome.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }

    fn desk(&self) -> &Arc<Desk> {
        self.desk.get_or_make(|| {
            Arc::new(Desk {
                state: Mutex::new(State {
                    seat: None,
                    lanes: Vec::new(),
                    seq: 0,
                    frame: Vec::new(),
                    gathered: Gathered::default(),
                    is_closed: false,
                }),
                gathering: Condvar::new(),
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.desk().state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks, and joins if need be.
    fn open_desk(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(LineError::Closed);
        }
        if state.seat.is_none() {
            let wait = match self.when_full {
                WhenFull::Wait(wait) => wait,
                WhenFull::Drop => Wait::For(Duration::from_secs(1)),
            };
            let control = self.control.joining().start(Start::Oldest).observer()?;
            let writer = self.data.joining().sender(&self.name).wait(wait).writer()?;
            let mut seat = Seat {
                writer,
                control,
                is_stopped: false,
                round: 0,
                mine: 0,
            };
            seat.look();
            seat.mine = self.round.unwrap_or(seat.round);
            let mut hello = Vec::new();
            self.head(&seat, 0, 0, Stream::Text).begin(&mut hello);
            hello.extend_from_slice(&std::process::id().to_le_bytes());
            seat.writer.append(kind::OPEN, &hello, wait)?;
            state.seat = Some(seat);
        }
        Ok(state)
    }

    fn head(&self, seat: &Seat, seq: u64, lane: u64, stream: Stream) -> Head {
        Head {
            round: seat.mine,
            token: self.token,
            seq,
            lane: lane as u32,
            stream,
        }
    }

    /// As much as goes into one message.
    fn write_piece(&self, state: &mut State, stream: Stream, piece: &[u8]) -> Result<()> {
        let State {
            seat,
            lanes,
            seq,
            frame,
            gathered,
            ..
        } = state;
        let seat = seat.as_mut().expect("joined before");
        seat.check()?;
        let lane = thread_lane();
        let at = match lanes.iter().position(|begun| begun.lane == lane) {
            Some(at) => at,
            None => {
                if lanes.len() >= MAX_LANES {
                    // Of a thread that has left it unfinished, most likely.
                    self.send_gathered(seat, gathered)?;
                    self.end_line(seat, &mut lanes[0], seq, frame)?;
                    lanes.remove(0);
                }
                lanes.push(Begun {
                    lane,
                    stream,
                    pending: Pending::default(),
                });
                lanes.len() - 1
            }
        };
        let begun = &mut lanes[at];
        if begun.pending.is_empty() {
            begun.stream = stream;
        }
        let stream = begun.stream;
        let before = begun.pending.clone();
        self.head(seat, *seq, lane, stream).begin(frame);
        let mut count = 0;
        begun.pending.feed(piece, self.line_cap, |head, tail, cut| {
            frame::put_line(frame, head, tail, cut);
            count += 1;
        });
        let gathers = !self.delay.is_zero() && !self.is_aggressive;
        let sent = match count {
            0 => Ok(()),
            _ if gathers => self.gather(seat, gathered, frame, count, lane, stream),
            _ => self.append(seat, kind::LINE, frame),
        };
        match sent {
            Ok(()) => *seq += count,
            Err(error) if self.is_to_drop(&error) => *seq += count,
            Err(error) => {
                begun.pending = before;
                return Err(error);
            }
        }
        if self.is_aggressive && begun.pending.has_ahead() {
            // What cannot go ahead goes later.
            let _ = self.send_ahead(seat, begun, *seq, frame);
        }
        if begun.pending.is_idle() && lanes.len() > 1 {
            lanes.remove(at);
        }
        Ok(())
    }

    /// Sends what is there of an unfinished line.
    fn send_ahead(&self, seat: &mut Seat, begun: &mut Begun, seq: u64, frame: &mut Vec<u8>) -> Result<()> {
        self.head(seat, seq, begun.lane, begun.stream).begin(frame);
        let ahead = begun.pending.take_ahead();
        frame.extend_from_slice(&ahead);
        let sent = self.append(seat, kind::PART, frame);
        if sent.is_err() {
            begun.pending.put_back(&ahead);
        }
        sent
    }

    fn is_to_drop(&self, error: &LineError) -> bool {
        self.when_full == WhenFull::Drop && matches!(error, LineError::Queue(Error::Full(_) | Error::Busy { .. }))
    }

    fn append(&self, seat: &mut Seat, kind: &str, frame: &[u8]) -> Result<()> {
        let wait = match self.when_full {
            WhenFull::Wait(wait) => wait,
            WhenFull::Drop => Wait::Never,
        };
        seat.writer.append(kind, frame, wait)?;
        Ok(())
    }

    /// Puts lines with those that are gathered, after sending them if they do not go together.
    fn gather(
        &self,
        seat: &mut Seat,
        gathered: &mut Gathered,
        frame: &[u8],
        count: u64,
        lane: u64,
        stream: Stream,
    ) -> Result<()> {
        let is_full = gathered.frame.len() + frame.len() > self.piece / 2;
        // The flusher looks at the clock; only where there can be none, each line does.
        let is_old = !gathered.has_flusher && gathered.since.is_some_and(|since| since.elapsed() >= self.delay);
        if gathered.items > 0 && (is_full || is_old || gathered.lane != lane || gathered.stream != stream) {
            self.send_gathered(seat, gathered)?;
        }
        if gathered.items == 0 {
            gathered.frame.extend_from_slice(frame);
            (gathered.lane, gathered.stream) = (lane, stream);
            gathered.since = Some(std::time::Instant::now());
            self.see_to_flusher(gathered);
            self.desk().gathering.notify_one();
        } else {
            gathered.frame.extend_from_slice(&frame[frame::HEAD..]);
        }
        gathered.items += count;
        Ok(())
    }

    fn send_gathered(&self, seat: &mut Seat, gathered: &mut Gathered) -> Result<()> {
        if gathered.items == 0 {
            return Ok(());
        }
        match self.append(seat, kind::LINE, &gathered.frame) {
            Err(error) if !self.is_to_drop(&error) => return Err(error),
            // Dropped: the next message's number says how many.
            _ => {}
        }
        gathered.frame.clear();
        (gathered.items, gathered.since) = (0, None);
        Ok(())
    }

    /// Starts the thread that sends what has gathered long enough, once in a process.
    fn see_to_flusher(&self, gathered: &mut Gathered) {
        if gathered.has_flusher {
            return;
        }
        let (desk, delay) = (self.desk().clone(), self.delay);
        let run = move || {
            let mut state = desk.state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.is_closed {
                let left = match state.gathered.since {
                    None => Duration::from_secs(3600),
                    Some(since) => delay.saturating_sub(since.elapsed()),
                };
                if left.is_zero() {
                    let State { seat, gathered, .. } = &mut *state;
                    if let Some(seat) = seat {
                        // Without waiting, since the lock is held: what does not go now goes after another delay, or with the next line.
                        match seat.writer.append(kind::LINE, &gathered.frame, Wait::Never) {
                            Ok(_) => {
                                gathered.frame.clear();
                                (gathered.items, gathered.since) = (0, None);
                            }
                            Err(_) => gathered.since = Some(std::time::Instant::now()),
                        }
                    }
                    continue;
                }
                state = desk
                    .gathering
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        };
        // Without the thread, lines go with later ones, with a flush, or at the end.
        gathered.has_flusher = std::thread::Builder::new()
            .name("syncq-lines".into())
            .spawn(run)
            .is_ok();
    }

    /// Ends pending lines, and sends one message behind them.
    fn send_message(&self, state: &mut State, kind: &str, of: Of<'_>) -> Result<()> {
        let State {
            seat,
            lanes,
            seq,
            frame,
            gathered,
            ..
        } = state;
        let seat = seat.as_mut().expect("joined before");
        self.send_gathered(seat, gathered)?;
        let mine = thread_lane();
        let ends = |begun: &Begun| match of {
            Of::Eof => true,
            Of::Group(_) => begun.lane == mine,
            Of::Record(_) => false,
        };
        for begun in lanes.iter_mut().filter(|begun| ends(begun)) {
            self.end_line(seat, begun, seq, frame)?;
        }
        lanes.retain(|begun| !begun.pending.is_idle());
        self.head(seat, *seq, mine, Stream::Text).begin(frame);
        match of {
            Of::Eof => return self.append(seat, kind, frame),
            Of::Group(message) => {
                let mut message = message.clone();
                message.cap(self.line_cap);
                frame::put_group(frame, &message);
            }
            Of::Record(record) if record.size() > self.line_cap => {
                let mut record = record.clone();
                record.cap(self.line_cap);
                frame::put_record(frame, &record);
            }
            Of::Record(record) => frame::put_record(frame, record),
        }
        match self.append(seat, kind, frame) {
            Err(error) if !self.is_to_drop(&error) => Err(error),
            _ => {
                *seq += 1;
                Ok(())
            }
        }
    }

    fn end_line(&self, seat: &mut Seat, begun: &mut Begun, seq: &mut u64, frame: &mut Vec<u8>) -> Result<()> {
        self.head(seat, *seq, begun.lane, begun.stream).begin(frame);
        let (mut count, before) = (0, begun.pending.clone());
        begun.pending.end(|head, tail, cut| {
            frame::put_line(frame, head, tail, cut);
            count += 1;
        });
        if count == 0 {
            return Ok(());
        }
        match self.append(seat, kind::LINE, frame) {
            Err(error) if !self.is_to_drop(&error) => {
                begun.pending = before;
                Err(error)
            }
            _ => {
                *seq += count;
                Ok(())
            }
        }
    }
}

/// What a message is about, beside lines.
#[derive(Clone, Copy)]
enum Of<'m> {
    Group(&'m GroupedMessage),
    Record(&'m Record),
    Eof,
}

pub(crate) fn control_name(queue: &str) -> String {
    format!("{queue}.control")
}

impl Mirror for LineProcMirror {
    /// What is longer than an eighth of the queue's capacity goes in several messages; if one of them fails, those before are sent.
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let mut state = self.open_desk()?;
        if bytes.is_empty() {
            return state.seat.as_mut().expect("joined").check();
        }
        bytes
            .chunks(self.piece)
            .try_for_each(|piece| self.write_piece(&mut state, stream, piece))
    }

    fn new_line(&self) -> Result<()> {
        let mut state = self.open_desk()?;
        let lane = thread_lane();
        let State {
            seat,
            lanes,
            seq,
            frame,
            gathered,
            ..
        } = &mut *state;
        let seat = seat.as_mut().expect("joined");
        seat.check()?;
        self.send_gathered(seat, gathered)?;
        match lanes.iter_mut().find(|begun| begun.lane == lane) {
            Some(begun) => self.end_line(seat, begun, seq, frame),
            None => Ok(()),
        }
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.open_desk()?;
        let State {
            seat,
            lanes,
            seq,
            frame,
            gathered,
            ..
        } = &mut *state;
        let seat = seat.as_mut().expect("joined");
        self.send_gathered(seat, gathered)?;
        let lane = thread_lane();
        match lanes.iter_mut().find(|begun| begun.lane == lane) {
            Some(begun) if begun.pending.has_ahead() => self.send_ahead(seat, begun, *seq, frame),
            _ => Ok(()),
        }
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        let mut state = self.open_desk()?;
        self.send_message(&mut state, kind::GROUP, Of::Group(message))
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        let mut state = self.open_desk()?;
        self.send_message(&mut state, kind::RECORD, Of::Record(record))
    }

    fn send_eof(&self) -> Result<()> {
        let mut state = self.open_desk()?;
        self.send_message(&mut state, kind::CLOSE, Of::Eof)
    }

    /// A mirror that was never used in this process says nothing: it may be another process's to use.
    fn close(&self) -> Result<()> {
        let mut state = self.lock();
        if state.is_closed {
            return Ok(());
        }
        let sent = match state.seat {
            Some(_) => self.send_message(&mut state, kind::CLOSE, Of::Eof),
            None => Ok(()),
        };
        state.is_closed = true;
        state.lanes.clear();
        state.gathered = Gathered::default();
        state.seat = None;
        self.desk().gathering.notify_all();
        sent
    }
}

impl Drop for LineProcMirror {
    fn drop(&mut self) {
        if self.desk.get().is_some() {
            // Nobody is left to tell. The parent sees that the member has left, and that its close is missing.
            let _ = self.close();
        }
    }
}

impl_write!(LineProcMirror);
