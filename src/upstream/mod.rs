//! Calls to Courier.
//!
//! Every call goes through its workspace's [`Dispatcher`]: an [`Issuer`] demands a [`Permit`], which
//! only a dispatcher grants.
//!
//! `Dispatcher::issue` -> [`Courier`], over a connection of `connections` -> `answer`: what the status means ->
//! `claims`: the checks of the token -> back to the dispatcher, whose admission learns from each response.

pub mod answer;
mod call_count;
mod claims;
mod connections;
mod courier;
mod dispatcher;
mod failure;
mod generation;
mod http_client;
mod issuer;
mod notice;
mod permit;
mod retry_after;
mod settings;
mod suspects;
mod trace_parent;
mod unreachable;

pub use self::claims::{claimed_scope, is_jwt};
pub use self::courier::{Courier, CourierError, Transport};
pub use self::dispatcher::{Dispatcher, DispatcherSettings, DispatcherStatus};
pub use self::failure::Failure;
pub use self::http_client::HttpClientError;
pub use self::issuer::{Issuer, Issuing};
pub use self::notice::Tally;
pub use self::permit::{Party, PendingPermit, Permit, Progress};
pub use self::settings::{ConnectionSettings, CourierSettings, PRODUCT, Proxy};
pub use self::trace_parent::TraceParent;
pub use self::unreachable::{Cause, Unreachable};
pub use crate::policy::admission::retry::CALL_TIME;
pub use reqwest::Url;
