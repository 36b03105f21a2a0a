//! The ground floor: the only room that talks to the operating system.
//!
//! Each file is one facility and hides one family of system calls:
//!
//! | file | gives | Linux facility |
//! |---|---|---|
//! | `atomic` | the atomics everything above is written in | none (std, or loom's under `--cfg loom`) |
//! | `barrier` | a fence that the rare side pays for | `membarrier(2)`, global expedited |
//! | `descriptor` | reading and writing without blocking, whatever the descriptor's flags | `preadv2(2)`, `pwritev2(2)`, `RWF_NOWAIT` |
//! | `doorbell` | a descriptor that rings when something happens that can only be slept on | `eventfd(2)`, a thread |
//! | `files` | whole files that appear at once or not at all, memfds | `O_TMPFILE`, `linkat(2)`, `fallocate(2)`, `memfd_create(2)` |
//! | `fork` | noticing a fork without a system call; a lock that survives it; a value for each process | `MADV_WIPEONFORK`, `pthread_atfork(3)` |
//! | `futex` | sleeping on a word shared between processes | `futex(2)`, `FUTEX_WAIT_BITSET` |
//! | `mapping` | shared memory, the data part mapped twice in a row | `mmap(2)`, `MAP_FIXED` |
//! | `process` | who somebody is, whether it still maps a file, how a child ended | `/proc`, `waitid(2)` |
//! | `record_lock` | one byte of a file that the kernel frees at death | `fcntl(2)`, `F_SETLK` |
//! | `signal` | what a signal would do | `sigaction(2)` |
//! | `stdio` | emptying the C library's buffer before descriptor 1 changes | `fflush(3)` |
//!
//! Another operating system needs these names with these meanings and nothing else of the crate changes. Only Linux is
//! tested; nothing else is written yet.

pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod descriptor;
pub(crate) mod doorbell;
pub(crate) mod files;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod mapping;
pub(crate) mod process;
pub(crate) mod record_lock;
pub(crate) mod signal;
pub(crate) mod stdio;

/// True where spinning can help: somebody else can make progress meanwhile. The processors of the machine count, not those that
/// this process may use: its peers may be on others.
pub(crate) fn spinning_helps() -> bool {
    use std::sync::atomic::{AtomicI64, Ordering};
    // Not a OnceLock: a child forked while another thread is inside one waits for that thread for ever.
    static PROCESSORS: AtomicI64 = AtomicI64::new(0);
    let mut processors = PROCESSORS.load(Ordering::Relaxed);
    if processors == 0 {
        // SAFETY: a plain query.
        processors = unsafe { nix::libc::sysconf(nix::libc::_SC_NPROCESSORS_ONLN) }.max(1);
        PROCESSORS.store(processors, Ordering::Relaxed);
    }
    processors > 1
}
