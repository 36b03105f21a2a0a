//! The piece that gives other tests their Python peers.

#[path = "support/python.rs"]
mod python;

use python::{Wanted, environment};

const BARE: Wanted<'static> = Wanted {
    name: "bare",
    imports: &["json"],
    ..Wanted::NOTHING
};

#[test]
fn threads_that_ask_at_once_get_the_same_environment() {
    let made: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| environment(&BARE))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let Some(first) = &made[0] else { return };
    assert!(made.iter().all(|other| other.as_ref().unwrap().root == first.root));
    let said = first.must_run("import sys; print(sys.prefix)", &[]);
    assert_eq!(std::path::Path::new(said.trim()), first.root.canonicalize().unwrap());
}

#[test]
fn a_script_beside_the_test_is_spoken_with_and_ends_with_its_input() {
    let Some(bare) = environment(&BARE) else { return };
    let mut echo = bare.start::<&str>("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", &[]);
    echo.tell("abc");
    assert_eq!(echo.must_say(), "cba");
    assert!(echo.end().success());
}

/// Run by the next test, in a process of its own that is killed.
#[test]
#[ignore = "is a part of a_run_killed_midway_does_no_harm, which runs it"]
fn make_one_to_be_killed() {
    environment(&KILLED);
}

const KILLED: Wanted<'static> = Wanted {
    name: "killed",
    imports: &["json"],
    ..Wanted::NOTHING
};

#[test]
fn a_run_killed_midway_does_no_harm() {
    // As if for the first time.
    let home = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("killed-") {
            let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
        }
    }
    let mut run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "make_one_to_be_killed", "--ignored"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(150));
    run.kill().unwrap();
    run.wait().unwrap();
    let Some(made) = environment(&KILLED) else { return };
    assert_eq!(made.must_run("print(7)", &[]), "7\n");
}
