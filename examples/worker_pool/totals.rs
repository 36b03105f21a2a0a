//! Sums over files. The order in which files are added makes no difference, so two runs can be compared.

use crate::analyse::{FNV_START, Figures, fnv1a};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How many files the lists of largest files and longest lines have.
const LISTED: usize = 5;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files read, text or not.
    pub files: u64,
    pub not_text: u64,
    pub unreadable: u64,
    pub lines: u64,
    pub words: u64,
    pub bytes: u64,
    /// Sum over all files of a hash of path and figures, content hash included.
    pub checksum: u64,
    pub largest: Top,
    pub longest: Top,
}

impl Totals {
    pub fn add(&mut self, path: &Path, figures: &Figures) {
        self.files += 1;
        self.not_text += u64::from(figures.text == 0);
        self.lines += figures.lines;
        self.words += figures.words;
        self.bytes += figures.bytes;
        self.largest.add(figures.bytes, path);
        self.longest.add(figures.longest_line, path);
        let hash = fnv1a(FNV_START, path.as_os_str().as_bytes());
        self.checksum = self.checksum.wrapping_add(fnv1a(hash, bytemuck::bytes_of(figures)));
    }
}

/// The files with the largest values, largest first; of equals, the first by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Top(pub Vec<(u64, PathBuf)>);

impl Top {
    fn add(&mut self, value: u64, path: &Path) {
        let comes_after = |(v, p): &(u64, PathBuf)| *v < value || (*v == value && p.as_path() > path);
        let at = self.0.iter().position(comes_after).unwrap_or(self.0.len());
        if at < LISTED {
            self.0.insert(at, (value, path.to_owned()));
            self.0.truncate(LISTED);
        }
    }
}
