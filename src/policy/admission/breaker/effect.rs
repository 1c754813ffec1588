//! The results of the breaker: states, changes, effects of a response, and holds.

use std::time::Duration;

/// The state of the workspace's circuit. Metrics export the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls leave.
    Closed = 0,
    /// Renewals are shed.
    Shedding = 1,
    /// A probe is under way, or may leave.
    HalfOpen = 2,
    /// No call leaves, but those of parties that do not fail.
    Open = 3,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened, or is open for another reason.
    Opened,
    /// It began to shed renewals.
    Shed,
    /// It closed: Courier has recovered.
    Closed,
    /// It closed: Courier serves a party that did not fail.
    Dismissed,
}

/// The effect of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The change of the breaker's state, if any.
    pub change: Option<Change>,
    /// The change of the rate, if any.
    pub rate: Option<RateChange>,
}

/// A change of the rate of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateChange {
    /// 429s tell that it is too high.
    Lower,
    /// No call leaves for so long, and the rate is too high.
    Pause(Duration),
    /// After an outage it begins anew.
    Restart,
}

/// The parties whose keys may serve for a probe of the broker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeScope {
    /// Any party's, preferably one that does not fail.
    Workspace,
    /// This party's.
    Party(u64),
}

/// Why a call is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The circuit is open; another probe may leave after this long.
    Open(Duration),
    /// Courier refuses the API key with this status.
    Denied(u16),
    /// Courier asked for a pause for the key or the party, which has this long to go.
    Paused(Duration),
}
