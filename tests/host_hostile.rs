//! Requests that are malformed, oversized, torn or nonsense: each is answered or its connection closed, memory stays bounded, and the service
//! goes on.
//!
//! The long run: `cargo test --release --features host --test host_hostile -- --ignored`

#![cfg(feature = "host")]

#[path = "support/http.rs"]
mod http;
mod support;

use http::connect;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::watchdog;
use syncq::host::{LineHostBuffer, LineHostMirror, LineHostReader};
use syncq::line::Lines;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

const BODY_LIMIT: usize = 64 << 10;

fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{head}\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request that no friend would send.
fn attack(dice: &mut Dice) -> (&'static str, Vec<u8>) {
    let posted = |body: &[u8]| with_body("POST /sync-stream HTTP/1.1", body);
    let good = br#"{"type":"str","data":{"value":"a line\n"}}"#;
    match dice.below(18) {
        0 => ("random bytes", {
            let len = dice.below(3000);
            dice.bytes(len)
        }),
        1 => ("torn request", {
            let mut whole = posted(good);
            whole.truncate(dice.below(whole.len()));
            whole
        }),
        2 => ("flipped byte", {
            let mut whole = posted(good);
            let at = dice.below(whole.len());
            whole[at] = dice.next() as u8;
            whole
        }),
        3 => (
            "huge header",
            format!(
                "GET /sync-stream HTTP/1.1\r\nX: {}\r\n\r\n",
                "x".repeat(20_000 + dice.below(100_000))
            )
            .into_bytes(),
        ),
        4 => (
            "many headers",
            format!(
                "GET /sync-stream HTTP/1.1\r\n{}\r\n",
                "A: b\r\n".repeat(65 + dice.below(3000))
            )
            .into_bytes(),
        ),
        5 => (
            "huge path",
            format!(
                "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "p".repeat(dice.below(100_000))
            )
            .into_bytes(),
        ),
        6 => ("bad length", {
            let len = dice.of(&[
                "-1",
                "1e9",
                "18446744073709551616",
                "9 9",
                "",
                "0x10",
                "+5",
                "99999999999",
            ]);
            format!("POST /sync-stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{{}}").into_bytes()
        }),
        7 => (
            "two lengths",
            b"POST /sync-stream HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x".to_vec(),
        ),
        8 => (
            "length and chunks",
            b"POST /sync-stream HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}".to_vec(),
        ),
        9 => ("bad chunks", {
            let chunk = dice.of(&[
                "zz\r\n",
                "-1\r\n",
                "FFFFFFFFFFFFFFFFF\r\nx",
                "5\r\nab",
                "0;\r\n",
                "2\r\n{}XX0\r\n\r\n",
            ]);
            format!("POST /sync-stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}").into_bytes()
        }),
        10 => (
            "oversized body",
            posted(&vec![b' '; BODY_LIMIT + 1 + dice.below(BODY_LIMIT)]),
        ),
        11 => ("far oversized body", posted(&vec![b'['; BODY_LIMIT * 5])),
        12 => ("deep JSON", {
            let depth = dice.below(30_000);
            posted(
                [&b"{\"type\":\"str\",\"data\":"[..], &vec![b'['; depth]]
                    .concat()
                    .as_slice(),
            )
        }),
        13 => ("not UTF-8", {
            let len = dice.below(500);
            posted(
                &[
                    &b"{\"type\":\"str\",\"data\":{\"value\":\""[..],
                    &dice.bytes(len),
                    b"\"}}",
                ]
                .concat(),
            )
        }),
        14 => ("wrong shapes", {
            let body = dice.of(&[
                r#"{"type":7}"#,
                r#"{"type":"error","data":[]}"#,
                r#"{"type":"str","data":{"value":{}}}"#,
                "null",
                "1e999",
                r#"{"type":"error","data":{"/is_syncsdata":true,"/type":"x","type":"error","data":[]}}"#,
                r#"{"type":"str","data":{"value":"x"},"syncq":{"mirror":1,"seq":1e99}}"#,
                r#"{"type":"str","data":{"value":"x"},"syncq":[]}"#,
                r#"{"type":"str","type":"str"}"#,
                "\"\\ud800",
            ]);
            posted(body.as_bytes())
        }),
        15 => (
            "wrong method",
            with_body(
                dice.of(&[
                    "PATCH /sync-stream HTTP/1.1",
                    "CONNECT x:1 HTTP/1.1",
                    "TRACE / HTTP/1.1",
                    "post /sync-stream HTTP/1.1",
                ]),
                good,
            ),
        ),
        16 => ("wrong query", {
            let query = dice.of(&[
                "n=%",
                "n=1e3",
                "n=&n",
                "since=x",
                "wait=-",
                "n=99999999999999999999x",
                "n=\u{7f}",
            ]);
            format!("GET /sync-stream?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: application/vnd.syncq.items+json\r\n\r\n").into_bytes()
        }),
        _ => ("garbage after a good one", [posted(good), dice.bytes(100)].concat()),
    }
}

fn reach(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            // All ports wait for the echo of connections that are over.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                std::thread::sleep(Duration::from_millis(100))
            }
            Err(error) => panic!("nobody listens: {error}"),
        }
    }
}

/// Sends it and waits for the end of the connection. Gives the first code, 0 for none.
fn suffer(address: SocketAddr, bytes: &[u8]) -> u16 {
    let mut stream = reach(address);
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(15))).unwrap();
    // It may be closed before it has taken all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "neither answered nor closed: {bytes:?}"
        );
    }
    let code = answer
        .get(9..12)
        .and_then(|code| std::str::from_utf8(code).ok())
        .and_then(|code| code.parse().ok());
    code.unwrap_or(0)
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

fn storm(count: usize) {
    let buffer = LineHostBuffer::options()
        .maxlen(100)
        .limits(|l| (l.body, l.connections, l.stall) = (BODY_LIMIT, 16, Duration::from_secs(2)))
        .build()
        .unwrap();
    let service = buffer.serve("127.0.0.1:0").unwrap();
    let address = service.address();
    let follower = LineHostReader::new(service.url()).unwrap();
    let (start, before) = (Instant::now(), resident());
    let codes: Vec<BTreeMap<(&str, u16), usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    let (mut dice, mut codes) = (Dice(0x9e37_79b9_7f4a_7c15 ^ thread), BTreeMap::new());
                    for _ in 0..count / 4 {
                        let (what, bytes) = attack(&mut dice);
                        *codes.entry((what, suffer(address, &bytes))).or_default() += 1;
                    }
                    codes
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("each is answered or closed"))
            .collect()
    });
    let mut all = BTreeMap::new();
    codes
        .into_iter()
        .flatten()
        .for_each(|(key, n)| *all.entry(key).or_insert(0) += n);
    let grown = resident().saturating_sub(before);
    println!(
        "{count} requests in {:?}, {} KiB more resident: {all:?}",
        start.elapsed(),
        grown >> 10
    );
    let server_errors = all.iter().filter(|((_, code), _)| *code >= 500).count();
    assert_eq!(server_errors, 0, "faults of theirs are not ours: {all:?}");
    for what in ["oversized body", "far oversized body"] {
        assert!(
            all.keys()
                .filter(|(w, _)| *w == what)
                .all(|(_, code)| [413, 0].contains(code)),
            "{all:?}"
        );
    }
    assert!(grown < 64 << 20, "{grown} bytes more");
    // Alive, and all of it: a mirror, a reader, and as many connections as ever.
    let mirror = LineHostMirror::new(service.url()).unwrap();
    mirror.write("still here\n").unwrap();
    mirror.finish(Duration::from_secs(20)).unwrap();
    assert_eq!(follower.read(1).unwrap()[0].text(), "still here");
    assert_eq!(follower.maxlen(), 100);
    let held: Vec<_> = (0..12).map(|_| connect(address)).collect();
    assert_eq!(http::get(address, "/sync-stream-state?state=closed").status, 200);
    drop(held);
}

#[test]
fn thousands_of_malformed_requests_are_each_answered_or_closed() {
    let _watchdog = watchdog(Duration::from_secs(120));
    storm(3000);
}

#[test]
#[ignore = "a soak of some minutes: cargo test --release --features host --test host_hostile -- --ignored"]
fn a_hundred_thousand_malformed_requests_are_each_answered_or_closed() {
    let _watchdog = watchdog(Duration::from_secs(1800));
    storm(100_000);
}
