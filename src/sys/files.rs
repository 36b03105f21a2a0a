//! Files that hold a segment: they appear whole under their name or not at all, and their memory is really there.
//!
//! A new file is made without a name (`O_TMPFILE`), given all its memory (`fallocate(2)`), filled, and only then linked
//! to its name (`linkat(2)`, which refuses an existing one). Whoever is killed on the way leaves nothing, and nobody ever
//! opens a half-made file.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{linkat, unlink};
use std::fs::{File, FileType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Where named segments live.
pub(crate) const SHARED_MEMORY: &str = "/dev/shm";

/// A file on this machine, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// What `stat` says about a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileFacts {
    pub(crate) id: FileId,
    pub(crate) kind: FileType,
    pub(crate) len: u64,
    pub(crate) owner: u32,
    pub(crate) mode: u32,
}

impl From<std::fs::Metadata> for FileFacts {
    fn from(m: std::fs::Metadata) -> Self {
        FileFacts {
            id: FileId {
                device: m.dev(),
                inode: m.ino(),
            },
            kind: m.file_type(),
            len: m.len(),
            owner: m.uid(),
            mode: m.mode() & 0o7777,
        }
    }
}

/// Refuses everything but a plain file, as opening it in the wrong way would.
pub(crate) fn must_be_regular(facts: &FileFacts) -> io::Result<()> {
    match facts.kind {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_symlink() => Err(Errno::ELOOP.into()),
        kind if kind.is_dir() => Err(Errno::EISDIR.into()),
        _ => Err(Errno::ENXIO.into()),
    }
}

/// Facts about what stands under `path` itself; a symbolic link is not followed.
pub(crate) fn facts_of_path(path: &Path) -> io::Result<FileFacts> {
    std::fs::symlink_metadata(path).map(FileFacts::from)
}

/// Facts about an open file.
pub(crate) fn facts_of(file: &OwnedFd) -> io::Result<FileFacts> {
    // `File` is the way to `fstat` and `pread` in std; a duplicate must not be closed (see `sys::record_lock`), so borrow.
    with_std_file(file, |f| f.metadata().map(FileFacts::from))
}

/// Reads `buffer.len()` bytes at `offset`, or fails.
pub(crate) fn read_exact_at(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    with_std_file(file, |f| f.read_exact_at(buffer, offset))
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &OwnedFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    with_std_file(file, |f| f.write_all_at(bytes, offset))
}

fn with_std_file<T>(file: &OwnedFd, use_it: impl FnOnce(&File) -> T) -> T {
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and ManuallyDrop keeps it from being closed.
    let borrowed = ManuallyDrop::new(unsafe { File::from_raw_fd(file.as_raw_fd()) });
    use_it(&borrowed)
}

/// Opens an existing file, never through a symbolic link, never blocking on a FIFO.
pub(crate) fn open_existing(path: &Path, writable: bool) -> io::Result<OwnedFd> {
    let access = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(open(path, flags, Mode::empty())?)
}

/// A new file in `folder` that has no name yet, `len` bytes long with memory behind each of them, readable and writable
/// for whom `mode` says.
pub(crate) fn new_unnamed(folder: &Path, len: u64, mode: u32) -> io::Result<OwnedFd> {
    // Some file systems give all they have before they find that it is not enough, and others' writes fail meanwhile.
    if len > WORTH_ASKING && free_space(folder).is_some_and(|free| len > free) {
        return Err(Errno::ENOSPC.into());
    }
    let file = open(
        folder,
        OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?;
    // Not left to the mode argument of `open`: the process's umask would take bits away.
    fchmod(&file, Mode::from_bits_truncate(mode))?;
    allocate(&file, len)?;
    Ok(file)
}

/// Gives a file from [`new_unnamed`] its name. Fails with `AlreadyExists` where the name is taken.
pub(crate) fn name_it(file: &OwnedFd, path: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(
        AT_FDCWD,
        unnamed.as_str(),
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?)
}

/// Takes the name away. Who has the file open keeps it.
pub(crate) fn remove_name(path: &Path) -> io::Result<()> {
    Ok(unlink(path)?)
}

/// A file in memory that never has a name, is inherited by forked children, and can be neither shrunk nor grown.
pub(crate) fn new_memory_file(label: &str, len: u64) -> io::Result<OwnedFd> {
    // No file system's size stands against this one: taking more than there is would end in the kernel killing somebody.
    if is_more_than_memory(len) {
        return Err(Errno::ENOMEM.into());
    }
    let file = memfd_create(label, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    allocate(&file, len)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// From this many bytes on, it is worth asking what is free before taking them.
const WORTH_ASKING: u64 = 64 << 20;

/// Whether taking `len` bytes of memory would bring the kernel to kill somebody. `false` where it cannot be told.
pub(crate) fn is_more_than_memory(len: u64) -> bool {
    len > WORTH_ASKING && free_memory().is_some_and(|free| len > free)
}

/// Bytes that could be taken from memory and swap now; `None` where `/proc` does not say.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(field("MemAvailable:")? + field("SwapFree:").unwrap_or(0))
}

/// Sets the length and takes the memory now: a full file system is an error here and never a SIGBUS later.
fn allocate(file: &OwnedFd, len: u64) -> io::Result<()> {
    let len = i64::try_from(len).map_err(|_| io::Error::from(Errno::EFBIG))?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Bytes that a new file below `folder` could still take; `None` where the file system does not say.
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    // One without a limit says that it has no blocks at all.
    let stats = nix::sys::statvfs::statvfs(folder)
        .ok()
        .filter(|stats| stats.blocks() > 0)?;
    Some(stats.blocks_available() as u64 * stats.fragment_size() as u64)
}

/// The user that this process acts as.
pub(crate) fn effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}
