//! Models of the claim that a writer keeps: appended with, revoked, and left by the dead.

use super::*;

#[test]
fn a_kept_claim_is_revoked_and_nothing_is_lost_or_slept_through() {
    explore(1, || {
        // Long enough for the short way: no mark is near.
        let ring = ring(16, false);
        let keeper = join_and_keep(&ring);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        // Joining has revoked it; the next append keeps it again.
        append(&keeper, 9);
        assert_eq!(pop(&reader, &mut at), 9);
        let (other, _) = join(&ring, Role::Writer);
        // Then a long one, which makes ready for the short one.
        for _ in 0..2 {
            append(&keeper, 9);
            assert_eq!(pop(&reader, &mut at), 9);
        }
        let threads = [(keeper, 1), (other, 2)].map(|(writer, value)| appends(writer, [value]));
        let mut got = [pop(&reader, &mut at), pop(&reader, &mut at)];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::forget(reader);
    });
    assert!(SHORT.get() > 0, "no schedule took the short way");
}

#[test]
fn short_appends_go_round() {
    explore(1, || {
        let ring = ring(16, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let keeper = join_and_keep(&ring);
        assert_eq!(pop(&reader, &mut at), 9);
        // What the last lap left behind its frontier is no head on this one.
        for value in 0..40 {
            if value % 2 == 0 {
                keeper.keeping.pretend_to_have_waited();
            }
            append(&keeper, value);
            assert_eq!(pop(&reader, &mut at), value);
            assert!(matches!(ring.look(at), Ok(Look::Nothing(0))));
        }
        std::mem::forget((reader, keeper));
    });
    assert!(SHORT.get() > 10, "the short way was hardly taken");
}

#[test]
fn two_that_keep_the_claim_revoke_each_other() {
    explore(2, || {
        let ring = ring(8, false);
        let writers = [1, 2].map(|value| (join_and_keep(&ring), value));
        let writers = writers.map(|(writer, value)| appends(writer, [value, value]));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let mut values = [2, 3, 4, 5].map(|number| match ring.look(64 * number).unwrap() {
            Look::Found(found) => {
                assert_eq!(found.sequence, number);
                let words = value_of(&ring, &found, false);
                assert!(words.iter().all(|word| *word == words[0]), "torn: {words:?}");
                words[0]
            }
            other => panic!("{other:?}"),
        });
        values.sort_unstable();
        assert_eq!(values, [1, 1, 2, 2]);
    });
}

/// A keeper dies after `steps` steps of an append of 7; another writer appends 1; a sleeping reader gets 1, and 7 if and only if it
/// was published.
fn a_keeper_dies_after(steps: u32) {
    explore_deaths(1, move || {
        let ring = ring(8, false);
        let (reader, Beginning { position: mut at, .. }) = join(&ring, Role::Reader);
        let (survivor, _) = join(&ring, Role::Writer);
        let keeper = join_and_keep(&ring);
        assert_eq!(pop(&reader, &mut at), 9);
        let first = thread::spawn(move || {
            let ring = keeper.ring.clone();
            let claim = keeper.claim_to_append(&Deadline::of(Wait::Forever)).unwrap();
            if steps >= 1 {
                ring.segment.control().data.sleepers.fetch_and(0, Ordering::SeqCst);
            }
            if steps >= 2 {
                ring.segment.control().data.bell.wake(EVERY_BIT);
                write_sevens(&keeper, claim.position);
                publish_sevens(&keeper, claim.position);
            }
            std::mem::forget(claim);
            dies(keeper);
        });
        let second = appends(survivor, [1]);
        let mut got = vec![pop(&reader, &mut at)];
        if steps >= 2 {
            got.push(pop(&reader, &mut at));
            got.sort_unstable();
            assert_eq!(got, [1, 7]);
        } else {
            assert_eq!(got, [1]);
        }
        first.join().unwrap();
        second.join().unwrap();
        std::mem::forget(reader);
    });
}

#[test]
fn a_keeper_dies_busy() {
    a_keeper_dies_after(0);
}

#[test]
fn a_keeper_dies_before_it_rings() {
    a_keeper_dies_after(1);
}

#[test]
fn a_keeper_dies_before_it_notes_what_it_published() {
    a_keeper_dies_after(2);
}

#[test]
fn a_revoker_dies_and_the_keeper_and_another_go_on() {
    explore_deaths(1, || {
        let ring = ring(8, false);
        let (victim, _) = join(&ring, Role::Writer);
        let (other, _) = join(&ring, Role::Writer);
        let keeper = join_and_keep(&ring);
        // Dies right after it has put itself beside the keeper.
        let word = &ring.segment.control().claim.word;
        let seen = Word::from_bits(word.load(Ordering::Relaxed));
        word.store(seen.held_by(victim.slot).bits(), Ordering::SeqCst);
        dies(victim);
        let threads = [(keeper, 1), (other, 2)].map(|(writer, value)| appends(writer, [value]));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut values = [64, 128].map(|at| match ring.look(at).unwrap() {
            Look::Found(found) => value_of(&ring, &found, false)[0],
            other => panic!("{other:?}"),
        });
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
    });
}

#[test]
fn a_keeper_leaves_and_who_revokes_it_goes_on() {
    explore(2, || {
        let ring = ring(8, false);
        let keeper = join_and_keep(&ring);
        let others = [1, 2].map(|value| (join(&ring, Role::Writer).0, value));
        // Joining has revoked it; this keeps it again.
        append(&keeper, 9);
        let threads = others.map(|(writer, value)| appends(writer, [value]));
        drop(keeper);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut values = [2, 3].map(|number| match ring.look(64 * number).unwrap() {
            Look::Found(found) => {
                assert_eq!(found.sequence, number);
                value_of(&ring, &found, false)
            }
            other => panic!("{other:?}"),
        });
        values.sort_unstable();
        assert_eq!(values, [[1; 4], [2; 4]]);
        let word = Word::from_bits(ring.segment.control().claim.word.load(Ordering::Relaxed));
        assert_eq!((word.holder(), word.keeper()), (None, None));
    });
}
