//! All choices about a node, under libchirp's names: each with its default, its range, and what is wrong with a value outside.
//!
//! Not here: what a node does with them.

use super::identity::Identity;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// What happens to a message when the send queue of its peer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SendPolicy {
    /// The sender waits for room as long as its message may take.
    #[default]
    Block,
    /// The message fails at once.
    Fail,
    /// The message that waits longest in the queue fails, and makes room.
    DropOldest,
}

/// Choices for a [`Chirp`](super), as libchirp's `Config`: the same options in snake case, with the same defaults, and some of ours.
///
/// Set fields as in Python, or chain the methods of the same names; a node checks them when it is made, as
/// [`validate`](Config::validate) does.
///
/// ```
/// use std::time::Duration;
/// use syncq::pool::Config;
///
/// let mut config = Config::new().port(0).timeout(Duration::from_secs(2));
/// config.disable_encryption = true;
/// config.validate()?;
///
/// config.max_slots = 33;
/// let error = config.validate().unwrap_err();
/// assert_eq!(error.to_string(), "Config: max_slots is 33, and must be 0 to 32");
/// # Ok::<(), syncq::pool::ConfigError>(())
/// ```
///
/// # Names that libchirp does not have
///
/// [`bind_v4`](Config::bind_v4) and [`bind_v6`](Config::bind_v6) may be `None`; [`port`](Config::port) may be 0;
/// `send_queue_…`, `handshake_timeout`, `workers`, `always_encrypt` (in C a call, for the whole process) and `queue…` are new.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Every message of this node is to be acknowledged: sending has succeeded when the peer's application has released the
    /// message, and one message per peer is on its way at a time. Otherwise sending has succeeded when the operating system has
    /// the bytes. Default: true.
    pub synchronous: bool,
    /// A message is released when its handler returns. Otherwise the application releases it. Default: true.
    pub auto_release: bool,
    /// How many messages of one connection may be held by the application at a time, 0 to 32; while all are held, the connection is
    /// not read. 0 stands for 16, and for 1 if [`synchronous`](Config::synchronous), where it is 1 whatever is said here: see
    /// [`slots`](Config::slots). Default: 0.
    pub max_slots: u8,
    /// How long a message may take to be sent, and in synchronous mode to be released; how long a request may take to be
    /// answered. Connecting may take twice that, a minute at most. 0.1 to 1200 seconds. Default: 5 s.
    pub timeout: Duration,
    /// Connections that were idle for longer are closed, within twice that. 0.5 to 3600 seconds; where it is less than three
    /// [`timeout`](Config::timeout)s, it counts as that much: see [`idle_limit`](Config::idle_limit). Default: 30 s.
    pub reuse_time: Duration,
    /// Where to listen: 0 or from 1025 on. 0 has the system choose, and the choice advertised. Default: 2998.
    pub port: u16,
    /// How many connections may wait to be accepted, 0 to 127. Default: 100.
    pub backlog: u8,
    /// The IPv4 address to listen at; `None` for not at all. Default: 0.0.0.0, which is all.
    pub bind_v4: Option<Ipv4Addr>,
    /// The IPv6 address to listen at; `None` for not at all. A machine without IPv6 is no error as long as this is [`::`](Ipv6Addr::UNSPECIFIED)
    /// and `bind_v4` is not `None`. Default: `::`, which is all.
    pub bind_v6: Option<Ipv6Addr>,
    /// Bytes read at once from a connection: 0 or from 1024 on. 0 stands for 65,536: see [`read_buffer`](Config::read_buffer).
    /// Default: 0.
    pub buffer_size: u32,
    /// The most bytes, header and data together, of a message that is received; its connection is closed otherwise. Also sending a
    /// longer one is an error. Any value. (In libchirp `MAX_MSG_SIZE`.) Default: 104,857,600 (100 MiB).
    pub max_message_size: u32,
    /// The node's identity; `None`, or 16 zeros, for a random one. Default: `None`.
    pub identity: Option<Identity>,
    /// A file with private key, certificate and the authority's certificate. Needed unless
    /// [`disable_encryption`](Config::disable_encryption). Default: `None`.
    pub cert_chain_pem: Option<PathBuf>,
    /// A file with parameters of a key exchange that neither TLS 1.3 nor this library has. It must exist if it is named, so that
    /// a configuration made for libchirp is taken as it is; nothing is read from it. Default: `None`.
    pub dh_params_pem: Option<PathBuf>,
    /// Never encrypt. Default: false.
    pub disable_encryption: bool,
    /// Taken for configurations made for libchirp. This library never touches signals, whatever is said here. Default: false.
    pub disable_signals: bool,
    /// How many times a message is tried again after no connection could be made, with a pause that doubles, and never beyond the message's
    /// time. A connection that was made and lost before any byte of the message was written does not count: the message goes over the next one,
    /// as long as its time lasts. Nor does an attempt that timed out and had begun before the message came. A message that may have reached
    /// the peer is never sent twice. Any value. Default: 0.
    pub retries: u8,
    /// How many messages may wait to be sent to one peer, from 1 on. Default: 1000.
    pub send_queue_messages: usize,
    /// How many bytes may wait to be sent to one peer, from 1 on; a message of more may wait alone. Default: 67,108,864 (64 MiB).
    pub send_queue_bytes: usize,
    /// What happens when a send queue is full. Default: [`SendPolicy::Block`].
    pub send_queue_policy: SendPolicy,
    /// How long a new connection may take until its handshake (and that of TLS, if any) is there. 0.01 to 1200 seconds. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Threads that run handlers, 0 to 4096. 0 stands for four more than there are processors, 32 at most, as in Python: see
    /// [`worker_count`](Config::worker_count). Default: 0.
    pub workers: usize,
    /// Encrypt also what goes to 127.0.0.1 and ::1, and expect the same of others; not together with
    /// [`disable_encryption`](Config::disable_encryption). Default: false.
    pub always_encrypt: bool,
    /// The name of this node's queue: others on this machine then reach it as `queue:NAME`, without a network. A name as
    /// [`Queue`](crate::Queue)s have them, of at most 64 bytes. Default: `None`.
    pub queue: Option<String>,
    /// Bytes of that queue's ring: a power of two from 4096 to 2^40. Default: 1,048,576 (1 MiB).
    pub queue_capacity: u64,
    /// How long threads that wait for something from a queue look for it before they sleep; zero to sleep at once. Default: 20 µs.
    pub queue_spin: Duration,
}

/// The port that libchirp uses unless told otherwise.
const PORT: u16 = 2998;

const MAX_CONNECT: Duration = Duration::from_secs(60);

impl Default for Config {
    fn default() -> Self {
        Config {
            synchronous: true,
            auto_release: true,
            max_slots: 0,
            timeout: Duration::from_secs(5),
            reuse_time: Duration::from_secs(30),
            port: PORT,
            backlog: 100,
            bind_v4: Some(Ipv4Addr::UNSPECIFIED),
            bind_v6: Some(Ipv6Addr::UNSPECIFIED),
            buffer_size: 0,
            max_message_size: 100 << 20,
            identity: None,
            cert_chain_pem: None,
            dh_params_pem: None,
            disable_encryption: false,
            disable_signals: false,
            retries: 0,
            send_queue_messages: 1000,
            send_queue_bytes: 64 << 20,
            send_queue_policy: SendPolicy::Block,
            handshake_timeout: Duration::from_secs(5),
            workers: 0,
            always_encrypt: false,
            queue: None,
            queue_capacity: 1 << 20,
            queue_spin: Duration::from_micros(20),
        }
    }
}

macro_rules! setters {
    ($($name:ident: $of:ty),* $(,)?) => {
        /// Setters, to be chained. Each sets the field of its name, where it is described.
        impl Config {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Config#structfield.", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, $name: $of) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

setters! {
    synchronous: bool,
    auto_release: bool,
    max_slots: u8,
    timeout: Duration,
    reuse_time: Duration,
    port: u16,
    backlog: u8,
    bind_v4: Option<Ipv4Addr>,
    bind_v6: Option<Ipv6Addr>,
    buffer_size: u32,
    max_message_size: u32,
    identity: Option<Identity>,
    disable_encryption: bool,
    disable_signals: bool,
    retries: u8,
    send_queue_messages: usize,
    send_queue_bytes: usize,
    send_queue_policy: SendPolicy,
    handshake_timeout: Duration,
    workers: usize,
    always_encrypt: bool,
    queue_capacity: u64,
    queue_spin: Duration,
}

impl Config {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`cert_chain_pem`](Config#structfield.cert_chain_pem).
    #[must_use]
    pub fn cert_chain_pem(mut self, path: impl Into<PathBuf>) -> Self {
        self.cert_chain_pem = Some(path.into());
        self
    }

    /// Sets [`dh_params_pem`](Config#structfield.dh_params_pem).
    #[must_use]
    pub fn dh_params_pem(mut self, path: impl Into<PathBuf>) -> Self {
        self.dh_params_pem = Some(path.into());
        self
    }

    /// Sets [`queue`](Config#structfield.queue).
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// Neither port nor network: a node that is reached by its [queue](Config#structfield.queue) only, and so needs no certificate.
    ///
    /// ```
    /// use syncq::pool::{Chirp, Config, Loop, Message};
    ///
    /// # let (upper, client) = (format!("doc-upper-{}", std::process::id()), format!("doc-client-{}", std::process::id()));
    /// let looper = Loop::new()?;
    /// let node = Chirp::new(&looper, Config::new().queue_only(&upper), |chirp: &Chirp, mut message: Message| {
    ///     message.set_data(message.text_lossy().to_uppercase());
    ///     chirp.send(message);
    /// })?;
    /// // In another process, or in this one:
    /// let client = Chirp::new(&looper, Config::new().queue_only(&client), |_: &Chirp, _: Message| {})?;
    /// let answer = client.request(Message::to(&format!("queue:{upper}"), "hello")?).result()?;
    /// assert_eq!(answer.data(), b"HELLO");
    /// # Ok::<(), syncq::pool::PoolError>(())
    /// ```
    #[must_use]
    pub fn queue_only(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self.bind_v4 = None;
        self.bind_v6 = None;
        self
    }

    /// Messages of one connection that the application may hold at a time, as [`max_slots`](Config#structfield.max_slots) says.
    pub fn slots(&self) -> usize {
        match (self.synchronous, self.max_slots) {
            (true, _) => 1,
            (false, 0) => 16,
            (false, slots) => slots.into(),
        }
    }

    /// Bytes read at once, as [`buffer_size`](Config#structfield.buffer_size) says.
    pub fn read_buffer(&self) -> usize {
        match self.buffer_size {
            0 => 64 << 10,
            size => size as usize,
        }
    }

    /// How long connecting may take, with the peer's handshake: twice the timeout, a minute at most.
    pub fn connect_timeout(&self) -> Duration {
        self.timeout.saturating_mul(2).min(MAX_CONNECT)
    }

    /// How long connections may be idle, as [`reuse_time`](Config#structfield.reuse_time) says.
    pub fn idle_limit(&self) -> Duration {
        self.reuse_time.max(self.timeout.saturating_mul(3))
    }

    /// Threads that run handlers, as [`workers`](Config#structfield.workers) says.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => 32.min(4 + std::thread::available_parallelism().map_or(1, usize::from)),
            workers => workers,
        }
    }

    /// Whether it listens at a port.
    pub fn has_network(&self) -> bool {
        self.bind_v4.is_some() || self.bind_v6.is_some()
    }

    /// Checks every option.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first option with a value that cannot be: which, what it is, and what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let seconds = Duration::from_secs_f64;
        let is_within = |value: Duration, least: f64, most: f64| value >= seconds(least) && value <= seconds(most);
        let needs_certificate = self.has_network() && !self.disable_encryption;
        let file = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path.is_file());

        check("max_slots", self.max_slots <= 32, &self.max_slots, "0 to 32")?;
        let is_so = is_within(self.timeout, 0.1, 1200.0);
        check("timeout", is_so, &self.timeout, "0.1 to 1200 seconds")?;
        let is_so = is_within(self.idle_limit(), 0.5, 3600.0);
        check("reuse_time", is_so, &self.reuse_time, "0.5 to 3600 seconds")?;
        let is_so = self.port == 0 || self.port > 1024;
        check("port", is_so, &self.port, "0 (for any) or 1025 to 65535")?;
        check("backlog", self.backlog < 128, &self.backlog, "0 to 127")?;
        let is_so = self.has_network() || self.queue.is_some();
        check(
            "bind_v4",
            is_so,
            &self.bind_v4,
            "an address, unless bind_v6 or queue is given",
        )?;
        let is_so = self.buffer_size == 0 || self.buffer_size >= 1024;
        check("buffer_size", is_so, &self.buffer_size, "0 or at least 1024")?;
        let is_so = !needs_certificate || cfg!(feature = "tls");
        check(
            "disable_encryption",
            is_so,
            &false,
            "true in a build without the feature `tls`",
        )?;
        let is_so = !needs_certificate || self.cert_chain_pem.is_some();
        check(
            "cert_chain_pem",
            is_so,
            &self.cert_chain_pem,
            "a file, unless disable_encryption is true",
        )?;
        let is_so = file(&self.cert_chain_pem);
        check("cert_chain_pem", is_so, &self.cert_chain_pem, "a file that is there")?;
        let is_so = file(&self.dh_params_pem);
        check("dh_params_pem", is_so, &self.dh_params_pem, "a file that is there")?;
        let is_so = !(self.always_encrypt && self.disable_encryption);
        check(
            "always_encrypt",
            is_so,
            &self.always_encrypt,
            "false where disable_encryption is true",
        )?;
        let is_so = self.send_queue_messages > 0;
        check("send_queue_messages", is_so, &self.send_queue_messages, "at least 1")?;
        let is_so = self.send_queue_bytes > 0;
        check("send_queue_bytes", is_so, &self.send_queue_bytes, "at least 1")?;
        let is_so = is_within(self.handshake_timeout, 0.01, 1200.0);
        check(
            "handshake_timeout",
            is_so,
            &self.handshake_timeout,
            "0.01 to 1200 seconds",
        )?;
        check("workers", self.workers <= 4096, &self.workers, "0 to 4096")?;
        let is_so = self.queue_capacity.is_power_of_two() && (4096..=1 << 40).contains(&self.queue_capacity);
        check(
            "queue_capacity",
            is_so,
            &self.queue_capacity,
            "a power of two from 4096 to 2^40",
        )
    }
}

fn check(option: &'static str, is_so: bool, value: &dyn fmt::Debug, must_be: &'static str) -> Result<(), ConfigError> {
    if is_so {
        return Ok(());
    }
    Err(ConfigError {
        option,
        value: format!("{value:?}"),
        must_be,
    })
}

/// An option of a [`Config`] with a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// Which option.
    pub option: &'static str,
    /// The value that it has.
    pub value: String,
    /// What it must be.
    pub must_be: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { option, value, must_be } = self;
        write!(f, "Config: {option} is {value}, and must be {must_be}")
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for std::io::Error {
    fn from(error: ConfigError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    }
}
