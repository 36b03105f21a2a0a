//! An encrypted channel over a socket channel: bytes and lines in and out, marks, half-close. Certificates are `identity.rs`.
//!
//! What is encrypted is at once put into the socket channel's write queue; so that queue and the plaintext that waits for the handshake are
//! all that waits to be written. What is decrypted is at once taken out of the TLS library.

use super::{PeerCertificate, TlsError};
use crate::channel::{
    Buffering, Channel, ChannelError, Input, Interest, LineSplitter, Marks, Peer, SocketChannel, until_ready,
};
use crate::wait::{Deadline, Wait};
use rustls::Connection;
use std::fmt;
use std::io::{self, BufRead, IoSlice, Write};
use std::os::fd::BorrowedFd;

/// What is encrypted in one go, at most: it is in memory twice while that lasts.
const PIECE: usize = 64 << 10;
/// What one record holds.
const RECORD: usize = 16 << 10;
/// Reads of the socket in one read here: a peer may send much that carries nothing.
const MOST_READS: usize = 16;

/// Why there is nothing more to be read.
#[derive(Debug, Clone)]
enum Over {
    Ended,
    EndedEarly,
    Failed(rustls::Error),
    /// The socket says why, each time it is asked.
    Socket,
}

/// An encrypted channel, made by [`TlsIdentity`](super::TlsIdentity): a [`Channel`] like the others, for a
/// [`Poller`](crate::channel::Poller) as well.
///
/// The handshake goes on whenever the channel is read (by the poller too, so do not pause reading before it is done) or
/// waited for. What is written before it is done waits for it, up to the high mark, and does not count as
/// [`queued`](Channel::queued): it waits for the peer, not for room.
///
/// # Ends
///
/// [`shutdown_write`](Channel::shutdown_write) tells the peer so under encryption (`close_notify`) and then ends the socket's direction
/// as well; reading goes on. A peer that ends the connection without that is at its [`End`](Input::End) too: libchirp never sends
/// one. So an end does not prove that nothing was cut off; messages that carry their length do.
///
/// # Errors
///
/// Beside those of the socket there are those of [`TlsError`], which stay, for reading and for writing; [`TlsError::of`] takes
/// them out of a [`ChannelError`]. What was decrypted before is delivered before. In TLS 1.3 the connecting side is done before
/// the other one has looked at its certificate: that it is refused shows at the first read.
pub struct TlsChannel {
    socket: SocketChannel,
    connection: Connection,
    /// Plaintext that waits for the handshake to be done.
    early: Vec<u8>,
    /// Decrypted and not delivered.
    plain: Vec<u8>,
    buffering: Buffering,
    lines: Option<LineSplitter>,
    /// Lines were pushed since there was none.
    may_have_line: bool,
    read_limit: usize,
    over: Option<Over>,
    is_told: bool,
    marks: Marks,
    is_full: bool,
    /// Room was made by a read, which nobody is told of but by another look.
    has_drained: bool,
    is_finishing: bool,
    is_shut: bool,
    peer_certificate: Option<PeerCertificate>,
}

impl fmt::Debug for TlsChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsChannel")
            .field("socket", &self.socket)
            .field("is_handshaking", &self.connection.is_handshaking())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl TlsChannel {
    pub(super) fn over(mut socket: SocketChannel, mut connection: Connection) -> Self {
        let buffering = socket.buffering();
        socket.set_buffering(Buffering::Bytes);
        let marks = socket.marks();
        // What is encrypted has to go out: whether it is too much is looked at before.
        socket.set_marks(Marks::up_to(usize::MAX));
        connection.set_buffer_limit(None);
        let mut channel = TlsChannel {
            socket,
            connection,
            early: Vec::new(),
            plain: Vec::new(),
            buffering: Buffering::Bytes,
            lines: None,
            may_have_line: false,
            read_limit: usize::MAX,
            over: None,
            is_told: false,
            marks,
            is_full: false,
            has_drained: false,
            is_finishing: false,
            is_shut: false,
            peer_certificate: None,
        };
        channel.set_buffering(buffering);
        channel
    }

    /// The peer's certificate, which was found good. [`None`] before the handshake is done.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.peer_certificate.as_ref()
    }

    /// Waits until the handshake is done. `false`: not in time. What comes after it is kept to be read. A channel need not be asked for this: reading,
    /// [`flush`](Channel::flush) and a poller do it as well.
    ///
    /// # Errors
    ///
    /// As [`read`](Channel::read).
    pub fn handshake(&mut self, wait: Wait) -> Result<bool, ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            self.try_flush()?;
            if !self.shake(&deadline) {
                self.check()?;
                return Ok(true);
            }
            if deadline.has_passed() && self.is_handshaking() {
                return Ok(false);
            }
        }
    }

    /// Whether keys are still being agreed on. `false` after that, and after a failure.
    pub fn is_handshaking(&self) -> bool {
        self.over.is_none() && self.connection.is_handshaking()
    }

    /// Which version of TLS was agreed on: `"1.3"` or `"1.2"`. [`None`] before that.
    pub fn version(&self) -> Option<&'static str> {
        match self.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => Some("1.3"),
            rustls::ProtocolVersion::TLSv1_2 => Some("1.2"),
            _ => None,
        }
    }

    /// Who is at the other end.
    ///
    /// # Errors
    ///
    /// As [`SocketChannel::peer`].
    pub fn peer(&self) -> Result<Peer, ChannelError> {
        self.socket.peer()
    }

    /// Puts what is encrypted into the socket's queue, and as much of that as possible into the socket.
    fn pass_on(&mut self) -> Result<(), ChannelError> {
        while self.connection.wants_write() {
            let mut outlet = Outlet {
                socket: &mut self.socket,
                error: None,
            };
            let outcome = self.connection.write_tls(&mut outlet);
            if let Some(error) = outlet.error {
                return Err(error);
            }
            if let Ok(0) | Err(_) = outcome {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Encrypts all of `chunks` and passes it on. Only after the handshake.
    fn encrypt(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        let len: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        if len <= PIECE {
            // As few records as possible, whatever it was put together from.
            return self.encrypt_piece(len, chunks);
        }
        for chunk in chunks {
            for piece in chunk.chunks(PIECE) {
                self.encrypt_piece(piece.len(), &[IoSlice::new(piece)])?;
            }
        }
        Ok(())
    }

    fn encrypt_piece(&mut self, len: usize, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        if len == 0 {
            return Ok(());
        }
        let taken = self.connection.writer().write_vectored(chunks);
        debug_assert_eq!(taken.ok(), Some(len), "no limit was set");
        self.pass_on()
    }

    /// Takes what the socket gave: decrypts, answers, finishes the handshake.
    fn absorb(&mut self, input: Result<Input, ChannelError>) {
        match input {
            Ok(Input::Data(bytes)) => self.decrypt(&bytes),
            Ok(Input::End) if self.connection.is_handshaking() => self.over = Some(Over::EndedEarly),
            Ok(Input::End) => self.over = Some(Over::Ended),
            Ok(_) => {}
            Err(_) => self.over = Some(Over::Socket),
        }
    }

    fn decrypt(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.over.is_none() {
            match self.connection.read_tls(&mut bytes) {
                // What comes after a `close_notify` means nothing.
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.over = Some(Over::Failed(rustls::Error::General(error.to_string())));
                    break;
                }
            }
            let outcome = self.connection.process_new_packets();
            // Also what was decrypted before something went wrong.
            self.take_plain();
            match outcome {
                Ok(state) if state.peer_has_closed() => self.over = Some(Over::Ended),
                Ok(_) => {}
                Err(error) => self.over = Some(Over::Failed(error)),
            }
        }
        if self.peer_certificate.is_none() && !self.connection.is_handshaking() {
            let shown = self.connection.peer_certificates().and_then(<[_]>::first);
            match shown.map(PeerCertificate::new) {
                Some(Ok(certificate)) => self.peer_certificate = Some(certificate),
                Some(Err(error)) => self.over = Some(Over::Failed(error)),
                None => self.over = Some(Over::Failed(rustls::Error::NoCertificatesPresented)),
            }
        }
        // The answer to a handshake, an alert, a change of keys. A writing side that is over is for the next write to tell of. A peer that
        // reads nothing gets no more answers: of those of the library's making there is one of each kind at most.
        if self.socket.queued() < self.marks.high() {
            let _ = self.pass_on();
        }
        if let Some(Over::Failed(_)) = self.over {
            // The alert goes out before that, if it can.
            let _ = self.socket.shutdown_write();
        } else if !self.connection.is_handshaking() && (!self.early.is_empty() || self.is_finishing) {
            let was_full = self.is_full;
            let _ = self.try_flush();
            self.has_drained |= was_full && !self.is_full;
        }
    }

    fn take_plain(&mut self) {
        let mut reader = self.connection.reader();
        while let Ok(chunk) = reader.fill_buf() {
            let len = chunk.len();
            if len == 0 {
                return;
            }
            self.plain.extend_from_slice(chunk);
            reader.consume(len);
        }
    }

    /// Fills `plain`, if there is something.
    fn fetch(&mut self) {
        for _ in 0..MOST_READS {
            if !self.plain.is_empty() || self.over.is_some() {
                return;
            }
            match self.socket.try_read() {
                Ok(Input::Pending) => return,
                input => self.absorb(input),
            }
        }
    }

    fn tell(&mut self) -> Result<Input, ChannelError> {
        self.is_told = true;
        match &self.over {
            None => Ok(Input::Pending),
            Some(Over::Ended) => Ok(Input::End),
            // It says so each time.
            Some(Over::Socket) => self.socket.try_read(),
            Some(_) => self.check().map(|()| Input::End),
        }
    }

    /// What TLS made impossible, for both directions.
    fn check(&mut self) -> Result<(), ChannelError> {
        match &self.over {
            Some(Over::Failed(error)) => Err(TlsError::of_connection(error).into()),
            Some(Over::EndedEarly) => Err(TlsError::EndedEarly.into()),
            Some(Over::Socket) if self.connection.is_handshaking() => {
                Err(self.socket.try_read().err().unwrap_or(ChannelError::Closed))
            }
            _ => Ok(()),
        }
    }

    fn check_writable(&mut self) -> Result<(), ChannelError> {
        self.check()?;
        if self.is_finishing || self.is_closed() {
            return Err(ChannelError::Closed);
        }
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.early.len() + self.socket.queued()
    }

    fn full(&self) -> ChannelError {
        ChannelError::Full {
            queued: self.waiting(),
            marks: self.marks,
        }
    }

    /// Waits for the handshake to go on, if that is what writing waits for. `false`: it is done.
    fn shake(&mut self, deadline: &Deadline) -> bool {
        if !self.is_handshaking() {
            return false;
        }
        let input = self.socket.read(deadline.wait());
        // What the waiting itself could not do is no news of the connection.
        let input = input.or_else(|_| self.socket.try_read());
        self.absorb(input);
        true
    }
}

impl Channel for TlsChannel {
    fn try_read(&mut self) -> Result<Input, ChannelError> {
        self.has_drained = false;
        for is_last in [false, true] {
            if let Some(lines) = &mut self.lines {
                if let Some(line) = lines.next_line() {
                    return line.map(Input::Line);
                }
                self.may_have_line = false;
            } else if !self.plain.is_empty() {
                let rest = self.plain.split_off(self.plain.len().min(self.read_limit));
                let mut data = std::mem::replace(&mut self.plain, rest);
                if data.len() < data.capacity() / 4 {
                    data.shrink_to_fit();
                }
                return Ok(Input::Data(data));
            }
            if self.over.is_some() && self.plain.is_empty() {
                return match self.lines.as_mut().and_then(LineSplitter::rest) {
                    Some(rest) => Ok(Input::Line(rest)),
                    None => self.tell(),
                };
            }
            if is_last {
                break;
            }
            self.fetch();
            if let Some(lines) = &mut self.lines
                && !self.plain.is_empty()
            {
                lines.push(&self.plain);
                self.plain.clear();
                self.plain.shrink_to(RECORD);
                self.may_have_line = true;
            }
        }
        Ok(Input::Pending)
    }

    fn enqueue(&mut self, chunks: &[IoSlice<'_>]) -> Result<(), ChannelError> {
        self.check_writable()?;
        self.try_flush()?;
        if self.is_full {
            return Err(self.full());
        }
        if self.connection.is_handshaking() {
            for chunk in chunks {
                self.early.extend_from_slice(chunk);
            }
        } else {
            self.encrypt(chunks)?;
        }
        self.is_full = self.waiting() >= self.marks.high();
        Ok(())
    }

    /// Whole records of up to 16 KiB. Of the last one, a part may be queued: half a record is of no use.
    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        self.check_writable()?;
        if !self.try_flush()? || self.connection.is_handshaking() {
            return Ok(0);
        }
        let mut taken = 0;
        for record in bytes.chunks(RECORD) {
            self.encrypt_piece(record.len(), &[IoSlice::new(record)])?;
            taken += record.len();
            if self.socket.queued() > 0 {
                break;
            }
        }
        self.is_full = self.waiting() >= self.marks.high();
        Ok(taken)
    }

    fn try_flush(&mut self) -> Result<bool, ChannelError> {
        self.check()?;
        if !self.is_shut {
            self.pass_on()?;
        }
        let is_handshaking = self.connection.is_handshaking();
        if !is_handshaking && !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            self.encrypt(&[IoSlice::new(&early)])?;
        }
        self.socket.try_flush()?;
        self.is_full &= self.waiting() > self.marks.low();
        if self.is_finishing && !self.is_shut && !is_handshaking {
            self.connection.send_close_notify();
            self.pass_on()?;
            self.is_shut = true;
            self.socket.shutdown_write()?;
        }
        Ok(self.waiting() == 0 && self.is_finishing == self.is_shut)
    }

    fn queued(&self) -> usize {
        self.socket.queued()
    }

    fn is_full(&self) -> bool {
        self.is_full
    }

    fn marks(&self) -> Marks {
        self.marks
    }

    fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
        self.is_full = self.waiting() >= marks.high();
    }

    fn buffering(&self) -> Buffering {
        self.buffering
    }

    fn set_buffering(&mut self, buffering: Buffering) {
        if let Some(rest) = self.lines.take().and_then(|mut lines| lines.rest()) {
            // In front of what came after it.
            self.plain.splice(..0, rest.bytes);
        }
        if let Buffering::Lines(options) = buffering {
            let mut lines = LineSplitter::new(options);
            lines.push(&std::mem::take(&mut self.plain));
            self.may_have_line = !lines.is_empty();
            self.lines = Some(lines);
        }
        self.buffering = buffering;
    }

    fn set_read_limit(&mut self, bytes: usize) {
        self.read_limit = bytes.max(1);
        self.socket.set_read_limit(bytes);
    }

    fn has_buffered(&self) -> bool {
        let has_line = self.lines.is_some() && self.may_have_line;
        let has_news = self.over.is_some() && !self.is_told;
        !self.plain.is_empty() || has_line || has_news || self.has_drained || self.socket.has_buffered()
    }

    fn shutdown_write(&mut self) -> Result<(), ChannelError> {
        if self.is_finishing {
            return Ok(());
        }
        self.check_writable()?;
        self.is_finishing = true;
        self.try_flush().map(drop)
    }

    fn close(&mut self) {
        self.socket.close();
        if self.over.is_none() {
            self.over = Some(Over::Socket);
        }
    }

    fn is_closed(&self) -> bool {
        self.socket.is_closed()
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.read_fd()
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.write_fd()
    }

    fn write_vectored(&mut self, chunks: &[IoSlice<'_>], wait: Wait) -> Result<(), ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            match self.enqueue(chunks) {
                Err(ChannelError::Full { .. }) if !deadline.has_passed() => {
                    if !self.shake(&deadline) {
                        until_ready(self, Interest::WRITE, &deadline)?;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self, wait: Wait) -> Result<bool, ChannelError> {
        let deadline = Deadline::of(wait);
        loop {
            if self.try_flush()? {
                return Ok(true);
            }
            if deadline.has_passed() {
                return Ok(false);
            }
            if !self.shake(&deadline) {
                until_ready(self, Interest::WRITE, &deadline)?;
            }
        }
    }
}

/// Where the TLS library's records go: into the socket's queue, all of them.
struct Outlet<'a> {
    socket: &'a mut SocketChannel,
    error: Option<ChannelError>,
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.enqueue(chunks) {
            Ok(()) => Ok(chunks.iter().map(|chunk| chunk.len()).sum()),
            Err(error) => {
                self.error = Some(error);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
