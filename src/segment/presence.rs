//! Which slots are held by which live process.
//!
//! Slot *i* of a file-backed segment is held by whoever has the record lock on byte *i* of its file; the kernel lets it go
//! at death. Everything here goes through the process's one lock (`sys::fork::exclusive`), because record locks do
//! not tell threads apart and because closing any descriptor of a file drops all locks on it: a process keeps its
//! descriptors of a file together and closes them together, when the last segment on it is gone.
//!
//! Not here: what a slot holds, and what to do about a dead member (`ring::members`, `ring::recover`).

use crate::sys::files::{self, FileId};
use crate::sys::process::{self, Identity, Trace};
use crate::sys::{fork, record_lock};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A file, once per process, with all descriptors that the process has of it.
#[derive(Debug)]
pub(crate) struct SharedFile {
    id: FileId,
    read_only: OnceLock<OwnedFd>,
    writable: OnceLock<OwnedFd>,
    /// Descriptors that turned out to be of a file that was already here. Closing one would drop the locks.
    spare: Mutex<Vec<OwnedFd>>,
    held: Held,
    /// How `/proc/<pid>/maps` shows this file.
    mapped_as: OnceLock<String>,
}

/// Slots held by this very process; a forked child starts with none.
#[derive(Debug, Default)]
struct Held(HeldLock<(u64, HashSet<u16>)>);

#[cfg(not(loom))]
type HeldLock<T> = Mutex<T>;
/// In a model, who finds a slot given back sees everything that was written before; with files the kernel sees to that.
#[cfg(loom)]
type HeldLock<T> = loom::sync::Mutex<T>;

impl Held {
    fn with<T>(&self, use_it: impl FnOnce(&mut HashSet<u16>) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fork::generation();
        if held.0 != now {
            *held = (now, HashSet::new());
        }
        use_it(&mut held.1)
    }
}

/// All files of this process. Locked only inside `fork::exclusive`.
static OPEN: Mutex<Vec<Arc<SharedFile>>> = Mutex::new(Vec::new());

fn open_files() -> std::sync::MutexGuard<'static, Vec<Arc<SharedFile>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one handle on a file that a segment keeps. Dropping the last one of a file closes its descriptors. `None` only at the
/// very end of the drop.
#[derive(Debug)]
pub(crate) struct FileHandle(Option<Arc<SharedFile>>);

impl FileHandle {
    /// For a file made just now.
    pub(crate) fn of_new(file: OwnedFd) -> io::Result<Self> {
        let _one_at_a_time = fork::exclusive();
        let id = files::facts_of(&file)?.id;
        Ok(Self::register(id, file, true))
    }

    /// Opens what stands under `path`, or finds it among the files that are open already.
    pub(crate) fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let _one_at_a_time = fork::exclusive();
        let facts = files::facts_of_path(path)?;
        // Before opening: merely opening a FIFO or a device can do something.
        files::must_be_regular(&facts)?;
        let id = facts.id;
        let known = open_files().iter().find(|f| f.id == id).cloned();
        if let Some(known) = known
            && known.usable(writable)
        {
            return Ok(FileHandle(Some(known)));
        }
        let file = files::open_existing(path, writable)?;
        // The name may have been given to another file meanwhile, so ask the descriptor.
        let id = files::facts_of(&file)?.id;
        Ok(Self::register(id, file, writable))
    }

    fn register(id: FileId, file: OwnedFd, writable: bool) -> Self {
        let mut open = open_files();
        let shared = match open.iter().find(|f| f.id == id) {
            Some(known) => known.clone(),
            None => {
                let fresh = Arc::new(SharedFile {
                    id,
                    read_only: OnceLock::new(),
                    writable: OnceLock::new(),
                    spare: Mutex::default(),
                    held: Held::default(),
                    mapped_as: OnceLock::new(),
                });
                open.push(fresh.clone());
                fresh
            }
        };
        let place = if writable { &shared.writable } else { &shared.read_only };
        if let Err(second) = place.set(file) {
            shared.spare.lock().unwrap_or_else(PoisonError::into_inner).push(second);
        }
        FileHandle(Some(shared))
    }

    fn shared(&self) -> &SharedFile {
        self.0.as_ref().expect("only its drop takes it")
    }

    /// Any descriptor of the file: the writable one where there is one.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        self.shared().descriptor()
    }

    pub(crate) fn id(&self) -> FileId {
        self.shared().id
    }

    /// Another handle on the same file.
    pub(crate) fn again(&self) -> Self {
        let _one_at_a_time = fork::exclusive();
        FileHandle(self.0.clone())
    }

    /// Remembers how the file shows up in `/proc`, given an address where it is mapped.
    pub(crate) fn note_mapping(&self, address: usize) {
        // Also because a child forked in the middle of a `set` would wait for it for ever.
        let _one_at_a_time = fork::exclusive();
        if self.shared().mapped_as.get().is_none()
            && let Some(name) = process::name_of_mapping(address)
        {
            let _ = self.shared().mapped_as.set(name);
        }
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        let _one_at_a_time = fork::exclusive();
        let Some(file) = self.0.take() else { return };
        // This handle and the list: nobody else.
        if Arc::strong_count(&file) == 2 {
            open_files().retain(|f| f.id != file.id);
        }
        // Closed before anybody else of this process may open the file anew: closing it later would take their locks.
        drop(file);
    }
}

impl SharedFile {
    fn usable(&self, writable: bool) -> bool {
        self.writable.get().is_some() || (!writable && self.read_only.get().is_some())
    }

    fn descriptor(&self) -> &OwnedFd {
        self.writable
            .get()
            .or(self.read_only.get())
            .expect("a shared file has a descriptor from the start")
    }
}

/// Whether the member in a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This process holds the slot.
    ThisProcess,
    /// Another live process does.
    Another,
    /// Nobody: whoever the slot names is dead.
    Nobody,
}

/// Tells, takes and gives back slots.
#[derive(Debug)]
pub(crate) enum Presence {
    /// Slots are bytes of a file.
    File(FileHandle),
    /// Slots belong to threads of this process, which do not die apart from it.
    Process(HeldSlots),
}

/// Slots of a heap-backed segment.
#[derive(Debug, Default)]
pub(crate) struct HeldSlots(Held);

impl Presence {
    pub(crate) fn in_process() -> Self {
        Presence::Process(HeldSlots::default())
    }

    pub(crate) fn file(&self) -> Option<&FileHandle> {
        match self {
            Presence::File(file) => Some(file),
            Presence::Process(_) => None,
        }
    }

    fn held(&self) -> &Held {
        match self {
            Presence::File(file) => &file.shared().held,
            Presence::Process(slots) => &slots.0,
        }
    }

    /// Takes slot `index` for this process, if nobody holds it. The caller is inside `fork::exclusive`.
    pub(crate) fn take(&self, index: u16) -> io::Result<bool> {
        if self.held().with(|held| held.contains(&index)) {
            return Ok(false);
        }
        if let Presence::File(file) = self
            && !record_lock::try_lock(file.descriptor(), index)?
        {
            return Ok(false);
        }
        self.held().with(|held| held.insert(index));
        Ok(true)
    }

    /// Gives slot `index` back. The caller is inside `fork::exclusive`.
    pub(crate) fn give_back(&self, index: u16) {
        self.held().with(|held| held.remove(&index));
        if let Presence::File(file) = self {
            record_lock::unlock(file.descriptor(), index);
        }
    }

    /// Whether the member that slot `index` names, `whom`, lives.
    pub(crate) fn holder(&self, index: u16, whom: &Identity) -> Holder {
        let is_mine = {
            // `held` is a lock of its own, and must not be left locked in a child by a thread that it does not have.
            let _one_at_a_time = fork::exclusive();
            self.held().with(|held| held.contains(&index))
        };
        if is_mine {
            return Holder::ThisProcess;
        }
        match self {
            Presence::Process(_) => Holder::Nobody,
            Presence::File(file) => match record_lock::is_held_by_another(file.descriptor(), index) {
                Ok(true) => Holder::Another,
                Ok(false) if self.lives_without_lock(whom) => Holder::Another,
                Ok(false) => Holder::Nobody,
                // Not knowing is no proof of death.
                Err(_) => Holder::Another,
            },
        }
    }

    /// The lock is free. That is proof of death unless the process lost it by closing some other descriptor of the file,
    /// which only code outside this library can do. Then it still runs, under the same number since the same time,
    /// and still maps the file; after an `exec` it runs but does not map it.
    pub(crate) fn lives_without_lock(&self, whom: &Identity) -> bool {
        let Presence::File(file) = self else { return false };
        let me = process::me();
        // This process knows its own slots, and this one is not among them.
        if *whom == me {
            return false;
        }
        match process::trace(whom, &me) {
            Trace::Gone => false,
            // Hidden by a PID namespace, or no /proc: the lock alone decides.
            Trace::Unknown => false,
            Trace::Runs => match file.shared().mapped_as.get() {
                // Not allowed to look: rather wait for somebody than rob him.
                Some(name) => process::maps_file(whom.pid, name).unwrap_or(true),
                None => true,
            },
        }
    }
}
