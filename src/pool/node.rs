//! The inside of a node: who it knows, what it is waiting for, and what its handler does.
//!
//! Not here: what users hold (`chirp.rs`), how one peer is served (`peer.rs`), sockets (`tcp.rs`, `connection.rs`).

use super::address::Address;
use super::chirp::{Chirp, Handler};
use super::config::Config;
use super::connection::{Connection, Place};
use super::encryption::{Certificate, Encryption, Side};
use super::error::PoolError;
use super::identity::Identity;
use super::lead;
use super::local::Queues;
use super::message::Message;
use super::outcome::{Canceller, Cell, Due, Outcome};
use super::peer::{Link, Outgoing, Peer, Rules, Todo};
use super::run::{self, Sweep};
use super::stream::Stream;
use super::tcp::{self, Listener};
use super::wire::{FrameHeader, features, flags};
use super::workers::{self, Workers};
use crate::channel::SocketChannel;
use crate::sys::fork;
use crate::wait::Deadline;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A request that is not answered yet.
pub(crate) struct Pending {
    pub(crate) cell: Arc<Cell>,
    pub(crate) peer: Address,
    pub(crate) due: Due,
    /// The answer needs no slot: it is released when it is there.
    pub(crate) auto_release: bool,
}

/// How far a node is.
pub(crate) mod phase {
    pub(crate) const RUNNING: u8 = 0;
    /// Nothing new: what is on its way is finished.
    pub(crate) const DRAINING: u8 = 1;
    /// Over.
    pub(crate) const STOPPED: u8 = 2;
}

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How {
    pub(crate) is_request: bool,
    /// The user's own limit for all of it.
    pub(crate) due: Option<Due>,
    pub(crate) is_held: bool,
}

/// What a peer is known by: its address; and its certificate where it has shown one, and is not known to be who is reached there.
type Known = (Address, Option<Certificate>);

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) slots: isize,
    port: u16,
    pub(crate) looper: Arc<run::Shared>,
    handler: Box<dyn Handler>,
    workers: Workers<Message>,
    me: Weak<Node>,
    requests: Mutex<HashMap<Identity, Pending>>,
    peers: Mutex<HashMap<Known, Arc<Peer>>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// Its queues, if it has any.
    local: OnceLock<Arc<Queues>>,
    /// One at a time makes them.
    is_localizing: Mutex<()>,
    phase: AtomicU8,
    /// Threads inside [`Node::stop`] beside the first.
    has_stopped: (Mutex<bool>, Condvar),
    encryption: Encryption,
    /// In which process it works.
    born: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(crate) fn new(
        looper: Arc<run::Shared>,
        config: Config,
        handler: Box<dyn Handler>,
    ) -> Result<Arc<Self>, PoolError> {
        config.validate()?;
        let encryption = Encryption::of(&config)?;
        let (sockets, port) = match config.has_network() {
            true => tcp::open(&config)?,
            false => (Vec::new(), 0),
        };
        let node = Arc::new_cyclic(|me: &Weak<Node>| {
            let weak = me.clone();
            let work = move |message| {
                let message: Message = message;
                let slot = message.receipt.as_ref().map(|receipt| receipt.slot.clone());
                if let Some(node) = weak.upgrade() {
                    node.handle(message);
                }
                if let Some(slot) = slot {
                    slot.worker_is_free();
                }
            };
            Node {
                id: run::next_id(),
                identity: config
                    .identity
                    .filter(|it| !it.is_zero())
                    .unwrap_or_else(Identity::random),
                slots: config.slots() as isize,
                port,
                workers: Workers::new("chirp worker", config.worker_count(), Box::new(work)),
                looper,
                handler,
                me: me.clone(),
                requests: Mutex::default(),
                peers: Mutex::default(),
                connections: Mutex::default(),
                listeners: Mutex::default(),
                local: OnceLock::new(),
                is_localizing: Mutex::default(),
                phase: AtomicU8::new(phase::RUNNING),
                has_stopped: Default::default(),
                encryption,
                born: fork::generation(),
                config,
            }
        });
        if node.config.queue.is_some() {
            node.queues()?;
        }
        node.looper.add(node.clone());
        for socket in sockets {
            let listener = Listener::new(node.clone(), socket);
            lock(&node.listeners).push(listener.clone());
            node.looper.look_at(listener);
        }
        Ok(node)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn idle_limit(&self) -> Duration {
        self.config.idle_limit()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) != phase::RUNNING
    }

    /// Whether this process is the one that it was made in.
    pub(crate) fn is_mine(&self) -> bool {
        self.born == fork::generation()
    }

    // ------------------------------------------------------------------------------------------------------------ sending

    /// Sends a message, or fails at once.
    pub(crate) fn send(self: &Arc<Self>, mut message: Message, how: How) -> Outcome {
        if let Err(error) = self.check(&message) {
            return Outcome::failed(error, message);
        }
        let receipt = message.receipt.take();
        let is_answer = receipt.is_some();
        let cell = Cell::new(message.identity);
        let now = Instant::now();
        let due = match (how.due, how.is_request) {
            (Some(due), _) => due,
            (None, true) => Some(now + self.config.timeout),
            (None, false) => None,
        };
        let send_by = match (how.due, how.is_request) {
            (None, false) => Some(now + self.config.connect_timeout()),
            _ => due,
        };
        if how.is_request {
            let pending = Pending {
                cell: cell.clone(),
                peer: message.peer.clone(),
                due,
                auto_release: !how.is_held,
            };
            let mut requests = lock(&self.requests);
            match requests.entry(message.identity) {
                std::collections::hash_map::Entry::Vacant(entry) => drop(entry.insert(pending)),
                // One that has failed may be made again.
                std::collections::hash_map::Entry::Occupied(mut entry) if entry.get().cell.is_done() => {
                    drop(entry.insert(pending));
                }
                std::collections::hash_map::Entry::Occupied(_) => {
                    drop(requests);
                    message.receipt = receipt;
                    return Outcome::failed(PoolError::InUse, message);
                }
            }
        }
        cell.set_canceller(self.me.clone());
        let outgoing = Outgoing {
            receipt,
            cell: cell.clone(),
            is_request: how.is_request,
            is_answer,
            is_nested: workers::is_in_handler(),
            send_by,
            due: how.due,
            attempts: 0,
            is_of_attempt: false,
            message,
        };
        let deadline = send_by.map_or(Deadline::None, Deadline::At);
        let peer = self.peer(&outgoing.message.peer, outgoing.message.certificate.clone());
        let mut todo = Todo::default();
        peer.send(outgoing, &deadline, &mut todo);
        self.carry_out(&peer, todo);
        if how.is_request {
            match cell.is_done() {
                // It failed at once.
                true => drop(self.take_request_of(&cell)),
                false => due.into_iter().for_each(|due| self.looper.due(due)),
            }
        }
        Outcome::of(cell)
    }

    fn check(&self, message: &Message) -> Result<(), PoolError> {
        if !self.is_mine() {
            return Err(PoolError::Forked);
        }
        match self.phase.load(Ordering::Acquire) {
            phase::RUNNING => {}
            // What handlers still have to say.
            phase::DRAINING if message.receipt.is_some() || workers::is_in_handler() => {}
            _ => return Err(PoolError::ShuttingDown),
        }
        let (size, max) = (message.size(), u64::from(self.config.max_message_size));
        if size > max {
            return Err(PoolError::TooLarge { size, max });
        }
        if message.header.len() > usize::from(u16::MAX) {
            let len = message.header.len();
            return Err(PoolError::HeaderTooLong { len });
        }
        if message.peer.is_unspecified() {
            let source = Arc::new(std::io::Error::from(std::io::ErrorKind::AddrNotAvailable));
            let peer = message.peer.clone();
            return Err(PoolError::NoPeer { peer, source });
        }
        Ok(())
    }

    /// Does what a peer wants done, outside of all locks.
    pub(crate) fn carry_out(&self, peer: &Arc<Peer>, todo: Todo) {
        // What was not sent is not going to be answered.
        for (outgoing, _) in todo.failed.iter().filter(|(outgoing, _)| outgoing.is_request) {
            drop(self.take_request_of(&outgoing.cell));
        }
        let (is_to_connect, due) = todo.carry_out();
        if let Some(due) = due {
            self.looper.due(due);
        }
        if is_to_connect {
            self.connect(peer);
        }
    }

    fn connect(&self, peer: &Arc<Peer>) {
        let Some(me) = self.me.upgrade() else { return };
        match &peer.address {
            Address::Ip(address) => tcp::dial(&me, peer, *address),
            Address::Queue(_) => match self.queues() {
                Ok(queues) => queues.connect(&me, peer),
                Err(error) => {
                    let mut todo = Todo::default();
                    peer.not_connected(&error, &mut todo);
                    self.carry_out(peer, todo);
                }
            },
        }
    }

    /// Its queues, made if it has none: what is sent over a queue is answered over one.
    fn queues(&self) -> Result<Arc<Queues>, PoolError> {
        let _one_at_a_time = lock(&self.is_localizing);
        if let Some(queues) = self.local.get() {
            return Ok(queues.clone());
        }
        let me = self.me.upgrade().ok_or(PoolError::ShuttingDown)?;
        if self.phase.load(Ordering::Acquire) == phase::STOPPED {
            return Err(PoolError::ShuttingDown);
        }
        let name = match &self.config.queue {
            Some(name) => name.clone(),
            None => format!("chirp-{}", self.identity),
        };
        let queues = Queues::begin(&me, &name)?;
        let _ = self.local.set(queues.clone());
        Ok(queues)
    }

    // -------------------------------------------------------------------------------------------------- peers, connections

    /// Who is reached under this address. With a certificate: who has shown it and says that it has this address. Any node of the
    /// authority could say so; what is meant for who is reached there does not go to who says so.
    pub(crate) fn peer(&self, address: &Address, certificate: Option<Certificate>) -> Arc<Peer> {
        let address = address.canonical();
        let key = (address.clone(), certificate);
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(&key) {
            // With the map locked, so that it is not forgotten before it is used.
            peer.touch();
            return peer.clone();
        }
        let rules = Rules {
            synchronous: self.config.synchronous,
            timeout: self.config.timeout,
            retries: self.config.retries.into(),
            messages: self.config.send_queue_messages,
            bytes: self.config.send_queue_bytes,
            policy: self.config.send_queue_policy,
        };
        let peer = Peer::new(address, rules);
        // Looked at with the map locked, which `stop` locks after it has said so: each peer is ended there or here.
        match self.phase.load(Ordering::Acquire) {
            phase::STOPPED => {
                let mut todo = Todo::default();
                peer.end(&PoolError::ShuttingDown, &mut todo);
                let _ = todo.carry_out();
            }
            _ => drop(peers.insert(key, peer.clone())),
        }
        peer
    }

    /// A peer that was reached under one address says that it has another one: what is sent there goes to it, unless somebody is there already.
    pub(crate) fn alias(&self, address: &Address, certificate: Option<Certificate>, peer: &Arc<Peer>) {
        let key = (address.clone(), certificate);
        lock(&self.peers).entry(key).or_insert_with(|| peer.clone());
    }

    /// The same node by another way: who is reached there and has shown this certificate, and who has shown it and says that it is there.
    pub(crate) fn siblings(&self, place: &Place) -> Vec<Arc<Peer>> {
        if place.certificate.is_none() {
            return Vec::new();
        }
        let is_same = |peer: &Arc<Peer>| peer.certificate() == place.certificate && !Arc::ptr_eq(peer, &place.peer);
        let peers = lock(&self.peers);
        let keys = [None, place.certificate.clone()].map(|certificate| (place.address.clone(), certificate));
        keys.iter()
            .filter_map(|key| peers.get(key))
            .filter(|peer| is_same(peer))
            .cloned()
            .collect()
    }

    /// A stream over a socket, encrypted if that is to be.
    pub(crate) fn stream(
        &self,
        socket: OwnedFd,
        remote: IpAddr,
        is_client: bool,
    ) -> Result<(Arc<OwnedFd>, Stream), PoolError> {
        let failed = |error: std::io::Error| PoolError::os("making a connection", error);
        let own = rustix::net::getsockname(&socket).and_then(SocketAddr::try_from);
        let own = own.map_err(|errno| failed(errno.into()))?.ip().to_canonical();
        if !self.encryption.is_for(own, remote.to_canonical()) {
            return Ok(tcp::plain(socket));
        }
        let side = match is_client {
            true => Side::Connected,
            false => Side::Accepted,
        };
        // The loop and the channel have a descriptor each: they let go of it at different times.
        let fd = Arc::new(socket);
        let socket = fd.try_clone().map_err(failed)?;
        let channel = SocketChannel::new(socket).map_err(|error| failed(error.into()))?;
        let mut channel = self.encryption.over(channel, side).map_err(failed)?;
        channel.set_read_limit(self.config.read_buffer());
        Ok((fd, Stream::Secure(Mutex::new(channel))))
    }

    /// Somebody has connected.
    pub(crate) fn accepted(self: &Arc<Self>, socket: OwnedFd, remote: SocketAddr) {
        // What is wrong with it, its peer sees by the end of the connection.
        if let Ok((fd, stream)) = self.stream(socket, remote.ip(), false) {
            let connection = Connection::new(self.clone(), fd, stream, remote, None, true);
            self.adopt(connection, true);
        }
    }

    pub(crate) fn adopt(&self, connection: Arc<Connection>, is_connected: bool) {
        lock(&self.connections).insert(connection.id, connection.clone());
        if self.phase.load(Ordering::Acquire) == phase::STOPPED {
            return connection.break_off(PoolError::ShuttingDown);
        }
        if is_connected {
            connection.greet();
        }
        if let Some(due) = connection.sweep(Instant::now()) {
            self.looper.due(due);
        }
        self.looper.look_at(connection);
    }

    pub(crate) fn forget(&self, connection: u64) {
        lock(&self.connections).remove(&connection);
    }

    /// The newest link to this peer but one.
    pub(crate) fn other_link(&self, peer: &Arc<Peer>, but: u64) -> Option<Arc<dyn Link>> {
        let connections = lock(&self.connections);
        let is_one = |connection: &&Arc<Connection>| {
            let is_peers = || {
                connection
                    .place
                    .get()
                    .is_some_and(|place| Arc::ptr_eq(&place.peer, peer))
            };
            connection.id != but && connection.is_open() && is_peers()
        };
        let newest = connections
            .values()
            .filter(is_one)
            .max_by_key(|connection| connection.id)?;
        Some(newest.clone())
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections).values().cloned().collect()
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).values().cloned().collect()
    }

    // ------------------------------------------------------------------------------------------------------------ requests

    pub(crate) fn take_request(&self, identity: Identity) -> Option<Pending> {
        lock(&self.requests).remove(&identity)
    }

    /// The request of this very cell. Another one may have been sent under its identity meanwhile.
    fn take_request_of(&self, cell: &Cell) -> Option<Pending> {
        let mut requests = lock(&self.requests);
        let waiting = requests.get(&cell.identity)?;
        match std::ptr::eq(&*waiting.cell, cell) {
            true => requests.remove(&cell.identity),
            false => None,
        }
    }

    pub(crate) fn awaits_answer(&self, link: u64) -> bool {
        lock(&self.requests).values().any(|pending| pending.cell.way() == link)
    }

    /// Fails all requests of which this is true.
    pub(crate) fn fail_requests(&self, error: &PoolError, is_one: impl Fn(&Cell) -> bool) {
        let failed: Vec<_> = lock(&self.requests)
            .extract_if(|_, pending| is_one(&pending.cell))
            .collect();
        for (_, pending) in failed {
            drop(pending.cell.fail(error.clone()));
        }
    }

    // ------------------------------------------------------------------------------------------------------------- handler

    /// Has a worker handle a message. Gives it back if there is nobody to.
    #[allow(clippy::result_large_err, reason = "it is the message itself")]
    pub(crate) fn dispatch(&self, message: Message) -> Result<(), Message> {
        match lead::take_next(message) {
            Some(message) => self.workers.push(message).map_err(|(message, _)| message),
            None => Ok(()),
        }
    }

    /// Whether a worker may stay where it is: there is nothing else to do, and another one for what comes.
    pub(crate) fn can_spare_worker(&self) -> bool {
        self.workers.can_spare_one()
    }

    /// Runs the handler, on this thread.
    pub(crate) fn handle(self: &Arc<Self>, message: Message) {
        let slot = message.receipt.as_ref().map(|receipt| receipt.slot.clone());
        if slot.as_ref().is_some_and(|slot| slot.is_cancelled()) {
            return;
        }
        let chirp = Chirp::inside(self.clone());
        let outcome = workers::handle(slot.clone(), || {
            catch_unwind(AssertUnwindSafe(|| self.handler.handle(&chirp, message)))
        });
        let Some(slot) = slot else { return };
        let is_released = self.config.auto_release;
        match outcome {
            Ok(Ok(())) => slot.handled(Ok(()), is_released),
            Ok(Err(why)) => slot.handled(Err(&why), is_released),
            Err(panic) => {
                let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                    (Some(text), _) => text,
                    (_, Some(text)) => text.as_str(),
                    _ => "(no text)",
                };
                slot.handled(Err(&format!("the handler panicked: {text}")), is_released);
                // A panic's value may panic as well when it is dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            }
        }
    }

    // ---------------------------------------------------------------------------------------------------------------- stop

    /// Stops: see [`Chirp::stop`].
    pub(crate) fn stop(self: &Arc<Self>, deadline: &Deadline) -> Result<(), PoolError> {
        if !self.is_mine() {
            return Err(PoolError::Forked);
        }
        let local = self.local.get();
        let is_inside = self.workers.is_mine() || self.looper.is_here() || local.is_some_and(|local| local.is_mine());
        let begun = self
            .phase
            .compare_exchange(phase::RUNNING, phase::DRAINING, Ordering::AcqRel, Ordering::Acquire);
        if begun.is_err() {
            let mut has_stopped = lock(&self.has_stopped.0);
            while !*has_stopped && !is_inside && !deadline.has_passed() {
                let limit = deadline.cap(Duration::from_secs(3600));
                let woken = self.has_stopped.1.wait_timeout(has_stopped, limit);
                has_stopped = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            return Ok(());
        }
        for listener in lock(&self.listeners).drain(..) {
            listener.close();
        }
        for connection in self.connections() {
            connection.announce_stop();
        }
        if let Some(local) = local {
            local.announce_stop();
        }
        let me = usize::from(self.workers.is_mine());
        let is_loop = self.looper.is_here();
        // The loop's thread must not wait for what the loop has to do.
        let patience = if is_loop { Deadline::Now } else { *deadline };
        let is_idle = local.is_none_or(|local| local.drain(&patience)) & self.workers.wait_idle(me, &patience);
        while is_idle && !self.is_quiet() && !patience.has_passed() {
            std::thread::sleep(patience.cap(Duration::from_millis(1)));
        }
        self.phase.store(phase::STOPPED, Ordering::Release);
        let error = PoolError::ShuttingDown;
        for message in self.workers.take_all() {
            message.fail("the node is stopping");
        }
        let mut unreleased = 0;
        for connection in self.connections() {
            unreleased += connection.release_all();
        }
        let local = self.local.get();
        unreleased += local.map_or(0, |local| local.release_all());
        for connection in self.connections() {
            connection.write_out();
            connection.break_off(error.clone());
        }
        for peer in self.peers() {
            let mut todo = Todo::default();
            peer.end(&error, &mut todo);
            let _ = todo.carry_out();
        }
        self.fail_requests(&error, |_| true);
        if let Some(local) = local {
            local.end(&error);
        }
        self.looper.remove(self.id);
        self.workers.end(me, &patience);
        lock(&self.peers).clear();
        self.looper.leave();
        *lock(&self.has_stopped.0) = true;
        self.has_stopped.1.notify_all();
        match unreleased {
            0 => Ok(()),
            count => Err(PoolError::Unreleased { count }),
        }
    }

    /// Whether nothing is on its way: no message to be sent, none held, no answer awaited.
    fn is_quiet(&self) -> bool {
        let is_silent = |connection: &Arc<Connection>| {
            connection.held_slots.load(Ordering::Acquire) <= 0 && !connection.has_output()
        };
        // Those that have failed are found there until their time is over.
        lock(&self.requests).values().all(|pending| pending.cell.is_done())
            && self.peers().iter().all(|peer| peer.is_quiet())
            && self.connections().iter().all(is_silent)
            && self.local.get().is_none_or(|local| local.is_quiet())
    }
}

impl Sweep for Node {
    fn sweep(&self, now: Instant) -> Due {
        let mut next: Due = None;
        let mut earlier = |due: Due| {
            next = match (next, due) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        };
        for listener in lock(&self.listeners).iter() {
            earlier(listener.sweep(now));
        }
        for connection in self.connections() {
            earlier(connection.sweep(now));
        }
        for peer in self.peers() {
            let mut todo = Todo::default();
            peer.sweep(now, &mut todo);
            earlier(todo.due.take());
            self.carry_out(&peer, todo);
        }
        // Peers that were not heard of for long are forgotten. An alias holds one more.
        if let Some(since) = now.checked_sub(self.idle_limit()) {
            lock(&self.peers).retain(|_, peer| !peer.is_idle_since(since));
        }
        // Those that are waiting to be sent, their peers have seen to.
        let over: Vec<Pending> = {
            let mut requests = lock(&self.requests);
            let over = requests.extract_if(|_, pending| pending.due.is_some_and(|due| due <= now));
            let over = over.map(|(_, pending)| pending).collect();
            requests.values().for_each(|pending| earlier(pending.due));
            over
        };
        for pending in over {
            self.abandon(pending.cell.identity, &pending.cell);
            drop(pending.cell.fail_late(pending.peer));
        }
        next
    }

    fn id(&self) -> u64 {
        self.id
    }
}

impl Node {
    /// Nobody waits for the answer any more: tells the peer, if it has the request and understands that.
    fn abandon(&self, identity: Identity, cell: &Cell) {
        if self
            .local
            .get()
            .is_some_and(|local| local.abandon(identity, cell.way()))
        {
            return;
        }
        let connection = lock(&self.connections).get(&cell.way()).cloned();
        if let Some(connection) = connection
            && connection.is_open()
            && connection.has_announced(features::CANCEL)
        {
            let head = FrameHeader {
                identity,
                flags: flags::CANCEL,
                ..FrameHeader::default()
            };
            connection.take_frame(head, None);
            connection.flush_soon();
        }
    }
}

impl Canceller for Node {
    fn cancelled(&self, cell: &Cell) {
        drop(self.take_request_of(cell));
        self.abandon(cell.identity, cell);
        // What waits in a queue is found there.
        self.looper.due(Instant::now());
    }
}
