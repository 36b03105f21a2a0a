//! What goes over a connection, byte for byte: the handshake, the frames, and a decoder for both. Compatible with libchirp 1.2.
//!
//! Nothing here reads or writes a socket, has a clock or knows what a frame is answered with. Nothing is believed either: a length on
//! the wire never makes more be allocated than has arrived (see [`Decoder`]).
//!
//! | offset | handshake, 18 bytes | | offset | frame, 27 bytes and what follows |
//! |---|---|---|---|---|
//! | 0 | port, u16: where the sender listens | | 0 | identity, 16 bytes |
//! | 2 | identity of the node, 16 bytes | | 16 | serial, u32 |
//! | | | | 20 | length of the data, u32 |
//! | | | | 24 | length of the header, u16 |
//! | | | | 26 | [`flags`] |
//! | | | | 27 | header, then data |
//!
//! All numbers are big-endian. The protocol has no version and negotiates nothing, so what two of our nodes want of each other beyond it is
//! [announced](Announcement) in a frame that libchirp passes over.

pub use super::identity::Identity;
use std::fmt;

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 18;

/// Bytes of a frame before its header and data.
pub const HEADER_LEN: usize = 27;

/// Bits of a frame's last fixed byte. Bits that one does not know are passed over.
pub mod flags {
    /// Say so when the application has released this.
    pub const REQ_ACK: u8 = 0x01;
    /// The frame with this identity was released.
    pub const ACK: u8 = 0x02;
    /// Nothing but a sign of life.
    pub const NOOP: u8 = 0x04;
    /// An answer that is none: the handler failed, and the data says how. Only to who has announced
    /// [`features::FAILED`](super::features::FAILED).
    pub const FAILED: u8 = 0x08;
    /// Nobody waits for the answer to the request of this identity any more. Only to who has announced
    /// [`features::CANCEL`](super::features::CANCEL).
    pub const CANCEL: u8 = 0x10;
    /// The sender of this is about to stop: send it nothing new. With an identity: the message of that identity was refused. Only to who has announced
    /// [`features::STOPPING`](super::features::STOPPING).
    pub const STOPPING: u8 = 0x20;
    /// The sender of this waits for an answer. Only to who has announced [`features::REQUEST`](super::features::REQUEST); it says so if there will
    /// be none.
    pub const REQUEST: u8 = 0x40;
}

/// What a node of ours can understand beyond libchirp's protocol: bits of [`Announcement::features`].
pub mod features {
    /// Frames with [`flags::FAILED`](super::flags::FAILED).
    pub const FAILED: u32 = 1;
    /// Frames with [`flags::CANCEL`](super::flags::CANCEL).
    pub const CANCEL: u32 = 2;
    /// Frames with [`flags::STOPPING`](super::flags::STOPPING).
    pub const STOPPING: u32 = 4;
    /// Frames with [`flags::REQUEST`](super::flags::REQUEST).
    pub const REQUEST: u32 = 8;
}

/// The first thing on every connection, from both sides, neither waiting for the other's.
///
/// It must go out in one write: libchirp closes a connection whose first read gives less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Where the sender listens. With its address from the socket this is the key of the peer.
    pub port: u16,
    /// The node's identity.
    pub identity: Identity,
}

impl Handshake {
    /// As it goes over the wire.
    pub fn to_bytes(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..2].copy_from_slice(&self.port.to_be_bytes());
        bytes[2..].copy_from_slice(self.identity.as_bytes());
        bytes
    }

    /// From the wire. Any bytes are a handshake.
    pub fn from_bytes(bytes: &[u8; HANDSHAKE_LEN]) -> Self {
        Handshake {
            port: u16::from_be_bytes([bytes[0], bytes[1]]),
            identity: identity_at(bytes, 2),
        }
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FrameHeader {
    /// Names the conversation: a request, its answer and the acknowledgements of both have the same one.
    pub identity: Identity,
    /// The sender's counter for this peer: one more for every frame, of whatever kind.
    pub serial: u32,
    /// Bytes of data.
    pub data_len: u32,
    /// Bytes of the header.
    pub header_len: u16,
    /// See [`flags`].
    pub flags: u8,
}

/// What a frame is for, by its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A sign of life, looked at before all else.
    Noop,
    /// An acknowledgement.
    Ack,
    /// For the application (or an extension, where one was announced).
    Message,
}

impl FrameHeader {
    /// An acknowledgement of what had this identity.
    pub fn ack(identity: Identity, serial: u32) -> Self {
        FrameHeader {
            identity,
            serial,
            flags: flags::ACK,
            ..Self::default()
        }
    }

    /// A sign of life.
    pub fn noop(serial: u32) -> Self {
        FrameHeader {
            serial,
            flags: flags::NOOP,
            ..Self::default()
        }
    }

    /// What it is for. An answer and the acknowledgement of its request have one identity, so ask this before looking that up.
    pub fn kind(&self) -> FrameKind {
        if self.flags & flags::NOOP != 0 {
            FrameKind::Noop
        } else if self.flags & flags::ACK != 0 {
            FrameKind::Ack
        } else {
            FrameKind::Message
        }
    }

    /// Whether its sender wants to be told of its release.
    pub fn wants_ack(&self) -> bool {
        self.flags & flags::REQ_ACK != 0
    }

    /// Bytes of header and data together.
    pub fn payload_len(&self) -> u64 {
        u64::from(self.header_len) + u64::from(self.data_len)
    }

    /// As it goes over the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..16].copy_from_slice(self.identity.as_bytes());
        bytes[16..20].copy_from_slice(&self.serial.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.data_len.to_be_bytes());
        bytes[24..26].copy_from_slice(&self.header_len.to_be_bytes());
        bytes[26] = self.flags;
        bytes
    }

    /// From the wire. Whether it makes sense is for [`check`](FrameHeader::check) to say.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        FrameHeader {
            identity: identity_at(bytes, 0),
            serial: u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
            data_len: u32::from_be_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]),
            header_len: u16::from_be_bytes([bytes[24], bytes[25]]),
            flags: bytes[26],
        }
    }

    /// Whether such a frame may be received.
    ///
    /// # Errors
    ///
    /// What libchirp closes a connection for: see [`WireError`].
    pub fn check(&self, max_message_size: u64) -> Result<(), WireError> {
        let size = self.payload_len();
        if self.kind() != FrameKind::Message {
            if size != 0 {
                return Err(WireError::PayloadWithoutMessage {
                    flags: self.flags,
                    size,
                });
            }
            if self.wants_ack() {
                return Err(WireError::AckOfNoMessage { flags: self.flags });
            }
        }
        if size > max_message_size {
            return Err(WireError::TooLarge {
                size,
                limit: max_message_size,
            });
        }
        Ok(())
    }
}

fn identity_at(bytes: &[u8], at: usize) -> Identity {
    let mut identity = [0; 16];
    identity.copy_from_slice(&bytes[at..at + 16]);
    identity.into()
}

/// What one of our nodes tells another right behind its handshake: that it is one of ours, and what it understands.
///
/// On the wire it is a sign of life whose identity is not zero. libchirp looks at nothing but the flags of a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Version of the extensions, at least 1. A later version keeps what the features of an earlier one mean.
    pub version: u8,
    /// See [`features`]. Unknown ones are passed over.
    pub features: u32,
}

/// In front of an announcement, in place of the zeros of libchirp.
const MAGIC: [u8; 8] = *b"\xf1syncq\r\n";

impl Announcement {
    /// What this version has.
    pub const OURS: Announcement = Announcement {
        version: 1,
        features: features::FAILED | features::CANCEL | features::STOPPING | features::REQUEST,
    };

    /// The frame that says so.
    pub fn to_header(self, serial: u32) -> FrameHeader {
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&MAGIC);
        identity[8] = self.version;
        identity[12..].copy_from_slice(&self.features.to_be_bytes());
        FrameHeader {
            identity: identity.into(),
            ..FrameHeader::noop(serial)
        }
    }

    /// What a frame announces; `None` for any other frame.
    pub fn from_header(head: &FrameHeader) -> Option<Self> {
        let identity = head.identity.as_bytes();
        let is_one = head.kind() == FrameKind::Noop && identity[..8] == MAGIC && identity[8] > 0;
        is_one.then(|| Announcement {
            version: identity[8],
            features: u32::from_be_bytes([identity[12], identity[13], identity[14], identity[15]]),
        })
    }

    /// Whether all of these [`features`] are understood.
    pub fn has(&self, features: u32) -> bool {
        self.features & features == features
    }
}

/// One frame with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The fixed part. Its lengths are those of the two others.
    pub head: FrameHeader,
    /// The header, for protocols on top; mostly empty.
    pub header: Vec<u8>,
    /// The data.
    pub data: Vec<u8>,
}

impl Frame {
    /// A frame of these.
    ///
    /// # Errors
    ///
    /// [`WireError::HeaderTooLong`] from 64 KiB on, [`WireError::DataTooLong`] from 4 GiB on.
    pub fn new(identity: Identity, serial: u32, flags: u8, header: Vec<u8>, data: Vec<u8>) -> Result<Self, WireError> {
        let head = FrameHeader {
            identity,
            serial,
            data_len: u32::try_from(data.len()).map_err(|_| WireError::DataTooLong { len: data.len() })?,
            header_len: u16::try_from(header.len()).map_err(|_| WireError::HeaderTooLong { len: header.len() })?,
            flags,
        };
        Ok(Frame { head, header, data })
    }

    /// Appends it to `out` as it goes over the wire.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(HEADER_LEN + self.header.len() + self.data.len());
        out.extend_from_slice(&self.head.to_bytes());
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.data);
    }
}

/// What a peer may not send, or a message cannot be. A connection on which it was received is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// A message of more bytes (header and data) than allowed by [`Config::max_message_size`](super::Config::max_message_size).
    TooLarge {
        /// Bytes announced.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// An acknowledgement or a sign of life with a header or data.
    PayloadWithoutMessage {
        /// The frame's flags.
        flags: u8,
        /// Bytes announced.
        size: u64,
    },
    /// An acknowledgement or a sign of life that wants to be acknowledged.
    AckOfNoMessage {
        /// The frame's flags.
        flags: u8,
    },
    /// A header of more bytes than 65,535.
    HeaderTooLong {
        /// Bytes given.
        len: usize,
    },
    /// Data of more bytes than 4,294,967,295.
    DataTooLong {
        /// Bytes given.
        len: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLarge { size, limit } => {
                write!(f, "message of {size} bytes, where max_message_size allows {limit}")
            }
            WireError::PayloadWithoutMessage { flags, size } => {
                write!(
                    f,
                    "frame with flags {flags:#04x} and {size} bytes, where there can be none"
                )
            }
            WireError::AckOfNoMessage { flags } => {
                write!(
                    f,
                    "frame with flags {flags:#04x} wants an acknowledgement, and is no message"
                )
            }
            WireError::HeaderTooLong { len } => write!(f, "header of {len} bytes, at most {} are possible", u16::MAX),
            WireError::DataTooLong { len } => write!(f, "data of {len} bytes, at most {} are possible", u32::MAX),
        }
    }
}

impl std::error::Error for WireError {}

/// What a [`Decoder`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The peer's handshake: always the first, and never again.
    Handshake(Handshake),
    /// A frame.
    Frame(Frame),
}

/// Makes a handshake and frames of bytes in whatever pieces they arrive.
///
/// What [`push`](Decoder::push) is given is kept until [`next`](Decoder::next) takes it, one frame at a time: who has no slot for another frame does
/// not call, and stops reading. A frame's memory grows with what arrives, by doubling, up to the announced length: never more than four times
/// what has arrived and was not taken, and [`SLACK`](Decoder::SLACK) bytes, are allocated.
///
/// After an error it gives that error for ever.
#[derive(Debug)]
pub struct Decoder {
    max_message_size: u64,
    state: State,
    /// Pushed, and not taken apart yet: from `read` on.
    unread: Vec<u8>,
    read: usize,
}

#[derive(Debug)]
enum State {
    Handshake,
    Head,
    Body(Frame),
    Failed(WireError),
}

/// The least that is allocated for a piece whose whole is not there yet, if the whole is that long.
const FIRST: usize = 1 << 10;

/// A buffer larger than this is given back once little is left in it.
const KEPT: usize = 128 << 10;

impl Decoder {
    /// What is allocated beside four times the bytes that have arrived and were not taken: at most this.
    pub const SLACK: usize = KEPT + 4 * FIRST;

    /// At the beginning of a connection. `max_message_size` is for header and data of a message together.
    pub fn new(max_message_size: u64) -> Self {
        Decoder {
            max_message_size,
            state: State::Handshake,
            unread: Vec::new(),
            read: 0,
        }
    }

    /// Behind the handshake: for a transport that has another one.
    pub fn of_frames(max_message_size: u64) -> Self {
        Decoder {
            state: State::Head,
            ..Self::new(max_message_size)
        }
    }

    /// Takes what has arrived.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if let State::Failed(_) = self.state {
            return;
        }
        if self.read == self.unread.len() {
            self.unread.clear();
            self.read = 0;
            // Most of a long message goes straight where it belongs.
            if let State::Body(frame) = &mut self.state {
                fill(frame, &mut bytes);
            }
        } else if self.read >= self.unread.len() - self.read {
            // Moves fewer bytes than were taken since the last time.
            self.unread.drain(..self.read);
            self.read = 0;
        }
        self.unread.extend_from_slice(bytes);
    }

    /// The next handshake or frame that has arrived whole; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`WireError`], also for what follows: there is no telling where the next frame begins.
    #[allow(clippy::should_implement_trait, reason = "no iterator: it goes on after None")]
    pub fn next(&mut self) -> Result<Option<Incoming>, WireError> {
        let mut bytes = &self.unread[self.read..];
        let before = bytes.len();
        let found = loop {
            match &mut self.state {
                State::Failed(error) => return Err(*error),
                State::Handshake => {
                    let Some((first, rest)) = bytes.split_first_chunk() else {
                        break None;
                    };
                    bytes = rest;
                    self.state = State::Head;
                    break Some(Incoming::Handshake(Handshake::from_bytes(first)));
                }
                State::Head => {
                    let Some((first, rest)) = bytes.split_first_chunk() else {
                        break None;
                    };
                    let head = FrameHeader::from_bytes(first);
                    if let Err(error) = head.check(self.max_message_size) {
                        self.state = State::Failed(error);
                        self.unread = Vec::new();
                        self.read = 0;
                        return Err(error);
                    }
                    bytes = rest;
                    self.state = State::Body(Frame {
                        head,
                        ..Frame::default()
                    });
                }
                State::Body(frame) => {
                    fill(frame, &mut bytes);
                    if !is_whole(frame) {
                        break None;
                    }
                    let frame = std::mem::take(frame);
                    self.state = State::Head;
                    break Some(Incoming::Frame(frame));
                }
            }
        };
        let left = bytes.len();
        self.read += before - left;
        if self.unread.capacity() > KEPT && left <= self.unread.capacity() / 4 {
            self.unread = self.unread[self.read..].to_vec();
            self.read = 0;
        }
        Ok(found)
    }

    /// Bytes that have arrived and were not given out yet.
    pub fn pending_bytes(&self) -> usize {
        let body = match &self.state {
            State::Body(frame) => HEADER_LEN + frame.header.len() + frame.data.len(),
            _ => 0,
        };
        self.unread.len() - self.read + body
    }

    /// Whether the bytes so far end within something: then an end of the connection is a break.
    pub fn is_within(&self) -> bool {
        self.pending_bytes() > 0
    }

    /// Bytes of memory that it holds.
    pub fn allocated(&self) -> usize {
        let body = match &self.state {
            State::Body(frame) => frame.header.capacity() + frame.data.capacity(),
            _ => 0,
        };
        self.unread.capacity() + body
    }
}

fn is_whole(frame: &Frame) -> bool {
    frame.header.len() == usize::from(frame.head.header_len)
        && frame.data.len() as u64 == u64::from(frame.head.data_len)
}

/// Moves what belongs to the frame from the front of `bytes` into it.
fn fill(frame: &mut Frame, bytes: &mut &[u8]) {
    grow(&mut frame.header, usize::from(frame.head.header_len), bytes);
    grow(&mut frame.data, frame.head.data_len as usize, bytes);
}

/// Moves bytes until the piece has the length `whole`. Only called for the data once the header is whole or `bytes` is empty.
fn grow(piece: &mut Vec<u8>, whole: usize, bytes: &mut &[u8]) {
    let (now, rest) = bytes.split_at(bytes.len().min(whole - piece.len()));
    let least = piece.len() + now.len();
    if least > piece.capacity() {
        let room = least.max(2 * piece.capacity()).max(FIRST).min(whole);
        piece.reserve_exact(room - piece.len());
    }
    piece.extend_from_slice(now);
    *bytes = rest;
}
