//! A connection of the load generator: plain or TLS, HTTP/1.1 or HTTP/2.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::http2::Http2;
use super::pki::HOST;

/// Larger than all answers of an HTTP/2 connection together.
const BUFFER: usize = 64 * 1024;

/// A request in HTTP/1.1, of which HTTP/2 sends the body alone.
pub struct Request {
    bytes: Vec<u8>,
    body: usize,
}

impl Request {
    /// A `POST` with this bearer.
    pub fn new(path: &str, bearer: &str, body: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\n\
             Authorization: Bearer {bearer}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self { body: head.len(), bytes: [head.as_bytes(), body.as_bytes()].concat() }
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }
}

/// A connection that does not block.
pub struct Connection {
    stream: Stream,
    /// `None` for HTTP/1.1.
    http2: Option<Http2>,
    /// The bytes to send.
    out: Vec<u8>,
    buffer: Box<[u8]>,
    filled: usize,
    /// The requests without an answer, each with its stream and the time from which its latency counts.
    pending: Vec<(u32, Instant)>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Opens a connection, with TLS if there are settings for it.
    pub fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, is_http2: bool) -> Self {
        let mut socket = TcpStream::connect(address).expect("a connection");
        socket.set_nodelay(true).expect("an option of every TCP socket");
        let mut session = tls.map(|config| {
            let name = ServerName::try_from(HOST).expect("a name");
            ClientConnection::new(Arc::clone(config), name).expect("settings of a client")
        });
        if let Some(session) = &mut session {
            while session.is_handshaking() {
                session.complete_io(&mut socket).expect("a handshake");
            }
        }
        socket.set_nonblocking(true).expect("an option of every socket");
        let stream = match session {
            Some(session) => Stream::Tls(Box::new(StreamOwned::new(session, socket))),
            None => Stream::Plain(socket),
        };
        let mut out = Vec::new();
        let http2 = is_http2.then(|| Http2::begin(&mut out));
        Self { stream, http2, out, buffer: vec![0; BUFFER].into(), filled: 0, pending: Vec::new() }
    }

    /// Adds a request to what [`Connection::flush`] sends.
    pub fn add(&mut self, request: &Request, since: Instant) {
        let stream = match &mut self.http2 {
            Some(http2) => http2.write(request.body(), &mut self.out),
            None => {
                self.out.extend_from_slice(&request.bytes);
                0
            }
        };
        self.pending.push((stream, since));
    }

    /// Sends what was added. It is little, so the kernel takes it at once.
    pub fn flush(&mut self) {
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "the server reads"),
            }
        }
        self.out.clear();
    }

    /// Reads what has come; calls `answered` for each request that got its answer.
    pub fn read(&mut self, mut answered: impl FnMut(Instant)) {
        // A part of what TLS has read may wait in this process, where epoll does not see it.
        let is_tls = matches!(self.stream, Stream::Tls(_));
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
            let mut done = 0;
            while let Some((length, ended)) = match &mut self.http2 {
                Some(_) => Http2::next_frame(&self.buffer[done..self.filled], &mut self.out),
                None => answer_length(&self.buffer[done..self.filled]).map(|length| (length, Some(0))),
            } {
                done += length;
                if let Some(place) = self.pending.iter().position(|(stream, _)| Some(*stream) == ended) {
                    answered(self.pending.swap_remove(place).1);
                }
            }
            self.buffer.copy_within(done..self.filled, 0);
            self.filled -= done;
            if !is_tls {
                return;
            }
        }
    }

    /// The beginning of the last answer in HTTP/1.1, in lower case.
    pub fn last_head(&self) -> String {
        let text = String::from_utf8_lossy(&self.buffer[..BUFFER.min(1024)]).to_ascii_lowercase();
        text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Plain(socket) => socket.as_fd(),
            Stream::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }
}

/// The length of the answer at the beginning of these bytes, if all of it is there.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut body = 0;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.len() <= 1 {
            assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
            let length = bytes.len() - rest.len() + body;
            return (length <= bytes.len()).then_some(length);
        }
        let name = b"content-length:";
        if line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name) {
            let digits = line[name.len()..].iter().filter(|byte| byte.is_ascii_digit());
            body = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        }
    }
}
