//! A thread that waits for an answer reads the connection itself: the answer then comes without a detour over the loop's thread, which
//! would have to be woken to wake the other.
//!
//! In the same way a worker that has handled a message waits for the next one at the connection, where one message comes at a time, each after the
//! answer to the one before: it is read by the thread that handles it.
//!
//! Only a thread that waits alone, again and again, leads. The kernel is then told not to wake the loop for this connection; it stays so for
//! a moment after the wait, since the next one mostly comes at once. If it does not, the loop takes over again.

use super::connection::Connection;
use super::message::Message;
use super::outcome::{Attendant, Cell, Due};
use crate::channel::timespec;
use crate::wait::Deadline;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::cell::{Cell as StdCell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Waits of one thread alone, in quick succession, before it leads.
const ALONE: u32 = 4;
/// What quick is: from the end of one wait to the next.
const SUCCESSION: Duration = Duration::from_millis(1);
/// How long the loop keeps away after a wait.
const LEASE: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
pub(crate) struct Lead {
    /// Threads that wait for something from this connection.
    waiting: usize,
    /// Waits of one thread alone, and when the last one ended.
    streak: u32,
    last: Option<Instant>,
    /// One of them reads.
    has_leader: bool,
    /// The loop keeps away.
    is_leased: bool,
    /// The loop wants to be told when nobody leads any more.
    is_asked_for: bool,
    /// Messages that came one at a time, each soon after the one before was handled, and when the last one was.
    served: u32,
    last_served: Option<Instant>,
}

/// A message that is to be handled by the thread that has read it.
#[derive(Debug, Default)]
enum Next {
    /// It is not for this thread to handle anything.
    #[default]
    Closed,
    /// The next one is.
    Open,
    Taken(Message),
}

thread_local! {
    /// Rung when what this thread reads for is there by another way.
    static BELL: OnceCell<Option<Arc<OwnedFd>>> = const { OnceCell::new() };
    static NEXT: RefCell<Next> = const { RefCell::new(Next::Closed) };
    static IS_SERVING: StdCell<bool> = const { StdCell::new(false) };
}

/// Leaves a message to the calling thread, if that is reading for itself. Gives it back otherwise.
pub(crate) fn take_next(message: Message) -> Option<Message> {
    let mut message = Some(message);
    let _ = NEXT.try_with(|next| {
        let mut next = next.borrow_mut();
        if let Next::Open = *next
            && let Some(message) = message.take()
        {
            *next = Next::Taken(message);
        }
    });
    message
}

fn bell() -> Option<Arc<OwnedFd>> {
    let make = || {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .ok()
            .map(Arc::new)
    };
    BELL.try_with(|bell| bell.get_or_init(make).clone()).ok().flatten()
}

impl Connection {
    fn lead(&self) -> MutexGuard<'_, Lead> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the loop is to leave the reading alone.
    pub(crate) fn is_leased(&self) -> bool {
        self.lead().is_leased
    }

    /// Whether a wait that begins now may read.
    fn begin_wait(&self) -> bool {
        let mut lead = self.lead();
        lead.waiting += 1;
        let is_quick = lead.last.is_some_and(|last| last.elapsed() < SUCCESSION);
        lead.streak = match lead.waiting == 1 && is_quick {
            true => lead.streak.saturating_add(1),
            false => 0,
        };
        let may_lead = lead.streak >= ALONE && !lead.has_leader && !self.is_paused.load(Ordering::Acquire);
        if may_lead {
            lead.has_leader = true;
            if !std::mem::replace(&mut lead.is_leased, true) {
                drop(lead);
                self.have_loop_look();
                // From here on either the loop will look at the lease, or it has asked to be told.
                self.node.looper.due(Instant::now() + LEASE);
            }
        } else if lead.is_leased && !lead.has_leader {
            lead.is_leased = false;
            drop(lead);
            self.have_loop_look();
        }
        may_lead
    }

    fn end_wait(&self, has_led: bool, is_to_yield: bool) {
        let mut lead = self.lead();
        lead.waiting -= 1;
        let now = Instant::now();
        lead.last = Some(now);
        if !has_led {
            return;
        }
        lead.has_leader = false;
        // Others sleep until somebody reads for them.
        if lead.waiting > 0 || is_to_yield {
            lead.is_leased = false;
            drop(lead);
            self.have_loop_look();
        } else if std::mem::take(&mut lead.is_asked_for) {
            drop(lead);
            self.node.looper.due(now + LEASE);
        }
    }

    /// The loop takes over where nobody has read for a while. Returns when to look again.
    pub(crate) fn sweep_lease(&self, now: Instant) -> Due {
        let mut lead = self.lead();
        if !lead.is_leased {
            return None;
        }
        if lead.has_leader {
            lead.is_asked_for = true;
            return None;
        }
        let until = lead.last.map_or(now, |last| last + LEASE);
        if until > now {
            return Some(until);
        }
        lead.is_leased = false;
        drop(lead);
        self.have_loop_look();
        None
    }

    fn have_loop_look(&self) {
        if let Some(me) = self.me.upgrade() {
            self.node.looper.look_at(me);
        }
    }

    /// Reads until the cell is done, the deadline has passed, or there is nothing to be read by this thread. `true` for the last.
    fn read_for(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        let (Some(me), Some(bell)) = (self.me.upgrade(), bell()) else {
            return true;
        };
        if !cell.set_bell(&bell) {
            return false;
        }
        let mut is_to_yield = false;
        let mut is_readable = false;
        while !cell.is_done() && !deadline.has_passed() {
            if !self.is_in_use() || self.is_paused.load(Ordering::Acquire) {
                is_to_yield = true;
                break;
            }
            if is_readable && me.receive() {
                // There may be more, in the memory of an encrypted stream too; but it is likely that this was it.
                is_readable = self.stream.has_buffered();
                continue;
            }
            let mut fds = [
                PollFd::new(&*self.fd, PollFlags::IN),
                PollFd::new(&*bell, PollFlags::IN),
            ];
            // Refused for want of memory, or interrupted: to be tried again.
            let _ = poll(&mut fds, timespec(deadline).as_ref());
            is_readable = !fds[0].revents().is_empty();
            if !fds[1].revents().is_empty() {
                let _ = rustix::io::read(&bell, &mut [0; 8]);
            }
        }
        cell.unset_bell();
        is_to_yield
    }
}

impl Connection {
    /// A worker has handled a message from here, and has nothing else to do: stays and handles the next one, and those after it, as long as they come
    /// soon and one at a time.
    pub(crate) fn serve(self: &Arc<Self>) {
        if IS_SERVING.get() {
            return;
        }
        IS_SERVING.set(true);
        while self.begin_serving() {
            let message = self.read_next();
            self.end_serving();
            match message {
                Some(message) => self.node.handle(message),
                None => break,
            }
        }
        IS_SERVING.set(false);
    }

    fn begin_serving(&self) -> bool {
        let mut lead = self.lead();
        let now = Instant::now();
        let is_quick = lead
            .last_served
            .replace(now)
            .is_some_and(|last| now - last < SUCCESSION);
        let is_alone = self.has_come_alone.load(Ordering::Relaxed) && lead.waiting == 0;
        lead.served = match is_quick && is_alone {
            true => lead.served.saturating_add(1),
            false => 0,
        };
        let may_lead = lead.served >= ALONE
            && !lead.has_leader
            && !self.is_paused.load(Ordering::Acquire)
            && self.is_in_use()
            && !self.node.is_draining()
            && self.node.can_spare_worker();
        if !may_lead {
            return false;
        }
        lead.has_leader = true;
        if !std::mem::replace(&mut lead.is_leased, true) {
            drop(lead);
            self.have_loop_look();
            self.node.looper.due(now + LEASE);
        }
        true
    }

    fn end_serving(&self) {
        let mut lead = self.lead();
        let now = Instant::now();
        lead.has_leader = false;
        lead.last = Some(now);
        if lead.waiting > 0 {
            lead.is_leased = false;
            drop(lead);
            self.have_loop_look();
        } else if std::mem::take(&mut lead.is_asked_for) {
            drop(lead);
            self.node.looper.due(now + LEASE);
        }
    }

    /// Reads until there is a message for the handler, for a moment.
    fn read_next(self: &Arc<Self>) -> Option<Message> {
        let until = Deadline::At(Instant::now() + SUCCESSION);
        let mut is_readable = self.stream.has_buffered();
        loop {
            if is_readable {
                NEXT.set(Next::Open);
                self.receive();
                if let Next::Taken(message) = NEXT.take() {
                    return Some(message);
                }
                is_readable = self.stream.has_buffered();
            }
            if !self.is_in_use() || self.is_paused.load(Ordering::Acquire) || self.node.is_draining() {
                return None;
            }
            if is_readable {
                continue;
            }
            let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
            let _ = poll(&mut fds, timespec(&until).as_ref());
            is_readable = !fds[0].revents().is_empty();
            if !is_readable && until.has_passed() {
                return None;
            }
        }
    }
}

impl Attendant for Connection {
    fn lend(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        self.end_streak();
        if cell.is_done() {
            return true;
        }
        let may_lead = self.begin_wait();
        let is_to_yield = may_lead && self.read_for(cell, deadline);
        if !may_lead {
            cell.park(deadline);
        }
        self.end_wait(may_lead, is_to_yield);
        if is_to_yield {
            cell.park(deadline);
        }
        true
    }

    fn attend(&self) {
        self.end_streak();
        let mut lead = self.lead();
        lead.streak = 0;
        if lead.is_leased && !lead.has_leader {
            lead.is_leased = false;
            drop(lead);
            self.have_loop_look();
        }
    }
}
