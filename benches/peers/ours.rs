//! What is measured of our queues alone, and of memory: nothing to set beside it, or nothing that waits for anybody.

use crate::board::Board;
use crate::clock;
use crate::process::forked;
use crate::run;
use crate::subject::Shape;
use crate::subjects::syncq_options;
use std::hint::black_box;
use std::time::Duration;
use syncq::{Buffer, Queue, Wait};

fn done(board: &Board, value: f64, began: u64) {
    board.results[0].set_number(value);
    board.results[7].set_number((clock::now() - began) as f64);
}

/// Gigabytes a second that one core copies between buffers of 64 MiB. One `count` is one copy.
pub fn memcpy(_: &Shape, board: &Board, count: u64) {
    const LEN: usize = 64 << 20;
    clock::pin(0);
    let (from, mut to) = (vec![1u8; LEN], vec![2u8; LEN]);
    let began = clock::now();
    let mut times: Vec<u32> = (0..count.max(2))
        .map(|_| {
            let start = clock::now();
            black_box(&mut to).copy_from_slice(black_box(&from));
            (clock::now() - start) as u32
        })
        .collect();
    done(board, LEN as f64 / run::percentile(&mut times, 0.5), began);
}

/// Nanoseconds of an append while `shape.readers` readers are joined. They join before each stretch of appends and leave after it without reading:
/// if they read, it would be measured how cold the writer's lines are after more or less of that. (Who joins takes a kept claim away, so the
/// first 16 of some 16,000 appends go the general way.)
pub fn append_among_readers(shape: &Shape, board: &Board, count: u64) {
    clock::pin(0);
    let queue = syncq_options(shape).anonymous().expect("memory");
    let mut writer = queue.writer("").expect("a slot");
    let body = vec![7u8; shape.len];
    let stretch = (shape.ring / 2 / (shape.len + 64)) as u64;
    let began = clock::now();
    let mut stretches = Vec::new();
    for _ in 0..count.div_ceil(stretch) {
        let readers: Vec<_> = (0..shape.readers).map(|_| queue.reader().expect("a slot")).collect();
        let start = clock::now();
        for _ in 0..stretch {
            writer.append("", black_box(&body), Wait::Never).expect("room");
        }
        stretches.push((clock::now() - start) as u32);
        drop(readers);
    }
    done(board, run::percentile(&mut stretches, 0.5) / stretch as f64, began);
}

/// Nanoseconds to pop a message that another process has appended.
pub fn pop_all(shape: &Shape, board: &Board, count: u64) {
    read_stretches(shape, board, count, false);
}

/// Nanoseconds to pass over one.
pub fn pass_over(shape: &Shape, board: &Board, count: u64) {
    read_stretches(shape, board, count, true);
}

/// Half a ring at a time: one process appends messages of kind `a` and one of kind `z`, then the other reads, timed.
fn read_stretches(shape: &Shape, board: &Board, count: u64, is_screened: bool) {
    let queue = syncq_options(shape).anonymous().expect("memory");
    let stretch = (shape.ring / 2 / (shape.len + 64)) as u64;
    let rounds = count.div_ceil(stretch);
    let [written, read] = [&board.lines[0], &board.lines[1]];
    let writer = forked(false, || {
        clock::pin(0);
        let mut writer = queue.writer("").expect("a slot");
        let body = vec![7u8; shape.len];
        board.ready.add(1);
        for round in 1..=rounds {
            clock::wait_until(|| read.get() == round);
            for _ in 0..stretch {
                writer.append("a", &body, Wait::Never).expect("room");
            }
            writer.append("z", &body, Wait::Never).expect("room");
            written.set(round);
        }
    });
    clock::pin(1);
    let mut reader = queue.reader().expect("a slot");
    if is_screened {
        reader.screen().add_kind("a");
    }
    let mut buffer = Buffer::new();
    clock::wait_until(|| board.ready.get() == 1);
    let began = clock::now();
    let mut stretches = Vec::new();
    for round in 1..=rounds {
        read.set(round);
        clock::wait_until(|| written.get() == round);
        let start = clock::now();
        while reader
            .pop_into(&mut buffer, Wait::Never)
            .expect("a queue")
            .expect("a message")
            .kind_bytes()
            != b"z"
        {}
        stretches.push((clock::now() - start) as u32);
    }
    assert!(crate::process::ended_well(writer), "the writer failed");
    done(
        board,
        run::percentile(&mut stretches, 0.5) / (stretch + 1) as f64,
        began,
    );
}

/// Processor time, in milliseconds for ten seconds, of readers that wait in an empty queue for so long.
pub fn idle_readers(seconds: u64, readers: usize, board: &'static Board) -> Result<Vec<f64>, String> {
    board.clear();
    let leader = forked(true, || {
        run::together((0..readers).map(|index| {
            move || {
                let queue = Queue::options().anonymous().expect("memory");
                let mut reader = queue.reader().expect("a slot");
                let before = clock::of_process();
                let message = reader.pop(Wait::For(Duration::from_secs(seconds))).expect("a queue");
                assert!(message.is_none());
                board.ends[index].busy.set(clock::of_process() - before);
            }
        }));
    });
    crate::process::await_group(leader, Duration::from_secs(seconds + 10))?;
    let milliseconds = |index: usize| board.ends[index].busy.get() as f64 / 1e6 * 10.0 / seconds as f64;
    Ok((0..readers).map(milliseconds).collect())
}

/// Kibibytes that the file of a queue with default options takes beside its capacity.
pub fn fixed_memory() -> Result<f64, String> {
    use std::os::unix::fs::MetadataExt;
    let name = format!("{}fixed", run::prefix());
    let queue = Queue::options().create(&name).map_err(|error| error.to_string())?;
    let found = queue.path().ok_or("no path".to_string()).and_then(|path| {
        let file = std::fs::metadata(path).map_err(|error| error.to_string())?;
        Ok(file.len().max(file.blocks() * 512))
    });
    queue.unlink().map_err(|error| error.to_string())?;
    Ok((found? - queue.capacity()) as f64 / 1024.0)
}
