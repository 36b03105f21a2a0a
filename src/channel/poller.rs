//! Waiting for many sources at once, and reading them: data and lines come out, not readiness.

use super::epoll::{Epoll, Ready, Registered, Side, Token};
use super::source::{ChannelSource, Found, Server, Slots, Source, Watched};
use super::{Buffering, Channel, ChannelError, Interest, Line, Peer, SocketChannel};
use crate::sys::fork;
use crate::wait::{Deadline, Wait};
use rustix::io::Errno;
use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened, and where.
#[derive(Debug)]
pub struct Event {
    /// Which source.
    pub source: Token,
    /// What happened there.
    pub what: What,
}

/// What happened to a source.
#[derive(Debug)]
#[non_exhaustive]
pub enum What {
    /// Bytes came.
    Data(Vec<u8>),
    /// A line came.
    Line(Line),
    /// A server has accepted a connection and registered it.
    Accepted {
        /// The new source.
        client: Token,
        /// Who it is.
        peer: Peer,
    },
    /// A channel that was [full](Channel::is_full) takes writes again.
    Drained,
    /// The peer has ended its side, or the channel was closed here. Everything that arrived came before this; nothing more is read. Said once.
    ///
    /// The source stays, so that it can be answered: [`Poller::finish`] sees out what is queued and lets go of it,
    /// [`Poller::unregister`] gives it back.
    End,
    /// Reading, or accepting, failed; what had arrived came before this. If the error [is final](ChannelError::is_final), nothing more is
    /// read, and the source stays as after [`What::End`]. The other sources are not concerned.
    Error(ChannelError),
    /// Writing failed, and what was queued cannot be written. Reading goes on: what had arrived is still delivered.
    WriteFailed(ChannelError),
    /// A source that was to [finish](Poller::finish) has: both directions have ended, and it is no longer registered.
    Finished,
    /// A [watched](Poller::watch) descriptor is ready. Said again with every poll, until it no longer is.
    Ready(Interest),
    /// A [`Waker`] was used, once or more often. The source is [`Token::WAKER`].
    Woken,
}

/// Ends a [`Poller::poll`] from another thread. The wake-up is not lost if nobody polls just then.
///
/// ```
/// use syncq::Wait;
/// use syncq::channel::{Poller, What};
///
/// # fn main() -> Result<(), syncq::channel::ChannelError> {
/// let mut poller = Poller::new()?;
/// let waker = poller.waker();
/// std::thread::spawn(move || waker.wake());
/// assert!(matches!(poller.poll(Wait::Forever)?[0].what, What::Woken));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Wakes the poller up.
    pub fn wake(&self) {
        // A full counter (which takes 2^64 wake-ups) wakes as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    /// An eventfd: writing 8 bytes to it, a number above 0 in this machine's order, wakes the poller, from another process too.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for many channels, servers and descriptors at once, and reads what comes.
///
/// It owns what is registered. A source is known by its [`Token`], by which it can be [written to](Poller::channel),
/// [paused](Poller::set_reading), [finished](Poller::finish) and [taken back](Poller::unregister).
///
/// ```
/// use std::net::TcpListener;
/// use std::time::Duration;
/// use syncq::Wait;
/// use syncq::channel::{Buffering, Channel, Poller, SocketChannel, What};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let second = Wait::For(Duration::from_secs(1));
/// let mut client = SocketChannel::connect_tcp(listener.local_addr()?, second)?;
/// client.write(b"one\ntwo\n", second)?;
/// client.finish(second)?;
///
/// let mut poller = Poller::new()?;
/// poller.add_server(listener, Buffering::lines());
/// 'serving: loop {
///     for event in poller.poll(second)? {
///         match event.what {
///             What::Accepted { peer, .. } => println!("{peer} came"),
///             What::Line(line) => poller.channel(event.source).unwrap().write(&line.bytes, Wait::Never)?,
///             What::End => poller.finish(event.source)?, // once all is answered
///             What::Finished => break 'serving,
///             other => panic!("{other:?}"),
///         }
///     }
/// }
/// assert_eq!(client.read(second)?.bytes(), b"one\ntwo\n");
/// # Ok(())
/// # }
/// ```
///
/// # What it promises
///
/// * [`poll`](Poller::poll) returns with events, or when its time is over, and not before.
/// * Whatever is in memory already (a line behind the one that was read, a queue's message) is delivered without waiting for more.
/// * In one poll each source is read once, up to its [limit](Channel::set_read_limit), in turn: a fast one does not starve the others.
/// * An error concerns its source alone. Events that were found in the same poll are delivered.
/// * A token is never used again, and a late report about a descriptor whose number has a new owner is recognised.
/// * The cost of a poll grows with the sources that are ready, not with those registered.
///
/// # Fork
///
/// A forked child may use the poller it inherited: it makes one of its own of it, with the same sources. Wakers made before the fork wake
/// the parent's.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    /// In which process `epoll` was made.
    born: u64,
    slots: Slots,
    /// To be looked at before the next sleep: touched by the user, or with something in memory.
    hot: Vec<Token>,
    /// To be armed before the next sleep.
    unarmed: Vec<Token>,
    /// Servers that could not accept, and when they try again.
    resting: Vec<(Instant, Token)>,
}

/// How long a server leaves connections alone that it has no descriptor for.
const REST: Duration = Duration::from_millis(50);
/// Connections that one server accepts in one poll.
const MOST_ACCEPTS: usize = 64;

impl Poller {
    /// One without sources.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if there are no descriptors left: it takes two.
    pub fn new() -> Result<Self, ChannelError> {
        Ok(Poller {
            epoll: Epoll::new().map_err(|errno| ChannelError::os("making a poller", errno))?,
            born: fork::generation(),
            slots: Slots::default(),
            hot: Vec::new(),
            unarmed: Vec::new(),
            resting: Vec::new(),
        })
    }

    fn add(&mut self, source: Source) -> Token {
        let token = self.slots.insert(source);
        self.touch(token);
        token
    }

    /// Has `token` looked at before the next sleep.
    fn touch(&mut self, token: Token) {
        if let Some(source) = self.slots.get(token)
            && !std::mem::replace(source.is_hot(), true)
        {
            self.hot.push(token);
        }
    }

    /// Registers a channel. If the system refuses it, the next poll says so.
    pub fn register(&mut self, channel: impl Channel) -> Token {
        self.register_boxed(Box::new(channel))
    }

    /// As [`register`](Poller::register).
    pub fn register_boxed(&mut self, channel: Box<dyn Channel>) -> Token {
        self.add(Source::Channel(ChannelSource::new(channel)))
    }

    /// Registers a listening socket, which is made non-blocking. Connections are accepted and registered, with this buffering.
    pub fn add_server(&mut self, listener: impl Into<OwnedFd>, buffering: Buffering) -> Token {
        self.add_server_with(listener, move |socket, _| {
            Some(Box::new(socket.with_buffering(buffering)) as Box<dyn Channel>)
        })
    }

    /// As [`add_server`](Poller::add_server); `make` says what becomes of an accepted connection. With [`None`] it is closed.
    pub fn add_server_with(
        &mut self,
        listener: impl Into<OwnedFd>,
        make: impl FnMut(SocketChannel, &Peer) -> Option<Box<dyn Channel>> + Send + 'static,
    ) -> Token {
        self.add(Source::Server(Server::new(listener.into(), Box::new(make))))
    }

    /// Watches a descriptor of any kind without reading it. To keep a hand on it, give an [`Arc`].
    pub fn watch(&mut self, fd: impl AsFd + Send + 'static, interest: Interest) -> Token {
        self.add(Source::Watched(Watched::new(Box::new(fd), interest)))
    }

    /// Changes what a [watched](Poller::watch) descriptor is watched for; for a channel and a server, whether it is
    /// [read](Poller::set_reading).
    ///
    /// # Errors
    ///
    /// [`ChannelError::NoSuchSource`].
    pub fn set_interest(&mut self, token: Token, interest: Interest) -> Result<(), ChannelError> {
        match self.slots.get(token).ok_or(ChannelError::NoSuchSource)? {
            Source::Channel(source) => source.is_reading = interest.readable,
            Source::Server(server) => server.is_accepting = interest.readable,
            Source::Watched(watched) => watched.interest = interest,
        }
        self.touch(token);
        Ok(())
    }

    /// Whether a channel is read, or a server accepts. Nothing is lost by a pause: what comes waits, and so does the peer in the end.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NoSuchSource`].
    pub fn set_reading(&mut self, token: Token, is_reading: bool) -> Result<(), ChannelError> {
        let interest = Interest {
            readable: is_reading,
            writable: false,
        };
        self.set_interest(token, interest)
    }

    /// A registered channel, to write to it. What it queues is written by the polls to come. [`None`]: no such channel.
    pub fn channel(&mut self, token: Token) -> Option<&mut dyn Channel> {
        self.touch(token);
        match self.slots.get(token)? {
            Source::Channel(source) => Some(&mut *source.channel),
            _ => None,
        }
    }

    /// As [`channel`](Poller::channel), as what it is. [`None`] also if it is something else.
    pub fn channel_as<C: Channel>(&mut self, token: Token) -> Option<&mut C> {
        let channel: &mut dyn Any = self.channel(token)?;
        channel.downcast_mut()
    }

    /// Lets go of a source at once, and gives it back if it is a channel; a server and what was watched are dropped. [`None`] also if there is no
    /// such source (any more).
    ///
    /// A `Box<dyn Channel>` is a `Box<dyn Any>` too: `downcast` leads back to the type it was registered with.
    pub fn unregister(&mut self, token: Token) -> Option<Box<dyn Channel>> {
        // A forked child must not take the parent's registration away.
        let is_mine = self.born == fork::generation();
        let mut source = self.slots.remove(token)?;
        if is_mine {
            source.unwatch(&self.epoll, token);
        }
        match source {
            Source::Channel(source) => Some(source.channel),
            _ => None,
        }
    }

    /// Ends a channel in good order: nothing more is written; what is queued goes out, then the peer sees the end. Once the peer
    /// has ended its side as well, the source is let go of, with [`What::Finished`]. Until then what it sends is delivered.
    ///
    /// A peer that does not end its side keeps the source here; [`unregister`](Poller::unregister) does not wait.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NoSuchSource`].
    pub fn finish(&mut self, token: Token) -> Result<(), ChannelError> {
        match self.slots.get(token) {
            Some(Source::Channel(source)) => source.is_finishing = true,
            Some(_) => drop(self.unregister(token)),
            None => return Err(ChannelError::NoSuchSource),
        }
        self.touch(token);
        Ok(())
    }

    /// Closes and drops all sources. What was queued and not written is dropped with them.
    pub fn close_all(&mut self) {
        for token in self.slots.tokens() {
            drop(self.unregister(token));
        }
        self.hot.clear();
        self.unarmed.clear();
        self.resting.clear();
    }

    /// How many sources are registered.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this source is registered.
    pub fn contains(&self, token: Token) -> bool {
        self.slots.contains(token)
    }

    /// The tokens of all sources.
    pub fn tokens(&self) -> Vec<Token> {
        self.slots.tokens()
    }

    /// What other threads end a poll with.
    pub fn waker(&self) -> Waker {
        Waker(self.epoll.waker.clone())
    }

    /// Waits for events and returns them; none if there were none in time. Those of one source are in their order.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Os`] if the system refuses to wait. What goes wrong with a source is an event.
    pub fn poll(&mut self, wait: impl Into<Wait>) -> Result<Vec<Event>, ChannelError> {
        let mut events = Vec::new();
        self.poll_into(&mut events, wait)?;
        Ok(events)
    }

    /// As [`poll`](Poller::poll); appends the events and returns how many there were.
    ///
    /// # Errors
    ///
    /// As [`poll`](Poller::poll). What is in `events` by then is good.
    pub fn poll_into(&mut self, events: &mut Vec<Event>, wait: impl Into<Wait>) -> Result<usize, ChannelError> {
        let deadline = Deadline::of(wait.into());
        let failed = |errno| ChannelError::os("waiting for events", errno);
        let before = events.len();
        if self.born != fork::generation() {
            self.start_anew(true).map_err(failed)?;
        }
        loop {
            self.look_at_hot(events);
            if events.len() == before && !self.arm_all() {
                self.look_at_hot(events);
            }
            let limit = match events.len() == before && self.hot.is_empty() {
                true => self.until_rested(deadline),
                false => Deadline::Now,
            };
            self.epoll
                .wait(super::wait::timespec(&limit).as_ref())
                .map_err(failed)?;
            let mut is_haunted = false;
            for at in 0..self.epoll.len() {
                is_haunted |= !self.handle(self.epoll.ready(at), events);
            }
            if is_haunted {
                self.start_anew(false).map_err(failed)?;
            }
            self.end_rest();
            if events.len() > before || deadline.has_passed() {
                return Ok(events.len() - before);
            }
        }
    }

    /// To be called before sleeping on this poller's own [descriptor](AsFd), which does not tell of what is in memory already. `false`: do not
    /// sleep, [`poll`](Poller::poll).
    pub fn arm(&mut self) -> bool {
        self.born == fork::generation() && self.hot.is_empty() && self.resting.is_empty() && self.arm_all()
    }

    /// Makes the channels ring that do not by themselves. `false`: one has something already.
    fn arm_all(&mut self) -> bool {
        for token in std::mem::take(&mut self.unarmed) {
            let Some(Source::Channel(source)) = self.slots.get(token) else {
                continue;
            };
            source.is_unarmed = false;
            let interest = source.interest();
            if interest != Interest::NONE && !source.channel.arm(interest) {
                source.has_news = true;
                self.touch(token);
            }
        }
        self.hot.is_empty()
    }

    /// Looks at everything that may have something without the kernel saying so.
    fn look_at_hot(&mut self, events: &mut Vec<Event>) {
        for token in std::mem::take(&mut self.hot) {
            let Some(source) = self.slots.get(token) else { continue };
            *source.is_hot() = false;
            let found = match source {
                Source::Channel(source) => source.look(token, &self.epoll, false, false, events),
                Source::Server(server) => server.watch(token, &self.epoll, events),
                Source::Watched(watched) => watched.look(token, &self.epoll, events),
            };
            self.after(token, found, events);
        }
    }

    /// What the kernel says about a source. `false`: about one that is no longer there.
    fn handle(&mut self, ready: Ready, events: &mut Vec<Event>) -> bool {
        let token = ready.token;
        if token == Token::WAKER {
            let _ = rustix::io::read(&self.epoll.waker, &mut [0; 8]);
            events.push(Event {
                source: token,
                what: What::Woken,
            });
            return true;
        }
        let found = match self.slots.get(token) {
            None => return false,
            Some(Source::Channel(source)) => {
                let is_readable = ready.side == Side::First && ready.readable;
                source.look(token, &self.epoll, is_readable, ready.writable, events)
            }
            Some(Source::Server(_)) => return self.accept(token, events),
            Some(Source::Watched(watched)) => {
                watched.tell(token, ready, events);
                Found::Nothing
            }
        };
        self.after(token, found, events);
        true
    }

    fn after(&mut self, token: Token, found: Found, events: &mut Vec<Event>) {
        match found {
            Found::Nothing => {}
            Found::More => self.touch(token),
            Found::Unarmed => self.unarmed.push(token),
            Found::Finished => {
                drop(self.unregister(token));
                events.push(Event {
                    source: token,
                    what: What::Finished,
                });
            }
        }
    }

    /// Accepts what waits, up to a limit; the rest comes with the next poll.
    fn accept(&mut self, token: Token, events: &mut Vec<Event>) -> bool {
        for _ in 0..MOST_ACCEPTS {
            let Some(Source::Server(server)) = self.slots.get(token) else {
                return true;
            };
            if !server.is_accepting {
                return true;
            }
            match server.accept() {
                Ok(Some((channel, peer))) => {
                    let client = self.register_boxed(channel);
                    events.push(Event {
                        source: token,
                        what: What::Accepted { client, peer },
                    });
                }
                // Not wanted, or gone again before it was accepted.
                Ok(None) | Err(Errno::CONNABORTED | Errno::PROTO | Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    let is_news = !std::mem::replace(&mut server.is_short, true);
                    server.is_resting = true;
                    server.unwatch(&self.epoll, token);
                    self.resting.push((Instant::now() + REST, token));
                    if is_news {
                        let source = errno.into();
                        events.push(Event {
                            source: token,
                            what: What::Error(ChannelError::NoDescriptor { source }),
                        });
                    }
                    return true;
                }
                Err(errno) => {
                    server.is_accepting = false;
                    server.unwatch(&self.epoll, token);
                    events.push(Event {
                        source: token,
                        what: What::Error(ChannelError::os("accept", errno)),
                    });
                    return true;
                }
            }
        }
        true
    }

    /// The deadline, or the end of the first server's rest.
    fn until_rested(&self, deadline: Deadline) -> Deadline {
        match (deadline, self.resting.iter().map(|(at, _)| *at).min()) {
            (Deadline::None, Some(at)) => Deadline::At(at),
            (Deadline::At(deadline), Some(at)) => Deadline::At(deadline.min(at)),
            (deadline, _) => deadline,
        }
    }

    fn end_rest(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let now = Instant::now();
        for (_, token) in self.resting.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            if let Some(Source::Server(server)) = self.slots.get(token) {
                server.is_resting = false;
            }
            self.touch(token);
        }
    }

    /// Registers all sources with a new epoll: in a forked child, which must not touch its parent's; and to get rid of a descriptor that was
    /// closed behind the poller's back while a copy of it lives, which the old one would report for ever.
    fn start_anew(&mut self, is_forked: bool) -> Result<(), Errno> {
        self.epoll.renew(is_forked)?;
        self.born = fork::generation();
        for token in self.slots.tokens() {
            if let Some(source) = self.slots.get(token) {
                source.forget_watch();
            }
            self.touch(token);
        }
        Ok(())
    }
}

impl AsFd for Poller {
    /// Readable when a source may be ready: to wait for this poller in another one. See [`arm`](Poller::arm).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.fd()
    }
}

pub(super) fn is_always(registered: Registered) -> bool {
    registered == Registered::Always
}
