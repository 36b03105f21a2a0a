//! The side that reads, over HTTP, and the remote control: `LineHostReader`.

use super::client::{Client, ClientOptions, Failure, Reply, ask_state};
use super::item::{MEDIA_TYPE, read_item};
use super::wire::read_plain_item;
use crate::line::{Follow, LineError, LineItem, Lines, Result};
use crate::wait::{Deadline, Wait};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;
use std::time::Duration;

/// How long the service is asked to wait for news in one request.
const POLL: Duration = Duration::from_secs(20);

/// What a request for items may take beyond its wait.
const SLACK: Duration = Duration::from_secs(10);

/// Choices for a [`LineHostReader`].
#[derive(Clone)]
pub struct LineHostReaderOptions {
    client: ClientOptions,
}

impl fmt::Debug for LineHostReaderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineHostReaderOptions")
            .field("timeout", &self.client.timeout)
            .field("token", &self.client.token.as_ref().map(|_| "..."))
            .finish()
    }
}

impl LineHostReaderOptions {
    /// Sends `Authorization: Bearer TOKEN`.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.client.token = Some(token.into());
        self
    }

    /// How long one request may take. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }

    /// Makes the reader. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`].
    pub fn connect(self, address: &str) -> Result<LineHostReader> {
        Ok(LineHostReader {
            client: self.client.client(address)?,
        })
    }
}

/// Reads a line service over HTTP, clears it, and stops its mirrors: a [`LineHostBuffer`](super::LineHostBuffer), or the original's.
///
/// From the original come plain items, without number, time or origin, and following it ([`Lines::read_since`],
/// [`wait_for`](Lines::wait_for), [`next_seq`](Lines::next_seq), [`follow`](LineHostReader::follow)) is [`LineError::Remote`]: it cannot tell what
/// is new.
///
/// ```
/// use syncq::host::{LineHostBuffer, LineHostReader};
/// use syncq::line::Lines;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let buffer = LineHostBuffer::new("/sync-stream", 10)?;
/// let service = buffer.serve("127.0.0.1:0")?;
/// buffer.write("a\nb\n")?;
///
/// let reader = LineHostReader::new(service.url())?;
/// assert_eq!(reader.read(1)?[0].text(), "b");
/// reader.clear()?;
/// assert_eq!(reader.len()?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineHostReader {
    client: Client,
}

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Full<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next_seq: u64,
}

impl LineHostReader {
    /// A reader of the service at `address`, such as `http://127.0.0.1:5000/sync-stream`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`LineError::InvalidOption`].
    pub fn new(address: &str) -> Result<Self> {
        Self::options().connect(address)
    }

    /// All choices.
    pub fn options() -> LineHostReaderOptions {
        LineHostReaderOptions {
            client: ClientOptions::DEFAULT,
        }
    }

    /// The last `n` items, oldest first; `None` for all. Pending lines come last and count.
    ///
    /// # Errors
    ///
    /// [`LineError::Remote`].
    pub fn read(&self, n: impl Into<Option<usize>>) -> Result<Vec<LineItem>> {
        let url = match n.into() {
            Some(n) => format!("{}?n={n}", self.client.address()),
            None => self.client.address().to_owned(),
        };
        let accept = format!("{MEDIA_TYPE}, application/json");
        let reply = self
            .client
            .get(&url, &accept, None)
            .map_err(|f| f.into_error("reading", &url))?;
        if reply.media_type == MEDIA_TYPE {
            return Ok(full(&reply, &url)?.0);
        }
        let text = std::str::from_utf8(&reply.body).map_err(|e| self.strange(e))?;
        let plain: Plain<'_> = serde_json::from_str(text).map_err(|e| self.strange(e))?;
        plain
            .data
            .into_iter()
            .map(|raw| read_plain_item(raw).map_err(|e| self.strange(e)))
            .collect()
    }

    /// The items that are there and those that come; see [`Lines::follow_from`].
    pub fn follow(&self, wait: impl Into<Wait>) -> Follow<'_> {
        self.follow_from(0, wait.into())
    }

    /// Whether the mirrors were told to stop.
    ///
    /// # Errors
    ///
    /// [`LineError::Remote`].
    pub fn closed(&self) -> Result<bool> {
        Ok(self.state("closed")? == serde_json::Value::Bool(true))
    }

    /// How many items are there, pending lines included. (The original says one more.)
    ///
    /// # Errors
    ///
    /// [`LineError::Remote`].
    pub fn len(&self) -> Result<usize> {
        let count = self
            .state("curlen")?
            .as_u64()
            .and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.strange("it is no number"))
    }

    /// Whether nothing is there.
    ///
    /// # Errors
    ///
    /// [`LineError::Remote`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.read(1)?.is_empty())
    }

    fn state(&self, name: &str) -> Result<serde_json::Value> {
        let url = self.client.state_url(name);
        Ok(ask_state(&self.client, name)
            .map_err(|f| f.into_error("asking", &url))?
            .data)
    }

    fn strange(&self, why: impl fmt::Display) -> LineError {
        Failure::Lost(format!("the answer is not that of a line service: {why}"))
            .into_error("reading", self.client.address())
    }

    fn set_state(&self, value: &str) -> Result<()> {
        let url = format!("{}-state", self.client.address());
        let body = format!(r#"{{"state": "closed", "value": "{value}"}}"#);
        self.client
            .post(&url, body.as_bytes())
            .map_err(|f| f.into_error("stopping the mirrors at", &url))?;
        Ok(())
    }

    /// Items from a number on, after waiting for the first of them, and the next number.
    fn since(&self, seq: u64, n: usize, wait: Duration) -> Result<(Vec<LineItem>, u64)> {
        let url = format!("{}?since={seq}&n={n}&wait={}", self.client.address(), wait.as_millis());
        let reply = self
            .client
            .get(&url, MEDIA_TYPE, Some(wait + SLACK))
            .map_err(|f| f.into_error("reading", &url))?;
        if reply.media_type != MEDIA_TYPE {
            return Err(self.strange("items without numbers; it is the original's service, which cannot be followed"));
        }
        full(&reply, &url)
    }
}

fn full(reply: &Reply, url: &str) -> Result<(Vec<LineItem>, u64)> {
    let strange = |why: String| Failure::Lost(format!("items that are none: {why}")).into_error("reading", url);
    let text = std::str::from_utf8(&reply.body).map_err(|e| strange(e.to_string()))?;
    let full: Full<'_> = serde_json::from_str(text).map_err(|e| strange(e.to_string()))?;
    let items = full
        .items
        .into_iter()
        .map(|raw| read_item(raw.get()).map_err(strange))
        .collect::<Result<_>>()?;
    Ok((items, full.next_seq))
}

impl Lines for LineHostReader {
    fn read_items(&self, n: Option<usize>) -> Result<Vec<LineItem>> {
        self.read(n)
    }

    fn read_since(&self, seq: u64, n: usize) -> Result<Vec<LineItem>> {
        Ok(self.since(seq, n, Duration::ZERO)?.0)
    }

    fn wait_for(&self, seq: u64, wait: Wait) -> Result<bool> {
        let deadline = Deadline::of(wait);
        loop {
            let patience = deadline.cap(POLL);
            if self.since(seq, 0, patience)?.1 > seq {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            // A service that is ending answers at once.
            std::thread::sleep(deadline.cap(Duration::from_millis(20)));
        }
    }

    fn next_seq(&self) -> Result<u64> {
        Ok(self.since(u64::MAX, 0, Duration::ZERO)?.1)
    }

    fn clear(&self) -> Result<()> {
        let url = self.client.address();
        self.client.delete(url).map_err(|f| f.into_error("clearing", url))?;
        Ok(())
    }

    /// Asked of the service; 0 if it does not say. (The original does not, after `reset_states`.)
    fn maxlen(&self) -> usize {
        let maxlen = self.state("maxlen").ok().and_then(|value| value.as_u64());
        maxlen.and_then(|maxlen| usize::try_from(maxlen).ok()).unwrap_or(0)
    }

    fn stop_all_mirrors(&self) -> Result<()> {
        self.set_state("true")
    }

    fn reset_states(&self) -> Result<()> {
        let url = format!("{}-state", self.client.address());
        self.client.delete(&url).map_err(|f| f.into_error("resetting", &url))?;
        Ok(())
    }

    /// [`closed`](LineHostReader::closed); `false` if the service does not say.
    fn is_stopped(&self) -> bool {
        self.closed().unwrap_or(false)
    }
}
