//! The broker's laws, under a clock that stands still unless a test moves it:
//! the real broker, dispatcher and refresher, with the simulated Courier behind
//! them in the same process.

mod budget;
mod entitlements;
mod flights;
mod floors;
mod learned;
mod removals;
mod renewals;
mod world;
