//! One peer: the messages that wait for it, the one that waits to be released by it, and whether there is a link to it.
//!
//! Not here: what a link is. This has no socket and no clock of its own; it is told what happened and says what to do.

use super::address::Address;
use super::config::SendPolicy;
use super::encryption::Certificate;
use super::error::{PoolError, Stage};
use super::identity::Identity;
use super::message::{Message, Receipt};
use super::outcome::{Attendant, Cell, Due, Wake};
use super::wire::{FrameHeader, features, flags};
use crate::wait::Deadline;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A message on its way out.
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    /// What it owes as the answer to another one.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) cell: Arc<Cell>,
    pub(crate) is_request: bool,
    /// It was received, and goes back.
    pub(crate) is_answer: bool,
    /// Sent by a handler, which may keep others waiting.
    pub(crate) is_nested: bool,
    /// It must be on its way by then.
    pub(crate) send_by: Due,
    /// The user's own time for all of it, which goes before the node's timeout.
    pub(crate) due: Option<Due>,
    /// Attempts to connect that failed while it waited, but for those that timed out and that it had joined late.
    pub(crate) attempts: u32,
    /// It was there when the last attempt to connect began, so the time of that was its own.
    pub(crate) is_of_attempt: bool,
}

impl Outgoing {
    fn size(&self) -> usize {
        usize::try_from(self.message.size()).unwrap_or(usize::MAX)
    }

    /// It has failed before anything of it was sent. What it was to answer is told by its receipt.
    pub(crate) fn fail(self, error: PoolError) -> Wake {
        if let Some(receipt) = self.receipt {
            receipt.slot.fail(&format!("the answer could not be sent: {error}"));
        }
        self.cell.fail_with(error, self.message)
    }
}

/// One frame to be written. The serial is set by the link.
pub(crate) struct Item {
    pub(crate) head: FrameHeader,
    pub(crate) body: Body,
}

/// What a frame carries.
pub(crate) enum Body {
    Nothing,
    /// Some text of our own.
    Text(Vec<u8>),
    Message(Outgoing),
}

/// A way to the peer: a connection, or its queue.
pub(crate) trait Link: Attendant {
    fn id(&self) -> u64;

    /// Takes an item, to be written in its turn. Called with the peer locked: does nothing that may take long.
    fn append(&self, item: Item);

    /// Whether it is good for more, for now. Answers may have a way of their own.
    fn has_room(&self, is_answer: bool) -> bool;

    /// Writes, or has written soon, what was appended. Called without locks.
    fn flush(self: Arc<Self>);

    /// What the peer has [announced](super::wire::Announcement).
    fn features(&self) -> u32;

    /// The peer has said that it is stopping.
    fn is_stopping(&self) -> bool;

    /// It is over: its peer has heard of that, or is about to.
    fn is_closed(&self) -> bool;

    /// What the peer has shown of itself.
    fn certificate(&self) -> Option<Certificate> {
        None
    }

    fn as_attendant(self: Arc<Self>) -> Arc<dyn Attendant>;

    /// It is of no use any more: a message was not released in time.
    fn give_up(self: Arc<Self>, error: PoolError);
}

/// What a message needs of its node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) synchronous: bool,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) policy: SendPolicy,
}

pub(crate) struct Peer {
    pub(crate) address: Address,
    rules: Rules,
    /// Of the next frame, on whatever link.
    serial: AtomicU32,
    state: Mutex<State>,
    has_room: Condvar,
}

struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// Who waits for room.
    waiting: usize,
    inflight: Vec<InFlight>,
    /// With a link, with a time of their own, and done when they are written.
    timed: Timed,
    link: Option<Arc<dyn Link>>,
    phase: Phase,
    /// How long to wait before the next attempt to connect.
    pause: Duration,
    last_used: Instant,
    /// The node has stopped: all fails, with this.
    ended: Option<PoolError>,
}

/// Messages that fail if they are not written by their time. Weak: nobody else may want the message any more.
#[derive(Default)]
struct Timed {
    list: Vec<(Weak<Cell>, Instant)>,
    /// From so many on, those that are done are forgotten.
    most: usize,
}

impl Timed {
    fn push(&mut self, cell: &Arc<Cell>, due: Instant) {
        if self.list.len() >= self.most {
            self.list
                .retain(|(cell, _)| cell.upgrade().is_some_and(|cell| !cell.is_done()));
            self.most = 2 * self.list.len().max(32);
        }
        self.list.push((Arc::downgrade(cell), due));
    }
}

/// A message that is to be released by the peer.
struct InFlight {
    identity: Identity,
    cell: Arc<Cell>,
    is_request: bool,
    is_nested: bool,
    /// On which link.
    link: Arc<dyn Link>,
    /// The link is given up then.
    due: Due,
    /// The message has failed then.
    cell_due: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is being done about a link.
    Idle,
    /// One is being made.
    Connecting,
    /// One is to be made then.
    Resting(Instant),
}

/// The first pause between two attempts to connect, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is to be done once the locks are let go of.
#[derive(Default)]
#[must_use]
pub(crate) struct Todo {
    /// Dropped last, which wakes.
    pub(crate) wakes: Vec<Wake>,
    pub(crate) flush: Vec<Arc<dyn Link>>,
    /// Links over which something is awaited by nobody who could read it.
    pub(crate) attend: Vec<Arc<dyn Link>>,
    /// Nothing is sent without a new link.
    pub(crate) connect: bool,
    /// When something of it is overdue.
    pub(crate) due: Due,
    /// Links that are of no use any more, and why.
    pub(crate) give_up: Vec<(Arc<dyn Link>, PoolError)>,
    /// Answers that went out, or will.
    pub(crate) answered: Vec<Receipt>,
    /// Messages that failed: dropping a receipt tells the peer, which is not for under a lock.
    pub(crate) failed: Vec<(Outgoing, PoolError)>,
}

impl Todo {
    fn attend(&mut self, link: &Arc<dyn Link>) {
        if !self.attend.iter().any(|other| other.id() == link.id()) {
            self.attend.push(link.clone());
        }
    }

    fn due_at(&mut self, due: Due) {
        self.due = match (self.due, due) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// All but connecting, of which it says whether it is wanted, and since when something is due.
    pub(crate) fn carry_out(self) -> (bool, Due) {
        for receipt in self.answered {
            receipt.answered();
        }
        for link in self.flush {
            link.flush();
        }
        for link in self.attend {
            link.attend();
        }
        for (link, error) in self.give_up {
            link.give_up(error);
        }
        for (outgoing, error) in self.failed {
            drop(outgoing.fail(error));
        }
        (self.connect, self.due)
    }
}

impl Peer {
    pub(crate) fn new(address: Address, rules: Rules) -> Arc<Self> {
        let random = *Identity::random().as_bytes();
        let serial = u32::from_be_bytes([random[0], random[1], random[2], random[3]]) >> 1;
        Arc::new(Peer {
            address,
            rules,
            serial: AtomicU32::new(serial),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                bytes: 0,
                waiting: 0,
                inflight: Vec::new(),
                timed: Timed::default(),
                link: None,
                phase: Phase::Idle,
                pause: FIRST_PAUSE,
                last_used: Instant::now(),
                ended: None,
            }),
            has_room: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The serial of the next frame.
    pub(crate) fn next_serial(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a message. `deadline`: how long to wait for room, where the policy is to wait.
    pub(crate) fn send(&self, outgoing: Outgoing, deadline: &Deadline, todo: &mut Todo) {
        let mut state = self.lock();
        state.last_used = Instant::now();
        if let Some(error) = &state.ended {
            return todo.failed.push((outgoing, error.clone()));
        }
        if let Some(link) = &state.link
            && link.is_stopping()
            && outgoing.receipt.is_none()
        {
            let peer = self.address.clone();
            return todo.failed.push((outgoing, PoolError::PeerStopping { peer }));
        }
        if let Some(link) = self.way(&state, &outgoing) {
            return self.append(&mut state, link, outgoing, todo);
        }
        let size = outgoing.size();
        while self.is_full_for(&state, size) {
            let (peer, messages, bytes) = (self.address.clone(), state.queue.len(), state.bytes);
            match self.rules.policy {
                SendPolicy::Fail => {
                    let error = PoolError::QueueFull { peer, messages, bytes };
                    return todo.failed.push((outgoing, error));
                }
                SendPolicy::DropOldest => {
                    if let Some(oldest) = state.pop() {
                        todo.failed.push((oldest, PoolError::Dropped { peer }));
                    }
                }
                SendPolicy::Block => {
                    let stage = Stage::Room;
                    if outgoing.cell.is_done() || deadline.has_passed() {
                        return todo.failed.push((outgoing, PoolError::TimedOut { peer, stage }));
                    }
                    // What a handler lends while it waits makes others go on, who may come by here.
                    drop(state);
                    super::workers::blocked(|| self.wait_for_room(size, deadline));
                    state = self.lock();
                    if let Some(error) = &state.ended {
                        return todo.failed.push((outgoing, error.clone()));
                    }
                }
            }
        }
        todo.due_at(outgoing.send_by);
        if let Some(link) = &state.link {
            // Who waits for it may read what it waits for.
            if outgoing.cell.set_attendant(link.clone().as_attendant()) {
                todo.attend(link);
            }
        }
        state.bytes += size;
        state.queue.push_back(outgoing);
        self.pump(&mut state, todo);
    }

    fn is_full_for(&self, state: &State, size: usize) -> bool {
        state.queue.len() >= self.rules.messages
            || (!state.queue.is_empty() && state.bytes.saturating_add(size) > self.rules.bytes)
    }

    fn wait_for_room(&self, size: usize, deadline: &Deadline) {
        let mut state = self.lock();
        if self.is_full_for(&state, size) {
            state.waiting += 1;
            let limit = deadline.cap(Duration::from_secs(3600));
            let woken = self.has_room.wait_timeout(state, limit);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// The link that may take this message now, past those that wait.
    fn way(&self, state: &State, outgoing: &Outgoing) -> Option<Arc<dyn Link>> {
        let link = state.link.as_ref()?;
        // A handler that sends may be what the message in flight waits for. A libchirp would lose acknowledgements.
        let may_pass = outgoing.is_nested && link.features() & features::FAILED != 0;
        let is_turn = if may_pass {
            true
        } else if self.rules.synchronous {
            state.queue.is_empty() && state.inflight.is_empty()
        } else {
            state.queue.is_empty()
        };
        (is_turn && link.has_room(outgoing.is_answer)).then(|| link.clone())
    }

    fn append(&self, state: &mut State, link: Arc<dyn Link>, mut outgoing: Outgoing, todo: &mut Todo) {
        // What answers one node is not for another one, which is there now, or says that it is.
        if outgoing.message.certificate.is_some() && outgoing.message.certificate != link.certificate() {
            let peer = self.address.clone();
            let what = "it has another certificate than the one that the message is for".to_owned();
            return todo.failed.push((outgoing, PoolError::Tls { peer, what }));
        }
        let announced = link.features();
        let mut bits = 0;
        if outgoing.is_request && announced & features::REQUEST != 0 {
            bits |= flags::REQUEST;
        }
        // Cancelled, or its time is over.
        let Some(is_polled) = outgoing.cell.set_link(link.id(), link.clone().as_attendant()) else {
            return todo.failed.push((outgoing, PoolError::Cancelled));
        };
        if is_polled {
            todo.attend(&link);
        }
        if !self.rules.synchronous
            && !outgoing.is_request
            && let Some(Some(due)) = outgoing.due
        {
            todo.due_at(Some(due));
            state.timed.push(&outgoing.cell, due);
        }
        if self.rules.synchronous {
            bits |= flags::REQ_ACK;
            let at_least = Instant::now() + self.rules.timeout;
            let (due, cell_due) = match outgoing.due {
                None => (Some(at_least), None),
                Some(cell_due) => (cell_due.map(|due| due.max(at_least)), cell_due),
            };
            todo.due_at(due);
            todo.due_at(cell_due);
            state.inflight.push(InFlight {
                identity: outgoing.message.identity,
                cell: outgoing.cell.clone(),
                is_request: outgoing.is_request,
                is_nested: outgoing.is_nested,
                link: link.clone(),
                due,
                cell_due,
            });
        }
        let head = FrameHeader {
            identity: outgoing.message.identity,
            serial: 0,
            // Checked when it was sent: see `Node::send`.
            data_len: outgoing.message.data.len() as u32,
            header_len: outgoing.message.header.len() as u16,
            flags: bits,
        };
        todo.answered.extend(outgoing.receipt.take());
        let body = Body::Message(outgoing);
        link.append(Item { head, body });
        if !todo.flush.iter().any(|other| other.id() == link.id()) {
            todo.flush.push(link);
        }
    }

    /// Gives the link what it takes.
    fn pump(&self, state: &mut State, todo: &mut Todo) {
        loop {
            let Some(link) = state.link.clone() else {
                todo.connect |= !state.queue.is_empty() && state.phase == Phase::Idle;
                if todo.connect {
                    state.phase = Phase::Connecting;
                    state
                        .queue
                        .iter_mut()
                        .for_each(|outgoing| outgoing.is_of_attempt = true);
                }
                return;
            };
            if self.rules.synchronous && state.inflight.iter().any(|sent| !sent.is_nested) {
                return;
            }
            let Some(outgoing) = state.pop_for(&*link) else { return };
            if state.waiting > 0 {
                self.has_room.notify_all();
            }
            self.append(state, link, outgoing, todo);
        }
    }

    /// The link takes more.
    pub(crate) fn drained(&self, todo: &mut Todo) {
        self.pump(&mut self.lock(), todo);
    }

    /// There is a link. The newest is the one to use.
    pub(crate) fn established(&self, link: Arc<dyn Link>, todo: &mut Todo) {
        let mut state = self.lock();
        state.phase = Phase::Idle;
        state.last_used = Instant::now();
        // One that has broken meanwhile may have been lost already, and would stay for ever.
        if !link.is_closed() && state.ended.is_none() {
            state.link = Some(link);
            state.pause = FIRST_PAUSE;
        }
        self.pump_or_rest(&mut state, todo);
    }

    /// A link that was being made could not be.
    pub(crate) fn not_connected(&self, error: &PoolError, todo: &mut Todo) {
        let mut state = self.lock();
        if state.phase == Phase::Connecting {
            state.phase = Phase::Idle;
        }
        if state.link.is_some() {
            return self.pump(&mut state, todo);
        }
        let mut failed = Vec::new();
        for mut outgoing in std::mem::take(&mut state.queue) {
            // The time of an attempt is that of those it was made for. What came later has its own, and so another attempt.
            if matches!(error, PoolError::TimedOut { .. }) && !outgoing.is_of_attempt {
                state.queue.push_back(outgoing);
                continue;
            }
            outgoing.attempts += 1;
            if outgoing.attempts > self.rules.retries {
                failed.push((outgoing, error.clone()));
            } else {
                state.queue.push_back(outgoing);
            }
        }
        state.bytes = state.queue.iter().map(Outgoing::size).sum();
        todo.failed.append(&mut failed);
        self.has_room.notify_all();
        self.rest(&mut state, todo);
    }

    /// Sees to it that there will be another attempt, after a pause.
    fn rest(&self, state: &mut State, todo: &mut Todo) {
        if state.queue.is_empty() || state.link.is_some() || state.phase != Phase::Idle {
            return;
        }
        // Not all at the same moment, after a peer that many talk to has gone.
        let random = f64::from(Identity::random().as_bytes()[0]) / 512.0;
        let until = Instant::now() + state.pause.mul_f64(1.0 + random);
        state.pause = (state.pause * 2).min(LONGEST_PAUSE);
        state.phase = Phase::Resting(until);
        todo.due_at(Some(until));
    }

    /// A link has broken. `unsent` says what it took and has written nothing of. `other`: another link to this peer that is there still. Both
    /// are asked with the peer locked: another link that breaks after that is lost after this one.
    pub(crate) fn lost(
        &self,
        link: u64,
        unsent: impl FnOnce() -> Vec<Outgoing>,
        error: &PoolError,
        other: impl FnOnce() -> Option<Arc<dyn Link>>,
        todo: &mut Todo,
    ) {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|current| current.id() == link) {
            state.link = other();
        }
        let unsent = unsent();
        // Not by their identity: copies of one message have the same.
        let is_unsent = |cell: &Arc<Cell>| unsent.iter().any(|outgoing| Arc::ptr_eq(&outgoing.cell, cell));
        state.inflight.retain(|sent| {
            if sent.link.id() != link {
                return true;
            }
            if !is_unsent(&sent.cell) {
                todo.wakes.push(sent.cell.fail(error.clone()));
            }
            false
        });
        if let Some(error) = &state.ended {
            let unsent = unsent.into_iter().map(|outgoing| (outgoing, error.clone()));
            return todo.failed.extend(unsent);
        }
        for outgoing in unsent.into_iter().rev() {
            outgoing.cell.set_way(0);
            state.bytes = state.bytes.saturating_add(outgoing.size());
            state.queue.push_front(outgoing);
        }
        self.pump_or_rest(&mut state, todo);
    }

    fn pump_or_rest(&self, state: &mut State, todo: &mut Todo) {
        match state.link {
            Some(_) => self.pump(state, todo),
            None => self.rest(state, todo),
        }
    }

    /// The peer says that it has released the message of this identity. `false`: none of that identity was sent.
    pub(crate) fn released(&self, identity: Identity, todo: &mut Todo) -> bool {
        let mut state = self.lock();
        let Some(at) = state.inflight.iter().position(|sent| sent.identity == identity) else {
            return false;
        };
        let sent = state.inflight.swap_remove(at);
        match sent.is_request {
            true => sent.cell.sent(),
            false => todo.wakes.push(sent.cell.released()),
        }
        self.pump(&mut state, todo);
        true
    }

    /// The peer says that the message of this identity failed; or that it is not taken, and then it is released by that.
    pub(crate) fn failed(&self, identity: Identity, error: PoolError, is_released: bool, todo: &mut Todo) {
        let mut state = self.lock();
        let Some(at) = state.inflight.iter().position(|sent| sent.identity == identity) else {
            return;
        };
        todo.wakes.push(state.inflight[at].cell.fail(error));
        if is_released {
            state.inflight.swap_remove(at);
            self.pump(&mut state, todo);
        }
    }

    /// Fails what waits and is no answer, for this reason.
    pub(crate) fn fail_queue(&self, error: &PoolError, todo: &mut Todo) {
        let mut state = self.lock();
        let (failed, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut state.queue)
            .into_iter()
            .partition(|outgoing| outgoing.receipt.is_none());
        state.bytes = kept.iter().map(Outgoing::size).sum();
        state.queue = kept;
        todo.failed
            .extend(failed.into_iter().map(|outgoing| (outgoing, error.clone())));
        self.has_room.notify_all();
    }

    /// The node has stopped: fails what waits and what was not released, and all that comes here from now on, be it from a link that ends later or
    /// from a thread that was about to send.
    pub(crate) fn end(&self, error: &PoolError, todo: &mut Todo) {
        let mut state = self.lock();
        state.ended = Some(error.clone());
        state.bytes = 0;
        for outgoing in std::mem::take(&mut state.queue) {
            todo.failed.push((outgoing, error.clone()));
        }
        for sent in state.inflight.drain(..) {
            todo.wakes.push(sent.cell.fail(error.clone()));
        }
        self.has_room.notify_all();
    }

    /// Ends what is overdue.
    pub(crate) fn sweep(&self, now: Instant, todo: &mut Todo) {
        let mut state = self.lock();
        let is_over = |due: Due| due.is_some_and(|due| due <= now);
        if state.queue.iter().any(|one| is_over(one.send_by) || one.cell.is_done()) {
            let stage = match state.link {
                Some(_) => Stage::Queued,
                None => Stage::Connecting,
            };
            let mut kept = VecDeque::new();
            for outgoing in std::mem::take(&mut state.queue) {
                if is_over(outgoing.send_by) || outgoing.cell.is_done() {
                    let peer = self.address.clone();
                    todo.failed.push((outgoing, PoolError::TimedOut { peer, stage }));
                } else {
                    kept.push_back(outgoing);
                }
            }
            state.bytes = kept.iter().map(Outgoing::size).sum();
            state.queue = kept;
            self.has_room.notify_all();
        }
        for outgoing in &state.queue {
            todo.due_at(outgoing.send_by);
        }
        let error = PoolError::TimedOut {
            peer: self.address.clone(),
            stage: Stage::Release,
        };
        for sent in &state.inflight {
            if is_over(sent.cell_due) && !sent.is_request {
                todo.wakes.push(sent.cell.fail(error.clone()));
            } else if !sent.is_request {
                todo.due_at(sent.cell_due);
            }
            match is_over(sent.due) {
                true => {
                    if !sent.is_request {
                        todo.wakes.push(sent.cell.fail(error.clone()));
                    }
                    todo.give_up.push((sent.link.clone(), error.clone()));
                }
                false => todo.due_at(sent.due),
            }
        }
        state.timed.list.retain(|(cell, due)| {
            let Some(cell) = cell.upgrade().filter(|cell| !cell.is_done()) else {
                return false;
            };
            match *due <= now {
                true => todo.wakes.push(cell.fail(error.clone())),
                false => todo.due_at(Some(*due)),
            }
            *due > now
        });
        if let Phase::Resting(until) = state.phase {
            if until <= now {
                state.phase = Phase::Idle;
                self.pump(&mut state, todo);
            } else {
                todo.due_at(Some(until));
            }
        }
    }

    /// Somebody is about to use it.
    pub(crate) fn touch(&self) {
        self.lock().last_used = Instant::now();
    }

    /// What is shown at the other end of its link.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        self.lock().link.as_ref()?.certificate()
    }

    /// Whether nothing waits here, or is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && state.inflight.is_empty()
    }

    /// Whether it can be forgotten: there is nothing here, and it was not used since then.
    pub(crate) fn is_idle_since(&self, instant: Instant) -> bool {
        let state = self.lock();
        let is_quiet = state.queue.is_empty() && state.inflight.is_empty() && state.waiting == 0;
        is_quiet && state.link.is_none() && state.phase == Phase::Idle && state.last_used < instant
    }
}

impl State {
    fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.pop_front()?;
        self.bytes -= outgoing.size();
        Some(outgoing)
    }

    /// The next one for which the link has room.
    fn pop_for(&mut self, link: &dyn Link) -> Option<Outgoing> {
        let first = self.queue.front()?.is_answer;
        if link.has_room(first) {
            return self.pop();
        }
        // Where answers have a way of their own they do not wait for messages: who takes none may be waiting for them.
        if !link.has_room(!first) {
            return None;
        }
        let at = self.queue.iter().position(|outgoing| outgoing.is_answer != first)?;
        let outgoing = self.queue.remove(at)?;
        self.bytes -= outgoing.size();
        Some(outgoing)
    }
}
