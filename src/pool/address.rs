//! Where a peer is reached: an IP address and port, or the name of a queue on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Where a peer is reached.
///
/// ```
/// use syncq::pool::Address;
///
/// let over_tcp: Address = "127.0.0.1:2998".parse()?;
/// let over_a_queue: Address = "queue:jobs".parse()?;
/// assert_eq!(over_tcp, Address::from(([127, 0, 0, 1].into(), 2998)));
/// assert_eq!(over_a_queue.to_string(), "queue:jobs");
/// assert!("jobs".parse::<Address>().is_err());
/// # Ok::<(), syncq::pool::PoolError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// Over TCP (or TLS): where the peer listens.
    Ip(SocketAddr),
    /// On this machine: the name of the peer's queue. Written `queue:NAME`.
    Queue(Arc<str>),
}

/// In front of the name of a queue.
pub(crate) const QUEUE: &str = "queue:";

impl Address {
    /// The peer with this queue.
    pub fn queue(name: &str) -> Self {
        Address::Queue(name.into())
    }

    /// Whether it leads anywhere: a new message's address does not.
    pub fn is_unspecified(&self) -> bool {
        match self {
            Address::Ip(address) => address.ip().is_unspecified() || address.port() == 0,
            Address::Queue(name) => name.is_empty(),
        }
    }

    /// The same peer under the name that is compared: an IPv4 address that is written as an IPv6 one is an IPv4 address.
    pub(crate) fn canonical(&self) -> Address {
        match self {
            Address::Ip(address) => Address::Ip(canonical(*address)),
            queue => queue.clone(),
        }
    }
}

/// Without scope, flow, and IPv6 mapping.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        // A link-local address is nothing without its scope.
        IpAddr::V6(_) => address,
    }
}

impl Default for Address {
    /// `0.0.0.0`, port 0: nowhere.
    fn default() -> Self {
        Address::Ip((Ipv4Addr::UNSPECIFIED, 0).into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Queue(name) => write!(f, "{QUEUE}{name}"),
        }
    }
}

/// What is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError(String);

impl AddressError {
    pub(crate) fn new(text: &str) -> Self {
        AddressError(text.into())
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address: IP:PORT or queue:NAME", self.0)
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix(QUEUE) {
            Some("") => Err(AddressError(text.into())),
            Some(name) => Ok(Address::queue(name)),
            None => text.parse().map(Address::Ip).map_err(|_| AddressError(text.into())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Ip(address)
    }
}

impl From<(IpAddr, u16)> for Address {
    fn from(address: (IpAddr, u16)) -> Self {
        Address::Ip(address.into())
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = AddressError;

    fn try_from(text: &String) -> Result<Self, AddressError> {
        text.parse()
    }
}
