//! The thread that serves a `LineHostBuffer`: a socket, connections, their limits, and the end.
//!
//! Not here: what is answered (`answer.rs`).

use super::answer::{Shared, answer};
use super::registry::Stranger;
use super::server::LineHostBuffer;
use super::stall::Stall;
use crate::line::{LineError, Lines, Result};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

/// Bytes of a request's head: request line and all headers.
const MOST_HEAD: usize = 16 << 10;

/// Connections over the limit that are told so at a time; those beyond are closed without a word.
const MOST_TURNED_AWAY: usize = 64;

/// How long what is being answered may go on after the service was told to stop by being dropped.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

const TURN_AWAY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Content-Length: 52\r\nConnection: close\r\n\r\n{\"message\":\"too many connections; come back later\"}\n";

pub(super) fn bind(address: impl ToSocketAddrs, is_beyond_loopback: bool) -> Result<TcpListener> {
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(LineError::io("looking up the address to serve at"))?
        .collect();
    if let Some(far) = addresses.iter().find(|a| !a.ip().is_loopback())
        && !is_beyond_loopback
    {
        let why = format!("{far} can be reached from other machines; say beyond_loopback() if that is meant");
        return Err(LineError::InvalidOption { option: "address", why });
    }
    let listener = TcpListener::bind(&addresses[..]).map_err(LineError::io(format!("binding {addresses:?}")))?;
    listener
        .set_nonblocking(true)
        .map_err(LineError::io("setting the socket up"))?;
    Ok(listener)
}

/// A `LineHostBuffer` being served. Ends when it is dropped; what was being answered gets a second for it.
///
/// In a forked child it does nothing: the service is the parent's.
#[derive(Debug)]
pub struct HostService {
    address: SocketAddr,
    url: String,
    generation: u64,
    stop: watch::Sender<bool>,
    is_over: Mutex<mpsc::Receiver<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl HostService {
    pub(super) fn start(buffer: LineHostBuffer, listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().map_err(LineError::io("asking for the address"))?;
        let url = format!("http://{address}{}", buffer.route());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LineError::io("starting the service"))?;
        let (stop, stopped) = watch::channel(false);
        let next = buffer.lines.next_seq()?;
        let (news, heard) = watch::channel(next);
        let (over, is_over) = mpsc::channel();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(body)
                .map_err(LineError::io("starting the service"))
        };
        let (lines, until) = (buffer.lines.clone(), stopped.clone());
        let watch_lines = move || {
            let mut seen = next;
            // A closed buffer has no news; requests say so for themselves.
            while !*until.borrow() {
                match lines.wait_for(seen, Wait::For(Duration::from_millis(100))) {
                    Ok(true) => seen = lines.next_seq().unwrap_or(seen),
                    Ok(false) => {}
                    Err(_) => break,
                }
                news.send_if_modified(|known| std::mem::replace(known, seen) != seen);
            }
        };
        let mut threads = vec![spawn("syncq-host-news", Box::new(watch_lines))?];
        let shared = Arc::new(Shared::new(buffer, address, heard, stopped.clone()));
        let serve = move || {
            // Should a library here log, and the log lead here.
            let _quiet = crate::line::quiet();
            runtime.block_on(accept(listener, shared, stopped));
            runtime.shutdown_background();
            drop(over);
        };
        match spawn("syncq-host", Box::new(serve)) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                let _ = stop.send(true);
                return Err(error);
            }
        }
        Ok(HostService {
            address,
            url,
            generation: fork::generation(),
            stop,
            is_over: Mutex::new(is_over),
            threads,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What mirrors, readers and browsers are given: `http://127.0.0.1:5000/sync-stream`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Takes no more connections, lets those that are being answered come to their end for as long as `wait` says, and closes the
    /// rest. Whether all came to their end.
    pub fn stop(mut self, wait: impl Into<Wait>) -> bool {
        self.end(wait.into())
    }

    fn end(&mut self, wait: Wait) -> bool {
        if fork::generation() != self.generation {
            // The threads are the parent's. A handle of one would wait for it for ever.
            self.threads.drain(..).for_each(std::mem::forget);
            return true;
        }
        if self.threads.is_empty() {
            return true;
        }
        let _ = self.stop.send(true);
        let is_over = self.is_over.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let limit = Deadline::of(wait).cap(Duration::from_secs(u32::MAX.into()));
        // Answered by the end of the other side.
        let all = is_over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Disconnected);
        if !all {
            // The second word: no more waiting.
            let _ = self.stop.send(true);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        all
    }
}

impl Drop for HostService {
    fn drop(&mut self) {
        self.end(Wait::For(LAST_ANSWERS));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let limit = shared.limits().connections;
    let room = Arc::new(Semaphore::new(limit));
    let turned_away = Arc::new(Semaphore::new(MOST_TURNED_AWAY));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        let Ok((stream, peer)) = accepted else {
            // No descriptors left, as a rule. Some come free.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            tokio::spawn(async move {
                converse(stream, peer, shared, stopped).await;
                drop(permit);
            });
        } else if let Ok(permit) = turned_away.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(Duration::from_secs(1), turn_away(stream)).await;
                drop(permit);
            });
        }
    }
    drop(listener);
    tokio::select! {
        _ = room.acquire_many(u32::try_from(limit).unwrap_or(u32::MAX)) => {}
        _ = stopped.changed() => {}
    }
}

/// Says that there is no room, and waits until the other side has heard it: closing at once could take the words back.
async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(TURN_AWAY).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn converse(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let stall = shared.limits().stall;
    let stranger = Arc::new(Mutex::new(Stranger::new(peer)));
    let service = service_fn(move |request| answer(shared.clone(), stranger.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(stall)
        .max_buf_size(MOST_HEAD)
        .max_headers(64)
        .serve_connection(TokioIo::new(Stall::new(stream, stall)), service);
    let mut connection = std::pin::pin!(connection);
    let is_stopped = tokio::select! {
        // A connection's fault is its own. Malformed requests were answered by hyper.
        _ = connection.as_mut() => false,
        _ = stopped.changed() => true,
    };
    if is_stopped {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
