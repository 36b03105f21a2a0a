//! The operations of those who append: alone, contended, with the claim kept, in batches, into a full ring.

use super::super::world::{LONG, Recovery, World, body, options, run_anywhere};
use super::Scene;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncq::{Overflow, Queue, Wait, Writer};

/// A victim that appends one message of `len` bytes.
pub fn appends(world: World, len: usize) -> Scene {
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
pub const UNTIL_KEPT: u32 = 24;

/// Dies in `last`, having appended so many messages of 128 bytes each, more than it takes to keep the claim. What is special
/// about the next one depends on where it is: a sixteenth of a ring begins with an append that looks around, and what is made ready for
/// short ones goes up to 64 before a multiple of 512, or before the next sixteenth.
pub fn as_keeper(capacity: u64, before: u32, together: u32, last: fn(&mut Writer)) -> Scene {
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
pub fn append_as_keeper() -> Scene {
    as_keeper(1 << 14, 24, 1, |me| {
        me.append("news", &body(24, 40), LONG).expect("append");
    })
}

/// Up to 3840, from where on it looks for more, and there is none before the next sixteenth.
pub fn append_as_keeper_at_the_end_of_a_piece() -> Scene {
    as_keeper(1 << 14, 29, 1, |me| {
        me.append("news", &body(29, 40), LONG).expect("append");
    })
}

/// Up to 2816, from where on it makes a whole step ready: from 3072 on.
pub fn append_as_keeper_and_make_ready() -> Scene {
    as_keeper(1 << 16, 21, 1, |me| {
        me.append("news", &body(21, 40), LONG).expect("append");
    })
}

/// As before, but by who has waited for a message, and makes half a step ready.
pub fn append_as_keeper_and_make_half_a_step_ready() -> Scene {
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

pub fn append_batch_as_keeper() -> Scene {
    as_keeper(1 << 14, 24, 3, |me| {
        let bodies = [body(24, 40), body(25, 8), body(26, 120)];
        me.append_all(bodies.iter().map(|body| ("news", &body[..])), LONG)
            .expect("append");
    })
}

pub fn append_revoking() -> Scene {
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

pub fn append() -> Scene {
    let mut world = World::new(&options());
    world.send(20).expect("append");
    appends(world, 40)
}

pub fn append_over_the_end() -> Scene {
    let mut world = World::new(&options());
    world.advance_to(4096 - 128);
    appends(world, 300)
}

pub fn append_batch() -> Scene {
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

pub fn append_single_writer() -> Scene {
    appends(World::for_one_writer(&options()), 40)
}

pub fn append_lossy() -> Scene {
    appends(World::new(&options().overflow(Overflow::Lossy)), 40)
}

pub fn append_to_sleeper() -> Scene {
    let mut world = World::new(&options());
    let reader = world.queue.reader().expect("a reader");
    world.add_sleeper(reader);
    appends(world, 40)
}

pub fn append_contended() -> Scene {
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

pub fn append_blocking() -> Scene {
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

pub fn append_home() -> Scene {
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
