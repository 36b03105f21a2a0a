//! What can go wrong with certificates and with encrypted connections.

use crate::channel::ChannelError;
use std::path::PathBuf;
use std::{fmt, io};

/// An error that carries what the TLS library said. Its type is that library's.
pub(super) type Source = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with a node's certificates, or why an encrypted connection was not made or broke.
///
/// A [`TlsChannel`](super::TlsChannel) wraps it in [`ChannelError::Os`]; [`TlsError::of`] finds it there.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file, or a section of it, is no PEM.
    NotPem {
        /// What is wrong.
        what: String,
    },
    /// There is no private key. A key that is protected by a password is not read.
    NoKey,
    /// There is no certificate.
    NoCertificate,
    /// There is one certificate, the node's, and none of the authority that issued it.
    NoAuthority,
    /// The private key is of no known kind, or damaged. RSA (2048 to 8192 bits), ECDSA (P-256, P-384) and Ed25519 are known.
    BadKey {
        /// What the TLS library said.
        source: Source,
    },
    /// A certificate of the authority is damaged, or of a kind that is not understood.
    BadAuthority {
        /// Which one in the file; the node's own is number 1.
        number: usize,
        /// What the TLS library said.
        source: Source,
    },
    /// The private key does not belong to the first certificate.
    KeyMismatch,
    /// Peers would refuse the node's certificate: it is damaged, expired, not issued by the authority in the same file, not meant for this, or of
    /// X.509 version 1.
    BadCertificate {
        /// What the TLS library said.
        source: Source,
    },
    /// The peer shows no certificate, or one that is expired or not issued by an authority of ours.
    PeerUntrusted {
        /// What the TLS library said.
        source: Source,
    },
    /// The peer has refused: our certificate, as a rule, or there is no version or cipher that both know.
    Refused {
        /// The alert it sent.
        source: Source,
    },
    /// The peer has ended the connection before it was encrypted. A peer that is not to encrypt does so.
    EndedEarly,
    /// What came is no TLS, or was changed on its way.
    Broken {
        /// What the TLS library said.
        source: Source,
    },
}

impl TlsError {
    /// The error of this kind inside a channel's error, if there is one.
    pub fn of(error: &ChannelError) -> Option<&TlsError> {
        match error {
            ChannelError::Os { source, .. } => source.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// Sorts what happened to a connection.
    pub(super) fn of_connection(error: &rustls::Error) -> Self {
        let source = Box::new(error.clone());
        match error {
            rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => {
                TlsError::PeerUntrusted { source }
            }
            rustls::Error::AlertReceived(_) => TlsError::Refused { source },
            _ => TlsError::Broken { source },
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Unreadable { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            TlsError::NotPem { what } => write!(f, "no PEM: {what}"),
            TlsError::NoKey => f.write_str("there is no private key in the file (one with a password is not read)"),
            TlsError::NoCertificate => f.write_str("there is no certificate in the file"),
            TlsError::NoAuthority => {
                f.write_str("after the node's certificate the file needs that of the authority that issued it")
            }
            TlsError::BadKey { source } => write!(f, "the private key cannot be used: {source}"),
            TlsError::BadAuthority { number, source } => {
                write!(
                    f,
                    "certificate {number} of the file cannot be used as an authority: {source}"
                )
            }
            TlsError::KeyMismatch => f.write_str("the private key is not that of the first certificate"),
            TlsError::BadCertificate { source } => write!(f, "peers would refuse the node's certificate: {source}"),
            TlsError::PeerUntrusted { source } => write!(f, "the peer is not trusted: {source}"),
            TlsError::Refused { source } => write!(f, "the peer has refused the encrypted connection: {source}"),
            TlsError::EndedEarly => f.write_str("the peer has ended the connection before it was encrypted"),
            TlsError::Broken { source } => write!(f, "the encrypted connection is broken: {source}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsError::Unreadable { source, .. } => Some(source),
            TlsError::BadKey { source }
            | TlsError::BadAuthority { source, .. }
            | TlsError::BadCertificate { source }
            | TlsError::PeerUntrusted { source }
            | TlsError::Refused { source }
            | TlsError::Broken { source } => Some(&**source),
            _ => None,
        }
    }
}

impl From<TlsError> for ChannelError {
    fn from(error: TlsError) -> Self {
        ChannelError::Os {
            doing: "encrypting",
            source: error.into(),
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        let kind = match &error {
            TlsError::Unreadable { source, .. } => source.kind(),
            TlsError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            TlsError::EndedEarly => io::ErrorKind::UnexpectedEof,
            TlsError::PeerUntrusted { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
