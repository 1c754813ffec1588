//! A request's body from the network.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::activity::Activity;
use super::quiet_waker::hold_back;

/// A request's body. While it is awaited, the next step is the peer's, and the connection counts as idle.
pub struct RequestBody {
    body: Incoming,
    activity: Arc<Activity>,
    is_awaited: bool,
}

impl RequestBody {
    /// The body of a request of this connection.
    pub const fn new(body: Incoming, activity: Arc<Activity>) -> Self {
        Self { body, activity, is_awaited: false }
    }

    fn set_awaited(&mut self, is_awaited: bool) {
        match (self.is_awaited, is_awaited) {
            (false, true) => self.activity.await_peer(),
            (true, false) => self.activity.stop_awaiting_peer(),
            _ => {}
        }
        self.is_awaited = is_awaited;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (frame, was_held_back) = hold_back(|| Pin::new(&mut self.body).poll_frame(context));
        if was_held_back && !self.body.is_end_stream() {
            context.waker().wake_by_ref();
        }
        self.set_awaited(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_awaited(false);
    }
}
