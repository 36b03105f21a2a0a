//! What a worker does: takes tasks out of its mailbox, and logs what it finds.

use crate::analyse::{CHUNK, analyse};
use crate::messages::{self, Finding};
use crate::walk::printable;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use std::error::Error;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use syncq::{Queue, Start, Wait, Writer};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A progress note is logged after so many bytes of one file, and after so many files.
const NOTE_BYTES: u64 = 32 << 20;
const NOTE_FILES: u64 = 1000;

/// The life of a worker, from right after the fork to the end of its process.
pub fn live(name: &str, log: &Queue, mailbox: &Queue, parent: Pid) -> ! {
    // Nothing may get past here, not even a panic: further up are the parent's values, and they are not ours to drop.
    let worked = catch_unwind(AssertUnwindSafe(|| work(name, log, mailbox, parent)));
    let code = match worked {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("{name}: {error}");
            1
        }
        Err(_) => 101,
    };
    // SAFETY: ends this process without running the exit handlers and buffers that it inherited.
    unsafe { nix::libc::_exit(code) }
}

fn work(name: &str, log: &Queue, mailbox: &Queue, parent: Pid) -> Result<()> {
    // From here on the kernel ends this process when the parent ends. So a worker may wait for ever.
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Ok(());
    }
    // Queues may be used in a forked child; it joins them for itself.
    let mut log = Log(log.writer(name)?);
    // The oldest task may have been there before this worker.
    let mut tasks = mailbox.joining().start(Start::Oldest).reader()?;
    let mut chunk = vec![0; CHUNK];
    let mut files = 0;
    log.note("started")?;
    loop {
        let Some(message) = tasks.pop(Wait::Forever)? else {
            continue;
        };
        if message.kind() == messages::STOP {
            return log.note(&format!("done after {files} files"));
        }
        if let Some((number, path)) = messages::split_number(message.body()) {
            examine(number, Path::new(OsStr::from_bytes(path)), &mut chunk, &mut log)?;
            files += 1;
            if files % NOTE_FILES == 0 {
                log.note(&format!("{files} files"))?;
            }
        }
    }
}

/// Does one task.
fn examine(number: u64, path: &Path, chunk: &mut [u8], log: &mut Log) -> Result<()> {
    let mut next_note = NOTE_BYTES;
    let mut noted = Ok(());
    let figures = analyse(path, chunk, |bytes| {
        if bytes >= next_note {
            next_note += NOTE_BYTES;
            noted = log.note(&format!("{} MiB of {}", bytes >> 20, printable(path)));
        }
    });
    noted?;
    match figures {
        Err(error) => {
            let body = messages::numbered(number, error.to_string().as_bytes());
            log.append_all(&[(messages::UNREADABLE, &body)])
        }
        Ok(figures) => {
            let finding = Finding { number, figures };
            let result = (messages::RESULT, bytemuck::bytes_of(&finding));
            let warning = messages::numbered(number, b"not text: it has a zero byte");
            match figures.text {
                1 => log.append_all(&[result]),
                // Both or neither: whoever has seen the warning also sees the result.
                _ => log.append_all(&[(messages::WARNING, &warning), result]),
            }
        }
    }
}

/// The worker's end of the log.
struct Log(Writer);

impl Log {
    fn note(&mut self, text: &str) -> Result<()> {
        self.append_all(&[(messages::PROGRESS, text.as_bytes())])
    }

    fn append_all(&mut self, messages: &[(&str, &[u8])]) -> Result<()> {
        Ok(self.0.append_all(messages.iter().copied(), Wait::Forever)?)
    }
}
