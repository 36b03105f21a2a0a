//! No log loops: what carries lines may log itself, and that is not to be carried.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

/// While it lives, records that this thread makes are passed over by the `log` and `tracing` sinks; see [`quiet`].
#[derive(Debug)]
#[must_use = "it is quiet until this is dropped"]
pub struct Quiet {
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

/// Makes the sinks pass over what this thread logs, until the guard is dropped.
///
/// For who sends lines with a library that logs: with an HTTP client, say, whose record about sending would be sent, and so on without end.
/// Sinks and captures hold one themselves while they write to a mirror.
///
/// ```
/// let _quiet = syncq::line::quiet();
/// // log::debug!("...") here goes to no mirror
/// ```
pub fn quiet() -> Quiet {
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    Quiet { _not_send: PhantomData }
}

/// Whether what this thread logs is to be passed over: for sinks of one's own. So it is in a thread that is being torn down.
pub fn is_quiet() -> bool {
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(true)
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    }
}
