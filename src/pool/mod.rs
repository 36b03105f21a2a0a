//! The pool: nodes that send each other messages and answer them, as libchirp's do.
//!
//! A node is a [`Chirp`]: it listens, connects to others when it has something for them, and hands what comes to a handler that runs on a pool of
//! threads. What becomes of a message is an [`Outcome`]: waited for, polled, or awaited. Nodes speak libchirp's protocol
//! (1.2.x) over TCP and TLS; nodes on one machine can use a queue instead.

mod address;
mod chirp;
mod config;
mod connection;
mod encryption;
mod error;
mod identity;
mod input;
mod lead;
mod local;
mod message;
mod node;
mod outcome;
mod output;
mod peer;
mod run;
mod stream;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[doc(hidden)]
pub mod wire;
mod workers;

pub use address::{Address, AddressError};
pub use chirp::{Chirp, Handled, Handler, SendOptions};
pub use config::{Config, ConfigError, SendPolicy};
pub use error::{PoolError, Stage};
pub use identity::Identity;
pub use message::Message;
pub use outcome::Outcome;
pub use run::Loop;
#[cfg(feature = "tls")]
pub use tls::{PeerCertificate, TlsChannel, TlsError, TlsIdentity};
pub use wire::WireError;
