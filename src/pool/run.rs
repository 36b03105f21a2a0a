//! The loop: one thread with a poller that several nodes share. It reads what nobody else is just reading, writes what could not be written
//! at once, and looks at what is overdue.
//!
//! Not here: what is read and written, and what is overdue. Sources and nodes are called.

use super::error::PoolError;
use super::outcome::Due;
use crate::channel::{Interest, Poller, Token, Waker, What};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// Something with a descriptor that the loop watches.
pub(crate) trait Source: Send + Sync {
    /// Always the same one.
    fn fd(&self) -> &Arc<OwnedFd>;

    /// What to watch for. [`None`]: no more, for ever.
    fn interest(&self) -> Option<Interest>;

    /// It is ready, or the interest was asked for anew because of [`Shared::look_at`]. Called by the loop's thread.
    fn ready(self: Arc<Self>, ready: Interest);

    /// A number of its own.
    fn id(&self) -> u64;
}

/// Something with things that can be overdue.
pub(crate) trait Sweep: Send + Sync {
    /// Ends what is overdue. Returns when to look again.
    fn sweep(&self, now: Instant) -> Due;

    fn id(&self) -> u64;
}

/// For [`Source::id`] and [`Sweep::id`].
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

enum Command {
    Call(Box<dyn FnOnce() + Send>),
    Look(Arc<dyn Source>),
    Add(Arc<dyn Sweep>),
    Remove(u64),
}

/// Looks at what is overdue are at least this far apart.
const GRAIN: Duration = Duration::from_millis(1);

/// One thread that any number of [`Chirp`](super::Chirp)s share.
///
/// Handlers do not run on it, and it never waits for them.
///
/// ```
/// use syncq::pool::Loop;
///
/// let looper = Loop::new()?;
/// looper.call_soon(|| println!("on the loop's thread"));
/// assert!(looper.is_running());
/// looper.stop();
/// assert!(!looper.is_running());
/// # Ok::<(), syncq::pool::PoolError>(())
/// ```
///
/// It is counted: after [`stop`](Loop::stop), or when the last handle to it is dropped, it runs on until the last of its chirps has
/// stopped. It cannot be started again.
#[derive(Clone)]
pub struct Loop {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    waker: Waker,
    /// [`None`]: it has ended, and nothing is taken any more.
    commands: Mutex<Option<Vec<Command>>>,
    /// The loop was woken, and has not taken the commands yet.
    is_called: AtomicBool,
    /// When it looks at what is overdue, in nanoseconds since `base`.
    next_look: AtomicU64,
    base: Instant,
    life: Mutex<Life>,
    has_ended: Condvar,
    /// In which process it runs.
    born: u64,
}

#[derive(Default)]
struct Life {
    /// Made, and not started yet.
    begins: Option<Box<Poller>>,
    is_running: bool,
    is_stopping: bool,
    chirps: usize,
    thread: Option<JoinHandle<()>>,
    id: Option<ThreadId>,
}

impl Loop {
    /// One that runs.
    ///
    /// # Errors
    ///
    /// [`PoolError::Os`] if there is no descriptor or thread left.
    pub fn new() -> Result<Self, PoolError> {
        let it = Loop::idle()?;
        it.run()?;
        Ok(it)
    }

    /// One that does not run before [`run`](Loop::run).
    ///
    /// # Errors
    ///
    /// [`PoolError::Os`] if there is no descriptor left.
    pub fn idle() -> Result<Self, PoolError> {
        let poller = Poller::new().map_err(|error| PoolError::os("making a poller", error))?;
        let shared = Shared {
            waker: poller.waker(),
            commands: Mutex::new(Some(Vec::new())),
            is_called: AtomicBool::new(false),
            next_look: AtomicU64::new(u64::MAX),
            base: Instant::now(),
            life: Mutex::new(Life {
                begins: Some(Box::new(poller)),
                ..Life::default()
            }),
            has_ended: Condvar::new(),
            born: fork::generation(),
        };
        Ok(Loop {
            handle: Arc::new(Handle {
                shared: Arc::new(shared),
            }),
        })
    }

    /// Starts it. Does nothing if it runs.
    ///
    /// # Errors
    ///
    /// [`PoolError::LoopStopped`] if it was stopped, [`PoolError::Forked`] in a fork of the process that made it,
    /// [`PoolError::Os`] if there is no thread left.
    pub fn run(&self) -> Result<(), PoolError> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        let mut life = shared.life();
        if life.is_stopping {
            return Err(PoolError::LoopStopped);
        }
        let Some(poller) = life.begins.take() else {
            return Ok(());
        };
        let inner = shared.clone();
        let thread = std::thread::Builder::new()
            .name("chirp loop".into())
            .spawn(move || inner.run(*poller))
            .map_err(|error| PoolError::os("starting a thread", error))?;
        life.is_running = true;
        life.id = Some(thread.thread().id());
        life.thread = Some(thread);
        Ok(())
    }

    /// Whether its thread runs.
    pub fn is_running(&self) -> bool {
        self.handle.shared.life().is_running && self.handle.shared.check_process().is_ok()
    }

    /// Has the loop's thread call `call`, soon, in the order of the calls; before it runs too. It must not block: all nodes of the loop would. A
    /// panic is caught. Not called at all once the loop has stopped.
    pub fn call_soon(&self, call: impl FnOnce() + Send + 'static) {
        self.handle.shared.command(Command::Call(Box::new(call)));
    }

    /// No more chirps. Its thread ends when the last of them has stopped; if there is none, this waits for that.
    pub fn stop(&self) {
        self.handle.shared.stop();
    }

    /// Another chirp uses it.
    pub(crate) fn enter(&self) -> Result<Arc<Shared>, PoolError> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        let mut life = shared.life();
        if !life.is_running || life.is_stopping {
            return Err(PoolError::LoopStopped);
        }
        life.chirps += 1;
        Ok(shared.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life = self.handle.shared.life();
        f.debug_struct("Loop")
            .field("is_running", &life.is_running)
            .field("chirps", &life.chirps)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_process(&self) -> Result<(), PoolError> {
        match self.born == fork::generation() {
            true => Ok(()),
            false => Err(PoolError::Forked),
        }
    }

    /// A chirp has stopped.
    pub(crate) fn leave(&self) {
        self.life().chirps -= 1;
        self.wake();
    }

    /// Watches it, for what it is interested in now.
    pub(crate) fn look_at(&self, source: Arc<dyn Source>) {
        self.command(Command::Look(source));
    }

    pub(crate) fn add(&self, sweep: Arc<dyn Sweep>) {
        self.command(Command::Add(sweep));
    }

    pub(crate) fn remove(&self, id: u64) {
        self.command(Command::Remove(id));
    }

    fn command(&self, command: Command) {
        let mut commands = self.commands();
        let Some(list) = &mut *commands else {
            // Dropped with nothing locked: it is not known what that does.
            drop(commands);
            return drop(command);
        };
        list.push(command);
        drop(commands);
        self.wake();
    }

    fn wake(&self) {
        // SeqCst: pairs with the loop's own, which clears it before it looks at the commands.
        if !self.is_called.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    fn nanos(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Something may be overdue at `instant`: to be called after it can be found by a [sweep](Sweep).
    pub(crate) fn due(&self, instant: Instant) {
        // SeqCst: pairs with the loop's store before it sweeps. Either that sweep finds it, or this finds "never" there, or what the sweep
        // has made of it.
        if self.nanos(instant) < self.next_look.load(Ordering::SeqCst) {
            self.next_look.store(0, Ordering::SeqCst);
            self.wake();
        }
    }

    /// Whether this is the loop's own thread.
    pub(crate) fn is_here(&self) -> bool {
        self.life().id == Some(std::thread::current().id())
    }

    fn stop(&self) {
        let mut life = self.life();
        life.is_stopping = true;
        let has_never_run = life.begins.take().is_some();
        let is_here = life.id == Some(std::thread::current().id());
        if self.check_process().is_err() || is_here {
            drop(life);
            return self.wake();
        }
        drop(life);
        if has_never_run {
            let left = self.commands().take();
            drop(left);
        }
        self.wake();
        let mut life = self.life();
        while life.is_running && life.chirps == 0 {
            life = self.has_ended.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
        let has_ended = !life.is_running;
        let thread = life.thread.take_if(|_| has_ended);
        drop(life);
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn run(&self, mut poller: Poller) {
        let mut sources: HashMap<Token, Arc<dyn Source>> = HashMap::new();
        let mut tokens: HashMap<u64, Token> = HashMap::new();
        let mut sweeps: Vec<Arc<dyn Sweep>> = Vec::new();
        let mut events = Vec::new();
        let mut last_sweep = Instant::now();
        loop {
            self.is_called.store(false, Ordering::SeqCst);
            let commands = self.commands().replace(Vec::new());
            for command in commands.into_iter().flatten() {
                match command {
                    Command::Call(call) => drop(catch_unwind(AssertUnwindSafe(call))),
                    Command::Add(sweep) => {
                        sweeps.push(sweep);
                        self.next_look.store(0, Ordering::SeqCst);
                    }
                    Command::Remove(id) => sweeps.retain(|sweep| sweep.id() != id),
                    Command::Look(source) => {
                        source.clone().ready(Interest::NONE);
                        watch(&mut poller, &mut sources, &mut tokens, source);
                    }
                }
            }
            {
                let life = self.life();
                if life.is_stopping && life.chirps == 0 {
                    break;
                }
            }
            let now = Instant::now();
            let mut next = self.next_look.load(Ordering::SeqCst);
            if self.nanos(now) >= next {
                if now >= last_sweep + GRAIN {
                    last_sweep = now;
                    self.next_look.store(u64::MAX, Ordering::SeqCst);
                    let due = sweeps.iter().filter_map(|sweep| sweep.sweep(now)).min();
                    next = due.map_or(u64::MAX, |due| self.nanos(due.max(now + GRAIN)));
                    // Somebody may have put it to 0 meanwhile.
                    let _ = self
                        .next_look
                        .compare_exchange(u64::MAX, next, Ordering::SeqCst, Ordering::SeqCst);
                    next = next.min(self.next_look.load(Ordering::SeqCst));
                }
                next = next.max(self.nanos(last_sweep + GRAIN));
            }
            let wait = match next {
                u64::MAX => Wait::Forever,
                nanos => Wait::Until(self.base + Duration::from_nanos(nanos)),
            };
            if let Err(_refused) = poller.poll_into(&mut events, wait) {
                // Out of memory, at worst. There is nobody to tell, and giving up would leave all nodes without a loop.
                std::thread::sleep(Deadline::of(wait).cap(Duration::from_millis(10)));
            }
            for event in events.drain(..) {
                let Some(source) = sources.get(&event.source).cloned() else {
                    continue;
                };
                let ready = match event.what {
                    What::Ready(ready) => ready,
                    What::Error(_) => Interest::BOTH,
                    _ => continue,
                };
                source.clone().ready(ready);
                watch(&mut poller, &mut sources, &mut tokens, source);
            }
        }
        drop(sources);
        drop(poller);
        let left = self.commands().take();
        drop(left);
        self.life().is_running = false;
        self.has_ended.notify_all();
    }
}

/// Watches a source for what it is interested in now.
fn watch(
    poller: &mut Poller,
    sources: &mut HashMap<Token, Arc<dyn Source>>,
    tokens: &mut HashMap<u64, Token>,
    source: Arc<dyn Source>,
) {
    match (tokens.get(&source.id()).copied(), source.interest()) {
        (Some(token), Some(interest)) => {
            // It is there: it stands in the table.
            let _ = poller.set_interest(token, interest);
        }
        (Some(token), None) => {
            poller.unregister(token);
            tokens.remove(&source.id());
            sources.remove(&token);
        }
        (None, Some(interest)) => {
            let token = poller.watch(source.fd().clone(), interest);
            tokens.insert(source.id(), token);
            sources.insert(token, source);
        }
        (None, None) => {}
    }
}
