//! The line service over HTTP, between our own ends and against raw requests.

#![cfg(feature = "host")]

#[path = "support/http.rs"]
mod http;
mod support;

use http::{JSON, connect, get, post, read_answer, read_head, request};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{eventually, forked, minute};
use syncq::Wait;
use syncq::host::{HostService, LineHostBuffer, LineHostMirror, LineHostOptions, LineHostReader};
use syncq::line::{Content, Level, LineError, LineItem, Lines, Mirror, Record, Stream, Value};

const SECONDS: Duration = Duration::from_secs(20);

fn served(options: LineHostOptions) -> (LineHostBuffer, HostService) {
    let buffer = options.build().unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    (buffer, service)
}

fn plain(maxlen: usize) -> (LineHostBuffer, HostService) {
    served(LineHostBuffer::options().maxlen(maxlen))
}

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("line {i}")).collect()
}

/// An address where nobody listens, until somebody does.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

// The wire, as the original has it.

#[test]
fn answers_are_those_of_the_original() {
    let _watchdog = minute();
    let (_buffer, service) = plain(3);
    let at = service.address();
    let success = "{\"message\":\"success\"}\n";
    let text = |value: &str| {
        post(
            at,
            "/sync-stream",
            &format!(r#"{{"type": "str", "data": {{"value": "{value}"}}}}"#),
        )
    };
    let answer = text("caf\\u00e9 \\udc80\\n");
    assert_eq!((answer.status, answer.text().as_str()), (201, success));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let warning = r#"{"type": "warning", "data": {"/is_syncsdata": true, "/type": "GroupedMessage", "type": "warning", "data": ["a", "b"]}}"#;
    assert_eq!(post(at, "/sync-stream", warning).status, 201);
    assert_eq!(post(at, "/sync-stream", r#"{"type": "close"}"#).text(), success);
    let expected = concat!(
        r#"{"data":["caf\u00e9 \udc80",{"/is_syncsdata":true,"/type":"GroupedMessage","data":["a","b"],"type":"warning"}],"#,
        "\"message\":\"success\"}\n"
    );
    assert_eq!(get(at, "/sync-stream").text(), expected);
    for (n, items) in [
        ("1", 1),
        ("0", 0),
        ("-7", 0),
        ("%202%20", 2),
        ("99999999999999999999999", 2),
    ] {
        let answer = get(at, &format!("/sync-stream?n={n}"));
        let reply: serde_json::Value = serde_json::from_str(&answer.text().replace("\\udc80", "")).unwrap();
        assert_eq!(reply["data"].as_array().unwrap().len(), items, "n={n}");
    }
    for (state, value) in [("closed", "false"), ("maxlen", "3"), ("curlen", "2"), ("what", "null")] {
        let said = get(at, &format!("/sync-stream-state?state={state}")).text();
        assert_eq!(said, format!("{{\"data\":{value},\"message\":\"success\"}}\n"));
    }
    for (body, closed) in [
        (r#"{"state":"closed","value":"true"}"#, true),
        (r#"{"state":"closed","value":1}"#, false),
        (r#"{"state":"closed","value":" True "}"#, true),
        (r#"{"state":"other","value":"false"}"#, true),
    ] {
        let answer = post(at, "/sync-stream-state", body);
        assert_eq!((answer.status, answer.text().as_str()), (201, success), "{body}");
        let said = get(at, "/sync-stream-state?state=closed").text();
        assert_eq!(
            said,
            format!("{{\"data\":{closed},\"message\":\"success\"}}\n"),
            "{body}"
        );
    }
    assert_eq!(
        text("still taken\\n").status,
        201,
        "posts are taken while the mirrors are stopped"
    );
    assert_eq!(request(at, "DELETE /sync-stream-state", &[], "").text(), success);
    assert_eq!(request(at, "DELETE /sync-stream", &[], "").text(), success);
    assert_eq!(
        get(at, "/sync-stream").text(),
        "{\"data\":[],\"message\":\"success\"}\n"
    );
    assert_eq!(request(at, "OPTIONS /sync-stream", &[], "").status, 200);
}

#[test]
fn what_is_wrong_gets_a_code_and_words() {
    let _watchdog = minute();
    let (buffer, service) = served(LineHostBuffer::options().limits(|l| (l.line, l.items, l.body) = (100, 5, 4096)));
    let at = service.address();
    let text = |value: &str| {
        post(
            at,
            "/sync-stream",
            &format!(r#"{{"type":"str","data":{{"value":"{value}"}}}}"#),
        )
    };
    let json = |body: &str| post(at, "/sync-stream", body);
    let cases = [
        (get(at, "/elsewhere"), 404, "/sync-stream"),
        (get(at, "/sync-stream/"), 404, "/sync-stream"),
        (get(at, "/sync-stream?n=x"), 400, "n is a whole number"),
        (get(at, "/sync-stream-state"), 400, "which state"),
        (request(at, "PUT /sync-stream", &[], ""), 405, "PUT"),
        (request(at, "POST /sync-stream", &[], "{}"), 415, "application/json"),
        (json(""), 400, "not a message"),
        (json("{bad"), 400, "not a message"),
        (json(r#"{"type":"nope"}"#), 400, "unknown type"),
        (json(r#"{"type":"str","data":{"value":42}}"#), 400, "expected a string"),
        (json(r#"{"type":"error","data":{"msg":"hi"}}"#), 400, "/is_syncsdata"),
        (json(r#"{"type":"str","syncq":{"mirror":-1}}"#), 400, "syncq"),
        (text(&"x".repeat(101)), 413, "at most 100"),
        (text(&"x\\n".repeat(51)), 413, "at most 5"),
        (json(&" ".repeat(5000)), 413, "over 4096 bytes"),
        (json(&" ".repeat(50_000)), 413, "over 4096 bytes"),
    ];
    for (answer, status, words) in cases {
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = said["message"].as_str().unwrap_or_default();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(message.contains(words), "{message:?} does not contain {words:?}");
    }
    let long = format!(
        "GET /sync-stream HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    assert_eq!(http::exchange(at, long.as_bytes()).unwrap().status, 431);
    assert!(buffer.is_empty().unwrap());
    buffer.close().unwrap();
    assert_eq!(get(at, "/sync-stream").status, 410);
}

#[test]
fn without_the_token_nothing_is_done_or_told() {
    let _watchdog = minute();
    let (buffer, service) = served(LineHostBuffer::options().token("the-token"));
    let at = service.address();
    buffer.write("private\n").unwrap();
    let wrong = [
        "Authorization: Bearer the-toke",
        "Authorization: Bearer the-token2",
        "Authorization: the-token",
        "X: y",
    ];
    for header in wrong {
        for line in [
            "GET /sync-stream",
            "DELETE /sync-stream",
            "GET /sync-stream-state?state=closed",
            "DELETE /sync-stream-state",
        ] {
            for accept in [
                "Accept: */*",
                "Accept: text/event-stream",
                "Accept: application/vnd.syncq.items+json",
            ] {
                let answer = request(at, line, &[header, accept], "");
                assert_eq!(answer.status, 401, "{line} {header}");
                assert_eq!(answer.header("www-authenticate"), Some("bearer"));
                assert!(!answer.text().contains("private"));
            }
        }
        for path in ["/sync-stream", "/sync-stream-state"] {
            let body = r#"{"type":"str","data":{"value":"x\n"},"state":"closed","value":"true"}"#;
            assert_eq!(request(at, &format!("POST {path}"), &[header, JSON], body).status, 401);
        }
    }
    let page = request(at, "GET /sync-stream", &["Accept: text/html"], "");
    assert!(
        page.status == 200 && !page.text().contains("private"),
        "the page holds no line"
    );
    assert!(buffer.len().unwrap() == 1 && !buffer.is_stopped());
    assert_eq!(
        request(at, "GET /sync-stream", &["authorization: bearer the-token"], "").status,
        200
    );

    let mirror = LineHostMirror::options()
        .token("the-token")
        .connect(service.url())
        .unwrap();
    mirror.write("ours\n").unwrap();
    mirror.finish(SECONDS).unwrap();
    let reader = LineHostReader::options()
        .token("the-token")
        .connect(service.url())
        .unwrap();
    assert_eq!(texts(&reader.read(None).unwrap()), ["private", "ours"]);
    let error = LineHostReader::new(service.url()).unwrap().read(None).unwrap_err();
    assert!(error.to_string().contains("401: a bearer token is needed"), "{error}");
    let refused = LineHostMirror::new(service.url()).unwrap();
    refused.write("no\n").unwrap();
    let error = refused.finish(Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("1 not sent; last error: 401"), "{error}");
}

#[test]
fn it_binds_loopback_unless_told_otherwise_and_takes_no_foreign_names() {
    let _watchdog = minute();
    let buffer = LineHostBuffer::new("/sync-stream", 5).unwrap();
    let error = buffer.serve("0.0.0.0:0").unwrap_err();
    assert!(
        matches!(error, LineError::InvalidOption { option: "address", .. }),
        "{error}"
    );
    assert!(
        LineHostBuffer::options()
            .beyond_loopback()
            .build()
            .unwrap()
            .serve("0.0.0.0:0")
            .is_ok()
    );
    let (_buffer, service) = served(LineHostBuffer::options().host_name("lines.example"));
    let host = |host: &str| {
        let head = format!("GET /sync-stream HTTP/1.1\r\nConnection: close\r\nHost: {host}\r\n\r\n");
        http::exchange(service.address(), head.as_bytes()).unwrap().status
    };
    for name in [
        "localhost",
        "localhost:5000",
        "127.0.0.1:1",
        "[::1]:1",
        "[::1]",
        "Lines.Example:80",
    ] {
        assert_eq!(host(name), 200, "{name}");
    }
    for name in ["evil.example", "evil.example:5000", "localhost.evil.example", ""] {
        assert_eq!(host(name), 421, "{name}");
    }
}

#[test]
fn bad_options_are_refused_before_anything_happens() {
    let is_invalid = |result: Result<(), LineError>| assert!(matches!(result, Err(LineError::InvalidOption { .. })));
    is_invalid(LineHostBuffer::new("no-slash", 5).map(drop));
    is_invalid(LineHostBuffer::new("/with?query", 5).map(drop));
    is_invalid(LineHostBuffer::new("/r", 0).map(drop));
    is_invalid(LineHostBuffer::options().token("").build().map(drop));
    is_invalid(
        LineHostBuffer::options()
            .limits(|l| l.connections = 0)
            .build()
            .map(drop),
    );
    for address in [
        "",
        "localhost:5000/x",
        "https://localhost/x",
        "ftp://x/",
        "http://",
        "http://x/y?z=1",
    ] {
        is_invalid(LineHostMirror::new(address).map(drop));
        is_invalid(LineHostReader::new(address).map(drop));
    }
    is_invalid(
        LineHostMirror::options()
            .line_cap(3)
            .connect("http://127.0.0.1:1/x")
            .map(drop),
    );
    is_invalid(
        LineHostMirror::options()
            .spool(3)
            .connect("http://127.0.0.1:1/x")
            .map(drop),
    );
    is_invalid(
        LineHostMirror::options()
            .token("two\nlines")
            .connect("http://127.0.0.1:1/x")
            .map(drop),
    );
    is_invalid(
        LineHostReader::options()
            .timeout(Duration::ZERO)
            .connect("http://127.0.0.1:1/x")
            .map(drop),
    );
}

// Between our own ends.

#[test]
fn all_that_an_item_has_arrives() {
    let _watchdog = minute();
    let (buffer, service) = plain(20);
    let mirror = LineHostMirror::options()
        .name("worker é")
        .line_cap(64)
        .connect(service.url())
        .unwrap();
    let before = std::time::SystemTime::now();
    mirror.write_bytes(Stream::Out, b"out\n\xff\xfe\n").unwrap();
    mirror.write_bytes(Stream::Err, b"err\n").unwrap();
    mirror.write("x".repeat(68) + "\n").unwrap();
    mirror.send_warning(&"w").unwrap();
    let record = Record {
        level: Level::Warn,
        target: "t".into(),
        message: "m".into(),
        fields: vec![("n".into(), Value::Int(7))],
        spans: vec![],
        source: None,
    };
    mirror.send_record(&record).unwrap();
    mirror.finish(SECONDS).unwrap();
    for items in [
        buffer.read(None).unwrap(),
        LineHostReader::new(service.url()).unwrap().read(None).unwrap(),
    ] {
        assert_eq!(items.iter().map(|i| i.seq).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let streams: Vec<_> = items.iter().take(3).map(|item| item.stream).collect();
        assert_eq!(streams, [Stream::Out, Stream::Out, Stream::Err]);
        assert_eq!(items[1].line().unwrap().bytes(), b"\xff\xfe");
        let cut = items[3].line().unwrap();
        assert_eq!((cut.bytes(), cut.cut()), (&[b'x'; 64][..], 4));
        assert_eq!(items[4].grouped().unwrap().data, ["w"]);
        assert!(matches!(&items[5].content, Content::Record(found) if **found == record));
        for item in &items {
            let origin = item.origin.as_ref().unwrap();
            assert_eq!((origin.name.as_str(), origin.pid), ("worker é", std::process::id()));
            let age = item.time.duration_since(before - Duration::from_secs(1)).unwrap();
            assert!(age < Duration::from_secs(30), "{age:?}");
        }
    }
}

#[test]
fn lines_of_threads_never_glue_or_tear() {
    let _watchdog = minute();
    for is_aggressive in [false, true] {
        let (buffer, service) = plain(4000);
        let mirror = LineHostMirror::options()
            .aggressive(is_aggressive)
            .connect(service.url())
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mirror = &mirror;
                scope.spawn(move || {
                    for i in 0..500 {
                        for piece in ["thread ", &thread.to_string(), " line ", &i.to_string(), "\n"] {
                            mirror.write(piece).unwrap();
                        }
                    }
                });
            }
        });
        mirror.finish(SECONDS).unwrap();
        let lines = texts(&buffer.read(None).unwrap());
        assert_eq!(lines.len(), 2000, "aggressive: {is_aggressive}");
        for thread in 0..4 {
            let start = format!("thread {thread} line ");
            let mine: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix(&start)).collect();
            assert_eq!(
                mine,
                (0..500).map(|i| i.to_string()).collect::<Vec<_>>(),
                "aggressive: {is_aggressive}"
            );
        }
    }
}

#[test]
fn an_aggressive_mirror_shows_a_line_before_it_is_whole() {
    let _watchdog = minute();
    let (buffer, service) = plain(5);
    let mirror = LineHostMirror::options()
        .aggressive(true)
        .connect(service.url())
        .unwrap();
    mirror.write("half ").unwrap();
    eventually("its beginning is there", || {
        buffer.read(None).unwrap().iter().any(|i| i.text() == "half ")
    });
    mirror.write("way\n").unwrap();
    mirror.finish(SECONDS).unwrap();
    assert_eq!(texts(&buffer.read(None).unwrap()), ["half way"]);
}

#[test]
fn following_over_http_gives_every_item_once_and_says_what_it_missed() {
    let _watchdog = minute();
    let (buffer, service) = plain(100);
    let reader = LineHostReader::new(service.url()).unwrap();
    let writer = std::thread::spawn({
        let buffer = buffer.clone();
        move || {
            (0..300).for_each(|i| {
                buffer.write(format!("line {i}\n")).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            })
        }
    });
    let mut count = 0;
    for item in reader.follow(SECONDS) {
        let item = item.unwrap();
        count += match item.content {
            Content::Dropped(missed) => missed,
            _ => {
                assert_eq!(item.text(), format!("line {count}"));
                1
            }
        };
        if count == 300 {
            break;
        }
    }
    writer.join().unwrap();
    assert!(!reader.wait_for(300, Wait::For(Duration::from_millis(50))).unwrap());
    assert_eq!(reader.next_seq().unwrap(), 300);
    assert_eq!(reader.maxlen(), 100);
}

// When the service is away.

#[test]
fn a_dead_service_is_no_error_for_who_writes_and_hides_no_error_of_theirs() {
    let _watchdog = minute();
    let url = format!("http://{}/sync-stream", nobody());
    let work = || -> Result<(), String> {
        let mut mirror = LineHostMirror::options()
            .last_wait(Duration::from_millis(100))
            .connect(&url)
            .unwrap();
        for i in 0..1000 {
            writeln!(mirror, "line {i}").unwrap();
        }
        mirror.send_error(&"before the end").unwrap();
        Err("my own error".into())
    };
    let start = Instant::now();
    assert_eq!(work(), Err("my own error".into()));
    assert!(start.elapsed() < Duration::from_secs(10));

    let mirror = LineHostMirror::new(&url).unwrap();
    mirror.write("a\nb\n").unwrap();
    let error = mirror.finish(Duration::from_millis(100)).unwrap_err().to_string();
    assert!(
        error.contains("0 lines sent, 0 dropped, 2 not sent; last error: "),
        "{error}"
    );
    assert!(matches!(mirror.write("x"), Err(LineError::Closed)));
}

#[test]
fn what_was_written_while_the_service_was_away_arrives_in_order_when_it_is_back() {
    let _watchdog = minute();
    let address = nobody();
    let mirror = LineHostMirror::new(&format!("http://{address}/sync-stream")).unwrap();
    for i in 0..50 {
        mirror.write(format!("line {i}\n")).unwrap();
    }
    eventually("it was tried", || mirror.report().unwrap().retries > 0);
    let buffer = LineHostBuffer::new("/sync-stream", 200).unwrap();
    let service = buffer.serve(address).unwrap();
    mirror.write("line 50\n").unwrap();
    assert!(mirror.drain(SECONDS).unwrap());
    // And away once more, with a fresh service of the same buffer after that.
    assert!(service.stop(SECONDS));
    for i in 51..100 {
        mirror.write(format!("line {i}\n")).unwrap();
    }
    let _service = buffer.serve(address).unwrap();
    let report = mirror.finish(SECONDS).unwrap();
    assert_eq!(texts(&buffer.read(None).unwrap()), numbered(0..100));
    assert_eq!((report.sent, report.dropped, report.unsent), (100, 0, 0));
    assert!(report.last_error.is_some(), "what went wrong on the way is told");
}

#[test]
fn the_spool_is_bounded_and_the_reader_is_told_what_was_dropped() {
    let _watchdog = minute();
    let address = nobody();
    let mirror = LineHostMirror::options()
        .spool(64 << 10)
        .connect(&format!("http://{address}/sync-stream"))
        .unwrap();
    for i in 0..20_000 {
        mirror.write(format!("line {i}\n")).unwrap();
        if i % 1000 == 0 {
            // Ends an entry, so that what is dropped is not all there is.
            mirror.write_bytes(Stream::Err, b"mark\n").unwrap();
        }
    }
    let dropped = mirror.report().unwrap().dropped;
    assert!(dropped > 10_000, "{dropped}");
    let buffer = LineHostBuffer::new("/sync-stream", 100_000).unwrap();
    let _service = buffer.serve(address).unwrap();
    let error = mirror.finish(SECONDS).unwrap_err().to_string();
    assert!(error.contains(&format!("{dropped} dropped, 0 not sent")), "{error}");
    let items = buffer.read(None).unwrap();
    let told: u64 = items
        .iter()
        .map(|item| if let Content::Dropped(n) = item.content { n } else { 0 })
        .sum();
    let came = items.iter().filter(|item| item.line().is_some()).count() as u64;
    assert_eq!((told, told + came), (dropped, 20_020));
    assert_eq!(items.last().unwrap().text(), "line 19999");
}

#[test]
fn a_slow_service_holds_writers_back_and_loses_nothing() {
    let _watchdog = minute();
    let (buffer, service) = plain(200_000);
    let mirror = LineHostMirror::options()
        .spool(16 << 10)
        .patience(SECONDS)
        .connect(service.url())
        .unwrap();
    for i in 0..50_000 {
        mirror.write(format!("line {i}\n")).unwrap();
    }
    let report = mirror.finish(SECONDS).unwrap();
    assert_eq!((report.sent, report.dropped), (50_000, 0));
    assert_eq!(texts(&buffer.read(None).unwrap()), numbered(0..50_000));
}

/// Stands between a mirror and a service, and swallows some answers: the request has been carried out, and nobody hears of it.
fn forgetful(to: SocketAddr, every: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let swallowed = Arc::new(AtomicUsize::new(0));
    let count = swallowed.clone();
    std::thread::spawn(move || {
        let mut posts = 0;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut from = BufReader::new(stream.try_clone().unwrap());
            while let Some(request) = read_request(&mut from) {
                let mut service = BufReader::new(connect(to));
                service.get_mut().write_all(&request).unwrap();
                let Some(answer) = read_answer(&mut service) else { break };
                posts += usize::from(request.starts_with(b"POST"));
                if request.starts_with(b"POST") && posts % every == 0 {
                    count.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                let head = format!(
                    "HTTP/1.1 {} x\r\nContent-Length: {}\r\n\r\n",
                    answer.status,
                    answer.body.len()
                );
                stream.write_all(&[head.as_bytes(), &answer.body].concat()).unwrap();
            }
        }
    });
    (address, swallowed)
}

fn read_request(from: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let (mut bytes, mut len) = (Vec::new(), 0);
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let start = bytes.len();
    bytes.resize(start + len, 0);
    from.read_exact(&mut bytes[start..]).ok()?;
    Some(bytes)
}

#[test]
fn lines_whose_answer_was_lost_are_there_once_and_in_order() {
    let _watchdog = minute();
    let (buffer, service) = plain(500);
    let (address, swallowed) = forgetful(service.address(), 3);
    let mirror = LineHostMirror::new(&format!("http://{address}/sync-stream")).unwrap();
    for i in 0..60 {
        mirror.write(format!("line {i}\n")).unwrap();
        assert!(mirror.drain(SECONDS).unwrap());
    }
    let report = mirror.finish(SECONDS).unwrap();
    assert!(swallowed.load(Ordering::SeqCst) >= 20);
    assert!(report.retries >= 20);
    assert_eq!(texts(&buffer.read(None).unwrap()), numbered(0..60));
    assert!(buffer.stats().unwrap().repeated >= 20);
}

// Limits.

#[test]
fn connections_over_the_limit_are_told_so_and_room_comes_back() {
    let _watchdog = minute();
    let (_buffer, service) = served(LineHostBuffer::options().limits(|l| l.connections = 3));
    let held: Vec<_> = (0..3).map(|_| connect(service.address())).collect();
    eventually("the fourth is turned away", || {
        let answer = get(service.address(), "/sync-stream");
        answer.status == 429
            && answer.text().contains("too many connections")
            && answer.header("retry-after") == Some("1")
    });
    drop(held);
    eventually("there is room again", || {
        get(service.address(), "/sync-stream").status == 200
    });
}

#[test]
fn who_stalls_is_closed_and_holds_nothing() {
    let _watchdog = minute();
    let stall = Duration::from_millis(300);
    let (buffer, service) = served(
        LineHostBuffer::options()
            .maxlen(100)
            .limits(|l| (l.stall, l.connections) = (stall, 4)),
    );
    let is_closed = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // Answered with words or not: what counts is the end.
        let _ = stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    };
    let mut half_a_head = connect(service.address());
    half_a_head.write_all(b"GET /sync-stream HTT").unwrap();
    is_closed(half_a_head);
    is_closed(connect(service.address()));
    let mut half_a_body = connect(service.address());
    half_a_body
        .write_all(b"POST /sync-stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        .unwrap();
    assert!(is_closed(half_a_body).contains("408"));
    // Who asks for more than the kernel buffers, and takes nothing.
    for _ in 0..12 {
        buffer.write("x".repeat(1 << 20) + "\n").unwrap();
    }
    let mut greedy: Vec<_> = (0..4).map(|_| connect(service.address())).collect();
    for stream in &mut greedy {
        stream
            .write_all(b"GET /sync-stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
    }
    eventually("there is room again", || {
        get(service.address(), "/sync-stream-state?state=maxlen").status == 200
    });
}

#[test]
fn a_line_over_the_cap_is_cut_and_says_so() {
    let _watchdog = minute();
    let (buffer, service) = plain(5);
    let mirror = LineHostMirror::options()
        .line_cap(4 << 20)
        .connect(service.url())
        .unwrap();
    mirror.write("x".repeat(3 << 20) + "\nnext\n").unwrap();
    mirror.finish(SECONDS).unwrap();
    let items = buffer.read(None).unwrap();
    let line = items[0].line().unwrap();
    assert_eq!((line.bytes().len(), line.cut()), (1 << 20, 2 << 20));
    assert_eq!(items[1].text(), "next");
}

#[test]
fn posts_that_are_too_large_for_a_service_go_in_parts_and_what_cannot_is_counted() {
    let _watchdog = minute();
    let (buffer, service) = served(
        LineHostBuffer::options()
            .maxlen(5000)
            .limits(|l| (l.body, l.items) = (4096, 50)),
    );
    let mirror = LineHostMirror::new(service.url()).unwrap();
    mirror
        .write((0..1000).map(|i| format!("line {i}\n")).collect::<String>())
        .unwrap();
    mirror.write("x".repeat(10_000) + "\n").unwrap();
    mirror.write("line 1000\n").unwrap();
    let error = mirror.finish(SECONDS).unwrap_err().to_string();
    assert!(
        error.contains("1001 lines sent, 1 dropped, 0 not sent; last error: 413"),
        "{error}"
    );
    let items = buffer.read(None).unwrap();
    let lines: Vec<_> = items.iter().filter(|item| item.line().is_some()).cloned().collect();
    assert_eq!(texts(&lines), numbered(0..1001));
    assert!(
        matches!(items[1000].content, Content::Dropped(1)),
        "said where it is missing: {:?}",
        items[1000]
    );
}

#[test]
fn unfinished_lines_of_many_mirrors_are_bounded_together() {
    let _watchdog = minute();
    let (buffer, service) = plain(100);
    let tail = "x".repeat(1 << 20);
    for mirror in 0..40 {
        let body = format!(
            r#"{{"type":"str","data":{{"value":"{tail}"}},"syncq":{{"mirror":{mirror},"seq":1,"name":"","pid":1,"time":0}}}}"#
        );
        assert_eq!(post(service.address(), "/sync-stream", &body).status, 201);
    }
    let items = buffer.read(None).unwrap();
    let unfinished = items
        .iter()
        .filter_map(LineItem::line)
        .filter(|line| line.is_unfinished())
        .count();
    assert!(unfinished <= 16, "{unfinished}");
    assert!(
        items.len() > unfinished,
        "the others were ended, and stored as far as there is room"
    );
}

// Server-sent events.

fn events(service: &HostService, head: &[&str]) -> BufReader<TcpStream> {
    let mut stream = connect(service.address());
    let head: String = head.iter().map(|line| format!("{line}\r\n")).collect();
    write!(
        stream,
        "GET /sync-stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{head}\r\n"
    )
    .unwrap();
    let mut stream = BufReader::new(stream);
    let answer = read_head(&mut stream).unwrap();
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream"))
    );
    stream
}

fn next_event(from: &mut impl BufRead) -> (u64, serde_json::Value) {
    let mut id = None;
    loop {
        let mut line = String::new();
        assert!(from.read_line(&mut line).unwrap() > 0, "the stream has ended");
        if let Some(number) = line.strip_prefix("id: ") {
            id = Some(number.trim().parse().unwrap());
        } else if let Some(data) = line.strip_prefix("data: ") {
            return (id.unwrap(), serde_json::from_str(data).unwrap());
        }
    }
}

#[test]
fn events_are_the_items_as_they_come_and_can_be_taken_up_again() {
    let _watchdog = minute();
    let (buffer, service) = plain(3);
    buffer.write("before\n").unwrap();
    let mut stream = events(&service, &[]);
    assert_eq!(next_event(&mut stream).1["text"], "before");
    buffer.write("after <b>\n").unwrap();
    buffer.send_error(&"broken\nbadly").unwrap();
    let (id, item) = next_event(&mut stream);
    assert_eq!(
        (id, &item["text"], &item["kind"]),
        (1, &"after <b>".into(), &"line".into())
    );
    let (_, item) = next_event(&mut stream);
    assert_eq!(
        (&item["kind"], &item["lines"]),
        (&"error".into(), &serde_json::json!(["broken", "badly"]))
    );
    // From where it was left.
    let mut again = events(&service, &["Last-Event-ID: 1"]);
    assert_eq!(next_event(&mut again).0, 2);
    // And what was rotated out is said.
    for i in 0..10 {
        buffer.write(format!("{i}\n")).unwrap();
    }
    let mut late = events(&service, &["Last-Event-ID: 1"]);
    let (_, item) = next_event(&mut late);
    assert_eq!((&item["kind"], &item["count"]), (&"dropped".into(), &8.into()));
    assert_eq!(next_event(&mut late).1["text"], "7");
}

#[test]
fn followers_are_limited_and_the_end_of_the_service_is_theirs() {
    let _watchdog = minute();
    let (_buffer, service) = served(LineHostBuffer::options().limits(|l| l.followers = 1));
    let mut stream = events(&service, &[]);
    let answer = request(
        service.address(),
        "GET /sync-stream",
        &["Accept: text/event-stream"],
        "",
    );
    assert_eq!(answer.status, 429);
    assert!(
        service.stop(SECONDS),
        "a follower does not keep the service from ending"
    );
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
}

// Fork.

#[test]
fn a_forked_child_hangs_nowhere_and_ends_nothing() {
    let _watchdog = minute();
    let (buffer, service) = plain(5);
    let mirror = LineHostMirror::new(service.url()).unwrap();
    mirror.write("parent\n").unwrap();
    assert!(mirror.drain(SECONDS).unwrap());
    let url = service.url().to_owned();
    let held = (buffer.clone(), Some((service, mirror)));
    let (buffer, mut parts) = held;
    let child = forked(|| {
        let (service, mirror) = parts.take().unwrap();
        assert!(matches!(mirror.write("x"), Err(LineError::Forked)));
        assert!(matches!(mirror.finish(SECONDS), Err(LineError::Forked)));
        drop(mirror);
        assert!(service.stop(SECONDS));
        let own = LineHostMirror::new(&url).unwrap();
        own.write("child\n").unwrap();
        own.finish(SECONDS).unwrap();
        0
    });
    child.must_succeed();
    let (service, mirror) = parts.take().unwrap();
    mirror.write("parent again\n").unwrap();
    mirror.finish(SECONDS).unwrap();
    assert_eq!(texts(&buffer.read(None).unwrap()), ["parent", "child", "parent again"]);
    drop(service);
}
