//! The delivery of a response over the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Interval;

/// How a response is delivered over the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// All of it at once.
    #[default]
    Whole,
    /// The head and half of the body; then the connection is reset.
    CutOff,
    /// The head, and then a byte of the body each second.
    Dripping,
    /// The head, and then a body without end, as fast as it is read.
    Endless,
    /// No response, and the connection stays open.
    Never,
}

/// The body of a response with its delivery.
pub(super) struct Body {
    rest: Bytes,
    /// The bytes sent at a time.
    piece: usize,
    pace: Interval,
    delivery: Delivery,
}

impl Body {
    pub(super) fn new(body: String, delivery: Delivery) -> Self {
        let (piece, pause) = match delivery {
            Delivery::Dripping => (1, Duration::from_secs(1)),
            // Bytes sent right before the reset might not arrive.
            Delivery::CutOff => (body.len().div_ceil(2), Duration::from_millis(20)),
            Delivery::Whole | Delivery::Endless | Delivery::Never => (body.len(), Duration::from_secs(1)),
        };
        Self { rest: Bytes::from(body), piece, pace: tokio::time::interval(pause), delivery }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if matches!(self.delivery, Delivery::CutOff | Delivery::Dripping) {
            ready!(self.pace.poll_tick(cx));
        }
        let piece = self.piece.min(self.rest.len());
        Poll::Ready(match self.delivery {
            Delivery::Endless => Some(Ok(Frame::data(Bytes::from_static(&[b' '; 8192])))),
            Delivery::CutOff if self.rest.len() <= piece => Some(Err(io::ErrorKind::ConnectionReset.into())),
            _ if piece == 0 => None,
            _ => Some(Ok(Frame::data(self.rest.split_to(piece)))),
        })
    }

    fn size_hint(&self) -> SizeHint {
        match self.delivery {
            Delivery::Endless => SizeHint::default(),
            _ => SizeHint::with_exact(self.rest.len() as u64),
        }
    }
}
