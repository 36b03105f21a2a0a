//! The reading half of a queue's channel: messages become data, lines of several members, and ends.

use crate::channel::{Buffering, ChannelError, Input, Line, LineSplitter};
use crate::{Error, MemberId, Message};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) buffering: Buffering,
    /// What each member has begun and not ended.
    pub(super) open: Vec<(MemberId, LineSplitter)>,
    pub(super) ready: VecDeque<Result<Line, ChannelError>>,
    /// Came up while looking whether there is something.
    pub(super) failed: Option<Error>,
    pub(super) writers: u32,
    pub(super) ends: u32,
    pub(super) is_over: bool,
    pub(super) is_told: bool,
    /// The last look found a message: there may be another.
    pub(super) may_have_more: bool,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Inbound {
            buffering: Buffering::Bytes,
            open: Vec::new(),
            ready: VecDeque::new(),
            failed: None,
            writers: 1,
            ends: 0,
            is_over: false,
            is_told: false,
            may_have_more: true,
        }
    }

    /// What a message comes to. `None`: nothing yet.
    pub(super) fn take(&mut self, message: &Message<'_>, end_kind: Option<&str>) -> Option<Input> {
        if end_kind.is_some_and(|end| message.kind() == end) {
            self.end_lines_of(message.member());
            self.ends += 1;
            if self.ends >= self.writers {
                self.end();
            }
            return None;
        }
        let Buffering::Lines(options) = self.buffering else {
            return Some(Input::Data(message.body().to_vec()));
        };
        let who = message.member();
        let at = self.open.iter().position(|(member, _)| *member == who);
        let at = at.unwrap_or_else(|| {
            self.open.push((who, LineSplitter::new(options)));
            self.open.len() - 1
        });
        let lines = &mut self.open[at].1;
        lines.push(message.body());
        while let Some(line) = lines.next_line() {
            self.ready.push_back(line);
        }
        if lines.is_idle() {
            self.open.swap_remove(at);
        }
        None
    }

    pub(super) fn end_lines_of(&mut self, member: MemberId) {
        if let Some(at) = self.open.iter().position(|(who, _)| *who == member) {
            let rest = self.open.swap_remove(at).1.rest();
            self.ready.extend(rest.map(Ok));
        }
    }

    /// Nothing more comes: what was begun is all there will be.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        for (_, mut lines) in std::mem::take(&mut self.open) {
            self.ready.extend(lines.rest().map(Ok));
        }
    }

    /// What was begun goes on in the new way, member by member.
    pub(super) fn set_buffering(&mut self, buffering: Buffering) {
        self.buffering = buffering;
        for (_, lines) in &mut self.open {
            let begun = std::mem::replace(lines, LineSplitter::new(Default::default())).into_rest();
            match buffering {
                Buffering::Lines(options) => {
                    *lines = LineSplitter::new(options);
                    lines.push(&begun);
                    while let Some(line) = lines.next_line() {
                        self.ready.push_back(line);
                    }
                }
                Buffering::Bytes => self.ready.push_back(Ok(Line {
                    bytes: begun,
                    is_complete: false,
                })),
            }
        }
        if buffering == Buffering::Bytes {
            self.open.clear();
        }
    }

    pub(super) fn take_unread(&mut self) -> Vec<Vec<u8>> {
        let ready = std::mem::take(&mut self.ready).into_iter().flatten();
        let open = std::mem::take(&mut self.open).into_iter();
        ready
            .map(|line| line.bytes)
            .chain(open.map(|(_, lines)| lines.into_rest()))
            .collect()
    }
}
