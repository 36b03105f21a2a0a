//! Certificates and encrypted channels. Nodes over TLS are in `pool_tls_nodes.rs`.

mod certificates;
mod support;

use certificates::{Authority, key_384, key_rsa};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use support::{folder, minute};
use syncq::Wait;
use syncq::channel::{Buffering, Channel, ChannelError, Input, Line, Marks, Poller, SocketChannel, What};
use syncq::pool::{TlsChannel, TlsError, TlsIdentity};

const SECONDS: Wait = Wait::For(Duration::from_secs(20));
const MOMENT: Wait = Wait::For(Duration::from_millis(100));

/// Both sides of a connection, with nothing done yet.
fn sides(client: &TlsIdentity, server: &TlsIdentity) -> (TlsChannel, TlsChannel) {
    let (near, far) = SocketChannel::pair().unwrap();
    (client.connect(near).unwrap(), server.accept(far).unwrap())
}

/// Lets both go on until neither can.
fn settle(one: &mut TlsChannel, other: &mut TlsChannel) {
    for _ in 0..20 {
        let _ = one.handshake(Wait::Never);
        let _ = other.handshake(Wait::Never);
    }
}

fn connected() -> (TlsChannel, TlsChannel) {
    let authority = Authority::new("authority");
    let (mut client, mut server) = sides(&authority.identity("client"), &authority.identity("server"));
    settle(&mut client, &mut server);
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (client, server)
}

/// Reads until the end or an error, which is returned as well.
fn read_all(channel: &mut dyn Channel) -> (Vec<u8>, Result<Input, ChannelError>) {
    let mut all = vec![];
    loop {
        match channel.read(SECONDS) {
            Ok(Input::Data(bytes)) => all.extend(bytes),
            last => return (all, last),
        }
    }
}

fn failure(outcome: Result<Input, ChannelError>) -> ChannelError {
    outcome.expect_err("the connection must not be made")
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

#[test]
fn what_is_missing_or_wrong_in_the_file_is_said() {
    let authority = Authority::new("authority");
    let node = authority.issue("node");
    let read = |pem: &str| TlsIdentity::from_pem(pem.as_bytes());
    assert!(read(&node.pem()).is_ok());
    // In any order, and with other things in between, as long as the node's certificate comes before the authority's.
    let other = "-----BEGIN DH PARAMETERS-----\nMEYCQQD1\n-----END DH PARAMETERS-----\n";
    assert!(read(&format!("{}{other}{}{}", node.certificate, node.chain, node.key)).is_ok());

    let folder = folder("pem");
    let missing = folder.0.join("missing.pem");
    let error = TlsIdentity::from_pem_file(&missing).unwrap_err();
    assert!(
        matches!(&error, TlsError::Unreadable { path, .. } if *path == missing),
        "{error}"
    );
    assert!(error.to_string().contains("missing.pem"), "{error}");
    let there = folder.0.join("node.pem");
    std::fs::write(&there, node.pem()).unwrap();
    assert!(TlsIdentity::from_pem_file(&there).is_ok());

    assert!(matches!(read(""), Err(TlsError::NoKey)));
    assert!(matches!(
        read(&(node.certificate.clone() + &node.chain)),
        Err(TlsError::NoKey)
    ));
    assert!(matches!(read(&node.key), Err(TlsError::NoCertificate)));
    assert!(matches!(
        read(&(node.key.clone() + &node.certificate)),
        Err(TlsError::NoAuthority)
    ));
    let cut = node.pem().replace("-----END CERTIFICATE-----", "");
    let error = read(&cut).unwrap_err();
    assert!(
        matches!(&error, TlsError::NotPem { what } if what.contains("CERTIFICATE")),
        "{error}"
    );
    let bad_text = node.key.clone() + &node.certificate.replacen("MII", "M*I", 1) + &node.chain;
    assert!(matches!(read(&bad_text), Err(TlsError::NotPem { .. })));
    let protected = node.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY") + &node.certificate + &node.chain;
    let error = read(&protected).unwrap_err();
    assert!(
        matches!(error, TlsError::NoKey) && error.to_string().contains("password"),
        "{error}"
    );
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(
        read(&(no_key.to_owned() + &node.certificate + &node.chain)),
        Err(TlsError::BadKey { .. })
    ));
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = read(&(node.key.clone() + no_certificate + &node.chain)).unwrap_err();
    assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
    let error = read(&(node.key.clone() + &node.certificate + &node.chain + no_certificate)).unwrap_err();
    assert!(matches!(error, TlsError::BadAuthority { number: 3, .. }), "{error}");

    let stranger = authority.issue("stranger");
    let error = read(&(stranger.key + &node.certificate + &node.chain)).unwrap_err();
    assert!(matches!(error, TlsError::KeyMismatch), "{error}");
    let elsewhere = Authority::new("elsewhere");
    let error = read(&(node.key.clone() + &node.certificate + &elsewhere.chain)).unwrap_err();
    assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
    let new_key = || rcgen::KeyPair::generate().unwrap();
    let expired = authority.issue_with("late", new_key(), |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let error = read(&expired.pem()).unwrap_err();
    assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
    assert!(error.to_string().contains("expired"), "{error}");
    for usage in [
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        let one_way = authority.issue_with("one-way", new_key(), |params| params.extended_key_usages = vec![usage]);
        let error = read(&one_way.pem()).unwrap_err();
        assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
    }
    let any_use = authority.issue_with("any", new_key(), |params| params.extended_key_usages.clear());
    assert!(read(&any_use.pem()).is_ok());
}

#[test]
fn the_commands_of_the_documentation_make_a_file_that_is_good() {
    let page = include_str!("../docs/pool-tls.md");
    let commands = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = folder("recipe");
    // And one as it comes out without extensions: of version 1.
    let commands = format!(
        "{commands}\nopenssl x509 -req -in node1.csr -CA ca.crt -CAkey ca.key -days 365 -out plain.crt\n\
         cat node1.key plain.crt ca.crt > plain.pem"
    );
    let mut shell = std::process::Command::new("sh");
    let made = shell.args(["-ec", &commands]).current_dir(&folder.0).output().unwrap();
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        assert!(std::env::var_os("CI").is_none(), "the openssl command is needed: {why}");
        eprintln!("SKIPPED: the commands of docs/pool-tls.md: {why}");
        return;
    }
    let node = TlsIdentity::from_pem_file(folder.0.join("node1.pem")).unwrap();
    let _watchdog = minute();
    talk(&node, &node);
    // Newer versions of the command make version 3 then as well.
    if let Err(error) = TlsIdentity::from_pem_file(folder.0.join("plain.pem")) {
        assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
        assert!(error.to_string().contains("UnsupportedCertVersion"), "{error}");
    }
}

#[test]
fn two_nodes_talk_and_know_each_other_by_key() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let (alice, bob) = (authority.identity("alice"), authority.identity("bob"));
    let (mut client, mut server) = sides(&alice, &bob);
    assert!(client.is_handshaking() && client.peer_certificate().is_none() && client.version().is_none());
    // Written before anything else, and delivered in order.
    client.write(b"hello ", Wait::Never).unwrap();
    client.write(b"bob", Wait::Never).unwrap();
    server.write(b"hello alice", Wait::Never).unwrap();
    settle(&mut client, &mut server);
    assert_eq!(server.read(SECONDS).unwrap().bytes(), b"hello bob");
    assert_eq!(client.read(SECONDS).unwrap().bytes(), b"hello alice");
    assert_eq!((client.version(), server.version()), (Some("1.3"), Some("1.3")));
    assert_eq!(client.peer_certificate(), Some(bob.certificate()));
    assert_eq!(server.peer_certificate(), Some(alice.certificate()));
    assert_ne!(alice.certificate(), bob.certificate());
    assert_eq!(alice.certificate().to_string().len(), 64);

    // Half-close, each side for itself.
    client.shutdown_write().unwrap();
    assert_eq!(server.read(SECONDS).unwrap(), Input::End);
    assert!(matches!(client.write(b"more", Wait::Never), Err(ChannelError::Closed)));
    server.write(b"still here", SECONDS).unwrap();
    assert!(server.finish(SECONDS).unwrap());
    let (rest, last) = read_all(&mut client);
    assert_eq!(rest, b"still here");
    assert_eq!(last.unwrap(), Input::End);
    assert_eq!(client.read(Wait::Never).unwrap(), Input::End, "it stays so");
    client.close();
    assert!(client.is_closed() && client.read_fd().is_none());
    assert_eq!(client.read(Wait::Never).unwrap(), Input::End);
}

#[test]
fn a_renewed_certificate_of_the_same_key_is_the_same_node() {
    let authority = Authority::new("authority");
    let node = authority.issue("node");
    let key = || rcgen::KeyPair::from_pem(&node.key).unwrap();
    let renewed = authority.issue_with("renamed", key(), |_| {});
    let old = TlsIdentity::from_pem(node.pem().as_bytes()).unwrap();
    let new = TlsIdentity::from_pem(renewed.pem().as_bytes()).unwrap();
    assert_ne!(old.certificate().der(), new.certificate().der());
    assert_eq!(old.certificate(), new.certificate());
    assert_ne!(old.certificate(), authority.identity("node").certificate());
}

#[test]
fn keys_of_all_kinds_and_intermediate_authorities_are_good() {
    let _watchdog = minute();
    let root = Authority::new("root");
    let below = root.intermediate("one").intermediate("two").intermediate("three");
    let knows_root = root.identity("top");
    let mut others = vec![below.identity("deep")];
    let of_384 = root.issue_with("p384", key_384(), |_| {});
    others.push(TlsIdentity::from_pem(of_384.pem().as_bytes()).unwrap());
    if let (Some(key), Some(of_root)) = (key_rsa(), key_rsa()) {
        let of_rsa = root.issue_with("rsa", key, |_| {});
        others.push(TlsIdentity::from_pem(of_rsa.pem().as_bytes()).unwrap());
        let rsa_root = Authority::with_key("rsa root", of_root);
        let one = rsa_root.identity("one");
        talk(&one, &rsa_root.identity("other"));
    }
    for other in &others {
        talk(&knows_root, other);
        talk(other, &knows_root);
    }
}

fn talk(client: &TlsIdentity, server: &TlsIdentity) {
    let (mut near, mut far) = sides(client, server);
    near.write(b"question", Wait::Never).unwrap();
    settle(&mut near, &mut far);
    assert_eq!(far.read(SECONDS).unwrap().bytes(), b"question");
    far.write(b"answer", Wait::Never).unwrap();
    assert_eq!(near.read(SECONDS).unwrap().bytes(), b"answer");
    assert_eq!(near.peer_certificate(), Some(server.certificate()));
    assert_eq!(far.peer_certificate(), Some(client.certificate()));
}

#[test]
fn a_peer_of_another_authority_is_refused_and_told() {
    let _watchdog = minute();
    let ours = Authority::new("authority");
    // Of the same name, so that only the signature tells.
    let theirs = Authority::new("authority");
    // Each trusts the one of its own alone.
    let (mut client, mut server) = sides(&ours.identity("node"), &theirs.identity("node"));
    settle(&mut client, &mut server);
    let error = failure(client.read(SECONDS));
    assert!(
        matches!(TlsError::of(&error), Some(TlsError::PeerUntrusted { .. })),
        "{error}"
    );
    assert!(error.is_final());
    let error = failure(server.read(SECONDS));
    assert!(
        matches!(TlsError::of(&error), Some(TlsError::Refused { .. })),
        "{error}"
    );
    for side in [&mut client, &mut server] {
        assert!(side.write(b"anything", Wait::Never).is_err(), "writing is over as well");
        assert!(side.flush(MOMENT).is_err());
        assert!(side.peer_certificate().is_none());
        assert!(side.read(Wait::Never).is_err(), "it stays so");
    }

    // A server that trusts both is content with nobody else: here only the client is refused.
    let both = theirs.issue("node");
    let both = TlsIdentity::from_pem((both.pem() + &ours.chain).as_bytes()).unwrap();
    let (mut client, mut server) = sides(&theirs.identity("node"), &both);
    settle(&mut client, &mut server);
    assert!(server.peer_certificate().is_some());
    let trusting = ours.issue("node");
    let trusting = TlsIdentity::from_pem((trusting.pem() + &theirs.chain).as_bytes()).unwrap();
    let (mut client, mut server) = sides(&trusting, &theirs.identity("node"));
    client.write(b"never to be read", Wait::Never).unwrap();
    settle(&mut client, &mut server);
    let (read, last) = read_all(&mut server);
    assert_eq!(read, b"", "nothing of a stranger's is delivered");
    let error = failure(last);
    assert!(
        matches!(TlsError::of(&error), Some(TlsError::PeerUntrusted { .. })),
        "{error}"
    );
    let error = failure(client.read(SECONDS));
    assert!(
        matches!(TlsError::of(&error), Some(TlsError::Refused { .. })),
        "{error}"
    );
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&authority.chain));
    roots
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client by rustls alone, which looks at the name too.
fn bare_client(
    authority: &Authority,
    node: Option<&certificates::Node>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(authority));
    let config = match node {
        None => config.with_no_client_auth(),
        Some(node) => {
            let key = PrivateKeyDer::from_pem_slice(node.key.as_bytes()).unwrap();
            config
                .with_client_auth_cert(certificates(&node.certificate), key)
                .unwrap()
        }
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("node").unwrap()).unwrap()
}

fn bare_server(
    authority: &Authority,
    node: &certificates::Node,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConnection {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)), provider())
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(node.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&node.certificate), key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

fn tcp() -> (TcpStream, SocketChannel) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream, SocketChannel::new(listener.accept().unwrap().0).unwrap())
}

const V13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const V12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// Sends `text`, with new keys in the middle of it if there can be, and reads the same.
fn exchange<S: rustls::SideData>(
    mut connection: &mut rustls::ConnectionCommon<S>,
    stream: &mut TcpStream,
    text: &[u8],
    new_keys: bool,
) {
    let mut tls = rustls::Stream::new(&mut connection, stream);
    for (count, part) in text.chunks(10_000).enumerate() {
        if new_keys && count % 7 == 3 {
            tls.conn.refresh_traffic_keys().unwrap();
        }
        tls.write_all(part).unwrap();
    }
    tls.conn.send_close_notify();
    let mut got = vec![];
    tls.read_to_end(&mut got).expect("it is told of the end");
    assert_eq!(got, text);
}

#[test]
fn either_side_speaks_both_versions_with_a_bare_rustls() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let ours = authority.identity("node");
    let text = pattern(300_000, 1);
    for (versions, name) in [(V13, "1.3"), (V12, "1.2")] {
        for ours_accepts in [true, false] {
            let (mut stream, socket) = tcp();
            let theirs = authority.issue("node");
            let expected = text.clone();
            let either = (
                bare_client(&authority, Some(&theirs), versions),
                bare_server(&authority, &theirs, versions),
            );
            let peer = std::thread::spawn(move || {
                let (mut client, mut server) = either;
                match ours_accepts {
                    true => exchange(&mut client, &mut stream, &expected, name == "1.3"),
                    false => exchange(&mut server, &mut stream, &expected, name == "1.3"),
                }
            });
            let mut channel = match ours_accepts {
                true => ours.accept(socket).unwrap(),
                false => ours.connect(socket).unwrap(),
            };
            let (read, last) = read_all(&mut channel);
            assert_eq!(last.unwrap(), Input::End);
            assert_eq!(read, text);
            assert_eq!(channel.version(), Some(name));
            channel.write(&text, SECONDS).unwrap();
            assert!(channel.finish(SECONDS).unwrap());
            peer.join().unwrap();
        }
    }
}

#[test]
fn a_client_without_a_certificate_or_with_an_expired_one_is_refused() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let expired = authority.issue_with("node", rcgen::KeyPair::generate().unwrap(), expired);
    for versions in [V13, V12] {
        for node in [None, Some(&expired)] {
            let (mut stream, socket) = tcp();
            let mut connection = bare_client(&authority, node, versions);
            let peer = std::thread::spawn(move || {
                let mut tls = rustls::Stream::new(&mut connection, &mut stream);
                let _ = tls.write_all(b"let me in");
                tls.read(&mut [0; 10]).expect_err("it must not be let in").to_string()
            });
            let mut channel = authority.identity("node").accept(socket).unwrap();
            let (read, last) = read_all(&mut channel);
            let error = failure(last);
            assert_eq!(read, b"");
            assert!(
                matches!(TlsError::of(&error), Some(TlsError::PeerUntrusted { .. })),
                "{error}"
            );
            drop(channel);
            // An alert, unless what the client had written by then made the kernel break the connection off.
            let told = peer.join().unwrap();
            assert!(!told.is_empty());
        }
        let (mut stream, socket) = tcp();
        let mut connection = bare_server(&authority, &expired, versions);
        let peer = std::thread::spawn(move || {
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            tls.read(&mut [0; 10]).expect_err("it must not be let in").to_string()
        });
        let mut channel = authority.identity("node").connect(socket).unwrap();
        let error = failure(channel.read(SECONDS));
        assert!(
            matches!(TlsError::of(&error), Some(TlsError::PeerUntrusted { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("expired"), "{error}");
        assert!(peer.join().unwrap().contains("CertificateExpired"));
    }
}

#[test]
fn garbage_instead_of_a_greeting_is_an_error_and_never_more() {
    let _watchdog = minute();
    let identity = Authority::new("authority").identity("node");
    let mut beginnings: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // What a libchirp without encryption begins with: port and identity.
        [&2998u16.to_be_bytes()[..], &[7; 16], &[0; 27]].concat(),
        vec![0; 100],
        vec![0xff; 100_000],
        // A record that says it is longer than one may be; one that begins well.
        vec![22, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
        vec![22, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0],
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for len in [1, 5, 18, 300, 5000] {
        beginnings.push(std::iter::repeat_with(|| next(&mut state) as u8).take(len).collect());
    }
    for bytes in beginnings {
        for is_server in [true, false] {
            let (mut peer, socket) = SocketChannel::pair().unwrap();
            let mut channel = match is_server {
                true => identity.accept(socket).unwrap(),
                false => identity.connect(socket).unwrap(),
            };
            let _ = peer.write(&bytes, SECONDS);
            let _ = peer.finish(SECONDS);
            let (read, last) = read_all(&mut channel);
            assert_eq!(read, b"");
            let error = failure(last);
            let kind = TlsError::of(&error);
            let is_said = matches!(
                kind,
                Some(TlsError::Broken { .. } | TlsError::EndedEarly | TlsError::Refused { .. })
            );
            assert!(is_said, "{error} after {bytes:?}");
        }
    }
}

/// xorshift: what is tried must be the same each time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Carries bytes between two sockets, by at most `most` at a time and each changed by `change`; single-threaded, a step at a time.
struct Wire<F> {
    ends: [SocketChannel; 2],
    most: usize,
    change: F,
    carried: [usize; 2],
}

impl<F: FnMut(usize, usize, u8) -> u8> Wire<F> {
    fn new(most: usize, change: F) -> (Self, SocketChannel, SocketChannel) {
        let (one, near) = SocketChannel::pair().unwrap();
        let (other, far) = SocketChannel::pair().unwrap();
        let mut ends = [near, far];
        ends[0].set_read_limit(most);
        ends[1].set_read_limit(most);
        let wire = Wire {
            ends,
            most,
            change,
            carried: [0, 0],
        };
        (wire, one, other)
    }

    /// Whether anything was carried.
    fn step(&mut self) -> bool {
        let before = self.carried;
        for from in [0, 1] {
            let input = self.ends[from].try_read();
            if let Ok(Input::End) = input {
                let _ = self.ends[1 - from].shutdown_write();
            }
            if let Ok(Input::Data(mut bytes)) = input {
                assert!(bytes.len() <= self.most);
                for byte in &mut bytes {
                    *byte = (self.change)(from, self.carried[from], *byte);
                    self.carried[from] += 1;
                }
                // One who has gone needs nothing.
                let _ = self.ends[1 - from].write(&bytes, Wait::Never);
            }
        }
        self.carried != before
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let (mut wire, near, far) = Wire::new(1, |_, _, byte| byte);
    let mut client = authority.identity("client").connect(near).unwrap();
    let mut server = authority.identity("server").accept(far).unwrap();
    let text = pattern(5000, 3);
    client.write(&text, Wait::Never).unwrap();
    server.write(&text, Wait::Never).unwrap();
    let (mut at_client, mut at_server) = (vec![], vec![]);
    while at_client.len() < text.len() || at_server.len() < text.len() {
        wire.step();
        at_client.extend_from_slice(client.try_read().unwrap().bytes());
        at_server.extend_from_slice(server.try_read().unwrap().bytes());
        client.try_flush().unwrap();
        server.try_flush().unwrap();
    }
    assert_eq!((&at_client, &at_server), (&text, &text));
}

#[test]
fn a_changed_byte_breaks_the_connection_after_all_that_was_good() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let (client_is, server_is) = (authority.identity("client"), authority.identity("server"));
    let (mut lost, mut ends) = (0, 0);
    for at in (0..6000).step_by(97) {
        let flip = |from, index, byte| if (from, index) == (0, at) { byte ^ 0x10 } else { byte };
        let (mut wire, near, far) = Wire::new(4096, flip);
        let mut client = client_is.connect(near).unwrap();
        let mut server = server_is.accept(far).unwrap();
        let text = pattern(1000, at);
        for _ in 0..5 {
            client.write(&text, Wait::Never).unwrap();
        }
        client.shutdown_write().unwrap();
        let mut got = vec![];
        let mut idle = 0;
        let last = loop {
            idle = if wire.step() { 0 } else { idle + 1 };
            // What the client is told of does not matter here.
            let _ = client.try_read();
            match server.try_read() {
                Ok(Input::Data(bytes)) => got.extend(bytes),
                // A length was changed, and each waits for the other: a node's deadline ends this.
                Ok(Input::Pending) if idle == 20 => client.close(),
                Ok(Input::Pending) => {}
                last => break last,
            }
        };
        let all = text.repeat(5);
        assert!(all.starts_with(&got), "what is delivered is what was sent");
        match last {
            // An end that is not certified: the rest of a record that says it is longer never came.
            Ok(Input::End) => ends += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                lost += 1;
                assert!(TlsError::of(&error).is_some(), "{error}");
            }
        }
    }
    assert!(ends < 10, "{ends}");
    assert!(lost > 20, "most of these bytes matter: {lost}");
}

#[test]
fn megabytes_go_both_ways_through_small_queues_under_a_poller() {
    let _watchdog = minute();
    const LEN: usize = 12 << 20;
    const WRITE: usize = 30_000;
    const HIGH: usize = 64 << 10;
    let authority = Authority::new("authority");
    let mut poller = Poller::new().unwrap();
    let (mut near, mut far) = sides(&authority.identity("near"), &authority.identity("far"));
    let (of_near, of_far) = (pattern(LEN, 5), pattern(LEN, 6));
    near.set_marks(Marks::up_to(HIGH));
    far.set_marks(Marks::up_to(HIGH));
    let tokens = [poller.register(near), poller.register(far)];
    let sent = [&of_near, &of_far];
    let mut written = [0; 2];
    let mut read = [vec![], vec![]];
    let mut is_ended = [false; 2];
    let mut full = 0;
    while is_ended != [true; 2] {
        for side in [0, 1] {
            while written[side] < LEN {
                let channel = poller.channel(tokens[side]).unwrap();
                let part = &sent[side][written[side]..LEN.min(written[side] + WRITE)];
                match channel.write(part, Wait::Never) {
                    Ok(()) => written[side] += part.len(),
                    Err(ChannelError::Full { queued, .. }) => {
                        full += 1;
                        // The marks, one write and what encryption adds.
                        assert!(queued < HIGH + WRITE + 1000, "{queued}");
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
                if written[side] == LEN {
                    poller.channel(tokens[side]).unwrap().shutdown_write().unwrap();
                }
            }
        }
        for event in poller.poll(SECONDS).unwrap() {
            let side = usize::from(event.source == tokens[1]);
            match event.what {
                What::Data(bytes) => read[side].extend(bytes),
                What::Drained => {}
                What::End => is_ended[side] = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(read[0] == of_far && read[1] == of_near, "everything, in order");
    assert!(full > 10, "the queues were full {full} times");
}

#[test]
fn one_who_does_not_read_holds_the_writer_back_and_loses_nothing() {
    let _watchdog = minute();
    let (mut client, mut server) = connected();
    let text = pattern(3 << 20, 9);
    let mut taken = 0;
    // `try_write` as well as `write`, each until it is refused.
    while let now @ 1.. = client.try_write(&text[taken..]).unwrap() {
        taken += now;
    }
    assert!(taken > 0 && taken < text.len());
    client.set_marks(Marks::up_to(100_000));
    loop {
        let chunk = &text[taken..text.len().min(taken + 50_000)];
        let (head, tail) = chunk.split_at(27);
        match client.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)], Wait::Never) {
            Ok(()) => taken += chunk.len(),
            Err(ChannelError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(client.is_full() && client.queued() > 0 && client.queued() < 160_000);
    assert!(matches!(client.write(b"x", MOMENT), Err(ChannelError::Full { .. })));
    let reader = std::thread::spawn(move || {
        let (read, last) = read_all(&mut server);
        assert_eq!(last.unwrap(), Input::End);
        read
    });
    client.write(&text[taken..], SECONDS).unwrap();
    assert!(client.finish(SECONDS).unwrap());
    assert!(reader.join().unwrap() == text);
}

/// This thread's CPU time.
fn worked() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
}

#[test]
fn waiting_for_a_silent_peer_costs_nothing_and_takes_no_more_than_the_marks() {
    let _watchdog = minute();
    let identity = Authority::new("authority").identity("node");
    let (_silent, socket) = SocketChannel::pair().unwrap();
    let mut channel = identity.connect(socket).unwrap();
    channel.set_marks(Marks::up_to(100_000));
    channel.write(b"early", Wait::Never).unwrap();
    assert_eq!(
        channel.queued(),
        0,
        "the greeting is out, and the rest waits for the peer"
    );
    let before = worked();
    assert!(!channel.flush(Wait::For(Duration::from_millis(300))).unwrap());
    assert!(channel.read(Wait::For(Duration::from_millis(300))).unwrap() == Input::Pending);
    while channel.write(&[1; 30_000], Wait::Never).is_ok() {}
    assert!(channel.is_full());
    let full = channel.write(&[1; 30_000], Wait::For(Duration::from_millis(300)));
    assert!(matches!(full, Err(ChannelError::Full { queued, .. }) if queued < 130_000));
    let mut poller = Poller::new().unwrap();
    poller.register(channel);
    let events = poller.poll(Wait::For(Duration::from_millis(300))).unwrap();
    assert!(events.is_empty(), "{events:?}");
    assert!(
        worked() - before < Duration::from_millis(300),
        "1200 ms were slept, not spun"
    );
}

#[test]
fn a_poller_tells_when_the_handshake_has_made_room() {
    let _watchdog = minute();
    let authority = Authority::new("authority");
    let (mut client, mut server) = sides(&authority.identity("client"), &authority.identity("server"));
    client.set_marks(Marks::up_to(1000));
    client.write(&[1; 5000], Wait::Never).unwrap();
    assert!(client.is_full());
    let mut poller = Poller::new().unwrap();
    let token = poller.register(client);
    let mut got = 0;
    let mut is_told = false;
    while got < 5000 || !is_told {
        got += server.try_read().unwrap().bytes().len();
        for event in poller.poll(MOMENT).unwrap() {
            assert!(
                event.source == token && matches!(event.what, What::Drained),
                "{event:?}"
            );
            is_told = true;
        }
    }
}

#[test]
fn an_end_without_a_farewell_is_an_end_but_not_in_the_middle_of_the_handshake() {
    let _watchdog = minute();
    let (mut client, server) = connected();
    let mut server = server;
    server.write(b"the last words", Wait::Never).unwrap();
    // Drops the socket, as libchirp does.
    drop(server);
    let (read, last) = read_all(&mut client);
    assert_eq!(read, b"the last words");
    assert_eq!(last.unwrap(), Input::End);

    let identity = Authority::new("authority").identity("node");
    let (peer, socket) = SocketChannel::pair().unwrap();
    let mut channel = identity.accept(socket).unwrap();
    channel.write(b"never sent", Wait::Never).unwrap();
    drop(peer);
    let error = failure(channel.read(SECONDS));
    assert!(matches!(TlsError::of(&error), Some(TlsError::EndedEarly)), "{error}");
    let error = channel.flush(SECONDS).unwrap_err();
    assert!(matches!(TlsError::of(&error), Some(TlsError::EndedEarly)), "{error}");

    // Reset by one who leaves with unread bytes.
    let (stream, socket) = tcp();
    let mut channel = identity.connect(socket).unwrap();
    channel.write(b"never sent", Wait::Never).unwrap();
    support::eventually("the greeting has arrived", || stream.peek(&mut [0; 100]).unwrap() > 50);
    drop(stream);
    let error = channel.flush(SECONDS).unwrap_err();
    assert!(matches!(error, ChannelError::Reset | ChannelError::PeerGone), "{error}");
    assert!(channel.read(SECONDS).is_err());
}

#[test]
fn lines_come_out_as_of_any_other_channel() {
    let _watchdog = minute();
    let (mut client, mut server) = connected();
    server.set_buffering(Buffering::lines());
    client.write(b"one\ntw", Wait::Never).unwrap();
    client.write(b"o\nthree\nrest", Wait::Never).unwrap();
    let line = |input: Input| match input {
        Input::Line(Line { bytes, is_complete, .. }) => (String::from_utf8(bytes).unwrap(), is_complete),
        other => panic!("{other:?}"),
    };
    assert_eq!(line(server.read(SECONDS).unwrap()), ("one\n".into(), true));
    assert!(server.has_buffered());
    assert_eq!(line(server.read(SECONDS).unwrap()), ("two\n".into(), true));
    assert_eq!(line(server.read(SECONDS).unwrap()), ("three\n".into(), true));
    assert_eq!(server.read(Wait::Never).unwrap(), Input::Pending);
    assert!(!server.has_buffered());
    server.set_buffering(Buffering::Bytes);
    assert_eq!(server.read(SECONDS).unwrap().bytes(), b"rest");
    client.write(b"more", Wait::Never).unwrap();
    assert_eq!(server.read(SECONDS).unwrap().bytes(), b"more");
    server.set_buffering(Buffering::lines());
    client.write(b"the last", Wait::Never).unwrap();
    client.shutdown_write().unwrap();
    assert_eq!(line(server.read(SECONDS).unwrap()), ("the last".into(), false));
    assert_eq!(server.read(SECONDS).unwrap(), Input::End);
    // A limit on one read holds here too.
    server.write(&[7; 1000], Wait::Never).unwrap();
    client.set_read_limit(100);
    assert_eq!(client.read(SECONDS).unwrap().bytes().len(), 100);
}
