//! The defects that research on the Python package syncstream 1.2.2 has found (A1 to A11, and some of B), one test for each, and each
//! of them fails there.

mod support;

use nix::sys::signal::{Signal, kill};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use support::{Child, SharedWord, forked, minute, unique};
use syncq::line::{Content, Ending, LineBuffer, LineError, LineItem, LineProcBuffer, LineProcMirror, Lines, Mirror};
use syncq::{Queue, Wait};

const LONG: Wait = Wait::For(Duration::from_secs(50));

fn all(buffer: &LineProcBuffer) -> Vec<String> {
    let items = buffer.read(None).unwrap();
    items.iter().map(|item| item.text().into_owned()).collect()
}

/// As Python's `print(a, b, c)` does: a write for each part.
fn print(mut to: impl Write, parts: &[&str]) -> std::io::Result<()> {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            to.write_all(b" ")?;
        }
        to.write_all(part.as_bytes())?;
    }
    to.write_all(b"\n")
}

/// There: `wait()` hangs for ever.
#[test]
fn a1_a_killed_worker_is_noticed_its_unfinished_line_is_shown_and_nobody_hangs() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(100).unwrap();
    let (mirror, wrote) = (buffer.mirror("victim").unwrap(), SharedWord::new());
    let victim = forked(|| {
        mirror.write("whole\n").unwrap();
        mirror.write("and half a").unwrap();
        mirror.flush().unwrap();
        wrote.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    wrote.wait_for(1);
    assert!(!buffer.wait(Wait::For(Duration::from_millis(50))).unwrap(), "it lives");
    kill(victim.pid, Signal::SIGKILL).unwrap();
    assert!(buffer.wait(LONG).unwrap());
    let items = buffer.read(None).unwrap();
    assert_eq!(items.len(), 3);
    assert!(items[1].line().unwrap().is_unfinished());
    assert_eq!(
        (items[0].text(), items[1].text()),
        ("whole".into(), "and half a".into())
    );
    let Content::Lost(lost) = &items[2].content else {
        panic!("{items:?}")
    };
    assert_eq!(lost.ending, Ending::Killed(9));
    let origin = items[2].origin.as_ref().unwrap();
    assert_eq!(
        (origin.name.as_str(), origin.pid),
        ("victim", victim.pid.as_raw() as u32)
    );
    assert_eq!(items[2].grouped().unwrap().data.len(), 1);
    assert_eq!(buffer.stats().unwrap().lost, 1);
    assert_eq!(buffer.mirrors_at_work().unwrap(), 0);
}

/// The same at any moment, with several, and with one that exits without a word.
#[test]
fn a1_workers_killed_at_random_moments_lose_no_line_that_was_written() {
    let _watchdog = minute();
    for round in 0..10u64 {
        let buffer = LineProcBuffer::new(1_000_000).unwrap();
        let counts: Vec<SharedWord> = (0..3).map(|_| SharedWord::new()).collect();
        let victims: Vec<Child> = (0..3)
            .map(|n| {
                let (mirror, count) = (buffer.mirror(&n.to_string()).unwrap(), &counts[n]);
                forked(move || {
                    for line in 0.. {
                        mirror.write(format!("{n} line {line}\n")).unwrap();
                        count.raise();
                    }
                    0
                })
            })
            .collect();
        // Reading meanwhile: two fast ones may fill the queue before the third has begun.
        for count in &counts {
            while count.get().load(std::sync::atomic::Ordering::SeqCst) < 10 {
                buffer.len().unwrap();
            }
        }
        std::thread::sleep(Duration::from_micros(300 * round));
        for victim in &victims {
            kill(victim.pid, Signal::SIGKILL).unwrap();
        }
        assert!(buffer.wait(LONG).unwrap());
        let lines = all(&buffer);
        for (n, count) in counts.iter().enumerate() {
            let mine = lines.iter().filter(|line| line.starts_with(&format!("{n} line ")));
            let (mut seen, written) = (0, count.get().load(std::sync::atomic::Ordering::SeqCst));
            for (line, text) in mine.enumerate() {
                assert_eq!(*text, format!("{n} line {line}"));
                seen += 1;
            }
            // The one that was just being written may be there or not.
            assert!((written..=written + 1).contains(&seen), "{seen} of {written}");
        }
        assert_eq!(buffer.stats().unwrap().lost, 3);
    }
}

/// There: the stop raises once more while leaving, no error message is sent, and the parent hangs.
#[test]
fn a2_a_stop_in_the_middle_of_a_print_leaves_the_last_words_and_an_end() {
    let _watchdog = minute();
    for _ in 0..6 {
        let buffer = LineProcBuffer::new(10_000).unwrap();
        let mirror = buffer.mirror("w").unwrap();
        let worker = forked(move || {
            let outcome = mirror.run(|mirror| -> std::io::Result<()> {
                for n in 0.. {
                    print(mirror, &["a", "b", "c", &n.to_string()])?;
                }
                Ok(())
            });
            i32::from(outcome.is_ok())
        });
        while buffer.len().unwrap() < 3 {}
        buffer.stop_all_mirrors().unwrap();
        assert!(buffer.wait(LONG).unwrap());
        worker.must_succeed();
        let lines = all(&buffer);
        assert_eq!(lines.last().unwrap(), "the mirrors were told to stop");
        buffer.reset_states().unwrap();
    }
}

/// There: `a`, `bc`, `d`.
#[test]
fn a3_the_unfinished_end_of_a_write_is_not_put_to_another_workers_line() {
    let buffer = LineProcBuffer::new(10).unwrap();
    let (one, two) = (buffer.mirror("1").unwrap(), buffer.mirror("2").unwrap());
    one.write("a\nb").unwrap();
    two.write("c\nd").unwrap();
    assert_eq!(all(&buffer), ["a", "c"]);
    one.flush().unwrap();
    two.flush().unwrap();
    assert_eq!(all(&buffer), ["a", "c", "b", "d"]);
    two.write("!\n").unwrap();
    one.close().unwrap();
    assert_eq!(all(&buffer), ["a", "c", "d!", "b"]);
}

/// There: 600 of 600 lines malformed.
#[test]
fn a4_aggressive_mirrors_of_several_workers_scramble_nothing() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10_000).unwrap();
    let workers: Vec<Child> = (0..3)
        .map(|n| {
            let mirror = buffer.mirror(&n.to_string()).unwrap().aggressive(true);
            forked(move || {
                for line in 0..200 {
                    print(&mirror, &["worker", &n.to_string(), "line", &line.to_string()]).unwrap();
                }
                drop(mirror);
                0
            })
        })
        .collect();
    assert!(buffer.wait(LONG).unwrap());
    workers.into_iter().for_each(Child::must_succeed);
    let mut next = [0; 3];
    for line in all(&buffer) {
        let worker: usize = line["worker ".len()..][..1].parse().unwrap();
        assert_eq!(line, format!("worker {worker} line {}", next[worker]));
        next[worker] += 1;
    }
    assert_eq!(next, [200; 3]);
}

/// There: 2,233 of 80,000 lines malformed.
#[test]
fn a5_threads_that_share_a_buffer_interleave_no_lines() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(80_000).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let buffer = &buffer;
            scope.spawn(move || {
                for n in 0..20_000 {
                    print(buffer, &["thread", &thread.to_string(), "line", &n.to_string()]).unwrap();
                }
            });
        }
    });
    let mut next = [0; 4];
    for item in buffer.read(None).unwrap() {
        let line = item.to_string();
        let thread: usize = line["thread ".len()..][..1].parse().unwrap();
        assert_eq!(line, format!("thread {thread} line {}", next[thread]));
        next[thread] += 1;
    }
    assert_eq!(next, [20_000; 4]);
}

/// There: the storage is wrong afterwards in 142 of 300 rounds.
#[test]
fn a6_reading_while_others_write_changes_nothing() {
    let _watchdog = minute();
    for _ in 0..100 {
        let buffer = LineBuffer::new(50).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..100 {
                    match n % 2 {
                        0 => drop(buffer.write(format!("{n}\n")).is_ok()),
                        _ => buffer.send_warning(&n).unwrap(),
                    }
                }
            });
            while !writer.is_finished() {
                let items = buffer.read(7).unwrap();
                let are_in_order = |pair: &[LineItem]| {
                    pair[1].seq == pair[0].seq + 1 && pair[1].text().parse::<u64>().unwrap() == pair[1].seq
                };
                assert!(items.windows(2).all(are_in_order), "{items:?}");
            }
        });
        let items = buffer.read(None).unwrap();
        let numbers: Vec<u64> = items.iter().map(|item| item.text().parse().unwrap()).collect();
        assert_eq!(numbers, (50..100).collect::<Vec<_>>());
    }
}

/// There: `print` raises in the worker, and leaving hides the worker's own exception. (For the server of the HTTP mirror the same is shown
/// in that room's tests.)
#[test]
fn a7_a_parent_that_is_gone_neither_fails_the_workers_prints_nor_hides_its_own_error() {
    let _watchdog = minute();
    let name = unique("lines");
    let ready = SharedWord::new();
    let parent = forked(|| {
        let _buffer = LineProcBuffer::options()
            .capacity(4096)
            .line_cap(512)
            .create(&name)
            .unwrap();
        ready.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    ready.wait_for(1);
    let mirror = LineProcMirror::open(&name, "orphan").unwrap();
    mirror.write("heard\n").unwrap();
    parent.kill();
    let outcome: Result<(), String> = mirror.run(|mirror| {
        for _ in 0..10_000 {
            print(mirror, &["nobody", "reads", "this"]).map_err(|error| error.to_string())?;
        }
        Err("the user's own".to_owned())
    });
    assert_eq!(outcome, Err("the user's own".to_owned()));
    Queue::unlink_name(&name).unwrap();
    Queue::unlink_name(&format!("{name}.control")).unwrap();
}

/// There: a lost reply stores the same lines twice. Here there is no reply to lose, and each line has a number.
#[test]
fn a8_what_is_written_again_after_a_failure_is_there_once() {
    let _watchdog = minute();
    let options = LineProcBuffer::options().maxlen(100_000).capacity(4096).line_cap(512);
    let buffer = options.build().unwrap();
    let soon = syncq::line::WhenFull::Wait(Wait::For(Duration::from_micros(100)));
    let mirror = buffer.mirror("m").unwrap().when_full(soon);
    let mut failures = 0;
    for n in 0..1000 {
        while mirror.write(format!("{n}\n")).is_err() {
            failures += 1;
            buffer.receive(Wait::Never).unwrap();
        }
    }
    drop(mirror);
    assert!(failures > 5, "the queue was full {failures} times");
    let lines = all(&buffer);
    assert!(lines.iter().enumerate().all(|(n, line)| *line == n.to_string()) && lines.len() == 1000);
    let stats = buffer.stats().unwrap();
    assert_eq!((stats.dropped, stats.repeated), (0, 0));
}

/// There: RecursionError, or an endless loop.
#[cfg(feature = "log")]
#[test]
fn a9_what_the_carrier_logs_is_not_carried() {
    #[derive(Debug)]
    struct Chatty(LineBuffer);

    impl Mirror for Chatty {
        fn write_bytes(&self, stream: syncq::line::Stream, bytes: &[u8]) -> Result<(), LineError> {
            log::debug!("writing");
            self.0.write_bytes(stream, bytes)
        }
        fn new_line(&self) -> Result<(), LineError> {
            self.0.new_line()
        }
        fn flush(&self) -> Result<(), LineError> {
            log::debug!("flushing");
            self.0.flush()
        }
        fn send(&self, message: &syncq::line::GroupedMessage) -> Result<(), LineError> {
            log::debug!("sending");
            self.0.send(message)
        }
        fn send_record(&self, record: &syncq::line::Record) -> Result<(), LineError> {
            log::debug!("sending");
            // As an HTTP client with a thread of its own.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _quiet = syncq::line::quiet();
                    log::debug!("sending, in a thread");
                });
            });
            self.0.send_record(record)
        }
        fn send_eof(&self) -> Result<(), LineError> {
            self.0.send_eof()
        }
        fn close(&self) -> Result<(), LineError> {
            self.0.close()
        }
    }

    let _watchdog = minute();
    let buffer = LineBuffer::new(100).unwrap();
    syncq::line::LineLog::new(Arc::new(Chatty(buffer.clone())))
        .install()
        .unwrap();
    log::info!("one");
    log::info!("two");
    log::logger().flush();
    assert_eq!(buffer.len().unwrap(), 2);
}

/// There: one such message makes every read fail until it rotates out.
#[test]
fn a10_a_malformed_message_is_counted_and_reading_goes_on() {
    let name = unique("lines");
    let buffer = LineProcBuffer::options().create(&name).unwrap();
    let mirror = buffer.mirror("m").unwrap();
    mirror.write("before\n").unwrap();
    let mut stranger = Queue::open(&name).unwrap().writer("stranger").unwrap();
    for body in [
        &b""[..],
        b"{\"type\":\"error\",\"data\":{\"msg\":\"hi\"}}",
        &[1, 0, 0, 0, 255, 255],
    ] {
        for kind in ["group", "line", "record", "part", "close", "open"] {
            stranger.append(kind, body, Wait::Never).unwrap();
        }
    }
    mirror.write("after\n").unwrap();
    let lines = all(&buffer);
    assert_eq!((lines[0].as_str(), lines.last().unwrap().as_str()), ("before", "after"));
    assert_eq!(buffer.stats().unwrap().stored, 2 + buffer.stats().unwrap().dropped);
}

/// There: 5,000 lines queue up for a buffer of 5.
#[test]
fn a11_a_parent_that_does_not_read_bounds_what_is_on_its_way() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::options()
        .maxlen(5)
        .capacity(64 << 10)
        .line_cap(1024)
        .build()
        .unwrap();
    let mirror = buffer.mirror("m").unwrap();
    let wrote = SharedWord::new();
    let worker = forked(|| {
        for n in 0..5000 {
            mirror.write(format!("line {n}\n")).unwrap();
            wrote.raise();
        }
        drop(mirror);
        0
    });
    wrote.wait_for(100);
    std::thread::sleep(Duration::from_millis(100));
    let waiting = wrote.get().load(std::sync::atomic::Ordering::SeqCst);
    assert!(waiting < 1000, "{waiting} lines of 64 bytes in 64 KiB");
    assert!(buffer.wait(LONG).unwrap());
    worker.must_succeed();
    assert_eq!(
        all(&buffer),
        ["line 4995", "line 4996", "line 4997", "line 4998", "line 4999"]
    );
    assert_eq!(buffer.stats().unwrap().rotated, 4995);
}

/// There: hangs, and a second `send_eof` makes the count of mirrors −1.
#[test]
fn b4_waiting_for_nobody_ends_at_once_and_a_second_end_is_no_harm() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10).unwrap();
    assert!(buffer.wait(Wait::Forever).unwrap());
    let (one, two) = (buffer.mirror("1").unwrap(), buffer.mirror("2").unwrap());
    two.write("at work\n").unwrap();
    one.send_eof().unwrap();
    one.send_eof().unwrap();
    assert!(!buffer.wait(Wait::For(Duration::from_millis(10))).unwrap());
    two.send_eof().unwrap();
    assert!(buffer.wait(Wait::Forever).unwrap());
    two.write("again\n").unwrap();
    assert!(
        buffer.receive(Wait::Never).unwrap(),
        "it writes again, so it is at work again"
    );
}

/// There: the pending text comes after the error that followed it, and `len` of an empty buffer is 1.
#[test]
fn b5_and_b6_an_error_ends_the_line_before_it_and_an_empty_buffer_has_no_items() {
    let buffer = LineProcBuffer::new(10).unwrap();
    assert_eq!(buffer.len().unwrap(), 0);
    let mirror = buffer.mirror("m").unwrap().aggressive(true);
    mirror.write("x").unwrap();
    mirror.send_error(&"ERROR").unwrap();
    mirror.write("y").unwrap();
    mirror.close().unwrap();
    assert_eq!(all(&buffer), ["x", "ERROR", "y"]);
    assert_eq!(buffer.len().unwrap(), 3);
}

/// There: `StopIteration`, which `list(map(...))` takes for a normal end.
#[test]
fn b8_a_stop_is_an_error_that_nobody_takes_for_an_end() {
    let buffer = LineProcBuffer::new(10).unwrap();
    let mirror = buffer.mirror("m").unwrap();
    buffer.stop_all_mirrors().unwrap();
    assert!(matches!(mirror.write("x"), Err(LineError::Stopped)));
    let error = print(&mirror, &["x"]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(error.get_ref().unwrap().is::<LineError>());
    assert!(Arc::new(buffer).wait(Wait::Never).is_ok());
}
