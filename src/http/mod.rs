//! The HTTP interface: [`server`] for the transport, [`api`] for apps, [`admin`] for operators.

pub mod admin;
pub mod api;
mod reply;
pub mod server;

pub use reply::Reply;
