//! One hostile case: bytes that say how to falsify a segment and what to call on the queue meanwhile.
//!
//! Shared by the fuzz target beside it and by `tests/hostile.rs`, so that an input found by one is replayed by the other.
//! A case passes if it ends: every answer (an error, a message, nothing) is fine, and what is not fine ends the process by
//! itself: a panic, a signal, or the alarm of whoever runs it.
//!
//! The case writes through a mapping of its own, made from the descriptor that the queue itself has: closing another one would
//! drop the record locks of this process. The heap has no descriptor, and is reached through a reservation's body.

#![allow(dead_code, reason = "each of the two includers uses its own part")]

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncq::{
    Buffer, Doorbell, Member, Message, Observer, Overflow, Queue, QueueOptions, Reader, Reservation, Start, Wait,
    Writer,
};

pub const CONTROL: usize = 512;
pub const SLOTS: usize = 4096;
pub const SLOT: usize = 512;
pub const GRANULE: u64 = 64;

/// Every word of the control block, with its offset in it. (Wake-up bits: the first two.)
pub const CONTROL_WORDS: [(&str, usize); 17] = [
    ("claim word", 0),
    ("claim base", 8),
    ("gate", 128),
    ("intent", 136),
    ("oldest", 144),
    ("sleepers", 256),
    ("data bell", 264),
    ("wanted", 384),
    ("space bell", 392),
    ("turn bell", 512),
    ("slots used, retired", 640),
    ("takeovers", 648),
    ("reaped", 656),
    ("evicted", 664),
    ("refused", 672),
    ("kind bit 0", 768),
    ("kind bit 1", 776),
];

/// Every word of a slot, with its offset in it. (Names and texts: the first word.)
pub const SLOT_WORDS: [(&str, usize); 21] = [
    ("cursor", 0),
    ("popped", 8),
    ("popped bytes", 16),
    ("screened", 24),
    ("missed", 32),
    ("frontier", 64),
    ("appended", 72),
    ("appended bytes", 80),
    ("refused", 88),
    ("reservation", 96),
    ("unannounced", 104),
    ("origin", 112),
    ("state", 128),
    ("pid", 136),
    ("start time", 144),
    ("namespace", 152),
    ("joined", 160),
    ("name length", 168),
    ("name", 176),
    ("screen length", 256),
    ("screen text", 264),
];

/// The input, read from the front; zeros once it is used up.
#[derive(Debug)]
pub struct Bytes<'i>(pub &'i [u8]);

impl Bytes<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    pub fn short(&mut self) -> u64 {
        u64::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        match end {
            0 => 0,
            1..=256 => u64::from(self.byte()) % end,
            _ => self.short() % end,
        }
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes of a segment, as an enemy has them.
#[derive(Debug)]
pub struct Bare {
    start: NonNull<u8>,
    len: usize,
    pub slots: u64,
    pub capacity: u64,
    is_mapped: bool,
}

impl Bare {
    /// Maps all of a file. `descriptor` is borrowed and stays open.
    pub fn of_descriptor(descriptor: i32, slots: u64, capacity: u64) -> Self {
        let len = data_offset(slots) + capacity as usize;
        // SAFETY: the descriptor is the queue's own, which is open for as long as the queue lives.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping of a file that is `len` bytes long, reached by atomics only.
        let start = unsafe {
            mmap(
                None,
                NonZeroUsize::new(len).expect("not empty"),
                protection,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        };
        Bare {
            start: start.expect("a queue's file can be mapped").cast(),
            len,
            slots,
            capacity,
            is_mapped: true,
        }
    }

    /// Finds the memory of a heap-backed queue on which nothing was appended yet.
    pub fn of_heap(queue: &Queue, slots: u64, capacity: u64, start: u64) -> Self {
        let mut writer = queue.writer("").expect("a fresh queue");
        let mut place = writer.reserve("", 8, Wait::Never).expect("a fresh queue");
        // Behind 32 bytes of header; a sender and a kind of no bytes take none.
        let data = place
            .body_pointer()
            .wrapping_sub(32 + (start & (capacity - 1)) as usize);
        let start = NonNull::new(data.wrapping_sub(data_offset(slots))).expect("not at zero");
        Bare {
            start,
            len: data_offset(slots) + 2 * capacity as usize,
            slots,
            capacity,
            is_mapped: false,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: in range and aligned (checked), and alive for as long as the queue that this was made for.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    pub fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len);
        // SAFETY: in range (checked), and alive for as long as the queue that this was made for.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    pub fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    pub fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    /// The frontier, as long as nobody has falsified it.
    pub fn frontier(&self) -> u64 {
        self.get(CONTROL + 8) & !(GRANULE - 1)
    }

    /// File offset of a position's record.
    pub fn record(&self, position: u64) -> usize {
        data_offset(self.slots) + (position & (self.capacity - GRANULE)) as usize
    }

    /// Writes the first two words of a record at `position`.
    pub fn invent_record(&self, position: u64, state: u64, body_len: u64, origin: u64) {
        let tag = (position / GRANULE) & ((1 << 28) - 1);
        let at = self.record(position);
        self.set(at + 8, origin);
        self.set(at, body_len & 0xffff_ffff | (state & 0xf) << 32 | tag << 36);
    }

    /// Falsifies something, as `from` says.
    pub fn falsify(&self, from: &mut Bytes<'_>) {
        let data = data_offset(self.slots);
        match from.below(10) {
            0 | 1 => {
                let (_, offset) = CONTROL_WORDS[from.below(5) as usize];
                self.falsify_word(CONTROL + offset, from);
            }
            2 => {
                let (_, offset) = CONTROL_WORDS[from.below(CONTROL_WORDS.len() as u64) as usize];
                self.falsify_word(CONTROL + offset, from);
            }
            3 => {
                let slot = from.below(self.slots) as usize;
                let offset = [0, 8, 128][from.below(3) as usize];
                self.falsify_word(SLOTS + slot * SLOT + offset, from);
            }
            4 => {
                let slot = from.below(self.slots) as usize;
                let (_, offset) = SLOT_WORDS[from.below(SLOT_WORDS.len() as u64) as usize];
                self.falsify_word(SLOTS + slot * SLOT + offset, from);
            }
            5 => {
                let granule = from.below(self.capacity / GRANULE) as usize;
                let index = from.below(8) as usize;
                self.falsify_word(data + granule * GRANULE as usize + index * 8, from);
            }
            6 => {
                let position = self.near(from);
                self.invent_one(position, from);
            }
            7 => {
                // A chain of records all around.
                let mut position = self.near(from);
                let granules = 1 + from.below(16);
                let (state, odd) = (from.below(5), from.below(64));
                let mut left = self.capacity;
                while left > 0 {
                    self.invent_record(position, state, granules * GRANULE - 32 - odd.min(31), 0);
                    position = position.wrapping_add(granules * GRANULE);
                    left = left.saturating_sub(granules * GRANULE);
                }
            }
            8 => {
                let at = (from.short() as usize) % self.len;
                self.byte(at).fetch_xor(1 << from.below(8), Ordering::Relaxed);
            }
            _ => {
                let at = (from.short() as usize) % self.len;
                let (run, value) = (from.byte(), from.byte());
                for at in at..(at + usize::from(run)).min(self.len) {
                    self.byte(at).store(value, Ordering::Relaxed);
                }
            }
        }
    }

    /// A position around the frontier, mostly a record's.
    fn near(&self, from: &mut Bytes<'_>) -> u64 {
        let granules = from.below(self.capacity / GRANULE);
        let back = if from.below(2) == 0 { 0 } else { self.capacity };
        let position = self.frontier().wrapping_add(granules * GRANULE).wrapping_sub(back);
        if from.below(4) == 0 { self.frontier() } else { position }
    }

    fn invent_one(&self, position: u64, from: &mut Bytes<'_>) {
        let state = from.below(5);
        let body_len = match from.below(8) {
            0 => 0,
            1 => u64::from(from.byte()),
            2 => from.short(),
            3 => self.capacity - 32,
            4 => self.capacity - 96,
            5 => u32::MAX.into(),
            6 => u64::from(u32::MAX - u32::from(from.byte())),
            _ => self.capacity - 64 * from.below(64) - 32,
        };
        let names = from.short();
        let origin = match from.below(4) {
            0 => from.word(),
            1 => names,
            2 => names & 0x0707 | from.below(2 * self.slots) << 16 | from.below(4) << 32,
            _ => from.below(self.slots) << 16 | from.below(4) << 32,
        };
        self.invent_record(position, state, body_len, origin);
    }

    fn falsify_word(&self, at: usize, from: &mut Bytes<'_>) {
        let old = self.get(at);
        let small = i64::from(from.byte() as i8) as u64;
        let new = match from.below(16) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => i64::MIN as u64,
            4 => i64::MAX as u64,
            5 => from.word(),
            6 => old ^ 1 << (small & 63),
            7 => old.wrapping_add(small.wrapping_mul(GRANULE)),
            8 => old.wrapping_add(self.capacity),
            9 => old.wrapping_sub(self.capacity),
            10 => old.wrapping_add(small),
            11 => small,
            12 => self.frontier().wrapping_add(small),
            13 => self.frontier().wrapping_sub(self.capacity).wrapping_add(small),
            14 => small & 0xff | (small & 3) << 8 | (small & 7) << 32,
            _ => old & !0x3ffe | (small & 0x1fff) << 1,
        };
        self.set(at, new);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: mapped by `of_descriptor` with this length, and borrowed by nobody any more.
            let _ = unsafe { munmap(self.start.cast::<c_void>(), self.len) };
        }
    }
}

/// Where the data part of a segment begins on a machine with pages of 4 KiB.
pub fn data_offset(slots: u64) -> usize {
    (SLOTS + slots as usize * SLOT).next_multiple_of(4096)
}

/// Makes an anonymous queue, and finds the descriptor that it has. Only where no other thread opens files meanwhile.
pub fn anonymous(options: &QueueOptions) -> (Queue, i32) {
    let before = own_files();
    let queue = options.anonymous().expect("memory");
    (queue, new_descriptor(&before))
}

/// Descriptors of files, and the number of each file: a thread of an earlier doorbell may close one meanwhile, and the descriptor be used
/// again. (That of the listing itself is one of a folder.)
fn own_files() -> Vec<(i32, u64)> {
    let file = |fd: i32| {
        let facts = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok()?;
        facts.is_file().then(|| (fd, facts.ino()))
    };
    let names = std::fs::read_dir("/proc/self/fd")
        .expect("Linux")
        .map(|entry| entry.expect("an entry").file_name());
    names.filter_map(|name| file(name.to_str()?.parse().ok()?)).collect()
}

fn new_descriptor(before: &[(i32, u64)]) -> i32 {
    let is_new = |file: &(i32, u64)| !before.contains(file);
    let (descriptor, _) = own_files()
        .into_iter()
        .find(is_new)
        .expect("the queue has its file open");
    descriptor
}

/// A queue and everybody on it.
#[derive(Debug)]
pub struct Cast {
    queue: Queue,
    path: Option<PathBuf>,
    members: [Option<Member>; 2],
    writer: Option<Writer>,
    readers: [Option<Reader>; 2],
    observers: [Option<Observer>; 2],
    buffer: Buffer,
    /// One to hear of messages, one to hear of room.
    doorbells: Option<[Doorbell; 2]>,
    patience: Patience,
}

/// What "not at once" means for the calls of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A moment of sleep, in every fourth call.
    Short,
    /// The way through the code of who waits, to the end that has passed already; a moment now and then. Most cases take no time.
    Spent,
}

const SHORT: Duration = Duration::from_micros(300);
const SHORTEST: Duration = Duration::from_micros(1);
const BODY: [u8; 5000] = [0x5a; 5000];
const KINDS: [&str; 4] = ["", "k", "a kind of some length, as programs like them", "debug"];

/// Runs one case. Files that it needs are in `folder`, and gone afterwards.
pub fn run(input: &[u8], folder: &Path) {
    run_with(input, Some(folder), Patience::Short);
}

/// Runs one case on the heap whatever memory it asks for, with next to no system calls: some forty times as many in a second as
/// [`run`], and a sanitizer sees every byte read outside.
pub fn run_on_heap(input: &[u8]) {
    run_with(input, None, Patience::Spent);
}

fn run_with(input: &[u8], folder: Option<&Path>, patience: Patience) {
    let mut from = Bytes(input);
    let choice = from.byte();
    let slots = [1, 4, 4, 8][usize::from(choice >> 4 & 3)];
    let capacity = if choice & 0x40 == 0 { 4096 } else { 8192 };
    let start = [0, 1 << 34, !0xfff, (1 << 43) - 4096][usize::from(from.byte()) % 4];
    let options = Queue::options()
        .capacity(capacity)
        .slots(slots)
        .overflow(if choice & 4 == 0 {
            Overflow::Block
        } else {
            Overflow::Lossy
        })
        .single_writer(choice & 0x8c == 0x88)
        .timestamps(choice & 8 != 0)
        .start_position(start)
        .spin(Duration::ZERO);
    let (queue, path, bare) = match (folder, choice & 3) {
        (None, _) | (_, 0) => {
            let queue = options.heap().expect("memory");
            let bare = Bare::of_heap(&queue, slots.into(), capacity, start);
            (queue, None, bare)
        }
        (_, 1 | 2) => {
            let (queue, descriptor) = anonymous(&options);
            (queue, None, Bare::of_descriptor(descriptor, slots.into(), capacity))
        }
        (Some(folder), _) => {
            let path = folder.join(format!("case-{}", std::process::id()));
            let before = own_files();
            let queue = options.create_at(&path).expect("a fresh path");
            let descriptor = new_descriptor(&before);
            let bare = Bare::of_descriptor(descriptor, slots.into(), capacity);
            (queue, Some(path), bare)
        }
    };
    let mut cast = Cast::new(queue, path);
    cast.patience = patience;
    // Enough for any story, and an end for long inputs.
    for _ in 0..200 {
        if from.is_over() {
            break;
        }
        if from.byte() % 3 == 0 {
            bare.falsify(&mut from);
        } else {
            cast.act(&mut from, || (), Some(&bare));
        }
    }
    drop(cast);
}

impl Cast {
    pub fn new(queue: Queue, path: Option<PathBuf>) -> Self {
        Cast {
            queue,
            path,
            members: [None, None],
            writer: None,
            readers: [None, None],
            observers: [None, None],
            buffer: Buffer::new(),
            doorbells: None,
            patience: Patience::Short,
        }
    }

    fn wait(&self, from: &mut Bytes<'_>) -> Wait {
        let choice = from.byte();
        match self.patience {
            _ if !choice.is_multiple_of(4) => Wait::Never,
            Patience::Short => Wait::For(SHORT),
            Patience::Spent if choice == 0xfc => Wait::For(SHORTEST),
            Patience::Spent => Wait::Until(Instant::now()),
        }
    }

    /// Does one thing, as `from` says; `meanwhile` is called in the middle of those that have one.
    pub fn act(&mut self, from: &mut Bytes<'_>, meanwhile: impl Fn(), bare: Option<&Bare>) {
        let mut disturb = |from: &mut Bytes<'_>| {
            meanwhile();
            if let Some(bare) = bare
                && from.below(2) == 0
            {
                bare.falsify(from);
            }
        };
        let which = usize::from(from.byte() & 1);
        let wait = self.wait(from);
        match from.below(24) {
            0 => self.join_member(which, from, wait),
            1 => {
                let joining = self.queue.joining().sender("writer").wait(wait);
                replace(&mut self.writer, joining.writer());
            }
            2 => {
                let joining = self.queue.joining().start(start(from)).wait(wait);
                replace(&mut self.readers[which], joining.reader());
            }
            3 => {
                let joining = self.queue.joining().start(start(from)).wait(wait);
                replace(&mut self.observers[which], joining.observer());
            }
            4 | 5 => {
                let (kind, body) = draft(from);
                match self.writer.as_mut() {
                    Some(writer) => drop(writer.append(kind, body, wait)),
                    None => replace(&mut self.writer, self.queue.joining().wait(wait).writer()),
                }
            }
            6 | 7 => {
                let (kind, body) = draft(from);
                match self.members[which].as_mut() {
                    Some(member) => drop(member.append(kind, body, wait)),
                    None => self.join_member(which, from, wait),
                }
            }
            8 => {
                let drafts: Vec<_> = (0..from.below(5)).map(|_| draft(from)).collect();
                match (&mut self.writer, &mut self.members[which]) {
                    (Some(writer), _) => drop(writer.append_all(drafts, wait)),
                    (None, Some(member)) => drop(member.append_all(drafts, wait)),
                    (None, None) => {}
                }
            }
            9 | 10 => {
                let (kind, body) = draft(from);
                let place = match (&mut self.writer, &mut self.members[which]) {
                    (Some(writer), _) => writer.reserve(kind, body.len(), wait),
                    (None, Some(member)) => member.reserve(kind, body.len(), wait),
                    (None, None) => return,
                };
                if let Ok(place) = place {
                    fill_and_finish(place, body, from, &mut disturb);
                }
            }
            11 | 12 => match self.readers[which].as_mut() {
                Some(reader) => look_at_popped(reader.pop(wait)),
                None => replace(&mut self.readers[which], self.queue.joining().wait(wait).reader()),
            },
            13 => {
                if let Some(member) = &mut self.members[which] {
                    look_at_popped(member.pop_into(&mut self.buffer, wait));
                }
            }
            14 => {
                let guard = match (&mut self.readers[which], &mut self.members[which]) {
                    (Some(reader), _) => reader.peek(wait),
                    (None, Some(member)) => member.peek(wait),
                    (None, None) => return,
                };
                if let Ok(Some(guard)) = guard {
                    look(guard.sender().as_bytes());
                    look(guard.kind().as_bytes());
                    disturb(from);
                    let mut body = vec![0; guard.len()];
                    guard.copy_to(0, &mut body);
                    look(&body);
                    let _ = (guard.check(), format!("{guard:?}"));
                    if from.below(2) == 0 {
                        guard.keep();
                    }
                }
            }
            15 => {
                if let Some(reader) = &mut self.readers[which] {
                    reader.drain().for_each(look_at_result);
                }
                if let Some(member) = &mut self.members[which] {
                    member.messages(wait).take(100).for_each(look_at_result);
                }
            }
            16 | 17 => match self.observers[which].as_mut() {
                Some(observer) => look_at_popped(observer.pop(wait)),
                None => replace(&mut self.observers[which], self.queue.observer()),
            },
            18 => {
                if let Some(observer) = &mut self.observers[which] {
                    observer.drain().for_each(look_at_result);
                    let _ = (observer.lag(), observer.stats(), observer.members());
                }
            }
            19 => {
                let (kind, sender) = (KINDS[from.below(4) as usize], "writer");
                if let Some(reader) = &mut self.readers[which] {
                    reader.screen().add_kind(kind).add_sender(sender);
                }
                if let Some(member) = &mut self.members[which] {
                    member
                        .screen()
                        .add_kind(kind)
                        .remove_sender(sender)
                        .hear_own(from.below(2) == 0);
                    member.set_home_limit(from.short());
                }
                if let Some(observer) = &mut self.observers[which] {
                    observer.screen().add_kind(kind);
                }
            }
            20 => {
                let (stats, members) = (self.queue.stats(), self.queue.members());
                look(format!("{stats:?} {members:?}").as_bytes());
                let _ = (
                    self.queue.free(),
                    self.queue.is_current(),
                    self.queue.reap(std::process::id()),
                );
                let lags = self.readers.iter().flatten().map(Reader::lag);
                let _: u64 = lags.fold(0, u64::wrapping_add);
                if from.below(2) == 0 {
                    let _ = self.queue.reap_all();
                }
            }
            21 => {
                let members = self.queue.members();
                if let Some(member) = members.get(from.below(members.len() as u64) as usize) {
                    drop(self.queue.evict(member.id));
                }
            }
            22 => match from.below(4) {
                0 => self.writer = None,
                1 => self.members[which] = None,
                2 => self.readers[which] = None,
                _ => self.observers[which] = None,
            },
            _ if self.path.is_some() => self.open_again(which, from),
            // Each has a thread, and waits as it likes.
            _ if self.patience == Patience::Short => self.arm(which, from),
            _ => {}
        }
    }

    fn join_member(&mut self, which: usize, from: &mut Bytes<'_>, wait: Wait) {
        let joining = self
            .queue
            .joining()
            .sender(["me", "you"][which])
            .start(start(from))
            .wait(wait);
        replace(&mut self.members[which], joining.hear_own(from.below(2) == 0).member());
    }

    fn arm(&mut self, which: usize, from: &mut Bytes<'_>) {
        let new = || [Doorbell::readable(), Doorbell::writable()].map(|made| made.expect("a descriptor"));
        let [readable, writable] = self.doorbells.get_or_insert_with(new);
        match (from.below(4), &mut self.members[which]) {
            (0, _) => readable.disarm(),
            (1, Some(member)) => drop(member.arm_to_read(readable)),
            (2, Some(member)) => drop(member.arm_to_write(writable, "", from.short() as usize)),
            (1, None) => {
                if let Some(reader) = &mut self.readers[which] {
                    let _ = reader.arm_to_read(readable);
                }
            }
            _ => {
                if let Some(writer) = &mut self.writer {
                    let _ = writer.arm_to_write(writable, "", from.short() as usize);
                }
            }
        }
    }

    /// The file, through the front door.
    fn open_again(&mut self, which: usize, from: &mut Bytes<'_>) {
        let Some(path) = &self.path else { return };
        let options = QueueOptions::new().any_owner(true).spin(Duration::ZERO);
        match from.below(3) {
            0 => {
                if let Ok(queue) = options.open_at(path) {
                    self.queue = queue;
                }
            }
            1 => replace(&mut self.observers[which], options.observe_at(path, start(from))),
            _ => drop(self.queue.unlink()),
        }
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The old one leaves only after the new one was let in or not.
fn replace<T>(place: &mut Option<T>, new: syncq::Result<T>) {
    if let Ok(new) = new {
        *place = Some(new);
    }
}

fn start(from: &mut Bytes<'_>) -> Start {
    if from.below(2) == 0 { Start::Oldest } else { Start::Now }
}

fn draft(from: &mut Bytes<'_>) -> (&'static str, &'static [u8]) {
    let len = match from.below(4) {
        0 => from.below(40),
        1 => u64::from(from.byte()),
        2 => 3500 + from.below(600),
        _ => 0,
    };
    (KINDS[from.below(4) as usize], &BODY[..len as usize])
}

fn fill_and_finish(
    mut place: Reservation<'_>,
    body: &[u8],
    from: &mut Bytes<'_>,
    disturb: &mut impl FnMut(&mut Bytes<'_>),
) {
    place.write_at(0, body);
    disturb(from);
    let _ = std::io::Write::write(&mut place, body);
    match from.below(4) {
        0 => drop(place.commit()),
        1 => drop(place.commit_first(body.len() / 2)),
        2 => drop(place.commit_first(0)),
        _ => place.abort(),
    }
}

fn look_at_popped(popped: syncq::Result<Option<Message<'_>>>) {
    match popped {
        Ok(Some(message)) => look_at(&message),
        Ok(None) => {}
        Err(error) => look(error.to_string().as_bytes()),
    }
}

fn look_at_result(message: syncq::Result<Message<'_>>) {
    look_at_popped(message.map(Some));
}

fn look_at(message: &Message<'_>) {
    look(message.sender().as_bytes());
    look(message.kind().as_bytes());
    look(message.body());
    let _ = (
        message.timestamp(),
        message.member(),
        message.position(),
        message.sequence(),
    );
    let _ = (message.text(), message.pod::<[u8; 8]>());
    look(format!("{message:?}").as_bytes());
}

/// Reads every byte.
fn look(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
}
