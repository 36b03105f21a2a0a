//! The queue as transport: nodes on one machine that send each other frames through shared memory.
//!
//! A node that is called `NAME` reads two queues (`inbox`): one of messages, one of answers and acknowledgements. Whoever has something for it appends
//! to them from its own thread (`outbox`); nothing is queued in between. Whoever waits for an answer reads the answers (`attend`), and
//! the threads that run handlers read the messages in turn (`turns`), so that on the whole way of a request and its answer no thread hands
//! anything to another one.
//!
//! | what | is done by |
//! |---|---|
//! | frames in queue messages | `parcel` |
//! | own queues: making, taking over, removing | `inbox` |
//! | other nodes as receivers; do they live? | `outbox` |
//! | other nodes as senders; slots | `peer` |
//! | who reads the answers | `attend` |
//! | who reads the messages and runs handlers | `turns` |
//! | sending, as the node sees it | `link` |
//! | what all of this means for outcomes and messages | `host` |
//!
//! # Who dies
//!
//! A node is gone when the reader of its queue is no longer a live member of it: the kernel says so, by a record lock. While something is expected of a
//! node, that is looked at every [`attend::TICK`]; before something is sent to it, if the last look is older than that. A node that is
//! started anew never reads the queues of the one before; it removes them, with what was in them.
//!
//! Not here: what a request is, and what time it has. This room moves frames.

mod attend;
mod host;
mod inbox;
mod link;
mod outbox;
mod parcel;
mod remote;
#[cfg(all(test, not(loom), not(miri)))]
mod tests;
mod turns;

pub(crate) use host::Queues;
use outbox::Outbox;
use parcel::Refused;
use remote::Remote;

use super::address::Address;
use super::config::Config;
use super::error::{PoolError, Stage};
use super::message::{Origin, Slot};
use super::outcome::Cell;
use super::wire::{Announcement, Frame, FrameHeader, Identity, flags};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use crate::{Queue, Writer};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

/// Which of a node's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Of what a handler has to look at. Not read while there is no slot.
    Messages,
    /// Of what must get through: answers, acknowledgements, signs.
    Answers,
}

/// What a frame means, which this room does not know.
pub(crate) trait Host: Send + Sync {
    /// Something has arrived. Must not wait. Gives it back if it is for the handler.
    fn settle(&self, from: &Arc<Remote>, frame: Frame) -> Option<Frame>;

    /// Runs the handler, on this thread. The slot is taken, and goes back to `from` as [`Origin`].
    fn handle(&self, from: Arc<Remote>, frame: Frame);

    /// Something has arrived that is not received.
    fn refused(&self, from: &Arc<Remote>, refused: &Refused);

    /// Whether something waits to be sent there, or to be acknowledged.
    fn is_waiting(&self, node: &Arc<Outbox>) -> bool;

    /// Nothing more will come from there.
    fn gone(&self, node: &Arc<Outbox>);

    /// Sends a frame that is about a message which came from there. Must not wait.
    fn sign(&self, to: &Arc<Remote>, head: FrameHeader, text: &[u8]);

    /// Called every few seconds: what is not used any more may go.
    fn round(&self);

    /// The node cannot read its own queues any more.
    fn broken(&self, error: LocalError);
}

/// What can go wrong between nodes on one machine.
#[derive(Debug)]
pub(crate) enum LocalError {
    /// Not the name of a node.
    BadName { name: String, why: &'static str },
    /// A live node has the name.
    NameInUse { name: Arc<str>, pid: u32 },
    /// Another process was taking the same name at the same moment, again and again.
    Collision,
    /// There is no node of that name.
    NoPeer,
    /// The node is no more.
    Died,
    /// No room in its queue in time.
    Full,
    /// This node has ended.
    Over,
    /// Made by the process that this one was forked from.
    Forked,
    /// No thread could be started.
    Thread(std::io::Error),
    /// A queue failed.
    Queue(crate::Error),
}

impl LocalError {
    /// Whether it may be otherwise a moment later.
    fn is_for_now(&self) -> bool {
        use crate::Error::{Busy, Full};
        matches!(self, LocalError::Full | LocalError::Queue(Full(_) | Busy { .. }))
    }

    /// As users see it. `peer`: what it is about.
    fn about(self, peer: Address) -> PoolError {
        match self {
            LocalError::BadName { name, why } => crate::Error::InvalidName { name, why }.into(),
            LocalError::NameInUse { name, pid } => PoolError::NameInUse { name, pid },
            LocalError::Collision => PoolError::NameInUse {
                name: peer.to_string().into(),
                pid: 0,
            },
            LocalError::NoPeer => PoolError::Refused { peer },
            LocalError::Died => PoolError::PeerDied { peer },
            LocalError::Full => PoolError::TimedOut {
                peer,
                stage: Stage::Connecting,
            },
            LocalError::Over => PoolError::ShuttingDown,
            LocalError::Forked => PoolError::Forked,
            LocalError::Thread(error) => PoolError::os("starting a thread", error),
            LocalError::Queue(error) => error.into(),
        }
    }
}

impl From<crate::Error> for LocalError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Forked { .. } => LocalError::Forked,
            error => LocalError::Queue(error),
        }
    }
}

/// What all threads of a node share.
pub(super) struct Shared {
    host: Weak<dyn Host>,
    answers: attend::Answers,
    turns: turns::Turns,
    outboxes: outbox::Outboxes,
    remotes: Arc<remote::Remotes>,
    queues: [Queue; 2],
    /// Writers in this node's own queues, to wake whoever reads.
    bells: [Mutex<Writer>; 2],
    name: Arc<str>,
    /// The process that it belongs to.
    born: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn settle(&self, from: &Arc<Remote>, frame: Frame) -> Option<Frame> {
        self.host.upgrade()?.settle(from, frame)
    }

    fn handle(&self, from: Arc<Remote>, frame: Frame) {
        match self.host.upgrade() {
            Some(host) => host.handle(from, frame),
            None => from.give_back_slot(),
        }
    }

    fn refused(&self, from: &Arc<Remote>, refused: &Refused) {
        if let Some(host) = self.host.upgrade() {
            host.refused(from, refused);
        }
    }

    fn broken(&self, error: LocalError) {
        if let Some(host) = self.host.upgrade() {
            host.broken(error);
        }
    }

    /// Looks which nodes are gone: those of which something is expected, or all. Whether something is expected of others.
    fn look(&self, all: bool) -> bool {
        let Some(host) = self.host.upgrade() else { return false };
        let (gone, is_expecting) = self.outboxes.look(all, |outbox| host.is_waiting(outbox));
        gone.iter().for_each(|outbox| host.gone(outbox));
        if all {
            host.round();
            self.remotes.prune();
        }
        is_expecting
    }

    /// Wakes whoever sleeps in one of this node's own queues.
    fn ring(&self, lane: Lane) {
        let mut bell = self.bells[lane as usize].lock().unwrap_or_else(PoisonError::into_inner);
        // If there is no room, there is something to read, and nobody sleeps.
        let _ = bell.append(parcel::WAKE, b"", Wait::Never);
    }

    fn is_of_this_process(&self) -> bool {
        self.born == fork::generation()
    }
}

/// A message's slot is one of the node's it came from.
impl Origin for Remote {
    fn released(self: Arc<Self>, slot: &Slot) {
        let Some(shared) = self.shared() else { return };
        if slot.wants_ack {
            shared.sign(&self, FrameHeader::ack(slot.identity, 0), b"");
        }
        self.give_back_slot();
        shared.turns.freed(&shared, &self);
    }

    fn failed(self: Arc<Self>, slot: &Slot, why: &str) {
        let Some(shared) = self.shared() else { return };
        if !slot.is_request && !slot.wants_ack {
            return;
        }
        // A reason is not worth being refused for its length.
        let text = &why.as_bytes()[..why.len().min(MAX_REASON)];
        let failure = FrameHeader {
            identity: slot.identity,
            flags: flags::FAILED,
            data_len: text.len() as u32,
            ..FrameHeader::default()
        };
        shared.sign(&self, failure, text);
    }

    fn lend(self: Arc<Self>, is_lent: bool) {
        if !is_lent {
            self.take_slot_anyway();
            return;
        }
        self.give_back_slot();
        if let Some(shared) = self.shared() {
            shared.turns.freed(&shared, &self);
        }
    }
}

/// Bytes of the reason that is told for a failure.
const MAX_REASON: usize = 4096;

impl Shared {
    fn sign(&self, to: &Arc<Remote>, head: FrameHeader, text: &[u8]) {
        if let Some(host) = self.host.upgrade() {
            host.sign(to, head, text);
        }
    }
}

/// Removes the queues of a node called `name` that was killed. `false`: there are none.
///
/// # Errors
///
/// [`PoolError::NameInUse`] if the node lives; [`PoolError::Queue`].
pub(crate) fn remove(name: &str) -> Result<bool, PoolError> {
    inbox::remove(name).map_err(|error| error.about(Address::queue(name)))
}

/// A node's side of the queues.
pub(crate) struct Local {
    shared: Arc<Shared>,
    attendant: Mutex<Option<JoinHandle<()>>>,
}

impl Local {
    /// Makes the queues of a node, and starts to read them.
    ///
    /// # Errors
    ///
    /// See [`inbox::Inbox::open`].
    pub(crate) fn begin(
        name: &str,
        config: &Config,
        identity: Identity,
        host: Weak<dyn Host>,
    ) -> Result<Self, LocalError> {
        let remotes = Arc::new(remote::Remotes::default());
        let max_message_size = u64::from(config.max_message_size);
        let inbox = inbox::Inbox::open(name, config.queue_capacity, &remotes, max_message_size)?;
        let [messages, answers] = &inbox.queues;
        let bells = [messages.writer(name)?, answers.writer(name)?].map(Mutex::new);
        let name: Arc<str> = name.into();
        let hello = remote::Hello {
            identity,
            announced: Announcement::OURS,
        };
        let slots = config.slots() as i32;
        let shared = Arc::new_cyclic(|me| {
            remotes.belong_to(me.clone());
            Shared {
                host,
                answers: attend::Answers::new(inbox.answers, config.queue_spin),
                turns: turns::Turns::new(&name, inbox.messages, config.worker_count(), slots, config.queue_spin),
                outboxes: outbox::Outboxes::new(name.clone(), hello),
                remotes,
                queues: inbox.queues,
                bells,
                name,
                born: fork::generation(),
            }
        });
        Ok(Local {
            shared,
            attendant: Mutex::new(None),
        })
    }

    /// Starts to read.
    ///
    /// # Errors
    ///
    /// [`LocalError::Thread`].
    pub(crate) fn read(&self) -> Result<(), LocalError> {
        let shared = self.shared.clone();
        let attendant = std::thread::Builder::new()
            .name(format!("{} answers", shared.name))
            .spawn(move || shared.answers.run(&shared))
            .map_err(LocalError::Thread)?;
        *self.attendant.lock().unwrap_or_else(PoisonError::into_inner) = Some(attendant);
        self.shared.turns.begin(&self.shared).map_err(LocalError::Thread)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// A thread that waits for `cell` is there to read: see [`Attendant::lend`](super::outcome::Attendant::lend).
    pub(crate) fn lend(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        self.shared.answers.lend(&self.shared, cell, deadline)
    }

    /// A result is awaited by a task.
    pub(crate) fn attend(&self) {
        self.shared.answers.attend();
    }

    /// Forgets an outbox that is of no use any more.
    fn forget(&self, outbox: &Arc<Outbox>) {
        self.shared.outboxes.forget(outbox);
    }

    /// A message of `remote` will not be handled: gives its slot back.
    fn give_back(&self, remote: &Arc<Remote>) {
        remote.give_back_slot();
        self.shared.turns.freed(&self.shared, remote);
    }

    /// A message that was put aside is not wanted any more.
    fn not_aside_any_more(&self, frame: &Frame) {
        self.shared.turns.not_aside_any_more(&self.shared, frame);
    }

    /// Releases what the application has not. How many these were.
    pub(crate) fn release_all(&self) -> usize {
        self.shared
            .remotes
            .all()
            .iter()
            .map(|remote| remote.release_all())
            .sum()
    }

    /// The node called `name`, as receiver.
    ///
    /// # Errors
    ///
    /// [`LocalError::NoPeer`] if there is none.
    fn node(&self, name: &str, deadline: &Deadline) -> Result<Arc<Outbox>, LocalError> {
        if !self.shared.is_of_this_process() {
            return Err(LocalError::Forked);
        }
        self.shared.outboxes.get(name, deadline)
    }

    /// Something is to come from `node` that completes `cell`.
    fn expect(&self, node: &Outbox, cell: &Arc<Cell>) {
        node.expect(cell);
        if self.shared.answers.expect() {
            self.shared.ring(Lane::Answers);
        }
    }

    /// The end of `node` is to come.
    fn expect_end(&self, node: &Outbox) {
        node.ends();
        if self.shared.answers.expect() {
            self.shared.ring(Lane::Answers);
        }
    }

    /// All nodes that have sent something.
    fn remotes(&self) -> Vec<Arc<Remote>> {
        self.shared.remotes.all()
    }

    /// Handles what has arrived, and ends the threads that do so. `false`: not in time.
    pub(crate) fn drain(&self, deadline: &Deadline) -> bool {
        let turns = &self.shared.turns;
        turns.end();
        self.shared.ring(Lane::Messages);
        turns.wait_ended(usize::from(turns.is_mine()), deadline)
    }

    /// Messages that the application holds.
    pub(crate) fn held(&self) -> usize {
        usize::try_from(self.shared.remotes.held()).unwrap_or(0)
    }

    /// Whether the calling thread runs handlers here.
    pub(crate) fn is_mine(&self) -> bool {
        self.shared.turns.is_mine()
    }

    /// Ends it: the queues are removed, and nobody waits any more.
    pub(crate) fn end(&self) {
        if !self.shared.is_of_this_process() {
            return;
        }
        self.shared.turns.end();
        self.shared.ring(Lane::Messages);
        self.shared.answers.end();
        self.shared.ring(Lane::Answers);
        // The names first: who looks for the node finds none, and who has it finds its reader gone. That of its messages last, as in
        // `inbox::remove_opened`.
        for queue in self.shared.queues.iter().rev() {
            let _ = queue.unlink();
        }
        let attendant = self.attendant.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(attendant) = attendant
            && attendant.thread().id() != std::thread::current().id()
        {
            let _ = attendant.join();
        }
        self.shared.turns.close();
        self.shared.answers.close();
        self.shared.outboxes.clear();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}
