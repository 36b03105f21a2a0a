//! The queue against a model of it in plain collections: whatever members, readers and observers do in whatever order, each
//! call must end exactly as the model says. A failure is shrunk to a short list of steps.
//!
//! One thread does everything with [`Wait::Never`], so a run depends on its steps alone. Not here: what happens when calls
//! overlap (the loom models), and when somebody dies (`kill`).
//!
//! `steps` says what can be done, `ring` and `reading` are the model, `handles` are those who take part, and `world` does each
//! step to both and compares; `refusal` is for errors.

#[path = "model/handles.rs"]
mod handles;
#[path = "model/reading.rs"]
mod reading;
#[path = "model/refusal.rs"]
mod refusal;
#[path = "model/ring.rs"]
mod ring;
#[path = "model/steps.rs"]
mod steps;
mod support;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use ring::Ring;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use steps::{Backing, Finish, Len, ScreenChange, Setting, Step, settings, steps};
use support::{folder, minute, named, watchdog};
use syncq::{Overflow, Queue, QueueOptions, Role, Start};
use world::{Seen, World};

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
const MUST_BE_SEEN: [&str; 25] = [
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

/// An observer comes while a reservation is open, of a writer that is alone or has had to tell another one.
#[test]
fn who_observes_begins_in_front_of_a_reservation_that_nobody_was_told_of() {
    let _watchdog = minute();
    let observes = |who| Step::Join {
        who,
        role: None,
        name: 0,
        start: Start::Now,
        hears_own: true,
    };
    let finish = Step::Finish {
        who: 0,
        how: Finish::Commit,
    };
    for (other, from_it_on, popped) in [(false, Some(&1), Some(&1)), (true, None, None)] {
        let mut steps = vec![joins(0, Role::Writer), joins(1, Role::Writer)];
        // So many in turn, and the claim is kept.
        steps.extend((0..200).map(|_| appends(0, Len::Bytes(0))));
        steps.push(Step::Reserve {
            who: 0,
            kind: 0,
            len: Len::Bytes(0),
        });
        if other {
            steps.push(appends(1, Len::Bytes(0)));
        }
        steps.extend([observes(2), finish.clone(), Step::Pop { who: 2 }]);
        let mut seen = Seen::new();
        run(&smallest(), &steps, &mut seen).unwrap();
        assert_eq!(seen.get("observed from a reservation on"), from_it_on, "{seen:?}");
        assert_eq!(seen.get("pop"), popped, "{seen:?}");
    }
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
