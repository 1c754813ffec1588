//! The settings of the broker, which a reload replaces.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;

/// How the broker serves and renews.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BrokerSettings {
    /// The least remaining life of a token that is handed out.
    pub floor: Floor,
    /// Which tokens are renewed.
    pub refresh: Mode,
    /// In mode learned: the calls beyond the least possible, as a share of these. 1 doubles them.
    pub extra_calls: f64,
    /// The most keys in memory, with a token or without; one above 2 KiB takes the place of several.
    pub capacity: u64,
    /// The most keys of one user that are kept for one client.
    pub keys_per_user: usize,
    /// The share of the capacity that the keys of one client may take.
    pub client_share: f64,
    /// The longest that a request waits.
    pub timeout: Duration,
}

/// The settings in use. Each operation loads them once.
pub type CurrentSettings = Arc<ArcSwap<BrokerSettings>>;
