//! Evicting the living and reaping the dead.

use super::super::step::{Board, Victim};
use super::super::world::{LONG, World, body, options};
use super::Scene;
use std::time::Duration;
use syncq::{Error, Wait};

pub fn evict_reader() -> Scene {
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

pub fn evict_reservation() -> Scene {
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
pub fn dead_reader(world: &mut World) -> Victim {
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

pub fn reap() -> Scene {
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
