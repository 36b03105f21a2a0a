//! What can be asked about a queue: counters, options, members.

use crate::ring::Ring;
use crate::ring::members::{Membership, Role, Seen, Stage};
use crate::sys::atomic::Ordering;
use crate::sys::process::{self, Identity};
use std::time::{Duration, SystemTime};

/// Names one member for good: a later one in the same slot has another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

impl MemberId {
    pub(super) fn of(membership: &Membership) -> Self {
        MemberId {
            slot: membership.slot,
            generation: membership.generation,
        }
    }

    /// The slot it is in, and the byte of the file that its process has locked.
    pub fn slot(&self) -> u16 {
        self.slot
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// One member, as it was when asked. Counters are the member's own and may be a moment behind, or one message ahead of
/// an append that is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo {
    /// To tell it from others, and for [`evict`](crate::Queue::evict).
    pub id: MemberId,
    /// The name it joined with.
    pub name: String,
    /// What it may do; `None` while it is joining.
    pub role: Option<Role>,
    /// Process number, as the member itself sees it.
    pub pid: u32,
    /// Whether its process lives. A dead one is buried by whoever it gets in the way of, or by [`reap`](crate::Queue::reap).
    pub is_alive: bool,
    /// Whether it was evicted and has not noticed yet.
    pub is_evicted: bool,
    /// When it joined.
    pub joined: SystemTime,
    /// Bytes of the ring between it and the newest message; 0 for writers.
    pub lag: u64,
    /// Messages appended.
    pub appended: u64,
    /// Bytes of their bodies.
    pub appended_bytes: u64,
    /// Messages popped.
    pub popped: u64,
    /// Bytes of their bodies.
    pub popped_bytes: u64,
    /// Messages passed over.
    pub screened: u64,
    /// Messages missed, on a lossy queue.
    pub missed: u64,
    /// Appends that ended in [`Error::Full`](crate::Error::Full).
    pub refused: u64,
    /// What it passes over, for people to read; cut after 248 bytes.
    pub screen: String,
    identity: Identity,
}

impl MemberInfo {
    /// The command line that its process runs with, arguments separated by blanks. `None`: the process has ended, is a zombie, or cannot be
    /// seen from here (another PID namespace, no `/proc`). A later process with the same number is never taken for it.
    ///
    /// The bytes are that process's own: escape control characters before they go to a terminal.
    ///
    /// ```
    /// let queue = syncq::Queue::options().heap()?;
    /// let _me = queue.join("me")?;
    /// let command = queue.members()[0].command().expect("this very process runs");
    /// assert!(!command.is_empty());
    /// # Ok::<(), syncq::Error>(())
    /// ```
    pub fn command(&self) -> Option<String> {
        process::command(&self.identity)
    }
}

pub(super) fn members(ring: &Ring) -> Vec<MemberInfo> {
    ring.members().into_iter().map(|seen| describe(ring, seen)).collect()
}

fn describe(ring: &Ring, seen: Seen) -> MemberInfo {
    let line = &ring.segment.slot(seen.slot).cursor;
    MemberInfo {
        id: MemberId {
            slot: seen.slot,
            generation: seen.state.generation,
        },
        name: seen.name,
        role: seen.state.role.filter(|_| seen.state.stage != Stage::Joining),
        pid: seen.identity.pid,
        is_alive: seen.is_alive,
        is_evicted: seen.state.stage == Stage::Evicted,
        joined: SystemTime::UNIX_EPOCH + Duration::from_nanos(seen.joined),
        lag: seen.lag,
        appended: line.appended.messages.load(Ordering::Relaxed),
        appended_bytes: line.appended.bytes.load(Ordering::Relaxed),
        popped: line.popped.messages.load(Ordering::Relaxed),
        popped_bytes: line.popped.bytes.load(Ordering::Relaxed),
        screened: line.screened.load(Ordering::Relaxed),
        missed: line.missed.load(Ordering::Relaxed),
        refused: line.refused.load(Ordering::Relaxed),
        screen: seen.screen,
        identity: seen.identity,
    }
}

/// A whole queue, as it was when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Size of the ring in bytes.
    pub capacity: u64,
    /// Bytes that can be written now.
    pub free: u64,
    /// Member slots.
    pub slots: u32,
    /// Messages (and reservations, open or aborted, unless nobody has been told of them yet) ever appended.
    pub appended: u64,
    /// Bytes of the ring ever written: the position that the next message gets, unless its writer has reserved there without telling
    /// anybody yet; then it is that reservation's.
    pub position: u64,
    /// Bytes behind that position that can still be read.
    pub history: u64,
    /// Appends that ended in [`Error::Full`](crate::Error::Full).
    pub refused: u64,
    /// Messages that readers of a lossy queue missed, summed over the readers.
    pub missed: u64,
    /// Claims taken from dead members.
    pub takeovers: u64,
    /// Dead members that were buried.
    pub reaped: u64,
    /// Members that were evicted.
    pub evicted: u64,
    /// Process that holds the claim (is in the middle of an append) at this moment.
    pub writing: Option<u32>,
    /// The member that does. An append takes microseconds: the same member at an unmoved [`position`](Stats::position) look after look is
    /// stopped in the middle of one, or starved.
    pub writer: Option<MemberId>,
    /// Whether full means overwriting.
    pub is_lossy: bool,
    /// Whether only one writer may join.
    pub is_single_writer: bool,
    /// Whether messages carry the time.
    pub has_timestamps: bool,
    /// Whether the last member to leave removes the name.
    pub unlinks_on_last_leave: bool,
    /// When it was made.
    pub created: SystemTime,
    /// Process that made it.
    pub creator: u32,
    /// Tells this queue from every other one, also of the same name.
    pub instance: u128,
}

impl Stats {
    pub(super) fn of(ring: &Ring) -> Self {
        let geometry = &ring.segment.geometry;
        let control = ring.segment.control();
        // Not behind what is reserved there and unannounced: that is gone if its owner dies, and these only grow.
        let position = ring.frontier();
        let claim = crate::ring::claim::Word::from_bits(control.claim.word.load(Ordering::Relaxed));
        let tally = &control.tally;
        let oldest = control.limits.oldest.load(Ordering::Relaxed);
        let at_work = ring.at_work(claim);
        Stats {
            capacity: geometry.capacity,
            free: ring.free(),
            slots: geometry.slots,
            appended: ring.sequence_at(position),
            position,
            history: crate::ring::members::distance(position, oldest).min(geometry.capacity),
            refused: tally.refused.load(Ordering::Relaxed),
            missed: tally.missed.load(Ordering::Relaxed),
            takeovers: tally.takeovers.load(Ordering::Relaxed),
            reaped: tally.reaped.load(Ordering::Relaxed),
            evicted: tally.evicted.load(Ordering::Relaxed),
            writing: at_work.map(|slot| ring.identity(slot).pid),
            writer: at_work.map(|slot| MemberId {
                slot,
                generation: ring.slot_state(slot).generation,
            }),
            is_lossy: geometry.lossy,
            is_single_writer: geometry.single_writer,
            has_timestamps: geometry.timestamps,
            unlinks_on_last_leave: geometry.unlink_on_last_leave,
            created: SystemTime::UNIX_EPOCH + Duration::from_nanos(geometry.created),
            creator: geometry.creator,
            instance: u128::from(geometry.instance[0]) << 64 | u128::from(geometry.instance[1]),
        }
    }
}
