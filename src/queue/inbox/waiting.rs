//! How a reader waits for its next message: a moment for an answer, at a distance from a stream, asleep for what may not come, or on a
//! doorbell. How a sleeper is woken is [`ring::sleep`](crate::ring::sleep)'s.

use super::{Inbox, Next};
use crate::error::{Error, Result};
use crate::queue::doorbell::Doorbell;
use crate::queue::pace::LONGER;
use crate::ring::read::{AtHand, Look};
use crate::ring::sleep::note_wait;
use crate::sys::futex::EVERY_BIT;
use crate::sys::spinning_helps;
use crate::wait::{Deadline, Wait};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First and longest sleep of an observer, whom nobody wakes.
const OBSERVER_SLICES: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(8));

/// How often a reader of answers that come one by one looks before it looks at the clock.
const MOMENT_LOOKS: u32 = 256;

impl Inbox {
    /// Sees to the distance from the writer; see [`Pace`](crate::queue::pace::Pace).
    #[inline(always)]
    pub(super) fn keep_pace(&mut self, wait: Wait) {
        if self.pace.is_due(self.position) {
            self.keep_distance(wait);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep_distance(&mut self, wait: Wait) {
        // What was brought home is read first, and the position stands still.
        if self.home.is_empty() {
            let (may_pause, ring) = (self.may_pause(wait), &self.ring);
            self.pace
                .keep_distance(self.position, self.sequence, may_pause, || ring.frontier());
        }
    }

    /// Whether a stream is read, and a call may take as long as pauses do.
    fn may_pause(&self, wait: Wait) -> bool {
        if !self.pace.is_stream(self.sequence) || !self.may_spin() {
            return false;
        }
        match wait {
            Wait::Never => false,
            Wait::For(time) => time > LONGER,
            Wait::Until(end) => end.saturating_duration_since(Instant::now()) > LONGER,
            Wait::Forever => true,
        }
    }

    fn may_spin(&self) -> bool {
        !self.spin.is_zero() && spinning_helps()
    }

    /// Whether, within a moment, there is a message that only has to be taken: for a reader of answers that come one by one. The way
    /// from a look that sees it to the caller is shorter from here than from any longer wait.
    #[inline(never)]
    pub(super) fn is_soon_at_hand(&mut self, wait: Wait) -> bool {
        let may_wait = match wait {
            Wait::For(time) => !time.is_zero(),
            Wait::Forever => true,
            // Only the clock tells whether this has passed.
            Wait::Until(_) | Wait::Never => false,
        };
        if !may_wait || self.pace.is_stream(self.sequence) || !self.may_spin() {
            return false;
        }
        if self.screen.edition() != self.plain_edition {
            return false;
        }
        note_wait();
        for _ in 0..MOMENT_LOOKS {
            let Some(me) = &self.membership else { return false };
            if me.is_empty_at(self.position) {
                continue;
            }
            let Some(AtHand { found, .. }) = me.at_hand(self.position) else {
                return false;
            };
            if !found.origin.is_of_member(self.passed_over) {
                self.pace.begin_anew(self.sequence);
                return true;
            }
            self.pass_over(&found);
        }
        false
    }

    /// Waits until there is a message that the screen lets through.
    #[inline]
    pub(super) fn wait_for_next(&mut self, wait: Wait) -> Result<Option<Next>> {
        if let Some(membership) = &self.membership {
            membership.check()?;
        }
        if self.screen.edition() != self.applied {
            self.apply_screen();
        }
        if !self.home.is_empty() && self.screen_home() {
            return Ok(Some(Next::AtHome));
        }
        // The common case, before anything looks at a clock.
        let mut seen = match self.look()? {
            Ok(found) => return Ok(Some(Next::InRing(found))),
            Err(seen) => seen,
        };
        let deadline = Deadline::of(wait);
        let (may_pause, ring) = (self.may_pause(wait), &self.ring);
        self.pace
            .caught_up(self.position, self.sequence, may_pause, || ring.frontier());
        let from = self.position;
        loop {
            let is_news = match &self.membership {
                Some(membership) => {
                    // Evicted, or overtaken: what lies here now says nothing any more.
                    let is_over = || {
                        membership.check_not_evicted().is_err()
                            || self.is_racing && !self.ring.is_still_whole(self.position)
                    };
                    let is_news =
                        self.ring
                            .wait_for_record(self.position, seen, self.wake_bits, self.spin, &deadline, &is_over);
                    membership.check_not_evicted()?;
                    is_news
                }
                None => self.observe_until_news(seen, &deadline),
            };
            // Others may append faster than this reader passes over it. It has been through all that was there when it came.
            let has_seen_all = || self.position.wrapping_sub(from) > self.ring.segment.geometry.capacity;
            if !is_news || has_seen_all() && deadline.has_passed() {
                return Ok(None);
            }
            seen = match self.look()? {
                Ok(found) => return Ok(Some(Next::InRing(found))),
                Err(seen) => seen,
            };
        }
    }

    /// See [`Reader::arm_to_read`](crate::Reader::arm_to_read).
    pub(in crate::queue) fn arm(&mut self, doorbell: &mut Doorbell) -> Result<bool> {
        let Some(membership) = &self.membership else {
            let why = "nobody knows when an observer waits; look again now and then";
            return Err(Error::Unsupported {
                what: "a doorbell",
                why,
            });
        };
        membership.check()?;
        let me = Arc::downgrade(membership);
        if self.screen.edition() != self.applied {
            self.apply_screen();
        }
        if !self.home.is_empty() && self.screen_home() {
            return Ok(false);
        }
        let Err(seen) = self.look()? else {
            return Ok(false);
        };
        let changes_bits = doorbell.changes_bits(self.wake_bits);
        let (ring, position, bits, is_racing) = (self.ring.clone(), self.position, self.wake_bits, self.is_racing);
        doorbell.start(&self.ring.segment.name, move |is_over| {
            // The member itself is not kept alive by this: when it leaves, it leaves at once.
            let has_changed = || {
                is_over()
                    || me.upgrade().is_none_or(|me| me.check_not_evicted().is_err())
                    || is_racing && !ring.is_still_whole(position)
            };
            ring.wait_for_record(position, seen, bits, Duration::ZERO, &Deadline::None, &has_changed);
        })?;
        if changes_bits {
            // The thread may still be asleep for other kinds than are wanted now. Once it is rung it must find that wait over.
            self.ring.ring_for_all();
        }
        Ok(true)
    }

    /// An observer's wait: its mapping is read-only, so nobody knows that it sleeps, and it looks again ever more rarely.
    fn observe_until_news(&self, seen: u64, deadline: &Deadline) -> bool {
        let is_news = || {
            !matches!(self.ring.look(self.position), Ok(Look::Nothing(now)) if now == seen)
                || !self.ring.is_still_whole(self.position)
        };
        let (mut slice, longest) = OBSERVER_SLICES;
        if self.ring.spin_on(is_news, self.spin, deadline) {
            return true;
        }
        loop {
            let bell = &self.ring.segment.control().data.bell;
            let rung = bell.read();
            if is_news() || seen != 0 && self.ring.end_of_abandoned(self.position, seen).is_some() {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            bell.sleep(rung, deadline.cap(slice), EVERY_BIT);
            slice = (slice * 2).min(longest);
        }
    }
}
