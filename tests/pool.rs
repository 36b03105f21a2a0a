//! Nodes over TCP: sending, answering, releasing, slots, time, stopping, and what must not happen. The tests are in `pool/`,
//! by subject; here is what they start from.
//!
//! Not here: nodes over queues (`pool_local.rs`), over TLS (`pool_tls_nodes.rs`), byte by byte (`pool_wire_peer.rs`), among strangers
//! (`pool_hostile.rs`), and nodes that are killed (`pool_kill.rs`).

#[path = "pool/absent_peers.rs"]
mod absent_peers;
#[path = "pool/addresses.rs"]
mod addresses;
#[path = "pool/answering.rs"]
mod answering;
#[path = "pool/handlers.rs"]
mod handlers;
#[path = "pool/limits.rs"]
mod limits;
#[path = "pool/loops.rs"]
mod loops;
#[path = "pool/many_at_once.rs"]
mod many_at_once;
#[path = "pool/slots.rs"]
mod slots;
#[path = "pool/stopping.rs"]
mod stopping;
mod support;
#[path = "support/tcp.rs"]
mod tcp;
#[path = "pool/time.rs"]
mod time;
#[path = "pool/who_reads.rs"]
mod who_reads;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::minute;
use syncq::pool::{Chirp, Config, Handler, Loop, Message, PoolError, Stage};

const SECOND: Duration = Duration::from_secs(1);

fn plain() -> Config {
    Config::new()
        .port(0)
        .bind_v4(Some([127, 0, 0, 1].into()))
        .bind_v6(None)
        .disable_encryption(true)
        .timeout(2 * SECOND)
}

fn synchronous() -> Config {
    plain().synchronous(true)
}

fn asynchronous() -> Config {
    plain().synchronous(false)
}

fn node(on: &Loop, config: Config, handler: impl Handler) -> Chirp {
    Chirp::new(on, config, handler).expect("a port from the system")
}

fn quiet(_: &Chirp, _: Message) {}

fn echo(chirp: &Chirp, message: Message) {
    chirp.send(message);
}

fn message(to: &Chirp, data: impl Into<Vec<u8>>) -> Message {
    Message::to(to.local_address(), data).unwrap()
}

/// The least that can await: it parks.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(result) => return result,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Both modes of the one who sends and the one who receives.
fn in_all_modes(test: impl Fn(Config, Config)) {
    let _watchdog = minute();
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        test(plain().synchronous(ours), plain().synchronous(theirs));
    }
}

/// A handler that hands all messages to the test.
fn collecting() -> (impl Handler, mpsc::Receiver<Message>) {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let handler = move |_: &Chirp, message: Message| {
        let _ = to.lock().unwrap().send(message);
    };
    (handler, from)
}

fn is_timed_out(error: &PoolError, at: Stage) -> bool {
    matches!(error, PoolError::TimedOut { stage, .. } if *stage == at)
}
