//! Forked processes that cannot be left behind: they die with their parent, and a run that takes too long is killed whole.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Forks. The child runs `body` and ends, with code 0 if that did not panic.
pub fn forked(leads_group: bool, body: impl FnOnce()) -> Pid {
    let parent = nix::unistd::getpid();
    // SAFETY: this process has one thread: libraries with threads are only used in children of this function.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            if leads_group {
                // Both sides do it, so that it is done whoever comes first.
                let _ = setpgid(child, child);
            }
            child
        }
        ForkResult::Child => {
            if leads_group {
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            }
            let _ = set_pdeathsig(Signal::SIGKILL);
            let is_orphan = getppid() != parent;
            let is_fine = !is_orphan && catch_unwind(AssertUnwindSafe(body)).is_ok();
            // SAFETY: leaves without running the destructors that belong to the parent.
            unsafe { nix::libc::_exit(i32::from(!is_fine)) }
        }
    }
}

/// Waits for a child. Whether it ended well.
pub fn ended_well(child: Pid) -> bool {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            answer => return answer == Ok(WaitStatus::Exited(child, 0)),
        }
    }
}

/// Waits for the leader of a group, no longer than `limit`; then nobody of the group is left.
pub fn await_group(leader: Pid, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let descriptor = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(leader.as_raw()).expect("a child's number"),
        rustix::process::PidfdFlags::empty(),
    );
    if let Ok(descriptor) = &descriptor {
        // Asleep until it ends: who measures is not disturbed.
        let mut fds = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(descriptor),
            nix::poll::PollFlags::POLLIN,
        )];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = nix::poll::PollTimeout::try_from(left.as_millis().min(1 << 30)).expect("milliseconds");
            match nix::poll::poll(&mut fds, left) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => {
                    let _ = killpg(leader, Signal::SIGKILL);
                    ended_well(leader);
                    return Err(format!("not done after {} s, killed", limit.as_secs()));
                }
                _ => break,
            }
        }
    }
    let is_fine = ended_well(leader);
    // Ends of a leader that failed die with it; whoever is left of its group is killed here.
    let _ = killpg(leader, Signal::SIGKILL);
    if is_fine {
        Ok(())
    } else {
        Err("failed (see above)".into())
    }
}
