//! The operations in which victims are killed, each with a world around it; the scenes are in the files beside this one.

#[path = "appending.rs"]
mod appending;
#[path = "evicting.rs"]
mod evicting;
#[path = "joining.rs"]
mod joining;
#[path = "making.rs"]
mod making;
#[path = "reading.rs"]
mod reading;
#[path = "reserving.rs"]
mod reserving;
#[path = "two_deaths.rs"]
mod two_deaths;

use super::step::{Board, Victim};
use super::world::{Death, Recovery, World};

/// How a victim is brought to an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Its way is the same every time, so it may run at full speed as far as a system call.
    Steady,
    /// Others change its way: every instruction is a step.
    Varying,
}

type WhenAsleep = Box<dyn FnMut(&mut World)>;
type Meanwhile = Box<dyn FnMut(&mut World, usize)>;
type Check = Box<dyn FnOnce(Option<World>, &Death) -> Recovery>;

/// A victim about to begin, and those who will survive it.
pub struct Scene {
    pub world: Option<World>,
    pub victim: Box<dyn FnOnce(&Board)>,
    /// What ends the victim's sleep.
    pub when_asleep: Option<WhenAsleep>,
    /// Called with the number of each step.
    pub meanwhile: Option<Meanwhile>,
    /// Those that died before; unreaped until this is dropped.
    pub dead: Vec<Victim>,
    /// Instead of [`World::check`].
    pub check: Option<Check>,
}

impl Scene {
    pub fn new(world: World, victim: impl FnOnce(&Board) + 'static) -> Scene {
        Scene {
            world: Some(world),
            victim: Box::new(victim),
            when_asleep: None,
            meanwhile: None,
            dead: Vec::new(),
            check: None,
        }
    }

    /// The name of the queue whose memory is watched.
    pub fn name(&self) -> String {
        self.world.as_ref().map_or_else(String::new, |world| world.name.clone())
    }

    pub fn survivors_check(self, death: &Death) -> Recovery {
        match (self.check, self.world) {
            (Some(check), world) => check(world, death),
            (None, world) => world.expect("a world, where nothing else checks").check(death),
        }
    }
}

/// One operation.
pub struct Case {
    pub name: &'static str,
    pub pace: Pace,
    /// So short, and so much what all depends on, that no instruction is ever left out in a release build.
    pub is_core: bool,
    pub scene: fn() -> Scene,
    /// From which its way is learned, where being watched step by step takes so long that it would go another way.
    pub rehearsal: Option<fn() -> Scene>,
}

const fn steady(name: &'static str, scene: fn() -> Scene) -> Case {
    Case {
        name,
        pace: Pace::Steady,
        is_core: false,
        scene,
        rehearsal: None,
    }
}

const fn varying(name: &'static str, scene: fn() -> Scene) -> Case {
    Case {
        pace: Pace::Varying,
        ..steady(name, scene)
    }
}

const fn core(name: &'static str, scene: fn() -> Scene) -> Case {
    Case {
        is_core: true,
        ..steady(name, scene)
    }
}

/// As `steady`, with a way that is learned from another scene.
const fn rehearsed(name: &'static str, scene: fn() -> Scene, rehearsal: fn() -> Scene) -> Case {
    Case {
        rehearsal: Some(rehearsal),
        ..steady(name, scene)
    }
}

pub const CASES: &[Case] = &[
    core("append", appending::append),
    steady("append by the claim's keeper", appending::append_as_keeper),
    steady(
        "append by the keeper, at the end of a piece",
        appending::append_as_keeper_at_the_end_of_a_piece,
    ),
    steady(
        "append by the keeper, who makes ready",
        appending::append_as_keeper_and_make_ready,
    ),
    steady(
        "append by the keeper, who has waited and makes half a step ready",
        appending::append_as_keeper_and_make_half_a_step_ready,
    ),
    steady("append a batch by the keeper", appending::append_batch_as_keeper),
    steady("append that revokes a kept claim", appending::append_revoking),
    steady("append over the ring's end", appending::append_over_the_end),
    steady("append a batch of three", appending::append_batch),
    steady("append, one writer only", appending::append_single_writer),
    steady("append, lossy", appending::append_lossy),
    steady("append that wakes a sleeping reader", appending::append_to_sleeper),
    Case {
        rehearsal: Some(appending::append),
        ..varying("append among contenders", appending::append_contended)
    },
    steady(
        "append to a full queue: fall asleep, be woken",
        appending::append_blocking,
    ),
    steady("append that takes its own backlog home", appending::append_home),
    core("reserve, commit", reserving::reserve_commit),
    steady("reserve, commit shorter", reserving::reserve_commit_shorter),
    steady("reserve, abort", reserving::reserve_abort),
    steady("reserve, commit: wakes a sleeping reader", reserving::commit_to_sleeper),
    core(
        "reserve, commit by the claim's keeper",
        reserving::reserve_commit_as_keeper,
    ),
    steady(
        "reserve, commit shorter by the keeper",
        reserving::reserve_commit_shorter_as_keeper,
    ),
    steady("reserve, abort by the keeper", reserving::reserve_abort_as_keeper),
    steady(
        "append by the keeper, who has forgotten a reservation",
        reserving::append_over_a_forgotten_reservation,
    ),
    steady(
        "reserve by the keeper, be revoked, commit",
        reserving::commit_after_revocation,
    ),
    steady(
        "reserve by the keeper, be revoked, abort",
        reserving::abort_after_revocation,
    ),
    steady(
        "reserve by the keeper, commit: wakes a reader that fell asleep since",
        reserving::commit_to_new_sleeper,
    ),
    core(
        "append that revokes a claim whose keeper has reserved",
        reserving::append_revoking_a_reserver,
    ),
    core("pop", reading::pop),
    steady("pop past screened messages", reading::pop_screened),
    steady("peek and release", reading::peek),
    steady("pop from an empty queue: fall asleep, be woken", reading::pop_blocking),
    steady("pop that wakes a sleeping writer", reading::pop_for_sleeping_writer),
    steady("join as member", || {
        joining::join(|queue| drop_later(queue.join("victim")))
    }),
    steady("join as reader of what is there", joining::join_oldest),
    steady("join as writer", || {
        joining::join(|queue| drop_later(queue.writer("victim")))
    }),
    steady("leave as member", || {
        joining::leave(|queue| queue.join("victim").map(drop_box))
    }),
    steady("leave as reader that others wait for", joining::leave_as_slow_reader),
    steady("leave as writer", || {
        joining::leave(|queue| queue.writer("victim").map(drop_box))
    }),
    steady("leave as the last one and remove the name", joining::leave_last),
    steady("evict a slow reader", evicting::evict_reader),
    steady("evict the owner of a reservation", evicting::evict_reservation),
    steady("reap a dead reader", evicting::reap),
    steady("create", making::create),
    steady("open", making::open),
    steady("open or create, another one racing", making::open_or_create),
    steady("unlink", making::unlink),
    steady("two deaths: append over a dead claim", two_deaths::over_dead_claim),
    steady(
        "two deaths: the same, its record published",
        two_deaths::over_dead_published,
    ),
    rehearsed(
        "two deaths: the same, a reader asleep and unrung",
        two_deaths::over_dead_waker,
        two_deaths::over_dead_claim,
    ),
    steady(
        "two deaths: append for room that a dead reader holds",
        two_deaths::over_dead_reader,
    ),
    steady(
        "two deaths: pop past a dead reservation",
        two_deaths::over_dead_reservation,
    ),
    steady("two deaths: join into a dead one's slot", two_deaths::join_over_dead),
];

fn drop_later<T, E: std::fmt::Debug>(role: Result<T, E>) {
    std::mem::forget(role.expect("a role"));
}

fn drop_box<T: 'static>(role: T) -> Box<dyn std::any::Any> {
    Box::new(role)
}
