//! Lines over HTTP: a [line buffer](crate::line) with a route of its own, and mirrors and readers of it elsewhere.
//!
//! [`LineHostBuffer`] is served, [`LineHostMirror`] writes to it, [`LineHostReader`] reads it and is its remote control; a browser that opens
//! the route sees the lines as they come. They speak the protocol of the Python package `syncstream`, in both directions: its mirrors
//! and readers work with a `LineHostBuffer`, and ours with its server. `docs/host.md` in the repository says what goes over the
//! wire, and what is better here.
//!
//! ```
//! use std::{io::Write, time::Duration};
//! use syncq::host::{LineHostBuffer, LineHostMirror, LineHostReader};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let buffer = LineHostBuffer::options().maxlen(10).token("secret").build()?;
//! let service = buffer.serve("127.0.0.1:0")?;
//!
//! let mut mirror = LineHostMirror::options().name("worker-1").token("secret").connect(service.url())?;
//! writeln!(mirror, "half way")?;
//! mirror.finish(Duration::from_secs(5))?;
//!
//! let reader = LineHostReader::options().token("secret").connect(service.url())?;
//! let last = &reader.read(1)?[0];
//! assert_eq!((last.text(), last.origin.as_ref().unwrap().name.as_str()), ("half way".into(), "worker-1"));
//! # Ok(())
//! # }
//! ```

mod answer;
mod body;
mod client;
mod item;
mod mirror;
mod page;
mod reader;
mod registry;
mod sender;
mod server;
mod service;
mod spool;
mod stall;
mod text;
mod wire;

pub use mirror::{HostReport, LineHostMirror, LineHostMirrorOptions};
pub use reader::{LineHostReader, LineHostReaderOptions};
pub use server::{HostLimits, LineHostBuffer, LineHostOptions};
pub use service::HostService;
