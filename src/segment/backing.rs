//! Making and opening segments on each kind of memory, with every check that an open owes.
//!
//! A header that comes from somebody else's hands is read with `pread` and checked before anything is mapped, so a wrong
//! open changes nothing.

use super::layout::{self, Control, Header, Slot};
use super::presence::{FileHandle, Presence};
use super::{Geometry, Memory, Place, Segment};
use crate::error::{Error, Result};
use crate::sys::files::{self, FileFacts};
use crate::sys::mapping::{self, Access, Mapping};
use crate::sys::{barrier, fork, process};
use nix::errno::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

/// Prefix of the files of named queues, so that they can be told from others' and listed.
pub(crate) const FILE_PREFIX: &str = "syncq.";
/// Longest queue name: with the prefix it stays below the 255 bytes of a file name.
pub(crate) const MAX_NAME: usize = 200;

/// The file of the queue called `name`.
pub(crate) fn path_of_name(name: &str) -> Result<PathBuf> {
    let wrong = |why| {
        Err(Error::InvalidName {
            name: name.to_owned(),
            why,
        })
    };
    match name {
        "" => wrong("it is empty"),
        "." | ".." => wrong("it is a folder"),
        n if n.len() > MAX_NAME => wrong("it is longer than 200 bytes"),
        n if n.contains('/') => wrong("it contains a slash"),
        n if n.contains('\0') => wrong("it contains a NUL"),
        n if n.chars().any(char::is_control) => wrong("it contains a control character"),
        n => Ok(Path::new(files::SHARED_MEMORY).join(format!("{FILE_PREFIX}{n}"))),
    }
}

/// What to make a segment like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) capacity: u64,
    pub(crate) slots: u32,
    pub(crate) lossy: bool,
    pub(crate) single_writer: bool,
    pub(crate) timestamps: bool,
    pub(crate) unlink_on_last_leave: bool,
    pub(crate) start: u64,
}

impl Shape {
    fn geometry(&self) -> Result<Geometry> {
        let wrong = |option, value, why: String| Err(Error::InvalidOption { option, value, why });
        let page = mapping::page_size() as u64;
        if self.capacity < layout::MIN_CAPACITY.max(page) {
            return wrong(
                "capacity",
                self.capacity,
                format!("at least {} bytes", layout::MIN_CAPACITY.max(page)),
            );
        }
        if self.capacity > layout::MAX_CAPACITY {
            return wrong(
                "capacity",
                self.capacity,
                format!("at most {} bytes", layout::MAX_CAPACITY),
            );
        }
        if !self.capacity.is_power_of_two() {
            let above = self.capacity.next_power_of_two();
            return wrong(
                "capacity",
                self.capacity,
                format!("not a power of two; {} and {above} are", above / 2),
            );
        }
        if self.slots == 0 || self.slots > layout::MAX_SLOTS {
            return wrong(
                "slots",
                self.slots.into(),
                format!("from 1 to {} are possible", layout::MAX_SLOTS),
            );
        }
        Ok(Geometry {
            capacity: self.capacity,
            slots: self.slots,
            lossy: self.lossy,
            single_writer: self.single_writer,
            timestamps: self.timestamps,
            unlink_on_last_leave: self.unlink_on_last_leave,
            start: self.start,
            instance: instance_id(),
            created: crate::segment::now_nanos(),
            creator: std::process::id(),
        })
    }
}

/// Sixteen bytes that no other segment has.
fn instance_id() -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    // RandomState is seeded by the operating system, and differently for each call.
    [
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(process::me().start_time),
    ]
}

/// Makes the file at `path`, whole or not at all.
///
/// `prepare` brings the zeroed memory into its first state, before anybody else can see it.
pub(crate) fn create_at(
    name: &Arc<str>,
    path: &Path,
    shape: &Shape,
    mode: u32,
    prepare: fn(&Segment),
) -> Result<Segment> {
    let geometry = shape.geometry()?;
    let mode = match mode {
        m if m & !0o777 == 0 && m & 0o600 == 0o600 => m,
        m => {
            let why = "permission bits like 0o600, with read and write for the owner".to_owned();
            return Err(Error::InvalidOption {
                option: "mode",
                value: m.into(),
                why,
            });
        }
    };
    let folder = path
        .parent()
        .filter(|f| !f.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Found out before taking memory for it. A name that appears meanwhile is refused by `name_it`.
    if files::facts_of_path(path).is_ok() {
        return Err(already_there(name, path));
    }
    let data_offset = layout::data_offset(geometry.slots, mapping::page_size());
    let header = Segment::header_of(&geometry, data_offset as u64);
    let file = files::new_unnamed(folder, header.file_len, mode)
        .map_err(|e| creation_failed(name, folder, header.file_len, e))?;
    // Mapped and filled while it is still nameless; then it appears at once.
    let segment = map_new(name, Place::Path(path.to_owned()), file, &header, geometry)?;
    prepare(&segment);
    let file = segment.presence.file().expect("mapped from a file").descriptor();
    match files::name_it(file, path) {
        Ok(()) => Ok(segment),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(already_there(name, path)),
        Err(e) => Err(creation_failed(name, folder, header.file_len, e)),
    }
}

/// The name is taken: by a queue, or by a file of somebody else's, which is then worth naming.
fn already_there(name: &Arc<str>, path: &Path) -> Error {
    match files::facts_of_path(path) {
        Ok(facts) if facts.owner != files::effective_user() => Error::ForeignOwner {
            queue: name.clone(),
            owner: facts.owner,
            me: files::effective_user(),
        },
        _ => Error::AlreadyExists { queue: name.clone() },
    }
}

fn creation_failed(name: &Arc<str>, folder: &Path, needed: u64, error: io::Error) -> Error {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOSPC | Errno::EFBIG | Errno::EDQUOT | Errno::ENOMEM => Error::NoSpace {
            queue: name.clone(),
            needed,
            available: files::free_space(folder),
        },
        _ => translate(name, "creating the file", folder, error),
    }
}

/// Makes a memory file that only this process and its forked children have.
pub(crate) fn anonymous(name: &Arc<str>, shape: &Shape, prepare: fn(&Segment)) -> Result<Segment> {
    let geometry = shape.geometry()?;
    let data_offset = layout::data_offset(geometry.slots, mapping::page_size());
    let header = Segment::header_of(&geometry, data_offset as u64);
    let file = files::new_memory_file(FILE_PREFIX, header.file_len)
        .map_err(|e| creation_failed(name, Path::new(files::SHARED_MEMORY), header.file_len, e))?;
    let segment = map_new(name, Place::Anonymous, file, &header, geometry)?;
    prepare(&segment);
    Ok(segment)
}

fn map_new(name: &Arc<str>, place: Place, file: OwnedFd, header: &Header, geometry: Geometry) -> Result<Segment> {
    let os = |doing| {
        move |source| Error::Os {
            doing,
            queue: name.clone(),
            source,
        }
    };
    files::write_all_at(&file, bytemuck::bytes_of(header), 0).map_err(os("writing the header"))?;
    let handle = FileHandle::of_new(file).map_err(os("looking at the new file"))?;
    map(name, place, handle, header.data_offset, geometry, Access::ReadWrite)
}

fn map(
    name: &Arc<str>,
    place: Place,
    file: FileHandle,
    data_offset: u64,
    geometry: Geometry,
    access: Access,
) -> Result<Segment> {
    let mapping = Mapping::new(
        file.descriptor(),
        data_offset as usize,
        geometry.capacity as usize,
        access,
    )
    .map_err(|source| Error::Os {
        doing: "mapping",
        queue: name.clone(),
        source,
    })?;
    let light = barrier::register();
    let control = mapping.control();
    file.note_mapping(control.as_ptr() as usize);
    Ok(Segment {
        name: name.clone(),
        place,
        geometry,
        presence: Presence::File(file),
        born: fork::generation(),
        light,
        // SAFETY: the control part of the mapping is `data_offset` long, which holds both.
        control: unsafe { control.add(layout::CONTROL_OFFSET) }.cast::<Control>(),
        // SAFETY: as above.
        slots: unsafe { control.add(layout::SLOTS_OFFSET) }.cast::<Slot>(),
        data: mapping.data().cast(),
        _memory: Memory::Mapped(mapping),
    })
}

/// Opens the file at `path` after checking everything about it.
pub(crate) fn open_at(name: &Arc<str>, path: &Path, access: Access, any_owner: bool) -> Result<Segment> {
    let file = FileHandle::open(path, access == Access::ReadWrite)
        .map_err(|e| translate(name, "opening the file", path, e))?;
    let (geometry, data_offset) = check(name, &file, any_owner)?;
    map(name, Place::Path(path.to_owned()), file, data_offset, geometry, access)
}

/// A second, read-only view of a segment that this process has.
pub(crate) fn view(segment: &Segment) -> Result<Option<Segment>> {
    let Some(file) = segment.presence.file() else {
        return Ok(None);
    };
    let name = &segment.name;
    let (geometry, data_offset) = check(name, file, true)?;
    let again = file.again();
    map(
        name,
        segment.place.clone(),
        again,
        data_offset,
        geometry,
        Access::ReadOnly,
    )
    .map(Some)
}

/// Everything that must hold before a byte of the file is mapped.
fn check(name: &Arc<str>, file: &FileHandle, any_owner: bool) -> Result<(Geometry, u64)> {
    let queue = || name.clone();
    let not_ours = |why: String| Error::NotAQueue { queue: queue(), why };
    let facts = files::facts_of(file.descriptor()).map_err(|source| Error::Os {
        doing: "looking at the file",
        queue: queue(),
        source,
    })?;
    if !facts.kind.is_file() {
        return Err(not_ours("it is not a regular file".to_owned()));
    }
    let me = files::effective_user();
    if facts.owner != me && !any_owner {
        return Err(Error::ForeignOwner {
            queue: queue(),
            owner: facts.owner,
            me,
        });
    }
    if facts.len == 0 {
        return Err(not_ours("it is empty".to_owned()));
    }
    if facts.len < layout::SLOTS_OFFSET as u64 {
        return Err(not_ours(format!("it is only {} bytes long", facts.len)));
    }
    let mut header = Header {
        ..bytemuck::Zeroable::zeroed()
    };
    files::read_exact_at(file.descriptor(), bytemuck::bytes_of_mut(&mut header), 0).map_err(|source| Error::Os {
        doing: "reading the header",
        queue: queue(),
        source,
    })?;
    if header.magic != layout::MAGIC {
        return Err(not_ours("it does not begin like one".to_owned()));
    }
    if header.byte_order == layout::BYTE_ORDER.swap_bytes() {
        return Err(Error::WrongByteOrder { queue: queue() });
    }
    if header.version != layout::FORMAT_VERSION {
        let (found, supported) = (header.version, layout::FORMAT_VERSION);
        return Err(Error::WrongVersion {
            queue: queue(),
            found,
            supported,
        });
    }
    let corrupt = |what| Error::Corrupt {
        queue: queue(),
        what,
        at: 0,
    };
    if header.checksum != header.sum() {
        return Err(corrupt("checksum of the header"));
    }
    let page = mapping::page_size() as u64;
    let sizes_fit = header.capacity.is_power_of_two()
        && (layout::MIN_CAPACITY..=layout::MAX_CAPACITY).contains(&header.capacity)
        && (1..=layout::MAX_SLOTS).contains(&header.slots)
        && header.slot_size as usize == size_of::<Slot>()
        && u64::from(header.granule) == layout::GRANULE
        && header.options & !layout::OPTIONS_KNOWN == 0
        && header.start.is_multiple_of(layout::GRANULE)
        && header.data_offset >= layout::data_offset(header.slots, 1) as u64
        && header.data_offset.checked_add(header.capacity) == Some(header.file_len);
    if !sizes_fit {
        return Err(corrupt("a size in the header"));
    }
    if !header.data_offset.is_multiple_of(page) || !header.capacity.is_multiple_of(page) {
        return Err(not_ours(format!("it was made for another page size than {page}")));
    }
    if facts.len < header.file_len {
        return Err(Error::Truncated {
            queue: queue(),
            expected: header.file_len,
            found: facts.len,
        });
    }
    let geometry = Geometry {
        capacity: header.capacity,
        slots: header.slots,
        lossy: header.options & layout::OPTION_LOSSY != 0,
        single_writer: header.options & layout::OPTION_SINGLE_WRITER != 0,
        timestamps: header.options & layout::OPTION_TIMESTAMPS != 0,
        unlink_on_last_leave: header.options & layout::OPTION_UNLINK_ON_LAST_LEAVE != 0,
        start: header.start,
        instance: header.instance,
        created: header.created,
        creator: header.creator,
    };
    Ok((geometry, header.data_offset))
}

/// Gives an operating system's error about `path` its variant.
fn translate(name: &Arc<str>, doing: &'static str, path: &Path, source: io::Error) -> Error {
    let queue = name.clone();
    match (source.kind(), Errno::from_raw(source.raw_os_error().unwrap_or(0))) {
        (io::ErrorKind::NotFound, _) => Error::NotFound { queue },
        (io::ErrorKind::AlreadyExists, _) => Error::AlreadyExists { queue },
        (io::ErrorKind::PermissionDenied, _) => {
            let facts: Option<FileFacts> = files::facts_of_path(path).ok();
            Error::PermissionDenied {
                queue,
                owner: facts.map(|f| f.owner),
                mode: facts.map(|f| f.mode),
            }
        }
        (_, Errno::ELOOP) => Error::NotAQueue {
            queue,
            why: "it is a symbolic link".to_owned(),
        },
        (_, Errno::EISDIR) => Error::NotAQueue {
            queue,
            why: "it is a folder".to_owned(),
        },
        (_, Errno::ENXIO) => Error::NotAQueue {
            queue,
            why: "it is not a regular file".to_owned(),
        },
        _ => Error::Os { doing, queue, source },
    }
}

/// Whether the name still leads to this segment's file. Always true for one without a name.
pub(crate) fn is_current(segment: &Segment) -> bool {
    match (&segment.place, segment.presence.file()) {
        (Place::Path(path), Some(file)) => files::facts_of_path(path).is_ok_and(|facts| facts.id == file.id()),
        _ => true,
    }
}

/// Removes the name at `path`, if it is a plain file of this user's. It need not be a queue that could be opened.
pub(crate) fn unlink_at(name: &Arc<str>, path: &Path, any_owner: bool) -> Result<()> {
    let facts = files::facts_of_path(path).map_err(|e| translate(name, "looking at the file", path, e))?;
    let me = files::effective_user();
    if facts.owner != me && !any_owner {
        return Err(Error::ForeignOwner {
            queue: name.clone(),
            owner: facts.owner,
            me,
        });
    }
    if !facts.kind.is_file() {
        let why = "it is not a regular file".to_owned();
        return Err(Error::NotAQueue {
            queue: name.clone(),
            why,
        });
    }
    files::remove_name(path).map_err(|e| translate(name, "removing the file", path, e))
}

/// Makes a segment on this process's heap.
pub(crate) fn heap(name: &Arc<str>, shape: &Shape, prepare: fn(&Segment)) -> Result<Segment> {
    let segment = on_heap(name, shape.geometry()?)?;
    prepare(&segment);
    Ok(segment)
}

/// As [`heap`], for a geometry that is known to be good. (Models use smaller rings than users may.)
pub(crate) fn on_heap(name: &Arc<str>, geometry: Geometry) -> Result<Segment> {
    let block = HeapBlock::new(&geometry).ok_or_else(|| Error::NoSpace {
        queue: name.clone(),
        needed: 2 * geometry.capacity,
        available: None,
    })?;
    let light = barrier::register();
    let (control, slots, data) = block.parts(&geometry);
    Ok(Segment {
        name: name.clone(),
        place: Place::Heap,
        geometry,
        presence: Presence::in_process(),
        born: fork::generation(),
        light,
        control,
        slots,
        data,
        _memory: Memory::Heap(block),
    })
}

/// Zeroed heap memory laid out like a file, except that the data part is really twice as long: there is no second mapping
/// that could make the two copies one, and none is needed, since a record is only ever reached from its beginning.
#[derive(Debug)]
#[cfg(not(loom))]
pub(crate) struct HeapBlock {
    start: NonNull<u8>,
    layout: std::alloc::Layout,
}

#[cfg(not(loom))]
impl HeapBlock {
    fn new(geometry: &Geometry) -> Option<Self> {
        let control = layout::data_offset(geometry.slots, 4096);
        let data = usize::try_from(geometry.capacity.checked_mul(2)?).ok()?;
        let layout = std::alloc::Layout::from_size_align(control.checked_add(data)?, 4096).ok()?;
        if files::is_more_than_memory(layout.size() as u64) {
            return None;
        }
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(HeapBlock { start, layout })
    }

    fn parts(&self, geometry: &Geometry) -> (NonNull<Control>, NonNull<Slot>, NonNull<crate::sys::atomic::AtomicU64>) {
        let data = layout::data_offset(geometry.slots, 4096);
        // SAFETY: all three offsets are inside the allocation made by `new` for the same geometry.
        unsafe {
            (
                self.start.add(layout::CONTROL_OFFSET).cast(),
                self.start.add(layout::SLOTS_OFFSET).cast(),
                self.start.add(data).cast(),
            )
        }
    }
}

#[cfg(not(loom))]
impl Drop for HeapBlock {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this very layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Under loom the atomics are objects of the model, so the parts are built one by one instead of being zeroed bytes.
#[derive(Debug)]
#[cfg(loom)]
pub(crate) struct HeapBlock {
    control: Box<Control>,
    slots: Vec<Slot>,
    data: Vec<crate::sys::atomic::AtomicU64>,
}

#[cfg(loom)]
impl HeapBlock {
    fn new(geometry: &Geometry) -> Option<Self> {
        use crate::sys::atomic::AtomicU64;
        let slot = || Slot {
            cursor: Default::default(),
            identity: Default::default(),
            screen: layout::ScreenText {
                len: AtomicU64::new(0),
                text: std::array::from_fn(|_| AtomicU64::new(0)),
            },
        };
        Some(HeapBlock {
            control: Box::default(),
            slots: (0..geometry.slots).map(|_| slot()).collect(),
            data: (0..geometry.capacity / 4).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    fn parts(&self, _: &Geometry) -> (NonNull<Control>, NonNull<Slot>, NonNull<crate::sys::atomic::AtomicU64>) {
        let first = |p: *const _| NonNull::new(p as *mut _).expect("a vector's pointer is not null");
        (
            NonNull::from(&*self.control),
            NonNull::from(&self.slots[0]),
            first(self.data.as_ptr()),
        )
    }
}
