//! Addresses for tests of who connects.

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// A TCP address where nobody listens, and nobody else will as long as the descriptor is open.
pub fn refused() -> (SocketAddr, OwnedFd) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port from the system");
    let bound = getsockname(&socket).expect("it is bound");
    (SocketAddr::try_from(bound).expect("an address of the internet"), socket)
}
