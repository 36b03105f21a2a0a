//! The way to one other node, as the node above sees it: what it sends becomes frames in the queues of the other one.
//!
//! What is sent is appended by the thread that sends, at once. Only if there is no room it is kept, and a thread, which is there for as long as that
//! lasts, appends it as room comes; what is sent meanwhile stays in order behind it. Beyond [`HIGH`] bytes it waits with the peer, where the
//! node's rules about full send queues hold.
//!
//! Not here: what is sent when (`pool::peer`), and how it stands in the queues (`outbox`, `parcel`).

use super::host::Queues;
use super::outbox::Outbox;
use super::{Lane, LocalError};
use crate::pool::error::{PoolError, Stage};
use crate::pool::node::Node;
use crate::pool::outcome::{Attendant, Cell, Wake};
use crate::pool::peer::{Body, Item, Link, Outgoing, Peer, Todo};
use crate::pool::run;
use crate::pool::wire::{Announcement, FrameHeader};
use crate::wait::{Deadline, Wait};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may be kept for a node whose queue is full; more wait with the peer.
const HIGH: usize = 64 << 10;
/// From here on there is room again.
const LOW: usize = 16 << 10;
/// What a frame counts beside its bytes.
const OVERHEAD: usize = 128;

/// The way to one run of another node.
pub(crate) struct QueueLink {
    id: u64,
    node: Arc<Node>,
    queues: Arc<Queues>,
    pub(super) peer: Arc<Peer>,
    pub(super) outbox: Arc<Outbox>,
    lanes: [Mutex<Output>; 2],
    is_stopping: AtomicBool,
    is_closed: AtomicBool,
    begun: Instant,
    /// When something was sent last, in milliseconds since `begun`.
    last_used: AtomicU64,
}

/// What is on its way into one queue.
#[derive(Default)]
struct Output {
    items: VecDeque<Item>,
    /// Bytes and overheads of `items`.
    pending: usize,
    /// A thread appends, and will look again when it is done.
    is_writing: bool,
    /// Somebody was told that there is no room.
    has_refused: bool,
}

impl Output {
    fn take_all(&mut self) -> VecDeque<Item> {
        self.pending = 0;
        std::mem::take(&mut self.items)
    }
}

fn cost(item: &Item) -> usize {
    let [header, data] = parts(item);
    OVERHEAD + header.len() + data.len()
}

fn parts(item: &Item) -> [&[u8]; 2] {
    match &item.body {
        Body::Nothing => [b"", b""],
        Body::Text(text) => [b"", text],
        Body::Message(outgoing) => [&outgoing.message.header, &outgoing.message.data],
    }
}

fn lane_of(item: &Item) -> Lane {
    match &item.body {
        Body::Message(outgoing) if !outgoing.is_answer => Lane::Messages,
        _ => Lane::Answers,
    }
}

impl QueueLink {
    pub(super) fn new(node: Arc<Node>, queues: Arc<Queues>, peer: Arc<Peer>, outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(QueueLink {
            id: run::next_id(),
            node,
            queues,
            peer,
            outbox,
            lanes: Default::default(),
            is_stopping: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            begun: Instant::now(),
            last_used: AtomicU64::new(0),
        })
    }

    fn output(&self, lane: Lane) -> MutexGuard<'_, Output> {
        self.lanes[lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// The other node has said that it stops.
    pub(super) fn stops(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.queues.local().expect_end(&self.outbox);
    }

    /// Sends a frame that is no message.
    pub(super) fn sign(self: &Arc<Self>, head: FrameHeader, text: &[u8]) {
        let body = match text {
            b"" => Body::Nothing,
            text => Body::Text(text.to_vec()),
        };
        self.push(Item { head, body });
        self.write_out(Lane::Answers);
    }

    fn push(&self, item: Item) {
        let mut output = self.output(lane_of(&item));
        output.pending += cost(&item);
        output.items.push_back(item);
    }

    /// Whether something is kept for which there is no room yet.
    pub(super) fn has_output(&self) -> bool {
        let has_some = |output: MutexGuard<'_, Output>| output.is_writing || !output.items.is_empty();
        has_some(self.output(Lane::Messages)) || has_some(self.output(Lane::Answers))
    }

    /// How long nothing was sent this way.
    pub(super) fn idle_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_used.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }

    /// Appends what there is, unless another thread does.
    fn write_out(self: &Arc<Self>, lane: Lane) {
        let is_held_up = self.append_all(lane, false);
        if is_held_up {
            let me = self.clone();
            let name = format!("to {}", self.outbox.name);
            let started = std::thread::Builder::new()
                .name(name)
                .spawn(move || me.append_all(lane, true));
            if started.is_err() {
                // Then this thread has to.
                self.append_all(lane, true);
            }
        }
    }

    /// Appends what there is. `may_wait`: with room to wait for. `true`: there is no room, and this was not to wait; nobody appends until
    /// somebody is there to wait.
    fn append_all(&self, lane: Lane, may_wait: bool) -> bool {
        let mut output = self.output(lane);
        // Who waits was given the right to by the one who did not.
        if output.is_writing && !may_wait {
            return false;
        }
        while let Some(item) = output.items.pop_front() {
            output.pending -= cost(&item);
            output.is_writing = true;
            drop(output);
            match self.append_one(lane, item, may_wait) {
                Ok(wake) => drop(wake),
                Err(item) => {
                    output = self.output(lane);
                    output.pending += cost(&item);
                    output.items.push_front(item);
                    return true;
                }
            }
            output = self.output(lane);
            if output.has_refused && output.pending <= LOW {
                output.has_refused = false;
                drop(output);
                let mut todo = Todo::default();
                self.peer.drained(&mut todo);
                self.node.carry_out(&self.peer, todo);
                output = self.output(lane);
            }
        }
        output.is_writing = false;
        false
    }

    /// Appends one. Gives it back if there is no room, and this may not wait for it.
    #[allow(clippy::result_large_err, reason = "it is the item itself")]
    fn append_one(&self, lane: Lane, mut item: Item, may_wait: bool) -> Result<Wake, Item> {
        let peer = self.peer.address.clone();
        if let Body::Message(outgoing) = &item.body
            && outgoing.cell.is_done()
        {
            return Ok(self.dropped(item, PoolError::Cancelled));
        }
        let due = match (&item.body, may_wait) {
            (_, false) => Deadline::Now,
            (Body::Message(outgoing), true) => outgoing.send_by.map_or(Deadline::None, Deadline::At),
            (_, true) => Deadline::of(Wait::For(self.node.config.timeout)),
        };
        item.head.serial = self.peer.next_serial();
        let answer = match self.is_closed() || !self.outbox.look_now_and_then() {
            true => Err(LocalError::Died),
            false => {
                let meanwhile = || self.drop_overdue(lane);
                self.outbox.put(lane, &item.head, parts(&item), &due, &meanwhile)
            }
        };
        match answer {
            Ok(()) => {
                let now = self.begun.elapsed().as_millis();
                self.last_used.store(now as u64, Ordering::Relaxed);
                Ok(match item.body {
                    Body::Message(outgoing) => self.written(outgoing),
                    _ => Wake::default(),
                })
            }
            Err(LocalError::Full) if !may_wait => Err(item),
            Err(LocalError::Full) => {
                let stage = Stage::Queued;
                Ok(self.dropped(item, PoolError::TimedOut { peer, stage }))
            }
            Err(LocalError::Died) => {
                // Nothing of it was sent: it may go to whoever is there next.
                let mut output = self.output(lane);
                output.pending += cost(&item);
                output.items.push_front(item);
                drop(output);
                self.break_off(&PoolError::PeerDied { peer });
                Ok(Wake::default())
            }
            Err(error) => Ok(self.dropped(item, error.about(peer))),
        }
    }

    /// What waits behind one that may take longer than it has itself is not sent any more.
    fn drop_overdue(&self, lane: Lane) {
        let now = Instant::now();
        let is_overdue = |item: &Item| match &item.body {
            Body::Message(outgoing) => outgoing.send_by.is_some_and(|send_by| send_by <= now),
            _ => false,
        };
        let mut output = self.output(lane);
        let (overdue, rest): (Vec<Item>, Vec<Item>) = output.items.drain(..).partition(is_overdue);
        output.items = rest.into();
        output.pending -= overdue.iter().map(cost).sum::<usize>();
        drop(output);
        for item in overdue {
            let (peer, stage) = (self.peer.address.clone(), Stage::Queued);
            drop(self.dropped(item, PoolError::TimedOut { peer, stage }));
        }
    }

    /// It will not be sent. Nothing will be released then, for which other messages need wait.
    fn dropped(&self, item: Item, error: PoolError) -> Wake {
        let Body::Message(outgoing) = item.body else {
            return Wake::default();
        };
        let wake = outgoing.fail(error.clone());
        let mut todo = Todo::default();
        self.peer.failed(item.head.identity, error, true, &mut todo);
        self.node.carry_out(&self.peer, todo);
        wake
    }

    /// The other node has the message in its queue.
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

    /// The other node is no more, or this one has no more to do with it: settles what was on its way.
    ///
    /// More than once does no harm, and is needed where it was given to the peer at the very moment when it was closed.
    pub(super) fn break_off(&self, why: &PoolError) {
        self.is_closed.store(true, Ordering::Release);
        self.outbox.close();
        self.queues.forget(self);
        let mut todo = Todo::default();
        let rest = || {
            let items = [Lane::Messages, Lane::Answers].map(|lane| self.output(lane).take_all());
            let message = |item: Item| match item.body {
                Body::Message(outgoing) => Some(outgoing),
                _ => None,
            };
            items.into_iter().flatten().filter_map(message).collect()
        };
        self.peer.lost(self.id, rest, why, || None, &mut todo);
        self.node.fail_requests(why, |cell| cell.way() == self.id);
        self.node.carry_out(&self.peer, todo);
    }
}

impl Attendant for QueueLink {
    fn lend(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        self.queues.local().lend(cell, deadline)
    }

    fn attend(&self) {
        self.queues.local().attend();
    }
}

impl Link for QueueLink {
    fn id(&self) -> u64 {
        self.id
    }

    fn append(&self, item: Item) {
        if let Body::Message(outgoing) = &item.body
            && (outgoing.is_request || item.head.wants_ack())
        {
            self.queues.local().expect(&self.outbox, &outgoing.cell);
        }
        self.push(item);
    }

    fn has_room(&self, is_answer: bool) -> bool {
        let mut output = self.output(if is_answer { Lane::Answers } else { Lane::Messages });
        let has_room = output.pending < HIGH;
        output.has_refused |= !has_room;
        has_room
    }

    fn flush(self: Arc<Self>) {
        for lane in [Lane::Messages, Lane::Answers] {
            self.write_out(lane);
        }
    }

    fn features(&self) -> u32 {
        Announcement::OURS.features
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn as_attendant(self: Arc<Self>) -> Arc<dyn Attendant> {
        self
    }

    /// A message was not released in time. That is no reason to lose the way, on which others are answered.
    fn give_up(self: Arc<Self>, error: PoolError) {
        let mut todo = Todo::default();
        let still = || (!self.is_closed.load(Ordering::Acquire)).then(|| self.clone() as Arc<dyn Link>);
        self.peer.lost(self.id, Vec::new, &error, still, &mut todo);
        self.node.carry_out(&self.peer, todo);
    }
}
