//! Time and places: clocks that all processes share, and pinning.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::time::Duration;

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("a clock that every Linux has");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Nanoseconds on a clock that is the same in all processes.
#[inline]
pub fn now() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// Processor time of this process so far, in nanoseconds.
pub fn of_process() -> u64 {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// Processor time of this thread so far, in nanoseconds.
pub fn of_thread() -> u64 {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Keeps the calling thread on one processor.
pub fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("two processors");
}

/// Waits for what comes soon, without keeping a processor from who has to bring it.
pub fn wait_until(is_done: impl Fn() -> bool) {
    for round in 0u32.. {
        if is_done() {
            return;
        }
        if round < 1000 {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Waits for the end of what others do, whom it must not cost anything.
pub fn wait_for_others(is_done: impl Fn() -> bool) {
    while !is_done() {
        std::thread::sleep(Duration::from_millis(2));
    }
}
