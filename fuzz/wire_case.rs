//! One case for the decoder of the pool: bytes as a peer may send them, and how they are cut.
//!
//! Shared by the fuzz target `pool_wire` and by `tests/pool_wire.rs`. A case passes if it ends, and everything asserted holds: a plain
//! decoder of a few lines finds the same frames, however the bytes are cut and whenever the frames are taken; what was
//! found is written as it was read; what is held never exceeds what has arrived by more than the decoder says.

use syncq::pool::WireError;
use syncq::pool::wire::{
    Announcement, Decoder, Frame, FrameHeader, FrameKind, HANDSHAKE_LEN, HEADER_LEN, Handshake, Incoming,
};

/// What a decoder made of some bytes: what it found, and what it ended with.
type Outcome = (Vec<Incoming>, Result<(), WireError>);

/// Runs one case: the first byte says how the rest is meant, the second how long a message may be, eight more how the bytes are cut.
pub fn run(input: &[u8]) {
    let Some((&[how, limit, ref cuts @ ..], rest)) = input.split_first_chunk::<10>() else {
        return;
    };
    let limit = match limit {
        0 => u64::MAX,
        1 => u64::from(u32::MAX),
        2 => 0,
        3 => 100 << 20,
        limit => u64::from(limit) * 8,
    };
    let invented;
    // Seldom much: nothing is to be found in a long message that is not in a short one, but in how buffers grow and shrink.
    let is_large = how >= 0xf8;
    let wire = match how % 2 {
        0 => rest,
        _ => {
            invented = invent(rest, if is_large { 140 << 10 } else { 2 << 10 });
            &invented[..]
        }
    };
    let (plain, consumed) = decode_plainly(wire, limit);

    let mut decoder = Decoder::new(limit);
    decoder.push(wire);
    let whole = take_all(&mut decoder, &plain);
    assert_eq!(whole, plain, "pushed at once");
    if whole.1.is_ok() {
        assert_eq!(decoder.pending_bytes(), wire.len() - consumed);
    }

    let mut found = vec![];
    let mut decoder = Decoder::new(limit);
    let (mut left, mut turn) = (wire, 0);
    let end = loop {
        let cut = usize::from(cuts[turn % cuts.len()]);
        turn += 1;
        // Also empty pieces, and long ones.
        let length = match cut {
            _ if is_large => cut << 6,
            0xf0.. => (cut & 0xf) << 9,
            _ => cut >> 1,
        };
        let (now, later) = left.split_at(length.min(left.len()).max(usize::from(turn > 32)).min(left.len()));
        decoder.push(now);
        left = later;
        assert_bounded(&decoder, wire.len() - left.len());
        // Taken one at a time, or not at all for now.
        if cut & 1 == 1 || left.is_empty() {
            match decoder.next() {
                Ok(Some(incoming)) => found.push(incoming),
                Ok(None) if left.is_empty() => break Ok(()),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            assert_bounded(&decoder, wire.len() - left.len());
        }
    };
    assert_eq!((found, end), plain, "pushed in pieces");

    let mut written = vec![];
    for incoming in &plain.0 {
        match incoming {
            Incoming::Handshake(handshake) => written.extend_from_slice(&handshake.to_bytes()),
            Incoming::Frame(frame) => {
                assert_eq!(FrameHeader::from_bytes(&frame.head.to_bytes()), frame.head);
                let again = Frame::new(
                    frame.head.identity,
                    frame.head.serial,
                    frame.head.flags,
                    frame.header.clone(),
                    frame.data.clone(),
                );
                assert_eq!(again.as_ref(), Ok(frame));
                if let Some(said) = Announcement::from_header(&frame.head) {
                    let again = Announcement::from_header(&said.to_header(frame.head.serial));
                    assert_eq!(again, Some(said));
                }
                frame.encode_into(&mut written);
            }
        }
    }
    assert_eq!(written, wire[..consumed]);
}

fn take_all(decoder: &mut Decoder, plain: &Outcome) -> Outcome {
    let mut found = vec![];
    let end = loop {
        match decoder.next() {
            Ok(Some(incoming)) => found.push(incoming),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        assert!(found.len() <= plain.0.len(), "more than there is: {:?}", found.last());
    };
    // An error stays, and so does having nothing.
    decoder.push(&[]);
    assert_eq!(decoder.next(), end.map(|()| None));
    (found, end)
}

fn assert_bounded(decoder: &Decoder, arrived: usize) {
    let (held, pending) = (decoder.allocated(), decoder.pending_bytes());
    assert!(pending <= arrived, "{pending} pending of {arrived}");
    assert!(
        held <= 4 * pending + Decoder::SLACK,
        "{held} held for {pending} pending"
    );
}

/// The same without memory between calls: all bytes at once. Also says how many of them were used.
fn decode_plainly(wire: &[u8], limit: u64) -> (Outcome, usize) {
    let mut found = vec![];
    let mut at = 0;
    let Some(handshake) = wire.first_chunk::<HANDSHAKE_LEN>() else {
        return ((found, Ok(())), at);
    };
    found.push(Incoming::Handshake(Handshake::from_bytes(handshake)));
    at += HANDSHAKE_LEN;
    while let Some(head) = wire[at..].first_chunk::<HEADER_LEN>() {
        let head = FrameHeader::from_bytes(head);
        if let Err(error) = head.check(limit) {
            return ((found, Err(error)), at);
        }
        assert!(head.payload_len() <= limit && (head.kind() == FrameKind::Message || head.payload_len() == 0));
        let (header_at, data_at) = (at + HEADER_LEN, at + HEADER_LEN + usize::from(head.header_len));
        let Some(payload) = wire.get(header_at..data_at + head.data_len as usize) else {
            break;
        };
        let (header, data) = payload.split_at(usize::from(head.header_len));
        let (header, data) = (header.to_vec(), data.to_vec());
        found.push(Incoming::Frame(Frame { head, header, data }));
        at = data_at + head.data_len as usize;
    }
    ((found, Ok(())), at)
}

/// Makes mostly well-formed traffic of a recipe of four bytes a frame: random bytes seldom have lengths that fit. It ends with the
/// frame that reaches `most` bytes.
fn invent(recipe: &[u8], most: usize) -> Vec<u8> {
    let mut wire = vec![0x42; HANDSHAKE_LEN];
    for step in recipe.chunks_exact(4) {
        if wire.len() > most {
            break;
        }
        let &[flags, header, data, odd] = step else {
            unreachable!("chunks of four")
        };
        let (flags, header_len, data_len) = match flags % 8 {
            0 => (0x01, 0, 0),
            1 => (0x02, 0, 0),
            2 => (0x04, 0, 0),
            3 => (flags, usize::from(header) * 16, usize::from(data)),
            4 => (
                flags & 0xf9,
                usize::from(header),
                usize::from(data) * usize::from(odd).min(most >> 8),
            ),
            _ => (flags & 0xf9, usize::from(header) >> 3, usize::from(data) >> 2),
        };
        let frame = match odd {
            0 => {
                wire.extend_from_slice(&Announcement::OURS.to_header(odd.into()).to_bytes());
                continue;
            }
            // Fewer bytes than announced, and what follows is taken for them.
            255 => {
                let head = FrameHeader {
                    identity: [odd; 16].into(),
                    serial: 1,
                    data_len: u32::from_be_bytes([0, 0, data, header]),
                    header_len: header.into(),
                    flags,
                };
                wire.extend_from_slice(&head.to_bytes());
                continue;
            }
            _ => Frame::new(
                [odd; 16].into(),
                odd.into(),
                flags,
                vec![header; header_len],
                vec![data; data_len],
            ),
        };
        frame.expect("short enough").encode_into(&mut wire);
    }
    wire
}
