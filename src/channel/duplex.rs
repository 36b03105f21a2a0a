//! What pipes, sockets and the test double have in common: reading by bytes or lines, a write queue between two marks, ends
//! and errors that stay, over a [`Port`].

use super::port::Port;
use super::{Buffering, ChannelError, Input, LineSplitter, Marks};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// The first read's size. It doubles while reads fill it, up to the limit, and halves while they are far from it.
const FIRST_READ: usize = 8 << 10;
/// The limit, if nothing else was said.
pub(super) const READ_LIMIT: usize = 64 << 10;

/// Chunks that the system takes in one call (`IOV_MAX`).
const MOST_CHUNKS: usize = 1024;

/// Something that happened to one direction for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Closed on this side.
    Closed,
    /// There never was this direction.
    Never,
    /// The peer has ended it.
    Ended,
    /// It broke.
    Broken { doing: &'static str, errno: Errno },
}

impl Over {
    fn error(self) -> ChannelError {
        match self {
            Over::Closed | Over::Ended => ChannelError::Closed,
            Over::Never => ChannelError::NotWritable,
            Over::Broken { doing, errno } => ChannelError::os(doing, errno),
        }
    }
}

thread_local! {
    /// What first reads go into, one for all channels of the thread: it stays in the processor's cache, however many channels there are.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Room for a first read.
fn borrow_scratch() -> Vec<u8> {
    // At the end of a thread there is none any more.
    match SCRATCH.try_with(Cell::take) {
        Ok(scratch) if scratch.capacity() == FIRST_READ => scratch,
        _ => Vec::with_capacity(FIRST_READ),
    }
}

fn give_back(mut scratch: Vec<u8>) {
    if scratch.capacity() == FIRST_READ {
        scratch.clear();
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
}

#[derive(Debug)]
pub(super) struct Duplex<P> {
    pub(super) port: P,
    buffering: Buffering,
    lines: Option<LineSplitter>,
    read_size: usize,
    read_limit: usize,
    /// Reading is over; what is buffered is still delivered.
    read_over: Option<Over>,
    /// The end or error has been delivered.
    is_told: bool,
    queue: VecDeque<u8>,
    marks: Marks,
    is_full: bool,
    write_over: Option<Over>,
    /// No more writes are taken; the peer is told when the queue is empty.
    is_finishing: bool,
}

impl<P: Port> Duplex<P> {
    pub(super) fn new(port: P) -> Self {
        let read_over = port.read_fd().is_none().then_some(Over::Never);
        let write_over = port.write_fd().is_none().then_some(Over::Never);
        Duplex {
            port,
            buffering: Buffering::Bytes,
            lines: None,
            read_size: FIRST_READ,
            read_limit: READ_LIMIT,
            // That there is no reading side is no news.
            is_told: read_over.is_some(),
            read_over,
            queue: VecDeque::new(),
            marks: Marks::default(),
            is_full: false,
            write_over,
            is_finishing: false,
        }
    }

    /// What was read already is kept, and delivered in the new way.
    pub(super) fn set_buffering(&mut self, buffering: Buffering) {
        let unread = self.lines.take().map(LineSplitter::into_rest).unwrap_or_default();
        self.lines = match buffering {
            Buffering::Lines(options) => Some(LineSplitter::new(options)),
            // Bytes that lines were to be made of come out first.
            Buffering::Bytes if !unread.is_empty() => Some(LineSplitter::new(Default::default())),
            Buffering::Bytes => None,
        };
        if let Some(lines) = &mut self.lines {
            lines.push(&unread);
        }
        self.buffering = buffering;
    }

    pub(super) fn buffering(&self) -> Buffering {
        self.buffering
    }

    pub(super) fn set_read_limit(&mut self, bytes: usize) {
        self.read_limit = bytes.max(1);
        self.read_size = self.read_size.min(self.read_limit);
    }

    pub(super) fn read_limit(&self) -> usize {
        self.read_limit
    }

    pub(super) fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
        self.is_full = self.queue.len() >= marks.high();
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    pub(super) fn try_read(&mut self) -> Result<Input, ChannelError> {
        if self.buffering == Buffering::Bytes {
            return self.try_read_bytes();
        }
        // Once for what is there, once for what one read brings.
        for is_last in [false, true] {
            if let Some(line) = self.lines.as_mut().and_then(LineSplitter::next_line) {
                return line.map(Input::Line);
            }
            if let Some(over) = self.read_over {
                return match self.lines.as_mut().and_then(LineSplitter::rest) {
                    Some(rest) => Ok(Input::Line(rest)),
                    None => self.tell(over),
                };
            }
            if is_last {
                break;
            }
            let size = self.read_size;
            let Some(lines) = &mut self.lines else { break };
            let tail = lines.tail();
            tail.reserve(size);
            if !Self::read_port(&mut self.port, tail, &mut self.read_over) {
                break;
            }
            let taken = lines.len();
            self.adapt(taken);
        }
        Ok(Input::Pending)
    }

    fn try_read_bytes(&mut self) -> Result<Input, ChannelError> {
        if let Some(unread) = self.lines.take().map(LineSplitter::into_rest)
            && !unread.is_empty()
        {
            return Ok(Input::Data(unread));
        }
        if self.read_over.is_none() {
            let mut data = match self.read_size {
                FIRST_READ => borrow_scratch(),
                size => Vec::with_capacity(size),
            };
            let is_there = Self::read_port(&mut self.port, &mut data, &mut self.read_over);
            if !data.is_empty() {
                self.adapt(data.len());
            }
            // Few bytes get a place of their own size, and the large one is used again.
            let few = match data.len() < data.capacity() / 4 {
                true => {
                    let few = data[..].to_vec();
                    give_back(data);
                    few
                }
                false => data,
            };
            if !is_there {
                return Ok(Input::Pending);
            }
            if !few.is_empty() {
                return Ok(Input::Data(few));
            }
        }
        match self.read_over {
            Some(over) => self.tell(over),
            None => Ok(Input::Pending),
        }
    }

    /// One read. `false`: nothing is there. An end or an error is written down in `over`.
    fn read_port(port: &mut P, into: &mut Vec<u8>, over: &mut Option<Over>) -> bool {
        loop {
            match port.read(into) {
                Ok(0) => *over = Some(Over::Ended),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return false,
                Err(errno) => *over = Some(Over::Broken { doing: "read", errno }),
            }
            return true;
        }
    }

    fn adapt(&mut self, taken: usize) {
        if taken >= self.read_size {
            self.read_size = (self.read_size * 2).min(self.read_limit);
        } else if taken < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(FIRST_READ.min(self.read_limit));
        }
    }

    fn tell(&mut self, over: Over) -> Result<Input, ChannelError> {
        self.is_told = true;
        match over {
            Over::Ended => Ok(Input::End),
            Over::Never => Err(ChannelError::NotReadable),
            over => Err(over.error()),
        }
    }

    pub(super) fn has_buffered(&self) -> bool {
        match (&self.lines, self.buffering) {
            (Some(lines), Buffering::Bytes) if !lines.is_empty() => return true,
            (Some(lines), Buffering::Lines(_)) if lines.may_have_line() => return true,
            _ => {}
        }
        self.read_over.is_some() && !self.is_told
    }

    fn check_writable(&self) -> Result<(), ChannelError> {
        match self.write_over {
            Some(over) => Err(over.error()),
            None if self.is_finishing => Err(ChannelError::Closed),
            None => Ok(()),
        }
    }

    /// Writes to the port. 0: nothing is taken now.
    fn write_port(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, ChannelError> {
        loop {
            match self.port.write(chunks) {
                Ok(taken) => return Ok(taken),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(errno) => {
                    let over = Over::Broken { doing: "write", errno };
                    self.write_over = Some(over);
                    return Err(over.error());
                }
            }
        }
    }

    /// Writes until nothing is taken any more. Returns how much was.
    fn write_through(&mut self, chunks: &[IoSlice<'_>]) -> Result<usize, ChannelError> {
        let mut taken = 0;
        if let [one] = chunks {
            while taken < one.len() {
                match self.write_port(&[IoSlice::new(&one[taken..])])? {
                    0 => break,
                    now => taken += now,
                }
            }
            return Ok(taken);
        }
        let mut rest = chunks.to_vec();
        let mut rest = &mut rest[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let now = self.write_port(&rest[..rest.len().min(MOST_CHUNKS)])?;
            if now == 0 {
                break;
            }
            taken += now;
            IoSlice::advance_slices(&mut rest, now);
        }
        Ok(taken)
    }

    pub(super) fn enqueue(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        self.check_writable()?;
        if !self.queue.is_empty() {
            self.try_flush()?;
        }
        if self.is_full {
            return Err(ChannelError::Full {
                queued: self.queue.len(),
                marks: self.marks,
            });
        }
        // Straight through, as far as it goes; the rest waits.
        let taken = match self.queue.is_empty() {
            true => self.write_through(chunks)?,
            false => 0,
        };
        let mut skip = taken;
        for chunk in chunks {
            let skipped = skip.min(chunk.len());
            skip -= skipped;
            self.queue.extend(&chunk[skipped..]);
        }
        self.is_full = self.queue.len() >= self.marks.high();
        Ok(())
    }

    pub(super) fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        self.check_writable()?;
        if !self.try_flush()? || bytes.is_empty() {
            return Ok(0);
        }
        self.write_port(&[IoSlice::new(bytes)])
    }

    /// Writes what is queued, as far as it is taken. `true`: nothing is left.
    pub(super) fn try_flush(&mut self) -> Result<bool, ChannelError> {
        match self.write_over {
            Some(over @ Over::Broken { .. }) => return Err(over.error()),
            Some(over) if !self.queue.is_empty() => return Err(over.error()),
            _ => {}
        }
        while !self.queue.is_empty() {
            let (front, back) = self.queue.as_slices();
            // Borrowed from the queue while `write_port` needs all of this: so the port is called right here.
            let taken = match self.port.write(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(taken) => taken,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => 0,
                Err(errno) => {
                    let over = Over::Broken { doing: "write", errno };
                    self.write_over = Some(over);
                    return Err(over.error());
                }
            };
            if taken == 0 {
                return Ok(false);
            }
            self.queue.drain(..taken);
            self.is_full &= self.queue.len() > self.marks.low();
        }
        if self.queue.capacity() > self.marks.high() {
            self.queue.shrink_to(0);
        }
        if self.is_finishing && self.write_over.is_none() {
            self.write_over = Some(Over::Closed);
            self.port
                .shutdown_write()
                .map_err(|errno| ChannelError::os("shutdown", errno))?;
        }
        Ok(true)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn shutdown_write(&mut self) -> Result<(), ChannelError> {
        match self.write_over {
            Some(Over::Closed) => return Ok(()),
            Some(over) => return Err(over.error()),
            None => self.is_finishing = true,
        }
        self.try_flush().map(drop)
    }

    pub(super) fn stop_reading(&mut self) {
        if self.read_over.is_none() {
            self.read_over = Some(Over::Closed);
            self.is_told = false;
        }
    }

    pub(super) fn close(&mut self) {
        self.port.close();
        self.stop_reading();
        if self.write_over.is_none() {
            self.write_over = Some(Over::Closed);
        }
    }

    pub(super) fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.read_fd()
    }

    pub(super) fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.write_fd()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.port.read_fd().is_none() && self.port.write_fd().is_none()
    }

    /// The port, what was read and not delivered, and what was taken and not written.
    pub(super) fn into_parts(self) -> (P, Vec<u8>, Vec<u8>) {
        let unread = self.lines.map(LineSplitter::into_rest).unwrap_or_default();
        (self.port, unread, self.queue.into())
    }
}
