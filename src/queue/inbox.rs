//! The reading half that members, readers and observers share: a place in the queue, a screen, and a buffer.

use super::doorbell::Doorbell;
use super::guard::Guard;
use super::info::MemberId;
use super::message::{Buffer, Message};
use super::pace::{LONGER, Pace};
use super::screen::{Outline, Screen, Verdict};
use crate::error::{Error, Result};
use crate::ring::Ring;
use crate::ring::members::{Beginning, Membership};
use crate::ring::read::{AtHand, Found, Look};
use crate::ring::record::Origin;
use crate::ring::sleep::{ANY_KIND, note_wait};
use crate::sys::atomic::{AtomicU64, Ordering, fence};
use crate::sys::futex::EVERY_BIT;
use crate::sys::spinning_helps;
use crate::wait::{Deadline, Wait};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writers that wait for room are told at least every so many bytes that a reader passes over.
const LET_GO_EVERY: u64 = 64 << 10;

/// First and longest sleep of an observer, whom nobody wakes.
const OBSERVER_SLICES: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(8));

/// Least limit for messages brought home, in the bytes they took in the ring. An append that starves among busy writers brings home a few
/// times the ring at most; a member that never pops must meet an error before it has eaten the machine.
const HOME_LIMIT: u64 = 16 << 20;

/// How often a reader of answers that come one by one looks before it looks at the clock.
const MOMENT_LOOKS: u32 = 256;

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

/// Whether a message is wanted, and how to tell another one with the same sender and kind by the words that hold the kind. A member's sender
/// is always the same; and of a kind, the first eight bytes tell all that was looked at.
#[derive(Debug)]
struct Judged {
    /// Of the screen that judged.
    edition: u64,
    origin: Origin,
    /// Which byte of the names the first of the two words is at.
    skip: usize,
    /// Which bits of the two are the kind's, and what they are.
    masks: [u64; 2],
    words: [u64; 2],
    is_wanted: bool,
}

impl Judged {
    fn new(edition: u64, ring: &Ring, found: &Found, is_wanted: bool) -> Self {
        let (sender_len, kind_len) = (usize::from(found.origin.sender_len()), found.origin.kind_len());
        let bits: u128 = match kind_len {
            0..8 => !(u128::MAX << (8 * kind_len)),
            _ => u64::MAX.into(),
        };
        let mask = bits << (8 * (sender_len % 8));
        let (skip, masks) = (sender_len & !7, [mask as u64, (mask >> 64) as u64]);
        let [low, high] = ring.name_words(found, skip);
        Judged {
            edition,
            origin: found.origin,
            skip,
            masks,
            words: [low & masks[0], high & masks[1]],
            is_wanted,
        }
    }

    #[inline(always)]
    fn is_of(&self, ring: &Ring, found: &Found) -> bool {
        let [low, high] = ring.name_words(found, self.skip);
        found.origin == self.origin && low & self.masks[0] == self.words[0] && high & self.masks[1] == self.words[1]
    }
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

    /// Whether, within a moment, there is a message that only has to be taken: for a reader of answers that come one by one. The way
    /// from a look that sees it to the caller is shorter from here than from any longer wait.
    #[inline(never)]
    fn is_soon_at_hand(&mut self, wait: Wait) -> bool {
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

    /// Waits until there is a message that the screen lets through.
    #[inline]
    fn wait_for_next(&mut self, wait: Wait) -> Result<Option<Next>> {
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

    /// Sees to the distance from the writer; see [`Pace`].
    #[inline(always)]
    fn keep_pace(&mut self, wait: Wait) {
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

    #[inline(always)]
    fn is_wanted(&mut self, found: &Found) -> bool {
        if !self.screen.hears_own()
            && let Some(me) = &self.membership
            && me.origin.is_of_member(found.origin)
        {
            return false;
        }
        if !self.screen.looks_at_names() {
            return true;
        }
        match &self.judged {
            Some(judged) if judged.edition == self.screen.edition() && judged.is_of(&self.ring, found) => {
                judged.is_wanted
            }
            _ => self.names_are_wanted(*found),
        }
    }

    #[inline(never)]
    fn names_are_wanted(&mut self, found: Found) -> bool {
        let found = &found;
        let (sender_len, kind_len) = (found.origin.sender_len().into(), found.origin.kind_len().into());
        let kind = || Outline::new(kind_len, self.ring.name_word(found, sender_len));
        let sender = || Outline::new(sender_len, self.ring.name_word(found, 0));
        let is_wanted = match self.screen.judge(sender, kind) {
            Verdict::Heard => true,
            Verdict::PassedOver => false,
            Verdict::Unclear => return self.whole_names_are_wanted(found),
        };
        // What is being overwritten may be half of one record and half of another.
        if !self.is_racing {
            self.judged = Some(Judged::new(self.screen.edition(), &self.ring, found, is_wanted));
        }
        is_wanted
    }

    #[inline(never)]
    fn whole_names_are_wanted(&self, found: &Found) -> bool {
        // Whatever a record says, its names have no more bytes than this.
        let mut words = [0; 2 * 256 / 8];
        let words = &mut words[..found.body_at as usize / 8];
        self.ring.copy(found, words, self.is_racing);
        let (sender, rest) = bytemuck::cast_slice::<u64, u8>(words).split_at(found.origin.sender_len().into());
        self.screen.passes(sender, &rest[..found.origin.kind_len().into()])
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

    /// Takes unread messages out of the ring into this process, because they are in the way of this member's own append.
    /// Whether any went.
    pub(super) fn bring_home(&mut self) -> Result<bool> {
        let before = self.position;
        let brought = self.bring_all_home();
        self.take_stock();
        brought.map(|()| self.position != before)
    }

    fn bring_all_home(&mut self) -> Result<()> {
        while self.home_bytes < self.home_limit {
            let Ok(found) = self.look()? else { break };
            let mut words = vec![0; found.words()];
            self.ring.copy(&found, &mut words, false);
            self.check_still_mine()?;
            self.home_bytes += found.end.wrapping_sub(found.position);
            self.home.push_back(Message::new(Cow::Owned(words), found));
            self.move_on(found.end);
            self.go_past(&found);
        }
        Ok(())
    }

    /// Drops what the screen does not let through any more. Whether anything is left.
    fn screen_home(&mut self) -> bool {
        while let Some(first) = self.home.front() {
            let is_own = self
                .membership
                .as_ref()
                .is_some_and(|me| MemberId::of(me) == first.member());
            let is_heard = self.screen.hears_own() || !is_own;
            if is_heard && self.screen.passes(first.sender_bytes(), first.kind_bytes()) {
                return true;
            }
            self.home_bytes -= first.size_in_ring();
            self.home.pop_front();
            self.count(|line| &line.screened, 1);
        }
        self.take_stock();
        false
    }

    pub(super) fn first_at_home(&self) -> Option<&Message<'static>> {
        self.home.front()
    }

    /// Takes the first message that was brought home.
    pub(super) fn next_at_home(&mut self) -> Option<Message<'static>> {
        let message = self.home.pop_front()?;
        self.home_bytes -= message.size_in_ring();
        self.take_stock();
        if let Some(membership) = &self.membership {
            membership.line().cursor.popped.add(1, message.body().len() as u64);
        }
        Some(message)
    }

    /// See [`Reader::arm_to_read`](crate::Reader::arm_to_read).
    pub(super) fn arm(&mut self, doorbell: &mut Doorbell) -> Result<bool> {
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

/// Iterator over the messages that are there now; see [`Reader::drain`](crate::Reader::drain).
///
/// An error ends it, since it would come again with every further call; but after [`Error::Lagged`] it goes on.
#[derive(Debug)]
pub struct Drain<'i>(Messages<'i>);

impl<'i> Drain<'i> {
    pub(super) fn new(inbox: &'i mut Inbox) -> Self {
        Drain(Messages::new(inbox, Wait::Never))
    }
}

impl Iterator for Drain<'_> {
    type Item = Result<Message<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Iterator that waits for messages; see [`Reader::messages`](crate::Reader::messages).
///
/// An error ends it, since it would come again with every further call; but after [`Error::Lagged`] it goes on.
#[derive(Debug)]
pub struct Messages<'i> {
    inbox: &'i mut Inbox,
    wait: Wait,
    has_failed: bool,
}

impl<'i> Messages<'i> {
    pub(super) fn new(inbox: &'i mut Inbox, wait: Wait) -> Self {
        Messages {
            inbox,
            wait,
            has_failed: false,
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let popped = self.inbox.pop(self.wait);
        self.has_failed = !matches!(popped, Ok(_) | Err(Error::Lagged { .. }));
        popped.map(|message| message.map(Message::into_owned)).transpose()
    }
}
