//! Workers' lines at the parent: across forks, threads and programs, and what happens when somebody ends.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use support::{SharedWord, forked, minute, unique, watchdog};
use syncq::line::{Content, Ending, LineError, LineItem, LineProcBuffer, LineProcMirror, Lines, Mirror, WhenFull};
use syncq::{Queue, Wait};

const LONG: Wait = Wait::For(Duration::from_secs(50));

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

fn all(buffer: &LineProcBuffer) -> Vec<String> {
    texts(&buffer.read(None).unwrap())
}

#[test]
fn forked_workers_lines_warnings_and_errors_arrive_with_their_names() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(100).unwrap();
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let mut mirror = buffer.mirror(&format!("worker-{n}")).unwrap();
            forked(move || {
                for line in 0..10 {
                    writeln!(mirror, "{n} says {line}").unwrap();
                }
                mirror.send_warning(&"first\nsecond").unwrap();
                write!(mirror, "unfinished").unwrap();
                mirror.send_error(&"broke").unwrap();
                0
            })
        })
        .collect();
    assert!(buffer.wait(LONG).unwrap());
    for worker in workers {
        worker.must_succeed();
    }
    let items = buffer.read(None).unwrap();
    assert_eq!(items.len(), 4 * 13);
    for n in 0..4 {
        let name = format!("worker-{n}");
        let mine: Vec<&LineItem> = items
            .iter()
            .filter(|item| item.origin.as_ref().unwrap().name == name)
            .collect();
        for (line, item) in mine[..10].iter().enumerate() {
            assert_eq!(item.text(), format!("{n} says {line}"));
            assert!(item.time.elapsed().unwrap() < Duration::from_secs(60));
        }
        assert_eq!(mine[10].grouped().unwrap().data, ["first", "second"]);
        assert_eq!(mine[11].text(), "unfinished");
        assert_eq!(mine[12].grouped().unwrap().data, ["broke"]);
    }
}

#[test]
fn reading_is_as_with_the_original() {
    let buffer = LineProcBuffer::new(3).unwrap();
    let mirror = buffer.mirror("m").unwrap();
    mirror.write("line1\n").unwrap();
    mirror.write("line2\nline3").unwrap();
    // The unfinished line is kept by the mirror until it is flushed.
    assert_eq!(all(&buffer), ["line1", "line2"]);
    assert_eq!(mirror.read(), "line3");
    mirror.flush().unwrap();
    assert_eq!(all(&buffer), ["line1", "line2", "line3"]);
    assert_eq!(texts(&buffer.read(1).unwrap()), ["line3"]);
    assert_eq!(texts(&buffer.read(2).unwrap()), ["line2", "line3"]);
    assert_eq!(buffer.len().unwrap(), 3);
    assert!(buffer.read(1).unwrap()[0].line().unwrap().is_unfinished());
    mirror.write(" goes on\n").unwrap();
    assert_eq!(texts(&buffer.read(1).unwrap()), ["line3 goes on"]);
    assert!(!buffer.read(1).unwrap()[0].line().unwrap().is_unfinished());
}

#[test]
fn an_aggressive_mirror_shows_each_write_at_once_and_its_lines_are_whole_all_the_same() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(1000).unwrap();
    let one = buffer.mirror("one").unwrap().aggressive(true);
    one.write("abc").unwrap();
    assert_eq!(all(&buffer), ["abc"]);
    one.write("def\u{2028}gh").unwrap();
    assert_eq!(all(&buffer), ["abcdef", "gh"]);
    for byte in "i\u{2028}é\n".as_bytes() {
        one.write([*byte]).unwrap();
    }
    assert_eq!(all(&buffer), ["abcdef", "ghi", "é"]);
}

#[test]
fn a_buffer_with_a_name_is_opened_by_any_program_and_the_name_goes_with_it() {
    let _watchdog = minute();
    let name = unique("lines");
    let buffer = LineProcBuffer::options().create(&name).unwrap();
    forked({
        let name = name.clone();
        move || {
            let mirror = LineProcMirror::open(&name, &"é".repeat(40)).unwrap();
            mirror.write("by name\n").unwrap();
            0
        }
    })
    .must_succeed();
    assert!(buffer.wait(LONG).unwrap());
    let items = buffer.read(None).unwrap();
    assert_eq!(texts(&items), ["by name"]);
    assert_eq!(items[0].origin.as_ref().unwrap().name, "é".repeat(32));
    assert!(LineProcBuffer::options().create(&name).is_err());
    let mirror = LineProcMirror::open(&name, "m").unwrap();
    drop(buffer);
    assert!(!Queue::names().unwrap().iter().any(|found| found.starts_with(&name)));
    // The parent is gone: its worker does not hang, and needs not know.
    for _ in 0..100_000 {
        mirror.write("nobody hears this\n").unwrap();
    }
}

#[test]
fn what_a_full_queue_drops_is_counted_and_shown_where_it_is_missing() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::options()
        .maxlen(100_000)
        .capacity(4096)
        .line_cap(64)
        .build()
        .unwrap();
    let mirror = buffer.mirror("m").unwrap().when_full(WhenFull::Drop);
    for n in 0..1000 {
        mirror.write(format!("{n}\n")).unwrap();
    }
    mirror.send_warning(&"dropped too").unwrap();
    let before = all(&buffer).len();
    assert!((20..100).contains(&before), "{before}");
    mirror.write("room again\n").unwrap();
    let items = buffer.read(2).unwrap();
    assert_eq!(items[0].content, Content::Dropped(1001 - before as u64));
    assert_eq!(items[1].text(), "room again");
    assert_eq!(buffer.stats().unwrap().dropped, 1001 - before as u64);
    drop(mirror);
    assert!(buffer.wait(LONG).unwrap());
}

#[test]
fn a_write_that_finds_no_room_in_time_has_taken_nothing() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::options()
        .maxlen(100_000)
        .capacity(4096)
        .line_cap(64)
        .build()
        .unwrap();
    let mirror = buffer
        .mirror("m")
        .unwrap()
        .when_full(WhenFull::Wait(Wait::For(Duration::from_millis(5))));
    let mut sent = 0;
    mirror.write("begun ").unwrap();
    let error = loop {
        match mirror.write(format!("{sent}\nbegun ")) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LineError::Queue(syncq::Error::Full(_))), "{error}");
    assert_eq!(all(&buffer).len(), sent);
    mirror.write(format!("{sent}\n")).unwrap();
    assert_eq!(all(&buffer).last().unwrap(), &format!("begun {sent}"));
    assert_eq!(buffer.stats().unwrap().dropped, 0);
}

#[test]
fn a_parent_that_receives_in_the_background_never_lets_workers_wait() {
    let _watchdog = minute();
    let buffer = Arc::new(
        LineProcBuffer::options()
            .maxlen(10)
            .capacity(4096)
            .line_cap(512)
            .build()
            .unwrap(),
    );
    let receiving = buffer.receive_in_background().unwrap();
    let mirror = buffer.mirror("m").unwrap();
    let worker = forked(move || {
        (0..20_000).for_each(|n| assert!(mirror.write(format!("{n}\n")).is_ok()));
        0
    });
    worker.must_succeed();
    drop(receiving);
    assert_eq!(buffer.stats().unwrap().stored, 20_000);
    assert_eq!(all(&buffer).last().unwrap(), "19999");
}

#[test]
fn lines_longer_than_the_cap_and_writes_longer_than_the_queue_arrive() {
    let _watchdog = minute();
    let buffer = Arc::new(
        LineProcBuffer::options()
            .maxlen(100_000)
            .capacity(64 << 10)
            .line_cap(1000)
            .build()
            .unwrap(),
    );
    let receiving = buffer.receive_in_background().unwrap();
    let mirror = buffer.mirror("m").unwrap();
    let long = "x".repeat(300_000);
    mirror.write(format!("{long}\nshort\n")).unwrap();
    let many: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    mirror.write(&many).unwrap();
    mirror.write("\n".repeat(100_000)).unwrap();
    mirror.send_error(&long).unwrap();
    mirror.close().unwrap();
    assert!(buffer.wait(LONG).unwrap());
    drop(receiving);
    let stats = buffer.stats().unwrap();
    assert_eq!((stats.stored, stats.dropped, stats.cut), (150_003, 0, 1));
    let error = &buffer.read(1).unwrap()[0];
    assert_eq!(error.grouped().unwrap().data[1], "[299041 bytes cut]");
}

#[test]
fn lines_gather_for_no_longer_than_the_delay_and_never_change_places() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(100_000).unwrap();
    let mirror = buffer.mirror("m").unwrap().delay(Duration::from_millis(50));
    mirror.write("first\n").unwrap();
    mirror.write("second\n").unwrap();
    // Nothing else is done: the mirror sends them by itself.
    let mut follow = buffer.follow(LONG);
    assert_eq!(follow.next().unwrap().unwrap().text(), "first");
    assert_eq!(follow.next().unwrap().unwrap().text(), "second");
    mirror.write("third\n").unwrap();
    mirror.send_warning(&"after it").unwrap();
    assert_eq!(texts(&buffer.read(2).unwrap()), ["third", "after it"]);
    mirror.write("fourth\n").unwrap();
    mirror.flush().unwrap();
    assert_eq!(texts(&buffer.read(1).unwrap()), ["fourth"]);
    for n in 0..10_000 {
        mirror.write(format!("{n}\n")).unwrap();
    }
    drop(mirror);
    assert!(buffer.wait(LONG).unwrap());
    let lines = all(&buffer);
    assert_eq!(lines.len(), 10_005);
    assert!(lines[5..].iter().enumerate().all(|(n, line)| *line == n.to_string()));
}

#[test]
fn stopping_reaches_all_mirrors_and_a_reset_begins_anew() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(1000).unwrap();
    let old = buffer.mirror("old").unwrap();
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let mirror = buffer.mirror(&n.to_string()).unwrap();
            forked(move || {
                for line in 0.. {
                    match mirror.write(format!("{line}\nrest of {line}")) {
                        Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                        Err(LineError::Stopped) => break,
                        Err(_) => return 1,
                    }
                }
                i32::from(mirror.send_error(&"told to stop").is_err())
            })
        })
        .collect();
    while buffer.stats().unwrap().stored < 20 || buffer.mirrors_at_work().unwrap() < 3 {}
    assert!(matches!(
        buffer.reset_states(),
        Err(LineError::MirrorsAtWork { count: 3 })
    ));
    buffer.stop_all_mirrors().unwrap();
    assert!(buffer.is_stopped());
    drop(old);
    assert!(buffer.wait(LONG).unwrap());
    workers.into_iter().for_each(support::Child::must_succeed);
    let last = all(&buffer);
    assert_eq!(last.iter().filter(|line| *line == "told to stop").count(), 3);
    let late = buffer.mirror("late").unwrap();
    assert!(matches!(late.write("x"), Err(LineError::Stopped)));
    late.close().unwrap();
    assert!(buffer.wait(LONG).unwrap());
    let outdated = buffer.mirror("outdated").unwrap();
    buffer.reset_states().unwrap();
    assert!(!buffer.is_stopped());
    assert!(matches!(outdated.write("x\n"), Err(LineError::Outdated)));
    outdated.send_error(&"not heard").unwrap();
    let next = buffer.mirror("next").unwrap();
    next.write("a new round\n").unwrap();
    assert_eq!(all(&buffer).last().unwrap(), "a new round");
    assert_eq!(buffer.mirrors_at_work().unwrap(), 1);
}

#[test]
fn force_stop_waits_for_nobody() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10).unwrap();
    let mirror = buffer.mirror("never closed").unwrap();
    mirror.write("x\n").unwrap();
    assert!(!buffer.wait(Wait::For(Duration::from_millis(1))).unwrap());
    buffer.force_stop().unwrap();
    assert!(buffer.wait(Wait::Forever).unwrap());
    buffer.reset_states().unwrap();
    assert!(buffer.wait(Wait::Forever).unwrap());
    assert!(matches!(mirror.write("y\n"), Err(LineError::Outdated)));
}

#[test]
fn who_dies_of_an_earlier_round_is_not_lost_in_the_next() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10).unwrap();
    let (mirror, wrote) = (buffer.mirror("of the first round").unwrap(), SharedWord::new());
    let worker = forked(|| {
        mirror.write("x\n").unwrap();
        wrote.raise();
        std::thread::sleep(Duration::from_secs(50));
        0
    });
    wrote.wait_for(1);
    buffer.force_stop().unwrap();
    buffer.reset_states().unwrap();
    worker.kill();
    let next = buffer.mirror("of the second").unwrap();
    next.write("y\n").unwrap();
    assert!(!buffer.wait(Wait::For(Duration::from_millis(100))).unwrap());
    next.close().unwrap();
    assert!(buffer.wait(LONG).unwrap());
    assert_eq!(all(&buffer), ["x", "y"]);
    assert_eq!(
        buffer.queue().members().len(),
        1,
        "the dead one was buried all the same"
    );
}

#[test]
fn threads_that_end_with_an_unfinished_line_do_not_pile_up() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10_000).unwrap();
    let mirror = buffer.mirror("m").unwrap();
    for n in 0..1100 {
        std::thread::scope(|scope| {
            scope
                .spawn(|| assert!(mirror.write(format!("{n}")).is_ok()))
                .join()
                .unwrap()
        });
    }
    assert_eq!(all(&buffer).len(), 1100 - 1024);
    mirror.close().unwrap();
    let lines = all(&buffer);
    assert!(lines.iter().enumerate().all(|(n, line)| *line == n.to_string()) && lines.len() == 1100);
}

#[test]
fn a_mirror_in_use_before_the_fork_is_another_one_in_the_child() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(100).unwrap();
    let mirror = Arc::new(buffer.mirror("m").unwrap());
    mirror.write("parent\npending of the parent").unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        // Another thread has the mirror locked most of the time while this one forks.
        let (mirror, stop) = (mirror.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                mirror.flush().unwrap();
            }
        })
    };
    let origins = || {
        let items = buffer.read(None).unwrap();
        items
            .iter()
            .map(|item| item.origin.as_ref().unwrap().mirror)
            .collect::<std::collections::HashSet<_>>()
    };
    for n in 0..20 {
        let mirror = mirror.clone();
        forked(move || {
            mirror.write(format!("child {n}\n")).unwrap();
            mirror.close().unwrap();
            0
        })
        .must_succeed();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
    let lines = all(&buffer);
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("child")).count(),
        20,
        "{lines:?}"
    );
    assert_eq!(lines.iter().filter(|line| line.contains("pending")).count(), 0);
    assert_eq!(origins().len(), 21);
    drop(mirror);
    assert!(buffer.wait(LONG).unwrap());
    assert_eq!(all(&buffer).last().unwrap(), "pending of the parent");
}

#[test]
fn an_error_or_a_panic_that_ends_a_run_is_an_item_and_goes_on() {
    let buffer = LineProcBuffer::new(10).unwrap();
    let outcome: Result<(), String> = buffer.mirror("m").unwrap().run(|mirror| {
        mirror.write("half").unwrap();
        Err("failed".to_owned())
    });
    assert_eq!(outcome, Err("failed".to_owned()));
    let mirror = buffer.mirror("p").unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mirror.run(|_| -> Result<(), String> { panic!("oh no") })
    }));
    assert_eq!(*caught.unwrap_err().downcast_ref::<&str>().unwrap(), "oh no");
    assert_eq!(all(&buffer), ["half", "failed", "panic: oh no"]);
    assert!(matches!(mirror.write("x"), Err(LineError::Closed)));
}

#[test]
fn a_parent_waits_for_watched_children_and_notes_who_failed_before_a_word() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10).unwrap();
    let silent = forked(|| 0);
    let failed = forked(|| 3);
    let killed = forked(|| {
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    for child in [&silent, &failed, &killed] {
        buffer.watch(child.pid.as_raw() as u32).unwrap();
    }
    kill(killed.pid, Signal::SIGKILL).unwrap();
    assert!(buffer.wait(LONG).unwrap());
    let items = buffer.read(None).unwrap();
    let mut endings: Vec<(i32, Ending)> = items
        .iter()
        .map(|item| match &item.content {
            Content::Lost(lost) => (item.origin.as_ref().unwrap().pid as i32, lost.ending),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut expected = vec![
        (failed.pid.as_raw(), Ending::Exited(3)),
        (killed.pid.as_raw(), Ending::Killed(9)),
    ];
    endings.sort_by_key(|ending| ending.0);
    expected.sort_by_key(|ending| ending.0);
    assert_eq!(endings, expected);
}

#[test]
fn messages_that_no_mirror_wrote_are_counted_as_dropped() {
    let name = unique("lines");
    let buffer = LineProcBuffer::options().create(&name).unwrap();
    let mut stranger = Queue::open(&name).unwrap().writer("stranger").unwrap();
    stranger.append("hello", b"not a frame", Wait::Never).unwrap();
    stranger.append("line", &[1; 23], Wait::Never).unwrap();
    let mut head = [0u8; 40];
    head[0] = 1;
    head[24..].fill(0xff);
    stranger.append("record", &head, Wait::Never).unwrap();
    stranger.append("unheard of", &head, Wait::Never).unwrap();
    stranger.append("line", &head, Wait::Never).unwrap();
    assert_eq!(buffer.stats().unwrap().dropped, 4);
    assert_eq!(buffer.len().unwrap(), 4);
}

/// `cargo test --release --test line_proc -- --ignored million`
#[test]
#[ignore = "a soak of a million lines, for a release build"]
fn of_a_million_lines_by_four_threads_on_one_mirror_none_is_torn() {
    four_threads_on_one_mirror(250_000);
}

#[test]
fn of_forty_thousand_lines_by_four_threads_on_one_mirror_none_is_torn() {
    four_threads_on_one_mirror(10_000);
}

fn four_threads_on_one_mirror(lines: u32) {
    let _watchdog = watchdog(Duration::from_secs(300));
    let seen = Arc::new(std::sync::Mutex::new([0; 4]));
    let buffer = {
        let seen = seen.clone();
        let check = move |item: &LineItem| {
            let text = item.text().into_owned();
            let thread: usize = text["thread ".len()..][..1].parse().expect("a whole line");
            let mut seen = seen.lock().unwrap();
            assert_eq!(
                text,
                format!("thread {thread} line {} of many, in six pieces", seen[thread])
            );
            seen[thread] += 1;
            true
        };
        LineProcBuffer::options().keep(check).build().unwrap()
    };
    let mirror = buffer.mirror("m").unwrap();
    let worker = forked(move || {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut mirror = &mirror;
                scope.spawn(move || {
                    for line in 0..lines {
                        let (thread, line) = (thread.to_string(), line.to_string());
                        for piece in ["thread ", &thread, " line ", &line, " of many, in six pieces", "\n"] {
                            mirror.write_all(piece.as_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        drop(mirror);
        0
    });
    assert!(buffer.wait(Wait::For(Duration::from_secs(250))).unwrap());
    worker.must_succeed();
    assert_eq!(*seen.lock().unwrap(), [lines; 4]);
}

#[test]
fn a_worker_stopped_by_a_signal_is_not_lost() {
    let _watchdog = minute();
    let buffer = LineProcBuffer::new(10).unwrap();
    let (mirror, wrote) = (buffer.mirror("m").unwrap(), SharedWord::new());
    let worker = forked(|| {
        mirror.write("one\n").unwrap();
        wrote.raise();
        std::thread::sleep(Duration::from_millis(200));
        mirror.write("two\n").unwrap();
        drop(mirror);
        0
    });
    wrote.wait_for(1);
    worker.signal(Signal::SIGSTOP);
    assert!(!buffer.wait(Wait::For(Duration::from_millis(300))).unwrap());
    assert_eq!(all(&buffer), ["one"]);
    kill(Pid::from_raw(worker.pid.as_raw()), Signal::SIGCONT).unwrap();
    drop(mirror_of_parent(&buffer));
    assert!(buffer.wait(LONG).unwrap());
    worker.must_succeed();
    assert_eq!(all(&buffer), ["one", "two"]);
}

/// A mirror that is given out and never used keeps nobody waiting once it is dropped.
fn mirror_of_parent(buffer: &LineProcBuffer) -> LineProcMirror {
    buffer.mirror("unused").unwrap()
}
