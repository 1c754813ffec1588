//! Log lines that name the callers whose requests are held back: why, and until when.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::locks::{Lock, Order};
use crate::clock::{Clock, Moment};
use crate::upstream::Tally;

/// Why requests of a caller are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldCause {
    /// The circuit breaker is open for this caller.
    Breaker,
    /// The circuit breaker of the workspace is open.
    Outage,
    /// Courier asked for a pause.
    Pause,
    /// The negative cache has the token key.
    NegativeCache,
    /// The rate budget cannot serve the caller in time.
    Budget,
    /// The caller has its share of the requests that may wait.
    Places,
    /// The client's own rate limit.
    ClientRate,
    /// The rate limit of a user with a session.
    UserRate,
    /// The caller has its share of the key table.
    CacheShare,
}

impl HoldCause {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "circuit breaker open: its calls fail",
            Self::Outage => "circuit breaker of the workspace open: Courier is failing",
            Self::Pause => "Courier asked for a pause",
            Self::NegativeCache => "the same call has just failed",
            Self::Budget => "its calls would wait too long for the rate budget",
            Self::Places => "its share of the requests in flight is used up",
            Self::ClientRate => "requests_per_second of the client is used up",
            Self::UserRate => "sessions.requests_per_second is used up",
            Self::CacheShare => "its share of the cache is used up: its least recently used tokens are evicted",
        }
    }
}

/// A request that is held back.
#[derive(Clone, Copy, Debug)]
pub struct HeldRequest<'a> {
    /// The workspace, if it is known.
    pub workspace: Option<&'a str>,
    /// The client; `None` is a session.
    pub client: Option<&'a str>,
    /// The users whom the cause concerns, if not the whole client.
    pub users: Option<&'a str>,
    /// Why it is held back.
    pub cause: HoldCause,
    /// Until when requests like it are held back, if that is known.
    pub until: Option<Moment>,
}

/// Counts the requests that are held back, and logs one line a minute for each caller and cause, then one at the end.
///
/// All sessions together are one caller, so it counts for no more callers than the settings name.
pub struct Holds(Lock<BTreeMap<(Caller, HoldCause), Hold>>);

/// The workspace and the client, where they are known.
type Caller = (Option<String>, Option<String>);

#[derive(Default)]
struct Hold {
    requests: Tally,
    /// The users of the last request.
    users: Option<String>,
    until: Option<Moment>,
    last: Moment,
}

/// The least time between two lines about a caller and a cause. After as long without a request that is held back, it
/// has ended.
const INTERVAL: Duration = Duration::from_secs(60);

impl Holds {
    /// Counts a request.
    pub fn count(&self, request: &HeldRequest<'_>, now: Moment) {
        let HeldRequest { workspace, client, users, cause, until } = *request;
        let mut holds = self.0.lock();
        let hold = holds.entry(((workspace.map(str::to_owned), client.map(str::to_owned)), cause)).or_default();
        hold.requests.count();
        (hold.users, hold.last) = (users.map(str::to_owned), now);
        hold.until = hold.until.max(until);
    }

    /// Logs what is due. Call it about every second.
    pub fn report(&self, clock: &Clock) {
        let now = clock.now();
        self.0.lock().retain(|((workspace, client), cause), hold| {
            let (workspace, client, cause) = (workspace.as_deref(), client.as_deref(), cause.as_str());
            let who = if client.is_some() { "client" } else { "session" };
            let requests = hold.requests.take(INTERVAL, now);
            let is_over = now >= (hold.last + INTERVAL).max(hold.until.unwrap_or_default());
            if is_over {
                tracing::info!(workspace, who, client, cause, requests, "caller no longer held back");
            } else if requests.is_some() {
                let users = hold.users.as_deref();
                let time =
                    |until: Moment| humantime::format_rfc3339_seconds(UNIX_EPOCH + clock.unix() + until.since(now));
                let until = hold.until.map(|until| tracing::field::display(time(until)));
                tracing::warn!(workspace, who, client, users, cause, until, requests, "caller held back");
            }
            !is_over
        });
    }
}

impl Default for Holds {
    fn default() -> Self {
        Self(Lock::new(Order::Holds, BTreeMap::new()))
    }
}
