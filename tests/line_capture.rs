//! What is printed goes to a mirror, whoever prints it, and the descriptors lead again where they led before.
//!
//! Captures are of a whole process. So each test runs them in a forked child, where no other test prints.

mod support;

use nix::sys::stat::fstat;
use std::io::{Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::{forked, minute};
use syncq::Wait;
use syncq::line::{
    Capture, CapturedChild, LineBuffer, LineItem, LineProcBuffer, LineProcMirror, Mirror, Stream, Streams, capture,
};

/// What `body` sends, run in a child.
fn in_a_child(body: impl FnOnce(Arc<LineProcMirror>)) -> Vec<LineItem> {
    let parent = LineProcBuffer::new(100_000).unwrap();
    let mirror = parent.mirror("child").unwrap();
    let child = forked(move || {
        // What a worker prints outside of captures is not to disturb the terminal.
        let null = std::fs::File::create("/dev/null").unwrap();
        nix::unistd::dup2_stdout(&null).unwrap();
        nix::unistd::dup2_stderr(&null).unwrap();
        let mirror = Arc::new(mirror);
        body(mirror.clone());
        mirror.close().unwrap();
        0
    });
    assert!(parent.wait(Wait::For(Duration::from_secs(50))).unwrap());
    child.must_succeed();
    parent.read(None).unwrap()
}

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

fn print(text: &str) {
    stdout().write_all(text.as_bytes()).unwrap();
}

/// Which files descriptors 1 and 2 lead to.
fn descriptors() -> [u64; 2] {
    [fstat(stdout()).unwrap().st_ino, fstat(stderr()).unwrap().st_ino]
}

#[test]
fn rust_c_panics_and_child_processes_are_captured_in_order() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let before = descriptors();
        let captured = Capture::begin(mirror.clone(), Streams::Together).unwrap();
        print("rust\n");
        eprint_raw("standard error\n");
        // SAFETY: a string of C, and the C library's own function.
        unsafe { nix::libc::puts(c"c library, in its buffer".as_ptr()) };
        // SAFETY: as before.
        unsafe { nix::libc::fflush(std::ptr::null_mut()) };
        assert!(
            Command::new("sh")
                .args(["-c", "echo child; echo its error >&2"])
                .status()
                .unwrap()
                .success()
        );
        let _ = catch_unwind(|| panic!("at the disco"));
        captured.sync();
        mirror.send_warning(&"sent").unwrap();
        print("unfinished");
        // SAFETY: as before.
        unsafe { nix::libc::printf(c" of c".as_ptr()) };
        drop(captured);
        assert_eq!(descriptors(), before);
        print("not captured\n");
        stdout().flush().unwrap();
    });
    let texts = texts(&items);
    assert_eq!(
        texts[..5],
        [
            "rust",
            "standard error",
            "c library, in its buffer",
            "child",
            "its error"
        ]
    );
    // The place and the words of the panic, however the hook lays them out.
    assert!(texts[5..].iter().any(|text| text.contains("at the disco")), "{texts:?}");
    assert_eq!(texts[texts.len() - 2..], ["sent", "unfinished of c"]);
    assert_eq!(items[0].stream, Stream::Both);
}

fn eprint_raw(text: &str) {
    stderr().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_panic_that_ends_the_scope_restores_the_descriptors_and_loses_nothing() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let before = descriptors();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            capture(mirror, || {
                print("before it\nhalf a line");
                std::panic::resume_unwind(Box::new("no words on standard error"));
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(descriptors(), before);
    });
    assert_eq!(texts(&items), ["before it", "half a line"]);
}

#[test]
fn standard_output_and_error_can_be_kept_apart() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let captured = Capture::begin(mirror, Streams::Apart).unwrap();
        print("out\n");
        eprint_raw("err\n");
        drop(captured);
    });
    let mut seen: Vec<(String, Stream)> = items.iter().map(|item| (item.to_string(), item.stream)).collect();
    seen.sort_by_key(|(text, _)| text.clone());
    assert_eq!(seen, [("err".to_owned(), Stream::Err), ("out".to_owned(), Stream::Out)]);
}

#[test]
fn captures_can_be_nested_and_end_in_any_order() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let before = descriptors();
        let inner = LineBuffer::new(10).unwrap();
        let first = Capture::begin(mirror.clone(), Streams::Together).unwrap();
        print("first\n");
        let second = Capture::begin(Arc::new(inner.clone()), Streams::Together).unwrap();
        print("second\n");
        drop(second);
        print("first again\n");
        let third = Capture::begin(Arc::new(inner.clone()), Streams::Together).unwrap();
        drop(first);
        print("third\n");
        drop(third);
        assert_eq!(descriptors(), before);
        print("nowhere\n");
        for item in inner.read(None).unwrap() {
            mirror.write(format!("inner: {item}\n")).unwrap();
        }
    });
    assert_eq!(texts(&items), ["first", "first again", "inner: second", "inner: third"]);
}

#[test]
fn bytes_that_are_no_text_and_breaks_in_two_pieces_are_captured_as_they_are() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let captured = Capture::begin(mirror, Streams::Together).unwrap();
        for piece in [&b"a\xff\r"[..], b"\nb\xe2", b"\x80\xa8c\n"] {
            stdout().write_all(piece).unwrap();
            stdout().flush().unwrap();
            captured.sync();
        }
        drop(captured);
    });
    let bytes: Vec<&[u8]> = items.iter().map(|item| item.line().unwrap().bytes()).collect();
    assert_eq!(bytes, [&b"a\xff"[..], b"b", b"c"]);
}

#[test]
fn whatever_the_mirror_refuses_the_program_goes_on_and_the_loss_is_told() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let buffer = LineBuffer::new(10).unwrap();
        let closed = buffer.mirror("stopped");
        buffer.stop_all_mirrors_now();
        let captured = Capture::begin(Arc::new(closed), Streams::Together).unwrap();
        for n in 0..50_000 {
            print(&format!("{n}\n"));
        }
        captured.sync();
        assert!(captured.lost() > 200_000, "{}", captured.lost());
        buffer.resume();
        print("heard\n");
        drop(captured);
        for item in buffer.read(None).unwrap() {
            mirror.write(format!("{item}\n")).unwrap();
        }
    });
    assert_eq!(texts(&items)[0], "heard");
    assert!(texts(&items)[1].ends_with(" bytes of output dropped"));
}

/// Short words for what this file needs of `Lines`.
trait Stop {
    fn stop_all_mirrors_now(&self);
    fn resume(&self);
}

impl Stop for LineBuffer {
    fn stop_all_mirrors_now(&self) {
        syncq::line::Lines::stop_all_mirrors(self).unwrap();
    }
    fn resume(&self) {
        syncq::line::Lines::reset_states(self).unwrap();
    }
}

#[test]
fn fifty_thousand_lines_of_four_threads_are_captured_whole() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let captured = Capture::begin(mirror, Streams::Together).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..12_500).for_each(|n| print(&format!("thread {thread} line {n}\n"))));
            }
        });
        drop(captured);
    });
    let mut next = [0; 4];
    for item in &items {
        let text = item.to_string();
        let thread: usize = text["thread ".len()..][..1].parse().unwrap();
        assert_eq!(text, format!("thread {thread} line {}", next[thread]));
        next[thread] += 1;
    }
    assert_eq!(next, [12_500; 4]);
}

#[test]
fn what_a_killed_child_process_printed_is_there() {
    let _watchdog = minute();
    let buffer = LineBuffer::new(100).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; printf 'half a line'; kill -9 $$"]);
    let child = CapturedChild::spawn(&mut command, Arc::new(buffer.clone()), Streams::Apart).unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    assert_eq!(texts(&buffer.read(None).unwrap()), ["one", "half a line"]);
    // A grandchild that keeps the pipe keeps nobody.
    command = Command::new("sh");
    command.args(["-c", "sleep 30 & echo $!"]);
    let child = CapturedChild::spawn(&mut command, Arc::new(buffer.clone()), Streams::Together).unwrap();
    assert!(child.wait().unwrap().success());
    let sleeper = buffer.read(1).unwrap()[0].to_string().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    let missing = CapturedChild::spawn(
        &mut Command::new("/no/such/program"),
        Arc::new(buffer),
        Streams::Together,
    );
    assert!(missing.is_err());
}

#[test]
fn an_unfinished_line_is_seen_at_once_and_survives_its_process() {
    let _watchdog = minute();
    let parent = LineProcBuffer::new(10).unwrap();
    let mirror = parent.mirror("victim").unwrap();
    let victim = forked(move || {
        let captured = Capture::begin(Arc::new(mirror), Streams::Together).unwrap();
        print("name? ");
        stdout().flush().unwrap();
        std::thread::sleep(Duration::from_secs(50));
        drop(captured);
        0
    });
    support::eventually("the prompt is seen", || parent.len().unwrap() == 1);
    assert!(parent.read(1).unwrap()[0].line().unwrap().is_unfinished());
    victim.kill();
    assert!(parent.wait(Wait::For(Duration::from_secs(50))).unwrap());
    let items = parent.read(None).unwrap();
    assert_eq!(items[0].text(), "name? ");
    assert!(matches!(items[1].content, syncq::line::Content::Lost(_)));
}

#[test]
fn a_forked_child_prints_into_the_parents_capture_or_into_its_own() {
    let _watchdog = minute();
    let items = in_a_child(|mirror| {
        let captured = Capture::begin(mirror.clone(), Streams::Together).unwrap();
        forked(|| {
            print("from the child\n");
            let mine = Capture::begin(mirror.clone(), Streams::Together).unwrap();
            print("by the child's own\n");
            drop(mine);
            mirror.close().unwrap();
            print("the parent's again\n");
            stdout().flush().unwrap();
            0
        })
        .must_succeed();
        drop(captured);
    });
    let mut seen: Vec<(String, u32)> = items
        .iter()
        .map(|item| (item.to_string(), item.origin.as_ref().unwrap().pid))
        .collect();
    let grandchild = seen.iter().find(|(text, _)| text == "by the child's own").unwrap().1;
    seen.retain(|(_, pid)| *pid != grandchild);
    assert_eq!(seen.len(), 2, "{items:?}");
    assert_eq!(
        (seen[0].0.as_str(), seen[1].0.as_str()),
        ("from the child", "the parent's again")
    );
}
