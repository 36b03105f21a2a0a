//! Our node and the real libchirp over TLS: between addresses of this machine that are not the loopback's, which libchirp never encrypts.
//!
//! Not here: what is the same with and without encryption (`interop_libchirp.rs`).

mod certificates;
#[path = "support/libchirp.rs"]
mod libchirp;
#[path = "support/python.rs"]
mod python;
mod support;

use certificates::{Authority, key_rsa};
use libchirp::{
    Libchirp, MODES, SECONDS, SIZES, V4, V6, Wish, echo, message, order, ours, patience, pattern, plain, pool, python,
    quiet, with,
};
use rcgen::KeyPair;
use serde_json::json;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use support::{Folder, eventually, folder};
use syncq::pool::{Chirp, Config, Message, PoolError};

/// The group ffdhe2048 of RFC 7919: libchirp does not start without some parameters, also where TLS 1.3 never uses them.
const DH_PARAMETERS: &str = "-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
";

/// An address of this machine that is not the loopback's, of each family that has one.
fn own_addresses() -> Vec<IpAddr> {
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = routes.lines().map(str::trim).collect();
    let v4 = lines
        .windows(2)
        .filter(|pair| pair[1] == "/32 host LOCAL")
        .find_map(|pair| {
            let ip: IpAddr = pair[0].strip_prefix("|-- ")?.parse().ok()?;
            (!ip.is_loopback()).then_some(ip)
        });
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let v6 = interfaces.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Scope 0 is global: nothing else can be connected to without naming the interface.
        let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
        (fields.get(3) == Some(&"00")).then_some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    });
    let own: Vec<IpAddr> = [v4, v6].into_iter().flatten().collect();
    if own.is_empty() {
        python::missing("this machine has no address but the loopback's, where libchirp does not encrypt");
    }
    own
}

/// An authority, and what its nodes are configured with.
struct Company {
    authority: Authority,
    folder: Folder,
}

impl Company {
    fn new() -> Self {
        let folder = folder("libchirp-tls");
        std::fs::write(folder.0.join("dh.pem"), DH_PARAMETERS).unwrap();
        Company {
            authority: Authority::new("authority"),
            folder,
        }
    }

    fn file(&self, name: &str, key: KeyPair) -> PathBuf {
        let path = self.folder.0.join(format!("{name}.pem"));
        std::fs::write(&path, self.authority.issue_with(name, key, |_| {}).pem()).unwrap();
        path
    }

    fn ours(&self, is_synchronous: bool) -> Config {
        self.ours_with(is_synchronous, KeyPair::generate().unwrap())
    }

    fn ours_with(&self, is_synchronous: bool, key: KeyPair) -> Config {
        // The same two files as libchirp's.
        plain(is_synchronous)
            .disable_encryption(false)
            .cert_chain_pem(self.file("ours", key))
            .dh_params_pem(self.folder.0.join("dh.pem"))
    }

    fn theirs(&self, behaviour: &'static str, is_synchronous: bool) -> Wish {
        self.theirs_with(behaviour, is_synchronous, KeyPair::generate().unwrap())
    }

    fn theirs_with(&self, behaviour: &'static str, is_synchronous: bool, key: KeyPair) -> Wish {
        pool(behaviour, is_synchronous)
            .with("DISABLE_ENCRYPTION", false)
            .with("CERT_CHAIN_PEM", self.file("theirs", key).to_str().unwrap())
            .with("DH_PARAMS_PEM", self.folder.0.join("dh.pem").to_str().unwrap())
    }
}

fn our_request(us: &Chirp, theirs: &Libchirp, ip: IpAddr, (header, data): (usize, usize)) {
    let mut asked = message(ip, theirs, pattern(data, header));
    asked.set_header(pattern(header, 1));
    let answer = us.request(asked).result().unwrap();
    assert!(answer.data() == pattern(data, header) && answer.header() == pattern(header, 1));
    assert_eq!(answer.remote_identity().to_string(), theirs.identity);
    assert_eq!(answer.peer_certificate().is_some(), !ip.is_loopback(), "{ip}");
}

#[test]
fn our_requests_are_answered_by_libchirp_over_tls() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    let own = own_addresses();
    for (our_mode, their_mode) in MODES {
        let theirs = company.theirs("echo", their_mode).start(&python);
        let us = ours(company.ours(our_mode), quiet);
        for ip in &own {
            SIZES.iter().for_each(|sizes| our_request(&us, &theirs, *ip, *sizes));
        }
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn libchirps_requests_are_answered_by_us_over_tls() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    let own = own_addresses();
    for (our_mode, their_mode) in MODES {
        let us = ours(company.ours(our_mode), echo);
        let mut theirs = company.theirs("note", their_mode).start(&python);
        for ip in &own {
            for (header, data) in SIZES {
                let sizes = json!({"count": 1, "size": data, "header": header});
                assert_eq!(theirs.must(with(order("requests", *ip, &us), sizes))["answered"], 1);
            }
            let many = json!({"count": 50, "size": 100, "header": 10});
            assert_eq!(theirs.must(with(order("requests", *ip, &us), many))["answered"], 50);
        }
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn many_messages_one_way_arrive_over_tls_in_both_directions() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    for ip in own_addresses() {
        for (our_mode, their_mode) in MODES {
            let (handler, received) = libchirp::collecting();
            let us = ours(company.ours(our_mode), handler);
            let mut theirs = company.theirs("note", their_mode).start(&python);
            let open: Vec<_> = (0..200)
                .map(|i| us.send(message(ip, &theirs, pattern(i * 50, i))))
                .collect();
            for outcome in open {
                outcome.result().unwrap();
            }
            theirs.seen(200);
            let many = json!({"count": 200, "size": 3000});
            assert_eq!(theirs.must(with(order("send_many", ip, &us), many))["sent"], 200);
            for _ in 0..200 {
                let got = received.recv().unwrap();
                assert_eq!((got.data().len(), got.address()), (3000, ip.to_string()));
                assert!(got.peer_certificate().is_some());
            }
            us.stop(SECONDS).unwrap();
        }
    }
}

#[test]
fn certificates_of_rsa_are_as_good() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    let (Some(mine), Some(other)) = (key_rsa(), key_rsa()) else {
        return python::missing("no RSA key could be made (the command openssl)");
    };
    let mut theirs = company.theirs_with("echo", false, other).start(&python);
    let us = ours(company.ours_with(true, mine), echo);
    for ip in own_addresses() {
        our_request(&us, &theirs, ip, (10, 10_000));
        theirs.must(with(order("send", ip, &us), json!({"text": "x"})));
    }
    us.stop(SECONDS).unwrap();
}

#[test]
fn loopback_stays_plain_between_nodes_that_encrypt() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    let mut theirs = company.theirs("echo", true).start(&python);
    let us = ours(company.ours(true), echo);
    for ip in [V4, V6].into_iter().chain(own_addresses()) {
        our_request(&us, &theirs, ip, (1, 100));
    }
    let fresh = ours(company.ours(false), echo);
    for ip in [V4, V6].into_iter().chain(own_addresses()) {
        theirs.must(with(order("send", ip, &fresh), json!({"text": "x"})));
    }
    fresh.stop(SECONDS).unwrap();
    us.stop(SECONDS).unwrap();
}

#[test]
fn a_certificate_of_another_authority_is_refused_in_both_directions() {
    let Some(python) = python() else { return };
    let (_watchdog, company, stranger) = (patience(), Company::new(), Company::new());
    for ip in own_addresses() {
        let theirs = company.theirs("echo", true).start(&python);
        let us = ours(stranger.ours(true).timeout(Duration::from_secs(2)), echo);
        let error = us.request(message(ip, &theirs, "x")).result().unwrap_err();
        assert!(matches!(error, PoolError::Tls { .. }), "{error:?}");
        let mut other = company.theirs("note", true).with("TIMEOUT", 0.5).start(&python);
        let said = other.ask(with(order("send", ip, &us), json!({"text": "x"})));
        assert!(!said["error"].is_null(), "{said}");
        us.stop(SECONDS).unwrap();
        // Nor is who does not encrypt at all taken for a peer.
        let us = ours(plain(true).timeout(Duration::from_secs(1)), echo);
        let error = us.request(message(ip, &theirs, "x")).result().unwrap_err();
        let is_one = matches!(
            error,
            PoolError::PeerDied { .. } | PoolError::TimedOut { .. } | PoolError::Protocol { .. }
        );
        assert!(is_one, "{error:?}");
        us.stop(SECONDS).unwrap();
    }
}

#[test]
fn a_libchirp_that_is_killed_or_collects_its_connections_is_found_again_over_tls() {
    let Some(python) = python() else { return };
    let (_watchdog, company) = (patience(), Company::new());
    for ip in own_addresses() {
        let wish = company
            .theirs("echo", true)
            .with("TIMEOUT", 0.3)
            .with("REUSE_TIME", 0.9);
        let theirs = wish.start(&python);
        let us = ours(company.ours(true), quiet);
        for _ in 0..2 {
            our_request(&us, &theirs, ip, (0, 5));
            // It just closes, without a word of TLS about it.
            eventually("libchirp has closed it", || libchirp::connections(theirs.port) == 0);
        }
        our_request(&us, &theirs, ip, (0, 5));
        let port = theirs.port;
        theirs.kill();
        let error = us
            .request(Message::to((ip, port), "nobody").unwrap())
            .result()
            .unwrap_err();
        assert!(
            matches!(error, PoolError::Refused { .. } | PoolError::PeerDied { .. }),
            "{error:?}"
        );
        let theirs = wish.port(port).start(&python);
        our_request(&us, &theirs, ip, (0, 5));
        us.stop(SECONDS).unwrap();
    }
}
