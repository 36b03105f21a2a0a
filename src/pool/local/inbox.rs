//! A node's own two queues: how they are made, taken over from a node that was killed, read, and removed.
//!
//! A node called `NAME` reads two queues. Into `NAME` go messages that a handler has to look at; while all slots are taken it is not
//! read, and fills. Into `NAME.answers` goes what must always get through: answers, acknowledgements, signs. So a node that has no
//! room for another message still hears that its own messages were released, and two nodes that wait for each other do not lock up.
//!
//! Not here: who reads when (`attend`, `turns`), and other nodes' queues (`outbox`).

use super::parcel::{self, Parcel, Piece, Unpacker};
use super::remote::{Remote, Remotes};
use super::{Lane, LocalError};
use crate::{Buffer, MemberId, Queue, Reader, Role, Start, Wait};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How many nodes can have a node as their peer at a time.
const MEMBERS: u32 = 256;

/// How often a name is tried that others are taking at the same moment.
const ROUNDS: u32 = 50;

/// What is behind the name of a node's second queue.
const ANSWERS: &str = ".answers";

/// The queue that lane `lane` of the node called `name` is.
pub(super) fn queue_name(name: &str, lane: Lane) -> String {
    match lane {
        Lane::Messages => name.to_owned(),
        Lane::Answers => format!("{name}{ANSWERS}"),
    }
}

/// Both queues of a node, and the right to read them.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) messages: Reading,
    pub(super) answers: Reading,
    /// To look at and to remove.
    pub(super) queues: [Queue; 2],
}

impl Inbox {
    /// Makes the queues of a node called `name`. Those of one that was killed are removed, with the messages that are in them.
    ///
    /// # Errors
    ///
    /// [`LocalError::NameInUse`] if there is a live node of that name, [`LocalError::BadName`], and what making a queue can meet.
    pub(super) fn open(
        name: &str,
        capacity: u64,
        peers: &Arc<Remotes>,
        max_message_size: u64,
    ) -> Result<Self, LocalError> {
        parcel::check_name(name)?;
        let mut last = None;
        for round in 0..ROUNDS {
            match Self::try_open(name, capacity, peers, max_message_size) {
                Err(LocalError::Collision) => {
                    // Of two that see each other both give way; the one that is back first finds nobody.
                    let own = u64::from(std::process::id()) * 7 + u64::from(round) * 13;
                    std::thread::sleep(Duration::from_micros(100 + own % 1000));
                    last = Some(LocalError::Collision);
                }
                answer => return answer,
            }
        }
        Err(last.unwrap_or(LocalError::Collision))
    }

    fn try_open(name: &str, capacity: u64, peers: &Arc<Remotes>, max_message_size: u64) -> Result<Self, LocalError> {
        let options = || {
            let mut options = Queue::options();
            options = options.capacity(capacity).slots(MEMBERS);
            options
        };
        let messages = match options().create(name) {
            Ok(queue) => queue,
            Err(crate::Error::AlreadyExists { .. }) => {
                // Whoever reads it has the name. So to take it over is to be its one reader first, and then to replace it: whoever
                // still writes into the old one must never reach the new node by it.
                let old = match options().open(name) {
                    Err(crate::Error::NotFound { .. }) => return Err(LocalError::Collision),
                    old => old?,
                };
                remove_opened(name, &old)?;
                match options().create(name) {
                    Err(crate::Error::AlreadyExists { .. }) => return Err(LocalError::Collision),
                    new => new?,
                }
            }
            Err(error) => return Err(error.into()),
        };
        let reader = only_reader(name, &messages).map_err(|error| match error {
            // Who reads a queue that was just made removes it, or takes it for a killed node's; in a moment it is known who has the name.
            LocalError::NameInUse { .. } => LocalError::Collision,
            error => error,
        })?;
        // Somebody may have come before there was a reader here, and taken it for a killed node's.
        if !messages.is_current() {
            return Err(LocalError::Collision);
        }
        // The name is ours, and with it the second one.
        let second = queue_name(name, Lane::Answers);
        let made = match Queue::unlink_name(&second) {
            Ok(()) | Err(crate::Error::NotFound { .. }) => options().create(&second),
            Err(error) => Err(error),
        };
        let answers = match made.and_then(|queue| Ok((queue.reader()?, queue))) {
            Ok(answers) => answers,
            Err(error) => {
                let _ = Queue::unlink_name(&second);
                let _ = messages.unlink();
                return Err(error.into());
            }
        };
        let reading = |reader| Reading::new(reader, peers.clone(), max_message_size);
        Ok(Inbox {
            messages: reading(reader),
            answers: reading(answers.0),
            queues: [messages, answers.1],
        })
    }
}

/// Removes the queues of a node called `name` that was killed. `false`: there are none.
///
/// # Errors
///
/// [`LocalError::NameInUse`] if the node lives.
pub(super) fn remove(name: &str) -> Result<bool, LocalError> {
    parcel::check_name(name)?;
    for _ in 0..ROUNDS {
        let queue = match Queue::open(name) {
            Err(crate::Error::NotFound { .. }) => return Ok(false),
            queue => queue?,
        };
        if remove_opened(name, &queue)? {
            return Ok(true);
        }
    }
    Err(LocalError::Collision)
}

/// The same for its queue of messages, once that is open. `false`: the name leads to another queue by now.
pub(super) fn remove_opened(name: &str, queue: &Queue) -> Result<bool, LocalError> {
    // As long as it is read by this, nobody else takes the name.
    let _right = only_reader(name, queue)?;
    if !queue.is_current() {
        return Ok(false);
    }
    // That of its messages last: who dies in between leaves what the next one finds.
    for unlinked in [Queue::unlink_name(&queue_name(name, Lane::Answers)), queue.unlink()] {
        match unlinked {
            Ok(()) | Err(crate::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Becomes the one reader of a node's queue.
fn only_reader(name: &str, queue: &Queue) -> Result<Reader, LocalError> {
    if let Some(other) = live_reader(queue, None) {
        return Err(LocalError::NameInUse {
            name: name.into(),
            pid: other.pid,
        });
    }
    let reader = match queue.joining().start(Start::Now).reader() {
        Err(crate::Error::Retired { .. } | crate::Error::NoSlot { .. }) => return Err(LocalError::Collision),
        reader => reader?,
    };
    // Two that join at the same time see each other here, and both give way.
    match live_reader(queue, Some(reader.id())) {
        Some(_) => Err(LocalError::Collision),
        None => Ok(reader),
    }
}

/// Who reads a node's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) member: MemberId,
    pub(super) pid: u32,
}

/// The node whose queue this is, if it lives.
pub(super) fn live_reader(queue: &Queue, but: Option<MemberId>) -> Option<Owner> {
    queue
        .members()
        .into_iter()
        .find(|member| member.role == Some(Role::Reader) && member.is_alive && Some(member.id) != but)
        .map(|member| Owner {
            member: member.id,
            pid: member.pid,
        })
}

/// One queue of a node, while it is being read: by one thread at a time.
#[derive(Debug)]
pub(super) struct Reading {
    reader: Reader,
    buffer: Buffer,
    peers: Arc<Remotes>,
    /// Who the writers are that have introduced themselves.
    known: HashMap<MemberId, Writing>,
    max_message_size: u64,
}

/// A writer of another node in a queue of this one.
#[derive(Debug)]
struct Writing {
    peer: Arc<Remote>,
    unpacker: Unpacker,
}

impl Reading {
    /// The first thing that comes.
    fn new(reader: Reader, peers: Arc<Remotes>, max_message_size: u64) -> Self {
        Reading {
            reader,
            buffer: Buffer::new(),
            peers,
            known: HashMap::new(),
            max_message_size,
        }
    }

    /// How long waiting looks for news before it sleeps.
    pub(super) fn set_spin(&mut self, spin: Duration) {
        self.reader.set_spin(spin);
    }

    /// The next thing that has arrived. `None`: nothing in time.
    ///
    /// # Errors
    ///
    /// [`LocalError::Queue`] when the queue cannot be read any more: it is corrupt, or this node was put out of it.
    pub(super) fn next(&mut self, wait: Wait) -> Result<Option<Parcel>, LocalError> {
        let Some(message) = self.reader.pop_into(&mut self.buffer, wait)? else {
            return Ok(None);
        };
        let member = message.member();
        let piece = match Piece::of(&message) {
            Some(Piece::Wake) => return Ok(Some(Parcel::Nothing)),
            Some(Piece::Hello(hello)) => {
                let writing = Writing {
                    peer: self.peers.greeted(message.sender(), hello),
                    unpacker: Unpacker::default(),
                };
                // Whoever had the slot before is gone, with what it had begun.
                self.known.retain(|other, _| other.slot() != member.slot());
                self.known.insert(member, writing);
                return Ok(Some(Parcel::Nothing));
            }
            Some(piece) => piece,
            // Not from a node.
            None => return Ok(Some(Parcel::Nothing)),
        };
        let Some(writing) = self.known.get_mut(&member) else {
            return Ok(Some(Parcel::Nothing));
        };
        Ok(Some(match writing.unpacker.take(piece, self.max_message_size) {
            Ok(Some(frame)) => Parcel::Frame(writing.peer.clone(), frame),
            Ok(None) => Parcel::Nothing,
            Err(refused) => Parcel::Refused(writing.peer.clone(), refused),
        }))
    }
}
