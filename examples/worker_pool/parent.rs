//! What the parent does: forks workers, hands out files, reads the log, and sees to it that nothing is lost with the dead.

use crate::analyse::Figures;
use crate::messages::{self, Finding};
use crate::options::Options;
use crate::progress::Progress;
use crate::totals::Totals;
use crate::walk::{Step, Walk, printable, printable_text};
use crate::worker;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use syncq::{Buffer, Message, Queue, Reader, Wait, Writer};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Files in a worker's hands at a time. Few, so that not many wait behind a huge one; more than one, so that it never idles.
const HANDFUL: usize = 16;

/// Room for a handful of the longest paths that there can be.
const MAILBOX: u64 = 256 << 10;

/// How long the parent waits for a message before it looks after its children.
const SLICE: Wait = Wait::For(Duration::from_millis(10));

/// How long workers have to end once they are told to.
const FAREWELL: Duration = Duration::from_secs(30);

/// A worker, as the parent knows it. It stays in the list when it has ended.
#[derive(Debug)]
pub struct Worker {
    pub name: String,
    pub pid: Pid,
    /// `None` once it has ended.
    mailbox: Option<(Queue, Writer)>,
    /// Files in its hands.
    unfinished: usize,
    is_killed: bool,
    /// How it ended.
    pub end: String,
    pub done: Totals,
}

impl Worker {
    fn is_running(&self) -> bool {
        self.mailbox.is_some()
    }
}

/// No worker outlives the parent, however that comes to its end.
impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// What came out of it.
#[derive(Debug)]
pub struct Harvest {
    pub totals: Totals,
    pub workers: Vec<Worker>,
    /// Each file with its figures, if they are to be verified; `None` for an unreadable one.
    pub files: Option<HashMap<PathBuf, Option<Figures>>>,
    pub killed: u64,
    /// Results for files that had one already.
    pub repeats: u64,
    pub notes: u64,
    pub warnings: u64,
    pub began: SystemTime,
    pub took: Duration,
}

/// Has forked workers go through all files below `roots`.
pub fn run(options: &Options, roots: &[PathBuf]) -> Result<Harvest> {
    let mut parent = Parent::new(options, roots)?;
    for _ in 0..options.workers {
        parent.hire()?;
    }
    while parent.hand_out()? {
        parent.listen(SLICE)?;
        if options.kill {
            parent.kill_now_and_then()?;
        }
        parent.bury_the_dead()?;
        parent.show_progress();
    }
    parent.dismiss()?;
    Ok(parent.finish())
}

struct Task {
    path: PathBuf,
    /// Who has it, as an index.
    worker: usize,
}

struct Parent<'o> {
    options: &'o Options,
    log: Queue,
    reader: Reader,
    walk: Walk,
    /// Whether the walk has come to its end.
    is_walked: bool,
    /// Files that were in the hands of a worker that died.
    orphaned: VecDeque<PathBuf>,
    /// Tasks without an answer, by number. An answer to any other number is a repeat and counts for nothing.
    unfinished: HashMap<u64, Task>,
    next_number: u64,
    /// Files that are done with.
    settled: u64,
    next_kill: u64,
    unexpected_deaths: usize,
    last_note: String,
    progress: Progress,
    started: Instant,
    harvest: Harvest,
}

impl<'o> Parent<'o> {
    fn new(options: &'o Options, roots: &[PathBuf]) -> Result<Self> {
        // One slot for each worker, the reader, and a worker that takes the place of one not yet buried.
        let log = Queue::options().slots(options.workers as u32 + 2).anonymous()?;
        let harvest = Harvest {
            totals: Totals::default(),
            workers: Vec::new(),
            files: options.verify.then(HashMap::new),
            killed: 0,
            repeats: 0,
            notes: 0,
            warnings: 0,
            began: SystemTime::now(),
            took: Duration::ZERO,
        };
        Ok(Parent {
            options,
            // Before any worker is there, so that it hears every word.
            reader: log.reader()?,
            log,
            walk: Walk::new(roots),
            is_walked: false,
            orphaned: VecDeque::new(),
            unfinished: HashMap::new(),
            next_number: 0,
            settled: 0,
            next_kill: 3,
            unexpected_deaths: 0,
            last_note: String::new(),
            progress: Progress::new(),
            started: Instant::now(),
            harvest,
        })
    }

    /// Forks one more worker.
    fn hire(&mut self) -> Result<()> {
        let name = format!("worker-{}", self.harvest.workers.len());
        let mailbox = Queue::options().capacity(MAILBOX).slots(2).anonymous()?;
        let writer = mailbox.writer("parent")?;
        let parent = getpid();
        // SAFETY: this program has one thread, so the child may do whatever it could have done.
        match unsafe { fork() }? {
            ForkResult::Child => worker::live(&name, &self.log, &mailbox, parent),
            ForkResult::Parent { child } => self.harvest.workers.push(Worker {
                name,
                pid: child,
                mailbox: Some((mailbox, writer)),
                unfinished: 0,
                is_killed: false,
                end: String::new(),
                done: Totals::default(),
            }),
        }
        Ok(())
    }

    /// Gives files to whoever runs out of them. `false`: none is left, and all answers are there.
    fn hand_out(&mut self) -> Result<bool> {
        for index in 0..self.harvest.workers.len() {
            let worker = &self.harvest.workers[index];
            if worker.is_running() && !worker.is_killed && worker.unfinished <= HANDFUL / 2 {
                self.fill_hands(index)?;
            }
        }
        // Without a task in anybody's hands there may still be files: whoever was to get them has just been killed.
        Ok(!(self.is_walked && self.orphaned.is_empty() && self.unfinished.is_empty()))
    }

    fn fill_hands(&mut self, index: usize) -> Result<()> {
        let mut bodies = Vec::new();
        while self.harvest.workers[index].unfinished < HANDFUL {
            let Some(path) = self.next_file() else { break };
            let number = self.next_number;
            self.next_number += 1;
            bodies.push(messages::numbered(number, path.as_os_str().as_bytes()));
            self.unfinished.insert(number, Task { path, worker: index });
            self.harvest.workers[index].unfinished += 1;
        }
        if bodies.is_empty() {
            return Ok(());
        }
        // The mailbox has room for a handful. Not to wait here also keeps parent and worker from waiting for each other.
        let (_, writer) = self.harvest.workers[index].mailbox.as_mut().expect("it is running");
        writer.append_all(bodies.iter().map(|body| (messages::TASK, &body[..])), Wait::Never)?;
        Ok(())
    }

    fn next_file(&mut self) -> Option<PathBuf> {
        if let Some(path) = self.orphaned.pop_front() {
            return Some(path);
        }
        loop {
            match self.walk.next() {
                None => {
                    self.is_walked = true;
                    return None;
                }
                Some(Step::File(path)) => return Some(path),
                Some(Step::Unreadable(path, error)) => self.progress.warn(|| format!("{}: {error}", printable(&path))),
            }
        }
    }

    /// Waits for a message, and then reads all that are there.
    fn listen(&mut self, wait: Wait) -> Result<()> {
        let mut buffer = Buffer::new();
        let mut wait = wait;
        while let Some(message) = self.reader.pop_into(&mut buffer, wait)? {
            self.hear(&message)?;
            wait = Wait::Never;
        }
        Ok(())
    }

    fn hear(&mut self, message: &Message<'_>) -> Result<()> {
        match message.kind() {
            messages::RESULT => {
                let Finding { number, figures } = message.pod()?;
                self.settle(number, |parent, path, worker| {
                    parent.harvest.totals.add(path, &figures);
                    parent.harvest.workers[worker].done.add(path, &figures);
                    Some(figures)
                });
            }
            messages::UNREADABLE => {
                let (number, why) = messages::split_number(message.body()).ok_or("a message without a number")?;
                self.settle(number, |parent, path, worker| {
                    parent.harvest.totals.unreadable += 1;
                    parent.harvest.workers[worker].done.unreadable += 1;
                    parent.warn(path, why);
                    None
                });
            }
            messages::WARNING => {
                let (number, what) = messages::split_number(message.body()).ok_or("a message without a number")?;
                if let Some(path) = self.unfinished.get(&number).map(|task| task.path.clone()) {
                    self.warn(&path, what);
                }
            }
            _ => {
                self.harvest.notes += 1;
                self.last_note = format!("{}: {}", message.sender(), message.text_lossy());
            }
        }
        Ok(())
    }

    /// Marks a task as answered; `count` does the rest, if it is the first answer.
    fn settle(&mut self, number: u64, count: impl FnOnce(&mut Self, &Path, usize) -> Option<Figures>) {
        let Some(Task { path, worker }) = self.unfinished.remove(&number) else {
            self.harvest.repeats += 1;
            return;
        };
        self.settled += 1;
        self.harvest.workers[worker].unfinished -= 1;
        let figures = count(self, &path, worker);
        if let Some(files) = &mut self.harvest.files {
            files.insert(path, figures);
        }
    }

    fn warn(&mut self, path: &Path, what: &[u8]) {
        self.progress.warn(|| {
            format!(
                "{}: {}",
                printable(path),
                printable_text(&String::from_utf8_lossy(what))
            )
        });
    }

    /// Kills the busiest worker, each time after twice as many files as the time before.
    fn kill_now_and_then(&mut self) -> Result<()> {
        if self.settled < self.next_kill {
            return Ok(());
        }
        let alive = |worker: &&mut Worker| worker.is_running() && !worker.is_killed;
        let mut running: Vec<&mut Worker> = self.harvest.workers.iter_mut().filter(alive).collect();
        let must_stay = usize::from(!self.options.respawn);
        if running.len() > must_stay
            && let Some(victim) = running.iter_mut().max_by_key(|w| w.unfinished)
            && victim.unfinished > 0
        {
            kill(victim.pid, Signal::SIGKILL)?;
            victim.is_killed = true;
            self.next_kill *= 2;
        }
        Ok(())
    }

    fn bury_the_dead(&mut self) -> Result<()> {
        while let Some((pid, status)) = next_dead()? {
            self.bury(pid, status)?;
        }
        Ok(())
    }

    fn bury(&mut self, pid: Pid, status: WaitStatus) -> Result<()> {
        let index = self.harvest.workers.iter().position(|w| w.pid == pid && w.is_running());
        let Some(index) = index else { return Ok(()) };
        self.log.reap(pid.as_raw() as u32);
        // It can say nothing more. What it has said counts; what is then still unfinished is for others to do.
        self.listen(Wait::Never)?;
        for (number, task) in std::mem::take(&mut self.unfinished) {
            match task.worker == index {
                true => self.orphaned.push_back(task.path),
                false => drop(self.unfinished.insert(number, task)),
            }
        }

        let worker = &mut self.harvest.workers[index];
        worker.mailbox = None;
        worker.unfinished = 0;
        worker.end = describe(status);
        if worker.is_killed {
            self.harvest.killed += 1;
        } else if status != WaitStatus::Exited(pid, 0) {
            self.unexpected_deaths += 1;
            self.progress
                .warn(|| format!("{} (process {pid}): {}", worker.name, worker.end));
        }
        self.replace()
    }

    /// Puts somebody in the place of a dead worker, unless that was not wanted or goes on and on.
    fn replace(&mut self) -> Result<()> {
        let is_any_left = self.harvest.workers.iter().any(Worker::is_running);
        if self.unexpected_deaths > 2 * self.options.workers {
            return Err("workers die again and again".into());
        }
        match self.options.respawn {
            true => self.hire(),
            false if is_any_left => Ok(()),
            false => Err("no worker is left".into()),
        }
    }

    /// Tells the workers to stop, and waits until they have.
    fn dismiss(&mut self) -> Result<()> {
        for worker in &mut self.harvest.workers {
            if let Some((_, writer)) = &mut worker.mailbox {
                writer.append(messages::STOP, b"", Wait::Never)?;
            }
        }
        let deadline = Instant::now() + FAREWELL;
        while self.harvest.workers.iter().any(Worker::is_running) {
            if Instant::now() > deadline {
                return Err("a worker does not end".into());
            }
            self.listen(SLICE)?;
            while let Some((pid, status)) = next_dead()? {
                if let Some(worker) = self.harvest.workers.iter_mut().find(|w| w.pid == pid && w.is_running()) {
                    worker.mailbox = None;
                    worker.end = describe(status);
                    self.harvest.killed += u64::from(worker.is_killed);
                }
            }
        }
        self.listen(Wait::Never)
    }

    fn show_progress(&mut self) {
        let (settled, found) = (self.settled, self.settled + self.unfinished.len() as u64);
        let running = self.harvest.workers.iter().filter(|w| w.is_running()).count();
        let mib = self.harvest.totals.bytes >> 20;
        let note = &self.last_note;
        self.progress
            .show(|| format!("{settled} of {found} files found, {mib} MiB, {running} workers  {note}"));
    }

    fn finish(mut self) -> Harvest {
        self.progress.clear();
        self.harvest.warnings = self.progress.warnings;
        self.harvest.took = self.started.elapsed();
        self.harvest
    }
}

/// A child that has ended, if there is one.
fn next_dead() -> nix::Result<Option<(Pid, WaitStatus)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => Ok(status.pid().map(|pid| (pid, status))),
        Err(nix::Error::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, 0) => "finished".to_owned(),
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, _) => signal.to_string(),
        other => format!("{other:?}"),
    }
}
