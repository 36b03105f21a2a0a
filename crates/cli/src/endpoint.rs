//! The ends of a pump: what `queue:jobs`, `tcp:127.0.0.1:80` or `-` means, and opening it.

use crate::fail::Fail;
use crate::stop::{Stop, Woken};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::str::FromStr;

/// Where messages or bytes come from or go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `-`
    Standard,
    /// `queue:NAME`
    Queue(String),
    /// `file:PATH`, also for named pipes and devices
    File(String),
    /// `unix:PATH`
    Unix(String),
    /// `unix-listen:PATH`
    UnixListen(String),
    /// `tcp:HOST:PORT`
    Tcp(String),
    /// `tcp-listen:HOST:PORT`
    TcpListen(String),
    /// `http://HOST:PORT/ROUTE`, a line service
    Http(String),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Endpoint::Standard);
        }
        if text.starts_with("http://") {
            return Ok(Endpoint::Http(text.to_owned()));
        }
        let make = match text.split_once(':').map_or("", |(scheme, _)| scheme) {
            "queue" => Endpoint::Queue,
            "file" => Endpoint::File,
            "unix" => Endpoint::Unix,
            "unix-listen" => Endpoint::UnixListen,
            "tcp" => Endpoint::Tcp,
            "tcp-listen" => Endpoint::TcpListen,
            _ => {
                return Err(
                    "write it like queue:NAME, file:PATH, unix:PATH, unix-listen:PATH, tcp:HOST:PORT, \
                            tcp-listen:HOST:PORT, http://HOST:PORT/ROUTE, or - for standard input or output"
                        .to_owned(),
                );
            }
        };
        match text.split_once(':') {
            Some((_, rest)) if !rest.is_empty() => Ok(make(rest.to_owned())),
            _ => Err("something is missing behind the colon".to_owned()),
        }
    }
}

/// The side of the pump that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

impl Endpoint {
    /// Opens what is a stream of bytes; `None` for a queue or a line service. A listening one waits for its one peer.
    pub(crate) fn open(&self, side: Side, stop: &Stop) -> Result<Option<File>, Fail> {
        let fail = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Fail::new(format!("{what}: {error}"))
        };
        let fd: OwnedFd = match self {
            Endpoint::Queue(_) | Endpoint::Http(_) => return Ok(None),
            Endpoint::Standard if side == Side::From => io::stdin().as_fd().try_clone_to_owned()?,
            Endpoint::Standard => io::stdout().as_fd().try_clone_to_owned()?,
            Endpoint::File(path) if side == Side::From => File::open(path).map_err(fail(path))?.into(),
            Endpoint::File(path) => {
                let is_special = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo() || !m.is_file());
                let mut how = OpenOptions::new();
                how.write(true).create(!is_special).append(!is_special);
                how.open(path).map_err(fail(path))?.into()
            }
            Endpoint::Unix(path) => UnixStream::connect(path).map_err(fail(path))?.into(),
            Endpoint::Tcp(address) => TcpStream::connect(address.as_str()).map_err(fail(address))?.into(),
            Endpoint::UnixListen(path) => {
                let listener = UnixListener::bind(path).map_err(fail(path))?;
                let accepted = accept(listener.as_fd(), stop, || {
                    listener.accept().map(|(peer, _)| peer.into())
                });
                let _ = std::fs::remove_file(Path::new(path));
                accepted?
            }
            Endpoint::TcpListen(address) => {
                let listener = TcpListener::bind(address.as_str()).map_err(fail(address))?;
                // The port may be the kernel's choice.
                eprintln!("syncq: listening on {}", listener.local_addr()?);
                accept(listener.as_fd(), stop, || {
                    listener.accept().map(|(peer, _)| peer.into())
                })?
            }
        };
        Ok(Some(File::from(fd)))
    }
}

fn accept(
    listener: std::os::fd::BorrowedFd<'_>,
    stop: &Stop,
    accept: impl FnOnce() -> io::Result<OwnedFd>,
) -> Result<OwnedFd, Fail> {
    match stop.wait_readable(listener, None)? {
        Woken::Ready => Ok(accept()?),
        _ => Err(Fail::new("stopped before anybody connected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_or_explained() {
        assert_eq!("queue:jobs".parse(), Ok(Endpoint::Queue("jobs".to_owned())));
        assert_eq!("tcp:[::1]:80".parse(), Ok(Endpoint::Tcp("[::1]:80".to_owned())));
        assert_eq!("-".parse(), Ok(Endpoint::Standard));
        for wrong in ["", "jobs", "queue:", "ftp:x", ":"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
