//! The transport: sockets, TLS, connections and their limits. It knows no route.

mod address;
mod certificates;
mod connection;
mod head_timer;
mod listener;
mod socket;
mod state;
mod stream;
mod tls;
mod validity;

pub use address::Address;
pub use certificates::{CertificateError, Certificates, TlsFiles};
pub use listener::Listener;
pub use socket::{Passed, Socket};
pub use state::{Cancelled, ListenerLimits, Overload};
pub use tls::{PeerNames, Tls};
