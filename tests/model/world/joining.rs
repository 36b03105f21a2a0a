//! The steps by which somebody comes or goes: joining, leaving, being evicted.

use super::World;
use crate::handles::{Fixed, Handle, One};
use crate::reading::{Counters, Reading};
use crate::ring::State;
use crate::steps::Finish;
use crate::{Checked, HOME_LIMIT, SEATS};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};
use std::collections::{BTreeSet, VecDeque};
use syncq::{Error, Role, Start};

impl World<'_> {
    pub(super) fn join(
        &mut self,
        who: usize,
        role: Option<Role>,
        name: &'static str,
        start: Start,
        hears_own: bool,
    ) -> Checked {
        let is_free = |seat: &usize| self.ones.iter().all(|one| one.seat != *seat);
        let Some(seat) = (0..SEATS).map(|step| (who + step) % SEATS).find(is_free) else {
            return Ok(());
        };
        let joining = self.queue.joining().sender(name).start(start).hear_own(hears_own);
        let joined = match role {
            Some(Role::Member) => joining
                .member()
                .map(|it| (Some(it.id()), Handle::Member(Fixed::new(it)))),
            Some(Role::Writer) => joining
                .writer()
                .map(|it| (Some(it.id()), Handle::Writer(Fixed::new(it)))),
            Some(_) => joining.reader().map(|it| (Some(it.id()), Handle::Reader(it.into()))),
            None => joining.observer().map(|it| (None, Handle::Observer(it.into()))),
        };
        let taken: BTreeSet<u16> = self.ones.iter().filter_map(|one| one.id).map(|id| id.slot()).collect();
        let slot = (0..self.setting.slots as u16).find(|slot| !taken.contains(slot));
        let writes = matches!(role, Some(Role::Member | Role::Writer));
        let writer_exists = self.ones.iter().any(|one| one.writes() && !one.is_evicted);
        let (id, handle) = match joined {
            Err(Error::NoSlot { slots, .. }) => {
                prop_assert!(role.is_some() && slot.is_none());
                prop_assert_eq!(slots, self.setting.slots);
                self.saw("no slot");
                return Ok(());
            }
            Err(Error::WriterExists { .. }) => {
                prop_assert!(slot.is_some() && writes && self.setting.is_single_writer && writer_exists);
                self.saw("a second writer");
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(format!("join: {error:?}"))),
            Ok(joined) => joined,
        };
        if role.is_some() {
            prop_assert_eq!(id.map(|id| id.slot()), slot);
        }
        prop_assert!(!(writes && self.setting.is_single_writer && writer_exists));
        let reads = !matches!(role, Some(Role::Writer));
        let place = match start {
            Start::Oldest => self.ring.oldest,
            _ => match &handle {
                // It begins in front of a reservation that is unannounced, and behind one that is not. Only the queue knows which.
                Handle::Observer(observer) if observer.lag() > 0 => {
                    let place = self.ring.frontier - observer.lag();
                    let last = self.ring.records.get(&place);
                    prop_assert!(
                        last.is_some_and(|last| last.state == State::Reserved && last.end == self.ring.frontier)
                    );
                    self.saw("observed from a reservation on");
                    place
                }
                _ => self.ring.frontier,
            },
        };
        let reading = reads.then(|| Reading {
            place,
            sequence: self.ring.sequence_at(place),
            senders: BTreeSet::new(),
            kinds: BTreeSet::new(),
            hears_own,
            is_racing: self.ring.is_lossy || role.is_none(),
            home: VecDeque::new(),
            home_bytes: 0,
            home_limit: HOME_LIMIT,
        });
        self.ones.push(One {
            seat,
            open: None,
            handle,
            id,
            role,
            name,
            reading,
            reserved: None,
            is_evicted: false,
            was_told: false,
            counters: Counters::default(),
        });
        Ok(())
    }

    pub(super) fn leave(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick(who, |_| true) else {
            return Ok(());
        };
        let one = self.ones.swap_remove(index);
        if let Some(place) = one.reserved {
            self.abort(place);
            self.saw("left with a reservation");
        }
        self.gone = one.id.or(self.gone);
        drop(one);
        Ok(())
    }

    pub(super) fn evict(&mut self, who: usize) -> Checked {
        let Some(index) = self.pick(who, |one| one.id.is_some()) else {
            return Ok(());
        };
        let one = &mut self.ones[index];
        let evicted = self.queue.evict(one.id.expect("as just picked"));
        if one.is_evicted {
            prop_assert!(matches!(evicted, Err(Error::NoSuchMember { .. })), "{evicted:?}");
            return Ok(());
        }
        prop_assert!(evicted.is_ok(), "{evicted:?}");
        one.is_evicted = true;
        self.evicted += 1;
        if let Some(place) = one.reserved {
            // Readers pass it from now on; its room stays taken until the owner lets go.
            self.abort(place);
            self.saw("evicted with a reservation");
            if self.unannounced() > 0 {
                // Readers learn of it when its owner is through with it, or the next one appends.
                return self.finish_of(index, Finish::Commit);
            }
        }
        Ok(())
    }

    pub(super) fn evict_somebody_gone(&mut self) -> Checked {
        if let Some(gone) = self.gone {
            let evicted = self.queue.evict(gone);
            prop_assert!(matches!(evicted, Err(Error::NoSuchMember { .. })), "{evicted:?}");
        }
        Ok(())
    }
}
