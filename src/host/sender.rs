//! The thread of a mirror that sends: one post at a time, numbered, and again until it has arrived.
//!
//! Not here: what is written to the mirror (`mirror.rs`).

use super::client::{Client, Failure, ask_state};
use super::mirror::State;
use super::spool::Entry;
use super::wire::{Event, Extra, micros, stream_number, write_post};
use crate::line::GroupedMessage;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause once the mirror is being closed: somebody waits.
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// How often the state is asked for while nothing is written.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// How often it is asked for between posts to the original, whose answers do not tell it.
const BUSY_CHECK: Duration = Duration::from_millis(100);

/// Between the threads that write and the one that sends.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) state: Mutex<State>,
    /// There is something to do for the sender.
    pub(super) work: Condvar,
    /// Something was done.
    pub(super) done: Condvar,
}

impl Way {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Sender {
    client: Client,
    way: Arc<Way>,
    id: u128,
    name: String,
    seq: u64,
    /// Whether the service is ours; `None` until it has answered once.
    is_ours: Option<bool>,
    checked: Option<Instant>,
    pause: Duration,
}

#[derive(Deserialize)]
struct PostReply {
    #[serde(default)]
    closed: bool,
    #[serde(default)]
    syncq: u8,
}

/// What became of a post.
enum Fate {
    Arrived,
    /// It will never be taken.
    Refused,
    /// It is too large for one post.
    TooLarge(Box<Entry>, u64),
    /// The mirror is given up.
    GivenUp,
}

impl Sender {
    pub(super) fn new(client: Client, way: Arc<Way>, id: u128, name: String) -> Self {
        Sender {
            client,
            way,
            id,
            name,
            seq: 0,
            is_ours: None,
            checked: None,
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn run(mut self) {
        // What the HTTP library logs is not to come back as lines to be sent.
        let _quiet = crate::line::quiet();
        while let Some((entry, dropped)) = self.next() {
            let fate = self.deliver(entry, dropped);
            let mut state = self.way.lock();
            let lines = std::mem::take(&mut state.in_hand);
            match fate {
                Fate::Arrived => state.report.sent += lines,
                Fate::Refused => {
                    state.report.dropped += lines;
                    state.spool.note_dropped(lines);
                }
                Fate::TooLarge(entry, dropped) => {
                    state.spool.note_dropped(dropped);
                    if let Err(entry) = state.spool.push_halves(*entry) {
                        state.report.dropped += entry.lines;
                        state.spool.note_dropped(entry.lines);
                    }
                }
                Fate::GivenUp => {
                    state.in_hand = lines;
                    drop(state);
                    break;
                }
            }
            drop(state);
            self.way.done.notify_all();
        }
        self.way.lock().is_over = true;
        self.way.done.notify_all();
    }

    /// What is to be sent next. `None`: the end.
    fn next(&mut self) -> Option<(Entry, u64)> {
        loop {
            let mut state = self.way.lock();
            loop {
                if state.is_given_up {
                    return None;
                }
                if let Some((entry, dropped)) = state.spool.take() {
                    state.in_hand = entry.lines;
                    return Some((entry, dropped));
                }
                if state.is_ending {
                    return None;
                }
                let due = if state.is_away {
                    self.pause.max(IDLE_CHECK)
                } else {
                    IDLE_CHECK
                };
                let (again, timeout) = self
                    .way
                    .work
                    .wait_timeout(state, due)
                    .unwrap_or_else(PoisonError::into_inner);
                state = again;
                if timeout.timed_out() && state.spool.is_empty() && !state.is_ending {
                    break;
                }
            }
            drop(state);
            if self.check().is_err() {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Asks whether the mirrors are to stop, and at first whose service it is.
    fn check(&mut self) -> Result<(), Failure> {
        let answer = ask_state(&self.client, "closed");
        self.checked = Some(Instant::now());
        let mut state = self.way.lock();
        state.is_away = answer.is_err();
        match answer {
            Ok(reply) => {
                state.is_stopped = reply.data == serde_json::Value::Bool(true);
                self.is_ours = Some(reply.is_ours());
                self.pause = FIRST_PAUSE;
                Ok(())
            }
            Err(failure) => {
                state.report.last_error = Some(failure.words());
                self.way.done.notify_all();
                Err(failure)
            }
        }
    }

    /// Posts until it has arrived, or is refused for good.
    fn deliver(&mut self, entry: Entry, dropped: u64) -> Fate {
        self.seq += 1;
        let mut posts = Vec::with_capacity(1);
        loop {
            let outcome = match self.is_ours {
                None => self.check(),
                Some(false) if self.checked.is_none_or(|at| at.elapsed() > BUSY_CHECK) => self.check(),
                _ => Ok(()),
            };
            let outcome = outcome.and_then(|()| {
                if posts.is_empty() {
                    posts = self.posts(&entry, dropped);
                }
                while let Some(post) = posts.last() {
                    self.post(post)?;
                    posts.pop();
                }
                Ok(())
            });
            let Err(failure) = outcome else {
                self.pause = FIRST_PAUSE;
                return Fate::Arrived;
            };
            let way = self.way.clone();
            let mut state = way.lock();
            state.report.last_error = Some(failure.words());
            match failure {
                Failure::Refused(413, _) => return Fate::TooLarge(Box::new(entry), dropped),
                Failure::Refused(400 | 415 | 431, _) => {
                    state.spool.note_dropped(dropped);
                    return Fate::Refused;
                }
                _ => {}
            }
            state.is_away = true;
            state.report.retries += 1;
            // Who waits for room waits no longer.
            self.way.done.notify_all();
            if state.is_given_up || !self.sleep(&way, state) {
                return Fate::GivenUp;
            }
            // It may be another one when it is back.
            if matches!(failure, Failure::Lost(_)) && self.is_ours == Some(false) {
                self.checked = None;
            }
        }
    }

    /// Waits before the next attempt, a random part longer so that many mirrors do not come back at once. `false`: given up.
    fn sleep<'s>(&mut self, way: &'s Way, mut state: MutexGuard<'s, State>) -> bool {
        let spread = (self.id as u32)
            .wrapping_add(self.seq as u32)
            .wrapping_mul(2_654_435_761)
            >> 24;
        let pause = self.pause + self.pause * spread / 1024;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let start = Instant::now();
        loop {
            let pause = if state.is_ending { pause.min(LAST_PAUSE) } else { pause };
            if state.is_given_up {
                return false;
            }
            let Some(left) = pause.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return true;
            };
            state = way
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The bodies for an entry, the last one first. For the original a note about what was dropped is a warning of its own.
    fn posts(&self, entry: &Entry, dropped: u64) -> Vec<Vec<u8>> {
        let is_ours = self.is_ours == Some(true);
        let extra = Extra {
            mirror: self.id,
            seq: self.seq,
            name: Cow::Borrowed(&self.name),
            pid: std::process::id(),
            time: micros(entry.time),
            stream: stream_number(entry.stream),
            lane: entry.lane,
            dropped: if is_ours { dropped } else { 0 },
            cut: entry.cut,
            record: entry.record.clone(),
        };
        let mut posts = match &entry.event {
            Event::Text(text) if entry.cut > 0 && !is_ours => {
                let line = text.strip_suffix(b"\n").unwrap_or(text);
                let noted = [line, format!(" [{} bytes cut]\n", entry.cut).as_bytes()].concat();
                vec![write_post(&Event::Text(noted), &extra)]
            }
            event => vec![write_post(event, &extra)],
        };
        if dropped > 0 && !is_ours {
            let note = GroupedMessage::warning(format_args!("{dropped} items dropped"));
            posts.push(write_post(&Event::Grouped(note), &extra));
        }
        posts
    }

    fn post(&self, body: &[u8]) -> Result<(), Failure> {
        let reply = self.client.post(self.client.address(), body)?;
        let mut state = self.way.lock();
        state.is_away = false;
        if let Ok(PostReply { closed, syncq: 1 }) = serde_json::from_slice(&reply.body) {
            state.is_stopped = closed;
        }
        Ok(())
    }
}
