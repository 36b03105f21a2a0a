//! Room in the ring: who holds writers back, how far they may write, and waiting until there is more.
//!
//! Two limits, both moved under the claim only:
//!
//! * The *gate*: no cursor was behind it when the cursors were last looked at. Cursors only move forward, so the gate errs on
//!   the safe side, and the cursors are looked at again only when the ring seems full: once a lap while readers keep up,
//!   however many there are.
//! * The *intent*: how far writers may be writing. It moves in steps, and with it the *oldest* record that nobody can have
//!   begun to overwrite: the first one behind a *mark*, of which each lap leaves a few. Readers that hold nobody back check
//!   the intent after they copied.

use super::Ring;
use super::claim::{Claim, LONGEST_SLICE, Word};
use super::members::Membership;
use super::members::{Role, Stage, distance};
use super::sleep::{ROOM_SLICE, ROOM_SPIN};
use crate::error::{Error, Full, Result, Slowest};
use crate::segment::layout::{GRANULE, MARKS};
use crate::sys::atomic::{AtomicU64, Ordering, fence};
use crate::sys::barrier;
use crate::sys::futex::EVERY_BIT;
use crate::wait::Deadline;
use std::time::{Duration, Instant};

/// A writer that has to sleep for room asks for this part of the ring at first.
const AMPLE_PART: u64 = 2;
/// And for so long, then for no more than it needs: a reader that is slower than that is waited for message by message.
const AMPLE_SLICE: Duration = Duration::from_micros(200);
/// Who has to wait for room again before it has filled this part of the ring has filled it all this time.
const AGAIN_PART: u64 = 16;
/// With so much work before it, a reader does not miss a writer that sleeps for [`AMPLE_SLICE`], and takes as long to wake up.
const LONG_WORK: Duration = Duration::from_millis(1);

/// How this process last waited for room. A hint: what it says wrongly costs a short sleep, or a short spin.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// The frontier then.
    at: std::sync::atomic::AtomicU64,
    /// After how many nanoseconds there was room for one record, at least.
    nanos: std::sync::atomic::AtomicU64,
}

impl Shortage {
    fn note(&self, frontier: u64, waited: Duration) {
        self.at.store(frontier, Ordering::Relaxed);
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// Whether the ring has been full since, and its reader takes so long that a writer would spin for each record.
    fn lasts(&self, short: &Short, capacity: u64) -> bool {
        let since = short.frontier.wrapping_sub(self.at.load(Ordering::Relaxed));
        let records = capacity / short.end.wrapping_sub(short.frontier).max(GRANULE);
        let work = self.nanos.load(Ordering::Relaxed).saturating_mul(records);
        // A model's outcome must not depend on the time.
        !cfg!(loom) && since <= capacity / AGAIN_PART && u128::from(work) >= LONG_WORK.as_nanos()
    }
}

/// What holds the writers back most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slow {
    pub(crate) position: u64,
    /// `None`: nobody does, and the position is the frontier.
    pub(crate) slot: Option<u16>,
}

/// By what a slot holds writers back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Cursor,
    Reservation,
}

impl Slow {
    /// Whether a hold that is `further` bytes behind this one is to blame more than this one. Of two at the same position
    /// the reservation is: the reader there can only wait for it.
    fn is_less_than(&self, further: i64, how: Hold) -> bool {
        further > 0 || (further == 0 && how == Hold::Reservation && self.slot.is_some())
    }
}

/// No room for a record that ends at `end`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Short {
    pub(crate) end: u64,
    pub(crate) frontier: u64,
    pub(crate) slow: Slow,
}

impl Membership {
    /// This member's cursor has moved on from `before` to `after`: wakes writers that wait for just that.
    #[inline(always)]
    pub(super) fn let_go(&self, before: u64, after: u64) {
        // Pairs with `barrier::heavy` in `wait_for_room`: either that writer sees the cursor, or this sees the writer.
        self.light.fence();
        let wanted = self.control().space.wanted.load(Ordering::Relaxed);
        if wanted != 0 {
            self.ring.wake_writers_if_reached(wanted - 1, before, after);
        }
    }
}

impl Ring {
    /// How far a keeper of the claim may write from `frontier` on without a look at anything else: there is room, and no mark to
    /// be made.
    pub(super) fn clear_from(&self, frontier: u64) -> u64 {
        let limits = &self.segment.control().limits;
        let mark = (frontier & !(self.step() - 1)).wrapping_add(self.step());
        let gate = limits.gate.load(Ordering::Relaxed).wrapping_add(self.capacity());
        let intent = limits.intent.load(Ordering::Relaxed);
        // None of them is behind the frontier, unless it is falsified.
        let ahead = |position: u64| (position.wrapping_sub(frontier) as i64).max(0) as u64;
        frontier.wrapping_add(ahead(mark).min(ahead(gate)).min(ahead(intent)))
    }

    /// Makes sure that `size` bytes from the frontier on, and the head behind them, may be written.
    pub(super) fn room(&self, claim: &Claim<'_>, size: u64) -> Result<Result<(), Short>> {
        let limits = &self.segment.control().limits;
        let end = claim.position.wrapping_add(size + GRANULE);
        let mut gate = limits.gate.load(Ordering::Relaxed);
        if claim.position.wrapping_sub(gate) > self.capacity() {
            return Err(self.corrupt("gate", gate));
        }
        if end.wrapping_sub(gate) > self.capacity() {
            let slow = self.slowest(claim.position)?;
            gate = slow.position;
            limits.gate.store(gate, Ordering::Relaxed);
            if end.wrapping_sub(gate) > self.capacity() {
                return Ok(Err(Short {
                    end,
                    frontier: claim.position,
                    slow,
                }));
            }
        }
        if (end.wrapping_sub(limits.intent.load(Ordering::Relaxed)) as i64) > 0 {
            self.raise_intent(claim.position, end, gate)?;
        }
        Ok(Ok(()))
    }

    /// Bytes from one mark to the next.
    #[inline]
    fn step(&self) -> u64 {
        const { assert!(MARKS.is_power_of_two()) };
        self.capacity() / MARKS as u64
    }

    fn mark(&self, boundary: u64) -> &AtomicU64 {
        &self.segment.control().marks.record[(boundary / self.step()) as usize % MARKS]
    }

    /// Notes that a record from `position` on ends, and the next one begins, at `next`. Before it is published: who finds it
    /// there finds the mark. If it never is, the frontier stays before the mark, and who gets there next makes it anew.
    #[inline]
    pub(super) fn note_end(&self, position: u64, next: u64) {
        // Nearly always both are in the same piece.
        if (position ^ next) & !(self.step() - 1) != 0 {
            self.set_marks(position, next);
        }
    }

    #[cold]
    fn set_marks(&self, position: u64, next: u64) {
        let mut boundary = next & !(self.step() - 1);
        // At most one lap: no record is longer than the ring.
        for _ in 0..MARKS {
            // One that begins at a boundary was noted as the end of the record before it.
            if boundary.wrapping_sub(position) as i64 <= 0 {
                return;
            }
            self.mark(boundary).store(next, Ordering::Relaxed);
            boundary = boundary.wrapping_sub(self.step());
        }
    }

    /// The furthest-back cursor or reservation that counts, seen from the frontier. The caller has the claim.
    fn slowest(&self, frontier: u64) -> Result<Slow> {
        let mut slow = Slow {
            position: frontier,
            slot: None,
        };
        for slot in 0..self.slots_used() {
            for (held, how) in self.holds(slot) {
                if frontier.wrapping_sub(held) > self.capacity() {
                    return Err(self.corrupt("cursor of slot", slot.into()));
                }
                if slow.is_less_than(slow.position.wrapping_sub(held) as i64, how) {
                    slow = Slow {
                        position: held,
                        slot: Some(slot),
                    };
                }
            }
        }
        Ok(slow)
    }

    /// What a slot holds, and how.
    fn holds(&self, slot: u16) -> impl Iterator<Item = (u64, Hold)> {
        let state = self.slot_state(slot);
        let line = &self.segment.slot(slot).cursor;
        // Acquire: pairs with the Release that moves the cursor on, so its reads happened before we overwrite.
        let cursor = (state.gates() && !self.segment.geometry.lossy).then(|| line.cursor.load(Ordering::Acquire));
        let reservation = match state.stage {
            Stage::Free | Stage::Joining => 0,
            _ => line.reservation.load(Ordering::Acquire),
        };
        let reservation = (reservation != 0).then(|| (reservation - 1, Hold::Reservation));
        cursor.map(|held| (held, Hold::Cursor)).into_iter().chain(reservation)
    }

    /// Moves the intent to `end` or a step further, and the oldest record out of its way.
    #[cold]
    fn raise_intent(&self, frontier: u64, end: u64, gate: u64) -> Result<()> {
        let limits = &self.segment.control().limits;
        let step = end.wrapping_add(self.step());
        let most = gate.wrapping_add(self.capacity());
        let mut intent = if most.wrapping_sub(step) as i64 > 0 { step } else { most };
        // Whatever is before this may be overwritten.
        let doomed = intent.wrapping_sub(self.capacity());
        if doomed.wrapping_sub(limits.oldest.load(Ordering::Relaxed)) as i64 > 0 {
            let boundary = doomed.wrapping_add(self.step() - 1) & !(self.step() - 1);
            let marked = if frontier.wrapping_sub(boundary) as i64 >= 0 {
                self.mark(boundary).load(Ordering::Relaxed)
            } else {
                frontier
            };
            let is_in_ring = marked.wrapping_sub(doomed) <= frontier.wrapping_sub(doomed);
            if !is_in_ring || !marked.is_multiple_of(GRANULE) {
                return Err(self.corrupt("mark of a record", marked));
            }
            // The gate is where a record begins as well. What is held is whole, even if no mark is that far back.
            let oldest = if marked.wrapping_sub(gate) as i64 > 0 {
                gate
            } else {
                marked
            };
            limits.oldest.store(oldest, Ordering::Relaxed);
            // What is before the oldest is given up anyway. Not behind `most`, since the oldest is not behind the gate.
            intent = oldest.wrapping_add(self.capacity());
        }
        limits.intent.store(intent, Ordering::Relaxed);
        // Pairs with the Acquire fence in `read::is_still_whole`: whoever sees a byte that is written from here on sees
        // this intent.
        fence(Ordering::Release);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn wake_writers_if_reached(&self, wanted: u64, before: u64, after: u64) {
        let is_reached = |position: u64| position.wrapping_sub(wanted) as i64 >= 0;
        if is_reached(after) && !is_reached(before) {
            self.wake_writers();
        }
    }

    /// Room was made that no cursor tells of: a reservation was finished, a reader has gone.
    pub(super) fn made_room(&self) {
        // As in `let_go`.
        self.segment.light.fence();
        if self.segment.control().space.wanted.load(Ordering::Relaxed) != 0 {
            self.wake_writers();
        }
    }

    /// Wakes all writers that wait for room.
    #[cold]
    pub(super) fn wake_writers(&self) {
        let space = &self.segment.control().space;
        if space.wanted.swap(0, Ordering::SeqCst) != 0 {
            space.bell.wake(EVERY_BIT);
        }
    }

    /// Waits until there may be room again. Returns early for no reason; the caller tries again.
    pub(super) fn wait_for_room(&self, short: &Short, deadline: &Deadline, is_over: &dyn Fn() -> bool) {
        let space = &self.segment.control().space;
        let needed = short.end.wrapping_sub(self.capacity());
        let has_room = || self.slowest_now(short.frontier).position.wrapping_sub(needed) as i64 >= 0;
        if self.shortage.lasts(short, self.capacity()) {
            self.shortage.at.store(short.frontier, Ordering::Relaxed);
        } else {
            let begin = Instant::now();
            let has_come = self.spin_on(has_room, ROOM_SPIN, deadline);
            self.shortage.note(short.frontier, begin.elapsed());
            if has_come {
                return;
            }
        }
        // A busy reader would else have to ring, and a writer to fall asleep, for every few messages. There are so many before this
        // one that nobody gets it later.
        let ample = needed.wrapping_add(distance(short.frontier, needed).min(self.capacity() / AMPLE_PART));
        // Not in models: a wish that is reached later would hide that one for just enough was not rung for.
        let (mut wish, mut slice) = (if cfg!(loom) { needed } else { ample }, ROOM_SLICE);
        while !deadline.has_passed() {
            self.drop_stale_wish(short.frontier);
            let bell = space.bell.read();
            self.want(wish);
            barrier::heavy();
            let slow = self.slowest_now(short.frontier);
            if slow.position.wrapping_sub(needed) as i64 >= 0 {
                return;
            }
            if is_over() {
                return;
            }
            // The slowest may be asleep behind what it screens: nobody woke it for that.
            self.ring_for_all();
            // A dead one is buried by the caller, with the claim free. So is the case that it has become somebody else.
            if slow.slot != short.slow.slot || slow.slot.is_some_and(|slot| self.bury_if_dead(slot)) {
                return;
            }
            if wish != needed {
                space.bell.nap(bell, deadline.cap(AMPLE_SLICE), EVERY_BIT);
                wish = needed;
                continue;
            }
            space.bell.sleep(bell, deadline.cap(slice), EVERY_BIT);
            slice = (slice * 2).min(LONGEST_SLICE);
        }
    }

    /// Whether an append of `size` bytes would neither have to wait for room nor for another member: a hint.
    pub(crate) fn may_append(&self, size: u64) -> bool {
        let claim = Word::from_bits(self.segment.control().claim.word.load(Ordering::Acquire));
        self.at_work(claim).is_none() && self.free() >= size
    }

    /// Waits until an append of `size` bytes may succeed, or `is_over`.
    pub(crate) fn wait_to_append(&self, size: u64, is_over: &dyn Fn() -> bool) {
        let mut slice = ROOM_SLICE;
        while !is_over() && !self.may_append(size) {
            let control = self.segment.control();
            if self.free() < size {
                let frontier = self.frontier_behind_reserved();
                let short = Short {
                    end: frontier.wrapping_add(size + GRANULE),
                    frontier,
                    slow: self.slowest_now(frontier),
                };
                self.wait_for_room(&short, &Deadline::None, is_over);
                continue;
            }
            // Somebody is in the middle of an append. He need not know that somebody waits, so nobody rings.
            let claim = Word::from_bits(control.claim.word.load(Ordering::Acquire));
            if let Some(writer) = self.at_work(claim)
                && !self.bury_if_dead(writer)
            {
                control.turn.bell.nap(control.turn.bell.read(), slice, EVERY_BIT);
                slice = (slice * 2).min(LONGEST_SLICE);
            }
        }
    }

    /// A wish that everybody has reached is rung for by nobody any more, and would hide every later one. Whoever found room
    /// just after wishing, or died then, has left it. (Ringing is for the case that it is about to sleep on it after all.)
    fn drop_stale_wish(&self, frontier: u64) {
        let wanted = self.segment.control().space.wanted.load(Ordering::Relaxed);
        if wanted != 0 && self.slowest_now(frontier).position.wrapping_sub(wanted - 1) as i64 >= 0 {
            self.wake_writers();
        }
    }

    /// Asks readers to ring when they reach `position`; the least of all writers' wishes counts.
    fn want(&self, position: u64) {
        let wanted = &self.segment.control().space.wanted;
        let mine = position.wrapping_add(1);
        let mut seen = wanted.load(Ordering::Relaxed);
        while seen == 0 || seen.wrapping_sub(mine) as i64 > 0 {
            match wanted.compare_exchange(seen, mine, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// As `slowest`, without the claim: a hint.
    pub(crate) fn slowest_now(&self, frontier: u64) -> Slow {
        let mut slow = Slow {
            position: frontier,
            slot: None,
        };
        for slot in 0..self.slots_used() {
            for (held, how) in self.holds(slot) {
                let further = distance(frontier, held) as i64 - distance(frontier, slow.position) as i64;
                if slow.is_less_than(further, how) {
                    slow = Slow {
                        position: held,
                        slot: Some(slot),
                    };
                }
            }
        }
        slow
    }

    /// Bytes that an append could take now, beside its own end mark.
    pub(crate) fn free(&self) -> u64 {
        let frontier = self.frontier_behind_reserved();
        let held = distance(frontier, self.slowest_now(frontier).position);
        self.segment.geometry.max_record().saturating_sub(held)
    }

    /// The error for an append that found no room.
    pub(super) fn full(&self, short: &Short, needed: u64) -> Error {
        self.segment.control().tally.refused.fetch_add(1, Ordering::Relaxed);
        let held = distance(short.frontier, short.slow.position);
        let slowest = short.slow.slot.and_then(|slot| {
            let state = self.slot_state(slot);
            let named = matches!(state.role, Some(Role::Member | Role::Reader | Role::Writer));
            named.then(|| Slowest {
                name: self.name_of(slot),
                pid: self.identity(slot).pid,
                lag: held,
            })
        });
        let free = self.segment.geometry.max_record().saturating_sub(held);
        Error::Full(Box::new(Full {
            queue: self.segment.name.clone(),
            needed,
            free,
            slowest,
        }))
    }
}
