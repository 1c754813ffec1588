//! The HTTP interface: [`server`] for the transport, [`api`] for apps, [`admin`] for operators.

pub mod admin;
pub mod api;
mod log_limit;
mod response_body;
pub mod server;

pub use response_body::ResponseBody;
