//! Writes down what two nodes of the real libchirp say to each other: `libchirp/exchanges.txt`, for `pool_recorded.rs`.

#[path = "support/libchirp.rs"]
mod libchirp;
#[path = "support/python.rs"]
mod python;
mod support;

use libchirp::{SECONDS, free_port, pool, python, queue};
use serde_json::json;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::watchdog;

/// What went over a connection, in order: who spoke, and the bytes.
type Heard = Arc<Mutex<Vec<(char, Vec<u8>)>>>;

/// Stands between a libchirp node that connects (C) and one that listens at 127.0.0.1 (S), and writes down what they say. It has to
/// listen at the port that S has, and so does at another address of the loopback.
fn overhear(port: u16) -> Heard {
    let heard = Heard::default();
    let listener = TcpListener::bind(("127.0.0.3", port)).expect("an address of the loopback");
    let words = heard.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", port)).expect("the node that listens");
            let ways = [
                ('C', client.try_clone().unwrap(), server.try_clone().unwrap()),
                ('S', server, client),
            ];
            for (who, mut from, mut to) in ways {
                let words = words.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        let mut words = words.lock().unwrap();
                        words.push((who, buffer[..length].to_vec()));
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    heard
}

/// As lines of hexadecimal digits: what one side says until the other one speaks, cut into handshake and frames.
fn written(heard: &Heard) -> String {
    let words = heard.lock().unwrap();
    let mut out = String::new();
    for (who, bytes) in &*words {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{who} {digits}").unwrap();
    }
    out
}

#[test]
#[ignore = "writes the exchanges that pool_recorded.rs checks; only to record them anew: cargo test --features pool --test interop_libchirp_record -- --ignored"]
fn record_exchanges() {
    let python = python().expect("the real libchirp");
    let _watchdog = watchdog(SECONDS * 9);
    let mut text = String::from(
        "# What two nodes of libchirp 1.2.1b3 said to each other, recorded by tests/interop_libchirp_record.rs.\n\
         # C has connected, S has listened. A line is what one of them said at once, in hexadecimal digits.\n",
    );
    let mut record = |title: &str, client: libchirp::Wish, server: libchirp::Wish, orders: &[serde_json::Value]| {
        let port = free_port();
        let mut server = server
            .with("BIND_V4", "127.0.0.1")
            .with("BIND_V6", "::1")
            .port(port)
            .start(&python);
        let mut client = client.start(&python);
        let heard = overhear(port);
        for order in orders {
            let mut order = order.clone();
            if let Some(pause) = order["pause"].as_f64() {
                std::thread::sleep(Duration::from_secs_f64(pause));
                continue;
            }
            if order["who"] == "S" {
                server.must(order);
                continue;
            }
            order["address"] = json!("127.0.0.3");
            order["port"] = json!(port);
            client.must(order);
        }
        // The last acknowledgement comes after the answer.
        std::thread::sleep(Duration::from_millis(300));
        write!(text, "\n# {title}\n{}", written(&heard)).unwrap();
    };
    let hello = json!({"do": "request", "text": "hello"});
    for (title, client, server) in [
        ("request: synchronous, echo asynchronous", true, false),
        ("request: synchronous, echo synchronous", true, true),
        ("request: asynchronous, echo asynchronous", false, false),
        ("request: asynchronous, echo synchronous", false, true),
    ] {
        record(
            title,
            pool("note", client),
            pool("echo", server),
            &[hello.clone(), hello.clone()],
        );
    }
    let send = json!({"do": "send", "text": "one way", "header": 5});
    record(
        "send: synchronous, two messages with a header",
        pool("note", true),
        pool("note", true),
        &[send.clone(), send.clone()],
    );
    record(
        "send: asynchronous, three messages at once, and an empty one",
        pool("note", false),
        pool("note", false),
        &[
            json!({"do": "send_many", "count": 3, "size": 3}),
            json!({"do": "send", "text": ""}),
        ],
    );
    record(
        "sign of life: a message after 3.3 s where connections are reused for 4 s",
        pool("note", true).with("REUSE_TIME", 4.0).with("TIMEOUT", 1.0),
        pool("note", true).with("REUSE_TIME", 4.0).with("TIMEOUT", 1.0),
        &[send.clone(), json!({"pause": 3.3}), send.clone()],
    );
    record(
        "queue: a message taken and answered, synchronous",
        queue(true),
        pool("echo", true),
        std::slice::from_ref(&hello),
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libchirp/exchanges.txt");
    std::fs::write(path, text).unwrap();
}
