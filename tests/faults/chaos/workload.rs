//! The workload: which users ask, and for which tokens.

use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::TokenRequest;
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey};
use fastrand::Rng;

use crate::support::test_broker::{MS, workspace};

/// The number of users.
pub const USERS: u32 = 50_000;
/// The mean time from one visit to the next.
const PAUSE: Duration = Duration::from_millis(15);
/// The share of visits by regular users.
const REGULARS: f64 = 0.55;

const CLIENTS: [&str; 4] = ["web", "mobile", "tv", "batch"];
const LIFETIMES: [&str; 6] = ["60s", "5m", "5m", "5m", "1h", "1d"];
const SCOPES: [&[&str]; 4] = [
    &["inbox:read:messages"],
    &["inbox:read:messages", "inbox:write:events"],
    &["read:preferences", "write:preferences", "inbox:read:messages"],
    &["read:brands"],
];

/// A user's visit: one request, and what the user does besides.
#[derive(Clone, Debug)]
pub struct Visit {
    pub client: &'static str,
    /// The users of the token; the first is the visitor.
    pub users: Vec<String>,
    /// The scopes, in any order.
    pub scopes: Vec<&'static str>,
    pub key: TokenKey,
    pub min_ttl: Option<Duration>,
    /// The time after which the caller hangs up.
    pub patience: Option<Duration>,
    /// The time until the sign-out, and from then until the next request.
    pub sign_out: Option<(Duration, Duration)>,
    /// The time from the answer to the report that the token is rejected; another request follows.
    pub report: Option<Duration>,
}

impl Visit {
    pub fn ask(&self) -> TokenRequest<'static> {
        TokenRequest {
            key: self.key.clone(),
            min_ttl: self.min_ttl,
            actor: Actor::Client(self.client.into()),
            trace: None,
        }
    }

    /// The same request once more.
    pub fn again(&self) -> Self {
        Self { patience: None, sign_out: None, report: None, ..self.clone() }
    }
}

/// Draws visits: most users come twice at most, those with low numbers again and again.
pub struct Workload {
    random: Rng,
    /// The users that newcomers are drawn from.
    newcomers: Vec<u32>,
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut newcomers: Vec<_> = (0..USERS).collect();
        random.shuffle(&mut newcomers);
        Self { random, newcomers }
    }

    /// Draws the next visit.
    pub fn next(&mut self) -> Visit {
        let regular = self.random.f64() < REGULARS;
        let newcomer = if regular { None } else { self.newcomers.pop() };
        // A user's frequency is proportional to one over their number (Zipf's law).
        let user = newcomer.unwrap_or_else(|| f64::from(USERS).powf(self.random.f64()) as u32 - 1);
        let mut visit = self.visit(user);
        let random = &mut self.random;
        visit.patience = (random.f64() < 0.02).then(|| MS * random.u32(0..3000));
        visit.sign_out = (random.f64() < 0.01).then(|| (MS * random.u32(0..3000), MS * random.u32(0..2000)));
        visit.report = (random.f64() < 0.01).then(|| MS * random.u32(0..2000));
        visit
    }

    /// Draws a request of this user, mostly for the same token.
    pub fn visit(&mut self, user: u32) -> Visit {
        let mut habit = Rng::with_seed(u64::from(user));
        let client = CLIENTS[habit.usize(..CLIENTS.len())];
        let wants = |random: &mut Rng| (random.usize(..LIFETIMES.len()), random.usize(..SCOPES.len()));
        let mut wish = wants(&mut habit);
        let friend = (habit.u8(..8) == 0).then(|| habit.u32(..USERS)).filter(|friend| *friend != user);
        if self.random.u8(..10) == 0 {
            wish = wants(&mut self.random);
        }
        let users: Vec<_> = [Some(user), friend].into_iter().flatten().map(|user| user.to_string()).collect();
        let mut scopes = SCOPES[wish.1].to_vec();
        self.random.shuffle(&mut scopes);
        let named = users.iter().map(|user| format!("user_id:{user}"));
        let text = named.chain(scopes.iter().map(|scope| (*scope).to_owned())).collect::<Vec<_>>().join(" ");
        let claim = ScopeClaim::parse(&text).expect("a claim");
        let lifetime = Lifetime::parse(LIFETIMES[wish.0]).expect("a lifetime");
        let min_ttl = (self.random.u8(..12) == 0).then(|| lifetime.as_duration().mul_f64(0.9 * self.random.f64()));
        let key = TokenKey::new(&workspace(), &claim, lifetime);
        Visit { client, users, scopes, key, min_ttl, patience: None, sign_out: None, report: None }
    }

    /// Draws the time to the next visit.
    pub fn pause(&mut self) -> Duration {
        PAUSE.mul_f64(-(1.0 - self.random.f64()).ln())
    }
}
