//! The operations of those who reserve: announced, unannounced, and what others do about it meanwhile.

use super::super::step::{Board, Memory};
use super::super::world::{LONG, World, body, options};
use super::Scene;
use super::appending::{UNTIL_KEPT, appends, as_keeper};
use syncq::Writer;

fn reserves(mut world: World, end: fn(syncq::Reservation<'_>, &Board)) -> Scene {
    world.is_reserved_in = true;
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        let body = body(0, 60);
        board.begin();
        let mut place = me.reserve("news", 200, LONG).expect("reserve");
        place.write_at(0, &body);
        end(place, board);
        board.end();
    })
}

pub fn reserve_commit() -> Scene {
    let mut world = World::new(&options());
    world.is_reserved_in = true;
    world.advance_to(4096 - 128);
    let queue = world.queue.clone();
    Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        let body = body(0, 40);
        board.begin();
        let mut place = me.reserve("news", 40, LONG).expect("reserve");
        place.write_at(0, &body);
        place.commit().expect("commit");
        board.committed(1);
        board.end();
    })
}

fn commit_first(place: syncq::Reservation<'_>, board: &Board) {
    place.commit_first(60).expect("commit");
    board.committed(1);
}

pub fn reserve_commit_shorter() -> Scene {
    reserves(World::new(&options()), commit_first)
}

pub fn reserve_abort() -> Scene {
    let mut world = World::new(&options());
    world.together = 0;
    reserves(world, |place, _| place.abort())
}

pub fn commit_to_sleeper() -> Scene {
    let mut world = World::new(&options());
    let reader = world.queue.reader().expect("a reader");
    world.add_sleeper(reader);
    reserves(world, commit_first)
}

/// As [`as_keeper`], for what reserves.
fn reserving_as_keeper(capacity: u64, before: u32, together: u32, last: fn(&mut Writer)) -> Scene {
    let mut scene = as_keeper(capacity, before, together, last);
    scene.world.as_mut().expect("made with one").is_reserved_in = true;
    scene
}

pub fn reserve_commit_as_keeper() -> Scene {
    reserving_as_keeper(1 << 14, 24, 1, |me| {
        let mut place = me.reserve("news", 40, LONG).expect("reserve");
        place.write_at(0, &body(24, 40));
        place.commit().expect("commit");
    })
}

pub fn reserve_commit_shorter_as_keeper() -> Scene {
    reserving_as_keeper(1 << 14, 24, 1, |me| {
        let mut place = me.reserve("news", 300, LONG).expect("reserve");
        place.write_at(0, &body(24, 60));
        place.commit_first(60).expect("commit");
    })
}

pub fn reserve_abort_as_keeper() -> Scene {
    reserving_as_keeper(1 << 14, 24, 0, |me| {
        let mut place = me.reserve("news", 300, LONG).expect("reserve");
        // What is there when it is gone must not be taken for anything.
        place.write_at(0, &[0xff; 300]);
        place.abort();
    })
}

/// The append is at its place, if that is not settled first: there is room for it before the next sixteenth.
pub fn append_over_a_forgotten_reservation() -> Scene {
    reserving_as_keeper(1 << 16, 21, 1, |me| {
        let mut place = me.reserve("new", 300, LONG).expect("reserve");
        // What is there then must not be taken for anything.
        place.write_at(0, &[0xff; 300]);
        std::mem::forget(place);
        me.append("news", &body(21, 700), LONG).expect("append");
    })
}

/// Whether a member has an unannounced reservation: what its slot says of that, and where (`docs/segment-format.md`, 5).
fn has_unannounced(world: &World, name: &str) -> bool {
    let is_it = |member: &syncq::MemberInfo| member.name == name;
    let slot = world
        .queue
        .members()
        .into_iter()
        .find(is_it)
        .map(|member| member.id.slot());
    let slot = usize::from(slot.expect("a member of that name"));
    Memory::of(&world.name).word(4096 + 512 * slot + 104) != 0
}

/// Has reserved as keeper, and dies in `last`; before that, `meanwhile`.
fn reserved_as_keeper(
    mut world: World,
    together: u32,
    last: fn(syncq::Reservation<'_>),
    mut meanwhile: impl FnMut(&mut World) + 'static,
) -> Scene {
    world.together = together;
    world.is_reserved_in = true;
    let queue = world.queue.clone();
    let mut scene = Scene::new(world, move |board| {
        let mut me = queue.writer("victim").expect("a writer");
        for number in 0..UNTIL_KEPT {
            me.append("news", &body(number, 40), LONG).expect("append");
        }
        board.committed(UNTIL_KEPT);
        let mut place = me.reserve("news", 40, LONG).expect("reserve");
        place.write_at(0, &body(UNTIL_KEPT, 40));
        board.begin();
        last(place);
        board.committed(UNTIL_KEPT + together);
        board.end();
    });
    scene.meanwhile = Some(Box::new(move |world, step| {
        if step == 0 {
            assert!(has_unannounced(world, "victim"));
            meanwhile(world);
        }
    }));
    scene
}

fn commit(place: syncq::Reservation<'_>) {
    place.commit().expect("commit");
}

pub fn commit_after_revocation() -> Scene {
    let world = World::new(&options().capacity(1 << 14));
    reserved_as_keeper(world, 1, commit, |world| {
        let _ = world.send(20).expect("append");
    })
}

pub fn abort_after_revocation() -> Scene {
    let world = World::new(&options().capacity(1 << 14));
    reserved_as_keeper(
        world,
        0,
        |place| place.abort(),
        |world| {
            let _ = world.send(20).expect("append");
        },
    )
}

pub fn commit_to_new_sleeper() -> Scene {
    let world = World::new(&options().capacity(1 << 14));
    // Not one that joins then, which would revoke the claim.
    let mut reader = Some(world.queue.reader().expect("a reader"));
    reserved_as_keeper(world, 1, commit, move |world| {
        world.add_sleeper(reader.take().expect("the only step 0"));
    })
}

/// The owner of the reservation lives, in a thread of the test, and commits after the death.
pub fn append_revoking_a_reserver() -> Scene {
    let mut world = World::new(&options().capacity(1 << 14));
    world.is_reserved_in = true;
    world.others.push(("owner".to_owned(), UNTIL_KEPT + 1));
    let mut owner = world.queue.writer("owner").expect("a writer");
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let owner = std::thread::spawn(move || {
        begun.recv().expect("the test says when");
        for number in 0..UNTIL_KEPT {
            owner.append("news", &body(number, 40), LONG).expect("append");
        }
        let mut place = owner.reserve("news", 64, LONG).expect("reserve");
        tell.send(()).expect("the test waits for it");
        let _ = released.recv();
        place.write_at(0, &body(UNTIL_KEPT, 64));
        place.commit().expect("commit");
    });
    let mut scene = appends(world, 40);
    // After the victim has joined, which would revoke it.
    scene.meanwhile = Some(Box::new(move |world, step| {
        if step == 0 {
            begin.send(()).expect("the owner waits for it");
            told.recv().expect("the owner has reserved");
            assert!(has_unannounced(world, "owner"));
        }
    }));
    scene.check = Some(Box::new(move |world, death| {
        release.send(()).expect("the owner waits for it");
        owner.join().expect("an owner that ends well");
        world.expect("a world").check(death)
    }));
    scene
}
