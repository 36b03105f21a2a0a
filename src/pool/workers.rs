//! The threads that run handlers.
//!
//! A thread whose handler waits for an outcome is not at work: others may begin meanwhile, and one is added if there is none left, so that
//! handlers that ask each other do not wait for ever for a thread.
//!
//! Not here: what a handler is, and what its end means for the message (`node.rs`).

use super::error::PoolError;
use super::message::Slot;
use crate::wait::Deadline;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What a thread of the pool does with a job.
pub(crate) type Work<J> = dyn Fn(J) + Send + Sync;

/// More threads than asked for, that stand in for those that wait.
const MOST_EXTRA: usize = 512;

/// Somebody whose threads can begin to wait.
pub(crate) trait Blocks {
    /// The calling thread begins (`true`) or ends to wait.
    fn blocked(&self, is_blocked: bool);
}

thread_local! {
    /// Whose thread this is, if it runs a handler.
    static CREW: RefCell<Option<Box<dyn Blocks>>> = const { RefCell::new(None) };
    /// The slot of the message that this thread handles.
    static SLOT: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

/// This thread runs handlers, and belongs to `crew`.
pub(crate) fn enlist(crew: Box<dyn Blocks>) {
    CREW.with(|it| *it.borrow_mut() = Some(crew));
}

/// Whether this thread runs a handler.
pub(crate) fn is_in_handler() -> bool {
    SLOT.try_with(|slot| slot.borrow().is_some()).unwrap_or(false)
}

/// Whether this thread runs the handler of the message with this slot.
pub(crate) fn is_handling(slot: &Arc<Slot>) -> bool {
    let is_it =
        |handled: &RefCell<Option<Arc<Slot>>>| handled.borrow().as_ref().is_some_and(|it| Arc::ptr_eq(it, slot));
    SLOT.try_with(is_it).unwrap_or(false)
}

/// Runs a handler on this thread, for the message with this slot, which is [lent](Slot::lend) while the handler [waits](blocked).
pub(crate) fn handle<R>(slot: Option<Arc<Slot>>, handler: impl FnOnce() -> R) -> R {
    struct Ends(Option<Arc<Slot>>);
    impl Drop for Ends {
        fn drop(&mut self) {
            let ended = SLOT.with(|it| std::mem::replace(&mut *it.borrow_mut(), self.0.take()));
            drop(ended);
        }
    }
    let _ends = Ends(SLOT.with(|it| std::mem::replace(&mut *it.borrow_mut(), slot)));
    handler()
}

/// Runs `wait`, which may sleep for long, letting others work meanwhile if this thread runs a handler.
pub(crate) fn blocked<R>(wait: impl FnOnce() -> R) -> R {
    fn tell(slot: &Slot, is_blocked: bool) {
        slot.lend(is_blocked);
        CREW.with(|crew| {
            if let Some(crew) = &*crew.borrow() {
                crew.blocked(is_blocked);
            }
        });
    }
    struct Ends(Arc<Slot>);
    impl Drop for Ends {
        fn drop(&mut self) {
            tell(&self.0, false);
        }
    }
    let Some(slot) = SLOT.try_with(|slot| slot.borrow().clone()).ok().flatten() else {
        return wait();
    };
    tell(&slot, true);
    let _ends = Ends(slot);
    wait()
}

/// The threads, and the jobs that wait for one.
pub(crate) struct Workers<J: Send + 'static> {
    shared: Arc<Shared<J>>,
}

struct Shared<J> {
    name: String,
    work: Box<Work<J>>,
    /// Threads that may be at work at a time.
    most: usize,
    state: Mutex<State<J>>,
    is_needed: Condvar,
    is_idle: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    threads: Vec<JoinHandle<()>>,
    /// All threads that have not ended.
    alive: usize,
    /// Those that sleep until there is a job.
    idle: usize,
    /// Those that were woken, and have not looked yet.
    woken: usize,
    /// Those whose handler waits for something.
    blocked: usize,
    /// Others who wait until there is nothing to do.
    watchers: usize,
    is_over: bool,
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Send + 'static> Workers<J> {
    /// None of the threads is started before it is needed.
    pub(crate) fn new(name: &str, most: usize, work: Box<Work<J>>) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            threads: Vec::new(),
            alive: 0,
            idle: 0,
            woken: 0,
            blocked: 0,
            watchers: 0,
            is_over: false,
        };
        Workers {
            shared: Arc::new(Shared {
                name: name.into(),
                work,
                most: most.max(1),
                state: Mutex::new(state),
                is_needed: Condvar::new(),
                is_idle: Condvar::new(),
            }),
        }
    }

    /// Has a thread do this. Gives it back if there is none and none can be started, or all is over.
    pub(crate) fn push(&self, job: J) -> Result<(), (J, PoolError)> {
        let mut state = self.shared.lock();
        if state.is_over {
            return Err((job, PoolError::ShuttingDown));
        }
        state.jobs.push_back(job);
        match self.shared.call_up(&mut state) {
            Ok(is_to_wake) => {
                drop(state);
                if is_to_wake {
                    self.shared.is_needed.notify_one();
                }
                Ok(())
            }
            // Those that there are will do it.
            Err(_) if state.alive > 0 => Ok(()),
            Err(error) => match state.jobs.pop_back() {
                Some(job) => Err((job, error)),
                None => Ok(()),
            },
        }
    }

    /// Whether there is nothing to do, and another thread to do it.
    pub(crate) fn can_spare_one(&self) -> bool {
        let state = self.shared.lock();
        state.jobs.is_empty() && (state.idle > state.woken || state.alive - state.blocked < self.shared.most)
    }

    /// Jobs that nobody has begun.
    pub(crate) fn take_all(&self) -> Vec<J> {
        self.shared.lock().jobs.drain(..).collect()
    }

    /// Waits until there is no job and nobody at work, but for this many threads. `false`: not in time.
    pub(crate) fn wait_idle(&self, but: usize, deadline: &Deadline) -> bool {
        let mut state = self.shared.lock();
        loop {
            if state.jobs.is_empty() && state.alive - state.idle <= but {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            let limit = deadline.cap(std::time::Duration::from_secs(3600));
            state.watchers += 1;
            let woken = self.shared.is_idle.wait_timeout(state, limit);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.watchers -= 1;
        }
    }

    /// No more jobs. Threads end when they have finished what they are at; those that are idle are waited for.
    pub(crate) fn end(&self, but: usize, deadline: &Deadline) -> bool {
        self.shared.lock().is_over = true;
        self.shared.is_needed.notify_all();
        let is_idle = self.wait_idle(but, deadline);
        let threads = std::mem::take(&mut self.shared.lock().threads);
        if is_idle {
            let me = std::thread::current().id();
            for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
                // A panic of a handler was caught; one of ours is reported by the thread itself.
                let _ = thread.join();
            }
        }
        is_idle
    }

    /// Whether the calling thread is one of these.
    pub(crate) fn is_mine(&self) -> bool {
        let me = std::thread::current().id();
        self.shared
            .lock()
            .threads
            .iter()
            .any(|thread| thread.thread().id() == me)
    }
}

impl<J: Send + 'static> Shared<J> {
    /// Sees to it that somebody will look at the jobs: says whether to wake one, or starts one.
    fn call_up(self: &Arc<Self>, state: &mut State<J>) -> Result<bool, PoolError> {
        if state.idle > state.woken {
            state.woken += 1;
            return Ok(true);
        }
        if state.alive - state.blocked < self.most
            && state.alive < self.most + MOST_EXTRA
            && state.jobs.len() > state.woken
        {
            self.start(state)?;
        }
        Ok(false)
    }

    fn start(self: &Arc<Self>, state: &mut State<J>) -> Result<(), PoolError> {
        let shared = self.clone();
        let thread = std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || shared.run())
            .map_err(|error| PoolError::os("starting a thread", error))?;
        state.alive += 1;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(())
    }

    fn run(self: Arc<Self>) {
        CREW.with(|crew| *crew.borrow_mut() = Some(Box::new(self.clone())));
        let mut state = self.lock();
        loop {
            // Others do it already, as many as there may be: one that stood in for somebody goes when that one is back.
            let is_one_too_many = state.alive - state.idle - state.blocked > self.most;
            if !is_one_too_many && let Some(job) = state.jobs.pop_front() {
                let is_to_wake = !state.jobs.is_empty() && self.call_up(&mut state).unwrap_or(false);
                drop(state);
                if is_to_wake {
                    self.is_needed.notify_one();
                }
                (self.work)(job);
                state = self.lock();
                continue;
            }
            if is_one_too_many || state.is_over || state.alive - state.blocked > self.most {
                break;
            }
            state.idle += 1;
            // A system call, whether somebody waits or not.
            if state.jobs.is_empty() && state.watchers > 0 {
                self.is_idle.notify_all();
            }
            state = self.is_needed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            state.woken = state.woken.saturating_sub(1);
        }
        state.alive -= 1;
        self.is_idle.notify_all();
    }
}

impl<J: Send + 'static> Blocks for Arc<Shared<J>> {
    fn blocked(&self, is_blocked: bool) {
        let mut state = self.lock();
        if !is_blocked {
            state.blocked -= 1;
            return;
        }
        state.blocked += 1;
        if !state.jobs.is_empty() && self.call_up(&mut state).unwrap_or(false) {
            drop(state);
            self.is_needed.notify_one();
        }
    }
}
