//! Who is at the other end of a socket.

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Who is at the other end of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// An address and port.
    Ip(SocketAddr),
    /// A Unix socket without a name: a client, as a rule.
    UnixUnnamed,
    /// A Unix socket bound to a path.
    UnixPath(PathBuf),
    /// A Unix socket bound to a name in the abstract namespace, without the leading `\0`.
    UnixAbstract(Vec<u8>),
    /// None of these.
    Other,
}

impl Peer {
    pub(super) fn of(address: Option<SocketAddrAny>) -> Peer {
        // A Unix client without a name may come without an address at all.
        let Some(address) = address else {
            return Peer::UnixUnnamed;
        };
        match address.address_family() {
            AddressFamily::INET | AddressFamily::INET6 => SocketAddr::try_from(address).map_or(Peer::Other, Peer::Ip),
            AddressFamily::UNIX => SocketAddrUnix::try_from(address).map_or(Peer::Other, Peer::of_unix),
            _ => Peer::Other,
        }
    }

    fn of_unix(address: SocketAddrUnix) -> Peer {
        // One without a name may look like one with an empty name.
        if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
            Peer::UnixAbstract(name.to_vec())
        } else if let Some(path) = address.path_bytes() {
            Peer::UnixPath(std::ffi::OsStr::from_bytes(path).into())
        } else {
            Peer::UnixUnnamed
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            Peer::UnixUnnamed => f.write_str("(unnamed)"),
            Peer::UnixPath(path) => path.display().fmt(f),
            Peer::UnixAbstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Peer::Other => f.write_str("(unknown)"),
        }
    }
}
