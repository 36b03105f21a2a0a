//! Noticing a fork, and one process-wide lock that a fork cannot leave locked.
//!
//! Detection costs one load: each process has a word that is not 0, its *token*, in a private page that the kernel empties in a child
//! (`MADV_WIPEONFORK`), so it also notices a fork that bypasses libc. A child's own token is another word, so an inherited
//! one stays 0 for good. The lock is held across `fork` by handlers (`pthread_atfork(3)`), so a child never inherits
//! it locked by a thread that it does not have.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// The token of this process; or, until it is asked for, of an ancestor.
static TOKEN: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
#[cfg(not(loom))]
static EXCLUSIVE: Mutex<()> = Mutex::new(());
#[cfg(loom)]
loom::lazy_static! {
    /// Seen by the model, which would otherwise be stuck when it switches threads inside.
    static ref EXCLUSIVE: loom::sync::Mutex<()> = loom::sync::Mutex::new(());
}

#[cfg(not(loom))]
thread_local! {
    static ACROSS_FORK: std::cell::RefCell<Option<MutexGuard<'static, ()>>> =
        const { std::cell::RefCell::new(None) };
}

/// A number that differs between a process and each process forked from it. Never 0.
#[inline]
pub(crate) fn generation() -> u64 {
    // No token is ever given up, so no address comes twice.
    std::ptr::from_ref(token()).addr() as u64
}

/// The token of this process.
#[inline]
fn token() -> &'static AtomicU64 {
    let last = TOKEN.load(Ordering::Acquire);
    // SAFETY: a non-null TOKEN points into memory that is there for the life of the process (see `wiped_page`).
    match unsafe { last.as_ref() } {
        Some(token) if token.load(Ordering::Relaxed) != 0 => token,
        _ => next_token(last),
    }
}

/// Tells, for one load, whether this still is the process that made it.
#[derive(Debug)]
pub(crate) struct Born {
    token: &'static AtomicU64,
}

impl Born {
    pub(crate) fn now() -> Self {
        Born { token: token() }
    }

    #[inline(always)]
    pub(crate) fn is_of_this_process(&self) -> bool {
        // One that reads zero has been emptied by a fork since.
        self.token.load(Ordering::Relaxed) != 0
    }
}

/// How many tokens there are in a page: one for each process along a line of forks. Who comes after them takes another page.
/// (The test forks more often than this.)
const TOKENS: usize = if cfg!(test) { 4 } else { 512 };

/// This is the first call ever, or the first one since a fork, and `last` the token of nobody or of an ancestor.
///
/// Not a `Once`: a child forked while another thread is inside one waits for that thread for ever. Several threads may do this at a
/// time; the handlers may then be there twice, which does no harm.
#[cold]
fn next_token(last: *mut AtomicU64) -> &'static AtomicU64 {
    if last.is_null() {
        #[cfg(not(any(loom, miri)))]
        // SAFETY: the handlers are `extern "C"` functions that live as long as the program, touch only the lock above and the token, and
        // do not unwind.
        unsafe {
            nix::libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork_in_child));
        }
    }
    let is_page_full = || (last.addr() / size_of::<AtomicU64>() + 1).is_multiple_of(TOKENS);
    let next = match last.is_null() || is_page_full() {
        // Who comes second leaves his page unused.
        true => wiped_page(),
        // Nobody in the line of forks up to here has used it.
        false => last.wrapping_add(1),
    };
    // SAFETY: the first of a page, or one that `last` has behind it in its page.
    let token = unsafe { &*next };
    token.store(1, Ordering::Relaxed);
    match TOKEN.compare_exchange(last, next, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => token,
        // SAFETY: another thread of this process was here, and as in `token`.
        Err(other) => unsafe { &*other },
    }
}

/// A page of [`TOKENS`] words, at a multiple of its length, that read zero in a forked child. Never given back. Where the advice is
/// refused (kernels before 4.14) or cannot be given (Miri), it is ordinary memory, and only the `after_fork` handler notices a
/// fork.
fn wiped_page() -> *mut AtomicU64 {
    #[cfg(not(any(loom, miri)))]
    {
        use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
        let len = std::num::NonZeroUsize::new(size_of::<Page>()).expect("a page has some bytes");
        // SAFETY: a fresh private mapping at an address of the kernel's choice, never unmapped.
        let page = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        };
        if let Ok(page) = page {
            // SAFETY: advice about the page just mapped; it holds nothing yet.
            let _ = unsafe { madvise(page, len.get(), MmapAdvise::MADV_WIPEONFORK) };
            return page.as_ptr().cast();
        }
    }
    Box::into_raw(Box::new(Page([const { AtomicU64::new(0) }; TOKENS]))).cast()
}

#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "reached by its address")] [AtomicU64; TOKENS]);

/// Locks what a process may do only one at a time: opening segments, taking and leaving slots, burying the dead.
/// Never held while waiting for another process.
pub(crate) fn exclusive() -> impl Drop {
    let _ = generation();
    // The lock guards no data of its own, so a panic while it was held has broken nothing.
    EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that each process has for itself: in a forked child it is made anew, whatever other threads of the parent were doing with
/// theirs. What the child inherits is left alone, neither used nor dropped.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Owned<T>>,
    _owns: std::marker::PhantomData<T>,
}

struct Owned<T> {
    generation: u64,
    value: T,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess {
            current: AtomicPtr::new(std::ptr::null_mut()),
            _owns: std::marker::PhantomData,
        }
    }

    /// This process's value, made by `make` if there is none yet. Two threads may both make one; then both get the first.
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        match self.get() {
            Some(value) => value,
            None => self.renew(make()),
        }
    }

    /// This process's value, if it has made one.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        let current = self.current.load(Ordering::Acquire);
        if current.is_null() {
            return None;
        }
        // SAFETY: a non-null `current` is a leaked box, which only the drop of `self` takes back.
        let owned = unsafe { &*current };
        (owned.generation == generation()).then_some(&owned.value)
    }

    #[cold]
    fn renew(&self, value: T) -> &T {
        let before = self.current.load(Ordering::Acquire);
        if let Some(value) = self.get() {
            return value;
        }
        let mine = Box::into_raw(Box::new(Owned {
            generation: generation(),
            value,
        }));
        match self
            .current
            .compare_exchange(before, mine, Ordering::AcqRel, Ordering::Acquire)
        {
            // SAFETY: just made, and now `current`.
            Ok(_) => unsafe { &(*mine).value },
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(mine) });
                // SAFETY: as in `get`; only a thread of this process can have changed it meanwhile, so it is of this process.
                unsafe { &(*other).value }
            }
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: a leaked box of this process, and nobody else has a reference to `self` any more.
            drop(unsafe { Box::from_raw(*self.current.get_mut()) });
        }
    }
}

#[cfg(not(any(loom, miri)))]
extern "C" fn before_fork() {
    // A thread that is being torn down has no thread-locals left; then the lock is simply not held across this fork.
    let _ = ACROSS_FORK.try_with(|held| {
        let mut held = held.borrow_mut();
        if held.is_none() {
            *held = Some(EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner));
        }
    });
}

/// Runs in the child. The page is empty already, unless the system refused to empty it.
#[cfg(not(any(loom, miri)))]
extern "C" fn after_fork_in_child() {
    let token = TOKEN.load(Ordering::Relaxed);
    if !token.is_null() {
        // SAFETY: as in `token`.
        unsafe { &*token }.store(0, Ordering::Relaxed);
    }
    after_fork();
}

/// Runs in the parent and, last, in the child.
#[cfg(not(any(loom, miri)))]
extern "C" fn after_fork() {
    let _ = ACROSS_FORK.try_with(|held| held.borrow_mut().take());
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_value_of_its_own_even_if_the_parents_is_locked() {
        let value = PerProcess::new();
        assert!(value.get().is_none());
        let held = value.get_or_make(|| Mutex::new(1)).lock().unwrap();
        // SAFETY: as below.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let is_none = value.get().is_none();
                let mine = *value.get_or_make(|| Mutex::new(2)).lock().unwrap();
                // SAFETY: plain system call.
                unsafe { nix::libc::_exit(i32::from(!(is_none && mine == 2))) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
        assert_eq!(*held, 1);
    }

    #[test]
    fn a_child_has_another_generation_and_an_unlocked_lock() {
        let mine = generation();
        assert_eq!(mine, generation());
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    drop(exclusive());
                }
            })
        };
        for _ in 0..50 {
            // SAFETY: the child only calls async-signal-safe code and this module, and leaves by `_exit`.
            match unsafe { nix::unistd::fork() }.unwrap() {
                nix::unistd::ForkResult::Child => {
                    // SAFETY: plain system calls.
                    unsafe {
                        nix::libc::alarm(20);
                        drop(exclusive());
                        nix::libc::_exit(i32::from(generation() == mine));
                    }
                }
                nix::unistd::ForkResult::Parent { child } => {
                    let status = nix::sys::wait::waitpid(child, None).unwrap();
                    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
    }

    #[test]
    fn no_descendant_is_taken_for_an_ancestor_however_deep() {
        let (mut generations, mut births) = (vec![generation()], vec![Born::now()]);
        let deepest = 3 * TOKENS;
        // Each child goes on where its parent stands, who waits: over several pages of tokens.
        for depth in 0..=deepest {
            // SAFETY: the child only allocates, calls this module, and leaves by `_exit`.
            match unsafe { nix::unistd::fork() }.unwrap() {
                nix::unistd::ForkResult::Child => {
                    // SAFETY: plain system call.
                    unsafe { nix::libc::alarm(20) };
                    let mine = generation();
                    let is_new = !generations.contains(&mine) && !births.iter().any(Born::is_of_this_process);
                    births.push(Born::now());
                    generations.push(mine);
                    let is_well = is_new && births[depth + 1].is_of_this_process();
                    if !is_well || depth == deepest {
                        // SAFETY: plain system call.
                        unsafe { nix::libc::_exit(i32::from(!is_well)) }
                    }
                }
                nix::unistd::ForkResult::Parent { child } => {
                    let status = nix::sys::wait::waitpid(child, None).unwrap();
                    let is_well =
                        status == nix::sys::wait::WaitStatus::Exited(child, 0) && births[depth].is_of_this_process();
                    if depth > 0 {
                        // SAFETY: plain system call.
                        unsafe { nix::libc::_exit(i32::from(!is_well)) }
                    }
                    assert!(is_well);
                    return;
                }
            }
        }
    }
}
