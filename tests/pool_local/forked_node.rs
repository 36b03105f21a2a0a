//! A node in a process of its own, to be killed or suspended. Not here: what is expected of others then (`processes`, `limits`).

use super::support::{self, SharedWord, eventually, forked};
use super::{SECOND, node};
use nix::sys::signal::Signal;
use syncq::pool::{Chirp, Config, Handler, Loop};

/// A node in a process of its own, that is there for as long as it is not killed. `ready` is raised when it can be asked.
pub(super) fn forked_node(config: Config, ready: &SharedWord, handler: impl Handler) -> ForkedNode {
    let name = config.queue.clone().unwrap();
    let child = forked(|| {
        let looper = Loop::new().unwrap();
        let _node = node(&looper, config, handler);
        ready.raise();
        loop {
            std::thread::sleep(SECOND);
        }
    });
    ForkedNode {
        child: Some(child),
        name,
    }
}

pub(super) struct ForkedNode {
    child: Option<support::Child>,
    name: String,
}

impl ForkedNode {
    pub(super) fn child(&self) -> &support::Child {
        self.child.as_ref().expect("not killed yet")
    }

    pub(super) fn kill(&mut self) {
        self.child.take().expect("not killed yet").kill();
    }

    /// Not gone, but none of its threads runs.
    pub(super) fn suspend(&self) {
        self.child().signal(Signal::SIGSTOP);
        eventually("all its threads have stopped", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child().pid)).unwrap();
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
                stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
            })
        });
    }
}

impl Drop for ForkedNode {
    fn drop(&mut self) {
        drop(self.child.take());
        // In use where the test has started the node anew.
        let _ = Chirp::remove_queues(&self.name);
    }
}
