//! The bounded store below every line buffer: items, pending lines, counts.
//!
//! Not here: locks, waiting and closing (`buffer.rs`).

use super::item::{Content, Line, LineItem, Origin, Stream};
use super::pending::Pending;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

/// More lines than this are not kept pending; the oldest then ends where it is.
const MAX_PENDING: usize = 4096;

/// Who writes: a mirror of the buffer and a lane of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) mirror: u64,
    pub(crate) lane: u64,
}

/// What an item carries beside its content.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) time: SystemTime,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) stream: Stream,
}

/// How much of what a buffer has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LineStats {
    /// Items ever stored: the number that the next one gets.
    pub stored: u64,
    /// Items there now, without unfinished lines.
    pub kept: usize,
    /// Bytes of their text.
    pub bytes: usize,
    /// Items that made room for newer ones.
    pub rotated: u64,
    /// Items that were dropped on their way here, as far as it is known.
    pub dropped: u64,
    /// Items that arrived a second time and were not stored again.
    pub repeated: u64,
    /// Lines of which the end was cut off.
    pub cut: u64,
    /// Workers that were lost.
    pub lost: u64,
}

/// A line that has begun, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    lane: Lane,
    label: Label,
    pending: Pending,
}

#[derive(Debug)]
pub(crate) struct Store {
    maxlen: usize,
    max_bytes: usize,
    line_cap: usize,
    items: VecDeque<LineItem>,
    begun: Vec<Begun>,
    pub(crate) stats: LineStats,
}

impl Store {
    pub(crate) fn new(maxlen: usize, max_bytes: usize, line_cap: usize) -> Self {
        Store {
            maxlen,
            max_bytes,
            line_cap,
            items: VecDeque::with_capacity(maxlen.min(1024)),
            begun: Vec::new(),
            stats: LineStats::default(),
        }
    }

    /// Takes bytes of one lane. The lines that are complete with them go to `out`, to be stored.
    pub(crate) fn write(&mut self, lane: Lane, label: &Label, text: &[u8], out: &mut Vec<LineItem>) {
        let cap = self.line_cap;
        self.change(lane, label, out, |pending, out| {
            pending.feed(text, cap, |head, tail, cut| {
                out.push(item_of(label, head, tail, cut, false));
            });
        });
    }

    /// Puts a piece without breaks to the pending line of a lane.
    pub(crate) fn put(&mut self, lane: Lane, label: &Label, piece: &[u8], cut: u64, out: &mut Vec<LineItem>) {
        let cap = self.line_cap;
        self.change(lane, label, out, |pending, _| pending.put(piece, cut, cap));
    }

    fn change(
        &mut self,
        lane: Lane,
        label: &Label,
        out: &mut Vec<LineItem>,
        change: impl FnOnce(&mut Pending, &mut Vec<LineItem>),
    ) {
        let at = self.begun.iter().position(|begun| begun.lane == lane);
        let mut begun = match at {
            Some(at) => std::mem::take(&mut self.begun[at].pending),
            None => Pending::default(),
        };
        change(&mut begun, out);
        match at {
            Some(at) if begun.is_idle() => drop(self.begun.remove(at)),
            Some(at) => {
                if self.begun[at].pending.is_empty() {
                    self.begun[at].label = label.clone();
                }
                self.begun[at].pending = begun;
            }
            None if begun.is_idle() => {}
            None => {
                self.begun.push(Begun {
                    lane,
                    label: label.clone(),
                    pending: begun,
                });
                if self.begun.len() > MAX_PENDING {
                    let mut oldest = self.begun.remove(0);
                    end_one(&mut oldest, true, out);
                }
            }
        }
    }

    /// Ends the pending lines for which `which` is true. `is_unfinished` for those whose writer is gone.
    pub(crate) fn end_lines(&mut self, which: impl Fn(Lane) -> bool, is_unfinished: bool, out: &mut Vec<LineItem>) {
        for begun in self.begun.iter_mut().filter(|begun| which(begun.lane)) {
            end_one(begun, is_unfinished, out);
        }
        self.begun.retain(|begun| !begun.pending.is_idle());
    }

    /// The lines that have begun, to go back to them.
    pub(crate) fn begun(&self) -> Vec<Begun> {
        self.begun.clone()
    }

    /// Goes back to lines that had begun.
    pub(crate) fn set_begun(&mut self, begun: Vec<Begun>) {
        self.begun = begun;
    }

    /// Stores an item, as the next in number.
    pub(crate) fn push(&mut self, mut item: LineItem) {
        match &mut item.content {
            Content::Line(line) => self.stats.cut += u64::from(line.cut() > 0),
            Content::Grouped(message) => message.cap(self.line_cap),
            Content::Record(record) => record.cap(self.line_cap),
            Content::Lost(_) => self.stats.lost += 1,
            Content::Dropped(count) => self.stats.dropped += *count,
        }
        item.seq = self.stats.stored;
        self.stats.stored += 1;
        self.stats.bytes += item.size();
        self.items.push_back(item);
        while self.items.len() > self.maxlen || (self.stats.bytes > self.max_bytes && self.items.len() > 1) {
            let Some(old) = self.items.pop_front() else { break };
            self.stats.bytes -= old.size();
            self.stats.rotated += 1;
        }
        self.stats.kept = self.items.len();
    }

    /// The last `n` items, pending lines last and counted among them, at most `maxlen`.
    pub(crate) fn read(&self, n: usize) -> Vec<LineItem> {
        let pending: Vec<&Begun> = self.begun.iter().filter(|begun| !begun.pending.is_empty()).collect();
        let n = n.min(self.maxlen);
        let from_items = n.saturating_sub(pending.len()).min(self.items.len());
        let from_pending = n.min(pending.len());
        let first = self.items.len() - from_items;
        let mut read: Vec<LineItem> = self.items.range(first..).cloned().collect();
        for (begun, seq) in pending[pending.len() - from_pending..].iter().zip(self.stats.stored..) {
            let (bytes, cut) = (begun.pending.bytes(), begun.pending.cut());
            let item = item_of(&begun.label, bytes, &[], cut, true);
            read.push(LineItem { seq, ..item });
        }
        read
    }

    /// Items from number `seq` on, at most `n`.
    pub(crate) fn read_since(&self, seq: u64, n: usize) -> Vec<LineItem> {
        let Some(first) = self.items.front().map(|item| item.seq) else {
            return Vec::new();
        };
        let skip = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        self.items.iter().skip(skip).take(n).cloned().collect()
    }

    /// How many items `read` would give.
    pub(crate) fn len(&self) -> usize {
        let pending = self.begun.iter().filter(|begun| !begun.pending.is_empty()).count();
        (self.items.len() + pending).min(self.maxlen)
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.begun.clear();
        (self.stats.kept, self.stats.bytes) = (0, 0);
    }
}

fn end_one(begun: &mut Begun, is_unfinished: bool, out: &mut Vec<LineItem>) {
    let label = begun.label.clone();
    begun
        .pending
        .end(|head, tail, cut| out.push(item_of(&label, head, tail, cut, is_unfinished)));
}

fn item_of(label: &Label, head: &[u8], tail: &[u8], cut: u64, is_unfinished: bool) -> LineItem {
    let mut bytes = Vec::with_capacity(head.len() + tail.len());
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(tail);
    label.item(Content::Line(Line::cut_by(bytes, cut, is_unfinished)))
}

impl Label {
    pub(crate) fn now(origin: Option<Arc<Origin>>, stream: Stream) -> Self {
        Label {
            time: SystemTime::now(),
            origin,
            stream,
        }
    }

    /// Its number comes when it is stored.
    pub(crate) fn item(&self, content: Content) -> LineItem {
        LineItem {
            seq: 0,
            time: self.time,
            origin: self.origin.clone(),
            stream: self.stream,
            content,
        }
    }
}
