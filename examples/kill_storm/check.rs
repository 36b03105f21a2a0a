//! What a message must look like, and how readers compare what they see.

use super::child::Wall;
use std::collections::HashMap;
use syncq::Message;

/// A message that was found whole.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub writer: u32,
    pub number: u32,
    pub len: usize,
    pub sequence: u64,
}

impl Seen {
    pub fn of(message: &Message<'_>) -> Result<Seen, String> {
        let (writer, number) = parts(message.sender(), message.kind(), message.body())?;
        Ok(Seen {
            writer,
            number,
            len: message.body().len(),
            sequence: message.sequence(),
        })
    }
}

/// Which message it is, if it is whole. The sender tells the writer, the kind which of his it is, and both tell every byte of
/// the body, so that one without a body can be checked too.
pub fn parts(sender: &str, kind: &str, body: &[u8]) -> Result<(u32, u32), String> {
    let number_of = |text: &str, first: char| text.strip_prefix(first).and_then(|n| n.parse().ok());
    let (Some(writer), Some(number)) = (number_of(sender, 'w'), number_of(kind, 'n')) else {
        return Err(format!("a message from nobody: {sender:?} {kind:?}"));
    };
    if !body.iter().copied().eq(bytes_of(writer, number).take(body.len())) {
        return Err(format!(
            "torn: message {number} of writer {writer}, {} bytes",
            body.len()
        ));
    }
    Ok((writer, number))
}

/// The bytes of a message, as many as one wants.
pub fn bytes_of(writer: u32, number: u32) -> impl Iterator<Item = u8> {
    let seed = writer.wrapping_mul(0x85eb_ca6b) ^ number.wrapping_mul(0xc2b2_ae35);
    (0u32..).map(move |at| (seed.rotate_left(at & 31) ^ at) as u8)
}

/// What the parent's reader has seen of each writer.
#[derive(Debug, Default)]
pub struct Expected {
    next: HashMap<u32, u32>,
    pub messages: u64,
    pub bytes: u64,
}

impl Expected {
    /// Takes one more message. Each writer's come without a gap, and none twice.
    pub fn note(&mut self, seen: &Seen) -> Result<(), String> {
        self.messages += 1;
        self.bytes += seen.len as u64;
        let next = self.next.entry(seen.writer).or_default();
        let expected = std::mem::replace(next, seen.number + 1);
        if expected != seen.number {
            let (writer, number) = (seen.writer, seen.number);
            return Err(format!("writer {writer}: message {number} came, {expected} was next"));
        }
        Ok(())
    }

    /// How many came of a writer.
    pub fn of(&self, writer: u32) -> u32 {
        self.next.get(&writer).copied().unwrap_or(0)
    }
}

/// Sequence numbers to a block.
const BLOCK: u64 = 64;

/// One reader's view of the order: a hash of each whole block of sequence numbers, to be compared on the wall.
#[derive(Debug)]
pub struct Order {
    /// `None` until the first block has begun under this reader's eyes.
    block: Option<u64>,
    last: Option<u64>,
    hash: u64,
}

impl Order {
    pub fn new() -> Self {
        Order {
            block: None,
            last: None,
            hash: 0,
        }
    }

    /// Takes one more message, next in this reader's order.
    pub fn note(&mut self, seen: &Seen, wall: &Wall) {
        let block = seen.sequence / BLOCK;
        if let Some(last) = self.last {
            if seen.sequence <= last {
                wall.blame(&format!("sequence number {} after {last}", seen.sequence));
            }
            if last / BLOCK != block {
                if let Some(whole) = self.block {
                    wall.compare(whole, self.hash);
                }
                self.block = Some(block);
                self.hash = 0;
            }
        }
        self.last = Some(seen.sequence);
        for part in [seen.sequence, seen.writer.into(), seen.number.into(), seen.len as u64] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// Some were missed: what is known of this block is worth nothing.
    pub fn interrupt(&mut self) {
        *self = Order::new();
    }
}
