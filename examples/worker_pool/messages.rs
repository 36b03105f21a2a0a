//! What parent and workers say to each other: kinds of messages, and what their bodies hold.
//!
//! | kind | from | body |
//! |---|---|---|
//! | `task` | parent, in a mailbox | number of the file, path |
//! | `stop` | parent, in a mailbox | |
//! | `result` | worker, in the log | [`Finding`] |
//! | `unreadable` | worker, in the log | number of the file, why |
//! | `warning` | worker, in the log | number of the file, what |
//! | `progress` | worker, in the log | text |
//!
//! Each task is answered by exactly one `result` or `unreadable`.

use crate::analyse::Figures;
use bytemuck::{Pod, Zeroable};

pub const TASK: &str = "task";
pub const STOP: &str = "stop";
pub const RESULT: &str = "result";
pub const UNREADABLE: &str = "unreadable";
pub const WARNING: &str = "warning";
pub const PROGRESS: &str = "progress";

/// Body of a `result`: a plain value, sent as it lies in memory.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Finding {
    pub number: u64,
    pub figures: Figures,
}

/// Body of what is about a file and not a [`Finding`]: its number, then bytes of any length.
pub fn numbered(number: u64, rest: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes(), rest].concat()
}

/// The reverse of [`numbered`]; `None` if `body` is none.
pub fn split_number(body: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = body.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}
