//! Lines: what workers print, log and fail with, read in one place.
//!
//! A *buffer* keeps the last items and is read; a *mirror* is written to and leads to a buffer. [`LineBuffer`] is for one process.
//! Names and meaning are those of the Python package `syncstream`; `docs/lines.md` in the repository has the table of names and of what
//! is better here.
//!
//! ```
//! use std::io::Write;
//! use syncq::line::{LineBuffer, Lines, Mirror};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let buffer = LineBuffer::new(20)?;
//! let mut worker = buffer.mirror("worker-1");
//! writeln!(worker, "half {}", "way")?;
//! worker.send_error(&"and then it broke")?;
//! for item in &buffer {
//!     println!("{}", item?.printable());
//! }
//! # Ok(())
//! # }
//! ```

mod breaks;
mod buffer;
mod buffer_mirror;
mod error;
mod frame;
mod item;
pub(crate) mod mirror;
pub(crate) mod pending;
mod proc;
mod proc_mirror;
mod store;
mod workers;

pub use breaks::split_lines;
pub use buffer::{LineBuffer, LineBufferOptions};
pub use buffer_mirror::LineBufferMirror;
pub use error::{LineError, Result};
pub use item::{Content, Ending, GroupedMessage, Level, Line, LineItem, Lost, Origin, Record, Severity, Stream, Value};
pub use mirror::{Follow, Lines, Mirror};
pub use proc::{LineProcBuffer, LineProcBufferOptions, Receiving};
pub use proc_mirror::{LineProcMirror, WhenFull};
pub use store::LineStats;
