//! Other nodes as receivers: their queues, opened when something is first sent to them, and whether they live.
//!
//! A frame is appended by the thread that sends it. There is no queue of its own in between: the receiver's queue is the sender's too,
//! and while it is full, sending waits as long as it may.

use super::inbox::{Owner, live_reader, queue_name};
use super::remote::Hello;
use super::{Lane, LocalError, parcel};
use crate::pool::outcome::Cell;
use crate::pool::wire::FrameHeader;
use crate::wait::{Deadline, Wait};
use crate::{MemberId, Queue, Writer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How often to look whether a node lives of which something is expected.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How old the knowledge may be that a node lives to which something is sent.
const FRESH: Duration = Duration::from_millis(10);

/// A frame of more than this part of a queue goes in pieces of that size, so that others get a turn and a queue need not be empty for it.
const PIECES: u64 = 4;

/// One run of another node, as the receiver of frames.
pub(crate) struct Outbox {
    pub(crate) name: Arc<str>,
    /// Who reads its queue: when it is gone, the node is.
    owner: MemberId,
    /// Which queue that is: another one after the node was started anew.
    instance: u128,
    messages: Way,
    /// Opened when there is the first thing to go this way.
    answers: OnceLock<Way>,
    is_opening_answers: Turn<()>,
    hello: Hello,
    own_name: Arc<str>,
    /// What is expected of this node: answers, acknowledgements. Those that are done are thrown out now and then.
    expected: Mutex<Expected>,
    is_gone: AtomicBool,
    is_ending: AtomicBool,
    /// When it was last seen alive, in milliseconds since `opened`.
    seen: AtomicU64,
    opened: Instant,
}

/// Outcomes for which something is to come.
#[derive(Default)]
struct Expected {
    cells: Vec<Arc<Cell>>,
    /// They are gone through when there are so many.
    limit: usize,
}

const FEWEST_EXPECTED: usize = 64;

/// One queue of another node, with a writer in it.
#[derive(Debug)]
struct Way {
    queue: Queue,
    writer: Turn<Writer>,
    longest: usize,
}

impl Way {
    fn open(
        name: &str,
        lane: Lane,
        own_name: &str,
        hello: &Hello,
        deadline: &Deadline,
    ) -> Result<(Way, Owner), LocalError> {
        let no_peer = || LocalError::NoPeer;
        let queue = match Queue::open(&queue_name(name, lane)) {
            Err(crate::Error::NotFound { .. }) => return Err(no_peer()),
            queue => queue?,
        };
        let owner = live_reader(&queue, None).ok_or_else(no_peer)?;
        let joining = queue.joining().sender(own_name).wait(deadline.wait());
        let mut writer = match joining.writer() {
            Err(crate::Error::Retired { .. }) => return Err(no_peer()),
            writer => writer?,
        };
        parcel::greet(&mut writer, hello, deadline)?;
        let longest = (queue.max_body(own_name.len(), 8) / PIECES).max(256) as usize;
        let way = Way {
            queue,
            writer: Turn::new(writer),
            longest,
        };
        Ok((way, owner))
    }
}

/// Whether there was no room in time, or no turn.
fn is_full(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Full(_) | crate::Error::Busy { .. })
}

impl Outbox {
    /// Opens the node called `name`.
    ///
    /// # Errors
    ///
    /// [`LocalError::NoPeer`] if there is none.
    fn open(name: &str, own_name: &Arc<str>, hello: Hello, deadline: &Deadline) -> Result<Self, LocalError> {
        let (messages, owner) = Way::open(name, Lane::Messages, own_name, &hello, deadline)?;
        Ok(Outbox {
            name: name.into(),
            owner: owner.member,
            instance: messages.queue.stats().instance,
            messages,
            answers: OnceLock::new(),
            is_opening_answers: Turn::new(()),
            hello,
            own_name: own_name.clone(),
            expected: Mutex::new(Expected {
                cells: Vec::new(),
                limit: FEWEST_EXPECTED,
            }),
            is_gone: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            opened: Instant::now(),
        })
    }

    /// Something is to come from this node that completes `cell`.
    pub(super) fn expect(&self, cell: &Arc<Cell>) {
        let mut expected = self.expected();
        if expected.cells.len() >= expected.limit {
            expected.cells.retain(|cell| !cell.is_done());
            expected.limit = FEWEST_EXPECTED.max(2 * expected.cells.len());
        }
        expected.cells.push(cell.clone());
    }

    /// Whether something is to come from this node.
    pub(super) fn is_expected(&self) -> bool {
        let mut expected = self.expected();
        expected.cells.retain(|cell| !cell.is_done());
        !expected.cells.is_empty() || self.is_ending.load(Ordering::Acquire)
    }

    /// It has said that it stops: its end is expected.
    pub(super) fn ends(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame to one of its queues. `meanwhile` is done now and then while it waits for room.
    ///
    /// # Errors
    ///
    /// [`LocalError::Full`] if there was no room in time, [`LocalError::Died`] if the node is no more. Nothing was sent then.
    pub(crate) fn put(
        &self,
        lane: Lane,
        head: &FrameHeader,
        parts: [&[u8]; 2],
        deadline: &Deadline,
        meanwhile: &dyn Fn(),
    ) -> Result<(), LocalError> {
        let way = match lane {
            Lane::Messages => &self.messages,
            Lane::Answers => self.way_of_answers(deadline)?,
        };
        // For all of it: of a frame that goes in pieces, nothing else may come between them.
        let appended = way.writer.with(deadline, |writer| {
            let mut from = 0;
            loop {
                // Not the whole time at once: the node may die while its queue is full.
                let slice = match deadline {
                    Deadline::Now => Deadline::Now,
                    _ => Deadline::of(Wait::For(deadline.cap(LOOK_EVERY))),
                };
                match parcel::append(writer, head, parts, way.longest, &mut from, &slice) {
                    Ok(()) => return Ok(()),
                    Err(error) if is_full(&error) => {
                        if !self.look() {
                            return Err(LocalError::Died);
                        }
                        if deadline.has_passed() {
                            return Err(LocalError::Full);
                        }
                        meanwhile();
                    }
                    Err(crate::Error::Evicted { .. }) => return Err(LocalError::Died),
                    Err(error) => return Err(error.into()),
                }
            }
        });
        appended.unwrap_or(Err(LocalError::Full))
    }

    fn way_of_answers(&self, deadline: &Deadline) -> Result<&Way, LocalError> {
        if let Some(way) = self.answers.get() {
            return Ok(way);
        }
        let opened = self.is_opening_answers.with(deadline, |()| {
            if self.answers.get().is_none() {
                let (way, _) = Way::open(&self.name, Lane::Answers, &self.own_name, &self.hello, deadline)?;
                let _ = self.answers.set(way);
            }
            Ok(())
        });
        match opened {
            None => Err(LocalError::Full),
            Some(Err(LocalError::NoPeer)) => Err(LocalError::Died),
            // Of its greeting. What was to go this way can wait for room as well.
            Some(Err(LocalError::Queue(error))) if is_full(&error) => Err(LocalError::Full),
            Some(Err(error)) => Err(error),
            Some(Ok(())) => Ok(self.answers.get().expect("set just now, or before")),
        }
    }

    /// It is of no use any more: whoever waits for room in it gives up.
    pub(super) fn close(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Whether the node lives, as far as is known.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// Looks whether the node lives. A death is final: a node of the same name that is started later reads another queue.
    pub(crate) fn look(&self) -> bool {
        if self.is_gone() {
            return false;
        }
        let is_alive = self
            .messages
            .queue
            .members()
            .iter()
            .any(|member| member.id == self.owner && member.is_alive && !member.is_evicted);
        if is_alive {
            self.seen.store(self.age(), Ordering::Relaxed);
        } else {
            self.is_gone.store(true, Ordering::Release);
        }
        is_alive
    }

    /// As [`look`](Outbox::look), unless that was done a moment ago.
    pub(super) fn look_now_and_then(&self) -> bool {
        let is_fresh = self.age().saturating_sub(self.seen.load(Ordering::Relaxed)) < FRESH.as_millis() as u64;
        if is_fresh { !self.is_gone() } else { self.look() }
    }

    fn age(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

/// The outboxes of a node.
pub(super) struct Outboxes {
    open: RwLock<HashMap<Arc<str>, Arc<Outbox>>>,
    /// Replaced by a later run, and not yet told of.
    gone: Mutex<Vec<Arc<Outbox>>>,
    own_name: Arc<str>,
    hello: Hello,
}

impl Outboxes {
    pub(super) fn new(own_name: Arc<str>, hello: Hello) -> Self {
        Outboxes {
            open: RwLock::default(),
            gone: Mutex::default(),
            own_name,
            hello,
        }
    }

    /// The outbox of the node called `name`, opened if it is not.
    ///
    /// # Errors
    ///
    /// [`LocalError::NoPeer`] if there is no such node.
    pub(super) fn get(&self, name: &str, deadline: &Deadline) -> Result<Arc<Outbox>, LocalError> {
        let known = self
            .open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        if let Some(known) = known
            && known.look_now_and_then()
        {
            return Ok(known);
        }
        parcel::check_name(name)?;
        let fresh = Arc::new(Outbox::open(name, &self.own_name, self.hello, deadline)?);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster. Of two runs of a node the later one counts.
        match open.get(name) {
            Some(other) if other.instance == fresh.instance && !other.is_gone() => Ok(other.clone()),
            _ => {
                if let Some(gone) = open.insert(fresh.name.clone(), fresh.clone()) {
                    gone.is_gone.store(true, Ordering::Release);
                    self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(gone);
                }
                Ok(fresh)
            }
        }
    }

    /// Looks at the nodes of which something is expected (`all`: at every one), and forgets and returns those that are gone. Says whether
    /// there are any left of which something is expected.
    pub(super) fn look(&self, all: bool, is_waiting: impl Fn(&Arc<Outbox>) -> bool) -> (Vec<Arc<Outbox>>, bool) {
        let mut gone = std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        let mut is_expecting = false;
        for outbox in self.all() {
            let is_expected = outbox.is_expected() || is_waiting(&outbox);
            if (all || is_expected || outbox.is_gone()) && !outbox.look() {
                self.forget(&outbox);
                gone.push(outbox);
            } else {
                is_expecting |= is_expected;
            }
        }
        (gone, is_expecting)
    }

    /// Forgets one that is of no use any more.
    pub(super) fn forget(&self, gone: &Arc<Outbox>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.get(&*gone.name).is_some_and(|known| Arc::ptr_eq(known, gone)) {
            open.remove(&*gone.name);
        }
    }

    /// Those that are open now.
    pub(super) fn all(&self) -> Vec<Arc<Outbox>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(super) fn clear(&self) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A value that one thread at a time may use, the others waiting no longer than they may. (A mutex that can be waited for with a deadline.)
#[derive(Debug)]
struct Turn<T> {
    /// `None` while somebody uses it.
    idle: Mutex<Option<T>>,
    is_back: Condvar,
}

impl<T> Turn<T> {
    fn new(value: T) -> Self {
        Turn {
            idle: Mutex::new(Some(value)),
            is_back: Condvar::new(),
        }
    }

    /// `None`: it was in use all the time. Should `use_it` panic, it stays in use for ever.
    fn with<R>(&self, deadline: &Deadline, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = loop {
            if let Some(value) = idle.take() {
                break value;
            }
            if deadline.has_passed() {
                return None;
            }
            let limit = deadline.cap(Duration::from_secs(1));
            idle = self
                .is_back
                .wait_timeout(idle, limit)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        drop(idle);
        let answer = use_it(&mut value);
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.is_back.notify_one();
        Some(answer)
    }
}
