//! What a reader does not want to hear.

use crate::ring::Ring;
use crate::ring::sleep::ANY_KIND;
use crate::sys::futex::EVERY_BIT;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

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
    senders: Names,
    kinds: Names,
    hears_own: bool,
    /// 0 at first, and another number after each change, of this screen or any other. A copy has that of its original.
    edition: u64,
}

static EDITIONS: AtomicU64 = AtomicU64::new(0);

/// Names to be passed over.
#[derive(Debug, Clone, Default)]
struct Names {
    whole: BTreeSet<Box<[u8]>>,
    /// One for each of them. For most messages this tells that their name is none of these.
    outlines: Vec<Outline>,
}

/// What of a name fits in two words: all of one of at most 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outline {
    len: usize,
    /// The first 8 bytes, little-endian; zeros behind the end.
    first: u64,
}

impl Outline {
    /// Of a name of `len` bytes that begins with the bytes of `first`, whatever is behind its end.
    #[inline]
    pub(super) fn new(len: usize, first: u64) -> Self {
        let kept = if len < 8 { !(u64::MAX << (8 * len)) } else { u64::MAX };
        Outline {
            len,
            first: first & kept,
        }
    }

    fn of(name: &[u8]) -> Self {
        let mut first = [0; 8];
        let len = name.len().min(8);
        first[..len].copy_from_slice(&name[..len]);
        Outline::new(name.len(), u64::from_le_bytes(first))
    }
}

/// What an outline tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Heard,
    PassedOver,
    /// The names have to be looked at whole.
    Unclear,
}

impl Names {
    fn insert(&mut self, name: &[u8]) -> bool {
        let is_new = self.whole.insert(name.into());
        if is_new {
            self.outlines.push(Outline::of(name));
        }
        is_new
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let was_there = self.whole.remove(name);
        if was_there {
            self.outlines = self.whole.iter().map(|name| Outline::of(name)).collect();
        }
        was_there
    }

    #[inline]
    fn judge(&self, outline: impl Fn() -> Outline) -> Verdict {
        if self.outlines.is_empty() {
            return Verdict::Heard;
        }
        let outline = outline();
        match self.outlines.contains(&outline) {
            false => Verdict::Heard,
            true if outline.len <= 8 => Verdict::PassedOver,
            true => Verdict::Unclear,
        }
    }
}

impl Screen {
    pub(super) fn new(hears_own: bool) -> Self {
        let mut screen = Screen::default();
        // A change, so that a screen that hears its own is shown as such.
        screen.hear_own(hears_own);
        screen
    }

    /// Passes over messages from `sender` from now on.
    pub fn add_sender(&mut self, sender: impl AsRef<[u8]>) -> &mut Self {
        let is_changed = self.senders.insert(sender.as_ref());
        self.change(is_changed);
        self
    }

    /// Hears `sender` again.
    pub fn remove_sender(&mut self, sender: impl AsRef<[u8]>) -> &mut Self {
        let is_changed = self.senders.remove(sender.as_ref());
        self.change(is_changed);
        self
    }

    /// Whether messages from `sender` are passed over.
    pub fn has_sender(&self, sender: impl AsRef<[u8]>) -> bool {
        self.senders.whole.contains(sender.as_ref())
    }

    /// Passes over messages of this kind from now on.
    #[doc(alias = "add_type")]
    pub fn add_kind(&mut self, kind: impl AsRef<[u8]>) -> &mut Self {
        let is_changed = self.kinds.insert(kind.as_ref());
        self.change(is_changed);
        self
    }

    /// Hears messages of this kind again.
    #[doc(alias = "remove_type")]
    pub fn remove_kind(&mut self, kind: impl AsRef<[u8]>) -> &mut Self {
        let is_changed = self.kinds.remove(kind.as_ref());
        self.change(is_changed);
        self
    }

    /// Whether messages of this kind are passed over.
    #[doc(alias = "has_type")]
    pub fn has_kind(&self, kind: impl AsRef<[u8]>) -> bool {
        self.kinds.whole.contains(kind.as_ref())
    }

    /// Whether the member pops its own messages.
    pub fn hear_own(&mut self, yes: bool) -> &mut Self {
        self.change(self.hears_own != yes);
        self.hears_own = yes;
        self
    }

    /// The senders passed over, in order.
    pub fn senders(&self) -> impl Iterator<Item = &[u8]> {
        self.senders.whole.iter().map(|name| &**name)
    }

    /// The kinds passed over, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &[u8]> {
        self.kinds.whole.iter().map(|name| &**name)
    }

    /// Whether there is anything to compare names with.
    #[inline]
    pub(super) fn looks_at_names(&self) -> bool {
        !(self.senders.outlines.is_empty() && self.kinds.outlines.is_empty())
    }

    /// What the outlines of a sender and a kind tell.
    #[inline]
    pub(super) fn judge(&self, sender: impl Fn() -> Outline, kind: impl Fn() -> Outline) -> Verdict {
        let of_kind = self.kinds.judge(kind);
        if of_kind == Verdict::PassedOver {
            return of_kind;
        }
        match self.senders.judge(sender) {
            Verdict::Heard => of_kind,
            other => other,
        }
    }

    #[inline]
    pub(super) fn hears_own(&self) -> bool {
        self.hears_own
    }

    pub(super) fn passes(&self, sender: &[u8], kind: &[u8]) -> bool {
        !self.senders.whole.contains(sender) && !self.kinds.whole.contains(kind)
    }

    fn change(&mut self, is_changed: bool) {
        if is_changed {
            self.edition = EDITIONS.fetch_add(1, Ordering::Relaxed) + 1;
        }
    }

    /// Two screens of the same edition are the same.
    #[inline]
    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    /// The wake-up bits of what it does not screen.
    pub(super) fn wake_bits(&self, ring: &Ring) -> u32 {
        let screened = self
            .kinds
            .whole
            .iter()
            .filter_map(|kind| ring.own_bit_of_kind(kind))
            .fold(0, |bits, bit| bits | bit);
        match screened {
            0 => ANY_KIND,
            _ => EVERY_BIT & !(screened | ANY_KIND),
        }
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_outline_tells_short_names_apart_and_leaves_long_ones_open() {
        let mut names = Names::default();
        for name in ["", "a", "exactly8", "longer than eight"] {
            assert!(names.insert(name.as_bytes()));
            assert!(!names.insert(name.as_bytes()));
        }
        let judge = |names: &Names, name: &str| names.judge(|| Outline::of(name.as_bytes()));
        for name in ["", "a", "exactly8"] {
            assert_eq!(judge(&names, name), Verdict::PassedOver, "{name}");
        }
        for name in ["b", "aa", "exactly9", "exactly", "longer than eighty"] {
            assert_eq!(judge(&names, name), Verdict::Heard, "{name}");
        }
        for name in ["longer than eight", "longer tHAN EIGHT"] {
            assert_eq!(judge(&names, name), Verdict::Unclear, "{name}");
        }
        assert!(names.remove(b"a") && !names.remove(b"a"));
        assert_eq!(judge(&names, "a"), Verdict::Heard);
        // What stands behind a short name in the ring does not count.
        assert_eq!(Outline::new(1, u64::from_le_bytes(*b"a tail..")), Outline::of(b"a"));
    }
}
