//! A parent farms out work to forked workers over queues, kills one of them in the middle, and loses no task.
//!
//! ```text
//! cargo run --example compute_pool --features pool                 # over the sources of this library
//! cargo run --example compute_pool --features pool -- FOLDER       # over another folder
//! ```
//!
//! A task is a file: count its bytes, lines and words, and hash what is in it. What it shows:
//!
//! * **A node is addressed by the name of its queue.** The workers are `queue:compute-…-0` and so on; the parent needs no name to ask and be
//!   answered. There is no port, no socket and no thread in between: the parent's thread writes into the worker's queue, a thread
//!   of the worker reads it, runs the handler, and writes the answer into the parent's.
//! * **A death is an error, at once.** The request that the killed worker had in hand fails with `PeerDied`, and every later one with `Refused`:
//!   the parent gives the task to another worker. Counting a file twice does no harm, so it need not know whether the first one had finished.
//! * **Fork first, nodes afterwards.** A node has threads, which do not go through a fork.
//!
//! At the end the parent does all the work again by itself, and compares.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, read, write};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use syncq::pool::{Chirp, Config, Loop, Message, PoolError};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WORKERS: usize = 4;
/// How many tasks the parent has out with each worker at a time.
const AT_A_TIME: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = match &arguments[..] {
        [] => Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        [folder] if !folder.starts_with('-') => PathBuf::from(folder),
        _ => {
            eprintln!("usage: compute_pool [FOLDER]");
            return ExitCode::from(2);
        }
    };
    match run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compute_pool: {error}");
            ExitCode::FAILURE
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ the work

/// What there is to say about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    bytes: u64,
    lines: u64,
    words: u64,
    hash: u64,
}

impl Count {
    fn of(path: &Path) -> std::io::Result<Count> {
        let content = std::fs::read(path)?;
        let fnv1a = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        Ok(Count {
            bytes: content.len() as u64,
            lines: content.iter().filter(|byte| **byte == b'\n').count() as u64,
            words: content.split(is_space).filter(|word| !word.is_empty()).count() as u64,
            hash: content.iter().fold(0xcbf2_9ce4_8422_2325, fnv1a),
        })
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.bytes, self.lines, self.words, self.hash]
            .map(u64::to_le_bytes)
            .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Count> {
        let (numbers, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let [bytes, lines, words, hash] = *numbers else {
            return None;
        };
        let [bytes, lines, words, hash] = [bytes, lines, words, hash].map(u64::from_le_bytes);
        Some(Count {
            bytes,
            lines,
            words,
            hash,
        })
    }
}

/// All files below a folder, without those of version control and of builds.
fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != ".git" && entry.file_name() != "target" {
            files_below(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------- the workers

struct Worker {
    name: String,
    pid: Pid,
}

/// A forked worker. It says when it can be asked, and goes when the parent does.
fn start(name: String, ready: &OwnedFd, life: (&OwnedFd, &OwnedFd)) -> Result<Worker> {
    // SAFETY: this process has one thread, and the child leaves by `_exit`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Worker { name, pid: child }),
        ForkResult::Child => {
            // Its copy of the parent's end would keep the pipe open.
            // SAFETY: a plain system call on a descriptor that this process does not use again.
            unsafe { nix::libc::close(std::os::fd::AsRawFd::as_raw_fd(life.1)) };
            let code = match work(&name, ready, life.0) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{name}: {error}");
                    1
                }
            };
            // SAFETY: leaves without running the parent's destructors.
            unsafe { nix::libc::_exit(code) }
        }
    }
}

fn work(name: &str, ready: &OwnedFd, life: &OwnedFd) -> Result<()> {
    let looper = Loop::new()?;
    let config = Config::new().queue_only(name).synchronous(false).workers(AT_A_TIME);
    let node = Chirp::new(
        &looper,
        config,
        |chirp: &Chirp, mut message: Message| -> std::io::Result<()> {
            let path = PathBuf::from(String::from_utf8_lossy(message.data()).into_owned());
            // A file that cannot be read is an error at the parent's.
            message.set_data(Count::of(&path)?.to_bytes());
            chirp.send(message);
            Ok(())
        },
    )?;
    write(ready, b"!")?;
    // Nothing ever comes: the end does, when the parent has let go of it or is dead.
    while read(life, &mut [0])? != 0 {}
    node.stop(TIMEOUT)?;
    Ok(())
}

// ----------------------------------------------------------------------------------------------------------- the parent

/// What is to be done, and what was.
struct Board {
    tasks: Mutex<VecDeque<PathBuf>>,
    done: Mutex<BTreeMap<PathBuf, Count>>,
    /// Tasks that somebody has in hand.
    in_hand: AtomicUsize,
    again: AtomicUsize,
}

impl Board {
    /// The next task. [`None`]: all is done.
    fn next(&self) -> Option<PathBuf> {
        loop {
            {
                let mut tasks = self.tasks.lock().expect("nobody panics");
                if let Some(task) = tasks.pop_front() {
                    self.in_hand.fetch_add(1, Ordering::SeqCst);
                    return Some(task);
                }
                if self.in_hand.load(Ordering::SeqCst) == 0 {
                    return None;
                }
            }
            // What others have in hand may come back.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(&self, task: PathBuf, count: Count) {
        self.done.lock().expect("nobody panics").insert(task, count);
        self.in_hand.fetch_sub(1, Ordering::SeqCst);
    }

    fn give_back(&self, task: PathBuf) {
        self.again.fetch_add(1, Ordering::SeqCst);
        let mut tasks = self.tasks.lock().expect("nobody panics");
        tasks.push_front(task);
        self.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has one worker do tasks, until there are none or it is gone. How many it did, and why it did no more.
fn farm_out(board: &Board, node: &Chirp, worker: &Worker) -> Result<(usize, Option<PoolError>), String> {
    let mut done = 0;
    while let Some(task) = board.next() {
        let path = task.to_string_lossy().into_owned();
        let request = Message::to(&format!("queue:{}", worker.name), path).map_err(|error| error.to_string())?;
        match node.request(request).result() {
            Ok(answer) => {
                let count = Count::from_bytes(answer.data()).ok_or("an answer that is none")?;
                board.finish(task, count);
                done += 1;
            }
            Err(error @ (PoolError::PeerDied { .. } | PoolError::Refused { .. })) => {
                board.give_back(task);
                return Ok((done, Some(error)));
            }
            Err(error) => {
                board.in_hand.fetch_sub(1, Ordering::SeqCst);
                return Err(error.to_string());
            }
        }
    }
    Ok((done, None))
}

fn run(folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    files_below(folder, &mut files)?;
    files.sort();
    let (is_ready, ready) = pipe()?;
    let (life, hold) = pipe()?;
    let workers = (0..WORKERS)
        .map(|number| {
            start(
                format!("compute-{}-{number}", std::process::id()),
                &ready,
                (&life, &hold),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    drop((ready, life));
    for _ in &workers {
        if read(&is_ready, &mut [0])? != 1 {
            return Err("a worker did not start".into());
        }
    }

    let looper = Loop::new()?;
    let config = Config::new().queue_only(format!("compute-{}", std::process::id()));
    let node = Chirp::new(
        &looper,
        config.synchronous(false).timeout(TIMEOUT),
        |_: &Chirp, _: Message| {},
    )?;
    let board = Board {
        tasks: Mutex::new(files.iter().cloned().collect()),
        done: Mutex::default(),
        in_hand: AtomicUsize::new(0),
        again: AtomicUsize::new(0),
    };
    let victim = &workers[1];
    let begun = Instant::now();
    let mut ends = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = workers
            .iter()
            .flat_map(|worker| std::iter::repeat_n(worker, AT_A_TIME))
            .map(|worker| {
                (
                    worker,
                    scope.spawn({
                        let (board, node) = (&board, &node);
                        move || farm_out(board, node, worker)
                    }),
                )
            })
            .collect();
        // In the middle of the work, wherever it is just then.
        let is_over = || threads.iter().all(|(_, thread)| thread.is_finished());
        while board.done.lock().expect("nobody panics").len() < files.len() / 3 && !is_over() {
            std::thread::yield_now();
        }
        kill(victim.pid, Signal::SIGKILL)?;
        for (worker, thread) in threads {
            let (done, why) = thread.join().map_err(|_| "a thread panicked")??;
            ends.push((worker.name.clone(), done, why));
        }
        Ok(())
    })?;
    let took = begun.elapsed();

    node.stop(TIMEOUT)?;
    // The workers that live see the end of this, and go.
    drop(hold);
    for worker in &workers {
        let status = waitpid(worker.pid, None)?;
        let expected = match worker.pid == victim.pid {
            true => matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            false => matches!(status, WaitStatus::Exited(_, 0)),
        };
        if !expected {
            return Err(format!("{} ended with {status:?}", worker.name).into());
        }
    }
    // What a node leaves that is killed, its next start would remove. There will be none.
    if !Chirp::remove_queues(&victim.name)? {
        return Err("the killed worker's queues are gone already".into());
    }
    report(&files, &board, &ends, took)
}

fn report(files: &[PathBuf], board: &Board, ends: &[(String, usize, Option<PoolError>)], took: Duration) -> Result<()> {
    let mut by_worker: BTreeMap<&str, (usize, Option<String>)> = BTreeMap::new();
    for (name, done, why) in ends {
        let entry = by_worker.entry(name).or_default();
        entry.0 += done;
        entry.1 = entry.1.take().or(why.as_ref().map(ToString::to_string));
    }
    for (name, (done, why)) in by_worker {
        println!(
            "{name}: {done} files{}",
            why.map_or(String::new(), |why| format!("; then: {why}"))
        );
    }
    let done = board.done.lock().expect("nobody panics");
    for path in files {
        let expected = Count::of(path)?;
        if done.get(path) != Some(&expected) {
            return Err(format!("{}: {:?} instead of {expected:?}", path.display(), done.get(path)).into());
        }
    }
    let sum = |of: fn(&Count) -> u64| done.values().map(of).sum::<u64>();
    println!(
        "{} files, {} lines, {} words, {} bytes in {took:.1?}; {} tasks were done again",
        done.len(),
        sum(|count| count.lines),
        sum(|count| count.words),
        sum(|count| count.bytes),
        board.again.load(Ordering::SeqCst)
    );
    println!("one of {WORKERS} workers was killed, and every file was counted right");
    Ok(())
}
