//! Accepting, limiting and shutting down connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::connection::serve_connection;
use super::socket::{Accepted, Socket};
use super::state::{Answer, ListenerLimits, ListenerState};
use super::tls::Tls;
use crate::clock::Clock;
use crate::metrics::{Dropped, Metrics};

/// Accepts connections from a socket: HTTP/1.1, and with TLS HTTP/2 too.
pub struct Listener {
    socket: Socket,
    state: Arc<ListenerState>,
    /// Connection permits that several listeners share.
    shared: Arc<Semaphore>,
}

/// The pause after a failed `accept`: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    /// Creates a listener. Each connection takes one of the `shared` permits. `tls` applies to TCP
    /// only.
    pub fn new(
        socket: Socket,
        limits: ListenerLimits,
        shared: Arc<Semaphore>,
        tls: Option<Arc<Tls>>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tls = tls.filter(|_| socket.is_tcp());
        Self { socket, state: Arc::new(ListenerState::new(limits, tls, clock, metrics)), shared }
    }

    /// The IP address and port, if it has them; a port of 0 is replaced by the chosen one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.address()
    }

    /// Whether connections must use TLS.
    pub fn is_tls(&self) -> bool {
        self.state.tls.is_some()
    }

    /// Serves requests until `stop` resolves. `answer` gets the peer's IP address, if there is one.
    ///
    /// Then it accepts no more, lets every connection finish its open requests, and returns when all
    /// have ended. It sets no deadline; dropping it stops at once.
    pub async fn serve(self, answer: impl Answer, stop: impl Future<Output = ()>) {
        let Self { socket, state, shared } = self;
        let own_permits = Arc::new(Semaphore::new(state.limits.connections));
        let open = StopOnDrop(Arc::new(Connections::default()));
        let mut stop = pin!(stop);
        let mut failing = false;
        loop {
            let accepted = async {
                let own = Arc::clone(&own_permits).acquire_owned().await;
                let shared = Arc::clone(&shared).acquire_owned().await;
                (own.and_then(|own| Ok([own, shared?])), socket.accept().await)
            };
            let (permits, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            // The semaphores are never closed.
            let Ok(permits) = permits else { break };
            match accepted {
                Ok(accepted) => {
                    failing = false;
                    open.0.spawn(accepted, answer.clone(), &state, permits);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept connections; retrying");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(socket);
        open.0.stop_all();
        let all = u32::try_from(state.limits.connections).unwrap_or(u32::MAX);
        // When every permit is back, every connection has ended.
        let _ = own_permits.acquire_many(all).await;
    }
}

/// Writes a URL, or the path of a Unix socket.
impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address(), self.is_tls()) {
            (None, _) => self.socket.fmt(out),
            (Some(address), false) => write!(out, "http://{address}"),
            (Some(address), true) => write!(out, "https://{address}"),
        }
    }
}

/// The open connections, for shutdown. The lock is taken when one opens or closes, not for requests.
#[derive(Default)]
struct Connections(Mutex<Open>);

#[derive(Default)]
struct Open {
    opened: u64,
    stops: HashMap<u64, oneshot::Sender<()>>,
    /// Connections of each client subnet, where that is limited.
    peers: HashMap<IpAddr, u32>,
}

struct StopOnDrop(Arc<Connections>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop_all();
    }
}

impl Connections {
    fn spawn(
        self: &Arc<Self>,
        accepted: Accepted,
        answer: impl Answer,
        state: &Arc<ListenerState>,
        permits: [OwnedSemaphorePermit; 2],
    ) {
        let most = state.limits.connections_per_ip;
        let peer = match &accepted {
            Accepted::Tcp(_, address) if most > 0 => Some(client_subnet(*address)),
            _ => None,
        };
        let (stop_sender, stop) = oneshot::channel();
        let mut open = self.0.lock();
        if let Some(peer) = peer {
            let count = open.peers.entry(peer).or_default();
            if *count >= most {
                drop(open);
                state.metrics.connections_dropped_total[Dropped::PerIp].inc();
                return;
            }
            *count += 1;
        }
        let id = open.opened;
        open.opened += 1;
        open.stops.insert(id, stop_sender);
        drop(open);
        let guard = RemoveOnDrop { connections: Arc::clone(self), id, peer, _permits: permits };
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let _guard = guard;
            serve_connection(accepted, state, answer, stop).await;
        });
    }

    /// Lets every connection finish its open requests.
    fn stop_all(&self) {
        self.0.lock().stops.clear();
    }
}

/// Removes a connection from the list, however its task ends.
struct RemoveOnDrop {
    connections: Arc<Connections>,
    id: u64,
    peer: Option<IpAddr>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let mut open = self.connections.0.lock();
        open.stops.remove(&self.id);
        if let Some(peer) = self.peer
            && let Entry::Occupied(mut count) = open.peers.entry(peer)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The unit of the limit per IP: an IPv4 address, or an IPv6 /64, whose addresses cost nothing.
fn client_subnet(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_subnet_count_together() {
        let of = |text: &str| client_subnet(text.parse().expect("an address")).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
