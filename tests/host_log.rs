//! Logging through a line service over HTTP: no loop, whether the service lives or not. One logger for a process, so one test.

#![cfg(all(feature = "host", feature = "log"))]

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use support::{eventually, minute};
use syncq::host::{LineHostBuffer, LineHostMirror};
use syncq::line::{Content, LineLog, Mirror};

#[test]
fn what_the_http_library_logs_does_not_come_back_as_lines_to_be_sent() {
    let _watchdog = minute();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirror = Arc::new(LineHostMirror::new(&format!("http://{address}/sync-stream")).unwrap());
    // Everything, down to the last trace: of the client, of the service in this same process, of all.
    LineLog::new(mirror.clone()).install().unwrap();
    // Nobody is there: it is tried in vain, and that may be logged. (The original recurses here until its stack is full.)
    log::warn!(target: "mine", "one");
    eventually("it was tried", || mirror.report().unwrap().retries > 1);
    let buffer = LineHostBuffer::new("/sync-stream", 1000).unwrap();
    let service = buffer.serve(address).unwrap();
    log::warn!(target: "mine", "two");
    assert!(mirror.drain(Duration::from_secs(20)).unwrap());
    // Somebody is there. (The original goes round for ever here.)
    log::warn!(target: "mine", "three");
    assert!(mirror.drain(Duration::from_secs(20)).unwrap());
    std::thread::sleep(Duration::from_millis(700));
    let records: Vec<String> = (buffer.read(None).unwrap().iter())
        .filter_map(|item| match &item.content {
            Content::Record(record) => Some(format!("{} {}", record.target, record.message)),
            _ => None,
        })
        .collect();
    assert_eq!(records, ["mine one", "mine two", "mine three"]);
    assert!(service.stop(Duration::from_secs(20)));
    mirror.close().unwrap();
}
