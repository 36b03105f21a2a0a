//! Operations on what somebody left who died before: two deaths.

use super::super::step::{Board, Memory, Victim};
use super::super::world::{LONG, World, body, options};
use super::appending::appends;
use super::evicting::dead_reader;
use super::{Scene, drop_later};
use std::time::Duration;
use syncq::{Queue, Start};

/// Where `docs/segment-format.md` has the wake-up bits of sleeping readers.
const SLEEPERS_AT: usize = 768;
/// The one of readers that screen no kind.
const ANY_KIND: u64 = 1 << 31;
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

pub fn over_dead_claim() -> Scene {
    appends_over(World::new(&options()), 0, |_, queue| queue.stats().writing.is_some())
}

pub fn over_dead_published() -> Scene {
    appends_over(World::new(&options()), 1, |memory, queue| {
        queue.stats().writing.is_some() && memory.word(DATA_AT + queue.stats().position as usize % 4096) != 0
    })
}

/// The first one has cleared the bits of a sleeping reader and died before it rang; the second one dies as well.
pub fn over_dead_waker() -> Scene {
    let mut world = World::new(&options());
    let reader = world.queue.reader().expect("a reader");
    world.add_sleeper(reader);
    appends_over(world, 0, |memory, queue| {
        queue.stats().writing.is_some() && memory.word(SLEEPERS_AT) & ANY_KIND == 0
    })
}

pub fn over_dead_reader() -> Scene {
    let mut world = World::new(&options());
    let dead = dead_reader(&mut world);
    // Not by trying until it is full, which would find the dead one out.
    world.send(3500).expect("append");
    world.drain();
    let mut scene = appends(world, 500);
    scene.dead.push(dead);
    scene
}

pub fn over_dead_reservation() -> Scene {
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

pub fn join_over_dead() -> Scene {
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
