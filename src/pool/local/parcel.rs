//! How frames stand in queue messages: one frame in one message, or in pieces if it is long.
//!
//! The bytes are those of the wire: [`FrameHeader`], header, data. What is only between nodes on one machine is told by the kind of
//! the queue message. The sender of a queue message is the name of the node that appended it.
//!
//! | kind | body |
//! |---|---|
//! | *(none)* | a whole frame |
//! | `first` | the beginning of a frame, at least its fixed part |
//! | `more` | what follows, until there are as many bytes as the fixed part says |
//! | `hello` | a handshake, and an announcement: the first thing that every writer appends |
//! | `wake` | nothing: the reader is to look up |

use super::LocalError;
use super::remote::{Hello, Remote};
use crate::pool::wire::{Announcement, Frame, FrameHeader, HANDSHAKE_LEN, HEADER_LEN, Handshake, WireError};
use crate::wait::Deadline;
use crate::{Message, Writer};
use std::sync::Arc;

const FIRST: &str = "first";
const MORE: &str = "more";
const HELLO: &str = "hello";
pub(super) const WAKE: &str = "wake";

/// A frame up to this long is put together on the stack and appended; a longer one is written where it will be read.
const SHORT: usize = 512;

/// The longest name of a node: it is the sender of its queue messages.
const MAX_NAME: usize = 64;

/// Whether a node can be called `name`.
pub(super) fn check_name(name: &str) -> Result<(), LocalError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(LocalError::BadName {
            name: name.to_owned(),
            why: "a node's name has 1 to 64 bytes",
        });
    }
    Ok(())
}

/// What was read from a queue.
#[derive(Debug)]
pub(super) enum Parcel {
    /// A whole frame, and who sent it.
    Frame(Arc<Remote>, Frame),
    /// A frame that cannot be received.
    Refused(Arc<Remote>, Refused),
    /// Something was read, and there is nothing to do about it.
    Nothing,
}

/// A frame that was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) head: FrameHeader,
    pub(crate) why: WireError,
}

/// One queue message, by what it is for.
#[derive(Debug)]
pub(super) enum Piece<'m> {
    Whole(&'m [u8]),
    First(&'m [u8]),
    More(&'m [u8]),
    Hello(Hello),
    Wake,
}

impl<'m> Piece<'m> {
    /// `None` for what no node appends.
    pub(super) fn of(message: &'m Message<'_>) -> Option<Self> {
        let body = message.body();
        match message.kind_bytes() {
            b"" => (body.len() >= HEADER_LEN).then_some(Piece::Whole(body)),
            b"first" => (body.len() >= HEADER_LEN).then_some(Piece::First(body)),
            b"more" => Some(Piece::More(body)),
            b"hello" => {
                let (handshake, rest) = body.split_first_chunk::<HANDSHAKE_LEN>()?;
                let announced = FrameHeader::from_bytes(rest.first_chunk::<HEADER_LEN>()?);
                Some(Piece::Hello(Hello {
                    identity: Handshake::from_bytes(handshake).identity,
                    announced: Announcement::from_header(&announced)?,
                }))
            }
            b"wake" => Some(Piece::Wake),
            _ => None,
        }
    }
}

/// Puts the frames of one writer together again.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    begun: Option<Frame>,
}

impl Unpacker {
    /// Takes the next piece. Memory grows with what arrives.
    pub(super) fn take(&mut self, piece: Piece<'_>, max_message_size: u64) -> Result<Option<Frame>, Refused> {
        let (mut frame, bytes, is_whole) = match piece {
            Piece::Whole(bytes) | Piece::First(bytes) => {
                let is_whole = matches!(piece, Piece::Whole(_));
                let (head, rest) = bytes
                    .split_first_chunk::<HEADER_LEN>()
                    .expect("looked at in `Piece::of`");
                let head = FrameHeader::from_bytes(head);
                self.begun = None;
                head.check(max_message_size).map_err(|why| Refused { head, why })?;
                let frame = Frame {
                    head,
                    ..Frame::default()
                };
                (frame, rest, is_whole)
            }
            // The rest of one that was refused, or whose beginning this node was not there for.
            Piece::More(bytes) => match self.begun.take() {
                Some(frame) => (frame, bytes, false),
                None => return Ok(None),
            },
            Piece::Hello(_) | Piece::Wake => return Ok(None),
        };
        let header_left = usize::from(frame.head.header_len) - frame.header.len();
        let (header, data) = bytes.split_at(header_left.min(bytes.len()));
        frame.header.extend_from_slice(header);
        let data_left = frame.head.data_len as usize - frame.data.len();
        frame.data.extend_from_slice(&data[..data_left.min(data.len())]);
        let is_complete = frame.header.len() == usize::from(frame.head.header_len)
            && frame.data.len() == frame.head.data_len as usize;
        if is_complete {
            return Ok(Some(frame));
        }
        // A whole frame that is shorter than it says was not written by a node.
        if !is_whole {
            self.begun = Some(frame);
        }
        Ok(None)
    }
}

/// Appends the greeting of a writer that has just joined.
pub(super) fn greet(writer: &mut Writer, hello: &Hello, deadline: &Deadline) -> crate::Result<()> {
    let mut body = [0; HANDSHAKE_LEN + HEADER_LEN];
    let handshake = Handshake {
        port: 0,
        identity: hello.identity,
    };
    body[..HANDSHAKE_LEN].copy_from_slice(&handshake.to_bytes());
    body[HANDSHAKE_LEN..].copy_from_slice(&hello.announced.to_header(0).to_bytes());
    writer.append(HELLO, &body, deadline.wait()).map(drop)
}

/// Appends a frame: whole if it is at most `longest` bytes, in pieces of that size otherwise.
///
/// `from`: how much of it was appended already. If the time is over in the middle of the pieces, another call with what this one has left there
/// goes on; if none is made, the reader throws away the pieces that it has got.
pub(super) fn append(
    writer: &mut Writer,
    head: &FrameHeader,
    [header, data]: [&[u8]; 2],
    longest: usize,
    from: &mut usize,
    deadline: &Deadline,
) -> crate::Result<()> {
    debug_assert_eq!(
        (head.header_len.into(), head.data_len as usize),
        (header.len(), data.len())
    );
    let fixed = head.to_bytes();
    let len = HEADER_LEN + header.len() + data.len();
    if len <= SHORT {
        let mut body = [0; SHORT];
        let mut end = 0;
        for part in [&fixed[..], header, data] {
            body[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        return writer.append("", &body[..end], deadline.wait()).map(drop);
    }
    let parts = [&fixed[..], header, data];
    while *from < len {
        let kind = match (*from, len <= longest) {
            (0, true) => "",
            (0, false) => FIRST,
            _ => MORE,
        };
        let size = longest.min(len - *from);
        let mut place = writer.reserve(kind, size, deadline.wait())?;
        let (mut at, mut skip) = (0, *from);
        for part in parts {
            let skipped = skip.min(part.len());
            let part = &part[skipped..];
            let part = &part[..part.len().min(size - at)];
            place.write_at(at, part);
            skip -= skipped;
            at += part.len();
        }
        place.commit()?;
        *from += size;
    }
    Ok(())
}
