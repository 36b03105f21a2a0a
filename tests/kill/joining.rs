//! Joining and leaving.

use super::super::world::{LONG, Recovery, World, body, options, unique};
use super::{Scene, drop_later};
use syncq::{Error, Queue, Start};

pub fn join(how: fn(&Queue)) -> Scene {
    let mut world = World::new(&options());
    world.send(20).expect("append");
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        board.begin();
        how(&queue);
        board.end();
    })
}

pub fn join_oldest() -> Scene {
    join(|queue| drop_later(queue.joining().start(Start::Oldest).reader()))
}

pub fn leave(how: fn(&Queue) -> syncq::Result<Box<dyn std::any::Any>>) -> Scene {
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

pub fn leave_as_slow_reader() -> Scene {
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

pub fn leave_last() -> Scene {
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
