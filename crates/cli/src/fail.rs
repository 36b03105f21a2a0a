//! How a command fails: what happened to which queue, the next thing to try, and the exit code. Not here: printing it (`main`).

use std::fmt::Display;
use std::io;
use syncq::Error;

/// What a command gives back: its exit code.
pub(crate) type Outcome = Result<u8, Fail>;

/// It did what was asked.
pub(crate) const DONE: u8 = 0;
/// It failed, or found something wrong.
pub(crate) const FAILED: u8 = 1;
/// It was called in a way that cannot be.
pub(crate) const USAGE: u8 = 2;
/// The time given with `--timeout` was over, as in timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Fail {
    /// Whoever read the output has gone. Not worth a word.
    OutputClosed,
    /// Something to tell.
    Told {
        code: u8,
        message: String,
        hint: Option<String>,
    },
}

impl Fail {
    pub(crate) fn new(message: impl Display) -> Self {
        Fail::Told {
            code: FAILED,
            message: message.to_string(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Fail::new(message).with_code(USAGE)
    }

    pub(crate) fn with_code(mut self, wanted: u8) -> Self {
        if let Fail::Told { code, .. } = &mut self {
            *code = wanted;
        }
        self
    }

    /// Says what to try next, unless something better is said already.
    pub(crate) fn with_hint(mut self, next: impl Display) -> Self {
        if let Fail::Told { hint, .. } = &mut self {
            hint.get_or_insert_with(|| next.to_string());
        }
        self
    }

    /// Puts what was being done in front.
    pub(crate) fn during(mut self, doing: impl Display) -> Self {
        if let Fail::Told { message, .. } = &mut self {
            *message = format!("{doing}: {message}");
        }
        self
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        let fail = Fail::new(&error);
        match &error {
            Error::InvalidName { .. } | Error::InvalidOption { .. } | Error::TooLong { .. } => fail.with_code(USAGE),
            Error::NotFound { queue } => fail.with_hint(format!(
                "`syncq ls` lists what there is, `syncq create {queue}` makes it"
            )),
            Error::AlreadyExists { queue } => fail.with_hint(format!(
                "`syncq info {queue}` shows it, `syncq rm {queue}` removes it, --if-missing is content with it"
            )),
            Error::ForeignOwner { .. } => fail.with_hint("--any-owner opens it all the same, if you trust that user"),
            Error::PermissionDenied { .. } => {
                fail.with_hint("ask its owner for another mode (`syncq create --mode`), or run as that user")
            }
            Error::NotAQueue { queue, .. }
            | Error::Truncated { queue, .. }
            | Error::WrongVersion { queue, .. }
            | Error::WrongByteOrder { queue }
            | Error::Corrupt { queue, .. } => fail.with_hint(format!("`syncq rm --force {queue}` removes the file")),
            Error::NoSpace { .. } => {
                fail.with_hint("a smaller --capacity, or remove queues that nobody uses (`syncq doctor`)")
            }
            Error::NoSlot { queue, .. } => fail.with_hint(format!("`syncq info {queue}` shows who has them")),
            Error::WriterExists { queue, .. } => {
                fail.with_hint(format!("`syncq tail {queue}` reads along without writing"))
            }
            Error::TooLarge { .. } => fail.with_hint("a queue with a larger --capacity takes it"),
            Error::Full(full) => fail.with_code(TIMED_OUT).with_hint(format!(
                "a longer --timeout, or see who is behind with `syncq info {}`",
                full.queue
            )),
            Error::Busy { queue, .. } => fail
                .with_code(TIMED_OUT)
                .with_hint(format!("`syncq doctor {queue}` tells whether that process is stopped")),
            Error::Evicted { .. } => fail.with_hint("somebody put it out of the queue; start again to join anew"),
            _ => fail,
        }
    }
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Fail::OutputClosed,
            _ => Fail::new(error),
        }
    }
}

impl From<nix::errno::Errno> for Fail {
    fn from(errno: nix::errno::Errno) -> Self {
        io::Error::from(errno).into()
    }
}
