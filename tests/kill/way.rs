//! The way of a victim through an operation: how many instructions it takes, where it changes what others see, and how to
//! bring a later victim quickly to any place on it.

use super::cases::Case;
use super::step::{Board, Memory, Stepped, Victim, is_sleep};
use super::world::{Death, Recovery};
use std::collections::HashSet;
use std::time::Instant;

/// How a victim gets to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// Through breakpoints. Where it goes another way this time, it may miss them, and ends: see [`Victim::has_ended`].
    Full,
    /// Step by step.
    Steps,
}

/// What is known of an operation after one went through it to its end.
pub struct Way {
    /// How many instructions.
    pub len: usize,
    /// After which ones shared memory had changed.
    pub changes: Vec<usize>,
    /// Before which ones a system call was due.
    pub calls: Vec<usize>,
    /// At which ones it slept.
    pub sleeps: Vec<usize>,
    /// Where the instruction stands that is due after so many.
    pub addresses: Vec<u64>,
    /// After how many an instruction was due for the first time; a breakpoint on it leads just there.
    pub first_visits: Vec<usize>,
}

impl Way {
    /// How many instructions behind the last one that a breakpoint leads to.
    pub fn past_first_visit(&self, point: usize) -> usize {
        let before = self.first_visits.partition_point(|visit| *visit <= point);
        point - before.checked_sub(1).map_or(0, |last| self.first_visits[last])
    }

    /// Leads a victim that has done `from` instructions on to `to`, or to its end. Returns how many it has done then.
    pub fn lead(&self, victim: &mut Victim, board: &Board, from: usize, to: usize, speed: Speed) -> usize {
        let visit = to - self.past_first_visit(to);
        let mut at = from;
        if visit > from && speed == Speed::Full {
            if !victim.run_to(self.addresses[visit]) {
                return self.len;
            }
            at = visit;
        }
        while at < to && !board.is_done() {
            victim.step();
            at += 1;
        }
        at
    }
}

/// Leads a victim through the whole operation, and checks that all is well when nobody dies before the end.
pub fn explore(case: &Case, processor: usize) -> (Way, Recovery) {
    bind_to(processor);
    let mut scene = case.rehearsal.unwrap_or(case.scene)();
    let board = Board::new();
    let mut victim = Victim::new(&board, std::mem::replace(&mut scene.victim, Box::new(|_| ())));
    let name = scene.name();
    let mut way = Way {
        len: 0,
        changes: Vec::new(),
        calls: Vec::new(),
        sleeps: Vec::new(),
        addresses: Vec::new(),
        first_visits: Vec::new(),
    };
    let mut visited = HashSet::new();
    let mut memory: Option<Memory> = None;
    loop {
        if let (Some(meanwhile), Some(world)) = (&mut scene.meanwhile, &mut scene.world) {
            meanwhile(world, way.len);
        }
        let memory = memory.get_or_insert_with(|| Memory::of(&name));
        if board.is_done() {
            break;
        }
        let (address, call) = victim.next();
        if visited.insert(address) {
            way.first_visits.push(way.len);
        }
        way.addresses.push(address);
        if call.is_some() {
            way.calls.push(way.len);
        }
        // Led step by step, it may come too late for its own short sleep; it is woken all the same.
        let stepped = victim.step_or_sleep(call);
        if call.is_some_and(is_sleep)
            && let (Some(wake), Some(world)) = (&mut scene.when_asleep, &mut scene.world)
        {
            way.sleeps.push(way.len);
            wake(world);
        }
        if stepped == Stepped::Asleep {
            victim.finish_step();
        }
        way.len += 1;
        if memory.has_changed() {
            way.changes.push(way.len);
        }
    }
    let death = Death {
        at: Instant::now(),
        committed: board.how_many_committed(),
        instruction: way.len,
    };
    victim.kill();
    victim.reap();
    (way, scene.survivors_check(&death))
}

/// Keeps this thread, and the victims that it forks, on one processor: a step is a switch between the two, which is
/// several times faster there.
pub fn bind_to(processor: usize) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else {
        return;
    };
    let nth = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .nth(processor);
    let mut one = CpuSet::new();
    if let Some(cpu) = nth
        && one.set(cpu).is_ok()
    {
        let _ = sched_setaffinity(Pid::from_raw(0), &one);
    }
}

/// Does by way of trial what a process does the first time only: finding out whether spinning helps (to be asked before any thread is bound
/// to one processor), and where the kernel's clock is. Else the explored victim would do it, and later ones, forked from a process that
/// meanwhile has slept itself, would not come by there.
pub fn do_what_is_done_once_per_process() {
    let queue = syncq::Queue::options().heap().expect("memory");
    let mut reader = queue.reader().expect("a reader");
    // Long enough to really sleep.
    let popped = reader.pop(std::time::Duration::from_millis(20)).expect("pop");
    assert!(popped.is_none());
}
