//! Reading and writing a descriptor without ever blocking, and without touching its flags: `O_NONBLOCK` belongs to the open file,
//! which other processes may share (a terminal, a shell's pipe).

use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};

fn outcome(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Reads into the room that `into` has left, and appends what came. [`Errno::AGAIN`]: nothing is there. [`Errno::OPNOTSUPP`]: this
/// kind of file cannot be asked so.
pub(crate) fn read_now(fd: BorrowedFd<'_>, into: &mut Vec<u8>) -> Result<usize, Errno> {
    let room = into.spare_capacity_mut();
    let slice = nix::libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    // SAFETY: the slice describes memory that `into` owns and nobody else uses; the kernel writes no more than its length.
    let read = outcome(unsafe { nix::libc::preadv2(fd.as_raw_fd(), &slice, 1, -1, nix::libc::RWF_NOWAIT) })?;
    // SAFETY: the kernel has just initialised `read` bytes behind the old length, and `read` is at most the room there was.
    unsafe { into.set_len(into.len() + read) };
    Ok(read)
}

/// Writes as much as is taken at once. [`Errno::AGAIN`]: nothing is. [`Errno::OPNOTSUPP`]: this kind of file cannot be asked so.
pub(crate) fn write_now(fd: BorrowedFd<'_>, chunks: &[IoSlice<'_>]) -> Result<usize, Errno> {
    rustix::io::pwritev2(fd, chunks, u64::MAX, nowait())
}

fn nowait() -> rustix::io::ReadWriteFlags {
    rustix::io::ReadWriteFlags::NOWAIT
}
