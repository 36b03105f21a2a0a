//! What frames between nodes on one machine mean: messages for the handler, answers, and news about what was sent. The counterpart of
//! `pool::input` for queues.

use super::link::QueueLink;
use super::parcel::Refused;
use super::remote::Remote;
use super::{Host, Local, LocalError, Outbox};
use crate::pool::address::Address;
use crate::pool::error::PoolError;
use crate::pool::identity::Identity;
use crate::pool::message::{Message, Origin, Receipt, Slot};
use crate::pool::node::Node;
use crate::pool::peer::{Link, Peer, Todo};
use crate::pool::wire::{Frame, FrameHeader, FrameKind, flags};
use crate::wait::{Deadline, Wait};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// How long opening another node's queues may take where nothing may wait for long.
const SOON: Duration = Duration::from_secs(1);

/// A node's side that has to do with queues.
pub(crate) struct Queues {
    me: Weak<Queues>,
    node: Weak<Node>,
    local: OnceLock<Local>,
    links: Mutex<Links>,
    broken: OnceLock<PoolError>,
}

/// The ways to other nodes.
#[derive(Default)]
struct Links {
    by_name: HashMap<Arc<str>, Arc<QueueLink>>,
    /// The node has ended: there will be no more. A handler may be at work still, and have something to say.
    is_over: bool,
}

impl Links {
    /// The one to the node called `name`.
    fn open(&self, name: &str) -> Result<Option<Arc<QueueLink>>, LocalError> {
        match self.is_over {
            true => Err(LocalError::Over),
            false => Ok(self.by_name.get(name).filter(|link| !link.is_closed()).cloned()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    /// Makes the queues of `node`, called `name`.
    ///
    /// # Errors
    ///
    /// [`PoolError::NameInUse`] if a live node has the name, and [`PoolError::Queue`].
    pub(crate) fn begin(node: &Arc<Node>, name: &str) -> Result<Arc<Self>, PoolError> {
        let queues = Arc::new_cyclic(|me| Queues {
            me: me.clone(),
            node: Arc::downgrade(node),
            local: OnceLock::new(),
            links: Mutex::default(),
            broken: OnceLock::new(),
        });
        let host: Arc<dyn Host> = queues.clone();
        let local = Local::begin(name, &node.config, node.identity, Arc::downgrade(&host))
            .map_err(|error| error.about(Address::queue(name)))?;
        let _ = queues.local.set(local);
        queues
            .local()
            .read()
            .map_err(|error| error.about(Address::queue(name)))?;
        Ok(queues)
    }

    pub(super) fn local(&self) -> &Local {
        self.local.get().expect("set before anything is read or sent")
    }

    /// What the node is called.
    pub(crate) fn name(&self) -> &Arc<str> {
        self.local().name()
    }

    /// Sees to it that there is a way to a peer that is addressed by its queue. Does not wait: where there is no room to introduce oneself, a
    /// thread does, for as long as that lasts.
    pub(crate) fn connect(self: &Arc<Self>, node: &Arc<Node>, peer: &Arc<Peer>) {
        if self.try_connect(node, peer, &Deadline::Now) {
            return;
        }
        let (me, its, whom) = (self.clone(), node.clone(), peer.clone());
        let patience = Wait::For(node.config.connect_timeout().min(SOON));
        let is_started = self.aside(move || {
            me.try_connect(&its, &whom, &Deadline::of(patience));
        });
        if let Err(error) = is_started {
            let mut todo = Todo::default();
            peer.not_connected(&error.about(peer.address.clone()), &mut todo);
            node.carry_out(peer, todo);
        }
    }

    /// `false`: not now.
    fn try_connect(self: &Arc<Self>, node: &Arc<Node>, peer: &Arc<Peer>, deadline: &Deadline) -> bool {
        let Address::Queue(name) = &peer.address else {
            return true;
        };
        let mut todo = Todo::default();
        match self.link(node, name, deadline) {
            // It was there already.
            Ok((link, false)) => peer.established(link, &mut todo),
            Ok((_, true)) => {}
            Err(error) if error.is_for_now() && matches!(deadline, Deadline::Now) => return false,
            Err(error) => peer.not_connected(&error.about(peer.address.clone()), &mut todo),
        }
        node.carry_out(peer, todo);
        true
    }

    /// Does something that may wait, on a thread of its own.
    fn aside(&self, what: impl FnOnce() + Send + 'static) -> Result<(), LocalError> {
        let thread = std::thread::Builder::new().name(format!("{} opens", self.name()));
        thread.spawn(what).map(drop).map_err(LocalError::Thread)
    }

    /// The link to the node called `name`, and whether it was made by this.
    fn link(
        self: &Arc<Self>,
        node: &Arc<Node>,
        name: &str,
        deadline: &Deadline,
    ) -> Result<(Arc<QueueLink>, bool), LocalError> {
        if let Some(link) = lock(&self.links).open(name)? {
            return Ok((link, false));
        }
        // Without a lock: it may take as long as it is allowed to, and others have other nodes to open.
        let outbox = self.local().node(name, deadline)?;
        let peer = node.peer(&Address::queue(name), None);
        let (link, before) = {
            let mut links = lock(&self.links);
            match links.open(name) {
                Ok(None) => {}
                // Another thread was faster.
                Ok(Some(link)) => return Ok((link, false)),
                Err(error) => {
                    drop(links);
                    self.local().forget(&outbox);
                    return Err(error);
                }
            }
            let link = QueueLink::new(node.clone(), self.clone(), peer.clone(), outbox);
            let before = links.by_name.insert(link.outbox.name.clone(), link.clone());
            (link, before)
        };
        let mut todo = Todo::default();
        peer.established(link.clone(), &mut todo);
        node.carry_out(&peer, todo);
        let error = || PoolError::PeerDied {
            peer: peer.address.clone(),
        };
        if let Some(before) = before {
            before.break_off(&error());
        }
        // Before the peer had it: it must not keep it.
        if link.is_closed() {
            link.break_off(&error());
        }
        Ok((link, true))
    }

    pub(super) fn forget(&self, gone: &QueueLink) {
        let mut links = lock(&self.links);
        if links
            .by_name
            .get(&gone.outbox.name)
            .is_some_and(|link| link.id() == gone.id())
        {
            links.by_name.remove(&gone.outbox.name);
        }
        drop(links);
        self.local().forget(&gone.outbox);
    }

    fn link_of(&self, outbox: &Arc<Outbox>) -> Option<Arc<QueueLink>> {
        let links = lock(&self.links);
        links
            .by_name
            .values()
            .find(|link| Arc::ptr_eq(&link.outbox, outbox))
            .cloned()
    }

    fn links(&self) -> Vec<Arc<QueueLink>> {
        lock(&self.links).by_name.values().cloned().collect()
    }

    /// Nobody waits for the answer any more that was expected from there. `false`: there is no such link.
    pub(crate) fn abandon(&self, identity: Identity, way: u64) -> bool {
        let link = lock(&self.links)
            .by_name
            .values()
            .find(|link| link.id() == way)
            .cloned();
        let Some(link) = link else { return false };
        link.sign(about(identity, flags::CANCEL), b"");
        true
    }

    /// Tells all nodes that this one has to do with that it stops.
    pub(crate) fn announce_stop(&self) {
        let links = self.links();
        for link in &links {
            link.sign(about(Identity::ZERO, flags::STOPPING), b"");
        }
        // Those that were not sent anything yet.
        for remote in self.local().remotes() {
            if !links.iter().any(|link| link.outbox.name == remote.name) {
                self.sign(&remote, about(Identity::ZERO, flags::STOPPING), b"");
            }
        }
    }

    /// Handles what has arrived, and ends the threads that do so. `false`: not in time.
    pub(crate) fn drain(&self, deadline: &Deadline) -> bool {
        self.local().drain(deadline)
    }

    /// Whether nothing is on its way, and no message held.
    pub(crate) fn is_quiet(&self) -> bool {
        self.local().held() == 0 && !self.links().iter().any(|link| link.has_output())
    }

    /// Whether the calling thread runs handlers here.
    pub(crate) fn is_mine(&self) -> bool {
        self.local().is_mine()
    }

    /// Releases what the application has not. How many these were.
    pub(crate) fn release_all(&self) -> usize {
        self.local().release_all()
    }

    /// Ends it. The queues are removed.
    pub(crate) fn end(&self, why: &PoolError) {
        lock(&self.links).is_over = true;
        for link in self.links() {
            link.break_off(why);
        }
        self.local().end();
    }

    // ---------------------------------------------------------------------------------------------------------- what comes

    fn message_of(from: &Remote, frame: Frame) -> Message {
        Message {
            identity: frame.head.identity,
            serial: frame.head.serial,
            remote_identity: from.identity,
            header: frame.header,
            data: frame.data,
            peer: Address::Queue(from.name.clone()),
            certificate: None,
            receipt: None,
        }
    }

    fn receipt(from: &Arc<Remote>, head: &FrameHeader) -> Receipt {
        let is_request = head.flags & flags::REQUEST != 0;
        let slot = Slot::new(
            head.identity,
            head.serial,
            head.wants_ack(),
            is_request,
            from.clone() as Arc<dyn Origin>,
        );
        from.remember(&slot);
        Receipt { slot }
    }

    /// The peer says that a message of this node has failed.
    fn failed(node: &Node, peer: &Peer, head: &FrameHeader, error: PoolError, is_released: bool, todo: &mut Todo) {
        if let Some(request) = node.take_request(head.identity) {
            todo.wakes.push(request.cell.fail(error.clone()));
        }
        peer.failed(head.identity, error, is_released, todo);
    }
}

/// A frame that is about another one, or about all.
fn about(identity: Identity, flags: u8) -> FrameHeader {
    FrameHeader {
        identity,
        flags,
        ..FrameHeader::default()
    }
}

impl Host for Queues {
    fn settle(&self, from: &Arc<Remote>, frame: Frame) -> Option<Frame> {
        let node = self.node.upgrade()?;
        let head = frame.head;
        let address = Address::Queue(from.name.clone());
        let mut todo = Todo::default();
        let special = head.flags & (flags::FAILED | flags::CANCEL | flags::STOPPING);
        let peer = match head.kind() {
            FrameKind::Noop => return None,
            FrameKind::Message if special == 0 => return self.answer(&node, from, frame),
            _ => node.peer(&address, None),
        };
        match special {
            _ if head.kind() == FrameKind::Ack => {
                peer.released(head.identity, &mut todo);
            }
            flags::FAILED => {
                let text = String::from_utf8_lossy(&frame.data).into_owned();
                let error = PoolError::HandlerFailed { peer: address, text };
                Self::failed(&node, &peer, &head, error, false, &mut todo);
            }
            flags::CANCEL => {
                if let Some(waiting) = from.cancel(head.identity) {
                    self.local().not_aside_any_more(&waiting);
                    if waiting.head.wants_ack() {
                        self.sign(from, FrameHeader::ack(head.identity, 0), b"");
                    }
                }
            }
            _ => {
                let error = PoolError::PeerStopping { peer: address };
                if head.identity.is_zero() {
                    let link = lock(&self.links).by_name.get(&from.name).cloned();
                    if let Some(link) = link {
                        link.stops();
                    }
                    peer.fail_queue(&error, &mut todo);
                } else {
                    Self::failed(&node, &peer, &head, error, true, &mut todo);
                }
            }
        }
        node.carry_out(&peer, todo);
        None
    }

    fn handle(&self, from: Arc<Remote>, frame: Frame) {
        let Some(node) = self.node.upgrade() else { return };
        let head = frame.head;
        let can_be_told = head.wants_ack() || head.flags & flags::REQUEST != 0;
        if node.is_draining() && can_be_told {
            self.sign(&from, about(head.identity, flags::STOPPING), b"");
            return self.local().give_back(&from);
        }
        let receipt = Self::receipt(&from, &head);
        let mut message = Self::message_of(&from, frame);
        message.receipt = Some(receipt);
        node.handle(message);
    }

    fn refused(&self, from: &Arc<Remote>, refused: &Refused) {
        let identity = refused.head.identity;
        let text = refused.why.to_string();
        let is_message = refused.head.kind() == FrameKind::Message;
        match refused.head.flags & (flags::FAILED | flags::CANCEL | flags::STOPPING) {
            0 if is_message => {}
            // The message has failed, only the reason was too long.
            flags::FAILED if is_message => {
                let data = format!("the reason was not received: {text}").into_bytes();
                let head = refused.head;
                self.settle(
                    from,
                    Frame {
                        head,
                        data,
                        ..Frame::default()
                    },
                );
                return;
            }
            // What is about a message is not answered: the answer could be refused in its turn, and so on without an end.
            _ => return,
        }
        let failed = FrameHeader {
            data_len: text.len() as u32,
            ..about(identity, flags::FAILED)
        };
        self.sign(from, failed, text.as_bytes());
        if refused.head.wants_ack() {
            self.sign(from, FrameHeader::ack(identity, 0), b"");
        }
    }

    fn is_waiting(&self, node: &Arc<Outbox>) -> bool {
        self.link_of(node)
            .is_some_and(|link| !link.peer.is_quiet() || link.has_output())
    }

    fn gone(&self, gone: &Arc<Outbox>) {
        if let Some(link) = self.link_of(gone) {
            link.break_off(&PoolError::PeerDied {
                peer: link.peer.address.clone(),
            });
        }
    }

    fn sign(&self, to: &Arc<Remote>, head: FrameHeader, text: &[u8]) {
        let known = lock(&self.links).by_name.get(&to.name).cloned();
        if let Some(link) = known {
            return link.sign(head, text);
        }
        let (Some(node), Some(me)) = (self.node.upgrade(), self.me.upgrade()) else {
            return;
        };
        match me.link(&node, &to.name, &Deadline::Now) {
            Ok((link, _)) => link.sign(head, text),
            Err(error) if error.is_for_now() => {
                let (to, text) = (to.clone(), text.to_vec());
                // Without threads there is nothing that could be done.
                let _ = self.aside(move || {
                    if let Ok((link, _)) = me.link(&node, &to.name, &Deadline::of(Wait::For(SOON))) {
                        link.sign(head, &text);
                    }
                });
            }
            // Who is gone need not be told.
            Err(_) => {}
        }
    }

    fn round(&self) {
        let Some(node) = self.node.upgrade() else { return };
        for link in self.links() {
            let is_unused = link.idle_for() > node.idle_limit() && link.peer.is_quiet() && !link.has_output();
            if is_unused && !node.awaits_answer(link.id()) {
                link.break_off(&PoolError::PeerDied {
                    peer: link.peer.address.clone(),
                });
            }
        }
    }

    fn broken(&self, error: LocalError) {
        let address = Address::Queue(self.name().clone());
        let error = self.broken.get_or_init(|| error.about(address));
        for link in self.links() {
            link.break_off(error);
        }
    }
}

impl Queues {
    /// An answer. Gives it back if it is none.
    fn answer(&self, node: &Arc<Node>, from: &Arc<Remote>, frame: Frame) -> Option<Frame> {
        let Some(request) = node.take_request(frame.head.identity) else {
            return Some(frame);
        };
        let head = frame.head;
        let mut message = Self::message_of(from, frame);
        if !request.auto_release {
            from.take_slot_anyway();
            message.receipt = Some(Self::receipt(from, &head));
        }
        match request.cell.complete(Ok(message)) {
            Ok(wake) => {
                drop(wake);
                if request.auto_release && head.wants_ack() {
                    self.sign(from, FrameHeader::ack(head.identity, 0), b"");
                }
                None
            }
            // Too late: its time was over, or it was cancelled, at this very moment.
            Err(Ok(mut message)) => {
                if let Some(receipt) = message.receipt.take() {
                    // It gets another one in its turn.
                    receipt.forget();
                    from.give_back_slot();
                }
                let Message { header, data, .. } = message;
                Some(Frame { head, header, data })
            }
            Err(Err(_)) => None,
        }
    }
}
