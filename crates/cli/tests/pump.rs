//! `pump` and `serve`: every end against every kind of other one, with nothing lost and a clean end.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{history, run, run_with_input, start, until, until_joined};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use support::{folder, minute, named};
use syncq::host::{LineHostMirror, LineHostReader};
use syncq::{Queue, Wait};

fn numbers(n: u32) -> String {
    (0..n).map(|n| format!("{n}\n")).collect()
}

fn bodies(name: &str) -> String {
    history(name)
        .iter()
        .map(|(.., body)| format!("{}\n", String::from_utf8_lossy(body)))
        .collect()
}

#[test]
fn lines_go_into_a_queue_and_messages_come_out_as_lines() {
    let _watchdog = minute();
    let named = named("pump", &Queue::options());
    let queue = format!("queue:{}", named.name);
    let all = numbers(5000);
    run_with_input(&["pump", "-", &queue, "-k", "line", "-s", "me"], all.as_bytes()).ok();
    assert_eq!(bodies(&named.name), all);
    assert!(
        history(&named.name)
            .iter()
            .all(|(sender, kind, _)| sender == "me" && kind == "line")
    );
    assert_eq!(run(&["pump", &queue, "-", "--drain"]).ok(), all);
    assert_eq!(
        run(&["pump", "--observe", &queue, "-", "--drain", "-n", "3"]).ok(),
        "0\n1\n2\n"
    );
    let folder = folder("pump");
    let path = folder.0.join("file");
    let file = format!("file:{}", path.display());
    run(&["pump", &queue, &file, "--drain"]).ok();
    assert_eq!(std::fs::read_to_string(&path).expect("it was made"), all);
    run(&["pump", &file, &queue, "-n", "2"]).ok();
    assert_eq!(history(&named.name).len(), 5002);
    assert_eq!(run(&["pump", &file, "-"]).ok(), all);
}

#[test]
fn queue_to_queue_keeps_kind_and_body_and_the_slower_sets_the_pace() {
    let _watchdog = minute();
    let (from, to) = (
        named("pumpa", &Queue::options()),
        named("pumpb", &Queue::options().capacity(4096)),
    );
    let mut reader = to.queue.reader().expect("there is a slot");
    let mut writer = from.queue.writer("w").expect("there is a slot");
    let ends = [format!("queue:{}", from.name), format!("queue:{}", to.name)];
    let running = start(&["pump", &ends[0], &ends[1], "-n", "2000"]);
    until_joined(&from.queue, running.pid());
    for n in 0..2000u32 {
        writer
            .append("odd\nkind", &n.to_le_bytes(), Wait::Forever)
            .expect("it reads");
    }
    for n in 0..2000u32 {
        let message = reader.pop(Wait::Forever).expect("it is whole").expect("it comes");
        assert_eq!((message.kind(), message.body()), ("odd\nkind", &n.to_le_bytes()[..]));
    }
    running.end().ok();
    // Nobody makes room: it gives up in time.
    let stuck = start(&["pump", &ends[0], &ends[1], "--timeout", "200ms", "--begin", "oldest"]);
    assert_eq!(stuck.end().code, Some(124));
    let idle = run(&["pump", &ends[0], "-", "--timeout", "50ms"]);
    assert_eq!(idle.code, Some(124));
}

#[test]
fn sockets_are_connected_to_and_listened_on() {
    let _watchdog = minute();
    let named = named("socket", &Queue::options());
    let queue = format!("queue:{}", named.name);
    let all = numbers(3000);
    run_with_input(&["pump", "-", &queue], all.as_bytes()).ok();
    let folder = folder("socket");
    let path = folder.0.join("s");
    let listener = UnixListener::bind(&path).expect("a fresh folder");
    let running = start(&["pump", &queue, &format!("unix:{}", path.display()), "--drain"]);
    let mut got = String::new();
    listener
        .accept()
        .expect("it connects")
        .0
        .read_to_string(&mut got)
        .expect("text");
    running.end().ok();
    assert_eq!(got, all);
    drop(listener);
    std::fs::remove_file(&path).expect("it is mine");
    let running = start(&["pump", &format!("unix-listen:{}", path.display()), &queue]);
    // Its name is there a moment before it listens.
    let mut connected = None;
    until("it listens", || {
        connected = UnixStream::connect(&path).ok();
        connected.is_some()
    });
    let mut stream = connected.expect("it listens");
    stream.write_all(b"by unix\nunended").expect("it reads");
    drop(stream);
    running.end().ok();
    assert!(!path.exists(), "the socket's name is gone");
    assert!(bodies(&named.name).ends_with("by unix\nunended\n"));

    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let running = start(&["pump", &format!("tcp:{address}"), &queue]);
    listener
        .accept()
        .expect("it connects")
        .0
        .write_all(b"by tcp\n")
        .expect("it reads");
    running.end().ok();
    assert!(bodies(&named.name).ends_with("by tcp\n"));
    drop(listener);
    assert!(
        run(&["pump", &format!("tcp:{address}"), &queue])
            .fails(1)
            .contains("refused")
    );
}

#[test]
fn a_signal_ends_it_with_what_was_read_already_written() {
    let _watchdog = minute();
    let named = named("pumpstop", &Queue::options());
    let queue = format!("queue:{}", named.name);
    let mut running = start(&["pump", "-", &queue]);
    let mut stdin = running.stdin();
    stdin.write_all(b"one\nhalf").expect("it reads");
    until("the line is there", || history(&named.name).len() == 1);
    running.signal(Signal::SIGTERM);
    running.end().ok();
    assert_eq!(bodies(&named.name), "one\nhalf\n");
    for wrong in [&["pump", "nowhere", "-"][..], &["pump", "queue:", "-"], &["pump", "-"]] {
        run(wrong).fails(2);
    }
    assert!(
        run(&["pump", "queue:no-such-queue", "-"])
            .fails(1)
            .contains("no-such-queue")
    );
    assert!(run(&["pump", "file:/no/file", "-"]).fails(1).contains("/no/file"));
}

#[test]
fn between_streams_of_bytes_all_goes_through_and_lines_are_counted_if_asked() {
    let _watchdog = minute();
    let all: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 3 % 251) as u8).collect();
    let folder = folder("bytes");
    let path = folder.0.join("file");
    let file = format!("file:{}", path.display());
    run_with_input(&["pump", "-", &file], &all).ok();
    assert!(std::fs::read(&path).expect("it was made") == all);
    // From a file into a socket, and from that into another one.
    let (first, second) = (folder.0.join("first"), folder.0.join("second"));
    let end = UnixListener::bind(&second).expect("a fresh folder");
    let between = start(&[
        "pump",
        &format!("unix-listen:{}", first.display()),
        &format!("unix:{}", second.display()),
    ]);
    let reader = std::thread::spawn(move || {
        let mut got = vec![];
        let (mut socket, _) = end.accept().expect("it connects");
        socket.read_to_end(&mut got).expect("bytes");
        got
    });
    // Its name is there a moment before it listens.
    let into_first = format!("unix:{}", first.display());
    until("it takes the file", || {
        run(&["pump", &file, &into_first]).code == Some(0)
    });
    between.end().ok();
    assert!(reader.join().expect("it has read") == all);
    let text = b"one\ntwo\nthree\nunended";
    assert_eq!(run_with_input(&["pump", "-", "-", "-n", "2"], text).ok(), "one\ntwo\n");
    let more = run_with_input(&["pump", "-", "-", "-n", "9"], text).ok();
    assert_eq!(more.as_bytes(), text);
    // Nothing comes: it gives up; and a signal ends it with what was read already written.
    let mut idle = start(&["pump", "-", &file, "--timeout", "100ms"]);
    let _open = idle.stdin();
    assert_eq!(idle.end().code, Some(124));
    let mut running = start(&["pump", "-", &file]);
    let mut stdin = running.stdin();
    stdin.write_all(b"last words").expect("it reads");
    until("they are there", || {
        std::fs::read(&path).is_ok_and(|bytes| bytes.ends_with(b"last words"))
    });
    running.signal(Signal::SIGTERM);
    running.end().ok();
    assert!(
        run(&["pump", &format!("file:{}", folder.0.display()), "-"])
            .fails(1)
            .contains("directory")
    );
}

#[test]
fn serve_shows_messages_as_lines_and_appends_the_lines_of_mirrors() {
    let _watchdog = minute();
    let named = named("serve", &Queue::options());
    let mut writer = named.queue.writer("w").expect("there is a slot");
    writer
        .append("k", b"from the queue", Wait::Never)
        .expect("there is room");
    let mut running = start(&["serve", &named.name, "--listen", "127.0.0.1:0"]);
    let mut url = String::new();
    BufReader::new(running.stdout())
        .read_line(&mut url)
        .expect("it prints its address");
    let url = url.trim().to_owned();
    let reader = LineHostReader::new(&url).expect("an address");
    until("the message is a line", || {
        reader
            .read(None)
            .is_ok_and(|items| items.iter().any(|i| i.text() == "from the queue"))
    });
    let mirror = LineHostMirror::new(&url).expect("an address");
    syncq::line::Mirror::write_bytes(&mirror, syncq::line::Stream::Text, b"from a mirror\n").expect("it is sent");
    syncq::line::Mirror::flush(&mirror).expect("it is sent");
    until("the line is a message", || {
        history(&named.name).iter().any(|(sender, kind, body)| {
            (sender.as_str(), kind.as_str(), body.as_slice()) == ("serve", "line", b"from a mirror")
        })
    });
    assert_eq!(history(&named.name).len(), 2, "nothing goes round in a circle");
    // A pump from the service, and one to it.
    let out = run(&["pump", &url, "-", "-n", "2"]).ok();
    assert_eq!(out, "from the queue\nfrom a mirror\n");
    run_with_input(&["pump", "-", &url], b"by pump\n").ok();
    until("the line is a message", || {
        history(&named.name).iter().any(|(.., body)| body == b"by pump")
    });
    let err = run(&[
        "serve",
        &named.name,
        "--listen",
        url.trim_start_matches("http://").split('/').next().unwrap(),
    ])
    .fails(1);
    assert!(err.contains("127.0.0.1:0"), "{err}");
    running.signal(Signal::SIGINT);
    drop(mirror);
    running.end().ok();
    run(&["serve", &named.name, "--listen", "0.0.0.0:0"]).fails(1);
}
