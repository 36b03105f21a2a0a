//! The ground floor: the only room that talks to the operating system.
//!
//! Each file is one facility and hides one family of system calls:
//!
//! | file | gives | Linux facility |
//! |---|---|---|
//! | `atomic` | the atomics everything above is written in | none (std, or loom's under `--cfg loom`) |
//! | `barrier` | a fence that the rare side pays for | `membarrier(2)`, global expedited |
//! | `files` | whole files that appear at once or not at all, memfds | `O_TMPFILE`, `linkat(2)`, `fallocate(2)`, `memfd_create(2)` |
//! | `fork` | noticing a fork without a system call; a lock that survives it | `MADV_WIPEONFORK`, `pthread_atfork(3)` |
//! | `futex` | sleeping on a word shared between processes | `futex(2)`, `FUTEX_WAIT_BITSET` |
//! | `mapping` | shared memory, the data part mapped twice in a row | `mmap(2)`, `MAP_FIXED` |
//! | `process` | who somebody is, and whether it still maps a file | `/proc` |
//! | `record_lock` | one byte of a file that the kernel frees at death | `fcntl(2)`, `F_SETLK` |
//!
//! Another operating system needs these names with these meanings and nothing else of the crate changes. Only Linux is
//! tested; nothing else is written yet.

pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod files;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod mapping;
pub(crate) mod process;
pub(crate) mod record_lock;

/// True where spinning can help: somebody else can make progress meanwhile.
pub(crate) fn spinning_helps() -> bool {
    use std::sync::OnceLock;
    static MORE_THAN_ONE: OnceLock<bool> = OnceLock::new();
    *MORE_THAN_ONE.get_or_init(|| processors() > 1)
}

/// Processors that are on, whichever of them this thread may use: who pins itself to one spins for somebody on another.
/// (`available_parallelism` would say 1 there.)
fn processors() -> i64 {
    // SAFETY: a plain question to the C library.
    unsafe { nix::libc::sysconf(nix::libc::_SC_NPROCESSORS_ONLN) }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    #[test]
    fn pinning_a_thread_leaves_as_many_processors_to_wait_for() {
        let before = processors();
        assert!(before >= 1);
        // A thread of its own, since only that one is to be pinned.
        let pinned = std::thread::spawn(|| {
            let me = Pid::from_raw(0);
            let usable = sched_getaffinity(me).unwrap();
            let first = (0..CpuSet::count()).find(|cpu| usable.is_set(*cpu).unwrap()).unwrap();
            let mut one = CpuSet::new();
            one.set(first).unwrap();
            sched_setaffinity(me, &one).unwrap();
            processors()
        });
        assert_eq!(pinned.join().unwrap(), before);
    }
}
