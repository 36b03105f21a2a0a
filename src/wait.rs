//! How long a call may take: the one answer for every call, in every room, that can block.
//!
//! Not here: how waiting is done (that is `sys::futex` and `ring::sleep`).

use std::time::{Duration, Instant};

/// How long a call may block.
///
/// Every call that can block takes a `Wait`, and it bounds the *whole* call on the monotonic clock: the time to get in,
/// the time to find room or a message, and every lock and repair on the way.
///
/// PySyncQ's arguments map like this: `block=False` is [`Wait::Never`], `block=True, timer=t` is [`Wait::For`],
/// `timer=0` is [`Wait::Never`] (in both calls), `timer=None` is [`Wait::Forever`].
///
/// ```
/// use std::time::Duration;
/// use syncq::Wait;
///
/// let half_a_second = Wait::For(Duration::from_millis(500));
/// assert_eq!(half_a_second, Wait::from(Duration::from_millis(500)));
/// assert_eq!(Wait::from(None), Wait::Forever);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Wait {
    /// Do not block: answer from what is there now.
    #[default]
    Never,
    /// Block for at most this long. Zero is the same as [`Wait::Never`].
    For(Duration),
    /// Block until this instant. An instant in the past is the same as [`Wait::Never`].
    Until(Instant),
    /// Block until it is done.
    Forever,
}

impl From<Duration> for Wait {
    fn from(duration: Duration) -> Self {
        Wait::For(duration)
    }
}

impl From<Instant> for Wait {
    fn from(instant: Instant) -> Self {
        Wait::Until(instant)
    }
}

impl From<Option<Duration>> for Wait {
    /// `None` is [`Wait::Forever`], as Python's `timer=None`.
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Wait::Forever, Wait::For)
    }
}

/// A [`Wait`] fixed to the clock at the moment a call began.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deadline {
    /// Has passed from the start: the call must not block.
    Now,
    /// Passes at this instant.
    At(Instant),
    /// Never passes.
    None,
}

impl Deadline {
    #[inline]
    pub(crate) fn of(wait: Wait) -> Self {
        match wait {
            Wait::Never => Deadline::Now,
            Wait::For(d) if d.is_zero() => Deadline::Now,
            // A duration past the end of the clock is as good as for ever.
            Wait::For(d) => Instant::now().checked_add(d).map_or(Deadline::None, Deadline::At),
            Wait::Until(t) => Deadline::At(t),
            Wait::Forever => Deadline::None,
        }
    }

    /// As a wait for a call inside this one.
    pub(crate) fn wait(&self) -> Wait {
        match self {
            Deadline::Now => Wait::Never,
            Deadline::At(t) => Wait::Until(*t),
            Deadline::None => Wait::Forever,
        }
    }

    /// True once the call has to answer.
    pub(crate) fn has_passed(&self) -> bool {
        match self {
            Deadline::Now => true,
            Deadline::At(t) => Instant::now() >= *t,
            Deadline::None => false,
        }
    }

    /// How long to sleep when at most `slice` is wanted.
    pub(crate) fn cap(&self, slice: Duration) -> Duration {
        match self {
            Deadline::Now => Duration::ZERO,
            Deadline::At(t) => slice.min(t.saturating_duration_since(Instant::now())),
            Deadline::None => slice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_do_not_block_and_huge_means_for_ever() {
        assert!(Deadline::of(Wait::For(Duration::ZERO)).has_passed());
        assert!(Deadline::of(Wait::Never).has_passed());
        assert!(matches!(Deadline::of(Wait::For(Duration::MAX)), Deadline::None));
        assert!(!Deadline::of(Wait::For(Duration::from_secs(60))).has_passed());
    }

    #[test]
    fn a_sleep_never_outlasts_the_deadline() {
        let soon = Deadline::At(Instant::now() + Duration::from_millis(5));
        assert!(soon.cap(Duration::from_secs(9)) <= Duration::from_millis(5));
        assert_eq!(Deadline::None.cap(Duration::from_millis(7)), Duration::from_millis(7));
    }
}
