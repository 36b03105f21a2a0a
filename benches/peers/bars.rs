//! What is claimed: ratios with a limit each, from the figures of one session.

use crate::cases::{self, BATCH, LARGE_RINGS, USUAL_RING};
use crate::results::{Results, Spread, rounded};
use crate::subject::Waiting;
use serde_json::{Value, json};

pub struct Bar {
    pub bar: String,
    /// `None`: what it needs was not measured.
    pub ratio: Option<Spread>,
    pub limit: f64,
    pub is_at_most: bool,
}

/// Aeron's exclusive publication, 64 bytes, on another machine of this class, in million messages a second: its crate does not build here.
const AERON: f64 = 19.3;
pub const SYSCALLS: &str = "system calls a message while both sides are busy, 64 B";
pub const IDLE: &str = "processor time of a reader that waits, for ten seconds";
pub const FIXED: &str = "fixed memory of a default queue";

impl Bar {
    pub fn holds(&self) -> Option<bool> {
        let ratio = self.ratio?.median;
        // Three digits count: the limits have no more.
        let ratio = (ratio * 1000.0).round() / 1000.0;
        Some(if self.is_at_most {
            ratio <= self.limit
        } else {
            ratio >= self.limit
        })
    }

    pub fn to_json(&self) -> Value {
        json!({
            "bar": self.bar,
            "ratio": self.ratio.map(|ratio| rounded(ratio.median)),
            "low": self.ratio.map(|ratio| rounded(ratio.low)),
            "high": self.ratio.map(|ratio| rounded(ratio.high)),
            "limit": self.limit,
            "is": if self.is_at_most { "at most" } else { "at least" },
            "holds": self.holds(),
        })
    }
}

const OURS: &str = "syncq";
const SINGLE: &str = "syncq single_writer";
const IN_PLACE: &str = "syncq in place";

pub fn all(results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut bar = |bar: &str, is_at_most: bool, limit: f64, ratio: Option<Spread>| {
        bars.push(Bar {
            bar: bar.into(),
            ratio,
            limit,
            is_at_most,
        });
    };
    let at_most = true;
    let at_least = false;
    let ratio = |one: (&str, &str), other: (&str, &str)| results.ratio(one, other);

    let spinning = cases::trip(Waiting::Spin, 64);
    let sleeping = cases::trip(Waiting::Sleep, 64);
    let within = |case: &str, one: &str, other: &str| ratio((case, one), (case, other));
    bar(
        "round trip 64 B, spinning, against the bare cache line",
        at_most,
        1.15,
        within(&spinning, OURS, "bare cache line"),
    );
    bar(
        "round trip 64 B, spinning, against iceoryx2",
        at_most,
        0.25,
        within(&spinning, OURS, "iceoryx2"),
    );
    bar(
        "round trip 64 B, sleeping, against a bare futex ping-pong",
        at_most,
        1.2,
        within(&sleeping, OURS, "bare futex"),
    );

    let one_way = cases::one_way(64, USUAL_RING);
    let rtrb = "rtrb (threads)";
    bar(
        "one way 64 B, single_writer, against rtrb between threads",
        at_least,
        1.5,
        within(&one_way, SINGLE, rtrb),
    );
    bar(
        "one way 64 B, ordinary queue, one busy writer, against rtrb between threads",
        at_least,
        1.0,
        within(&one_way, OURS, rtrb),
    );
    for peer in [
        "pipe",
        "Unix socket",
        "iceoryx2",
        "ipc-channel",
        "POSIX mq",
        "shared_memory + raw_sync",
    ] {
        bar(
            &format!("one way 64 B against {peer}"),
            at_least,
            20.0,
            within(&one_way, OURS, peer),
        );
    }
    let against_aeron = results.spread(&one_way, SINGLE).map(|spread| Spread {
        low: spread.low / AERON,
        median: spread.median / AERON,
        high: spread.high / AERON,
    });
    bar(
        "one way 64 B, single_writer, beside 19.3 M/s of Aeron's exclusive publication",
        at_least,
        3.0,
        against_aeron,
    );

    let four = cases::writers(4, 1);
    bar(
        "4 writers to 1 reader, 64 B, against crossbeam with 4 threads",
        at_least,
        1.0,
        within(&four, OURS, "crossbeam (threads)"),
    );
    bar(
        "8 writers against 2 writers",
        at_least,
        0.7,
        ratio((&cases::writers(8, 1), OURS), (&cases::writers(2, 1), OURS)),
    );
    let among = (cases::append_among(64), cases::append_among(1));
    bar(
        "append with 64 joined readers against 1",
        at_most,
        1.2,
        ratio((&among.0, OURS), (&among.1, OURS)),
    );

    let large = |ring| cases::one_way(64 << 10, ring);
    let copied = best_ring(results, OURS, large);
    let memcpy = ("memcpy, 64 MiB", "memcpy");
    bar(
        "one way 64 KiB, copied in and out, best ring, against memcpy of one core",
        at_least,
        0.9,
        ratio((&copied, OURS), memcpy),
    );
    let in_place = best_ring(results, IN_PLACE, large);
    bar(
        "one way 64 KiB, reserve + guard, against the copied one, best ring each",
        at_least,
        1.5,
        ratio((&in_place, IN_PLACE), (&copied, OURS)),
    );
    let made = |ring| cases::made(64 << 10, ring);
    let (copied, in_place) = (best_ring(results, OURS, made), best_ring(results, IN_PLACE, made));
    bar(
        "the same, each message made by its writer and gone over by its reader",
        at_least,
        1.5,
        ratio((&in_place, IN_PLACE), (&copied, OURS)),
    );
    bar(
        "4 writers, batches of 16 × 64 B, against singly",
        at_least,
        3.0,
        ratio((&cases::writers(4, BATCH), OURS), (&four, OURS)),
    );
    let screened = (cases::screened(false, 64), cases::screened(true, 64));
    bar(
        "passing over a screened message against popping it, 64 B",
        at_most,
        0.5,
        ratio((&screened.0, OURS), (&screened.1, OURS)),
    );
    bar(
        "system calls a message while both sides are busy (to three decimals)",
        at_most,
        0.0,
        results.spread(SYSCALLS, OURS),
    );
    bar(
        "processor time of a reader blocked for 10 idle seconds, in ms",
        at_most,
        1.0,
        results.spread(IDLE, OURS),
    );
    bar(
        "fixed memory of a default queue beside its capacity, in KiB",
        at_most,
        64.0,
        results.spread(FIXED, OURS),
    );
    bars
}

/// The case of 64 KiB whose ring suits this subject best.
fn best_ring(results: &Results, subject: &str, case: impl Fn(usize) -> String) -> String {
    let median = |case: &String| results.spread(case, subject).map_or(0.0, |spread| spread.median);
    let cases = LARGE_RINGS.map(case);
    cases
        .into_iter()
        .max_by(|one, other| median(one).total_cmp(&median(other)))
        .expect("four rings")
}
