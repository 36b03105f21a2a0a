//! Other nodes as senders: who they are, and how many of their messages the application holds.
//!
//! Not here: how something is sent to them (`outbox`).

use super::Shared;
use crate::pool::message::Slot;
use crate::pool::wire::{Announcement, Frame, Identity};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// What a node says of itself before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) identity: Identity,
    pub(super) announced: Announcement,
}

/// Slots are gone through when there are so many.
const MOST_SLOTS: usize = 64;

/// One run of another node, as the sender of messages.
#[derive(Debug)]
pub(crate) struct Remote {
    /// What it is called: where it can be answered.
    pub(crate) name: Arc<str>,
    /// Another one after it was started anew.
    pub(crate) identity: Identity,
    /// Its messages that the application holds now, but for those whose slot is lent. Less than zero while one is both lent and released.
    held: AtomicI32,
    /// Those that have arrived meanwhile, and more than the application may hold. Locked for moments.
    pub(super) waiting: Mutex<VecDeque<Frame>>,
    /// Slots that may be held, to be told that their sender has lost interest.
    slots: Mutex<Vec<Weak<Slot>>>,
    of: Weak<Shared>,
}

impl Remote {
    /// The node that it is a remote of.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.of.upgrade()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This slot is held from now on.
    pub(super) fn remember(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        if slots.len() >= MOST_SLOTS {
            slots.retain(|slot| slot.upgrade().is_some_and(|slot| slot.is_held()));
        }
        slots.push(Arc::downgrade(slot));
    }

    fn held_slots(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots();
        slots
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|slot| slot.is_held())
            .collect()
    }

    /// The sender has lost interest in what has this identity. Gives it back if it was not begun.
    pub(super) fn cancel(&self, identity: Identity) -> Option<Frame> {
        if let Some(slot) = self.held_slots().iter().find(|slot| slot.identity == identity) {
            slot.cancel();
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|frame| frame.head.identity == identity)?;
        waiting.remove(at)
    }

    /// Releases all that is held. How many these were.
    pub(super) fn release_all(&self) -> usize {
        self.held_slots().iter().filter(|slot| slot.release()).count()
    }

    /// Takes one of `limit` slots, if one is free.
    pub(super) fn take_slot(&self, limit: i32) -> bool {
        let add = |held| (held < limit).then_some(held + 1);
        // SeqCst: against `give_back_slot` and what waits; see `turns`.
        self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok()
    }

    /// Takes one whether it is free or not: for a handler that goes on, having lent its own.
    pub(super) fn take_slot_anyway(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn give_back_slot(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn held(&self) -> i32 {
        self.held.load(Ordering::SeqCst)
    }
}

/// All nodes that have introduced themselves, in either queue.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    by_name: Mutex<HashMap<Arc<str>, Arc<Remote>>>,
    of: OnceLock<Weak<Shared>>,
}

impl Remotes {
    /// Whose neighbours they are.
    pub(super) fn belong_to(&self, shared: Weak<Shared>) {
        let _ = self.of.set(shared);
    }

    /// A writer of the node called `name` has introduced itself.
    pub(super) fn greeted(&self, name: &str, hello: Hello) -> Arc<Remote> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_name.get(name)
            && known.identity == hello.identity
        {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        let remote = Arc::new(Remote {
            name: name.clone(),
            identity: hello.identity,
            held: AtomicI32::new(0),
            waiting: Mutex::default(),
            slots: Mutex::default(),
            of: self.of.get().cloned().unwrap_or_default(),
        });
        by_name.insert(name, remote.clone());
        remote
    }

    /// The last run of each node that has introduced itself.
    pub(super) fn all(&self) -> Vec<Arc<Remote>> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.values().cloned().collect()
    }

    /// Forgets those that nobody knows any more.
    pub(super) fn prune(&self) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, remote| Arc::strong_count(remote) > 1);
    }

    /// How many of all their messages the application holds.
    pub(super) fn held(&self) -> i32 {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.values().map(|remote| remote.held().max(0)).sum()
    }
}
