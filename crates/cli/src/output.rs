//! Standard output: buffered by the command and nowhere else, coloured only where that is wanted.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl Colour {
    pub(crate) fn is_wanted(self, on: &impl IsTerminal) -> bool {
        match self {
            Colour::Always => true,
            Colour::Never => false,
            // https://no-color.org: any value but the empty one.
            Colour::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
                    && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
                    && on.is_terminal()
            }
        }
    }
}

/// How much is gathered before it is written.
pub(crate) const WRITE_SIZE: usize = 256 << 10;
/// What a pipe is asked to hold, so that who reads and who writes it take turns less often.
const PIPE_SIZE: i32 = 1 << 20;

/// Standard output, in large pieces.
#[derive(Debug)]
pub(crate) struct Output {
    to: std::fs::File,
    buffer: Vec<u8>,
    is_coloured: bool,
}

impl Output {
    pub(crate) fn new(colour: Colour) -> io::Result<Self> {
        let stdout = io::stdout();
        let to: std::fs::File = stdout.as_fd().try_clone_to_owned()?.into();
        enlarge(&to);
        Ok(Output {
            is_coloured: colour.is_wanted(&stdout),
            to,
            buffer: Vec::with_capacity(WRITE_SIZE + (4 << 10)),
        })
    }

    pub(crate) fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    /// Where to put bytes; follow it with [`settle`](Output::settle).
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Writes what there is, if that is much.
    #[inline]
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.buffer.len() >= WRITE_SIZE {
            return self.flush();
        }
        Ok(())
    }

    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        self.buffer.extend_from_slice(line.as_ref().as_bytes());
        self.buffer.push(b'\n');
        self.settle()
    }

    pub(crate) fn lines(&mut self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let result = self.to.write_all(&self.buffer);
            self.buffer.clear();
            result?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Who wants to know of an error has flushed before.
        let _ = self.flush();
    }
}

/// Asks for a large pipe. Where it is none, or the system allows no more, it stays as it is.
pub(crate) fn enlarge(pipe: impl AsFd) {
    let _ = nix::fcntl::fcntl(pipe.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
}
