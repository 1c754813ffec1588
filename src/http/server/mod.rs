//! The transport: sockets, TLS, connections and their limits. It knows no route.

mod address;
mod connection;
mod head_timer;
mod listener;
mod socket;
mod stream;
mod tls;
mod validity;

pub use address::Address;
pub use connection::{Cancelled, Overload};
pub use listener::{Limits, Listener};
pub use socket::{Passed, Socket};
pub use tls::{CertificateError, Certificates, PeerNames, Tls, TlsFiles};
