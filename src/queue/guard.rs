//! A message looked at where it lies.

use super::inbox::Inbox;
use super::message::Message;
use crate::error::Result;
use crate::ring::read::Found;
use std::borrow::Cow;
use std::sync::OnceLock;

/// The next message, still in the ring: nothing of its body was copied. Dropping the guard lets the message go.
///
/// While the guard lives, the reader's cursor keeps every correct member from overwriting the message, so
/// [`copy_to`](Guard::copy_to) needs no second look. What can still pull it away is [`evict`](crate::Queue::evict); then
/// [`check`](Guard::check) says so, and neither the body nor the names that were read before are to be trusted.
///
/// ```
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// let mut reader = queue.reader()?;
/// queue.writer("w")?.append("blob", b"0123456789", Wait::Never)?;
/// {
///     let guard = reader.peek(Wait::Never)?.unwrap();
///     let mut middle = [0; 4];
///     guard.copy_to(3, &mut middle);
///     assert_eq!(&middle, b"3456");
///     guard.keep();
/// }
/// assert_eq!(reader.pop(Wait::Never)?.unwrap().body(), b"0123456789");
/// # Ok(())
/// # }
/// ```
pub struct Guard<'i> {
    inbox: &'i mut Inbox,
    source: Source,
    lets_go: bool,
}

enum Source {
    /// In the ring, with a copy of its names once somebody has asked for them.
    Ring { found: Found, names: OnceLock<Box<[u64]>> },
    /// The first of those that an append of this member has brought home.
    Home,
}

impl<'i> Guard<'i> {
    #[inline(always)]
    pub(super) fn of_ring(inbox: &'i mut Inbox, found: Found) -> Result<Self> {
        inbox.check_still_mine()?;
        let names = OnceLock::new();
        Ok(Guard {
            inbox,
            source: Source::Ring { found, names },
            lets_go: true,
        })
    }

    pub(super) fn of_home(inbox: &'i mut Inbox) -> Self {
        Guard {
            inbox,
            source: Source::Home,
            lets_go: true,
        }
    }

    fn at_home(&self) -> &Message<'static> {
        self.inbox
            .first_at_home()
            .expect("a guard of a message at home is made when there is one")
    }

    /// Sender and kind, back to back, and what is left of a word.
    fn names<'n>(&self, found: &Found, names: &'n OnceLock<Box<[u64]>>) -> &'n [u8] {
        bytemuck::cast_slice(names.get_or_init(|| {
            let mut words = vec![0; found.body_at as usize / 8];
            // Who was evicted may read what somebody is writing; `check` says so.
            self.inbox.ring.copy(found, &mut words, true);
            words.into()
        }))
    }

    /// Who appended it.
    pub fn sender(&self) -> Cow<'_, str> {
        match &self.source {
            Source::Ring { found, names } => {
                let sender = ..usize::from(found.origin.sender_len());
                String::from_utf8_lossy(&self.names(found, names)[sender])
            }
            Source::Home => Cow::Borrowed(self.at_home().sender()),
        }
    }

    /// What kind of message it is.
    pub fn kind(&self) -> Cow<'_, str> {
        match &self.source {
            Source::Ring { found, names } => {
                let after_sender = &self.names(found, names)[found.origin.sender_len().into()..];
                String::from_utf8_lossy(&after_sender[..found.origin.kind_len().into()])
            }
            Source::Home => Cow::Borrowed(self.at_home().kind()),
        }
    }

    /// Length of the body in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Ring { found, .. } => found.body_len as usize,
            Source::Home => self.at_home().body().len(),
        }
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `to.len()` bytes of the body, from byte `from` on.
    ///
    /// # Panics
    ///
    /// If the body has fewer bytes.
    pub fn copy_to(&self, from: usize, to: &mut [u8]) {
        let is_inside = from.checked_add(to.len()).is_some_and(|end| end <= self.len());
        assert!(is_inside, "bytes {from}..+{} of a body of {}", to.len(), self.len());
        // SAFETY: checked to be inside the body, which `body_pointer` answers for; `to` is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(self.body_pointer().add(from), to.as_mut_ptr(), to.len()) };
    }

    /// Where the body begins: [`len`](Guard::len) bytes, aligned to 8, good as long as the guard lives.
    #[inline]
    pub fn body_pointer(&self) -> *const u8 {
        match &self.source {
            Source::Ring { found, .. } => self.inbox.ring.body_pointer(found),
            Source::Home => self.at_home().body().as_ptr(),
        }
    }

    /// The body as a slice, in place.
    ///
    /// # Safety
    ///
    /// The bytes are in memory that other processes can write. The caller answers for it that none does for as long as the
    /// slice is used: that every process on this queue keeps to the protocol, and that nobody [evicts](crate::Queue::evict)
    /// this reader.
    #[inline]
    pub unsafe fn body(&self) -> &[u8] {
        // SAFETY: pointer and length describe the body inside the mapping; that nobody writes is the caller's word.
        unsafe { std::slice::from_raw_parts(self.body_pointer(), self.len()) }
    }

    /// Whether what was read through this guard until now was good.
    ///
    /// # Errors
    ///
    /// [`Error::Evicted`](crate::Error::Evicted) if this reader was evicted meanwhile: throw away what was read.
    pub fn check(&self) -> Result<()> {
        self.inbox.check_process()?;
        self.inbox.check_still_mine()
    }

    /// Ends the guard without letting the message go: the next [`pop`](crate::Reader::pop) gives it again.
    pub fn keep(mut self) {
        self.lets_go = false;
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.source {
            // In a forked child it is the parent's to let go.
            _ if !self.lets_go || !self.inbox.is_of_this_process() => {}
            Source::Ring { found, .. } => self.inbox.finish(&found),
            Source::Home => drop(self.inbox.next_at_home()),
        }
    }
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("sender", &self.sender())
            .field("kind", &self.kind())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
