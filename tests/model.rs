//! The queue against a model of it in plain collections: whatever members, readers and observers do in whatever order, each
//! call must end exactly as the model says. A failure is shrunk to a short list of steps.
//!
//! One thread does everything with [`Wait::Never`], so a run depends on its steps alone. Not here: what happens when calls
//! overlap (the loom models), and when somebody dies (`kill`).

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;
use support::{folder, minute, named, watchdog};
use syncq::{
    Buffer, Error, Member, MemberId, Message, Observer, Overflow, Queue, QueueOptions, Reader, Reservation, Role,
    Screen, Start, Wait, Writer,
};

type Checked<T = ()> = Result<T, TestCaseError>;

/// Records begin at multiples of this, and an append leaves one of these free behind it.
const GRANULE: u64 = 64;
const RECORD_HEADER: u64 = 32;
/// What a member may bring home unless it says otherwise: far more than any case here appends.
const HOME_LIMIT: u64 = 16 << 20;
/// Writers may announce, and old messages thus vanish, so many parts of the ring earlier than they must.
const INTENT_STEPS: u64 = 16;

/// How many take part at a time, at most.
const SEATS: usize = 8;

const NAMES: [&str; 4] = ["", "ann", "sixteen-bytes-ok", "a-name-of-twenty-six-bytes"];
const KINDS: [&str; 4] = ["", "k", "debug", "a-kind-of-nineteen-"];

// ---------------------------------------------------------------------------------------------------------------- steps

/// The queue that a case runs on.
#[derive(Debug, Clone)]
struct Setting {
    backing: Backing,
    /// 4096 << this.
    doublings: u32,
    slots: u32,
    start: u64,
    is_lossy: bool,
    is_single_writer: bool,
    has_timestamps: bool,
}

#[derive(Debug, Clone, Copy)]
enum Backing {
    Heap,
    Anonymous,
    Named,
    File,
}

/// How long a body is.
#[derive(Debug, Clone, Copy)]
enum Len {
    Bytes(usize),
    /// This many 256ths of the capacity.
    Share(u8),
    /// The longest that can ever fit, and this much more.
    Longest(i8),
    /// As long as there is room for right now, and this much more.
    Room(i8),
}

#[derive(Debug, Clone, Copy)]
enum ScreenChange {
    AddSender(usize),
    RemoveSender(usize),
    AddKind(usize),
    RemoveKind(usize),
    HearOwn(bool),
}

#[derive(Debug, Clone, Copy)]
enum Finish {
    Commit,
    /// This many 256ths of what was reserved.
    CommitFirst(u8),
    Abort,
}

/// One step. `who` is a seat: the step is for the first from there on who can do it.
#[derive(Debug, Clone)]
enum Step {
    /// `None`: as an observer. On the first free seat from `who` on.
    Join {
        who: usize,
        role: Option<Role>,
        name: usize,
        start: Start,
        hears_own: bool,
    },
    Leave {
        who: usize,
    },
    Append {
        who: usize,
        kind: usize,
        len: Len,
    },
    AppendAll {
        who: usize,
        messages: Vec<(usize, Len)>,
    },
    KindTooLong {
        who: usize,
    },
    Reserve {
        who: usize,
        kind: usize,
        len: Len,
    },
    Finish {
        who: usize,
        how: Finish,
    },
    Pop {
        who: usize,
    },
    PopInto {
        who: usize,
    },
    Peek {
        who: usize,
        keeps: bool,
        is_evicted_meanwhile: bool,
    },
    Drain {
        who: usize,
    },
    ChangeScreen {
        who: usize,
        change: ScreenChange,
    },
    LimitHome {
        who: usize,
        bytes: u64,
    },
    Evict {
        who: usize,
    },
    EvictSomebodyGone,
}

fn settings() -> impl Strategy<Value = Setting> {
    let backing = prop_oneof![
        12 => Just(Backing::Heap),
        1 => Just(Backing::Anonymous),
        1 => Just(Backing::Named),
        1 => Just(Backing::File),
    ];
    let near = |end: u64| (0..64u64).prop_map(move |granules| end.wrapping_sub(granules * GRANULE));
    // The claim word holds the position up to 2^43, and the position itself ends at 2^64.
    let start = prop_oneof![3 => Just(0), 1 => near(1 << 43), 2 => near(0)];
    (
        backing,
        prop_oneof![4 => Just(0u32), 1 => Just(1), 1 => Just(2)],
        2..8u32,
        start,
        prop::bool::weighted(0.35),
        prop::bool::weighted(0.1),
        any::<bool>(),
    )
        .prop_map(
            |(backing, doublings, slots, start, is_lossy, is_single_writer, has_timestamps)| Setting {
                backing,
                doublings,
                slots,
                start,
                is_lossy,
                is_single_writer,
                has_timestamps,
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let who = || 0..SEATS;
    let kind = || 0..KINDS.len();
    let len = || {
        prop_oneof![
            12 => (0..200usize).prop_map(Len::Bytes),
            4 => (0..1000usize).prop_map(Len::Bytes),
            2 => any::<u8>().prop_map(Len::Share),
            1 => (-70..70i8).prop_map(Len::Longest),
            2 => (-70..70i8).prop_map(Len::Room),
        ]
    };
    let role = prop_oneof![
        4 => Just(Some(Role::Member)),
        2 => Just(Some(Role::Writer)),
        2 => Just(Some(Role::Reader)),
        2 => Just(None),
    ];
    let start = prop_oneof![Just(Start::Now), Just(Start::Oldest)];
    let change = prop_oneof![
        (0..NAMES.len()).prop_map(ScreenChange::AddSender),
        (0..NAMES.len()).prop_map(ScreenChange::RemoveSender),
        kind().prop_map(ScreenChange::AddKind),
        kind().prop_map(ScreenChange::RemoveKind),
        any::<bool>().prop_map(ScreenChange::HearOwn),
    ];
    let finish = prop_oneof![
        3 => Just(Finish::Commit),
        3 => any::<u8>().prop_map(Finish::CommitFirst),
        2 => Just(Finish::Abort),
    ];
    prop_oneof![
        6 => (who(), role, 0..NAMES.len(), start, any::<bool>())
            .prop_map(|(who, role, name, start, hears_own)| Step::Join { who, role, name, start, hears_own }),
        2 => who().prop_map(|who| Step::Leave { who }),
        24 => (who(), kind(), len()).prop_map(|(who, kind, len)| Step::Append { who, kind, len }),
        6 => (who(), prop::collection::vec((kind(), len()), 0..6))
            .prop_map(|(who, messages)| Step::AppendAll { who, messages }),
        1 => who().prop_map(|who| Step::KindTooLong { who }),
        8 => (who(), kind(), len()).prop_map(|(who, kind, len)| Step::Reserve { who, kind, len }),
        8 => (who(), finish).prop_map(|(who, how)| Step::Finish { who, how }),
        16 => who().prop_map(|who| Step::Pop { who }),
        4 => who().prop_map(|who| Step::PopInto { who }),
        8 => (who(), any::<bool>(), prop::bool::weighted(0.05))
            .prop_map(|(who, keeps, is_evicted_meanwhile)| Step::Peek { who, keeps, is_evicted_meanwhile }),
        8 => who().prop_map(|who| Step::Drain { who }),
        4 => (who(), change).prop_map(|(who, change)| Step::ChangeScreen { who, change }),
        2 => (who(), prop_oneof![Just(0), 0..3000u64, Just(HOME_LIMIT)])
            .prop_map(|(who, bytes)| Step::LimitHome { who, bytes }),
        1 => who().prop_map(|who| Step::Evict { who }),
        1 => Just(Step::EvictSomebodyGone),
    ]
}

// ---------------------------------------------------------------------------------------------------------------- model

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Message,
    Reserved,
    Aborted,
}

/// A record of the model.
#[derive(Debug, Clone)]
struct Record {
    /// Bytes from the start of the queue, as all places in the model.
    end: u64,
    sequence: u64,
    state: State,
    by: MemberId,
    sender: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

impl Record {
    /// Bytes that it takes in the ring.
    fn size(&self) -> u64 {
        record_size(self.sender.len() + self.kind.len(), self.body.len())
    }
}

fn record_size(names_len: usize, body_len: usize) -> u64 {
    (RECORD_HEADER + (names_len as u64).next_multiple_of(8) + body_len as u64).next_multiple_of(GRANULE)
}

/// Everything ever appended.
#[derive(Debug)]
struct Ring {
    capacity: u64,
    start: u64,
    is_lossy: bool,
    records: BTreeMap<u64, Rc<Record>>,
    frontier: u64,
    sequence: u64,
    /// The oldest record that is whole. The one thing the model takes from the queue, after it has checked it.
    oldest: u64,
}

impl Ring {
    fn max_record(&self) -> u64 {
        self.capacity - GRANULE
    }

    fn sequence_at(&self, place: u64) -> u64 {
        self.records.get(&place).map_or(self.sequence, |record| record.sequence)
    }

    fn push(&mut self, record: Record) {
        self.sequence += 1;
        let end = record.end;
        self.records.insert(self.frontier, Rc::new(record));
        self.frontier = end;
    }

    fn position(&self, place: u64) -> u64 {
        self.start.wrapping_add(place)
    }
}

/// What a member counts about itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counters {
    appended: u64,
    appended_bytes: u64,
    popped: u64,
    popped_bytes: u64,
    screened: u64,
    missed: u64,
    refused: u64,
}

/// The reading half of somebody.
#[derive(Debug)]
struct Reading {
    place: u64,
    sequence: u64,
    senders: BTreeSet<&'static str>,
    kinds: BTreeSet<&'static str>,
    hears_own: bool,
    /// Nobody waits for it.
    is_racing: bool,
    home: VecDeque<Rc<Record>>,
    home_bytes: u64,
    home_limit: u64,
}

#[derive(Debug)]
enum Look {
    Nothing,
    Found(Rc<Record>),
    Lagged(u64),
}

impl Reading {
    fn wants(&self, record: &Record, me: Option<MemberId>) -> bool {
        (self.hears_own || me != Some(record.by))
            && !self.senders.contains(record.sender)
            && !self.kinds.contains(record.kind)
    }

    /// Goes to the next message in the ring that is wanted.
    fn look(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        self.look_until(u64::MAX, ring, me, counters)
    }

    /// As `look`, but gives up behind `far`.
    fn look_until(&mut self, far: u64, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        while self.place <= far {
            if self.is_racing && self.place < ring.oldest {
                let missed = ring.sequence_at(ring.oldest) - self.sequence;
                self.place = ring.oldest;
                self.sequence += missed;
                if missed > 0 {
                    counters.missed += missed;
                    return Look::Lagged(missed);
                }
            }
            let Some(record) = ring.records.get(&self.place) else {
                assert_eq!(self.place, ring.frontier, "the model itself lost its way");
                return Look::Nothing;
            };
            match record.state {
                State::Reserved => return Look::Nothing,
                State::Aborted => {
                    self.place = record.end;
                    self.sequence = ring.sequence_at(record.end);
                }
                State::Message if self.wants(record, me) => return Look::Found(record.clone()),
                State::Message => {
                    self.go_past(record);
                    counters.screened += 1;
                }
            }
        }
        Look::Nothing
    }

    fn go_past(&mut self, record: &Record) {
        self.place = record.end;
        self.sequence = record.sequence + 1;
    }

    /// As an append does that the own backlog is in the way of. Whether that made room.
    fn bring_home(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> bool {
        let before = self.place;
        while self.home_bytes < self.home_limit {
            // It looks at the clock, and whether there is room, after so much that it does not want.
            let far = self.place + ring.capacity / 2;
            let Look::Found(record) = self.look_until(far, ring, me, counters) else {
                break;
            };
            self.go_past(&record);
            self.home_bytes += record.size();
            self.home.push_back(record);
        }
        self.place != before
    }

    /// The next message, at home or in the ring; it stays there.
    fn peek(&mut self, ring: &Ring, me: Option<MemberId>, counters: &mut Counters) -> Look {
        while let Some(record) = self.home.front() {
            if self.wants(record, me) {
                return Look::Found(record.clone());
            }
            self.home_bytes -= record.size();
            self.home.pop_front();
            counters.screened += 1;
        }
        self.look(ring, me, counters)
    }

    /// Takes what `peek` has just found.
    fn take(&mut self, record: &Record, counters: &mut Counters) {
        counters.popped += 1;
        counters.popped_bytes += record.body.len() as u64;
        if self.home.pop_front().is_some() {
            self.home_bytes -= record.size();
        } else {
            self.go_past(record);
        }
    }
}

/// How a call is expected to end if not well.
#[derive(Debug)]
enum Refusal {
    Evicted,
    TooLong,
    TooLarge {
        len: u64,
    },
    Full {
        needed: u64,
        free: u64,
        name: &'static str,
        lag: u64,
    },
    ReadFirst {
        backlog: u64,
    },
}

impl Refusal {
    fn check(&self, ring: &Ring, error: &Error) -> Checked {
        let is_right = match (self, error) {
            (Refusal::Evicted, Error::Evicted { .. }) => true,
            (
                Refusal::TooLong,
                Error::TooLong {
                    what: "kind",
                    len: 256,
                    max: 255,
                },
            ) => true,
            (Refusal::TooLarge { len: expected }, Error::TooLarge { len, max, .. }) => {
                len == expected && *max == ring.max_record()
            }
            (Refusal::ReadFirst { backlog: expected }, Error::ReadFirst { backlog, .. }) => backlog == expected,
            (
                &Refusal::Full {
                    needed,
                    free,
                    name,
                    lag,
                },
                Error::Full(full),
            ) => {
                let slowest = full.slowest.as_ref();
                (full.needed, full.free) == (needed, free)
                    && slowest.is_some_and(|s| (&*s.name, s.lag, s.pid) == (name, lag, std::process::id()))
            }
            _ => false,
        };
        prop_assert!(is_right, "expected {self:?}, got {error:?}");
        Ok(())
    }
}

fn is_evicted<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Evicted { .. }))
}

// -------------------------------------------------------------------------------------------------------- real handles

/// A value on the heap that a reservation may borrow for as long as it is there.
struct Fixed<T>(NonNull<T>);

impl<T> Fixed<T> {
    fn new(value: T) -> Self {
        Fixed(NonNull::from(Box::leak(Box::new(value))))
    }

    /// # Safety
    ///
    /// The caller sees to it that nothing else uses the value while the borrow is in use, and that it ends before `self`.
    unsafe fn borrow<'any>(&mut self) -> &'any mut T {
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

enum Handle {
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

/// One who takes part: what the queue gave it, and what the model knows about it.
struct One {
    seat: usize,
    /// Before the handle, which it borrows: fields are dropped in this order.
    open: Option<Reservation<'static>>,
    handle: Handle,
    /// `None`: an observer.
    id: Option<MemberId>,
    role: Option<Role>,
    name: &'static str,
    reading: Option<Reading>,
    /// Place of the open reservation.
    reserved: Option<u64>,
    is_evicted: bool,
    /// It has learnt so, and leaves.
    was_told: bool,
    counters: Counters,
}

impl One {
    fn writes(&self) -> bool {
        matches!(self.role, Some(Role::Member | Role::Writer))
    }

    /// What holds writers back on its account: its reservation, and its cursor.
    fn holds(&self, is_lossy: bool) -> impl Iterator<Item = (u64, bool)> {
        let gates = self.role.is_some() && !self.is_evicted && !is_lossy;
        let cursor = self.reading.as_ref().filter(|_| gates).map(|r| (r.place, true));
        self.reserved.map(|place| (place, false)).into_iter().chain(cursor)
    }
}

// ---------------------------------------------------------------------------------------------------------------- world

/// How often what happened: to see that the cases get everywhere.
type Seen = BTreeMap<&'static str, u64>;

struct World<'s> {
    queue: Queue,
    setting: Setting,
    ring: Ring,
    ones: Vec<One>,
    gone: Option<MemberId>,
    refused: u64,
    missed: u64,
    evicted: u64,
    /// So that no two bodies are alike.
    bodies: u64,
    seen: &'s mut Seen,
}

impl World<'_> {
    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The first from seat `who` on that can.
    fn pick(&self, who: usize, can: impl Fn(&One) -> bool) -> Option<usize> {
        let able = (0..self.ones.len()).filter(|i| can(&self.ones[*i]));
        able.min_by_key(|i| (self.ones[*i].seat + SEATS - who) % SEATS)
    }

    fn pick_writing(&self, who: usize) -> Option<usize> {
        self.pick(who, |one| one.writes() && one.open.is_none())
    }

    fn pick_reading(&self, who: usize) -> Option<usize> {
        self.pick(who, |one| one.reading.is_some() && one.open.is_none())
    }

    /// Whoever holds writers back most: place and index. At the same place a reservation comes before a cursor (whose owner
    /// may be waiting at it), and then the lower slot.
    fn slowest(&self) -> (u64, Option<usize>) {
        let holds = self.ones.iter().enumerate().flat_map(|(index, one)| {
            let slot = one.id.map_or(u16::MAX, |id| id.slot());
            one.holds(self.ring.is_lossy)
                .map(move |(place, is_cursor)| (place, is_cursor, slot, index))
        });
        let least = holds.filter(|hold| hold.0 < self.ring.frontier).min();
        least.map_or((self.ring.frontier, None), |(place, _, _, index)| (place, Some(index)))
    }

    fn free(&self) -> u64 {
        self.ring.max_record() - (self.ring.frontier - self.slowest().0)
    }

    fn body(&mut self, len: usize) -> Vec<u8> {
        self.bodies += 1;
        let seed = self.bodies.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..len as u64)
            .map(|i| (seed.rotate_left((i % 64) as u32) ^ i) as u8)
            .collect()
    }

    fn len(&self, len: Len, name: &str, kind: &str) -> usize {
        let around = RECORD_HEADER as i64 + (name.len() + kind.len()).next_multiple_of(8) as i64;
        match len {
            Len::Bytes(bytes) => bytes,
            Len::Share(share) => (self.ring.capacity * u64::from(share) / 256) as usize,
            Len::Longest(more) => (self.ring.max_record() as i64 - around + i64::from(more)).max(0) as usize,
            Len::Room(more) => (self.free() as i64 - around + i64::from(more)).max(0) as usize,
        }
    }

    /// Room for records of these sizes, as an append that does not wait finds it.
    fn make_room(&mut self, index: usize, sizes: &[u64]) -> Result<(), Refusal> {
        let one = &self.ones[index];
        if one.is_evicted {
            return Err(Refusal::Evicted);
        }
        let total = sizes.iter().sum();
        // The first that is too large on its own, or all together.
        if let Some(&len) = sizes.iter().chain([&total]).find(|len| **len > self.ring.max_record()) {
            return Err(Refusal::TooLarge { len });
        }
        while total > self.free() {
            let (place, slowest) = self.slowest();
            let lag = self.ring.frontier - place;
            let slowest = slowest.expect("an empty ring has room");
            if slowest != index {
                self.refused += 1;
                self.ones[index].counters.refused += 1;
                let free = self.free();
                let name = self.ones[slowest].name;
                return Err(Refusal::Full {
                    needed: total,
                    free,
                    name,
                    lag,
                });
            }
            let one = &mut self.ones[index];
            let reading = one.reading.as_mut().expect("a writer is not in its own way");
            if !reading.bring_home(&self.ring, one.id, &mut one.counters) {
                return Err(Refusal::ReadFirst { backlog: lag });
            }
            self.saw("brought home");
        }
        Ok(())
    }

    /// Appends to the model.
    fn push(&mut self, index: usize, state: State, kind: &'static str, body: Vec<u8>) {
        let one = &mut self.ones[index];
        if state == State::Message {
            one.counters.appended += 1;
            one.counters.appended_bytes += body.len() as u64;
        }
        self.ring.push(Record {
            end: self.ring.frontier + record_size(one.name.len() + kind.len(), body.len()),
            sequence: self.ring.sequence,
            state,
            by: one.id.expect("observers do not append"),
            sender: one.name,
            kind,
            body,
        });
    }

    fn refuse(&mut self, index: usize, refusal: &Refusal, error: &Error) -> Checked {
        self.ones[index].was_told = matches!(refusal, Refusal::Evicted);
        self.saw(match refusal {
            Refusal::Evicted => "append by an evicted one",
            Refusal::TooLong => "too long",
            Refusal::TooLarge { .. } => "too large",
            Refusal::Full { .. } => "full",
            Refusal::ReadFirst { .. } => "read first",
        });
        refusal.check(&self.ring, error)
    }

    fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Join {
                who,
                role,
                name,
                start,
                hears_own,
            } => self.join(who, role, NAMES[name], start, hears_own),
            Step::Leave { who } => self.leave(who),
            Step::Append { who, kind, len } => self.append(who, KINDS[kind], len),
            Step::AppendAll { who, ref messages } => self.append_all(who, messages),
            Step::KindTooLong { who } => self.kind_too_long(who),
            Step::Reserve { who, kind, len } => self.reserve(who, KINDS[kind], len),
            Step::Finish { who, how } => self.finish(who, how),
            Step::Pop { who } => self.pop(who, false),
            Step::PopInto { who } => self.pop(who, true),
            Step::Peek {
                who,
                keeps,
                is_evicted_meanwhile,
            } => self.peek(who, keeps, is_evicted_meanwhile),
            Step::Drain { who } => self.drain(who),
            Step::ChangeScreen { who, change } => self.change_screen(who, change),
            Step::LimitHome { who, bytes } => self.limit_home(who, bytes),
            Step::Evict { who } => self.evict(who),
            Step::EvictSomebodyGone => self.evict_somebody_gone(),
        }
    }

    fn join(&mut self, who: usize, role: Option<Role>, name: &'static str, start: Start, hears_own: bool) -> Checked {
        let is_free = |seat: &usize| self.ones.iter().all(|one| one.seat != *seat);
        let Some(seat) = (0..SEATS).map(|step| (who + step) % SEATS).find(is_free) else {
            return Ok(());
        };
        let joining = self.queue.joining().sender(name).start(start).hear_own(hears_own);
        let joined = match role {
            Some(Role::Member) => joining
                .member()
                .map(|it| (Some(it.id()), Handle::Member(Fixed::new(it)))),
            Some(Role::Writer) => joining
                .writer()
                .map(|it| (Some(it.id()), Handle::Writer(Fixed::new(it)))),
            Some(_) => joining.reader().map(|it| (Some(it.id()), Handle::Reader(it.into()))),
            None => joining.observer().map(|it| (None, Handle::Observer(it.into()))),
        };
        let taken: BTreeSet<u16> = self.ones.iter().filter_map(|one| one.id).map(|id| id.slot()).collect();
        let slot = (0..self.setting.slots as u16).find(|slot| !taken.contains(slot));
        let writes = matches!(role, Some(Role::Member | Role::Writer));
        let writer_exists = self.ones.iter().any(|one| one.writes() && !one.is_evicted);
        let (id, handle) = match joined {
            Err(Error::NoSlot { slots, .. }) => {
                prop_assert!(role.is_some() && slot.is_none());
                prop_assert_eq!(slots, self.setting.slots);
                self.saw("no slot");
                return Ok(());
            }
            Err(Error::WriterExists { .. }) => {
                prop_assert!(slot.is_some() && writes && self.setting.is_single_writer && writer_exists);
                self.saw("a second writer");
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(format!("join: {error:?}"))),
            Ok(joined) => joined,
        };
        if role.is_some() {
            prop_assert_eq!(id.map(|id| id.slot()), slot);
        }
        prop_assert!(!(writes && self.setting.is_single_writer && writer_exists));
        let reads = !matches!(role, Some(Role::Writer));
        let place = match start {
            Start::Oldest => self.ring.oldest,
            _ => match &handle {
                // It begins in front of a reservation that is unannounced, and behind one that is not. Only the queue knows which.
                Handle::Observer(observer) if observer.lag() > 0 => {
                    let place = self.ring.frontier - observer.lag();
                    let last = self.ring.records.get(&place);
                    prop_assert!(
                        last.is_some_and(|last| last.state == State::Reserved && last.end == self.ring.frontier)
                    );
                    self.saw("observed from a reservation on");
                    place
                }
                _ => self.ring.frontier,
            },
        };
        let reading = reads.then(|| Reading {
            place,
            sequence: self.ring.sequence_at(place),
            senders: BTreeSet::new(),
            kinds: BTreeSet::new(),
            hears_own,
            is_racing: self.ring.is_lossy || role.is_none(),
            home: VecDeque::new(),
            home_bytes: 0,
            home_limit: HOME_LIMIT,
        });
        self.ones.push(One {
            seat,
            open: None,
            handle,
            id,
            role,
            name,
            reading,
            reserved: None,
            is_evicted: false,
            was_told: false,
            counters: Counters::default(),
        });
        Ok(())
    }

    fn leave(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick(who, |_| true) else {
            return Ok(());
        };
        let one = self.ones.swap_remove(index);
        if let Some(place) = one.reserved {
            self.abort(place);
            self.saw("left with a reservation");
        }
        self.gone = one.id.or(self.gone);
        drop(one);
        Ok(())
    }

    fn append(&mut self, who: usize, kind: &'static str, len: Len) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let len = self.len(len, name, kind);
        let body = self.body(len);
        let size = record_size(name.len() + kind.len(), len);
        let expected = self.make_room(index, &[size]);
        let appended = writing!(self.ones[index], it => it.append(kind, &body, Wait::Never));
        match (expected, appended) {
            (Ok(()), Ok(position)) => {
                prop_assert_eq!(position, self.ring.position(self.ring.frontier));
                self.push(index, State::Message, kind, body);
                self.saw("append");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "append of {size}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    fn append_all(&mut self, who: usize, messages: &[(usize, Len)]) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let messages: Vec<(&'static str, Vec<u8>)> = messages
            .iter()
            .map(|(kind, len)| (KINDS[*kind], self.body(self.len(*len, name, KINDS[*kind]))))
            .collect();
        let sizes: Vec<u64> = messages
            .iter()
            .map(|(kind, body)| record_size(name.len() + kind.len(), body.len()))
            .collect();
        let expected = self.make_room(index, &sizes);
        let borrowed = messages.iter().map(|(kind, body)| (*kind, &body[..]));
        let appended = writing!(self.ones[index], it => it.append_all(borrowed, Wait::Never));
        match (expected, appended) {
            (Ok(()), Ok(())) => {
                for (kind, body) in messages {
                    self.push(index, State::Message, kind, body);
                }
                self.saw("append of many");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "append of {sizes:?}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    fn kind_too_long(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let kind = "k".repeat(256);
        let expected = if self.ones[index].is_evicted {
            Refusal::Evicted
        } else {
            Refusal::TooLong
        };
        match writing!(self.ones[index], it => it.append(&kind, b"", Wait::Never)) {
            Err(error) => self.refuse(index, &expected, &error),
            Ok(position) => Err(TestCaseError::fail(format!("appended at {position}"))),
        }
    }

    fn reserve(&mut self, who: usize, kind: &'static str, len: Len) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let len = self.len(len, name, kind);
        let size = record_size(name.len() + kind.len(), len);
        let expected = self.make_room(index, &[size]);
        let reserved = writing!(self.ones[index], it => it.reserve(kind, len, Wait::Never));
        match (expected, reserved) {
            (Ok(()), Ok(reservation)) => {
                prop_assert_eq!(reservation.len(), len);
                prop_assert_eq!(reservation.position(), self.ring.position(self.ring.frontier));
                self.ones[index].open = Some(reservation);
                self.ones[index].reserved = Some(self.ring.frontier);
                self.push(index, State::Reserved, kind, vec![0; len]);
                self.saw("reserve");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "reserve of {size}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    fn finish(&mut self, who: usize, how: Finish) -> Checked {
        match self.pick(who, |one| one.open.is_some()) {
            Some(index) => self.finish_of(index, how),
            None => Ok(()),
        }
    }

    fn finish_of(&mut self, index: usize, how: Finish) -> Checked {
        let one = &mut self.ones[index];
        let place = one.reserved.take().expect("there is one");
        let mut reservation = one.open.take().expect("as just picked");
        let whole = reservation.len();
        let len = match how {
            Finish::Abort => {
                reservation.abort();
                self.abort(place);
                self.saw("abort");
                return Ok(());
            }
            Finish::Commit => whole,
            Finish::CommitFirst(share) => whole * usize::from(share) / 256,
        };
        let body = self.body(len);
        reservation.write_at(0, &body);
        let committed = match how {
            Finish::Commit => reservation.commit(),
            _ => reservation.commit_first(len),
        };
        let one = &mut self.ones[index];
        if one.is_evicted {
            prop_assert!(is_evicted(&committed), "{committed:?}");
            self.saw("commit by an evicted one");
            return Ok(());
        }
        prop_assert!(committed.is_ok(), "{committed:?}");
        one.counters.appended += 1;
        one.counters.appended_bytes += len as u64;
        let was = self.ring.records[&place].clone();
        let end = place + record_size(was.sender.len() + was.kind.len(), len);
        if end < was.end {
            // What is left over is a record that everybody passes.
            let rest = Record {
                state: State::Aborted,
                sequence: was.sequence + 1,
                body: Vec::new(),
                ..(*was).clone()
            };
            self.ring.records.insert(end, Rc::new(rest));
            self.saw("commit of a part");
        } else {
            self.saw("commit");
        }
        let message = Record {
            state: State::Message,
            end,
            body,
            ..(*was).clone()
        };
        self.ring.records.insert(place, Rc::new(message));
        Ok(())
    }

    fn abort(&mut self, place: u64) {
        let record = self.ring.records.get_mut(&place).expect("it was reserved");
        Rc::make_mut(record).state = State::Aborted;
    }

    /// What a pop, or a peek, of this one must find.
    fn expect(&mut self, index: usize) -> Checked<Look> {
        let one = &mut self.ones[index];
        let reading = one.reading.as_mut().expect("it reads");
        let look = reading.peek(&self.ring, one.id, &mut one.counters);
        if let Look::Lagged(missed) = look {
            if one.role.is_some() {
                self.missed += missed;
            }
            self.saw("lagged");
        }
        Ok(look)
    }

    fn take(&mut self, index: usize, record: &Record) {
        let one = &mut self.ones[index];
        one.reading.as_mut().expect("it reads").take(record, &mut one.counters);
    }

    fn check_message(&self, got: &Message<'_>, record: &Record) -> Checked {
        prop_assert_eq!(got.sequence(), record.sequence);
        prop_assert_eq!((got.sender(), got.kind()), (record.sender, record.kind));
        prop_assert_eq!(got.body(), &record.body[..]);
        prop_assert_eq!(got.member(), record.by);
        let size = record_size(record.sender.len() + record.kind.len(), record.body.len());
        prop_assert_eq!(got.position(), self.ring.position(record.end - size));
        prop_assert_eq!(got.timestamp().is_some(), self.setting.has_timestamps);
        Ok(())
    }

    /// Checks what a pop gave against what it should, and takes it out of the model. Whether there may be more.
    fn check_popped(&mut self, index: usize, popped: Result<Option<Message<'static>>, Error>) -> Checked<bool> {
        if self.ones[index].is_evicted {
            prop_assert!(is_evicted(&popped), "{popped:?}");
            self.ones[index].was_told = true;
            self.saw("pop by an evicted one");
            return Ok(false);
        }
        match (self.expect(index)?, popped) {
            (Look::Nothing, Ok(None)) => return Ok(false),
            (Look::Lagged(expected), Err(Error::Lagged { missed })) => prop_assert_eq!(missed, expected),
            (Look::Found(record), Ok(Some(message))) => {
                self.check_message(&message, &record)?;
                self.take(index, &record);
                self.saw("pop");
            }
            (expected, got) => prop_assert!(false, "pop: expected {expected:?}, got {got:?}"),
        }
        Ok(true)
    }

    fn pop(&mut self, who: usize, into: bool) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        let mut buffer = Buffer::new();
        let popped = reading!(self.ones[index], it => {
            let popped = if into { it.pop_into(&mut buffer, Wait::Never) } else { it.pop(Wait::Never) };
            popped.map(|message| message.map(Message::into_owned))
        });
        self.check_popped(index, popped)?;
        Ok(())
    }

    fn drain(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        loop {
            let next = reading!(self.ones[index], it => it.drain().next());
            if !self.check_popped(index, next.transpose())? {
                return Ok(());
            }
        }
    }

    fn peek(&mut self, who: usize, keeps: bool, is_evicted_meanwhile: bool) -> Checked {
        let peeks = |one: &One| one.reading.is_some() && one.open.is_none() && one.role.is_some();
        let Some(index) = self.pick(who, peeks) else {
            return Ok(());
        };
        let queue = self.queue.clone();
        let id = self.ones[index].id.expect("not an observer");
        let mut is_evicted_now = false;
        let peeked = {
            let one = &mut self.ones[index];
            assert!(one.open.is_none());
            let guard = match &mut one.handle {
                // SAFETY: no reservation is open, and the guard ends in this block.
                Handle::Member(member) => unsafe { member.borrow() }.peek(Wait::Never),
                Handle::Reader(reader) => reader.peek(Wait::Never),
                _ => unreachable!("as just picked"),
            };
            match guard {
                Err(error) => Err(error),
                Ok(None) => Ok(None),
                Ok(Some(guard)) => {
                    let mut body = vec![0; guard.len()];
                    let half = body.len() / 2;
                    guard.copy_to(0, &mut body[..half]);
                    guard.copy_to(half, &mut body[half..]);
                    prop_assert!(guard.check().is_ok());
                    let names = (guard.sender().into_owned(), guard.kind().into_owned());
                    if is_evicted_meanwhile {
                        prop_assert!(queue.evict(id).is_ok());
                        prop_assert!(is_evicted(&guard.check()));
                        is_evicted_now = true;
                    }
                    if keeps {
                        guard.keep();
                    }
                    Ok(Some((names, body)))
                }
            }
        };
        if self.ring.is_lossy {
            prop_assert!(matches!(peeked, Err(Error::Unsupported { .. })), "{peeked:?}");
            return Ok(());
        }
        if self.ones[index].is_evicted {
            prop_assert!(is_evicted(&peeked), "{peeked:?}");
            return Ok(());
        }
        match (self.expect(index)?, peeked) {
            (Look::Nothing, Ok(None)) => {}
            (Look::Found(record), Ok(Some(((sender, kind), body)))) => {
                prop_assert_eq!((&*sender, &*kind), (record.sender, record.kind));
                prop_assert_eq!(&body, &record.body);
                if !keeps {
                    self.take(index, &record);
                }
                self.saw("peek");
            }
            (expected, got) => prop_assert!(false, "peek: expected {expected:?}, got {got:?}"),
        }
        if is_evicted_now {
            self.ones[index].is_evicted = true;
            self.evicted += 1;
            self.saw("evicted while it peeks");
        }
        Ok(())
    }

    fn change_screen(&mut self, who: usize, change: ScreenChange) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        let screen: &mut Screen = reading!(self.ones[index], it => it.screen());
        match change {
            ScreenChange::AddSender(name) => screen.add_sender(NAMES[name]),
            ScreenChange::RemoveSender(name) => screen.remove_sender(NAMES[name]),
            ScreenChange::AddKind(kind) => screen.add_kind(KINDS[kind]),
            ScreenChange::RemoveKind(kind) => screen.remove_kind(KINDS[kind]),
            ScreenChange::HearOwn(yes) => screen.hear_own(yes),
        };
        let reading = self.ones[index].reading.as_mut().expect("it reads");
        match change {
            ScreenChange::AddSender(name) => reading.senders.insert(NAMES[name]),
            ScreenChange::RemoveSender(name) => reading.senders.remove(NAMES[name]),
            ScreenChange::AddKind(kind) => reading.kinds.insert(KINDS[kind]),
            ScreenChange::RemoveKind(kind) => reading.kinds.remove(KINDS[kind]),
            ScreenChange::HearOwn(yes) => std::mem::replace(&mut reading.hears_own, yes),
        };
        Ok(())
    }

    fn limit_home(&mut self, who: usize, bytes: u64) -> Checked {
        let Some(index) = self.pick(who, |one| one.role == Some(Role::Member) && one.open.is_none()) else {
            return Ok(());
        };
        if let Handle::Member(member) = &mut self.ones[index].handle {
            // SAFETY: no reservation is open, as just picked, and the borrow ends with this call.
            unsafe { member.borrow() }.set_home_limit(bytes);
        }
        self.ones[index].reading.as_mut().expect("a member reads").home_limit = bytes;
        Ok(())
    }

    fn evict(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick(who, |one| one.id.is_some()) else {
            return Ok(());
        };
        let one = &mut self.ones[index];
        let evicted = self.queue.evict(one.id.expect("as just picked"));
        if one.is_evicted {
            prop_assert!(matches!(evicted, Err(Error::NoSuchMember { .. })), "{evicted:?}");
            return Ok(());
        }
        prop_assert!(evicted.is_ok(), "{evicted:?}");
        one.is_evicted = true;
        self.evicted += 1;
        if let Some(place) = one.reserved {
            // Readers pass it from now on; its room stays taken until the owner lets go.
            self.abort(place);
            self.saw("evicted with a reservation");
            if self.unannounced() > 0 {
                // Readers learn of it when its owner is through with it, or the next one appends.
                return self.finish_of(index, Finish::Commit);
            }
        }
        Ok(())
    }

    fn evict_somebody_gone(&mut self) -> Checked {
        if let Some(gone) = self.gone {
            let evicted = self.queue.evict(gone);
            prop_assert!(matches!(evicted, Err(Error::NoSuchMember { .. })), "{evicted:?}");
        }
        Ok(())
    }

    /// Bytes of a reservation of which nobody has been told yet: an observer begins in front of these. Only the queue knows whether an open
    /// one is.
    fn unannounced(&self) -> u64 {
        match self.ring.records.values().next_back() {
            Some(last) if last.state != State::Message => self.queue.observer().expect("anybody may observe").lag(),
            _ => 0,
        }
    }

    /// What must hold after every step, and how far back messages are still whole.
    fn check(&mut self) -> Checked {
        let stats = self.queue.stats();
        let unannounced = self.unannounced();
        if unannounced > 0 {
            let last = self.ring.records.get(&(self.ring.frontier - unannounced));
            prop_assert!(last.is_some_and(|last| last.state == State::Reserved && last.end == self.ring.frontier));
            self.saw("unannounced");
        }
        prop_assert_eq!(stats.position, self.ring.position(self.ring.frontier - unannounced));
        prop_assert_eq!(stats.appended, self.ring.sequence - u64::from(unannounced > 0));
        prop_assert_eq!(stats.free, self.free());
        prop_assert_eq!(self.queue.free(), self.free());
        prop_assert_eq!(
            (
                stats.refused,
                stats.missed,
                stats.evicted,
                stats.takeovers,
                stats.reaped,
                stats.writing
            ),
            (self.refused, self.missed, self.evicted, 0, 0, None)
        );
        let ring = &self.ring;
        prop_assert!(
            stats.history <= ring.frontier.min(ring.max_record()),
            "history of {}",
            stats.history
        );
        let oldest = ring.frontier - unannounced - stats.history;
        prop_assert!(oldest >= ring.oldest, "what was overwritten does not come back");
        prop_assert!(
            oldest == ring.frontier || ring.records.contains_key(&oldest),
            "no record begins at the oldest one, {}",
            oldest
        );
        // Of a record that was committed shorter, what is left over has no mark.
        let is_message = |(_, record): &(&u64, &Rc<Record>)| record.state == State::Message;
        if let Some((before, _)) = ring.records.range(..oldest).rev().find(is_message) {
            prop_assert!(
                before + ring.capacity < ring.frontier + GRANULE + 2 * ring.capacity / INTENT_STEPS,
                "the record at {before} is gone too early, the frontier being {}",
                ring.frontier
            );
        }
        let (held, _) = self.slowest();
        prop_assert!(oldest <= held, "{oldest} may be overwritten, and {held} is held");
        if oldest > ring.oldest && ring.start.wrapping_add(oldest) < ring.start {
            self.saw("went around the numbers");
        }
        self.ring.oldest = oldest;
        for one in &self.ones {
            let Some(reading) = &one.reading else { continue };
            if one.open.is_none() {
                let lag = match &one.handle {
                    // SAFETY: no reservation is open.
                    Handle::Member(member) => unsafe { member.0.as_ref() }.lag(),
                    Handle::Reader(reader) => reader.lag(),
                    Handle::Observer(observer) => observer.lag(),
                    Handle::Writer(_) => unreachable!("a writer does not read"),
                };
                prop_assert_eq!(lag, self.ring.frontier - reading.place);
            }
        }
        Ok(())
    }

    /// What the queue says about its members.
    fn check_members(&self) -> Checked {
        let mut members = self.queue.members();
        members.sort_by_key(|info| info.id.slot());
        let mut ones: Vec<&One> = self.ones.iter().filter(|one| one.id.is_some()).collect();
        ones.sort_by_key(|one| one.id.map(|id| id.slot()));
        prop_assert_eq!(members.len(), ones.len());
        for (info, one) in members.iter().zip(ones) {
            let counters = Counters {
                appended: info.appended,
                appended_bytes: info.appended_bytes,
                popped: info.popped,
                popped_bytes: info.popped_bytes,
                screened: info.screened,
                missed: info.missed,
                refused: info.refused,
            };
            prop_assert_eq!(counters, one.counters);
            prop_assert_eq!((Some(info.id), &*info.name, info.role), (one.id, one.name, one.role));
            prop_assert_eq!(
                (info.pid, info.is_alive, info.is_evicted),
                (std::process::id(), true, one.is_evicted)
            );
            let lag = match &one.reading {
                Some(reading) if !one.is_evicted => (self.ring.frontier - reading.place).min(self.ring.capacity),
                _ => 0,
            };
            prop_assert_eq!(info.lag, lag);
        }
        Ok(())
    }
}

/// Runs one case on a fresh queue.
fn run(setting: &Setting, steps: &[Step], seen: &mut Seen) -> Checked {
    let options: QueueOptions = Queue::options()
        .capacity(4096 << setting.doublings)
        .slots(setting.slots)
        .start_position(setting.start)
        .overflow(if setting.is_lossy {
            Overflow::Lossy
        } else {
            Overflow::Block
        })
        .single_writer(setting.is_single_writer)
        .timestamps(setting.has_timestamps);
    let (mut keep_name, mut keep_folder) = (None, None);
    let queue = match setting.backing {
        Backing::Heap => options.heap().expect("memory"),
        Backing::Anonymous => options.anonymous().expect("a memory file"),
        Backing::Named => keep_name.insert(named("model", &options)).queue.clone(),
        Backing::File => {
            let folder = keep_folder.insert(folder("model"));
            options.create_at(folder.0.join("ring")).expect("a fresh path")
        }
    };
    let mut world = World {
        ring: Ring {
            capacity: queue.capacity(),
            start: setting.start,
            is_lossy: setting.is_lossy,
            records: BTreeMap::new(),
            frontier: 0,
            sequence: 0,
            oldest: 0,
        },
        queue,
        setting: setting.clone(),
        ones: Vec::new(),
        gone: None,
        refused: 0,
        missed: 0,
        evicted: 0,
        bodies: 0,
        seen,
    };
    for (index, step) in steps.iter().enumerate() {
        world.step(step)?;
        world.ones.retain(|one| !one.was_told);
        world.check()?;
        if index % 16 == 0 {
            world.check_members()?;
        }
    }
    world.check_members()?;
    if world.ring.frontier > 4 * world.ring.capacity {
        world.saw("went around the ring four times");
    }
    Ok(())
}

/// Everything that some case must get to, or the cases are not worth much.
const MUST_BE_SEEN: [&str; 26] = [
    "a second writer",
    "abort",
    "append",
    "append by an evicted one",
    "append of many",
    "brought home",
    "commit",
    "commit by an evicted one",
    "commit of a part",
    "evicted while it peeks",
    "evicted with a reservation",
    "full",
    "lagged",
    "left with a reservation",
    "no slot",
    "observed from a reservation on",
    "peek",
    "pop",
    "pop by an evicted one",
    "read first",
    "reserve",
    "too large",
    "too long",
    "unannounced",
    "went around the numbers",
    "went around the ring four times",
];

/// A heap queue of the smallest size that waits for its readers.
fn smallest() -> Setting {
    Setting {
        backing: Backing::Heap,
        doublings: 0,
        slots: 4,
        start: 0,
        is_lossy: false,
        is_single_writer: false,
        has_timestamps: false,
    }
}

fn joins(who: usize, role: Role) -> Step {
    Step::Join {
        who,
        role: Some(role),
        name: who,
        start: Start::Now,
        hears_own: false,
    }
}

fn appends(who: usize, len: Len) -> Step {
    Step::Append { who, kind: 0, len }
}

#[test]
fn a_member_whose_next_record_is_reserved_by_another_is_full_and_not_told_to_read_first() {
    let _watchdog = minute();
    let steps = [
        joins(0, Role::Member),
        joins(1, Role::Writer),
        Step::Reserve {
            who: 1,
            kind: 0,
            len: Len::Bytes(0),
        },
        appends(0, Len::Room(0)),
        appends(0, Len::Bytes(0)),
        Step::Finish {
            who: 1,
            how: Finish::Commit,
        },
        appends(0, Len::Bytes(0)),
    ];
    let mut seen = Seen::new();
    run(&smallest(), &steps, &mut seen).unwrap();
    assert_eq!(seen.get("full"), Some(&1), "{seen:?}");
    assert_eq!(seen.get("brought home"), Some(&1), "{seen:?}");
}

#[test]
fn what_a_member_brought_home_of_its_own_is_screened_if_it_no_longer_hears_its_own() {
    let _watchdog = minute();
    let steps = [
        joins(0, Role::Member),
        Step::ChangeScreen {
            who: 0,
            change: ScreenChange::HearOwn(true),
        },
        appends(0, Len::Room(0)),
        appends(0, Len::Bytes(0)),
        Step::ChangeScreen {
            who: 0,
            change: ScreenChange::HearOwn(false),
        },
        Step::Drain { who: 0 },
    ];
    let mut seen = Seen::new();
    run(&smallest(), &steps, &mut seen).unwrap();
    assert_eq!(seen.get("brought home"), Some(&1), "{seen:?}");
    assert_eq!(seen.get("pop"), None, "{seen:?}");
}

#[test]
fn every_call_ends_as_the_model_says() {
    let _watchdog = watchdog(Duration::from_secs(600));
    const CASES: u32 = 400;
    let cases = std::env::var("SYNCQ_MODEL_CASES").map_or(CASES, |n| n.parse().expect("a number of cases"));
    let config = Config {
        cases,
        // A failure prints all that is needed to run it again, and tests leave no files.
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let seen = RefCell::new(Seen::new());
    let strategy = (settings(), prop::collection::vec(steps(), 0..700));
    let outcome = TestRunner::new(config).run(&strategy, |(setting, steps)| {
        run(&setting, &steps, &mut seen.borrow_mut())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let seen = seen.into_inner();
    println!("{cases} cases: {seen:?}");
    if cases >= CASES {
        let missing: Vec<_> = MUST_BE_SEEN.iter().filter(|what| !seen.contains_key(**what)).collect();
        assert!(missing.is_empty(), "no case ever got to {missing:?}");
    }
}
