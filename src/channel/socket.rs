//! A channel over a stream socket.

use super::duplex::Duplex;
use super::port::{End, SocketPort};
use super::{Buffering, ChannelError, Peer, channel_by_duplex};
use crate::wait::{Deadline, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getpeername, socket_with, socketpair, sockopt,
};
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// A channel over a stream socket: TCP, Unix by path or abstract name, or one of a pair.
///
/// ```
/// use std::net::TcpListener;
/// use std::time::Duration;
/// use syncq::Wait;
/// use syncq::channel::{Channel, Input, SocketChannel};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let second = Wait::For(Duration::from_secs(1));
/// let mut client = SocketChannel::connect_tcp(listener.local_addr()?, second)?;
/// let mut server = SocketChannel::new(listener.accept()?.0)?;
/// client.write(b"hello\n", second)?;
/// client.shutdown_write()?;
/// assert_eq!(server.read(second)?.bytes(), b"hello\n");
/// assert_eq!(server.read(second)?, Input::End);
/// server.write(b"and good bye\n", second)?; // it still can
/// assert_eq!(client.read(second)?.bytes(), b"and good bye\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SocketChannel {
    duplex: Duplex<SocketPort>,
}

/// What a [`SocketChannel`] was made of, and what it still held.
#[derive(Debug)]
#[non_exhaustive]
pub struct SocketParts {
    /// The socket; [`None`] if the channel was closed.
    pub socket: Option<OwnedFd>,
    /// Read, and not delivered.
    pub unread: Vec<u8>,
    /// Taken, and not written.
    pub unwritten: Vec<u8>,
}

/// How often a connection is tried again while a Unix listener's backlog is full: nothing tells when it is not.
const BACKLOG_SLICE: Duration = Duration::from_millis(2);

impl SocketChannel {
    /// A channel over a connected socket.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotAStream`] for a datagram socket, and [`ChannelError::Os`] for what is no socket at all.
    pub fn new(socket: impl Into<OwnedFd>) -> Result<Self, ChannelError> {
        let socket = socket.into();
        match sockopt::socket_type(&socket) {
            Ok(SocketType::STREAM) => Ok(Self::over(socket)),
            Ok(_) => Err(ChannelError::NotAStream),
            Err(errno) => Err(ChannelError::os("looking at the socket", errno)),
        }
    }

    pub(super) fn over(socket: OwnedFd) -> Self {
        let end = Some(End::new(socket));
        SocketChannel {
            duplex: Duplex::new(SocketPort { end }),
        }
    }

    /// Two connected ones.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if there are no descriptors left.
    pub fn pair() -> Result<(SocketChannel, SocketChannel), ChannelError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| ChannelError::os("socketpair", errno))?;
        Ok((Self::over(one), Self::over(other)))
    }

    /// Connects over TCP. Small writes are sent at once (`TCP_NODELAY`). Looking a name up may take longer than `wait`: that is
    /// the system's business. Give an address to be sure.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] with what the last address tried gave, with `TimedOut` if `wait` was over.
    pub fn connect_tcp(address: impl ToSocketAddrs, wait: Wait) -> Result<Self, ChannelError> {
        let deadline = Deadline::of(wait);
        let failed = |source| ChannelError::Os {
            doing: "connecting",
            source,
        };
        let mut last = Errno::ADDRNOTAVAIL.into();
        for address in address.to_socket_addrs().map_err(failed)? {
            let family = match address {
                std::net::SocketAddr::V4(_) => AddressFamily::INET,
                std::net::SocketAddr::V6(_) => AddressFamily::INET6,
            };
            match Self::connect(family, &address, &deadline) {
                Ok(channel) => {
                    channel.send_at_once();
                    return Ok(channel);
                }
                Err(errno) => last = errno.into(),
            }
        }
        Err(failed(last))
    }

    /// Connects to a Unix socket bound to `path`.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`], with `TimedOut` if `wait` was over before the listener had room for one more.
    pub fn connect_unix(path: impl AsRef<Path>, wait: Wait) -> Result<Self, ChannelError> {
        Self::connect_unix_address(SocketAddrUnix::new(path.as_ref()), wait)
    }

    /// Connects to a Unix socket bound to `name` in the abstract namespace; without the leading `\0`.
    ///
    /// # Errors
    ///
    /// As [`connect_unix`](SocketChannel::connect_unix).
    pub fn connect_abstract(name: impl AsRef<[u8]>, wait: Wait) -> Result<Self, ChannelError> {
        Self::connect_unix_address(SocketAddrUnix::new_abstract_name(name.as_ref()), wait)
    }

    fn connect_unix_address(address: Result<SocketAddrUnix, Errno>, wait: Wait) -> Result<Self, ChannelError> {
        address
            .and_then(|address| Self::connect(AddressFamily::UNIX, &address, &Deadline::of(wait)))
            .map_err(|errno| ChannelError::os("connecting", errno))
    }

    fn connect(family: AddressFamily, address: &impl SocketAddrArg, deadline: &Deadline) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        loop {
            match connect(&socket, address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(Self::over(socket)),
                Err(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => {
                    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
                    match poll(&mut fds, super::wait::timespec(deadline).as_ref()) {
                        Ok(0) => return Err(Errno::TIMEDOUT),
                        Err(errno) if errno != Errno::INTR => return Err(errno),
                        _ => {}
                    }
                    sockopt::socket_error(&socket)??;
                }
                // A Unix listener's backlog is full.
                Err(Errno::AGAIN) if deadline.has_passed() => return Err(Errno::TIMEDOUT),
                Err(Errno::AGAIN) => std::thread::sleep(deadline.cap(BACKLOG_SLICE)),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// For TCP, and harmless elsewhere: writes are gathered here, and need no second gathering in the kernel.
    pub(super) fn send_at_once(&self) {
        if let Some(end) = &self.duplex.port.end {
            let _ = sockopt::set_tcp_nodelay(end.fd(), true);
        }
    }

    /// The same, read by bytes or by lines.
    pub fn with_buffering(mut self, buffering: Buffering) -> Self {
        self.duplex.set_buffering(buffering);
        self
    }

    /// Who is at the other end.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`], or [`ChannelError::Os`] if it has gone.
    pub fn peer(&self) -> Result<Peer, ChannelError> {
        let end = self.duplex.port.end.as_ref().ok_or(ChannelError::Closed)?;
        getpeername(end.fd().as_fd())
            .map(Peer::of)
            .map_err(|errno| ChannelError::os("asking for the peer", errno))
    }

    /// What one read asks for at most.
    pub(crate) fn read_limit(&self) -> usize {
        self.duplex.read_limit()
    }

    /// Gives the socket back, and what is still between it and the user.
    pub fn into_inner(self) -> SocketParts {
        let (port, unread, unwritten) = self.duplex.into_parts();
        SocketParts {
            socket: port.end.map(End::into_fd),
            unread,
            unwritten,
        }
    }
}

channel_by_duplex!(SocketChannel);
