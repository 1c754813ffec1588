//! The fleet: brokers that share tokens and one budget through a store.
//!
//! These are the rules of one broker, and none does IO: a driver sends what they ask for to the store and gives them
//! the answers with the time. The store's half of each rule runs as a script in the store, on the store's clock.
//!
//! A request to the store may be executed long after its sender gave up, and a replica that takes over may have
//! forgotten everything. So nothing here relies on a request that was not answered, and leases only save calls.
//!
//! | part | rule |
//! |---|---|
//! | [`lease`] | one broker calls for a token key; the others look again until it has landed the token |
//! | [`record`] | which stored token may be served, and which one is kept |
//! | [`member`] | who belongs to the fleet, and whether this broker hears from it |
//! | [`permits`] | what this broker may take of the budget: purses from the store, or its share while cut off |
//!
//! # One budget
//!
//! The store keeps the theoretical arrival time of the generic cell rate algorithm. These rules keep all brokers
//! together within `rate * t + burst`; the model in `tests/` breaks the budget without any one of them.
//!
//! 1. A purse holds at most 10 ms of the rate, or one permit. Permits that are unused after 100 ms are thrown away.
//! 2. A broker that joins empties the bucket, and an absent bucket is empty.
//! 3. Each member has a [`Share`] of the budget, one of so many members, for when it is cut off. It is no larger than
//!    what the shares of all others leave: one that is cut off does not hear that the fleet grows, and keeps its own.
//!    Members that were seen a moment ago are live and use what the shares of the missing ones leave: the period
//!    between two calls is stretched, so the burst shrinks as well. After 60 s, or a goodbye, a missing member is
//!    forgotten.
//! 4. A broker that is cut off makes no call for 3 s. Then it uses its share of rate and burst, from an empty bucket.
//! 5. A beat names the beat before it. One that comes late makes nobody live: its sender has given up and is elsewhere.
//! 6. A store that has forgotten the fleet counts as many members as the brokers remember, and those that are not back
//!    as missing, for 60 s. Newcomers take nobody's place among them.
//! 7. Each of those is counted with the largest share that the brokers remember of any member: one that was cut off
//!    before the fleet grew still has its larger share.
//!
//! These exceptions remain:
//!
//! - a broker that is cut off for more than 60 s is not counted any more;
//! - one that starts cut off, or is cut off within a second of its start, is not counted yet: it uses the share of one
//!   of `store.brokers`;
//! - a store that forgets the fleet while no broker remembers it;
//! - two masters after a split;
//! - a burst that is smaller than the number of brokers: each that is cut off may make one call.

pub mod lease;
pub mod member;
pub mod permits;
pub mod record;
mod server_time;
mod share;
#[cfg(test)]
pub(crate) mod tests;

pub use self::server_time::ServerTime;
pub use self::share::Share;
