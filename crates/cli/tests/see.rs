//! `ls`, `info`, `stat`, `doctor`: what they say of live, idle, stale, stuck and broken queues, and that looking disturbs nobody.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{SYNCQ, run, start, until, until_joined};
use nix::sys::signal::Signal;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::{SharedWord, forked, minute, named, unique};
use syncq::{Queue, Wait};

/// Something in the shared-memory folder that goes away with this.
struct Planted(PathBuf);

impl Planted {
    fn new(name: &[u8]) -> Self {
        Planted(PathBuf::from("/dev/shm").join(std::ffi::OsStr::from_bytes(&[b"syncq.", name].concat())))
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn ls_shows_size_fill_members_rate_and_who_is_behind() {
    let _watchdog = minute();
    let named = named("ls", &Queue::options().capacity(1 << 16));
    let name = named.name.as_str();
    assert_eq!(run(&["ls", name, "--json"]).json()[0]["state"], "idle");
    let _slow = named.queue.joining().sender("slow").reader().expect("there is a slot");
    let mut writer = named.queue.writer("fast").expect("there is a slot");
    writer.append("", &[7; 32_000], Wait::Never).expect("there is room");
    let text = run(&["ls", name]).ok();
    let (head, row) = text.split_once('\n').expect("two lines");
    assert!(head.starts_with("NAME") && head.contains("BEHIND"), "{text}");
    for part in [
        name,
        "live",
        "64.0 KiB",
        "49%",
        " 2 ",
        &format!("slow ({})", std::process::id()),
        "31.",
    ] {
        assert!(row.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    assert!(run(&["ls", name, "--color", "always"]).ok().contains("\x1b[32mlive"));
    let json = &run(&["ls", name, "--json"]).json()[0];
    assert_eq!(
        (&json["members"], &json["capacity"], &json["state"]),
        (&2.into(), &65536.into(), &"live".into())
    );
    assert_eq!(json["slowest"]["name"], "slow");
    assert_eq!(json["rate"], 0.0);
    // All queues: this one is among them.
    assert!(run(&["ls"]).ok().contains(name));
    assert!(run(&["ls", "--interval", "0", "--json", name]).json()[0]["rate"].is_null());
    // One that is asked for and not there is a failure that is shown.
    let ran = run(&["ls", name, "no-such-queue"]);
    assert!(ran.out.contains("no queue named") && ran.out.contains(name), "{ran:?}");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn ls_measures_the_rate() {
    let _watchdog = minute();
    let named = named("rate", &Queue::options());
    let mut writer = named.queue.writer("steady").expect("there is a slot");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            writer.append("", b"x", Wait::Never).expect("nobody reads");
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let rate = run(&["ls", &named.name, "--json", "--interval", "300ms"]).json()[0]["rate"].as_f64();
    drop(stop);
    thread.join().expect("it does not panic");
    assert!(rate.is_some_and(|rate| rate > 10.0 && rate < 20_000.0), "{rate:?}");
}

#[test]
fn info_shows_every_member_with_its_command_and_screen() {
    let _watchdog = minute();
    let named = named("info", &Queue::options());
    let mut reader = named
        .queue
        .joining()
        .sender("listener")
        .reader()
        .expect("there is a slot");
    reader.screen().add_kind("debug");
    let _ = reader.pop(Wait::Never).expect("it is whole");
    let pop = start(&["pop", &named.name, "--name", "other", "-n", "1"]);
    until_joined(&named.queue, pop.pid());
    let text = run(&["info", &named.name]).ok();
    for part in [
        "/dev/shm/syncq.",
        "mode 0600",
        "lossless",
        "listener",
        "kind:debug",
        "other",
        "reader",
        "alive",
        SYNCQ,
    ] {
        assert!(text.contains(&part[..part.len().min(40)]), "{part}: {text}");
    }
    let json = &run(&["info", &named.name, "--json"]).json()[0];
    let list = json["list"].as_array().expect("members");
    let other = list.iter().find(|m| m["name"] == "other").expect("it joined");
    assert_eq!(other["pid"], pop.pid());
    assert_eq!(
        other["command"],
        format!("{SYNCQ} pop {} --name other -n 1", named.name)
    );
    assert!(run(&["info", "no-such-queue"]).fails(1).contains("no queue named"));
}

#[test]
fn half_made_and_hostile_files_are_shown_as_unreadable_and_hurt_nobody() {
    let _watchdog = minute();
    let good = named("good", &Queue::options().capacity(4096));
    let valid = std::fs::read(good.queue.path().expect("it has a name")).expect("it is mine");
    let base = unique("hostile");
    let plant = |what: &str| Planted::new(format!("{base}-{what}").as_bytes());
    let planted: Vec<Planted> = [
        "empty",
        "short",
        "garbage",
        "truncated",
        "header",
        "\x1b[31mred",
        "folder",
        "link",
        "fifo",
        "loop",
    ]
    .map(plant)
    .into();
    let write = |at: usize, bytes: &[u8]| std::fs::write(&planted[at].0, bytes).expect("shared memory is writable");
    write(0, b"");
    write(1, b"syncq\r\n\0");
    write(2, &[0xff; 8192]);
    write(3, &valid[..5000]);
    let mut lying = valid.clone();
    lying[24..32].fill(0xff);
    write(4, &lying);
    write(5, &valid);
    std::fs::create_dir(&planted[6].0).expect("a fresh name");
    symlink("/etc/passwd", &planted[7].0).expect("a fresh name");
    nix::unistd::mkfifo(&planted[8].0, nix::sys::stat::Mode::S_IRWXU).expect("a fresh name");
    symlink(&planted[9].0, &planted[9].0).expect("a fresh name");
    let raw = Planted::new(&[base.as_bytes(), b"-\xff\xfe"].concat());
    std::fs::write(&raw.0, &valid).expect("shared memory is writable");
    // Every byte of the control part set to something else: it opens, and says nonsense at worst.
    let mut falsified = valid.clone();
    falsified[512..4096 + 512 * 64].fill(0xa5);
    let nonsense = plant("nonsense");
    std::fs::write(&nonsense.0, &falsified).expect("shared memory is writable");

    let ran = run(&["ls", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let json = ran.json();
    let ours = |line: &&serde_json::Value| line["queue"].as_str().is_some_and(|name| name.starts_with(&base));
    assert_eq!(json.iter().filter(ours).count(), 11, "{ran:?}");
    assert_eq!(
        json.iter()
            .filter(ours)
            .filter(|line| line["state"] == "unreadable")
            .count(),
        10,
        "{ran:?}"
    );
    assert!(
        json.iter()
            .any(|line| line["queue"] == good.name.as_str() && line["state"] == "idle")
    );
    let text = run(&["ls"]);
    assert!(
        text.out.contains("\\u{1b}[31mred") && !text.out.contains('\x1b'),
        "{text:?}"
    );
    for command in [
        &["doctor", "--patience", "50ms"][..],
        &["stat"],
        &["stat", "-f", "prometheus"],
        &["top", "--once", "--interval", "10ms"],
    ] {
        let ran = run(command);
        assert!(matches!(ran.code, Some(0 | 1)), "{command:?}: {ran:?}");
        assert!(!ran.out.contains("\x1b[31mred"), "{command:?}: {ran:?}");
    }
    let doctor = run(&["doctor", "--patience", "50ms", "--json"]);
    let found: Vec<_> = doctor.json().into_iter().filter(|line| ours(&line)).collect();
    assert_eq!(
        found.iter().filter(|line| line["finding"] == "unreadable").count(),
        10,
        "{found:?}"
    );
    let name = format!("{base}-nonsense");
    for args in [&["info", &name][..], &["tail", &name, "--drain"]] {
        let ran = run(args);
        assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
    }
}

#[test]
fn stat_counts_once_and_repeatedly_in_three_forms() {
    let _watchdog = minute();
    let named = named("stat", &Queue::options().capacity(4096));
    let name = named.name.as_str();
    let _reader = named
        .queue
        .joining()
        .sender("odd \"name\"\n")
        .reader()
        .expect("there is a slot");
    let mut writer = named.queue.writer("w").expect("there is a slot");
    while writer.append("", &[0; 100], Wait::Never).is_ok() {}
    let json = &run(&["stat", name, "--json"]).json()[0];
    assert_eq!(json["refused"], 1);
    assert_eq!(json["list"].as_array().map(Vec::len), Some(2));
    let text = run(&["stat", name]).ok();
    assert!(text.starts_with("QUEUE") && text.contains(name), "{text}");
    assert_eq!(
        run(&["stat", name, "-i", "10ms", "-n", "3"]).ok().lines().count(),
        4,
        "one heading, three rows"
    );
    let lines = run(&["stat", name, "-i", "20ms", "--timeout", "100ms", "--json"]).json();
    assert!(
        (2..=6).contains(&lines.len()) && lines[0]["rate"].is_null() && lines[1]["rate"] == 0.0,
        "{lines:?}"
    );
    let metrics = run(&["stat", name, "-f", "prometheus"]).ok();
    assert!(
        metrics.contains(&format!("syncq_refused_total{{queue=\"{name}\"}} 1\n")),
        "{metrics}"
    );
    assert!(metrics.contains("name=\"odd \\\"name\\\"\\n\""), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.starts_with("syncq_") && line.rsplit(' ').next().is_some_and(|n| n.parse::<u64>().is_ok()),
            "{line}"
        );
    }
    let mut kinds: Vec<&str> = metrics.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let all = kinds.len();
    kinds.dedup();
    assert_eq!(kinds.len(), all, "each metric is introduced once");
    run(&["stat", name, "-i", "0"]).fails(2);
    assert_eq!(run(&["stat", "no-such-queue"]).code, Some(1));
    let running = start(&["stat", name, "-i", "10ms"]);
    std::thread::sleep(Duration::from_millis(100));
    running.signal(Signal::SIGINT);
    running.end().ok();
}

#[test]
fn the_dead_are_found_named_and_buried() {
    let _watchdog = minute();
    let named = named("dead", &Queue::options().capacity(4096));
    let name = named.name.as_str();
    let is_in = SharedWord::new();
    let child = forked(|| {
        let _me = named
            .queue
            .joining()
            .sender("victim")
            .reader()
            .expect("there is a slot");
        is_in.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    is_in.wait_for(1);
    let healthy = run(&["doctor", name]);
    assert!(healthy.out.contains("1 queue looked at, nothing wrong"), "{healthy:?}");
    healthy.ok();
    named
        .queue
        .writer("w")
        .and_then(|mut w| w.append("", &[0; 1000], Wait::Never))
        .expect("there is room");
    let pid = child.pid;
    child.kill();
    assert_eq!(run(&["ls", name, "--json"]).json()[0]["state"], "stale");
    assert!(run(&["ls", name]).ok().contains("1 (1 dead)"));
    let ran = run(&["doctor", name]);
    assert_eq!(ran.code, Some(1));
    for part in [
        "dead member",
        "victim",
        &pid.to_string(),
        "1.1 KiB of the ring",
        "--fix would bury it",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(named.queue.members().len(), 1, "looking changed nothing");
    let finding = &run(&["doctor", name, "--json"]).json()[0];
    assert_eq!(
        (&finding["finding"], &finding["pid"]),
        (&"dead member".into(), &pid.as_raw().into())
    );
    assert!(run(&["doctor", name, "--fix"]).ok().contains("done: bury it"));
    assert!(named.queue.members().is_empty());
    run(&["doctor", name]).ok();
    // A stale queue may be removed without force.
    run(&["rm", name]).ok();
}

#[test]
fn a_queue_that_its_last_member_should_have_removed_is_removed() {
    let _watchdog = minute();
    let named = named("left", &Queue::options().unlink_on_last_leave(true));
    let is_in = SharedWord::new();
    let child = forked(|| {
        let mut me = named.queue.join("victim").expect("there is a slot");
        me.append("", b"x", Wait::Never).expect("there is room");
        is_in.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    is_in.wait_for(1);
    child.kill();
    let ran = run(&["doctor", &named.name]);
    assert!(
        ran.out.contains("was to go with its last member") && ran.out.contains("--fix would remove it"),
        "{ran:?}"
    );
    run(&["doctor", &named.name, "--fix"]).ok();
    assert!(!named.queue.is_current());
}

#[test]
fn a_writer_stopped_in_the_middle_of_an_append_is_found_and_told_apart() {
    let _watchdog = minute();
    let named = named("held", &Queue::options().capacity(1 << 16));
    let child = forked(|| {
        let mut me = named.queue.writer("stopped").expect("there is a slot");
        loop {
            me.append("kind", &[7; 20_000], Wait::Forever).expect("nobody reads");
        }
    });
    until("it has joined", || !named.queue.members().is_empty());
    // Stopped at a random instruction: sooner or later it is one in the middle of an append.
    until("it is stopped in an append", || {
        child.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(2));
        let is_writing = named.queue.stats().writer.is_some();
        if !is_writing {
            child.signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_micros(300));
        }
        is_writing
    });
    let ran = run(&["doctor", &named.name, "--patience", "100ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        "claim held",
        "stopped (member",
        &format!("kill -CONT {}", child.pid),
        "100ms or longer",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    // Nobody is robbed while alive: there is nothing to mend.
    assert_eq!(
        run(&["doctor", &named.name, "--patience", "100ms", "--fix"]).code,
        Some(1)
    );
    assert!(run(&["info", &named.name]).ok().contains("stopped ("));
    child.signal(Signal::SIGCONT);
    run(&["doctor", &named.name, "--patience", "100ms"]).ok();
    child.kill();
}

#[test]
fn a_reader_far_behind_is_found_and_can_be_put_out() {
    let _watchdog = minute();
    let named = named("behind", &Queue::options().capacity(4096).slots(2));
    let name = named.name.as_str();
    let mut slow = named.queue.joining().sender("slow").reader().expect("there is a slot");
    let mut writer = named.queue.writer("w").expect("there is a slot");
    while writer.append("", &[0; 100], Wait::Never).is_ok() {}
    let ran = run(&["doctor", name, "--patience", "100ms"]);
    assert_eq!(ran.code, Some(1));
    let id = slow.id().to_string();
    for part in [
        "far behind",
        "slow (member",
        &format!("--evict {id}"),
        "no slot left",
        "all 2 slots",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert!(
        run(&["doctor", name, "--evict", "77.7"])
            .fails(1)
            .contains("no member 77.7")
    );
    run(&["doctor", "--evict", &id]).fails(2);
    run(&["doctor", name, "--evict", &id]).ok();
    writer
        .append("", &[0; 100], Wait::Never)
        .expect("nobody holds it back any more");
    assert!(matches!(slow.pop(Wait::Never), Err(syncq::Error::Evicted { .. })));
}

#[test]
fn looking_maps_read_only_and_takes_no_slot_and_no_lock() {
    let _watchdog = minute();
    if !support_strace() {
        return;
    }
    let named = named("look", &Queue::options());
    let _member = named.queue.join("me").expect("there is a slot");
    let name = named.name.as_str();
    let before = named.queue.members();
    for args in [
        &["ls", name][..],
        &["info", name],
        &["tail", name, "--timeout", "100ms"],
        &["stat", name, "-i", "10ms", "-n", "3"],
        &["top", "--once", "--interval", "10ms", name],
        &["doctor", name, "--patience", "50ms"],
    ] {
        let traced = Command::new("strace")
            .args(["-f", "-e", "trace=openat,mmap,fcntl,flock,futex", SYNCQ])
            .args(args)
            .output()
            .expect("strace runs");
        let calls = String::from_utf8_lossy(&traced.stderr);
        let opened: Vec<&str> = calls
            .lines()
            .filter(|line| line.contains(&format!("/dev/shm/syncq.{name}")))
            .collect();
        assert!(
            !opened.is_empty() && opened.iter().all(|line| line.contains("O_RDONLY")),
            "{args:?}: {opened:?}"
        );
        let shared: Vec<&str> = calls.lines().filter(|line| line.contains("MAP_SHARED")).collect();
        assert!(
            !shared.is_empty() && shared.iter().all(|line| line.contains("PROT_READ,")),
            "{args:?}: {shared:?}"
        );
        assert!(
            !calls.contains("F_SETLK") && !calls.contains("flock(") && !calls.contains("F_OFD_SETLK"),
            "{args:?}"
        );
        assert!(!calls.contains("FUTEX_WAKE,"), "{args:?}: it wakes nobody: {calls}");
        assert_eq!(named.queue.members(), before, "{args:?}");
    }
}

/// Whether strace is there: without it a loud skip, and a failure where everything has to be there.
fn support_strace() -> bool {
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    if !is_there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "strace is missing");
        eprintln!("SKIPPED: strace is missing, so the system calls of looking were not checked");
    }
    is_there
}
