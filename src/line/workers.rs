//! What the parent knows of its workers: who they are, what of their lines is unfinished, and whether they live.
//!
//! Not here: waiting for their messages (`proc.rs`).

use super::buffer::LineBuffer;
use super::error::Result;
use super::frame::{Bytes, Head, kind};
use super::item::{Content, Ending, Line, LineItem, Lost, Origin, Stream};
use super::store::{Label, Lane};
use crate::sys::process::{self, Ended};
use crate::{MemberId, Message, Queue, Role};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

#[derive(Debug)]
pub(crate) struct Workers {
    lines: LineBuffer,
    queue: Queue,
    round: u32,
    known: HashMap<MemberId, Known, BuildHasherDefault<Mix>>,
    /// Mirrors that were given out and not heard of yet.
    expected: HashMap<u32, Weak<()>>,
    /// Children that nothing was heard of yet.
    watched: HashSet<u32>,
    /// Processes that were heard of, among the watched.
    heard: HashSet<u32>,
    /// Members that were there when the round began: what becomes of them is of the past.
    outdated: HashSet<MemberId>,
    /// Items that are ready to be stored.
    ready: Vec<LineItem>,
}

/// Mixes the two small numbers of a [`MemberId`]: it is looked up for every message, and nobody can choose it to do harm.
#[derive(Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u32(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[derive(Debug)]
struct Known {
    origin: Arc<Origin>,
    is_open: bool,
    /// The number that its next item has.
    next: u64,
    /// For each lane with an unfinished line: the number that the line will have.
    begun: HashMap<u32, u64>,
}

/// Who is gone without having closed its mirror.
#[derive(Debug)]
pub(crate) struct Dead {
    member: Option<MemberId>,
    name: String,
    pid: u32,
    ending: Ending,
}

impl Workers {
    pub(crate) fn new(lines: LineBuffer, queue: Queue) -> Self {
        Workers {
            lines,
            queue,
            round: 1,
            known: HashMap::default(),
            expected: HashMap::new(),
            watched: HashSet::new(),
            heard: HashSet::new(),
            outdated: HashSet::new(),
            ready: Vec::new(),
        }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A mirror was given out; `life` tells whether this process still has it.
    pub(crate) fn expect(&mut self, token: u32, life: Weak<()>) {
        self.expected.insert(token, life);
    }

    pub(crate) fn watch(&mut self, pid: u32) {
        if !self.heard.contains(&pid) {
            self.watched.insert(pid);
        }
    }

    /// How many mirrors are in use.
    pub(crate) fn at_work(&self) -> usize {
        self.known.values().filter(|known| known.is_open).count()
    }

    pub(crate) fn are_at_work(&self) -> bool {
        self.at_work() > 0 || !self.watched.is_empty() || self.is_any_expected()
    }

    /// A mirror that was given out and not used can still be used by who has it: this process, or a child that runs.
    fn is_any_expected(&self) -> bool {
        self.expected.values().any(|life| life.strong_count() > 0)
            || (!self.expected.is_empty() && process::has_running_children() != Some(false))
    }

    /// All that came before is of the past.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
        self.outdated = self.queue.members().into_iter().map(|member| member.id).collect();
        self.known.clear();
        self.expected.clear();
        self.watched.clear();
        self.heard.clear();
    }

    /// Takes one message. What cannot be read is counted as one dropped item.
    pub(crate) fn take(&mut self, message: &Message<'_>) -> Result<()> {
        let time = message.timestamp().unwrap_or_else(SystemTime::now);
        let Some((head, body)) = Head::read(message.body()) else {
            return self.drop_unread(message, time);
        };
        if head.round != self.round {
            return Ok(());
        }
        self.expected.remove(&head.token);
        let id = message.member();
        if !self.known.contains_key(&id) {
            let mut body = body;
            let said = (message.kind() == kind::OPEN).then(|| body.u32()).flatten();
            self.get_to_know(id, message.sender(), said);
        }
        let known = self.known.get_mut(&id).expect("just made known");
        known.is_open = true;
        let mut label = Label {
            time,
            origin: Some(known.origin.clone()),
            stream: head.stream,
        };
        let is_read = match message.kind() {
            kind::OPEN => true,
            kind::LINE => return self.take_lines(id, head, body, label),
            kind::PART => return self.take_part(id, head, body, label),
            kind::CLOSE => {
                known.is_open = false;
                let (mirror, next) = (known.origin.mirror, known.next);
                known.begun.clear();
                self.note_gap(id, next, head.seq, &label);
                self.store()?;
                return self.lines.end_lines(|lane| lane.mirror == mirror, true);
            }
            kind::GROUP | kind::RECORD => {
                let (next, mut body) = (known.next, body);
                known.next = head.seq + 1;
                self.note_gap(id, next, head.seq, &label);
                label.stream = Stream::Text;
                let content = match message.kind() {
                    kind::GROUP => body.group().map(Content::Grouped),
                    _ => body.record().map(|record| Content::Record(Box::new(record))),
                };
                let is_read = content.is_some();
                self.ready.extend(content.map(|content| label.item(content)));
                is_read
            }
            _ => false,
        };
        match is_read {
            true => Ok(()),
            false => self.drop_unread(message, time),
        }
    }

    fn take_lines(&mut self, id: MemberId, head: Head, mut body: Bytes<'_>, label: Label) -> Result<()> {
        let known = self.known.get_mut(&id).expect("known");
        let (mirror, next) = (known.origin.mirror, known.next);
        let begun = known.begun.remove(&head.lane);
        self.note_gap(id, next, head.seq, &label);
        let mut count = 0;
        if let Some(seq) = begun {
            let lane = Lane {
                mirror,
                lane: head.lane.into(),
            };
            self.store()?;
            if seq == head.seq {
                if let Some((piece, cut)) = body.line() {
                    self.lines.put_to_line(lane, &label, piece, cut)?;
                    count = 1;
                }
                self.lines.end_lines(|begun| begun == lane, false)?;
            } else {
                // The rest of that line was dropped.
                self.lines.end_lines(|begun| begun == lane, true)?;
            }
        }
        while let Some((line, cut)) = body.line() {
            let line = Line::cut_by(line.to_vec(), cut, false);
            self.ready.push(label.item(Content::Line(line)));
            count += 1;
            // Little by little: what is rotated out again is still warm then.
            if self.ready.len() >= 64 {
                self.store()?;
            }
        }
        self.known.get_mut(&id).expect("known").next = head.seq.wrapping_add(count);
        Ok(())
    }

    fn take_part(&mut self, id: MemberId, head: Head, body: Bytes<'_>, label: Label) -> Result<()> {
        let known = self.known.get_mut(&id).expect("known");
        let lane = Lane {
            mirror: known.origin.mirror,
            lane: head.lane.into(),
        };
        let before = known.begun.insert(head.lane, head.seq);
        self.store()?;
        if before.is_some_and(|before| before != head.seq) {
            self.lines.end_lines(|begun| begun == lane, true)?;
        }
        self.lines.put_to_line(lane, &label, body.0, 0)
    }

    fn get_to_know(&mut self, id: MemberId, name: &str, said: Option<u32>) {
        let pid = said.unwrap_or_else(|| {
            let member = self.queue.members().into_iter().find(|member| member.id == id);
            member.map_or(0, |member| member.pid)
        });
        self.watched.remove(&pid);
        self.heard.insert(pid);
        self.known.insert(
            id,
            Known {
                origin: self.lines.new_origin(name, pid),
                is_open: true,
                next: 0,
                begun: HashMap::new(),
            },
        );
    }

    /// Numbers that are missing are items that the mirror had to drop.
    fn note_gap(&mut self, id: MemberId, next: u64, seq: u64, label: &Label) {
        if seq > next {
            self.ready.push(label.item(Content::Dropped(seq - next)));
            if let Some(known) = self.known.get_mut(&id) {
                known.next = seq;
            }
        }
    }

    fn drop_unread(&mut self, message: &Message<'_>, time: SystemTime) -> Result<()> {
        let origin = self.known.get(&message.member()).map(|known| known.origin.clone());
        let label = Label {
            time,
            origin,
            stream: Stream::Text,
        };
        self.ready.push(label.item(Content::Dropped(1)));
        Ok(())
    }

    /// Stores what is ready.
    pub(crate) fn store(&mut self) -> Result<()> {
        match self.ready.is_empty() {
            true => Ok(()),
            false => self.lines.store_all(&mut self.ready),
        }
    }

    /// Who is gone without having said so. What they have sent may still be on its way.
    pub(crate) fn find_lost(&mut self) -> Vec<Dead> {
        let members = self.queue.members();
        let mut dead: Vec<Dead> = Vec::new();
        for member in &members {
            let is_done = self.known.get(&member.id).is_some_and(|known| !known.is_open);
            if member.role == Some(Role::Writer) && !member.is_alive {
                // Also who has closed is buried, but not mourned.
                let ending = if is_done { Ending::Exited(0) } else { ending(member.pid) };
                dead.push(Dead {
                    member: Some(member.id),
                    name: member.name.clone(),
                    pid: member.pid,
                    ending,
                });
            }
        }
        // Buried by others, or left: with nothing more to come.
        let is_there = |id: &MemberId| members.iter().any(|member| member.id == *id);
        for (id, known) in self.known.iter().filter(|(id, known)| known.is_open && !is_there(id)) {
            dead.push(Dead {
                member: Some(*id),
                name: known.origin.name.clone(),
                pid: known.origin.pid,
                ending: ending(known.origin.pid),
            });
        }
        for &pid in &self.watched {
            if !process::runs(pid) {
                dead.push(Dead {
                    member: None,
                    name: String::new(),
                    pid,
                    ending: ending(pid),
                });
            }
        }
        dead
    }

    /// Stores the unfinished lines of the dead, and a note for each.
    pub(crate) fn bury(&mut self, dead: Vec<Dead>) -> Result<()> {
        self.store()?;
        for dead in dead {
            if dead.member.is_none() && !self.watched.remove(&dead.pid) {
                // Heard of meanwhile: it is known by its member now.
                continue;
            }
            let known = dead.member.and_then(|id| self.known.get_mut(&id));
            let (origin, is_lost) = match known {
                Some(known) => (known.origin.clone(), std::mem::take(&mut known.is_open)),
                None => {
                    self.watched.remove(&dead.pid);
                    // A child that ended well and had nothing to say is no loss.
                    let is_lost = match dead.member {
                        Some(id) => !self.outdated.contains(&id),
                        None => dead.ending != Ending::Exited(0),
                    };
                    (self.lines.new_origin(&dead.name, dead.pid), is_lost)
                }
            };
            if is_lost {
                let mirror = origin.mirror;
                self.lines.end_lines(|lane| lane.mirror == mirror, true)?;
                let label = Label::now(Some(origin), Stream::Text);
                self.lines
                    .push(label.item(Content::Lost(Lost { ending: dead.ending })))?;
            }
            if let Some(id) = dead.member {
                self.known.remove(&id);
                self.queue.reap(dead.pid);
            }
        }
        // A closed mirror is forgotten when its member has left.
        let members: HashSet<MemberId> = self.queue.members().into_iter().map(|member| member.id).collect();
        self.known.retain(|id, known| known.is_open || members.contains(id));
        Ok(())
    }
}

fn ending(pid: u32) -> Ending {
    match process::how_child_ended(pid) {
        Some(Ended::Exited(code)) => Ending::Exited(code),
        Some(Ended::Killed(signal)) => Ending::Killed(signal),
        None => Ending::Unknown,
    }
}
