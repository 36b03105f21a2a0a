//! One run: the ends of one subject in processes (or threads) of their own, under a watchdog, once.

use crate::board::{Board, ENDS};
use crate::clock;
use crate::process::{await_group, ended_well, forked};
use crate::subject::{AnyLink, Both, Place, Shape, Subject, Waiting};
use nix::sys::wait::{WaitStatus, wait};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the ends do.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// One end sends and waits for the answer.
    RoundTrip,
    /// Writers send as fast as they can; each reader works so long after each message.
    Stream { work: Duration },
    /// One process appends one and takes one, alone, in an empty or in a full ring.
    Alternate { is_full: bool },
}

/// What a run measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// As the unit of the work says: see [`figures`](crate::cases::Entry::figures).
    pub values: Vec<f64>,
    /// Time of one trip or message over the whole measured part, in nanoseconds: for how many to do next time.
    pub each: f64,
    /// Time that grows with the count: what was measured, and the warm-up.
    pub elapsed: Duration,
}

/// A measurement of our own that fits no [`Work`]: gets the board and how many, leaves `values` and nanoseconds in `results`.
pub type Own = fn(&Shape, &Board, u64);

/// Whether the ends mark their measured part for who counts system calls.
pub static MARKS: AtomicBool = AtomicBool::new(false);

/// How all names begin that a run of this process may leave behind.
pub fn prefix() -> String {
    format!("syncq_peers_{}_", std::process::id())
}

/// Removes what dead or failed runs left: of this process if `mine`, else of processes that are no more.
pub fn sweep(mine: bool) {
    for folder in [std::path::PathBuf::from("/dev/shm"), std::env::temp_dir()] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            // Some put words of their own before it.
            let Some((_, rest)) = name.to_str().and_then(|name| name.split_once("syncq_peers_")) else {
                continue;
            };
            let pid = rest.split('_').next().unwrap_or("");
            let is_mine = pid == std::process::id().to_string();
            let is_dead = !std::path::Path::new("/proc").join(pid).exists();
            if if mine { is_mine } else { is_dead } {
                let path = entry.path();
                let _ = if path.is_dir() {
                    std::fs::remove_dir_all(path)
                } else {
                    std::fs::remove_file(path)
                };
            }
        }
    }
}

/// Runs one subject once, for `count` trips or messages.
pub fn subject(
    subject: &dyn Subject,
    work: Work,
    shape: &Shape,
    count: u64,
    board: &'static Board,
) -> Result<Measured, String> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    board.clear();
    let name = format!("{}{}", prefix(), RUNS.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(&name);
    std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let count = Count::new(work, shape, count);
    let leader = forked(true, || {
        let folder = folder.to_str().expect("a path of text");
        let link = subject
            .open(shape, &name, folder)
            .unwrap_or_else(|error| panic!("{}: {error}", subject.name()));
        let stage = Stage {
            link: &*link,
            work,
            shape,
            count,
            board,
        };
        stage.play(subject.place());
    });
    let answer = await_group(leader, limit(shape));
    let _ = std::fs::remove_dir_all(&folder);
    sweep(true);
    answer.map_err(|why| format!("{}: {why}", subject.name()))?;
    Ok(measured(work, shape, count, board))
}

/// Runs a measurement of our own once.
pub fn own(name: &str, own: Own, shape: &Shape, count: u64, board: &'static Board) -> Result<Measured, String> {
    board.clear();
    let leader = forked(true, || own(shape, board, count));
    await_group(leader, limit(shape)).map_err(|why| format!("{name}: {why}"))?;
    let elapsed = board.results[7].number();
    Ok(Measured {
        values: vec![board.results[0].number()],
        each: elapsed / count as f64,
        elapsed: Duration::from_nanos(elapsed as u64),
    })
}

/// Far more than a run takes, and less than anybody's patience.
fn limit(shape: &Shape) -> Duration {
    Duration::from_secs(10 + (shape.readers + shape.writers) as u64 / 8)
}

/// How many of what.
#[derive(Debug, Clone, Copy)]
struct Count {
    warm: u64,
    /// Trips that are timed in chunks, and one by one; or messages.
    main: u64,
    singly: u64,
    chunk: u64,
}

impl Count {
    fn new(work: Work, shape: &Shape, count: u64) -> Self {
        match work {
            Work::RoundTrip => {
                // So that reading the clock costs little; who sleeps is slow enough.
                let chunk = if shape.waiting == Waiting::Spin { 16 } else { 1 };
                let main = (count * 6 / 10 / chunk).max(8);
                let singly = count - count * 6 / 10;
                Count {
                    warm: count / 10 + 10,
                    main,
                    singly,
                    chunk,
                }
            }
            _ => {
                let step = (shape.writers * shape.batch) as u64;
                let main = count.div_ceil(step) * step;
                let warm = (main / 8).div_ceil(step) * step;
                Count {
                    warm,
                    main,
                    singly: 0,
                    chunk: 1,
                }
            }
        }
    }

    fn trips(&self) -> u64 {
        self.warm + self.main * self.chunk + self.singly
    }
}

struct Stage<'a> {
    link: &'a dyn AnyLink,
    work: Work,
    shape: &'a Shape,
    count: Count,
    board: &'static Board,
}

impl Stage<'_> {
    fn play(&self, place: Place) {
        let ends = match self.work {
            Work::Alternate { is_full } => return self.alternate(is_full),
            Work::RoundTrip => 2,
            Work::Stream { .. } => self.shape.writers + self.shape.readers,
        };
        assert!(ends <= ENDS);
        match place {
            Place::Threads => std::thread::scope(|scope| {
                let threads: Vec<_> = (0..ends)
                    .map(|end| scope.spawn(move || self.end(end, ends, true)))
                    .collect();
                threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            }),
            Place::Processes => {
                for end in 0..ends {
                    forked(false, || self.end(end, ends, false));
                }
                for _ in 0..ends {
                    // One that fails ends the run: the others would wait for it.
                    let status = wait().expect("a child");
                    assert!(matches!(status, WaitStatus::Exited(_, 0)), "an end failed: {status:?}");
                }
            }
        }
    }

    fn end(&self, end: usize, ends: usize, is_thread: bool) {
        let writers = if matches!(self.work, Work::RoundTrip) {
            1
        } else {
            self.shape.writers
        };
        let is_writer = end < writers;
        let body = vec![7u8; self.shape.len];
        // Two ends have a processor each; more run where the system puts them. A library's own threads are not pinned.
        let pin = || {
            if ends == 2 {
                clock::pin(end)
            }
        };
        let busy = || {
            if is_thread {
                clock::of_thread()
            } else {
                clock::of_process()
            }
        };
        match self.work {
            Work::RoundTrip => {
                let mut both = self.link.any_both(end);
                pin();
                self.meet(ends, || both.settle());
                if is_writer {
                    self.ping(&mut *both, &body)
                } else {
                    both.pong(&body, self.count.trips())
                }
            }
            _ if is_writer => {
                let mut sender = self.link.any_sender();
                pin();
                self.meet(ends, || sender.settle(self.shape.readers));
                let share = |count: u64| count / writers as u64;
                sender.send_many(&body, share(self.count.warm));
                clock::wait_until(|| self.board.warmed.get() == self.shape.readers as u64);
                self.measure(end, busy, || sender.send_many(&body, share(self.count.main)));
                // Whoever reads may still need what this end holds.
                clock::wait_for_others(|| self.readers_are_done());
            }
            Work::Stream { work } => {
                let mut receiver = self.link.any_receiver();
                pin();
                self.meet(ends, || {});
                receiver.receive_many(self.count.warm);
                self.board.warmed.add(1);
                self.measure(end, busy, || match work.is_zero() {
                    true => receiver.receive_many(self.count.main),
                    false => receiver.receive_slowly(self.count.main, work),
                });
            }
            Work::Alternate { .. } => unreachable!("plays alone"),
        }
    }

    fn readers_are_done(&self) -> bool {
        let readers = &self.board.ends[self.shape.writers..][..self.shape.readers];
        readers.iter().all(|end| end.ended.get() != 0)
    }

    /// Waits until every end exists, and then until every one has settled.
    fn meet(&self, ends: usize, settle: impl FnOnce()) {
        self.board.ready.add(1);
        clock::wait_until(|| self.board.ready.get() == ends as u64);
        settle();
        self.board.settled.add(1);
        clock::wait_until(|| self.board.settled.get() == ends as u64);
    }

    fn measure(&self, end: usize, busy: impl Fn() -> u64, work: impl FnOnce()) {
        let report = &self.board.ends[end];
        mark(c"/syncq-peers-begins");
        let before = busy();
        report.began.set(clock::now());
        work();
        let ended = clock::now();
        report.busy.set(busy() - before);
        mark(c"/syncq-peers-ends");
        report.ended.set(ended);
    }

    fn ping(&self, both: &mut dyn Both, body: &[u8]) {
        let Count {
            warm,
            main,
            singly,
            chunk,
        } = self.count;
        let mut times = Vec::with_capacity(main.max(singly).max(warm) as usize);
        both.ping(body, warm, 1, &mut times);
        times.clear();
        let start = clock::now();
        both.ping(body, main, chunk, &mut times);
        let elapsed = (clock::now() - start) as f64;
        self.board.results[0].set_number(percentile(&mut times, 0.5) / chunk as f64);
        self.board.results[7].set_number(elapsed);
        if chunk > 1 {
            times.clear();
        }
        both.ping(body, singly, 1, &mut times);
        self.board.results[1].set_number(percentile(&mut times, 0.99));
        self.board.results[2].set_number(percentile(&mut times, 0.999));
    }

    fn alternate(&self, is_full: bool) {
        clock::pin(0);
        let body = vec![7u8; self.shape.len];
        let elapsed = self.link.any_alone().alternate(&body, is_full, self.count.main);
        self.board.results[0].set_number(elapsed / self.count.main as f64);
        self.board.results[7].set_number(elapsed);
    }
}

/// A system call that does nothing and is easy to find in a log of them.
fn mark(name: &std::ffi::CStr) {
    if MARKS.load(Ordering::Relaxed) {
        let _ = nix::unistd::access(name, nix::unistd::AccessFlags::F_OK);
    }
}

pub fn percentile(times: &mut [u32], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len().saturating_sub(1) as f64;
    times.get((last * share).round() as usize).copied().unwrap_or(0).into()
}

fn measured(work: Work, shape: &Shape, count: Count, board: &Board) -> Measured {
    let result = |index: usize| board.results[index].number();
    match work {
        Work::RoundTrip => Measured {
            values: vec![result(0), result(1), result(2)],
            each: result(7) / (count.main * count.chunk) as f64,
            elapsed: Duration::from_nanos(
                (result(7) * count.trips() as f64 / (count.main * count.chunk) as f64) as u64,
            ),
        },
        Work::Alternate { .. } => Measured {
            values: vec![result(0)],
            each: result(0),
            elapsed: Duration::from_nanos(result(7) as u64),
        },
        Work::Stream { .. } => {
            let (writers, rest) = board.ends.split_at(shape.writers);
            let began = writers.iter().map(|end| end.began.get()).min().expect("a writer");
            let ended = rest[..shape.readers]
                .iter()
                .map(|end| end.ended.get())
                .max()
                .expect("a reader");
            let elapsed = ended.saturating_sub(began).max(1);
            let each = elapsed as f64 / count.main as f64;
            let busy: u64 = writers.iter().map(|end| end.busy.get()).sum();
            Measured {
                values: vec![each, busy as f64 / count.main as f64],
                each,
                elapsed: Duration::from_nanos(elapsed + elapsed * count.warm / count.main),
            }
        }
    }
}

/// Runs all of `bodies` at the same time and waits for them.
pub fn together(bodies: impl Iterator<Item = impl FnOnce()>) {
    let children: Vec<_> = bodies.map(|body| forked(false, body)).collect();
    let start = Instant::now();
    for child in children {
        assert!(ended_well(child), "a child failed after {:?}", start.elapsed());
    }
}
