//! Killed at every single instruction: whoever dies wherever, the others go on, and nothing committed is lost or repeated.
//!
//! Each operation is done by a forked child that is led through it instruction by instruction (`ptrace(2)`) and killed after
//! the n-th, for each n; then everything is checked by those who survive it. What is printed at the end, as a table, is
//! also written to `kill-table.md` in the target's folder for temporary files.
//!
//! A kill between two instructions that change nothing in shared memory and call nobody finds the world as the kill before
//! it did. So, in ordinary runs, operations of more than 3,000 instructions are killed after every instruction that changed shared memory, before and
//! after every system call, and at a stride in between; the table says how many points that were, of how many.
//! With `SYNCQ_KILL_ALL=1` it is every instruction of every operation. (Takes long; use a release build.)
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "kill/cases.rs"]
mod cases;
#[allow(dead_code, reason = "stopped.rs uses the rest")]
#[path = "kill/step.rs"]
mod step;
mod support;
#[path = "kill/way.rs"]
mod way;
#[path = "kill/world.rs"]
mod world;

use cases::{CASES, Case, Pace};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use step::{Board, Victim};
use way::{Speed, Way, bind_to, explore};
use world::{Death, Recovery, run_anywhere};

/// One line of the table.
struct Row {
    name: &'static str,
    tried: usize,
    len: usize,
    recoveries: Vec<Recovery>,
}

/// Where to kill: after how many instructions.
fn points(case: &Case, way: &Way, is_everywhere: bool) -> Vec<usize> {
    // Short ones, and what all depends on in a release build, are never thinned out.
    let is_short = way.len <= 3000 && case.pace == Pace::Steady;
    if is_everywhere || is_short || (case.is_core && !cfg!(debug_assertions)) {
        return (0..=way.len).collect();
    }
    let at_stride = match way.len {
        20_000.. if cfg!(debug_assertions) => 20,
        20_000.. => 40,
        _ => 100,
    };
    if case.pace == Pace::Varying {
        // It is never the same way twice, and others change the memory all the time.
        return (0..=way.len).step_by((way.len / at_stride).max(1)).collect();
    }
    let stride = (way.len / at_stride).max(1);
    // An odd start, so that different lengths of a loop are met in different places.
    let mut points: BTreeSet<usize> = (0..=way.len).skip(stride / 3).step_by(stride).collect();
    points.extend([0, way.len]);
    points.extend(&way.changes);
    points.extend(way.calls.iter().flat_map(|call| [*call, call + 1]));
    points.extend(&way.sleeps);
    // Deep inside a loop that looks at something over and over, a point costs much and tells nothing.
    let is_near = |point: &usize| way.past_first_visit(*point) <= 3000;
    points
        .into_iter()
        .filter(|point| *point <= way.len && is_near(point))
        .collect()
}

/// Kills a victim after `point` instructions, and checks the world. Every other one stays unreaped meanwhile.
fn kill_at(case: &Case, way: &Way, point: usize, processor: usize) -> Recovery {
    let in_one_try = |speed| try_to_kill_at(case, way, point, processor, speed);
    // At full speed it may miss the place and end before; then again, and in the end step by step.
    (in_one_try(Speed::Full))
        .or_else(|| in_one_try(Speed::Full))
        .or_else(|| in_one_try(Speed::Steps))
        .expect("step by step nobody goes past the end")
}

fn try_to_kill_at(case: &Case, way: &Way, point: usize, processor: usize, speed: Speed) -> Option<Recovery> {
    bind_to(processor);
    let mut scene = (case.scene)();
    let board = Board::new();
    let mut victim = Victim::new(&board, std::mem::replace(&mut scene.victim, Box::new(|_| ())));
    let mut at = 0;
    if case.pace == Pace::Steady {
        if let (Some(meanwhile), Some(world)) = (&mut scene.meanwhile, &mut scene.world) {
            meanwhile(world, 0);
        }
        // Led to each sleep before, and woken from it.
        for sleep in way.sleeps.iter().filter(|sleep| **sleep < point) {
            at = way.lead(&mut victim, &board, at, *sleep, speed);
            if let (Some(wake), Some(world)) = (&mut scene.when_asleep, &mut scene.world) {
                wake(world);
            }
        }
        if !board.is_done() {
            at = way.lead(&mut victim, &board, at, point, speed);
        }
        if way.sleeps.contains(&point) && !board.is_done() {
            victim.fall_asleep();
        }
    } else {
        loop {
            if let (Some(meanwhile), Some(world)) = (&mut scene.meanwhile, &mut scene.world) {
                meanwhile(world, at);
            }
            if at >= point || board.is_done() {
                break;
            }
            victim.step();
            at += 1;
        }
    }
    run_anywhere();
    let death = Death {
        at: Instant::now(),
        committed: board.how_many_committed(),
        instruction: at,
    };
    let has_ended = victim.has_ended();
    victim.kill();
    let stays_unreaped = point % 2 == 1;
    if !stays_unreaped {
        victim.reap();
    }
    let recovery = scene.survivors_check(&death);
    drop(victim);
    (!has_ended).then_some(recovery)
}

fn run(case: &'static Case, is_everywhere: bool, processor: usize) -> Row {
    let start = Instant::now();
    let (way, recovery) = explore(case, processor);
    let points = points(case, &way, is_everywhere);
    let mut recoveries = vec![recovery];
    recoveries.extend(points.iter().map(|point| kill_at(case, &way, *point, processor)));
    eprintln!(
        "{}: {} of {} points, {} changes, {} calls, {:.1?}",
        case.name,
        points.len(),
        way.len + 1,
        way.changes.len(),
        way.calls.len(),
        start.elapsed()
    );
    Row {
        name: case.name,
        tried: points.len(),
        len: way.len + 1,
        recoveries,
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| operation | kill points | of | survived | worst recovery | median |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let mut totals: Vec<Duration> = row.recoveries.iter().map(|recovery| recovery.total()).collect();
        totals.sort_unstable();
        let (worst, median) = (totals[totals.len() - 1], totals[totals.len() / 2]);
        let (name, tried, len) = (row.name, row.tried, row.len);
        let _ = writeln!(
            table,
            "| {name} | {tried} | {len} | {tried} | {worst:.2?} | {median:.2?} |"
        );
    }
    let tried: usize = rows.iter().map(|row| row.tried).sum();
    let worst = rows.iter().flat_map(|row| &row.recoveries).map(|r| r.total()).max();
    let _ = writeln!(
        table,
        "| all | {tried} | | {tried} | {:.2?} | |",
        worst.unwrap_or_default()
    );
    table
}

#[test]
fn whoever_is_killed_at_whatever_instruction_the_others_go_on() {
    let is_everywhere = std::env::var_os("SYNCQ_KILL_ALL").is_some_and(|value| value == "1");
    let _watchdog = support::watchdog(Duration::from_secs(if is_everywhere { 24 * 3600 } else { 600 }));
    // One operation only, for whoever looks for something.
    let wanted = std::env::var("SYNCQ_KILL_ONLY").unwrap_or_default();
    let cases: Vec<&'static Case> = CASES.iter().filter(|case| case.name.contains(&wanted)).collect();
    way::do_what_is_done_once_per_process();
    step::show_panics_of_children();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    std::thread::scope(|scope| {
        for processor in 0..processors {
            let (next, rows, cases) = (&next, &rows, &cases);
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    // If one fails, the others need not go on for long.
                    let row = std::panic::catch_unwind(|| run(case, is_everywhere, processor));
                    let row = row.unwrap_or_else(|panic| {
                        next.store(cases.len(), Ordering::SeqCst);
                        eprintln!("in: {}", case.name);
                        std::panic::resume_unwind(panic)
                    });
                    rows.lock().expect("nobody panics with it").push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("nobody panics with it");
    rows.sort_by_key(|row| cases.iter().position(|case| case.name == row.name));
    let table = table(&rows);
    println!("{table}");
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/kill-table.md"), table).expect("the target folder");
}
