//! The store on disk, with the real program: what outlives a crash, a stop, a sign-out and changed settings.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod crash;
mod files;
mod fixture;
mod restart;
mod takeover;
