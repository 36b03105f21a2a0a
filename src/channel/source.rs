//! What a poller holds: channels, servers and watched descriptors, each in a slot with a generation.

use super::epoll::{Epoll, Ready, Registered, Side, Token};
use super::poller::{Event, What, is_always};
use super::{Channel, ChannelError, Input, Interest, Peer, SocketChannel};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Slots for sources. A slot that is used again has another generation.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<(u32, Option<Source>)>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn insert(&mut self, source: Source) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).unwrap_or(Token::MOST);
            assert!(index < Token::MOST, "more sources than there can be descriptors");
            self.slots.push((0, None));
            index
        });
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(source);
        Token {
            index,
            generation: *generation,
        }
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Source> {
        let (generation, source) = self.slots.get_mut(token.index as usize)?;
        (*generation == token.generation).then_some(source)?.as_mut()
    }

    pub(super) fn contains(&self, token: Token) -> bool {
        let slot = self.slots.get(token.index as usize);
        slot.is_some_and(|(generation, source)| *generation == token.generation && source.is_some())
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Source> {
        self.get(token)?;
        let (generation, slot) = &mut self.slots[token.index as usize];
        let source = slot.take();
        // A slot whose generations are used up stays empty: a token is never given twice.
        if let Some(next) = generation.checked_add(1) {
            *generation = next;
            self.free.push(token.index);
        }
        source
    }

    pub(super) fn len(&self) -> usize {
        self.slots.iter().filter(|(_, source)| source.is_some()).count()
    }

    pub(super) fn tokens(&self) -> Vec<Token> {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, (_, source))| source.is_some());
        used.map(|(index, (generation, _))| Token {
            index: index as u32,
            generation: *generation,
        })
        .collect()
    }
}

/// What a look at a source leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The kernel will tell when there is more.
    Nothing,
    /// There is more, and the kernel will not tell.
    More,
    /// The kernel will tell once the channel is armed.
    Unarmed,
    /// The source is at its end.
    Finished,
}

#[derive(Debug)]
pub(super) enum Source {
    Channel(ChannelSource),
    Server(Server),
    Watched(Watched),
}

impl Source {
    pub(super) fn is_hot(&mut self) -> &mut bool {
        match self {
            Source::Channel(source) => &mut source.is_hot,
            Source::Server(server) => &mut server.is_hot,
            Source::Watched(watched) => &mut watched.is_hot,
        }
    }

    /// Takes it out of the kernel's hands.
    pub(super) fn unwatch(&mut self, epoll: &Epoll, token: Token) {
        match self {
            Source::Channel(source) => {
                source.is_reading = false;
                source.is_write_over = true;
                // What cannot be taken out is closed, and by that out.
                let _ = source.watch(token, epoll);
            }
            Source::Server(server) => server.unwatch(epoll, token),
            Source::Watched(watched) => {
                watched.interest = Interest::NONE;
                let _ = watched.watch(token, epoll);
            }
        }
    }

    /// The kernel has forgotten it.
    pub(super) fn forget_watch(&mut self) {
        match self {
            Source::Channel(source) => source.registered = Default::default(),
            Source::Server(server) => server.registered = Registered::No,
            Source::Watched(watched) => watched.registered = Registered::No,
        }
    }
}

/// What one source gives in one poll, in bytes, before the others have their turn.
const BUDGET: usize = 64 << 10;
/// What an item counts beside its bytes.
const ITEM: usize = 16;

#[derive(Debug)]
pub(super) struct ChannelSource {
    pub(super) channel: Box<dyn Channel>,
    registered: [Registered; 2],
    pub(super) is_reading: bool,
    is_read_over: bool,
    is_write_over: bool,
    pub(super) is_finishing: bool,
    was_full: bool,
    is_hot: bool,
    pub(super) is_unarmed: bool,
    /// Arming found something to be had.
    pub(super) has_news: bool,
}

impl ChannelSource {
    pub(super) fn new(channel: Box<dyn Channel>) -> Self {
        ChannelSource {
            is_read_over: channel.read_fd().is_none() && !channel.has_buffered(),
            is_write_over: channel.write_fd().is_none(),
            was_full: channel.is_full(),
            channel,
            registered: Default::default(),
            is_reading: true,
            is_finishing: false,
            is_hot: false,
            is_unarmed: false,
            has_news: false,
        }
    }

    pub(super) fn interest(&self) -> Interest {
        Interest {
            readable: self.is_reading && !self.is_read_over,
            writable: !self.is_write_over && self.channel.queued() > 0,
        }
    }

    /// Makes the kernel watch what is of interest now.
    fn watch(&mut self, token: Token, epoll: &Epoll) -> Result<(), Errno> {
        let interest = self.interest();
        let (read, write) = (self.channel.read_fd(), self.channel.write_fd());
        let is_same = match (read, write) {
            (Some(read), Some(write)) => read.as_raw_fd() == write.as_raw_fd(),
            _ => false,
        };
        let [first, second] = &mut self.registered;
        let (of_first, of_second) = match is_same {
            true => (interest, Interest::NONE),
            false => (
                Interest {
                    writable: false,
                    ..interest
                },
                Interest {
                    readable: false,
                    ..interest
                },
            ),
        };
        let second_fd = write.filter(|_| !is_same);
        epoll.watch(first, read, of_first, (token, Side::First))?;
        epoll.watch(second, second_fd, of_second, (token, Side::Second))
    }

    fn is_always(&self, interest: Interest) -> bool {
        interest.readable && is_always(self.registered[0])
            || interest.writable && (is_always(self.registered[1]) || is_always(self.registered[0]))
    }

    /// Writes and reads what can be, and tells the kernel what to watch for. The flags are what the kernel said; without them, what
    /// is in memory is looked at, and what is queued is tried.
    pub(super) fn look(
        &mut self,
        token: Token,
        epoll: &Epoll,
        is_readable: bool,
        is_writable: bool,
        events: &mut Vec<Event>,
    ) -> Found {
        let mut tell = |what| events.push(Event { source: token, what });
        // Filled since the last look, and maybe empty again after this one: who saw it full waits to be told.
        self.was_full |= self.channel.is_full();
        let is_asked = is_readable || is_writable;
        if self.is_finishing
            && !self.is_write_over
            && let Err(error) = self.channel.shutdown_write()
        {
            self.fail_writing(error, &mut tell);
        }
        if !self.is_write_over
            && (is_writable || !is_asked)
            && self.channel.queued() > 0
            && let Err(error) = self.channel.try_flush()
        {
            self.fail_writing(error, &mut tell);
        }
        let is_full = self.channel.is_full();
        if std::mem::replace(&mut self.was_full, is_full) && !is_full {
            tell(What::Drained);
        }
        let is_always = self.is_always(self.interest());
        let may_read = is_readable || is_always || std::mem::take(&mut self.has_news) || self.channel.has_buffered();
        if may_read && self.is_reading && !self.is_read_over {
            self.read(&mut tell);
        }
        if self.channel.is_closed() {
            if self.is_reading && !self.is_read_over && !self.channel.has_buffered() {
                self.is_read_over = true;
                tell(What::End);
            }
            self.is_write_over = true;
        }
        if self.is_finishing && self.is_read_over && (self.is_write_over || self.channel.queued() == 0) {
            return Found::Finished;
        }
        if let Err(errno) = self.watch(token, epoll) {
            if !self.is_read_over {
                tell(What::Error(ChannelError::os("watching", errno)));
            }
            self.is_read_over = true;
            self.is_write_over = true;
        }
        let interest = self.interest();
        if interest.readable && self.channel.has_buffered() || self.is_always(interest) {
            Found::More
        } else if self.channel.needs_arming()
            && interest != Interest::NONE
            && !std::mem::replace(&mut self.is_unarmed, true)
        {
            Found::Unarmed
        } else {
            Found::Nothing
        }
    }

    fn fail_writing(&mut self, error: ChannelError, tell: &mut impl FnMut(What)) {
        self.is_write_over = true;
        tell(What::WriteFailed(error));
    }

    /// One read, and what is in memory after it.
    fn read(&mut self, tell: &mut impl FnMut(What)) {
        let mut taken = 0;
        loop {
            match self.channel.try_read() {
                Ok(Input::Data(bytes)) => {
                    taken += bytes.len();
                    tell(What::Data(bytes));
                }
                Ok(Input::Line(line)) => {
                    taken += line.bytes.len();
                    tell(What::Line(line));
                }
                Ok(Input::Pending) => return,
                Ok(Input::End) | Err(ChannelError::Closed) => {
                    self.is_read_over = true;
                    return tell(What::End);
                }
                Err(error) => {
                    self.is_read_over = error.is_final();
                    tell(What::Error(error));
                    if self.is_read_over {
                        return;
                    }
                }
            }
            taken += ITEM;
            if taken >= BUDGET || !self.channel.has_buffered() {
                return;
            }
        }
    }
}

type Make = Box<dyn FnMut(SocketChannel, &Peer) -> Option<Box<dyn Channel>> + Send>;

/// What was accepted, and from whom.
pub(super) type Connection = (Box<dyn Channel>, Peer);

pub(super) struct Server {
    listener: OwnedFd,
    make: Make,
    registered: Registered,
    pub(super) is_accepting: bool,
    /// There was no descriptor for the last connection.
    pub(super) is_short: bool,
    pub(super) is_resting: bool,
    is_hot: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(listener: OwnedFd, make: Make) -> Self {
        Server {
            listener,
            make,
            registered: Registered::No,
            is_accepting: true,
            is_short: false,
            is_resting: false,
            is_hot: false,
        }
    }

    pub(super) fn watch(&mut self, token: Token, epoll: &Epoll, events: &mut Vec<Event>) -> Found {
        let interest = Interest {
            readable: self.is_accepting && !self.is_resting,
            writable: false,
        };
        // Else a client that has gone before it was accepted would make `accept` block.
        let outcome = rustix::io::ioctl_fionbio(&self.listener, true);
        let fd = Some(self.listener.as_fd());
        let outcome = outcome.and_then(|()| epoll.watch(&mut self.registered, fd, interest, (token, Side::First)));
        let error = match outcome {
            Ok(()) if is_always(self.registered) => ChannelError::NotAStream,
            Ok(()) => return Found::Nothing,
            Err(errno) => ChannelError::os("watching", errno),
        };
        if std::mem::take(&mut self.is_accepting) {
            events.push(Event {
                source: token,
                what: What::Error(error),
            });
        }
        Found::Nothing
    }

    pub(super) fn unwatch(&mut self, epoll: &Epoll, token: Token) {
        let fd = Some(self.listener.as_fd());
        let _ = epoll.watch(&mut self.registered, fd, Interest::NONE, (token, Side::First));
    }

    /// One connection. [`None`]: it was not wanted.
    pub(super) fn accept(&mut self) -> Result<Option<Connection>, Errno> {
        let (socket, address) = acceptfrom_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        self.is_short = false;
        let peer = Peer::of(address);
        let socket = SocketChannel::over(socket);
        if let Peer::Ip(_) = peer {
            socket.send_at_once();
        }
        Ok((self.make)(socket, &peer).map(|channel| (channel, peer)))
    }
}

/// Something with a descriptor, whatever it is.
trait Described: AsFd + Send {}
impl<T: AsFd + Send> Described for T {}

pub(super) struct Watched {
    fd: Box<dyn Described>,
    pub(super) interest: Interest,
    registered: Registered,
    is_hot: bool,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("fd", &self.fd.as_fd())
            .field("interest", &self.interest)
            .finish_non_exhaustive()
    }
}

impl Watched {
    pub(super) fn new(fd: impl AsFd + Send + 'static, interest: Interest) -> Self {
        Watched {
            fd: Box::new(fd),
            interest,
            registered: Registered::No,
            is_hot: false,
        }
    }

    fn watch(&mut self, token: Token, epoll: &Epoll) -> Result<(), Errno> {
        let fd = Some(self.fd.as_fd());
        epoll.watch(&mut self.registered, fd, self.interest, (token, Side::First))
    }

    pub(super) fn look(&mut self, token: Token, epoll: &Epoll, events: &mut Vec<Event>) -> Found {
        let mut tell = |what| events.push(Event { source: token, what });
        match self.watch(token, epoll) {
            Err(errno) => tell(What::Error(ChannelError::os("watching", errno))),
            Ok(()) if is_always(self.registered) => {
                tell(What::Ready(self.interest));
                return Found::More;
            }
            Ok(()) => {}
        }
        Found::Nothing
    }

    pub(super) fn tell(&self, token: Token, ready: Ready, events: &mut Vec<Event>) {
        let what = What::Ready(Interest {
            readable: ready.readable,
            writable: ready.writable,
        });
        events.push(Event { source: token, what });
    }
}
