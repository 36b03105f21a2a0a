//! Mapping a segment file: its control part once, its data part twice in a row.
//!
//! The second copy of the data begins where the first one ends, so a record that runs over the end of the ring is still
//! one contiguous range, and there is no wrap anywhere above. Addresses are handed out as raw pointers only: other
//! processes write here.

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// A segment's two parts, unmapped on drop. Dropping it in a forked child unmaps only the child's view.
#[derive(Debug)]
pub(crate) struct Mapping {
    control: MmapRaw,
    data: Mirrored,
}

impl Mapping {
    /// Maps the first `data_offset` bytes of `file` once, and the `capacity` bytes behind them twice in a row.
    /// Both lengths must be multiples of [`page_size`], and the file must be that long.
    pub(crate) fn new(file: &OwnedFd, data_offset: usize, capacity: usize, access: Access) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(data_offset);
        let control = match access {
            Access::ReadWrite => options.map_raw(file)?,
            Access::ReadOnly => options.map_raw_read_only(file)?,
        };
        Ok(Mapping {
            control,
            data: Mirrored::new(file, data_offset, capacity, access)?,
        })
    }

    pub(crate) fn control(&self) -> NonNull<u8> {
        NonNull::new(self.control.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    pub(crate) fn data(&self) -> NonNull<u8> {
        self.data.start
    }
}

#[derive(Debug)]
struct Mirrored {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: it is an address range; every access through it is the business of `segment`, which uses atomics.
unsafe impl Send for Mirrored {}
// SAFETY: as above.
unsafe impl Sync for Mirrored {}

impl Mirrored {
    fn new(file: &OwnedFd, offset: usize, capacity: usize, access: Access) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let one = NonZeroUsize::new(capacity).ok_or_else(too_large)?;
        let len = one
            .checked_mul(NonZeroUsize::MIN.saturating_add(1))
            .ok_or_else(too_large)?;
        // SAFETY: a fresh reservation at an address of the kernel's choice.
        let reserved = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)? };
        // From here on a failure drops this and so unmaps the whole range.
        let mirrored = Mirrored {
            start: reserved.cast(),
            len,
        };
        let protection = match access {
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            Access::ReadOnly => ProtFlags::PROT_READ,
        };
        let offset = i64::try_from(offset).map_err(|_| too_large())?;
        for copy in 0..2 {
            let at = NonZeroUsize::new(reserved.as_ptr() as usize + copy * capacity).ok_or_else(too_large)?;
            // SAFETY: MAP_FIXED replaces only pages of the reservation just made, which nothing else uses.
            unsafe {
                mmap(
                    Some(at),
                    one,
                    protection,
                    MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                    file,
                    offset,
                )?;
            }
        }
        Ok(mirrored)
    }
}

impl Drop for Mirrored {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and this is its only owner.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

/// The granularity of mappings, in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: a plain query.
    let size = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
    usize::try_from(size)
        .ok()
        .filter(|s| s.is_power_of_two())
        .unwrap_or(4096)
}
