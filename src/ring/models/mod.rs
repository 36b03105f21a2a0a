//! Loom models of the protocol: every interleaving, and every weakly ordered outcome that the memory model allows, of a few
//! steps on a tiny ring. Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib models`.
//!
//! A sleep never times out here, so a lost wake-up is a deadlock that loom reports; only naps, and in models with deaths the
//! short sleeps, end by themselves. A death is a thread that stops between two steps and whose slot nobody holds then.
//!
//! Here: writers, sleepers, room, joining, observing, and what all models are made of. `keeping` has those of the kept claim, `reserving` those of
//! reservations.
//!
//! Schedules are explored up to a number of preemptions that keeps the suite short; `SYNCQ_PREEMPTIONS=2` (or more) in the
//! environment asks for others. `.ci/weaken` shows for each model that it fails when the ordering or the second look that it guards is taken away.

mod keeping;
mod reserving;

use super::Ring;
use super::append::{Draft, no_backlog};
use super::claim::Word;
use super::members::{Beginning, Membership, Role, Start};
use super::read::{Found, Look};
use super::record::{HEAD, Head, SEQUENCE, State};
use super::reserve::Reserved;
use crate::segment::{Geometry, backing};
use crate::sys::atomic::Ordering;
use crate::sys::futex::{EVERY_BIT, model::SOMEBODY_DIES};
use crate::wait::{Deadline, Wait};
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// Explores all schedules with at most `preemptions` switches away from a thread that could go on. Nobody dies in them.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_with(preemptions, false, model);
}

/// As [`explore`], with deaths.
fn explore_deaths(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_with(preemptions, true, model);
}

fn explore_with(preemptions: usize, somebody_dies: bool, model: impl Fn() + Send + Sync + 'static) {
    SOMEBODY_DIES.set(somebody_dies);
    // More than these take minutes to hours; worth it before a change of the protocol is called done.
    let asked_for = std::env::var("SYNCQ_PREEMPTIONS").ok().and_then(|n| n.parse().ok());
    let preemptions = asked_for.unwrap_or(preemptions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(model);
}

/// A ring of `granules` cache lines.
fn ring(granules: u64, lossy: bool) -> Arc<Ring> {
    let geometry = Geometry {
        lossy,
        ..Geometry::of_a_test(granules * crate::segment::layout::GRANULE)
    };
    let segment = backing::on_heap(&"model".into(), geometry).unwrap();
    Ring::prepare(&segment);
    Arc::new(Ring::new(segment))
}

fn join(ring: &Arc<Ring>, role: Role) -> (Membership, Beginning) {
    ring.join(role, "", Start::Now, &Deadline::of(Wait::Forever)).unwrap()
}

std::thread_local! {
    /// How many appends went the short way, in all schedules of this test: loom runs them on the test's own thread.
    static SHORT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// One has.
pub(super) fn count_short() {
    SHORT.set(SHORT.get() + 1);
}

/// Appends a record of one granule whose four body words all are `value`.
fn append(who: &Membership, value: u64) {
    let body = [value; 4];
    let (kind, body) = (b"", bytemuck::bytes_of(&body));
    // As `Writer::append` does.
    if who.append_if_clear(kind, body).is_none() {
        who.append(Draft { kind, body }, Wait::Forever, &mut no_backlog)
            .unwrap();
    }
}

/// A thread in which `who` appends these, and stays a member.
fn appends<const N: usize>(who: Membership, values: [u64; N]) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for value in values {
            append(&who, value);
        }
        std::mem::forget(who);
    })
}

/// The value of a record made by [`append`], after checking that it is whole.
fn value_of(ring: &Ring, found: &Found, racing: bool) -> [u64; 4] {
    let mut words = [0; 4];
    assert_eq!(found.words(), 4);
    ring.copy(found, &mut words, racing);
    words
}

/// Waits for the next message and takes it. All records of these models are one granule long, and those that are
/// aborted have a number, too: so sequence number and position tell the same.
fn pop(who: &Membership, at: &mut u64) -> u64 {
    loop {
        match who.ring.look(*at).unwrap() {
            Look::Found(found) => {
                let words = value_of(&who.ring, &found, false);
                assert!(words.iter().all(|word| *word == words[0]), "torn: {words:?}");
                assert_eq!(found.sequence, *at / crate::segment::layout::GRANULE);
                who.advance(*at, found.end);
                *at = found.end;
                return words[0];
            }
            Look::Skip(end) => {
                who.advance(*at, end);
                *at = end;
            }
            Look::Nothing(seen) => {
                who.ring.wait_for_record(
                    *at,
                    seen,
                    EVERY_BIT,
                    Duration::ZERO,
                    &Deadline::of(Wait::Forever),
                    &|| false,
                );
            }
        }
    }
}

/// Writes a record of 7s at the frontier, all but its head.
fn write_sevens(who: &Membership, position: u64) {
    let spot = who.ring.segment.at(position);
    who.write_origin(spot, 0, b"");
    spot.copy_in(32, bytemuck::bytes_of(&[7u64; 4]));
}

/// Publishes what [`write_sevens`] wrote.
fn publish_sevens(who: &Membership, position: u64) {
    let sequence = who.ring.segment.word(position, SEQUENCE).load(Ordering::Relaxed);
    let head = Head {
        state: State::Message,
        body_len: 32,
    };
    who.ring.publish(position, position + 64, sequence + 1, head);
}

/// The process of this member is no more.
fn dies(who: Membership) {
    who.ring.segment.presence.give_back(who.slot);
    std::mem::forget(who);
}

/// Joins as a writer that keeps the claim after its very first append, and makes that append, of 9.
fn join_and_keep(ring: &Arc<Ring>) -> Membership {
    let (keeper, _) = join(ring, Role::Writer);
    keeper.keeping.lose_patience();
    append(&keeper, 9);
    assert_eq!(
        Word::from_bits(ring.segment.control().claim.word.load(Ordering::Relaxed)).keeper(),
        Some(keeper.slot)
    );
    keeper
}

#[test]
fn two_writers_and_a_sleeping_reader() {
    explore(1, || {
        let ring = ring(8, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let writers = [1, 2].map(|value| {
            let (writer, _) = join(&ring, Role::Writer);
            appends(writer, [value])
        });
        let mut got = [pop(&reader, &mut at), pop(&reader, &mut at)];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        std::mem::forget(reader);
    });
}

/// A writer dies after `steps` steps of an append of 7; another one appends 1; a sleeping reader gets 1, after 7 if and only if
/// 7 was published.
fn a_writer_dies_after(steps: u32) {
    explore_deaths(1, move || {
        let ring = ring(8, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (victim, _) = join(&ring, Role::Writer);
        let (survivor, _) = join(&ring, Role::Writer);
        let first = thread::spawn(move || {
            let ring = victim.ring.clone();
            let claim = ring.claim(victim.slot, &Deadline::of(Wait::Forever)).unwrap();
            if steps >= 1 {
                // Bits cleared, bell not rung: the worst moment of waking.
                ring.segment.control().data.sleepers.fetch_and(0, Ordering::SeqCst);
            }
            if steps >= 2 {
                ring.segment.control().data.bell.wake(EVERY_BIT);
            }
            if steps >= 3 {
                write_sevens(&victim, claim.position);
                if steps >= 4 {
                    publish_sevens(&victim, claim.position);
                }
            }
            std::mem::forget(claim);
            dies(victim);
        });
        let second = appends(survivor, [1]);
        // The survivor may be the first.
        let mut got = vec![pop(&reader, &mut at)];
        if steps >= 4 {
            got.push(pop(&reader, &mut at));
            got.sort_unstable();
            assert_eq!(got, [1, 7]);
        } else {
            assert_eq!(got, [1]);
        }
        first.join().unwrap();
        second.join().unwrap();
        std::mem::forget(reader);
    });
}

#[test]
fn a_writer_dies_with_the_claim() {
    a_writer_dies_after(0);
}

#[test]
fn a_writer_dies_before_it_rings() {
    a_writer_dies_after(1);
}

#[test]
fn a_writer_dies_after_it_rang() {
    a_writer_dies_after(2);
}

#[test]
fn a_writer_dies_before_it_publishes() {
    a_writer_dies_after(3);
}

#[test]
fn a_writer_dies_before_it_frees_the_claim() {
    a_writer_dies_after(4);
}

#[test]
fn two_contenders_bury_the_same_dead_writer() {
    explore_deaths(2, || {
        let ring = ring(8, false);
        let (victim, _) = join(&ring, Role::Writer);
        let others = [1, 2].map(|value| (join(&ring, Role::Writer).0, value));
        std::mem::forget(ring.claim(victim.slot, &Deadline::of(Wait::Forever)).unwrap());
        dies(victim);
        let threads = others.map(|(other, value)| appends(other, [value]));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut values = [0, 64].map(|at| match ring.look(at).unwrap() {
            Look::Found(found) => {
                assert_eq!(found.sequence, at / crate::segment::layout::GRANULE);
                value_of(&ring, &found, false)[0]
            }
            other => panic!("{other:?}"),
        });
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
        assert_eq!(ring.segment.control().tally.takeovers.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_sleeper_dies_and_another_is_still_woken() {
    explore(2, || {
        let ring = ring(8, false);
        let (victim, _) = join(&ring, Role::Reader);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (writer, _) = join(&ring, Role::Writer);
        // Dies armed and asleep: nobody will ever run for it again.
        ring.segment
            .control()
            .data
            .sleepers
            .fetch_or(u64::from(EVERY_BIT), Ordering::SeqCst);
        dies(victim);
        let thread = appends(writer, [1, 2]);
        assert_eq!(pop(&reader, &mut at), 1);
        assert_eq!(pop(&reader, &mut at), 2);
        thread.join().unwrap();
        std::mem::forget(reader);
    });
}

#[test]
fn who_joins_during_appends_gets_all_the_rest() {
    explore(2, || {
        let ring = ring(8, false);
        let (writer, _) = join(&ring, Role::Writer);
        let thread = appends(writer, [1, 2]);
        let (
            reader,
            Beginning {
                position: mut at,
                sequence,
            },
        ) = join(&ring, Role::Reader);
        thread.join().unwrap();
        let mut expected = sequence + 1;
        while let Look::Found(found) = ring.look(at).unwrap() {
            assert_eq!(value_of(&ring, &found, false), [expected; 4]);
            assert_eq!(found.sequence + 1, expected);
            expected += 1;
            at = found.end;
        }
        assert_eq!(expected, 3, "it got everything from where it joined");
        std::mem::forget(reader);
    });
}

#[test]
fn a_writer_asleep_for_room_is_woken_and_overwrites_nothing_unread() {
    explore(2, || {
        // Room for three records and the end mark.
        let ring = ring(4, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (writer, _) = join(&ring, Role::Writer);
        (1..=3).for_each(|value| append(&writer, value));
        let thread = appends(writer, [4]);
        for value in 1..=4 {
            assert_eq!(pop(&reader, &mut at), value);
        }
        thread.join().unwrap();
        assert!(
            matches!(ring.look(at), Ok(Look::Nothing(0))),
            "what is at the frontier looks like a record"
        );
        std::mem::forget(reader);
    });
}

#[test]
fn a_writer_asleep_for_room_is_woken_by_a_reader_that_leaves() {
    explore(2, || {
        let ring = ring(4, false);
        let (reader, _) = join(&ring, Role::Reader);
        let (writer, _) = join(&ring, Role::Writer);
        (1..=3).for_each(|value| append(&writer, value));
        let thread = appends(writer, [4]);
        drop(reader);
        thread.join().unwrap();
        assert_eq!(ring.frontier(), 4 * 64);
    });
}

#[test]
fn an_observer_never_takes_a_torn_record_for_a_whole_one() {
    explore(2, || {
        let ring = ring(4, false);
        let (writer, _) = join(&ring, Role::Writer);
        (1..=2).for_each(|value| append(&writer, value));
        let observer = {
            let ring = ring.clone();
            thread::spawn(move || {
                let look = ring.look(0);
                let words = match &look {
                    Ok(Look::Found(found)) if found.words() == 4 => Some(value_of(&ring, found, true)),
                    _ => None,
                };
                if ring.is_still_whole(0) {
                    assert_eq!(words, Some([1; 4]), "called whole: {look:?}");
                }
            })
        };
        (3..=6).for_each(|value| append(&writer, value));
        observer.join().unwrap();
        std::mem::forget(writer);
    });
}
