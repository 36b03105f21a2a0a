//! The line buffer of one process: what goes in, what comes out, and its bounds.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::{forked, minute};
use syncq::Wait;
use syncq::line::{Content, GroupedMessage, LineBuffer, LineError, LineItem, Lines, Mirror, Severity, Stream};

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

fn all(buffer: &LineBuffer) -> Vec<String> {
    texts(&buffer.read(None).unwrap())
}

/// What was written, then the items, then whether the last of them is unfinished. From runs of syncstream 1.2.2.
#[test]
fn writes_make_the_lines_that_the_original_makes() {
    let cases: &[(&[&str], &[&str], bool)] = &[
        (&["abc"], &["abc"], true),
        (&["abc\n"], &["abc"], false),
        (&["\n"], &[""], false),
        (&["\r"], &[""], false),
        (&["\r\n"], &[""], false),
        (&[""], &[], false),
        (&["a\nbc"], &["a", "bc"], true),
        (&["a\n\n"], &["a", ""], false),
        (&["\n\n"], &["", ""], false),
        (&["p", "\n"], &["p"], false),
        (&["p", "x\n"], &["px"], false),
        (&["p", "a\nbc"], &["pa", "bc"], true),
        (&["p", "\n\n\n"], &["p", "", ""], false),
        (&["10%\r20%\r30%\n"], &["10%", "20%", "30%"], false),
        (
            &["a\x0bb\x0cc\x1cd\x1de\x1ef\u{85}g\u{2028}h\u{2029}"],
            &["a", "b", "c", "d", "e", "f", "g", "h"],
            false,
        ),
        // Where the original makes an extra empty item: a break in two writes.
        (&["a\r", "\nb\n"], &["a", "b"], false),
    ];
    for (writes, lines, is_unfinished) in cases {
        let buffer = LineBuffer::new(20).unwrap();
        for text in *writes {
            assert_eq!(buffer.write(text).unwrap(), text.len());
        }
        let items = buffer.read(None).unwrap();
        assert_eq!(texts(&items), *lines, "{writes:?}");
        assert_eq!(buffer.len().unwrap(), lines.len(), "{writes:?}");
        if let Some(last) = items.last() {
            assert_eq!(last.line().unwrap().is_unfinished(), *is_unfinished, "{writes:?}");
        }
    }
}

#[test]
fn reading_gives_the_last_items_counts_the_pending_line_and_takes_nothing_away() {
    let buffer = LineBuffer::new(3).unwrap();
    buffer.write("l1\nl2\nl3\nl4\ntail").unwrap();
    for _ in 0..2 {
        assert_eq!(all(&buffer), ["l3", "l4", "tail"]);
        assert_eq!(texts(&buffer.read(1).unwrap()), ["tail"]);
        assert_eq!(texts(&buffer.read(2).unwrap()), ["l4", "tail"]);
        assert_eq!(texts(&buffer.read(100).unwrap()), ["l3", "l4", "tail"]);
        assert_eq!(texts(&buffer.read(0).unwrap()), [""; 0]);
        assert_eq!(buffer.len().unwrap(), 3);
    }
    buffer.new_line().unwrap();
    buffer.new_line().unwrap();
    assert_eq!(all(&buffer), ["l3", "l4", "tail"]);
    let seqs: Vec<u64> = buffer.read(None).unwrap().iter().map(|item| item.seq).collect();
    assert_eq!(seqs, [2, 3, 4]);
    assert_eq!(buffer.stats().unwrap().rotated, 2);
    buffer.clear().unwrap();
    assert_eq!(all(&buffer), [""; 0]);
    assert!(buffer.is_empty().unwrap());
    buffer.write("after\n").unwrap();
    assert_eq!(buffer.read(None).unwrap()[0].seq, 5, "numbers go on over clear");
}

#[test]
fn warnings_and_errors_are_one_item_each_and_end_the_pending_line_first() {
    let buffer = LineBuffer::new(10).unwrap();
    let worker = buffer.mirror("w");
    worker.write("pend").unwrap();
    worker.send_warning(&"a\nb").unwrap();
    worker.write("x").unwrap();
    let cause = LineError::from(syncq::Error::NotFound { queue: "q".into() });
    worker.send(&GroupedMessage::of_error(&cause)).unwrap();
    let items = buffer.read(None).unwrap();
    assert_eq!(texts(&items)[..3], ["pend", "a\nb", "x"]);
    let Content::Grouped(warning) = &items[1].content else {
        panic!("{items:?}")
    };
    assert_eq!((warning.severity, warning.data.len()), (Severity::Warning, 2));
    let error = items[3].grouped().unwrap();
    assert_eq!(error.severity, Severity::Error);
    assert_eq!(error.data, ["no queue named \"q\"", "caused by: no queue named \"q\""]);
    assert_eq!(items[3].origin.as_ref().unwrap().name, "w");
}

#[test]
fn bytes_that_are_not_text_arrive_unharmed_and_show_as_replaced() {
    let mut buffer = LineBuffer::new(10).unwrap();
    buffer.write_all(b"a\xff\xc3\nb\xed\xb2\x80\n").unwrap();
    let items = buffer.read(None).unwrap();
    assert_eq!(items[0].line().unwrap().bytes(), b"a\xff\xc3");
    assert_eq!(items[0].text(), "a\u{fffd}\u{fffd}");
    assert_eq!(items[1].line().unwrap().bytes(), b"b\xed\xb2\x80");
}

#[test]
fn a_character_in_two_writes_is_one_character() {
    let mut buffer = LineBuffer::new(10).unwrap();
    for byte in "né\u{2028}€\n".bytes() {
        buffer.write_all(&[byte]).unwrap();
    }
    assert_eq!(all(&buffer), ["né", "€"]);
}

#[test]
fn what_steers_terminals_is_kept_and_can_be_shown_escaped() {
    let buffer = LineBuffer::new(10).unwrap();
    buffer.write("\x1b[2Jfine\tok\u{202e}\n").unwrap();
    let item = &buffer.read(None).unwrap()[0];
    assert_eq!(item.text(), "\x1b[2Jfine\tok\u{202e}");
    assert_eq!(item.printable(), "\\u{1b}[2Jfine\tok\\u{202e}");
}

#[test]
fn lines_bytes_and_items_are_bounded() {
    let buffer = LineBuffer::options()
        .maxlen(1000)
        .max_bytes(160)
        .line_cap(64)
        .build()
        .unwrap();
    buffer.write("é".repeat(42) + "\n").unwrap();
    let items = buffer.read(None).unwrap();
    let line = items[0].line().unwrap();
    assert_eq!((line.text().as_ref(), line.cut()), ("é".repeat(32).as_str(), 20));
    assert_eq!(line.to_string(), "é".repeat(32) + " [20 bytes cut]");
    for n in 0..10 {
        buffer.write(format!("{n:050}\n")).unwrap();
    }
    let stats = buffer.stats().unwrap();
    assert_eq!((stats.kept, stats.bytes, stats.rotated, stats.cut), (3, 150, 8, 1));
    // An endless line takes no endless memory.
    for _ in 0..1000 {
        buffer.write("0123456789").unwrap();
    }
    let last = buffer.read(1).unwrap();
    assert_eq!(last[0].line().unwrap().bytes().len(), 64);
    assert_eq!(last[0].line().unwrap().cut(), 9936);
    buffer.send_error(&"long line\n".repeat(100)).unwrap();
    let error = &buffer.read(1).unwrap()[0];
    let data = error.grouped().unwrap().into_owned().data;
    assert_eq!(data.last().unwrap(), "[976 bytes cut]");
}

#[test]
fn following_gives_what_is_there_and_what_comes_and_says_what_was_missed() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(5).unwrap();
    for n in 0..8 {
        buffer.write(format!("{n}\n")).unwrap();
    }
    let mut follow = buffer.follow(Wait::For(Duration::from_secs(30)));
    assert_eq!(follow.next().unwrap().unwrap().content, Content::Dropped(3));
    let writer = {
        let buffer = buffer.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            buffer.write("late\npending").unwrap();
        })
    };
    let seen: Vec<String> = follow.by_ref().take(6).map(|item| item.unwrap().to_string()).collect();
    assert_eq!(seen, ["3", "4", "5", "6", "7", "late"]);
    writer.join().unwrap();
    follow.set_wait(Wait::Never);
    assert!(follow.next().is_none(), "an unfinished line is not given yet");
    assert_eq!(follow.next_seq(), 9);
    assert_eq!((&buffer).into_iter().count(), 6, "5 items and a note");
}

#[test]
fn following_ends_when_the_buffer_is_closed() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(5).unwrap();
    let follower = {
        let buffer = buffer.clone();
        std::thread::spawn(move || buffer.follow(Wait::Forever).count())
    };
    buffer.write("one\n").unwrap();
    while buffer.stats().unwrap().stored == 0 {}
    std::thread::sleep(Duration::from_millis(20));
    buffer.close().unwrap();
    buffer.close().unwrap();
    assert!(follower.join().unwrap() <= 1);
    assert!(matches!(buffer.write("x"), Err(LineError::Closed)));
    assert!(matches!(buffer.read(None), Err(LineError::Closed)));
    let error = Write::flush(&mut &buffer).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
}

#[test]
fn threads_and_mirrors_have_pending_lines_of_their_own() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(100_000).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let mut buffer = &buffer;
            scope.spawn(move || {
                for n in 0..2000 {
                    // As Python's print does: piece by piece.
                    for piece in ["thread ", &thread.to_string(), " line ", &n.to_string(), " end", "\n"] {
                        buffer.write_all(piece.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    let mut next = [0; 4];
    for line in all(&buffer) {
        let words: Vec<&str> = line.split(' ').collect();
        let thread: usize = words[1].parse().unwrap();
        assert_eq!(line, format!("thread {thread} line {} end", next[thread]));
        next[thread] += 1;
    }
    assert_eq!(next, [2000; 4]);
}

#[test]
fn a_mirror_that_is_dropped_ends_its_lines_and_one_line_serves_all_threads() {
    let buffer = LineBuffer::new(10).unwrap();
    let mirror = buffer.mirror_of("remote", 7).one_line();
    mirror.write("from one thread, ").unwrap();
    std::thread::scope(|scope| scope.spawn(|| mirror.write("and another").unwrap()).join().unwrap());
    assert!(buffer.read(None).unwrap()[0].line().unwrap().is_unfinished());
    drop(mirror);
    let items = buffer.read(None).unwrap();
    assert_eq!(texts(&items), ["from one thread, and another"]);
    assert!(!items[0].line().unwrap().is_unfinished());
    assert_eq!(
        (items[0].origin.as_ref().unwrap().pid, items[0].stream),
        (7, Stream::Text)
    );
}

#[test]
fn what_decides_about_keeping_may_read_the_buffer() {
    let _watchdog = minute();
    let seen = Arc::new(AtomicU32::new(0));
    let this: Arc<std::sync::OnceLock<LineBuffer>> = Arc::default();
    let buffer = LineBuffer::options()
        .keep({
            let (seen, this) = (seen.clone(), this.clone());
            move |item| {
                seen.fetch_add(
                    this.get().map_or(0, |buffer| buffer.len().unwrap() as u32),
                    Ordering::Relaxed,
                );
                !item.text().starts_with(">>> Progress")
            }
        })
        .build()
        .unwrap();
    this.set(buffer.clone()).unwrap();
    buffer.write("a\n>>> Progress: 10%.\nb\n>>> Progress: 20%.\n").unwrap();
    buffer.write("c\n").unwrap();
    assert_eq!(all(&buffer), ["a", "b", "c"]);
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

#[test]
fn stopped_mirrors_may_still_say_their_last_words() {
    let buffer = LineBuffer::new(10).unwrap();
    let mirror = buffer.mirror("w");
    mirror.write("half a li").unwrap();
    buffer.stop_all_mirrors().unwrap();
    assert!(buffer.is_stopped());
    assert!(matches!(mirror.write("ne\n"), Err(LineError::Stopped)));
    mirror.send_error(&"stopped").unwrap();
    mirror.close().unwrap();
    buffer.write("the buffer itself goes on\n").unwrap();
    buffer.reset_states().unwrap();
    buffer.mirror("next").write("again\n").unwrap();
    assert_eq!(
        all(&buffer),
        ["half a li", "stopped", "the buffer itself goes on", "again"]
    );
}

#[test]
fn a_forked_child_is_told_that_the_buffer_is_not_its_own() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(10).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                buffer.write("x\n").unwrap();
            }
        });
        for _ in 0..20 {
            // Forked while another thread is likely to have the lock.
            forked(|| {
                let is_told = matches!(buffer.write("x\n"), Err(LineError::Forked))
                    && matches!(buffer.read(None), Err(LineError::Forked));
                drop(buffer.mirror("child"));
                i32::from(!is_told)
            })
            .must_succeed();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn impossible_options_are_refused() {
    for options in [LineBuffer::options().maxlen(0), LineBuffer::options().line_cap(3)] {
        assert!(matches!(options.build(), Err(LineError::InvalidOption { .. })));
    }
}
