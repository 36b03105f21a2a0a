//! The steps of those who read: pops, peeks, and what they set for the reading to come (screen and home).

use super::World;
use crate::handles::{Handle, One, reading};
use crate::reading::Look;
use crate::refusal::is_evicted;
use crate::ring::Record;
use crate::steps::ScreenChange;
use crate::{Checked, KINDS, NAMES};
use proptest::{prop_assert, prop_assert_eq};
use syncq::{Buffer, Error, Message, Role, Screen, Wait};

impl World<'_> {
    /// What a pop, or a peek, of this one must find.
    fn expect(&mut self, index: usize) -> Look {
        let one = &mut self.ones[index];
        let reading = one.reading.as_mut().expect("it reads");
        let look = reading.peek(&self.ring, one.id, &mut one.counters);
        if let Look::Lagged(missed) = look {
            if one.role.is_some() {
                self.missed += missed;
            }
            self.saw("lagged");
        }
        look
    }

    fn take(&mut self, index: usize, record: &Record) {
        let one = &mut self.ones[index];
        one.reading.as_mut().expect("it reads").take(record, &mut one.counters);
    }

    /// Checks what a pop gave against what it should, and takes it out of the model. Whether there may be more.
    fn check_popped(&mut self, index: usize, popped: Result<Option<Message<'static>>, Error>) -> Checked<bool> {
        if self.ones[index].is_evicted {
            prop_assert!(is_evicted(&popped), "{popped:?}");
            self.ones[index].was_told = true;
            self.saw("pop by an evicted one");
            return Ok(false);
        }
        match (self.expect(index), popped) {
            (Look::Nothing, Ok(None)) => return Ok(false),
            (Look::Lagged(expected), Err(Error::Lagged { missed })) => prop_assert_eq!(missed, expected),
            (Look::Found(record), Ok(Some(message))) => {
                self.check_message(&message, &record)?;
                self.take(index, &record);
                self.saw("pop");
            }
            (expected, got) => prop_assert!(false, "pop: expected {expected:?}, got {got:?}"),
        }
        Ok(true)
    }

    pub(super) fn pop(&mut self, who: usize, into: bool) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        let mut buffer = Buffer::new();
        let popped = reading!(self.ones[index], it => {
            let popped = if into { it.pop_into(&mut buffer, Wait::Never) } else { it.pop(Wait::Never) };
            popped.map(|message| message.map(Message::into_owned))
        });
        self.check_popped(index, popped)?;
        Ok(())
    }

    pub(super) fn drain(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        loop {
            let next = reading!(self.ones[index], it => it.drain().next());
            if !self.check_popped(index, next.transpose())? {
                return Ok(());
            }
        }
    }

    pub(super) fn peek(&mut self, who: usize, keeps: bool, is_evicted_meanwhile: bool) -> Checked {
        let peeks = |one: &One| one.reading.is_some() && one.open.is_none() && one.role.is_some();
        let Some(index) = self.pick(who, peeks) else {
            return Ok(());
        };
        let queue = self.queue.clone();
        let id = self.ones[index].id.expect("not an observer");
        let mut is_evicted_now = false;
        let peeked = {
            let one = &mut self.ones[index];
            assert!(one.open.is_none());
            let guard = match &mut one.handle {
                // SAFETY: no reservation is open, and the guard ends in this block.
                Handle::Member(member) => unsafe { member.borrow() }.peek(Wait::Never),
                Handle::Reader(reader) => reader.peek(Wait::Never),
                _ => unreachable!("as just picked"),
            };
            match guard {
                Err(error) => Err(error),
                Ok(None) => Ok(None),
                Ok(Some(guard)) => {
                    let mut body = vec![0; guard.len()];
                    let half = body.len() / 2;
                    guard.copy_to(0, &mut body[..half]);
                    guard.copy_to(half, &mut body[half..]);
                    prop_assert!(guard.check().is_ok());
                    let names = (guard.sender().into_owned(), guard.kind().into_owned());
                    if is_evicted_meanwhile {
                        prop_assert!(queue.evict(id).is_ok());
                        prop_assert!(is_evicted(&guard.check()));
                        is_evicted_now = true;
                    }
                    if keeps {
                        guard.keep();
                    }
                    Ok(Some((names, body)))
                }
            }
        };
        if self.ring.is_lossy {
            prop_assert!(matches!(peeked, Err(Error::Unsupported { .. })), "{peeked:?}");
            return Ok(());
        }
        if self.ones[index].is_evicted {
            prop_assert!(is_evicted(&peeked), "{peeked:?}");
            return Ok(());
        }
        match (self.expect(index), peeked) {
            (Look::Nothing, Ok(None)) => {}
            (Look::Found(record), Ok(Some(((sender, kind), body)))) => {
                prop_assert_eq!((&*sender, &*kind), (record.sender, record.kind));
                prop_assert_eq!(&body, &record.body);
                if !keeps {
                    self.take(index, &record);
                }
                self.saw("peek");
            }
            (expected, got) => prop_assert!(false, "peek: expected {expected:?}, got {got:?}"),
        }
        if is_evicted_now {
            self.ones[index].is_evicted = true;
            self.evicted += 1;
            self.saw("evicted while it peeks");
        }
        Ok(())
    }

    pub(super) fn change_screen(&mut self, who: usize, change: ScreenChange) -> Checked {
        let Some(index) = self.pick_reading(who) else {
            return Ok(());
        };
        let screen: &mut Screen = reading!(self.ones[index], it => it.screen());
        match change {
            ScreenChange::AddSender(name) => screen.add_sender(NAMES[name]),
            ScreenChange::RemoveSender(name) => screen.remove_sender(NAMES[name]),
            ScreenChange::AddKind(kind) => screen.add_kind(KINDS[kind]),
            ScreenChange::RemoveKind(kind) => screen.remove_kind(KINDS[kind]),
            ScreenChange::HearOwn(yes) => screen.hear_own(yes),
        };
        let reading = self.ones[index].reading.as_mut().expect("it reads");
        match change {
            ScreenChange::AddSender(name) => reading.senders.insert(NAMES[name]),
            ScreenChange::RemoveSender(name) => reading.senders.remove(NAMES[name]),
            ScreenChange::AddKind(kind) => reading.kinds.insert(KINDS[kind]),
            ScreenChange::RemoveKind(kind) => reading.kinds.remove(KINDS[kind]),
            ScreenChange::HearOwn(yes) => std::mem::replace(&mut reading.hears_own, yes),
        };
        Ok(())
    }

    pub(super) fn limit_home(&mut self, who: usize, bytes: u64) -> Checked {
        let Some(index) = self.pick(who, |one| one.role == Some(Role::Member) && one.open.is_none()) else {
            return Ok(());
        };
        if let Handle::Member(member) = &mut self.ones[index].handle {
            // SAFETY: no reservation is open, as just picked, and the borrow ends with this call.
            unsafe { member.borrow() }.set_home_limit(bytes);
        }
        self.ones[index].reading.as_mut().expect("a member reads").home_limit = bytes;
        Ok(())
    }
}
