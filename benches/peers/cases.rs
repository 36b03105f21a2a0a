//! What is measured: every case with every subject that can do it, in groups whose members take turns.

use crate::board::Board;
use crate::ours;
use crate::run::{self, Measured, Own, Work};
use crate::subject::{Shape, Subject, Waiting};
use crate::subjects;
use std::time::Duration;

pub const TRIP_SIZES: [usize; 5] = [8, 64, 1 << 10, 8 << 10, 64 << 10];
pub const ONE_WAY_SIZES: [usize; 6] = [8, 64, 1 << 10, 8 << 10, 64 << 10, 1 << 20];
pub const WRITERS: [usize; 4] = [1, 2, 4, 8];
pub const READERS: [usize; 4] = [1, 2, 8, 64];
/// Rings beside the usual one, for 64 bytes and for 64 KiB.
pub const SMALL_RINGS: [usize; 4] = [64 << 10, 1 << 20, 4 << 20, 16 << 20];
pub const LARGE_RINGS: [usize; 4] = [256 << 10, 1 << 20, 4 << 20, 16 << 20];
pub const USUAL_RING: usize = 4 << 20;
pub const BATCH: usize = 16;
/// How long the slow reader works after each message.
pub const SLOW: Duration = Duration::from_micros(2);

/// What runs in turns, so that ratios inside it are of the same minutes.
pub struct Group {
    pub title: &'static str,
    pub entries: Vec<Entry>,
}

pub struct Entry {
    pub case: String,
    pub who: Who,
    pub shape: Shape,
}

pub enum Who {
    Subject(&'static dyn Subject, Work),
    Own(&'static str, Own),
}

/// One number of one run.
pub struct Figure {
    pub case: String,
    pub value: f64,
    pub unit: &'static str,
}

impl Entry {
    pub fn subject(&self) -> &'static str {
        match self.who {
            Who::Subject(subject, _) => subject.name(),
            Who::Own(name, _) => name,
        }
    }

    pub fn run(&self, count: u64, board: &'static Board) -> Result<Measured, String> {
        match self.who {
            Who::Subject(subject, work) => run::subject(subject, work, &self.shape, count, board),
            Who::Own(name, own) => run::own(name, own, &self.shape, count, board),
        }
    }

    /// How many at first, when nothing is known yet.
    pub fn first_count(&self) -> u64 {
        match self.who {
            Who::Subject(_, Work::RoundTrip) => 500,
            Who::Subject(_, Work::Alternate { .. }) => 20_000,
            Who::Subject(_, Work::Stream { .. }) => {
                ((16 << 20) / (self.shape.len + 512)).clamp(64, 10_000) as u64 / self.shape.readers.min(8) as u64
            }
            Who::Own(..) => self.least(),
        }
    }

    /// Fewer say nothing.
    pub fn least(&self) -> u64 {
        match self.who {
            Who::Own("memcpy", _) => 2,
            Who::Own(..) => 5_000,
            Who::Subject(_, Work::RoundTrip) => 100,
            Who::Subject(..) => 64,
        }
    }

    /// What the numbers of a run are.
    pub fn figures(&self, measured: &Measured) -> Vec<Figure> {
        let figure = |tail: &str, value: f64, unit| Figure {
            case: format!("{}{tail}", self.case),
            value,
            unit,
        };
        let values = &measured.values;
        match self.who {
            Who::Own("memcpy", _) => vec![figure("", values[0], "GB/s")],
            Who::Own(..) | Who::Subject(_, Work::Alternate { .. }) => vec![figure("", values[0], "ns")],
            Who::Subject(_, Work::RoundTrip) => vec![
                figure("", values[0], "ns"),
                figure(P99, values[1], "ns"),
                figure(P999, values[2], "ns"),
            ],
            Who::Subject(_, Work::Stream { work }) => {
                let rate = match self.shape.len {
                    ..1024 => figure("", 1e3 / values[0], "M messages/s"),
                    len => figure("", len as f64 / values[0], "GB/s"),
                };
                let busy = figure(BUSY, values[1], "ns a message");
                if work.is_zero() { vec![rate] } else { vec![rate, busy] }
            }
        }
    }
}

pub const P99: &str = ", 99th percentile";
pub const P999: &str = ", 99.9th percentile";
pub const BUSY: &str = ", writer's processor time";

/// Whether `case` is `of`, or one of the further figures of its runs.
pub fn belongs(case: &str, of: &str) -> bool {
    case.strip_prefix(of)
        .is_some_and(|tail| ["", P99, P999, BUSY].contains(&tail))
}

/// `64 B`, `8 KiB`, `1 MiB`.
pub fn bytes(len: usize) -> String {
    match len {
        len if len >= 1 << 20 => format!("{} MiB", len >> 20),
        len if len >= 1 << 10 => format!("{} KiB", len >> 10),
        len => format!("{len} B"),
    }
}

pub fn trip(waiting: Waiting, len: usize) -> String {
    let how = match waiting {
        Waiting::Spin => "spinning",
        Waiting::Sleep => "sleeping",
        Waiting::Usual => "usual wait",
    };
    format!("round trip, {how}, {}", bytes(len))
}

/// With the usual ring the ring is not named.
pub fn one_way(len: usize, ring: usize) -> String {
    match ring == ring_for(len) {
        true => format!("one way, {}", bytes(len)),
        false => format!("one way, {}, ring {}", bytes(len), bytes(ring)),
    }
}

/// The same, each message made and gone over.
pub fn made(len: usize, ring: usize) -> String {
    format!("made and used, {}, ring {}", bytes(len), bytes(ring))
}

pub fn writers(count: usize, batch: usize) -> String {
    let batch = if batch > 1 {
        format!(", batches of {batch}")
    } else {
        String::new()
    };
    format!("{count} to 1, 64 B{batch}")
}

pub fn readers(count: usize) -> String {
    format!("1 to {count}, 64 B")
}

pub fn append_among(readers: usize) -> String {
    format!("append with {readers} joined readers, 64 B")
}

pub fn screened(pops: bool, len: usize) -> String {
    let what = if pops {
        "popping a message"
    } else {
        "passing over a screened message"
    };
    format!("{what}, {}", bytes(len))
}

pub fn alternate(is_full: bool, len: usize) -> String {
    format!(
        "append and pop in one process, {} ring, {}",
        if is_full { "full" } else { "empty" },
        bytes(len)
    )
}

pub fn slow() -> String {
    format!("slow reader ({} µs a message), 64 B", SLOW.as_micros())
}

pub fn ring_for(len: usize) -> usize {
    USUAL_RING.max(8 * len)
}

fn shape(len: usize, waiting: Waiting) -> Shape {
    Shape {
        len,
        waiting,
        writers: 1,
        readers: 1,
        ring: ring_for(len),
        batch: 1,
        is_round_trip: false,
        is_made: false,
    }
}

const STREAM: Work = Work::Stream { work: Duration::ZERO };

/// Everybody who can do it.
fn everybody(case: &str, shape: &Shape, work: Work) -> Vec<Entry> {
    let able = subjects::all()
        .into_iter()
        .filter(|subject| subject.cannot(shape).is_none());
    able.map(|subject| Entry {
        case: case.into(),
        who: Who::Subject(subject, work),
        shape: shape.clone(),
    })
    .collect()
}

/// Those whose name begins so.
fn some(case: &str, shape: &Shape, work: Work, names: &[&str]) -> Vec<Entry> {
    let mut entries = everybody(case, shape, work);
    entries.retain(|entry| names.iter().any(|name| entry.subject().starts_with(name)));
    entries
}

fn own(case: String, name: &'static str, shape: Shape, own: Own) -> Entry {
    Entry {
        case,
        who: Who::Own(name, own),
        shape,
    }
}

pub fn all() -> Vec<Group> {
    let mut groups = Vec::new();
    for waiting in [Waiting::Spin, Waiting::Sleep] {
        for len in TRIP_SIZES {
            let shape = Shape {
                is_round_trip: true,
                ..shape(len, waiting)
            };
            let mut entries = everybody(&trip(waiting, len), &shape, Work::RoundTrip);
            if waiting == Waiting::Sleep && len == 64 {
                let usual = Shape {
                    waiting: Waiting::Usual,
                    ..shape
                };
                entries.extend(some(
                    &trip(usual.waiting, len),
                    &usual,
                    Work::RoundTrip,
                    &["syncq", "crossbeam"],
                ));
            }
            let title = if waiting == Waiting::Spin {
                "round trips, spinning"
            } else {
                "round trips, sleeping"
            };
            groups.push(Group { title, entries });
        }
    }
    for len in ONE_WAY_SIZES {
        let usual = shape(len, Waiting::Spin);
        let mut entries = everybody(&one_way(len, usual.ring), &usual, STREAM);
        let rings = match len {
            64 => &SMALL_RINGS[..],
            65536 => &LARGE_RINGS[..],
            _ => &[],
        };
        for &ring in rings.iter().filter(|&&ring| ring != usual.ring) {
            let shape = Shape { ring, ..usual.clone() };
            entries.extend(some(&one_way(len, ring), &shape, STREAM, &["syncq"]));
        }
        if len == 64 << 10 {
            for ring in LARGE_RINGS {
                let shape = Shape {
                    ring,
                    is_made: true,
                    ..usual.clone()
                };
                entries.extend(some(&made(len, ring), &shape, STREAM, &["syncq"]));
            }
            entries.push(own("memcpy, 64 MiB".into(), "memcpy", usual, ours::memcpy));
        }
        groups.push(Group {
            title: "one way",
            entries,
        });
    }
    groups.push(Group {
        title: "several writers",
        entries: several_writers(),
    });
    groups.push(Group {
        title: "several readers",
        entries: several_readers(),
    });
    let mut entries = Vec::new();
    for len in [64, 1 << 10] {
        let shape = shape(len, Waiting::Usual);
        entries.push(own(screened(true, len), "syncq", shape.clone(), ours::pop_all));
        entries.push(own(screened(false, len), "syncq", shape, ours::pass_over));
    }
    groups.push(Group {
        title: "screened traffic",
        entries,
    });
    let lazy = shape(64, Waiting::Usual);
    let entries = everybody(&slow(), &lazy, Work::Stream { work: SLOW });
    groups.push(Group {
        title: "a slow reader",
        entries,
    });
    let mut entries = Vec::new();
    for is_full in [false, true] {
        let names = ["syncq", "rtrb", "crossbeam"];
        let mut found = some(&alternate(is_full, 64), &lazy, Work::Alternate { is_full }, &names);
        found.retain(|entry| entry.subject() != "syncq in place");
        entries.extend(found);
    }
    groups.push(Group {
        title: "a nearly full ring",
        entries,
    });
    groups
}

fn several_writers() -> Vec<Entry> {
    let mut entries = Vec::new();
    for count in WRITERS {
        let shape = Shape {
            writers: count,
            ..shape(64, Waiting::Usual)
        };
        entries.extend(everybody(&writers(count, 1), &shape, STREAM));
    }
    for count in [1, 4] {
        let shape = Shape {
            writers: count,
            batch: BATCH,
            ..shape(64, Waiting::Usual)
        };
        entries.extend(everybody(&writers(count, BATCH), &shape, STREAM));
    }
    entries
}

fn several_readers() -> Vec<Entry> {
    let mut entries = Vec::new();
    for count in READERS {
        let shape = Shape {
            readers: count,
            ..shape(64, Waiting::Usual)
        };
        // One to one is among the writers.
        if count > 1 {
            entries.extend(everybody(&readers(count), &shape, STREAM));
        }
        entries.push(own(append_among(count), "syncq", shape, ours::append_among_readers));
    }
    entries
}

/// One stream as a user has it: two pinned ends, usual waits.
pub fn one_stream(subject: &'static dyn Subject, len: usize) -> Entry {
    Entry {
        case: one_way(len, ring_for(len)),
        who: Who::Subject(subject, STREAM),
        shape: shape(len, Waiting::Usual),
    }
}
