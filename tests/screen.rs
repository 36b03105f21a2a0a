//! What a reader does not want to hear: by sender, by kind, its own; changed at any time; and who is woken for what.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{eventually, minute, over_every_backing};
use syncq::{Error, Queue, Reader, Wait};

/// Tells the threads of a test to end, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kinds(reader: &mut Reader) -> Vec<String> {
    reader
        .drain()
        .map(|message| message.unwrap().kind().to_owned())
        .collect()
}

#[test]
fn a_screen_passes_over_senders_and_kinds_exactly() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        reader.screen().add_sender("chatty").add_kind("debug").add_kind("");
        for (sender, kind) in [
            ("chatty", "news"),
            ("quiet", "news"),
            ("quiet", "debug"),
            ("quiet", "debugs"),
            ("quiet", "debu"),
            ("quiet", "Debug"),
            ("quiet", ""),
            ("debug", "chatty"),
            ("chatt", "y"),
            ("chattyd", "ebug"),
        ] {
            queue.writer(sender).unwrap().append(kind, b"b", Wait::Never).unwrap();
        }
        assert_eq!(
            kinds(&mut reader),
            ["news", "debugs", "debu", "Debug", "chatty", "y", "ebug"]
        );
        let info = &queue.members()[usize::from(reader.id().slot())];
        assert_eq!((info.popped, info.screened), (7, 3));
        assert_eq!(queue.free(), 4096 - 64, "what is screened is let go too");
    });
}

#[test]
fn a_screen_that_is_replaced_as_a_whole_acts_at_once() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        reader.screen().add_kind("a");
        let saved = reader.screen().clone();
        reader.screen().add_kind("b");
        writer.append("b", b"", Wait::Never).unwrap();
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        *reader.screen() = saved;
        for kind in ["a", "b"] {
            writer.append(kind, b"", Wait::Never).unwrap();
        }
        assert_eq!(kinds(&mut reader), ["b"]);
        assert_eq!(queue.members()[usize::from(reader.id().slot())].screen, "kind:a");
    });
}

#[test]
fn what_is_taken_home_is_what_the_screen_of_now_lets_through() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("m").unwrap();
        let mut writer = queue.writer("w").unwrap();
        member.screen().add_kind("a").add_kind("b");
        writer.append("a", b"", Wait::Never).unwrap();
        assert!(member.pop(Wait::Never).unwrap().is_none());
        member.screen().remove_kind("a");
        while writer.append("a", b"now wanted", Wait::Never).is_ok() {}
        member.append("m", b"", Wait::Never).unwrap();
        let got = member
            .drain()
            .inspect(|message| assert_eq!(message.as_ref().unwrap().kind(), "a"));
        assert_eq!(got.count(), (4096 - 64) / 64);
    });
}

#[test]
fn a_change_acts_on_everything_not_popped_yet() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let mut writer = queue.writer("w").unwrap();
        for kind in ["a", "b", "a", "b", "c"] {
            writer.append(kind, b"", Wait::Never).unwrap();
        }
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().kind(), "a");
        reader.screen().add_kind("b");
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().kind(), "a");
        reader.screen().remove_kind("b").add_kind("c");
        // The first "b" was passed over and does not come back.
        assert_eq!(kinds(&mut reader), ["b"]);
        reader.screen().remove_kind("c").add_sender("w");
        writer.append("d", b"", Wait::Never).unwrap();
        assert!(reader.pop(Wait::Never).unwrap().is_none());
        assert!(reader.peek(Wait::Never).unwrap().is_none());
        reader.screen().remove_sender("w");
        writer.append("e", b"", Wait::Never).unwrap();
        assert_eq!(kinds(&mut reader), ["e"]);
    });
}

#[test]
fn a_screen_says_what_is_in_it() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        let screen = reader.screen();
        screen
            .add_sender("z")
            .add_sender("a")
            .add_sender("a")
            .add_kind("k")
            .add_kind(b"\xff");
        assert!(screen.has_sender("a") && !screen.has_sender("k"));
        assert!(screen.has_kind("k") && screen.has_kind(b"\xff") && !screen.has_kind("a"));
        assert_eq!(screen.senders().collect::<Vec<_>>(), [b"a", b"z"]);
        assert_eq!(screen.kinds().collect::<Vec<_>>(), [b"k", b"\xff"]);
        screen.remove_sender("a").remove_sender("never there").remove_kind("k");
        assert!(!screen.has_sender("a") && !screen.has_kind("k"));
        reader.pop(Wait::Never).unwrap();
        assert_eq!(queue.members()[0].screen, "sender:z, kind:\u{fffd}");
    });
}

#[test]
fn a_long_screen_is_shown_cut_and_acts_whole() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut reader = queue.reader().unwrap();
        for number in 0..100 {
            reader.screen().add_kind(format!("käse-{number:03}"));
        }
        let mut writer = queue.writer("w").unwrap();
        for kind in ["käse-000", "käse-099", "käse-100"] {
            writer.append(kind, b"", Wait::Never).unwrap();
        }
        assert_eq!(kinds(&mut reader), ["käse-100"]);
        let shown = &queue.members()[usize::from(reader.id().slot())].screen;
        assert!(shown.len() <= 248 && shown.len() > 240 && shown.starts_with("kind:käse-000, "));
    });
}

#[test]
fn more_kinds_than_there_are_wake_up_bits_are_all_heard() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        let mut readers: Vec<_> = (0..3).map(|_| queue.reader().unwrap()).collect();
        for (at, reader) in readers.iter_mut().enumerate() {
            for number in (0..60).filter(|number| number % 3 != at) {
                reader.screen().add_kind(number.to_string());
            }
        }
        let mut writer = queue.writer("w").unwrap();
        std::thread::scope(|threads| {
            for (at, reader) in readers.iter_mut().enumerate() {
                threads.spawn(move || {
                    for number in (0..60).filter(|number| number % 3 == at) {
                        let message = reader.pop(Wait::Forever).unwrap().unwrap();
                        assert_eq!(message.kind(), number.to_string());
                    }
                });
            }
            for number in 0..60 {
                writer.append(&number.to_string(), b"", Wait::Never).unwrap();
                std::thread::sleep(Duration::from_micros(300));
            }
        });
    });
}

#[test]
fn a_sleeper_is_woken_by_what_it_wants_behind_what_it_screens() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        let mut reader = queue.reader().unwrap();
        reader.screen().add_kind("debug");
        let mut writer = queue.writer("w").unwrap();
        std::thread::scope(|threads| {
            let reading = threads.spawn(|| reader.pop(Wait::Forever).unwrap().unwrap().into_owned());
            for _ in 0..200 {
                writer.append("debug", b"", Wait::Never).unwrap();
            }
            writer.append("news", b"!", Wait::Never).unwrap();
            assert_eq!(reading.join().unwrap().kind(), "news");
        });
    });
}

/// A writer remembers with a kind whom to wake for it. That must not go stale: a kind may get a wake-up bit of its own at any time.
#[test]
fn a_sleeper_is_woken_for_a_kind_that_its_writer_has_long_known() {
    let _watchdog = minute();
    let queue = Queue::options().spin(Duration::ZERO).heap().unwrap();
    let mut writer = queue.writer("w").unwrap();
    // It keeps its claim from here on, and knows the kind.
    for _ in 0..1000 {
        writer.append("tick", b"", Wait::Never).unwrap();
    }
    let mut reader = queue.reader().unwrap();
    reader.screen().add_kind("debug");
    let mut other = queue.reader().unwrap();
    const ROUNDS: u64 = 200;
    let heard = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 1..=ROUNDS {
                assert_eq!(reader.pop(Wait::Forever).unwrap().unwrap().kind(), "tick");
                heard.store(round, Ordering::Release);
            }
        });
        for round in 1..=ROUNDS {
            if round == ROUNDS / 2 {
                // The kind has a bit of its own from here on.
                other.screen().add_kind("tick");
                assert!(other.pop(Wait::Never).unwrap().is_none());
            }
            // Long enough to be asleep, mostly.
            std::thread::sleep(Duration::from_micros(500));
            writer.append("tick", b"", Wait::Never).unwrap();
            while heard.load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
        }
    });
    // A fraction of a second. A reader that is not woken looks up by itself twice a second.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn a_pop_that_screens_everything_ends_with_its_wait() {
    over_every_backing(&Queue::options().capacity(1 << 16), |queue| {
        let mut reader = queue.reader().unwrap();
        reader.screen().add_sender("w");
        let mut writer = queue.writer("w").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _stop = StopOnDrop(&stop);
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Full as soon as the reader is done.
                    let _ = writer.append("k", b"", Wait::For(Duration::from_millis(1)));
                }
            });
            let start = Instant::now();
            assert!(reader.pop(Wait::For(Duration::from_millis(30))).unwrap().is_none());
            assert!(start.elapsed() >= Duration::from_millis(30));
        });
    });
}

/// Nobody wakes a reader for a kind that it screens, but its cursor holds the writer back all the same: who needs the room
/// has to say so.
#[test]
fn a_reader_asleep_behind_what_it_screens_does_not_hold_writers_back_for_long() {
    let _watchdog = minute();
    let queue = Queue::options().capacity(4096).heap().unwrap();
    let mut reader = queue.reader().unwrap();
    reader.screen().add_kind("debug");
    let mut writer = queue.writer("w").unwrap();
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| reader.pop(Wait::Forever).unwrap().unwrap().into_owned());
        eventually("the reader shows its screen", || {
            queue.members().iter().any(|member| member.screen == "kind:debug")
        });
        let start = Instant::now();
        for _ in 0..200 * 63 {
            writer.append("debug", b"", Wait::Forever).unwrap();
        }
        // 200 laps take a few milliseconds when the reader is woken, and 20 s when it only looks up ten times a second.
        let took = start.elapsed();
        writer.append("news", b"", Wait::Forever).unwrap();
        assert_eq!(reading.join().unwrap().kind(), "news");
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn everybody_has_a_screen_of_their_own() {
    over_every_backing(&Queue::options().capacity(4096), |queue| {
        let mut member = queue.join("m").unwrap();
        let mut reader = queue.reader().unwrap();
        let mut observer = queue.observer().unwrap();
        member.screen().add_kind("a");
        reader.screen().add_kind("b");
        observer.screen().add_kind("c").add_sender("m");
        let mut writer = queue.writer("w").unwrap();
        for kind in ["a", "b", "c"] {
            writer.append(kind, b"", Wait::Never).unwrap();
        }
        member.append("m", b"", Wait::Never).unwrap();
        let kind = |message: Result<syncq::Message<'_>, Error>| message.unwrap().kind().to_owned();
        assert_eq!(member.drain().map(kind).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(reader.drain().map(kind).collect::<Vec<_>>(), ["a", "c", "m"]);
        assert_eq!(observer.drain().map(kind).collect::<Vec<_>>(), ["a", "b"]);
    });
}
