//! The same work once more, in one process and without any queue; and whether it comes to the same.

use crate::analyse::{CHUNK, Figures, analyse};
use crate::parent::Harvest;
use crate::totals::Totals;
use crate::walk::{Step, Walk, printable};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Differences told one by one; more are only counted.
const MOST_TOLD: u64 = 20;

#[derive(Debug, Default)]
pub struct Verdict {
    /// Files on which both agree.
    pub agree: u64,
    /// Files on which they do not.
    pub differ: u64,
    /// Files that somebody has changed, made or removed since the work began: nothing can be said about them.
    pub changed: u64,
    pub took: Duration,
    totals_agree: bool,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.differ == 0 && self.totals_agree
    }

    /// Sorts a file that is not as it was into its drawer.
    fn note(&mut self, path: &Path, has_changed: bool, what: &str) {
        let (count, word) = match has_changed {
            true => (&mut self.changed, "changed meanwhile"),
            false => (&mut self.differ, "DIFFERENT"),
        };
        *count += 1;
        if *count <= MOST_TOLD {
            eprintln!("{word}: {}: {what}", printable(path));
        }
    }
}

pub fn verify(roots: &[PathBuf], harvest: &Harvest) -> Verdict {
    let start = Instant::now();
    let mut verdict = Verdict::default();
    let mut left = harvest.files.clone().unwrap_or_default();
    let mut totals = Totals::default();
    let mut chunk = vec![0; CHUNK];
    for step in Walk::new(roots) {
        // What the walk could not read, no worker was given.
        let Step::File(path) = step else { continue };
        let again = analyse(&path, &mut chunk, |_| {}).ok();
        match &again {
            Some(figures) => totals.add(&path, figures),
            None => totals.unreadable += 1,
        }
        compare(&path, left.remove(&path), again, harvest.began, &mut verdict);
    }
    for path in left.keys() {
        let is_gone = !fs::symlink_metadata(path).is_ok_and(|facts| facts.is_file());
        verdict.note(path, is_gone, "met by the workers only");
    }
    verdict.totals_agree = verdict.changed > 0 || totals == harvest.totals;
    verdict.took = start.elapsed();
    verdict
}

/// `then`: what the workers said, if they met the file at all; `again`: what is found now.
fn compare(
    path: &Path,
    then: Option<Option<Figures>>,
    again: Option<Figures>,
    began: SystemTime,
    verdict: &mut Verdict,
) {
    match then {
        Some(then) if then == again => verdict.agree += 1,
        Some(then) => verdict.note(
            path,
            has_changed_since(path, began),
            &format!("{then:?} then, {again:?} now"),
        ),
        None => verdict.note(path, has_changed_since(path, began), "no worker met it"),
    }
}

fn has_changed_since(path: &Path, began: SystemTime) -> bool {
    let began = began.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    fs::symlink_metadata(path).map_or(true, |facts| facts.ctime() >= began)
}
