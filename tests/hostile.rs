//! Bytes are not trusted: whatever anybody writes into a segment, before or while others use it, every operation answers
//! with an error or something right. No panic, no signal, no endless loop, no memory without bound.
//!
//! Cases run in forked children with an alarm and a limit on memory. What they do is decoded from bytes by `fuzz/case.rs`,
//! which the fuzz target includes too; inputs that it once failed on are replayed from `fuzz/regressions`.

mod support;

#[path = "../fuzz/case.rs"]
mod case;

use case::{Bare, Bytes, CONTROL, CONTROL_WORDS, Cast, GRANULE, SLOT, SLOT_WORDS, SLOTS};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{SharedWord, Watchdog, folder, unique, watchdog};
use syncq::{Error, Queue, Start, Wait};

/// Numbers that look random and are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.roll() >> 32) as u8).collect()
    }
}

/// Most calls here meet a claim that nobody frees, and give the processor away while they look at it: on a machine with much
/// else to do that takes its time.
fn patient() -> Watchdog {
    watchdog(Duration::from_secs(300))
}

/// Runs `cases` in a forked child: with an alarm for each case, a limit on memory, and a report of the number of the case
/// that failed.
fn survives(what: &str, cases: impl Iterator<Item = (u64, Box<dyn FnOnce()>)>) {
    let current = SharedWord::new();
    support::let_children_speak();
    // SAFETY: the child runs only the cases and `_exit`s; glibc's own fork handlers keep the allocator usable in it.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            limit_memory();
            for (number, case) in cases {
                current.get().store(number as u32, Ordering::SeqCst);
                // SAFETY: a plain system call. A case takes about a millisecond.
                unsafe { libc::alarm(40) };
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).is_err() {
                    // SAFETY: leaves without running the parent's destructors.
                    unsafe { libc::_exit(101) }
                }
            }
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).expect("waitpid");
            let number = current.get().load(Ordering::SeqCst);
            assert_eq!(status, WaitStatus::Exited(child, 0), "{what}: case {number} failed");
        }
    }
}

/// 512 MiB more than now, which is enough for any answer to a ring of 8 KiB.
fn limit_memory() {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    let limit = pages * 4096 + (512 << 20);
    setrlimit(Resource::RLIMIT_AS, limit, limit).expect("a lower limit");
}

fn seeded(
    first: u64,
    count: u64,
    run: impl Fn(&[u8]) + Clone + 'static,
) -> impl Iterator<Item = (u64, Box<dyn FnOnce()>)> {
    (first..first + count).map(move |seed| {
        let run = run.clone();
        let case = move || {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let len = 20 + (dice.roll() >> 40) as usize % 500;
            run(&dice.bytes(len));
        };
        (seed, Box::new(case) as Box<dyn FnOnce()>)
    })
}

fn in_folder(folder: &Path) -> impl Fn(&[u8]) + Clone + use<> {
    let folder = folder.to_owned();
    move |input| case::run(input, &folder)
}

#[test]
fn any_bytes_and_any_calls_end_in_an_answer() {
    let _watchdog = patient();
    let folder = folder("hostile");
    survives("seeds 1 to 1500", seeded(1, 1500, in_folder(&folder.0)));
}

#[test]
fn any_bytes_and_any_calls_end_in_an_answer_with_other_dice() {
    let _watchdog = patient();
    let folder = folder("hostile");
    survives("seeds 10001 to 11500", seeded(10_001, 1500, in_folder(&folder.0)));
}

#[test]
fn any_bytes_on_the_heap_and_any_calls_end_in_an_answer() {
    let _watchdog = patient();
    survives("seeds 20001 to 24000", seeded(20_001, 4000, case::run_on_heap));
}

#[test]
fn inputs_that_once_failed_are_answered() {
    let _watchdog = patient();
    let folder = folder("hostile");
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut paths: Vec<_> = std::fs::read_dir(inputs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "the inputs are part of the repository");
    let cases = paths.into_iter().zip(0..).map(|(path, number)| {
        let folder = folder.0.clone();
        let case = move || {
            eprintln!("case {number} is {}", path.display());
            let input = std::fs::read(&path).unwrap();
            case::run(&input, &folder);
            case::run_on_heap(&input);
        };
        (number, Box::new(case) as Box<dyn FnOnce()>)
    });
    survives("regressions", cases);
}

/// What each word of the targeted tests is set to, given what it was.
fn values(old: u64, dice: &mut Dice) -> [u64; 14] {
    [
        0,
        1,
        u64::MAX,
        i64::MIN as u64,
        i64::MAX as u64,
        u32::MAX.into(),
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_add(GRANULE),
        old.wrapping_sub(GRANULE),
        old.wrapping_add(4096),
        old.wrapping_sub(4096 + GRANULE),
        dice.roll(),
        dice.roll(),
    ]
}

const STORY_SLOTS: u64 = 4;
const STORY_CAPACITY: u64 = 4096;

/// Everybody joins and does something, `falsify` happens, and then everybody does everything.
fn story(falsify: &dyn Fn(&Bare, &mut Dice), lossy: bool, dice: &mut Dice) {
    let overflow = if lossy {
        syncq::Overflow::Lossy
    } else {
        syncq::Overflow::Block
    };
    let options = Queue::options()
        .capacity(STORY_CAPACITY)
        .slots(STORY_SLOTS as u32)
        .overflow(overflow);
    let (queue, descriptor) = case::anonymous(&options.spin(Duration::ZERO));
    let bare = Bare::of_descriptor(descriptor, STORY_SLOTS, STORY_CAPACITY);
    let mut cast = Cast::new(queue, None);
    // Each operation by its number: see `Cast::act`.
    let mut act = |operation: u8, rest: &[u8]| {
        let input = [&[rest[0], rest[1], operation][..], &rest[2..]].concat();
        cast.act(&mut Bytes(&input), || (), None);
    };
    for operation in [0, 1, 2, 3, 4, 6, 9, 11, 4, 6] {
        act(operation, &[0, 1, 1, 9, 1, 0, 0, 0]);
    }
    falsify(&bare, dice);
    for _ in 0..60 {
        let rest = dice.bytes(16);
        act((dice.roll() >> 33) as u8, &rest);
    }
}

#[test]
fn every_word_of_the_control_block_may_be_anything() {
    let _watchdog = patient();
    survives(
        "control words",
        targeted(CONTROL_WORDS.len(), |index| CONTROL + CONTROL_WORDS[index].1),
    );
}

#[test]
fn every_word_of_a_slot_may_be_anything() {
    let _watchdog = patient();
    for slot in 0..STORY_SLOTS as usize {
        let at = move |index: usize| SLOTS + slot * SLOT + SLOT_WORDS[index].1;
        survives(&format!("words of slot {slot}"), targeted(SLOT_WORDS.len(), at));
    }
}

#[test]
fn every_word_of_a_record_may_be_anything() {
    let _watchdog = patient();
    let data = case::data_offset(STORY_SLOTS);
    // The first twelve granules hold what the story has written; four words each are header, the others names and body.
    survives("words of records", targeted(12 * 8, move |index| data + index * 8));
}

fn targeted(
    words: usize,
    at: impl Fn(usize) -> usize + Copy + 'static,
) -> impl Iterator<Item = (u64, Box<dyn FnOnce()>)> {
    (0..words * 14).map(move |number| {
        let (index, value) = (number / 14, number % 14);
        let lossy = (index + value) % 2 == 1;
        let case = move || {
            let mut dice = Dice(number as u64 + 1);
            let falsify = |bare: &Bare, dice: &mut Dice| {
                let at = at(index);
                bare.set(at, values(bare.get(at), dice)[value]);
            };
            story(&falsify, lossy, &mut dice);
        };
        (number as u64, Box::new(case) as Box<dyn FnOnce()>)
    })
}

#[test]
fn chains_of_invented_records_are_walked_to_an_end() {
    let _watchdog = patient();
    let sizes = [64, 128, 192, 1024, 2048, 4032, 4096, 8192];
    let cases = sizes
        .into_iter()
        .flat_map(|size| (0..5).flat_map(move |state| [0, 4096].map(|back| (size, state, back))));
    let cases = cases.zip(0..).map(|((size, state, back), number)| {
        let case = move || {
            let mut dice = Dice(number + 1);
            let falsify = |bare: &Bare, _: &mut Dice| {
                let mut position = bare.frontier().wrapping_sub(back);
                for _ in 0..STORY_CAPACITY / size.min(STORY_CAPACITY) {
                    bare.invent_record(position, state, size - 32, 0);
                    position = position.wrapping_add(size);
                }
            };
            story(&falsify, number % 2 == 1, &mut dice);
        };
        (number, Box::new(case) as Box<dyn FnOnce()>)
    });
    survives("chains", cases);
}

/// Forks a process that opens the file by its path, as a stranger would, and falsifies it until it is killed.
fn vandal(path: &Path, seed: u64, slots: u64, capacity: u64) -> support::Child {
    let path = path.to_owned();
    support::forked(move || {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("the queue's file");
        let mut dice = Dice(seed);
        use std::os::fd::AsRawFd;
        let bare = Bare::of_descriptor(file.as_raw_fd(), slots, capacity);
        loop {
            for _ in 0..20 {
                let input = dice.bytes(24);
                bare.falsify(&mut Bytes(&input));
            }
            // Now and then by a write instead of a store, and a moment of peace for the others to get somewhere.
            let at = SLOTS as u64 + dice.roll() % (bare.len() as u64 - SLOTS as u64 - 8);
            file.write_all_at(&dice.bytes(8), at).expect("the file is long enough");
            std::thread::sleep(Duration::from_micros(dice.roll() >> 32 & 0xff));
        }
    })
}

#[test]
fn falsifying_by_another_process_meanwhile_is_survived() {
    let _watchdog = patient();
    let folder = folder("hostile");
    for round in 0..6u64 {
        let path = folder.0.join(unique("vandalised"));
        let lossy = if round % 2 == 0 {
            syncq::Overflow::Block
        } else {
            syncq::Overflow::Lossy
        };
        let options = Queue::options()
            .capacity(4096)
            .slots(4)
            .overflow(lossy)
            .spin(Duration::ZERO);
        let made = options.create_at(&path).expect("a fresh path");
        let vandal = vandal(&path, 77 + round, 4, 4096);
        let cases = (0..2).map(|player| {
            let (made, path) = (made.clone(), path.clone());
            let case = move || play(made, &path, round * 10 + player);
            (player, Box::new(case) as Box<dyn FnOnce()>)
        });
        survives(&format!("round {round}"), cases);
        drop(vandal);
    }
}

/// Everything, over and over for a while, together with a second process that does the same.
fn play(queue: Queue, path: &Path, seed: u64) {
    let second = support::forked({
        let queue = queue.clone();
        move || {
            act_for(Duration::from_millis(500), queue, seed + 1000);
            0
        }
    });
    act_for(Duration::from_millis(500), queue, seed);
    second.must_succeed();
    assert!(path.exists());
}

fn act_for(time: Duration, queue: Queue, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut cast = Cast::new(queue, None);
    let end = Instant::now() + time;
    while Instant::now() < end {
        let input = dice.bytes(24);
        cast.act(&mut Bytes(&input), || (), None);
    }
}

#[test]
fn an_oldest_record_at_no_records_beginning_is_corrupt() {
    let _watchdog = patient();
    let case = || {
        let (queue, descriptor) = case::anonymous(&Queue::options().capacity(4096).slots(4));
        let bare = Bare::of_descriptor(descriptor, 4, 4096);
        queue.writer("w").unwrap().append("", &[1; 600], Wait::Never).unwrap();
        bare.set(CONTROL + 144, 8);
        let joined = queue.joining().start(Start::Oldest).reader();
        assert!(matches!(joined, Err(Error::Corrupt { at: 8, .. })), "{joined:?}");
        // An append that has to move it on takes a mark in its place, and looks at that.
        let set_marks = |to| (0..16).for_each(|mark| bare.set(CONTROL + 1024 + 8 * mark, to));
        for wrong in [8, 0u64.wrapping_sub(8192), 64 << 10] {
            set_marks(wrong);
            bare.set(CONTROL + 136, 0);
            bare.set(CONTROL + 144, 0u64.wrapping_sub(8192 + 8));
            let appended = queue.writer("w").unwrap().append("", &[1; 600], Wait::Never);
            assert!(
                matches!(appended, Err(Error::Corrupt { at, .. }) if at == wrong),
                "{appended:?}"
            );
        }
        set_marks(0);
        queue.writer("w").unwrap().append("", &[1; 600], Wait::Never).unwrap();
        let joined = queue.joining().start(Start::Oldest).reader();
        assert!(joined.is_ok(), "an append puts a wrong one right: {joined:?}");
    };
    survives("oldest", std::iter::once((0, Box::new(case) as Box<dyn FnOnce()>)));
}

/// A writer that keeps its claim goes by what its slot says. Whatever that is, it writes inside the ring, and nothing that is longer.
#[test]
fn a_frontier_that_its_keeper_did_not_note_ends_in_an_answer() {
    let _watchdog = patient();
    const FRONTIER: usize = SLOTS + 64;
    let wrongs = |noted: u64, capacity: u64| {
        let near = [1, 7, GRANULE, capacity / 16, capacity / 2, capacity - GRANULE, capacity];
        let around = near
            .into_iter()
            .flat_map(move |by| [noted.wrapping_add(by), noted.wrapping_sub(by)]);
        around.chain([0, 3, 1 << 43, i64::MIN as u64, u64::MAX])
    };
    let cases = [4096, 1 << 16]
        .into_iter()
        .flat_map(|capacity| (0..19).map(move |which| (capacity, which)));
    let cases = cases.zip(0..).map(|((capacity, which), number)| {
        let case = move || {
            let (queue, descriptor) = case::anonymous(&Queue::options().capacity(capacity).slots(4));
            let bare = Bare::of_descriptor(descriptor, 4, capacity);
            let mut writer = queue.writer("w").unwrap();
            let long = vec![1; 2 * capacity as usize];
            for _ in 0..40 {
                writer.append("", b"good", Wait::Never).unwrap();
            }
            let noted = bare.get(FRONTIER);
            assert!(
                noted == 40 * GRANULE || capacity == 4096,
                "this is the keeper's word: {noted}"
            );
            let falsify = || bare.set(FRONTIER, wrongs(noted, capacity).nth(which).expect("so many"));
            for len in [0, 64, 500, 600, 2000] {
                falsify();
                let _ = writer.append("", &long[..len], Wait::Never);
                falsify();
                let _ = writer.append_all([("a", &long[..len]), ("", b"12345"), ("b", &long[..7])], Wait::Never);
            }
            falsify();
            assert!(writer.append("", &long, Wait::Never).is_err());
            assert!(writer.append_all([("", &long[..]), ("", b"")], Wait::Never).is_err());
            falsify();
            drop(writer.reserve("", 100, Wait::Never));
            let mut reader = queue.reader().unwrap();
            let _ = queue.writer("other").unwrap().append("", b"", Wait::Never);
            let _ = reader.drain().count();
        };
        (number, Box::new(case) as Box<dyn FnOnce()>)
    });
    survives("frontiers", cases);
}

#[test]
fn an_iterator_over_a_corrupt_queue_ends_after_the_error() {
    let _watchdog = patient();
    let case = || {
        let (queue, descriptor) = case::anonymous(&Queue::options().capacity(4096).slots(4));
        let bare = Bare::of_descriptor(descriptor, 4, 4096);
        let (mut reader, mut observer) = (queue.reader().unwrap(), queue.observer().unwrap());
        let mut writer = queue.writer("w").unwrap();
        writer.append("", b"good", Wait::Never).unwrap();
        let bad = writer.append("", b"bad", Wait::Never).unwrap();
        bare.set(bare.record(bad), 0xdead << 32);
        for answers in [
            reader.drain().collect::<Vec<_>>(),
            reader.messages(Wait::Forever).collect(),
            observer.drain().collect(),
        ] {
            assert!(
                matches!(answers.last(), Some(Err(Error::Corrupt { .. }))),
                "{answers:?}"
            );
            assert_eq!(answers.iter().filter(|a| a.is_err()).count(), 1, "{answers:?}");
        }
    };
    survives("iterators", std::iter::once((0, Box::new(case) as Box<dyn FnOnce()>)));
}

#[test]
fn a_reservation_of_a_slot_that_cannot_be_is_passed_over() {
    let _watchdog = patient();
    let case = || {
        let (queue, descriptor) = case::anonymous(&Queue::options().capacity(4096).slots(4));
        let bare = Bare::of_descriptor(descriptor, 4, 4096);
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        let wrong = writer.append("", b"soon nobody's", Wait::Never).unwrap();
        writer.append("", b"good", Wait::Never).unwrap();
        bare.invent_record(wrong, 2, 16, 4711 << 16);
        // For ever, as far as this reader is concerned: the alarm of this test is what would end it.
        assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().body(), b"good");
    };
    survives(
        "a reservation",
        std::iter::once((0, Box::new(case) as Box<dyn FnOnce()>)),
    );
}

#[test]
fn a_reservation_of_a_dead_member_is_not_in_the_way_of_who_never_waits() {
    let _watchdog = patient();
    let queue = Queue::options().capacity(4096).slots(4).anonymous().expect("memory");
    let mut reader = queue.reader().unwrap();
    let reserved = SharedWord::new();
    let dead = support::forked(|| {
        let mut writer = queue.writer("dies").unwrap();
        let _place = writer.reserve("", 8, Wait::Never).unwrap();
        reserved.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    reserved.wait_for(1);
    queue
        .writer("lives")
        .unwrap()
        .append("", b"after it", Wait::Never)
        .unwrap();
    assert!(
        reader.pop(Wait::Never).unwrap().is_none(),
        "its owner lives and may yet commit it"
    );
    dead.kill();
    assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"after it");
}

#[test]
fn a_flood_of_screened_messages_outlasts_no_timer() {
    let _watchdog = patient();
    let queue = Queue::options().capacity(1 << 16).slots(4).anonymous().expect("memory");
    let mut reader = queue.reader().unwrap();
    let mut observer = queue.observer().unwrap();
    reader.screen().add_kind("debug");
    observer.screen().add_kind("debug");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut writer = queue.writer("flood").unwrap();
                let flood = [("debug", &b"x"[..]); 50];
                while !is_over.load(Ordering::Relaxed) {
                    let _ = writer.append_all(flood, Duration::from_millis(10));
                }
            });
        }
        for wait in [Wait::Never, Wait::For(Duration::from_millis(5)), Wait::Never] {
            assert!(reader.pop(wait).unwrap().is_none());
            let observed = observer.pop(wait);
            assert!(matches!(observed, Ok(None) | Err(Error::Lagged { .. })), "{observed:?}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
