//! Models of reservations, announced and not: filled, committed, revoked, and left by the dead.

use super::*;

#[test]
fn a_commit_and_an_eviction_agree() {
    explore(3, || {
        let ring = ring(8, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (writer, _) = join(&ring, Role::Writer);
        let reserved = writer
            .reserve(b"", 32, &Deadline::of(Wait::Forever), &mut no_backlog)
            .unwrap();
        ring.segment
            .at(reserved.position)
            .copy_in(32, bytemuck::bytes_of(&[5u64; 4]));
        let evictor = {
            let ring = ring.clone();
            let (slot, generation) = (writer.slot, writer.generation);
            thread::spawn(move || ring.evict(slot, generation).is_ok())
        };
        let is_committed = writer.commit(&reserved, 32).is_ok();
        let _is_evicted = evictor.join().unwrap();
        std::mem::forget(writer);
        let after = loop {
            match ring.look(at).unwrap() {
                Look::Skip(end) => at = end,
                other => break other,
            }
        };
        match after {
            Look::Found(found) => {
                assert!(is_committed);
                assert_eq!(value_of(&ring, &found, false), [5; 4]);
            }
            Look::Nothing(0) => assert!(!is_committed),
            other => panic!("{other:?}"),
        }
        std::mem::forget(reader);
    });
}

#[test]
fn a_reader_asleep_at_a_reservation_is_woken_by_its_commit() {
    explore(3, || {
        let ring = ring(8, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (writer, _) = join(&ring, Role::Writer);
        let reserved = writer
            .reserve(b"", 32, &Deadline::of(Wait::Forever), &mut no_backlog)
            .unwrap();
        let thread = thread::spawn(move || {
            writer
                .ring
                .segment
                .at(reserved.position)
                .copy_in(32, bytemuck::bytes_of(&[5u64; 4]));
            writer.commit(&reserved, 32).unwrap();
            std::mem::forget(writer);
        });
        assert_eq!(pop(&reader, &mut at), 5);
        thread.join().unwrap();
        std::mem::forget(reader);
    });
}

/// A keeper that has reserved without telling anybody, and filled it with 5s.
fn reserve_unannounced(keeper: &Membership) -> Reserved {
    let reserved = keeper.reserve_if_clear(b"", 32).expect("nothing is in the way");
    let spot = keeper.ring.segment.at(reserved.position);
    assert_eq!(spot.word(HEAD).load(Ordering::Relaxed), 0);
    spot.copy_in(32, bytemuck::bytes_of(&[5u64; 4]));
    reserved
}

/// A ring with a reader, which has read everything, and a writer that keeps the claim.
fn with_a_keeper() -> (Membership, u64, Membership) {
    // Long enough: no mark is near.
    let ring = ring(16, false);
    let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
    let keeper = join_and_keep(&ring);
    assert_eq!(pop(&reader, &mut at), 9);
    (reader, at, keeper)
}

#[test]
fn what_is_unannounced_comes_before_what_is_appended_after_it() {
    explore(1, || {
        let (reader, mut at, keeper) = with_a_keeper();
        let (other, _) = join(&reader.ring, Role::Writer);
        // Joining has revoked it; this keeps it again.
        append(&keeper, 9);
        assert_eq!(pop(&reader, &mut at), 9);
        let reserved = reserve_unannounced(&keeper);
        let threads = [
            thread::spawn(move || {
                keeper.commit(&reserved, 32).unwrap();
                append(&keeper, 6);
                std::mem::forget(keeper);
            }),
            appends(other, [2]),
        ];
        let mut got = [pop(&reader, &mut at), pop(&reader, &mut at), pop(&reader, &mut at)];
        assert_eq!(got[0], 5);
        got[1..].sort_unstable();
        assert_eq!(got[1..], [2, 6]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::forget(reader);
    });
}

#[test]
fn a_sleeper_is_woken_by_the_commit_of_an_unannounced_reservation() {
    explore(3, || {
        let (reader, mut at, keeper) = with_a_keeper();
        let reserved = reserve_unannounced(&keeper);
        let thread = thread::spawn(move || {
            keeper.commit(&reserved, 32).unwrap();
            std::mem::forget(keeper);
        });
        assert_eq!(pop(&reader, &mut at), 5);
        thread.join().unwrap();
        std::mem::forget(reader);
    });
}

/// The owner of an unannounced reservation dies after `steps` steps of its commit; another writer appends 1; a sleeping reader
/// gets 1, and 5 if and only if it was published.
fn an_owner_dies_after(steps: u32) {
    explore_deaths(1, move || {
        let (reader, mut at, keeper) = with_a_keeper();
        let (survivor, _) = join(&reader.ring, Role::Writer);
        append(&keeper, 9);
        assert_eq!(pop(&reader, &mut at), 9);
        let reserved = reserve_unannounced(&keeper);
        let first = thread::spawn(move || {
            if steps >= 1 {
                let _ = keeper.begin_if_kept(keeper.kept(), || keeper.light.fence());
            }
            if steps >= 2 {
                // As if the claim had been gone.
                keeper.ring.announce(reserved.position, reserved.head(), keeper.origin);
            }
            if steps >= 3 {
                let message = Head::of_message(32).bits(reserved.position);
                let head = keeper.ring.segment.word(reserved.position, HEAD);
                let _ = head.compare_exchange(reserved.head(), message, Ordering::SeqCst, Ordering::Relaxed);
            }
            dies(keeper);
        });
        let second = appends(survivor, [1]);
        if steps >= 3 {
            assert_eq!(pop(&reader, &mut at), 5);
        }
        assert_eq!(pop(&reader, &mut at), 1);
        first.join().unwrap();
        second.join().unwrap();
        std::mem::forget(reader);
    });
}

#[test]
fn an_owner_dies_with_an_unannounced_reservation() {
    an_owner_dies_after(0);
}

#[test]
fn an_owner_dies_busy_with_an_unannounced_reservation() {
    an_owner_dies_after(1);
}

#[test]
fn an_owner_dies_with_an_announced_reservation() {
    an_owner_dies_after(2);
}

#[test]
fn an_owner_dies_before_it_notes_what_it_committed() {
    an_owner_dies_after(3);
}

/// A revoker that has announced the keeper's reservation, or not, dies before the claim is its own. The keeper and another go on.
fn a_revoker_dies_that(has_announced: bool) {
    explore_deaths(1, move || {
        let ring = ring(16, false);
        let keeper = join_and_keep(&ring);
        let [victim, other] = [(); 2].map(|()| join(&ring, Role::Writer).0);
        // Joining has revoked it; this keeps it again.
        append(&keeper, 9);
        let reserved = reserve_unannounced(&keeper);
        let word = &ring.segment.control().claim.word;
        let seen = Word::from_bits(word.load(Ordering::Relaxed));
        word.store(seen.held_by(victim.slot).bits(), Ordering::SeqCst);
        if has_announced {
            ring.announce_for(keeper.slot, reserved.position);
        }
        dies(victim);
        let threads = [
            thread::spawn(move || {
                keeper.commit(&reserved, 32).unwrap();
                append(&keeper, 6);
                std::mem::forget(keeper);
            }),
            appends(other, [2]),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut values = [2, 3, 4].map(|number| match ring.look(64 * number).unwrap() {
            Look::Found(found) => {
                assert_eq!(found.sequence, number);
                value_of(&ring, &found, false)[0]
            }
            other => panic!("{other:?}"),
        });
        values[1..].sort_unstable();
        assert_eq!(values, [5, 2, 6]);
    });
}

#[test]
fn a_revoker_dies_before_it_announces_a_reservation() {
    a_revoker_dies_that(false);
}

#[test]
fn a_revoker_dies_after_it_announced_a_reservation() {
    a_revoker_dies_that(true);
}

#[test]
fn an_owner_dies_before_it_rings_for_what_it_announced() {
    explore_deaths(2, || {
        let (reader, mut at, keeper) = with_a_keeper();
        let reserved = reserve_unannounced(&keeper);
        let thread = thread::spawn(move || {
            keeper.announce(&reserved);
            let message = Head::of_message(32).bits(reserved.position);
            let head = keeper.ring.segment.word(reserved.position, HEAD);
            let committed = head.compare_exchange(reserved.head(), message, Ordering::SeqCst, Ordering::Relaxed);
            assert!(committed.is_ok());
            dies(keeper);
        });
        assert_eq!(pop(&reader, &mut at), 5);
        thread.join().unwrap();
        std::mem::forget(reader);
    });
}

/// Somebody is evicted while it commits an unannounced reservation; or one that somebody else has announced, who died before the claim
/// was his. What the evictor has seen aborted stays so.
fn an_eviction_and_a_commit_agree_that(is_announced: bool) {
    explore(2, move || {
        let (reader, at, keeper) = with_a_keeper();
        let reserved = reserve_unannounced(&keeper);
        if is_announced {
            reader.ring.announce_for(keeper.slot, reserved.position);
        }
        let evictor = {
            let ring = reader.ring.clone();
            let (slot, generation) = (keeper.slot, keeper.generation);
            thread::spawn(move || {
                let is_evicted = ring.evict(slot, generation).is_ok();
                is_evicted && matches!(ring.look(at).unwrap(), Look::Skip(_))
            })
        };
        let is_committed = keeper.commit(&reserved, 32).is_ok();
        let was_aborted = evictor.join().unwrap();
        std::mem::forget(keeper);
        match reader.ring.look(at).unwrap() {
            Look::Found(found) => {
                assert!(is_committed && !was_aborted);
                assert_eq!(value_of(&reader.ring, &found, false), [5; 4]);
            }
            Look::Skip(_) => assert!(!is_committed),
            other => panic!("{other:?}"),
        }
        std::mem::forget(reader);
    });
}

#[test]
fn an_eviction_and_a_commit_of_an_unannounced_reservation_agree() {
    an_eviction_and_a_commit_agree_that(false);
}

#[test]
fn an_eviction_and_a_commit_of_what_the_dead_announced_agree() {
    an_eviction_and_a_commit_agree_that(true);
}
