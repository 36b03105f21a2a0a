//! One connection of a node: from connecting or accepting to its end.
//!
//! Not here: what is read (`input.rs`) and written (`output.rs`).

use super::address::Address;
use super::encryption::Certificate;
use super::error::{PoolError, Stage};
use super::identity::Identity;
use super::input::Input;
use super::lead::Lead;
use super::message::{Origin, Slot};
use super::node::Node;
use super::outcome::{Attendant, Due};
use super::output::Output;
use super::peer::{Body, Item, Link, Outgoing, Peer, Todo};
use super::run::{self, Source};
use super::stream::Stream;
use super::wire::{Announcement, FrameHeader, Handshake, WireError, features, flags};
use crate::channel::{ChannelError, Interest};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How far a connection is.
pub(crate) mod stage {
    /// The system is connecting.
    pub(crate) const CONNECTING: u8 = 0;
    /// The peer's handshake is awaited.
    pub(crate) const GREETING: u8 = 1;
    /// Messages are exchanged.
    pub(crate) const OPEN: u8 = 2;
    /// It is over.
    pub(crate) const CLOSED: u8 = 3;
}

/// Who is at the other end; known when its handshake is there.
pub(crate) struct Place {
    pub(crate) peer: Arc<Peer>,
    /// What messages from there have as their address.
    pub(crate) address: Address,
    pub(crate) remote_identity: Identity,
    /// What it has shown of itself, where the connection is encrypted.
    pub(crate) certificate: Option<Certificate>,
}

pub(crate) struct Connection {
    pub(crate) me: Weak<Connection>,
    pub(crate) id: u64,
    pub(crate) node: Arc<Node>,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) stream: Stream,
    pub(crate) remote: SocketAddr,
    /// For whom it was made, where it was made by this node.
    pub(crate) dialed: Option<Arc<Peer>>,
    pub(crate) place: OnceLock<Place>,
    stage: AtomicU8,
    /// Its peer was told that it can be used.
    is_opened: AtomicBool,
    /// Its own writer or closer has taken care of what is left.
    is_finished: AtomicBool,
    why: Mutex<Option<PoolError>>,
    pub(crate) features: AtomicU32,
    pub(crate) is_peer_stopping: AtomicBool,
    /// Slots that are held, but for those that are lent. May be less than zero while one is both lent and released.
    pub(crate) held_slots: AtomicIsize,
    /// Messages wait for a slot. SeqCst: see `input.rs`.
    pub(crate) is_stalled: AtomicBool,
    /// It is not read, for there is too much that waits.
    pub(crate) is_paused: AtomicBool,
    pub(crate) input: Mutex<Input>,
    pub(crate) output: Mutex<Output>,
    pub(crate) lead: Mutex<Lead>,
    /// The last message for the handler came when none other was being handled.
    pub(crate) has_come_alone: AtomicBool,
    begun: Instant,
    /// When something went over it last, in nanoseconds since `begun`.
    last_used: AtomicU64,
}

impl Connection {
    pub(crate) fn new(
        node: Arc<Node>,
        fd: Arc<OwnedFd>,
        stream: Stream,
        remote: SocketAddr,
        dialed: Option<Arc<Peer>>,
        is_connected: bool,
    ) -> Arc<Self> {
        let input = Input::new(node.config.max_message_size.into());
        Arc::new_cyclic(|me| Connection {
            me: me.clone(),
            id: run::next_id(),
            node,
            fd,
            stream,
            remote,
            dialed,
            place: OnceLock::new(),
            stage: AtomicU8::new(if is_connected {
                stage::GREETING
            } else {
                stage::CONNECTING
            }),
            is_opened: AtomicBool::new(false),
            is_finished: AtomicBool::new(false),
            why: Mutex::new(None),
            features: AtomicU32::new(0),
            is_peer_stopping: AtomicBool::new(false),
            held_slots: AtomicIsize::new(0),
            is_stalled: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            input: Mutex::new(input),
            output: Mutex::default(),
            lead: Mutex::default(),
            has_come_alone: AtomicBool::new(false),
            begun: Instant::now(),
            last_used: AtomicU64::new(0),
        })
    }

    /// Who is meant, for errors.
    pub(crate) fn address(&self) -> Address {
        match (self.place.get(), &self.dialed) {
            (Some(place), _) => place.peer.address.clone(),
            (None, Some(peer)) => peer.address.clone(),
            (None, None) => Address::Ip(self.remote),
        }
    }

    pub(crate) fn stage(&self) -> u8 {
        self.stage.load(Ordering::Acquire)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stage() == stage::OPEN
    }

    /// Whether the peer is known, and not gone: what came with its handshake may be released before all of that is read.
    pub(crate) fn is_in_use(&self) -> bool {
        self.place.get().is_some() && self.stage() != stage::CLOSED
    }

    pub(crate) fn touch(&self) {
        let since = self.begun.elapsed().as_nanos();
        self.last_used
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn idle_for(&self) -> Duration {
        self.begun
            .elapsed()
            .saturating_sub(Duration::from_nanos(self.last_used.load(Ordering::Relaxed)))
    }

    /// What the end of a stream is to those who wait for something from it.
    pub(crate) fn broken(&self, error: &ChannelError) -> PoolError {
        let peer = self.address();
        #[cfg(feature = "tls")]
        if let Some(error) = super::tls::TlsError::of(error) {
            let what = error.to_string();
            return PoolError::Tls { peer, what };
        }
        let _ = error;
        PoolError::PeerDied { peer }
    }

    /// The handshake goes out, with what nodes of this library tell each other.
    pub(crate) fn greet(self: &Arc<Self>) {
        let handshake = Handshake {
            port: self.node.port(),
            identity: self.node.identity,
        };
        // Its serial is of no use to anybody: no peer is known yet.
        let announcement = Announcement::OURS.to_header(0);
        if let Err(error) = self
            .stream
            .write_first(&[&handshake.to_bytes(), &announcement.to_bytes()])
        {
            self.break_off(self.broken(&error));
        }
    }

    /// The peer's handshake is there. Messages are not sent before [`opened`](Connection::opened).
    pub(crate) fn greeted(self: &Arc<Self>, handshake: Handshake) {
        let said = Address::Ip((self.remote.ip().to_canonical(), handshake.port).into()).canonical();
        let certificate = self.stream.certificate();
        let peer = match &self.dialed {
            // It is reached where it was reached, whatever it says of itself.
            Some(peer) => {
                if said != peer.address || certificate.is_some() {
                    self.node.alias(&said, certificate.clone(), peer);
                }
                peer.clone()
            }
            None => self.node.peer(&said, certificate.clone()),
        };
        let place = Place {
            peer: peer.clone(),
            address: said,
            remote_identity: handshake.identity,
            certificate,
        };
        // There is one handshake, as the decoder has it.
        let _ = self.place.set(place);
    }

    /// All is read that came with the handshake: what the peer announces goes before the first message to it.
    pub(crate) fn opened(self: &Arc<Self>, todo: &mut Todo) {
        let Some(place) = self.place.get() else { return };
        let is_open = self
            .stage
            .compare_exchange(stage::GREETING, stage::OPEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if is_open {
            self.is_opened.store(true, Ordering::Release);
            place.peer.established(self.clone(), todo);
        }
    }

    /// Closes it, for this reason, and settles what was on its way.
    pub(crate) fn break_off(&self, why: PoolError) {
        let before = self.stage.swap(stage::CLOSED, Ordering::AcqRel);
        if before == stage::CLOSED {
            return;
        }
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.stream.shut_down(&self.fd);
        if self.close_output() {
            self.finish_close();
        }
    }

    /// The rest of [`break_off`](Connection::break_off), when nobody writes any more.
    pub(crate) fn finish_close(&self) {
        if self.is_finished.swap(true, Ordering::AcqRel) {
            return;
        }
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        let why = why.unwrap_or_else(|| PoolError::PeerDied { peer: self.address() });
        // Why the connection was given up need not be true of what went out before.
        let sent = match why.is_unsent() {
            true => PoolError::PeerDied { peer: self.address() },
            false => why.clone(),
        };
        let mut todo = Todo::default();
        let mut wakes = Vec::new();
        if let Some(place) = self.place.get() {
            let other = || self.node.other_link(&place.peer, self.id);
            let rest = || {
                let left = self.take_rest();
                // Before the peer fails what was not released.
                let half = left.half.into_iter().map(|outgoing| (outgoing, &why));
                let unknown = left.unknown.into_iter().map(|outgoing| (outgoing, &sent));
                for (Outgoing { message, cell, .. }, why) in half.chain(unknown) {
                    wakes.push(cell.fail_with(why.clone(), message));
                }
                left.unsent
            };
            place.peer.lost(self.id, rest, &sent, other, &mut todo);
        }
        todo.wakes.append(&mut wakes);
        let peer = self.place.get().map(|place| &place.peer).or(self.dialed.as_ref());
        self.node.forget(self.id);
        self.node.fail_requests(&sent, |cell| cell.way() == self.id);
        if let Some(peer) = peer {
            if !self.is_opened.load(Ordering::Acquire) && self.dialed.is_some() {
                peer.not_connected(&self.why_not(why), &mut todo);
            }
            self.node.carry_out(peer, todo);
        }
        // So that the loop lets go of it.
        if let Some(me) = self.me.upgrade() {
            self.node.looper.look_at(me);
        }
    }

    /// Why a connection could not be made, to those who wait for it.
    fn why_not(&self, why: PoolError) -> PoolError {
        match why {
            PoolError::PeerDied { peer } => PoolError::NoPeer {
                peer,
                source: Arc::new(std::io::Error::new(
                    std::io::ErrorKind::ConnectionReset,
                    "it closed the connection instead of greeting",
                )),
            },
            why => why,
        }
    }

    /// The peer does not keep to the protocol.
    pub(crate) fn violated(&self, error: &WireError) {
        self.break_off(PoolError::Protocol {
            peer: self.address(),
            what: error.to_string(),
        });
    }

    /// An acknowledgement, or another frame without a message.
    pub(crate) fn take_frame(&self, head: FrameHeader, text: Option<Vec<u8>>) {
        let body = match text {
            Some(text) => Body::Text(text),
            None => Body::Nothing,
        };
        self.take_item(Item { head, body });
    }

    pub(crate) fn has_announced(&self, what: u32) -> bool {
        self.features.load(Ordering::Acquire) & what == what
    }

    /// Tells the peer that this node is stopping.
    pub(crate) fn announce_stop(self: &Arc<Self>) {
        if self.is_in_use() && self.has_announced(features::STOPPING) {
            let head = FrameHeader {
                flags: flags::STOPPING,
                ..FrameHeader::default()
            };
            self.take_frame(head, None);
            self.flush_soon();
        }
    }

    /// Ends what is overdue.
    pub(crate) fn sweep(self: &Arc<Self>, now: Instant) -> Due {
        let config = &self.node.config;
        match self.stage() {
            stage::OPEN => {
                let write_due = match self.overdue_write(now) {
                    Ok(due) => due,
                    Err(error) => {
                        self.break_off(error);
                        return None;
                    }
                };
                let limit = self.node.idle_limit();
                let idle = self.idle_for();
                if idle > limit && self.is_idle() {
                    self.break_off(PoolError::PeerDied { peer: self.address() });
                    return None;
                }
                let idle_due = now + limit.saturating_sub(idle).max(limit / 8);
                [write_due, self.sweep_lease(now), Some(idle_due)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            stage::CLOSED => None,
            _ => {
                let limit = match self.dialed {
                    Some(_) => config
                        .connect_timeout()
                        .min(config.handshake_timeout.max(config.timeout)),
                    None => config.handshake_timeout,
                };
                let due = self.begun + limit;
                if due > now {
                    return Some(due);
                }
                let peer = self.address();
                let stage = Stage::Connecting;
                self.break_off(PoolError::TimedOut { peer, stage });
                None
            }
        }
    }

    /// Whether nothing is going on: no message held, none on its way, no answer awaited.
    fn is_idle(&self) -> bool {
        self.held_slots.load(Ordering::Acquire) <= 0
            && !self.is_stalled.load(Ordering::Acquire)
            && !self.has_output()
            && self.place.get().is_none_or(|place| place.peer.is_quiet())
            && !self.node.awaits_answer(self.id)
    }

    fn connected(self: &Arc<Self>) {
        match rustix::net::sockopt::socket_error(&*self.fd) {
            Ok(Ok(())) => {
                self.stage.store(stage::GREETING, Ordering::Release);
                self.greet();
            }
            Ok(Err(errno)) | Err(errno) => self.break_off(super::tcp::not_connected(self.address(), errno)),
        }
    }
}

impl Source for Connection {
    fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    fn interest(&self) -> Option<Interest> {
        match self.stage() {
            stage::CLOSED => None,
            stage::CONNECTING => Some(Interest::WRITE),
            _ => Some(Interest {
                readable: !self.is_paused.load(Ordering::Acquire) && !self.is_leased(),
                writable: self.is_output_blocked(),
            }),
        }
    }

    fn ready(self: Arc<Self>, ready: Interest) {
        match self.stage() {
            stage::CLOSED => {}
            stage::CONNECTING if ready.writable => self.connected(),
            stage::CONNECTING => {}
            _ => {
                if ready.readable {
                    self.receive();
                }
                if let Err(error) = self.stream.try_flush() {
                    return self.break_off(self.broken(&error));
                }
                self.write_out();
            }
        }
    }

    fn id(&self) -> u64 {
        self.id
    }
}

impl Link for Connection {
    fn id(&self) -> u64 {
        self.id
    }

    fn append(&self, item: Item) {
        self.take_message(item);
    }

    fn has_room(&self, _is_answer: bool) -> bool {
        self.has_output_room()
    }

    fn flush(self: Arc<Self>) {
        self.flush_soon();
    }

    fn features(&self) -> u32 {
        self.features.load(Ordering::Acquire)
    }

    fn is_stopping(&self) -> bool {
        self.is_peer_stopping.load(Ordering::Acquire)
    }

    fn is_closed(&self) -> bool {
        self.stage() == stage::CLOSED
    }

    fn certificate(&self) -> Option<Certificate> {
        self.place.get()?.certificate.clone()
    }

    fn as_attendant(self: Arc<Self>) -> Arc<dyn Attendant> {
        self
    }

    fn give_up(self: Arc<Self>, error: PoolError) {
        self.break_off(error);
    }
}

impl Origin for Connection {
    fn released(self: Arc<Self>, slot: &Slot) {
        if slot.wants_ack && self.is_in_use() {
            self.take_frame(FrameHeader::ack(slot.identity, 0), None);
            self.flush_soon();
        }
        // SeqCst: see `input.rs`.
        self.held_slots.fetch_sub(1, Ordering::SeqCst);
        self.resume();
    }

    fn failed(self: Arc<Self>, slot: &Slot, why: &str) {
        if self.is_in_use() && self.has_announced(features::FAILED) && (slot.is_request || slot.wants_ack) {
            let text = why.as_bytes();
            // A reason is not worth being refused for its length.
            let text = &text[..text.len().min(4096).min(self.node.config.max_message_size as usize)];
            let head = FrameHeader {
                identity: slot.identity,
                flags: flags::FAILED,
                data_len: text.len() as u32,
                ..FrameHeader::default()
            };
            self.take_frame(head, Some(text.to_vec()));
            self.flush_soon();
        }
    }

    fn handled(self: Arc<Self>) {
        self.serve();
    }

    fn lend(self: Arc<Self>, is_lent: bool) {
        match is_lent {
            true => {
                self.held_slots.fetch_sub(1, Ordering::SeqCst);
                self.resume();
            }
            false => drop(self.held_slots.fetch_add(1, Ordering::SeqCst)),
        }
    }
}
