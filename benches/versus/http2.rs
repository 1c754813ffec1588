//! The little of HTTP/2 that a load generator needs: the same request again and again, in few instructions.

use super::support::CLIENT_KEY;

/// The state of a connection.
pub struct Http2 {
    next_stream: u32,
    /// The header block of all requests but the first: the server has its fields in its dynamic table.
    block: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Of DATA and HEADERS: the last frame of a request or an answer.
const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The length of a frame's header.
const HEADER: usize = 9;

impl Http2 {
    /// Begins a connection, with a window that all answers of a measurement fit into.
    pub fn begin(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(SETTINGS, 0, 0, &[], out);
        frame(WINDOW_UPDATE, 0, 0, &((1_u32 << 31) - 65_536).to_be_bytes(), out);
        Self { next_stream: 1, block: Vec::new() }
    }

    /// Writes a request with this body; returns its stream.
    pub fn write(&mut self, body: &[u8], out: &mut Vec<u8>) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        if self.block.is_empty() {
            let (first, later) = header_blocks(body.len());
            frame(HEADERS, END_HEADERS, stream, &first, out);
            self.block = later;
        } else {
            frame(HEADERS, END_HEADERS, stream, &self.block, out);
        }
        frame(DATA, END_STREAM, stream, body, out);
        stream
    }

    /// Handles the first frame of these bytes, if all of it is there; returns its length, and the stream that it ends.
    pub fn next_frame(bytes: &[u8], out: &mut Vec<u8>) -> Option<(usize, Option<u32>)> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [high, middle, low, kind, flags, stream @ ..] = *header;
        let length = HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        let payload = bytes.get(HEADER..length)?;
        let stream = u32::from_be_bytes(stream);
        match kind {
            // After changes of the dynamic table's size, `:status: 200` is one byte.
            HEADERS => assert_eq!(payload.iter().find(|byte| **byte & 0xe0 != 0x20), Some(&0x88), "status 200"),
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
            // Without an error: nginx answers before it has read the body.
            RST_STREAM => assert_eq!(payload, [0; 4], "the stream ends without an error"),
            DATA | SETTINGS | PING | WINDOW_UPDATE => {}
            _ => panic!("a frame of type {kind}: {payload:?}"),
        }
        let ended = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        Some((length, ended.then_some(stream)))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The header block of the first request, which puts its fields into the server's dynamic table, and that of the others.
fn header_blocks(length: usize) -> (Vec<u8>, Vec<u8>) {
    let (length, bearer) = (length.to_string(), format!("Bearer {CLIENT_KEY}"));
    let fields = [
        (":authority", "127.0.0.1:8080"),
        (":path", "/auth/issue-token"),
        ("user-agent", "bench"),
        ("accept", "application/json"),
        ("authorization", &bearer),
        ("content-type", "application/json"),
        ("content-length", &length),
    ];
    // `:method: POST` and `:scheme: https` of the static table.
    let (mut first, mut later) = (vec![0x83, 0x87], vec![0x83, 0x87]);
    for (place, (name, value)) in fields.iter().enumerate() {
        first.push(0x40);
        for text in [name, value] {
            assert!(text.len() < 127, "its length is one byte");
            first.push(text.len() as u8);
            first.extend_from_slice(text.as_bytes());
        }
        // The newest field has the first index after the static table's 61.
        later.push(0x80 | (61 + fields.len() - place) as u8);
    }
    (first, later)
}
