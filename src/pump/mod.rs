//! Streams, and the [`Pump`] between them: what comes from one channel goes into another, no faster than that takes it.
//!
//! | | |
//! |---|---|
//! | [`ReadStream`] | what items come from: told who gets them, paused and resumed |
//! | [`WriteStream`] | what items go into: written to, full at a mark, drained, ended |
//! | [`Pump`] | from the one into the other, with back-pressure, end and errors, and a count |
//! | [`Tee`] | one stream into several sinks |
//! | [`MemoryStream`] | both in one, within a thread |
//! | [`EventLoop`] | makes streams of [channels](crate::channel) and calls the handlers |
//!
//! Every channel is a stream in both roles: pipes, sockets and queues are pumped into each other without caring which is which. A slow sink pauses
//! its source, so memory stays within the sink's mark and one item.
//!
//! ```
//! use std::process::{Command, Stdio};
//! use syncq::channel::PipeChannel;
//! use syncq::pump::{EventLoop, Pump};
//! use syncq::{Queue, Wait};
//! # use syncq::channel::Buffering;
//! # use syncq::pump::{Item, StreamError, WriteStream};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut child = Command::new("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
//! let (mut end, sink) = PipeChannel::pipe()?;
//!
//! let events = EventLoop::new()?;
//! let source = events.add(PipeChannel::reading(child.stdout.take().expect("it is piped")));
//! let pump = Pump::new(source, events.add(sink));
//! pump.start();
//! let outcome = pump.run(&events, Wait::Forever)?.expect("it waited for ever");
//! println!("{} bytes, {:?}", outcome.bytes, outcome.result);
//! # assert_eq!(outcome.bytes, 6);
//! # child.wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where bytes are copied
//!
//! A pump that nobody [looks into](Pump::inspect) has the kernel move the pages (`splice`) from a pipe or socket into a pipe or a Unix socket, and from
//! a pipe into a file. Where somebody looks, what is shown is copied once, and the pages go on as before; into several sinks they go doubled (`tee`).
//! All else is read and written. Pipes are made larger where the system allows it. Which goes where: `docs/pump.md`.
//!
//! # Async
//!
//! With the feature `tokio`, the module `asynchronous` has queues and channels for that runtime.
//!
//! # Threads
//!
//! A loop, its streams and its pumps stay in the thread that made them. Make one in each thread that pumps.

#[cfg(feature = "tokio")]
pub mod asynchronous;
mod channel;
mod direct;
mod error;
mod events;
mod item;
mod memory;
mod pumping;
mod relay;
mod stream;
mod tee;

pub use channel::ChannelStream;
pub use error::{Outcome, PumpError, StreamError};
pub use events::{Canceller, EventLoop};
pub use item::Item;
pub use memory::MemoryStream;
pub use pumping::Pump;
pub use stream::{DataHandler, Done, EndHandler, ExceptionHandler, FailureHandler, ReadStream, WriteStream};
pub use tee::Tee;
