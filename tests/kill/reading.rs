//! The operations of those who read.

use super::super::world::{LONG, Recovery, World, asleep, body, options};
use super::Scene;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn pop() -> Scene {
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

pub fn pop_screened() -> Scene {
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

pub fn peek() -> Scene {
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

pub fn pop_blocking() -> Scene {
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

pub fn pop_for_sleeping_writer() -> Scene {
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
