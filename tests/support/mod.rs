//! What every test file needs: a watchdog, unique names, forked children, and the same queue over every backing.

#![allow(dead_code, reason = "each test file uses its own part")]

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use syncq::{Queue, QueueOptions};

/// Ends the whole test process, loudly, if the test is still running after this long. Generous: it is for hangs.
#[must_use = "the watchdog watches until it is dropped"]
pub struct Watchdog(Option<mpsc::Sender<()>>);

pub fn watchdog(limit: Duration) -> Watchdog {
    let (stop, stopped) = mpsc::channel();
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    std::thread::spawn(move || {
        if stopped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("watchdog: test {test} is still running after {limit:?}");
            std::process::abort();
        }
    });
    Watchdog(Some(stop))
}

/// A minute: far longer than any ordinary test takes.
pub fn minute() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// A name that no other test, process or run uses.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{what}-{}-{next}", std::process::id())
}

/// A named queue whose name goes away with this.
pub struct Named {
    pub queue: Queue,
    pub name: String,
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Queue::unlink_name(&self.name);
    }
}

pub fn named(what: &str, options: &QueueOptions) -> Named {
    let name = unique(what);
    let queue = options.create(&name).expect("a fresh name");
    Named { queue, name }
}

/// A folder below the target folder that goes away with this.
pub struct Folder(pub PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn folder(what: &str) -> Folder {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique(what));
    std::fs::create_dir_all(&path).expect("the target folder is writable");
    Folder(path)
}

/// Runs `body` with a queue on each kind of memory: a name, a file, a memory file, the heap.
pub fn over_every_backing(options: &QueueOptions, body: impl Fn(&Queue)) {
    let _watchdog = minute();
    body(&named("backing", options).queue);
    let folder = folder("backing");
    body(&options.create_at(folder.0.join("ring")).expect("a fresh path"));
    body(&options.anonymous().expect("a memory file"));
    body(&options.heap().expect("memory"));
}

/// As [`over_every_backing`], for tests that fork.
pub fn over_every_shared_backing(options: &QueueOptions, body: impl Fn(&Queue)) {
    let _watchdog = minute();
    body(&named("backing", options).queue);
    let folder = folder("backing");
    body(&options.create_at(folder.0.join("ring")).expect("a fresh path"));
    body(&options.anonymous().expect("a memory file"));
}

/// A forked child. Killed and reaped on drop if it is still there.
pub struct Child {
    pub pid: Pid,
    is_reaped: bool,
}

/// Sees to it that a panic in a child is heard: the test harness would keep the words to itself. Done in the parent, since setting a
/// hook takes a lock that a child may inherit locked, from a thread that is just panicking.
pub fn let_children_speak() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let (parent, usual) = (std::process::id(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            if std::process::id() == parent {
                usual(panic);
            } else {
                let words = format!("in a child: {panic}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
            }
        }));
    });
}

/// Forks a child that runs `body` and exits with what it returns: 0 for fine. A panic exits with 101, and a child that is still
/// there after a minute is ended by an alarm.
pub fn forked(body: impl FnOnce() -> i32) -> Child {
    let_children_speak();
    // SAFETY: the child runs only this closure and `_exit`s; the test harness's other threads do not exist in it, and the
    // allocator is usable in a child by glibc's own fork handlers.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            // SAFETY: a plain system call.
            unsafe { nix::libc::alarm(60) };
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => Child {
            pid: child,
            is_reaped: false,
        },
    }
}

impl Child {
    /// Waits for it, and checks that it exited with 0.
    pub fn must_succeed(mut self) {
        let status = waitpid(self.pid, None).expect("waitpid");
        self.is_reaped = true;
        assert_eq!(status, WaitStatus::Exited(self.pid, 0), "the child failed");
    }

    /// Kills it with SIGKILL, and waits until the kernel has ended it, without reaping it: it stays a zombie.
    pub fn kill_unreaped(&self) {
        kill(self.pid, Signal::SIGKILL).expect("kill");
        eventually("the child is a zombie", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("an unreaped child has one");
            stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
        });
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(mut self) {
        self.kill_and_reap();
    }

    fn kill_and_reap(&mut self) {
        if !self.is_reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
            self.is_reaped = true;
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("kill");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

/// Waits until `is_so`; the watchdog of the test is its only limit.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    let mut is_announced = false;
    while !is_so() {
        if !is_announced && start.elapsed() > Duration::from_secs(10) {
            eprintln!("still waiting until {what}");
            is_announced = true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A word shared with forked children, 0 at first.
pub struct SharedWord(*const AtomicU32);

impl SharedWord {
    pub fn new() -> Self {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let len = std::num::NonZeroUsize::new(4096).unwrap();
        // SAFETY: a fresh shared mapping that is never unmapped.
        let page = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )
        };
        SharedWord(page.expect("memory").as_ptr().cast())
    }

    pub fn get(&self) -> &AtomicU32 {
        // SAFETY: mapped for the life of the process, and only ever used as an atomic.
        unsafe { &*self.0 }
    }

    /// Waits until it is at least `value`.
    pub fn wait_for(&self, value: u32) {
        while self.get().load(Ordering::SeqCst) < value {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn raise(&self) {
        self.get().fetch_add(1, Ordering::SeqCst);
    }
}

/// Where the claim word is in the file, and where in it the holder: see `docs/segment-format.md`.
const CLAIM_WORD: u64 = 512;
const HOLDER_SHIFT: u32 = 1;

/// Has a child write into the file that the member in slot `holder` has the claim (or nobody has), as if it were in the middle
/// of an append. Not this process: closing the file would cost it its locks.
pub fn set_claim_holder(path: &Path, holder: Option<u16>) {
    forked(|| {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, CLAIM_WORD).unwrap();
        let position = u64::from_le_bytes(word) >> 27 << 27;
        let holder = holder.map_or(0, |slot| u64::from(slot) + 1) << HOLDER_SHIFT;
        file.write_all_at(&(position | holder).to_le_bytes(), CLAIM_WORD)
            .unwrap();
        0
    })
    .must_succeed();
}
