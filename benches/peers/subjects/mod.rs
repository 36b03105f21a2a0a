//! The list of what is measured. To add a peer: a file here with a `Subject`, and a line in [`all`].

mod crossbeam;
mod iceoryx2;
mod ipc_channel;
mod limits;
mod message_queue;
mod pipe;
mod raw_ring;
mod rtrb;
mod syncq;
mod zeromq;

use crate::subject::Subject;
pub use syncq::options as syncq_options;

/// In the order of the tables.
pub fn all() -> Vec<&'static dyn Subject> {
    vec![
        &limits::OneLine,
        &limits::TwoLines,
        &limits::Futex,
        &syncq::ORDINARY,
        &syncq::SINGLE_WRITER,
        &syncq::IN_PLACE,
        &syncq::FILLED,
        &rtrb::Rtrb,
        &crossbeam::Crossbeam,
        &iceoryx2::Iceoryx2,
        &pipe::PIPE,
        &pipe::SOCKET,
        &message_queue::MessageQueue,
        &ipc_channel::IpcChannel,
        &raw_ring::RawRing,
        &zeromq::ZeroMq,
    ]
}

/// Makes every word of the body of message number `first`: what a writer has to do at least that has not got it from anywhere.
pub fn make(body: &mut [u8], first: u64) {
    let (words, rest) = body.as_chunks_mut::<8>();
    for (word, value) in words.iter_mut().zip(first..) {
        *word = value.to_ne_bytes();
    }
    rest.fill(first as u8);
    std::hint::black_box(body);
}

/// Reads every word of a body where it lies: what a reader that does not copy has to do at least.
pub fn read_all(body: &[u8]) {
    let (words, rest) = body.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(0u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    let sum = rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    std::hint::black_box(sum);
}
