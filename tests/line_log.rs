//! Records of `log` in forked workers: complete, in order with what is printed, and never in a loop.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{forked, watchdog};
use syncq::Wait;
use syncq::line::{
    Capture, Content, GroupedMessage, Level, LineBuffer, LineError, LineItem, LineLog, LineProcBuffer, Mirror, Record,
    Streams, Value,
};

/// A mirror that logs about what it does, as one over a network would, and that can be out of order.
#[derive(Debug)]
struct Talkative {
    to: Arc<dyn Mirror>,
    is_broken: AtomicBool,
}

impl Talkative {
    fn talk(&self) -> Result<&dyn Mirror, LineError> {
        log::warn!("about to send");
        std::thread::scope(|_| ());
        match self.is_broken.load(Ordering::Relaxed) {
            true => Err(LineError::Closed),
            false => Ok(&*self.to),
        }
    }
}

impl Mirror for Talkative {
    fn write_bytes(&self, stream: syncq::line::Stream, bytes: &[u8]) -> Result<(), LineError> {
        self.talk()?.write_bytes(stream, bytes)
    }
    fn new_line(&self) -> Result<(), LineError> {
        self.talk()?.new_line()
    }
    fn flush(&self) -> Result<(), LineError> {
        self.talk()?.flush()
    }
    fn send(&self, message: &GroupedMessage) -> Result<(), LineError> {
        self.talk()?.send(message)
    }
    fn send_record(&self, record: &Record) -> Result<(), LineError> {
        self.talk()?.send_record(record)
    }
    fn send_eof(&self) -> Result<(), LineError> {
        self.talk()?.send_eof()
    }
    fn close(&self) -> Result<(), LineError> {
        self.talk()?.close()
    }
}

fn texts(items: &[LineItem]) -> Vec<String> {
    items.iter().map(|item| item.text().into_owned()).collect()
}

/// There is one logger in a process, and captures are of the whole process: so this is one test.
#[test]
fn records_arrive_complete_in_order_with_what_is_printed_from_forked_workers_too() {
    let _watchdog = watchdog(std::time::Duration::from_secs(100));
    let parent = LineProcBuffer::new(1000).unwrap();
    let mirror: Arc<dyn Mirror> = Arc::new(parent.mirror("worker").unwrap());
    let talkative = Arc::new(Talkative {
        to: mirror.clone(),
        is_broken: AtomicBool::new(false),
    });
    LineLog::new(talkative.clone())
        .level(log::LevelFilter::Debug)
        .install()
        .unwrap();

    // Complete.
    log::error!(target: "a::b", yes = true, whole = -7, part = 0.5, word = "two words"; "it {}", "broke");
    let items = parent.read(None).unwrap();
    assert_eq!(
        items.len(),
        1,
        "what the mirror logged itself was passed over: {items:?}"
    );
    let Content::Record(record) = &items[0].content else {
        panic!("{items:?}")
    };
    assert_eq!(
        (record.level, record.target.as_str(), record.message.as_str()),
        (Level::Error, "a::b", "it broke")
    );
    let field = |name: &str, value| (name.to_owned(), value);
    assert_eq!(
        record.fields,
        [
            field("yes", Value::Bool(true)),
            field("whole", Value::Int(-7)),
            field("part", Value::Float(0.5)),
            field("word", Value::Text("two words".to_owned())),
        ]
    );
    assert!(record.source.as_ref().unwrap().0.ends_with("line_log.rs"));
    assert!(items[0].time.elapsed().unwrap().as_secs() < 60);
    log::trace!("below the level");

    // Refused records are counted and told.
    talkative.is_broken.store(true, Ordering::Relaxed);
    log::info!("refused");
    log::info!("refused");
    talkative.is_broken.store(false, Ordering::Relaxed);
    log::info!("heard");
    assert_eq!(
        texts(&parent.read(2).unwrap()),
        ["INFO line_log: heard", "2 log records dropped"]
    );
    parent.lines().close().err();

    // In order with what is printed, in forked workers, whatever the parent's threads were doing with the logger.
    let parent = LineProcBuffer::new(1000).unwrap();
    let buffer = LineBuffer::new(10).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                log::info!("busy");
            }
        });
        for n in 0..5 {
            let printed = parent.mirror(&format!("{n}")).unwrap();
            let worker = forked(move || {
                let printed: Arc<dyn Mirror> = Arc::new(printed);
                let capture = Capture::begin(printed.clone(), Streams::Together).unwrap();
                let log = LineLog::new(printed.clone());
                for round in 0..20 {
                    print_unseen(&format!("printed {round}\n"));
                    let args = format_args!("logged");
                    log::Log::log(
                        &log,
                        &log::Record::builder()
                            .level(log::Level::Info)
                            .target("t")
                            .args(args)
                            .build(),
                    );
                }
                drop(capture);
                printed.close().unwrap();
                0
            });
            worker.must_succeed();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(parent.wait(Wait::For(std::time::Duration::from_secs(50))).unwrap());
    let items = texts(&parent.read(None).unwrap());
    assert_eq!(items.len(), 5 * 40);
    for (at, pair) in items.chunks(2).enumerate() {
        assert_eq!(pair, [format!("printed {}", at % 20), "INFO t: logged".to_owned()]);
    }
    drop(buffer);
}

/// `println!` goes to the test harness; this goes to the descriptor, as `println!` does in a program.
fn print_unseen(text: &str) {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}
