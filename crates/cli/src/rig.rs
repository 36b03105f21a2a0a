//! What a measurement stands on: a queue of its own that leaves nothing behind, processes that take part, and the machine's description.

use crate::commands::peer::Player;
use crate::fail::Fail;
use crate::stop::Stop;
use std::time::{Duration, Instant};
use syncq::{Queue, QueueOptions};

/// How long the processes of a measurement may take to join.
const JOINING: Duration = Duration::from_secs(30);

/// A queue with a name that goes away with this, at the latest.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) queue: Queue,
    pub(crate) name: String,
}

impl Own {
    pub(crate) fn new(what: &str, options: &QueueOptions) -> Result<Self, Fail> {
        let name = format!("{what}-{}", std::process::id());
        Ok(Own {
            queue: options.create(&name)?,
            name,
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Gone already once everybody had joined.
        let _ = self.queue.unlink();
    }
}

/// Waits until all of them take part.
pub(crate) fn until_joined(queue: &Queue, players: &mut [Player], stop: &Stop) -> Result<(), Fail> {
    let end = Instant::now() + JOINING;
    loop {
        let members = queue.members();
        let is_in = |player: &Player| members.iter().any(|m| m.pid == player.pid() && m.role.is_some());
        if players.iter().all(is_in) {
            return Ok(());
        }
        if players.iter_mut().any(Player::has_failed) {
            return Err(Fail::new("a process of the measurement ended early"));
        }
        if stop.sleep(Duration::from_millis(1)) || end <= Instant::now() {
            return Err(Fail::new("the processes of the measurement did not all join"));
        }
    }
}

/// Processor, number of processors, kernel.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {processors} processors, Linux {}", kernel.trim())
}

/// The command line of this process, with the program's bare name.
pub(crate) fn command() -> String {
    let arguments = std::env::args().skip(1);
    ["syncq".to_owned()]
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
