//! A chat over TCP and Unix sockets, with a queue behind it.
//!
//! ```text
//! cargo run --example chat_server                            # two servers, six clients, a check, and the end
//! cargo run --example chat_server -- --port 7000 --queue chat  # by hand: `nc 127.0.0.1 7000`; ends when its input ends
//! ```
//!
//! What it shows:
//!
//! * **One poller for everything.** Listeners, clients and the queue are sources of one [`Poller`]; what comes out is lines and messages.
//! * **The queue is the room.** What a client says is appended, and what comes out of the queue is told to all clients. So any number of
//!   servers share one room, and all clients of all of them hear everything in one order.
//! * **Nobody waits for the slow.** A client that does not read fills its own write queue, and is put out. A full queue pauses the clients
//!   until it has drained: what they say waits in their sockets.

use std::collections::HashMap;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use syncq::channel::{
    Buffering, Channel, Event, Input, LineOptions, Marks, Peer, PipeChannel, Poller, QueueChannel, SocketChannel,
    Token, Waker, What,
};
use syncq::{Queue, Wait};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const HELP: &str = "\
A chat over TCP and Unix sockets, with a queue behind it.

Usage: chat_server                          two servers and six clients, by themselves
       chat_server --port PORT --queue NAME serve until the input ends
       chat_server --help
";

const SOON: Wait = Wait::For(Duration::from_secs(30));

struct Server {
    poller: Poller,
    room: Token,
    clients: HashMap<Token, String>,
    arrived: u32,
}

impl Server {
    fn new(queue: &Queue) -> Result<Server> {
        let mut poller = Poller::new()?;
        // It hears itself: what its own clients say comes back to them the same way as what others say.
        let member = queue.joining().sender("server").hear_own(true).member()?;
        let mut room = QueueChannel::of_member(member)?.with_end_kind(None).with_kind("said");
        room.set_marks(Marks::new(1 << 10, 64 << 10));
        let room = poller.register(room);
        Ok(Server {
            poller,
            room,
            clients: HashMap::new(),
            arrived: 0,
        })
    }

    fn lines() -> Buffering {
        Buffering::Lines(LineOptions::default().max_line(1000).crlf(true).keep_end(false))
    }

    /// Until the waker is used, or `input` ends.
    fn serve(&mut self, input: Option<Token>) -> Result<()> {
        loop {
            for Event { source, what } in self.poller.poll(Wait::Forever)? {
                match what {
                    What::Woken => return Ok(()),
                    _ if Some(source) == input => match what {
                        What::End => return Ok(()),
                        _ => continue,
                    },
                    What::Accepted { client, peer } => self.welcome(client, peer),
                    What::Line(line) => {
                        let name = self.clients.get(&source).cloned().unwrap_or_default();
                        self.say(&format!("{name}: {}", line.text_lossy()))?;
                    }
                    What::Data(said) => self.tell_all(&said),
                    What::Drained if source == self.room => self.set_listening(true),
                    // A line that is too long is the client's loss; all else that fails is its end.
                    What::Error(error) if !error.is_final() => eprintln!("{error}"),
                    What::End | What::Error(_) | What::WriteFailed(_) if source != self.room => self.part(source)?,
                    What::Error(error) | What::WriteFailed(error) => return Err(error.into()),
                    _ => {}
                }
            }
        }
    }

    fn welcome(&mut self, client: Token, peer: Peer) {
        self.arrived += 1;
        let name = match peer {
            Peer::Ip(address) => address.to_string(),
            _ => format!("local-{}", self.arrived),
        };
        if let Some(channel) = self.poller.channel(client) {
            channel.set_marks(Marks::up_to(64 << 10));
        }
        self.clients.insert(client, name);
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let room = self.poller.channel(self.room).ok_or("the room is gone")?;
        // It waits only with what was read before the clients were paused.
        room.write(text.as_bytes(), SOON)?;
        if room.is_full() {
            self.set_listening(false);
        }
        Ok(())
    }

    fn set_listening(&mut self, is_listening: bool) {
        for client in self.clients.keys() {
            let _ = self.poller.set_reading(*client, is_listening);
        }
    }

    fn tell_all(&mut self, said: &[u8]) {
        let line = [said, b"\n"].concat();
        let poller = &mut self.poller;
        self.clients.retain(|client, name| {
            let told = poller.channel(*client).map(|channel| channel.write(&line, Wait::Never));
            match told {
                Some(Ok(())) => true,
                other => {
                    eprintln!("{name} is put out: {other:?}");
                    poller.unregister(*client);
                    false
                }
            }
        });
    }

    /// A client will say no more. What it has not heard yet still goes out.
    fn part(&mut self, client: Token) -> Result<()> {
        if self.clients.remove(&client).is_some() {
            self.poller.finish(client)?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        [] => by_itself(),
        ["--port", port, "--queue", name] => by_hand(port, name),
        ["--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(HELP.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn by_hand(port: &str, name: &str) -> Result<()> {
    let queue = Queue::open_or_create(name)?;
    let mut server = Server::new(&queue)?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    println!("listening at {}; the room is queue {name:?}", listener.local_addr()?);
    server.poller.add_server(listener, Server::lines());
    use std::os::fd::AsFd;
    let input = PipeChannel::reading(std::io::stdin().as_fd().try_clone_to_owned()?);
    let input = server.poller.register(input);
    server.serve(Some(input))?;
    Ok(queue.unlink()?)
}

/// The folder that the Unix socket is in, gone with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CLIENTS: usize = 6;
const LINES: usize = 50;

fn by_itself() -> Result<()> {
    let queue = Queue::options().capacity(1 << 16).anonymous()?;
    let folder = Folder(std::env::temp_dir().join(format!("syncq-chat-{}", std::process::id())));
    std::fs::create_dir(&folder.0)?;
    let path = folder.0.join("socket");

    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let address = tcp.local_addr()?;
    let mut first = Server::new(&queue)?;
    first.poller.add_server(tcp, Server::lines());
    let mut second = Server::new(&queue)?;
    second.poller.add_server(UnixListener::bind(&path)?, Server::lines());

    let wakers: [Waker; 2] = [first.poller.waker(), second.poller.waker()];
    let servers = [first, second].map(|mut server| std::thread::spawn(move || server.serve(None)));
    let heard = clients(address, &path);
    wakers.iter().for_each(Waker::wake);
    for server in servers {
        server.join().map_err(|_| "a server panicked")??;
    }

    let heard = heard?;
    let all: Vec<&[String]> = heard.iter().map(|lines| &lines[..]).collect();
    let is_one_order = all.windows(2).all(|pair| pair[0] == pair[1]);
    println!("{CLIENTS} clients of two servers heard {} lines each", all[0].len());
    for line in all[0].iter().take(3).chain(all[0].iter().rev().take(1)) {
        println!("  {line}");
    }
    match is_one_order && all[0].len() == CLIENTS * LINES {
        true => println!("all of them the same, in one order"),
        false => return Err("they did not hear the same".into()),
    }
    Ok(())
}

/// Clients that say their lines and hear everybody's. Returns what each of them heard.
fn clients(address: SocketAddr, path: &Path) -> Result<Vec<Vec<String>>> {
    // Whoever says something before all have come would not be heard by those.
    let all_here = std::sync::Arc::new(std::sync::Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (all_here, path) = (all_here.clone(), path.to_owned());
            std::thread::spawn(move || -> Result<Vec<String>> {
                let connected = match n % 2 {
                    0 => SocketChannel::connect_tcp(address, SOON),
                    _ => SocketChannel::connect_unix(path, SOON),
                };
                // What a server has not answered, it has not accepted: so each says hello until it hears itself.
                let greeted = connected.map_err(Into::into).and_then(|channel| greet(channel, n));
                all_here.wait();
                let mut channel = greeted?;
                for line in 0..LINES {
                    channel.write(format!("line {line} of {n}\n").as_bytes(), SOON)?;
                }
                let mut heard = Vec::new();
                while heard.len() < CLIENTS * LINES {
                    match channel.read(SOON)? {
                        Input::Line(line) => {
                            let text = line.text_lossy().trim_end().to_owned();
                            // Hellos of those who came after this one.
                            if let Some((_, said)) = text.split_once(": line ") {
                                heard.push(format!("line {said}"));
                            }
                        }
                        other => {
                            return Err(format!("client {n} heard {} lines and then {other:?}", heard.len()).into());
                        }
                    }
                }
                Ok(heard)
            })
        })
        .collect();
    let heard = clients.into_iter().map(|client| client.join());
    heard.map(|heard| heard.map_err(|_| "a client panicked")?).collect()
}

fn greet(channel: SocketChannel, n: usize) -> Result<SocketChannel> {
    let mut channel = channel.with_buffering(Buffering::lines());
    channel.write(format!("hello from {n}\n").as_bytes(), SOON)?;
    loop {
        match channel.read(SOON)? {
            Input::Line(line) if line.text_lossy().ends_with(&format!("hello from {n}\n")) => return Ok(channel),
            Input::Line(_) => {}
            other => return Err(format!("client {n} was not greeted: {other:?}").into()),
        }
    }
}
