//! What one process has of a `LineProcMirror`: its seat on the queue, its pending lines, and lines that wait for company.
//!
//! Not here: when what is sent (`proc_mirror.rs`).

use super::error::{LineError, Result};
use super::item::Stream;
use super::pending::Pending;
use crate::error::Error;
use crate::{Observer, Wait, Writer};
use std::sync::{Condvar, Mutex};

/// What one process has of a mirror.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) state: Mutex<State>,
    /// Rung when lines begin to gather and when the mirror closes.
    pub(super) gathering: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) seat: Option<Seat>,
    pub(super) lanes: Vec<Begun>,
    /// Items sent or dropped.
    pub(super) seq: u64,
    pub(super) frame: Vec<u8>,
    pub(super) gathered: Gathered,
    pub(super) is_closed: bool,
}

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) writer: Writer,
    pub(super) control: Observer,
    pub(super) is_stopped: bool,
    /// The newest round.
    pub(super) round: u32,
    /// The round that this mirror is of.
    pub(super) mine: u32,
}

#[derive(Debug)]
pub(super) struct Begun {
    pub(super) lane: u64,
    pub(super) stream: Stream,
    pub(super) pending: Pending,
}

/// Lines that wait for company.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// A whole message, ready to go; empty if there is none.
    pub(super) frame: Vec<u8>,
    pub(super) items: u64,
    pub(super) lane: u64,
    pub(super) stream: Stream,
    pub(super) has_flusher: bool,
    pub(super) since: Option<std::time::Instant>,
}

impl Seat {
    /// Hears what the parent has said.
    pub(super) fn look(&mut self) {
        // A lagging observer is told so once and goes on with what is there: only the newest word matters.
        loop {
            match self.control.pop(Wait::Never) {
                Ok(Some(word)) => {
                    self.is_stopped = word.kind() == super::proc::STOP;
                    if let Ok(round) = word.pod::<u32>() {
                        self.round = round;
                    }
                }
                Err(Error::Lagged { .. }) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.look();
        if self.round != self.mine {
            return Err(LineError::Outdated);
        }
        match self.is_stopped {
            true => Err(LineError::Stopped),
            false => Ok(()),
        }
    }
}
