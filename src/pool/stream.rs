//! What is under a connection: a socket, as it is or encrypted.
//!
//! A plain socket is read by one thread and written by another at the same time, without a lock; so it is not a
//! [`SocketChannel`](crate::channel::SocketChannel), which wants both hands. What is encrypted is a [`Channel`] behind a lock.

use super::encryption::Certificate;
use super::output::Batch;
use crate::channel::{Channel, ChannelError, Input};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Bytes, and maybe there are more.
    More,
    /// Bytes, and for now there are no more.
    Some,
    /// Nothing now.
    Pending,
    /// The peer has ended it.
    End,
}

pub(crate) enum Stream {
    Plain(Arc<OwnedFd>),
    Secure(Mutex<Box<dyn Channel>>),
}

/// What is read first at most, where nobody knows better.
const FIRST_READ: usize = 4 << 10;

fn lock(channel: &Mutex<Box<dyn Channel>>) -> MutexGuard<'_, Box<dyn Channel>> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// Reads once. `buffer` is kept between reads, and grows up to `limit`.
    pub(crate) fn read(
        &self,
        buffer: &mut Vec<u8>,
        limit: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Got, ChannelError> {
        match self {
            Stream::Plain(socket) => {
                if buffer.is_empty() {
                    buffer.resize(FIRST_READ.min(limit), 0);
                }
                let got = loop {
                    match rustix::net::recv(&**socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                        Ok((got, _)) => break got,
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => return Ok(Got::Pending),
                        Err(errno) => return Err(ChannelError::os("read", errno)),
                    }
                };
                take(&buffer[..got]);
                if got == 0 {
                    return Ok(Got::End);
                }
                if got < buffer.len() {
                    return Ok(Got::Some);
                }
                let size = buffer.len().saturating_mul(4).min(limit);
                buffer.resize(size, 0);
                Ok(Got::More)
            }
            Stream::Secure(channel) => {
                match lock(channel).try_read()? {
                    Input::Data(bytes) => take(&bytes),
                    Input::Line(line) => take(&line.bytes),
                    Input::Pending => return Ok(Got::Pending),
                    Input::End => return Ok(Got::End),
                }
                Ok(Got::Some)
            }
        }
    }

    /// Whether a read would bring something that the system knows nothing of.
    pub(crate) fn has_buffered(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Secure(channel) => lock(channel).has_buffered(),
        }
    }

    /// What the peer has shown of itself; nothing before the handshake, and where nothing is encrypted.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        match self {
            Stream::Plain(_) => None,
            #[cfg(feature = "tls")]
            Stream::Secure(channel) => {
                let channel = lock(channel);
                let channel: &dyn std::any::Any = &**channel;
                let channel: &super::tls::TlsChannel = channel.downcast_ref()?;
                channel.peer_certificate().cloned()
            }
            #[cfg(not(feature = "tls"))]
            Stream::Secure(_) => None,
        }
    }

    /// Writes what is taken now. `true`: all of it.
    pub(crate) fn write(&self, batch: &mut Batch) -> Result<bool, ChannelError> {
        match self {
            Stream::Plain(socket) => {
                while !batch.is_written() {
                    let sent = batch.with_slices(|slices| {
                        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                        rustix::net::sendmsg(&**socket, slices, &mut SendAncillaryBuffer::default(), flags)
                    });
                    match sent {
                        Ok(sent) => batch.advance(sent),
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => return Ok(false),
                        Err(errno) => return Err(ChannelError::os("write", errno)),
                    }
                }
                Ok(true)
            }
            Stream::Secure(channel) => {
                let mut channel = lock(channel);
                if !batch.is_taken() {
                    match batch.with_all(|slices| channel.enqueue(slices)) {
                        Ok(()) => batch.set_taken(),
                        Err(ChannelError::Full { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                let before = channel.queued();
                let is_out = channel.try_flush()?;
                if channel.queued() < before {
                    batch.set_moved();
                }
                if !batch.is_taken() || !is_out {
                    return Ok(false);
                }
                batch.advance(batch.left());
                Ok(true)
            }
        }
    }

    /// Writes something of the protocol itself, before all messages, as a piece of its own.
    pub(crate) fn write_first(&self, bytes: &[&[u8]]) -> Result<(), ChannelError> {
        match self {
            // It fits into the buffer of a fresh socket, whatever that is.
            Stream::Plain(socket) => {
                let all = bytes.concat();
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let sent =
                    rustix::net::send(&**socket, &all, flags).map_err(|errno| ChannelError::os("write", errno))?;
                match sent == all.len() {
                    true => Ok(()),
                    false => Err(ChannelError::os("write", Errno::NOBUFS)),
                }
            }
            Stream::Secure(channel) => {
                let mut channel = lock(channel);
                for piece in bytes {
                    channel.enqueue(&[std::io::IoSlice::new(piece)])?;
                }
                channel.try_flush().map(drop)
            }
        }
    }

    /// Whether there is something to be written that no batch knows of.
    pub(crate) fn has_queued(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Secure(channel) => lock(channel).queued() > 0,
        }
    }

    /// Writes that, as far as it is taken.
    pub(crate) fn try_flush(&self) -> Result<(), ChannelError> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Secure(channel) => lock(channel).try_flush().map(drop),
        }
    }

    /// Ends both directions; the peer sees that.
    pub(crate) fn shut_down(&self, fd: &OwnedFd) {
        if let Stream::Secure(channel) = self {
            let mut channel = lock(channel);
            let _ = channel.shutdown_write();
            let _ = channel.try_flush();
        }
        let _ = rustix::net::shutdown(fd, Shutdown::Both);
    }
}
