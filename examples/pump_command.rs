//! A command's output goes through a pump into a queue, line by line, and two readers get all of it: a fast one, and one so slow that the queue
//! fills up and the command has to wait.
//!
//! `cargo run --release --example pump_command [COMMAND [ARGUMENT..]]`

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use syncq::channel::{Buffering, Channel, Input, PipeChannel, QueueChannel};
use syncq::pump::{EventLoop, Pump};
use syncq::{Queue, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next();
    let mut command = match &program {
        Some(program) => Command::new(program),
        None => Command::new("seq"),
    };
    match program {
        Some(_) => command.args(arguments),
        None => command.arg("20000"),
    };
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("the child's output is piped")?;

    // Small, so that the slow reader is felt. Both join before anything is written, so both see everything.
    let queue = Queue::options().capacity(1 << 14).anonymous()?;
    let fast = reader("fast", QueueChannel::reading(queue.reader()?)?, Duration::ZERO);
    let slow = reader(
        "slow",
        QueueChannel::reading(queue.reader()?)?,
        Duration::from_millis(1),
    );

    let events = EventLoop::new()?;
    let source = events.add(PipeChannel::reading(output).with_buffering(Buffering::lines()));
    let sink = events.add(QueueChannel::writing(queue.writer("child")?)?.with_kind("line"));
    let pump = Pump::new(source, sink);
    pump.set_write_queue_max_size(4 << 10);
    pump.start();
    let outcome = pump.run(&events, Wait::Forever)?.ok_or("it waited for ever")?;
    outcome.result?;
    let status = child.wait()?;
    println!(
        "pumped {} lines, {} bytes; the command: {status}",
        outcome.items, outcome.bytes
    );

    for reader in [fast, slow] {
        let (name, lines, bytes) = reader.join().map_err(|_| "a reader panicked")??;
        println!("{name} reader: {lines} lines, {bytes} bytes");
        if (lines, bytes) != (outcome.items, outcome.bytes) {
            return Err(format!("the {name} reader missed something").into());
        }
    }
    Ok(())
}

type Seen = (&'static str, u64, u64);

/// Reads to the end, resting after every hundred lines.
fn reader(
    name: &'static str,
    mut channel: QueueChannel,
    rest: Duration,
) -> thread::JoinHandle<Result<Seen, syncq::channel::ChannelError>> {
    thread::spawn(move || {
        let (mut lines, mut bytes) = (0, 0);
        while let Input::Data(line) = channel.read(Wait::Forever)? {
            lines += 1;
            bytes += line.len() as u64;
            if lines % 100 == 0 {
                thread::sleep(rest);
            }
        }
        Ok((name, lines, bytes))
    })
}
