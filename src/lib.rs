//! Processes on one machine that talk through one named piece of shared memory.
//!
//! Any number of processes append messages to a queue, any number read it, every reader sees every message that it does not
//! screen, and all see them in one order. There is no daemon. Every wait has a timer. Whoever is killed, at whatever
//! instruction, the others go on.
//!
//! ```
//! use std::time::Duration;
//! use syncq::{Queue, Wait};
//!
//! # fn main() -> syncq::Result<()> {
//! # let name = format!("doc-{}", std::process::id());
//! let queue = Queue::options().capacity(1 << 20).create(&name)?; // others: Queue::open(&name)
//! let mut log = queue.reader()?;
//! let mut me = queue.join("worker-1")?;
//! me.append("progress", b"half way", Wait::For(Duration::from_secs(1)))?;
//! while let Some(m) = log.pop(Wait::For(Duration::from_millis(10)))? {
//!     println!("{} {} {}", m.sender(), m.kind(), m.text_lossy());
//! }
//! # queue.unlink()
//! # }
//! ```
//!
//! # The tour
//!
//! * [`Queue`] is the way in: make or open one by [name](QueueOptions::create), by [path](QueueOptions::create_at),
//!   [without a name](QueueOptions::anonymous) for forked children, or on the [heap](QueueOptions::heap) for threads.
//! * Take a role: [`Member`] writes and reads, [`Writer`] only writes, [`Reader`] only reads and is waited for, [`Observer`]
//!   reads along and holds nobody back.
//! * Write: [`append`](Writer::append), [`append_all`](Writer::append_all) for a batch that appears at once,
//!   [`reserve`](Writer::reserve) to fill in place.
//! * Read: [`pop`](Reader::pop), [`drain`](Reader::drain), [`messages`](Reader::messages), [`peek`](Reader::peek) without
//!   copying. Pass over what you do not want to hear with a [`Screen`].
//! * Look: [`members`](Queue::members), [`stats`](Queue::stats). Mend: [`reap`](Queue::reap), [`evict`](Queue::evict),
//!   [`unlink`](Queue::unlink).
//!
//! # What it does not do
//!
//! It does not cross machines, survive a power loss, or protect against a malicious process of the same user: permissions are
//! the border. It keeps no more messages than the ring holds. It runs on Linux.
//!
//! `docs/guarantees.md` in the repository says what is promised and which test shows it, `docs/segment-format.md` what the
//! bytes mean.

#![deny(missing_docs)]
#![warn(unreachable_pub)]

pub mod channel;
mod error;
#[cfg(feature = "host")]
pub mod host;
pub mod line;
#[cfg(feature = "pool")]
pub mod pool;
pub mod pump;
mod queue;
mod ring;
mod segment;
mod sys;
mod wait;

pub use error::{Error, Full, Result, Slowest};
pub use queue::{
    Buffer, Doorbell, Drain, Guard, Joining, Member, MemberId, MemberInfo, Message, Messages, Observer, Overflow,
    Queue, QueueOptions, Reader, Reservation, Screen, Stats, Writer,
};
pub use ring::members::{Role, Start};
pub use wait::Wait;
