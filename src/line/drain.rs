//! Pipes whose bytes become lines of a mirror, by a thread of their own or by whoever needs them at once.

use super::error::{LineError, Result};
use super::item::Stream;
use super::mirror::Mirror;
use super::pending::{in_lane, new_lane};
use super::quiet::quiet;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes that one visit takes from a pipe at most, so that others get their turn.
const VISIT: usize = 4 << 20;

/// The reading end of a pipe.
#[derive(Debug)]
pub(super) struct Drain {
    end: OwnedFd,
    stream: Stream,
    /// The pending line of the mirror that is this pipe's.
    lane: u64,
}

impl Drain {
    /// A pipe: the end that is read here, and the end to write to.
    pub(super) fn new(stream: Stream) -> rustix::io::Result<(Drain, OwnedFd)> {
        let (end, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Only this end: who prints is to wait when the pipe is full.
        rustix::fs::fcntl_setfl(&end, rustix::fs::OFlags::NONBLOCK)?;
        let drain = Drain {
            end,
            stream,
            lane: new_lane(),
        };
        Ok((drain, write))
    }
}

#[derive(Debug)]
pub(super) struct Drains {
    shared: Arc<Shared>,
    /// Closed to end the thread.
    stop: Mutex<Option<OwnedFd>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    drains: Vec<Drain>,
    mirror: Arc<dyn Mirror>,
    /// Held from reading until it is written: so who has it knows that nothing is on its way.
    turn: Mutex<Box<[u8]>>,
    lost: AtomicU64,
    told: AtomicU64,
}

impl Drains {
    pub(super) fn new(mirror: Arc<dyn Mirror>, drains: Vec<Drain>) -> Self {
        Drains {
            shared: Arc::new(Shared {
                drains,
                mirror,
                turn: Mutex::new(vec![0; 64 << 10].into()),
                lost: AtomicU64::new(0),
                told: AtomicU64::new(0),
            }),
            stop: Mutex::new(None),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread.
    pub(super) fn start(&mut self) -> Result<()> {
        let (stopped, stop) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| LineError::io("making a pipe")(error.into()))?;
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("syncq-capture".into())
            .spawn(move || shared.run(&stopped))
            .map_err(LineError::io("starting a thread"))?;
        *self.stop.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        *self.thread.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Takes what is in the pipes now.
    pub(super) fn pump(&self) {
        self.shared.pump();
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Ends the thread, takes what is still in the pipes, and ends unfinished lines.
    pub(super) fn finish(&self) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(stop);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        self.shared.pump();
        self.shared.end_lines();
        let _quiet = quiet();
        let _ = self.shared.mirror.flush();
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        // Without waiting: the thread ends by itself.
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Shared {
    fn run(&self, stopped: &OwnedFd) {
        let mut open: Vec<&Drain> = self.drains.iter().collect();
        loop {
            let mut waits: Vec<PollFd<'_>> = open
                .iter()
                .map(|drain| PollFd::new(&drain.end, PollFlags::IN))
                .collect();
            waits.push(PollFd::new(stopped, PollFlags::IN));
            match poll(&mut waits, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if waits.pop().is_some_and(|stop| !stop.revents().is_empty()) {
                return;
            }
            let is_over: Vec<bool> = waits
                .iter()
                .map(|wait| wait.revents().contains(PollFlags::HUP) && !wait.revents().contains(PollFlags::IN))
                .collect();
            self.pump();
            // Nobody can write any more, and all was read.
            let mut is_over = is_over.into_iter();
            open.retain(|_| !is_over.next().unwrap_or(false));
        }
    }

    fn pump(&self) {
        let _quiet = quiet();
        let mut room = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for drain in &self.drains {
            let (mut taken, mut last) = (0, b'\n');
            while taken < VISIT {
                let read = match rustix::io::read(&drain.end, &mut room[..]) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(Errno::INTR) => continue,
                    Err(_) => break,
                };
                taken += read;
                last = room[read - 1];
                self.write(drain, &room[..read]);
            }
            if last != b'\n' {
                // A prompt, say. It is to be seen, and to survive this process.
                let _ = in_lane(drain.lane, || self.mirror.flush());
            }
        }
    }

    fn end_lines(&self) {
        let _quiet = quiet();
        for drain in &self.drains {
            // If it is refused, the mirror still has the line, and sends it when it is closed.
            let _ = in_lane(drain.lane, || self.mirror.new_line());
        }
    }

    fn write(&self, drain: &Drain, bytes: &[u8]) {
        match in_lane(drain.lane, || self.mirror.write_bytes(drain.stream, bytes)) {
            Ok(()) => {
                let (lost, told) = (self.lost.load(Ordering::Relaxed), self.told.load(Ordering::Relaxed));
                if lost > told
                    && self
                        .mirror
                        .send_warning(&format_args!("{} bytes of output dropped", lost - told))
                        .is_ok()
                {
                    self.told.store(lost, Ordering::Relaxed);
                }
            }
            Err(_) => drop(self.lost.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
        }
    }
}
