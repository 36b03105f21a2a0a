//! `create`, `rm`, `append`, `tail`, `pop`: what goes in comes out, and every way to fail has its code and its words.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{history, run, run_with_input, start, until, until_joined};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::time::Duration;
use support::{folder, minute, named, unique};
use syncq::{Queue, Wait};

/// Removes a queue that a command made.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = Queue::unlink_name(&self.0);
    }
}

#[test]
fn create_makes_what_was_asked_for_and_rm_removes_it() {
    let _watchdog = minute();
    let name = Gone(unique("create"));
    let options = [
        "--capacity",
        "64k",
        "--slots",
        "5",
        "--mode",
        "640",
        "--lossy",
        "--single-writer",
        "--timestamps",
    ];
    run(&[&["create", &name.0][..], &options].concat()).ok();
    let queue = Queue::open(&name.0).expect("it was made");
    let stats = queue.stats();
    assert_eq!((stats.capacity, stats.slots), (65536, 5));
    assert!(stats.is_lossy && stats.is_single_writer && stats.has_timestamps && !stats.unlinks_on_last_leave);
    let mode = std::fs::metadata(queue.path().expect("it has a name")).expect("it is there");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o640
    );

    let err = run(&["create", &name.0]).fails(1);
    assert!(
        err.contains(&name.0) && err.contains("exists already") && err.contains("syncq info"),
        "{err}"
    );
    run(&["create", &name.0, "--if-missing"]).ok();
    run(&["rm", &name.0]).ok();
    assert!(!queue.is_current());
    let err = run(&["rm", &name.0]).fails(1);
    assert!(err.contains("no queue named") && err.contains("syncq ls"), "{err}");
    assert!(
        run(&["create", &name.0, "-c", "5000"])
            .fails(2)
            .contains("4096 and 8192")
    );
    assert!(run(&["create", "a\x1b[31m"]).fails(2).contains("control character"));
    assert!(run(&["create", &name.0, "-c", "1x"]).fails(2).contains("unknown unit"));
}

#[test]
fn a_queue_in_a_file_of_its_own_is_named_by_its_path() {
    let _watchdog = minute();
    let folder = folder("cli-path");
    let path = folder.0.join("ring").to_string_lossy().into_owned();
    run(&["create", &path]).ok();
    run(&["append", &path, "hello"]).ok();
    assert_eq!(run(&["pop", &path, "--drain"]).ok(), "hello\n");
    assert!(run(&["info", &path]).ok().contains(&path));
    run(&["rm", &path]).ok();
    assert!(!folder.0.join("ring").exists());
}

#[test]
fn rm_refuses_a_queue_in_use_and_names_who_uses_it() {
    let _watchdog = minute();
    let named = named("inuse", &Queue::options());
    let me = named.queue.join("somebody").expect("there is a slot");
    let err = run(&["rm", &named.name]).fails(1);
    let who = format!("somebody ({})", std::process::id());
    assert!(err.contains(&who) && err.contains("--force"), "{err}");
    assert!(named.queue.is_current());
    run(&["rm", "--force", &named.name]).ok();
    assert!(!named.queue.is_current());
    drop(me);
}

#[test]
fn rm_takes_broken_files_only_by_force() {
    let _watchdog = minute();
    let name = Gone(unique("broken"));
    std::fs::write(format!("/dev/shm/syncq.{}", name.0), "not a queue").expect("shared memory is writable");
    let err = run(&["rm", &name.0]).fails(1);
    assert!(err.contains("not a queue") && err.contains("rm --force"), "{err}");
    run(&["rm", "--force", &name.0]).ok();
    assert!(run(&["rm", "--force", &name.0]).fails(1).contains("no queue named"));
}

#[test]
fn append_takes_arguments_lines_and_files() {
    let _watchdog = minute();
    let named = named("append", &Queue::options());
    let name = named.name.as_str();
    run(&["append", name, "-k", "note", "-s", "me", "one", "--", "-two"]).ok();
    run_with_input(&["append", name], b"a\r\n\nno newline").ok();
    run_with_input(&["append", name, "--file", "-", "-k", "body"], b"lines\nof one\nbody\n").ok();
    let folder = folder("cli-append");
    let path = folder.0.join("file").to_string_lossy().into_owned();
    std::fs::write(&path, "x\ny\nz\n").expect("a fresh folder");
    run(&["append", name, "--file", &path, "-k", "body"]).ok();
    run(&["append", name, "--lines", &path, "-n", "2"]).ok();
    let bodies = history(name);
    let expected: &[(&str, &str, &[u8])] = &[
        ("me", "note", b"one"),
        ("me", "note", b"-two"),
        ("append", "", b"a\r"),
        ("append", "", b""),
        ("append", "", b"no newline"),
        ("append", "body", b"lines\nof one\nbody\n"),
        ("append", "body", b"x\ny\nz\n"),
        ("append", "", b"x"),
        ("append", "", b"y"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(s, k, b)| (s.to_string(), k.to_string(), b.to_vec()))
        .collect();
    assert_eq!(bodies, expected);
}

#[test]
fn append_makes_a_missing_queue_only_when_asked() {
    let _watchdog = minute();
    let name = Gone(unique("missing"));
    let err = run(&["append", &name.0, "x"]).fails(1);
    assert!(err.contains(&name.0) && err.contains("syncq create"), "{err}");
    run(&["append", "--create", &name.0, "x"]).ok();
    assert_eq!(history(&name.0).len(), 1);
}

#[test]
fn append_waits_for_room_as_long_as_it_is_told_and_says_who_is_in_the_way() {
    let _watchdog = minute();
    let named = named("full", &Queue::options().capacity(4096));
    let mut slow = named.queue.joining().sender("slow").reader().expect("there is a slot");
    let input = b"0123456789\n".repeat(1000);
    let running = start(&["append", &named.name, "--timeout", "300ms"]);
    let mut running = running;
    let mut stdin = running.stdin();
    stdin.write_all(&input).expect("it reads");
    drop(stdin);
    let ran = running.end();
    let err = ran.fails(124);
    assert!(
        err.contains("is full") && err.contains("\"slow\"") && err.contains("syncq info"),
        "{err}"
    );
    // What came before is there, in order, and with a reader that reads everything goes through.
    let before = slow
        .drain()
        .filter(|m| m.as_ref().is_ok_and(|m| m.body() == b"0123456789"))
        .count();
    assert!(before > 10, "{before}");
    let mut running = start(&["append", &named.name]);
    let mut stdin = running.stdin();
    let writer = std::thread::spawn(move || stdin.write_all(&input).expect("it reads"));
    for _ in 0..1000 {
        assert!(slow.pop(Wait::Forever).expect("it is whole").is_some());
    }
    writer.join().expect("the writer does not panic");
    running.end().ok();
}

#[test]
fn a_line_that_never_fits_is_named_and_those_before_it_are_there() {
    let _watchdog = minute();
    let named = named("long", &Queue::options().capacity(4096));
    let mut input = b"first\n".to_vec();
    input.extend_from_slice(&[b'x'; 5000]);
    input.extend_from_slice(b"\nlast\n");
    let err = run_with_input(&["append", &named.name], &input).fails(1);
    assert!(
        err.contains("line 2") && err.contains("5000 bytes") && err.contains("--capacity"),
        "{err}"
    );
    assert_eq!(history(&named.name).len(), 1);
    let folder = folder("cli-long");
    let path = folder.0.join("file").to_string_lossy().into_owned();
    std::fs::write(&path, [b'x'; 5000]).expect("a fresh folder");
    assert!(
        run(&["append", &named.name, "-f", &path])
            .fails(1)
            .contains("5000 bytes")
    );
    // Endless, without a newline: an error at once, not after it has eaten the machine.
    assert!(
        run(&["append", &named.name, "-l", "/dev/zero"])
            .fails(1)
            .contains("line 1 of /dev/zero")
    );
    assert!(
        run(&["append", &named.name, "-f", "/dev/zero"])
            .fails(1)
            .contains("or longer")
    );
    assert!(
        run(&["append", &named.name, "-f", "/no/such/file"])
            .fails(1)
            .contains("/no/such/file")
    );
}

#[test]
fn append_writes_what_it_has_read_when_it_is_told_to_stop() {
    let _watchdog = minute();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let named = named("stop", &Queue::options());
        let mut running = start(&["append", &named.name]);
        let mut stdin = running.stdin();
        stdin.write_all(b"one\ntwo\nhalf").expect("it reads");
        until("the lines are there", || history(&named.name).len() == 2);
        running.signal(signal);
        running.end().ok();
        assert_eq!(history(&named.name)[2].2, b"half");
    }
}

#[test]
fn tail_and_pop_show_messages_in_every_format() {
    let _watchdog = minute();
    let named = named("format", &Queue::options().timestamps(true));
    let mut writer = named.queue.writer("me").expect("there is a slot");
    writer.append("k", b"plain", Wait::Never).expect("there is room");
    writer.append("", b"\x1b[31mred\n", Wait::Never).expect("there is room");
    writer.append("bin", b"\xff\x00", Wait::Never).expect("there is room");
    for command in ["tail", "pop"] {
        let show = |args: &[&str]| run(&[&[command, &named.name, "--drain"][..], args].concat());
        assert_eq!(
            show(&["--format", "text"]).ok(),
            "me k plain\nme - \\u{1b}[31mred\\n\nme bin \u{fffd}\\u{0}\n"
        );
        assert_eq!(show(&["--format", "line"]).bytes, b"plain\n\x1b[31mred\n\n\xff\0\n");
        assert_eq!(show(&["--format", "raw"]).bytes, b"plain\x1b[31mred\n\xff\0");
        let json = show(&["--json"]).json();
        assert_eq!(json[0]["body"], "plain");
        assert_eq!(
            (&json[0]["sender"], &json[0]["kind"], &json[0]["sequence"]),
            (&"me".into(), &"k".into(), &0.into())
        );
        assert!(json[0]["time"].as_str().is_some_and(|t| t.ends_with('Z')));
        assert_eq!(json[2]["body_base64"], "/wA=");
        let template = "{sequence}\\t{sender}/{kind}={body}\\n";
        assert_eq!(show(&["-t", template, "-n", "1"]).ok(), "0\tme/k=plain\n");
        assert!(show(&["-t", "{nothing}"]).fails(2).contains("{nothing} means nothing"));
        assert_eq!(show(&["--kind", "k", "--format", "line"]).ok(), "plain\n");
        assert_eq!(
            show(&["--not-kind", "k", "--not-kind", "bin", "--format", "raw"]).bytes,
            b"\x1b[31mred\n"
        );
        assert_eq!(show(&["--not-sender", "me"]).ok(), "");
        assert_eq!(show(&["--sender", "you"]).ok(), "");
    }
    let coloured = run(&["tail", &named.name, "-d", "-n", "1", "--color", "always"]).ok();
    assert!(coloured.contains("\x1b[36mme\x1b[0m"), "{coloured:?}");
    assert_eq!(run(&["tail", &named.name, "-d", "-n", "1"]).ok(), "me k plain\n");
    assert_eq!(run(&["pop", &named.name, "-d", "-n", "1"]).ok(), "plain\n");
}

#[test]
fn tail_and_pop_end_by_count_by_time_and_by_signal() {
    let _watchdog = minute();
    let named = named("ends", &Queue::options());
    let name = named.name.as_str();
    let mut writer = named.queue.writer("me").expect("there is a slot");
    for command in ["tail", "pop"] {
        let begun = std::time::Instant::now();
        assert_eq!(run(&[command, name, "--timeout", "200ms"]).code, Some(124));
        assert!(begun.elapsed() >= Duration::from_millis(200));
        writer.append("", b"x", Wait::Never).expect("there is room");
        assert_eq!(
            run(&[command, name, "--from", "oldest", "-n", "1", "-f", "line"]).ok(),
            "x\n"
        );
        for (signal, count, code) in [
            (Signal::SIGINT, None, 0),
            (Signal::SIGTERM, None, 0),
            (Signal::SIGINT, Some("99"), 1),
        ] {
            let mut args = vec![command, name, "--from", "oldest", "-f", "line"];
            args.extend(count.iter().flat_map(|n| ["-n", n]));
            let mut running = start(&args);
            let mut first = [0; 2];
            running
                .stdout()
                .read_exact(&mut first)
                .expect("it prints what is there, and at once");
            assert_eq!(&first, b"x\n");
            running.signal(signal);
            assert_eq!(running.end().code, Some(code));
        }
    }
    // Time runs on while only others' messages come.
    let running = start(&["tail", name, "--kind", "never", "--timeout", "200ms"]);
    let pid = running.pid();
    until("it has given up", || {
        writer.append("often", b"", Wait::Never).expect("there is room");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it was not waited for");
        stat.contains(") Z ")
    });
    assert_eq!(running.end().code, Some(124));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let _watchdog = minute();
    let named = named("pipe", &Queue::options());
    let mut writer = named.queue.writer("me").expect("there is a slot");
    let mut running = start(&["pop", &named.name]);
    until_joined(&named.queue, running.pid());
    drop(running.stdout());
    let pid = running.pid();
    until("it has noticed", || {
        writer.append("", b"x", Wait::Forever).expect("it reads, or is gone");
        !named.queue.members().iter().any(|m| m.pid == pid)
    });
    let ran = running.end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn tail_says_how_much_it_missed_and_pop_misses_nothing() {
    let _watchdog = minute();
    let named = named("lag", &Queue::options().capacity(4096));
    let mut writer = named.queue.writer("me").expect("there is a slot");
    writer.append("", b"ready", Wait::Never).expect("there is room");
    let mut tail = start(&["tail", &named.name, "--from", "oldest", "-f", "line"]);
    let mut shown = tail.stdout();
    let mut first = [0; 6];
    shown.read_exact(&mut first).expect("it prints what is there");
    assert_eq!(&first, b"ready\n");
    tail.signal(Signal::SIGSTOP);
    let pop = start(&["pop", &named.name, "-n", "1000"]);
    until_joined(&named.queue, pop.pid());
    for n in 0..1000 {
        writer
            .append("", format!("{n}").as_bytes(), Wait::Forever)
            .expect("the reader reads");
    }
    let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(pop.end().ok(), expected);
    tail.signal(Signal::SIGCONT);
    let mut rest = String::new();
    let mut last = [0; 1];
    while !rest.ends_with("\n999\n") {
        assert_eq!(shown.read(&mut last).expect("it runs"), 1, "it ended early: {rest}");
        rest.push(last[0].into());
    }
    tail.signal(Signal::SIGINT);
    let ran = tail.end();
    let missed = ran
        .err
        .split("missed ")
        .nth(1)
        .and_then(|words| words.split(' ').next()?.parse::<usize>().ok());
    assert_eq!(rest.lines().count() + missed.expect("it says so"), 1000, "{ran:?}");
}

#[test]
fn usage_is_explained_with_code_2_and_help_with_0() {
    let _watchdog = minute();
    assert!(run(&[]).fails(2).contains("Usage"));
    assert!(run(&["frobnicate"]).fails(2).contains("frobnicate"));
    assert!(run(&["tail"]).fails(2).contains("QUEUE"));
    assert!(run(&["tail", "x", "--timeout", "soon"]).fails(2).contains("--timeout"));
    assert!(run(&["--help"]).ok().contains("Exit codes"));
    assert!(run(&["help", "tail"]).ok().contains("--template"));
    assert!(run(&["--version"]).ok().starts_with("syncq "));
}
