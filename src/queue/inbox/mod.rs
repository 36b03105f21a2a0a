//! The reading half that members, readers and observers share: a place in the queue, a screen, and a buffer.
//!
//! | | in |
//! |---|---|
//! | whether a message is wanted | `wanted` |
//! | how the next one is waited for | `waiting` |
//! | messages that an append of this member brought home | `home` |
//! | the iterators | `messages` |

mod home;
mod messages;
mod waiting;
mod wanted;

pub use messages::{Drain, Messages};

use super::guard::Guard;
use super::message::{Buffer, Message};
use super::pace::Pace;
use super::screen::Screen;
use crate::error::{Error, Result};
use crate::ring::Ring;
use crate::ring::members::{Beginning, Membership};
use crate::ring::read::{AtHand, Found, Look};
use crate::ring::record::Origin;
use crate::ring::sleep::ANY_KIND;
use crate::sys::atomic::{AtomicU64, Ordering, fence};
use crate::wait::Wait;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use wanted::Judged;

/// Writers that wait for room are told at least every so many bytes that a reader passes over.
const LET_GO_EVERY: u64 = 64 << 10;

/// Least limit for messages brought home, in the bytes they took in the ring. An append that starves among busy writers brings home a few
/// times the ring at most; a member that never pops must meet an error before it has eaten the machine.
const HOME_LIMIT: u64 = 16 << 20;

/// No screen's edition.
const NO_EDITION: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ring: Arc<Ring>,
    /// `None` for an observer.
    membership: Option<Arc<Membership>>,
    /// Writers do not wait for this reader: it copies, and then checks.
    is_racing: bool,
    position: u64,
    /// The sequence number of the message expected at `position`.
    sequence: u64,
    pub(super) pace: Pace,
    pub(super) screen: Screen,
    /// The edition of the screen that others are shown and that the wake-up bits are of.
    applied: u64,
    /// The edition of the screen with which the next message, unless it is of `passed_over`, only has to be taken; [`NO_EDITION`] while there is more
    /// to be thought of.
    plain_edition: u64,
    /// The origin of this member's own messages if they are passed over, else that of nobody.
    passed_over: Origin,
    /// What was last found of a message's names.
    judged: Option<Judged>,
    wake_bits: u32,
    spin: Duration,
    buffer: Buffer,
    /// Messages that an append of this member brought home to make room; see [`Inbox::bring_home`].
    home: VecDeque<Message<'static>>,
    home_bytes: u64,
    home_limit: u64,
}

/// The next message, if now or within a moment it only has to be taken; else the caller returns what `$closer` gives. A macro, since
/// what is found borrows one field of the inbox, and others are changed while it is there.
macro_rules! at_hand {
    ($inbox:ident, $wait:ident, $closer:expr) => {{
        $inbox.keep_pace($wait);
        let mut has_looked = false;
        loop {
            if let Some(at_hand) = $inbox.plain().next(&$inbox.membership) {
                break at_hand;
            }
            if has_looked || !$inbox.is_soon_at_hand($wait) {
                return $closer;
            }
            has_looked = true;
        }
    }};
}

impl Inbox {
    pub(super) fn new(membership: Arc<Membership>, at: Beginning, spin: Duration, hears_own: bool) -> Self {
        let ring = membership.ring.clone();
        Self::with(ring, Some(membership), at, spin, hears_own)
    }

    pub(super) fn of_observer(ring: Arc<Ring>, at: Beginning, spin: Duration) -> Self {
        Self::with(ring, None, at, spin, true)
    }

    fn with(
        ring: Arc<Ring>,
        membership: Option<Arc<Membership>>,
        at: Beginning,
        spin: Duration,
        hears_own: bool,
    ) -> Self {
        let pace = Pace::new(at.position, at.sequence, ring.segment.geometry.capacity);
        let mut inbox = Inbox {
            is_racing: membership.is_none() || ring.segment.geometry.lossy,
            home_limit: HOME_LIMIT.max(16 * ring.segment.geometry.capacity),
            ring,
            membership,
            position: at.position,
            sequence: at.sequence,
            pace,
            screen: Screen::new(hears_own),
            applied: 0,
            plain_edition: NO_EDITION,
            passed_over: Origin::NOBODY,
            judged: None,
            wake_bits: ANY_KIND,
            spin,
            buffer: Buffer::new(),
            home: VecDeque::new(),
            home_bytes: 0,
        };
        inbox.take_stock();
        inbox
    }

    /// Finds out what there is to be thought of at a pop. After each change of that.
    fn take_stock(&mut self) {
        let is_applied = self.screen.edition() == self.applied;
        let is_plain = is_applied
            && !self.is_racing
            && self.home.is_empty()
            && !self.screen.looks_at_names()
            && !self.ring.segment.geometry.timestamps;
        let member = self.membership.as_ref().filter(|_| is_plain);
        self.plain_edition = member.map_or(NO_EDITION, |_| self.screen.edition());
        let passed_over = member.filter(|_| !self.screen.hears_own());
        self.passed_over = passed_over.map_or(Origin::NOBODY, |me| me.origin);
    }

    pub(super) fn membership(&self) -> Option<&Membership> {
        self.membership.as_deref()
    }

    pub(super) fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    pub(super) fn set_home_limit(&mut self, bytes: u64) {
        self.home_limit = bytes;
    }

    /// Bytes of the queue that this reader has not gone past.
    pub(super) fn lag(&self) -> u64 {
        crate::ring::members::distance(self.ring.frontier_behind_reserved(), self.position)
    }

    /// The next message, in this inbox's own buffer.
    #[inline(always)]
    pub(super) fn pop(&mut self, wait: Wait) -> Result<Option<Message<'_>>> {
        let at_hand = at_hand!(self, wait, self.pop_closer(wait));
        let found = at_hand.found;
        // Before it is taken, which can only fail for who has been evicted: there are not registers enough to do it afterwards.
        (self.position, self.sequence) = found.behind();
        let words = self.buffer.get(found.words());
        at_hand.take(words)?;
        Ok(Some(Message::new(Cow::Borrowed(words), found)))
    }

    /// The same where there is more to be thought of, or to be waited for.
    #[inline(never)]
    fn pop_closer(&mut self, wait: Wait) -> Result<Option<Message<'_>>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let taken = self.take_next(&mut buffer, wait);
        self.buffer = buffer;
        Ok(taken?.map(|taken| taken.into_message(&mut self.buffer)))
    }

    /// The next message, in the caller's buffer.
    #[inline(always)]
    pub(super) fn pop_into<'b>(&mut self, buffer: &'b mut Buffer, wait: Wait) -> Result<Option<Message<'b>>> {
        let at_hand = at_hand!(self, wait, self.pop_into_closer(buffer, wait));
        let found = at_hand.found;
        // Before it is taken, which can only fail for who has been evicted: there are not registers enough to do it afterwards.
        (self.position, self.sequence) = found.behind();
        let words = buffer.get(found.words());
        at_hand.take(words)?;
        Ok(Some(Message::new(Cow::Borrowed(words), found)))
    }

    /// As [`Inbox::pop_closer`].
    #[inline(never)]
    fn pop_into_closer<'b>(&mut self, buffer: &'b mut Buffer, wait: Wait) -> Result<Option<Message<'b>>> {
        Ok(self.take_next(buffer, wait)?.map(|taken| taken.into_message(buffer)))
    }

    #[inline(always)]
    fn plain(&self) -> Plain {
        Plain {
            is_so: self.screen.edition() == self.plain_edition,
            position: self.position,
            passed_over: self.passed_over,
        }
    }

    /// The next message of the ring, if nobody overtakes this reader, nothing was brought home, and its screen lets it through.
    #[inline]
    fn at_hand_if_wanted(&mut self) -> Option<Found> {
        if self.is_racing || self.screen.edition() != self.applied || !self.home.is_empty() {
            return None;
        }
        let found = self.ring.message_at(self.position)?;
        self.is_wanted(&found).then_some(found)
    }

    /// Goes past messages that are not wanted, up to one that is, or to something that is to be looked at more closely, or for half a ring.
    fn pass_over_run(&mut self) -> Option<Found> {
        let begin = self.position;
        let capacity = self.ring.segment.geometry.capacity;
        let step = (capacity / 16).min(LET_GO_EVERY);
        let (mut end, mut passed) = (begin, 0);
        // What is found is not carried out of the loop: then it stays in registers, and the end of one, on which the look at the next one
        // waits, is there sooner.
        let is_wanted = loop {
            let Some(found) = self.ring.message_at(end) else {
                break false;
            };
            if self.is_wanted(&found) {
                break true;
            }
            end = found.end;
            passed += 1;
            self.sequence = found.sequence.wrapping_add(1);
            if end.wrapping_sub(self.position) >= step {
                self.move_on(end);
            }
            if end.wrapping_sub(begin) > capacity / 2 {
                break false;
            }
        };
        if passed > 0 {
            self.move_on(end);
            self.count(|line| &line.screened, passed);
        }
        is_wanted.then(|| self.ring.message_at(end)).flatten()
    }

    /// Goes past a message that is not wanted.
    #[inline]
    fn pass_over(&mut self, found: &Found) {
        self.move_on(found.end);
        self.go_past(found);
        self.count(|line| &line.screened, 1);
    }

    /// The next message, where it lies.
    #[inline(always)]
    pub(super) fn peek(&mut self, wait: Wait) -> Result<Option<Guard<'_>>> {
        let found = at_hand!(self, wait, self.peek_closer(wait)).found;
        Guard::of_ring(self, found).map(Some)
    }

    /// As [`Inbox::pop_closer`].
    #[inline(never)]
    fn peek_closer(&mut self, wait: Wait) -> Result<Option<Guard<'_>>> {
        if self.is_racing {
            let why = "writers do not wait for this reader and may overwrite what it looks at";
            return Err(Error::Unsupported { what: "peek", why });
        }
        match self.wait_for_next(wait)? {
            None => Ok(None),
            Some(Next::AtHome) => Ok(Some(Guard::of_home(self))),
            Some(Next::InRing(found)) => Guard::of_ring(self, found).map(Some),
        }
    }

    #[cold]
    fn apply_screen(&mut self) {
        self.applied = self.screen.edition();
        self.take_stock();
        if let Some(membership) = &self.membership {
            self.wake_bits = self.screen.wake_bits(&self.ring);
            membership.show_screen(&self.screen.describe());
        }
    }

    /// Goes past what is not to be heard. `Err`: there is nothing now, and the head was seen so; or 0, so that the caller
    /// looks at the clock after a long stretch of such.
    #[inline]
    fn look(&mut self) -> Result<Result<Found, u64>> {
        let from = self.position;
        if !self.is_racing {
            if let Some(found) = self.pass_over_run() {
                return Ok(Ok(found));
            }
            if self.has_gone_far(from) {
                return Ok(Err(0));
            }
        }
        loop {
            let look = self.ring.look(self.position);
            if self.is_racing && !self.ring.is_still_whole(self.position) {
                self.catch_up()?;
                continue;
            }
            match look.map_err(|error| self.blame(error))? {
                Look::Nothing(seen) if seen != 0 && self.membership.is_none() => {
                    // Only the living finish a reservation, and an observer cannot abort it for others.
                    match self.ring.end_of_abandoned(self.position, seen) {
                        Some(end) => {
                            self.sequence = self.ring.sequence_at(end);
                            self.position = end;
                        }
                        None => return Ok(Err(seen)),
                    }
                }
                Look::Nothing(seen) => return Ok(Err(seen)),
                Look::Skip(end) => {
                    // An aborted reservation has a number, what a shorter commit left over has none: the next record knows.
                    let sequence = self.ring.sequence_at(end);
                    if self.is_racing && !self.ring.is_still_whole(self.position) {
                        self.catch_up()?;
                        continue;
                    }
                    self.sequence = sequence;
                    self.move_on(end);
                    if self.has_gone_far(from) {
                        return Ok(Err(0));
                    }
                }
                Look::Found(found) => match self.is_wanted(&found) {
                    true => return Ok(Ok(found)),
                    false if self.is_racing && !self.ring.is_still_whole(self.position) => self.catch_up()?,
                    false => {
                        self.pass_over(&found);
                        if self.has_gone_far(from) {
                            return Ok(Err(0));
                        }
                    }
                },
            }
        }
    }

    /// Whether it is time to look at the clock.
    fn has_gone_far(&self, from: u64) -> bool {
        self.position.wrapping_sub(from) > self.ring.segment.geometry.capacity / 2
    }

    /// What looks like corruption is the writers' doing if this reader was evicted.
    #[cold]
    fn blame(&self, error: Error) -> Error {
        match self.membership.as_ref().map(|m| m.check_not_evicted()) {
            Some(Err(evicted)) => evicted,
            _ => error,
        }
    }

    /// Lets go of everything before `position`.
    #[inline]
    fn move_on(&mut self, position: u64) {
        if let Some(membership) = &self.membership {
            membership.advance(self.position, position);
        }
        self.position = position;
    }

    /// Was overtaken: goes on with the oldest message there is, and says how many it missed.
    #[cold]
    fn catch_up(&mut self) -> Result<()> {
        let (position, sequence) = self.ring.oldest()?;
        // What is whole is ahead of what is not; going back would give the same messages over and over.
        if position.wrapping_sub(self.position) as i64 <= 0 {
            return Err(self.ring.corrupt("oldest record", position));
        }
        let missed = sequence.wrapping_sub(self.sequence);
        self.move_on(position);
        self.sequence = sequence;
        if missed == 0 || missed as i64 <= 0 {
            return Ok(());
        }
        if self.membership.is_some() {
            self.count(|line| &line.missed, missed);
            self.ring
                .segment
                .control()
                .tally
                .missed
                .fetch_add(missed, Ordering::Relaxed);
        }
        Err(Error::Lagged { missed })
    }

    /// Waits for the next message and takes it out of the queue.
    #[inline]
    fn take_next(&mut self, buffer: &mut Buffer, wait: Wait) -> Result<Option<Taken>> {
        if let Some(found) = self.at_hand_if_wanted()
            && let Some(me) = &self.membership
        {
            me.check_process()?;
            me.here(found).take(buffer.get(found.words()))?;
            self.go_past(&found);
            return Ok(Some(Taken::InBuffer(found)));
        }
        loop {
            match self.wait_for_next(wait)? {
                None => return Ok(None),
                Some(Next::AtHome) => return Ok(self.next_at_home().map(Taken::FromHome)),
                Some(Next::InRing(found)) => {
                    self.ring.copy(&found, buffer.get(found.words()), self.is_racing);
                    if !self.is_racing {
                        self.check_still_mine()?;
                    } else if !self.ring.is_still_whole(found.position) {
                        self.catch_up()?;
                        continue;
                    }
                    self.finish(&found);
                    return Ok(Some(Taken::InBuffer(found)));
                }
            }
        }
    }

    /// Whether what was just read was protected by this reader's cursor all the time.
    #[inline]
    pub(super) fn check_still_mine(&self) -> Result<()> {
        // The reads before it must not be delayed past the look at the slot: an evicted cursor protects nothing.
        fence(Ordering::Acquire);
        match &self.membership {
            Some(membership) => membership.check_not_evicted(),
            None => Ok(()),
        }
    }

    /// False in a forked child that inherited this.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.membership.as_ref().is_none_or(|me| me.is_of_this_process())
    }

    pub(super) fn check_process(&self) -> Result<()> {
        self.membership.as_ref().map_or(Ok(()), |me| me.check())
    }

    /// Goes past a message that was delivered.
    #[inline(always)]
    pub(super) fn finish(&mut self, found: &Found) {
        if let Some(membership) = &self.membership {
            membership.take(found);
        }
        self.go_past(found);
    }

    #[inline(always)]
    fn go_past(&mut self, found: &Found) {
        (self.position, self.sequence) = found.behind();
    }

    #[inline]
    fn count(&self, which: impl Fn(&crate::segment::layout::CursorLine) -> &AtomicU64, by: u64) {
        if let Some(membership) = &self.membership {
            // Only this member writes its counters.
            let counter = which(&membership.line().cursor);
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        }
    }
}

/// What decides whether the next message of the ring only has to be taken: nothing was brought home, nothing is to be passed over but
/// the member's own, nobody overtakes, no time is to be read.
struct Plain {
    is_so: bool,
    position: u64,
    passed_over: Origin,
}

impl Plain {
    #[inline(always)]
    fn next(self, membership: &Option<Arc<Membership>>) -> Option<AtHand<'_>> {
        if !self.is_so {
            return None;
        }
        let at_hand = membership.as_ref()?.at_hand(self.position)?;
        (!at_hand.found.origin.is_of_member(self.passed_over)).then_some(at_hand)
    }
}

/// Where the next message is.
enum Next {
    AtHome,
    InRing(Found),
}

enum Taken {
    FromHome(Message<'static>),
    InBuffer(Found),
}

impl Taken {
    #[inline]
    fn into_message(self, buffer: &mut Buffer) -> Message<'_> {
        match self {
            Taken::FromHome(message) => message,
            Taken::InBuffer(found) => Message::new(Cow::Borrowed(buffer.get(found.words())), found),
        }
    }
}
