//! The line service and the real Python package `syncstream`, in both directions.
//!
//! The package's own server runs on Flask and Werkzeug; its mirrors and readers write to and read from a `LineHostBuffer`.

#![cfg(feature = "host")]

#[path = "support/python.rs"]
mod python;
mod support;

use python::{Environment, Peer, Wanted, environment};
use std::io::Write;
use std::time::Duration;
use support::{eventually, watchdog};
use syncq::host::{HostService, LineHostBuffer, LineHostMirror, LineHostReader};
use syncq::line::{GroupedMessage, LineError, LineItem, Lines, Mirror, Severity};

const SYNCSTREAM: Wanted<'static> = Wanted {
    name: "syncstream",
    packages: &[
        "syncstream[host]==1.2.2",
        "flask==3.1.3",
        "werkzeug==3.1.9",
        "urllib3==2.8.0",
    ],
    imports: &["flask", "urllib3", "syncstream"],
    ..Wanted::NOTHING
};

const SECONDS: Duration = Duration::from_secs(20);

/// The package's server. Says its address, and ends with its input.
const SERVER: &str = r#"
import sys, threading, logging
from flask import Flask
from werkzeug.serving import make_server
from syncstream import LineHostBuffer
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
app = Flask("service")
LineHostBuffer("/sync-stream", maxlen=int(sys.argv[1])).serve(app)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}/sync-stream")
sys.stdin.read()
"#;

/// What the scripts that write begin with.
const CLIENT: &str = r#"
import sys, json, warnings, traceback
from syncstream import LineHostMirror, LineHostReader
address = sys.argv[1]
def plain(item):
    return item if isinstance(item, str) else [item.type, list(item.data)]
"#;

fn python() -> Option<Environment> {
    environment(&SYNCSTREAM)
}

fn ours(maxlen: usize) -> (LineHostBuffer, HostService) {
    let buffer = LineHostBuffer::new("/sync-stream", maxlen).unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    (buffer, service)
}

fn theirs(python: &Environment, maxlen: usize) -> (Peer, String) {
    let mut peer = python.start(SERVER, &[maxlen.to_string()]);
    let address = peer.must_say();
    (peer, address)
}

fn client(python: &Environment, address: &str, script: &str) -> String {
    python.must_run(&format!("{CLIENT}{script}"), &[address])
}

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

#[test]
fn the_seeds_example_works_with_our_server_in_place_of_flask() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (_buffer, service) = ours(10);
    let said = client(
        &python,
        service.url(),
        r#"
with LineHostMirror(address) as mirror:
    print("test line 1")
    print("test line 2")
    print("test line 3")
with LineHostReader(address) as reader:
    print(json.dumps({"items": reader.read(), "message": "success"}))
"#,
    );
    assert_eq!(
        said,
        "{\"items\": [\"test line 1\", \"test line 2\", \"test line 3\"], \"message\": \"success\"}\n"
    );
}

#[test]
fn the_seeds_example_works_with_our_client_in_place_of_pythons() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (_peer, address) = theirs(&python, 10);
    let mut mirror = LineHostMirror::new(&address).unwrap();
    for i in 1..=3 {
        writeln!(mirror, "test line {i}").unwrap();
    }
    mirror.finish(SECONDS).unwrap();
    let lines = ["test line 1", "test line 2", "test line 3"];
    assert_eq!(
        texts(&LineHostReader::new(&address).unwrap().read(None).unwrap()),
        lines
    );
    let said = client(&python, &address, "print(json.dumps(LineHostReader(address).read()))");
    assert_eq!(
        said.trim(),
        serde_json::to_string(&lines).unwrap().replace("\",\"", "\", \"")
    );
}

#[test]
fn everything_that_the_python_mirror_sends_is_understood() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (buffer, service) = ours(30);
    let said = client(
        &python,
        service.url(),
        r#"
mirror = LineHostMirror(address)
mirror.write("one\ntwo\x0bthree\r\nfour\u2028five\n\n")
mirror.write("pend")
mirror.write("ing\nunfinished")
mirror.send_warning(UserWarning("w1\nw2"))
try:
    raise TypeError("b\u00f6om \U0001f600")
except TypeError as e:
    mirror.send_error(e)
mirror.write("10%\r20%\r")
mirror.write("tail")
mirror.send_eof()
mirror.send_eof()
print("done", file=sys.stderr)
reader = LineHostReader(address)
print(json.dumps([plain(item) for item in reader.read()]))
print(len(reader), reader.maxlen, reader.closed)
print(json.dumps([reader.read(1), reader.read(0), reader.read(-3), len(reader.read(1000))]))
"#,
    );
    let items = buffer.read(None).unwrap();
    let plain: Vec<_> = items
        .iter()
        .filter(|item| item.grouped().is_none())
        .map(|i| i.text().into_owned())
        .collect();
    assert_eq!(
        plain,
        [
            "one",
            "two",
            "three",
            "four",
            "five",
            "",
            "pending",
            "unfinished",
            "10%",
            "20%",
            "tail"
        ]
    );
    let groups: Vec<_> = items.iter().filter_map(|item| item.grouped()).collect();
    assert_eq!(
        *groups[0],
        GroupedMessage {
            severity: Severity::Warning,
            data: vec!["UserWarning: w1".into(), "w2".into()]
        }
    );
    assert_eq!(groups[1].severity, Severity::Error);
    assert_eq!(groups[1].data.first().unwrap(), "Traceback (most recent call last):");
    assert_eq!(groups[1].data.last().unwrap(), "TypeError: b\u{f6}om \u{1f600}");
    // And their reader sees the same.
    let mut lines = said.lines();
    let seen: Vec<serde_json::Value> = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(seen.len(), items.len());
    assert_eq!(seen[8], serde_json::json!(["warning", ["UserWarning: w1", "w2"]]));
    assert_eq!(seen[12], "tail");
    assert_eq!(lines.next(), Some("13 30 False"));
    assert_eq!(lines.next(), Some(r#"[["tail"], [], [], 13]"#));
}

#[test]
fn everything_that_our_mirror_sends_is_understood_by_the_python_server() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (_peer, address) = theirs(&python, 30);
    let mirror = LineHostMirror::new(&address).unwrap();
    mirror.write("one\ntwo\x0bthree\r\n").unwrap();
    mirror.write("pend").unwrap();
    mirror.write("ing\nunfinished").unwrap();
    mirror.send_warning(&"w1\nw2").unwrap();
    mirror.send_error(&"b\u{f6}om \u{1f600}").unwrap();
    mirror.write(b"not \xff UTF-8\n").unwrap();
    mirror.write("tail").unwrap();
    let report = mirror.finish(SECONDS).unwrap();
    assert_eq!((report.sent, report.dropped, report.unsent), (9, 0, 0));
    let said = client(
        &python,
        &address,
        "print(json.dumps([plain(item) for item in LineHostReader(address).read()]))",
    );
    let seen: serde_json::Value = serde_json::from_str(&said.replace("\\udcff", "?")).unwrap();
    let expected = serde_json::json!([
        "one",
        "two",
        "three",
        "pending",
        "unfinished",
        ["warning", ["w1", "w2"]],
        ["error", ["b\u{f6}om \u{1f600}"]],
        "not ? UTF-8",
        "tail"
    ]);
    assert_eq!(seen, expected);
    assert!(said.contains("not \\udcff UTF-8"), "as os.fsdecode would have it");
    // And through our reader, the bytes are as they were.
    let items = LineHostReader::new(&address).unwrap().read(None).unwrap();
    assert_eq!(items[7].line().unwrap().bytes(), b"not \xff UTF-8");
    assert_eq!(items[5].grouped().unwrap().data, ["w1", "w2"]);
}

#[test]
fn lone_surrogates_and_lines_of_a_mebibyte_come_back_as_they_were() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (_buffer, service) = ours(10);
    let said = client(
        &python,
        service.url(),
        r#"
lines = ["a\udc80b\udcff", "\ud800x", "\udfff", "\x00\x1f\x7f\"\\", "x" * (1 << 20), "\u00e9" * (1 << 19), "\udce9"]
mirror = LineHostMirror(address)
for line in lines: mirror.write(line + "\n")
mirror.close()
print(list(LineHostReader(address).read()) == lines)
"#,
    );
    assert_eq!(said, "True\n");
    // The same from us to their server.
    let (_peer, address) = theirs(&python, 10);
    let lines = [
        "x".repeat(1 << 20),
        "\u{e9}".repeat(1 << 19),
        "\0\u{1f}\u{7f}\"\\".into(),
    ];
    let mut mirror = LineHostMirror::new(&address).unwrap();
    lines.iter().for_each(|line| writeln!(mirror, "{line}").unwrap());
    // Python takes U+001F for what it is: no line break.
    mirror.finish(SECONDS).unwrap();
    assert_eq!(
        texts(&LineHostReader::new(&address).unwrap().read(None).unwrap()),
        lines
    );
}

#[test]
fn stop_and_reset_go_from_either_reader_to_either_mirror() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let theirs = theirs(&python, 10);
    let ours = ours(10);
    for address in [theirs.1.as_str(), ours.1.url()] {
        let mirror = LineHostMirror::new(address).unwrap();
        mirror.write("before\n").unwrap();
        assert!(mirror.drain(SECONDS).unwrap());
        assert_eq!(
            client(&python, address, "print(LineHostReader(address).stop_all_mirrors())"),
            "True\n"
        );
        eventually("our mirror hears the stop", || {
            matches!(mirror.write("x"), Err(LineError::Stopped))
        });
        let reader = LineHostReader::new(address).unwrap();
        assert!(reader.closed().unwrap());
        let said = client(
            &python,
            address,
            r#"
try: LineHostMirror(address).write("no\n")
except StopIteration as e: print(e)
"#,
        );
        assert_eq!(said, "syncstream: The mirror worker is terminated by users.\n");
        reader.reset_states().unwrap();
        assert_eq!(
            client(
                &python,
                address,
                "LineHostMirror(address).write('yes\\n')\nprint(LineHostReader(address).closed)"
            ),
            "False\n"
        );
        eventually("our mirror may write again", || mirror.write("").is_ok());
        mirror.new_line().unwrap();
        mirror.write("after\n").unwrap();
        mirror.finish(SECONDS).unwrap();
        let lines = texts(&reader.read(None).unwrap());
        assert_eq!(
            (lines.first().unwrap().as_str(), lines.last().unwrap().as_str()),
            ("before", "after")
        );
        assert!(lines.contains(&"yes".to_owned()) && !lines.contains(&"no".to_owned()));
        reader.clear().unwrap();
        assert!(reader.is_empty().unwrap());
        // The other way: we stop, they hear.
        reader.stop_all_mirrors().unwrap();
        assert_eq!(
            client(
                &python,
                address,
                "print(LineHostReader(address).closed, LineHostReader(address).reset_states())"
            ),
            "True True\n"
        );
    }
}

#[test]
fn tails_of_two_python_mirrors_are_not_glued_together() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (buffer, service) = ours(10);
    client(
        &python,
        service.url(),
        r#"
one, two = LineHostMirror(address), LineHostMirror(address)
one.write("a\nb")
two.write("full line\n")
two.write("c\nd")
one.write("eta\n")
two.close(); one.close()
"#,
    );
    let lines = texts(&buffer.read(None).unwrap());
    assert_eq!(lines, ["a", "full line", "c", "beta", "d"].map(String::from));
}

#[test]
fn the_python_mirror_keeps_one_connection_alive() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (buffer, service) = ours(500);
    client(
        &python,
        service.url(),
        r#"
mirror = LineHostMirror(address)
for i in range(200): mirror.write(f"line {i}\n")
"#,
    );
    let items = buffer.read(None).unwrap();
    assert_eq!(texts(&items), (0..200).map(|i| format!("line {i}")).collect::<Vec<_>>());
    // Without a name of its own, its origin is its end of the connection.
    let origins: std::collections::HashSet<_> = items.iter().map(|item| &item.origin.as_ref().unwrap().name).collect();
    assert_eq!(origins.len(), 1, "{origins:?}");
}

#[test]
fn what_is_refused_is_said_in_words_that_python_shows() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let buffer = LineHostBuffer::options()
        .limits(|limits| limits.line = 1000)
        .build()
        .unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    let said = client(
        &python,
        service.url(),
        r#"
mirror = LineHostMirror(address)
try: mirror.write("x" * 2000 + "\n")
except ConnectionError as e: print(e)
"#,
    );
    assert!(said.contains("a line of 2000 bytes; at most 1000"), "{said}");
    let guarded = LineHostBuffer::options().token("secret").build().unwrap();
    let service = guarded.serve("127.0.0.1:0").unwrap();
    let said = client(
        &python,
        service.url(),
        r#"
try: LineHostMirror(address).write("x\n")
except ConnectionError as e: print(e)
"#,
    );
    assert_eq!(said, "a bearer token is needed, and the right one\n");
    assert!(guarded.is_empty().unwrap());
}

#[test]
fn a_lying_error_item_is_refused_and_reading_goes_on() {
    let Some(python) = python() else { return };
    let _watchdog = watchdog(SECONDS * 6);
    let (buffer, service) = ours(10);
    buffer.write("fine\n").unwrap();
    // With the original this is taken, and then each read fails until the item has rotated out.
    let said = client(
        &python,
        service.url(),
        r#"
import urllib3
reply = urllib3.PoolManager().request("POST", address, body=json.dumps({"type": "error", "data": {"msg": "hi"}}),
    headers={"Content-Type": "application/json"})
print(reply.status, LineHostReader(address).read())
"#,
    );
    assert_eq!(said, "400 ('fine',)\n");
}
