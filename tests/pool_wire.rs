//! What nodes say to each other, byte for byte: the layout, what is refused, and what two real libchirps once said.
//!
//! Not here: the node, which keeps to all that (`pool_recorded.rs`), and the real libchirp itself (`interop_libchirp.rs`).

#[path = "../fuzz/wire_case.rs"]
mod wire_case;

use proptest::prelude::*;
use syncq::pool::wire::{
    Announcement, Decoder, Frame, FrameHeader, FrameKind, HANDSHAKE_LEN, HEADER_LEN, Handshake, Incoming, features,
    flags,
};
use syncq::pool::{Identity, WireError};

const LIMIT: u64 = 100 << 20;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn identity(hex: &str) -> Identity {
    <[u8; 16]>::try_from(bytes(hex)).expect("16 bytes").into()
}

fn all(decoder: &mut Decoder) -> Result<Vec<Incoming>, WireError> {
    let mut found = vec![];
    while let Some(incoming) = decoder.next()? {
        found.push(incoming);
    }
    Ok(found)
}

fn decoded(pieces: &[&[u8]]) -> Result<Vec<Incoming>, WireError> {
    let mut decoder = Decoder::new(LIMIT);
    let mut found = vec![];
    for piece in pieces {
        decoder.push(piece);
        found.extend(all(&mut decoder)?);
    }
    Ok(found)
}

fn encoded(incoming: &[Incoming]) -> Vec<u8> {
    let mut out = vec![];
    for one in incoming {
        match one {
            Incoming::Handshake(handshake) => out.extend_from_slice(&handshake.to_bytes()),
            Incoming::Frame(frame) => frame.encode_into(&mut out),
        }
    }
    out
}

fn frame(identity: Identity, serial: u32, flags: u8, data: &[u8]) -> Incoming {
    Incoming::Frame(Frame::new(identity, serial, flags, vec![], data.to_vec()).unwrap())
}

/// What one side said in an exchange with libchirp 1.2.1: recorded bytes, and what they mean.
struct Said {
    bytes: &'static str,
    means: fn() -> Vec<Incoming>,
}

/// A synchronous requester at 2992 and an asynchronous echo at 2998: a request, its answer, and the request's acknowledgement.
const RECORDED: [Said; 4] = [
    Said {
        bytes: "0bb0 540ef8133270971cb1cbf91115eeb023
                56fb4572b13d2e130457bb70b7840360 05a60a86 00000005 0000 01 68656c6c6f",
        means: || {
            vec![
                Incoming::Handshake(Handshake {
                    port: 2992,
                    identity: identity("540ef8133270971cb1cbf91115eeb023"),
                }),
                frame(
                    identity("56fb4572b13d2e130457bb70b7840360"),
                    0x05a6_0a86,
                    flags::REQ_ACK,
                    b"hello",
                ),
            ]
        },
    },
    Said {
        bytes: "0bb6 db3f9a2dab06f305c3bda17aa0f8f05f
                56fb4572b13d2e130457bb70b7840360 52675c39 00000005 0000 00 68656c6c6f
                56fb4572b13d2e130457bb70b7840360 52675c3a 00000000 0000 02",
        means: || {
            vec![
                Incoming::Handshake(Handshake {
                    port: 2998,
                    identity: identity("db3f9a2dab06f305c3bda17aa0f8f05f"),
                }),
                frame(identity("56fb4572b13d2e130457bb70b7840360"), 0x5267_5c39, 0, b"hello"),
                frame(
                    identity("56fb4572b13d2e130457bb70b7840360"),
                    0x5267_5c3a,
                    flags::ACK,
                    b"",
                ),
            ]
        },
    },
    // The same with a synchronous echo, behind the handshakes (any will do).
    Said {
        bytes: "0bb0 00000000000000000000000000000001
                0b11c201dd95b24ef4d86d4ac260f450 4ef65a8f 00000005 0000 01 68656c6c6f
                0b11c201dd95b24ef4d86d4ac260f450 4ef65a90 00000000 0000 02",
        means: || {
            vec![
                Incoming::Handshake(Handshake {
                    port: 2992,
                    identity: identity("00000000000000000000000000000001"),
                }),
                frame(
                    identity("0b11c201dd95b24ef4d86d4ac260f450"),
                    0x4ef6_5a8f,
                    flags::REQ_ACK,
                    b"hello",
                ),
                frame(
                    identity("0b11c201dd95b24ef4d86d4ac260f450"),
                    0x4ef6_5a90,
                    flags::ACK,
                    b"",
                ),
            ]
        },
    },
    Said {
        bytes: "0bb6 00000000000000000000000000000002
                0b11c201dd95b24ef4d86d4ac260f450 41cf9c5d 00000005 0000 01 68656c6c6f
                0b11c201dd95b24ef4d86d4ac260f450 41cf9c5e 00000000 0000 02",
        means: || {
            vec![
                Incoming::Handshake(Handshake {
                    port: 2998,
                    identity: identity("00000000000000000000000000000002"),
                }),
                frame(
                    identity("0b11c201dd95b24ef4d86d4ac260f450"),
                    0x41cf_9c5d,
                    flags::REQ_ACK,
                    b"hello",
                ),
                frame(
                    identity("0b11c201dd95b24ef4d86d4ac260f450"),
                    0x41cf_9c5e,
                    flags::ACK,
                    b"",
                ),
            ]
        },
    },
];

#[test]
fn recorded_exchanges_mean_what_they_meant_and_are_written_the_same() {
    for said in &RECORDED {
        let recorded = bytes(said.bytes);
        let means = (said.means)();
        assert_eq!(decoded(&[&recorded]).unwrap(), means);
        assert_eq!(encoded(&means), recorded);
    }
}

#[test]
fn bytes_may_be_cut_anywhere() {
    for said in &RECORDED {
        let recorded = bytes(said.bytes);
        let means = (said.means)();
        for cut in 0..=recorded.len() {
            let (front, back) = recorded.split_at(cut);
            assert_eq!(decoded(&[front, back]).unwrap(), means, "cut at {cut}");
        }
        let single: Vec<&[u8]> = recorded.chunks(1).collect();
        assert_eq!(decoded(&single).unwrap(), means);
    }
}

#[test]
fn every_field_is_where_it_belongs() {
    let head = FrameHeader {
        identity: identity("000102030405060708090a0b0c0d0e0f"),
        serial: 0x1011_1213,
        data_len: 0x1415_1617,
        header_len: 0x1819,
        flags: 0x1a,
    };
    let wire: [u8; HEADER_LEN] = std::array::from_fn(|i| i as u8);
    assert_eq!(head.to_bytes(), wire);
    assert_eq!(FrameHeader::from_bytes(&wire), head);
    let handshake = Handshake {
        port: 0x0001,
        identity: identity("02030405060708090a0b0c0d0e0f1011"),
    };
    let wire: [u8; HANDSHAKE_LEN] = std::array::from_fn(|i| i as u8);
    assert_eq!(handshake.to_bytes(), wire);
    assert_eq!(Handshake::from_bytes(&wire), handshake);
}

#[test]
fn a_sign_of_life_is_zeros_around_a_serial() {
    let recorded = bytes("00000000000000000000000000000000 05a60a87 00000000 0000 04");
    assert_eq!(FrameHeader::noop(0x05a6_0a87).to_bytes()[..], recorded);
    assert_eq!(FrameHeader::noop(7).kind(), FrameKind::Noop);
}

#[test]
fn bits_that_are_not_known_are_passed_over_and_life_comes_before_acknowledgement() {
    let kind = |flags| FrameHeader {
        flags,
        ..FrameHeader::default()
    };
    assert_eq!(kind(0x80).kind(), FrameKind::Message);
    assert!(!kind(0x80).wants_ack());
    assert_eq!(kind(0x81).kind(), FrameKind::Message);
    assert!(kind(0x81).wants_ack());
    assert_eq!(kind(flags::ACK | flags::NOOP).kind(), FrameKind::Noop);
    assert_eq!(kind(0xc2).kind(), FrameKind::Ack);
    assert_eq!(kind(0x80).check(0), Ok(()));
}

/// A decoder behind the handshake.
fn behind_handshake(limit: u64) -> Decoder {
    let mut decoder = Decoder::new(limit);
    decoder.push(&[7; HANDSHAKE_LEN]);
    assert!(matches!(decoder.next(), Ok(Some(Incoming::Handshake(_)))));
    decoder
}

fn head(flags: u8, header_len: u16, data_len: u32) -> FrameHeader {
    FrameHeader {
        identity: Identity::from([9; 16]),
        serial: 1,
        data_len,
        header_len,
        flags,
    }
}

#[test]
fn what_libchirp_closes_a_connection_for_is_refused_here() {
    let cases = [
        (head(flags::ACK, 1, 0), "ack with a header"),
        (head(flags::ACK, 0, 1), "ack with data"),
        (head(flags::NOOP, 1, 0), "noop with a header"),
        (head(flags::NOOP, 0, 1), "noop with data"),
        (head(flags::ACK | flags::REQ_ACK, 0, 0), "ack of an ack"),
        (head(flags::NOOP | flags::REQ_ACK, 0, 0), "ack of a noop"),
        (head(0, 0, 1001), "one byte too long"),
        (head(0, 1, 1000), "one byte too long with its header"),
        (head(flags::REQ_ACK, 1, u32::MAX), "lengths that wrap in 32 bits"),
        (head(0, u16::MAX, u32::MAX), "the longest that can be said"),
    ];
    for (head, what) in cases {
        let mut decoder = behind_handshake(1000);
        decoder.push(&head.to_bytes());
        let error = decoder.next().expect_err(what);
        // It stays so, whatever comes, and nothing is kept.
        decoder.push(&[0; 4096]);
        assert_eq!(decoder.next(), Err(error), "{what}");
        assert_eq!((decoder.pending_bytes(), decoder.allocated()), (0, 0), "{what}");
    }
    let mut decoder = behind_handshake(1000);
    decoder.push(&head(0, 10, 990).to_bytes());
    decoder.push(&[1; 1000]);
    assert!(
        matches!(decoder.next(), Ok(Some(Incoming::Frame(_)))),
        "as long as allowed"
    );
}

#[test]
fn errors_carry_what_is_needed_to_act() {
    assert_eq!(
        head(0, 1, u32::MAX).check(LIMIT),
        Err(WireError::TooLarge {
            size: 1 << 32,
            limit: LIMIT
        })
    );
    let words = head(flags::ACK, 0, 3).check(LIMIT).unwrap_err().to_string();
    assert_eq!(words, "frame with flags 0x02 and 3 bytes, where there can be none");
    assert!(matches!(
        Frame::new(Identity::ZERO, 0, 0, vec![0; 65536], vec![]),
        Err(WireError::HeaderTooLong { len: 65536 })
    ));
    assert!(Frame::new(Identity::ZERO, 0, 0, vec![0; 65535], vec![]).is_ok());
}

#[test]
fn the_longest_header_and_empty_messages_are_frames() {
    let frames = [
        Frame::new(Identity::random(), 1, flags::REQ_ACK, vec![1; 65535], vec![2; 100_000]).unwrap(),
        Frame::new(Identity::random(), 2, 0, vec![], vec![]).unwrap(),
        Frame::new(Identity::random(), u32::MAX, 0, vec![3], vec![]).unwrap(),
    ];
    let mut wire = vec![];
    frames.iter().for_each(|frame| frame.encode_into(&mut wire));
    let mut decoder = behind_handshake(LIMIT);
    for piece in wire.chunks(4099) {
        decoder.push(piece);
    }
    assert_eq!(decoder.pending_bytes(), wire.len());
    assert!(decoder.is_within());
    let found = all(&mut decoder).unwrap();
    assert_eq!(found, frames.map(Incoming::Frame));
    assert!(!decoder.is_within());
}

#[test]
fn frames_are_taken_one_by_one_and_the_rest_waits() {
    let mut wire = vec![];
    for serial in 0..100 {
        Frame::new(Identity::ZERO, serial, 0, vec![], vec![serial as u8; 10])
            .unwrap()
            .encode_into(&mut wire);
    }
    let mut decoder = behind_handshake(LIMIT);
    decoder.push(&wire);
    for serial in 0..100 {
        assert_eq!(decoder.pending_bytes(), wire.len() - serial * (HEADER_LEN + 10));
        let Ok(Some(Incoming::Frame(frame))) = decoder.next() else {
            panic!("a frame")
        };
        assert_eq!(frame.head.serial, serial as u32);
        // Reading on in between mixes nothing up.
        decoder.push(&[]);
    }
    assert_eq!(decoder.next(), Ok(None));
}

#[test]
fn an_announced_length_takes_no_memory_until_it_arrives() {
    let mut decoder = behind_handshake(u64::MAX);
    decoder.push(&head(0, u16::MAX, u32::MAX).to_bytes());
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.allocated() < 8192, "{}", decoder.allocated());
    let mut arrived = 0;
    for _ in 0..1000 {
        decoder.push(&[5; 1000]);
        arrived += 1000;
        assert_eq!(decoder.next(), Ok(None));
        assert!(
            decoder.allocated() <= 2 * arrived + 8192,
            "{} for {arrived}",
            decoder.allocated()
        );
    }
    assert_eq!(decoder.pending_bytes(), arrived + HEADER_LEN);
}

#[test]
fn two_of_ours_know_each_other_and_libchirp_sees_a_sign_of_life() {
    let head = Announcement::OURS.to_header(17);
    assert_eq!(head.kind(), FrameKind::Noop);
    assert_eq!((head.check(0), head.serial, head.flags), (Ok(()), 17, flags::NOOP));
    assert_eq!(Announcement::from_header(&head), Some(Announcement::OURS));
    assert!(Announcement::OURS.has(features::FAILED | features::CANCEL | features::STOPPING | features::REQUEST));
    assert_eq!(Announcement::from_header(&FrameHeader::noop(17)), None);
    assert_eq!(Announcement::from_header(&FrameHeader { flags: 0, ..head }), None);
    // Its bytes are part of what nodes of other versions have to understand.
    let written = bytes("f173796e63710d0a 01 000000 0000000f 00000011 00000000 0000 04");
    assert_eq!(head.to_bytes()[..], written);
    // A later version, with features that this one does not know.
    let later = Announcement {
        version: 9,
        features: 0x8000_0001,
    };
    let understood = Announcement::from_header(&later.to_header(1)).unwrap();
    assert_eq!((understood, understood.has(features::CANCEL)), (later, false));
}

fn any_frame() -> impl Strategy<Value = Incoming> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    (any::<[u8; 16]>(), any::<u32>(), any::<u8>(), bytes(1100), bytes(5000)).prop_map(
        |(identity, serial, flags, header, data)| {
            let is_message = flags & (flags::ACK | flags::NOOP) == 0;
            let (flags, header, data) = match is_message {
                true => (flags, header, data),
                false => (flags & !flags::REQ_ACK, vec![], vec![]),
            };
            Incoming::Frame(Frame::new(identity.into(), serial, flags, header, data).unwrap())
        },
    )
}

proptest! {
    // Hundreds of bytes a case, and millions of cases are the fuzz target's.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_the_decoder_panic_or_take_memory_for_what_was_only_announced(
        input in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        wire_case::run(&input);
    }

    #[test]
    fn whatever_is_written_is_read_in_whatever_pieces(
        (port, identity) in any::<(u16, [u8; 16])>(),
        frames in prop::collection::vec(any_frame(), 0..20),
        pieces in prop::collection::vec(1usize..3000, 1..50),
        is_taken_late in any::<bool>(),
    ) {
        let mut said = vec![Incoming::Handshake(Handshake { port, identity: identity.into() })];
        said.extend(frames);
        let wire = encoded(&said);
        let mut decoder = Decoder::new(LIMIT);
        let (mut rest, mut found) = (&wire[..], vec![]);
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*piece));
            decoder.push(now);
            rest = later;
            if !is_taken_late {
                found.extend(all(&mut decoder).unwrap());
            }
            prop_assert!(decoder.allocated() <= 4 * decoder.pending_bytes() + Decoder::SLACK);
        }
        found.extend(all(&mut decoder).unwrap());
        prop_assert_eq!(found, said);
        prop_assert!(!decoder.is_within());
    }
}
