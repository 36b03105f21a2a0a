//! `top` in a real terminal: tmux shows what a person would see, and types what a person would type.

mod command;
#[path = "../../../tests/support/mod.rs"]
mod support;

use command::{SYNCQ, run, until};
use std::process::Command;
use std::time::Duration;
use support::{Folder, SharedWord, folder, forked, minute, named};
use syncq::{Queue, Wait};

/// A terminal of 130 by 24 in which a shell command runs.
struct Terminal {
    socket: String,
    _folder: Folder,
}

impl Terminal {
    /// `None`, loudly, where there is no tmux; a failure where everything has to be there.
    fn start(command: &str) -> Option<Terminal> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "tmux is missing");
            eprintln!("SKIPPED: tmux is missing, so nobody looked at the screen of top");
            return None;
        }
        let folder = folder("tmux");
        let socket = folder.0.join("s").to_string_lossy().into_owned();
        let terminal = Terminal {
            socket,
            _folder: folder,
        };
        // What it leaves on the screen stays to be looked at.
        let then = format!("{command}; echo ended with $?; sleep 60");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "130", "-y", "24", &then]);
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-u", "-S", &self.socket])
            .args(args)
            .env_remove("TMUX")
            .output();
        let output = output.expect("tmux runs");
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn keys(&self, keys: &str) {
        self.tmux(&["send-keys", keys]);
    }

    /// Waits until the screen is as wanted, and gives it.
    #[track_caller]
    fn shows(&self, what: &str, mut is_so: impl FnMut(&str) -> bool) -> String {
        let mut screen = String::new();
        until(what, || {
            screen = self.screen();
            is_so(&screen)
        });
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-S", &self.socket, "kill-server"]).output();
    }
}

fn line_of<'s>(screen: &'s str, what: &str) -> &'s str {
    screen.lines().find(|line| line.contains(what)).unwrap_or_default()
}

#[test]
fn top_shows_queues_and_members_live_and_obeys_its_keys() {
    let _watchdog = minute();
    let busy = named("topa", &Queue::options().capacity(1 << 16));
    let quiet = named("topb", &Queue::options());
    let is_in = SharedWord::new();
    let child = forked(|| {
        let _me = busy.queue.joining().sender("victim").reader().expect("there is a slot");
        is_in.raise();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    is_in.wait_for(1);
    let mut writer = busy.queue.writer("busy-one").expect("there is a slot");
    writer.append("", &[0; 40_000], Wait::Never).expect("there is room");
    let command = format!("'{SYNCQ}' top --interval 100ms {} {}", busy.name, quiet.name);
    let Some(terminal) = Terminal::start(&command) else {
        return;
    };

    let screen = terminal.shows("the members are there", |s| {
        s.contains("busy-one") && s.contains("victim")
    });
    assert!(screen.starts_with("syncq top  2 queues  2 members"), "{screen}");
    let first = line_of(&screen, "live");
    assert!(
        first.starts_with("▶ test-topa") && first.contains("64.0 KiB") && first.contains("61%"),
        "{screen}"
    );
    assert!(line_of(&screen, "idle").starts_with("  test-topb"), "{screen}");
    let victim = line_of(&screen, "victim");
    assert!(
        victim.contains("reader") && victim.contains(&child.pid.to_string()) && victim.contains("39.1 KiB"),
        "{screen}"
    );
    // Lag over time: a bar of 61 % that has been there for more than one look.
    terminal.shows("lag has a history", |s| line_of(s, "victim").contains("▅▅"));
    // Rate over time.
    terminal.shows("the rate has a history", |s| {
        for _ in 0..10 {
            writer.append("", b"x", Wait::Never).expect("there is room");
        }
        line_of(s, "busy-one").contains('█') && !line_of(s, "busy-one").contains(" 0/s")
    });
    child.kill();
    let screen = terminal.shows("the dead are told", |s| line_of(s, "victim").contains("dead"));
    assert!(
        screen.lines().next().is_some_and(|title| title.contains("1 dead")),
        "{screen}"
    );
    terminal.keys("Down");
    terminal.shows("the other one is chosen", |s| line_of(s, "test-topb").starts_with('▶'));
    terminal.keys("k");
    terminal.shows("the first one is chosen again", |s| {
        line_of(s, "test-topa").starts_with('▶')
    });
    terminal.keys("s");
    terminal.shows("the order is another", |s| line_of(s, "syncq top").contains("by rate"));
    terminal.keys("Space");
    terminal.shows("it has paused", |s| line_of(s, "syncq top").contains("paused"));
    terminal.keys("Space");
    quiet.queue.unlink().expect("it has a name");
    terminal.shows("a queue that is gone is shown as such", |s| {
        line_of(s, "test-topb").contains("no queue named")
    });
    terminal.keys("q");
    let screen = terminal.shows("it has ended", |s| s.contains("ended with 0"));
    assert!(!screen.contains("syncq top"), "it has given the screen back: {screen}");
}

#[test]
fn top_fits_any_screen_and_ends_by_signal_count_and_time() {
    let _watchdog = minute();
    let named = named("topc", &Queue::options());
    let members: Vec<_> = (0..40)
        .map(|n| named.queue.writer(&format!("writer-{n}")).expect("a slot"))
        .collect();
    let command = format!("'{SYNCQ}' top --interval 50ms {}", named.name);
    let Some(terminal) = Terminal::start(&command) else {
        return;
    };
    let screen = terminal.shows("it is full", |s| s.contains("writer-19"));
    assert!(
        screen.lines().count() <= 24 && screen.starts_with("syncq top"),
        "nothing scrolled away: {screen}"
    );
    for (width, height) in [("40", "10"), ("10", "3"), ("200", "50")] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        terminal.shows("it has been drawn anew", |s| {
            let fits = s.lines().all(|line| line.chars().count() <= width.parse().unwrap());
            fits && s.starts_with("syncq top") && (height != "50" || s.contains("writer-39"))
        });
    }
    drop(members);
    terminal.shows("nobody is left", |s| !s.contains("writer-"));
    terminal.keys("C-c");
    terminal.shows("it has ended", |s| s.contains("ended with 0"));
    drop(terminal);

    let command = format!(
        "'{SYNCQ}' top --interval 10ms --count 3 {}; '{SYNCQ}' top --timeout 100ms",
        named.name
    );
    let Some(terminal) = Terminal::start(&command) else {
        return;
    };
    terminal.shows("both have ended", |s| s.contains("ended with 0"));
}

#[test]
fn without_a_terminal_top_prints_one_frame_or_says_what_it_needs() {
    let _watchdog = minute();
    let named = named("topd", &Queue::options());
    let _me = named.queue.join("somebody").expect("there is a slot");
    let frame = run(&["top", "--once", "--interval", "20ms", &named.name]).ok();
    assert!(
        frame.starts_with("syncq top  1 queues") && frame.contains("somebody") && !frame.contains('\x1b'),
        "{frame}"
    );
    assert!(
        run(&["top", "--once", "--interval", "20ms", "--color", "always", &named.name])
            .ok()
            .contains("\x1b[32mlive")
    );
    let err = run(&["top"]).fails(2);
    assert!(err.contains("needs a terminal") && err.contains("--once"), "{err}");
    run(&["top", "--interval", "0"]).fails(2);
}
