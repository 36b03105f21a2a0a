//! Stopped, not dead: who stands still anywhere in an operation delays others until their own timers end, is robbed of
//! nothing, and ends well when it goes on.
//!
//! The operations are those of the kill suite. A victim is led to an instruction and simply not led on, for longer than
//! anybody waits before looking whether it lives.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[allow(dead_code, reason = "this file uses a part of the kill suite")]
#[path = "kill/cases.rs"]
mod cases;
#[allow(dead_code, reason = "as above")]
#[path = "kill/step.rs"]
mod step;
mod support;
#[allow(dead_code, reason = "as above")]
#[path = "kill/way.rs"]
mod way;
#[allow(dead_code, reason = "as above")]
#[path = "kill/world.rs"]
mod world;

use cases::{CASES, Case, Scene};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use step::{Board, Victim};
use syncq::{Error, Wait};
use way::{Speed, Way, explore};
use world::{Death, Seen, World, body, options};

/// Longer than every slice after which somebody looks whether the one in the way lives.
const STOPPED_FOR: Duration = Duration::from_millis(150);
/// The others' own timers.
const TIMER: Duration = Duration::from_millis(20);
/// What such a timer may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every place at which others see something new, both sides of it, and forty more.
fn points(way: &Way) -> Vec<usize> {
    let mut points: BTreeSet<usize> = (0..=way.len).step_by((way.len / 40).max(1)).collect();
    points.extend(way.changes.iter().flat_map(|change| [*change - 1, *change]));
    points.extend(way.calls.iter().flat_map(|call| [*call, call + 1]));
    points
        .into_iter()
        .filter(|point| way.past_first_visit(*point) <= 3000)
        .collect()
}

/// A victim that stands still after `point` instructions of a scene.
fn stopped_at(case: &Case, way: &Way, point: usize) -> (Scene, Board, Victim) {
    for speed in [Speed::Full, Speed::Full, Speed::Steps] {
        let (mut scene, board) = ((case.scene)(), Board::new());
        let mut victim = Victim::new(&board, std::mem::replace(&mut scene.victim, Box::new(|_| ())));
        way.lead(&mut victim, &board, 0, point, speed);
        if !victim.has_ended() {
            return (scene, board, victim);
        }
    }
    unreachable!("step by step nobody goes past the end")
}

/// Does `work` for each of `points`, several at a time: most of the time is spent waiting.
fn for_each(points: &[usize], work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(*point);
                }
            });
        }
    });
}

/// Everybody else goes about their business with timers of their own.
fn others_go_on(world: &mut World, at: &str) {
    let on_time = |start: Instant, what: &str| assert!(start.elapsed() < PATIENCE, "{at}: {what} outlasted its timer");
    let end = Instant::now() + STOPPED_FOR;
    while Instant::now() < end {
        for wait in [Wait::Never, Wait::For(TIMER)] {
            let start = Instant::now();
            let number = world.sent;
            match world
                .w
                .as_mut()
                .expect("a writer")
                .append("news", &body(number, 8), wait)
            {
                Ok(_) => world.sent += 1,
                Err(Error::Busy { .. } | Error::Full(_)) => {}
                Err(other) => panic!("{at}: append: {other}"),
            }
            on_time(start, "append");
            let start = Instant::now();
            match world.a.pop(wait) {
                Ok(Some(message)) => world.seen_a.push(Seen::of(&message)),
                Ok(None) => {}
                Err(other) => panic!("{at}: pop: {other}"),
            }
            on_time(start, "pop");
            let start = Instant::now();
            match world.queue.joining().wait(wait).reader() {
                Ok(reader) => drop(reader),
                Err(Error::Busy { .. }) => {}
                Err(other) => panic!("{at}: join: {other}"),
            }
            on_time(start, "join");
            world.drain();
        }
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(world.queue.reap_all(), 0, "{at}: somebody alive was buried");
    }
}

fn stopped_anywhere_in(name: &str) {
    let _watchdog = support::watchdog(Duration::from_secs(300));
    step::show_panics_of_children();
    way::do_what_is_done_once_per_process();
    let case: &Case = CASES
        .iter()
        .find(|case| case.name == name)
        .expect("a case of the kill suite");
    let (way, _) = explore(case, 0);
    world::run_anywhere();
    let points = points(&way);
    for_each(&points, |point| {
        let at = format!("{name}, stopped at instruction {point} of {}", way.len);
        let (mut scene, board, victim) = stopped_at(case, &way, point);
        let world = scene.world.as_mut().expect("these cases have one");
        let before = world.queue.stats();
        others_go_on(world, &at);
        let after = world.queue.stats();
        assert_eq!(after.takeovers, before.takeovers, "{at}: its claim was taken");
        assert_eq!(after.reaped, before.reaped, "{at}: it was taken for dead");
        victim.run_to_the_end();
        let death = Death {
            at: Instant::now(),
            committed: board.how_many_committed(),
            instruction: point,
        };
        let mut world = scene.world.take().expect("still there");
        // What it appended is there once; nothing is in doubt.
        world.together = 0;
        world.check(&death);
    });
    println!("{name}: stopped at {} of {} points", points.len(), way.len + 1);
}

#[test]
fn a_writer_stopped_anywhere_in_an_append_is_robbed_of_nothing() {
    stopped_anywhere_in("append over the ring's end");
}

#[test]
fn a_keeper_stopped_anywhere_in_an_append_delays_nobody_past_their_timers_and_goes_on() {
    stopped_anywhere_in("append by the claim's keeper");
}

#[test]
fn a_writer_stopped_anywhere_in_a_batch_is_robbed_of_nothing() {
    stopped_anywhere_in("append a batch of three");
}

#[test]
fn a_writer_stopped_anywhere_in_a_reservation_is_robbed_of_nothing() {
    stopped_anywhere_in("reserve, commit shorter");
}

#[test]
fn a_keeper_stopped_anywhere_in_an_unannounced_reservation_is_robbed_of_nothing() {
    stopped_anywhere_in("reserve, commit shorter by the keeper");
}

#[test]
fn a_reader_stopped_anywhere_in_a_pop_is_robbed_of_nothing() {
    stopped_anywhere_in("pop");
}

#[test]
fn a_newcomer_stopped_anywhere_in_a_join_is_robbed_of_nothing() {
    stopped_anywhere_in("join as member");
}

#[test]
fn a_leaver_stopped_anywhere_is_robbed_of_nothing() {
    stopped_anywhere_in("leave as reader that others wait for");
}

/// A victim that reserves, fills in two halves and commits, and knows what to say if it was evicted.
fn reserve_fill_commit() -> Scene {
    let mut world = World::new(&options());
    world.is_reserved_in = true;
    // So that the record lies over the ring's end.
    world.advance_to(4096 - 128);
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        let body = body(0, 300);
        board.begin();
        let outcome = me.reserve("news", 300, Wait::Forever).and_then(|mut place| {
            place.write_at(0, &body[..150]);
            place.write_at(150, &body[150..]);
            place.commit()
        });
        match outcome {
            Ok(()) => board.committed(1),
            Err(Error::Evicted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        board.end();
    })
}

/// Aeron's case: a claim of long ago is filled and committed after all, into a buffer that meanwhile has been used again.
#[test]
fn a_commit_that_comes_after_an_eviction_and_a_lap_of_the_ring_harms_nobody() {
    let _watchdog = support::watchdog(Duration::from_secs(300));
    step::show_panics_of_children();
    way::do_what_is_done_once_per_process();
    let case = Case {
        name: "reserve, fill, commit",
        pace: cases::Pace::Steady,
        is_core: false,
        scene: reserve_fill_commit,
        rehearsal: None,
    };
    let (way, _) = explore(&case, 0);
    world::run_anywhere();
    let points = points(&way);
    // How often it was evicted, how often in vain because it was appending, how often its commit came too late.
    let (evicted, busy, late) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    for_each(&points, |point| {
        let at = format!("stopped at instruction {point} of {}", way.len);
        let (mut scene, board, victim) = stopped_at(&case, &way, point);
        let mut world = scene.world.take().expect("this case has one");
        let its = (world.queue.members().into_iter().find(|member| member.name == "victim")).expect("it has joined");
        match world.queue.evict(its.id) {
            Ok(()) => {
                evicted.fetch_add(1, Ordering::SeqCst);
                // Readers pass, writers go on until what it may still be writing into is in the way.
                let mut appended = 0;
                let full = loop {
                    match world
                        .w
                        .as_mut()
                        .expect("a writer")
                        .append("news", &body(world.sent, 100), Wait::Never)
                    {
                        Ok(_) => world.sent += 1,
                        Err(Error::Full(full)) => break Some(full),
                        Err(other) => panic!("{at}: {other}"),
                    }
                    world.drain();
                    appended += 1;
                    // It had not reserved, or was through with it: nothing is ever in the way.
                    if appended > 200 {
                        break None;
                    }
                };
                let last = world.seen_a.last().map(|seen| (seen.sender.clone(), seen.number));
                assert_eq!(
                    last,
                    Some(("w".to_owned(), world.sent - 1)),
                    "{at}: readers did not pass"
                );
                if let Some(full) = full {
                    let slowest = full.slowest.expect("somebody is in the way");
                    assert_eq!((&*slowest.name, slowest.pid), ("victim", its.pid), "{at}");
                    // All that it leaves is the room of the one record, and what rounding costs.
                    assert!(appended >= 15, "{at}: only {appended} messages fitted");
                    late.fetch_add(1, Ordering::SeqCst);
                }
            }
            Err(Error::Busy { pid, .. }) => {
                assert_eq!(pid, its.pid, "{at}");
                busy.fetch_add(1, Ordering::SeqCst);
            }
            Err(other) => panic!("{at}: {other}"),
        }
        let before = world.queue.stats();
        assert_eq!((before.takeovers, before.reaped), (0, 0), "{at}");
        victim.run_to_the_end();
        world.drain();
        let death = Death {
            at: Instant::now(),
            committed: board.how_many_committed(),
            instruction: point,
        };
        world.together = 0;
        world.check(&death);
    });
    let (evicted, busy, late) = (evicted.into_inner(), busy.into_inner(), late.into_inner());
    println!(
        "{} points: evicted {evicted}, in an append {busy}, room kept for it {late}",
        points.len()
    );
    assert!(evicted > 0 && busy > 0 && late > 0, "not every kind of place was met");
}
