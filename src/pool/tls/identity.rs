//! Who a node is and whom it trusts: one PEM file. Not here: connections.

use super::verifier::AnyName;
use super::{TlsChannel, TlsError};
use crate::channel::{Channel, SocketChannel};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

/// A node's private key, its certificate and the authorities it trusts. Cheap to clone.
///
/// One PEM file holds all of it, as with libchirp: a private key (PKCS#8, PKCS#1 or SEC1; the first one counts), the node's certificate as the *first* certificate,
/// and after it at least one certificate of an authority. Every certificate after the first is trusted, and shown to peers together with the first,
/// so that an intermediate authority in the file reaches a peer that knows the root alone.
///
/// # Both ways, and without names
///
/// A client shows its certificate as a server does; who has none is refused. Whether the certificate is good is decided by its issuer, its times and its
/// use (server and client authentication, where it names uses at all), never by the name in it. Certificates are to be of X.509
/// version 3, of RSA or ECDSA keys; libchirp's own key maker makes version 1, which rustls refuses. There are at most
/// six intermediate authorities in a chain. Revocation is not asked for.
///
/// # Versions
///
/// TLS 1.3 and 1.2, no others. With libchirp it is always 1.3: what it offers for 1.2 are the suites with DHE, which rustls does not have (it has
/// those with ECDHE). A libchirp that was built with LibreSSL or OpenSSL 1.0, and so without 1.3, cannot be talked to.
/// Sessions are not resumed: each connection shows and checks certificates anew.
///
/// # Examples
///
/// ```no_run
/// use syncq::pool::TlsIdentity;
///
/// # fn main() -> Result<(), syncq::pool::TlsError> {
/// let identity = TlsIdentity::from_pem_file("/etc/myservice/node.pem")?;
/// println!("this node's key: {}", identity.certificate());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsIdentity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    certificate: PeerCertificate,
}

impl TlsIdentity {
    /// From a file as described [above](TlsIdentity).
    ///
    /// # Errors
    ///
    /// [`TlsError::Unreadable`], and as [`from_pem`](TlsIdentity::from_pem).
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        let pem = std::fs::read(path).map_err(|source| TlsError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_pem(&pem)
    }

    /// From the contents of such a file.
    ///
    /// # Errors
    ///
    /// [`TlsError`] with what is missing or of no use: what a peer would refuse is refused here, a certificate that is expired now as well.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let (key, chain) = read_sections(pem)?;
        let provider = Arc::new(ring::default_provider());
        let authorities = Arc::new(authorities(&chain)?);
        let own = certified(chain, key, &provider)?;
        let verifier = Arc::new(AnyName {
            authorities: authorities.clone(),
            algorithms: provider.signature_verification_algorithms,
        });
        // Without the authorities' names in the request: some have many, and a node has one certificate anyway.
        let clients = WebPkiClientVerifier::builder_with_provider(authorities, provider.clone())
            .clear_root_hint_subjects()
            .build()
            .map_err(|_| TlsError::NoAuthority)?;
        let bad = |source| TlsError::BadCertificate {
            source: Box::new(source),
        };
        let (first, others) = own.cert.split_first().ok_or(TlsError::NoCertificate)?;
        let any = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let now = UnixTime::now();
        verifier
            .verify_server_cert(first, others, &any, &[], now)
            .map_err(bad)?;
        clients.verify_client_cert(first, others, now).map_err(bad)?;
        let certificate = PeerCertificate::new(first).map_err(bad)?;

        let own = Arc::new(SingleCertAndKey::from(own));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(own.clone());
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(own);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(TlsIdentity {
            client: Arc::new(client),
            server: Arc::new(server),
            certificate,
        })
    }

    /// This node's own certificate, as its peers see it.
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// Makes the side that has connected of an encrypted connection. Its first bytes go out at once.
    ///
    /// # Errors
    ///
    /// [`TlsError::Broken`] if there is no randomness to be had.
    pub fn connect(&self, socket: SocketChannel) -> Result<TlsChannel, TlsError> {
        let mut channel = self.connecting(socket)?;
        // A socket that takes nothing any more says so when it is read or written.
        let _ = channel.try_flush();
        Ok(channel)
    }

    /// As [`connect`](TlsIdentity::connect), for a socket that is not connected yet: its first bytes go out with the first flush.
    pub(crate) fn connecting(&self, socket: SocketChannel) -> Result<TlsChannel, TlsError> {
        // No name goes out and none is compared; the address only stands where one is asked for.
        let any = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let connection =
            ClientConnection::new(self.client.clone(), any).map_err(|error| TlsError::of_connection(&error))?;
        Ok(TlsChannel::over(socket, connection.into()))
    }

    /// Makes the side that was connected to of an encrypted connection.
    ///
    /// # Errors
    ///
    /// As [`connect`](TlsIdentity::connect).
    pub fn accept(&self, socket: SocketChannel) -> Result<TlsChannel, TlsError> {
        let connection = ServerConnection::new(self.server.clone()).map_err(|error| TlsError::of_connection(&error))?;
        Ok(TlsChannel::over(socket, connection.into()))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

type Sections = (PrivateKeyDer<'static>, Vec<CertificateDer<'static>>);

/// The first key, and all certificates in their order. Other sections (DH parameters, say) are passed over.
fn read_sections(pem: &[u8]) -> Result<Sections, TlsError> {
    let mut key = None;
    let mut chain = vec![];
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(not_pem)?;
        if kind == SectionKind::Certificate {
            chain.push(CertificateDer::from(der));
        } else if key.is_none() {
            key = PrivateKeyDer::from_pem(kind, der);
        }
    }
    let key = key.ok_or(TlsError::NoKey)?;
    match chain.len() {
        0 => Err(TlsError::NoCertificate),
        1 => Err(TlsError::NoAuthority),
        _ => Ok((key, chain)),
    }
}

fn not_pem(error: pem::Error) -> TlsError {
    let what = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!(
                "the line that ends a section of {:?} is missing",
                String::from_utf8_lossy(&end_marker)
            )
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("the line {:?} begins nothing", String::from_utf8_lossy(&line))
        }
        other => other.to_string(),
    };
    TlsError::NotPem { what }
}

/// Everything after the node's own certificate.
fn authorities(chain: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    for (at, certificate) in chain.iter().enumerate().skip(1) {
        let added = authorities.add(certificate.clone());
        added.map_err(|source| TlsError::BadAuthority {
            number: at + 1,
            source: Box::new(source),
        })?;
    }
    Ok(authorities)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|source| TlsError::BadKey {
        source: Box::new(source),
    })?;
    let own = CertifiedKey::new(chain, key);
    match own.keys_match() {
        Ok(()) => Ok(own),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
        Err(source) => Err(TlsError::BadCertificate {
            source: Box::new(source),
        }),
    }
}

/// A certificate that was shown and found good. Two are equal if they are of the same key: one that was renewed for its key is the same node's.
///
/// Displayed as the SHA-256 of the public key, in hexadecimal.
#[derive(Clone)]
pub struct PeerCertificate {
    shown: Arc<Shown>,
}

struct Shown {
    der: Vec<u8>,
    key: [u8; 32],
}

impl PeerCertificate {
    pub(super) fn new(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let public_key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        // ring's SHA-256 by way of a suite that has it.
        let key = match ring::cipher_suite::TLS13_AES_128_GCM_SHA256 {
            SupportedCipherSuite::Tls13(suite) => suite
                .common
                .hash_provider
                .hash(public_key.as_ref())
                .as_ref()
                .try_into()
                .ok(),
            _ => None,
        };
        let shown = Arc::new(Shown {
            der: certificate.as_ref().into(),
            key: key.ok_or_else(|| rustls::Error::General("no SHA-256".into()))?,
        });
        Ok(PeerCertificate { shown })
    }

    /// The SHA-256 of its public key (of the whole `SubjectPublicKeyInfo`). Only who has the private key can show this.
    pub fn key(&self) -> [u8; 32] {
        self.shown.key
    }

    /// The certificate itself, DER.
    pub fn der(&self) -> &[u8] {
        &self.shown.der
    }
}

impl PartialEq for PeerCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.shown.key == other.shown.key
    }
}

impl Eq for PeerCertificate {}

impl Hash for PeerCertificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.key.hash(state);
    }
}

impl fmt::Display for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerCertificate({self})")
    }
}
