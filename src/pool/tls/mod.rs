//! The pool over TLS: who a node is and whom it trusts, and an encrypted channel. By rustls, with ring's cryptography.
//!
//! Both sides show a certificate, both check that it was issued by a certificate authority they trust. The *name* in it is not
//! compared with the host's: every certificate of the authority may connect, as in libchirp. What a certificate says about a node is
//! its [key](PeerCertificate::key): two connections with the same key are of the same node, or of nodes that share a file.
//!
//! Not here: when a connection is to be encrypted, and what is said over it.

mod channel;
mod error;
mod identity;
mod verifier;

pub use channel::TlsChannel;
pub use error::TlsError;
pub use identity::{PeerCertificate, TlsIdentity};
