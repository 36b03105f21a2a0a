//! What becomes of a message that was sent: waited for, polled, awaited, cancelled. One result, given away once.
//!
//! Not here: who brings the result about. A transport whose reading can be done by the very thread that waits is an
//! [`Attendant`].

use super::address::Address;
use super::error::{PoolError, Stage};
use super::identity::Identity;
use super::message::Message;
use super::workers;
use crate::wait::{Deadline, Wait};
use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A transport that can make use of a thread that waits: the thread reads what comes, for itself and for others.
pub(crate) trait Attendant: Send + Sync {
    /// Reads and hands on what comes until `cell` [is done](Cell::is_done) or the deadline has passed. `false`: there is no need to, somebody
    /// else reads; sleep, and come again when [nudged](Cell::nudge).
    fn lend(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool;

    /// Nobody waits with a thread; the result is wanted all the same.
    fn attend(&self) {}
}

/// Who is told that a message is no longer wanted.
pub(crate) trait Canceller: Send + Sync {
    fn cancelled(&self, cell: &Cell);
}

/// The place for one result.
pub(crate) struct Cell {
    /// There is a result. Release: pairs with the Acquire of who looks without the lock.
    is_done: AtomicBool,
    pub(crate) identity: Identity,
    /// The link that has taken the message; 0 before.
    way: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<Message, PoolError>>,
    /// The message was written, or released, whatever its node wants to know.
    is_sent: bool,
    /// Written; kept until it is released, or to be sent again if it fails.
    message: Option<Message>,
    /// The peer has released it before the writer had brought the message back.
    is_released: bool,
    waker: Option<Waker>,
    sleepers: u32,
    is_nudged: bool,
    attendant: Option<Arc<dyn Attendant>>,
    /// Rung when it is done, by whom but the thread that reads for it.
    bell: Option<Arc<OwnedFd>>,
    canceller: Option<Weak<dyn Canceller>>,
}

thread_local! {
    /// The cell that this thread reads for, by its address.
    static READS_FOR: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Looks at the result before a thread goes to sleep, where another processor may be bringing it about.
const SPINS: u32 = 60;

impl Cell {
    pub(crate) fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Cell {
            is_done: AtomicBool::new(false),
            identity,
            way: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a result. One load.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// The link that has taken the message; 0 for none yet.
    pub(crate) fn way(&self) -> u64 {
        self.way.load(Ordering::Acquire)
    }

    pub(crate) fn set_way(&self, link: u64) {
        self.way.store(link, Ordering::Release);
    }

    /// Who reads what will bring the result. `true`: the result is awaited by nobody who could read, and [`attend`](Attendant::attend) is to be
    /// called, outside of all locks.
    #[must_use = "somebody may wait for what nobody reads"]
    pub(crate) fn set_attendant(&self, attendant: Arc<dyn Attendant>) -> bool {
        self.attended(self.lock(), attendant)
    }

    fn attended(&self, mut state: MutexGuard<'_, State>, attendant: Arc<dyn Attendant>) -> bool {
        let is_polled = state.waker.is_some();
        if state.sleepers > 0 {
            state.is_nudged = true;
            self.changed.notify_all();
        }
        state.attendant = Some(attendant);
        is_polled
    }

    /// As [`set_attendant`](Cell::set_attendant), of the link that takes the message now. [`None`]: there is a result, and it must not be sent any
    /// more.
    pub(crate) fn set_link(&self, link: u64, attendant: Arc<dyn Attendant>) -> Option<bool> {
        let state = self.lock();
        if self.is_done() {
            return None;
        }
        // With the lock: see `fail_late`.
        self.set_way(link);
        Some(self.attended(state, attendant))
    }

    /// Its time is over before the answer was there.
    pub(crate) fn fail_late(&self, peer: Address) -> Wake {
        let mut state = self.lock();
        if self.is_done() {
            return Wake::default();
        }
        // What no link has now, none will take. What waits in the send queue was failed by its peer: this one waits for room there.
        let stage = match self.way() {
            0 => Stage::Room,
            _ => Stage::Answer,
        };
        state.result = Some(Err(PoolError::TimedOut { peer, stage }));
        self.done(state)
    }

    pub(crate) fn set_canceller(&self, canceller: Weak<dyn Canceller>) {
        self.lock().canceller = Some(canceller);
    }

    /// The result is there. Gives back the waker of who awaits it, to be woken outside of all locks; or the result, if there was one already.
    #[allow(
        clippy::result_large_err,
        reason = "a late answer goes back to where it came from as it is"
    )]
    pub(crate) fn complete(&self, result: Result<Message, PoolError>) -> Result<Wake, Result<Message, PoolError>> {
        let mut state = self.lock();
        if self.is_done.load(Ordering::Relaxed) {
            return Err(result);
        }
        if result.is_ok() {
            state.message = None;
            state.is_sent = true;
        }
        state.result = Some(result);
        Ok(self.done(state))
    }

    fn done(&self, mut state: MutexGuard<'_, State>) -> Wake {
        state.attendant = None;
        let waker = state.waker.take();
        let bell = state.bell.take();
        let has_sleepers = state.sleepers > 0;
        self.is_done.store(true, Ordering::Release);
        drop(state);
        if has_sleepers {
            self.changed.notify_all();
        }
        if let Some(bell) = bell
            && READS_FOR.get() != self.address()
        {
            let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
        }
        Wake(waker)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The calling thread reads for this one, asleep on more than a cell can reach: `bell` is rung when another thread brings the result. `false`:
    /// that has happened already.
    pub(crate) fn set_bell(&self, bell: &Arc<OwnedFd>) -> bool {
        let mut state = self.lock();
        if self.is_done() {
            return false;
        }
        state.bell = Some(bell.clone());
        READS_FOR.set(self.address());
        true
    }

    pub(crate) fn unset_bell(&self) {
        READS_FOR.set(0);
        if !self.is_done() {
            self.lock().bell = None;
        }
    }

    /// It has failed. Nothing if there is a result already.
    pub(crate) fn fail(&self, error: PoolError) -> Wake {
        self.complete(Err(error)).unwrap_or_default()
    }

    /// As [`fail`](Cell::fail), with the message given back.
    pub(crate) fn fail_with(&self, error: PoolError, message: Message) -> Wake {
        self.keep(message);
        self.fail(error)
    }

    /// Keeps a message, in case it is wanted back.
    fn keep(&self, message: Message) {
        self.lock().message = Some(message);
    }

    /// The message was written. `is_all`: that is all its sender wants to know.
    pub(crate) fn written(&self, message: Message, is_all: bool) -> Wake {
        let mut state = self.lock();
        if self.is_done.load(Ordering::Relaxed) {
            return Wake::default();
        }
        if is_all || state.is_released {
            state.is_sent = true;
            state.result = Some(Ok(message));
            return self.done(state);
        }
        state.message = Some(message);
        Wake::default()
    }

    /// The peer has released the message; that is all its sender wants to know.
    pub(crate) fn released(&self) -> Wake {
        let mut state = self.lock();
        if self.is_done.load(Ordering::Relaxed) {
            return Wake::default();
        }
        match state.message.take() {
            Some(message) => {
                state.is_sent = true;
                state.result = Some(Ok(message));
                self.done(state)
            }
            None => {
                state.is_released = true;
                Wake::default()
            }
        }
    }

    /// The request is on its way; the answer is not there yet.
    pub(crate) fn sent(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.is_sent, true) && state.sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Has who sleeps look again: it may be its turn to [read](Attendant). `false`: nobody sleeps.
    pub(crate) fn nudge(&self) -> bool {
        let mut state = self.lock();
        state.is_nudged = true;
        let has_sleepers = state.sleepers > 0;
        drop(state);
        if has_sleepers {
            self.changed.notify_all();
        }
        has_sleepers
    }

    /// Waits for the result, or until `is_enough`.
    fn wait(self: &Arc<Self>, deadline: &Deadline, is_enough: Option<&dyn Fn(&State) -> bool>) {
        if self.is_done() || matches!(deadline, Deadline::Now) {
            return;
        }
        let is_over = |state: &State| is_enough.is_some_and(|is_enough| is_enough(state));
        workers::blocked(|| {
            loop {
                let attendant = {
                    let mut state = self.lock();
                    if self.is_done.load(Ordering::Relaxed) || is_over(&state) {
                        return;
                    }
                    state.is_nudged = false;
                    state.attendant.clone()
                };
                if deadline.has_passed() {
                    return;
                }
                match attendant {
                    // Who reads, reads until there is a result.
                    Some(attendant) if is_enough.is_some() => attendant.attend(),
                    Some(attendant) if attendant.lend(self, deadline) => continue,
                    _ => {}
                }
                self.sleep(deadline, is_over);
            }
        });
    }

    /// Sleeps until there is a result, there is another [attendant](Cell::set_attendant), or the deadline has passed.
    pub(crate) fn park(&self, deadline: &Deadline) {
        self.sleep(deadline, |_| false);
    }

    fn sleep(&self, deadline: &Deadline, is_enough: impl Fn(&State) -> bool) {
        if crate::sys::spinning_helps() {
            for _ in 0..SPINS {
                if self.is_done() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut state = self.lock();
        state.sleepers += 1;
        while !self.is_done.load(Ordering::Relaxed) && !state.is_nudged && !is_enough(&state) && !deadline.has_passed()
        {
            // As good as for ever, and no overflow anywhere.
            let limit = deadline.cap(Duration::from_secs(3600));
            let woken = self.changed.wait_timeout(state, limit);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.sleepers -= 1;
    }

    fn take(&self) -> Result<Option<Message>, PoolError> {
        if !self.is_done() {
            return Ok(None);
        }
        let mut state = self.lock();
        match state.result.take() {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(error)) => {
                state.result = Some(Err(error.clone()));
                Err(error)
            }
            None => Err(PoolError::Taken),
        }
    }
}

/// Who awaits a result that is there now; woken when this is dropped, which is to be outside of all locks.
#[derive(Default)]
#[must_use = "wakes when it is dropped: drop it outside of all locks"]
pub(crate) struct Wake(Option<Waker>);

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            // It is the user's, and this thread may be one that all nodes need.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // A panic's value may panic as well when it is dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            }
        }
    }
}

/// What becomes of a message: that it was sent, or the answer to a request.
///
/// It is there once, in time, whatever happens: see [`PoolError`] for what can. Dropping it makes no difference to the message.
///
/// * of [`Chirp::send`](super::Chirp::send): the message, when the peer has released it (synchronous) or the operating system has it
///   (asynchronous).
/// * of [`Chirp::request`](super::Chirp::request): the answer.
///
/// [Wait](Outcome::wait) for it, await it (it is a [`Future`], for whatever runtime), or look now and then.
pub struct Outcome {
    cell: Arc<Cell>,
}

impl Outcome {
    pub(crate) fn of(cell: Arc<Cell>) -> Self {
        Outcome { cell }
    }

    /// One that has failed before it began.
    pub(crate) fn failed(error: PoolError, message: Message) -> Self {
        let cell = Cell::new(message.identity);
        drop(cell.fail_with(error, message));
        Outcome { cell }
    }

    /// The identity of the message, and of its answer.
    pub fn identity(&self) -> Identity {
        self.cell.identity
    }

    /// Whether there is a result.
    pub fn is_done(&self) -> bool {
        self.cell.is_done()
    }

    /// Waits for the result. [`None`] if it is not there in time; it can be waited for again.
    ///
    /// A thread that waits in a handler does not keep other messages from being handled.
    ///
    /// # Errors
    ///
    /// Why there is no result, and never will be; as often as asked. [`PoolError::Taken`] if it was given away before.
    pub fn wait(&mut self, wait: impl Into<Wait>) -> Result<Option<Message>, PoolError> {
        self.cell.wait(&Deadline::of(wait.into()), None);
        self.cell.take()
    }

    /// Waits until there is a result, which the time of the message bounds.
    ///
    /// # Errors
    ///
    /// As [`wait`](Outcome::wait).
    pub fn result(mut self) -> Result<Message, PoolError> {
        loop {
            if let Some(message) = self.wait(Wait::Forever)? {
                return Ok(message);
            }
        }
    }

    /// Waits until a request is sent: released by the peer (synchronous), or with the operating system (asynchronous). For a plain send
    /// that is the result itself. `false`: not in time.
    ///
    /// # Errors
    ///
    /// As [`wait`](Outcome::wait). A request that was answered was sent, too.
    pub fn wait_sent(&mut self, wait: impl Into<Wait>) -> Result<bool, PoolError> {
        self.cell.wait(&Deadline::of(wait.into()), Some(&|state| state.is_sent));
        let state = self.cell.lock();
        match &state.result {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(state.is_sent),
        }
    }

    /// The message of a send or request that has failed before anything of it was written, or whose release did not come: to be sent again.
    /// [`None`] if it is not there (any more). Whether the peer may have seen it says [`PoolError::is_unsent`].
    pub fn take_message(&mut self) -> Option<Message> {
        self.cell.is_done().then(|| self.cell.lock().message.take())?
    }

    /// Gives the message up: it is not sent, if it was not yet; a node of this library that has it drops it, if it was not handled yet. An answer that
    /// comes all the same goes to the handler. `false`: too late, there is a result.
    ///
    /// The result is [`PoolError::Cancelled`] then.
    pub fn cancel(&self) -> bool {
        let Ok(wake) = self.cell.complete(Err(PoolError::Cancelled)) else {
            return false;
        };
        drop(wake);
        let canceller = self.cell.lock().canceller.take();
        if let Some(canceller) = canceller.and_then(|canceller| canceller.upgrade()) {
            canceller.cancelled(&self.cell);
        }
        true
    }
}

impl Future for Outcome {
    type Output = Result<Message, PoolError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let attendant = {
            let mut state = self.cell.lock();
            if self.cell.is_done.load(Ordering::Relaxed) {
                drop(state);
                return Poll::Ready(match self.cell.take() {
                    Ok(message) => message.ok_or(PoolError::Taken),
                    Err(error) => Err(error),
                });
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            state.attendant.clone()
        };
        if let Some(attendant) = attendant {
            attendant.attend();
        }
        Poll::Pending
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("identity", &self.cell.identity)
            .field("is_done", &self.is_done())
            .finish_non_exhaustive()
    }
}

/// When the time of a message is over. [`None`]: never.
pub(crate) type Due = Option<Instant>;
