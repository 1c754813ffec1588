//! The context that all parts of the store share.

use std::time::Duration;

use arc_swap::ArcSwap;

use super::script::Scripts;
use super::sealer::Sealer;
use super::settings::Workspaces;
use crate::clock::Clock;
use crate::metrics::StoreMetrics;

/// The context that all parts of the store share.
pub struct Context {
    pub scripts: Scripts,
    pub sealer: Sealer,
    pub workspaces: ArcSwap<Workspaces>,
    /// The longest wait for an answer, but for membership.
    pub timeout: Duration,
    pub clock: Clock,
    pub metrics: StoreMetrics,
}
