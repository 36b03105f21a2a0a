//! The files below some paths, one after the other, without ever holding all their names.

use std::ffi::OsStr;
use std::fs::{self, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

/// Folders that are left out unless they are named.
const LEFT_OUT: [&str; 2] = [".git", "target"];

fn is_left_out(name: &OsStr) -> bool {
    LEFT_OUT.iter().any(|left_out| name == *left_out)
}

/// The paths that were named: absolute, and none that is met on the way through another one, so that no file comes twice.
pub fn roots(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut roots: Vec<PathBuf> = Vec::new();
    for path in paths {
        let root = fs::canonicalize(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", printable(path))))?;
        roots.push(root);
    }
    roots.sort();
    roots.dedup();
    let all = roots.clone();
    roots.retain(|root| !all.iter().any(|other| other != root && is_met_below(other, root)));
    Ok(roots)
}

/// Whether a walk through `other` comes to `root`.
fn is_met_below(other: &Path, root: &Path) -> bool {
    root.strip_prefix(other).is_ok_and(|way| !way.iter().any(is_left_out))
}

/// What a walk meets.
#[derive(Debug)]
pub enum Step {
    File(PathBuf),
    /// A folder, or an entry of one, that cannot be read.
    Unreadable(PathBuf, io::Error),
}

/// A walk. Neither symbolic links nor anything but folders and regular files are touched.
#[derive(Debug)]
pub struct Walk {
    /// Still to be gone through; the last one comes next.
    waiting: Vec<PathBuf>,
    current: Option<(PathBuf, ReadDir)>,
}

impl Walk {
    pub fn new(roots: &[PathBuf]) -> Self {
        Walk {
            waiting: roots.iter().rev().cloned().collect(),
            current: None,
        }
    }

    /// Opens a folder, or passes a file on.
    fn begin(&mut self, path: PathBuf) -> Option<Step> {
        match fs::symlink_metadata(&path) {
            Err(error) => Some(Step::Unreadable(path, error)),
            Ok(facts) if facts.is_file() => Some(Step::File(path)),
            Ok(facts) if facts.is_dir() => match fs::read_dir(&path) {
                Err(error) => Some(Step::Unreadable(path, error)),
                Ok(entries) => {
                    self.current = Some((path, entries));
                    None
                }
            },
            Ok(_) => None,
        }
    }

    fn entry(&mut self, entry: &fs::DirEntry) -> Option<Step> {
        match entry.file_type() {
            Err(error) => Some(Step::Unreadable(entry.path(), error)),
            Ok(kind) if kind.is_file() => Some(Step::File(entry.path())),
            Ok(kind) if kind.is_dir() && !is_left_out(&entry.file_name()) => {
                self.waiting.push(entry.path());
                None
            }
            Ok(_) => None,
        }
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let step = match self.current.as_mut().map(|(path, entries)| (path, entries.next())) {
                Some((_, Some(Ok(entry)))) => self.entry(&entry),
                Some((path, Some(Err(error)))) => {
                    let step = Step::Unreadable(path.clone(), error);
                    self.current = None;
                    Some(step)
                }
                Some((_, None)) => {
                    self.current = None;
                    None
                }
                None => {
                    let path = self.waiting.pop()?;
                    self.begin(path)
                }
            };
            if step.is_some() {
                return step;
            }
        }
    }
}

/// A path for people: short where it is below the current folder, and without anything that a terminal would obey.
pub fn printable(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let short = path.strip_prefix(&here).unwrap_or(path);
    printable_text(&short.to_string_lossy())
}

/// Any text, without anything that a terminal would obey.
pub fn printable_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
