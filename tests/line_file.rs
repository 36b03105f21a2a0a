//! Lines of processes that share a folder: whole, in one order, bounded, and there after all have ended.

mod support;

use nix::sys::signal::{Signal, kill};
use std::io::Write;
use std::time::Duration;
use support::{SharedWord, folder, forked, minute};
use syncq::Wait;
use syncq::line::{Content, Level, LineError, LineFileBuffer, LineItem, Lines, Mirror, Record, Severity, Value};

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

#[test]
fn what_one_process_wrote_another_one_reads_and_what_is_pending_only_itself() {
    let folder = folder("lines");
    let path = folder.0.join("msg.v1");
    let one = LineFileBuffer::options().maxlen(3).name("one").open(&path).unwrap();
    one.write("line1\nline2\nline3").unwrap();
    let two = LineFileBuffer::new(&path, 3).unwrap();
    assert_eq!(texts(&two.read(None).unwrap()), ["line1", "line2"]);
    assert_eq!(texts(&one.read(None).unwrap()), ["line1", "line2", "line3"]);
    assert_eq!(texts(&one.read(1).unwrap()), ["line3"]);
    assert_eq!(one.len().unwrap(), 3);
    one.send_error(&"broke\nhere").unwrap();
    two.send_record(&Record {
        level: Level::Warn,
        target: "t".into(),
        message: "m".into(),
        fields: vec![("n".into(), Value::Int(1))],
        spans: Vec::new(),
        source: None,
    })
    .unwrap();
    two.write(b"a\xff\n").unwrap();
    let items = one.read(None).unwrap();
    assert_eq!(items[0].grouped().unwrap().severity, Severity::Error);
    assert_eq!(items[0].origin.as_ref().unwrap().name, "one");
    assert!(matches!(&items[1].content, Content::Record(record) if record.fields[0].1 == Value::Int(1)));
    assert_eq!(items[2].line().unwrap().bytes(), b"a\xff");
    assert_eq!(items.iter().map(|item| item.seq).collect::<Vec<_>>(), [3, 4, 5]);
    // Other files of the folder are none of its business.
    let other = LineFileBuffer::new(folder.0.join("msg.v1-x"), 3).unwrap();
    other.write("other\n").unwrap();
    one.clear().unwrap();
    assert_eq!(two.len().unwrap(), 0);
    assert_eq!(texts(&other.read(None).unwrap()), ["other"]);
    two.write("after\n").unwrap();
    assert_eq!(one.read(None).unwrap()[0].seq, 6, "numbers go on over clear");
    one.close().unwrap();
    assert!(matches!(one.write("x"), Err(LineError::Closed)));
}

#[test]
fn processes_and_threads_append_whole_lines_and_the_files_stay_small() {
    let _watchdog = minute();
    let folder = folder("lines");
    let path = folder.0.join("log");
    let buffer = LineFileBuffer::new(&path, 100).unwrap();
    // One that is inherited and one that is opened.
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (path, inherited) = (&path, &buffer);
            forked(move || {
                let own = LineFileBuffer::new(path, 100).unwrap();
                std::thread::scope(|scope| {
                    for (thread, mut buffer) in [inherited, &own].into_iter().enumerate() {
                        scope.spawn(move || {
                            for n in 0..500 {
                                for piece in [format!("{worker}.{thread} "), format!("line {n}"), "\n".to_owned()] {
                                    buffer.write_all(piece.as_bytes()).unwrap();
                                }
                            }
                        });
                    }
                });
                0
            })
        })
        .collect();
    let mut next = std::collections::HashMap::new();
    let mut seen = 0;
    let mut follow = buffer.follow(Wait::For(Duration::from_secs(20)));
    while seen < 3000 {
        let item = follow.next().expect("more to come").unwrap();
        if let Content::Dropped(count) = item.content {
            seen += count;
            next.clear();
            continue;
        }
        seen += 1;
        let text = item.to_string();
        let (who, n) = text.split_once(" line ").expect("whole");
        let n: u32 = n.parse().expect("whole");
        let before = next.insert(who.to_owned(), n);
        assert!(before.is_none_or(|before| n > before), "{text} after {before:?}");
    }
    workers.into_iter().for_each(support::Child::must_succeed);
    assert_eq!(buffer.next_seq().unwrap(), 3000);
    assert_eq!(buffer.len().unwrap(), 100);
    let sizes: u64 = std::fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(sizes < 400 * 80, "{sizes} bytes for 100 items");
}

#[test]
fn a_writer_killed_at_any_time_leaves_no_torn_line_and_no_lock() {
    let _watchdog = minute();
    let folder = folder("lines");
    let path = folder.0.join("log");
    let mut last = 0;
    for round in 0..20 {
        let begun = SharedWord::new();
        let victim = forked(|| {
            let buffer = LineFileBuffer::new(&path, 10).unwrap();
            for n in 0.. {
                buffer.write(format!("round {round} line {n} of the victim\n")).unwrap();
                begun.raise();
            }
            0
        });
        begun.wait_for(5 + round * 3);
        kill(victim.pid, Signal::SIGKILL).unwrap();
        drop(victim);
        let buffer = LineFileBuffer::new(&path, 10).unwrap();
        let next = buffer.next_seq().unwrap();
        assert!(next >= last + 5, "numbers go on: {last}, {next}");
        last = next;
        buffer.write("survivor\n").unwrap();
        let items = buffer.read(None).unwrap();
        assert_eq!(items.len(), 5.max(items.len()));
        assert_eq!(items.last().unwrap().text(), "survivor");
        for item in &items[..items.len() - 1] {
            assert!(
                item.text().ends_with(" of the victim") || item.text() == "survivor",
                "{items:?}"
            );
        }
    }
}

#[test]
fn what_is_no_line_file_is_refused_and_a_torn_end_is_written_over() {
    let folder = folder("lines");
    let path = folder.0.join("log");
    std::fs::write(folder.0.join("log.lines"), "something else altogether").unwrap();
    assert!(matches!(
        LineFileBuffer::new(&path, 10),
        Err(LineError::NotALineFile { .. })
    ));
    std::fs::remove_file(folder.0.join("log.lines")).unwrap();
    let buffer = LineFileBuffer::new(&path, 10).unwrap();
    buffer.write("one\ntwo\n").unwrap();
    let whole = std::fs::read(folder.0.join("log.lines")).unwrap();
    for len in (16..whole.len()).rev() {
        std::fs::write(folder.0.join("log.lines"), &whole[..len]).unwrap();
        let again = LineFileBuffer::new(&path, 10).unwrap();
        again.write("three\n").unwrap();
        let seen = texts(&again.read(None).unwrap());
        assert_eq!(seen.last().unwrap(), "three");
        assert!(
            ["one", "two", "three"].ends_with(&[seen.last().unwrap().as_str()]) && seen.len() <= 2,
            "{seen:?}"
        );
    }
    for options in [
        LineFileBuffer::options().maxlen(0),
        LineFileBuffer::options().line_cap(1),
    ] {
        assert!(matches!(options.open(&path), Err(LineError::InvalidOption { .. })));
    }
    assert!(matches!(
        LineFileBuffer::new("/no/such/folder/x", 1),
        Err(LineError::Io { .. })
    ));
}

#[test]
fn who_is_stopped_with_the_lock_delays_others_until_their_timers_end() {
    let _watchdog = minute();
    let folder = folder("lines");
    let path = folder.0.join("log");
    let buffer = LineFileBuffer::options()
        .timeout(Duration::from_millis(30))
        .open(&path)
        .unwrap();
    let lock = std::fs::File::open(folder.0.join("log.lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    buffer.write("y").unwrap();
    let error = buffer.write("x\n").unwrap_err();
    assert!(
        matches!(&error, LineError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut),
        "{error}"
    );
    drop(lock);
    buffer.write("z\n").unwrap();
    assert_eq!(
        texts(&buffer.read(None).unwrap()),
        ["yz"],
        "the write that failed has taken nothing"
    );
}
