//! Those who survive a victim, and what must hold for them afterwards.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use syncq::{Error, Message, Queue, QueueOptions, Reader, Wait, Writer};

/// How long a survivor tries. Far more than anything may take.
pub const LONG: Wait = Wait::For(Duration::from_secs(60));

/// A message as a survivor saw it: who appended it, as which, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub sender: String,
    pub number: u32,
    pub sequence: u64,
}

impl Seen {
    /// Reads a message, and checks that it is whole.
    pub fn of(message: &Message<'_>) -> Seen {
        let found = message.body();
        assert!(found.len() >= 8, "a body of {} bytes", found.len());
        let number = u32::from_le_bytes(found[..4].try_into().expect("four bytes"));
        assert_eq!(found, body(number, found.len()), "torn: {message:?}");
        Seen {
            sender: message.sender().to_owned(),
            number,
            sequence: message.sequence(),
        }
    }
}

/// A body of `len` bytes, 8 at least, whose bytes follow from its number and length.
pub fn body(number: u32, len: usize) -> Vec<u8> {
    let mut body: Vec<u8> = (0..len as u32)
        .map(|at| (number.wrapping_mul(151) ^ at.wrapping_mul(7) ^ len as u32) as u8)
        .collect();
    body[..4].copy_from_slice(&number.to_le_bytes());
    body[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    body
}

/// Lets a reader take what is there, up to `most` messages.
fn take(reader: &mut Reader, seen: &mut Vec<Seen>, most: usize) {
    for _ in 0..most {
        match reader.pop(Wait::Never).expect("pop") {
            Some(message) => seen.push(Seen::of(&message)),
            None => return,
        }
    }
}

/// How long after the kill survivors had appended and popped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    pub appended: Duration,
    pub popped: Duration,
}

impl Recovery {
    pub fn total(self) -> Duration {
        self.appended.max(self.popped)
    }
}

/// What became of a victim.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// The moment of the SIGKILL.
    pub at: Instant,
    /// Messages of the victim that are in the queue for sure: numbers 0 and up from the sender `victim`.
    pub committed: u32,
    /// Which of its instructions was its last, to say in a failure.
    pub instruction: usize,
}

/// A queue of its own with two readers and a writer, all in this process, who survive.
pub struct World {
    pub queue: Queue,
    pub name: String,
    pub a: Reader,
    pub b: Reader,
    /// `None` where the victim is the only writer allowed.
    pub w: Option<Writer>,
    pub sent: u32,
    pub seen_a: Vec<Seen>,
    pub seen_b: Vec<Seen>,
    /// Messages of the victim that come together or not at all.
    pub together: u32,
    /// Whether a reservation may come to nothing, which uses up a number.
    pub is_reserved_in: bool,
    /// Other senders among the survivors, and how many messages of each there must be in the end.
    pub others: Vec<(String, u32)>,
    /// Readers that slept when the victim died; each hands back what it saw and when it saw the first survivor's message.
    pub sleepers: Vec<JoinHandle<(Vec<Seen>, Instant)>>,
}

pub fn options() -> QueueOptions {
    Queue::options().capacity(4096).slots(8)
}

impl World {
    pub fn new(options: &QueueOptions) -> World {
        let name = unique();
        Self::adopt(options.create(&name).expect("a fresh name"), name)
    }

    /// A queue that allows one writer, who is yet to come.
    pub fn for_one_writer(options: &QueueOptions) -> World {
        let mut world = World::new(&options.clone().single_writer(true));
        world.w = None;
        world
    }

    /// Appends as the survivor.
    pub fn send(&mut self, len: usize) -> Result<u64, Error> {
        let w = self.w.as_mut().expect("a writer");
        let position = w.append("news", &body(self.sent, len), LONG)?;
        self.sent += 1;
        Ok(position)
    }

    pub fn drain(&mut self) {
        self.drain_up_to(usize::MAX);
    }

    /// For where somebody goes on filling.
    pub fn drain_up_to(&mut self, most: usize) {
        take(&mut self.a, &mut self.seen_a, most);
        take(&mut self.b, &mut self.seen_b, most);
    }

    /// Appends as the survivor until there is no room.
    pub fn fill(&mut self) {
        let w = self.w.as_mut().expect("a writer");
        while w.append("news", &body(self.sent, 200), Wait::Never).is_ok() {
            self.sent += 1;
        }
    }

    /// Takes over a queue that is there already.
    pub fn adopt(queue: Queue, name: String) -> World {
        World {
            a: queue.reader().expect("a reader"),
            b: queue.reader().expect("a reader"),
            w: Some(queue.writer("w").expect("a writer")),
            queue,
            name,
            sent: 0,
            seen_a: Vec::new(),
            seen_b: Vec::new(),
            together: 1,
            is_reserved_in: false,
            others: Vec::new(),
            sleepers: Vec::new(),
        }
    }

    /// Brings the frontier to `position` in the ring's first lap, everything read.
    pub fn advance_to(&mut self, position: u64) {
        while self.queue.stats().position < position {
            self.send(8).expect("room");
            self.drain();
        }
        assert_eq!(self.queue.stats().position, position);
    }

    /// A thread that sleeps in `pop` when this returns, and goes on popping until it sees the message that ends a check.
    pub fn add_sleeper(&mut self, mut reader: Reader) {
        reader.set_spin(Duration::ZERO);
        let thread = asleep(move || {
            let mut seen = Vec::new();
            let mut first_news = None;
            loop {
                let message = reader
                    .pop(LONG)
                    .expect("pop")
                    .expect("a message before the test's patience ends");
                let kind = message.kind().to_owned();
                seen.push(Seen::of(&message));
                match &*kind {
                    "end" => return (seen, first_news.unwrap_or_else(Instant::now)),
                    "after" => first_news = first_news.or(Some(Instant::now())),
                    _ => {}
                }
            }
        });
        self.sleepers.push(thread);
    }

    /// Everything that must hold. Returns how long the survivors took to go on.
    pub fn check(mut self, death: &Death) -> Recovery {
        let at = || format!("killed at instruction {}", death.instruction);
        // 1. The survivors go on.
        if self.w.is_none() {
            // A kill takes a moment, and until then there is a writer.
            let patience = death.at + Duration::from_secs(20);
            self.w = Some(loop {
                match self.queue.writer("w") {
                    Err(Error::WriterExists { .. }) if Instant::now() < patience => std::thread::yield_now(),
                    joined => break joined.unwrap_or_else(|e| panic!("{}: {e}", at())),
                }
            });
        }
        let w = self.w.as_mut().expect("just made");
        w.append("after", &body(self.sent, 24), LONG)
            .unwrap_or_else(|e| panic!("{}: {e}", at()));
        let appended = death.at.elapsed();
        let last = (self.sent, "w");
        self.sent += 1;
        for (reader, seen) in [(&mut self.a, &mut self.seen_a), (&mut self.b, &mut self.seen_b)] {
            while seen.last().is_none_or(|seen| (seen.number, &*seen.sender) != last) {
                let message = reader.pop(LONG).unwrap_or_else(|e| panic!("{}: {e}", at()));
                let message = message.unwrap_or_else(|| panic!("{}: what a survivor appended did not come", at()));
                seen.push(Seen::of(&message));
            }
        }
        let mut popped = death.at.elapsed();
        // 2. Another member comes, appends, pops and leaves.
        let is_for_one_writer = self.queue.stats().is_single_writer;
        let heard = if is_for_one_writer {
            let mut m = self.queue.reader().unwrap_or_else(|e| panic!("{}: {e}", at()));
            self.send(700).unwrap_or_else(|e| panic!("{}: {e}", at()));
            m.pop(LONG).expect("pop").map(|message| Seen::of(&message))
        } else {
            // As above, where the victim sits in the last slot.
            let patience = death.at + Duration::from_secs(20);
            let mut m = loop {
                match self.queue.join("newcomer") {
                    Err(Error::NoSlot { .. }) if Instant::now() < patience => std::thread::yield_now(),
                    joined => break joined.unwrap_or_else(|e| panic!("{}: {e}", at())),
                }
            };
            m.append("hello", &body(0, 16), LONG)
                .unwrap_or_else(|e| panic!("{}: {e}", at()));
            self.send(700).unwrap_or_else(|e| panic!("{}: {e}", at()));
            m.pop(LONG).expect("pop").map(|message| Seen::of(&message))
        };
        assert_eq!(heard.map(|seen| seen.number), Some(self.sent - 1), "{}", at());
        // 3. Those who slept.
        let w = self.w.as_mut().expect("made above");
        w.append("end", &body(self.sent, 8), LONG).expect("append");
        self.sent += 1;
        self.drain();
        for sleeper in self.sleepers.drain(..) {
            let (seen, woke) = sleeper.join().expect("a sleeper that ends well");
            popped = popped.max(woke.duration_since(death.at));
            let from = self
                .seen_a
                .iter()
                .position(|a| Some(a) == seen.first())
                .expect("what all see");
            assert_eq!(seen, self.seen_a[from..], "{}: a sleeper saw something else", at());
        }
        // 4. Everybody saw the same, once, in one order, and nothing committed is missing.
        assert_eq!(self.seen_a, self.seen_b, "{}: readers saw different orders", at());
        for two in self.seen_a.windows(2) {
            let step = two[1].sequence.wrapping_sub(two[0].sequence);
            let most = 1 + u64::from(self.is_reserved_in);
            assert!((1..=most).contains(&step), "{}: numbered {two:?}", at());
        }
        self.check_numbers("w", self.sent, self.sent, death);
        let newcomers = u32::from(!is_for_one_writer);
        self.check_numbers("newcomer", newcomers, newcomers, death);
        for (sender, count) in std::mem::take(&mut self.others) {
            self.check_numbers(&sender, count, count, death);
        }
        self.check_numbers("victim", death.committed, death.committed + self.together, death);
        // 5. All room comes back, also what the dead one held: an append of all of the ring finds it.
        let all = self.queue.max_body(1, 4) as usize;
        self.send(all).unwrap_or_else(|e| panic!("{}: {e}", at()));
        self.drain();
        assert_eq!(self.queue.free(), self.queue.capacity() - 64, "{}", at());
        // 6. A fresh open works, and there is nothing but the one file.
        let again = Queue::open(&self.name).unwrap_or_else(|e| panic!("{}: {e}", at()));
        let mut late = again.reader().unwrap_or_else(|e| panic!("{}: {e}", at()));
        self.send(30).expect("append");
        let heard = late.pop(LONG).expect("pop").map(|message| Seen::of(&message).number);
        assert_eq!(heard, Some(self.sent - 1), "{}", at());
        assert_eq!(files_like(&self.name), [format!("syncq.{}", self.name)], "{}", at());
        Recovery { appended, popped }
    }

    /// Checks that the messages of `sender` are numbers 0 and up, at least `least` of them; if more, then `most`.
    fn check_numbers(&self, sender: &str, least: u32, most: u32, death: &Death) {
        let numbers: Vec<u32> = (self.seen_a.iter())
            .filter(|seen| seen.sender == sender)
            .map(|seen| seen.number)
            .collect();
        let count = numbers.len() as u32;
        let is_right = numbers.iter().copied().eq(0..count) && (count == least || count == most);
        assert!(
            is_right,
            "killed at instruction {}: of {sender} came {numbers:?}, expected {least} or {most}",
            death.instruction
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Queue::unlink_name(&self.name);
    }
}

/// A name that no other case, process or run uses.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "kill-{}-{:08}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Files in shared memory whose names go on from `name`.
pub fn files_like(name: &str) -> Vec<String> {
    let prefix = format!("syncq.{name}");
    std::fs::read_dir("/dev/shm")
        .expect("/dev/shm")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|file| file.starts_with(&prefix))
        .collect()
}

/// Starts a thread that does `work`, and returns once it sleeps in the kernel.
pub fn asleep<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        run_anywhere();
        let _ = tell.send(nix::unistd::gettid());
        work()
    });
    let id = told.recv().expect("the thread runs");
    let syscall = format!("/proc/self/task/{id}/syscall");
    // The number of the call that it sits in is the first word.
    let call = nix::libc::SYS_futex.to_string();
    let sits_in_futex = || std::fs::read_to_string(&syscall).is_ok_and(|words| words.split(' ').next() == Some(&call));
    while !thread.is_finished() && !sits_in_futex() {
        std::thread::sleep(Duration::from_micros(50));
    }
    thread
}

/// Lets this thread run on every processor again. (Who leads a victim is bound to one, and so are the threads it starts.)
pub fn run_anywhere() {
    use nix::sched::{CpuSet, sched_setaffinity};
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        let _ = all.set(cpu);
    }
    let _ = sched_setaffinity(nix::unistd::Pid::from_raw(0), &all);
}
