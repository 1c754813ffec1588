//! Calls to Courier.
//!
//! Every call goes through its workspace's [`Dispatcher`]: an [`Issuer`] demands a [`Permit`], which
//! only a dispatcher grants.

pub mod answer;
mod claims;
mod courier;
mod dispatcher;
mod failure;
mod guard;
mod notice;
mod permit;
mod retry_after;
mod unreachable;

use std::future::Future;
use std::pin::Pin;

pub use courier::{Courier, CourierError, CourierSettings, Proxy};
pub use dispatcher::{Dispatcher, DispatcherSettings};
pub use failure::Failure;
pub use guard::CALL_TIME;
pub use permit::{PendingPermit, Permit};
pub use reqwest::Url;
pub use unreachable::{Cause, Unreachable};

use crate::token::{Grant, TokenKey};

/// The prefix of the broker's `User-Agent`. A request that has it comes from a broker.
pub const PRODUCT: &str = "courier-token-broker/";

/// Issues tokens: Courier, or a substitute in tests.
pub trait Issuer: Send + Sync + 'static {
    /// Issues a token for exactly this key. The permit is spent, whatever the outcome.
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a>;
}

/// The future of a call.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send + 'a>>;
