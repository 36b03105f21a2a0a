//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

pub const HELP: &str = "\
Counts lines, words and bytes of all files below each PATH, in forked workers
that log through one queue.

Usage: worker_pool [OPTIONS] [PATH]...

  PATH           file or folder (default: the current folder); symbolic links in
                 it are not followed, .git and target are left out unless named
  --workers N    how many workers, 1 to 512 (default: one per processor, at least 2)
  --verify       compute everything once more in one process, and compare
  --kill         SIGKILL workers now and then; new ones take their place
  --no-respawn   ... or not: those who are left do the work
  --json         print one JSON object instead of the table
  --help         print this

Warnings and, on a terminal, progress go to stderr.
Exit code: 0 fine, 1 something failed or does not agree, 2 wrong usage.
";

#[derive(Debug)]
pub struct Options {
    pub paths: Vec<PathBuf>,
    pub workers: usize,
    pub verify: bool,
    pub kill: bool,
    pub respawn: bool,
    pub json: bool,
}

#[derive(Debug)]
pub enum Parsed {
    Run(Options),
    Help,
    /// What is wrong.
    Wrong(String),
}

pub fn parse(mut args: impl Iterator<Item = OsString>) -> Parsed {
    let mut options = Options {
        paths: Vec::new(),
        workers: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 512)),
        verify: false,
        kill: false,
        respawn: true,
        json: false,
    };
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--help" | "-h") => return Parsed::Help,
            Some("--verify") => options.verify = true,
            Some("--kill") => options.kill = true,
            Some("--no-respawn") => options.respawn = false,
            Some("--json") => options.json = true,
            Some("--workers") => match args.next().and_then(|n| n.to_str()?.parse().ok()) {
                Some(n @ 1..=512) => options.workers = n,
                _ => return Parsed::Wrong("--workers needs a number from 1 to 512".to_owned()),
            },
            Some("--") => options.paths.extend(args.by_ref().map(PathBuf::from)),
            Some(flag) if flag.starts_with('-') => return Parsed::Wrong(format!("unknown option {flag}")),
            _ => options.paths.push(arg.into()),
        }
    }
    if options.paths.is_empty() {
        options.paths.push(".".into());
    }
    Parsed::Run(options)
}
