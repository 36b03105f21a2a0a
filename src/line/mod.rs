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
mod capture;
mod desk;
mod drain;
mod error;
mod file;
mod file_format;
mod frame;
mod item;
#[cfg(feature = "log")]
mod log_sink;
pub(crate) mod mirror;
pub(crate) mod pending;
mod proc;
mod proc_mirror;
mod proc_options;
mod quiet;
#[cfg(any(feature = "log", feature = "tracing"))]
mod sink;
mod store;
#[cfg(feature = "tracing")]
mod tracing_sink;
mod workers;

pub use breaks::split_lines;
pub use buffer::{LineBuffer, LineBufferOptions};
pub use buffer_mirror::LineBufferMirror;
pub use capture::{Capture, CapturedChild, Streams, capture, sync_captures};
pub use error::{LineError, Result};
pub use file::{LineFileBuffer, LineFileBufferOptions};
pub use item::{Content, Ending, GroupedMessage, Level, Line, LineItem, Lost, Origin, Record, Severity, Stream, Value};
#[cfg(feature = "log")]
pub use log_sink::LineLog;
pub use mirror::{Follow, Lines, Mirror};
pub use proc::{LineProcBuffer, Receiving};
pub use proc_mirror::{LineProcMirror, WhenFull};
pub use proc_options::LineProcBufferOptions;
pub use quiet::{Quiet, is_quiet, quiet};
pub use store::LineStats;
#[cfg(feature = "tracing")]
pub use tracing_sink::LineLayer;
