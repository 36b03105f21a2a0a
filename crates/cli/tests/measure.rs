//! `latency`, `bench`, `record`, `replay`: figures come with their command, recordings come back byte for byte and in time.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{Running, history, run, start, until, until_joined};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{folder, minute, named};
use syncq::{Overflow, Queue, Wait};

/// No queue of this process number is left.
#[track_caller]
fn nothing_is_left_of(pid: u32) {
    let names = Queue::names().expect("shared memory can be listed");
    let left: Vec<_> = names.iter().filter(|name| name.ends_with(&format!("-{pid}"))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn latency_prints_a_histogram_with_command_and_machine() {
    let _watchdog = minute();
    let running = start(&["latency", "-n", "500"]);
    let pid = running.pid();
    let text = running.end().ok();
    assert!(
        text.starts_with("syncq latency -n 500\n") && text.contains("Linux") && text.contains("500 round trips"),
        "{text}"
    );
    for quantile in ["min", "p50", "p99", "p99.99", "max"] {
        assert!(text.contains(&format!("\n  {quantile} ")), "{quantile}: {text}");
    }
    nothing_is_left_of(pid);
    let named = named("latency", &Queue::options());
    let json = &run(&[
        "latency",
        &named.name,
        "-n",
        "200",
        "-s",
        "100",
        "--json",
        "-i",
        "100us",
    ])
    .json()[0];
    let value = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {json}"));
    assert!(value("round_trips") == 200 && value("min") > 0, "{json}");
    assert!(
        value("min") <= value("p50") && value("p50") <= value("p99") && value("p99") <= value("max"),
        "{json}"
    );
    assert!(named.queue.is_current(), "a queue of somebody else's stays");
    until("nobody is left in it", || named.queue.members().is_empty());
}

#[test]
fn latency_gives_up_in_time_when_somebody_is_in_the_way() {
    let _watchdog = minute();
    let named = named("nolatency", &Queue::options().capacity(4096));
    let _reads_nothing = named.queue.reader().expect("there is a slot");
    let ran = run(&["latency", &named.name, "-n", "500", "--timeout", "200ms"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
}

#[test]
fn bench_prints_rates_with_command_and_machine() {
    let _watchdog = minute();
    let args = [
        "bench",
        "-w",
        "2",
        "-r",
        "2",
        "-s",
        "100",
        "-b",
        "4",
        "--seconds",
        "0.3",
    ];
    let running = start(&args);
    let pid = running.pid();
    let text = running.end().ok();
    assert!(text.starts_with(&format!("syncq {}\n", args.join(" "))), "{text}");
    assert!(
        text.contains("Linux") && text.contains("bodies of 100 bytes") && text.contains("writers  "),
        "{text}"
    );
    nothing_is_left_of(pid);
    let json = &run(&["bench", "--seconds", "0.3", "--json"]).json()[0];
    assert!(
        json["messages_per_second"].as_f64().is_some_and(|rate| rate > 100.0),
        "{json}"
    );
    assert_eq!(json["readers"].as_array().map(Vec::len), Some(1));
    assert!(run(&["bench", "-s", "2M"]).fails(2).contains("--capacity"));
    run(&["bench", "-w", "0"]).fails(2);
}

#[test]
fn a_killed_measurement_leaves_no_queue_and_no_process() {
    let _watchdog = minute();
    let mut running = start(&["bench", "--seconds", "60"]);
    let pid = running.pid();
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    until("both are there and the name is gone", || {
        let is_gone = !Queue::names().is_ok_and(|names| names.iter().any(|n| n.ends_with(&format!("-{pid}"))));
        children().split_whitespace().count() == 2 && is_gone
    });
    let children: Vec<i32> = children()
        .split_whitespace()
        .map(|pid| pid.parse().expect("a number"))
        .collect();
    running.stdin();
    running.signal(Signal::SIGKILL);
    running.end();
    for child in children {
        let runs = || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        until("it has ended with its parent", || !runs());
    }
    nothing_is_left_of(pid);
}

struct Recorded {
    file: PathBuf,
    _folder: support::Folder,
}

impl Recorded {
    fn new() -> Self {
        let folder = folder("recording");
        Recorded {
            file: folder.0.join("file"),
            _folder: folder,
        }
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("the target folder is text")
    }
}

/// Senders, kinds and bodies of all sorts, at irregular times. How long it took.
fn mixed_traffic(queue: &Queue) -> Duration {
    let mut writers: Vec<_> = ["a", "b", "", "ünï"]
        .map(|name| queue.writer(name).expect("a slot"))
        .into();
    let longest = "x".repeat(255);
    let begun = Instant::now();
    for n in 0..200u32 {
        let body: Vec<u8> = (0..n * 37 % 3000).map(|i| (i ^ n) as u8).collect();
        let kind = ["", "k", "ünï\n", longest.as_str()][n as usize / 4 % 4];
        writers[n as usize % 4]
            .append(kind, &body, Wait::Forever)
            .expect("there is room");
        if n % 10 == 0 {
            std::thread::sleep(Duration::from_millis(u64::from(n % 30)));
        }
    }
    begun.elapsed()
}

fn record(queue: &support::Named, recorded: &Recorded, options: &[&str]) -> Running {
    let running = start(&[&["record", &queue.name, recorded.path()], options].concat());
    until_joined(&queue.queue, running.pid());
    running
}

#[test]
fn a_recording_replays_byte_for_byte_in_order_and_in_time() {
    let _watchdog = minute();
    let options = || Queue::options().capacity(1 << 20).timestamps(true).clone();
    let (from, to) = (named("from", &options()), named("to", &options()));
    let recorded = Recorded::new();
    let recording = record(&from, &recorded, &["-n", "200"]);
    let took = mixed_traffic(&from.queue);
    recording.end().ok();

    let again = Recorded::new();
    let recording = record(&to, &again, &["-n", "200"]);
    let begun = Instant::now();
    run(&["replay", recorded.path(), &to.name]).ok();
    assert!(
        begun.elapsed() + Duration::from_millis(20) > took,
        "as long as it took: {:?} {took:?}",
        begun.elapsed()
    );
    recording.end().ok();
    assert_eq!(history(&to.name), history(&from.name));

    // Every message comes no earlier than it should, and in the middle not later than the scheduler makes it.
    let times = |name: &str| -> Vec<f64> {
        let json = run(&["tail", name, "--drain", "--json"]).json();
        let mut observer = Queue::options()
            .observe(name, syncq::Start::Oldest)
            .expect("it is there");
        let stamps: Vec<_> = observer
            .drain()
            .map(|m| m.expect("whole").timestamp().expect("it has one"))
            .collect();
        assert_eq!(json.len(), stamps.len());
        stamps
            .iter()
            .map(|t| t.duration_since(stamps[0]).unwrap_or_default().as_secs_f64())
            .collect()
    };
    let late: Vec<f64> = times(&to.name)
        .iter()
        .zip(times(&from.name))
        .map(|(to, from)| to - from)
        .collect();
    let mut sorted = late.clone();
    sorted.sort_by(f64::total_cmp);
    eprintln!(
        "late: median {:.6} s, 90 % {:.6} s, most {:.6} s",
        sorted[100], sorted[180], sorted[199]
    );
    // The first one was late too, which makes the others look early by as much.
    assert!(sorted[0] > -0.250 && sorted[100].abs() < 0.250, "{sorted:?}");

    // Ten times as fast takes a tenth, and as fast as it goes is not waited for at all.
    let begun = Instant::now();
    run(&["replay", recorded.path(), &to.name, "--speed", "10"]).ok();
    let fast = begun.elapsed();
    assert!(fast + Duration::from_millis(20) > took / 10, "{fast:?} {took:?}");
    run(&["replay", recorded.path(), &to.name, "--speed", "0", "-n", "7"]).ok();
    assert_eq!(to.queue.stats().appended, 407);
}

#[test]
fn what_was_recorded_before_a_kill_is_whole_and_replays() {
    let _watchdog = minute();
    let (from, to) = (named("kfrom", &Queue::options()), named("kto", &Queue::options()));
    let recorded = Recorded::new();
    let recording = record(&from, &recorded, &[]);
    mixed_traffic(&from.queue);
    let len = || std::fs::metadata(&recorded.file).map_or(0, |m| m.len());
    until("all of it was read", || from.queue.members().iter().all(|m| m.lag == 0));
    until("all of it was written", || len() > 100_000);
    recording.signal(Signal::SIGKILL);
    recording.end();
    run(&["replay", recorded.path(), &to.name, "-x", "0"]).ok();
    assert_eq!(history(&to.name), history(&from.name));
    // Cut off in the middle of a message: everything before it comes, and the rest is told.
    let bytes = std::fs::read(&recorded.file).expect("it is there");
    std::fs::write(&recorded.file, &bytes[..bytes.len() - 5]).expect("it is mine");
    let before = to.queue.stats().appended;
    let err = run(&["replay", recorded.path(), &to.name, "-x", "0"]).fails(1);
    assert!(
        err.contains("ends in the middle of a message") && err.contains(recorded.path()),
        "{err}"
    );
    assert_eq!(to.queue.stats().appended, before + 199);
}

#[test]
fn record_ends_by_count_time_signal_and_drain_and_spares_files() {
    let _watchdog = minute();
    let named = named("recends", &Queue::options());
    let mut writer = named.queue.writer("w").expect("there is a slot");
    writer.append("", b"one", Wait::Never).expect("there is room");
    let recorded = Recorded::new();
    assert_eq!(
        run(&["record", &named.name, recorded.path(), "--timeout", "50ms"]).code,
        Some(124)
    );
    let err = run(&["record", &named.name, recorded.path()]).fails(1);
    assert!(err.contains("exists") && err.contains("--force"), "{err}");
    run(&[
        "record",
        &named.name,
        recorded.path(),
        "--force",
        "--from",
        "oldest",
        "-n",
        "1",
    ])
    .ok();
    let piped = run(&["record", &named.name, "-", "--from", "oldest", "--drain"]);
    assert_eq!(
        piped.bytes.len(),
        std::fs::metadata(&recorded.file).expect("it is there").len() as usize
    );
    let running = start(&["record", &named.name, recorded.path(), "--force"]);
    until_joined(&named.queue, running.pid());
    writer.append("", b"two", Wait::Never).expect("there is room");
    until("it was read", || named.queue.members().iter().all(|m| m.lag == 0));
    running.signal(Signal::SIGTERM);
    running.end().ok();
    run(&["replay", recorded.path(), &named.name]).ok();
    assert_eq!(history(&named.name).last().expect("a message").2, b"two");
    assert!(
        run(&["record", "no-such-queue", "/no/file"])
            .fails(1)
            .contains("no-such-queue")
    );
}

#[test]
fn an_observing_recorder_holds_nobody_back_and_notes_its_gaps() {
    let _watchdog = minute();
    let options = Queue::options().capacity(4096).overflow(Overflow::Block);
    let (named, to) = (named("gap", &options), named("gapto", &Queue::options()));
    let mut writer = named.queue.writer("w").expect("there is a slot");
    writer.append("", b"first", Wait::Never).expect("there is room");
    let recorded = Recorded::new();
    let running = start(&["record", "--observe", &named.name, recorded.path(), "--from", "oldest"]);
    let len = || std::fs::metadata(&recorded.file).map_or(0, |m| m.len());
    until("it has begun", || len() > 32);
    running.signal(Signal::SIGSTOP);
    for n in 0..1000u32 {
        writer
            .append("", &n.to_le_bytes(), Wait::Never)
            .expect("nobody holds it back");
    }
    running.signal(Signal::SIGCONT);
    until("it has caught up", || len() > 32 + 29 + 20 * 30);
    running.signal(Signal::SIGINT);
    let ran = running.end();
    assert!(ran.err.contains("missed"), "{ran:?}");
    ran.ok();
    let replayed = run(&["replay", recorded.path(), &to.name, "-x", "0"]);
    let missed: u64 = replayed
        .err
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .expect("a number");
    replayed.ok();
    assert_eq!(to.queue.stats().appended + missed, 1001);
}

#[test]
fn what_is_no_recording_is_refused() {
    let _watchdog = minute();
    let named = named("norec", &Queue::options());
    let recorded = Recorded::new();
    for (bytes, why) in [(&b""[..], "too short"), (&[0; 100], "does not begin like one")] {
        std::fs::write(&recorded.file, bytes).expect("a fresh folder");
        assert!(run(&["replay", recorded.path(), &named.name]).fails(1).contains(why));
    }
    assert!(run(&["replay", "/no/file", &named.name]).fails(1).contains("/no/file"));
    run(&["replay", recorded.path(), &named.name, "--speed", "-1"]).fails(2);
    assert_eq!(named.queue.stats().appended, 0);
}
