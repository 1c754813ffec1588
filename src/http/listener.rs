//! Connections: accepted, bounded, and let end in peace.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::body::Reply;
use super::stream::Guarded;

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// The most bytes of a request's path and headers, at least 1024.
    pub header_bytes: usize,
    /// The longest that a request's headers may take to arrive, that a connection
    /// may be idle, and that a peer may read nothing of what it is sent.
    pub header_timeout: Duration,
}

/// Takes HTTP/1.1 connections from a socket.
pub struct Listener {
    socket: TcpListener,
    limits: Limits,
}

/// When stopping, how long a connection may take that is in no request.
const GRACE: Duration = Duration::from_secs(1);
/// After a failed `accept`: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    /// Listens on an address.
    pub async fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, limits })
    }

    /// Where it listens: with the port that was chosen, if it was to choose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Answers requests until `stop` resolves. Then it accepts nothing more, lets
    /// every connection finish the request that it is in, and returns when all
    /// have ended. It sets no deadline to that: dropping it is a stop too, which
    /// waits for nothing.
    pub async fn serve<F, A>(self, answer: F, stop: impl Future<Output = ()>)
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Reply>> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let open = EndOnDrop(Arc::new(Connections::default()));
        let mut stop = pin!(stop);
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, self.socket.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { break };
            match accepted {
                Ok((stream, _)) => open.0.spawn(stream, answer.clone(), self.limits, permit),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        open.0.end();
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        // When every permit is back, every connection has ended.
        let _ = room.acquire_many(all).await;
    }
}

/// The open connections, to be told when to end. The lock is taken when one
/// opens or closes, not for requests.
#[derive(Default)]
struct Connections(Mutex<Open>);

#[derive(Default)]
struct Open {
    opened: u64,
    ends: HashMap<u64, oneshot::Sender<()>>,
}

struct EndOnDrop(Arc<Connections>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Connections {
    fn spawn<F, A>(self: &Arc<Self>, stream: TcpStream, answer: F, limits: Limits, permit: OwnedSemaphorePermit)
    where
        F: Fn(Request<Incoming>) -> A + Send + 'static,
        A: Future<Output = Response<Reply>> + Send + 'static,
    {
        let (end, told) = oneshot::channel();
        let mut open = self.open();
        let id = open.opened;
        open.opened += 1;
        open.ends.insert(id, end);
        drop(open);
        let closing = Closing { connections: Arc::clone(self), id, _permit: permit };
        tokio::spawn(async move {
            let _closing = closing;
            converse(stream, answer, limits, told).await;
        });
    }

    /// Lets every connection finish the request that it is in.
    fn end(&self) {
        self.open().ends.clear();
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list, however its task ends.
struct Closing {
    connections: Arc<Connections>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.connections.open().ends.remove(&self.id);
    }
}

async fn converse<F, A>(stream: TcpStream, answer: F, limits: Limits, mut told: oneshot::Receiver<()>)
where
    F: Fn(Request<Incoming>) -> A + Send + 'static,
    A: Future<Output = Response<Reply>> + Send + 'static,
{
    // Answers are small: waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let busy = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&busy);
    let service = service_fn(move |request| {
        // Boxed: it is large, and would be moved about by everything it goes through.
        let (answered, busy) = (Box::pin(answer(request)), Arc::clone(&answering));
        async move {
            busy.store(true, Ordering::Relaxed);
            let response = answered.await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // hyper takes no less than 8 KiB. What is read of a body comes on top.
        .max_buf_size(limits.header_bytes.saturating_add(8192))
        .serve_connection(TokioIo::new(Guarded::new(stream, limits.header_timeout)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        // Told by the sender's end, whether it was used or dropped.
        _ = &mut told => {
            connection.as_mut().graceful_shutdown();
            // hyper would wait for the rest of half a head too.
            loop {
                match tokio::time::timeout(GRACE, &mut connection).await {
                    Ok(ended) => break ended,
                    Err(_) if !busy.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
