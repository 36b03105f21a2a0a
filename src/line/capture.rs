//! Capturing what is printed, whoever prints it: descriptors 1 and 2 lead into a pipe, and from there into a mirror.
//!
//! Not here: what a pipe's bytes become (`drain.rs`).

use super::drain::{Drain, Drains};
use super::error::{LineError, Result};
use super::item::Stream;
use super::mirror::Mirror;
use crate::sys::fork::{self, PerProcess};
use crate::sys::stdio::flush_c_stdout;
use rustix::stdio::{dup2_stderr, dup2_stdout, stderr, stdout};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many captures are at work: so that records need not look where there is none.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// The captures of this process, the one begun last at the end.
static STACK: PerProcess<Mutex<Vec<Layer>>> = PerProcess::new();

#[derive(Debug)]
struct Layer {
    id: u64,
    drains: Arc<Drains>,
    /// Where the descriptors led before.
    out: OwnedFd,
    err: OwnedFd,
}

fn stack() -> MutexGuard<'static, Vec<Layer>> {
    let stack = STACK.get_or_make(|| Mutex::new(Vec::new()));
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard output and standard error are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// Both go through one pipe: their order is kept, and items are of [`Stream::Both`].
    #[default]
    Together,
    /// A pipe for each: items say which, and the order between the two is not kept.
    Apart,
}

/// Sends what is printed to a mirror instead of the terminal, until it is dropped.
///
/// Everything that goes to descriptor 1 or 2 of this process: `println!`, panics, C libraries, and child processes that inherit them. What is
/// printed is in the mirror's buffer when the capture has been dropped, and before a record of the `log` or `tracing` sink that is made
/// after it.
///
/// # What it does at its end
///
/// The descriptors lead again where they led before, also when a panic ends the scope; the mirror is not closed. Captures can be nested, and end
/// in any order. A child process that goes on printing after the end finds the pipe closed.
///
/// # Fork and death
///
/// A forked child prints into the parent's capture, unless it begins one of its own; its copy of this does nothing. What is printed and still
/// in the pipe when the process is killed is lost; where that matters, let the parent hold the pipe: [`CapturedChild`].
///
/// # Bounds
///
/// A mirror that waits makes who prints wait, as a pipe does. What the mirror refuses is dropped, and a warning says how many bytes.
///
/// ```
/// use std::sync::Arc;
/// use syncq::line::{Capture, LineBuffer, Streams};
///
/// # fn main() -> Result<(), syncq::line::LineError> {
/// let buffer = LineBuffer::new(20)?;
/// let capture = Capture::begin(Arc::new(buffer.clone()), Streams::Together)?;
/// println!("not on the terminal");
/// eprintln!("nor this");
/// drop(capture);
/// println!("on the terminal again");
/// # // The test harness keeps what println! prints to itself; a process of its own does not.
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "captures until it is dropped"]
pub struct Capture {
    id: u64,
    drains: Arc<Drains>,
    generation: u64,
}

impl Capture {
    /// Begins to capture.
    ///
    /// # Errors
    ///
    /// [`LineError::Io`] if there can be no pipe or thread. Nothing is changed then.
    pub fn begin(mirror: Arc<dyn Mirror>, streams: Streams) -> Result<Capture> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let os = |error: rustix::io::Errno| LineError::io("capturing standard output")(error.into());
        let (mut drains, out, err) = pipes(mirror, streams)?;
        drains.start()?;
        let drains = Arc::new(drains);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut stack = stack();
        flush();
        let (old_out, old_err) = (
            rustix::io::fcntl_dupfd_cloexec(stdout(), 3).map_err(os)?,
            rustix::io::fcntl_dupfd_cloexec(stderr(), 3).map_err(os)?,
        );
        dup2_stdout(&out).map_err(os)?;
        if let Err(error) = dup2_stderr(&err) {
            let _ = dup2_stdout(&old_out);
            return Err(os(error));
        }
        stack.push(Layer {
            id,
            drains: drains.clone(),
            out: old_out,
            err: old_err,
        });
        AT_WORK.fetch_add(1, Ordering::Release);
        Ok(Capture {
            id,
            drains,
            generation: fork::generation(),
        })
    }

    /// Sees to it that what was printed before this call is with the mirror. Rust's own standard output keeps an unfinished line
    /// until it is flushed.
    pub fn sync(&self) {
        if self.generation == fork::generation() {
            self.drains.pump();
        }
    }

    /// Bytes that the mirror has refused.
    pub fn lost(&self) -> u64 {
        self.drains.lost()
    }
}

/// Nothing in it is left half done by a panic: its locks guard what is right between any two steps.
impl std::panic::UnwindSafe for Capture {}
impl std::panic::RefUnwindSafe for Capture {}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return;
        }
        let mut stack = stack();
        let Some(at) = stack.iter().position(|layer| layer.id == self.id) else {
            return;
        };
        let layer = stack.remove(at);
        match stack.get_mut(at) {
            // A capture was begun after this one and goes on: it takes over where this one's descriptors led.
            Some(above) => (above.out, above.err) = (layer.out, layer.err),
            None => {
                flush();
                // These cannot fail: both descriptors are open and ours.
                let _ = dup2_stdout(&layer.out);
                let _ = dup2_stderr(&layer.err);
            }
        }
        drop(stack);
        AT_WORK.fetch_sub(1, Ordering::Release);
        self.drains.finish();
    }
}

/// Captures what `body` and all it calls prints; see [`Capture`].
///
/// # Errors
///
/// As [`Capture::begin`]; `body` has not run then.
pub fn capture<T>(mirror: Arc<dyn Mirror>, body: impl FnOnce() -> T) -> Result<T> {
    let capture = Capture::begin(mirror, Streams::Together)?;
    let outcome = body();
    drop(capture);
    Ok(outcome)
}

/// Brings to their mirrors what was printed until now, in all captures of this process, so that what is sent next comes behind it. The `log`
/// and `tracing` sinks do this before each record. Costs next to nothing where nothing is captured.
pub fn sync_captures() {
    if AT_WORK.load(Ordering::Acquire) == 0 {
        return;
    }
    let drains: Vec<Arc<Drains>> = stack().iter().map(|layer| layer.drains.clone()).collect();
    drains.iter().for_each(|drains| drains.pump());
}

/// Empties the buffers in front of the descriptors.
fn flush() {
    let _ = std::io::stdout().flush();
    flush_c_stdout();
}

fn pipes(mirror: Arc<dyn Mirror>, streams: Streams) -> Result<(Drains, OwnedFd, OwnedFd)> {
    let pipe = |stream| Drain::new(stream).map_err(|error| LineError::io("making a pipe")(error.into()));
    let (drains, out, err) = match streams {
        Streams::Together => {
            let (both, out) = pipe(Stream::Both)?;
            let err = out.try_clone().map_err(LineError::io("making a pipe"))?;
            (vec![both], out, err)
        }
        Streams::Apart => {
            let ((first, out), (second, err)) = (pipe(Stream::Out)?, pipe(Stream::Err)?);
            (vec![first, second], out, err)
        }
    };
    Ok((Drains::new(mirror, drains), out, err))
}

/// A child process whose output goes to a mirror. This process holds the pipe: what the child printed is there, also if it is killed.
///
/// ```
/// use std::process::Command;
/// use std::sync::Arc;
/// use syncq::line::{CapturedChild, LineBuffer, Streams};
///
/// # fn main() -> Result<(), syncq::line::LineError> {
/// let buffer = LineBuffer::new(20)?;
/// let mut command = Command::new("sh");
/// command.args(["-c", "echo out; echo err >&2; kill -9 $$"]);
/// let child = CapturedChild::spawn(&mut command, Arc::new(buffer.clone()), Streams::Together)?;
/// assert_eq!(child.wait()?.code(), None);
/// let texts: Vec<String> = buffer.read(None)?.iter().map(|item| item.to_string()).collect();
/// assert_eq!(texts, ["out", "err"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CapturedChild {
    child: Child,
    drains: Drains,
}

impl CapturedChild {
    /// Starts `command` with its standard output and standard error captured.
    ///
    /// # Errors
    ///
    /// [`LineError::Io`].
    pub fn spawn(command: &mut Command, mirror: Arc<dyn Mirror>, streams: Streams) -> Result<CapturedChild> {
        let (mut drains, out, err) = pipes(mirror, streams)?;
        drains.start()?;
        let child = command
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(err))
            .spawn()
            .map_err(LineError::io("starting a child process"));
        // The command would keep the pipe's writing end.
        command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        Ok(CapturedChild { child: child?, drains })
    }

    /// The child itself: its number, its input, a way to kill it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end. What it printed is with the mirror then. (What children of it that go on print later is not.)
    ///
    /// # Errors
    ///
    /// [`LineError::Io`].
    pub fn wait(mut self) -> Result<ExitStatus> {
        let status = self
            .child
            .wait()
            .map_err(LineError::io("waiting for a child process"))?;
        self.drains.finish();
        Ok(status)
    }
}
