//! What a reader does not want to hear.

use crate::ring::Ring;
use crate::sys::futex::EVERY_BIT;
use std::collections::BTreeSet;

/// The senders and kinds that a [`Member`](crate::Member), [`Reader`](crate::Reader) or [`Observer`](crate::Observer)
/// passes over.
///
/// A message is screened if its sender *or* its kind is in the screen, or if it is the member's own. Names are compared
/// exactly, byte by byte. The screen acts when messages are popped, so a change acts on everything not popped yet; what was
/// passed over does not come back. Screened messages are not copied, and a sleeping reader is not woken for a kind that it
/// screens.
///
/// One exception to "acts at pop": a member whose [`append`](crate::Member::append) has to wait for room that its own unread
/// messages take goes through them then, and passes over what its screen says at that moment.
///
/// ```
/// use syncq::{Queue, Wait};
///
/// # fn main() -> syncq::Result<()> {
/// let queue = Queue::options().heap()?;
/// let mut log = queue.reader()?;
/// log.screen().add_kind("debug").add_sender("chatterbox");
/// let mut worker = queue.writer("worker")?;
/// worker.append("debug", b"x = 1", Wait::Never)?;
/// worker.append("result", b"42", Wait::Never)?;
/// assert_eq!(log.pop(Wait::Never)?.unwrap().kind(), "result");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Screen {
    senders: BTreeSet<Box<[u8]>>,
    kinds: BTreeSet<Box<[u8]>>,
    hears_own: bool,
    is_changed: bool,
}

impl Screen {
    pub(super) fn new(hears_own: bool) -> Self {
        // Changed, so that a screen that hears its own is shown as such.
        Screen {
            hears_own,
            is_changed: hears_own,
            ..Screen::default()
        }
    }

    /// Passes over messages from `sender` from now on.
    pub fn add_sender(&mut self, sender: impl AsRef<[u8]>) -> &mut Self {
        self.is_changed |= self.senders.insert(sender.as_ref().into());
        self
    }

    /// Hears `sender` again.
    pub fn remove_sender(&mut self, sender: impl AsRef<[u8]>) -> &mut Self {
        self.is_changed |= self.senders.remove(sender.as_ref());
        self
    }

    /// Whether messages from `sender` are passed over.
    pub fn has_sender(&self, sender: impl AsRef<[u8]>) -> bool {
        self.senders.contains(sender.as_ref())
    }

    /// Passes over messages of this kind from now on.
    #[doc(alias = "add_type")]
    pub fn add_kind(&mut self, kind: impl AsRef<[u8]>) -> &mut Self {
        self.is_changed |= self.kinds.insert(kind.as_ref().into());
        self
    }

    /// Hears messages of this kind again.
    #[doc(alias = "remove_type")]
    pub fn remove_kind(&mut self, kind: impl AsRef<[u8]>) -> &mut Self {
        self.is_changed |= self.kinds.remove(kind.as_ref());
        self
    }

    /// Whether messages of this kind are passed over.
    #[doc(alias = "has_type")]
    pub fn has_kind(&self, kind: impl AsRef<[u8]>) -> bool {
        self.kinds.contains(kind.as_ref())
    }

    /// Whether the member pops its own messages.
    pub fn hear_own(&mut self, yes: bool) -> &mut Self {
        self.is_changed |= self.hears_own != yes;
        self.hears_own = yes;
        self
    }

    /// The senders passed over, in order.
    pub fn senders(&self) -> impl Iterator<Item = &[u8]> {
        self.senders.iter().map(|name| &**name)
    }

    /// The kinds passed over, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &[u8]> {
        self.kinds.iter().map(|name| &**name)
    }

    /// Whether there is anything to compare names with.
    #[inline]
    pub(super) fn looks_at_names(&self) -> bool {
        !(self.senders.is_empty() && self.kinds.is_empty())
    }

    #[inline]
    pub(super) fn hears_own(&self) -> bool {
        self.hears_own
    }

    pub(super) fn passes(&self, sender: &[u8], kind: &[u8]) -> bool {
        !self.senders.contains(sender) && !self.kinds.contains(kind)
    }

    /// Whether it was changed since [`Screen::take_change`].
    #[inline]
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether it was changed since the last call.
    #[inline]
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// The wake-up bits of what it does not screen.
    pub(super) fn wake_bits(&self, ring: &Ring) -> u32 {
        let screened = self
            .kinds
            .iter()
            .filter_map(|kind| ring.own_bit_of_kind(kind))
            .fold(0, |bits, bit| bits | bit);
        EVERY_BIT & !screened
    }

    /// As others are shown it.
    pub(super) fn describe(&self) -> String {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let senders = self.senders().map(|s| format!("sender:{}", name(s)));
        let kinds = self.kinds().map(|k| format!("kind:{}", name(k)));
        let own = self.hears_own.then(|| "hears own".to_owned());
        senders.chain(kinds).chain(own).collect::<Vec<_>>().join(", ")
    }
}
