//! Messages, and what a received one still owes to its sender: its slot, an acknowledgement, an answer.
//!
//! Not here: how a slot is given back over a connection ([`Origin`] is implemented by each transport).

use super::address::Address;
use super::encryption::Certificate;
use super::error::PoolError;
use super::identity::Identity;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What nodes send each other.
///
/// A new message has an identity of its own, and is made for one send or request. A received one has the identity it was sent
/// with, and where it came from as its address: to answer it, change its data and send it back.
///
/// ```
/// use syncq::pool::Message;
///
/// let mut message = Message::to("127.0.0.1:2998", "hello")?;
/// assert_eq!((message.address(), message.port()), ("127.0.0.1".to_owned(), 2998));
/// let identity = message.identity();
/// message.set_data("good bye");
/// message.set_header([1, 2, 3]);
/// assert_eq!(message.identity(), identity);
/// assert!(!message.has_slot());
/// assert_eq!(message.serial(), 0);
/// # Ok::<(), syncq::pool::PoolError>(())
/// ```
///
/// # Slots
///
/// A received message holds a slot of its connection until it is released: by [`release`](Message::release), when its handler returns if
/// [`auto_release`](super::Config::auto_release) is set, when it was sent back, and at the latest when it is dropped. While all slots are held, no more
/// messages are handed out from that connection. Releasing is what a synchronous sender waits for.
///
/// # Requests
///
/// Who drops a request unanswered has it fail with [`PoolError::HandlerFailed`] at the requester, if both nodes are of this library.
#[derive(Default)]
pub struct Message {
    pub(crate) identity: Identity,
    pub(crate) serial: u32,
    pub(crate) remote_identity: Identity,
    pub(crate) header: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) peer: Address,
    /// What its sender has shown of itself.
    pub(crate) certificate: Option<Certificate>,
    pub(crate) receipt: Option<Receipt>,
}

impl Message {
    /// An empty one for nobody, with an identity of its own.
    pub fn new() -> Self {
        Message {
            identity: Identity::random(),
            ..Message::default()
        }
    }

    /// One for this peer, with this data.
    ///
    /// # Errors
    ///
    /// [`PoolError::Address`] if that is no address.
    pub fn to<A>(peer: A, data: impl Into<Vec<u8>>) -> Result<Self, PoolError>
    where
        A: TryInto<Address>,
        PoolError: From<A::Error>,
    {
        Ok(Message {
            peer: peer.try_into()?,
            data: data.into(),
            ..Message::new()
        })
    }

    /// What stays the same when it is answered or acknowledged.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The sender's counter, where it was received. 0 before.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The identity of the node that it was received from: another one after that node's restart. Zero before.
    pub fn remote_identity(&self) -> Identity {
        self.remote_identity
    }

    /// For protocols on top; mostly empty. At most 65,535 bytes.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Changes the header.
    pub fn set_header(&mut self, header: impl Into<Vec<u8>>) {
        self.header = header.into();
    }

    /// What it says.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The same, to be changed.
    pub fn data_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Changes what it says.
    pub fn set_data(&mut self, data: impl Into<Vec<u8>>) {
        self.data = data.into();
    }

    /// Takes the data out.
    pub fn take_data(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.data)
    }

    /// The data as text; what is no UTF-8 is replaced.
    pub fn text_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.data)
    }

    /// Where it goes, or where it came from.
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// The certificate that its sender has shown, where it came over an encrypted connection. Sent back, it goes to a node with
    /// that certificate's key, or fails; changing the address takes the certificate away.
    #[cfg(feature = "tls")]
    pub fn peer_certificate(&self) -> Option<&super::PeerCertificate> {
        self.certificate.as_ref()
    }

    /// Changes where it goes.
    pub fn set_peer(&mut self, peer: impl Into<Address>) {
        self.certificate = None;
        self.peer = peer.into();
    }

    /// The address without the port: an IP address, or `queue:NAME`. `0.0.0.0` in a new message.
    pub fn address(&self) -> String {
        match &self.peer {
            Address::Ip(address) => address.ip().to_string(),
            queue => queue.to_string(),
        }
    }

    /// Changes the address: an IP address, which keeps the port, or `queue:NAME`.
    ///
    /// # Errors
    ///
    /// [`PoolError::Address`] if it is neither. Then nothing has changed.
    pub fn set_address(&mut self, address: &str) -> Result<(), PoolError> {
        let peer = match address.parse::<IpAddr>() {
            Ok(ip) => Address::Ip((ip, self.port()).into()),
            Err(_) if address.starts_with(super::address::QUEUE) => address.parse()?,
            Err(_) => return Err(super::AddressError::new(address).into()),
        };
        self.set_peer(peer);
        Ok(())
    }

    /// The port; 0 in a new message, and where a queue is addressed.
    pub fn port(&self) -> u16 {
        match &self.peer {
            Address::Ip(address) => address.port(),
            Address::Queue(_) => 0,
        }
    }

    /// Changes the port. Means nothing where a queue is addressed.
    pub fn set_port(&mut self, port: u16) {
        if let Address::Ip(address) = &mut self.peer {
            address.set_port(port);
            self.certificate = None;
        }
    }

    /// Whether it holds a slot: it was received, and not released.
    pub fn has_slot(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.slot.is_held())
    }

    /// Releases its slot: the next message may come, and a synchronous sender is told. Returns identity and serial of what was
    /// released; [`None`] if there was nothing to release (any more).
    pub fn release(&mut self) -> Option<(Identity, u32)> {
        let slot = &self.receipt.as_ref()?.slot;
        slot.release().then_some((slot.identity, slot.serial))
    }

    /// Whether its sender waits for an answer. Known of nodes of this library only.
    pub fn is_request(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.slot.is_request)
    }

    /// Whether its sender no longer waits for the answer. Known of nodes of this library only.
    pub fn is_cancelled(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.slot.is_cancelled())
    }

    /// Tells the requester that there will be no answer, and why. To others (not of this library, or nobody waits) nothing is told; the message is
    /// released in any case.
    pub fn fail(mut self, why: &str) {
        if let Some(receipt) = self.receipt.take() {
            receipt.slot.fail(why);
        }
    }

    /// Bytes of header and data.
    pub(crate) fn size(&self) -> u64 {
        self.header.len() as u64 + self.data.len() as u64
    }
}

impl Clone for Message {
    /// The same to be sent again, under the same identity. The copy has no slot, and owes no answer.
    fn clone(&self) -> Self {
        Message {
            identity: self.identity,
            serial: self.serial,
            remote_identity: self.remote_identity,
            header: self.header.clone(),
            data: self.data.clone(),
            peer: self.peer.clone(),
            certificate: self.certificate.clone(),
            receipt: None,
        }
    }
}

/// Bytes of data that are shown.
const SHOWN: usize = 64;

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.data[..self.data.len().min(SHOWN)];
        f.debug_struct("Message")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("peer", &self.peer)
            .field("header", &self.header.len())
            .field("len", &self.data.len())
            .field("data", &String::from_utf8_lossy(shown))
            .field("has_slot", &self.has_slot())
            .finish_non_exhaustive()
    }
}

/// Where a received message came in, to which its slot goes back. Implemented by each transport.
pub(crate) trait Origin: Send + Sync {
    /// The slot is free again; the sender is to be told if it [wants that](Slot::wants_ack). Called once for each slot.
    fn released(self: Arc<Self>, slot: &Slot);

    /// Tells the sender that the message was not handled well. Called at most once, before it is released.
    fn failed(self: Arc<Self>, slot: &Slot, why: &str);

    /// The calling thread, a worker of the node, has handled a message from here and is free.
    fn handled(self: Arc<Self>) {}

    /// The handler that has this slot begins (`true`) or ends to wait for something itself: meanwhile the slot does not count.
    fn lend(self: Arc<Self>, is_lent: bool);
}

/// The slot was given back.
const RELEASED: u8 = 1;
/// It was answered, or its sender was told that it will not be.
const SETTLED: u8 = 2;
/// The sender no longer waits.
const CANCELLED: u8 = 4;
/// The message is gone.
const DROPPED: u8 = 8;

/// What a received message owes.
pub(crate) struct Slot {
    pub(crate) identity: Identity,
    pub(crate) serial: u32,
    /// The sender waits for the release.
    pub(crate) wants_ack: bool,
    /// The sender waits for an answer, and understands that there is none.
    pub(crate) is_request: bool,
    origin: Arc<dyn Origin>,
    state: AtomicU8,
}

impl Slot {
    pub(crate) fn new(
        identity: Identity,
        serial: u32,
        wants_ack: bool,
        is_request: bool,
        origin: Arc<dyn Origin>,
    ) -> Arc<Self> {
        Arc::new(Slot {
            identity,
            serial,
            wants_ack,
            is_request,
            origin,
            state: AtomicU8::new(0),
        })
    }

    fn has(&self, bits: u8) -> bool {
        self.state.load(Ordering::Acquire) & bits != 0
    }

    /// Whether the bits were not set before.
    fn set(&self, bits: u8) -> bool {
        self.state.fetch_or(bits, Ordering::AcqRel) & bits == 0
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.has(RELEASED)
    }

    pub(crate) fn cancel(&self) {
        self.set(CANCELLED);
    }

    /// It needs no answer any more: it was given, or handed on.
    pub(crate) fn settle(&self) -> bool {
        self.set(SETTLED)
    }

    /// Whether it was released by this.
    pub(crate) fn release(&self) -> bool {
        let is_first = self.set(RELEASED);
        if is_first {
            self.origin.clone().released(self);
        }
        is_first
    }

    /// Tells the sender, once, that this was not handled well. Does not release.
    pub(crate) fn tell_failure(&self, why: &str) {
        if self.settle() && !self.has(CANCELLED) {
            self.origin.clone().failed(self, why);
        }
    }

    pub(crate) fn fail(&self, why: &str) {
        self.tell_failure(why);
        self.release();
    }

    /// Nobody has the message any more: an unanswered request has failed.
    fn abandoned(&self) {
        if self.is_request {
            self.tell_failure("the message was dropped without an answer");
        }
        self.release();
    }

    /// The handler has ended: well, or for a reason. `is_released`: so is the message, whoever has it.
    pub(crate) fn handled(&self, outcome: Result<(), &str>, is_released: bool) {
        match outcome {
            Err(why) => self.fail(why),
            Ok(()) if self.has(DROPPED) => self.abandoned(),
            Ok(()) if is_released => {
                self.release();
            }
            Ok(()) => {}
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.has(CANCELLED)
    }

    /// The worker that has handled it is free.
    pub(crate) fn worker_is_free(&self) {
        self.origin.clone().handled();
    }

    pub(crate) fn lend(&self, is_lent: bool) {
        self.origin.clone().lend(is_lent);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("identity", &self.identity)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The message's own hold on its slot: when it goes, an unanswered request has failed, and the slot is free.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) slot: Arc<Slot>,
}

impl Receipt {
    /// The message was sent back, or on.
    pub(crate) fn answered(self) {
        self.slot.settle();
    }

    /// It never was: the slot is not given back by this.
    pub(crate) fn forget(self) {
        self.slot.set(SETTLED | RELEASED);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.slot.set(DROPPED);
        // While its handler runs, what becomes of it is for the end of the handler: there may be more to say.
        if !super::workers::is_handling(&self.slot) {
            self.slot.abandoned();
        }
    }
}
