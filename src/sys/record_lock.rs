//! One byte of a file, locked by a process until it lets go or dies.
//!
//! These are POSIX record locks (`fcntl(2)`), on purpose: the kernel frees them the moment the process ends, also while it
//! is an unreaped zombie; a forked child does not inherit them; they work across users and PID namespaces. Their one trap:
//! closing *any* descriptor of the file drops all of the process's locks on it, so `segment::registry` keeps exactly one
//! descriptor per file. Locks of the own process never conflict, so who asks about its own bytes must ask elsewhere.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::io;
use std::os::fd::OwnedFd;

fn byte(index: u16, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::from(index),
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the byte without waiting. `false`: another process holds it. Needs a writable descriptor.
pub(crate) fn try_lock(file: &OwnedFd, index: u16) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&byte(index, libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the byte go. Nothing to do where it was not held.
pub(crate) fn unlock(file: &OwnedFd, index: u16) {
    // Can only fail for a bad descriptor, which ownership of `file` rules out.
    let _ = fcntl(file, FcntlArg::F_SETLK(&byte(index, libc::F_UNLCK)));
}

/// Whether another process holds the byte. Works on a read-only descriptor too.
pub(crate) fn is_held_by_another(file: &OwnedFd, index: u16) -> io::Result<bool> {
    let mut answer = byte(index, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut answer))?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}
