//! The transport without a node on top: frames there and back, deaths, names.

use super::*;
use crate::pool::error::PoolError;
use crate::pool::message::Message;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Asked = (Arc<Cell>, Arc<Outbox>);

/// A node that asks, and answers what it is asked with the same.
struct Echo {
    local: Mutex<Option<Arc<Local>>>,
    asked: Mutex<HashMap<Identity, Asked>>,
    handled: AtomicUsize,
    pause: Duration,
}

struct Reads(Arc<Local>);

impl crate::pool::outcome::Attendant for Reads {
    fn lend(&self, cell: &Arc<Cell>, deadline: &Deadline) -> bool {
        self.0.lend(cell, deadline)
    }

    fn attend(&self) {
        self.0.attend();
    }
}

impl Host for Echo {
    fn settle(&self, _from: &Arc<Remote>, frame: Frame) -> Option<Frame> {
        if frame.head.flags & flags::ACK != 0 {
            return None;
        }
        let asked = self.asked.lock().unwrap().remove(&frame.head.identity);
        let Some((cell, _)) = asked else { return Some(frame) };
        drop(cell.complete(Ok(Message {
            data: frame.data,
            ..Message::new()
        })));
        None
    }

    fn handle(&self, from: Arc<Remote>, frame: Frame) {
        std::thread::sleep(self.pause);
        let deadline = Deadline::of(Wait::For(Duration::from_secs(5)));
        let local = self.local.lock().unwrap().clone();
        if let Some(node) = local.and_then(|local| local.node(&from.name, &deadline).ok()) {
            let head = FrameHeader { flags: 0, ..frame.head };
            let _ = node.put(Lane::Answers, &head, [&frame.header, &frame.data], &deadline, &|| ());
        }
        let slot = Slot::new(frame.head.identity, 0, false, false, from);
        slot.release();
        self.handled.fetch_add(1, Ordering::SeqCst);
    }

    fn refused(&self, _from: &Arc<Remote>, _refused: &Refused) {}

    fn gone(&self, node: &Arc<Outbox>) {
        let mut asked = self.asked.lock().unwrap();
        asked.retain(|_, (cell, outbox)| {
            let is_its = Arc::ptr_eq(outbox, node);
            if is_its {
                let peer = crate::pool::Address::queue(&node.name);
                drop(cell.fail(PoolError::PeerDied { peer }));
            }
            !is_its
        });
    }

    fn sign(&self, _to: &Arc<Remote>, _head: FrameHeader, _text: &[u8]) {}

    fn round(&self) {}

    fn is_waiting(&self, _node: &Arc<Outbox>) -> bool {
        false
    }

    fn broken(&self, error: LocalError) {
        panic!("{error:?}");
    }
}

impl Echo {
    fn local(&self) -> Arc<Local> {
        self.local.lock().unwrap().clone().expect("begun")
    }

    fn begin(name: &str, config: &Config, pause: Duration) -> Result<Arc<Self>, LocalError> {
        let echo = Arc::new(Echo {
            local: Mutex::default(),
            asked: Mutex::default(),
            handled: AtomicUsize::new(0),
            pause,
        });
        let host: Arc<dyn Host> = echo.clone();
        let local = Local::begin(name, config, Identity::random(), Arc::downgrade(&host))?;
        let local = Arc::new(local);
        *echo.local.lock().unwrap() = Some(local.clone());
        local.read()?;
        Ok(echo)
    }

    fn ask(&self, whom: &str, data: &[u8]) -> Result<crate::pool::Outcome, LocalError> {
        let deadline = Deadline::of(Wait::For(Duration::from_secs(5)));
        let local = self.local();
        let node = local.node(whom, &deadline)?;
        let identity = Identity::random();
        let cell = Cell::new(identity);
        let _ = cell.set_attendant(Arc::new(Reads(local.clone())));
        local.expect(&node, &cell);
        self.asked
            .lock()
            .unwrap()
            .insert(identity, (cell.clone(), node.clone()));
        let head = FrameHeader {
            identity,
            data_len: data.len() as u32,
            ..FrameHeader::default()
        };
        node.put(Lane::Messages, &head, [b"", data], &deadline, &|| ())?;
        Ok(crate::pool::Outcome::of(cell))
    }

    fn end(&self) {
        let local = self.local.lock().unwrap().take();
        if let Some(local) = local {
            assert!(local.drain(&Deadline::of(Wait::For(Duration::from_secs(10)))));
            local.end();
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end();
    }
}

fn unique(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!(
        "unit-{what}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    )
}

fn config() -> Config {
    Config::new().queue_only("x").synchronous(false)
}

#[test]
fn what_is_asked_is_answered_whoever_waits() {
    let (a, b) = (unique("a"), unique("b"));
    let (asker, _echo) = (
        Echo::begin(&a, &config(), Duration::ZERO).unwrap(),
        Echo::begin(&b, &config(), Duration::ZERO).unwrap(),
    );
    for n in 0..1000u32 {
        let answer = asker.ask(&b, &n.to_le_bytes()).unwrap().result().unwrap();
        assert_eq!(answer.data(), n.to_le_bytes());
    }
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let (asker, b) = (&asker, &b);
            scope.spawn(move || {
                for n in 0..300u32 {
                    let data = [thread.to_le_bytes(), n.to_le_bytes()].concat();
                    let answer = asker.ask(b, &data).unwrap().result().unwrap();
                    assert_eq!(answer.data(), data);
                }
            });
        }
    });
    // Nobody lends a thread.
    let outcomes: Vec<_> = (0..500u32).map(|n| asker.ask(&b, &n.to_le_bytes()).unwrap()).collect();
    while !outcomes.iter().all(crate::pool::Outcome::is_done) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_message_of_more_bytes_than_the_queue_has_goes_in_pieces() {
    let (a, b) = (unique("a"), unique("b"));
    let config = config().queue_capacity(1 << 16);
    let (asker, _echo) = (
        Echo::begin(&a, &config, Duration::ZERO).unwrap(),
        Echo::begin(&b, &config, Duration::ZERO).unwrap(),
    );
    for len in [0, 1, 400, 485, 486, 512, 600, 16_000, 16_384, 17_000, 65_536, 1 << 20] {
        let data: Vec<u8> = (0..len as u32).map(|n| (n * 7 + n / 256) as u8).collect();
        assert_eq!(
            asker.ask(&b, &data).unwrap().result().unwrap().data(),
            data,
            "{len} bytes"
        );
    }
}

#[test]
fn a_long_message_arrives_at_a_reader_that_takes_its_time() {
    let name = unique("slow");
    let inbox = inbox::Inbox::open(&name, 1 << 16, &Arc::default(), 1 << 30).unwrap();
    let mut reading = inbox.messages;
    let data: Vec<u8> = (0..1u32 << 20).map(|n| (n * 7 + n / 256) as u8).collect();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(20) {
                // All in all that takes several times as long as the sender waits at a time.
                std::thread::sleep(Duration::from_millis(4));
                if let Some(parcel::Parcel::Frame(_, frame)) = reading.next(Wait::For(Duration::from_secs(1))).unwrap()
                {
                    return Some((began.elapsed(), frame.data));
                }
            }
            None
        });
        let hello = remote::Hello {
            identity: Identity::random(),
            announced: Announcement::OURS,
        };
        let deadline = Deadline::of(Wait::For(Duration::from_secs(10)));
        let outboxes = outbox::Outboxes::new("sender".into(), hello);
        let head = FrameHeader {
            data_len: data.len() as u32,
            ..FrameHeader::default()
        };
        let node = outboxes.get(&name, &deadline).unwrap();
        let sent = node.put(Lane::Messages, &head, [b"", &data], &deadline, &|| ());
        let (took, got) = reader.join().unwrap().expect("it arrives");
        sent.unwrap();
        assert!(took > 3 * outbox::LOOK_EVERY, "{took:?}");
        assert!(got == data);
    });
    assert!(remove(&name).is_err(), "it is read");
    drop(reading);
    assert!(remove(&name).unwrap());
}

#[test]
fn more_than_slots_and_threads_is_handled_all_the_same() {
    let (a, b) = (unique("a"), unique("b"));
    let config = config().workers(3).max_slots(2).queue_capacity(1 << 14);
    let asker = Echo::begin(&a, &config, Duration::ZERO).unwrap();
    let echo = Echo::begin(&b, &config, Duration::from_micros(300)).unwrap();
    let outcomes: Vec<_> = (0..2000u32).map(|n| asker.ask(&b, &n.to_le_bytes()).unwrap()).collect();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.result().unwrap().data(), (n as u32).to_le_bytes());
    }
    echo.end();
    assert_eq!(echo.handled.load(Ordering::SeqCst), 2000);
}

#[test]
fn a_name_belongs_to_one_live_node_and_is_free_after_it() {
    let name = unique("name");
    let first = Echo::begin(&name, &config(), Duration::ZERO).unwrap();
    let me = std::process::id();
    assert!(
        matches!(Echo::begin(&name, &config(), Duration::ZERO), Err(LocalError::NameInUse { pid, .. }) if pid == me)
    );
    drop(first);
    let again = Echo::begin(&name, &config(), Duration::ZERO).unwrap();
    drop(again);
    assert!(!Queue::names().unwrap().iter().any(|queue| queue.starts_with(&name)));
}

#[test]
fn of_many_that_want_a_name_at_once_one_gets_it() {
    let name = unique("rush");
    for _ in 0..5 {
        let got: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| Echo::begin(&name, &config(), Duration::ZERO)))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let winners = got.iter().filter(|one| one.is_ok()).count();
        assert_eq!(
            winners,
            1,
            "{:?}",
            got.iter().map(|one| one.as_ref().err()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_a_killed_node_left_is_not_removed_once_another_has_taken_the_name() {
    let (name, peers) = (unique("taken"), Arc::default());
    let open = || inbox::Inbox::open(&name, 1 << 16, &peers, 1 << 20).unwrap();
    // Its reader is gone, its queues are not.
    let left = open().queues;
    let now = open();
    assert!(!inbox::remove_opened(&name, &left[0]).unwrap());
    assert!(now.queues.iter().all(Queue::is_current));
    drop(now);
    assert!(remove(&name).unwrap() && !remove(&name).unwrap());
}

#[test]
fn who_asks_nobody_or_one_that_has_ended_is_told() {
    let (a, b) = (unique("a"), unique("b"));
    let asker = Echo::begin(&a, &config(), Duration::ZERO).unwrap();
    assert!(matches!(asker.ask(&b, b"?"), Err(LocalError::NoPeer)));
    let echo = Echo::begin(&b, &config(), Duration::from_millis(300)).unwrap();
    asker.ask(&b, b"?").unwrap().result().unwrap();
    // Gone without having handled it.
    let outcome = asker.ask(&b, b"?").unwrap();
    let began = Instant::now();
    let local = echo.local.lock().unwrap().take().unwrap();
    local.end();
    drop(local);
    let error = outcome.result().unwrap_err();
    assert!(
        matches!(error, PoolError::PeerDied { .. }),
        "{error:?} after {:?}",
        began.elapsed()
    );
    assert!(matches!(asker.ask(&b, b"?"), Err(LocalError::NoPeer)));
    let _again = Echo::begin(&b, &config(), Duration::ZERO).unwrap();
    assert_eq!(asker.ask(&b, b"back").unwrap().result().unwrap().data(), b"back");
}
