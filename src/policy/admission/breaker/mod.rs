//! The circuit breaker on calls to Courier.
//!
//! # Isolation
//!
//! A failure may be Courier's, or that of one token key, user or party (a client; with sessions a user).
//! It is held against all only once it is known not to be theirs. There is one circuit for the workspace and
//! one for each party, with the same rule; a party's circuit holds back the calls of that party alone.
//!
//! # How it trips
//!
//! A circuit judges by a *run*: the users with adverse responses since the last success. Each success
//! ends the run, so that no number of failing keys outweighs one party that is served. A run is grave with
//! five users over at least a second, or with two users (five while no key has ever succeeded) if all got a 429; where calls of several parties
//! are remembered, the workspace's run needs failures of two.
//!
//! A grave run is a suspicion. The broker then tests it: it calls for two keys that have had a token, of parties
//! that do not fail if there are any. One success dismisses the suspicion. The circuit opens if these
//! fail too, or if nothing has succeeded for four seconds. One 401, 402 or 403 is a suspicion at once, and
//! the API key counts as refused only if such a key is refused as well. Until then the response holds for
//! its key alone.
//!
//! While no key has ever succeeded there is nothing to test with. Then a grave run opens the circuit, also one of
//! 429s, and so does the second denial, be it of the same user: a wrong API key is reported with the first request. Other users
//! get that error only after three of them were denied.
//!
//! # What leaves while it is open
//!
//! Few calls a second, several at a time: at most one in 0.5 s, later in 1 to 2 s, of keys that had a
//! token, as many of others, and as many of the broker's own. A key that failed in the last minute waits a
//! second longer for its turn. A client that is known not to fail is not held back: it sends few calls before it is
//! known to fail. Of users with sessions, and of clients without a remembered call, that holds for each first call,
//! however many there are, so the calls of either leave at four a second, ten at once. While no key has ever succeeded,
//! the first calls of users with sessions leave as the budget permits: at four a second, strangers who fail would
//! have most users refused who do not. The first success closes the circuit.
//!
//! If the success is that of a party that failed, Courier has recovered: all circuits close, and after five
//! seconds or more the rate restarts at the least of the budget
//! ([`Throttle::restart`](super::throttle::Throttle::restart)). If it is another party's, the failures were not
//! Courier's, and the others' circuits go on.
//!
//! # 429
//!
//! A `Retry-After` is kept for its key, for at most 60 s. A suspicion whose probes get 429s pauses the workspace, or the
//! party, for as long as Courier asks for with a probe. Without a probe's 429, the limits may be those of a few users: the
//! circuit opens, and the rate stays. So it does for a longer pause, which may be a mistake: its probes leave each four
//! seconds. The rate falls if keys of two parties (two keys where there is one party) get both
//! tokens and 429s, unless other parties get tokens alone: a key that gets nothing but 429s has a limit of its own.
//!
//! # Shedding
//!
//! From 60% failing keys on, as the mean of all parties, renewals leave once a second, but for those of parties
//! that are served, and while none is.
//!
//! # Bounds
//!
//! Parties, keys and users of a run are bounded; the oldest go first. A forgotten party is one that does not fail.

mod circuit;
mod effect;
mod limits;
mod pace;
mod parties;
mod probes;
mod record;
mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::circuit::{Circuit, Open};
pub use self::effect::{Change, Effect, Hold, ProbeScope, RateChange, State};
pub use self::limits::LONGEST_PAUSE;
use self::pace::Pace;
use self::parties::Parties;
use self::run::Cause;
use super::queue::Class;
use super::response::{Origin, Response};
use crate::clock::Moment;

/// Holds calls back while Courier, or a party, fails, and probes for the recovery.
#[derive(Debug)]
pub struct Breaker {
    workspace: Circuit,
    parties: Parties,
    /// Whether a key has ever succeeded.
    has_succeeded: bool,
    /// The calls of clients without a remembered call, and of session users who do not fail, while the workspace's
    /// circuit is open or paused.
    newcomers: [Pace; 2],
    /// The broker's own probes.
    probes: Pace,
    /// The least time between the broker's own probes.
    probe_gap: Duration,
    /// When the next renewal may leave while renewals are shed.
    next_shed_admit: Moment,
    /// Responses to calls sent before this moment do not count: they had another API key.
    since: Moment,
}

/// The least keys for shedding. With 4, a workspace with few calls sheds by chance: while half of them fail, four
/// in a row do once in 16, eight once in 256.
const LEAST_KEYS: usize = 8;
/// The least keys with failures for shedding. With 2, a user with two profiles is enough.
const LEAST_FAILED_KEYS: usize = 3;
/// The share of failing keys at which renewals are shed.
///
/// With retries, three of four calls then fail, and what capacity Courier has is the waiting users'. At half of
/// it, a Courier that fails two calls in five would stop renewals, which are the provision for worse; at
/// 90%, the outage is nearly complete.
const SHED_SHARE: f64 = 0.6;
/// The time between renewals while they are shed. Half of it doubles the load on a Courier that hardly works;
/// with twice of it, its recovery shows half as soon where no user asks.
const SHED_INTERVAL: Duration = Duration::from_secs(1);
/// The pace of calls of session users who do not fail while the circuit is open, and that of unknown clients. With one
/// a second, most of ten users who come at once are refused; with 20, an outage of many sessions is called as often as
/// if nothing were known.
const NEWCOMERS: Pace = Pace::new(Duration::from_millis(250), 10);
/// The broker's own probes: two at once, then one each half second, and at most one call in ten of the budget.
const PROBE_GAP: Duration = Duration::from_millis(500);
const PROBE_SHARE: u32 = 10;
const PROBE_BURST: u32 = 2;
/// The openings after which the rate begins anew. A shorter one leaves no fresh tokens missing; with 30 s, half a
/// minute's missing tokens are fetched at once.
const LEAST_OUTAGE: Duration = Duration::from_secs(5);

impl Breaker {
    /// Closed; `period` is the time between two calls at the full rate.
    pub fn new(period: Duration) -> Self {
        let probe_gap = PROBE_GAP.max(period * PROBE_SHARE);
        Self {
            workspace: Circuit::default(),
            parties: Parties::default(),
            has_succeeded: false,
            newcomers: [NEWCOMERS; 2],
            probes: Pace::new(probe_gap, PROBE_BURST),
            probe_gap,
            next_shed_admit: Moment::default(),
            since: Moment::default(),
        }
    }

    /// Changes the time between two calls at the full rate.
    pub fn set_period(&mut self, period: Duration) {
        self.probe_gap = PROBE_GAP.max(period * PROBE_SHARE);
        self.probes = Pace::new(self.probe_gap, PROBE_BURST);
    }

    /// Forgets all that the old API key brought.
    pub fn reset(&mut self, now: Moment) {
        self.workspace = Circuit::default();
        self.parties = Parties::default();
        self.since = now;
    }

    /// Whether calls of several parties ended in the last minute.
    pub fn has_several_parties(&self, now: Moment) -> bool {
        self.parties.are_several(now)
    }

    /// Whether the party fails at present. One without calls does not.
    pub fn is_failing(&self, party: u64, now: Moment) -> bool {
        self.parties.is_failing(party, now)
    }

    /// Why a call of this class and origin is held back; `None` if it may leave now.
    pub fn hold(&self, class: Class, origin: &Origin, now: Moment) -> Option<Hold> {
        let held_until = self.parties.held_until(origin);
        if origin.is_probe {
            return None;
        }
        if now < held_until {
            return Some(Hold::Paused(held_until.since(now)));
        }
        if let Some(open) = self.opening(origin, now) {
            let free_at = open.free_at(origin, self.parties.has_failed(origin, now));
            if now >= free_at {
                return None;
            }
            let rest = free_at.since(now);
            return Some(match open.cause {
                Cause::Denied { status, .. } if self.is_denied(origin) => Hold::Denied(status),
                Cause::Throttled { .. } => Hold::Paused(rest),
                _ => Hold::Open(rest),
            });
        }
        let is_shed = class != Class::Waiting
            && now < self.next_shed_admit
            && self.is_shedding(now)
            && !self.parties.is_served(origin.party, SHED_SHARE, now);
        is_shed.then(|| Hold::Open(self.next_shed_admit.since(now)))
    }

    /// The opening that holds calls of this origin back.
    fn opening(&self, origin: &Origin, now: Moment) -> Option<&Open> {
        match self.workspace.opening() {
            Some(_) if self.may_pass(origin, now) => None,
            Some(open) => Some(open),
            None => self.parties.get(origin.party)?.circuit.opening(),
        }
    }

    /// Whether calls of this origin are held back, but for probes.
    pub fn is_open_for(&self, origin: &Origin, now: Moment) -> bool {
        self.opening(origin, now).is_some()
    }

    /// Whether a call may leave in spite of what others got: its party does not fail.
    pub fn may_pass(&self, origin: &Origin, now: Moment) -> bool {
        let is_free = self.pace_of(origin).is_none_or(|pace| now >= self.newcomers[pace].free_at());
        is_free && !self.parties.is_failing(origin.party, now)
    }

    /// The index of the pace of calls like this one, if its party is not known not to fail.
    fn pace_of(&self, origin: &Origin) -> Option<usize> {
        let is_paced = if origin.is_session() {
            // Before any success, those who were refused would learn from no one that Courier serves them.
            self.has_succeeded
        } else {
            // No response to a call of the party is remembered.
            self.parties.get(origin.party).is_none()
        };
        is_paced.then_some(usize::from(origin.is_session()))
    }

    /// Records that a call leaves that only [`Breaker::may_pass`] admits.
    pub fn on_pass(&mut self, origin: &Origin, now: Moment) {
        if let Some(pace) = self.pace_of(origin) {
            self.newcomers[pace].take(now);
        }
    }

    /// Records that a permitted call leaves; returns whether it is a probe.
    pub fn on_admit(&mut self, class: Class, origin: &Origin, now: Moment) -> bool {
        if origin.is_probe {
            return true;
        }
        if self.workspace.opening().is_some() && self.may_pass(origin, now) {
            self.on_pass(origin, now);
            return true;
        }
        let circuit = match self.workspace.opening() {
            Some(_) => Some(&mut self.workspace),
            None => self.parties.get_mut(origin.party).map(|party| &mut party.circuit),
        };
        if let Some(open) = circuit.and_then(Circuit::opening_mut) {
            open.on_admit(origin, now);
            return true;
        }
        if class != Class::Waiting && self.is_shedding(now) {
            self.next_shed_admit = now + SHED_INTERVAL;
        }
        false
    }

    /// Whether a call of this origin would get the error that Courier refuses the API key.
    pub fn is_denied(&self, origin: &Origin) -> bool {
        self.workspace.opening().is_some_and(|open| match open.cause {
            Cause::Denied { is_confirmed, .. } => {
                is_confirmed || !self.has_succeeded && matches!(self.parties.last(origin), Some(Response::Denied(_)))
            }
            _ => false,
        })
    }

    /// Takes a retry out of the party's budget; `false` if it is used up. A party without calls has a full one.
    pub fn withdraw_retry(&mut self, origin: &Origin) -> bool {
        self.parties.get_or_add(origin.party).retries.withdraw()
    }

    /// The end of the pause that Courier asked for with this key.
    pub fn held_until(&self, origin: &Origin) -> Moment {
        self.parties.held_until(origin)
    }

    /// How long no renewal at all may leave; zero if one may.
    pub fn renewals_held_for(&self, now: Moment) -> Duration {
        let any = Origin { key: 0, user: 0, party: 0, is_known: true, is_probe: false, is_retry: false };
        match self.workspace.opening() {
            Some(open) => open.free_at(&any, false).since(now),
            None if self.is_shedding(now) && !self.parties.are_several(now) => self.next_shed_admit.since(now),
            None => Duration::ZERO,
        }
    }

    /// The present state.
    pub fn state(&self, now: Moment) -> State {
        match self.workspace.opening() {
            Some(open) if open.is_probing || self.renewals_held_for(now).is_zero() => State::HalfOpen,
            Some(_) => State::Open,
            None if self.is_shedding(now) => State::Shedding,
            None => State::Closed,
        }
    }

    fn is_shedding(&self, now: Moment) -> bool {
        let (share, keys, failed) = self.parties.failing_share(SHED_SHARE, now);
        share >= SHED_SHARE && keys >= LEAST_KEYS && failed >= LEAST_FAILED_KEYS
    }
}
