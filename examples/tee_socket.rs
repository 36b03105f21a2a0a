//! What a client sends over a socket goes into two places at once: into a file, and over another socket to a second server. Then all three are compared.
//!
//! `cargo run --release --example tee_socket`

use std::fs::File;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;
use syncq::Wait;
use syncq::channel::{Channel, ChannelError, Input, PipeChannel, SocketChannel};
use syncq::pump::{EventLoop, Pump, Tee};

const SOON: Wait = Wait::For(Duration::from_secs(30));

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let path = std::env::temp_dir().join(format!("syncq-tee-{}", std::process::id()));

    // The second server, which takes its time.
    let second = TcpListener::bind("127.0.0.1:0")?;
    let address = second.local_addr()?;
    let second = thread::spawn(move || -> Result<Vec<u8>, ChannelError> {
        let (socket, _) = second.accept().expect("somebody connects");
        let (mut socket, mut all) = (SocketChannel::new(socket)?, vec![]);
        loop {
            match socket.read(SOON)? {
                Input::Data(bytes) => all.extend(bytes),
                _ => return Ok(all),
            }
            thread::sleep(Duration::from_micros(100));
        }
    });

    // The client.
    let first = TcpListener::bind("127.0.0.1:0")?;
    let to_first = first.local_addr()?;
    let mine = sent.clone();
    let client = thread::spawn(move || -> Result<(), ChannelError> {
        let mut socket = SocketChannel::connect_tcp(to_first, SOON)?;
        for piece in mine.chunks(10_000) {
            socket.write(piece, SOON)?;
        }
        socket.finish(SOON).map(drop)
    });

    // And between them, the pump.
    let events = EventLoop::new()?;
    let source = events.add(SocketChannel::new(first.accept()?.0)?);
    let to_file = events.add(PipeChannel::writing(File::create(&path)?));
    let to_second = events.add(SocketChannel::connect_tcp(address, SOON)?);
    let pump =
        Pump::new(source, Tee::new([to_file as _, to_second as _])).idle_timeout(&events, Duration::from_secs(20));
    pump.start();
    let outcome = pump.run(&events, SOON)?.ok_or("it took too long")?;
    println!(
        "{} bytes in {} reads, {:?}",
        outcome.bytes, outcome.items, outcome.result
    );

    client.join().map_err(|_| "the client panicked")??;
    let came = second.join().map_err(|_| "the second server panicked")??;
    let in_file = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    outcome.result?;
    println!("file: {} bytes, second server: {} bytes", in_file.len(), came.len());
    if in_file != sent || came != sent {
        return Err("they differ".into());
    }
    println!("all the same");
    Ok(())
}
