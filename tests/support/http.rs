//! Requests as bytes, for tests of servers: nothing between the test and the socket.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection on which no read waits longer than a test should last.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// An answer: code, head in lower case, body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.trim())
    }
}

/// Reads the head of an answer.
pub fn read_head(from: &mut impl BufRead) -> Option<Answer> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line.to_ascii_lowercase().replace("\r\n", "\n"));
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head,
        body: Vec::new(),
    })
}

/// Reads one whole answer. `None`: the connection was closed instead.
pub fn read_answer(from: &mut impl BufRead) -> Option<Answer> {
    let mut answer = read_head(from)?;
    match answer.header("content-length").and_then(|len| len.parse().ok()) {
        Some(len) => {
            answer.body = vec![0; len];
            from.read_exact(&mut answer.body).ok()?;
        }
        None => {
            from.read_to_end(&mut answer.body).ok()?;
        }
    }
    Some(answer)
}

/// Sends bytes on a fresh connection, and reads one answer.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = connect(address);
    // It may be refused before all of it was read.
    let _ = stream.write_all(request);
    read_answer(&mut BufReader::new(stream))
}

/// Sends a request with a body of JSON, and further lines of a head.
pub fn request(address: SocketAddr, line: &str, head: &[&str], body: &str) -> Answer {
    let head: String = head.iter().map(|line| format!("{line}\r\n")).collect();
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let bytes = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{head}\r\n{body}");
    exchange(address, bytes.as_bytes()).unwrap_or_else(|| panic!("no answer to {line}"))
}

pub const JSON: &str = "Content-Type: application/json";

/// Posts a body of JSON.
pub fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    request(address, &format!("POST {path}"), &[JSON], body)
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path}"), &[], "")
}
