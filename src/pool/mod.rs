//! Nodes that send messages to each other, over TCP, TLS and a queue.

mod config;
mod identity;
#[doc(hidden)]
pub mod wire;

pub use config::{Config, ConfigError, SendPolicy};
pub use identity::Identity;
pub use wire::WireError;
