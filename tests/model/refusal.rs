//! How a call is expected to be refused, against the error that the queue gave. Not here: when that is to be expected
//! (`world`).

use super::Checked;
use super::ring::Ring;
use proptest::prop_assert;
use syncq::Error;

/// How a call is expected to end if not well.
#[derive(Debug)]
pub(super) enum Refusal {
    Evicted,
    TooLong,
    TooLarge {
        len: u64,
    },
    Full {
        needed: u64,
        free: u64,
        name: &'static str,
        lag: u64,
    },
    ReadFirst {
        backlog: u64,
    },
}

impl Refusal {
    pub(super) fn check(&self, ring: &Ring, error: &Error) -> Checked {
        let is_right = match (self, error) {
            (Refusal::Evicted, Error::Evicted { .. }) => true,
            (
                Refusal::TooLong,
                Error::TooLong {
                    what: "kind",
                    len: 256,
                    max: 255,
                },
            ) => true,
            (Refusal::TooLarge { len: expected }, Error::TooLarge { len, max, .. }) => {
                len == expected && *max == ring.max_record()
            }
            (Refusal::ReadFirst { backlog: expected }, Error::ReadFirst { backlog, .. }) => backlog == expected,
            (
                &Refusal::Full {
                    needed,
                    free,
                    name,
                    lag,
                },
                Error::Full(full),
            ) => {
                let slowest = full.slowest.as_ref();
                (full.needed, full.free) == (needed, free)
                    && slowest.is_some_and(|s| (&*s.name, s.lag, s.pid) == (name, lag, std::process::id()))
            }
            _ => false,
        };
        prop_assert!(is_right, "expected {self:?}, got {error:?}");
        Ok(())
    }
}

pub(super) fn is_evicted<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Evicted { .. }))
}
