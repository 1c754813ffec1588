//! The bytes that an HTTP/2 connection reads at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::activity::Activity;

/// The most bytes that a connection without a success reads at a time: two requests at their smallest.
const OF_STRANGER: usize = 32;
/// The most bytes that any other connection reads at a time: the requests of a busy one, and a hundred at their smallest.
const OF_KNOWN: usize = 2048;

/// A limit of the bytes that are read before the connection's task lets others run.
///
/// hyper accepts all requests that it has read in one step, and a request takes as few as fifteen bytes.
pub struct Pieces {
    activity: Arc<Activity>,
    /// The bytes read since other tasks could run.
    read: usize,
}

impl Pieces {
    /// The limit of a new connection.
    pub const fn new(activity: Arc<Activity>) -> Self {
        Self { activity, read: 0 }
    }

    /// Reads from the connection, or wakes its task and waits where it has read a whole piece.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = if self.activity.has_succeeded() { OF_KNOWN } else { OF_STRANGER };
        let before = std::mem::take(&mut self.read);
        if before >= most {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = buffer.remaining().min(most - before);
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(length));
        ready!(Pin::new(stream).poll_read(context, &mut piece))?;
        let read = piece.filled().len();
        buffer.advance(read);
        self.read = before + read;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;

    /// Reads until it has to wait; returns the number of bytes.
    fn read(pieces: &mut Pieces, stream: &mut &[u8]) -> usize {
        let (mut space, mut context) = ([0; 8192], Context::from_waker(noop_waker_ref()));
        let mut buffer = ReadBuf::new(&mut space);
        loop {
            let before = buffer.filled().len();
            match pieces.poll_read(stream, &mut context, &mut buffer) {
                Poll::Ready(read) => read.expect("a slice"),
                Poll::Pending => return before,
            }
            if buffer.filled().len() == before {
                return before;
            }
        }
    }

    #[test]
    fn stranger_reads_a_smaller_piece_at_a_time() {
        let activity = Arc::new(Activity::new(0));
        let (mut pieces, mut stream) = (Pieces::new(Arc::clone(&activity)), &[0; 5000][..]);
        assert_eq!([(); 2].map(|()| read(&mut pieces, &mut stream)), [OF_STRANGER; 2]);
        activity.succeed();
        let rest = 5000 - 2 * OF_STRANGER - 2 * OF_KNOWN;
        assert_eq!([(); 3].map(|()| read(&mut pieces, &mut stream)), [OF_KNOWN, OF_KNOWN, rest]);
    }
}
