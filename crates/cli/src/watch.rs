//! Queues looked at again and again, read-only: for `stat` and `top`. Queues come, go and are made anew meanwhile.

use crate::sample::Sample;
use crate::target::{Target, Trust};
use std::collections::BTreeMap;
use std::io;
use syncq::{Error, Observer, Queue, Start};

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Empty: all there are.
    asked: Vec<String>,
    trust: Trust,
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    observer: Observer,
    last: Sample,
}

/// One look at one queue.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) now: Result<Sample, Error>,
    /// The look before, if it was at the same queue.
    pub(crate) before: Option<Sample>,
}

impl Watch {
    pub(crate) fn new(asked: &[String], trust: Trust) -> Self {
        Watch {
            asked: asked.to_vec(),
            trust,
            known: BTreeMap::new(),
        }
    }

    /// Looks at all of them, now.
    pub(crate) fn look(&mut self) -> io::Result<Vec<Seen>> {
        let names = match self.asked.as_slice() {
            [] => Queue::names()?,
            some => some.to_vec(),
        };
        self.known
            .retain(|name, known| names.contains(name) && known.observer.is_current());
        let seen: Vec<Seen> = names.into_iter().map(|name| self.look_at(name)).collect();
        let is_gone = |seen: &Seen| matches!(seen.now, Err(Error::NotFound { .. }));
        Ok(match self.asked.is_empty() {
            true => seen.into_iter().filter(|s| !is_gone(s)).collect(),
            false => seen,
        })
    }

    fn look_at(&mut self, name: String) -> Seen {
        if let Some(known) = self.known.get_mut(&name) {
            let now = Sample::take(&known.observer);
            let before = std::mem::replace(&mut known.last, now.clone());
            return Seen {
                name,
                now: Ok(now),
                before: Some(before),
            };
        }
        let now = Target::new(&name, self.trust).observe(Start::Now).map(|observer| {
            let now = Sample::take(&observer);
            let last = now.clone();
            self.known.insert(name.clone(), Known { observer, last });
            now
        });
        Seen {
            name,
            now,
            before: None,
        }
    }
}
