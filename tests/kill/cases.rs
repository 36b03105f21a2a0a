//! The operations in which victims are killed, each with a world around it.

#[path = "reserving.rs"]
mod reserving;

use super::step::{Board, Memory, Victim};
use super::world::{Death, LONG, Recovery, World, asleep, body, files_like, options, run_anywhere, unique};
use nix::unistd::{ForkResult, fork};
use reserving::{
    abort_after_revocation, append_over_a_forgotten_reservation, append_revoking_a_reserver, commit_after_revocation,
    commit_to_new_sleeper, commit_to_sleeper, reserve_abort, reserve_abort_as_keeper, reserve_commit,
    reserve_commit_as_keeper, reserve_commit_shorter, reserve_commit_shorter_as_keeper,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use syncq::{Error, Overflow, Queue, Start, Wait, Writer};

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
    let pace = Pace::Steady;
    Case {
        name,
        pace,
        is_core: false,
        scene,
        rehearsal: None,
    }
}

const fn varying(name: &'static str, scene: fn() -> Scene) -> Case {
    let pace = Pace::Varying;
    Case {
        name,
        pace,
        is_core: false,
        scene,
        rehearsal: None,
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
    core("append", append),
    steady("append by the claim's keeper", append_as_keeper),
    steady(
        "append by the keeper, at the end of a piece",
        append_as_keeper_at_the_end_of_a_piece,
    ),
    steady("append by the keeper, who makes ready", append_as_keeper_and_make_ready),
    steady(
        "append by the keeper, who has waited and makes half a step ready",
        append_as_keeper_and_make_half_a_step_ready,
    ),
    steady("append a batch by the keeper", append_batch_as_keeper),
    steady("append that revokes a kept claim", append_revoking),
    steady("append over the ring's end", append_over_the_end),
    steady("append a batch of three", append_batch),
    steady("append, one writer only", append_single_writer),
    steady("append, lossy", append_lossy),
    steady("append that wakes a sleeping reader", append_to_sleeper),
    Case {
        rehearsal: Some(append),
        ..varying("append among contenders", append_contended)
    },
    steady("append to a full queue: fall asleep, be woken", append_blocking),
    steady("append that takes its own backlog home", append_home),
    core("reserve, commit", reserve_commit),
    steady("reserve, commit shorter", reserve_commit_shorter),
    steady("reserve, abort", reserve_abort),
    steady("reserve, commit: wakes a sleeping reader", commit_to_sleeper),
    core("reserve, commit by the claim's keeper", reserve_commit_as_keeper),
    steady(
        "reserve, commit shorter by the keeper",
        reserve_commit_shorter_as_keeper,
    ),
    steady("reserve, abort by the keeper", reserve_abort_as_keeper),
    steady(
        "append by the keeper, who has forgotten a reservation",
        append_over_a_forgotten_reservation,
    ),
    steady("reserve by the keeper, be revoked, commit", commit_after_revocation),
    steady("reserve by the keeper, be revoked, abort", abort_after_revocation),
    steady(
        "reserve by the keeper, commit: wakes a reader that fell asleep since",
        commit_to_new_sleeper,
    ),
    core(
        "append that revokes a claim whose keeper has reserved",
        append_revoking_a_reserver,
    ),
    core("pop", pop),
    steady("pop past screened messages", pop_screened),
    steady("peek and release", peek),
    steady("pop from an empty queue: fall asleep, be woken", pop_blocking),
    steady("pop that wakes a sleeping writer", pop_for_sleeping_writer),
    steady("join as member", || join(|queue| drop_later(queue.join("victim")))),
    steady("join as reader of what is there", join_oldest),
    steady("join as writer", || join(|queue| drop_later(queue.writer("victim")))),
    steady("leave as member", || leave(|queue| queue.join("victim").map(drop_box))),
    steady("leave as reader that others wait for", leave_as_slow_reader),
    steady("leave as writer", || {
        leave(|queue| queue.writer("victim").map(drop_box))
    }),
    steady("leave as the last one and remove the name", leave_last),
    steady("evict a slow reader", evict_reader),
    steady("evict the owner of a reservation", evict_reservation),
    steady("reap a dead reader", reap),
    steady("create", create),
    steady("open", open),
    steady("open or create, another one racing", open_or_create),
    steady("unlink", unlink),
    steady("two deaths: append over a dead claim", over_dead_claim),
    steady("two deaths: the same, its record published", over_dead_published),
    rehearsed(
        "two deaths: the same, a reader asleep and unrung",
        over_dead_waker,
        over_dead_claim,
    ),
    steady("two deaths: append for room that a dead reader holds", over_dead_reader),
    steady("two deaths: pop past a dead reservation", over_dead_reservation),
    steady("two deaths: join into a dead one's slot", join_over_dead),
];

fn drop_later<T, E: std::fmt::Debug>(role: Result<T, E>) {
    std::mem::forget(role.expect("a role"));
}

fn drop_box<T: 'static>(role: T) -> Box<dyn std::any::Any> {
    Box::new(role)
}

// --- appending -----------------------------------------------------------------------------------------------------

/// A victim that appends one message of `len` bytes.
fn appends(world: World, len: usize) -> Scene {
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        let body = body(0, len);
        board.begin();
        me.append("news", &body, LONG).expect("append");
        board.committed(1);
        board.end();
    })
}

/// More appends in a row than it takes to keep the claim.
const UNTIL_KEPT: u32 = 24;

/// Dies in `last`, having appended so many messages of 128 bytes each, more than it takes to keep the claim. What is special
/// about the next one depends on where it is: a sixteenth of a ring begins with an append that looks around, and what is made ready for
/// short ones goes up to 64 before a multiple of 512, or before the next sixteenth.
fn as_keeper(capacity: u64, before: u32, together: u32, last: fn(&mut Writer)) -> Scene {
    as_keeper_after(|| {}, capacity, before, together, last)
}

/// The same, and just before `last` it does something `first`.
fn as_keeper_after(first: fn(), capacity: u64, before: u32, together: u32, last: fn(&mut Writer)) -> Scene {
    assert!(before >= UNTIL_KEPT - 3);
    let mut world = World::new(&options().capacity(capacity));
    world.together = together;
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        for number in 0..before {
            me.append("news", &body(number, 40), LONG).expect("append");
        }
        board.committed(before);
        first();
        board.begin();
        last(&mut me);
        board.committed(before + together);
        board.end();
    })
}

/// From 3072 to 3200: all up to 4032 is ready, and nothing has to be made so.
fn append_as_keeper() -> Scene {
    as_keeper(1 << 14, 24, 1, |me| {
        me.append("news", &body(24, 40), LONG).expect("append");
    })
}

/// Up to 3840, from where on it looks for more, and there is none before the next sixteenth.
fn append_as_keeper_at_the_end_of_a_piece() -> Scene {
    as_keeper(1 << 14, 29, 1, |me| {
        me.append("news", &body(29, 40), LONG).expect("append");
    })
}

/// Up to 2816, from where on it makes a whole step ready: from 3072 on.
fn append_as_keeper_and_make_ready() -> Scene {
    as_keeper(1 << 16, 21, 1, |me| {
        me.append("news", &body(21, 40), LONG).expect("append");
    })
}

/// As before, but by who has waited for a message, and makes half a step ready.
fn append_as_keeper_and_make_half_a_step_ready() -> Scene {
    let wait = || {
        let other = Queue::options().anonymous().expect("a queue");
        let mut reader = other.reader().expect("a reader");
        let answer = reader.pop(Wait::For(Duration::from_millis(1)));
        assert!(answer.expect("a queue").is_none());
    };
    as_keeper_after(wait, 1 << 16, 21, 1, |me| {
        me.append("news", &body(21, 40), LONG).expect("append");
    })
}

fn append_batch_as_keeper() -> Scene {
    as_keeper(1 << 14, 24, 3, |me| {
        let bodies = [body(24, 40), body(25, 8), body(26, 120)];
        me.append_all(bodies.iter().map(|body| ("news", &body[..])), LONG)
            .expect("append");
    })
}

fn append_revoking() -> Scene {
    let mut scene = appends(World::new(&options().capacity(1 << 14)), 40);
    // After the victim has joined, which would revoke it.
    scene.meanwhile = Some(Box::new(|world, step| {
        if step == 0 {
            for _ in 0..UNTIL_KEPT {
                world.send(20).expect("append");
            }
        }
    }));
    scene
}

fn append() -> Scene {
    let mut world = World::new(&options());
    world.send(20).expect("append");
    appends(world, 40)
}

fn append_over_the_end() -> Scene {
    let mut world = World::new(&options());
    world.advance_to(4096 - 128);
    appends(world, 300)
}

fn append_batch() -> Scene {
    let mut world = World::new(&options());
    world.advance_to(4096 - 128);
    world.together = 3;
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        let bodies = [body(0, 40), body(1, 8), body(2, 120)];
        board.begin();
        me.append_all(bodies.iter().map(|body| ("news", &body[..])), LONG)
            .expect("append");
        board.committed(3);
        board.end();
    })
}

fn append_single_writer() -> Scene {
    appends(World::for_one_writer(&options()), 40)
}

fn append_lossy() -> Scene {
    appends(World::new(&options().overflow(Overflow::Lossy)), 40)
}

fn append_to_sleeper() -> Scene {
    let mut world = World::new(&options());
    let reader = world.queue.reader().expect("a reader");
    world.add_sleeper(reader);
    appends(world, 40)
}

fn append_contended() -> Scene {
    let world = World::new(&options().capacity(1 << 16));
    let mut contender = world.queue.writer("contender").expect("a writer");
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || {
            run_anywhere();
            let (mut sent, mut times) = (0, Vec::new());
            loop {
                let is_last = stop.load(Ordering::SeqCst);
                contender.append("news", &body(sent, 8), LONG).expect("append");
                sent += 1;
                times.push(Instant::now());
                // No more than the readers, who look every eighth instruction, can take.
                (0..1000).for_each(|_| std::hint::spin_loop());
                if is_last {
                    return times;
                }
            }
        }
    });
    let mut scene = appends(world, 40);
    scene.meanwhile = Some(Box::new(|world, step| {
        if step % 8 == 0 {
            world.drain_up_to(50);
        }
    }));
    scene.check = Some(Box::new(move |world, death| {
        let mut world = world.expect("a world");
        stop.store(true, Ordering::SeqCst);
        while !thread.is_finished() {
            world.drain_up_to(1000);
            std::thread::sleep(Duration::from_micros(50));
        }
        let times = thread.join().expect("a contender that ends well");
        world.others.push(("contender".to_owned(), times.len() as u32));
        // How long the contender was held up. (What `check` measures began when the contender was through.)
        world.check(death);
        let first = times
            .iter()
            .find(|time| **time > death.at)
            .expect("one append at least");
        let appended = first.duration_since(death.at);
        Recovery {
            appended,
            popped: appended,
        }
    }));
    scene
}

fn append_blocking() -> Scene {
    let mut world = World::new(&options());
    world.fill();
    let mut scene = appends(world, 200);
    scene.when_asleep = Some(Box::new(World::drain));
    // While the victim holds nothing the survivors must make the room for themselves.
    scene.check = Some(Box::new(|world, death| {
        let mut world = world.expect("a world");
        world.drain();
        world.check(death)
    }));
    scene
}

fn append_home() -> Scene {
    let world = World::new(&options());
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.join("victim").expect("a member");
        let body = body(0, 200);
        board.begin();
        me.append("news", &body, LONG).expect("append");
        board.committed(1);
        board.end();
    });
    // The victim has joined, and alone has not read what fills the ring.
    scene.meanwhile = Some(Box::new(|world, step| {
        if step == 0 {
            for _ in 0..3 {
                world.send(1280).expect("append");
            }
            world.drain();
        }
    }));
    scene
}

// --- reading -------------------------------------------------------------------------------------------------------

fn pop() -> Scene {
    let world = World::new(&options());
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.reader().expect("a reader");
        queue
            .writer("other")
            .expect("a writer")
            .append("news", &body(0, 50), LONG)
            .expect("append");
        board.begin();
        assert!(me.pop(LONG).expect("pop").is_some());
        board.end();
    });
    scene
        .world
        .as_mut()
        .expect("just made")
        .others
        .push(("other".to_owned(), 1));
    scene
}

fn pop_screened() -> Scene {
    let mut world = World::new(&options());
    world.others.push(("other".to_owned(), 4));
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.reader().expect("a reader");
        me.screen().add_kind("noise");
        let mut other = queue.writer("other").expect("a writer");
        for (number, kind) in ["noise", "noise", "noise", "news"].into_iter().enumerate() {
            other.append(kind, &body(number as u32, 50), LONG).expect("append");
        }
        board.begin();
        assert!(me.pop(LONG).expect("pop").is_some());
        board.end();
    })
}

fn peek() -> Scene {
    let mut world = World::new(&options());
    world.others.push(("other".to_owned(), 1));
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.reader().expect("a reader");
        queue
            .writer("other")
            .expect("a writer")
            .append("news", &body(0, 50), LONG)
            .expect("append");
        board.begin();
        drop(me.peek(LONG).expect("peek"));
        board.end();
    })
}

fn pop_blocking() -> Scene {
    let world = World::new(&options());
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.reader().expect("a reader");
        me.set_spin(Duration::ZERO);
        board.begin();
        assert!(me.pop(LONG).expect("pop").is_some());
        board.end();
    });
    scene.when_asleep = Some(Box::new(|world| {
        if world.sent == 0 {
            world.send(40).expect("append");
        }
    }));
    scene
}

fn pop_for_sleeping_writer() -> Scene {
    let world = World::new(&options());
    let queue = world.queue.clone();
    let writer = Arc::new(std::sync::Mutex::new(None));
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.reader().expect("a reader");
        board.begin();
        assert!(me.pop(LONG).expect("pop").is_some());
        board.end();
    });
    // The victim has joined: fill the ring so that it alone is in the way, and let a writer sleep.
    scene.meanwhile = Some(Box::new({
        let writer = writer.clone();
        move |world, step| {
            if step == 0 {
                world.fill();
                world.drain();
                let mut blocked = world.queue.writer("blocked").expect("a writer");
                let thread = asleep(move || {
                    blocked.append("news", &body(0, 200), LONG).expect("append");
                    Instant::now()
                });
                *writer.lock().expect("nobody panics") = Some(thread);
            }
        }
    }));
    scene.check = Some(Box::new(move |world, death| {
        let thread = writer.lock().expect("nobody panics").take().expect("it sleeps");
        let woke = thread.join().expect("a writer that ends well");
        let mut world = world.expect("a world");
        world.others.push(("blocked".to_owned(), 1));
        let recovery = world.check(death);
        Recovery {
            appended: recovery.appended.max(woke.saturating_duration_since(death.at)),
            ..recovery
        }
    }));
    scene
}

// --- coming and going ----------------------------------------------------------------------------------------------

fn join(how: fn(&Queue)) -> Scene {
    let mut world = World::new(&options());
    world.send(20).expect("append");
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        board.begin();
        how(&queue);
        board.end();
    })
}

fn join_oldest() -> Scene {
    join(|queue| drop_later(queue.joining().start(Start::Oldest).reader()))
}

fn leave(how: fn(&Queue) -> syncq::Result<Box<dyn std::any::Any>>) -> Scene {
    let mut world = World::new(&options());
    world.send(20).expect("append");
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let role = how(&queue).expect("a role");
        board.begin();
        drop(role);
        board.end();
    })
}

fn leave_as_slow_reader() -> Scene {
    let mut world = World::new(&options());
    world.others.push(("other".to_owned(), 1));
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let me = queue.reader().expect("a reader");
        queue
            .writer("other")
            .expect("a writer")
            .append("news", &body(0, 2000), LONG)
            .expect("append");
        board.begin();
        drop(me);
        board.end();
    })
}

fn leave_last() -> Scene {
    let name = unique();
    let queue = options()
        .unlink_on_last_leave(true)
        .create(&name)
        .expect("a fresh name");
    let mine = queue.clone();
    Scene {
        world: None,
        victim: Box::new(move |board| {
            let me = mine.join("victim").expect("a member");
            board.begin();
            drop(me);
            board.end();
        }),
        when_asleep: None,
        meanwhile: None,
        dead: Vec::new(),
        check: Some(Box::new(move |_, death| {
            // Whoever comes next, by any handle, gets a queue that works: the old one, or a new one. Being told once that the
            // old one has ended is fine, being told for ever is not.
            drop(queue);
            let (queue, member) = (0..2)
                .find_map(|_| {
                    let queue = Queue::options().open_or_create(&name).expect("open or create");
                    match queue.writer("w") {
                        Ok(member) => Some((queue, member)),
                        Err(Error::Retired { .. }) => None,
                        Err(other) => panic!("killed at instruction {}: {other}", death.instruction),
                    }
                })
                .unwrap_or_else(|| panic!("killed at instruction {}: retired for ever", death.instruction));
            drop(member);
            let _ = Queue::unlink_name(&name);
            let _ = queue;
            Recovery {
                appended: death.at.elapsed(),
                popped: death.at.elapsed(),
            }
        })),
    }
}

// --- putting out and clearing away ---------------------------------------------------------------------------------

fn evict_reader() -> Scene {
    let mut world = World::new(&options());
    let slow = world.queue.reader().expect("a reader");
    let id = slow.id();
    world.send(2000).expect("append");
    world.drain();
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        board.begin();
        queue.evict(id).expect("evict");
        board.end();
    });
    scene.check = Some(Box::new(move |world, death| {
        // Evicted or not, it goes on as far as it was let.
        let mut slow = slow;
        let (mut popped, mut is_evicted) = (0, false);
        match slow.pop(Wait::Never) {
            Ok(message) => popped += usize::from(message.is_some()),
            Err(Error::Evicted { .. }) => is_evicted = true,
            Err(other) => panic!("killed at instruction {}: {other}", death.instruction),
        }
        assert!(is_evicted || popped == 1);
        drop(slow);
        world.expect("a world").check(death)
    }));
    scene
}

fn evict_reservation() -> Scene {
    let mut world = World::new(&options());
    world.is_reserved_in = true;
    world.others.push(("owner".to_owned(), 0));
    // The owner sits in a thread of the test, on a reservation that it commits after the death.
    let queue = world.queue.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let owner = std::thread::spawn(move || {
        let mut owner = queue.writer("owner").expect("a writer");
        let id = owner.id();
        let mut place = owner.reserve("news", 64, LONG).expect("reserve");
        tell.send(id).expect("the test waits for it");
        let _ = released.recv();
        place.write_at(0, &body(0, 64));
        place.commit().is_ok()
    });
    let id = told.recv().expect("the owner has reserved");
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        board.begin();
        queue.evict(id).expect("evict");
        board.end();
    });
    scene.check = Some(Box::new(move |world, death| {
        release.send(()).expect("the owner waits for it");
        let is_committed = owner.join().expect("an owner that ends well");
        let mut world = world.expect("a world");
        world.others[0].1 = u32::from(is_committed);
        world.check(death)
    }));
    scene
}

/// A reader that is behind, dead and unreaped.
fn dead_reader(world: &mut World) -> Victim {
    let board = Board::new();
    let queue = world.queue.clone();
    let victim = Victim::new(&board, move |board| {
        let me = queue.reader().expect("a reader");
        board.begin();
        drop(me);
    });
    victim.kill();
    // Dead when its lock is free, which is what everybody asks.
    while world
        .queue
        .members()
        .iter()
        .any(|m| m.pid == victim.pid.as_raw() as u32 && m.is_alive)
    {
        std::thread::sleep(Duration::from_micros(50));
    }
    victim
}

fn reap() -> Scene {
    let mut world = World::new(&options());
    let dead = dead_reader(&mut world);
    let (queue, pid) = (world.queue.clone(), dead.pid.as_raw() as u32);
    world.send(2000).expect("append");
    world.drain();
    let mut scene = Scene::new(world, move |board| {
        board.begin();
        assert_eq!(queue.reap(pid), 1);
        board.end();
    });
    scene.dead.push(dead);
    scene
}

// --- making and opening --------------------------------------------------------------------------------------------

/// A victim that does `what` with a name, which afterwards leads to a whole queue or to nothing.
fn by_name(name: String, what: fn(&str)) -> Scene {
    let mine = name.clone();
    Scene {
        world: None,
        victim: Box::new(move |board| {
            board.begin();
            what(&mine);
            board.end();
        }),
        when_asleep: None,
        meanwhile: None,
        dead: Vec::new(),
        check: Some(Box::new(move |_, death| {
            let files = files_like(&name);
            let found = Queue::open(&name);
            assert_eq!(files.len(), usize::from(found.is_ok()), "a half-made file: {found:?}");
            if let Err(error) = &found {
                assert!(matches!(error, Error::NotFound { .. }), "{error}");
            }
            let queue = options().open_or_create(&name).expect("open or create");
            if let Ok(found) = found {
                assert_eq!(found.stats().instance, queue.stats().instance);
            }
            World::adopt(queue, name).check(death)
        })),
    }
}

fn create() -> Scene {
    by_name(unique(), |name| drop_later(options().create(name)))
}

/// Made by a process that is gone, so that the victim finds nothing of it in its own.
fn made_elsewhere(name: &str) {
    // SAFETY: the child makes a queue and `_exit`s; glibc's own fork handlers keep the allocator usable.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            let code = options().create(name).map_or(1, |queue| {
                std::mem::forget(queue);
                0
            });
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).expect("waitpid");
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
}

fn open() -> Scene {
    let name = unique();
    made_elsewhere(&name);
    by_name(name, |name| drop_later(Queue::open(name)))
}

fn open_or_create() -> Scene {
    let name = unique();
    let mut scene = by_name(name.clone(), |name| drop_later(options().open_or_create(name)));
    // The other one comes at a different moment each time, from at once to when the victim is done.
    static ROUND: AtomicU32 = AtomicU32::new(0);
    let delay = Duration::from_micros((ROUND.fetch_add(1, Ordering::Relaxed) * 37 % 100).into());
    let other = std::thread::spawn(move || {
        std::thread::sleep(delay * 40);
        options().open_or_create(&name).expect("open or create")
    });
    let check = scene.check.take().expect("just made");
    scene.check = Some(Box::new(move |world, death| {
        let other = other.join().expect("the other one ends well");
        assert!(other.is_current(), "killed at instruction {}", death.instruction);
        check(world, death)
    }));
    scene
}

fn unlink() -> Scene {
    let world = World::new(&options());
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        board.begin();
        queue.unlink().expect("unlink");
        board.end();
    });
    scene.check = Some(Box::new(|world, death| {
        let mut world = world.expect("a world");
        // Its members go on undisturbed.
        world.send(10).expect("append");
        let appended = death.at.elapsed();
        world.drain();
        assert_eq!(world.seen_a.len(), 1);
        let recovery = Recovery {
            appended,
            popped: death.at.elapsed(),
        };
        // And the name is there, or free for the next one.
        assert_eq!(world.queue.is_current(), !files_like(&world.name).is_empty());
        let again = options().open_or_create(&world.name).expect("open or create");
        let same = again.stats().instance == world.queue.stats().instance;
        assert_eq!(same, world.queue.is_current());
        recovery
    }));
    scene
}

// --- two deaths ----------------------------------------------------------------------------------------------------

/// Where `docs/segment-format.md` has the wake-up bits of sleeping readers.
const SLEEPERS_AT: usize = 768;
/// The bit of kinds that have none of their own, as `news` here.
const KIND_BIT: u64 = 1 << 31;
/// Where the data part of a queue with eight slots begins.
const DATA_AT: usize = 8192;

/// A writer called `first` that died in its append as soon as `is_reached`.
fn dead_in_append(world: &mut World, is_reached: impl Fn(&Memory, &Queue) -> bool) -> Victim {
    let board = Board::new();
    let queue = world.queue.clone();
    let mut first = Victim::new(&board, move |board| {
        let mut me = queue.writer("first").expect("a writer");
        let body = body(0, 30);
        board.begin();
        me.append("news", &body, LONG).expect("append");
        board.end();
    });
    let memory = Memory::of(&world.name);
    while !is_reached(&memory, &world.queue) {
        assert!(!board.is_done(), "the first one got past its place to die");
        first.step();
    }
    first.kill();
    while world
        .queue
        .members()
        .iter()
        .any(|m| m.pid == first.pid.as_raw() as u32 && m.is_alive)
    {
        std::thread::sleep(Duration::from_micros(50));
    }
    first
}

/// A victim that has joined when the first one dies, and then appends.
fn appends_over(mut world: World, published: u32, is_reached: fn(&Memory, &Queue) -> bool) -> Scene {
    world.others.push(("first".to_owned(), published));
    let mut scene = appends(world, 40);
    // Kept, and so unreaped, until the scene ends.
    let mut dead = Vec::new();
    scene.meanwhile = Some(Box::new(move |world, step| {
        if step == 0 {
            dead.push(dead_in_append(world, is_reached));
        }
    }));
    scene
}

fn over_dead_claim() -> Scene {
    appends_over(World::new(&options()), 0, |_, queue| queue.stats().writing.is_some())
}

fn over_dead_published() -> Scene {
    appends_over(World::new(&options()), 1, |memory, queue| {
        queue.stats().writing.is_some() && memory.word(DATA_AT + queue.stats().position as usize % 4096) != 0
    })
}

/// The first one has cleared the bits of a sleeping reader and died before it rang; the second one dies as well.
fn over_dead_waker() -> Scene {
    let mut world = World::new(&options());
    let reader = world.queue.reader().expect("a reader");
    world.add_sleeper(reader);
    appends_over(world, 0, |memory, queue| {
        queue.stats().writing.is_some() && memory.word(SLEEPERS_AT) & KIND_BIT == 0
    })
}

fn over_dead_reader() -> Scene {
    let mut world = World::new(&options());
    let dead = dead_reader(&mut world);
    // Not by trying until it is full, which would find the dead one out.
    world.send(3500).expect("append");
    world.drain();
    let mut scene = appends(world, 500);
    scene.dead.push(dead);
    scene
}

fn over_dead_reservation() -> Scene {
    let mut world = World::new(&options());
    world.is_reserved_in = true;
    let board = Board::new();
    let queue = world.queue.clone();
    let first = Victim::new(&board, move |board| {
        let mut me = queue.writer("first").expect("a writer");
        let place = me.reserve("news", 64, LONG).expect("reserve");
        board.begin();
        drop(place);
    });
    first.kill();
    world.send(40).expect("append");
    let queue = world.queue.clone();
    let start = Start::Oldest;
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.joining().start(start).reader().expect("a reader");
        me.set_spin(Duration::ZERO);
        board.begin();
        assert!(me.pop(LONG).expect("pop").is_some());
        board.end();
    });
    scene.dead.push(first);
    scene
}

fn join_over_dead() -> Scene {
    let mut world = World::new(&options().slots(4));
    let dead = dead_reader(&mut world);
    let mut scene = {
        let queue = world.queue.clone();
        Scene::new(world, move |board| {
            board.begin();
            drop_later(queue.join("victim"));
            board.end();
        })
    };
    scene.dead.push(dead);
    scene
}
