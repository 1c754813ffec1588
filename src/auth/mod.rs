//! Who calls.

mod client_keys;
mod inbound;

pub use client_keys::{Client, ClientKeys, Digest, DigestError, Rejection, generate_key, has_jwt_shape};
pub use inbound::InboundRate;
