//! The steps of those who write: appends, and reservations from the first to what becomes of them.

use super::World;
use crate::handles::{Handle, writing};
use crate::refusal::{Refusal, is_evicted};
use crate::ring::{Record, State, record_size};
use crate::steps::{Finish, Len};
use crate::{Checked, KINDS, RECORD_HEADER};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};
use std::rc::Rc;
use syncq::{Error, Wait};

impl World<'_> {
    fn body(&mut self, len: usize) -> Vec<u8> {
        self.bodies += 1;
        let seed = self.bodies.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..len as u64)
            .map(|i| (seed.rotate_left((i % 64) as u32) ^ i) as u8)
            .collect()
    }

    fn len(&self, len: Len, name: &str, kind: &str) -> usize {
        let around = RECORD_HEADER as i64 + (name.len() + kind.len()).next_multiple_of(8) as i64;
        match len {
            Len::Bytes(bytes) => bytes,
            Len::Share(share) => (self.ring.capacity * u64::from(share) / 256) as usize,
            Len::Longest(more) => (self.ring.max_record() as i64 - around + i64::from(more)).max(0) as usize,
            Len::Room(more) => (self.free() as i64 - around + i64::from(more)).max(0) as usize,
        }
    }

    /// Room for records of these sizes, as an append that does not wait finds it.
    fn make_room(&mut self, index: usize, sizes: &[u64]) -> Result<(), Refusal> {
        let one = &self.ones[index];
        if one.is_evicted {
            return Err(Refusal::Evicted);
        }
        let total = sizes.iter().sum();
        // The first that is too large on its own, or all together.
        if let Some(&len) = sizes.iter().chain([&total]).find(|len| **len > self.ring.max_record()) {
            return Err(Refusal::TooLarge { len });
        }
        while total > self.free() {
            let (place, slowest) = self.slowest();
            let lag = self.ring.frontier - place;
            let slowest = slowest.expect("an empty ring has room");
            if slowest != index {
                self.refused += 1;
                self.ones[index].counters.refused += 1;
                let free = self.free();
                let name = self.ones[slowest].name;
                return Err(Refusal::Full {
                    needed: total,
                    free,
                    name,
                    lag,
                });
            }
            let one = &mut self.ones[index];
            let reading = one.reading.as_mut().expect("a writer is not in its own way");
            if !reading.bring_home(&self.ring, one.id, &mut one.counters) {
                return Err(Refusal::ReadFirst { backlog: lag });
            }
            self.saw("brought home");
        }
        Ok(())
    }

    /// Appends to the model.
    fn push(&mut self, index: usize, state: State, kind: &'static str, body: Vec<u8>) {
        let one = &mut self.ones[index];
        if state == State::Message {
            one.counters.appended += 1;
            one.counters.appended_bytes += body.len() as u64;
        }
        self.ring.push(Record {
            end: self.ring.frontier + record_size(one.name.len() + kind.len(), body.len()),
            sequence: self.ring.sequence,
            state,
            by: one.id.expect("observers do not append"),
            sender: one.name,
            kind,
            body,
        });
    }

    fn refuse(&mut self, index: usize, refusal: &Refusal, error: &Error) -> Checked {
        self.ones[index].was_told = matches!(refusal, Refusal::Evicted);
        self.saw(match refusal {
            Refusal::Evicted => "append by an evicted one",
            Refusal::TooLong => "too long",
            Refusal::TooLarge { .. } => "too large",
            Refusal::Full { .. } => "full",
            Refusal::ReadFirst { .. } => "read first",
        });
        refusal.check(&self.ring, error)
    }

    pub(super) fn append(&mut self, who: usize, kind: &'static str, len: Len) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let len = self.len(len, name, kind);
        let body = self.body(len);
        let size = record_size(name.len() + kind.len(), len);
        let expected = self.make_room(index, &[size]);
        let appended = writing!(self.ones[index], it => it.append(kind, &body, Wait::Never));
        match (expected, appended) {
            (Ok(()), Ok(position)) => {
                prop_assert_eq!(position, self.ring.position(self.ring.frontier));
                self.push(index, State::Message, kind, body);
                self.saw("append");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "append of {size}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    pub(super) fn append_all(&mut self, who: usize, messages: &[(usize, Len)]) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let messages: Vec<(&'static str, Vec<u8>)> = messages
            .iter()
            .map(|(kind, len)| (KINDS[*kind], self.body(self.len(*len, name, KINDS[*kind]))))
            .collect();
        let sizes: Vec<u64> = messages
            .iter()
            .map(|(kind, body)| record_size(name.len() + kind.len(), body.len()))
            .collect();
        let expected = self.make_room(index, &sizes);
        let borrowed = messages.iter().map(|(kind, body)| (*kind, &body[..]));
        let appended = writing!(self.ones[index], it => it.append_all(borrowed, Wait::Never));
        match (expected, appended) {
            (Ok(()), Ok(())) => {
                for (kind, body) in messages {
                    self.push(index, State::Message, kind, body);
                }
                self.saw("append of many");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "append of {sizes:?}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    pub(super) fn kind_too_long(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let kind = "k".repeat(256);
        let expected = if self.ones[index].is_evicted {
            Refusal::Evicted
        } else {
            Refusal::TooLong
        };
        match writing!(self.ones[index], it => it.append(&kind, b"", Wait::Never)) {
            Err(error) => self.refuse(index, &expected, &error),
            Ok(position) => Err(TestCaseError::fail(format!("appended at {position}"))),
        }
    }

    pub(super) fn reserve(&mut self, who: usize, kind: &'static str, len: Len) -> Checked {
        let Some(index) = self.pick_writing(who) else {
            return Ok(());
        };
        let name = self.ones[index].name;
        let len = self.len(len, name, kind);
        let size = record_size(name.len() + kind.len(), len);
        let expected = self.make_room(index, &[size]);
        let reserved = writing!(self.ones[index], it => it.reserve(kind, len, Wait::Never));
        match (expected, reserved) {
            (Ok(()), Ok(reservation)) => {
                prop_assert_eq!(reservation.len(), len);
                prop_assert_eq!(reservation.position(), self.ring.position(self.ring.frontier));
                self.ones[index].open = Some(reservation);
                self.ones[index].reserved = Some(self.ring.frontier);
                self.push(index, State::Reserved, kind, vec![0; len]);
                self.saw("reserve");
            }
            (Err(refusal), Err(error)) => self.refuse(index, &refusal, &error)?,
            (expected, got) => prop_assert!(false, "reserve of {size}: expected {expected:?}, got {got:?}"),
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, who: usize, how: Finish) -> Checked {
        match self.pick(who, |one| one.open.is_some()) {
            Some(index) => self.finish_of(index, how),
            None => Ok(()),
        }
    }

    pub(super) fn finish_of(&mut self, index: usize, how: Finish) -> Checked {
        let one = &mut self.ones[index];
        let place = one.reserved.take().expect("there is one");
        let mut reservation = one.open.take().expect("as just picked");
        let whole = reservation.len();
        let len = match how {
            Finish::Abort => {
                reservation.abort();
                self.abort(place);
                self.saw("abort");
                return Ok(());
            }
            Finish::Commit => whole,
            Finish::CommitFirst(share) => whole * usize::from(share) / 256,
        };
        let body = self.body(len);
        reservation.write_at(0, &body);
        let committed = match how {
            Finish::Commit => reservation.commit(),
            _ => reservation.commit_first(len),
        };
        let one = &mut self.ones[index];
        if one.is_evicted {
            prop_assert!(is_evicted(&committed), "{committed:?}");
            self.saw("commit by an evicted one");
            return Ok(());
        }
        prop_assert!(committed.is_ok(), "{committed:?}");
        one.counters.appended += 1;
        one.counters.appended_bytes += len as u64;
        let was = self.ring.records[&place].clone();
        let end = place + record_size(was.sender.len() + was.kind.len(), len);
        if end < was.end {
            // What is left over is a record that everybody passes.
            let rest = Record {
                state: State::Aborted,
                sequence: was.sequence + 1,
                body: Vec::new(),
                ..(*was).clone()
            };
            self.ring.records.insert(end, Rc::new(rest));
            self.saw("commit of a part");
        } else {
            self.saw("commit");
        }
        let message = Record {
            state: State::Message,
            end,
            body,
            ..(*was).clone()
        };
        self.ring.records.insert(place, Rc::new(message));
        Ok(())
    }

    pub(super) fn abort(&mut self, place: u64) {
        let record = self.ring.records.get_mut(&place).expect("it was reserved");
        Rc::make_mut(record).state = State::Aborted;
    }
}
