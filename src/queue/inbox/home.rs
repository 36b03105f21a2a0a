//! Messages brought home: a member whose own unread messages fill the ring takes them out of it into its process, so that it can
//! append, and reads them before those of the ring.

use super::Inbox;
use crate::error::Result;
use crate::queue::info::MemberId;
use crate::queue::message::Message;
use std::borrow::Cow;

impl Inbox {
    /// Takes unread messages out of the ring into this process, because they are in the way of this member's own append.
    /// Whether any went.
    pub(in crate::queue) fn bring_home(&mut self) -> Result<bool> {
        let before = self.position;
        let brought = self.bring_all_home();
        self.take_stock();
        brought.map(|()| self.position != before)
    }

    fn bring_all_home(&mut self) -> Result<()> {
        while self.home_bytes < self.home_limit {
            let Ok(found) = self.look()? else { break };
            let mut words = vec![0; found.words()];
            self.ring.copy(&found, &mut words, false);
            self.check_still_mine()?;
            self.home_bytes += found.end.wrapping_sub(found.position);
            self.home.push_back(Message::new(Cow::Owned(words), found));
            self.move_on(found.end);
            self.go_past(&found);
        }
        Ok(())
    }

    /// Drops what the screen does not let through any more. Whether anything is left.
    pub(super) fn screen_home(&mut self) -> bool {
        while let Some(first) = self.home.front() {
            let is_own = self
                .membership
                .as_ref()
                .is_some_and(|me| MemberId::of(me) == first.member());
            let is_heard = self.screen.hears_own() || !is_own;
            if is_heard && self.screen.passes(first.sender_bytes(), first.kind_bytes()) {
                return true;
            }
            self.home_bytes -= first.size_in_ring();
            self.home.pop_front();
            self.count(|line| &line.screened, 1);
        }
        self.take_stock();
        false
    }

    pub(in crate::queue) fn first_at_home(&self) -> Option<&Message<'static>> {
        self.home.front()
    }

    /// Takes the first message that was brought home.
    pub(in crate::queue) fn next_at_home(&mut self) -> Option<Message<'static>> {
        let message = self.home.pop_front()?;
        self.home_bytes -= message.size_in_ring();
        self.take_stock();
        if let Some(membership) = &self.membership {
            membership.line().cursor.popped.add(1, message.body().len() as u64);
        }
        Some(message)
    }
}
