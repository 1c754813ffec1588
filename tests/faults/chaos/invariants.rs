//! The invariants: checks every answer against the tokens, sign-outs, reports and faults before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::broker::{Answer, Refusal, Source};
use courier_token_broker::clock::Moment;
use courier_token_broker::simulator::{Call, Faults};
use courier_token_broker::token::TokenKey;
use courier_token_broker::upstream::Failure;
use parking_lot::Mutex;

use super::fault_schedule::{SHORT_LIFE, SLOWEST, explains, healthy, shortens};
use super::workload::Visit;
use crate::support::broker::claims;
use crate::support::test_broker::{FakeIssuer, SECOND};

// The broker's settings.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(5);
const HARD_FLOOR: Duration = Duration::from_secs(30);

/// The resolution of timers.
const TICKS: Duration = Duration::from_millis(5);
/// The longest time from a fault to an error that it explains: the broker caches refusals for half a minute, and
/// some time may pass before it calls again.
const MEMORY: Duration = Duration::from_secs(45);
/// The longest time for which the broker remembers that a key's token did not come in time.
const PASSING: Duration = Duration::from_secs(3);

/// A token as Courier issued it.
#[derive(Clone, Copy, Debug)]
struct Token {
    /// The number of the call that made it.
    call: usize,
    /// When it was made.
    at: Moment,
    life: Duration,
}

impl Token {
    fn left(&self, now: Moment) -> Duration {
        (self.at + self.life).since(now)
    }

    /// The least remaining life with which the token may be served at all.
    fn hard_floor(&self) -> Duration {
        HARD_FLOOR.min(self.life / 2)
    }
}

/// A request that waits for its answer.
pub struct Asked {
    at: Moment,
    /// Its place in the order of all events.
    place: u64,
    /// The last token served for the same token key.
    known: Option<Token>,
}

pub type Shared = Arc<Mutex<Invariants>>;

pub struct Invariants {
    issuer: FakeIssuer,
    /// Whether the cache is large enough to evict nothing.
    pub never_evicts: bool,
    places: u64,
    known: HashMap<TokenKey, Token>,
    /// Each user's last sign-out: its place, and the number of calls before it.
    signed_out: HashMap<String, (u64, usize)>,
    /// The place of the first report of each call's token as rejected.
    rejected: HashMap<usize, u64>,
    purged: (u64, Moment),
    faults: Vec<(Moment, Faults)>,
    served: Vec<(usize, TokenKey)>,
    /// The last request for each key that timed out.
    timed_out: HashMap<TokenKey, Moment>,
    /// Counts of the events, by kind.
    pub seen: BTreeMap<String, u32>,
    /// The violations found.
    pub violations: Vec<String>,
}

impl Invariants {
    pub fn new(issuer: FakeIssuer, never_evicts: bool) -> Self {
        Self {
            issuer,
            never_evicts,
            places: 0,
            known: HashMap::new(),
            signed_out: HashMap::new(),
            rejected: HashMap::new(),
            purged: (0, Moment::from_nanos(0)),
            faults: Vec::new(),
            served: Vec::new(),
            timed_out: HashMap::new(),
            seen: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn next_place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    fn see(&mut self, what: &str) {
        match self.seen.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.seen.insert(what.to_owned(), 1)),
        }
    }

    /// Records that Courier has these faults from now on.
    pub fn faults_changed(&mut self, faults: &Faults, now: Moment) {
        self.faults.push((now, faults.clone()));
    }

    /// Records a sign-out, and the number of calls before it.
    pub fn signed_out(&mut self, user: &str, calls: usize) {
        let place = self.next_place();
        self.signed_out.insert(user.to_owned(), (place, calls));
        self.see("sign-out");
    }

    /// Records that a token was reported as rejected.
    pub fn reported(&mut self, token: &[u8]) {
        let place = self.next_place();
        let Some((call, _)) = self.call_of(token) else { return };
        self.rejected.entry(call).or_insert(place);
        self.see("report");
    }

    pub fn purged(&mut self, now: Moment) {
        self.purged = (self.next_place(), now);
        self.see("purge");
    }

    /// Records a request.
    pub fn asked(&mut self, visit: &Visit, now: Moment) -> Asked {
        let place = self.next_place();
        let known = self.known.get(&visit.key).copied().filter(|token| self.is_good(token, visit));
        Asked { at: now, place, known }
    }

    /// Checks an answer.
    pub fn answered(&mut self, visit: &Visit, asked: &Asked, outcome: &Result<Answer, Refusal>, now: Moment) {
        let mut violations = Vec::new();
        let waited = now.since(asked.at);
        // A usable token that the broker must have in its cache.
        let known = asked.known.filter(|token| self.never_evicts && self.is_good(token, visit));
        let least = |token: &Token| token.hard_floor().max(visit.min_ttl.unwrap_or_default());
        let do_at = |moment| move |token: &Token| token.left(moment) >= least(token);
        let patience = if known.is_some_and(|token| do_at(asked.at)(&token)) { TIMEOUT / 5 } else { TIMEOUT };
        if waited > patience + TICKS {
            violations.push(format!("after {waited:?}"));
        }
        match outcome {
            Ok(answer) => match self.token(answer.grant.token(), visit) {
                Ok(token) => violations.extend(self.check_token(visit, asked, answer, token, now)),
                Err(why) => violations.push(why),
            },
            Err(refusal) => {
                self.see(&kind(refusal));
                if *refusal == Refusal::TimedOut && waited >= TIMEOUT {
                    self.timed_out.insert(visit.key.clone(), now);
                }
                if let Some(token) = known.filter(do_at(now)) {
                    violations.push(format!("although {token:?} is cached"));
                }
                if let Err(why) = self.has_cause(visit, refusal, waited, now) {
                    violations.push(why);
                }
            }
        }
        if let Some(token) = known.filter(|token| token.left(asked.at) >= (token.life / 2).max(least(token)))
            && !waited.is_zero()
        {
            violations.push(format!("waited for {waited:?} although {token:?} is cached"));
        }
        for why in violations {
            let outcome = outcome.as_ref().map(|answer| (answer.source, answer.remaining));
            self.violations.push(format!("{why}: {visit:?} got {outcome:?} at {now:?}, {waited:?} after asking"));
        }
    }

    /// The call that made a token, and its time.
    fn call_of(&self, token: &[u8]) -> Option<(usize, Moment)> {
        self.issuer.call_of(std::str::from_utf8(token).ok()?)
    }

    /// Reads a token; an error if it is not exactly for the visit's users and scopes.
    fn token(&self, token: &[u8], visit: &Visit) -> Result<Token, String> {
        let (call, at) = self.call_of(token).ok_or("Courier did not make this token")?;
        let wanted = visit.key.lifetime().as_duration();
        let text = std::str::from_utf8(token).map_err(|error| error.to_string())?;
        if text.starts_with("pk_") {
            return Ok(Token { call, at, life: wanted });
        }
        let claims = claims(text);
        let scope = claims["scope"].as_str().unwrap_or_default();
        let (users, mut scopes): (Vec<_>, Vec<_>) = scope.split(' ').partition(|part| part.starts_with("user_id:"));
        let mut expected = visit.scopes.clone();
        scopes.sort_unstable();
        expected.sort_unstable();
        if !users.iter().map(|user| &user["user_id:".len()..]).eq(&visit.users) || scopes != expected {
            return Err(format!("a token for {scope:?}"));
        }
        let life = claims["exp"].as_f64().zip(claims["iat"].as_f64()).map(|(exp, iat)| exp - iat);
        let life = life.and_then(|life| Duration::try_from_secs_f64(life).ok()).map_or(wanted, |life| life.min(wanted));
        Ok(Token { call, at, life })
    }

    /// Checks that this token may be served now to this visit; returns the violations.
    fn check_token(&mut self, visit: &Visit, asked: &Asked, answer: &Answer, token: Token, now: Moment) -> Vec<String> {
        let (left, mut violations) = (token.left(now), Vec::new());
        let mut must = |holds: bool, why: &str| {
            if !holds {
                violations.push(format!("{why}: {token:?}, {left:?} left"));
            }
        };
        must(answer.remaining <= left, "its stated life is longer than its real one");
        must(left >= token.hard_floor(), "below the hard floor");
        must(visit.min_ttl.is_none_or(|wanted| left >= wanted), "below min_ttl");
        let hit = answer.source == Source::Hit;
        must(!hit || left >= token.life / 2, "a hit below the floor");
        let since = |place: u64| place > asked.place;
        let sign_outs = || visit.users.iter().filter_map(|user| self.signed_out.get(user));
        must(sign_outs().all(|(place, calls)| since(*place) || token.call >= *calls), "made before they signed out");
        must(self.rejected.get(&token.call).is_none_or(|place| since(*place)), "reported as rejected");
        must(since(self.purged.0) || token.at >= self.purged.1, "made before the purge");
        // A token in flight during a sign-out or purge reaches its waiters and is not cached.
        if !since(self.purged.0) && !sign_outs().any(|(place, _)| since(*place)) {
            self.known.insert(visit.key.clone(), token);
        }
        self.served.push((token.call, visit.key.clone()));
        self.see(match answer.source {
            Source::Hit => "hit",
            Source::Issued { collapsed: true, .. } => "collapsed",
            Source::Issued { collapsed: false, .. } => "issued",
            Source::Stale(_) => "kept",
        });
        violations
    }

    /// Tells whether the token must still be cached: not removed, and not replaced by one that may live shorter.
    fn is_good(&self, token: &Token, visit: &Visit) -> bool {
        let signed_out = |user: &String| self.signed_out.get(user).is_some_and(|(_, calls)| token.call < *calls);
        // A shorter-lived token may replace this one once this one falls below its floor.
        let may_replace = |end: Moment| end >= token.at && end + SHORT_LIFE / 2 >= token.at + token.life / 2;
        let replaced = self.times().any(|(faults, end)| shortens(faults) && may_replace(end));
        !visit.users.iter().any(signed_out)
            && !self.rejected.contains_key(&token.call)
            && token.at > self.purged.1
            && !replaced
    }

    /// All faults so far with their ends. The last ones have no end.
    fn times(&self) -> impl Iterator<Item = (&Faults, Moment)> {
        let ends = self.faults.iter().skip(1).map(|(start, _)| *start).chain([Moment::NEVER]);
        // An answer made under earlier faults may arrive later.
        self.faults.iter().zip(ends).map(|((_, faults), end)| (faults, end + SLOWEST))
    }

    /// Checks that something explains this error.
    fn has_cause(&self, visit: &Visit, refusal: &Refusal, waited: Duration, now: Moment) -> Result<(), String> {
        let lately =
            |what: &dyn Fn(&Faults) -> bool| self.times().any(|(faults, end)| now.since(end) < MEMORY && what(faults));
        let holds = match refusal {
            Refusal::Lost | Refusal::Upstream(Failure::OldKey | Failure::Stopping) => false,
            // After one timeout, other requests for the key fail at once.
            Refusal::TimedOut => {
                waited >= TIMEOUT / 5 || self.timed_out.get(&visit.key).is_some_and(|at| now.since(*at) <= PASSING)
            }
            // A slow answer may bring a token that is already too old.
            Refusal::TooOld => {
                let needed = visit.min_ttl.unwrap_or_default();
                needed + SLOWEST > visit.key.lifetime().as_duration() || lately(&shortens)
            }
            Refusal::Upstream(Failure::Limited(wait)) => *wait > MAX_WAIT,
            Refusal::Upstream(Failure::CircuitOpen(rest)) => {
                *rest <= 30 * SECOND && lately(&|faults| *faults != healthy())
            }
            Refusal::Upstream(failure) => lately(&|faults| explains(faults, failure)),
        };
        holds.then_some(()).ok_or_else(|| "an error without a cause".to_owned())
    }

    /// Checks that each served token was made by a call for exactly its token key, which an opaque token does not show.
    pub fn check_calls(&mut self, calls: &[Call]) {
        for (call, key) in std::mem::take(&mut self.served) {
            let Call { scope, expires_in, .. } = &calls[call];
            if *scope != key.claim().to_string() || *expires_in != format!("{:?}", key.lifetime().to_string()) {
                self.violations.push(format!("{key:?} was served with the token of {:?}", calls[call]));
            }
        }
    }
}

/// The name of an error in the counts.
fn kind(refusal: &Refusal) -> String {
    let text = match refusal {
        Refusal::Upstream(failure) => format!("{failure:?}"),
        other => format!("{other:?}"),
    };
    text.split('(').next().unwrap_or_default().to_owned()
}
