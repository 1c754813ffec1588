//! Calls to Courier.
//!
//! Every call goes through its workspace's [`Dispatcher`]: an [`Issuer`] demands a [`Permit`], which
//! only a dispatcher grants.

pub mod answer;
mod claims;
mod courier;
mod dispatcher;
mod failure;
mod issuer;
mod notice;
mod permit;
mod retry_after;
mod unreachable;

pub use self::courier::{Courier, CourierError, CourierSettings, PRODUCT, Proxy};
pub use self::dispatcher::{Dispatcher, DispatcherSettings};
pub use self::failure::Failure;
pub use self::issuer::{Issuer, Issuing};
pub use self::permit::{Party, PendingPermit, Permit};
pub use self::unreachable::{Cause, Unreachable};
pub use crate::policy::admission::retry::CALL_TIME;
pub use reqwest::Url;
