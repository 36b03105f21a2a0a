//! What goes through a stream.
//!
//! Not here: how it is cut into items; that is the channel's business.

use std::sync::Arc;

/// One thing that goes through a stream: what one read of a pipe or socket gave, a line, or a message of a queue.
///
/// ```
/// use syncq::pump::Item;
///
/// let item = Item::from("half way").with_kind("progress");
/// assert_eq!((item.bytes(), item.kind()), (&b"half way"[..], Some("progress")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    bytes: Vec<u8>,
    kind: Option<Arc<str>>,
    sender: Option<Arc<str>>,
    /// Of a stream of bytes, which has no borders to keep.
    pub(super) is_divisible: bool,
}

impl Item {
    /// The bytes: of a line with its end, unless the channel was told to strip it; of a message its body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes alone.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Which kind of message it is. [`None`] if it comes from something that knows no kinds.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Who appended it to the queue that it comes from. Not carried over to another queue: there the writer is the sender.
    pub fn sender(&self) -> Option<&str> {
        self.sender.as_deref()
    }

    /// The same, as a message of this kind, where it comes to a queue.
    pub fn with_kind(self, kind: &str) -> Self {
        self.with_names(Some(kind.into()), None)
    }

    /// Of a stream of bytes.
    pub(super) fn divisible(bytes: Vec<u8>) -> Self {
        Item {
            is_divisible: true,
            ..bytes.into()
        }
    }

    pub(super) fn with_names(mut self, kind: Option<Arc<str>>, sender: Option<Arc<str>>) -> Self {
        self.kind = kind;
        self.sender = sender;
        self
    }
}

impl From<Vec<u8>> for Item {
    fn from(bytes: Vec<u8>) -> Self {
        Item {
            bytes,
            ..Item::default()
        }
    }
}

impl From<&[u8]> for Item {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}
