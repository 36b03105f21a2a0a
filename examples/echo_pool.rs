//! A node that echoes, and one that sends to it: libchirp's `pool_echo` and `pool_send` in one process.
//!
//! `cargo run --features pool --example echo_pool` runs both and ends. With `-- serve [PORT]` it is the echo alone, until it is ended, and talks to nodes
//! of libchirp 1.2 as well; with `-- send PORT [TEXT]` the sender alone.

use std::time::Duration;
use syncq::Wait;
use syncq::pool::{Chirp, Config, Loop, Message, PoolError};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let looper = Loop::new()?;
    match words[..] {
        ["serve", ref port @ ..] => {
            let port = port.first().map_or(Ok(2998), |port| port.parse())?;
            let echo = echo(&looper, port)?;
            println!("echo at port {}", echo.port());
            std::thread::park();
        }
        ["send", port, ref text @ ..] => {
            let sender = Chirp::new(&looper, config(0), |_: &Chirp, _: Message| {})?;
            let to = Message::to(("127.0.0.1".parse()?, port.parse()?), text.join(" "))?;
            println!("{}", sender.request(to).result()?.text_lossy());
        }
        [] => both(&looper)?,
        _ => return Err("usage: echo_pool [serve [PORT] | send PORT [TEXT...]]".into()),
    }
    Ok(())
}

fn config(port: u16) -> Config {
    // A sender is synchronous: it learns that its messages were handled. Who answers is better not.
    Config::new().port(port).disable_encryption(true)
}

/// To answer, change the data and send the message back.
fn echo(looper: &Loop, port: u16) -> Result<Chirp, PoolError> {
    Chirp::new(
        looper,
        config(port).synchronous(false),
        |chirp: &Chirp, mut message: Message| {
            println!("echo: {} bytes from {}", message.data().len(), message.peer());
            let text = message.text_lossy().to_uppercase();
            message.set_data(text);
            chirp.send(message);
        },
    )
}

fn both(looper: &Loop) -> Result<(), Box<dyn std::error::Error>> {
    let echo = echo(looper, 0)?;
    let sender = Chirp::new(looper, config(0), |_: &Chirp, message: Message| {
        println!("sender: somebody sends {:?}", message.text_lossy());
    })?;
    let to = echo.local_address();

    // One after the other, and many at once.
    let answer = sender.request(Message::to(to, "hello")?).result()?;
    println!(
        "sender: {:?} from node {}",
        answer.text_lossy(),
        answer.remote_identity()
    );
    let open: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|text| Ok(sender.request(Message::to(to, text)?)))
        .collect::<Result<_, PoolError>>()?;
    for outcome in open {
        println!("sender: {:?}", outcome.result()?.text_lossy());
    }

    // Without an answer: that the peer has released it is what a synchronous sender learns.
    let mut sent = sender.send(Message::to(to, "no answer expected")?);
    match sent.wait(SECOND)? {
        Some(message) => println!("sender: {} was released", message.identity()),
        None => println!("sender: not yet"),
    }

    // Where nobody is, that is said at once.
    echo.stop(SECOND)?;
    match sender.request(Message::to(to, "anybody there?")?).result() {
        Err(error) => println!("sender: {error}"),
        Ok(answer) => return Err(format!("an answer of a node that has stopped: {answer:?}").into()),
    }
    sender.stop(Wait::For(SECOND))?;
    looper.stop();
    Ok(())
}
