//! Who reads the queue of answers: the thread that waits for one.
//!
//! An answer that another thread reads has to be handed over, and that costs more than the way through the queue. So a thread that waits for
//! an outcome *leads*: it reads what comes, for itself and for others. One thread leads at a time. The others that wait sleep, each on its own
//! outcome, and when the leader has what it wants it wakes one of them, which leads on.
//!
//! While nobody waits with a thread, one of our own, the *attendant*, leads: for outcomes that are awaited by tasks or looked at now and then, and for
//! what peers have to say unasked. When it sees that threads want to lead, it steps back, and looks once in a [`NAP`] whether they
//! still do. So a program that asks in turn pays a hand-over for its first question only.
//!
//! Not here: what is done with a frame (`Host`), and the queue of messages (`turns`).

use super::inbox::Reading;
use super::parcel::Parcel;
use super::{LocalError, Shared};
use crate::Wait;
use crate::pool::outcome::Cell;
use crate::wait::Deadline;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long whoever leads sleeps at most before it looks whether the peers live.
pub(super) const TICK: Duration = super::outbox::LOOK_EVERY;

/// The same while nothing is expected of anybody.
const REST: Duration = Duration::from_millis(500);

/// How often the nodes are looked at of which nothing is expected: so that what is kept for those that are gone can go, too.
const ROUND: Duration = Duration::from_secs(5);

/// How often the attendant, having stepped back, looks whether it is needed.
const NAP: Duration = Duration::from_millis(1);

/// The right to read. Nothing in it: the node has ended.
type Lead<'a> = MutexGuard<'a, Option<Reading>>;

pub(super) struct Answers {
    /// Locked by whoever leads.
    reading: Mutex<Option<Reading>>,
    /// How long a waiting thread looks before it sleeps.
    spin: Duration,
    /// Those that wait while somebody else leads.
    followers: Mutex<VecDeque<Arc<Cell>>>,
    /// Counts the times that a thread wanted to lead.
    lends: AtomicU64,
    /// A result is awaited by a task.
    is_awaited: AtomicBool,
    /// The attendant leads, and may sleep for [`REST`].
    rests: AtomicBool,
    /// The attendant has stepped back.
    naps: AtomicBool,
    attendant: OnceLock<Thread>,
    /// Something is expected of some node.
    is_expecting: AtomicBool,
    /// When nodes are looked at of which nothing is expected, in milliseconds since `began`.
    next_round: AtomicU64,
    /// When peers are looked at again, in milliseconds since `began`.
    next: AtomicU64,
    began: Instant,
    is_over: AtomicBool,
}

impl Answers {
    pub(super) fn new(reading: Reading, spin: Duration) -> Self {
        Answers {
            reading: Mutex::new(Some(reading)),
            spin,
            followers: Mutex::default(),
            lends: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            naps: AtomicBool::new(false),
            attendant: OnceLock::new(),
            is_expecting: AtomicBool::new(false),
            next_round: AtomicU64::new(0),
            next: AtomicU64::new(0),
            began: Instant::now(),
            is_over: AtomicBool::new(false),
        }
    }

    fn try_lead(&self) -> Option<Lead<'_>> {
        match self.reading.try_lock() {
            Ok(reading) => Some(reading),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn followers(&self) -> MutexGuard<'_, VecDeque<Arc<Cell>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is expected. `true`: the attendant must be woken, which sleeps for longer than that allows.
    pub(super) fn expect(&self) -> bool {
        if self.is_expecting.load(Ordering::SeqCst) {
            return false;
        }
        // SeqCst, both: against `attend_until_somebody_else_does`.
        self.is_expecting.store(true, Ordering::SeqCst);
        self.rests.load(Ordering::SeqCst)
    }

    /// See [`Attendant::lend`](crate::pool::outcome::Attendant::lend).
    pub(super) fn lend(&self, shared: &Arc<Shared>, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        self.lends.fetch_add(1, Ordering::Relaxed);
        let reading = match self.try_lead() {
            Some(reading) => reading,
            None => {
                {
                    let mut followers = self.followers();
                    if !followers.iter().any(|follower| Arc::ptr_eq(follower, cell)) {
                        followers.push_back(cell.clone());
                    }
                }
                // Whoever leads looks at the followers after it has let go. So either it finds this one, or this one finds nobody leading.
                fence(Ordering::SeqCst);
                match self.try_lead() {
                    Some(reading) => reading,
                    None => return false,
                }
            }
        };
        self.lead_until(shared, reading, cell, deadline);
        self.followers().retain(|follower| !Arc::ptr_eq(follower, cell));
        self.hand_on();
        // Where nothing is read any more there is nothing to come back for.
        cell.is_done() || !self.is_over.load(Ordering::Acquire)
    }

    fn lead_until(&self, shared: &Arc<Shared>, mut reading: Lead<'_>, cell: &Cell, deadline: &Deadline) {
        let Some(reading) = reading.as_mut() else { return };
        reading.set_spin(self.spin);
        while !cell.is_done() && !self.is_over.load(Ordering::Acquire) {
            let slice = deadline.cap(TICK);
            match reading.next(Wait::For(slice)) {
                Ok(Some(parcel)) => {
                    dispatch(shared, parcel);
                    self.tick_if_due(shared);
                }
                Ok(None) => {
                    self.tick_if_due(shared);
                    if deadline.has_passed() {
                        return;
                    }
                }
                Err(error) => return self.give_up(shared, error),
            }
        }
    }

    /// Nobody leads: has one of those that wait do so.
    fn hand_on(&self) {
        fence(Ordering::SeqCst);
        loop {
            let Some(next) = self.followers().pop_front() else {
                return;
            };
            // One that does not sleep may be gone for good. If it is not, it looks again by itself, and another one beside it does no harm.
            if !next.is_done() && next.nudge() {
                return;
            }
        }
    }

    /// See [`Attendant::attend`](crate::pool::outcome::Attendant::attend).
    pub(super) fn attend(&self) {
        self.is_awaited.store(true, Ordering::SeqCst);
        if self.naps.load(Ordering::SeqCst)
            && let Some(attendant) = self.attendant.get()
        {
            attendant.unpark();
        }
    }

    /// What the attendant does all its life.
    pub(super) fn run(&self, shared: &Arc<Shared>) {
        let _ = self.attendant.set(std::thread::current());
        let mut lends = self.lends.load(Ordering::Relaxed);
        while !self.is_over.load(Ordering::Acquire) {
            let lends_now = self.lends.load(Ordering::Relaxed);
            let is_quiet = std::mem::replace(&mut lends, lends_now) == lends_now;
            let is_needed = self.is_awaited.swap(false, Ordering::SeqCst) || is_quiet;
            if is_needed && let Some(reading) = self.try_lead() {
                if self.attend_until_somebody_else_does(shared, reading).is_break() {
                    return;
                }
                self.hand_on();
            }
            self.naps.store(true, Ordering::SeqCst);
            if !self.is_awaited.load(Ordering::SeqCst) {
                std::thread::park_timeout(NAP);
            }
            self.naps.store(false, Ordering::SeqCst);
        }
    }

    fn attend_until_somebody_else_does(&self, shared: &Arc<Shared>, mut reading: Lead<'_>) -> ControlFlow<()> {
        let Some(reading) = reading.as_mut() else {
            return ControlFlow::Break(());
        };
        reading.set_spin(Duration::ZERO);
        while !self.is_over.load(Ordering::Acquire) {
            self.rests.store(true, Ordering::SeqCst);
            // Looked at after the store: see `expect`.
            let slice = match self.is_expecting.load(Ordering::SeqCst) {
                false => REST,
                true => {
                    self.rests.store(false, Ordering::SeqCst);
                    TICK
                }
            };
            let got = reading.next(Wait::For(slice));
            self.rests.store(false, Ordering::SeqCst);
            match got {
                Ok(Some(parcel)) => dispatch(shared, parcel),
                Ok(None) => {}
                Err(error) => {
                    self.give_up(shared, error);
                    return ControlFlow::Break(());
                }
            }
            self.tick_if_due(shared);
            if !self.followers().is_empty() {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    /// In milliseconds.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Looks whether peers live, if that was not done a moment ago.
    fn tick_if_due(&self, shared: &Arc<Shared>) {
        let now = self.now();
        let is_due = |when: &AtomicU64, every: Duration| {
            let due = when.load(Ordering::Relaxed);
            let then = now + every.as_millis() as u64;
            now >= due
                && when
                    .compare_exchange(due, then, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        };
        let is_round = is_due(&self.next_round, ROUND);
        if is_round || self.is_expecting.load(Ordering::Relaxed) && is_due(&self.next, TICK) {
            // Before the look: what is expected meanwhile sets it again.
            self.is_expecting.store(false, Ordering::SeqCst);
            if shared.look(is_round) {
                self.is_expecting.store(true, Ordering::SeqCst);
            }
        }
    }

    /// The queue cannot be read any more.
    fn give_up(&self, shared: &Arc<Shared>, error: LocalError) {
        self.is_over.store(true, Ordering::Release);
        shared.broken(error);
        let followers: Vec<_> = self.followers().drain(..).collect();
        for follower in followers {
            follower.nudge();
        }
    }

    /// Leaves the queue, unless somebody still reads.
    pub(super) fn close(&self) {
        if let Some(mut reading) = self.try_lead() {
            *reading = None;
        }
    }

    /// Ends the attendant, and has nobody lead any more. It may have to be woken.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(attendant) = self.attendant.get() {
            attendant.unpark();
        }
    }
}

/// What is to be done with something that has arrived among the answers.
fn dispatch(shared: &Arc<Shared>, parcel: Parcel) {
    match parcel {
        Parcel::Frame(peer, frame) => {
            // What is for the handler after all: a late answer.
            if let Some(frame) = shared.settle(&peer, frame) {
                shared.turns.add(shared, peer, frame);
            }
        }
        Parcel::Refused(peer, refused) => shared.refused(&peer, &refused),
        Parcel::Nothing => {}
    }
}
