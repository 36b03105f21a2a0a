//! A queue as a channel: its messages are what is read and written.

mod inbound;

use super::{Buffering, Channel, ChannelError, Input, Interest, Marks};
use crate::{Buffer, Doorbell, Error, Member, Message, Reader, Wait, Writer};
use inbound::Inbound;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

/// A queue's reader, writer or member as a channel: what is written is one message, what is read is one message's body.
///
/// Its descriptors are [doorbells](Doorbell), so it waits in a [`Poller`](super::Poller) beside pipes and sockets.
///
/// # Lines
///
/// With [`Buffering::Lines`] bodies are cut into lines. A line may come in several messages; lines of different members never mix.
///
/// # The end
///
/// A queue has no end by itself: another writer may come. So [`shutdown_write`](Channel::shutdown_write) (and closing or dropping the channel, if
/// there is room at that moment) appends an empty message of the kind [`END_KIND`](QueueChannel::END_KIND), and reading ends with as many of
/// them as [writers are expected](QueueChannel::with_writers): one, if nothing was said. Who is killed appends none. Give a
/// [kind of your own](QueueChannel::with_end_kind), or none for channels that never end.
///
/// # Writing
///
/// A message that finds no room waits in the channel's own queue, between the [`Marks`], and goes first. One that can never fit is
/// [`Error::TooLarge`] at once.
///
/// ```
/// use syncq::{Queue, Wait};
/// use syncq::channel::{Channel, Input, QueueChannel};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::options().heap()?;
/// let mut here = QueueChannel::reading(queue.reader()?)?;
/// let mut there = QueueChannel::writing(queue.writer("w")?)?.with_kind("number");
/// there.write(b"one", Wait::Never)?;
/// there.write(b"two", Wait::Never)?;
/// there.shutdown_write()?;
/// assert_eq!(here.read(Wait::Never)?.bytes(), b"one");
/// assert_eq!(here.read(Wait::Never)?.bytes(), b"two");
/// assert_eq!(here.read(Wait::Never)?, Input::End);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QueueChannel {
    inner: Option<Roles>,
    bells: Option<(Option<Doorbell>, Option<Doorbell>)>,
    kind: String,
    end_kind: Option<String>,
    inbound: Inbound,
    outbound: Outbound,
}

/// What is in the channel.
#[derive(Debug)]
enum Roles {
    Apart(Option<Reader>, Option<Writer>),
    Member(Member),
}

/// What a [`QueueChannel`] was made of, and what it still held.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct QueueParts {
    /// What it read from.
    pub reader: Option<Reader>,
    /// What it wrote to.
    pub writer: Option<Writer>,
    /// What it read from and wrote to.
    pub member: Option<Member>,
    /// Beginnings of lines, read and not delivered.
    pub unread: Vec<Vec<u8>>,
    /// Messages taken and not appended.
    pub unwritten: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Outbound {
    /// Kind, if it is not the channel's, and body.
    queue: VecDeque<(Option<Box<str>>, Vec<u8>)>,
    bytes: usize,
    marks: Marks,
    is_full: bool,
    /// No more is taken.
    is_finishing: bool,
    /// The end is out too.
    is_finished: bool,
}

/// Messages looked at in one read that are all ends of others, or incomplete lines.
const MOST_MESSAGES: usize = 64;

impl QueueChannel {
    /// The kind of the message that ends a channel.
    pub const END_KIND: &'static str = "channel-end";
    /// The kind of messages, if nothing was said.
    pub const KIND: &'static str = "data";

    fn over(inner: Roles) -> io::Result<Self> {
        let (reads, writes) = match &inner {
            Roles::Apart(reader, writer) => (reader.is_some(), writer.is_some()),
            Roles::Member(_) => (true, true),
        };
        Ok(QueueChannel {
            inner: Some(inner),
            bells: Some((
                reads.then(Doorbell::readable).transpose()?,
                writes.then(Doorbell::writable).transpose()?,
            )),
            kind: Self::KIND.into(),
            end_kind: Some(Self::END_KIND.into()),
            inbound: Inbound::new(),
            outbound: Outbound::default(),
        })
    }

    /// Reads from `reader` and writes to `writer`: of two queues, as a rule.
    ///
    /// # Errors
    ///
    /// What the system says if there are no descriptors left.
    pub fn new(reader: Reader, writer: Writer) -> io::Result<Self> {
        Self::over(Roles::Apart(Some(reader), Some(writer)))
    }

    /// Only reads.
    ///
    /// # Errors
    ///
    /// As [`new`](QueueChannel::new).
    pub fn reading(reader: Reader) -> io::Result<Self> {
        Self::over(Roles::Apart(Some(reader), None))
    }

    /// Only writes.
    ///
    /// # Errors
    ///
    /// As [`new`](QueueChannel::new).
    pub fn writing(writer: Writer) -> io::Result<Self> {
        Self::over(Roles::Apart(None, Some(writer)))
    }

    /// Reads and writes as a member of one queue.
    ///
    /// # Errors
    ///
    /// As [`new`](QueueChannel::new).
    pub fn of_member(member: Member) -> io::Result<Self> {
        Self::over(Roles::Member(member))
    }

    /// The same, writing messages of this kind. `"data"` by default.
    pub fn with_kind(mut self, kind: &str) -> Self {
        self.kind = kind.into();
        self
    }

    /// The same, with another kind of message for the end, or none: then neither direction ever ends.
    pub fn with_end_kind(mut self, kind: Option<&str>) -> Self {
        self.end_kind = kind.map(Into::into);
        self
    }

    /// The same, ended by the ends of this many writers; 0 counts as 1.
    pub fn with_writers(mut self, writers: u32) -> Self {
        self.inbound.writers = writers.max(1);
        self
    }

    /// The same, read by messages or by lines.
    pub fn with_buffering(mut self, buffering: Buffering) -> Self {
        self.set_buffering(buffering);
        self
    }

    /// Gives back what it was made of, and what is still between that and the user. Appends no end.
    pub fn into_inner(mut self) -> QueueParts {
        let mut parts = QueueParts {
            unread: self.inbound.take_unread(),
            unwritten: self.outbound.queue.drain(..).map(|(_, body)| body).collect(),
            ..QueueParts::default()
        };
        match self.inner.take() {
            Some(Roles::Apart(reader, writer)) => (parts.reader, parts.writer) = (reader, writer),
            Some(Roles::Member(member)) => parts.member = Some(member),
            None => {}
        }
        parts
    }

    /// The next message with all its names, where [`try_read`](Channel::try_read) would give its body alone. [`None`]: there is none now, or what
    /// comes next is for `try_read` to say: an end, or lines. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`read`](Channel::read).
    pub fn try_read_message<'b>(&mut self, buffer: &'b mut Buffer) -> Result<Option<Message<'b>>, ChannelError> {
        let inbound = &self.inbound;
        let is_plain = inbound.buffering == Buffering::Bytes && inbound.ready.is_empty();
        if !is_plain || inbound.is_over || inbound.failed.is_some() {
            return Ok(None);
        }
        let popped = match &mut self.inner {
            Some(Roles::Apart(Some(reader), _)) => reader.pop_into(buffer, Wait::Never)?,
            Some(Roles::Member(member)) => member.pop_into(buffer, Wait::Never)?,
            Some(Roles::Apart(None, _)) => return Err(ChannelError::NotReadable),
            None => return Err(ChannelError::Closed),
        };
        self.inbound.may_have_more = popped.is_some();
        match popped {
            Some(message) if self.end_kind.as_deref().is_some_and(|end| message.kind() == end) => {
                self.inbound.take(&message, self.end_kind.as_deref());
                Ok(None)
            }
            popped => Ok(popped),
        }
    }

    /// As [`enqueue`](Channel::enqueue), for a message of this kind.
    ///
    /// # Errors
    ///
    /// As [`write`](Channel::write).
    pub fn enqueue_message(&mut self, kind: &str, body: &[u8]) -> Result<(), ChannelError> {
        self.enqueue_as(Some(kind), body)
    }

    fn enqueue_as(&mut self, kind: Option<&str>, body: &[u8]) -> Result<(), ChannelError> {
        self.check_writable()?;
        self.try_flush()?;
        if self.outbound.is_full {
            return Err(ChannelError::Full {
                queued: self.outbound.bytes,
                marks: self.outbound.marks,
            });
        }
        if self.outbound.queue.is_empty() && self.append_as(kind, body)? {
            return Ok(());
        }
        if !self.outbound.queue.is_empty() {
            self.check_size(kind, body.len())?;
        }
        self.outbound.bytes += size(body);
        self.outbound.queue.push_back((kind.map(Into::into), body.to_vec()));
        self.outbound.is_full = self.outbound.bytes >= self.outbound.marks.high();
        Ok(())
    }

    /// Looks at the next message. `None`: there is none.
    fn take_message(&mut self) -> Result<Option<Input>, ChannelError> {
        let end_kind = self.end_kind.as_deref();
        let popped = match &mut self.inner {
            Some(Roles::Apart(Some(reader), _)) => reader.pop(Wait::Never)?,
            Some(Roles::Member(member)) => member.pop(Wait::Never)?,
            Some(Roles::Apart(None, _)) => return Err(ChannelError::NotReadable),
            None => return Err(ChannelError::Closed),
        };
        self.inbound.may_have_more = popped.is_some();
        Ok(popped.and_then(|message| self.inbound.take(&message, end_kind)))
    }

    fn has_more_in_queue(&self) -> bool {
        let lag = match &self.inner {
            Some(Roles::Apart(Some(reader), _)) => reader.lag(),
            Some(Roles::Member(member)) => member.lag(),
            _ => 0,
        };
        self.inbound.may_have_more && lag > 0
    }

    /// Appends one message if there is room now.
    fn append(&mut self, kind: &str, body: &[u8]) -> Result<bool, ChannelError> {
        let appended = match &mut self.inner {
            Some(Roles::Apart(_, Some(writer))) => writer.append(kind, body, Wait::Never),
            Some(Roles::Member(member)) => member.append(kind, body, Wait::Never),
            Some(Roles::Apart(_, None)) => return Err(ChannelError::NotWritable),
            None => return Err(ChannelError::Closed),
        };
        match appended {
            Ok(_) => Ok(true),
            Err(Error::Full(_) | Error::Busy { .. } | Error::ReadFirst { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn append_as(&mut self, kind: Option<&str>, body: &[u8]) -> Result<bool, ChannelError> {
        if let Some(kind) = kind {
            return self.append(kind, body);
        }
        let kind = std::mem::take(&mut self.kind);
        let appended = self.append(&kind, body);
        self.kind = kind;
        appended
    }

    /// Appends the end, if there is one to append. `false`: there is no room.
    fn append_end(&mut self) -> Result<bool, ChannelError> {
        if self.outbound.is_finished {
            return Ok(true);
        }
        self.outbound.is_finished = match self.end_kind.clone() {
            Some(kind) => self.append(&kind, &[])?,
            None => true,
        };
        Ok(self.outbound.is_finished)
    }

    /// A message that can never fit must not wait behind others to be found out.
    fn check_size(&mut self, kind: Option<&str>, len: usize) -> Result<(), ChannelError> {
        let kind = kind.unwrap_or(&self.kind);
        let Some((_, Some(bell))) = &mut self.bells else {
            return Ok(());
        };
        match &mut self.inner {
            Some(Roles::Apart(_, Some(writer))) => writer.arm_to_write(bell, kind, len)?,
            Some(Roles::Member(member)) => member.arm_to_write(bell, kind, len)?,
            _ => return Ok(()),
        };
        Ok(())
    }

    fn check_writable(&self) -> Result<(), ChannelError> {
        match &self.inner {
            Some(Roles::Apart(_, None)) => Err(ChannelError::NotWritable),
            Some(_) if !self.outbound.is_finishing => Ok(()),
            _ => Err(ChannelError::Closed),
        }
    }
}

impl Channel for QueueChannel {
    fn try_read(&mut self) -> Result<Input, ChannelError> {
        for _ in 0..MOST_MESSAGES {
            if let Some(line) = self.inbound.ready.pop_front() {
                return match self.inbound.buffering {
                    Buffering::Lines(_) => line.map(Input::Line),
                    Buffering::Bytes => line.map(|line| Input::Data(line.bytes)),
                };
            }
            if let Some(error) = self.inbound.failed.take() {
                return Err(error.into());
            }
            if self.inbound.is_over {
                self.inbound.is_told = true;
                return match self.inner {
                    Some(_) => Ok(Input::End),
                    None if self.inbound.ends >= self.inbound.writers => Ok(Input::End),
                    None => Err(ChannelError::Closed),
                };
            }
            if let Some(input) = self.take_message()? {
                return Ok(input);
            }
            if !self.inbound.may_have_more {
                return Ok(Input::Pending);
            }
        }
        Ok(Input::Pending)
    }

    fn enqueue(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        let joined: Vec<u8>;
        let body = match chunks {
            [one] => &one[..],
            _ => {
                joined = chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect();
                &joined
            }
        };
        self.enqueue_as(None, body)
    }

    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        self.check_writable()?;
        if !self.try_flush()? {
            return Ok(0);
        }
        let is_taken = self.append_as(None, bytes)?;
        Ok(if is_taken { bytes.len() } else { 0 })
    }

    fn try_flush(&mut self) -> Result<bool, ChannelError> {
        while let Some((kind, body)) = self.outbound.queue.pop_front() {
            let appended = self.append_as(kind.as_deref(), &body);
            if !matches!(appended, Ok(true)) {
                self.outbound.queue.push_front((kind, body));
                return appended;
            }
            self.outbound.bytes -= size(&body);
            self.outbound.is_full &= self.outbound.bytes > self.outbound.marks.low();
        }
        if self.outbound.is_finishing {
            return self.append_end();
        }
        Ok(true)
    }

    /// Bytes of messages that wait to be appended. An empty one, and the end, count as one byte.
    fn queued(&self) -> usize {
        let end = self.outbound.is_finishing && !self.outbound.is_finished && self.inner.is_some();
        self.outbound.bytes + usize::from(end)
    }

    fn is_full(&self) -> bool {
        self.outbound.is_full
    }

    fn marks(&self) -> Marks {
        self.outbound.marks
    }

    fn set_marks(&mut self, marks: Marks) {
        self.outbound.marks = marks;
        self.outbound.is_full = self.outbound.bytes >= marks.high();
    }

    fn buffering(&self) -> Buffering {
        self.inbound.buffering
    }

    fn set_buffering(&mut self, buffering: Buffering) {
        self.inbound.set_buffering(buffering);
    }

    /// A read takes one message, however long it is.
    fn set_read_limit(&mut self, _bytes: usize) {}

    fn has_buffered(&self) -> bool {
        let inbound = &self.inbound;
        !inbound.ready.is_empty()
            || inbound.failed.is_some()
            || inbound.is_over && !inbound.is_told
            || !inbound.is_over && self.has_more_in_queue()
    }

    fn shutdown_write(&mut self) -> Result<(), ChannelError> {
        if !self.outbound.is_finishing {
            self.check_writable()?;
            self.outbound.is_finishing = true;
        }
        if self.inner.is_none() {
            return Ok(());
        }
        self.try_flush().map(drop)
    }

    fn close(&mut self) {
        if matches!(self.inner, Some(Roles::Member(_) | Roles::Apart(_, Some(_)))) && self.outbound.queue.is_empty() {
            // Who reads is told, as by a pipe that is closed; if there is no room for it, there is nobody to tell about that.
            let _ = self.append_end();
        }
        self.outbound.is_finishing = true;
        self.inner = None;
        self.bells = None;
        if !self.inbound.is_over {
            self.inbound.end();
        }
    }

    fn is_closed(&self) -> bool {
        self.inner.is_none()
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bells.as_ref()?.0.as_ref().map(AsFd::as_fd)
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bells.as_ref()?.1.as_ref().map(AsFd::as_fd)
    }

    fn arm(&mut self, interest: Interest) -> bool {
        if interest.readable && self.has_buffered() {
            return false;
        }
        let (to_read, to_write) = match &mut self.bells {
            Some((to_read, to_write)) => (to_read, to_write),
            None => return true,
        };
        if let Some(bell) = to_read.as_mut().filter(|_| interest.readable && !self.inbound.is_over) {
            let armed = match &mut self.inner {
                Some(Roles::Apart(Some(reader), _)) => reader.arm_to_read(bell),
                Some(Roles::Member(member)) => member.arm_to_read(bell),
                _ => Ok(true),
            };
            match armed {
                Ok(true) => {}
                Ok(false) => {
                    self.inbound.may_have_more = true;
                    return false;
                }
                Err(error) => {
                    self.inbound.failed = Some(error);
                    return false;
                }
            }
        }
        if let Some(bell) = to_write.as_mut().filter(|_| interest.writable) {
            let (kind, len) = match (self.outbound.queue.front(), &self.end_kind) {
                (Some((kind, body)), _) => (kind.as_deref().unwrap_or(&self.kind), body.len()),
                (None, Some(end)) if self.outbound.is_finishing => (&end[..], 0),
                // Who waits to write waits for nothing.
                _ => return false,
            };
            let armed = match &mut self.inner {
                Some(Roles::Apart(_, Some(writer))) => writer.arm_to_write(bell, kind, len),
                Some(Roles::Member(member)) => member.arm_to_write(bell, kind, len),
                _ => Ok(true),
            };
            // An error is for the next write to say.
            return matches!(armed, Ok(true));
        }
        true
    }

    fn needs_arming(&self) -> bool {
        true
    }
}

impl Drop for QueueChannel {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a waiting message counts: an empty one is one too.
fn size(body: &[u8]) -> usize {
    body.len().max(1)
}
