//! How a reader of a stream keeps its distance from who writes it. Not the waiting for what may not come: that is
//! [`ring::sleep`](crate::ring::sleep).
//!
//! A reader right behind the writer takes lines from him that he has not done with, so each waits for the other's processor,
//! message by message. This makes them equally fast, so it goes on, and the reader never finds nothing. Some records apart, both
//! work in their own caches, and the lines travel meanwhile.

use crate::segment::layout::GRANULE;
use crate::sys::atomic::spin_hint;
use std::time::Duration;

/// So many messages since the reader last found nothing are a stream.
const STREAM: u64 = 4;
/// How often a reader of a stream pauses, at first and most: some hundred nanoseconds, and ten microseconds to (where a pause takes a
/// processor longer) some tens.
const PAUSES: (u64, u64) = (16, 512);
/// Longer than all pauses together: who waits for less does not pause.
pub(super) const LONGER: Duration = Duration::from_micros(100);
/// A reader that is so many bytes behind the frontier, or less, is too near.
const NEAR: u64 = 8 << 10;
/// In a small ring this part of it is far enough.
const PART: u64 = 8;
/// A pause in which the writers fill more than this part of the ring was too long.
const PART_A_PAUSE: u64 = 4;
/// Who is right behind asks again after this part of the distance.
const HEELS: u64 = 16;
/// For so many times the distance nobody is asked again where nobody was writing.
const CALM: u64 = 8;

#[derive(Debug)]
pub(super) struct Pace {
    capacity: u64,
    /// The number of the message that was expected when this reader last found nothing.
    since_empty: u64,
    /// And when it last paused.
    since_pause: u64,
    /// How often it pauses the next time.
    pauses: u64,
    /// At this position it asks how far ahead the frontier is.
    ask_at: u64,
}

impl Pace {
    pub(super) fn new(position: u64, sequence: u64, capacity: u64) -> Self {
        let mut pace = Pace {
            capacity,
            since_empty: sequence,
            since_pause: sequence,
            pauses: 0,
            ask_at: position,
        };
        pace.pauses = pace.first_pauses();
        pace
    }

    /// In a ring of some KiB a busy writer fills too much of it in more than these.
    fn first_pauses(&self) -> u64 {
        (self.capacity / PART_A_PAUSE / (2 * GRANULE)).clamp(1, PAUSES.0)
    }

    /// The number of the message before which this reader last paused, or with which it began.
    #[cfg(all(test, not(loom)))]
    pub(super) fn last_pause(&self) -> u64 {
        self.since_pause
    }

    fn near(&self) -> u64 {
        NEAR.min(self.capacity / PART)
    }

    /// Whether a reader at `position` should see to its distance.
    #[inline(always)]
    pub(super) fn is_due(&self, position: u64) -> bool {
        position.wrapping_sub(self.ask_at) as i64 >= 0
    }

    /// Whether the reader, who is up to message number `sequence`, reads a stream.
    #[inline]
    pub(super) fn is_stream(&self, sequence: u64) -> bool {
        sequence.wrapping_sub(self.since_empty) >= STREAM
    }

    /// The reader had found nothing, and what it reads next may come by itself: where every nanosecond counts.
    #[inline]
    pub(super) fn begin_anew(&mut self, sequence: u64) {
        self.since_empty = sequence;
        self.pauses = self.first_pauses();
    }

    /// What to do when [it is due](Pace::is_due), for a reader at `position` that reads a stream if it `may_pause`. `frontier` asks for that, which
    /// takes a line from the writer: as often as needed.
    pub(super) fn keep_distance(&mut self, position: u64, sequence: u64, may_pause: bool, frontier: impl Fn() -> u64) {
        let near = self.near();
        self.ask_at = position.wrapping_add(near);
        if !may_pause {
            return;
        }
        let seen = frontier();
        let ahead = seen.wrapping_sub(position);
        if (1..=near).contains(&ahead) {
            if !self.look_away(sequence, seen, frontier) {
                self.ask_at = position.wrapping_add(CALM * near);
            }
        } else if ahead <= self.capacity && ahead > near {
            self.ask_at = position.wrapping_add(ahead - near);
        } else if position.wrapping_sub(seen) <= self.capacity {
            // Nothing is there, or what is has not been noted yet. In the first case `caught_up` is next.
            self.ask_at = position.wrapping_add(near / HEELS);
        }
        // Else it is falsified, or this reader is about to be told that it was overtaken.
    }

    /// The reader has found nothing at `position`.
    pub(super) fn caught_up(&mut self, position: u64, sequence: u64, may_pause: bool, frontier: impl Fn() -> u64) {
        match self.is_stream(sequence) {
            false => self.begin_anew(sequence),
            true => {
                self.since_empty = sequence;
                if may_pause {
                    self.look_away(sequence, position, frontier);
                }
            }
        }
    }

    /// Leaves the writer's lines alone for a moment, in which several messages are written whose ways then overlap. `before`: the frontier now.
    /// `false`: nobody is writing, so it was a short one.
    ///
    /// The moment grows while each one brings a message for every few pauses, and the ring is large enough for it. It may be longer
    /// than a short [`spin`](crate::QueueOptions::spin): it is no wait for something that may not come.
    fn look_away(&mut self, sequence: u64, before: u64, frontier: impl Fn() -> u64) -> bool {
        let taken = sequence.wrapping_sub(self.since_pause);
        self.since_pause = sequence;
        let first = self.pauses.min(self.first_pauses());
        pause(first);
        // What was published before, and is noted only now, does not count.
        if frontier().wrapping_sub(before) as i64 <= 0 {
            self.pauses = (2 * first).min(self.first_pauses());
            return false;
        }
        pause(self.pauses - first);
        let written = frontier().wrapping_sub(before);
        let was_worth_it = taken.saturating_mul(4) >= self.pauses && written <= self.capacity / PART_A_PAUSE;
        self.pauses = match was_worth_it {
            true => (2 * self.pauses).min(PAUSES.1),
            false => (self.pauses / 2).max(1),
        };
        true
    }
}

fn pause(times: u64) {
    for _ in 0..times {
        spin_hint();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    const CAPACITY: u64 = 1 << 20;

    /// A frontier that begins at `at` and moves by `step` each time that it is asked for, and how often it was.
    fn frontier(at: u64, step: u64, asked: &Cell<u64>) -> impl Fn() -> u64 {
        move || {
            asked.set(asked.get() + 1);
            at.wrapping_add(step * asked.get())
        }
    }

    /// A reader at 0 that has grown to the longest pauses.
    fn grown() -> Pace {
        let mut pace = Pace::new(0, 0, CAPACITY);
        for time in 1..=10 {
            pace.caught_up(0, 300 * time, true, frontier(0, 64, &Cell::new(0)));
        }
        assert_eq!(pace.pauses, PAUSES.1);
        pace
    }

    #[test]
    fn whatever_size_messages_have_and_wherever_they_begin_it_asks_once_in_the_distance() {
        // Miri takes minutes for all.
        let starts = if cfg!(miri) { 2 } else { 128 };
        for (start, size) in (0..starts).flat_map(|start| (1..40).map(move |size| (start * GRANULE, size * GRANULE))) {
            let (laps, asked, mut pace) = (20, Cell::new(0), Pace::new(0, 0, CAPACITY));
            for position in (0..laps * NEAR / size).map(|index| start + index * size) {
                if pace.is_due(position) {
                    // Always twice the distance away.
                    pace.keep_distance(position, 1000, true, frontier(position + 2 * NEAR, 0, &asked));
                }
            }
            let asked = asked.get();
            assert!(
                (laps * 2 / 3..=laps + 1).contains(&asked),
                "{asked} times with {size} bytes from {start} on"
            );
        }
    }

    #[test]
    fn pauses_grow_with_a_stream_as_long_as_the_ring_is_large_enough() {
        let pauses_after = |messages: u64, step: u64, capacity: u64| {
            let mut pace = Pace::new(0, 0, capacity);
            for time in 1..100 {
                pace.caught_up(0, time * messages, true, frontier(0, step, &Cell::new(0)));
            }
            pace.pauses
        };
        assert_eq!(pauses_after(300, 128, CAPACITY), PAUSES.1);
        // A message for four pauses is what makes it worth while.
        assert!((16..=64).contains(&pauses_after(10, 128, CAPACITY)));
        assert_eq!(pauses_after(300, 4096, 4096), 1, "the ring is full each time");
        assert_eq!(Pace::new(0, 0, 4096).pauses, 8, "a ring of 32 messages");
    }

    #[test]
    fn pauses_that_were_too_long_for_the_ring_grow_again_when_the_writer_slows() {
        let mut pace = Pace::new(0, 0, 4096);
        let mut catch_up = |from: u64, step: u64| {
            for time in 1..100 {
                pace.caught_up(0, from + time * 10, true, frontier(0, step, &Cell::new(0)));
            }
            pace.pauses
        };
        assert_eq!(catch_up(0, 4096), 1);
        assert_eq!(catch_up(1000, 0), 8, "nobody writes");
        assert_eq!(catch_up(2000, 4096), 1);
        assert!(catch_up(3000, 128) > 8);
    }

    #[test]
    fn where_nobody_writes_pauses_are_short_and_rare() {
        let (mut pace, asked) = (grown(), Cell::new(0));
        for position in (0..1000).map(|index| index * 128) {
            if pace.is_due(position) {
                // One message is at hand, always.
                pace.keep_distance(
                    position,
                    10_000 + position / 128,
                    true,
                    frontier(position + 128, 0, &asked),
                );
                assert_eq!(pace.pauses, PAUSES.0);
            }
        }
        // Each time before the pause and in it.
        assert!((2..=2 * 3).contains(&asked.get()), "{asked:?}");
    }

    #[test]
    fn a_single_message_ends_a_stream() {
        let mut pace = grown();
        pace.caught_up(0, 3001, true, frontier(0, 64, &Cell::new(0)));
        assert_eq!(
            (pace.pauses, pace.is_stream(3004), pace.is_stream(3005)),
            (PAUSES.0, false, true)
        );
    }

    #[test]
    fn who_pauses_for_being_near_still_reads_a_stream() {
        let mut pace = grown();
        pace.keep_distance(0, 3100, true, frontier(64, 64, &Cell::new(0)));
        pace.caught_up(128, 3101, true, frontier(128, 64, &Cell::new(0)));
        assert!(pace.pauses > PAUSES.0);
    }

    #[test]
    fn who_may_not_pause_asks_for_nothing() {
        let (mut pace, asked) = (grown(), Cell::new(0));
        pace.keep_distance(0, 5000, false, frontier(64, 64, &asked));
        pace.caught_up(0, 6000, false, frontier(64, 64, &asked));
        assert_eq!((asked.get(), pace.pauses, pace.is_stream(6003)), (0, PAUSES.1, false));
    }

    #[test]
    fn the_end_of_an_append_that_was_seen_already_is_no_writing() {
        let mut pace = grown();
        // Noted as 64 bytes before the reader, and then where it is.
        pace.caught_up(128, 5000, true, frontier(0, 64, &Cell::new(0)));
        assert_eq!(pace.pauses, PAUSES.0);
    }

    #[test]
    fn a_frontier_far_away_is_asked_for_again_when_it_is_near() {
        let (mut pace, asked) = (grown(), Cell::new(0));
        pace.keep_distance(0, 5000, true, frontier(3 * NEAR, 0, &asked));
        assert_eq!((asked.get(), pace.ask_at, pace.pauses), (1, 2 * NEAR, PAUSES.1));
        // One at the reader or behind it is soon asked for again.
        for behind in [0, 64, CAPACITY] {
            pace.keep_distance(CAPACITY, 5000, true, frontier(CAPACITY - behind, 0, &asked));
            assert_eq!((pace.ask_at, pace.pauses), (CAPACITY + NEAR / HEELS, PAUSES.1));
        }
        // One that is falsified is not believed for longer than any other.
        for ahead in [CAPACITY + 64, 1 << 62, 1 << 63] {
            pace.keep_distance(0, 5000, true, frontier(ahead, 0, &asked));
            assert_eq!((pace.ask_at, pace.pauses), (NEAR, PAUSES.1));
        }
    }
}
