//! The client keys of the fuzzed broker.

/// The key of a client that may have everything.
pub const APP: &str = "app-key";
/// The key of a client that may have `inbox:*` and `read:brands` for `mallory` and `mallory:*`, for an hour.
pub const MALLORY: &str = "mallory-key";
/// The key of a client that may have everything in another workspace.
pub const OTHER: &str = "other-key";
