//! The mirrors that write to a service: their pending lines, and which of their posts have come.
//!
//! Ours say who they are and number their posts, so a post that comes a second time, since its answer was lost, is known and not
//! stored again. The original's say nothing; they are told apart by their connection.
//!
//! Not here: how a post is read (`wire.rs`).

use super::wire::{Event, Extra, from_micros, stream_of};
use crate::line::{
    Content, Line, LineBuffer, LineBufferMirror, LineError, LineItem, Mirror, Result, Stream, split_lines,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

/// How many of our mirrors are remembered. The one that was silent longest is forgotten; if it writes again it is taken for a new
/// one.
const MOST_MIRRORS: usize = 1024;

/// How many pending lines one of our mirrors can have; threads beyond share one.
const MOST_LANES: u64 = 64;

/// Bytes of unfinished lines of our mirrors, of all together. Beyond, an unfinished line is ended where it is.
const MOST_PENDING: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Registry {
    lines: LineBuffer,
    /// The one pending line of all of the original's mirrors, where they share it.
    shared: Option<LineBufferMirror>,
    ours: HashMap<u128, Known>,
    /// Counts posts: says who was heard last.
    now: u64,
    /// Bytes of unfinished lines of our mirrors.
    pending: usize,
}

#[derive(Debug)]
struct Known {
    lanes: HashMap<u64, Lane>,
    seq: u64,
    heard: u64,
}

/// A pending line of one of our mirrors.
#[derive(Debug)]
struct Lane {
    mirror: LineBufferMirror,
    /// Bytes in it, about.
    pending: usize,
}

/// One of the original's mirrors, or rather its connection: the pending line goes with it.
#[derive(Debug)]
pub(super) struct Stranger {
    peer: SocketAddr,
    mirror: Option<LineBufferMirror>,
}

impl Stranger {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Stranger { peer, mirror: None }
    }
}

impl Registry {
    pub(super) fn new(lines: LineBuffer, shares_tails: bool) -> Self {
        Registry {
            shared: shares_tails.then(|| lines.mirror_of("", 0).one_line()),
            lines,
            ours: HashMap::new(),
            now: 0,
            pending: 0,
        }
    }

    /// A post of one of the original's mirrors.
    pub(super) fn take(&mut self, stranger: &mut Stranger, event: Event) -> Result<()> {
        let mirror = match &self.shared {
            Some(mirror) => mirror,
            None => {
                (stranger.mirror).get_or_insert_with(|| self.lines.mirror_of(&stranger.peer.to_string(), 0).one_line())
            }
        };
        match event {
            Event::Text(text) => mirror.write_at(SystemTime::now(), Stream::Text, &text),
            Event::Grouped(message) => mirror.send(&message),
            Event::Close => mirror.send_eof(),
            Event::Nothing => Ok(()),
        }
    }

    /// A post of one of our mirrors.
    pub(super) fn take_ours(&mut self, extra: Extra<'_>, event: Event) -> Result<()> {
        self.now += 1;
        if !self.ours.contains_key(&extra.mirror) && self.ours.len() >= MOST_MIRRORS {
            let silent = self.ours.iter().min_by_key(|(_, known)| known.heard).map(|(id, _)| *id);
            let forgotten = silent.and_then(|id| self.ours.remove(&id));
            self.pending -= forgotten.map_or(0, |known| known.lanes.values().map(|lane| lane.pending).sum());
        }
        let known = self.ours.entry(extra.mirror).or_insert_with(|| Known {
            lanes: HashMap::new(),
            seq: 0,
            heard: 0,
        });
        known.heard = self.now;
        if extra.seq <= known.seq {
            let repeated = match &event {
                Event::Text(text) => split_lines(text).count() as u64,
                Event::Grouped(_) => 1,
                Event::Close | Event::Nothing => 0,
            };
            return self.lines.note_repeated(repeated);
        }
        let lane = if extra.lane < MOST_LANES { extra.lane } else { 0 };
        let Lane { mirror, pending } = (known.lanes).entry(lane).or_insert_with(|| Lane {
            mirror: self.lines.mirror_of(&extra.name, extra.pid).one_line(),
            pending: 0,
        });
        let time = from_micros(extra.time);
        let item = |content| LineItem {
            seq: 0,
            time,
            origin: Some(mirror.origin().clone()),
            stream: stream_of(extra.stream),
            content,
        };
        if extra.dropped > 0 {
            self.lines.push(item(Content::Dropped(extra.dropped)))?;
        }
        let record = extra.record.map(|record| record.into_record());
        match (event, record) {
            (_, Some(Ok(record))) => self.lines.push(item(Content::Record(Box::new(record))))?,
            (Event::Text(text), _) if extra.cut > 0 && text.len() <= self.lines.line_cap() => {
                let line = split_lines(&text).next().unwrap_or_default();
                self.lines
                    .push(item(Content::Line(Line::cut_by(line.to_vec(), extra.cut, false))))?;
            }
            (Event::Text(text), _) => {
                mirror.write_at(time, stream_of(extra.stream), &text)?;
                let tail = match split_lines(&text).last() {
                    Some(tail) if text.ends_with(tail) => tail.len(),
                    _ => 0,
                };
                let before = *pending;
                *pending = if tail == text.len() { before + tail } else { tail };
                self.pending = self.pending - before + *pending;
                if self.pending > MOST_PENDING {
                    mirror.new_line()?;
                    self.pending -= std::mem::take(pending);
                }
            }
            (Event::Grouped(message), _) => {
                mirror.new_line()?;
                self.pending -= std::mem::take(pending);
                self.lines.push(item(Content::Grouped(message)))?;
            }
            (Event::Close, _) => {
                for lane in known.lanes.values_mut() {
                    lane.mirror.send_eof()?;
                    self.pending -= std::mem::take(&mut lane.pending);
                }
            }
            (Event::Nothing, _) => {}
        }
        known.seq = extra.seq;
        Ok(())
    }
}

/// What a refusal of the buffer is over HTTP.
pub(super) fn status_of(error: &LineError) -> u16 {
    match error {
        LineError::Closed => 410,
        _ => 503,
    }
}
