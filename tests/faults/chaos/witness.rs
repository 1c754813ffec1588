//! Sees every answer, remembers what matters of it, and says what must not be.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_token_broker::broker::{Answer, Refusal, Source};
use courier_token_broker::sandbox::{Call, Faults};
use courier_token_broker::token::{Moment, TokenKey};
use courier_token_broker::upstream::Failure;

use super::crowd::Visit;
use super::weather::{SHORT_LIFE, SLOWEST, brings, fair, shortens};
use crate::support::broker::claims;
use crate::world::{Made, SECOND};

// The world's settings.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(5);
const HARD_FLOOR: Duration = Duration::from_secs(30);

/// What is told of time is told to a few milliseconds: timers go by them.
const TICKS: Duration = Duration::from_millis(5);
/// An error may tell of what happened so long ago: the broker remembers what Courier refused
/// for half a minute, and it may be some time before it calls again.
const MEMORY: Duration = Duration::from_secs(45);
/// And that a key's token did not come in time, for so long.
const PASSING: Duration = Duration::from_secs(3);

/// A token, as Courier knows it.
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

    /// What it must have left to be handed out at all.
    fn hard_floor(&self) -> Duration {
        HARD_FLOOR.min(self.life / 2)
    }
}

/// An ask that waits for its answer.
pub struct Asked {
    at: Moment,
    /// Where it stands among all that happened.
    place: u64,
    /// The last token that somebody was handed for the same.
    known: Option<Token>,
}

pub type Shared = Arc<Mutex<Witness>>;

pub struct Witness {
    made: Made,
    /// Nothing has to leave the cache for want of room.
    pub roomy: bool,
    places: u64,
    known: HashMap<TokenKey, Token>,
    /// When each user signed out last: the place, and how many calls there had been.
    signed_out: HashMap<String, (u64, usize)>,
    /// When the token of each of these calls was reported as rejected.
    rejected: HashMap<usize, u64>,
    purged: (u64, Moment),
    weather: Vec<(Moment, Faults)>,
    served: Vec<(usize, TokenKey)>,
    /// When somebody waited for each key as long as may be.
    timed_out: HashMap<TokenKey, Moment>,
    /// How often what happened.
    pub seen: BTreeMap<String, u32>,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl Witness {
    pub fn new(made: Made, roomy: bool) -> Self {
        Self {
            made,
            roomy,
            places: 0,
            known: HashMap::new(),
            signed_out: HashMap::new(),
            rejected: HashMap::new(),
            purged: (0, Moment::from_nanos(0)),
            weather: Vec::new(),
            served: Vec::new(),
            timed_out: HashMap::new(),
            seen: BTreeMap::new(),
            wrong: Vec::new(),
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

    /// Courier does something else from now on.
    pub fn weather(&mut self, faults: &Faults, now: Moment) {
        self.weather.push((now, faults.clone()));
    }

    /// A user has signed out, when there had been so many calls.
    pub fn signed_out(&mut self, user: &str, calls: usize) {
        let place = self.next_place();
        self.signed_out.insert(user.to_owned(), (place, calls));
        self.see("sign-out");
    }

    /// A token was reported as rejected.
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

    /// Somebody asks.
    pub fn asked(&mut self, visit: &Visit, now: Moment) -> Asked {
        let place = self.next_place();
        let known = self.known.get(&visit.key).copied().filter(|token| self.is_good(token, visit));
        Asked { at: now, place, known }
    }

    /// Somebody has their answer.
    pub fn answered(&mut self, visit: &Visit, asked: &Asked, outcome: &Result<Answer, Refusal>, now: Moment) {
        let mut wrong = Vec::new();
        let waited = now.since(asked.at);
        // A token that is known and would do, as the broker must know too.
        let known = asked.known.filter(|token| self.roomy && self.is_good(token, visit));
        let least = |token: &Token| token.hard_floor().max(visit.min_ttl.unwrap_or_default());
        let do_at = |moment| move |token: &Token| token.left(moment) >= least(token);
        let patience = if known.is_some_and(|token| do_at(asked.at)(&token)) { TIMEOUT / 5 } else { TIMEOUT };
        if waited > patience + TICKS {
            wrong.push(format!("after {waited:?}"));
        }
        match outcome {
            Ok(answer) => match self.token(answer.grant.token(), visit) {
                Ok(token) => self.judge(visit, asked, answer, token, now, &mut wrong),
                Err(why) => wrong.push(why),
            },
            Err(refusal) => {
                self.see(&kind(refusal));
                if *refusal == Refusal::TimedOut && waited >= TIMEOUT {
                    self.timed_out.insert(visit.key.clone(), now);
                }
                if let Some(token) = known.filter(do_at(now)) {
                    wrong.push(format!("although there is {token:?}"));
                }
                if let Err(why) = self.makes_sense(visit, refusal, waited, now) {
                    wrong.push(why);
                }
            }
        }
        if let Some(token) = known.filter(|token| token.left(asked.at) >= (token.life / 2).max(least(token)))
            && !waited.is_zero()
        {
            wrong.push(format!("waited for {waited:?} although there is {token:?}"));
        }
        for why in wrong {
            let outcome = outcome.as_ref().map(|answer| (answer.source, answer.remaining));
            self.wrong.push(format!("{why}: {visit:?} got {outcome:?} at {now:?}, {waited:?} after asking"));
        }
    }

    /// The call that made a token, and when that was.
    fn call_of(&self, token: &[u8]) -> Option<(usize, Moment)> {
        self.made.lock().expect("nobody panics").get(std::str::from_utf8(token).ok()?).copied()
    }

    /// What a token is, if it is for exactly what is wanted.
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

    /// May this token be handed out now to who asks?
    fn judge(
        &mut self,
        visit: &Visit,
        asked: &Asked,
        answer: &Answer,
        token: Token,
        now: Moment,
        wrong: &mut Vec<String>,
    ) {
        let left = token.left(now);
        let mut must = |holds: bool, why: &str| {
            if !holds {
                wrong.push(format!("{why}: {token:?}, {left:?} left"));
            }
        };
        must(answer.remaining <= left, "it is told to live longer than it does");
        must(left >= token.hard_floor(), "below the hard floor");
        must(visit.min_ttl.is_none_or(|wanted| left >= wanted), "below what was wanted");
        let hit = answer.source == Source::Hit;
        must(!hit || left >= token.life / 2, "a hit below the floor");
        let since = |place: u64| place > asked.place;
        let sign_outs = || visit.users.iter().filter_map(|user| self.signed_out.get(user));
        must(sign_outs().all(|(place, calls)| since(*place) || token.call >= *calls), "made before they signed out");
        must(self.rejected.get(&token.call).is_none_or(|place| since(*place)), "reported as rejected");
        must(since(self.purged.0) || token.at >= self.purged.1, "made before all was purged");
        // What was on its way while somebody signed out reaches who waited, and is not kept.
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
    }

    /// Nobody took it out, and nothing took its place that may not live as long.
    fn is_good(&self, token: &Token, visit: &Visit) -> bool {
        let signed_out = |user: &String| self.signed_out.get(user).is_some_and(|(_, calls)| token.call < *calls);
        // By one that is not below its floor for as long.
        let may_replace = |end: Moment| end >= token.at && end + SHORT_LIFE / 2 >= token.at + token.life / 2;
        let replaced = self.times().any(|(faults, end)| shortens(faults) && may_replace(end));
        !visit.users.iter().any(signed_out)
            && !self.rejected.contains_key(&token.call)
            && token.at > self.purged.1
            && !replaced
    }

    /// What Courier has done, and until when it did. What it did last goes on.
    fn times(&self) -> impl Iterator<Item = (&Faults, Moment)> {
        let ends = self.weather.iter().skip(1).map(|(start, _)| *start).chain([Moment::NEVER]);
        // An answer that was made before comes later.
        self.weather.iter().zip(ends).map(|((_, faults), end)| (faults, end + SLOWEST))
    }

    /// Has this error a cause?
    fn makes_sense(&self, visit: &Visit, refusal: &Refusal, waited: Duration, now: Moment) -> Result<(), String> {
        let lately =
            |what: &dyn Fn(&Faults) -> bool| self.times().any(|(faults, end)| now.since(end) < MEMORY && what(faults));
        let holds = match refusal {
            Refusal::Lost | Refusal::Upstream(Failure::OldKey | Failure::Stopping) => false,
            // The others for whom it would be in vain are told so at once.
            Refusal::TimedOut => {
                waited >= TIMEOUT / 5 || self.timed_out.get(&visit.key).is_some_and(|at| now.since(*at) <= PASSING)
            }
            // A token may come that old, if it is slow.
            Refusal::TooOld => {
                let needed = visit.min_ttl.unwrap_or_default();
                needed + SLOWEST > visit.key.lifetime().as_duration() || lately(&shortens)
            }
            Refusal::Upstream(Failure::Limited(wait)) => *wait > MAX_WAIT,
            Refusal::Upstream(Failure::CircuitOpen(rest)) => {
                *rest <= 30 * SECOND && lately(&|faults| *faults != fair())
            }
            Refusal::Upstream(failure) => lately(&|faults| brings(faults, failure)),
        };
        holds.then_some(()).ok_or_else(|| "an error that makes no sense".to_owned())
    }

    /// Each token was made by a call that asked for exactly what its user wanted: an opaque
    /// one does not tell.
    pub fn check_calls(&mut self, calls: &[Call]) {
        for (call, key) in std::mem::take(&mut self.served) {
            let Call { scope, expires_in, .. } = &calls[call];
            if scope != key.claim() || *expires_in != format!("{:?}", key.lifetime().to_string()) {
                self.wrong.push(format!("{key:?} was served with what was asked for by {:?}", calls[call]));
            }
        }
    }
}

/// What an error is called in the counts.
fn kind(refusal: &Refusal) -> String {
    let text = match refusal {
        Refusal::Upstream(failure) => format!("{failure:?}"),
        other => format!("{other:?}"),
    };
    text.split('(').next().unwrap_or_default().to_owned()
}
