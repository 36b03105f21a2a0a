//! Where a line ends: the line breaks of Python's `str.splitlines`, found in bytes.
//!
//! Not here: lines that are not finished yet (`pending.rs`).

/// What a byte can be the beginning of.
const PLAIN: u8 = 0;
const BREAK: u8 = 1;
const RETURN: u8 = 2;
const TWO: u8 = 3;
const THREE: u8 = 4;

const CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let breaks = [b'\n', 0x0b, 0x0c, 0x1c, 0x1d, 0x1e];
    let mut i = 0;
    while i < breaks.len() {
        class[breaks[i] as usize] = BREAK;
        i += 1;
    }
    class[b'\r' as usize] = RETURN;
    class[0xc2] = TWO;
    class[0xe2] = THREE;
    class
};

/// The first line break at or after byte `from`: where it begins and where it ends.
///
/// Bytes that are not UTF-8 are no harm: the first byte of each break is never one in the middle of another character.
#[inline]
pub(crate) fn find(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        at += skip_plain(bytes.get(at..)?);
        at += bytes
            .get(at..)?
            .iter()
            .position(|&byte| CLASS[usize::from(byte)] != PLAIN)?;
        let rest = &bytes[at + 1..];
        match CLASS[usize::from(bytes[at])] {
            BREAK => return Some((at, at + 1)),
            RETURN => return Some((at, at + 1 + usize::from(rest.first() == Some(&b'\n')))),
            TWO if rest.first() == Some(&0x85) => return Some((at, at + 2)),
            THREE if matches!(rest, [0x80, 0xa8 | 0xa9, ..]) => return Some((at, at + 3)),
            _ => at += 1,
        }
    }
}

/// How many of the first bytes certainly begin no break, in whole chunks: a loop that compilers turn into a few instructions for each chunk.
#[inline]
fn skip_plain(bytes: &[u8]) -> usize {
    const CHUNK: usize = 16;
    let is_plain = |chunk: &&[u8; CHUNK]| {
        let suspects = chunk.iter().fold(0, |suspects, &byte| {
            suspects | u8::from(byte < 0x20) | u8::from(byte == 0xc2) | u8::from(byte == 0xe2)
        });
        suspects == 0
    };
    CHUNK * bytes.as_chunks::<CHUNK>().0.iter().take_while(is_plain).count()
}

/// The lines of a finished text, without their breaks: Python's `str.splitlines()`.
///
/// The breaks are U+000A, 000B, 000C, 000D, 001C, 001D, 001E, 0085, 2028, 2029, and `\r\n` as one.
///
/// ```
/// let lines: Vec<&[u8]> = syncq::line::split_lines(b"one\r\ntwo\x0bthree\n").collect();
/// assert_eq!(lines, [&b"one"[..], b"two", b"three"]);
/// ```
pub fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (start, end) = find(rest, 0).unwrap_or((rest.len(), rest.len()));
        let line = &rest[..start];
        rest = &rest[end..];
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        split_lines(text.as_bytes())
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn exactly_pythons_code_points_break_lines() {
        // Every character below U+3000: `[c for c in map(chr, range(0x3000)) if len(f"a{c}b".splitlines()) > 1]`.
        let found: Vec<u32> = (0..0x3000)
            .filter(|&c| char::from_u32(c).is_some_and(|c| lines(&format!("a{c}b")).len() > 1))
            .collect();
        assert_eq!(found, [0x0a, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029]);
    }

    #[test]
    fn carriage_return_and_line_feed_are_one_break_and_the_last_break_begins_no_line() {
        assert_eq!(lines("a\r\nb\n\rc\r\n"), ["a", "b", "", "c"]);
        assert_eq!(lines(""), [""; 0]);
        assert_eq!(lines("\n\n"), ["", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_break_no_line() {
        for bytes in [
            &b"a\xc2b"[..],
            b"\xe2\x80",
            b"\xe2\x80\xa7x",
            b"\xff\x85",
            b"\xc2",
            b"\x80\xa8",
        ] {
            assert_eq!(split_lines(bytes).collect::<Vec<_>>(), [bytes]);
        }
    }
}
