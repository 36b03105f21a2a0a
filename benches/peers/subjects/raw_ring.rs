//! What one builds from `shared_memory` and `raw_sync`: a ring of bytes under a process-shared mutex, with events to wait on.
//!
//! Head and tail are kept under the lock; an event is set only when somebody waits for it.

use crate::subject::{AnyLink, Link, Receiver, Sender, Shape, Subject, Waiting};
use raw_sync::Timeout;
use raw_sync::events::{Event, EventImpl, EventInit, EventState};
use raw_sync::locks::{LockImpl, LockInit, Mutex};
use shared_memory::ShmemConf;
use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::time::Duration;

pub struct RawRing;

impl Subject for RawRing {
    fn name(&self) -> &'static str {
        "shared_memory + raw_sync"
    }

    fn settings(&self) -> &'static str {
        "a ring of bytes under a raw_sync Mutex; polling the lock when spinning, else raw_sync Events, set only for who waits, each wait cut \
         to 1 ms (an event wakes one of several waiters)"
    }

    fn cannot(&self, shape: &Shape) -> Option<&'static str> {
        if shape.batch > 1 {
            return Some("no batches");
        }
        (shape.readers > 1).then_some("one reader")
    }

    fn open(&self, shape: &Shape, name: &str, _: &str) -> Result<Box<dyn AnyLink>, Box<dyn Error>> {
        let mut ways = [0; 2];
        for (index, way) in ways.iter_mut().enumerate() {
            let name = format!("{name}_{index}");
            let segment = ShmemConf::new().size(DATA + shape.ring).os_id(&name).create()?;
            // Forked ends inherit the mapping, so the name can go at once and nothing is left behind.
            nix::sys::mman::shm_unlink(name.as_str())?;
            let base = segment.as_ptr();
            // SAFETY: fresh memory of this process alone, with room for each at its place.
            unsafe {
                base.write_bytes(0, DATA + shape.ring);
                Mutex::new(base, base.add(HEAD))?;
                Event::new(base.add(NEWS), true)?;
                Event::new(base.add(ROOM), true)?;
            }
            *way = base as usize;
            // The mapping stays until the process ends.
            std::mem::forget(segment);
        }
        Ok(Box::new(Rings {
            ways,
            room: shape.ring,
            spins: shape.waiting == Waiting::Spin,
        }))
    }
}

/// Where things are in the segment.
const HEAD: usize = 256;
const NEWS: usize = 512;
const ROOM: usize = 1024;
const DATA: usize = 4096;

/// Under the lock.
#[repr(C)]
struct Head {
    written: u64,
    read: u64,
    reader_waits: bool,
    writer_waits: bool,
}

struct Rings {
    ways: [usize; 2],
    room: usize,
    spins: bool,
}

struct End {
    lock: Box<dyn LockImpl>,
    news: Box<dyn EventImpl>,
    has_room: Box<dyn EventImpl>,
    data: *mut u8,
    room: usize,
    spins: bool,
    buffer: Vec<u8>,
}

impl Link for Rings {
    type Sender = End;
    type Receiver = End;

    fn sender(&self, way: usize) -> End {
        let base = self.ways[way] as *mut u8;
        // SAFETY: made in `open`, and mapped for the life of the process.
        unsafe {
            End {
                lock: Mutex::from_existing(base, base.add(HEAD)).expect("a mutex").0,
                news: Event::from_existing(base.add(NEWS)).expect("an event").0,
                has_room: Event::from_existing(base.add(ROOM)).expect("an event").0,
                data: base.add(DATA),
                room: self.room,
                spins: self.spins,
                buffer: Vec::new(),
            }
        }
    }

    fn receiver(&self, way: usize) -> End {
        self.sender(way)
    }
}

const PREFIX: usize = 8;

impl End {
    /// Copies between the ring, from byte `at` on, and memory of this process, over the ring's end if need be.
    ///
    /// # Safety
    ///
    /// The lock is held, `memory` is good for `len` bytes, and `len` is no more than the ring.
    unsafe fn copy(&self, at: u64, memory: *mut u8, len: usize, is_in: bool) {
        let at = at as usize % self.room;
        let first = len.min(self.room - at);
        for (ring, memory, len) in [(at, memory, first), (0, memory.wrapping_add(first), len - first)] {
            // SAFETY: inside the ring; the caller answers for the rest.
            unsafe {
                match is_in {
                    true => std::ptr::copy_nonoverlapping(memory, self.data.add(ring), len),
                    false => std::ptr::copy_nonoverlapping(self.data.add(ring), memory, len),
                }
            }
        }
    }
}

impl Sender for End {
    fn send(&mut self, body: &[u8]) {
        let needed = (PREFIX + body.len()) as u64;
        loop {
            let guard = self.lock.lock().expect("the lock");
            // SAFETY: the lock is held.
            let head = unsafe { &mut *(*guard).cast::<Head>() };
            if self.room as u64 - (head.written - head.read) >= needed {
                let mut len = body.len() as u64;
                // SAFETY: the lock is held, and there is room.
                unsafe {
                    self.copy(head.written, (&raw mut len).cast(), PREFIX, true);
                    self.copy(head.written + PREFIX as u64, body.as_ptr().cast_mut(), body.len(), true);
                }
                head.written += needed;
                let rings = std::mem::take(&mut head.reader_waits);
                drop(guard);
                if rings {
                    self.news.set(EventState::Signaled).expect("an event");
                }
                return;
            }
            head.writer_waits = !self.spins;
            drop(guard);
            match self.spins {
                true => spin_loop(),
                // An error is the time passed, or raw_sync's wrong arithmetic: look again.
                false => drop(self.has_room.wait(Timeout::Val(Duration::from_millis(1)))),
            }
        }
    }
}

impl Receiver for End {
    fn receive(&mut self) {
        loop {
            let guard = self.lock.lock().expect("the lock");
            // SAFETY: the lock is held.
            let head = unsafe { &mut *(*guard).cast::<Head>() };
            if head.written != head.read {
                let mut len = 0u64;
                // SAFETY: the lock is held, and a message is there.
                unsafe { self.copy(head.read, (&raw mut len).cast(), PREFIX, false) };
                self.buffer.resize(len as usize, 0);
                let body = self.buffer.as_mut_ptr();
                // SAFETY: as above.
                unsafe { self.copy(head.read + PREFIX as u64, body, len as usize, false) };
                head.read += PREFIX as u64 + len;
                let rings = std::mem::take(&mut head.writer_waits);
                drop(guard);
                if rings {
                    self.has_room.set(EventState::Signaled).expect("an event");
                }
                black_box(&self.buffer);
                return;
            }
            head.reader_waits = !self.spins;
            drop(guard);
            match self.spins {
                true => spin_loop(),
                false => drop(self.news.wait(Timeout::Val(Duration::from_millis(1)))),
            }
        }
    }
}
