//! Who takes part: joining, leaving, evicting, and telling who is there.
//!
//! A slot goes *free → joining → active → free*. Who takes it has its lock in hand from before *joining* until after the
//! last *free*, so a lock that is free under a slot that is not tells of a death. The generation counts the members
//! that a slot has had; together with the slot number it names one member for good.
//!
//! | stage | holds writers back | set by |
//! |---|---|---|
//! | free | no | the leaver, or the gravedigger |
//! | joining | no | the joiner, slot lock in hand |
//! | active | a reader's cursor does, and a reservation | the joiner, claim in hand, so no append runs meanwhile |
//! | leaving | no | the leaver, claim in hand, where the last one is to remove the name |
//! | evicted | a reservation does (its owner may still be writing into it) | the evictor |

use super::Ring;
use super::claim::{Claim, Word};
use super::keep::Keeping;
use super::names::Names;
use super::record::{Origin, SEQUENCE};
use crate::error::{Error, Result};
use crate::segment::copy::{LARGE, Spot};
use crate::segment::layout::Control;
use crate::segment::layout::{GRANULE, MAX_SCREEN_TEXT, MAX_SENDER, Slot};
use crate::segment::presence::Holder;
use crate::segment::{Lane, backing, now_nanos};
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::process::Identity;
use crate::sys::{barrier, fork, process};
use crate::wait::{Deadline, Wait};
use std::sync::Arc;
use std::time::Duration;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Appends and pops.
    Member = 1,
    /// Appends, and owes no reads.
    Writer = 2,
    /// Pops.
    Reader = 3,
}

impl Role {
    pub(crate) fn reads(self) -> bool {
        matches!(self, Role::Member | Role::Reader)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Role::Member | Role::Writer)
    }
}

/// Where a new reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Start {
    /// With the first message appended from now on.
    #[default]
    Now,
    /// With the oldest message that is still whole in the ring.
    Oldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Free = 0,
    Joining = 1,
    Active = 2,
    Leaving = 3,
    Evicted = 4,
}

/// A slot's state word: stage in bits 0..8, role in 8..16, generation in 32..64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotState {
    pub(crate) stage: Stage,
    /// `None` only in a slot never used, or in one whose bytes were falsified.
    pub(crate) role: Option<Role>,
    pub(crate) generation: u32,
}

impl SlotState {
    pub(crate) fn bits(self) -> u64 {
        self.stage as u64 | self.role.map_or(0, |r| (r as u64) << 8) | u64::from(self.generation) << 32
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        SlotState {
            stage: match bits as u8 {
                1 => Stage::Joining,
                2 => Stage::Active,
                3 => Stage::Leaving,
                4 => Stage::Evicted,
                _ => Stage::Free,
            },
            role: match (bits >> 8) as u8 {
                1 => Some(Role::Member),
                2 => Some(Role::Writer),
                3 => Some(Role::Reader),
                _ => None,
            },
            generation: (bits >> 32) as u32,
        }
    }

    /// Whether the cursor in this slot holds writers back.
    pub(crate) fn gates(self) -> bool {
        self.stage == Stage::Active && self.role.is_some_and(Role::reads)
    }
}

/// A member's hold on its slot: process-local, given back on drop.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) ring: Arc<Ring>,
    pub(crate) slot: u16,
    lane: Lane,
    pub(crate) generation: u32,
    pub(crate) sender: Arc<str>,
    pub(super) names: Names,
    /// That of its records without a kind.
    pub(crate) origin: Origin,
    /// The state word of the slot while this member is an active one.
    active: u64,
    pub(super) keeping: Keeping,
    /// Bodies below this length are written without a call: they are not [`LARGE`], no clock is to be asked, and
    /// the fence is the other side's to pay.
    pub(super) short_below: usize,
    role: Role,
    born: fork::Born,
    /// The segment's.
    pub(super) light: barrier::Light,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    pub(crate) position: u64,
    pub(crate) sequence: u64,
}

/// One member as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) slot: u16,
    pub(crate) state: SlotState,
    pub(crate) identity: Identity,
    pub(crate) joined: u64,
    pub(crate) name: String,
    pub(crate) screen: String,
    pub(crate) is_alive: bool,
    pub(crate) lag: u64,
}

/// How often, and how far apart, a joiner looks for a slot before it says that there is none.
const NO_SLOT_ROUNDS: u32 = 5;
const NO_SLOT_PAUSE: Duration = Duration::from_micros(500);
/// How long a leaver waits for the claim to find out whether it is the last.
const LAST_LEAVE: Duration = Duration::from_secs(1);

impl Ring {
    pub(crate) fn slot_state(&self, slot: u16) -> SlotState {
        // Acquire: pairs with the Release that made the slot what it is, so what came before is visible.
        SlotState::from_bits(self.segment.slot(slot).identity.state.load(Ordering::Acquire))
    }

    /// Slots that may be in use.
    pub(crate) fn slots_used(&self) -> u16 {
        let used = self.segment.control().tally.slots_used.load(Ordering::Acquire);
        used.min(self.segment.geometry.slots) as u16
    }

    /// Frees a slot. The caller has it in hand.
    pub(super) fn vacate(&self, slot: u16, was: SlotState) {
        let identity = &self.segment.slot(slot).identity;
        let free = SlotState {
            stage: Stage::Free,
            role: None,
            generation: was.generation.wrapping_add(1),
        };
        // Release: pairs with `slot_state`.
        identity.state.store(free.bits(), Ordering::Release);
    }

    /// Joins as a new member.
    pub(crate) fn join(
        self: &Arc<Self>,
        role: Role,
        sender: &str,
        start: Start,
        deadline: &Deadline,
    ) -> Result<(Membership, Beginning)> {
        if sender.len() > MAX_SENDER {
            return Err(Error::TooLong {
                what: "sender",
                len: sender.len(),
                max: MAX_SENDER,
            });
        }
        self.check_process()?;
        let (slot, generation) = self.take_slot(role, sender, deadline)?;
        let origin = Origin::new(slot, generation, sender.len() as u8);
        // Models go the short way, too; there the fence is a real one.
        let is_fence_settled = self.segment.light.costs_nothing() || cfg!(any(loom, miri));
        let is_short_way_open = is_fence_settled && !self.segment.geometry.timestamps;
        // From here on dropping this gives the slot back.
        let membership = Membership {
            ring: self.clone(),
            slot,
            lane: self.segment.lane(slot),
            generation,
            sender: sender.into(),
            names: Names::new(sender, origin, self.bits_of_kind(b"")),
            origin,
            active: SlotState {
                stage: Stage::Active,
                role: Some(role),
                generation,
            }
            .bits(),
            keeping: Keeping::new(),
            short_below: match is_short_way_open {
                true => LARGE,
                false => 0,
            },
            role,
            born: fork::Born::now(),
            light: self.segment.light,
        };
        let beginning = self.enter(&membership, start, deadline)?;
        Ok((membership, beginning))
    }

    /// A heap-backed queue of the parent is a copy in the child, shared with nobody.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.segment.presence.file().is_none() && self.segment.born != fork::generation() {
            return Err(Error::Forked {
                queue: self.segment.name.clone(),
            });
        }
        Ok(())
    }

    /// Takes a free slot, or one of a dead member.
    fn take_slot(&self, role: Role, sender: &str, deadline: &Deadline) -> Result<(u16, u32)> {
        for _ in 0..NO_SLOT_ROUNDS {
            if let Some(taken) = self.try_take_slot(role, sender)? {
                return Ok(taken);
            }
            if deadline.has_passed() {
                break;
            }
            // A slot may be in a leaver's or a gravedigger's hand just now. Those are short moments.
            std::thread::sleep(deadline.cap(NO_SLOT_PAUSE));
        }
        Err(Error::NoSlot {
            queue: self.segment.name.clone(),
            slots: self.segment.geometry.slots,
        })
    }

    fn try_take_slot(&self, role: Role, sender: &str) -> Result<Option<(u16, u32)>> {
        let slots = self.segment.geometry.slots as u16;
        let os = |source| Error::Os {
            doing: "locking a slot",
            queue: self.segment.name.clone(),
            source,
        };
        let _one_at_a_time = fork::exclusive();
        // Free ones first; graves are only opened when nothing else is left.
        for dead_too in [false, true] {
            for slot in 0..slots {
                if !dead_too && self.slot_state(slot).stage != Stage::Free {
                    continue;
                }
                if !self.segment.presence.take(slot).map_err(os)? {
                    continue;
                }
                if self.slot_state(slot).stage != Stage::Free
                    && (!dead_too || self.segment.presence.lives_without_lock(&self.identity(slot)))
                {
                    self.segment.presence.give_back(slot);
                    continue;
                }
                // Also for a slot that says free: its last member may have died with the claim in its hand.
                self.bury(slot);
                return Ok(Some((slot, self.move_in(slot, role, sender))));
            }
        }
        Ok(None)
    }

    /// Writes the newcomer's identity into its slot.
    fn move_in(&self, slot: u16, role: Role, sender: &str) -> u32 {
        let Slot {
            cursor,
            identity,
            screen,
        } = self.segment.slot(slot);
        let me = process::me();
        identity.pid.store(me.pid.into(), Ordering::Relaxed);
        identity.start_time.store(me.start_time, Ordering::Relaxed);
        identity.namespace.store(me.namespace, Ordering::Relaxed);
        identity.joined.store(now_nanos(), Ordering::Relaxed);
        put_text(&identity.name_len, &identity.name, sender.as_bytes());
        screen.len.store(0, Ordering::Relaxed);
        let counters = [
            &cursor.reservation,
            &cursor.unannounced,
            &cursor.appended.messages,
            &cursor.appended.bytes,
            &cursor.popped.messages,
            &cursor.popped.bytes,
            &cursor.screened,
            &cursor.missed,
            &cursor.refused,
        ];
        counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        let generation = self.slot_state(slot).generation.wrapping_add(1);
        let joining = SlotState {
            stage: Stage::Joining,
            role: Some(role),
            generation,
        };
        // Release: pairs with `slot_state`, so whoever sees the slot taken sees by whom.
        identity.state.store(joining.bits(), Ordering::Release);
        self.segment
            .control()
            .tally
            .slots_used
            .fetch_max(u32::from(slot) + 1, Ordering::AcqRel);
        generation
    }

    /// Makes a joining member an active one. No append runs meanwhile, so the first message it gets is well defined.
    fn enter(&self, who: &Membership, start: Start, deadline: &Deadline) -> Result<Beginning> {
        let control = self.segment.control();
        let claim = self.claim(who.slot, deadline)?;
        let may_retire = self.segment.geometry.unlink_on_last_leave;
        if may_retire && control.tally.retired.load(Ordering::Relaxed) != 0 {
            // Whoever marked it may have died before the name was gone; then nobody could ever make the queue anew.
            self.remove_name(&claim);
            return Err(Error::Retired {
                queue: self.segment.name.clone(),
            });
        }
        if self.segment.geometry.single_writer && who.role.writes() {
            self.refuse_second_writer(who.slot)?;
        }
        let position = match start {
            Start::Now => claim.position,
            Start::Oldest => control.limits.oldest.load(Ordering::Relaxed),
        };
        if position % GRANULE != 0 || claim.position.wrapping_sub(position) > self.capacity() {
            return Err(self.corrupt("oldest record", position));
        }
        let Slot { cursor, identity, .. } = self.segment.slot(who.slot);
        cursor.cursor.store(position, Ordering::Relaxed);
        if who.role.reads() {
            let gate = control.limits.gate.load(Ordering::Relaxed);
            // The gate is never ahead of a cursor.
            if (position.wrapping_sub(gate) as i64) < 0 {
                control.limits.gate.store(position, Ordering::Relaxed);
            }
        }
        // Release: pairs with `slot_state`; the cursor is in place before it counts.
        identity.state.store(who.active, Ordering::Release);
        let sequence = self.segment.word(position, SEQUENCE).load(Ordering::Relaxed);
        drop(claim);
        Ok(Beginning { position, sequence })
    }

    /// Removes the name of a queue that has ended, if it still leads here. Under the claim, so one at a time.
    fn remove_name(&self, _claim: &Claim<'_>) {
        if let crate::segment::Place::Path(path) = &self.segment.place
            && backing::is_current(&self.segment)
        {
            // Already gone is what was wanted.
            let _ = crate::sys::files::remove_name(path);
        }
    }

    fn refuse_second_writer(&self, me: u16) -> Result<()> {
        for other in (0..self.slots_used()).filter(|slot| *slot != me) {
            let state = self.slot_state(other);
            let writes = state.stage == Stage::Active && state.role.is_some_and(Role::writes);
            if writes && !self.bury_if_dead(other) {
                let pid = self.identity(other).pid;
                return Err(Error::WriterExists {
                    queue: self.segment.name.clone(),
                    pid,
                });
            }
        }
        Ok(())
    }

    /// The name that the member in a slot joined with.
    pub(super) fn name_of(&self, slot: u16) -> String {
        let identity = &self.segment.slot(slot).identity;
        get_text(&identity.name_len, &identity.name)
    }

    /// What others see of the slots in use.
    pub(crate) fn members(&self) -> Vec<Seen> {
        let frontier = self.frontier_behind_reserved();
        let look = |slot| {
            let state = self.slot_state(slot);
            if state.stage == Stage::Free {
                return None;
            }
            let Slot {
                cursor,
                identity,
                screen,
            } = self.segment.slot(slot);
            let who = self.identity(slot);
            let at = cursor.cursor.load(Ordering::Acquire);
            let lag = if state.gates() {
                distance(frontier, at).min(self.capacity())
            } else {
                0
            };
            Some(Seen {
                slot,
                state,
                identity: who,
                joined: identity.joined.load(Ordering::Relaxed),
                name: self.name_of(slot),
                screen: get_text(&screen.len, &screen.text),
                is_alive: self.segment.presence.holder(slot, &who) != Holder::Nobody,
                lag,
            })
        };
        (0..self.slots_used()).filter_map(look).collect()
    }

    /// Puts a live member out: its cursor no longer counts, its reservation is aborted, its next call is told.
    pub(crate) fn evict(&self, slot: u16, generation: u32) -> Result<()> {
        let no_such = || Error::NoSuchMember {
            queue: self.segment.name.clone(),
        };
        if slot >= self.slots_used() {
            return Err(no_such());
        }
        let state = self.slot_state(slot);
        if state.stage != Stage::Active || state.generation != generation {
            return Err(no_such());
        }
        if self.bury_if_dead(slot) {
            return Ok(());
        }
        let claim = Word::from_bits(self.segment.control().claim.word.load(Ordering::Acquire));
        let is_busy_keeper = claim.keeper() == Some(slot) && self.is_busy(slot);
        if claim.holder() == Some(slot) || is_busy_keeper {
            // It may be writing this very moment; nobody is robbed while alive.
            return Err(Error::Busy {
                queue: self.segment.name.clone(),
                pid: self.identity(slot).pid,
            });
        }
        let evicted = SlotState {
            stage: Stage::Evicted,
            ..state
        };
        let line = &self.segment.slot(slot).identity.state;
        if line
            .compare_exchange(state.bits(), evicted.bits(), Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
        {
            return Err(no_such());
        }
        self.segment.control().tally.evicted.fetch_add(1, Ordering::Relaxed);
        let reservation = self.segment.slot(slot).cursor.reservation.load(Ordering::Acquire);
        if reservation != 0 {
            // Readers may pass. Its room stays taken until the owner lets go: it may still be filling it.
            self.abort_reservation_of(slot, generation, reservation - 1);
        }
        self.wake_writers();
        self.ring_for_all();
        Ok(())
    }

    /// Buries the dead members among those that joined as process `pid` of this PID namespace. How many there were.
    pub(crate) fn reap(&self, pid: u32) -> usize {
        let namespace = process::me().namespace;
        (0..self.slots_used())
            .filter(|slot| {
                let who = self.identity(*slot);
                self.slot_state(*slot).stage != Stage::Free
                    && who.pid == pid
                    && who.namespace == namespace
                    && self.bury_if_dead(*slot)
            })
            .count()
    }

    /// Buries every dead member. How many there were.
    pub(crate) fn reap_all(&self) -> usize {
        (0..self.slots_used())
            .filter(|slot| self.slot_state(*slot).stage != Stage::Free && self.bury_if_dead(*slot))
            .count()
    }
}

impl Membership {
    /// Whether this handle may still be used here.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.check_process()?;
        self.check_not_evicted()
    }

    /// Whether this is the process that joined.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if !self.is_of_this_process() {
            return Err(self.forked());
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn check_not_evicted(&self) -> Result<()> {
        if self.is_active() {
            return Ok(());
        }
        Err(self.evicted())
    }

    /// Whether nobody has evicted this member.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.is_active_in(self.line())
    }

    /// The same, for who has this member's slot at hand.
    #[inline(always)]
    pub(super) fn is_active_in(&self, slot: &Slot) -> bool {
        // Acquire: as in `slot_state`.
        slot.identity.state.load(Ordering::Acquire) == self.active
    }

    #[cold]
    pub(super) fn evicted(&self) -> Error {
        Error::Evicted {
            queue: self.ring.segment.name.clone(),
        }
    }

    #[cold]
    fn forked(&self) -> Error {
        Error::Forked {
            queue: self.ring.segment.name.clone(),
        }
    }

    /// False in a child that inherited this handle.
    #[inline(always)]
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.born.is_of_this_process()
    }

    /// This member's slot.
    #[inline(always)]
    pub(crate) fn line(&self) -> &Slot {
        // SAFETY: `join` took the lane from this ring's segment, as in the next ones.
        unsafe { self.lane.slot() }
    }

    #[inline(always)]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: as in `line`.
        unsafe { self.lane.control() }
    }

    /// The record at `position`.
    #[inline(always)]
    pub(super) fn at(&self, position: u64) -> Spot<'_> {
        // SAFETY: as in `line`.
        unsafe { self.lane.at(position) }
    }

    #[inline(always)]
    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Shows others what this member screens out.
    pub(crate) fn show_screen(&self, text: &str) {
        let screen = &self.line().screen;
        let mut end = text.len().min(MAX_SCREEN_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        put_text(&screen.len, &screen.text, &text.as_bytes()[..end]);
    }

    /// Marks this member as leaving, and removes the queue's name if no other one is left.
    fn remove_name_if_last(&self) {
        let ring = &self.ring;
        let Ok(claim) = ring.claim(self.slot, &Deadline::of(Wait::For(LAST_LEAVE))) else {
            return;
        };
        let state = ring.slot_state(self.slot);
        let leaving = SlotState {
            stage: Stage::Leaving,
            ..state
        };
        self.line().identity.state.store(leaving.bits(), Ordering::Release);
        let is_there = |slot: u16| {
            matches!(ring.slot_state(slot).stage, Stage::Active | Stage::Joining) && !ring.bury_if_dead(slot)
        };
        if !(0..ring.slots_used()).any(is_there) {
            // Under the claim, so nobody joins between the count and the mark; a later joiner sees the mark.
            ring.segment.control().tally.retired.store(1, Ordering::Release);
            ring.remove_name(&claim);
        }
        drop(claim);
    }
}

impl Drop for Membership {
    /// Leaves. In a forked child it does nothing: the slot is the parent's.
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            return;
        }
        let ring = &self.ring;
        if ring.segment.geometry.unlink_on_last_leave
            && matches!(ring.segment.place, crate::segment::Place::Path(_))
            && ring.slot_state(self.slot).stage == Stage::Active
        {
            self.remove_name_if_last();
        }
        let _one_at_a_time = fork::exclusive();
        ring.stop_keeping(self.slot);
        self.line().cursor.reservation.store(0, Ordering::Release);
        ring.vacate(self.slot, ring.slot_state(self.slot));
        ring.wake_writers();
        ring.segment.presence.give_back(self.slot);
    }
}

/// How far `behind` is behind `ahead`; 0 if it is not.
pub(crate) fn distance(ahead: u64, behind: u64) -> u64 {
    let distance = ahead.wrapping_sub(behind);
    if (distance as i64) < 0 { 0 } else { distance }
}

/// As many bytes as fit, as little-endian words.
fn words_of<const N: usize>(text: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(text.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    words
}

fn put_text<const N: usize>(len: &AtomicU64, words: &[AtomicU64; N], text: &[u8]) {
    let used = text.len().div_ceil(8);
    for (word, value) in words.iter().zip(words_of::<N>(text)).take(used) {
        word.store(value, Ordering::Relaxed);
    }
    len.store(text.len() as u64, Ordering::Relaxed);
}

fn get_text(len: &AtomicU64, words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    let len = (len.load(Ordering::Relaxed) as usize).min(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_state_survives_its_word() {
        for stage in [
            Stage::Free,
            Stage::Joining,
            Stage::Active,
            Stage::Leaving,
            Stage::Evicted,
        ] {
            for role in [None, Some(Role::Member), Some(Role::Writer), Some(Role::Reader)] {
                let state = SlotState {
                    stage,
                    role,
                    generation: 0xdead_beef,
                };
                assert_eq!(SlotState::from_bits(state.bits()), state);
            }
        }
    }

    #[test]
    fn texts_are_cut_to_their_words() {
        let words = [const { AtomicU64::new(0) }; 2];
        let len = AtomicU64::new(0);
        put_text(&len, &words, b"hello world");
        assert_eq!(get_text(&len, &words), "hello world");
        len.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(get_text(&len, &words).len(), 16);
    }
}
