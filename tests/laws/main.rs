//! Properties of the broker in virtual time: the real broker, dispatcher and refresher, and the simulated Courier,
//! in one process under tokio's paused clock.

mod budget;
mod entitlements;
mod flights;
mod floors;
mod learned;
mod removals;
mod renewals;
mod world;
