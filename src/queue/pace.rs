//! How a reader of a stream keeps its distance from who writes it. Not the waiting for what may not come: that is
//! [`ring::sleep`](crate::ring::sleep).
//!
//! A reader right behind the writer takes lines from him that he has not done with, so each waits for the other's processor,
//! message by message. This makes them equally fast, so it goes on, and the reader never finds nothing. Some records apart, both
//! work in their own caches, and the lines travel meanwhile.

use crate::sys::atomic::spin_hint;
use std::time::Duration;

/// So many messages since the reader last found nothing are a stream.
const STREAM: u64 = 4;
/// How often a reader of a stream pauses, at first and most: some hundred nanoseconds, and ten microseconds or (where a pause takes a
/// processor longer) a few more.
const PAUSES: (u64, u64) = (16, 512);
/// Longer than all pauses together: who waits for less does not pause.
pub(super) const LONGER: Duration = Duration::from_micros(100);
/// A reader that is so many bytes behind the frontier, or less, is too near.
const NEAR: u64 = 8 << 10;
/// In a small ring this part of it is far enough.
const PART: u64 = 8;
/// A pause in which the writers fill more than this part of the ring was too long.
const PART_A_PAUSE: u64 = 4;
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
        Pace {
            capacity,
            since_empty: sequence,
            since_pause: sequence,
            pauses: PAUSES.0,
            ask_at: position,
        }
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

    /// The reader found nothing, and what it expects next may come by itself: where every nanosecond counts.
    #[inline]
    pub(super) fn begin_anew(&mut self, sequence: u64) {
        self.since_empty = sequence;
        self.pauses = PAUSES.0;
    }

    /// What to do when [it is due](Pace::is_due). `frontier` asks for that, which takes a line from the writer: as often as needed, and
    /// `None` if this reader may not pause.
    pub(super) fn keep_distance(&mut self, position: u64, sequence: u64, frontier: Option<impl Fn() -> u64>) {
        let near = self.near();
        self.ask_at = position.wrapping_add(near);
        let Some(frontier) = frontier.filter(|_| self.is_stream(sequence)) else {
            return;
        };
        match frontier().wrapping_sub(position) {
            // It is falsified, or this reader is about to be told that it was overtaken.
            ahead if ahead > self.capacity => {}
            ahead if ahead > near => self.ask_at = position.wrapping_add(ahead - near),
            _ if self.look_away(sequence, frontier) => {}
            _ => self.ask_at = position.wrapping_add(CALM * near),
        }
    }

    /// The reader has found nothing.
    pub(super) fn has_caught_up(&mut self, sequence: u64, frontier: Option<impl Fn() -> u64>) {
        match frontier {
            _ if !self.is_stream(sequence) => self.begin_anew(sequence),
            None => self.since_empty = sequence,
            Some(frontier) => {
                self.since_empty = sequence;
                self.look_away(sequence, frontier);
            }
        }
    }

    /// Leaves the writer's lines alone for a moment, in which several messages are written whose ways then overlap. `false`: nobody is
    /// writing, so it was a short one.
    ///
    /// The moment grows while each one brings a message for every few pauses, and the ring is large enough for it. It may be longer
    /// than a short [`spin`](crate::QueueOptions::spin): it is no wait for something that may not come.
    fn look_away(&mut self, sequence: u64, frontier: impl Fn() -> u64) -> bool {
        let taken = sequence.wrapping_sub(self.since_pause);
        self.since_pause = sequence;
        let first = self.pauses.min(PAUSES.0);
        let before = frontier();
        pause(first);
        if frontier() == before {
            self.pauses = first;
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
    const GRANULE: u64 = crate::segment::layout::GRANULE;

    /// A frontier that begins at `at` and moves by `step` each time that it is asked for, and how often it was.
    fn frontier<'a>(at: u64, step: u64, asked: &'a Cell<u64>) -> Option<impl Fn() -> u64 + 'a> {
        Some(move || {
            asked.set(asked.get() + 1);
            at.wrapping_add(step * asked.get())
        })
    }

    /// A reader that has grown to the longest pauses.
    fn grown() -> Pace {
        let mut pace = Pace::new(0, 0, CAPACITY);
        for time in 1..=10 {
            pace.has_caught_up(300 * time, frontier(0, 64, &Cell::new(0)));
        }
        assert_eq!(pace.pauses, PAUSES.1);
        pace
    }

    #[test]
    fn whatever_size_messages_have_and_wherever_they_begin_it_asks_once_in_the_distance() {
        for (start, size) in (0..128).flat_map(|start| (1..40).map(move |size| (start * GRANULE, size * GRANULE))) {
            let (laps, mut asked, mut pace) = (20, 0, Pace::new(0, 0, CAPACITY));
            for position in (0..laps * NEAR / size).map(|index| start + index * size) {
                if pace.is_due(position) {
                    asked += 1;
                    pace.keep_distance(position, 1000, frontier(position + NEAR + GRANULE, 0, &Cell::new(0)));
                    pace.ask_at = position + NEAR;
                }
            }
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
            (1..100).for_each(|time| pace.has_caught_up(time * messages, frontier(0, step, &Cell::new(0))));
            pace.pauses
        };
        assert_eq!(pauses_after(300, 128, CAPACITY), PAUSES.1);
        // A message for four pauses is what makes it worth while.
        assert!((16..=64).contains(&pauses_after(10, 128, CAPACITY)));
        assert_eq!(pauses_after(300, 4096, 4096), 1, "the ring is full each time");
    }

    #[test]
    fn where_nobody_writes_pauses_are_short_and_rare() {
        let (mut pace, asked) = (grown(), Cell::new(0));
        for position in (0..1000).map(|index| index * 128) {
            if pace.is_due(position) {
                // One message is at hand, always.
                pace.keep_distance(position, 10_000 + position / 128, frontier(position + 128, 0, &asked));
                assert_eq!(pace.pauses, PAUSES.0);
            }
        }
        // Each time how far it is, and before and after the pause.
        assert!((3..=3 * 3).contains(&asked.get()), "{asked:?}");
    }

    #[test]
    fn a_single_message_ends_a_stream() {
        let mut pace = grown();
        pace.has_caught_up(3001, frontier(0, 64, &Cell::new(0)));
        assert_eq!(
            (pace.pauses, pace.is_stream(3004), pace.is_stream(3005)),
            (PAUSES.0, false, true)
        );
    }

    #[test]
    fn who_pauses_for_being_near_still_reads_a_stream() {
        let mut pace = grown();
        pace.keep_distance(0, 3100, frontier(64, 64, &Cell::new(0)));
        pace.has_caught_up(3101, frontier(0, 64, &Cell::new(0)));
        assert!(pace.pauses > PAUSES.0);
    }

    #[test]
    fn who_may_not_pause_asks_for_nothing() {
        let mut pace = grown();
        pace.keep_distance(0, 5000, None::<fn() -> u64>);
        pace.has_caught_up(6000, None::<fn() -> u64>);
        assert_eq!((pace.pauses, pace.is_stream(6003)), (PAUSES.1, false));
    }

    #[test]
    fn a_frontier_far_away_is_asked_for_again_when_it_is_near() {
        let (mut pace, asked) = (grown(), Cell::new(0));
        pace.keep_distance(0, 5000, frontier(3 * NEAR, 0, &asked));
        assert_eq!((asked.get(), pace.ask_at, pace.pauses), (1, 2 * NEAR, PAUSES.1));
        // One that is falsified is not believed for longer than any other.
        for false_one in [CAPACITY + 64, 1 << 62, 1 << 63, u64::MAX - 63] {
            pace.keep_distance(2 * NEAR, 5000, frontier(false_one.wrapping_add(2 * NEAR), 0, &asked));
            assert_eq!((pace.ask_at, pace.pauses), (3 * NEAR, PAUSES.1));
        }
    }
}
