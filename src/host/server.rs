//! The buffer with a route of its own: `LineHostBuffer`, its choices and limits.
//!
//! Not here: sockets and threads (`service.rs`), and what is answered to which request (`answer.rs`).

use super::registry::Registry;
use super::service::{HostService, bind};
use crate::line::{
    Follow, GroupedMessage, LineBuffer, LineBufferOptions, LineError, LineItem, LineStats, Lines, Mirror, Record,
    Result, Stream,
};
use crate::wait::Wait;
use std::fmt;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How much a [`LineHostBuffer`] takes from the network. Who goes beyond gets a 4xx code and words that name the limit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostLimits {
    /// Bytes of the body of one request; 413 beyond. Default: 16 MiB (in JSON a byte can take six).
    pub body: usize,
    /// Bytes of one line in a request; 413 beyond. Lines over [`line_cap`](crate::line::LineBufferOptions::line_cap), which is lower, are
    /// taken and cut. Default: 8 MiB.
    pub line: usize,
    /// Lines in one request; 413 beyond. Default: 200,000.
    pub items: usize,
    /// Connections at a time; 429 beyond. Default: 256.
    pub connections: usize,
    /// Connections that follow, among these; 429 beyond. Default: 32.
    pub followers: usize,
    /// Bytes of all bodies that are on their way in or out; 429 beyond. Default: 64 MiB.
    pub in_flight: usize,
    /// How long a head, a body, or the taking of an answer may stall before the connection is closed; a connection that is kept alive
    /// may also be idle this long. Default: 30 s.
    pub stall: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        HostLimits {
            body: 16 << 20,
            line: 8 << 20,
            items: 200_000,
            connections: 256,
            followers: 32,
            in_flight: 64 << 20,
            stall: Duration::from_secs(30),
        }
    }
}

/// Choices for a [`LineHostBuffer`].
#[derive(Clone)]
pub struct LineHostOptions {
    pub(super) route: String,
    lines: LineBufferOptions,
    pub(super) token: Option<String>,
    pub(super) limits: HostLimits,
    pub(super) is_beyond_loopback: bool,
    pub(super) hosts: Vec<String>,
    pub(super) shares_tails: bool,
}

impl fmt::Debug for LineHostOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineHostOptions")
            .field("route", &self.route)
            .field("lines", &self.lines)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("limits", &self.limits)
            .field("is_beyond_loopback", &self.is_beyond_loopback)
            .field("hosts", &self.hosts)
            .field("shares_tails", &self.shares_tails)
            .finish()
    }
}

impl Default for LineHostOptions {
    fn default() -> Self {
        LineHostOptions {
            route: "/sync-stream".into(),
            lines: LineBuffer::options().max_bytes(16 << 20),
            token: None,
            limits: HostLimits::default(),
            is_beyond_loopback: false,
            hosts: Vec::new(),
            shares_tails: false,
        }
    }
}

impl LineHostOptions {
    /// Where it is found: a path that begins with `/`. The state is beside it, at the route with `-state` after it. Default:
    /// `/sync-stream`.
    pub fn route(mut self, route: impl Into<String>) -> Self {
        self.route = route.into();
        self
    }

    /// How many items are kept, at least 1. Default: 20.
    pub fn maxlen(mut self, items: usize) -> Self {
        self.lines = self.lines.maxlen(items);
        self
    }

    /// All choices of the buffer within. Default: those of [`LineBuffer::options`], but for at most 16 MiB of text.
    pub fn lines(mut self, lines: LineBufferOptions) -> Self {
        self.lines = lines;
        self
    }

    /// Refuses requests without `Authorization: Bearer TOKEN`, with 401. (The page for people is shown, empty; it asks for the token.)
    /// The original's clients cannot send one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Changes the limits.
    pub fn limits(mut self, change: impl FnOnce(&mut HostLimits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Lets [`serve`](LineHostBuffer::serve) bind addresses that other machines reach. Whoever reaches it without a token reads everything,
    /// writes, clears, and stops all mirrors; and all of it goes over the wire as it is. Put it behind a proxy with TLS.
    pub fn beyond_loopback(mut self) -> Self {
        self.is_beyond_loopback = true;
        self
    }

    /// Another name that the `Host` of a request may have, without a port. A service on loopback without a token otherwise takes only
    /// `localhost` and addresses, so that no web page can reach it by a name of its own that leads to 127.0.0.1.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into().to_ascii_lowercase());
        self
    }

    /// One pending line for all of the original's mirrors, as the original has it, instead of one for each connection. For proxies
    /// that send the requests of one client over several connections. Then unfinished tails of two mirrors can get into one line.
    pub fn share_tails(mut self) -> Self {
        self.shares_tails = true;
        self
    }

    /// Makes the buffer.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`].
    pub fn build(self) -> Result<LineHostBuffer> {
        let wrong = |option, why: &str| {
            Err(LineError::InvalidOption {
                option,
                why: why.into(),
            })
        };
        let is_path = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '"' | '<' | '>' | '\\');
        if !self.route.starts_with('/') || !self.route.chars().all(is_path) {
            return wrong("route", "it begins with / and has only plain ASCII characters");
        }
        if self
            .token
            .as_ref()
            .is_some_and(|t| t.is_empty() || !t.chars().all(|c| c.is_ascii_graphic()))
        {
            return wrong("token", "it has at least one character, all of them visible ASCII");
        }
        let limits = &self.limits;
        let counts = [
            limits.body,
            limits.line,
            limits.items,
            limits.connections,
            limits.followers,
            limits.in_flight,
        ];
        if counts.contains(&0) || limits.stall.is_zero() {
            return wrong("limits", "each is at least 1");
        }
        let lines = self.lines.clone().build()?;
        Ok(LineHostBuffer {
            registry: Arc::new(Mutex::new(Registry::new(lines.clone(), self.shares_tails))),
            lines,
            options: Arc::new(self),
        })
    }
}

/// Keeps the last lines that were written over HTTP, by our mirrors and the original's, and gives them to readers, followers and browsers.
///
/// It is a [`LineBuffer`] that [`serve`](LineHostBuffer::serve) puts on the network. A clone is the same buffer.
///
/// # Who it understands
///
/// The mirrors and readers of the Python package `syncstream`, byte for byte as they are, and [`LineHostMirror`](super::LineHostMirror) and
/// [`LineHostReader`](super::LineHostReader). The original's mirrors have a pending line for each connection; ours only send whole lines.
///
/// ```
/// use syncq::host::{LineHostBuffer, LineHostMirror};
/// use syncq::Wait;
/// use std::{io::Write, time::Duration};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let buffer = LineHostBuffer::new("/sync-stream", 10)?;
/// let service = buffer.serve("127.0.0.1:0")?; // a port from the kernel
///
/// let mut mirror = LineHostMirror::new(service.url())?;
/// writeln!(mirror, "test line 1")?;
/// mirror.finish(Wait::For(Duration::from_secs(5)))?;
///
/// assert_eq!(buffer.read(None)?[0].text(), "test line 1");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LineHostBuffer {
    pub(super) lines: LineBuffer,
    pub(super) registry: Arc<Mutex<Registry>>,
    pub(super) options: Arc<LineHostOptions>,
}

impl LineHostBuffer {
    /// A buffer for the last `maxlen` items, at `route`.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`].
    pub fn new(route: impl Into<String>, maxlen: usize) -> Result<Self> {
        Self::options().route(route).maxlen(maxlen).build()
    }

    /// All choices.
    pub fn options() -> LineHostOptions {
        LineHostOptions::default()
    }

    /// Serves it at an address (`"127.0.0.1:5000"`; port 0 for one from the kernel), on a thread of its own, until what is returned is
    /// dropped or told to stop. May be called again for a further address.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`] for an address beyond loopback without
    /// [`beyond_loopback`](LineHostOptions::beyond_loopback), [`LineError::Io`] where it cannot be bound.
    pub fn serve(&self, address: impl ToSocketAddrs) -> Result<HostService> {
        let listener = bind(address, self.options.is_beyond_loopback)?;
        HostService::start(self.clone(), listener)
    }

    /// The buffer within.
    pub fn lines(&self) -> &LineBuffer {
        &self.lines
    }

    /// Where it is found.
    pub fn route(&self) -> &str {
        &self.options.route
    }

    /// See [`LineBuffer::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write(&self, text: impl AsRef<[u8]>) -> Result<usize> {
        self.lines.write(text)
    }

    /// See [`LineBuffer::read`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read(&self, n: impl Into<Option<usize>>) -> Result<Vec<LineItem>> {
        self.lines.read(n)
    }

    /// See [`LineBuffer::len`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn len(&self) -> Result<usize> {
        self.lines.len()
    }

    /// See [`LineBuffer::is_empty`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn is_empty(&self) -> Result<bool> {
        self.lines.is_empty()
    }

    /// See [`LineBuffer::follow`].
    pub fn follow(&self, wait: impl Into<Wait>) -> Follow<'_> {
        self.lines.follow(wait)
    }

    /// See [`LineBuffer::stats`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn stats(&self) -> Result<LineStats> {
        self.lines.stats()
    }
}

/// Writing on this side, beside the mirrors.
impl Mirror for LineHostBuffer {
    fn write_bytes(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        self.lines.write_bytes(stream, bytes)
    }

    fn new_line(&self) -> Result<()> {
        self.lines.new_line()
    }

    fn flush(&self) -> Result<()> {
        Mirror::flush(&self.lines)
    }

    fn send(&self, message: &GroupedMessage) -> Result<()> {
        self.lines.send(message)
    }

    fn send_record(&self, record: &Record) -> Result<()> {
        self.lines.send_record(record)
    }

    fn send_eof(&self) -> Result<()> {
        self.lines.send_eof()
    }

    /// Forgets everything and closes the buffer. A service of it goes on, and answers 410 to what concerns the lines.
    fn close(&self) -> Result<()> {
        self.lines.close()
    }
}

impl Lines for LineHostBuffer {
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>> {
        self.lines.read_items(n)
    }

    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>> {
        self.lines.read_since(seq, n)
    }

    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool> {
        self.lines.wait_for(seq, wait)
    }

    fn next_seq(&self) -> Result<u64> {
        self.lines.next_seq()
    }

    fn clear(&self) -> Result<()> {
        self.lines.clear()
    }

    fn maxlen(&self) -> usize {
        self.lines.maxlen()
    }

    fn stop_all_mirrors(&self) -> Result<()> {
        self.lines.stop_all_mirrors()
    }

    fn reset_states(&self) -> Result<()> {
        self.lines.reset_states()
    }

    fn is_stopped(&self) -> bool {
        self.lines.is_stopped()
    }
}
