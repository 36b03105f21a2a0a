//! What users hold of a node: send, request, stop; and the handler that they give it.

use super::config::Config;
use super::error::PoolError;
use super::identity::Identity;
use super::message::Message;
use super::node::{How, Node};
use super::outcome::Outcome;
use super::run::Loop;
use crate::wait::{Deadline, Wait};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// What is done with a message that comes in and is no answer.
///
/// Any `Fn(&Chirp, Message)` is one; it may return nothing, or a [`Result`] whose error (anything that can be displayed) the sender is told. A panic
/// counts as an error. Handlers run on several threads at a time, and may block: [`send`](Chirp::send), [`request`](Chirp::request) and wait
/// for the outcome.
///
/// To answer, change the message's data and [send](Chirp::send) it back.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message.
    ///
    /// # Errors
    ///
    /// What the sender is told, if it is a node of this library that waits for an answer or the release.
    fn handle(&self, chirp: &Chirp, message: Message) -> Result<(), String>;
}

/// What a handler may return.
pub trait Handled {
    /// Whether it was handled well.
    ///
    /// # Errors
    ///
    /// Why not.
    fn handled(self) -> Result<(), String>;
}

impl Handled for () {
    fn handled(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> Handled for Result<(), E> {
    fn handled(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

impl<F, R> Handler for F
where
    F: Fn(&Chirp, Message) -> R + Send + Sync + 'static,
    R: Handled,
{
    fn handle(&self, chirp: &Chirp, message: Message) -> Result<(), String> {
        self(chirp, message).handled()
    }
}

/// How a message is sent, where it is not as the [`Config`] says.
///
/// ```
/// use std::time::Duration;
/// use syncq::pool::SendOptions;
///
/// let patient = SendOptions::new().within(Duration::from_secs(60));
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use]
pub struct SendOptions {
    within: Option<Wait>,
    is_held: bool,
}

impl SendOptions {
    /// As configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long all of it may take: waiting for room, connecting, waiting behind others, being written, and then being released
    /// (where the node is synchronous) or answered.
    ///
    /// Without: a request has the node's [`timeout`](Config::timeout) for all of it; another message has the
    /// [`connect_timeout`](Config::connect_timeout) to be on its way, and then the timeout to be released.
    pub fn within(mut self, wait: impl Into<Wait>) -> Self {
        self.within = Some(wait.into());
        self
    }

    /// Whether the answer to a request is released as soon as it is there. Otherwise it [holds a slot](Message::has_slot) until it is released or dropped, and a
    /// synchronous answerer waits for that. Default: true.
    pub fn auto_release(mut self, auto_release: bool) -> Self {
        self.is_held = !auto_release;
        self
    }

    fn how(self, is_request: bool) -> How {
        let due = self.within.map(|wait| match Deadline::of(wait) {
            Deadline::Now => Some(Instant::now()),
            Deadline::At(instant) => Some(instant),
            Deadline::None => None,
        });
        How {
            is_request,
            due,
            is_held: self.is_held,
        }
    }
}

/// A node: sends messages to others, and has a handler for those that come.
///
/// ```
/// use syncq::pool::{Chirp, Config, Loop, Message};
///
/// let looper = Loop::new()?;
/// let config = Config::new().port(0).disable_encryption(true);
/// let echo = Chirp::new(&looper, config.clone(), |chirp: &Chirp, mut message: Message| {
///     message.set_data(message.text_lossy().to_uppercase());
///     chirp.send(message);
/// })?;
/// let client = Chirp::new(&looper, config, |_: &Chirp, _: Message| {})?;
///
/// let answer = client.request(Message::to(echo.local_address(), "hello")?).result()?;
/// assert_eq!(answer.data(), b"HELLO");
/// client.stop(std::time::Duration::from_secs(1))?;
/// echo.stop(std::time::Duration::from_secs(1))?;
/// # Ok::<(), syncq::pool::PoolError>(())
/// ```
///
/// Cloning gives another handle to the same node. When the last is dropped, the node stops, as by [`stop`](Chirp::stop) with its
/// timeout.
///
/// # Fork
///
/// A node does not go into a forked child: it lacks the threads. There every call fails with [`PoolError::Forked`], and dropping it does nothing.
#[derive(Clone)]
pub struct Chirp {
    node: Arc<Node>,
    /// What stops the node when its last one goes. A handler's has none.
    _life: Option<Arc<Life>>,
}

struct Life {
    node: Arc<Node>,
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.node.stop(&Deadline::of(Wait::For(self.node.config.timeout)));
    }
}

impl Chirp {
    /// A node on this loop, with this handler.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`], [`PoolError::Bind`] if the port is taken or the address not its own, [`PoolError::LoopStopped`],
    /// [`PoolError::Os`].
    pub fn new(on: &Loop, config: Config, handler: impl Handler) -> Result<Self, PoolError> {
        let looper = on.enter()?;
        match Node::new(looper.clone(), config, Box::new(handler)) {
            Ok(node) => Ok(Chirp {
                _life: Some(Arc::new(Life { node: node.clone() })),
                node,
            }),
            Err(error) => {
                looper.leave();
                Err(error)
            }
        }
    }

    /// For a handler: it does not keep the node running.
    pub(crate) fn inside(node: Arc<Node>) -> Self {
        Chirp { node, _life: None }
    }

    /// What others see as the remote identity of its messages. Another one after each start, unless [configured](Config::identity).
    pub fn identity(&self) -> Identity {
        self.node.identity
    }

    /// Where it listens; the choice of the system where 0 was configured, and 0 where it does not listen.
    pub fn port(&self) -> u16 {
        self.node.port()
    }

    /// Where it is reached from this machine, by TCP.
    pub fn local_address(&self) -> SocketAddr {
        let config = &self.node.config;
        match (config.bind_v4, config.bind_v6) {
            (Some(ip), _) if !ip.is_unspecified() => (ip, self.port()).into(),
            (Some(_), _) => (Ipv4Addr::LOCALHOST, self.port()).into(),
            (None, Some(ip)) if !ip.is_unspecified() => (ip, self.port()).into(),
            (None, _) => (Ipv6Addr::LOCALHOST, self.port()).into(),
        }
    }

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.node.config
    }

    /// Removes the queues of a node that was killed, for those who know that it will not be started again: its next start would remove them
    /// as well. Says whether there were any.
    ///
    /// # Errors
    ///
    /// [`PoolError::NameInUse`] if a live node has that name; [`PoolError::Queue`].
    pub fn remove_queues(name: &str) -> Result<bool, PoolError> {
        super::local::remove(name)
    }

    /// Sends a message. The outcome is the message itself: once the peer has released it (synchronous), or the operating system has it
    /// (asynchronous). Sending a message that was received releases it.
    ///
    /// Waits for room if the peer's send queue is full and the policy is [`Block`](super::SendPolicy::Block), as long as the message may take.
    pub fn send(&self, message: Message) -> Outcome {
        self.send_with(message, SendOptions::new())
    }

    /// As [`send`](Chirp::send).
    pub fn send_with(&self, message: Message, options: SendOptions) -> Outcome {
        self.node.send(message, options.how(false))
    }

    /// Sends a message and expects an answer: another message with its identity, from whomever. That is the outcome. An answer that comes when nobody waits for
    /// it any more, and every further one, goes to the handler.
    pub fn request(&self, message: Message) -> Outcome {
        self.request_with(message, SendOptions::new())
    }

    /// As [`request`](Chirp::request).
    pub fn request_with(&self, message: Message, options: SendOptions) -> Outcome {
        self.node.send(message, options.how(true))
    }

    /// Stops in good order: takes and sends nothing new (nodes of this library are told), lets handlers finish and what they send go out, waits for what is on its way; as
    /// long as `wait` says. What is left then fails with [`PoolError::ShuttingDown`], and messages that nobody has released are released.
    ///
    /// Called in a handler, it does not wait for that handler. The second time it only waits for the first.
    ///
    /// # Errors
    ///
    /// [`PoolError::Unreleased`] if messages were not released in time; it has stopped all the same. [`PoolError::Forked`].
    pub fn stop(&self, wait: impl Into<Wait>) -> Result<(), PoolError> {
        self.node.stop(&Deadline::of(wait.into()))
    }
}

impl fmt::Debug for Chirp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chirp")
            .field("identity", &self.node.identity)
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}
