//! Where the bytes of a queue live: a named file in shared memory, any file, an anonymous memory file, or the heap.
//!
//! A [`Segment`] gives the ring its control block, its slots, the words and bytes of its records, and tells which slots
//! live processes hold. It knows the layout but not the protocol: nothing here decides what a word means.

pub(crate) mod backing;
pub(crate) mod copy;
pub(crate) mod layout;
pub(crate) mod presence;
mod words;

use crate::sys::atomic::AtomicU64;
use crate::sys::mapping::Mapping;
use layout::{Control, GRANULE, Header, Slot};
use presence::Presence;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

/// The numbers of a segment, checked once and kept out of others' reach: nothing below ever re-reads them from memory
/// that another process may write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    /// Bytes of the data part: a power of two.
    pub(crate) capacity: u64,
    pub(crate) slots: u32,
    pub(crate) lossy: bool,
    pub(crate) single_writer: bool,
    pub(crate) timestamps: bool,
    pub(crate) unlink_on_last_leave: bool,
    /// Position of the first record ever.
    pub(crate) start: u64,
    pub(crate) instance: [u64; 2],
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    pub(crate) creator: u32,
}

impl Geometry {
    /// An ordinary queue with few slots.
    #[cfg(test)]
    pub(crate) fn of_a_test(capacity: u64) -> Self {
        Geometry {
            capacity,
            slots: 3,
            lossy: false,
            single_writer: false,
            timestamps: false,
            unlink_on_last_leave: false,
            start: 0,
            instance: [0; 2],
            created: 0,
            creator: 0,
        }
    }

    /// The largest record, everything included: all of the ring but the granule that marks its end.
    #[inline]
    pub(crate) fn max_record(&self) -> u64 {
        self.capacity - GRANULE
    }

    /// The bits of a position that say where in the data part it is.
    #[inline]
    fn mask(&self) -> u64 {
        self.capacity - GRANULE
    }
}

/// What kind of memory a segment is, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file that others can open by this path.
    Path(PathBuf),
    /// A memory file, shared with forked children only.
    Anonymous,
    /// This process's own heap.
    Heap,
}

#[derive(Debug)]
enum Memory {
    Mapped(#[expect(dead_code, reason = "owned for its drop")] Mapping),
    Heap(#[expect(dead_code, reason = "owned for its drop")] backing::HeapBlock),
}

/// Nanoseconds since 1970 by the wall clock; 0 for a clock before that.
pub(crate) fn now_nanos() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Where everything is that one member's messages touch, worked out once: they would spend as much on finding it as on all else.
/// Made by [`Segment::lane`]; what it leads to is there as long as the segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    slot: NonNull<Slot>,
    control: NonNull<Control>,
    data: NonNull<AtomicU64>,
    /// See [`Geometry::mask`].
    mask: u64,
}

// SAFETY: numbers in another form; who follows them says that the segment is there.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

impl Lane {
    /// The member's slot.
    ///
    /// # Safety
    ///
    /// The segment is alive for `'s`.
    #[inline(always)]
    pub(crate) unsafe fn slot<'s>(&self) -> &'s Slot {
        // SAFETY: `Segment::lane` took it from the segment, which the caller says is there; a Slot consists of atomics.
        unsafe { self.slot.as_ref() }
    }

    /// The control block.
    ///
    /// # Safety
    ///
    /// As [`Lane::slot`].
    #[inline(always)]
    pub(crate) unsafe fn control<'s>(&self) -> &'s Control {
        // SAFETY: as in `slot`.
        unsafe { self.control.as_ref() }
    }

    /// The record at `position`.
    ///
    /// # Safety
    ///
    /// As [`Lane::slot`].
    #[inline(always)]
    pub(crate) unsafe fn at<'s>(&self, position: u64) -> copy::Spot<'s> {
        // SAFETY: as in `slot`; `mask` and `data` are of the same segment.
        unsafe { copy::Spot::new(self.data, position, self.mask) }
    }

    /// [`Geometry::max_record`]: the same number as the mask, since both leave out one granule.
    #[inline(always)]
    pub(crate) fn max_record(&self) -> u64 {
        self.mask
    }
}

/// The memory of one queue.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) geometry: Geometry,
    pub(crate) presence: Presence,
    /// [`crate::sys::fork::generation`] of the process that mapped it.
    pub(crate) born: u64,
    pub(crate) light: crate::sys::barrier::Light,
    control: NonNull<Control>,
    slots: NonNull<Slot>,
    /// Twice `capacity` bytes, so that a record is contiguous wherever it begins.
    data: NonNull<AtomicU64>,
    _memory: Memory,
}

// SAFETY: the pointers lead to memory that `_memory` keeps for the life of the segment and that is only ever reached as
// atomics, or as bytes under the ring's protocol (see `copy`).
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    #[inline]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: `backing` made the pointer from memory of at least that size and alignment that lives as long as self;
        // Control consists of atomics, for which any bytes are valid.
        unsafe { self.control.as_ref() }
    }

    /// The slot with this number. Panics on a number that the geometry does not have: callers take it from a loop over the
    /// geometry or check it where it comes from shared memory.
    #[inline]
    pub(crate) fn slot(&self, index: u16) -> &Slot {
        assert!(u32::from(index) < self.geometry.slots, "slot number outside the table");
        // SAFETY: the table has `geometry.slots` entries (checked against the file's length at open), and Slot consists of
        // atomics.
        unsafe { self.slots.add(usize::from(index)).as_ref() }
    }

    /// The way to the slot with this number and to what its member's messages touch. Panics as [`Segment::slot`].
    pub(crate) fn lane(&self, index: u16) -> Lane {
        Lane {
            slot: NonNull::from(self.slot(index)),
            control: self.control,
            data: self.data,
            mask: self.geometry.mask(),
        }
    }

    /// Word number `index` of the record at `position`.
    #[inline]
    pub(crate) fn word(&self, position: u64, index: usize) -> &AtomicU64 {
        self.at(position).word(index)
    }

    /// How this segment answers to what its header says.
    pub(crate) fn header_of(geometry: &Geometry, data_offset: u64) -> Header {
        let option = |set: bool, bit: u32| if set { bit } else { 0 };
        let mut header = Header {
            magic: layout::MAGIC,
            byte_order: layout::BYTE_ORDER,
            version: layout::FORMAT_VERSION,
            file_len: data_offset + geometry.capacity,
            capacity: geometry.capacity,
            data_offset,
            slots: geometry.slots,
            slot_size: size_of::<Slot>() as u32,
            options: option(geometry.lossy, layout::OPTION_LOSSY)
                | option(geometry.single_writer, layout::OPTION_SINGLE_WRITER)
                | option(geometry.timestamps, layout::OPTION_TIMESTAMPS)
                | option(geometry.unlink_on_last_leave, layout::OPTION_UNLINK_ON_LAST_LEAVE),
            granule: GRANULE as u32,
            instance: geometry.instance,
            created: geometry.created,
            creator: geometry.creator,
            reserved: 0,
            start: geometry.start,
            checksum: 0,
        };
        header.checksum = header.sum();
        header
    }
}
