//! Reading from a connection: frames become messages for the handler, answers, and news about what was sent.
//!
//! A message needs a slot, an answer or an acknowledgement does not; so these are looked for behind messages that have none yet, and nodes
//! that wait for each other are not stuck. How much is read ahead is bounded.

use super::connection::{Connection, stage};
use super::error::PoolError;
use super::message::{Message, Receipt, Slot};
use super::peer::{Body, Item, Peer, Todo};
use super::stream::Got;
use super::wire::{Announcement, Decoder, Frame, FrameHeader, FrameKind, Incoming, features, flags};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

/// Messages read ahead of the slots, and their bytes.
const AHEAD: usize = 64;
const AHEAD_BYTES: usize = 1 << 20;

pub(crate) struct Input {
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Messages without a slot.
    ahead: VecDeque<Frame>,
    ahead_bytes: usize,
    /// The peer has ended its side, or the connection was closed: nothing more is read. What was read is still handed out.
    is_over: bool,
    /// Those of messages that somebody may still have, to be told that their sender has lost interest. Weak: a slot holds its
    /// connection.
    slots: Vec<Weak<Slot>>,
    /// From so many on, those that nobody has any more are forgotten.
    most_slots: usize,
}

impl Input {
    pub(crate) fn new(max_message_size: u64) -> Self {
        Input {
            decoder: Decoder::new(max_message_size),
            buffer: Vec::new(),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            is_over: false,
            slots: Vec::new(),
            most_slots: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.ahead.len() >= AHEAD || self.ahead_bytes >= AHEAD_BYTES
    }
}

/// What is to be done when the input is no longer locked.
#[derive(Default)]
struct After {
    todo: Todo,
    /// The same of other peers that are the same node.
    siblings: Vec<(Arc<Peer>, Todo)>,
    /// Acknowledgements and the like were appended.
    is_to_flush: bool,
    /// Messages for the handler.
    handed_out: usize,
    /// Nobody can handle these any more.
    rejected: Vec<Message>,
    broken: Option<Broken>,
}

enum Broken {
    Stream(crate::channel::ChannelError),
    Protocol(super::WireError),
    /// Acknowledgements pile up that the peer does not read.
    Flooded,
    End,
}

impl Connection {
    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads once, and hands on what came. `false`: there was nothing.
    pub(crate) fn receive(self: &Arc<Self>) -> bool {
        let is_some = self.receive_once();
        // Nobody else tells of what is decrypted already.
        while self.stream.has_buffered() && self.receive_once() {}
        is_some
    }

    fn receive_once(self: &Arc<Self>) -> bool {
        let mut after = After::default();
        let mut input = self.input();
        if input.is_over || self.is_paused.load(Ordering::Acquire) {
            return false;
        }
        let Input { decoder, buffer, .. } = &mut *input;
        let got = self
            .stream
            .read(buffer, self.node.config.read_buffer(), |bytes| decoder.push(bytes));
        let is_some = matches!(got, Ok(Got::Some | Got::More));
        match got {
            Ok(Got::Some | Got::More) => {
                self.touch();
                self.take_apart(&mut input, &mut after);
                if after.handed_out > 0 {
                    let is_alone = after.handed_out == 1 && self.held_slots.load(Ordering::Relaxed) <= 1;
                    self.has_come_alone.store(is_alone, Ordering::Relaxed);
                }
                if self.stage() == stage::GREETING {
                    self.opened(&mut after.todo);
                }
                if after.broken.is_none() && self.is_flooded() {
                    input.is_over = true;
                    after.broken = Some(Broken::Flooded);
                }
            }
            Ok(Got::Pending) => {}
            Ok(Got::End) => {
                input.is_over = true;
                after.broken = Some(Broken::End);
            }
            Err(error) => {
                input.is_over = true;
                after.broken = Some(Broken::Stream(error));
            }
        }
        drop(input);
        self.afterwards(after);
        is_some
    }

    /// Releases all messages that the application holds. Returns how many there were.
    pub(crate) fn release_all(self: &Arc<Self>) -> usize {
        let slots = std::mem::take(&mut self.input().slots);
        slots
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|slot| slot.release())
            .count()
    }

    /// A slot is free: goes on with what waits for one.
    pub(crate) fn resume(self: &Arc<Self>) {
        // SeqCst, after the count went down: pairs with `take_apart`, which sets it and then looks at the count again.
        if !self.is_stalled.load(Ordering::SeqCst) {
            return;
        }
        let mut after = After::default();
        let mut input = self.input();
        let was_paused = self.is_paused.load(Ordering::Acquire);
        self.take_apart(&mut input, &mut after);
        drop(input);
        self.afterwards(after);
        if was_paused && !self.is_paused.load(Ordering::Acquire) && self.is_in_use() {
            // This thread may as well read what has come meanwhile. If that fills all slots again, the loop has nothing to do.
            self.receive();
            if !self.is_paused.load(Ordering::Acquire) {
                self.node.looper.look_at(self.clone());
            }
        }
    }

    fn afterwards(self: &Arc<Self>, after: After) {
        if let Some(place) = self.place.get() {
            self.node.carry_out(&place.peer, after.todo);
        }
        for (sibling, todo) in after.siblings {
            self.node.carry_out(&sibling, todo);
        }
        if after.is_to_flush {
            self.flush_soon();
        }
        for message in after.rejected {
            message.fail("the node is stopping");
        }
        match after.broken {
            None => {}
            Some(Broken::Stream(error)) => self.break_off(self.broken(&error)),
            Some(Broken::Protocol(error)) => self.violated(&error),
            Some(Broken::Flooded) => self.break_off(PoolError::Protocol {
                peer: self.address(),
                what: "it asks for ever more to be acknowledged, and does not read the acknowledgements".to_owned(),
            }),
            Some(Broken::End) => self.break_off(PoolError::PeerDied { peer: self.address() }),
        }
    }

    fn take_slot(&self) -> bool {
        let most = self.node.slots;
        self.held_slots
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| {
                (held < most).then_some(held + 1)
            })
            .is_ok()
    }

    /// Hands out what can be, and looks for answers and acknowledgements behind it.
    fn take_apart(self: &Arc<Self>, input: &mut Input, after: &mut After) {
        loop {
            while !input.ahead.is_empty() && self.take_slot() {
                let Some(frame) = input.ahead.pop_front() else { break };
                input.ahead_bytes -= frame.data.len() + frame.header.len();
                self.hand_out(input, frame, after);
            }
            let next = match input.is_full() {
                true => None,
                false => match input.decoder.next() {
                    Ok(next) => next,
                    Err(error) => {
                        if !std::mem::replace(&mut input.is_over, true) {
                            after.broken = Some(Broken::Protocol(error));
                        }
                        None
                    }
                },
            };
            match next {
                Some(Incoming::Handshake(handshake)) => self.greeted(handshake),
                Some(Incoming::Frame(frame)) => {
                    // A peer may speak before it has our handshake. What answers that goes this way, and not over a connection made for it.
                    if frame.head.kind() != FrameKind::Noop && self.stage() == stage::GREETING {
                        self.opened(&mut after.todo);
                    }
                    self.take_in(input, frame, after);
                }
                None => {
                    self.is_paused.store(input.is_full(), Ordering::Release);
                    let is_stalled = !input.ahead.is_empty();
                    // SeqCst: either who releases a slot sees that messages wait for it, or the count that is looked at here is
                    // the one that it has left.
                    self.is_stalled.store(is_stalled, Ordering::SeqCst);
                    if !is_stalled || self.held_slots.load(Ordering::SeqCst) >= self.node.slots {
                        return;
                    }
                }
            }
        }
    }

    fn take_in(self: &Arc<Self>, input: &mut Input, frame: Frame, after: &mut After) {
        let Some(place) = self.place.get() else { return };
        let head = frame.head;
        match head.kind() {
            FrameKind::Noop => {
                if let Some(announced) = Announcement::from_header(&head) {
                    self.features.store(announced.features, Ordering::Release);
                }
            }
            FrameKind::Ack => {
                if !place.peer.released(head.identity, &mut after.todo) {
                    // A libchirp acknowledges over its newest connection, whichever the message came in on.
                    for sibling in self.node.siblings(place) {
                        let mut todo = Todo::default();
                        sibling.released(head.identity, &mut todo);
                        after.siblings.push((sibling, todo));
                    }
                }
            }
            FrameKind::Message => {
                let is_ours = self.features.load(Ordering::Acquire) != 0;
                match head.flags & (flags::FAILED | flags::CANCEL | flags::STOPPING) {
                    flags::FAILED if is_ours => {
                        let peer = place.peer.address.clone();
                        let text = String::from_utf8_lossy(&frame.data).into_owned();
                        self.fail_one(&head, PoolError::HandlerFailed { peer, text }, false, after);
                    }
                    flags::CANCEL if is_ours => self.cancelled(input, &head, after),
                    flags::STOPPING if is_ours => {
                        let peer = place.peer.address.clone();
                        let error = PoolError::PeerStopping { peer };
                        if head.identity.is_zero() {
                            self.is_peer_stopping.store(true, Ordering::Release);
                            place.peer.fail_queue(&error, &mut after.todo);
                        } else {
                            self.fail_one(&head, error, true, after);
                        }
                    }
                    _ => self.message(input, frame, after),
                }
            }
        }
    }

    /// The peer says that a message of ours has failed.
    fn fail_one(&self, head: &FrameHeader, error: PoolError, is_released: bool, after: &mut After) {
        let Some(place) = self.place.get() else { return };
        if let Some(request) = self.node.take_request(head.identity) {
            after.todo.wakes.push(request.cell.fail(error.clone()));
        }
        place.peer.failed(head.identity, error, is_released, &mut after.todo);
    }

    /// The peer has lost interest in the answer to this.
    fn cancelled(self: &Arc<Self>, input: &mut Input, head: &FrameHeader, after: &mut After) {
        let slots = input.slots.iter().filter_map(Weak::upgrade);
        let slots = slots.filter(|slot| slot.identity == head.identity);
        slots.for_each(|slot| slot.cancel());
        if let Some(at) = input
            .ahead
            .iter()
            .position(|frame| frame.head.identity == head.identity)
            && let Some(frame) = input.ahead.remove(at)
        {
            input.ahead_bytes -= frame.data.len() + frame.header.len();
            if frame.head.wants_ack() {
                self.take_frame(FrameHeader::ack(head.identity, 0), None);
                after.is_to_flush = true;
            }
        }
    }

    /// An answer, or something for the handler.
    fn message(self: &Arc<Self>, input: &mut Input, frame: Frame, after: &mut After) {
        let Some(request) = self.node.take_request(frame.head.identity) else {
            return self.line_up(input, frame);
        };
        let head = frame.head;
        let mut message = self.message_of(frame);
        if !request.auto_release {
            self.held_slots.fetch_add(1, Ordering::SeqCst);
            message.receipt = Some(self.receipt(&head));
        }
        // Who waits may ask again at once. A synchronous libchirp with its one slot taken would not read on behind that, and so not see an
        // acknowledgement that comes after it.
        let completed = self.take_after(|| {
            let completed = request.cell.complete(Ok(message));
            let is_acked = completed.is_ok() && request.auto_release && head.wants_ack();
            let ack = is_acked.then(|| Item {
                head: FrameHeader::ack(head.identity, 0),
                body: Body::Nothing,
            });
            after.is_to_flush |= is_acked;
            (completed, ack)
        });
        match completed {
            Ok(wake) => after.todo.wakes.push(wake),
            // Too late: its time was over, or it was cancelled, at this very moment.
            Err(Ok(mut message)) => {
                if let Some(receipt) = message.receipt.take() {
                    // It gets another one in its turn.
                    receipt.forget();
                    self.held_slots.fetch_sub(1, Ordering::SeqCst);
                }
                let Message { header, data, .. } = message;
                self.line_up(input, Frame { head, header, data });
            }
            Err(Err(_)) => {}
        }
    }

    fn line_up(&self, input: &mut Input, frame: Frame) {
        input.ahead_bytes += frame.data.len() + frame.header.len();
        input.ahead.push_back(frame);
    }

    fn message_of(&self, frame: Frame) -> Message {
        let (peer, remote_identity, certificate) = match self.place.get() {
            Some(place) => (place.address.clone(), place.remote_identity, place.certificate.clone()),
            None => Default::default(),
        };
        Message {
            identity: frame.head.identity,
            serial: frame.head.serial,
            remote_identity,
            header: frame.header,
            data: frame.data,
            peer,
            certificate,
            receipt: None,
        }
    }

    fn receipt(self: &Arc<Self>, head: &FrameHeader) -> Receipt {
        let is_request = head.flags & flags::REQUEST != 0 && self.has_announced(features::FAILED);
        Receipt {
            slot: Slot::new(head.identity, head.serial, head.wants_ack(), is_request, self.clone()),
        }
    }

    /// Hands a message to the handler. Its slot is taken already.
    fn hand_out(self: &Arc<Self>, input: &mut Input, frame: Frame, after: &mut After) {
        let head = frame.head;
        if self.node.is_draining() {
            self.held_slots.fetch_sub(1, Ordering::SeqCst);
            // Others see the connection close.
            if self.has_announced(features::STOPPING) {
                let not_taken = FrameHeader {
                    identity: head.identity,
                    flags: flags::STOPPING,
                    ..FrameHeader::default()
                };
                self.take_frame(not_taken, None);
                after.is_to_flush = true;
            }
            return;
        }
        let receipt = self.receipt(&head);
        if input.slots.len() >= input.most_slots {
            input.slots.retain(|slot| slot.strong_count() > 0);
            input.most_slots = 2 * input.slots.len().max(self.node.slots.unsigned_abs());
        }
        input.slots.push(Arc::downgrade(&receipt.slot));
        let mut message = self.message_of(frame);
        message.receipt = Some(receipt);
        after.handed_out += 1;
        if let Err(message) = self.node.dispatch(message) {
            after.rejected.push(message);
        }
    }
}
