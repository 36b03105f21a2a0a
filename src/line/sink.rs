//! What both sinks do with a record: no loops, in order with what is printed, and nothing lost in silence.

use super::capture::sync_captures;
use super::item::Record;
use super::mirror::Mirror;
use super::quiet::{is_quiet, quiet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Sink {
    mirror: Arc<dyn Mirror>,
    dropped: AtomicU64,
    /// How many of those were told to the mirror.
    told: AtomicU64,
}

impl Sink {
    pub(super) fn new(mirror: Arc<dyn Mirror>) -> Self {
        Sink {
            mirror,
            dropped: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Whether this thread's records are wanted.
    pub(super) fn hears(&self) -> bool {
        !is_quiet()
    }

    pub(super) fn send(&self, record: &Record) {
        let _quiet = quiet();
        sync_captures();
        if self.mirror.send_record(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (dropped, told) = (self.dropped.load(Ordering::Relaxed), self.told.load(Ordering::Relaxed));
        if dropped > told
            && self
                .mirror
                .send_warning(&format_args!("{} log records dropped", dropped - told))
                .is_ok()
        {
            self.told.store(dropped, Ordering::Relaxed);
        }
    }

    pub(super) fn flush(&self) {
        let _quiet = quiet();
        // Nobody to tell, and nothing is lost by it.
        let _ = self.mirror.flush();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
