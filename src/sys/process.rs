//! Who a process is, told apart from a later one with the same number, and whether it still maps a file. All from `/proc`.
//!
//! These answers only *confirm*: the record lock (`sys::record_lock`) is what tells of a death. Where `/proc` is missing
//! or another PID namespace hides the process, nothing here claims to know.

use std::fs;
use std::os::unix::fs::MetadataExt;
// Not the model's: nothing is ordered by these.
use std::sync::atomic::{AtomicU64, Ordering};

/// A process, as another one in the same PID namespace can recognise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Process number, as the process itself sees it.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot; 0 where `/proc` could not tell, or is that of another PID namespace.
    pub(crate) start_time: u64,
    /// The inode of its PID namespace; 0 where `/proc` could not tell.
    pub(crate) namespace: u64,
}

/// The calling process. `/proc` is asked once: nothing of this changes while a process lives.
pub(crate) fn me() -> Identity {
    static KNOWN: Known = Known::new();
    let (pid, generation) = (std::process::id(), super::fork::generation());
    if let Some(known) = KNOWN.get(pid, generation) {
        return known;
    }
    let me = Identity {
        pid,
        start_time: if numbers_are_ours(pid) {
            stat(pid).map_or(0, |s| s.start_time)
        } else {
            0
        },
        namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino()),
    };
    // Where `/proc` could not tell, it may be mounted yet.
    if me.start_time != 0 && me.namespace != 0 {
        KNOWN.set(me, generation);
    }
    me
}

/// Whether the numbers in `/proc` are those of this process's PID namespace. Where another one's `/proc` is mounted, they are other
/// processes'.
fn numbers_are_ours(pid: u32) -> bool {
    fs::read_link("/proc/self").is_ok_and(|it| it.to_str() == Some(&pid.to_string()))
}

/// What is known of this process. Not a lock, which a forked child might inherit locked: threads that find it out at the same time
/// write the same.
struct Known {
    /// [`super::fork::generation`] of the process that this is about: a forked child is somebody else.
    generation: AtomicU64,
    pid: AtomicU64,
    start_time: AtomicU64,
    namespace: AtomicU64,
}

impl Known {
    const fn new() -> Self {
        const fn zero() -> AtomicU64 {
            AtomicU64::new(0)
        }
        Known {
            generation: zero(),
            pid: zero(),
            start_time: zero(),
            namespace: zero(),
        }
    }

    fn get(&self, pid: u32, generation: u64) -> Option<Identity> {
        // Acquire: pairs with the Release in `set`, so the others are of this process too.
        (self.generation.load(Ordering::Acquire) == generation && self.pid.load(Ordering::Relaxed) == u64::from(pid))
            .then(|| Identity {
                pid,
                start_time: self.start_time.load(Ordering::Relaxed),
                namespace: self.namespace.load(Ordering::Relaxed),
            })
    }

    fn set(&self, me: Identity, generation: u64) {
        self.pid.store(me.pid.into(), Ordering::Relaxed);
        self.start_time.store(me.start_time, Ordering::Relaxed);
        self.namespace.store(me.namespace, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
    }
}

/// What `/proc` says about somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Nobody with that number and start time is running (never was, has ended, or is a zombie).
    Gone,
    /// It runs.
    Runs,
    /// Another namespace, or no `/proc`: no answer.
    Unknown,
}

/// Looks for `whom`, as seen from `me`.
pub(crate) fn trace(whom: &Identity, me: &Identity) -> Trace {
    if whom.start_time == 0 || me.start_time == 0 || whom.namespace != me.namespace || me.namespace == 0 {
        return Trace::Unknown;
    }
    match stat(whom.pid) {
        Some(found) if found.start_time == whom.start_time && !found.is_zombie => Trace::Runs,
        _ => Trace::Gone,
    }
}

/// How `/proc/<pid>/maps` names the file that is mapped at `address` in this process: its device and inode columns.
/// (Not taken from `stat`, since some file systems show another device there.)
pub(crate) fn name_of_mapping(address: usize) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let inside =
            usize::from_str_radix(start, 16).ok()? <= address && address < usize::from_str_radix(end, 16).ok()?;
        let mut columns = rest.split_ascii_whitespace().skip(2);
        let (device, inode) = (columns.next()?, columns.next()?);
        inside.then(|| format!("{device} {inode}"))
    })
}

/// Whether process `pid` maps the file that [`name_of_mapping`] named. `None`: not allowed to look, or no such process.
pub(crate) fn maps_file(pid: u32, name: &str) -> Option<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    Some(maps.lines().any(|line| {
        let mut columns = line.split_ascii_whitespace().skip(3);
        matches!((columns.next(), columns.next()), (Some(device), Some(inode))
            if name.split_once(' ') == Some((device, inode)))
    }))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// How child `pid` of this process ended, without reaping it. `None`: it runs, was reaped already, or is no child of ours.
pub(crate) fn how_child_ended(pid: u32) -> Option<Ended> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options).ok()??;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Ended::Exited(code)),
        (_, Some(signal)) => Some(Ended::Killed(signal)),
        _ => None,
    }
}

/// Whether this process has children that run. `None`: `/proc` cannot tell.
pub(crate) fn has_running_children() -> Option<bool> {
    let me = std::process::id();
    let mut is_any = false;
    for entry in fs::read_dir("/proc").ok()? {
        let name = entry.ok()?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        is_any |= stat(pid).is_some_and(|stat| stat.parent == me && !stat.is_zombie);
    }
    Some(is_any)
}

/// Whether process `pid` runs: it is there and no zombie. Where `/proc` is missing, nobody does.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.is_zombie)
}

/// The command line of `whom`, arguments separated by blanks; the command's short name in brackets where there is none. `None`: it
/// does not run any more, or cannot be seen from here.
pub(crate) fn command(whom: &Identity) -> Option<String> {
    if trace(whom, &me()) != Trace::Runs {
        return None;
    }
    let line = fs::read(format!("/proc/{}/cmdline", whom.pid)).ok()?;
    // One that ended meanwhile shows nothing, and its number may be somebody else's by now.
    if trace(whom, &me()) != Trace::Runs {
        return None;
    }
    let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    match arguments.join(" ").trim_end() {
        "" => {
            let name = fs::read_to_string(format!("/proc/{}/comm", whom.pid)).ok()?;
            Some(format!("[{}]", name.trim_end()))
        }
        words => Some(words.to_owned()),
    }
}

struct Stat {
    parent: u32,
    start_time: u64,
    is_zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    let after_command = &text[text.rfind(')')? + 1..];
    let mut fields = after_command.split_ascii_whitespace();
    let state = fields.next()?;
    // proc_pid_stat(5): state is field 3, the parent field 4, start time field 22.
    let parent = fields.next()?.parse().ok()?;
    let start_time = fields.nth(22 - 4 - 1)?.parse().ok()?;
    Some(Stat {
        parent,
        start_time,
        is_zombie: matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn i_run_and_a_wrong_start_time_is_somebody_else() {
        let me = me();
        assert_eq!(trace(&me, &me), Trace::Runs);
        assert_eq!(
            trace(
                &Identity {
                    start_time: me.start_time + 1,
                    ..me
                },
                &me
            ),
            Trace::Gone
        );
        assert_eq!(
            trace(
                &Identity {
                    namespace: me.namespace + 1,
                    ..me
                },
                &me
            ),
            Trace::Unknown
        );
    }

    #[test]
    fn a_forked_child_is_not_taken_for_its_parent() {
        let parent = me();
        assert_eq!(me(), parent);
        // SAFETY: the child calls only this module, which reads files and takes no lock, and leaves by `_exit`.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let its = stat(std::process::id()).unwrap();
                let is_right = me().pid == std::process::id() && me().pid != parent.pid && me() == me();
                let is_right = is_right && me().start_time == its.start_time && me().namespace == parent.namespace;
                // SAFETY: plain system call.
                unsafe { nix::libc::_exit(i32::from(!is_right)) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
        assert_eq!(me(), parent);
    }

    #[test]
    fn a_zombie_is_gone() {
        // SAFETY: the child leaves at once by `_exit`.
        match unsafe { nix::unistd::fork() }.unwrap() {
            // SAFETY: plain system call.
            nix::unistd::ForkResult::Child => unsafe { nix::libc::_exit(0) },
            nix::unistd::ForkResult::Parent { child } => {
                let pid = child.as_raw() as u32;
                let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
                while !stat(pid).is_some_and(|s| s.is_zombie) {
                    assert!(std::time::Instant::now() < end, "the child never became a zombie");
                    std::thread::yield_now();
                }
                let its = Identity {
                    pid,
                    start_time: stat(pid).unwrap().start_time,
                    ..me()
                };
                assert_eq!(trace(&its, &me()), Trace::Gone);
                nix::sys::wait::waitpid(child, None).unwrap();
            }
        }
    }
}
