//! The iterators over an inbox's messages.

use super::Inbox;
use crate::error::{Error, Result};
use crate::queue::message::Message;
use crate::wait::Wait;

/// Iterator over the messages that are there now; see [`Reader::drain`](crate::Reader::drain).
///
/// An error ends it, since it would come again with every further call; but after [`Error::Lagged`] it goes on.
#[derive(Debug)]
pub struct Drain<'i>(Messages<'i>);

impl<'i> Drain<'i> {
    pub(in crate::queue) fn new(inbox: &'i mut Inbox) -> Self {
        Drain(Messages::new(inbox, Wait::Never))
    }
}

impl Iterator for Drain<'_> {
    type Item = Result<Message<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Iterator that waits for messages; see [`Reader::messages`](crate::Reader::messages).
///
/// An error ends it, since it would come again with every further call; but after [`Error::Lagged`] it goes on.
#[derive(Debug)]
pub struct Messages<'i> {
    inbox: &'i mut Inbox,
    wait: Wait,
    has_failed: bool,
}

impl<'i> Messages<'i> {
    pub(in crate::queue) fn new(inbox: &'i mut Inbox, wait: Wait) -> Self {
        Messages {
            inbox,
            wait,
            has_failed: false,
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let popped = self.inbox.pop(self.wait);
        self.has_failed = !matches!(popped, Ok(_) | Err(Error::Lagged { .. }));
        popped.map(|message| message.map(Message::into_owned)).transpose()
    }
}
