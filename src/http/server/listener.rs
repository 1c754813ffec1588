//! Accepting, limiting and shutting down connections.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::connection::serve_connection;
use super::connections::{Connections, SubnetFull, SubnetGuard};
use super::socket::{Accepted, Socket};
use super::state::{Answer, ListenerLimits, ListenerState};
use super::tls::Tls;
use super::turns::Turns;
use crate::clock::Clock;
use crate::metrics::{Dropped, Metrics};

/// Accepts connections from a socket: HTTP/1.1, and with TLS HTTP/2 too.
pub struct Listener {
    socket: Socket,
    state: Arc<ListenerState>,
}

/// The pause after a failed `accept`: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    /// Creates a listener, whose connections count among these. `tls` applies to TCP only.
    pub fn new(
        socket: Socket,
        limits: Arc<ArcSwap<ListenerLimits>>,
        connections: Arc<Connections>,
        tls: Option<Arc<Tls>>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tls = tls.filter(|_| socket.is_tcp());
        let id = connections.add_listener();
        Self {
            socket,
            state: Arc::new(ListenerState { limits, tls, turns: Turns::default(), clock, metrics, connections, id }),
        }
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
        let Self { socket, state } = self;
        let most = state.limits.load().connections;
        let own_permits = Arc::new(Semaphore::new(most));
        let stopping = StopOnDrop(Arc::clone(&state));
        let mut stop = pin!(stop);
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = socket.accept() => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept connections; retrying");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            // First, so that a subnet that is full closes no connection of others.
            let Ok(subnet) = count_subnet(&accepted, &state) else {
                state.metrics.connections_dropped_total[Dropped::PerIp].inc();
                continue;
            };
            let count = || state.metrics.connections_dropped_total[Dropped::Idle].inc();
            let permits = tokio::select! {
                // An accepted connection is not dropped at a stop while there is room.
                biased;
                permits = state.connections.make_room(state.id, &own_permits, count) => permits,
                () = &mut stop => break,
            };
            let Some(permits) = permits else { break };
            let (guard, activity, stop) = state.connections.add(state.id, subnet, permits);
            let (state, answer) = (Arc::clone(&state), answer.clone());
            tokio::spawn(async move {
                let _guard = guard;
                serve_connection(accepted, state, answer, (activity, stop)).await;
            });
        }
        drop(socket);
        drop(stopping);
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        // When every permit is back, every connection has ended.
        let _ = own_permits.acquire_many(all).await;
    }
}

/// Counts a connection for its subnet, if that is limited.
fn count_subnet(accepted: &Accepted, state: &ListenerState) -> Result<Option<SubnetGuard>, SubnetFull> {
    let most = state.limits.load().connections_per_ip;
    match accepted {
        Accepted::Tcp(_, address) if most > 0 => {
            state.connections.count_subnet(state.id, client_subnet(*address), most).map(Some)
        }
        _ => Ok(None),
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

/// Lets the connections finish at the end.
struct StopOnDrop(Arc<ListenerState>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.connections.stop_all(self.0.id);
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
