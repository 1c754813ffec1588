//! A connection's byte stream: its timeouts, and how it is written.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::pieces::Pieces;
use super::read_timer::ReadTimer;

/// How a connection is read.
pub enum Reads {
    /// With a timeout between requests, in HTTP/1.
    Timed(ReadTimer),
    /// In pieces, in HTTP/2, which has timeouts of its own.
    InPieces(Pieces),
}

/// A stream with limits for reading and a write timeout.
///
/// hyper has no write timeout: a peer that does not read would hold its connection for ever.
pub struct GuardedStream<S> {
    stream: S,
    /// The longest time without progress in writing.
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    reads: Reads,
}

impl<S> GuardedStream<S> {
    /// Wraps a connection.
    pub const fn new(stream: S, write_timeout: Duration, reads: Reads) -> Self {
        Self { stream, write_timeout, stalled: None, reads }
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

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_writing = self.stalled.is_some();
        let Self { stream, reads, .. } = &mut *self;
        let timer = match reads {
            Reads::Timed(timer) => timer,
            Reads::InPieces(pieces) => return pieces.poll_read(stream, context, buffer),
        };
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        if read.is_pending() {
            ready!(timer.poll_expired(context, is_writing));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if buffer.filled().len() > before {
            timer.on_bytes();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.with_write_timeout(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.with_write_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.with_write_timeout(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS sends a message for this too.
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.with_write_timeout(context, shut)
    }
}

/// A socket that writes one slice with `send`: the kernel needs less time for it than for `writev`, with which TLS would
/// write.
pub struct SendingStream<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for SendingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SendingStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [bytes] => Pin::new(&mut self.0).poll_write(context, bytes),
            _ => Pin::new(&mut self.0).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::activity::Activity;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt;

    fn pieces() -> Reads {
        Reads::InPieces(Pieces::new(Arc::new(Activity::new(0))))
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_does_not_read_times_out() {
        let (near, far) = tokio::io::duplex(7);
        let mut stream = GuardedStream::new(near, Duration::from_secs(60), pieces());
        let written = stream.write_all(b"more than goes into the pipe").await;
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        drop(far);
    }

    /// Counts the two ways of writing.
    #[derive(Default)]
    struct Counter {
        plain: usize,
        vectored: usize,
    }

    impl AsyncWrite for Counter {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.plain += 1;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.vectored += 1;
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn one_slice_is_written_without_a_vector() {
        let mut guarded = GuardedStream::new(Counter::default(), Duration::from_secs(60), pieces());
        guarded.write_all(b"an answer").await.expect("it takes all");
        assert_eq!((guarded.stream.plain, guarded.stream.vectored), (1, 0));
        let mut sending = SendingStream(Counter::default());
        let [one, other] = [IoSlice::new(b"a record"), IoSlice::new(b"another")];
        assert_eq!(sending.write_vectored(&[one]).await.expect("it takes all"), 8);
        assert_eq!((sending.0.plain, sending.0.vectored), (1, 0));
        assert_eq!(sending.write_vectored(&[one, other]).await.expect("it takes all"), 15);
        assert_eq!((sending.0.plain, sending.0.vectored), (1, 1));
    }
}
