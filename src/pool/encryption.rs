//! Which connections are encrypted, and how one is made so. Not here: certificates and the encryption itself, which are `tls/`.

use super::config::Config;
use super::error::PoolError;
use crate::channel::{Channel, SocketChannel};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(feature = "tls")]
use super::tls::TlsIdentity;

/// What a peer has shown of itself. Without the feature there is none.
#[cfg(feature = "tls")]
pub(crate) type Certificate = super::tls::PeerCertificate;
#[cfg(not(feature = "tls"))]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Certificate {}

/// Who has made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// This node has connected.
    Connected,
    /// This node was connected to.
    Accepted,
}

/// What a node does about encryption.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encryption {
    /// Also what stays on the loopback addresses.
    is_always: bool,
    /// Without one, all is plain.
    #[cfg(feature = "tls")]
    identity: Option<TlsIdentity>,
}

impl Encryption {
    /// As the configuration wants it. Reads the file with the certificates.
    pub(crate) fn of(config: &Config) -> Result<Self, PoolError> {
        #[cfg(feature = "tls")]
        let identity = match &config.cert_chain_pem {
            Some(path) if !config.disable_encryption && config.has_network() => {
                let read = TlsIdentity::from_pem_file(path);
                Some(read.map_err(|error| PoolError::Certificate {
                    path: path.clone(),
                    what: error.to_string(),
                })?)
            }
            _ => None,
        };
        Ok(Encryption {
            is_always: config.always_encrypt,
            #[cfg(feature = "tls")]
            identity,
        })
    }

    fn is_on(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.identity.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether a connection between these two addresses is encrypted. Nothing on the wire says so: each side decides for itself, and both
    /// have to come to the same.
    ///
    /// libchirp does not encrypt where the *peer's* address is 127.0.0.1 or ::1, and so disagrees with itself about 127.0.0.2: who connects there
    /// sees that address, who accepts sees 127.0.0.1. Here both addresses are looked at, which are the same two for both; what has one of
    /// these at an end never leaves the machine.
    pub(crate) fn is_for(&self, own: IpAddr, peer: IpAddr) -> bool {
        self.is_on() && (self.is_always || !(is_loopback(own) || is_loopback(peer)))
    }

    /// The encrypted channel over a socket; the socket itself where there is no encryption. Of a socket that may still be connecting nothing is
    /// asked yet: the first flush begins.
    pub(crate) fn over(&self, socket: SocketChannel, side: Side) -> io::Result<Box<dyn Channel>> {
        #[cfg(feature = "tls")]
        if let Some(identity) = &self.identity {
            return Ok(Box::new(match side {
                Side::Connected => identity.connecting(socket)?,
                Side::Accepted => identity.accept(socket)?,
            }));
        }
        // What is plain has no sides.
        let _ = side;
        Ok(Box::new(socket))
    }
}

/// The two addresses that libchirp knows as local, and no others.
fn is_loopback(address: IpAddr) -> bool {
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_touches_the_loopback_addresses_themselves_is_plain() {
        let authority = rcgen::CertifiedIssuer::self_signed(
            {
                let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            rcgen::KeyPair::generate().unwrap(),
        )
        .unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let node = rcgen::CertificateParams::new(vec![]).unwrap();
        let node = node.signed_by(&key, &authority).unwrap();
        let pem = key.serialize_pem() + &node.pem() + &authority.pem();
        let identity = TlsIdentity::from_pem(pem.as_bytes()).unwrap();
        let usual = Encryption {
            identity: Some(identity),
            is_always: false,
        };
        let always = Encryption {
            is_always: true,
            ..usual.clone()
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (own, peer, is_encrypted) in [
            ("127.0.0.1", "127.0.0.1", false),
            ("::1", "::1", false),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.2", "127.0.0.3", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", true),
            ("2001:db8::1", "2001:db8::2", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
        ] {
            let (own, peer) = (ip(own), ip(peer));
            assert_eq!(usual.is_for(own, peer), is_encrypted, "{own} {peer}");
            assert_eq!(usual.is_for(peer, own), is_encrypted, "both sides come to the same");
            assert!(always.is_for(own, peer));
            assert!(!Encryption::default().is_for(own, peer));
        }
    }
}
