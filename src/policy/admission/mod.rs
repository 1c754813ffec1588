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
//! | [`breaker`] | users and parties with failures, 401, 402, 403, 429 | few calls leave, of all or of one party; renewals are shed |
//! | [`throttle`] | the 429s that concern all, by the breaker; successes | a pause of all calls, a lower rate |
//! | [`bucket`], or the [`permits`](super::fleet::permits) of a fleet | calls that left | no call before its permit: the [`budget`] |
//! | [`queue`] | class, rank, clients, user | the order of calls, and which is refused if not all can be served |
//! | [`retry`] | tries, successes | which failed calls are repeated |
//!
//! A call leaves if the breaker lets it, Courier's pause is over, the throttle's gap has passed and the
//! bucket has a permit. A renewal also leaves the reserve of the burst untouched. The breaker is asked
//! when a call arrives and again at its turn, throttle and bucket when it leaves. A call of a party that does
//! not fail may leave in a pause, which may concern others alone; it takes a permit like any other.
//!
//! # How it trips and recovers
//!
//! When the breaker opens, queued renewals are refused, and users too if all are of one party; of several, each
//! is judged at its turn. When it sheds, only renewals are refused. A pause longer
//! than the longest wait refuses users who wait, while renewals stay. A probe's success closes the breaker;
//! after an outage of some seconds it restarts the throttle at the least rate of the budget, which rises with successes.

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
