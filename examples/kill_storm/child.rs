//! What the forked processes do until a SIGKILL ends them, and the memory in which they report.

use super::Dice;
use super::check::{self, Order, Seen, bytes_of};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use syncq::{Buffer, Error, Member, Observer, Queue, Reader, Reservation, Start, Wait, Writer};

/// How many children there can be at a time.
pub const DESKS: usize = 48;
/// Blocks whose hashes stand on the wall at a time.
const BLOCKS: usize = 1 << 16;

/// Memory that all processes of the storm share, outside the queue.
pub struct Wall(*const Shared);

#[repr(C)]
struct Shared {
    violations: AtomicU64,
    compared: AtomicU64,
    desks: [Desk; DESKS],
    /// In bits 40 to 63 the block's number, below it its hash; 0 for none yet.
    blocks: [AtomicU64; BLOCKS],
}

/// Where a writer says how far it is.
#[repr(C, align(64))]
pub struct Desk {
    /// Messages whose append or commit has returned.
    committed: AtomicU32,
    /// The same, with the append or batch that it is in.
    attempted: AtomicU32,
}

// SAFETY: it leads to atomics in a mapping that is never unmapped.
unsafe impl Send for Wall {}
// SAFETY: as above.
unsafe impl Sync for Wall {}

impl Wall {
    pub fn new() -> Wall {
        let len = std::num::NonZeroUsize::new(size_of::<Shared>()).expect("it is not empty");
        // SAFETY: a fresh shared mapping of that size, zeroed, that is never unmapped.
        let memory = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )
        };
        Wall(memory.expect("memory").as_ptr().cast())
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped for the life of the process, large enough, and any bytes are valid atomics.
        unsafe { &*self.0 }
    }

    pub fn desk(&self, index: usize) -> &Desk {
        &self.shared().desks[index]
    }

    /// Something is wrong.
    pub fn blame(&self, what: &str) {
        // One that tears the queue makes thousands more.
        if self.shared().violations.fetch_add(1, Ordering::SeqCst) >= 50 {
            return;
        }
        let _ = std::io::stderr().write_all(format!("VIOLATION: {what}\n").as_bytes());
    }

    pub fn violations(&self) -> u64 {
        self.shared().violations.load(Ordering::SeqCst)
    }

    pub fn compared(&self) -> u64 {
        self.shared().compared.load(Ordering::SeqCst)
    }

    /// Compares the hash of a whole block with what others have seen there; the first one to come writes it up.
    pub fn compare(&self, block: u64, hash: u64) {
        let cell = &self.shared().blocks[block as usize % BLOCKS];
        // Numbered from 1, so that 0 is none.
        let mine = (block + 1) << 40 | hash >> 24;
        let mut seen = cell.load(Ordering::SeqCst);
        while seen >> 40 < block + 1 {
            match cell.compare_exchange(seen, mine, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        // A later block has its cell: this reader was slow.
        if seen >> 40 == block + 1 {
            self.shared().compared.fetch_add(1, Ordering::Relaxed);
            if seen != mine {
                self.blame(&format!("readers saw block {block} differently"));
            }
        }
    }
}

impl Desk {
    pub fn clear(&self) {
        self.committed.store(0, Ordering::SeqCst);
        self.attempted.store(0, Ordering::SeqCst);
    }

    pub fn read(&self) -> (u32, u32) {
        (
            self.committed.load(Ordering::SeqCst),
            self.attempted.load(Ordering::SeqCst),
        )
    }
}

type Outcome = Result<(), String>;

/// A child's life. It ends by a SIGKILL; returning is for the few that leave by themselves.
pub fn live(parents: &Queue, name: &str, wall: &Wall, desk: &Desk, id: u32, mut dice: Dice) -> Outcome {
    // Through what it inherited, or opened anew like a process from elsewhere.
    let opened = if dice.roll(2) == 0 {
        Ok(parents.clone())
    } else {
        Queue::open(name)
    };
    let queue = opened.map_err(|e| format!("open: {e}"))?;
    let life = Life {
        wall,
        desk,
        id,
        max_body: (queue.capacity() / 3).min(queue.max_body(11, 11)),
    };
    match dice.roll(9) {
        0..=2 => life.writer(&queue, dice),
        3 | 4 => life.reader(&queue, dice),
        5 | 6 => life.member(&queue, dice),
        7 => life.observer(&queue, dice),
        _ => life.visitor(&queue, dice),
    }
}

struct Life<'w> {
    wall: &'w Wall,
    desk: &'w Desk,
    id: u32,
    max_body: u64,
}

/// What a writing role can do; the two have the same calls.
trait Appends {
    fn append(&mut self, kind: &str, body: &[u8], wait: Wait) -> syncq::Result<u64>;
    fn append_all(&mut self, all: &[(String, Vec<u8>)], wait: Wait) -> syncq::Result<()>;
    fn reserve(&mut self, kind: &str, len: usize, wait: Wait) -> syncq::Result<Reservation<'_>>;
}

macro_rules! appends {
    ($role:ty) => {
        impl Appends for $role {
            fn append(&mut self, kind: &str, body: &[u8], wait: Wait) -> syncq::Result<u64> {
                <$role>::append(self, kind, body, wait)
            }

            fn append_all(&mut self, all: &[(String, Vec<u8>)], wait: Wait) -> syncq::Result<()> {
                <$role>::append_all(self, all.iter().map(|(kind, body)| (&**kind, &**body)), wait)
            }

            fn reserve(&mut self, kind: &str, len: usize, wait: Wait) -> syncq::Result<Reservation<'_>> {
                <$role>::reserve(self, kind, len, wait)
            }
        }
    };
}

appends!(Writer);
appends!(Member);

impl Life<'_> {
    fn name(&self) -> String {
        format!("w{}", self.id)
    }

    fn wait(dice: &mut Dice) -> Wait {
        match dice.roll(3) {
            0 => Wait::Never,
            _ => Wait::For(Duration::from_millis(1 + dice.roll(100))),
        }
    }

    /// A length from nothing to a third of the ring; most are short.
    fn len(&self, dice: &mut Dice) -> usize {
        let up_to = match dice.roll(40) {
            0 => self.max_body,
            1..=4 => self.max_body / 16,
            _ => 200,
        };
        dice.roll(up_to.min(self.max_body) + 1) as usize
    }

    fn message(&self, number: u32, len: usize) -> (String, Vec<u8>) {
        (format!("n{number}"), bytes_of(self.id, number).take(len).collect())
    }

    /// Appends something in some way, and says on the desk what came of it.
    fn append_something(&self, role: &mut impl Appends, next: &mut u32, dice: &mut Dice) -> Outcome {
        let wait = Self::wait(dice);
        let count = if dice.roll(5) == 0 { 1 + dice.roll(5) as u32 } else { 1 };
        let way = dice.roll(8);
        let len = self.len(dice);
        let first = *next;
        let begin = |count: u32| self.desk.attempted.store(first + count, Ordering::SeqCst);
        // How many messages came of it.
        let outcome = if count > 1 {
            let each = len as u64 / u64::from(count);
            let all: Vec<_> = (0..count).map(|n| self.message(first + n, each as usize)).collect();
            begin(count);
            role.append_all(&all, wait).map(|()| count)
        } else if way < 5 {
            let (kind, body) = self.message(first, len);
            begin(1);
            role.append(&kind, &body, wait).map(|_| 1)
        } else {
            let (kind, body) = self.message(first, len);
            // What is reserved but never committed was not attempted.
            let reserved = role.reserve(&kind, len + dice.roll(100) as usize, wait);
            reserved.and_then(|mut place| {
                let half = len / 2;
                place.write_at(0, &body[..half]);
                if dice.roll(20) == 0 {
                    std::thread::sleep(Duration::from_micros(dice.roll(500)));
                }
                place.write_at(half, &body[half..]);
                if way == 7 && dice.roll(2) == 0 {
                    place.abort();
                    return Ok(0);
                }
                begin(1);
                place.commit_first(len).map(|()| 1)
            })
        };
        match outcome {
            Ok(came) => {
                *next = first + came;
                self.desk.committed.store(*next, Ordering::SeqCst);
                Ok(())
            }
            // Nothing of it is there.
            Err(Error::Full(_) | Error::Busy { .. } | Error::ReadFirst { .. }) => {
                self.desk.attempted.store(first, Ordering::SeqCst);
                Ok(())
            }
            Err(other) => Err(format!("append: {other}")),
        }
    }

    fn writer(&self, queue: &Queue, mut dice: Dice) -> Outcome {
        let mut me = joined(|| queue.writer(&self.name()))?;
        let mut next = 0;
        loop {
            self.append_something(&mut me, &mut next, &mut dice)?;
        }
    }

    fn member(&self, queue: &Queue, mut dice: Dice) -> Outcome {
        let name = self.name();
        let mut me = joined(|| queue.joining().sender(&name).hear_own(true).member())?;
        let (mut next, mut order) = (0, Order::new());
        loop {
            self.append_something(&mut me, &mut next, &mut dice)?;
            for message in me.drain().take(50) {
                let seen = Seen::of(&message.map_err(|e| format!("drain: {e}"))?)?;
                order.note(&seen, self.wall);
            }
        }
    }

    fn reader(&self, queue: &Queue, mut dice: Dice) -> Outcome {
        let start = if dice.roll(2) == 0 { Start::Now } else { Start::Oldest };
        let mut me: Reader = joined(|| queue.joining().start(start).reader())?;
        let screened = (dice.roll(4) == 0).then(|| format!("w{}", self.id.saturating_sub(1)));
        if let Some(sender) = &screened {
            me.screen().add_sender(sender);
        }
        let (mut order, mut buffer) = (Order::new(), Buffer::new());
        loop {
            let wait = Self::wait(&mut dice);
            if dice.roll(3) == 0
                && let Some(place) = me.peek(wait).map_err(|e| format!("peek: {e}"))?
            {
                // First where it lies, then taken out.
                let mut body = vec![0; place.len()];
                place.copy_to(0, &mut body);
                check::parts(&place.sender(), &place.kind(), &body)?;
                place.keep();
            }
            let seen = match dice.roll(2) {
                0 => (me.pop(wait)).map(|m| m.map(|m| Seen::of(&m))),
                _ => (me.pop_into(&mut buffer, wait)).map(|m| m.map(|m| Seen::of(&m))),
            };
            match seen.map_err(|e| format!("pop: {e}"))? {
                Some(seen) if screened.is_none() => order.note(&seen?, self.wall),
                Some(seen) if Some(format!("w{}", seen.clone()?.writer)) == screened => {
                    return Err("a screened message came".to_owned());
                }
                _ => {}
            }
        }
    }

    fn observer(&self, queue: &Queue, mut dice: Dice) -> Outcome {
        let mut me: Observer = queue.observer().map_err(|e| format!("observe: {e}"))?;
        let mut order = Order::new();
        loop {
            match me.pop(Self::wait(&mut dice)) {
                Ok(Some(message)) => order.note(&Seen::of(&message)?, self.wall),
                Ok(None) => {}
                Err(Error::Lagged { .. }) => order.interrupt(),
                Err(other) => return Err(format!("observe: {other}")),
            }
        }
    }

    /// Comes and goes.
    fn visitor(&self, queue: &Queue, mut dice: Dice) -> Outcome {
        for _ in 0..1 + dice.roll(200) {
            match dice.roll(5) {
                0 => drop(joined(|| queue.reader())?),
                1 => drop(joined(|| queue.writer("visitor"))?),
                2 => drop(joined(|| queue.join("visitor"))?),
                3 => drop(queue.members()),
                _ => drop(queue.reap_all()),
            }
        }
        Ok(())
    }
}

/// Joins, however busy or full of members the queue is just now.
fn joined<T>(join: impl Fn() -> syncq::Result<T>) -> Result<T, String> {
    loop {
        match join() {
            Ok(role) => return Ok(role),
            Err(Error::Busy { .. } | Error::NoSlot { .. }) => {}
            Err(other) => return Err(format!("join: {other}")),
        }
    }
}
