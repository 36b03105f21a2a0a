//! What a reader gets.

use super::MemberId;
use crate::error::{Error, Result};
use crate::ring::read::Found;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// A message: sender, kind and body, copied out of the ring.
///
/// One type for both: as [`pop`](crate::Reader::pop) returns it, it borrows the reader's buffer;
/// [`into_owned`](Message::into_owned) makes it last. The body begins at a multiple of 8 bytes in memory.
///
/// Sender and kind are text. Bytes that are not UTF-8, which no member of this library writes, show as `"\u{fffd}"`.
#[derive(Clone)]
pub struct Message<'a> {
    words: Cow<'a, [u64]>,
    found: Found,
}

impl<'a> Message<'a> {
    #[inline(always)]
    pub(super) fn new(words: Cow<'a, [u64]>, found: Found) -> Self {
        debug_assert_eq!(words.len(), found.words());
        Message { words, found }
    }

    /// Bytes that it took in the ring.
    pub(super) fn size_in_ring(&self) -> u64 {
        self.found.end.wrapping_sub(self.found.position)
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// Who appended it: the name it joined with.
    pub fn sender(&self) -> &str {
        std::str::from_utf8(self.sender_bytes()).unwrap_or("\u{fffd}")
    }

    /// What kind of message it is: PySyncQ's type.
    pub fn kind(&self) -> &str {
        std::str::from_utf8(self.kind_bytes()).unwrap_or("\u{fffd}")
    }

    /// [`sender`](Message::sender) as it stands in the ring.
    pub fn sender_bytes(&self) -> &[u8] {
        &self.bytes()[..usize::from(self.found.origin.sender_len())]
    }

    /// [`kind`](Message::kind) as it stands in the ring.
    pub fn kind_bytes(&self) -> &[u8] {
        let start = usize::from(self.found.origin.sender_len());
        &self.bytes()[start..start + usize::from(self.found.origin.kind_len())]
    }

    /// The body.
    #[inline]
    pub fn body(&self) -> &[u8] {
        &self.bytes()[self.found.body_at as usize..][..self.found.body_len as usize]
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// [`std::str::Utf8Error`] if it is none; the message is still there, and [`body`](Message::body) has it.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self.body())
    }

    /// The body as text, with `\u{fffd}` for what is none.
    pub fn text_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.body())
    }

    /// The body as a value of a plain type, as `append_pod` sent it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSize`] if the body is not exactly as long as a `T`.
    pub fn pod<T: bytemuck::AnyBitPattern>(&self) -> Result<T> {
        let body = self.body();
        bytemuck::try_pod_read_unaligned(body).map_err(|_| Error::WrongSize {
            expected: size_of::<T>(),
            found: body.len(),
        })
    }

    /// Where it is in the ring: bytes appended before it since the queue was made, each message rounded up to a multiple of 64.
    pub fn position(&self) -> u64 {
        self.found.position
    }

    /// Its number: how many messages (and aborted reservations) were appended before it since the queue was made.
    pub fn sequence(&self) -> u64 {
        self.found.sequence
    }

    /// When it was appended, on a queue with [timestamps](crate::QueueOptions::timestamps).
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self.found.time {
            0 => None,
            nanos => SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos)),
        }
    }

    /// Which member appended it. Tells members of the same name apart, also over time.
    pub fn member(&self) -> MemberId {
        MemberId {
            slot: self.found.origin.slot(),
            generation: self.found.origin.generation(),
        }
    }

    /// The same message, borrowing nothing.
    pub fn into_owned(self) -> Message<'static> {
        Message {
            words: Cow::Owned(self.words.into_owned()),
            found: self.found,
        }
    }
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("sender", &self.sender())
            .field("kind", &self.kind())
            .field("body", &self.text_lossy())
            .field("position", &self.position())
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

/// Messages are equal if sender, kind and body are.
impl PartialEq for Message<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.sender_bytes() == other.sender_bytes()
            && self.kind_bytes() == other.kind_bytes()
            && self.body() == other.body()
    }
}

impl Eq for Message<'_> {}

/// Room for one message at a time, used again and again; see [`pop_into`](crate::Reader::pop_into).
#[derive(Debug, Default)]
pub struct Buffer {
    words: Vec<u64>,
}

impl Buffer {
    /// An empty one; it grows to the largest message that goes through it.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with room for `bytes` of sender, kind and body together.
    pub fn with_capacity(bytes: usize) -> Self {
        Buffer {
            words: Vec::with_capacity(bytes.div_ceil(8)),
        }
    }

    /// The first `words` words, whatever they hold.
    #[inline(always)]
    pub(super) fn get(&mut self, words: usize) -> &mut [u64] {
        if self.words.len() < words {
            self.grow(words);
        }
        &mut self.words[..words]
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, words: usize) {
        self.words.resize(words, 0);
    }
}
