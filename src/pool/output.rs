//! Writing to a connection: items become bytes in batches, one thread writes at a time, and what others append meanwhile goes with its next
//! batch.

use super::connection::Connection;
use super::error::{PoolError, Stage};
use super::outcome::Wake;
use super::peer::{Body, Item, Outgoing, Todo};
use super::wire::{FrameHeader, HEADER_LEN};
use std::io::IoSlice;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may be on their way to one connection; more wait with the peer, where they are counted and can still be taken back.
const HIGH: usize = 256 << 10;
/// From here on there is room again.
const LOW: usize = 64 << 10;
/// Data of up to this is copied, so that many small messages are one piece.
const COPIED: usize = 4 << 10;
/// What one message counts beside its bytes: many empty ones are something as well.
const OVERHEAD: usize = HEADER_LEN + 200;

/// Messages that come faster than this after one another are a stream, after so many: the loop's thread writes them, many at a time.
const STREAM_GAP: Duration = Duration::from_micros(20);
const STREAM: u32 = 8;

/// Pieces in one call, as many as the system takes (`IOV_MAX`).
const MOST_PIECES: usize = 1024;

/// So many frames are never kept for a peer that keeps to its part: messages stop at [`HIGH`] bytes, and of what the peer wants
/// acknowledged it has little under way.
const MOST_ITEMS: usize = 16 << 10;
const _: () = assert!(HIGH / OVERHEAD < MOST_ITEMS / 2);

#[derive(Default)]
pub(crate) struct Output {
    items: Vec<Item>,
    /// Bytes (and overheads) not written.
    pending: usize,
    /// A thread is at it, and will look again when it is done.
    is_writing: bool,
    /// The loop's thread will write.
    is_scheduled: bool,
    /// What is begun, and not taken by the system now.
    blocked: Option<Batch>,
    blocked_since: Option<Instant>,
    is_closed: bool,
    /// Appends in quick succession.
    streak: u32,
    last: Option<Instant>,
    /// Somebody was told that there is no room.
    has_refused: bool,
    /// The memory of the last batch.
    spare: (Vec<u8>, Vec<Item>),
}

/// Items being written.
#[derive(Default)]
pub(crate) struct Batch {
    items: std::vec::IntoIter<Item>,
    /// Where each item ends, of those that are left.
    ends: std::collections::VecDeque<usize>,
    /// Heads, headers and small data.
    text: Vec<u8>,
    /// In this order: of `text`, or the data of the item with this index.
    pieces: Vec<Piece>,
    first_index: usize,
    written: usize,
    total: usize,
    is_taken: bool,
    /// Some of it went out, of which `written` does not tell.
    has_moved: bool,
}

/// Messages that a connection has not written when it ends.
pub(crate) struct Left {
    /// Begun, and certain not to be there as a whole.
    pub(crate) half: Vec<Outgoing>,
    /// Encrypted together: nobody knows how far these got.
    pub(crate) unknown: Vec<Outgoing>,
    /// Not begun.
    pub(crate) unsent: Vec<Outgoing>,
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Text { from: usize, to: usize },
    Data { item: usize, len: usize },
}

impl Item {
    fn data(&self) -> &[u8] {
        match &self.body {
            Body::Nothing => &[],
            Body::Text(text) => text,
            Body::Message(outgoing) => &outgoing.message.data,
        }
    }

    fn header(&self) -> &[u8] {
        match &self.body {
            Body::Message(outgoing) => &outgoing.message.header,
            _ => &[],
        }
    }

    fn cost(&self) -> usize {
        OVERHEAD + self.header().len() + self.data().len()
    }
}

impl Batch {
    fn new(items: Vec<Item>, mut text: Vec<u8>) -> Self {
        text.clear();
        let mut pieces = Vec::new();
        let mut ends = std::collections::VecDeque::with_capacity(items.len());
        let (mut from, mut total) = (0, 0);
        for (index, item) in items.iter().enumerate() {
            text.extend_from_slice(&item.head.to_bytes());
            text.extend_from_slice(item.header());
            let data = item.data();
            if data.len() <= COPIED {
                text.extend_from_slice(data);
            } else {
                pieces.push(Piece::Text { from, to: text.len() });
                pieces.push(Piece::Data {
                    item: index,
                    len: data.len(),
                });
                from = text.len();
            }
            total += HEADER_LEN + item.header().len() + data.len();
            ends.push_back(total);
        }
        if from < text.len() {
            pieces.push(Piece::Text { from, to: text.len() });
        }
        Batch {
            items: items.into_iter(),
            ends,
            text,
            pieces,
            first_index: 0,
            written: 0,
            total,
            is_taken: false,
            has_moved: false,
        }
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written == self.total
    }

    pub(crate) fn left(&self) -> usize {
        self.total - self.written
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.is_taken
    }

    pub(crate) fn set_taken(&mut self) {
        self.is_taken = true;
    }

    /// Some of it went out.
    pub(crate) fn set_moved(&mut self) {
        self.has_moved = true;
    }

    /// Calls with what is left to write, or the beginning of it.
    pub(crate) fn with_slices<R>(&self, call: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        // The usual case.
        if let [Piece::Text { from, to }] = self.pieces[..] {
            return call(&[IoSlice::new(&self.text[from + self.written..to])]);
        }
        let items = self.items.as_slice();
        let mut slices = Vec::new();
        let mut at = 0;
        for piece in &self.pieces {
            let len = match piece {
                Piece::Text { from, to } => to - from,
                Piece::Data { len, .. } => *len,
            };
            if at + len > self.written && slices.len() < MOST_PIECES {
                let bytes = match *piece {
                    Piece::Text { from, to } => &self.text[from..to],
                    Piece::Data { item, .. } => items[item - self.first_index].data(),
                };
                slices.push(IoSlice::new(&bytes[self.written.saturating_sub(at)..]));
            }
            at += len;
        }
        call(&slices)
    }

    /// Calls with all of it.
    pub(crate) fn with_all<R>(&self, call: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        debug_assert_eq!(self.written, 0, "what is taken whole was not begun");
        let items = self.items.as_slice();
        let slices: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| match *piece {
                Piece::Text { from, to } => IoSlice::new(&self.text[from..to]),
                Piece::Data { item, .. } => IoSlice::new(items[item].data()),
            })
            .collect();
        call(&slices)
    }

    /// The next item that is wholly written.
    fn next_written(&mut self) -> Option<Item> {
        if *self.ends.front()? > self.written {
            return None;
        }
        self.ends.pop_front();
        self.first_index += 1;
        self.items.next()
    }

    /// What is left: what was begun, and what was not.
    fn into_rest(mut self) -> (Vec<Item>, Vec<Item>) {
        let start = self.total_before();
        if self.is_taken {
            // Encrypted as a whole: nobody knows how far it got.
            return (self.items.collect(), Vec::new());
        }
        let begun = (self.written > start).then(|| self.items.next()).flatten();
        (begun.into_iter().collect(), self.items.collect())
    }

    /// Where the first item that is left begins.
    fn total_before(&self) -> usize {
        let first_len = self
            .items
            .as_slice()
            .first()
            .map_or(0, |item| HEADER_LEN + item.header().len() + item.data().len());
        self.ends.front().map_or(self.total, |end| end - first_len)
    }
}

impl Connection {
    pub(crate) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an item to be written in its turn, and gives it its serial.
    pub(crate) fn take_item(&self, item: Item) {
        self.take_after(|| ((), Some(item)));
    }

    /// Does something of which others may learn at once, and takes the item that it asks for, before anything that they then send.
    pub(crate) fn take_after<T>(&self, act: impl FnOnce() -> (T, Option<Item>)) -> T {
        let mut output = self.output();
        let (result, item) = act();
        if let (Some(mut item), Some(place)) = (item, self.place.get()) {
            item.head.serial = place.peer.next_serial();
            output.pending += item.cost();
            output.items.push(item);
        }
        result
    }

    /// As [`take_item`](Connection::take_item), for a message; after a long silence with a sign of life before it, which shows whether
    /// the connection is good before the message is risked.
    pub(crate) fn take_message(&self, item: Item) {
        let is_stale = self.idle_for() > self.node.idle_limit() * 3 / 4;
        if is_stale && self.output().pending == 0 {
            self.take_item(Item {
                head: FrameHeader::noop(0),
                body: Body::Nothing,
            });
        }
        self.take_item(item);
    }

    pub(crate) fn has_output_room(&self) -> bool {
        let mut output = self.output();
        let has_room = output.pending < HIGH && !output.is_closed;
        output.has_refused |= !has_room;
        has_room
    }

    /// Whether more is kept for the peer than its messages and requests account for: it asks, and hardly reads.
    pub(crate) fn is_flooded(&self) -> bool {
        self.output().items.len() > MOST_ITEMS
    }

    pub(crate) fn is_output_blocked(&self) -> bool {
        self.output().blocked.is_some() || self.stream.has_queued()
    }

    pub(crate) fn has_output(&self) -> bool {
        self.output().pending > 0
    }

    /// A thread waits for what it sent: there is no stream to be gathered.
    pub(crate) fn end_streak(&self) {
        let mut output = self.output();
        output.streak = 0;
        let is_waiting = !output.items.is_empty() && !output.is_writing && output.blocked.is_none();
        drop(output);
        if is_waiting {
            self.write_now();
        }
    }

    fn write_now(&self) {
        self.write_out();
        if self.is_output_blocked()
            && let Some(me) = self.me.upgrade()
        {
            self.node.looper.look_at(me);
        }
    }

    /// Writes at once, or has the loop's thread write soon if messages come in a stream.
    pub(crate) fn flush_soon(self: &Arc<Self>) {
        {
            let mut output = self.output();
            if output.items.is_empty() || output.is_writing || output.is_scheduled || output.blocked.is_some() {
                return;
            }
            let now = Instant::now();
            let is_quick = output.last.replace(now).is_some_and(|last| now - last < STREAM_GAP);
            output.streak = if is_quick { output.streak + 1 } else { 0 };
            if output.streak >= STREAM {
                output.is_scheduled = true;
                drop(output);
                return self.node.looper.look_at(self.clone());
            }
        }
        self.write_now();
    }

    /// Writes what there is, as far as it is taken. What cannot be written now is left for when the loop says that it can.
    pub(crate) fn write_out(&self) {
        let mut wakes = Vec::new();
        loop {
            self.write_batches(&mut wakes);
            wakes.clear();
            // There is room again for what waits with the peer.
            let mut output = self.output();
            let is_wanted = output.has_refused && output.pending <= LOW && !output.is_closed;
            if !is_wanted {
                return;
            }
            output.has_refused = false;
            drop(output);
            let Some(place) = self.place.get() else { return };
            let mut todo = Todo::default();
            place.peer.drained(&mut todo);
            // That is being done.
            todo.flush.retain(|link| link.id() != self.id);
            todo.attend.retain(|link| link.id() != self.id);
            self.node.carry_out(&place.peer, todo);
        }
    }

    fn write_batches(&self, wakes: &mut Vec<Wake>) {
        let mut output = self.output();
        output.is_scheduled = false;
        if output.is_writing {
            return;
        }
        loop {
            if output.is_closed {
                break;
            }
            let mut batch = match output.blocked.take() {
                Some(batch) => batch,
                None if output.items.is_empty() => break,
                None => {
                    let (text, items) = std::mem::take(&mut output.spare);
                    let items = std::mem::replace(&mut output.items, items);
                    Batch::new(items, text)
                }
            };
            output.is_writing = true;
            drop(output);
            let before = batch.written;
            let outcome = self.stream.write(&mut batch);
            let is_progress = std::mem::take(&mut batch.has_moved) || batch.written > before;
            let mut freed = 0;
            while let Some(item) = batch.next_written() {
                freed += item.cost();
                if let Body::Message(outgoing) = item.body {
                    wakes.push(self.written(outgoing));
                }
            }
            if is_progress {
                self.touch();
            }
            output = self.output();
            output.is_writing = false;
            output.pending -= freed;
            match outcome {
                Ok(true) => {
                    output.blocked_since = None;
                    let mut text = std::mem::take(&mut batch.text);
                    if text.capacity() <= HIGH {
                        text.clear();
                        output.spare.0 = text;
                    }
                    continue;
                }
                Ok(false) => {
                    if is_progress || output.blocked_since.is_none() {
                        output.blocked_since = Some(Instant::now());
                    }
                    output.blocked = Some(batch);
                    let since = output.blocked_since;
                    let is_closed = output.is_closed;
                    drop(output);
                    if is_closed {
                        self.finish_close();
                    }
                    if let Some(since) = since {
                        self.node.looper.due(since + self.node.config.timeout);
                    }
                    return;
                }
                Err(error) => {
                    output.blocked = Some(batch);
                    drop(output);
                    self.break_off(self.broken(&error));
                    // If it was broken off while this thread was writing, that was left to it.
                    return self.finish_close();
                }
            }
        }
        let is_left_over = output.is_closed;
        drop(output);
        if is_left_over {
            self.finish_close();
        }
    }

    /// The system has the message.
    fn written(&self, outgoing: Outgoing) -> Wake {
        let is_synchronous = self.node.config.synchronous;
        match (outgoing.is_request, is_synchronous) {
            (true, true) => Wake::default(),
            (true, false) => {
                outgoing.cell.sent();
                Wake::default()
            }
            (false, _) => outgoing.cell.written(outgoing.message, !is_synchronous),
        }
    }

    /// Why a connection whose peer takes nothing is to be given up.
    pub(crate) fn overdue_write(&self, now: Instant) -> Result<Option<Instant>, PoolError> {
        let Some(since) = self.output().blocked_since else {
            return Ok(None);
        };
        let due = since + self.node.config.timeout;
        if due > now {
            return Ok(Some(due));
        }
        Err(PoolError::TimedOut {
            peer: self.address(),
            stage: Stage::Writing,
        })
    }

    /// Takes no more. `true`: nobody is writing, and what is left is free to be [taken](Connection::take_rest).
    pub(crate) fn close_output(&self) -> bool {
        let mut output = self.output();
        output.is_closed = true;
        !output.is_writing
    }

    /// What was not written. Only messages.
    pub(crate) fn take_rest(&self) -> Left {
        let mut output = self.output();
        output.pending = 0;
        output.blocked_since = None;
        let blocked = output.blocked.take();
        let is_taken = blocked.as_ref().is_some_and(Batch::is_taken);
        let (begun, mut rest) = blocked.map(Batch::into_rest).unwrap_or_default();
        rest.append(&mut output.items);
        drop(output);
        let message = |item: Item| match item.body {
            Body::Message(outgoing) => Some(outgoing),
            _ => None,
        };
        let messages = |items: Vec<Item>| items.into_iter().filter_map(message).collect();
        let (half, unknown) = match is_taken {
            true => (Vec::new(), begun),
            false => (begun, Vec::new()),
        };
        Left {
            half: messages(half),
            unknown: messages(unknown),
            unsent: messages(rest),
        }
    }
}
