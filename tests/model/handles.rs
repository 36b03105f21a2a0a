//! Those who take part: the real handle of each, and next to it what the model knows about it. Not here: what they do
//! (`world`).

use super::reading::{Counters, Reading};
use std::ptr::NonNull;
use syncq::{Member, MemberId, Observer, Reader, Reservation, Role, Writer};

/// A value on the heap that a reservation may borrow for as long as it is there.
pub(super) struct Fixed<T>(pub(super) NonNull<T>);

impl<T> Fixed<T> {
    pub(super) fn new(value: T) -> Self {
        Fixed(NonNull::from(Box::leak(Box::new(value))))
    }

    /// # Safety
    ///
    /// The caller sees to it that nothing else uses the value while the borrow is in use, and that it ends before `self`.
    pub(super) unsafe fn borrow<'any>(&mut self) -> &'any mut T {
        // SAFETY: the box lives until `self` is dropped; the rest is the caller's word.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Fixed<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, and freed only here.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

pub(super) enum Handle {
    Member(Fixed<Member>),
    Writer(Fixed<Writer>),
    Reader(Box<Reader>),
    Observer(Box<Observer>),
}

/// Calls the same method of whatever reads.
macro_rules! reading {
    ($one:expr, $it:ident => $call:expr) => {{
        assert!($one.open.is_none(), "whoever has a reservation open does nothing else");
        match &mut $one.handle {
            // SAFETY: no reservation is open, as just checked, and the borrow ends with this call.
            Handle::Member(member) => match unsafe { member.borrow() } {
                $it => $call,
            },
            Handle::Reader($it) => $call,
            Handle::Observer($it) => $call,
            Handle::Writer(_) => unreachable!("a writer does not read"),
        }
    }};
}
pub(super) use reading;

/// Calls the same method of whatever writes.
macro_rules! writing {
    ($one:expr, $it:ident => $call:expr) => {{
        assert!($one.open.is_none(), "whoever has a reservation open does nothing else");
        match &mut $one.handle {
            // SAFETY: no reservation is open, as just checked; the one that this call may make is kept in `One::open`, where
            // it is seen by this check and dropped before the handle.
            Handle::Member(member) => match unsafe { member.borrow() } {
                $it => $call,
            },
            // SAFETY: as above.
            Handle::Writer(writer) => match unsafe { writer.borrow() } {
                $it => $call,
            },
            _ => unreachable!("it does not write"),
        }
    }};
}
pub(super) use writing;

/// One who takes part: what the queue gave it, and what the model knows about it.
pub(super) struct One {
    pub(super) seat: usize,
    /// Before the handle, which it borrows: fields are dropped in this order.
    pub(super) open: Option<Reservation<'static>>,
    pub(super) handle: Handle,
    /// `None`: an observer.
    pub(super) id: Option<MemberId>,
    pub(super) role: Option<Role>,
    pub(super) name: &'static str,
    pub(super) reading: Option<Reading>,
    /// Place of the open reservation.
    pub(super) reserved: Option<u64>,
    pub(super) is_evicted: bool,
    /// It has learnt so, and leaves.
    pub(super) was_told: bool,
    pub(super) counters: Counters,
}

impl One {
    pub(super) fn writes(&self) -> bool {
        matches!(self.role, Some(Role::Member | Role::Writer))
    }

    /// What holds writers back on its account: its reservation, and its cursor.
    pub(super) fn holds(&self, is_lossy: bool) -> impl Iterator<Item = (u64, bool)> {
        let gates = self.role.is_some() && !self.is_evicted && !is_lossy;
        let cursor = self.reading.as_ref().filter(|_| gates).map(|r| (r.place, true));
        self.reserved.map(|place| (place, false)).into_iter().chain(cursor)
    }
}
