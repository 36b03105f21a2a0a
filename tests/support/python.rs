//! Python peers: a virtual environment with packages from PyPI, made once below the target folder and then reused, and the
//! scripts that run in it.
//!
//! Not here: what a peer does. A test that wants one says `mod support;` beside `#[path = "support/python.rs"] mod python;`.
//!
//! Any number of tests, threads and processes may ask for the same environment at once: one makes it, the others wait. It is made in a
//! folder of its own and named as ready by one rename at the end, so a run that is killed midway leaves nothing that a later one
//! would take for an environment, and not even its orphaned installer can harm the next attempt.
//!
//! Making one takes up to a minute the first time: ask for it before the test's watchdog is set.

#![allow(dead_code, reason = "each test file uses its own part")]

use nix::fcntl::{Flock, FlockArg};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long installing may take altogether, building from source included.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// What an environment has to hold.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Wanted<'a> {
    /// Names its folder: a plain word.
    pub name: &'a str,
    /// What pip is to install, versions pinned: `syncstream[host]==1.2.2`.
    pub packages: &'a [&'a str],
    /// More arguments for `pip install`.
    pub pip_args: &'a [&'a str],
    /// More environment for `pip install`.
    pub pip_env: &'a [(&'a str, &'a str)],
    /// Modules that must be importable afterwards; a package may install well and still lack a system library.
    pub imports: &'a [&'a str],
    /// Debian packages that it needs beside python3 and python3-venv. Only named in the message when something is missing.
    pub system_packages: &'a [&'a str],
}

impl Wanted<'_> {
    pub const NOTHING: Wanted<'static> = Wanted {
        name: "",
        packages: &[],
        pip_args: &[],
        pip_env: &[],
        imports: &[],
        system_packages: &[],
    };
}

/// A virtual environment that holds what was wanted.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Its folder.
    pub root: PathBuf,
}

/// The environment, made if it is not there yet. `None` where it cannot be made: that is said on the terminal, whatever the test
/// harness captures, and the test should return.
///
/// # Panics
///
/// With `CI=true` in the environment, where it cannot be made: there a missing peer is a failure.
pub fn environment(wanted: &Wanted<'_>) -> Option<Environment> {
    static KNOWN: Mutex<Option<HashMap<u64, Result<Environment, String>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let made = known
        .get_or_insert_default()
        .entry(key(wanted))
        .or_insert_with(|| ready(wanted))
        .clone();
    drop(known);
    made.map_err(|why| missing(&why)).ok()
}

/// Says that a peer is missing: a failure in CI, elsewhere a line on the terminal.
pub fn missing(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: a peer is missing, which is a failure where CI=true: {why}"
    );
    // Written to the descriptor: the macros' output is captured for tests that pass.
    let _ = writeln!(std::io::stderr(), "\nNOT RUN: {test}: {why}");
}

fn key(wanted: &Wanted<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    hasher.finish()
}

fn ready(wanted: &Wanted<'_>) -> Result<Environment, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    fs::create_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    let stem = format!("{}-{:016x}", wanted.name, key(wanted));
    let lock_path = home.join(format!("{stem}.lock"));
    let lock = File::create(&lock_path).map_err(|e| format!("{}: {e}", lock_path.display()))?;
    // Let go by the kernel when this process ends, however it ends. Descriptors are not inherited by the installer.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| format!("{}: {e}", lock_path.display()))?;
    let pointer = home.join(format!("{stem}.ready"));
    if let Ok(name) = fs::read_to_string(&pointer) {
        let environment = Environment { root: home.join(name) };
        // The interpreter that it was made with may be gone since.
        if environment.imports(wanted).is_ok() {
            return Ok(environment);
        }
    }
    let _ = fs::remove_file(&pointer);
    for entry in fs::read_dir(&home).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{stem}.made-"))
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let name = format!("{stem}.made-{}", std::process::id());
    let environment = Environment { root: home.join(&name) };
    make(wanted, &environment).map_err(|why| {
        let _ = fs::remove_dir_all(&environment.root);
        let system = [&["python3", "python3-venv"], wanted.system_packages]
            .concat()
            .join(" ");
        format!(
            "no Python environment with {:?}: {why}\n  Needed: PyPI, and the Debian packages: {system}",
            wanted.packages
        )
    })?;
    let unnamed = home.join(format!("{stem}.naming"));
    fs::write(&unnamed, name)
        .and_then(|()| fs::rename(&unnamed, &pointer))
        .map_err(|e| format!("{}: {e}", pointer.display()))?;
    Ok(environment)
}

fn make(wanted: &Wanted<'_>, environment: &Environment) -> Result<(), String> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&environment.root);
    finished("python3 -m venv", &mut venv)?;
    if !wanted.packages.is_empty() {
        let mut pip = environment.python();
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(wanted.pip_args)
        .args(wanted.packages)
        .envs(wanted.pip_env.iter().copied());
        finished("pip install", &mut pip)?;
    }
    environment.imports(wanted)
}

/// Runs a command to its end, within the limit, and gives the last lines of what it printed if it fails.
fn finished(what: &str, command: &mut Command) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{what}: {e}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = child.stderr.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = said.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if start.elapsed() > INSTALL_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{what}: not done after {INSTALL_LIMIT:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(());
    }
    let said = reader.join().unwrap_or_default();
    let lines: Vec<&str> = said.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n    ");
    Err(format!("{what}: {status}\n    {last}"))
}

impl Environment {
    /// Its interpreter, ready to be told what to run. Ends with the thread that starts it, so that nothing is left behind when a
    /// test is killed.
    pub fn python(&self) -> Command {
        let mut command = Command::new(self.root.join("bin").join("python"));
        command
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONUTF8", "1")
            .env("NO_PROXY", "*")
            .env_remove("PYTHONPATH")
            .env_remove("PYTHONHOME");
        // SAFETY: one system call between fork and exec, nothing is allocated.
        unsafe {
            command.pre_exec(|| {
                nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// Runs a script to its end and gives back what it printed.
    pub fn run(&self, script: &str, args: &[&str]) -> Output {
        self.python()
            .arg("-c")
            .arg(script)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the interpreter of the environment runs")
    }

    /// As [`run`](Self::run), for a script that must end well: what it wrote to its standard output.
    pub fn must_run(&self, script: &str, args: &[&str]) -> String {
        let output = self.run(script, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a script that runs beside the test.
    pub fn start<A: AsRef<OsStr>>(&self, script: &str, args: &[A]) -> Peer {
        let mut child = self
            .python()
            .arg("-c")
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter of the environment runs");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Peer { child, input, output }
    }

    fn imports(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let script: String = wanted
            .imports
            .iter()
            .map(|module| format!("import {module}\n"))
            .collect();
        finished("import", self.python().arg("-c").arg(script))
    }
}

/// A script that runs beside the test and is killed with it.
#[derive(Debug)]
pub struct Peer {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// The next line that it prints, without the line break. `None` at the end of its output.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line).expect("text from the peer");
        (length > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The next line that it prints; a peer that ends instead is a failure (its words are on the terminal).
    pub fn must_say(&mut self) -> String {
        self.line()
            .unwrap_or_else(|| panic!("the peer ended: {:?}", self.child.wait()))
    }

    /// Sends it a line.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .expect("the peer listens");
    }

    /// Closes its input and waits for its end.
    pub fn end(mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().expect("a child of ours")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
