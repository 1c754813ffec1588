//! The simulator of Courier's endpoint `POST /auth/issue-token`, the only one the broker calls.
//!
//! It reproduces all that a broker can observe: which requests are rejected and in what shape,
//! how `expires_in` is parsed, the claims of a token, and that a token may be born expired or
//! never expire. [`Faults`] adds random failures, and a script of [`Fault`]s those of given
//! calls. Every call is recorded with its time of arrival, so that tests can check the budget.
//!
//! It is an independent oracle: it shares no code with the broker but the clock, because no
//! test could see an error that both share.
//!
//! Not simulated: other endpoints, `Idempotency-Key` (the broker sends none), 402 except as a
//! [`Fault`], and whether scopes exist (Courier's list is open).

mod courier;
mod delivery;
mod fault;
mod faults;
mod ledger;
mod mint;
mod reply;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod timespan;

pub use courier::Simulator;
pub use delivery::Delivery;
pub use fault::{Fault, Times};
pub use faults::Faults;
pub use ledger::Call;
pub use reply::Reply;
