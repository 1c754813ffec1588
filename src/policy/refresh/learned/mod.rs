//! Mode learned: which calls ahead of a request pay off.

pub mod attendance;
pub mod congestion;
pub mod demand;
pub mod forecast;
pub mod hours;
pub mod learner;
pub mod ledger;
pub mod price;
