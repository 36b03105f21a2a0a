//! Listening and connecting over TCP, v4 and v6.

use super::address::{Address, canonical};
use super::connection::Connection;
use super::error::PoolError;
use super::node::Node;
use super::peer::{Peer, Todo};
use super::run::{self, Source};
use super::stream::Stream;
use crate::channel::Interest;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, connect, listen, socket_with, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections accepted in one go, before others have their turn.
const MOST_ACCEPTS: usize = 64;
/// How long connections are left alone that there is no descriptor for.
const REST: Duration = Duration::from_millis(50);
/// An idle connection is asked for a sign of life by the system after this long.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How often another port is asked for, where one is wanted that is free for IPv4 and IPv6.
const PORT_TRIES: usize = 50;

fn stream_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

fn prepare(socket: &OwnedFd) {
    // Writes are gathered here, and need no second gathering in the kernel. What is refused costs speed, no more.
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE);
}

/// A socket that nodes connect to.
pub(crate) struct Listener {
    id: u64,
    fd: Arc<OwnedFd>,
    node: Arc<Node>,
    is_closed: AtomicBool,
    /// There are no descriptors: not before then.
    resting: Mutex<Option<Instant>>,
}

fn listen_at(address: SocketAddr, backlog: u8) -> Result<(OwnedFd, u16), Errno> {
    let socket = stream_socket(&address)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // The port may still be in the memory of connections that were closed just now; not in that of somebody who listens.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, backlog.into())?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

fn is_without_ipv6(errno: Errno) -> bool {
    matches!(errno, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT)
}

/// Listens as configured. Returns the sockets and their port.
pub(crate) fn open(config: &super::Config) -> Result<(Vec<OwnedFd>, u16), PoolError> {
    let failed = |address, errno: Errno| PoolError::Bind {
        address,
        source: Arc::new(io::Error::from(errno)),
    };
    let mut last = (SocketAddr::from(([0, 0, 0, 0], config.port)), Errno::ADDRINUSE);
    for _ in 0..PORT_TRIES {
        let (mut sockets, mut port) = (Vec::new(), config.port);
        if let Some(ip) = config.bind_v4 {
            let address = SocketAddr::from((ip, port));
            let (socket, bound) = listen_at(address, config.backlog).map_err(|errno| failed(address, errno))?;
            port = bound;
            sockets.push(socket);
        }
        if let Some(ip) = config.bind_v6 {
            let address = SocketAddr::from((ip, port));
            match listen_at(address, config.backlog) {
                Ok((socket, bound)) => {
                    port = bound;
                    sockets.push(socket);
                }
                Err(errno) if is_without_ipv6(errno) && ip.is_unspecified() && config.bind_v4.is_some() => {}
                // Taken by somebody with IPv6 only: another one, if any will do.
                Err(errno) if config.port == 0 && !sockets.is_empty() => {
                    last = (address, errno);
                    continue;
                }
                Err(errno) => return Err(failed(address, errno)),
            }
        }
        return Ok((sockets, port));
    }
    Err(failed(last.0, last.1))
}

impl Listener {
    pub(crate) fn new(node: Arc<Node>, socket: OwnedFd) -> Arc<Self> {
        Arc::new(Listener {
            id: run::next_id(),
            fd: Arc::new(socket),
            node,
            is_closed: AtomicBool::new(false),
            resting: Mutex::new(None),
        })
    }

    fn resting(&self) -> Option<Instant> {
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(self: &Arc<Self>) {
        self.is_closed.store(true, Ordering::Release);
        // At once, and not when the last hand has let go of it: who connects now is refused.
        let _ = rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Both);
        self.node.looper.look_at(self.clone());
    }

    /// Goes on accepting after a rest.
    pub(crate) fn sweep(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let until = self.resting()?;
        if until > now {
            return Some(until);
        }
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.node.looper.look_at(self.clone());
        None
    }

    fn accept(&self) {
        for _ in 0..MOST_ACCEPTS {
            if self.is_closed.load(Ordering::Acquire) {
                return;
            }
            match acceptfrom_with(&*self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, address)) => {
                    let remote = address.and_then(|address| SocketAddr::try_from(address).ok());
                    if let Some(remote) = remote {
                        prepare(&socket);
                        self.node.accepted(socket, canonical(remote));
                    }
                }
                Err(Errno::CONNABORTED | Errno::PROTO | Errno::INTR) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    let until = Instant::now() + REST;
                    *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                    return self.node.looper.due(until);
                }
                Err(_) => return,
            }
        }
    }
}

impl Source for Listener {
    fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    fn interest(&self) -> Option<Interest> {
        match self.resting() {
            _ if self.is_closed.load(Ordering::Acquire) => None,
            Some(_) => Some(Interest::NONE),
            None => Some(Interest::READ),
        }
    }

    fn ready(self: Arc<Self>, ready: Interest) {
        if ready.readable {
            self.accept();
        }
    }

    fn id(&self) -> u64 {
        self.id
    }
}

/// Why a connection could not be made.
pub(crate) fn not_connected(peer: Address, errno: Errno) -> PoolError {
    match errno {
        Errno::CONNREFUSED => PoolError::Refused { peer },
        errno => PoolError::NoPeer {
            peer,
            source: Arc::new(errno.into()),
        },
    }
}

/// Begins to connect to a peer. What becomes of it, the peer is told.
pub(crate) fn dial(node: &Arc<Node>, peer: &Arc<Peer>, address: SocketAddr) {
    let outcome = stream_socket(&address).and_then(|socket| {
        prepare(&socket);
        match connect(&socket, &address) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
            Err(errno) => Err(errno),
        }
    });
    let error = match outcome {
        Ok((socket, is_connected)) => match node.stream(socket, address.ip(), true) {
            Ok((fd, stream)) => {
                let connection = Connection::new(node.clone(), fd, stream, address, Some(peer.clone()), is_connected);
                return node.adopt(connection, is_connected);
            }
            Err(error) => error,
        },
        Err(errno) => not_connected(peer.address.clone(), errno),
    };
    let mut todo = Todo::default();
    peer.not_connected(&error, &mut todo);
    node.carry_out(peer, todo);
}

/// A plain stream over a socket.
pub(crate) fn plain(socket: OwnedFd) -> (Arc<OwnedFd>, Stream) {
    let fd = Arc::new(socket);
    (fd.clone(), Stream::Plain(fd))
}
