//! An entry of the key table: a key's demand, its plan, and its token if there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapAny;

use super::demand::Demand;
use super::locks::{Guard, Lock, Order};
use super::owners::Owners;
use crate::clock::Moment;
use crate::policy::freshness::Floor;
use crate::policy::refresh::RenewalDecision;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::learner::{Estimate, HistoryHandle};
use crate::policy::schedule::Ticket;
use crate::token::{Grant, GrantArc, TokenKey};

/// A token key's demand history, renewal plan, and token if it has one.
///
/// It outlives its tokens: an absent user may be about to return. Until a renewal is due, a hit
/// writes the count of uses and the time of the last request, and takes no lock unless the demand
/// history has something to record.
///
/// In the order of its fields, a hit among millions waits for the memory of two cache lines: that of the reference
/// counts, which has all up to the history, and that of the owners.
#[repr(C)]
pub struct Entry {
    /// The token key.
    pub key: TokenKey,
    token: ArcSwapAny<Option<GrantArc>>,
    /// When the renewal of its token is due, in nanoseconds; drawn at random, once.
    due: AtomicU64,
    uses: AtomicU32,
    /// The index of the table holds its key. Changed under the lock of the state.
    is_indexed: AtomicBool,
    /// The requests for the key.
    pub demand: Demand,
    /// The party whose request brought the last token, as a hash.
    party: AtomicU64,
    state: Lock<EntryState>,
    /// The clients that it is kept for.
    pub owners: Owners,
}

/// The part of an entry that its lock guards.
pub struct EntryState {
    /// The next step of the refresher.
    pub plan: Plan,
    /// When the last token was requested from Courier.
    pub sent: Moment,
    /// When the last token expires.
    pub expires: Moment,
    /// Notes for operators. Boxed, as few of many entries have them.
    pub notes: Option<Box<Notes>>,
    /// The ticket of the moment at which the token reaches its hard floor.
    pub(super) hard_floor: Option<Ticket>,
}

/// Notes about an entry for operators.
#[derive(Default)]
pub struct Notes {
    /// The refresher's last decision.
    pub decision: Option<Decision>,
    /// Why the last call failed, if it did.
    pub error: Option<Box<str>>,
}

/// A decision of the refresher.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// When it was made.
    pub at: Moment,
    /// The outcome.
    pub verdict: RenewalDecision,
    /// The estimate that it is based on, in mode learned.
    pub estimate: Option<Estimate>,
}

/// The next step of the refresher for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A renewal is in the schedule under this ticket, after this many failures.
    Scheduled(Ticket, u8),
    /// Not worth a call at present, in mode learned. The ticket is the next time to decide.
    Lapsed(Ticket),
    /// A token is being fetched.
    Renewing {
        /// Failures in a row.
        failures: u8,
        /// The plan before was [`Plan::Lapsed`].
        has_lapsed: bool,
    },
    /// No renewal is planned, unless the token is handed out again.
    Unscheduled,
    /// Not renewed until a request brings another token: Courier refuses it for good, or the key was removed.
    Removed,
}

impl Plan {
    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled(..) => "scheduled",
            Self::Lapsed(_) => "lapsed",
            Self::Renewing { .. } => "renewing",
            Self::Unscheduled => "unscheduled",
            Self::Removed => "removed",
        }
    }

    /// Its ticket in the schedule, if it has one.
    pub const fn ticket(self) -> Option<Ticket> {
        match self {
            Self::Scheduled(ticket, _) | Self::Lapsed(ticket) => Some(ticket),
            Self::Renewing { .. } | Self::Unscheduled | Self::Removed => None,
        }
    }

    /// Does the refresher come back to the key? It then outlives its token.
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Scheduled(..) | Self::Lapsed(_) | Self::Renewing { .. })
    }

    /// Was the last decision to wait?
    pub const fn has_lapsed(self) -> bool {
        matches!(self, Self::Lapsed(_) | Self::Renewing { has_lapsed: true, .. })
    }
}

impl Entry {
    /// Creates an entry without a token.
    pub fn new(key: TokenKey, demand: Demand) -> Self {
        let state = EntryState {
            plan: Plan::Unscheduled,
            sent: Moment::from_nanos(0),
            expires: Moment::from_nanos(0),
            notes: None,
            hard_floor: None,
        };
        Self {
            key,
            token: ArcSwapAny::new(None),
            due: AtomicU64::new(0),
            uses: AtomicU32::new(0),
            is_indexed: AtomicBool::new(false),
            demand,
            party: AtomicU64::new(0),
            state: Lock::new(Order::Entry, state),
            owners: Owners::default(),
        }
    }

    /// Its token, however old.
    pub fn token(&self) -> Option<Grant> {
        self.token.load_full().map(Grant::from)
    }

    /// When the renewal of its token is due. Look at the token first: it is stored after its due time.
    pub fn due(&self) -> Moment {
        Moment::from_nanos(self.due.load(Ordering::Relaxed))
    }

    /// Changes the due time of its token, under its lock.
    pub fn set_due(&self, due: Moment) {
        self.due.store(due.as_nanos(), Ordering::Relaxed);
    }

    /// Locks its state. Never call the table's moka cache meanwhile.
    pub fn lock(&self) -> Guard<'_, EntryState> {
        self.state.lock()
    }

    /// Counts that its token is handed out.
    pub fn count_use(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often its token was handed out.
    pub fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    /// The party whose request brought the last token, as a hash. Its renewals' failures are that party's.
    pub fn party(&self) -> u64 {
        self.party.load(Ordering::Relaxed)
    }

    /// Sets the party whose request brought a token.
    pub fn set_party(&self, party: u64) {
        self.party.store(party, Ordering::Relaxed);
    }

    /// Sets whether the index of the table holds its key, under its lock; returns whether it did.
    pub(super) fn set_indexed(&self, is_indexed: bool) -> bool {
        self.is_indexed.swap(is_indexed, Ordering::Relaxed)
    }

    /// Replaces its token, under its lock; returns the old one. A new token begins without uses.
    pub fn replace_token(&self, token: Option<Grant>) -> Option<Grant> {
        if token.is_some() {
            self.uses.store(0, Ordering::Relaxed);
        }
        self.token.swap(token.map(GrantArc::from)).map(Grant::from)
    }

    /// The order in which entries leave a full table: first those without a token, then by the last use.
    ///
    /// A token that was not handed out yet counts as used when it was requested from Courier.
    pub fn last_use(&self) -> (bool, Moment) {
        let sent = self.token().map(|token| token.sent());
        (sent.is_some(), self.demand.last_request().max(sent.unwrap_or(Moment::from_nanos(0))))
    }

    /// Its memory in bytes, about; [`USUAL_BYTES`] at least, so that these bound the number of entries too.
    pub fn weight(&self) -> u32 {
        let token = self.token().map_or(0, |token| token.token().len());
        let bytes = OWN_BYTES + USER_BYTES * self.key.users().count() + self.key.text_len() + token;
        u32::try_from(bytes).unwrap_or(u32::MAX).max(USUAL_BYTES)
    }
}

/// The weight of an entry of the usual size.
pub const USUAL_BYTES: u32 = 2048;
/// The memory of an entry beside its texts, measured: with demand, index, schedules and allocation.
const OWN_BYTES: usize = 800;
/// The memory of a user in the index.
const USER_BYTES: usize = 40;

impl HistoryHandle for Arc<Entry> {
    fn with_history(&self, change: impl FnOnce(&mut DemandHistory)) {
        change(&mut self.demand.history());
    }
}

impl EntryState {
    /// Sets why the last call failed, if it did.
    pub fn set_error(&mut self, error: Option<Box<str>>) {
        if error.is_some() || self.notes.is_some() {
            self.notes.get_or_insert_default().error = error;
        }
    }

    /// The life of the last token; before the first that of the key.
    pub fn life(&self, key: &TokenKey) -> Duration {
        let life = self.expires.since(self.sent);
        if life.is_zero() { key.lifetime().as_duration() } else { life }
    }

    /// When the last token reaches its floor, or reached it.
    pub fn floor_at(&self, floor: &Floor) -> Moment {
        self.sent + floor.window_of(self.expires.since(self.sent))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::broker::fixture::key;
    use crate::token::Token;

    /// The bytes of the reference counts, which are before an entry.
    const COUNTS: usize = 2 * size_of::<usize>();

    /// One of the allocator's sizes; the next is 384.
    #[test]
    fn entry_has_320_bytes_with_its_counts() {
        let orders_of_locks = if cfg!(debug_assertions) { 2 * 8 } else { 0 };
        assert_eq!(size_of::<Entry>() - orders_of_locks + COUNTS, 320);
    }

    #[test]
    fn hit_reads_one_cache_line_beside_that_of_the_owners() {
        assert_eq!(COUNTS + offset_of!(Entry, demand) + Demand::HISTORY_OFFSET, 64);
    }

    #[test]
    fn entry_weighs_its_bytes_and_those_of_a_usual_one_at_least() {
        let now = Moment::from_nanos(0);
        let weigh = |user: &str, bytes: usize| {
            let entry = Entry::new(key(user), Demand::new(Duration::from_secs(1800), now));
            let token = Token::new(&"t".repeat(bytes)).expect("a token");
            let grant = Grant::new(token, now, Duration::from_secs(3600));
            entry.replace_token(Some(grant));
            let full = entry.weight();
            entry.replace_token(None);
            (full, entry.weight())
        };
        assert_eq!([1, 600].map(|bytes| weigh("jane", bytes)), [(USUAL_BYTES, USUAL_BYTES); 2]);
        let [two, eight] = [2000, 8000].map(|bytes| weigh("jane", bytes));
        assert_eq!((eight.0 - two.0, two.1, eight.1), (6000, USUAL_BYTES, USUAL_BYTES));
        let users: Vec<_> = (10..25).map(|user| format!("{user}{}", "x".repeat(200))).collect();
        let many = weigh(&users.join(" user_id:"), 6000);
        assert!(many.0 > 10_000 && many.1 > 4000, "{many:?}");
    }
}
