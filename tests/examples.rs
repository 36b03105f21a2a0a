//! The examples as a user runs them: each ends by itself, says what it should, and answers with the right exit code.
//!
//! `cargo test` builds the examples next to the tests, which is where they are looked for. `cargo test --test examples`
//! alone does not build them.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::{eventually, folder, watchdog};
use syncq::Queue;

/// Far longer than any example takes here, also without optimisation on a busy machine.
const LIMIT: u32 = 100;

/// The example, ready to run, in the folder of the repository. An alarm ends it if it hangs.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps")
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --examples`",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .env_remove("NO_COLOR");
    // SAFETY: one plain system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::libc::alarm(LIMIT);
            Ok(())
        })
    };
    command
}

fn patient_watchdog() -> support::Watchdog {
    watchdog(Duration::from_secs(u64::from(LIMIT) * 2))
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    ran(command.output().expect("the example starts"))
}

fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("examples write UTF-8");
    if let Some(signal) = output.status.signal() {
        panic!("ended by signal {signal}: {}", text(output.stderr));
    }
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

impl Ran {
    #[track_caller]
    fn must_end_with(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    fn must_say(&self, words: &str) -> &Self {
        assert!(self.out.contains(words), "no {words:?} in\n{}", self.out);
        self
    }

    /// The first number called `name` in a JSON object: the sums of all files come before those of each worker.
    #[track_caller]
    fn number(&self, name: &str) -> u64 {
        let key = format!("\"{name}\":");
        let at = self
            .out
            .find(&key)
            .unwrap_or_else(|| panic!("no {name} in {}", self.out))
            + key.len();
        let digits: String = self.out[at..].chars().take_while(char::is_ascii_digit).collect();
        digits
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number in {}", self.out))
    }
}

// ---- worker_pool ---------------------------------------------------------------------------------------------------------

/// What a tree has, as this test made it.
#[derive(Default)]
struct Made {
    files: u64,
    lines: u64,
    words: u64,
    bytes: u64,
}

/// A tree of small text files in nested folders, `count` of them.
fn make_tree(root: &Path, count: u64) -> Made {
    let mut made = Made::default();
    for number in 0..count {
        let folder = root.join(format!("f{}/g{}", number % 7, number % 3));
        fs::create_dir_all(&folder).unwrap();
        // As many lines as its number says, of three words each; the last one of odd files has no newline.
        let lines = number % 50 + 1;
        let mut text = format!("file {number} here\n").repeat(lines as usize);
        if number % 2 == 1 {
            text.pop();
        }
        fs::write(folder.join(format!("{number}.txt")), &text).unwrap();
        made.files += 1;
        made.lines += lines;
        made.words += 3 * lines;
        made.bytes += text.len() as u64;
    }
    made
}

/// What nobody may trip over. Returns how many more files can be read, and how many bytes they have.
fn add_oddities(root: &Path) -> (u64, u64) {
    // Not UTF-8, and full of what a terminal would obey.
    fs::write(root.join(OsStr::from_bytes(b"\xff\x1b[2J\n\".txt")), b"x").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("not-text"), b"zero\0byte").unwrap();
    // Many chunks, though hardly any disk, and long enough for a progress note.
    fs::File::create(root.join("huge")).unwrap().set_len(33 << 20).unwrap();
    // Not to be followed, not to be opened, not to be gone into.
    std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
    std::os::unix::fs::symlink("empty", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
    for left_out in [".git", "target"] {
        fs::create_dir(root.join(left_out)).unwrap();
        fs::write(root.join(left_out).join("file"), b"left out").unwrap();
    }
    (4, 1 + 9 + (33 << 20))
}

/// Makes a file whose whole path is too long to be opened, which nobody can read, not even root.
fn add_unreadable(root: &Path) {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::mkdirat;
    let name = "d".repeat(200);
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = open(root, flags, Mode::empty()).unwrap();
    let mut len = root.as_os_str().len();
    // The last folder can still be read, and what is in it no longer.
    while len + 201 < 4096 {
        mkdirat(&folder, &*name, Mode::S_IRWXU).unwrap();
        folder = openat(&folder, &*name, flags, Mode::empty()).unwrap();
        len += 201;
    }
    let create = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(&folder, &*"e".repeat(250), create, Mode::S_IRWXU).unwrap();
}

#[test]
fn the_worker_pool_counts_every_file_once_though_workers_are_killed() {
    let _watchdog = patient_watchdog();
    let tree = folder("pool");
    let made = make_tree(&tree.0, 400);
    let (odd_files, odd_bytes) = add_oddities(&tree.0);
    add_unreadable(&tree.0);
    for flags in [
        &[][..],
        &["--kill"],
        &["--kill", "--workers", "1"],
        &["--kill", "--no-respawn", "--workers", "6"],
    ] {
        let ran = run(example("worker_pool")
            .args(["--json", "--verify"])
            .args(flags)
            .arg(&tree.0));
        ran.must_end_with(0).must_say("\"verified\":true");
        assert_eq!(ran.number("files"), made.files + odd_files, "{flags:?}");
        assert_eq!(ran.number("lines"), made.lines + 1, "{flags:?}");
        assert_eq!(ran.number("words"), made.words + 1, "{flags:?}");
        assert_eq!(ran.number("bytes"), made.bytes + odd_bytes, "{flags:?}");
        assert_eq!((ran.number("unreadable"), ran.number("not_text")), (1, 2), "{flags:?}");
        assert_eq!(
            (ran.number("differ"), ran.number("changed")),
            (0, 0),
            "{flags:?}: {}",
            ran.err
        );
        assert_eq!(ran.number("agree"), made.files + odd_files + 1, "{flags:?}");
        assert_eq!(
            ran.number("killed") >= 4,
            flags.contains(&"--kill"),
            "{flags:?}: {}",
            ran.out
        );
        assert_eq!(
            ran.out.matches("\"end\":\"SIGKILL\"").count() as u64,
            ran.number("killed")
        );
        assert_eq!(
            ran.number("repeated"),
            0,
            "the log is read to its end before files are given to others"
        );
        assert!(ran.err.contains("not-text: not text"), "{}", ran.err);
        assert!(
            ran.err.contains("warning: ") && !ran.err.contains('\x1b'),
            "{}",
            ran.err
        );
    }
}

#[cfg(feature = "log")]
#[test]
fn the_line_pool_shows_every_word_in_order_also_of_who_panics_or_is_killed() {
    let _watchdog = patient_watchdog();
    let ran = run(&mut example("line_pool"));
    ran.must_end_with(0)
        .must_say("all in order")
        .must_say("no more")
        .must_say("in the middle of a li")
        .must_say("worker lost: signal 9 ended it");
    assert_eq!(ran.err, "", "the parent's own standard error stays clean");
}

#[test]
fn the_worker_pool_holds_on_this_repository() {
    let _watchdog = patient_watchdog();
    let ran = run(example("worker_pool").args(["--verify", "--kill"]));
    ran.must_end_with(0)
        .must_say("verified: ")
        .must_say(" 0 differ")
        .must_say("Largest files");
    ran.must_say("SIGKILL").must_say("finished");
    assert!(!ran.out.contains('\x1b'), "no colour where there is no terminal");
}

#[test]
fn the_worker_pool_goes_where_it_is_sent_and_meets_no_file_twice() {
    let _watchdog = patient_watchdog();
    let tree = folder("roots");
    let made = make_tree(&tree.0, 30);
    let (odd_files, _) = add_oddities(&tree.0);
    let files = |paths: &[PathBuf]| {
        run(example("worker_pool").arg("--json").args(paths))
            .must_end_with(0)
            .number("files")
    };
    let at = |below: &str| tree.0.join(below);
    assert_eq!(files(&[at("target")]), 1, "a folder that is named");
    assert_eq!(files(&[at("not-text")]), 1, "a file that is named");
    assert_eq!(
        files(&[at("f0"), at(""), at("f0/g1"), at("target"), at("loop")]),
        made.files + odd_files + 1
    );
    let empty = folder("empty");
    assert_eq!(files(std::slice::from_ref(&empty.0)), 0);
}

#[test]
fn a_worker_pool_without_workers_fails_and_a_killed_one_leaves_none_behind() {
    let _watchdog = patient_watchdog();
    let tree = folder("endless");
    // Nobody gets through this while the test lasts.
    fs::File::create(tree.0.join("endless"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let start = || {
        let mut command = example("worker_pool");
        command.args(["--workers", "1", "--no-respawn"]).arg(&tree.0);
        let pool = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("there is a worker", || !children(&pool).is_empty());
        let worker = children(&pool)[0];
        (pool, worker)
    };

    let (pool, worker) = start();
    kill(worker, Signal::SIGKILL).unwrap();
    let ran = ran(pool.wait_with_output().unwrap());
    ran.must_end_with(1);
    assert!(ran.err.contains("no worker is left"), "{}", ran.err);

    let (mut pool, worker) = start();
    // Once it reads the file, it has arranged to end with its parent.
    eventually("the worker reads", || {
        fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.ends_with("endless")))
    });
    pool.kill().unwrap();
    pool.wait().unwrap();
    eventually("the worker is gone", || has_ended(worker));
}

fn children(parent: &Child) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap_or_default();
    list.split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// Whether it is gone, or a zombie that nobody asks for.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

#[test]
fn the_worker_pool_shows_progress_and_colour_on_a_terminal_only_and_no_colour_if_asked() {
    let _watchdog = patient_watchdog();
    let tree = folder("terminal");
    make_tree(&tree.0, 50);
    let on_terminal = |no_color: &str| {
        let mut command = example("worker_pool");
        command.arg(&tree.0).env("TERM", "xterm").env("NO_COLOR", no_color);
        output_on_terminal(command)
    };
    let colourful = on_terminal("");
    assert!(
        colourful.contains("\x1b[K") && colourful.contains("files found"),
        "{colourful:?}"
    );
    assert!(colourful.contains("\x1b[1mworker"), "{colourful:?}");
    let plain = on_terminal("1");
    assert!(plain.contains("\x1b[K") && !plain.contains("\x1b[1m"), "{plain:?}");
}

/// Runs it on a terminal of its own, and returns what that shows.
fn output_on_terminal(mut command: Command) -> String {
    let (mut ours, mut theirs) = (0, 0);
    let (name, settings, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: two places for descriptors, and nothing else asked for.
    let made = unsafe { nix::libc::openpty(&mut ours, &mut theirs, name, settings, size) };
    assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: fresh descriptors that nobody else has.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let mut child = command
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    // The command holds copies of the terminal; it must be gone before its end can be seen.
    drop(command);
    let mut shown = Vec::new();
    // A terminal that nobody has open any more reads as an error; what came before is in `shown`.
    let _ = fs::File::from(ours).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&shown).into_owned()
}

// ---- The others ----------------------------------------------------------------------------------------------------------

#[test]
fn ping_pong_prints_percentiles_a_ratio_and_bars_and_leaves_no_name() {
    let _watchdog = patient_watchdog();
    for flags in [&[][..], &["--sleep"], &["--named", "--body", "5000"], &["--body", "0"]] {
        let child = example("ping_pong")
            .args(["--rounds", "500"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let ran = ran(child.wait_with_output().unwrap());
        ran.must_end_with(0);
        for words in [
            "p50",
            "p99.9",
            "cache lines",
            "\nqueue ",
            "ratio of the medians: ",
            " ns #",
            "500 round trips",
        ] {
            ran.must_say(words);
        }
        let counted: u64 = ran
            .out
            .lines()
            .filter_map(|line| line.split_once(" ns ")?.1.split(' ').next_back()?.parse::<u64>().ok())
            .sum();
        assert_eq!(counted, 500, "the bars hold every round trip: {}", ran.out);
        let prefix = format!("ping-pong-{pid}-");
        assert!(
            !Queue::names().unwrap().iter().any(|name| name.starts_with(&prefix)),
            "a name was left"
        );
    }
}

#[test]
fn two_pinned_processes_that_may_spin_do_not_sleep() {
    let _watchdog = patient_watchdog();
    if std::thread::available_parallelism().is_ok_and(|n| n.get() < 2) {
        println!("skipped: it takes two processors");
        return;
    }
    let ran = run(example("ping_pong").args(["--rounds", "2000", "--spin"]));
    ran.must_end_with(0).must_say("on processors ");
    let slept = ran
        .out
        .split("slept ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(
        slept.is_some_and(|times| times < 1000),
        "in 2000 round trips: {}",
        ran.out
    );
}

#[test]
fn two_services_find_each_other_by_name_and_leave_none() {
    let _watchdog = patient_watchdog();
    let child = example("two_services").stdout(Stdio::piped()).spawn().unwrap();
    let name = format!("two-services-{}", child.id());
    let ran = ran(child.wait_with_output().unwrap());
    ran.must_end_with(0);
    for words in [
        "responder: at your service",
        "requester: it is 25",
        "responder: goodbye, requester",
        "both have ended",
    ] {
        ran.must_say(words);
    }
    let asked = ran.out.find("what is 1 squared?").expect("it asks");
    let later = ran
        .out
        .find("now the other one is started")
        .expect("the other one is started");
    assert!(asked < later, "{}", ran.out);
    assert!(!Queue::names().unwrap().contains(&name), "the name was left");
}

#[test]
fn two_services_started_by_hand_do_not_need_a_launcher() {
    let _watchdog = patient_watchdog();
    let name = support::unique("services");
    let start = |role: &str| {
        let mut command = example("two_services");
        command
            .args(["--name", &name, "--role", role])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let responder = start("responder");
    eventually("the responder has joined", || {
        Queue::open(&name).is_ok_and(|queue| {
            queue
                .members()
                .iter()
                .any(|m| m.name == "responder" && m.role.is_some())
        })
    });
    let requester = start("requester");
    for (service, last) in [
        (requester, "requester: goodbye"),
        (responder, "responder: goodbye, requester"),
    ] {
        ran(service.wait_with_output().unwrap()).must_end_with(0).must_say(last);
    }
    assert!(
        !Queue::names().unwrap().contains(&name),
        "the last one to leave takes the name away"
    );
}

#[test]
fn screens_explains_itself() {
    let _watchdog = patient_watchdog();
    let ran = run(&mut example("screens"));
    ran.must_end_with(0)
        .must_say("screens kind:debug, 10 messages so far")
        .must_say("to everybody, me too");
    assert_eq!(
        ran.out.matches("debug   sensor 3").count(),
        1,
        "screened after the first time: {}",
        ran.out
    );
}

#[test]
fn a_pumped_commands_lines_reach_both_readers_the_slow_one_too() {
    let _watchdog = patient_watchdog();
    run(&mut example("pump_command"))
        .must_end_with(0)
        .must_say("pumped 20000 lines, 108894 bytes; the command: exit status: 0")
        .must_say("fast reader: 20000 lines, 108894 bytes")
        .must_say("slow reader: 20000 lines, 108894 bytes");
    run(example("pump_command").args(["printf", "one\\ntwo\\nunended"]))
        .must_end_with(0)
        .must_say("pumped 3 lines, 15 bytes")
        .must_say("slow reader: 3 lines, 15 bytes");
    let failed = run(example("pump_command").arg("/no/such/command"));
    failed.must_end_with(1);
    assert!(
        failed.err.contains("No such file") && failed.out.is_empty(),
        "{}",
        failed.err
    );
}

#[test]
fn a_tee_brings_the_same_bytes_into_a_file_and_over_a_socket_and_leaves_no_file() {
    let _watchdog = patient_watchdog();
    let folder = folder("tee");
    run(example("tee_socket").env("TMPDIR", &folder.0))
        .must_end_with(0)
        .must_say("4000000 bytes in ")
        .must_say("file: 4000000 bytes, second server: 4000000 bytes")
        .must_say("all the same");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn wrong_arguments_are_exit_code_2_and_help_is_0() {
    let _watchdog = patient_watchdog();
    let wrong: [(&str, &[&str]); 8] = [
        ("worker_pool", &["--wrokers", "2"]),
        ("worker_pool", &["--workers", "0"]),
        ("worker_pool", &["--workers"]),
        ("ping_pong", &["--rounds", "0"]),
        ("ping_pong", &["--body", "x"]),
        ("ping_pong", &["hello"]),
        ("two_services", &["--role", "bystander", "--name", "x"]),
        ("screens", &["--loud"]),
    ];
    for (name, args) in wrong {
        let ran = run(example(name).args(args));
        ran.must_end_with(2);
        assert!(
            ran.err.contains(name) && ran.out.is_empty(),
            "{name} {args:?}: {}",
            ran.err
        );
    }
    for name in ["worker_pool", "ping_pong", "two_services"] {
        run(example(name).arg("--help")).must_end_with(0).must_say("Usage: ");
    }
    let ran = run(example("worker_pool").arg("/no/such/path"));
    ran.must_end_with(1);
    assert!(ran.err.contains("/no/such/path"), "{}", ran.err);
}
