//! Taking messages one after the other until it is enough: for every command that reads a queue.

use crate::fail::Fail;
use crate::stop::{SLICE, Stop};
use crate::{fail, measure};
use std::time::{Duration, Instant};
use syncq::{Error, Message, Observer, Reader, Start, Wait};

/// When it is enough.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Limits {
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Give up, with exit code 124, when no message comes for this long
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    pub(crate) timeout: Option<Duration>,
}

/// With which message to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum From {
    /// The first one appended from now on
    Now,
    /// The oldest one that is still in the ring
    Oldest,
}

impl From {
    pub(crate) fn start(self) -> Start {
        match self {
            From::Now => Start::Now,
            From::Oldest => Start::Oldest,
        }
    }
}

/// A reader or an observer.
pub(crate) trait Source {
    fn pop(&mut self, wait: Wait) -> syncq::Result<Option<Message<'_>>>;
}

impl Source for Reader {
    #[inline]
    fn pop(&mut self, wait: Wait) -> syncq::Result<Option<Message<'_>>> {
        Reader::pop(self, wait)
    }
}

impl Source for Observer {
    #[inline]
    fn pop(&mut self, wait: Wait) -> syncq::Result<Option<Message<'_>>> {
        Observer::pop(self, wait)
    }
}

/// What is done with messages.
pub(crate) trait Sink {
    /// Takes one. Whether it counts.
    fn take(&mut self, message: &Message<'_>) -> Result<bool, Fail>;
    /// There is nothing more just now.
    fn pause(&mut self) -> Result<(), Fail>;
    /// This many were overwritten before they could be read.
    fn lagged(&mut self, missed: u64) -> Result<(), Fail>;
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Counted,
    TimedOut,
    Stopped,
    /// Nothing more was there, and that was enough.
    Drained,
}

impl End {
    /// A stop before the count was reached is a failure; a stop where no end was asked for is the ordinary end.
    pub(crate) fn code(self, limits: &Limits) -> u8 {
        match self {
            End::Counted | End::Drained => fail::DONE,
            End::TimedOut => fail::TIMED_OUT,
            End::Stopped if limits.count.is_some() => fail::FAILED,
            End::Stopped => fail::DONE,
        }
    }
}

/// Gives every message to `sink`, until it is enough; with `drains`, until nothing more is there.
pub(crate) fn follow(
    source: &mut impl Source,
    sink: &mut impl Sink,
    stop: &Stop,
    limits: &Limits,
    drains: bool,
) -> Result<End, Fail> {
    let mut left = limits.count.unwrap_or(u64::MAX);
    let mut wait = Wait::Never;
    let mut deadline = None;
    loop {
        if left == 0 {
            sink.pause()?;
            return Ok(End::Counted);
        }
        if stop.is_asked() {
            sink.pause()?;
            return Ok(End::Stopped);
        }
        match source.pop(wait) {
            Ok(Some(message)) => {
                wait = Wait::Never;
                if sink.take(&message)? {
                    left -= 1;
                    deadline = None;
                } else if let Some(timeout) = limits.timeout {
                    // What was not asked for comes and goes, and the time runs on.
                    let now = Instant::now();
                    if *deadline.get_or_insert(now + timeout) <= now {
                        sink.pause()?;
                        return Ok(End::TimedOut);
                    }
                }
            }
            Ok(None) if wait == Wait::Never => {
                sink.pause()?;
                if drains {
                    return Ok(End::Drained);
                }
                deadline = deadline.or_else(|| limits.timeout.map(|timeout| Instant::now() + timeout));
                wait = slice(deadline);
            }
            Ok(None) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(End::TimedOut),
            Ok(None) => wait = slice(deadline),
            Err(Error::Lagged { missed }) => sink.lagged(missed)?,
            Err(error) => {
                sink.pause()?;
                return Err(error.into());
            }
        }
    }
}

/// Not longer than until somebody should look whether to stop, and not the same as not waiting.
fn slice(deadline: Option<Instant>) -> Wait {
    let left = deadline.map_or(SLICE, |deadline| {
        deadline.saturating_duration_since(Instant::now()).min(SLICE)
    });
    Wait::For(left.max(Duration::from_nanos(1)))
}
