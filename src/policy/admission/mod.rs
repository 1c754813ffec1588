//! Admission: which call to Courier gets the next permit, and when.
//!
//! [`Admission`] is one state machine without IO. Its driver tells it of calls and responses, and
//! polls it for the calls that may leave; the dispatcher drives it by a clock, the planner in virtual
//! time. It is given the time and reads no clock. Polling early or often is harmless.
//!
//! # How the signals combine
//!
//! | part | signal | effect |
//! |---|---|---|
//! | [`breaker`] | share and spread of failed calls, 401, 402, 403 | no call leaves, or renewals are shed |
//! | [`throttle`] | 429, `Retry-After`, successes | a pause of all calls, a lower rate |
//! | [`bucket`] | calls that left | no call before its permit: the [`budget`] |
//! | [`queue`] | class, rank, clients, user | the order of calls, and which is refused if not all can be served |
//! | [`retry`] | tries, successes | which failed calls are repeated |
//!
//! A call leaves if the breaker lets it, Courier's pause is over, the throttle's gap has passed and the
//! bucket has a permit. A renewal also leaves the reserve of the burst untouched. The breaker is asked
//! when a call arrives, throttle and bucket when it leaves. A 429 is no failure to the breaker: Courier works,
//! so the rate falls and no user is refused who can still be served in time.
//!
//! # How it trips and recovers
//!
//! When the breaker opens, all queued calls are refused; when it sheds, only renewals are. A pause longer
//! than the longest wait refuses users who wait, while renewals stay. A probe's success closes the breaker
//! and restarts the throttle at the least rate of the budget, which rises with further successes.

pub mod breaker;
pub mod bucket;
pub mod budget;
mod machine;
pub mod queue;
pub mod rate_limit;
mod response;
pub mod retry;
#[cfg(test)]
mod tests;
pub mod throttle;

pub use self::machine::{Admission, Event, WaitingCall};
pub use self::response::{EndedCall, Origin, Rejection, Response};
