//! The kernel's side of the poller: level-triggered epoll, and the tokens that it hands back.
//!
//! Not here: what the sources are.

use super::Interest;
use rustix::event::{Timespec, epoll, eventfd};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Which source of a [`Poller`](super::Poller): its own for as long as it is registered, and never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Token {
    /// Who a [wake-up](super::What::Woken) comes from.
    pub const WAKER: Token = Token {
        index: (1 << 31) - 1,
        generation: 0,
    };
    /// How many sources a poller can have at a time.
    pub(crate) const MOST: u32 = Token::WAKER.index;
}

/// Which of the two descriptors of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one to read from, and the only one where both are the same.
    First,
    /// The one to write to.
    Second,
}

/// What the kernel reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) side: Side,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Whether the kernel watches a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Registered {
    #[default]
    No,
    Yes {
        fd: RawFd,
        interest: Interest,
    },
    /// The kernel refuses to (a file, `/dev/null`): there is nothing to wait for.
    Always,
}

/// Events taken from the kernel in one go. What is more comes with the next: it hands them out in turn.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    /// What the last wait gave.
    batch: Vec<Ready>,
    pub(crate) waker: Arc<OwnedFd>,
}

fn data(token: Token, side: Side) -> epoll::EventData {
    let low = u64::from(token.index) << 1 | u64::from(side == Side::Second);
    epoll::EventData::new_u64(u64::from(token.generation) << 32 | low)
}

fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.readable);
    flags.set(epoll::EventFlags::OUT, interest.writable);
    flags
}

fn new_epoll(waker: &OwnedFd) -> Result<OwnedFd, Errno> {
    let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&fd, waker, data(Token::WAKER, Side::First), epoll::EventFlags::IN)?;
    Ok(fd)
}

impl Epoll {
    pub(crate) fn new() -> Result<Self, Errno> {
        let waker = eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?;
        Ok(Epoll {
            fd: new_epoll(&waker)?,
            batch: Vec::new(),
            waker: Arc::new(waker),
        })
    }

    /// Forgets everything but the waker. With `is_forked`, the waker too: it is the parent's.
    pub(crate) fn renew(&mut self, is_forked: bool) -> Result<(), Errno> {
        if is_forked {
            let new = Epoll::new()?;
            self.fd = new.fd;
            self.waker = new.waker;
        } else {
            let new = new_epoll(&self.waker)?;
            // Under the old number: somebody may be waiting for this poller by it.
            rustix::io::dup3(&new, &mut self.fd, rustix::io::DupFlags::CLOEXEC)?;
        }
        Ok(())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the kernel watch `fd` for `interest`, if it does not yet. `registered` says what it does, and is kept up.
    ///
    /// A hang-up is reported whatever the interest; so without any, the descriptor is not watched at all.
    pub(crate) fn watch(
        &self,
        registered: &mut Registered,
        fd: Option<BorrowedFd<'_>>,
        interest: Interest,
        (token, side): (Token, Side),
    ) -> Result<(), Errno> {
        let Some(fd) = fd else {
            // Closed, and by that out of epoll. Its number may be another source's by now: hands off.
            *registered = Registered::No;
            return Ok(());
        };
        let raw = fd.as_raw_fd();
        match *registered {
            Registered::Yes { fd, interest: old } if fd == raw && old == interest => return Ok(()),
            Registered::Yes { fd: old, .. } if old == raw && interest == Interest::NONE => {
                *registered = Registered::No;
                return match epoll::delete(&self.fd, fd) {
                    Err(Errno::NOENT) => Ok(()),
                    outcome => outcome,
                };
            }
            Registered::Yes { fd: old, .. } if old == raw => {
                match epoll::modify(&self.fd, fd, data(token, side), flags(interest)) {
                    // Closed and opened again behind our back.
                    Err(Errno::NOENT) => {}
                    outcome => {
                        *registered = Registered::Yes { fd: raw, interest };
                        return outcome;
                    }
                }
            }
            Registered::Always if interest != Interest::NONE => return Ok(()),
            _ => {}
        }
        *registered = Registered::No;
        if interest == Interest::NONE {
            return Ok(());
        }
        match epoll::add(&self.fd, fd, data(token, side), flags(interest)) {
            Err(Errno::PERM) => {
                *registered = Registered::Always;
                return Ok(());
            }
            // A number that was somebody else's, who closed it behind our back while a copy of it lives.
            Err(Errno::EXIST) => epoll::modify(&self.fd, fd, data(token, side), flags(interest))?,
            outcome => outcome?,
        }
        *registered = Registered::Yes { fd: raw, interest };
        Ok(())
    }

    /// Sleeps until something is ready. `limit`: [`None`] for ever.
    pub(crate) fn wait(&mut self, limit: Option<&Timespec>) -> Result<(), Errno> {
        self.batch.clear();
        let mut limit = limit.copied();
        // epoll_wait knows milliseconds only, and rounds up. So a short sleep is slept by ppoll on the epoll itself.
        if let Some(short) = limit
            && short.tv_sec == 0
            && short.tv_nsec % 1_000_000 != 0
            && short.tv_nsec < FINE
        {
            let mut fds = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&short)) {
                Ok(0) | Err(Errno::INTR) => return Ok(()),
                outcome => outcome?,
            };
            limit = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); BATCH];
        match epoll::wait(&self.fd, &mut buffer, limit.as_ref()) {
            Ok((events, _)) => self.batch.extend(events.iter().map(decode)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// How many events the last wait gave.
    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }

    /// One of them.
    pub(crate) fn ready(&self, at: usize) -> Ready {
        self.batch[at]
    }
}

fn decode(event: &epoll::Event) -> Ready {
    let (flags, data) = (event.flags, event.data.u64());
    let is_over = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
    Ready {
        token: Token {
            index: (data as u32) >> 1,
            generation: (data >> 32) as u32,
        },
        side: if data & 1 == 0 { Side::First } else { Side::Second },
        readable: is_over || flags.contains(epoll::EventFlags::IN),
        writable: is_over || flags.contains(epoll::EventFlags::OUT),
    }
}

/// Sleeps shorter than this, in nanoseconds, are not rounded to milliseconds.
const FINE: i64 = 20_000_000;
