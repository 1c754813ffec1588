//! A connection's byte stream, with timeouts and JSON bodies for hyper's own errors.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::head_timer::HeadTimer;

/// A stream with a read and a write timeout, which adds a JSON body to hyper's own errors.
///
/// hyper has no write timeout: a peer that does not read would hold its connection for ever. hyper
/// also answers unreadable or too large requests itself, without a body, while Courier's SDKs expect
/// JSON on every error. The broker's own errors always have a body, so a head without one is hyper's.
pub struct GuardedStream<S> {
    stream: S,
    /// The longest time without progress in writing.
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// The read timeout of heads; `None` for HTTP/2, which has its own.
    head_timer: Option<HeadTimer>,
    /// The rewritten error that is being sent.
    rewritten: Bytes,
    /// Whether the output may contain hyper's own errors.
    speaks_http1: bool,
}

const ERROR: &[u8] = b"HTTP/1.1 4";
const EMPTY_BODY: &str = "content-length: 0\r\n";

impl<S> GuardedStream<S> {
    /// Wraps a connection that speaks HTTP/1.1.
    pub const fn new(stream: S, write_timeout: Duration, head_timer: HeadTimer) -> Self {
        let head_timer = Some(head_timer);
        Self { stream, write_timeout, stalled: None, head_timer, rewritten: Bytes::new(), speaks_http1: true }
    }

    /// Wraps an HTTP/2 connection, whose errors are not text.
    pub const fn for_http2(stream: S, write_timeout: Duration) -> Self {
        Self { stream, write_timeout, stalled: None, head_timer: None, rewritten: Bytes::new(), speaks_http1: false }
    }

    /// Passes the outcome on, or fails after too long without progress.
    fn with_write_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Adds a JSON body to the head of an error without one.
fn add_json_body(head: &[u8]) -> Option<String> {
    if !head.starts_with(ERROR) {
        return None;
    }
    let (before, after) = std::str::from_utf8(head).ok()?.split_once(EMPTY_BODY)?;
    let reason = before.lines().next()?.strip_prefix("HTTP/1.1 ")?;
    let message = format!("malformed or too large request ({reason})");
    let body = json!({ "message": message, "type": "invalid_request_error" }).to_string();
    let length = body.len();
    let added = "content-type: application/json\r\ncache-control: no-store\r\nx-should-retry: false\r\n";
    Some(format!("{before}{added}content-length: {length}\r\n{after}{body}"))
}

impl<S: AsyncWrite + Unpin> GuardedStream<S> {
    fn poll_rewritten(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rewritten.has_remaining() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.rewritten);
            let written = ready!(self.with_write_timeout(context, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rewritten.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &mut self.head_timer {
            Some(timer) if read.is_pending() => {
                ready!(timer.poll_expired(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Some(timer) if buffer.filled().len() > before => timer.on_bytes(),
            _ => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rewritten(context))?;
        if self.speaks_http1
            && let Some(head) = slices.first()
            && let Some(rewritten) = add_json_body(head)
        {
            self.rewritten = rewritten.into();
            return Poll::Ready(Ok(head.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.with_write_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rewritten(context))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.with_write_timeout(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rewritten(context))?;
        // TLS sends a message for this too.
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.with_write_timeout(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn guarded<S>(stream: S) -> GuardedStream<S> {
        const MINUTE: Duration = Duration::from_secs(60);
        GuardedStream::new(stream, MINUTE, HeadTimer::new(Arc::default(), MINUTE))
    }

    async fn sent(writes: &[&str]) -> String {
        // A pipe so narrow that nothing goes through it in one piece.
        let (near, mut far) = tokio::io::duplex(7);
        let writing = async move {
            let mut stream = guarded(near);
            for bytes in writes {
                stream.write_all(bytes.as_bytes()).await.expect("written");
            }
            stream.shutdown().await.expect("closed");
        };
        let mut text = String::new();
        let (_, read) = tokio::join!(writing, far.read_to_string(&mut text));
        read.expect("text");
        text
    }

    #[tokio::test]
    async fn error_without_body_gets_json() {
        let text =
            sent(&["HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n"]).await;
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json"));
        assert!(head.ends_with(&format!("content-length: {}\r\ndate: x", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["type"], "invalid_request_error");
    }

    #[tokio::test]
    async fn other_output_is_unchanged() {
        let answers = [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n",
            "{}",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ];
        assert_eq!(sent(&answers).await, answers.concat());
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_does_not_read_times_out() {
        let (near, far) = tokio::io::duplex(7);
        let mut stream = guarded(near);
        let written = stream.write_all(b"more than goes into the pipe").await;
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        drop(far);
    }
}
