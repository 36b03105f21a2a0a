//! Sender and kind as they stand in the records of one member: put together once for a kind, copied for each message of it.

use super::Ring;
use super::record::{self, Origin};
use crate::segment::copy::{Spot, partial_word};
use crate::segment::layout::{MAX_KIND, MAX_SENDER};
use crate::sys::atomic::Ordering;

/// Words that the longest names take.
const WORDS: usize = (MAX_SENDER + MAX_KIND).div_ceil(8);
/// Words that the longest kind takes, and what is left of one.
const KIND_WORDS: usize = MAX_KIND / 8 + 1;

/// The sender of a member, and the kind that it used last. Only the member itself uses it, so nothing here orders anything.
#[derive(Debug)]
pub(super) struct Names {
    /// Little-endian in memory: the sender, the kind without a gap behind it, and zeros.
    words: [Local; WORDS],
    sender_len: usize,
    kind_len: Local,
    /// What follows from these, for every message: a [`Shape`].
    shape: Local,
    origin: Local,
    /// The kind by itself, to compare with; zeros behind it.
    kind: [Local; KIND_WORDS],
}

type Local = std::sync::atomic::AtomicU64;

/// What all records with the same names have in common, in one word.
///
/// | bits | holds |
/// |---|---|
/// | 0..32 | the wake-up bits that a message of this kind rings for, as they were when it was learned. (A kind that had no bit of its own then may have one now. Who sleeps with that bit also has the one that the kind shared before.) |
/// | 32..48 | where the body begins |
/// | 48..64 | how many words sender and kind take |
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape(u64);

impl Shape {
    fn new(names_len: u64, bits: u32) -> Self {
        Shape(u64::from(bits) | record::body_offset(names_len) << 32 | names_len.div_ceil(8) << 48)
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) fn body_offset(self) -> u64 {
        u64::from((self.0 >> 32) as u16)
    }

    #[inline(always)]
    fn words(self) -> usize {
        (self.0 >> 48) as usize
    }
}

impl Names {
    /// Those of a member's records without a kind, which have this origin and ring for these bits.
    pub(super) fn new(sender: &str, origin: Origin, bits: u32) -> Self {
        let mut words = [0u64; WORDS];
        for (word, bytes) in words.iter_mut().zip(sender.as_bytes().chunks(8)) {
            *word = word_of(bytes).to_le();
        }
        Names {
            words: words.map(Local::new),
            sender_len: sender.len(),
            kind_len: Local::new(0),
            shape: Local::new(Shape::new(sender.len() as u64, bits).0),
            origin: Local::new(origin.bits()),
            kind: [0; KIND_WORDS].map(Local::new),
        }
    }

    /// Has them be those of a message of `kind`. `false`: a kind cannot be that long, and nothing was changed.
    #[inline(always)]
    pub(super) fn become_of(&self, kind: &[u8], ring: &Ring) -> bool {
        // Most of those who care for nanoseconds have no kinds.
        kind.is_empty() && self.kind_len() == 0 || self.become_of_another(kind, ring)
    }

    #[inline(never)]
    fn become_of_another(&self, kind: &[u8], ring: &Ring) -> bool {
        self.are_of(kind) || self.learn(kind, |kind| ring.bits_of_kind(kind))
    }

    fn are_of(&self, kind: &[u8]) -> bool {
        if self.kind_len() != kind.len() as u64 {
            return false;
        }
        let (words, rest) = kind.as_chunks::<8>();
        let is_same = |(word, known): (&[u8; 8], &Local)| u64::from_le_bytes(*word) == known.load(Ordering::Relaxed);
        words.iter().zip(&self.kind).all(is_same)
            && (rest.is_empty() || self.kind[words.len()].load(Ordering::Relaxed) == partial_word(rest))
    }

    #[cold]
    fn learn(&self, kind: &[u8], bits: impl Fn(&[u8]) -> u32) -> bool {
        if kind.len() > MAX_KIND {
            return false;
        }
        // The sender's last word, if it is not a whole one, is also the kind's first.
        let (whole, begun) = (self.sender_len / 8, 8 * (self.sender_len % 8) as u32);
        let mut carried = match begun {
            0 => 0,
            _ => u64::from_le(self.words[whole].load(Ordering::Relaxed)) & !(u64::MAX << begun),
        };
        let pieces = kind.chunks(8).map(word_of).chain([0]);
        for (piece, known) in pieces.clone().zip(&self.kind) {
            known.store(piece, Ordering::Relaxed);
        }
        for (piece, word) in pieces.zip(&self.words[whole..]) {
            word.store((carried | piece << begun).to_le(), Ordering::Relaxed);
            carried = (piece >> 1) >> (63 - begun);
        }
        self.kind_len.store(kind.len() as u64, Ordering::Relaxed);
        let shape = Shape::new(self.len_with(kind.len()), bits(kind));
        self.shape.store(shape.0, Ordering::Relaxed);
        self.origin
            .store(self.origin().with_kind(kind.len() as u8).bits(), Ordering::Relaxed);
        true
    }

    #[inline(always)]
    fn kind_len(&self) -> u64 {
        self.kind_len.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn shape(&self) -> Shape {
        Shape(self.shape.load(Ordering::Relaxed))
    }

    /// The origin of a record with these.
    #[inline(always)]
    pub(super) fn origin(&self) -> Origin {
        Origin::from_bits(self.origin.load(Ordering::Relaxed))
    }

    /// Bytes of the sender, and of a kind of `kind_len`.
    #[inline(always)]
    pub(super) fn len_with(&self, kind_len: usize) -> u64 {
        (self.sender_len + kind_len) as u64
    }

    /// Writes them into a record. `shape`: theirs.
    #[inline(always)]
    pub(super) fn write(&self, spot: Spot<'_>, shape: Shape) {
        if shape.words() == 0 {
            return;
        }
        let words = self.words.get(..shape.words()).unwrap_or(&self.words);
        // SAFETY: only the member itself changes them, and it is here.
        unsafe { spot.put_names(words) };
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or_else(|| partial_word(bytes), |whole| u64::from_le_bytes(*whole))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bytes(names: &Names) -> Vec<u8> {
        let len = names.len_with(names.kind_len() as usize) as usize;
        let words = names
            .words
            .iter()
            .map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let mut all = words.flatten().collect::<Vec<u8>>();
        assert!(all[len..len.next_multiple_of(8)].iter().all(|byte| *byte == 0));
        all.truncate(len);
        all
    }

    #[test]
    fn names_stand_behind_each_other_whatever_their_lengths_and_the_kind_before() {
        let sender: String = ('a'..='z').cycle().take(MAX_SENDER).collect();
        let kind: Vec<u8> = (b'A'..=b'Z').cycle().take(MAX_KIND).collect();
        let lens = [0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 100, 248, 254, 255];
        // Miri takes a minute for what else takes a millisecond.
        let sender_lens: &[usize] = match cfg!(miri) {
            true => &[0, 3, 64],
            false => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 63, 64],
        };
        for &sender_len in sender_lens {
            let sender = &sender[..sender_len];
            let names = Names::new(sender, Origin::new(5, 7, sender_len as u8), 1);
            for len in lens.into_iter().chain(lens.into_iter().rev()) {
                for first in [b'!', b'?'] {
                    let mut kind = kind[..len].to_vec();
                    kind.iter_mut().take(1).for_each(|byte| *byte = first);
                    assert!(names.are_of(&kind) || names.learn(&kind, |_| 2));
                    assert!(names.are_of(&kind));
                    assert_eq!(bytes(&names), [sender.as_bytes(), &kind].concat());
                    assert_eq!(names.origin(), Origin::new(5, 7, sender_len as u8).with_kind(len as u8));
                    assert_eq!(
                        names.shape().body_offset(),
                        record::body_offset((sender_len + len) as u64)
                    );
                    kind.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                    assert_eq!(names.are_of(&kind), len == 0);
                }
            }
        }
    }

    #[test]
    fn a_kind_that_is_too_long_changes_nothing() {
        let names = Names::new("worker", Origin::new(5, 7, 6), 1);
        assert!(names.learn(b"log", |_| 2));
        assert!(!names.learn(&[b'x'; MAX_KIND + 1], |_| 4));
        assert_eq!(names.shape().bits(), 2);
        assert!(names.are_of(b"log"));
        assert_eq!(bytes(&names), b"workerlog");
    }
}
