//! Nodes over queues: what holds over TCP holds here, and what shared memory adds: names, deaths, rings that are full. The tests are in
//! `pool_local/`, by subject; here is what they start from.
//!
//! Not here: nodes over TCP alone (`pool.rs`), and deaths at random moments (`pool_local_kill.rs`).

#[path = "pool_local/answering.rs"]
mod answering;
#[path = "pool_local/forked_node.rs"]
mod forked_node;
#[path = "pool_local/handlers.rs"]
mod handlers;
#[path = "pool_local/limits.rs"]
mod limits;
#[path = "pool_local/names.rs"]
mod names;
#[path = "pool_local/processes.rs"]
mod processes;
#[path = "pool_local/slots.rs"]
mod slots;
#[path = "pool_local/stopping.rs"]
mod stopping;
mod support;
#[path = "pool_local/time.rs"]
mod time;

use std::sync::{Mutex, mpsc};
use std::time::Duration;
use support::{minute, unique};
use syncq::Queue;
use syncq::pool::{Chirp, Config, Handler, Loop, Message};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config::new().queue_only(unique("pool")).timeout(5 * SECOND)
}

/// That of a node which takes one message at a time, and whose queue is soon full meanwhile.
fn soon_full() -> Config {
    config().auto_release(false).max_slots(1).queue_capacity(1 << 14)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a fresh name")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn address(of: &Chirp) -> String {
    format!("queue:{}", of.config().queue.as_deref().expect("the node has a queue"))
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(&address(to), data).unwrap()
}

fn in_all_modes(test: impl Fn(Config, Config)) {
    let _watchdog = minute();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        test(config().synchronous(ours), config().synchronous(theirs));
    }
}

fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

fn queues_called(name: &str) -> Vec<String> {
    let all = Queue::names().unwrap();
    all.into_iter().filter(|queue| queue.starts_with(name)).collect()
}
