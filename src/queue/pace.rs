//! How a reader of a stream keeps its distance from who writes it. Not the waiting for what may not come: that is
//! [`ring::sleep`](crate::ring::sleep).
//!
//! A reader right behind the writer takes lines from him that he has not done with, so each waits for the other's processor,
//! message by message. This makes them equally fast, so it goes on, and the reader never finds nothing. Some records apart, both
//! work in their own caches, and the lines travel meanwhile.

use crate::segment::layout::GRANULE;
use crate::sys::atomic::spin_hint;

/// So many messages since the last pause are a stream.
const STREAM: u64 = 4;
/// How often a reader of a stream pauses, at first and most: from some hundred nanoseconds together to some microseconds.
const PAUSES: (u64, u64) = (16, 512);
/// A reader that is so many bytes behind the frontier, or less, is too near. About every so many it asks.
const DISTANCE: u64 = 8 << 10;
/// In a small ring this part of it is far enough.
const PART: u64 = 8;
/// A pause in which the writer fills so great a part of the ring was too long.
const PART_A_PAUSE: u64 = 4;

#[derive(Debug)]
pub(super) struct Pace {
    capacity: u64,
    /// The number of the message that was expected when this reader last paused, or found nothing, and where.
    since: u64,
    from: u64,
    /// How often it pauses the next time.
    pauses: u64,
    /// The frontier when this reader last asked.
    frontier: u64,
}

impl Pace {
    pub(super) fn new(position: u64, sequence: u64, capacity: u64) -> Self {
        Pace {
            capacity,
            since: sequence,
            from: position,
            pauses: PAUSES.0,
            frontier: position,
        }
    }

    /// Whether a reader at `position` should see to its distance. For every message, so it is no more than a question of where it is:
    /// in two granules of each [`DISTANCE`].
    #[inline(always)]
    pub(super) fn is_due(position: u64) -> bool {
        const { assert!(DISTANCE.is_power_of_two() && GRANULE.is_power_of_two()) };
        position & (DISTANCE - 2 * GRANULE) == 0
    }

    /// Whether the reader, who is up to message number `sequence`, reads a stream.
    #[inline]
    pub(super) fn is_stream(&self, sequence: u64) -> bool {
        sequence.wrapping_sub(self.since) >= STREAM
    }

    /// What is next came by itself.
    #[inline]
    pub(super) fn is_single(&mut self, position: u64, sequence: u64) {
        (self.from, self.since) = (position, sequence);
        self.pauses = PAUSES.0;
    }

    /// Whether a reader of a stream is too near to the frontier. To ask for that takes a line from the writer, so it is done no more often
    /// than needed.
    pub(super) fn is_too_near(&mut self, position: u64, sequence: u64, frontier: impl FnOnce() -> u64) -> bool {
        let near = DISTANCE.min(self.capacity / PART) as i64;
        let ahead = |frontier: u64| frontier.wrapping_sub(position) as i64;
        if !self.is_stream(sequence) || ahead(self.frontier) > near {
            return false;
        }
        self.frontier = frontier();
        // Who is at the frontier may be there because nothing is to come.
        (1..=near).contains(&ahead(self.frontier))
    }

    /// The reader has caught up, or is too near. Of a stream, and if it may wait, it leaves the writer's lines alone for a moment. One message
    /// and then nothing is no stream: there every nanosecond counts.
    ///
    /// The moment grows while each one brings a message for every few pauses, until the ring is too small for that. It may be
    /// longer than a short [`spin`](crate::QueueOptions::spin): it is no wait for something that may not come.
    pub(super) fn has_caught_up(&mut self, position: u64, sequence: u64, may_wait: bool) {
        if !self.is_stream(sequence) {
            return self.is_single(position, sequence);
        }
        let (taken, bytes) = (sequence.wrapping_sub(self.since), position.wrapping_sub(self.from));
        (self.from, self.since) = (position, sequence);
        if may_wait {
            for _ in 0..self.pauses {
                spin_hint();
            }
            let is_worth_it = taken.saturating_mul(4) >= self.pauses && bytes <= self.capacity / PART_A_PAUSE;
            self.pauses = match is_worth_it {
                true => (2 * self.pauses).min(PAUSES.1),
                false => (self.pauses / 2).max(1),
            };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1 << 20;

    /// After `times` stretches of so many messages of so many bytes.
    fn pauses_after(times: u64, messages: u64, size: u64, capacity: u64) -> u64 {
        let mut pace = Pace::new(0, 0, capacity);
        for time in 1..=times {
            pace.has_caught_up(time * messages * size, time * messages, true);
        }
        pace.pauses
    }

    #[test]
    fn whatever_size_messages_have_it_is_due_about_once_in_the_distance() {
        for size in (1..40).map(|granules| granules * GRANULE) {
            let laps = 1000;
            let messages = laps * DISTANCE / size;
            let due = (0..messages).filter(|index| Pace::is_due(index * size)).count() as u64;
            // Both of the granules, where each message is one; and not for each lap, where messages are long.
            assert!(
                (1..=2 * laps).contains(&due),
                "{due} times of {messages} with {size} bytes"
            );
        }
    }

    #[test]
    fn pauses_grow_with_a_stream_and_not_beyond_what_the_ring_takes() {
        assert_eq!(pauses_after(100, 1, 128, CAPACITY), PAUSES.0, "one by one");
        assert_eq!(pauses_after(100, 300, 128, CAPACITY), PAUSES.1);
        // A message for four pauses is what makes it worth while.
        assert!((16..=64).contains(&pauses_after(100, 10, 128, CAPACITY)));
        assert_eq!(pauses_after(100, 300, 128, 4096), 1, "the ring is full each time");
    }

    #[test]
    fn who_may_not_wait_keeps_its_pauses_but_begins_anew() {
        let mut pace = Pace::new(0, 0, CAPACITY);
        pace.has_caught_up(1000 * 64, 1000, false);
        assert_eq!((pace.pauses, pace.is_stream(1003)), (PAUSES.0, false));
        assert!(pace.is_stream(1004));
    }

    #[test]
    fn too_near_is_who_has_less_than_the_distance_before_it_and_something() {
        let near = |capacity: u64, sequence: u64, ahead: u64| {
            Pace::new(0, 0, capacity).is_too_near(640, sequence, || 640u64.wrapping_add(ahead))
        };
        assert!(near(CAPACITY, 10, DISTANCE) && near(CAPACITY, 10, 64));
        assert!(!near(CAPACITY, 10, DISTANCE + 64) && !near(CAPACITY, 10, 0) && !near(CAPACITY, 3, 64));
        assert!(near(4096, 10, 512) && !near(4096, 10, 576));
        // A falsified frontier.
        assert!(!near(CAPACITY, 10, u64::MAX - 640) && !near(CAPACITY, 10, 1 << 63));
    }

    #[test]
    fn a_frontier_that_is_far_enough_is_not_asked_for_again() {
        let mut pace = Pace::new(0, 0, CAPACITY);
        assert!(!pace.is_too_near(0, 10, || 3 * DISTANCE));
        assert!(!pace.is_too_near(DISTANCE, 20, || panic!("known to be {DISTANCE} bytes further away")));
        assert!(pace.is_too_near(2 * DISTANCE, 30, || 3 * DISTANCE));
    }
}
