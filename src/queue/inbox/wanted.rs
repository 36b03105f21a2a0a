//! Whether a reader wants to hear a message, asked of its names as seldom as possible. What a screen says of names is
//! [`screen`](crate::queue::screen)'s.

use super::Inbox;
use crate::queue::screen::{Outline, Verdict};
use crate::ring::Ring;
use crate::ring::read::Found;
use crate::ring::record::Origin;

/// Whether a message is wanted, and how to tell another one with the same sender and kind by the words that hold the kind. A member's sender
/// is always the same; and of a kind, the first eight bytes tell all that was looked at.
#[derive(Debug)]
pub(super) struct Judged {
    /// Of the screen that judged.
    edition: u64,
    origin: Origin,
    /// Which byte of the names the first of the two words is at.
    skip: usize,
    /// Which bits of the two are the kind's, and what they are.
    masks: [u64; 2],
    words: [u64; 2],
    is_wanted: bool,
}

impl Judged {
    fn new(edition: u64, ring: &Ring, found: &Found, is_wanted: bool) -> Self {
        let (sender_len, kind_len) = (usize::from(found.origin.sender_len()), found.origin.kind_len());
        let bits: u128 = match kind_len {
            0..8 => !(u128::MAX << (8 * kind_len)),
            _ => u64::MAX.into(),
        };
        let mask = bits << (8 * (sender_len % 8));
        let (skip, masks) = (sender_len & !7, [mask as u64, (mask >> 64) as u64]);
        let [low, high] = ring.name_words(found, skip);
        Judged {
            edition,
            origin: found.origin,
            skip,
            masks,
            words: [low & masks[0], high & masks[1]],
            is_wanted,
        }
    }

    #[inline(always)]
    fn is_of(&self, ring: &Ring, found: &Found) -> bool {
        let [low, high] = ring.name_words(found, self.skip);
        found.origin == self.origin && low & self.masks[0] == self.words[0] && high & self.masks[1] == self.words[1]
    }
}

impl Inbox {
    #[inline(always)]
    pub(super) fn is_wanted(&mut self, found: &Found) -> bool {
        if !self.screen.hears_own()
            && let Some(me) = &self.membership
            && me.origin.is_of_member(found.origin)
        {
            return false;
        }
        if !self.screen.looks_at_names() {
            return true;
        }
        match &self.judged {
            Some(judged) if judged.edition == self.screen.edition() && judged.is_of(&self.ring, found) => {
                judged.is_wanted
            }
            _ => self.names_are_wanted(*found),
        }
    }

    #[inline(never)]
    fn names_are_wanted(&mut self, found: Found) -> bool {
        let found = &found;
        let (sender_len, kind_len) = (found.origin.sender_len().into(), found.origin.kind_len().into());
        let kind = || Outline::new(kind_len, self.ring.name_word(found, sender_len));
        let sender = || Outline::new(sender_len, self.ring.name_word(found, 0));
        let is_wanted = match self.screen.judge(sender, kind) {
            Verdict::Heard => true,
            Verdict::PassedOver => false,
            Verdict::Unclear => return self.whole_names_are_wanted(found),
        };
        // What is being overwritten may be half of one record and half of another.
        if !self.is_racing {
            self.judged = Some(Judged::new(self.screen.edition(), &self.ring, found, is_wanted));
        }
        is_wanted
    }

    #[inline(never)]
    fn whole_names_are_wanted(&self, found: &Found) -> bool {
        // Whatever a record says, its names have no more bytes than this.
        let mut words = [0; 2 * 256 / 8];
        let words = &mut words[..found.body_at as usize / 8];
        self.ring.copy(found, words, self.is_racing);
        let (sender, rest) = bytemuck::cast_slice::<u64, u8>(words).split_at(found.origin.sender_len().into());
        self.screen.passes(sender, &rest[..found.origin.kind_len().into()])
    }
}
