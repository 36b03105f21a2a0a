//! `run`: a command's output arrives whole and in order, with its exit status last, whoever is killed.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{history, run, start, syncq, until, until_joined};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;
use support::{minute, named, watchdog};
use syncq::{Queue, Reader, Wait};

#[test]
fn both_streams_arrive_line_by_line_and_the_exit_status_last() {
    let _watchdog = minute();
    let named = named("run", &Queue::options());
    let script = "echo one; echo two >&2; printf 'no newline'; exit 3";
    let ran = run(&["run", &named.name, "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(3), "", ""));
    let messages = history(&named.name);
    assert!(messages.iter().all(|(sender, ..)| sender == "sh"), "{messages:?}");
    let of = |wanted: &str| -> Vec<&[u8]> {
        messages
            .iter()
            .filter(|(_, kind, _)| kind == wanted)
            .map(|(.., body)| body.as_slice())
            .collect()
    };
    assert_eq!(of("out"), [&b"one"[..], b"no newline"]);
    assert_eq!(of("err"), [b"two"]);
    assert_eq!(
        messages.last().map(|(_, kind, body)| (kind.as_str(), body.as_slice())),
        Some(("exit", &b"3"[..]))
    );
}

#[test]
fn tee_also_writes_what_the_command_writes() {
    let _watchdog = minute();
    let named = named("tee", &Queue::options());
    let ran = run(&[
        "run",
        "--tee",
        "-s",
        "me",
        &named.name,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "out\n", "err\n")
    );
    assert_eq!(history(&named.name).len(), 3);
}

#[test]
fn a_command_that_cannot_run_or_is_killed_has_the_shells_codes() {
    let _watchdog = minute();
    let named = named("codes", &Queue::options());
    assert!(
        run(&["run", &named.name, "--", "/no/such/command"])
            .fails(127)
            .contains("/no/such/command")
    );
    assert!(
        run(&["run", &named.name, "--", "/dev/null"])
            .fails(126)
            .contains("/dev/null")
    );
    assert_eq!(
        run(&["run", &named.name, "--", "sh", "-c", "kill -9 $$"]).code,
        Some(128 + 9)
    );
    assert_eq!(history(&named.name).last().expect("a message").2, b"signal 9");
    run(&["run", &named.name]).fails(2);
    assert!(
        run(&["run", "no-such-queue", "--", "true"])
            .fails(1)
            .contains("no-such-queue")
    );
}

#[test]
fn lines_longer_than_the_queue_come_in_pieces() {
    let _watchdog = minute();
    let named = named("pieces", &Queue::options().capacity(4096));
    let mut reader = named.queue.reader().expect("there is a slot");
    let running = start(&[
        "run",
        &named.name,
        "--",
        "sh",
        "-c",
        "head -c 10000 /dev/zero | tr '\\0' x; echo; echo short",
    ]);
    let (mut joined, mut last) = (Vec::new(), Vec::new());
    loop {
        let message = reader.pop(Wait::Forever).expect("it is whole").expect("it comes");
        match message.kind() {
            "out-part" => joined.extend_from_slice(message.body()),
            "out" if message.body() == b"short" => last.push("short"),
            "out" => {
                joined.extend_from_slice(message.body());
                last.push("end");
            }
            "exit" => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!((joined.len(), last), (10_000, vec!["end", "short"]));
    assert!(joined.iter().all(|byte| *byte == b'x'));
    running.end().ok();
}

/// Reads numbered lines, each once, in order and whole, until the exit message. How many there were, and what it said.
fn numbers(reader: &mut Reader, kind: &str) -> (u64, String) {
    let mut next = 1;
    loop {
        let message = reader.pop(Wait::Forever).expect("it is whole").expect("it comes");
        if message.kind() == "exit" {
            return (next - 1, message.text_lossy().into_owned());
        }
        assert_eq!(message.kind(), kind);
        assert_eq!(
            message.text(),
            Ok(next.to_string().as_str()),
            "lost, torn or out of order"
        );
        next += 1;
    }
}

#[test]
fn a_million_lines_arrive_each_once_whole_and_in_order() {
    let _watchdog = watchdog(Duration::from_secs(300));
    let named = named("million", &Queue::options());
    let mut reader = named.queue.reader().expect("there is a slot");
    let running = start(&["run", &named.name, "--", "seq", "1000000"]);
    assert_eq!(numbers(&mut reader, "out"), (1_000_000, "0".to_owned()));
    running.end().ok();
}

#[test]
fn many_processes_of_one_command_lose_and_tear_nothing() {
    let _watchdog = watchdog(Duration::from_secs(300));
    let named = named("make", &Queue::options());
    let mut reader = named.queue.reader().expect("there is a slot");
    // As make -j2: two at a time write to the same pipe, in writes of whole lines.
    let script = "for job in a b; do (seq 50000 | sed -u \"s/^/$job /\") & done; wait";
    let running = start(&["run", &named.name, "--", "sh", "-c", script]);
    let mut next = [1, 1];
    loop {
        let message = reader.pop(Wait::Forever).expect("it is whole").expect("it comes");
        if message.kind() == "exit" {
            break;
        }
        let (job, number) = message.text().expect("text").split_once(' ').expect("two words");
        let job = usize::from(job == "b");
        assert_eq!(number, next[job].to_string());
        next[job] += 1;
    }
    assert_eq!(next, [50_001, 50_001]);
    running.end().ok();
}

#[test]
fn all_that_a_killed_command_had_written_arrives() {
    let _watchdog = watchdog(Duration::from_secs(300));
    let named = named("killed", &Queue::options());
    let mut reader = named.queue.reader().expect("there is a slot");
    let running = start(&["run", &named.name, "--", "seq", "100000000"]);
    until_joined(&named.queue, running.pid());
    until("the command has written much", || named.queue.stats().appended > 1000);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid())).expect("it runs");
    let child: i32 = children.trim().parse().expect("it has one child");
    let pid = nix::unistd::Pid::from_raw(child);
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it runs");
    });
    // The last line may be cut off where the command was killed: a prefix of the next number.
    let mut next: u64 = 1;
    let mut cut = None;
    let told = loop {
        let message = reader.pop(Wait::Forever).expect("it is whole").expect("it comes");
        if message.kind() == "exit" {
            break message.text_lossy().into_owned();
        }
        assert_eq!(cut, None, "only the last line may be cut");
        let text = message.text().expect("text").to_owned();
        let expected = next.to_string();
        if text != expected {
            assert!(expected.starts_with(&text), "{text} for {expected}");
            cut = Some(text);
        }
        next += 1;
    };
    assert_eq!(told, "signal 9");
    assert!(next > 1000);
    assert_eq!(running.end().code, Some(137));
    killer.join().expect("it does not panic");
}

#[test]
fn a_signal_is_handed_on_and_what_the_command_still_writes_is_read() {
    let _watchdog = minute();
    let named = named("term", &Queue::options());
    let script = "trap 'echo cleaning up; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let running = start(&["run", &named.name, "--", "sh", "-c", script]);
    until("the trap is set", || !history(&named.name).is_empty());
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code, Some(5));
    let bodies: Vec<_> = history(&named.name).into_iter().map(|(.., body)| body).collect();
    assert_eq!(bodies, [&b"ready"[..], b"cleaning up", b"5"]);
}

#[test]
fn a_killed_run_leaves_a_queue_that_others_go_on_with() {
    let _watchdog = minute();
    let named = named("victim", &Queue::options().capacity(4096));
    let mut reader = named.queue.reader().expect("there is a slot");
    let mut running = syncq(&["run", &named.name, "--", "seq", "100000000"])
        .spawn()
        .expect("it starts");
    until_joined(&named.queue, running.id());
    until("the queue is full", || {
        named.queue.stats().refused > 0 || named.queue.free() < 200
    });
    running.kill().expect("it runs");
    running.wait().expect("it was not waited for");
    let mut next = 1;
    for message in reader.drain() {
        assert_eq!(message.expect("it is whole").text(), Ok(next.to_string().as_str()));
        next += 1;
    }
    assert!(next > 10);
    named
        .queue
        .writer("other")
        .and_then(|mut w| w.append("", b"x", Wait::Never))
        .expect("it goes on");
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let _watchdog = minute();
    let help = run(&["--help"]).ok();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split(' ')
                .next()
                .filter(|word| !word.is_empty())
        })
        .collect();
    assert!(commands.len() > 10, "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).ok();
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
    let folder = support::folder("man");
    let path = folder.0.to_string_lossy().into_owned();
    run(&["man", "--dir", &path]).ok();
    for command in commands.iter().filter(|command| **command != "help") {
        let page = std::fs::read_to_string(folder.0.join(format!("syncq-{command}.1"))).expect("a page each");
        assert!(page.contains(".TH"), "{command}");
    }
    assert!(run(&["man"]).ok().contains(".TH syncq 1"));
    assert!(run(&["man", "tail"]).ok().contains("tail"));
    run(&["man", "nothing"]).fails(2);
    // The bash completions are a script that bash can read.
    let script = folder.0.join("completions.bash");
    std::fs::write(&script, run(&["completions", "bash"]).ok()).expect("a fresh folder");
    if let Ok(status) = Command::new("bash").arg("-n").arg(&script).status() {
        assert!(status.success());
    }
}
