//! One file: read in chunks, counted and hashed.

use bytemuck::{Pod, Zeroable};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes read at a time.
pub const CHUNK: usize = 64 << 10;

/// What there is to say about a file. Lines, words and the longest line are 0 for a file that is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Figures {
    /// Newlines, and one more for a last line without.
    pub lines: u64,
    /// Runs of bytes between ASCII white space.
    pub words: u64,
    pub bytes: u64,
    /// Bytes of the longest line, without its newline.
    pub longest_line: u64,
    /// FNV-1a of the content.
    pub hash: u64,
    /// 1 unless there is a zero byte in it. (A number, since the bytes of a `bool` may not be anything.)
    pub text: u64,
}

/// Reads the file at `path`; `note` is told the bytes read so far after every chunk.
pub fn analyse(path: &Path, chunk: &mut [u8], mut note: impl FnMut(u64)) -> io::Result<Figures> {
    // The file may have become something else since it was found: neither follow a link nor wait for a pipe's other end.
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file any more"));
    }
    let mut count = Count::new();
    loop {
        match file.read(chunk) {
            Ok(0) => return Ok(count.finish()),
            Ok(len) => count.add(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        note(count.figures.bytes);
    }
}

/// [FNV-1a](https://en.wikipedia.org/wiki/Fowler-Noll-Vo_hash_function), 64 bits, going on from `hash`.
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| fnv1a_step(hash, *byte))
}

/// Where FNV-1a begins.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a_step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

struct Count {
    figures: Figures,
    /// Bytes of the line that has begun.
    line: u64,
    in_word: bool,
}

impl Count {
    fn new() -> Self {
        let figures = Figures {
            hash: FNV_START,
            text: 1,
            ..Figures::zeroed()
        };
        Count {
            figures,
            line: 0,
            in_word: false,
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.figures.bytes += bytes.len() as u64;
        for &byte in bytes {
            self.figures.hash = fnv1a_step(self.figures.hash, byte);
            match byte {
                b'\n' => self.end_line(),
                _ => self.line += 1,
            }
            let is_space = matches!(byte, b' ' | b'\t'..=b'\r');
            self.figures.words += u64::from(!is_space && !self.in_word);
            self.in_word = !is_space;
        }
        if bytes.contains(&0) {
            self.figures.text = 0;
        }
    }

    fn end_line(&mut self) {
        self.figures.lines += 1;
        self.figures.longest_line = self.figures.longest_line.max(self.line);
        self.line = 0;
    }

    fn finish(mut self) -> Figures {
        if self.line > 0 {
            self.end_line();
        }
        match self.figures.text {
            1 => self.figures,
            _ => Figures {
                lines: 0,
                words: 0,
                longest_line: 0,
                ..self.figures
            },
        }
    }
}
