//! A forked child that is led through one operation instruction by instruction, and stopped or killed at any of them.
//!
//! Not here: what the operation is (`cases`) and what must hold after the death (`world`).

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step that takes this long has gone to sleep in the kernel.
const ASLEEP_AFTER: Duration = Duration::from_micros(120);
/// Who has not come by a breakpoint for so long goes another way this time, and has fallen asleep there, where nobody wakes it.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// Words that a victim and its tracer share.
pub struct Board {
    words: *const Words,
}

#[repr(C)]
struct Words {
    begun: AtomicU32,
    done: AtomicU32,
    /// Messages whose append, or commit, has returned `Ok`.
    committed: AtomicU32,
}

// SAFETY: it leads to atomics in a mapping that is never unmapped.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    pub fn new() -> Self {
        let len = std::num::NonZeroUsize::new(4096).expect("4096 is not zero");
        // SAFETY: a fresh shared mapping; `drop` is the only one to unmap it.
        let page = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )
        };
        Board {
            words: page.expect("a page of memory").as_ptr().cast(),
        }
    }

    fn words(&self) -> &Words {
        // SAFETY: mapped as long as self lives, at least that large, and any bytes are valid atomics.
        unsafe { &*self.words }
    }

    /// In the victim: from here on it is led. The next instruction that counts is the operation's first.
    #[inline(always)]
    pub fn begin(&self) {
        let words = self.words();
        // SAFETY: plain system calls. Stopping is what tells the tracer that everything is prepared.
        unsafe { libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGSTOP) };
        words.begun.store(1, Ordering::SeqCst);
    }

    /// In the victim: so many messages are in the queue for sure.
    #[inline(always)]
    pub fn committed(&self, messages: u32) {
        self.words().committed.store(messages, Ordering::SeqCst);
    }

    /// In the victim: the operation is over.
    #[inline(always)]
    pub fn end(&self) {
        self.words().done.store(1, Ordering::SeqCst);
    }

    pub fn has_begun(&self) -> bool {
        self.words().begun.load(Ordering::SeqCst) != 0
    }

    pub fn is_done(&self) -> bool {
        self.words().done.load(Ordering::SeqCst) != 0
    }

    pub fn how_many_committed(&self) -> u32 {
        self.words().committed.load(Ordering::SeqCst)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let page = std::ptr::NonNull::new(self.words.cast_mut().cast()).expect("it was mapped");
        // SAFETY: the page mapped by `new`; a victim has a mapping of its own.
        let _ = unsafe { nix::sys::mman::munmap(page, 4096) };
    }
}

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// The next instruction is due.
    On,
    /// It sleeps in a system call. [`Victim::finish_step`] waits until it does not.
    Asleep,
}

/// Number and second argument of a system call.
pub type Call = (i64, u64);

/// Whether a system call is one in which the library sleeps: `FUTEX_WAIT_BITSET`, private or not.
pub fn is_sleep(call: Call) -> bool {
    call.0 == libc::SYS_futex && call.1 & 0x7f == libc::FUTEX_WAIT_BITSET as u64
}

/// A forked child under this thread's lead. Killed and reaped on drop.
pub struct Victim {
    pub pid: Pid,
    is_reaped: bool,
}

impl Victim {
    /// Forks a child that prepares itself, calls [`Board::begin`], does its operation, and calls [`Board::end`]. Returns when
    /// it stands before the first instruction of the operation.
    pub fn new(board: &Board, body: impl FnOnce(&Board)) -> Victim {
        // SAFETY: the child runs only this closure and `_exit`s; glibc's own fork handlers keep the allocator usable.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                // SAFETY: a plain system call, for the case that the test itself is killed before it traces.
                unsafe { libc::alarm(120) };
                let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    ptrace::traceme().expect("to be traced");
                    body(board);
                    0
                }));
                // SAFETY: leaves without running the parent's destructors.
                unsafe { libc::_exit(code.unwrap_or(101)) }
            }
            ForkResult::Parent { child } => {
                let mut victim = Victim {
                    pid: child,
                    is_reaped: false,
                };
                victim.wait_for_stop(Signal::SIGSTOP);
                ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL).expect("options of a stopped child");
                while !board.has_begun() {
                    ptrace::step(child, None).expect("step");
                    victim.wait_for_stop(Signal::SIGTRAP);
                }
                victim
            }
        }
    }

    fn wait_for_stop(&mut self, signal: Signal) {
        match waitpid(self.pid, None).expect("waitpid") {
            WaitStatus::Stopped(_, stopped) if stopped == signal => {}
            other => {
                self.is_reaped = matches!(other, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
                panic!("the victim should have stopped with {signal}, and: {other:?}")
            }
        }
    }

    /// The address of the next instruction, and which system call it is, if it is one.
    pub fn next(&self) -> (u64, Option<Call>) {
        let registers = ptrace::getregs(self.pid).expect("registers of a stopped child");
        let word = ptrace::read(self.pid, registers.rip as ptrace::AddressType).expect("its code");
        // The opcode of `syscall` is 0f 05.
        (
            registers.rip,
            (word as u64 & 0xffff == 0x050f).then_some((registers.rax as i64, registers.rsi)),
        )
    }

    /// One instruction; a system call is one.
    pub fn step(&mut self) {
        ptrace::step(self.pid, None).expect("step");
        self.wait_for_stop(Signal::SIGTRAP);
    }

    /// As [`step`](Victim::step), for one that may sleep. A system call that does not end soon is left alone.
    pub fn step_or_sleep(&mut self, call: Option<Call>) -> Stepped {
        if !call.is_some_and(is_sleep) {
            self.step();
            return Stepped::On;
        }
        ptrace::step(self.pid, None).expect("step");
        let start = Instant::now();
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("waitpid") {
                WaitStatus::StillAlive if start.elapsed() > ASLEEP_AFTER => return Stepped::Asleep,
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(20)),
                WaitStatus::Stopped(_, Signal::SIGTRAP) => return Stepped::On,
                other => panic!("the victim should have made a step, and: {other:?}"),
            }
        }
    }

    /// Begins a system call that sleeps, and leaves it there.
    pub fn fall_asleep(&mut self) {
        ptrace::step(self.pid, None).expect("step");
        std::thread::sleep(2 * ASLEEP_AFTER);
    }

    /// Waits for the end of a step that went to sleep.
    pub fn finish_step(&mut self) {
        self.wait_for_stop(Signal::SIGTRAP);
    }

    /// Lets it run at full speed until the instruction at `address` is due. `false`: it ended before it came there, or fell
    /// asleep elsewhere and was killed.
    ///
    /// Not every run of an operation takes the same way: what a subtraction of two moments executes depends on whether a second ended in
    /// between, and who is led step by step on a busy machine takes long.
    pub fn run_to(&mut self, address: u64) -> bool {
        // The one byte of `int3` over the instruction, in the child's own copy of the code.
        let place = address as ptrace::AddressType;
        let word = ptrace::read(self.pid, place).expect("its code");
        ptrace::write(self.pid, place, word & !0xff | 0xcc).expect("its code");
        ptrace::cont(self.pid, None).expect("cont");
        match self.wait_a_while() {
            Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {
                ptrace::write(self.pid, place, word).expect("its code");
                let mut registers = ptrace::getregs(self.pid).expect("registers of a stopped child");
                assert_eq!(registers.rip, address + 1, "another breakpoint");
                registers.rip = address;
                ptrace::setregs(self.pid, registers).expect("registers of a stopped child");
                true
            }
            Some(WaitStatus::Exited(_, 0)) => {
                self.is_reaped = true;
                false
            }
            None => {
                self.kill();
                self.reap();
                false
            }
            Some(other) => {
                self.is_reaped = matches!(other, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
                panic!("the victim should have come to a breakpoint, and: {other:?}")
            }
        }
    }

    /// Waits until it stops or ends, for as long as it can take one that goes its way.
    fn wait_a_while(&self) -> Option<WaitStatus> {
        let start = Instant::now();
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("waitpid") {
                WaitStatus::StillAlive if start.elapsed() > LOST_AFTER => return None,
                // Mostly they share a processor, and this gives it to the victim.
                WaitStatus::StillAlive if start.elapsed() < Duration::from_millis(1) => std::thread::yield_now(),
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(200)),
                status => return Some(status),
            }
        }
    }

    /// Whether it has run to its end, or was lost on the way.
    pub fn has_ended(&self) -> bool {
        self.is_reaped
    }

    /// Lets it run to its end, and checks that it ended well.
    pub fn run_to_the_end(mut self) {
        ptrace::cont(self.pid, None).expect("cont");
        let status = waitpid(self.pid, None).expect("waitpid");
        self.is_reaped = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        assert_eq!(status, WaitStatus::Exited(self.pid, 0), "the led child failed");
    }

    /// Kills it, and does not reap it.
    pub fn kill(&self) {
        if !self.is_reaped {
            kill(self.pid, Signal::SIGKILL).expect("kill");
        }
    }

    /// Reaps it after a kill.
    pub fn reap(&mut self) {
        while !self.is_reaped {
            // A stop that was on its way may be told first.
            if let WaitStatus::Signaled(..) | WaitStatus::Exited(..) = waitpid(self.pid, None).expect("waitpid") {
                self.is_reaped = true;
            }
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            while let Ok(WaitStatus::Stopped(..)) = waitpid(self.pid, None) {}
            self.is_reaped = true;
        }
    }
}

/// The shared memory of one queue as this process has it mapped, to see whether a step has changed it.
pub struct Memory {
    /// Address, length and place in the file of each mapping.
    parts: Vec<(usize, usize, usize)>,
    copies: Vec<Vec<u8>>,
}

impl Memory {
    /// Of the queue called `name`; empty where it is not mapped.
    pub fn of(name: &str) -> Memory {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
        // By its number: a file that was made without a name is shown without one.
        let inode =
            std::fs::metadata(format!("/dev/shm/syncq.{name}")).map_or(0, |m| std::os::unix::fs::MetadataExt::ino(&m));
        let inode = inode.to_string();
        let parts = maps
            .lines()
            .filter(|line| inode != "0" && line.split_ascii_whitespace().nth(4) == Some(&inode))
            .map(|line| {
                let mut columns = line.split_ascii_whitespace();
                let (start, end) = columns.next().and_then(|r| r.split_once('-')).expect("a range");
                let number = |hex| usize::from_str_radix(hex, 16).expect("a number");
                let offset = number(columns.nth(1).expect("an offset"));
                (number(start), number(end) - number(start), offset)
            })
            .collect();
        let mut memory = Memory {
            parts,
            copies: Vec::new(),
        };
        memory.has_changed();
        memory
    }

    /// The word at a place in the file.
    pub fn word(&self, place: usize) -> u64 {
        let inside = |(_, len, offset): &&(usize, usize, usize)| (*offset..offset + len).contains(&place);
        let (start, _, offset) = self.parts.iter().find(inside).expect("a place in the file");
        // SAFETY: inside a mapping that the case keeps while it leads a victim; atomics may be read while others write.
        unsafe { (*((start + place - offset) as *const AtomicU64)).load(Ordering::SeqCst) }
    }

    /// Whether it has changed since this was asked last.
    pub fn has_changed(&mut self) -> bool {
        let mut has_changed = self.copies.len() != self.parts.len();
        self.copies.resize(self.parts.len(), Vec::new());
        for ((start, len, _), copy) in self.parts.iter().zip(&mut self.copies) {
            copy.resize(*len, 0);
            // SAFETY: the case keeps the queue, and with it the mapping, as long as it leads a victim. Libc compares and
            // copies, so no reference is made to bytes that another process may be writing, and any outcome will do.
            unsafe {
                let now = *start as *const libc::c_void;
                if libc::memcmp(now, copy.as_ptr().cast(), *len) != 0 {
                    has_changed = true;
                    libc::memcpy(copy.as_mut_ptr().cast(), now, *len);
                }
            }
        }
        has_changed
    }
}

/// Makes panics of this process and of its forked children write to the real standard error. To be called before there are
/// threads: a child forked while another thread is at it would find the hook's lock locked for ever.
pub fn show_panics_of_children() {
    let before = std::panic::take_hook();
    let parent = std::process::id();
    std::panic::set_hook(Box::new(move |panic| {
        if std::process::id() == parent {
            return before(panic);
        }
        let words = format!("in a led child: {panic}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
    }));
}
