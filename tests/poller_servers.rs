//! Servers in a poller: who comes, who goes, and what happens when none can be taken.

mod channel_kinds;
mod support;

use channel_kinds::{MOMENT, SOON, events, is_data, is_end, processor_time};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;
use support::{folder, forked, minute, unique};
use syncq::Wait;
use syncq::channel::{Buffering, Channel, ChannelError, Event, Peer, Poller, TestChannel, Token, What};

#[test]
fn servers_accept_and_their_clients_are_sources() {
    let _watchdog = minute();
    let folder = folder("server");
    let path = folder.0.join("socket");
    let name = unique("server");
    for buffering in [Buffering::Bytes, Buffering::lines()] {
        let mut poller = Poller::new().unwrap();
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let at_v4 = v4.local_addr().unwrap();
        let by_path = UnixListener::bind(&path).unwrap();
        let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let v4 = poller.add_server(v4, buffering);
        let by_path = poller.add_server(by_path, buffering);
        let by_name = poller.add_server(by_name, buffering);
        let v6 = TcpListener::bind("[::1]:0").ok();
        if v6.is_none() {
            eprintln!("no IPv6 on this machine: that address is not tried");
        }
        let at_v6 = v6.as_ref().map(|listener| listener.local_addr().unwrap());
        let v6 = v6.map(|listener| poller.add_server(listener, buffering));

        let mut tcp = TcpStream::connect(at_v4).unwrap();
        let (client, peer) = accepted(&mut poller, v4);
        assert_eq!(peer, Peer::Ip(tcp.local_addr().unwrap()));
        if let (Some(v6), Some(at_v6)) = (v6, at_v6) {
            let tcp = TcpStream::connect(at_v6).unwrap();
            assert_eq!(accepted(&mut poller, v6).1, Peer::Ip(tcp.local_addr().unwrap()));
        }
        let _unnamed = UnixStream::connect(&path).unwrap();
        assert_eq!(accepted(&mut poller, by_path).1, Peer::UnixUnnamed);
        let mine = unique("client");
        let _named = {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
            let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(socket.as_raw_fd(), &UnixAddr::new_abstract(mine.as_bytes()).unwrap()).unwrap();
            connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
            socket
        };
        assert_eq!(accepted(&mut poller, by_name).1, Peer::UnixAbstract(mine.into_bytes()));
        let from = folder.0.join("client");
        let _from_path = {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
            let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(socket.as_raw_fd(), &UnixAddr::new(&from).unwrap()).unwrap();
            connect(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
            socket
        };
        assert_eq!(accepted(&mut poller, by_path).1, Peer::UnixPath(from.clone()));

        for (sent, lines) in [("hello", 0), ("\nhello\nworld\ntest", 3)] {
            tcp.write_all(sent.as_bytes()).unwrap();
            if buffering == Buffering::Bytes {
                assert!(is_data(&events(&mut poller, 1)[0], client, sent.as_bytes()));
            } else {
                let told: Vec<_> = if lines == 0 {
                    poller.poll(MOMENT).unwrap()
                } else {
                    events(&mut poller, lines)
                };
                assert_eq!(told.len(), lines);
            }
        }
        poller.channel(client).unwrap().write(b"answer", Wait::Never).unwrap();
        let mut answer = [0; 6];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        drop(tcp);
        let told = events(&mut poller, if buffering == Buffering::Bytes { 1 } else { 2 });
        assert!(is_end(told.last().unwrap(), client));
        poller.close_all();
        assert!(TcpStream::connect(at_v4).is_err(), "the listener is closed");
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&from).unwrap();
    }
}

fn accepted(poller: &mut Poller, server: Token) -> (Token, Peer) {
    match events(poller, 1).remove(0) {
        Event {
            source,
            what: What::Accepted { client, peer },
        } if source == server => (client, peer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_clients_at_once_are_all_accepted_and_the_maker_may_refuse() {
    let _watchdog = minute();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut poller = Poller::new().unwrap();
    let mut seen = 0;
    poller.add_server_with(listener, move |socket, _| {
        seen += 1;
        (seen % 2 == 1).then(|| Box::new(socket) as Box<dyn Channel>)
    });
    // More than are accepted in one poll.
    let mut clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let told = events(&mut poller, 50);
    assert!(told.iter().all(|event| matches!(event.what, What::Accepted { .. })));
    assert!(poller.poll(MOMENT).unwrap().is_empty());
    assert_eq!(poller.len(), 51);
    assert_eq!(clients[1].read(&mut [0]).unwrap(), 0, "it was refused by closing");
}

#[test]
fn a_listener_that_dies_is_told_once_and_nothing_spins() {
    use nix::sys::socket::{Shutdown, shutdown};
    let _watchdog = minute();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let copy = listener.try_clone().unwrap();
    let mut poller = Poller::new().unwrap();
    let server = poller.add_server(listener, Buffering::Bytes);
    let mut test = TestChannel::new().unwrap();
    test.put(b"unconcerned").unwrap();
    let beside = poller.register(test);
    assert!(is_data(&events(&mut poller, 1)[0], beside, b"unconcerned"));
    shutdown(copy.as_raw_fd(), Shutdown::Both).unwrap();
    let told = events(&mut poller, 1);
    assert!(
        told[0].source == server && matches!(&told[0].what, What::Error(error) if error.is_final()),
        "{told:?}"
    );
    let before = processor_time();
    assert!(poller.poll(Duration::from_millis(200)).unwrap().is_empty());
    assert!(processor_time() - before < MOMENT, "the poller spins");
    // What is no listener at all says so as well.
    let socket = poller.add_server(UnixStream::pair().unwrap().0, Buffering::Bytes);
    let file = poller.add_server(File::open("/dev/null").unwrap(), Buffering::Bytes);
    let told = events(&mut poller, 2);
    for token in [socket, file] {
        let mut of_it = told.iter().filter(|event| event.source == token);
        assert!(
            of_it.all(|event| matches!(&event.what, What::Error(error) if error.is_final())),
            "{told:?}"
        );
    }
    assert_ne!(told[0].source, told[1].source);
    assert!(poller.poll(MOMENT).unwrap().is_empty());
}

#[test]
fn without_a_descriptor_left_the_listener_says_so_the_rest_goes_on_and_the_connection_is_taken_later() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let _watchdog = minute();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // In a process of its own, whose limit concerns nobody else.
    forked(move || {
        let mut poller = Poller::new().unwrap();
        let server = poller.add_server(listener, Buffering::Bytes);
        let test = poller.register(TestChannel::new().unwrap());
        assert!(poller.poll(Wait::Never).unwrap().is_empty());
        let mut client = TcpStream::connect(address).unwrap();
        let highest = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap())
            .max()
            .unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, highest + 1, hard).unwrap();
        let mut fill = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            fill.push(file);
        }
        poller.channel_as::<TestChannel>(test).unwrap().put(b"goes on").unwrap();
        let told = events(&mut poller, 2);
        assert!(
            told.iter().any(|event| event.source == server
                && matches!(&event.what, What::Error(error @ ChannelError::NoDescriptor { .. }) if !error.is_final())),
            "{told:?}"
        );
        assert!(told.iter().any(|event| is_data(event, test, b"goes on")), "{told:?}");
        let before = processor_time();
        assert!(
            poller.poll(Duration::from_millis(300)).unwrap().is_empty(),
            "it is told once"
        );
        assert!(processor_time() - before < MOMENT, "the poller spins");
        drop(fill);
        let (accepted, _) = accepted(&mut poller, server);
        client.write_all(b"at last").unwrap();
        assert!(is_data(&events(&mut poller, 1)[0], accepted, b"at last"));
        0
    })
    .must_succeed();
}

#[test]
fn clients_that_have_gone_before_they_were_accepted_harm_nobody() {
    use nix::sys::socket::{setsockopt, sockopt};
    let _watchdog = minute();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut poller = Poller::new().unwrap();
    poller.add_server(listener, Buffering::Bytes);
    for _ in 0..10 {
        let client = TcpStream::connect(address).unwrap();
        let reset = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, sockopt::Linger, &reset).unwrap();
    }
    let mut last = TcpStream::connect(address).unwrap();
    last.write_all(b"alive").unwrap();
    let mut heard = false;
    while !heard {
        for event in poller.poll(SOON).unwrap() {
            match event.what {
                What::Data(bytes) => heard = bytes == b"alive",
                What::Accepted { .. } | What::End | What::Error(ChannelError::Reset) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
