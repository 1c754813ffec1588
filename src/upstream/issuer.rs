//! The trait of the clients that a dispatcher calls.

use std::future::Future;
use std::pin::Pin;

use super::failure::Failure;
use super::permit::Permit;
use crate::token::{Grant, TokenKey};

/// Issues tokens: Courier, or a substitute in tests.
pub trait Issuer: Send + Sync + 'static {
    /// Issues a token for exactly this key. The permit is spent, whatever the outcome.
    ///
    /// It reports through the permit if the answer is late.
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a>;
}

/// The future of a call.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send + 'a>>;
