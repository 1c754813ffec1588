//! The transport: sockets, TLS, connections and their limits. It knows no route.

mod activity;
mod address;
mod certificates;
mod connection;
mod connections;
mod host;
mod listener;
mod pieces;
mod quiet_waker;
mod read_timer;
mod request_body;
mod socket;
mod state;
mod stream;
mod streams;
mod tls;
mod turns;
mod validity;

pub use address::Address;
pub use certificates::{CertificateError, Certificates, TlsFiles};
pub use connections::Connections;
pub use listener::Listener;
pub use request_body::RequestBody;
pub use socket::{Passed, Socket};
pub use state::{BadHost, Cancelled, ListenerLimits};
pub use tls::{PeerNames, Tls};
