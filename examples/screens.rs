//! What screens do: a reader passes over senders and kinds that it does not want to hear, and may change its mind.
//!
//! ```text
//! cargo run --example screens
//! ```
//!
//! Everything happens in one process, on an anonymous queue, so that the order of things is plain. With several processes
//! it is the same.

use std::error::Error;
use syncq::{Drain, Queue, Wait, Writer};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    if std::env::args().len() > 1 {
        eprintln!("screens: shows what screens do; takes no arguments");
        std::process::exit(2);
    }
    let queue = Queue::options().anonymous()?;
    let mut reader = queue.reader()?;
    let mut weather = queue.writer("weather")?;
    let mut traffic = queue.writer("traffic")?;

    say("A reader hears everything:");
    report(&mut weather, &mut traffic)?;
    hear(reader.drain(), 4)?;

    say("It screens the kind \"debug\", whoever sends it:");
    reader.screen().add_kind("debug");
    report(&mut weather, &mut traffic)?;
    hear(reader.drain(), 2)?;

    say("It screens the sender \"traffic\" too. One of the two is enough to be passed over:");
    reader.screen().add_sender("traffic");
    report(&mut weather, &mut traffic)?;
    hear(reader.drain(), 1)?;

    say("A change acts on everything that has not been popped. These were sent before it, and are popped after it:");
    report(&mut weather, &mut traffic)?;
    reader.screen().remove_sender("traffic");
    hear(reader.drain(), 2)?;

    say("But what was passed over does not come back:");
    reader.screen().add_sender("traffic");
    report(&mut weather, &mut traffic)?;
    hear(reader.drain(), 1)?;
    reader.screen().remove_sender("traffic");
    hear(reader.drain(), 0)?;

    say("Anybody may ask what others screen, and how many messages that was:");
    for member in queue.members().iter().filter(|member| !member.screen.is_empty()) {
        println!(
            "    process {} screens {}, {} messages so far",
            member.pid, member.screen, member.screened
        );
    }
    drop(reader);

    say("A member reads and writes. It does not hear itself:");
    let mut me = queue.join("me")?;
    me.append("note", b"to everybody", Wait::Never)?;
    weather.append("report", b"rain", Wait::Never)?;
    hear(me.drain(), 1)?;

    say("... unless it wants to:");
    me.screen().hear_own(true);
    me.append("note", b"to everybody, me too", Wait::Never)?;
    hear(me.drain(), 1)?;
    Ok(())
}

/// Two messages from each of the two.
fn report(weather: &mut Writer, traffic: &mut Writer) -> Result<()> {
    weather.append("report", b"sunny", Wait::Never)?;
    weather.append("debug", b"sensor 3 is at 21.5", Wait::Never)?;
    traffic.append("report", b"slow on the ring road", Wait::Never)?;
    traffic.append("debug", b"camera 7 is dirty", Wait::Never)?;
    Ok(())
}

fn say(what: &str) {
    println!("\n{what}");
}

/// Prints the messages that are there. It should be so many.
fn hear(messages: Drain<'_>, expected: usize) -> Result<()> {
    let mut heard = 0;
    for message in messages {
        let message = message?;
        println!(
            "    {:<8} {:<7} {}",
            message.sender(),
            message.kind(),
            message.text_lossy()
        );
        heard += 1;
    }
    if heard == 0 {
        println!("    (nothing)");
    }
    match heard == expected {
        true => Ok(()),
        false => Err(format!("{heard} messages where {expected} were expected").into()),
    }
}
