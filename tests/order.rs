//! One order: every reader sees everything that was appended while it was joined, once, in one order common to all.

mod support;

use std::io::Write;
use std::time::Duration;
use support::{Child, SharedWord, forked, named, watchdog};
use syncq::{Queue, Wait};

/// A body that tells who made it, as which, and how long it is, and whose bytes follow from that.
fn body(sender: u32, number: u32, len: usize) -> Vec<u8> {
    let mut body = vec![0; len];
    for (at, byte) in body.iter_mut().enumerate() {
        *byte = (sender.wrapping_mul(31) ^ number.wrapping_mul(7) ^ at as u32) as u8;
    }
    for (to, from) in body
        .iter_mut()
        .zip(sender.to_le_bytes().into_iter().chain(number.to_le_bytes()))
    {
        *to = from;
    }
    body
}

/// Deterministic lengths from 0 to `max`.
fn len_of(sender: u32, number: u32, max: u32) -> usize {
    let mixed = (u64::from(sender) << 32 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as u32 % (max + 1)) as usize
}

#[test]
fn eight_members_of_a_small_queue_see_one_order_and_lose_nothing() {
    const MEMBERS: u32 = 8;
    const EACH: u32 = 20_000;
    const MAX: u32 = 8 << 10;
    let _watchdog = watchdog(Duration::from_secs(280));
    let named = named("order", &Queue::options().capacity(64 << 10));
    let folder = support::folder("order");
    let joined = SharedWord::new();
    let child = |me: u32| -> Child {
        let (queue, joined, path) = (named.queue.clone(), &joined, folder.0.join(me.to_string()));
        forked(move || {
            // SAFETY: a plain system call: this test takes longer than a forked child usually may.
            unsafe { nix::libc::alarm(270) };
            let mut member = queue
                .joining()
                .sender(&format!("m{me}"))
                .hear_own(true)
                .member()
                .unwrap();
            joined.raise();
            joined.wait_for(MEMBERS);
            // What this member saw: who and which, in order.
            let mut seen = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
            let mut next_of = [0; MEMBERS as usize];
            let mut next_sequence = None;
            let mut total = 0;
            let mut note = |message: syncq::Message<'_>| {
                let sender: u32 = message.sender()[1..].parse().unwrap();
                let number = next_of[sender as usize];
                next_of[sender as usize] += 1;
                assert_eq!(
                    message.body(),
                    body(sender, number, len_of(sender, number, MAX)),
                    "torn, lost or repeated"
                );
                assert_eq!(next_sequence.unwrap_or(message.sequence()), message.sequence());
                next_sequence = Some(message.sequence() + 1);
                seen.write_all(&[sender as u8]).unwrap();
                total += 1;
            };
            for number in 0..EACH {
                member
                    .append("", &body(me, number, len_of(me, number, MAX)), Wait::Forever)
                    .unwrap();
                while let Some(message) = member.pop(Wait::Never).unwrap() {
                    note(message);
                }
            }
            while let Some(message) = member.pop(Wait::For(Duration::from_secs(2))).unwrap() {
                note(message);
            }
            assert_eq!(total, MEMBERS * EACH);
            seen.flush().unwrap();
            0
        })
    };
    let children: Vec<Child> = (0..MEMBERS).map(child).collect();
    children.into_iter().for_each(Child::must_succeed);
    let orders: Vec<Vec<u8>> = (0..MEMBERS)
        .map(|me| std::fs::read(folder.0.join(me.to_string())).unwrap())
        .collect();
    assert!(
        orders.windows(2).all(|pair| pair[0] == pair[1]),
        "members saw different orders"
    );
    assert_eq!(named.queue.free(), named.queue.capacity() - 64, "all room comes back");
}
