//! HTTP/1.1 by hand: a test controls each byte, including bytes that no HTTP client would send.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The key of a client that may ask for everything, which requests have by default.
pub const CLIENT_KEY: &str = "ctb_the-key-of-a-client";
/// The longest that a test waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A port that refuses connections while the socket is kept. A released port could become another test's server.
pub fn refusing_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// A request; by default with a valid client key and media type.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    chunked: bool,
}

impl HttpRequest {
    pub fn new(method: &str, target: &str) -> Self {
        let ask = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
        };
        ask.header("Host", "localhost").header("Authorization", format!("Bearer {CLIENT_KEY}"))
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", target) }.header("Content-Type", "application/json")
    }

    /// Sets another method.
    pub fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    /// `POST /auth/issue-token`
    pub fn issue(body: impl Into<Vec<u8>>) -> Self {
        Self::post("/auth/issue-token", body)
    }

    /// `POST /api/generate-courier-jwt`
    pub fn frontend(body: impl Into<Vec<u8>>) -> Self {
        Self::post("/api/generate-courier-jwt", body)
    }

    /// `POST /v1/tokens`
    pub fn tokens(body: impl Into<Vec<u8>>) -> Self {
        Self::post("/v1/tokens", body)
    }

    /// `DELETE /workspaces/{workspace}/tokens` of the admin listener.
    pub fn purge(workspace: &str) -> Self {
        Self::new("DELETE", &format!("/workspaces/{workspace}/tokens")).header("Confirm", "purge")
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// Sets a header, replacing those of its name.
    pub fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).header(name, value)
    }

    pub fn key(self, key: &str) -> Self {
        self.with("Authorization", format!("Bearer {key}"))
    }

    /// Sends the body in one chunk, without a `Content-Length`.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The bytes before the body.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        let framed = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
        if self.chunked {
            bytes.extend(b"Transfer-Encoding: chunked\r\n");
        } else if !framed && (self.method == "POST" || !self.body.is_empty()) {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// All bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if self.chunked && !self.body.is_empty() {
            bytes.extend(format!("{:x}\r\n", self.body.len()).into_bytes());
            bytes.extend(&self.body);
            bytes.extend(b"\r\n");
        } else if !self.chunked {
            bytes.extend(&self.body);
        }
        if self.chunked {
            bytes.extend(b"0\r\n\r\n");
        }
        bytes
    }
}

/// A connection to a listener.
pub struct Connection<S = TcpStream> {
    stream: S,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the listener accepts");
        stream.set_nodelay(true).expect("a socket");
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Wraps an open stream.
    pub const fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
        self.stream.flush().await.expect("the connection is open");
    }

    /// Sends a request and reads its answer concurrently: a broker that refuses a large body need not read it.
    pub async fn ask(&mut self, ask: &HttpRequest) -> Answer {
        let bytes = ask.bytes();
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let write = async {
            // If sending fails, the answer has the reason.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = write => unreachable!("it waits for ever"),
            answer = read_answer(&mut reader, &mut self.read, ask.is_head()) => answer,
        }
    }

    /// Reads the answer to a request that was sent before.
    pub async fn answer(&mut self) -> Answer {
        read_answer(&mut self.stream, &mut self.read, false).await
    }

    /// Reads until the peer closes the connection.
    pub async fn rest(mut self) -> Vec<u8> {
        // A reset also ends the connection.
        let ended = timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await;
        assert!(ended.is_ok(), "the connection is still open after {PATIENCE:?}");
        self.read
    }
}

async fn read_answer(reader: &mut (impl AsyncReadExt + Unpin), read: &mut Vec<u8>, is_head: bool) -> Answer {
    loop {
        if let Some((answer, length)) = Answer::parse(read, is_head) {
            read.drain(..length);
            return answer;
        }
        let mut buffer = [0; 16 * 1024];
        let got = timeout(PATIENCE, reader.read(&mut buffer)).await;
        match got.unwrap_or_else(|_| panic!("no answer came in {PATIENCE:?}")) {
            Ok(count) if count > 0 => read.extend(&buffer[..count]),
            ended => panic!("the connection ended ({ended:?}) after {:?}", String::from_utf8_lossy(read)),
        }
    }
}

/// Asks on a connection of its own.
pub async fn ask(address: SocketAddr, ask: &HttpRequest) -> Answer {
    Connection::open(address).await.ask(ask).await
}

pub async fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, &HttpRequest::get(target)).await
}

/// A request for the inbox token of this user.
pub fn inbox(user: &str) -> HttpRequest {
    HttpRequest::tokens(json!({"user_id": user, "profile": "inbox"}).to_string())
}

/// The value of one series of the metrics at this address, named as Prometheus writes it.
pub async fn metric(admin: SocketAddr, series: &str) -> f64 {
    let text = get(admin, "/metrics").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
}

/// Waits until the condition holds, for as long as a test waits for an answer.
pub async fn until(condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, holds).await.is_ok(), "it is not so after {PATIENCE:?}");
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// Parses the first whole answer in these bytes; returns it with its length.
    fn parse(bytes: &[u8], is_head: bool) -> Option<(Self, usize)> {
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
        let text = std::str::from_utf8(&bytes[..head]).expect("a head is text");
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let headers = lines
            .map(|line| line.split_once(": ").expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let status = status[..3].parse().expect("a status");
        let mut answer = Self { status, headers, body: String::new() };
        let length = match answer.header("content-length") {
            Some(length) if !is_head => length.parse().expect("a length"),
            Some(_) => 0,
            None if matches!(status, 100 | 204) || is_head => 0,
            None => panic!("an answer without a length: {text}"),
        };
        let body = bytes.get(head + 4..head + 4 + length)?;
        answer.body = String::from_utf8(body.to_vec()).expect("a body is text");
        Some((answer, head + 4 + length))
    }

    /// The header's value, if the header occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }

    /// The whole answer as one text.
    pub fn whole(&self) -> String {
        format!("{self:?}")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The token of an answer that must have one.
    #[track_caller]
    pub fn token(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["token"].as_str().expect("a token").to_owned()
    }

    /// The source in `Cache-Status`, without the time to live.
    #[track_caller]
    pub fn source(&self) -> String {
        let status = self.header("cache-status").unwrap_or_else(|| panic!("no Cache-Status in {self:?}"));
        let rest = status.strip_prefix("courier-token-broker; ").expect("the cache has a name");
        rest.split("; ").filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>().join("; ")
    }
}
