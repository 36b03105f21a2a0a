//! Queues and channels in a tokio runtime of one thread: nothing may block it.

#[path = "channel_kinds/mod.rs"]
mod channel_kinds;
mod support;

use channel_kinds::{Kind, connect, pairs};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use support::{forked, minute, named, watchdog};
use syncq::channel::{ChannelError, Input, PipeChannel};
use syncq::pump::Item;
use syncq::pump::asynchronous::{AsyncChannel, MessageSink, MessageStream};
use syncq::{Error, Queue, Wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(what)
}

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn messages_come_as_a_stream_while_other_tasks_go_on() {
    let _watchdog = minute();
    run(async {
        let queue = Queue::options().heap().unwrap();
        let mut stream = MessageStream::new(queue.reader().unwrap()).unwrap();
        let mut writer = queue.writer("w").unwrap();
        assert!(timeout(MOMENT, stream.next()).await.is_err(), "there is none");
        let ticks = tokio::spawn(async {
            for _ in 0..5 {
                sleep(Duration::from_millis(2)).await;
            }
        });
        let other = std::thread::spawn(move || {
            for n in 0..1000u32 {
                if n % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                writer.append_pod("n", &n, Wait::Forever).unwrap();
            }
        });
        for n in 0..1000u32 {
            let message = stream.next().await.unwrap().unwrap();
            assert_eq!((message.kind(), message.pod::<u32>().unwrap()), ("n", n));
        }
        ticks.await.unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_wait_for_a_message_that_is_dropped_again_and_again_loses_none() {
    let _watchdog = minute();
    run(async {
        let queue = Queue::options().heap().unwrap();
        let mut stream = MessageStream::new(queue.reader().unwrap()).unwrap();
        let mut writer = queue.writer("w").unwrap();
        let other = std::thread::spawn(move || {
            for n in 0..300u32 {
                writer.append_pod("n", &n, Wait::Forever).unwrap();
                // Longer than the wait below, every now and then.
                std::thread::sleep(Duration::from_millis(if n % 10 == 0 { 5 } else { 0 }));
            }
        });
        let (mut next, mut dropped) = (0, 0);
        while next < 300 {
            match timeout(Duration::from_millis(1), stream.next()).await {
                Ok(message) => {
                    assert_eq!(message.unwrap().unwrap().pod::<u32>().unwrap(), next);
                    next += 1;
                }
                Err(_) => dropped += 1,
            }
        }
        assert!(dropped > 0);
        other.join().unwrap();
    });
}

#[test]
fn a_full_queue_makes_the_sink_wait_and_nothing_is_lost_by_dropping_that() {
    let _watchdog = minute();
    run(async {
        let queue = Queue::options().capacity(4096).heap().unwrap();
        let mut reader = queue.reader().unwrap();
        let mut sink = MessageSink::new(queue.writer("w").unwrap()).unwrap();
        let (mut sent, mut dropped, mut next) = (0u32, 0, 0u32);
        while sent < 500 {
            let item = Item::from(&sent.to_ne_bytes()[..]).with_kind("n");
            // `feed` waits for room and then hands over; dropped while it waits, it has handed over nothing.
            match timeout(Duration::from_millis(1), sink.feed(item)).await {
                Ok(outcome) => {
                    outcome.unwrap();
                    sent += 1;
                }
                Err(_) => {
                    dropped += 1;
                    for message in reader.drain() {
                        assert_eq!(message.unwrap().pod::<u32>().unwrap(), next);
                        next += 1;
                    }
                }
            }
        }
        while next < 500 {
            let _ = timeout(Duration::from_millis(1), sink.flush()).await;
            for message in reader.drain() {
                assert_eq!(message.unwrap().pod::<u32>().unwrap(), next);
                next += 1;
            }
        }
        sink.close().await.unwrap();
        assert!(dropped > 0, "the queue was never full");
        assert!(sink.into_inner().1.is_none());
    });
}

#[test]
fn what_can_never_fit_is_an_error_and_what_comes_after_is_sent() {
    let _watchdog = minute();
    run(async {
        let queue = Queue::options().capacity(4096).heap().unwrap();
        let mut reader = queue.reader().unwrap();
        let mut sink = MessageSink::new(queue.writer("w").unwrap()).unwrap();
        let error = sink.send(vec![0; 5000].into()).await.unwrap_err();
        assert!(matches!(error, ChannelError::Queue(Error::TooLarge { .. })));
        sink.send("small".into()).await.unwrap();
        assert_eq!(reader.pop(Wait::Never).unwrap().unwrap().body(), b"small");
    });
}

#[test]
fn an_evicted_reader_says_so_once_and_ends() {
    let _watchdog = minute();
    run(async {
        let queue = Queue::options().heap().unwrap();
        let mut stream = MessageStream::new(queue.reader().unwrap()).unwrap();
        let id = stream.reader().id();
        assert!(timeout(MOMENT, stream.next()).await.is_err());
        queue.evict(id).unwrap();
        assert!(matches!(stream.next().await, Some(Err(Error::Evicted { .. }))));
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn messages_come_from_another_process() {
    let _watchdog = minute();
    let named = named("tokio", &Queue::options());
    let reader = named.queue.reader().unwrap();
    let queue = named.queue.clone();
    let child = forked(move || {
        let mut writer = queue.writer("child").unwrap();
        for n in 0..100u32 {
            writer.append_pod("n", &n, Wait::Forever).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        0
    });
    run(async {
        let mut stream = MessageStream::new(reader).unwrap();
        for n in 0..100u32 {
            let message = stream.next().await.unwrap().unwrap();
            assert_eq!((message.sender(), message.pod::<u32>().unwrap()), ("child", n));
        }
    });
    child.must_succeed();
}

#[test]
fn every_kind_of_channel_is_read_and_written_to_its_end() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let bytes: Vec<u8> = (0..400_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    for kind in pairs() {
        run(async {
            let wire = connect(kind);
            let mut here = AsyncChannel::of_boxed(wire.here).unwrap();
            let mut there = AsyncChannel::of_boxed(wire.there.unwrap()).unwrap();
            let mine = bytes.clone();
            let echo = tokio::spawn(async move {
                let mut came: Vec<u8> = vec![];
                let mut some = [0; 3000];
                loop {
                    match there.read(&mut some).await.unwrap() {
                        0 => break,
                        len => came.extend(&some[..len]),
                    }
                }
                there.write_all(b"got it").await.unwrap();
                there.shutdown().await.unwrap();
                came
            });
            for piece in mine.chunks(5000) {
                here.write_all(piece).await.unwrap();
            }
            here.shutdown().await.unwrap();
            let mut answer = String::new();
            here.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "got it", "{kind:?}");
            assert!(echo.await.unwrap() == mine, "{kind:?}");
        });
    }
}

#[test]
fn a_read_that_is_dropped_has_taken_nothing_and_what_was_left_over_is_given_back() {
    let _watchdog = minute();
    run(async {
        let wire = connect(Kind::SocketPair);
        let mut here = AsyncChannel::of_boxed(wire.here).unwrap();
        let mut there = wire.there.unwrap();
        let mut two = [0; 2];
        assert!(timeout(MOMENT, here.read(&mut two)).await.is_err());
        there.write(b"abcdef", Wait::Never).unwrap();
        here.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        let (mut channel, unread) = here.into_inner();
        assert_eq!(unread, b"cdef");
        there.write(b"gh", Wait::Never).unwrap();
        assert_eq!(channel.read(Wait::Forever).unwrap(), Input::Data(b"gh".to_vec()));
    });
}

#[test]
fn a_writer_waits_for_a_peer_that_does_not_read_without_blocking_the_runtime() {
    let _watchdog = minute();
    run(async {
        let wire = connect(Kind::Pipe);
        let mut here = AsyncChannel::of_boxed(wire.here).unwrap();
        let there = wire.there.unwrap();
        let stuck = timeout(MOMENT, here.write_all(&vec![7; 8 << 20])).await;
        // All was taken, or it waits; either way the runtime went on.
        let flushed = timeout(MOMENT, here.flush()).await;
        assert!(stuck.is_err() || flushed.is_err(), "nobody reads");
        drop(there);
        let error = here.flush().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn files_are_read_and_written_though_they_cannot_be_waited_for() {
    let _watchdog = minute();
    let folder = support::folder("tokio");
    let path = folder.0.join("file");
    run(async {
        let mut out = AsyncChannel::new(PipeChannel::writing(std::fs::File::create(&path).unwrap())).unwrap();
        out.write_all(b"to a file").await.unwrap();
        out.shutdown().await.unwrap();
        let mut back = AsyncChannel::new(PipeChannel::reading(std::fs::File::open(&path).unwrap())).unwrap();
        let mut text = String::new();
        back.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to a file");
        assert!(back.write_all(b"x").await.is_err());
    });
}
