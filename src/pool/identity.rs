//! Identities: the 16 bytes that name a node or a conversation, and where new ones come from.
//!
//! Not here: who keeps or changes an identity on its way. That is the node's.

use crate::sys::fork;
use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// 16 bytes that name a node, or a message and everything that answers it.
///
/// A message's identity is made with the message; its answer and its acknowledgement carry the same one. A node's identity is
/// made when the node starts, unless it is [configured](super::Config::identity), and is seen by others as the message's remote
/// identity: it changes when the node is started anew.
///
/// They come from the operating system's random numbers, so that nobody can guess the identity that an answer must have.
///
/// ```
/// use syncq::pool::Identity;
///
/// let identity = Identity::random();
/// assert!(!identity.is_zero());
/// assert_ne!(identity, Identity::random());
/// assert_eq!(Identity::from([0xab; 16]).to_string(), "ab".repeat(16));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Identity([u8; 16]);

/// Identities taken from the system at once: a system call fills at most 256 bytes without being interrupted.
const BATCH: usize = 16;

struct Stock {
    /// The process that they were made in: a forked child must not give away what its parent gives away as well.
    generation: u64,
    left: Vec<Identity>,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { generation: 0, left: Vec::new() }) };
}

impl Identity {
    /// No identity: what a message has as remote identity before it was received.
    pub const ZERO: Identity = Identity([0; 16]);

    /// A new one, of random bytes from the operating system. Never zero.
    pub fn random() -> Self {
        // A thread that is being torn down has no thread-locals left.
        STOCK
            .try_with(|stock| {
                let mut stock = stock.borrow_mut();
                let generation = fork::generation();
                if stock.generation != generation {
                    stock.generation = generation;
                    stock.left.clear();
                }
                loop {
                    match stock.left.pop() {
                        Some(identity) if !identity.is_zero() => return identity,
                        Some(_) => {}
                        None => stock.left.extend(fresh()),
                    }
                }
            })
            .unwrap_or_else(|_| fresh()[0])
    }

    /// Whether it is [`ZERO`](Identity::ZERO).
    pub fn is_zero(&self) -> bool {
        *self == Identity::ZERO
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

fn fresh() -> [Identity; BATCH] {
    let mut bytes = [0; BATCH * 16];
    if rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) != Ok(BATCH * 16) {
        // Only where the call is forbidden (a filter of system calls). The standard library has keys of its own way to the system's
        // random numbers; each word here is a keyed hash of its index.
        let keys = RandomState::new();
        for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&keys.hash_one(index).to_ne_bytes());
        }
    }
    let mut identities = [Identity::ZERO; BATCH];
    for (identity, bytes) in identities.iter_mut().zip(bytes.chunks_exact(16)) {
        identity.0.copy_from_slice(bytes);
    }
    identities
}

impl From<[u8; 16]> for Identity {
    fn from(bytes: [u8; 16]) -> Self {
        Identity(bytes)
    }
}

impl From<Identity> for [u8; 16] {
    fn from(identity: Identity) -> Self {
        identity.0
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_alike_and_every_bit_is_used() {
        let many: HashSet<Identity> = (0..100_000).map(|_| Identity::random()).collect();
        assert_eq!(many.len(), 100_000);
        let mut ones = [0u8; 16];
        let mut zeros = [0u8; 16];
        for identity in &many {
            for (at, byte) in identity.as_bytes().iter().enumerate() {
                ones[at] |= byte;
                zeros[at] |= !byte;
            }
        }
        assert_eq!((ones, zeros), ([0xff; 16], [0xff; 16]));
    }

    #[test]
    fn threads_have_different_ones() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..100).map(|_| Identity::random()).collect::<Vec<_>>()))
            .collect();
        let all: HashSet<Identity> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(all.len(), 400);
    }

    #[cfg(not(miri))]
    #[test]
    fn a_forked_child_does_not_go_on_with_its_parents_stock() {
        // So that there is a stock to inherit.
        let _ = Identity::random();
        let (mut from, to) = std::io::pipe().unwrap();
        // SAFETY: the child only draws identities, writes to a pipe and leaves by `_exit`.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                use std::io::Write;
                let mut to = to;
                for _ in 0..BATCH {
                    let _ = to.write_all(Identity::random().as_bytes());
                }
                // SAFETY: plain system call.
                unsafe { nix::libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                drop(to);
                let mut theirs = Vec::new();
                std::io::Read::read_to_end(&mut from, &mut theirs).unwrap();
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
                assert_eq!(theirs.len(), BATCH * 16);
                let mine: HashSet<[u8; 16]> = (0..BATCH).map(|_| Identity::random().into()).collect();
                assert!(theirs.chunks(16).all(|identity| !mine.contains(identity)));
            }
        }
    }
}
