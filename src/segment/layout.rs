//! The written format: where every byte of a segment is and what it means. `docs/segment-format.md` says the same in prose,
//! and a test below keeps the numbers in step.
//!
//! Nothing here reads or writes shared memory; this file only names it.

use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::futex::WaitWord;
use bytemuck::{Pod, Zeroable};

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"syncq\r\n\0";
/// Version of the format. Independent of the crate's version; a segment of another one is refused.
pub(crate) const FORMAT_VERSION: u32 = 6;
/// Reads differently on a machine with the other byte order.
pub(crate) const BYTE_ORDER: u32 = 0x0102_0304;

/// Where the [`Control`] block begins.
pub(crate) const CONTROL_OFFSET: usize = 512;
/// Where the slot table begins.
pub(crate) const SLOTS_OFFSET: usize = 4096;

/// Records begin at multiples of this many bytes: one cache line, so that a small message costs one line transfer.
pub(crate) const GRANULE: u64 = 64;
/// Bytes of a record before the sender: four 64-bit words.
pub(crate) const RECORD_HEADER: u64 = 32;

/// Longest sender name, in bytes.
pub(crate) const MAX_SENDER: usize = 64;
/// Longest kind, in bytes.
pub(crate) const MAX_KIND: usize = 255;
/// Bytes of a slot's screen text.
pub(crate) const MAX_SCREEN_TEXT: usize = 248;

/// Smallest capacity, in bytes: one page.
pub(crate) const MIN_CAPACITY: u64 = 4096;
/// Largest capacity, in bytes: well inside the 43 bits that a claim word can tell apart.
pub(crate) const MAX_CAPACITY: u64 = 1 << 40;
/// Most member slots: a claim word has 13 bits for one.
pub(crate) const MAX_SLOTS: u32 = 4096;

/// The first bytes of the file. Written once, before the segment has a name, and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) byte_order: u32,
    pub(crate) version: u32,
    /// Length of the whole file, in bytes.
    pub(crate) file_len: u64,
    /// Length of the data part, in bytes: a power of two.
    pub(crate) capacity: u64,
    /// Where the data part begins: a multiple of the page size.
    pub(crate) data_offset: u64,
    pub(crate) slots: u32,
    pub(crate) slot_size: u32,
    /// A sum of the `OPTION_` bits.
    pub(crate) options: u32,
    pub(crate) granule: u32,
    /// Tells this segment from every other one, also one of the same name.
    pub(crate) instance: [u64; 2],
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    pub(crate) creator: u32,
    pub(crate) reserved: u32,
    /// Position of the first record ever.
    pub(crate) start: u64,
    /// Of all bytes above: see [`Header::sum`].
    pub(crate) checksum: u64,
}

/// Writers do not wait for readers.
pub(crate) const OPTION_LOSSY: u32 = 1 << 0;
/// One writer at a time.
pub(crate) const OPTION_SINGLE_WRITER: u32 = 1 << 1;
/// Records carry the time.
pub(crate) const OPTION_TIMESTAMPS: u32 = 1 << 2;
/// The last member to leave removes the name.
pub(crate) const OPTION_UNLINK_ON_LAST_LEAVE: u32 = 1 << 3;
/// All bits that this version knows.
pub(crate) const OPTIONS_KNOWN: u32 = 0b1111;

impl Header {
    /// FNV-1a, 64 bits, over every byte before the checksum.
    pub(crate) fn sum(&self) -> u64 {
        let bytes = bytemuck::bytes_of(self);
        fnv1a(&bytes[..bytes.len() - size_of::<u64>()])
    }
}

/// FNV-1a, 64 bits (offset basis and prime from its authors' page).
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The words that members share. Each field group stands on cache lines of its own (two, for the processor's adjacent-line
/// prefetch), by who writes it when.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) claim: ClaimLine,
    pub(crate) limits: LimitLine,
    pub(crate) data: DataLine,
    pub(crate) space: SpaceLine,
    pub(crate) turn: TurnLine,
    pub(crate) tally: TallyLine,
    /// Which kind owns which wake-up bit: the 64-bit hash of the kind, 0 for nobody yet. Bit 30 is for all other kinds, bit 31 for
    /// readers that pass over none.
    pub(crate) kind_bits: [AtomicU64; KIND_BITS],
    pub(crate) marks: MarkLines,
}

/// How many kinds get a wake-up bit of their own.
pub(crate) const KIND_BITS: usize = 30;

/// Written by every append that takes the claim. Readers never touch it.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct ClaimLine {
    /// A `ring::claim::Word`: position of the frontier, who holds the claim, whether others wait for it.
    pub(crate) word: AtomicU64,
    /// The frontier in full, as it was not long ago: the claim word has only its lower bits. Never more than two capacities behind it.
    pub(crate) base: AtomicU64,
}

/// Written under the claim, rarely; observers read it.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct LimitLine {
    /// No reader's cursor was behind this when it was last looked at.
    pub(crate) gate: AtomicU64,
    /// Writers write below this only. What stood `capacity` before it may be overwritten.
    pub(crate) intent: AtomicU64,
    /// The oldest record that is still whole.
    pub(crate) oldest: AtomicU64,
}

/// How many marks there are in a ring. (Those of the models are so short that there would be more than one for each record.)
pub(crate) const MARKS: usize = if cfg!(loom) { 2 } else { 16 };

/// Where records begin: a ring is cut into [`MARKS`] pieces, and for each of them this has the first record that begins in or
/// after it, on the last lap. Written under the claim, each once a lap.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct MarkLines {
    pub(crate) record: [AtomicU64; MARKS],
}

/// Where readers sleep.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct DataLine {
    /// Wake-up bits of the kinds that sleeping readers want.
    pub(crate) sleepers: AtomicU64,
    pub(crate) bell: WaitWord,
}

/// Where writers sleep that found no room.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct SpaceLine {
    /// 0, or 1 + the cursor position that some sleeping writer needs all readers to reach.
    pub(crate) wanted: AtomicU64,
    pub(crate) bell: WaitWord,
}

/// Where writers sleep that found the claim taken.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct TurnLine {
    pub(crate) bell: WaitWord,
}

/// Counters and flags that change rarely.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct TallyLine {
    /// One more than the highest slot ever used.
    pub(crate) slots_used: AtomicU32,
    /// 1 once the last member has removed the name (`OPTION_UNLINK_ON_LAST_LEAVE`).
    pub(crate) retired: AtomicU32,
    /// Claims taken from dead members.
    pub(crate) takeovers: AtomicU64,
    /// Dead members whose slots were freed.
    pub(crate) reaped: AtomicU64,
    /// Members evicted.
    pub(crate) evicted: AtomicU64,
    /// Appends that ended in `Full`.
    pub(crate) refused: AtomicU64,
    /// Messages that readers of a lossy queue missed, summed over the readers.
    pub(crate) missed: AtomicU64,
}

/// One member.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    pub(crate) cursor: CursorLine,
    pub(crate) identity: IdentityLine,
    pub(crate) screen: ScreenText,
}

/// Written by the member with every message; by nobody else while it lives. What a pop writes is in the first cache line, what
/// an append writes in the second: the fewer different lines a writer stores to between those of the ring, the more of the
/// ring's its processor asks for at a time.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct CursorLine {
    /// Position of the next record it has not let go.
    pub(crate) cursor: AtomicU64,
    pub(crate) popped: Count,
    pub(crate) screened: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) spare: [AtomicU64; 3],
    /// While this member keeps the claim: the frontier, and [`BUSY`] while it appends.
    pub(crate) frontier: AtomicU64,
    pub(crate) appended: Count,
    pub(crate) refused: AtomicU64,
    /// 0, or 1 + the position of the record it has reserved and not yet finished.
    pub(crate) reservation: AtomicU64,
    /// 0, or 1 + the body length of that record, if it is unannounced: no head tells of it yet.
    pub(crate) unannounced: AtomicU64,
    /// Then also the second word of that record.
    pub(crate) origin: AtomicU64,
}

/// Messages of a member, and the bytes of their bodies. Only the member itself adds to it: [`Count::add`](super::words).
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Count {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// In [`CursorLine::frontier`]: the member is busy.
pub(crate) const BUSY: u64 = 1;

/// Written when somebody joins, leaves, is evicted or reaped.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct IdentityLine {
    /// A `ring::members::State`: state, role and generation.
    pub(crate) state: AtomicU64,
    pub(crate) pid: AtomicU64,
    pub(crate) start_time: AtomicU64,
    pub(crate) namespace: AtomicU64,
    /// Nanoseconds since 1970.
    pub(crate) joined: AtomicU64,
    pub(crate) name_len: AtomicU64,
    pub(crate) name: [AtomicU64; MAX_SENDER / 8],
}

/// What the member screens out, as text for people; truncated where too long.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct ScreenText {
    pub(crate) len: AtomicU64,
    pub(crate) text: [AtomicU64; MAX_SCREEN_TEXT / 8],
}

/// Where the data part of a segment with this many slots begins, given the page size.
pub(crate) fn data_offset(slots: u32, page: usize) -> usize {
    (SLOTS_OFFSET + slots as usize * size_of::<Slot>()).next_multiple_of(page)
}

/// The format promises these numbers to other languages and later versions.
#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Header>() == 104 && size_of::<Header>() <= CONTROL_OFFSET);
    assert!(offset_of!(Header, checksum) == 96);
    assert!(CONTROL_OFFSET + size_of::<Control>() <= SLOTS_OFFSET);
    assert!(offset_of!(Control, claim) == 0 && offset_of!(Control, limits) == 128);
    assert!(offset_of!(Control, data) == 256 && offset_of!(Control, space) == 384);
    assert!(offset_of!(Control, turn) == 512 && offset_of!(Control, tally) == 640);
    assert!(offset_of!(Control, kind_bits) == 768 && offset_of!(Control, marks) == 1024);
    assert!(size_of::<Control>() == 1152);
    assert!(size_of::<Slot>() == 512);
    assert!(offset_of!(CursorLine, frontier) == 64 && offset_of!(CursorLine, reservation) == 96);
    assert!(offset_of!(CursorLine, unannounced) == 104 && offset_of!(CursorLine, origin) == 112);
    assert!(offset_of!(Slot, identity) == 128 && offset_of!(Slot, screen) == 256);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_written_format_states_the_numbers_of_the_code() {
        let prose = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/segment-format.md")).unwrap();
        for fact in [
            format!("format version {FORMAT_VERSION}"),
            format!("| version | {FORMAT_VERSION} |"),
            format!("magic; byte order; version {FORMAT_VERSION}"),
            format!("control block | {CONTROL_OFFSET} |"),
            format!("slot table | {SLOTS_OFFSET} |"),
            format!("slot size | {} |", size_of::<Slot>()),
            format!("granule | {GRANULE} |"),
            format!("record header | {RECORD_HEADER} |"),
            format!("longest sender | {MAX_SENDER} |"),
            format!("longest kind | {MAX_KIND} |"),
        ] {
            assert!(prose.contains(&fact), "docs/segment-format.md does not say {fact:?}");
        }
    }

    #[test]
    fn a_default_queue_costs_less_than_64_kib_beside_its_capacity() {
        assert!(data_offset(64, 4096) <= 64 << 10);
    }
}
