//! A headless Chromium, driven over chromedriver's HTTP: what a person would do with a page.
//!
//! Needs `http.rs` and `python.rs` (for saying what is missing) beside it.

#![allow(dead_code, reason = "each test file uses its own part")]

use crate::{http, python, support};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A window of a browser with a fresh profile. All of it ends with this.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: support::Folder,
}

/// `None` where there is no Chromium: said on the terminal, and a failure with `CI=true`.
pub fn browser() -> Option<Browser> {
    let profile = support::folder("chromium");
    let mut command = Command::new("chromedriver");
    command
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // It leaves folders behind; and puts a socket there, whose path must not be long.
    if profile.0.as_os_str().len() < 60 {
        command.env("TMPDIR", &profile.0);
    }
    // SAFETY: one system call between fork and exec, nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL);
            Ok(())
        });
    }
    let mut driver = match command.spawn() {
        Ok(driver) => driver,
        Err(error) => {
            python::missing(&format!(
                "chromedriver: {error}. Needed: the Debian packages chromium and chromium-driver"
            ));
            return None;
        }
    };
    let mut said = BufReader::new(driver.stdout.take().expect("piped"));
    let port = loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("text") > 0, "chromedriver ended");
        let port = line
            .trim()
            .strip_prefix("ChromeDriver was started successfully on port ");
        if let Some(port) = port.and_then(|port| port.trim_end_matches('.').parse().ok()) {
            break port;
        }
    };
    // Nobody reads what else it says; the pipe must not fill up.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    let mut browser = Browser {
        driver,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        session: String::new(),
        _profile: profile,
    };
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--window-size=1100,640",
        &format!("--user-data-dir={}", browser._profile.0.display()),
    ];
    let options = json!({"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}});
    let made = browser.call("POST", "/session", &json!({"capabilities": {"alwaysMatch": options}}));
    browser.session = made["sessionId"]
        .as_str()
        .unwrap_or_else(|| panic!("no session: {made}"))
        .to_owned();
    Some(browser)
}

impl Browser {
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let answer = http::request(self.address, &format!("{method} {path}"), &[http::JSON], &body);
        let mut reply: Value =
            serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()));
        reply["value"].take()
    }

    fn in_session(&self, method: &str, path: &str, body: &Value) -> Value {
        let value = self.call(method, &format!("/session/{}{path}", self.session), body);
        assert!(value.get("error").is_none(), "{value}");
        value
    }

    pub fn open(&self, url: &str) {
        self.in_session("POST", "/url", &json!({"url": url}));
    }

    /// What a script of the page's own would see.
    pub fn script(&self, script: &str) -> Value {
        self.in_session("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true.
    pub fn until(&self, what: &str, expression: &str) {
        let script = format!("return Boolean({expression})");
        support::eventually(what, || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.script(&script) == Value::Bool(true)
        });
    }

    fn find(&self, selector: &str) -> String {
        let found = self.in_session("POST", "/element", &json!({"using": "css selector", "value": selector}));
        found
            .as_object()
            .and_then(|o| o.values().next())
            .and_then(Value::as_str)
            .expect("an element")
            .to_owned()
    }

    pub fn click(&self, selector: &str) {
        self.in_session("POST", &format!("/element/{}/click", self.find(selector)), &json!({}));
    }

    pub fn type_into(&self, selector: &str, text: &str) {
        self.in_session(
            "POST",
            &format!("/element/{}/value", self.find(selector)),
            &json!({"text": text}),
        );
    }

    pub fn clear(&self, selector: &str) {
        self.in_session("POST", &format!("/element/{}/clear", self.find(selector)), &json!({}));
    }

    /// What the page complained about: errors of scripts, and what its policy forbade.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.in_session("POST", "/se/log", &json!({"type": "browser"}));
        let lines = log.as_array().cloned().unwrap_or_default();
        lines
            .iter()
            .filter(|line| line["level"] == "SEVERE")
            .map(|line| line["message"].to_string())
            .collect()
    }

    /// A picture of the window, as a PNG file.
    pub fn screenshot(&self, path: &Path) {
        let picture = self.in_session("GET", "/screenshot", &Value::Null);
        std::fs::write(path, base64(picture.as_str().expect("a picture"))).expect("the target folder is writable");
    }
}

fn base64(text: &str) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.session.is_empty() {
            let _ = self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let group = Pid::from_raw(self.driver.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}
