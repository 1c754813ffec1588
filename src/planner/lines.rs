//! A line reader for input that may be huge, gzipped or binary.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

/// Reads lines of plain text or gzip (one or more members) in bounded memory.
pub(super) struct Lines<'a> {
    text: Box<dyn BufRead + 'a>,
    packed: bool,
    /// Bytes read from the input, before decompression.
    bytes: Rc<Cell<u64>>,
    line: Vec<u8>,
    number: u64,
    within_long: bool,
}

/// The next line, or a piece of one.
pub(super) enum Line<'a> {
    /// A line without its end.
    Whole(&'a [u8]),
    /// The beginning of a line that is longer than [`Lines::MAX_BYTES`].
    TooLong(&'a [u8]),
    /// A further piece of the same line. The caller must limit them: a gzip bomb may unpack to
    /// an endless line.
    More,
}

impl<'a> Lines<'a> {
    /// The longest line including its end, in bytes.
    pub(super) const MAX_BYTES: u64 = 64 << 10;
    const BUFFER: usize = 128 << 10;

    /// Detects gzip by the first bytes.
    pub(super) fn new(mut input: impl Read + 'a) -> io::Result<Self> {
        let mut start = Vec::new();
        input.by_ref().take(2).read_to_end(&mut start)?;
        let packed = start == [0x1f, 0x8b];
        let bytes = Rc::default();
        let input = Counted { input: Cursor::new(start).chain(input), bytes: Rc::clone(&bytes) };
        let input = BufReader::with_capacity(Self::BUFFER, input);
        let text: Box<dyn BufRead + 'a> = match packed {
            true => Box::new(BufReader::with_capacity(Self::BUFFER, MultiGzDecoder::new(input))),
            false => Box::new(input),
        };
        Ok(Self { text, packed, bytes, line: Vec::new(), number: 0, within_long: false })
    }

    /// The next line or piece of one, with its number from 1.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.line.clear();
        let read = (&mut self.text).take(Self::MAX_BYTES).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        let whole = self.line.last() == Some(&b'\n') || (read as u64) < Self::MAX_BYTES;
        let continued = std::mem::replace(&mut self.within_long, !whole);
        if continued {
            return Ok(Some((self.number, Line::More)));
        }
        self.number += 1;
        let line = if whole { Line::Whole(self.stripped()) } else { Line::TooLong(&self.line) };
        Ok(Some((self.number, line)))
    }

    fn stripped(&self) -> &[u8] {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line }
    }

    /// The number of the last line.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The bytes of the input that were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether this error means that the gzip data is corrupt.
    pub(super) fn is_corrupt(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        self.packed && matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
    }
}

struct Counted<R> {
    input: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

/// Compresses a text, for tests.
#[cfg(test)]
pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::bufread::GzEncoder::new(text, flate2::Compression::fast());
    let mut bytes = Vec::new();
    packed.read_to_end(&mut bytes).expect("room");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines as texts, with marks for the pieces of long ones.
    fn lines(input: impl Read) -> Vec<String> {
        let mut lines = Lines::new(input).expect("a start");
        let mut found = Vec::new();
        while let Some((_, line)) = lines.next().expect("a line") {
            found.push(match line {
                Line::Whole(line) => line.escape_ascii().to_string(),
                Line::TooLong(_) => "<too long>".to_owned(),
                Line::More => "<more>".to_owned(),
            });
        }
        found
    }

    /// A reader of one byte at a time, interrupted before each.
    struct Dripping<'a>(&'a [u8], bool);

    impl Read for Dripping<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.by_ref().take(1).read(into) }
        }
    }

    #[test]
    fn lines_end_with_lf_or_crlf() {
        for text in ["a\n\nb\n", "a\r\n\r\nb\r\n", "a\n\r\nb", "\u{feff}a\n\nb"] {
            assert_eq!(lines(text.as_bytes()), ["a", "", "b"], "{text:?}");
            assert_eq!(lines(Dripping(text.as_bytes(), false)), ["a", "", "b"], "{text:?}");
        }
        assert!(lines(&b""[..]).is_empty());
        assert_eq!(lines(&b"x"[..]), ["x"]);
        assert_eq!(lines(&b"\n\xef\xbb\xbf\n"[..]), ["", r"\xef\xbb\xbf"]);
    }

    #[test]
    fn long_line_comes_in_pieces_in_bounded_memory() {
        let max = Lines::MAX_BYTES as usize;
        let long = |length| [vec![b'x'; length], b"\nnext".to_vec()].concat();
        assert_eq!(lines(&long(max - 1)[..])[1..], ["next"]);
        assert_eq!(lines(&long(max)[..]), ["<too long>", "<more>", "next"]);
        assert_eq!(lines(&long(2 * max - 1)[..]), ["<too long>", "<more>", "next"]);
        assert_eq!(lines(&vec![b'x'; 2 * max][..]), ["<too long>", "<more>"]);
        let mut lines = Lines::new(io::repeat(0)).expect("a start");
        for _ in 0..1000 {
            assert!(matches!(lines.next(), Ok(Some((1, Line::TooLong(_) | Line::More)))));
        }
        assert!(lines.line.capacity() <= 2 * max);
    }
}
