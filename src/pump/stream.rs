//! The two sides of a pump: what items come from, and what they go into.
//!
//! Not here: who calls the handlers. Streams over channels are driven by an [`EventLoop`](super::EventLoop).

use super::{Item, StreamError};
use std::any::Any;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// Is given each item.
pub type DataHandler = Box<dyn FnMut(Item)>;
/// Is told that a stream has ended.
pub type EndHandler = Box<dyn FnMut()>;
/// Is given what goes wrong.
pub type ExceptionHandler = Box<dyn FnMut(StreamError)>;
/// Is told, once, that something is done, or why it never will be.
pub type Done = Box<dyn FnOnce(Result<(), StreamError>)>;
/// Is told of a sink's failure, if it is still there.
pub type FailureHandler = Weak<dyn Fn(StreamError)>;

/// What items come from.
///
/// # For who implements it
///
/// * While it is paused, and while there is no data handler, nothing is delivered: no item, no end, no error. Nothing is lost by
///   that; what would have been delivered is kept, or better, not read.
/// * Handlers may call any method of the stream, [`data_handler`](ReadStream::data_handler) included, and are not called while
///   one of them runs.
/// * Everything before the end, or before a final error, is delivered before it. That is told once.
/// * [`resume`](ReadStream::resume) delivers nothing by itself; or if it does, the stream must not mind being paused again meanwhile.
pub trait ReadStream: Any {
    /// Who gets the items. [`None`]: nobody, and nothing is read.
    fn data_handler(&self, handler: Option<DataHandler>);
    /// Who is told of the end.
    fn end_handler(&self, handler: Option<EndHandler>);
    /// Who is told of errors. If the error [is final](StreamError::is_final), nothing comes after it.
    fn exception_handler(&self, handler: Option<ExceptionHandler>);
    /// No more items for now. Does nothing the second time.
    fn pause(&self);
    /// Items again. Does nothing if the stream is not paused.
    fn resume(&self);
}

/// What items go into.
///
/// # For who implements it
///
/// * The queue counts as full from its size on, and no longer when it is down to half of it. Between the two it stays what it was.
/// * A drain handler that comes when the queue is not full is called soon, all the same: whoever saw it full may be late.
/// * When the sink fails, everybody who waits is told: drain handlers, failure handlers and who waits for the end.
pub trait WriteStream: Any {
    /// Takes the item, also if the queue is [full](WriteStream::write_queue_full): who does not look writes into memory.
    ///
    /// # Errors
    ///
    /// The sink has failed or ended. The item is not taken.
    fn write(&self, item: Item) -> Result<(), StreamError>;

    /// Whether one should wait before the next write.
    fn write_queue_full(&self) -> bool;

    /// From how many bytes on the queue counts as full (a sink of your own may count items). 0 counts as 1.
    fn set_write_queue_max_size(&self, max: usize);

    /// Who is told, once, that the queue is no longer full. Any number may wait. They are told in the order in which they came, one after the
    /// other while there is room: whoever comes first may fill it, and the others keep their places.
    fn drain_handler(&self, handler: Done);

    /// Who is told that writing failed. One; for several see [`failure_handler`](WriteStream::failure_handler).
    fn exception_handler(&self, handler: Option<ExceptionHandler>);

    /// Who else is told that writing failed.
    ///
    /// A sink that several pumps go into implements this for any number. As it is, it takes the exception handler's place.
    fn failure_handler(&self, handler: FailureHandler) {
        self.exception_handler(Some(Box::new(move |error| {
            if let Some(handler) = handler.upgrade() {
                handler(error);
            }
        })));
    }

    /// Takes no more; `done` is told when all is written and the peer can see the end, or why it never will be.
    fn end(&self, done: Done);
}

/// A place for one handler, which may be replaced while it runs.
pub(super) struct Slot<F: ?Sized>(RefCell<Option<Rc<RefCell<Box<F>>>>>);

impl<F: ?Sized> Default for Slot<F> {
    fn default() -> Self {
        Slot(RefCell::new(None))
    }
}

impl<F: ?Sized> Slot<F> {
    pub(super) fn set(&self, handler: Option<Box<F>>) {
        // What is dropped may have a drop of its own that comes back here.
        let _old = self.0.replace(handler.map(|handler| Rc::new(RefCell::new(handler))));
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Calls the handler, if there is one that is not running already.
    pub(super) fn call(&self, with: impl FnOnce(&mut F)) -> bool {
        let Some(handler) = self.0.borrow().clone() else {
            return false;
        };
        let Ok(mut handler) = handler.try_borrow_mut() else {
            return false;
        };
        with(&mut handler);
        true
    }
}

impl<F: ?Sized> std::fmt::Debug for Slot<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_set() { "handler" } else { "none" })
    }
}
