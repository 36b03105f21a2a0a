//! Making, opening and unlinking a queue.

use super::super::world::{Recovery, World, files_like, options, unique};
use super::{Scene, drop_later};
use nix::unistd::{ForkResult, fork};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use syncq::{Error, Queue};

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

pub fn create() -> Scene {
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

pub fn open() -> Scene {
    let name = unique();
    made_elsewhere(&name);
    by_name(name, |name| drop_later(Queue::open(name)))
}

pub fn open_or_create() -> Scene {
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

pub fn unlink() -> Scene {
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
