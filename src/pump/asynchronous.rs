//! Queues and channels for tokio: readers as [`Stream`]s, writers as [`Sink`]s, channels as [`AsyncRead`] and [`AsyncWrite`].
//!
//! Behind the feature `tokio`. Everything here waits for descriptors with the runtime's own poller and never blocks its thread; the runtime needs
//! `enable_io`. What a queue is waited for with is its [`Doorbell`].
//!
//! # Cancelling
//!
//! Every method can be dropped while it waits, and nothing is lost: what a [`MessageStream`] takes from the queue it hands over at once, what a
//! [`MessageSink`] has accepted it keeps until it is appended, and of an [`AsyncChannel`] what was read and did not fit into the caller's buffer waits for the next
//! read. `write_all` and its like may be dropped half way, as with any writer.
//!
//! # Fairness
//!
//! A stream that always has something never waits, and tokio's budget does not know of it: who takes from it in a loop without another `await`
//! calls `tokio::task::yield_now` now and then.

use super::Item;
use crate::channel::{Channel, ChannelError, Input, Interest, Marks, QueueChannel};
use crate::{Doorbell, Error, Message, Reader, Wait, Writer};
use futures_core::Stream;
use futures_sink::Sink;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest as TokioInterest, ReadBuf};

/// A descriptor that the runtime waits for.
#[derive(Debug)]
enum Watch {
    Fd(AsyncFd<OwnedFd>),
    /// The kernel has nothing to wait for: a file.
    Always,
}

impl Watch {
    fn new(fd: BorrowedFd<'_>, interest: TokioInterest) -> io::Result<Self> {
        // A copy: the runtime takes it out of its poller before it closes it, whatever becomes of the other one.
        #[allow(
            deprecated,
            reason = "its successor is unsafe, and asks for what an OwnedFd keeps anyway"
        )]
        match AsyncFd::try_with_interest(fd.try_clone_to_owned()?, interest) {
            Ok(fd) => Ok(Watch::Fd(fd)),
            Err(error) => match error.into_parts() {
                (_, error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Watch::Always),
                (_, error) => Err(error),
            },
        }
    }

    /// Ready: look again. What was known is forgotten, so the next time it is news.
    fn poll_read(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Watch::Fd(fd) => {
                ready!(fd.poll_read_ready(context))?.clear_ready();
                Poll::Ready(Ok(()))
            }
            Watch::Always => again(context),
        }
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Watch::Fd(fd) => {
                ready!(fd.poll_write_ready(context))?.clear_ready();
                Poll::Ready(Ok(()))
            }
            Watch::Always => again(context),
        }
    }
}

/// Not now, but in a moment, and others first.
fn again<T>(context: &Context<'_>) -> Poll<T> {
    context.waker().wake_by_ref();
    Poll::Pending
}

/// A queue's [`Reader`] as a stream of messages. It has no end; it ends after an error that is final.
///
/// ```
/// use futures_util::StreamExt;
/// use syncq::pump::asynchronous::MessageStream;
/// use syncq::{Queue, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let queue = Queue::options().heap()?;
/// let mut messages = MessageStream::new(queue.reader()?)?;
/// queue.writer("w")?.append("kind", b"body", Wait::Never)?;
/// assert_eq!(messages.next().await.expect("it has no end")?.body(), b"body");
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct MessageStream {
    reader: Reader,
    bell: Doorbell,
    watch: Watch,
    is_over: bool,
}

impl MessageStream {
    /// A stream of what `reader` reads.
    ///
    /// # Errors
    ///
    /// What the system says if there are no descriptors left.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without `enable_io`.
    pub fn new(reader: Reader) -> io::Result<Self> {
        let bell = Doorbell::readable()?;
        Ok(MessageStream {
            watch: Watch::new(bell.as_fd(), TokioInterest::READABLE)?,
            reader,
            bell,
            is_over: false,
        })
    }

    /// The reader, to change its screen, for example.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Gives the reader back. Nothing is lost: it holds everything that was not delivered.
    pub fn into_inner(self) -> Reader {
        self.reader
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Message<'static>, Error>>> {
        self.is_over = !matches!(error, Error::Lagged { .. });
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for MessageStream {
    type Item = Result<Message<'static>, Error>;

    /// Can be dropped while it waits: a message that was taken has been delivered.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        loop {
            match this.reader.pop(Wait::Never) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message.into_owned()))),
                Ok(None) => {}
                Err(error) => return this.fail(error),
            }
            match this.reader.arm_to_read(&mut this.bell) {
                Ok(true) => {}
                Ok(false) => return again(context),
                Err(error) => return this.fail(error),
            }
            if let Err(source) = ready!(this.watch.poll_read(context)) {
                return this.fail(Error::Os {
                    doing: "waiting for a doorbell",
                    queue: "".into(),
                    source,
                });
            }
        }
    }
}

/// A queue's [`Writer`] as a sink of [`Item`]s, each a message: of its kind, or of [`QueueChannel::KIND`].
///
/// It is ready while there is room in the ring; one item that found none in spite of that is kept and goes first. Closing sees it out, and tells the readers nothing:
/// a queue has no end.
///
/// ```
/// use futures_util::SinkExt;
/// use syncq::pump::asynchronous::MessageSink;
/// use syncq::pump::Item;
/// use syncq::{Queue, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let queue = Queue::options().heap()?;
/// let mut reader = queue.reader()?;
/// let mut sink = MessageSink::new(queue.writer("w")?)?;
/// sink.send(Item::from("body").with_kind("kind")).await?;
/// assert_eq!(reader.pop(Wait::Never)?.unwrap().kind(), "kind");
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct MessageSink {
    writer: Writer,
    bell: Doorbell,
    watch: Watch,
    pending: Option<Item>,
}

impl MessageSink {
    /// A sink into what `writer` writes to.
    ///
    /// # Errors
    ///
    /// What the system says if there are no descriptors left.
    ///
    /// # Panics
    ///
    /// As [`MessageStream::new`].
    pub fn new(writer: Writer) -> io::Result<Self> {
        let bell = Doorbell::writable()?;
        Ok(MessageSink {
            watch: Watch::new(bell.as_fd(), TokioInterest::WRITABLE)?,
            writer,
            bell,
            pending: None,
        })
    }

    /// Gives the writer back, and the item that has not found room.
    pub fn into_inner(self) -> (Writer, Option<Item>) {
        (self.writer, self.pending)
    }

    /// Whether it was taken.
    fn append(&mut self, item: &Item) -> Result<bool, ChannelError> {
        let kind = item.kind().unwrap_or(QueueChannel::KIND);
        match self.writer.append(kind, item.bytes(), Wait::Never) {
            Ok(_) => Ok(true),
            Err(Error::Full(_) | Error::Busy { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        while let Some(item) = self.pending.take() {
            // What can never be appended is not kept.
            if self.append(&item)? {
                break;
            }
            let kind = item.kind().unwrap_or(QueueChannel::KIND);
            let armed = self.writer.arm_to_write(&mut self.bell, kind, item.bytes().len());
            self.pending = Some(item);
            if !armed? {
                // There is room, but another writer is in the middle of an append: it must not be waited for here.
                return again(context);
            }
            let waited = ready!(self.watch.poll_write(context));
            waited.map_err(|source| ChannelError::Os {
                doing: "waiting for a doorbell",
                source,
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink<Item> for MessageSink {
    type Error = ChannelError;

    /// Can be dropped while it waits: the item before keeps its place.
    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.get_mut().poll_pending(context)
    }

    /// [`ChannelError::Full`] if it is not ready, and then the item is not taken.
    fn start_send(self: Pin<&mut Self>, item: Item) -> Result<(), ChannelError> {
        let this = self.get_mut();
        if let Some(pending) = &this.pending {
            return Err(ChannelError::Full {
                queued: pending.bytes().len(),
                marks: Marks::up_to(1),
            });
        }
        if !this.append(&item)? {
            this.pending = Some(item);
        }
        Ok(())
    }

    /// Can be dropped while it waits.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.get_mut().poll_pending(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.get_mut().poll_pending(context)
    }
}

/// Any [`Channel`] as [`AsyncRead`] and [`AsyncWrite`].
///
/// A write is taken whole and queued in the channel where the peer does not take it at once; it waits while that queue
/// is [full](Channel::is_full). What is queued goes out with further writes, with [`flush`](AsyncWrite::poll_flush) and, so that both ends may wait for each other's answers,
/// with reads. On a queue each write is a message; borders of messages and lines are not seen by who reads bytes.
///
/// ```
/// use syncq::channel::SocketChannel;
/// use syncq::pump::asynchronous::AsyncChannel;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let (here, there) = SocketChannel::pair()?;
/// let (mut here, mut there) = (AsyncChannel::new(here)?, AsyncChannel::new(there)?);
/// here.write_all(b"hello").await?;
/// here.shutdown().await?;
/// let mut text = String::new();
/// there.read_to_string(&mut text).await?;
/// assert_eq!(text, "hello");
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncChannel {
    channel: Box<dyn Channel>,
    read: Option<Watch>,
    write: Option<Watch>,
    /// Read, and more than the caller had room for: from `at` on.
    left: Vec<u8>,
    at: usize,
    is_over: bool,
}

impl AsyncChannel {
    /// A channel for tokio.
    ///
    /// # Errors
    ///
    /// What the system says if there are no descriptors left.
    ///
    /// # Panics
    ///
    /// As [`MessageStream::new`].
    pub fn new(channel: impl Channel) -> io::Result<Self> {
        Self::of_boxed(Box::new(channel))
    }

    /// As [`new`](AsyncChannel::new).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn of_boxed(channel: Box<dyn Channel>) -> io::Result<Self> {
        let watch = |fd: Option<BorrowedFd<'_>>, interest| fd.map(|fd| Watch::new(fd, interest)).transpose();
        Ok(AsyncChannel {
            read: watch(channel.read_fd(), TokioInterest::READABLE)?,
            write: watch(channel.write_fd(), TokioInterest::WRITABLE)?,
            channel,
            left: Vec::new(),
            at: 0,
            is_over: false,
        })
    }

    /// Gives the channel back, and what was read from it and not delivered.
    pub fn into_inner(mut self) -> (Box<dyn Channel>, Vec<u8>) {
        let unread = self.left.split_off(self.at);
        (self.channel, unread)
    }

    /// Writes what is queued. Ready: nothing is left.
    fn poll_queued(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.channel.try_flush()? {
                // The copy would keep a pipe open whose end the reader waits for.
                if self.channel.write_fd().is_none() {
                    self.write = None;
                }
                return Poll::Ready(Ok(()));
            }
            if !self.channel.arm(Interest::WRITE) {
                return again(context);
            }
            let Some(watch) = &self.write else {
                return Poll::Ready(Err(ChannelError::Closed.into()));
            };
            ready!(watch.poll_write(context))?;
        }
    }
}

impl AsyncRead for AsyncChannel {
    /// Can be dropped while it waits. Errors that [are not final](ChannelError::is_final), such as a line that was too long, are errors here too; reading goes on
    /// with the next call.
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.at < this.left.len() {
                let len = into.remaining().min(this.left.len() - this.at);
                into.put_slice(&this.left[this.at..][..len]);
                this.at += len;
                return Poll::Ready(Ok(()));
            }
            if this.is_over || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.channel.try_read()? {
                Input::Data(bytes) => (this.left, this.at) = (bytes, 0),
                Input::Line(line) => (this.left, this.at) = (line.bytes, 0),
                Input::End => this.is_over = true,
                Input::Pending => {
                    // The peer may wait for it before it answers. That writing is over is for the next write to say.
                    if this.channel.queued() > 0 {
                        let _ = this.poll_queued(context);
                    }
                    if !this.channel.arm(Interest::READ) {
                        return again(context);
                    }
                    let Some(watch) = &this.read else {
                        return Poll::Ready(Err(ChannelError::NotReadable.into()));
                    };
                    ready!(watch.poll_read(context))?;
                }
            }
        }
    }
}

impl AsyncWrite for AsyncChannel {
    /// Can be dropped while it waits: nothing of `bytes` was taken then.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// As one piece: on a queue, one message.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        chunks: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = chunks.iter().map(|chunk| chunk.len()).sum();
        loop {
            match this.channel.enqueue(chunks) {
                Ok(()) => return Poll::Ready(Ok(len)),
                Err(ChannelError::Full { .. }) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if !this.channel.arm(Interest::WRITE) {
                return again(context);
            }
            let Some(watch) = &this.write else {
                return Poll::Ready(Err(ChannelError::NotWritable.into()));
            };
            ready!(watch.poll_write(context))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Can be dropped while it waits.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_queued(context)
    }

    /// Writes no more: what is queued goes out, then the peer sees the end. Can be dropped while it waits, and called again.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.channel.shutdown_write()?;
        this.poll_queued(context)
    }
}
