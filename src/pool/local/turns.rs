//! Who reads the queue of messages: threads that take turns, and run the handler themselves.
//!
//! A message that one thread reads and another one handles has to be handed over, and that costs more than the way through the queue. So the thread
//! that *leads* reads a message, handles it, and comes back to read the next one. Who leads next meanwhile?
//!
//! * If handlers have been taking long (more than [`SHORT`] on average), the lead is handed on first.
//! * If not, the leader is only *away*: it will be back sooner than another thread could be woken, even if there is more to do. Another thread, the *deputy*, looks once in a [`NAP`] and takes the lead from one that is away too long.
//! * A handler that begins to wait for something hands the lead on first, and its slot is free for others meanwhile.
//!
//! # Slots
//!
//! A peer may have so many messages with the application at a time. What comes from it beyond that is put aside, in order, and the messages
//! of other peers behind it go on. When [`MOST_ASIDE`] bytes are aside, the queue is not read until something is released: it fills,
//! and its writers wait.

use super::inbox::Reading;
use super::parcel::Parcel;
use super::remote::Remote;
use super::{Lane, Shared};
use crate::Wait;
use crate::pool::wire::{Frame, HEADER_LEN};
use crate::pool::workers::{self, Blocks};
use crate::wait::Deadline;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A handler that takes less than this is not worth waking another thread for.
const SHORT: Duration = Duration::from_micros(20);

/// How often the deputy looks while messages come.
const NAP: Duration = Duration::from_millis(1);

/// So many naps without news, and the deputy sleeps until it is woken.
const QUIET_NAPS: u32 = 20;

/// Bytes that are put aside, each frame counted with what it takes beside its own bytes.
const MOST_ASIDE: usize = 1 << 20;

/// What a frame that is put aside takes beside its own bytes, at least.
const FRAME_COST: usize = 128;

/// More threads than asked for, that stand in for those that wait.
const MOST_EXTRA: usize = 512;

/// How long the leader sleeps at a time.
const REST: Duration = Duration::from_millis(500);

/// Whose lead it is: a number that is another one for each turn, and what the leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Lead(u64);

impl Lead {
    const FREE: u64 = 0;
    const READS: u64 = 1;
    const AWAY: u64 = 2;

    fn is(self, what: u64) -> bool {
        self.0 & 3 == what
    }

    /// The next turn.
    fn next(self, what: u64) -> Lead {
        Lead(((self.0 >> 2) + 1) << 2 | what)
    }

    /// The same turn.
    fn same(self, what: u64) -> Lead {
        Lead(self.0 & !3 | what)
    }
}

/// A message whose slot is taken: to be handled.
#[derive(Debug)]
struct Job {
    peer: Arc<Remote>,
    frame: Frame,
}

#[derive(Debug)]
pub(super) struct Turns {
    /// Locked by whoever leads and reads.
    reading: Mutex<Option<Reading>>,
    lead: AtomicU64,
    crew: Mutex<Crew>,
    /// As many as `crew.jobs`, to look without the lock.
    jobs: AtomicUsize,
    /// Bytes put aside.
    aside: AtomicUsize,
    /// Nobody may lead until something is released.
    is_stalled: AtomicBool,
    /// The deputy naps, and so will find a leader that is away too long.
    has_deputy: AtomicBool,
    /// What handlers take, in nanoseconds: a running average.
    pace: AtomicU64,
    /// Threads that may be at work at a time.
    most: usize,
    slots: i32,
    spin: Duration,
    name: String,
    /// No more threads; those that there are finish what there is.
    ends: AtomicBool,
    /// There is nothing more to read.
    is_drained: AtomicBool,
    has_ended: Condvar,
}

#[derive(Debug, Default)]
struct Crew {
    jobs: VecDeque<Job>,
    parked: Vec<Thread>,
    alive: usize,
    /// Those whose handler waits for something.
    blocked: usize,
}

thread_local! {
    /// The turn that this thread has, while it is away to run a handler.
    static TURN: Cell<Lead> = const { Cell::new(Lead(0)) };
    /// Whose thread this is: the address of the [`Turns`].
    static IS_IN: Cell<usize> = const { Cell::new(0) };
}

impl Turns {
    pub(super) fn new(name: &str, reading: Reading, most: usize, slots: i32, spin: Duration) -> Self {
        Turns {
            reading: Mutex::new(Some(reading)),
            lead: AtomicU64::new(Lead::FREE),
            crew: Mutex::default(),
            jobs: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            is_stalled: AtomicBool::new(false),
            has_deputy: AtomicBool::new(false),
            pace: AtomicU64::new(0),
            most: most.max(1),
            slots: slots.max(1),
            spin,
            name: format!("{name} handlers"),
            ends: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
            has_ended: Condvar::new(),
        }
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead(&self) -> Lead {
        Lead(self.lead.load(Ordering::SeqCst))
    }

    /// Changes whose lead it is, if it is as seen.
    fn change(&self, seen: Lead, to: Lead) -> bool {
        self.lead
            .compare_exchange(seen.0, to.0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The first thread.
    pub(super) fn begin(&self, shared: &Arc<Shared>) -> std::io::Result<()> {
        self.start(shared, &mut self.crew())
    }

    fn start(&self, shared: &Arc<Shared>, crew: &mut Crew) -> std::io::Result<()> {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || work(&shared))?;
        crew.alive += 1;
        Ok(())
    }

    /// Has another thread look: there is a job, or the lead is free, or its holder is away. `false`: all there may be are at work, or one of them
    /// reads.
    fn call_up(&self, shared: &Arc<Shared>) -> bool {
        let mut crew = self.crew();
        if let Some(next) = crew.parked.pop() {
            drop(crew);
            next.unpark();
            return true;
        }
        let may_start = crew.alive - crew.blocked < self.most && crew.alive < self.most + MOST_EXTRA;
        // Without another thread those that there are go on, one after the other.
        may_start && self.start(shared, &mut crew).is_ok()
    }

    /// A frame for the handler: takes a slot for it, or puts it aside.
    pub(super) fn add(&self, shared: &Arc<Shared>, peer: Arc<Remote>, frame: Frame) {
        if let Some(job) = self.take_slot_or_put_aside(peer, frame) {
            self.push(shared, job);
        }
    }

    fn take_slot_or_put_aside(&self, peer: Arc<Remote>, frame: Frame) -> Option<Job> {
        // Whoever gives a slot back looks afterwards at what is aside, under the same lock. So either it finds this frame, or this finds the slot.
        let mut aside = peer.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if aside.is_empty() && peer.take_slot(self.slots) {
            drop(aside);
            return Some(Job { peer, frame });
        }
        let bytes = cost(&frame);
        aside.push_back(frame);
        if self.aside.fetch_add(bytes, Ordering::SeqCst) + bytes > MOST_ASIDE {
            self.is_stalled.store(true, Ordering::SeqCst);
            // Enough may have been taken from there just before, by somebody who found nothing stalled.
            if self.aside.load(Ordering::SeqCst) <= MOST_ASIDE / 2 {
                self.is_stalled.store(false, Ordering::SeqCst);
            }
        }
        None
    }

    fn push(&self, shared: &Arc<Shared>, job: Job) {
        self.crew().jobs.push_back(job);
        self.jobs.fetch_add(1, Ordering::SeqCst);
        if !self.call_up(shared) && self.lead().is(Lead::READS) {
            // It may sleep, with nothing to read.
            shared.ring(Lane::Messages);
        }
    }

    /// A slot of `peer` was given back, or lent: the next message of it may be handled.
    pub(super) fn freed(&self, shared: &Arc<Shared>, peer: &Arc<Remote>) {
        let next = {
            let mut aside = peer.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if aside.is_empty() || !peer.take_slot(self.slots) {
                return;
            }
            aside.pop_front()
        };
        let Some(frame) = next else { return };
        let bytes = cost(&frame);
        let job = Job {
            peer: peer.clone(),
            frame,
        };
        self.push(shared, job);
        self.made_room(shared, bytes);
    }

    /// A frame that was put aside is not any more.
    pub(super) fn not_aside_any_more(&self, shared: &Arc<Shared>, frame: &Frame) {
        self.made_room(shared, cost(frame));
    }

    fn made_room(&self, shared: &Arc<Shared>, bytes: usize) {
        let is_enough = self.aside.fetch_sub(bytes, Ordering::SeqCst) - bytes <= MOST_ASIDE / 2;
        if is_enough && self.is_stalled.swap(false, Ordering::SeqCst) {
            self.call_up(shared);
        }
    }

    fn next_job(&self) -> Option<Job> {
        if self.jobs.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let job = self.crew().jobs.pop_front()?;
        self.jobs.fetch_sub(1, Ordering::SeqCst);
        Some(job)
    }

    /// Reads until there is something to be handled, which is then the leader's own to do. `Err`: the lead is free, and this thread is to look
    /// what else there is.
    fn read(&self, shared: &Arc<Shared>, mine: Lead) -> Result<Job, ()> {
        let mut guard = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reading) = guard.as_mut() else {
            self.is_drained.store(true, Ordering::SeqCst);
            return Err(());
        };
        reading.set_spin(self.spin);
        let job = loop {
            if self.is_stalled.load(Ordering::SeqCst) || self.jobs.load(Ordering::SeqCst) > 0 {
                break None;
            }
            let wait = if self.ends.load(Ordering::SeqCst) {
                Wait::Never
            } else {
                Wait::For(REST)
            };
            match reading.next(wait) {
                Ok(Some(Parcel::Frame(peer, frame))) => {
                    let Some(frame) = shared.settle(&peer, frame) else {
                        continue;
                    };
                    if let Some(job) = self.take_slot_or_put_aside(peer, frame) {
                        break Some(job);
                    }
                }
                Ok(Some(Parcel::Refused(peer, refused))) => shared.refused(&peer, &refused),
                Ok(Some(Parcel::Nothing)) => {}
                Ok(None) if self.ends.load(Ordering::SeqCst) => {
                    self.is_drained.store(true, Ordering::SeqCst);
                    break None;
                }
                Ok(None) => {}
                Err(error) => {
                    self.ends.store(true, Ordering::SeqCst);
                    self.is_drained.store(true, Ordering::SeqCst);
                    shared.broken(error);
                    break None;
                }
            }
        };
        drop(guard);
        let Some(job) = job else {
            self.change(mine, mine.next(Lead::FREE));
            return Err(());
        };
        let is_long = self.pace.load(Ordering::Relaxed) > SHORT.as_nanos() as u64;
        if is_long || self.jobs.load(Ordering::SeqCst) > 0 {
            self.change(mine, mine.next(Lead::FREE));
            self.call_up(shared);
        } else {
            let away = mine.same(Lead::AWAY);
            self.change(mine, away);
            TURN.set(away);
            if !self.has_deputy.load(Ordering::SeqCst) {
                self.call_up(shared);
            }
        }
        Ok(job)
    }

    /// Sleeps until there may be something to do. `false`: this thread is to end.
    fn park(&self, naps: &mut u32) -> bool {
        {
            let mut crew = self.crew();
            let is_one_too_many = crew.alive - crew.blocked > self.most;
            if crew.jobs.is_empty() && (is_one_too_many || self.is_drained.load(Ordering::SeqCst)) {
                // Under the lock, so that who counts finds either this thread or nobody.
                crew.alive -= 1;
                self.has_ended.notify_all();
                return false;
            }
            crew.parked.push(std::thread::current());
        }
        // What came after the last look and before this thread was on the list woke nobody, so look again.
        let lead = self.lead();
        if self.jobs.load(Ordering::SeqCst) > 0 || self.may_lead(lead) {
            // There is something to do.
        } else if *naps < QUIET_NAPS && !lead.is(Lead::FREE) && !self.has_deputy.swap(true, Ordering::SeqCst) {
            std::thread::park_timeout(NAP);
            self.has_deputy.store(false, Ordering::SeqCst);
            let now = self.lead();
            *naps = if now == lead { *naps + 1 } else { 0 };
            if now == lead && now.is(Lead::AWAY) {
                // For a whole nap.
                self.change(now, now.next(Lead::FREE));
                *naps = 0;
            }
        } else {
            std::thread::park_timeout(REST);
            *naps = 0;
        }
        let me = std::thread::current().id();
        self.crew().parked.retain(|parked| parked.id() != me);
        true
    }

    fn may_lead(&self, lead: Lead) -> bool {
        lead.is(Lead::FREE) && !self.is_stalled.load(Ordering::SeqCst) && !self.is_drained.load(Ordering::SeqCst)
    }

    fn handle(&self, shared: &Arc<Shared>, job: Job) {
        let began = Instant::now();
        shared.handle(job.peer, job.frame);
        let took = began.elapsed().as_nanos().min(1 << 40) as u64;
        let before = self.pace.load(Ordering::Relaxed);
        self.pace.store(before - before / 8 + took / 8, Ordering::Relaxed);
    }

    /// No more turns: what has arrived is handled, and then the threads end. `false`: not in time. The leader may have to be woken.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::SeqCst);
        for thread in self.crew().parked.drain(..) {
            thread.unpark();
        }
    }

    /// Waits until all threads have ended, but for as many as `but`. `false`: not in time.
    pub(super) fn wait_ended(&self, but: usize, deadline: &Deadline) -> bool {
        let mut crew = self.crew();
        while crew.alive > but {
            if deadline.has_passed() {
                return false;
            }
            let woken = self.has_ended.wait_timeout(crew, deadline.cap(REST));
            crew = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Leaves the queue, unless somebody still reads.
    pub(super) fn close(&self) {
        if let Ok(mut reading) = self.reading.try_lock() {
            *reading = None;
        }
    }

    /// Whether the calling thread is one of these.
    pub(super) fn is_mine(&self) -> bool {
        IS_IN.with(Cell::get) == std::ptr::from_ref(self).addr()
    }
}

fn cost(frame: &Frame) -> usize {
    FRAME_COST + HEADER_LEN + frame.header.len() + frame.data.len()
}

/// What a thread does all its life.
fn work(shared: &Arc<Shared>) {
    let turns = &shared.turns;
    IS_IN.with(|it| it.set(std::ptr::from_ref(turns).addr()));
    workers::enlist(Box::new(Hand(Arc::downgrade(shared))));
    let mut naps = 0;
    loop {
        if let Some(job) = turns.next_job() {
            turns.handle(shared, job);
            continue;
        }
        let mut lead = turns.lead();
        if turns.may_lead(lead) {
            loop {
                let mine = lead.next(Lead::READS);
                if !turns.change(lead, mine) {
                    break;
                }
                let Ok(job) = turns.read(shared, mine) else { break };
                turns.handle(shared, job);
                lead = TURN.take();
                if !lead.is(Lead::AWAY) {
                    break;
                }
            }
            naps = 0;
            continue;
        }
        if !turns.park(&mut naps) {
            return;
        }
    }
}

/// A thread whose handler may begin to wait.
struct Hand(Weak<Shared>);

impl Blocks for Hand {
    fn blocked(&self, is_blocked: bool) {
        let Some(shared) = self.0.upgrade() else { return };
        let turns = &shared.turns;
        if !is_blocked {
            turns.crew().blocked -= 1;
            return;
        }
        turns.crew().blocked += 1;
        let turn = TURN.take();
        let gives_lead = turn.is(Lead::AWAY) && turns.change(turn, turn.next(Lead::FREE));
        if gives_lead || turns.jobs.load(Ordering::SeqCst) > 0 || turns.may_lead(turns.lead()) {
            turns.call_up(&shared);
        }
    }
}
