//! Who comes, and what they want.

use std::time::Duration;

use courier_token_broker::audit::Who;
use courier_token_broker::broker::Ask;
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey};
use fastrand::Rng;

use crate::world::{MS, workspace};

/// So many users there are.
pub const USERS: u32 = 50_000;
/// The mean time from one visit to the next.
const PAUSE: Duration = Duration::from_millis(15);
/// Of the visits, the share of those who come again and again.
const REGULARS: f64 = 0.55;

const CLIENTS: [&str; 4] = ["web", "mobile", "tv", "batch"];
const LIFETIMES: [&str; 6] = ["60s", "5m", "5m", "5m", "1h", "1d"];
const SCOPES: [&[&str]; 4] = [
    &["inbox:read:messages"],
    &["inbox:read:messages", "inbox:write:events"],
    &["read:preferences", "write:preferences", "inbox:read:messages"],
    &["read:brands"],
];

/// Somebody comes.
#[derive(Clone, Debug)]
pub struct Visit {
    pub client: &'static str,
    /// The first of them comes.
    pub users: Vec<String>,
    /// In any order.
    pub scopes: Vec<&'static str>,
    pub key: TokenKey,
    pub min_ttl: Option<Duration>,
    /// They hang up when they have waited for so long.
    pub patience: Option<Duration>,
    /// They sign out so long after they came, and come again so much later.
    pub sign_out: Option<(Duration, Duration)>,
    /// The token is reported as rejected so long after they got it, and they come again.
    pub report: Option<Duration>,
}

impl Visit {
    pub fn ask(&self) -> Ask<'static> {
        Ask { key: self.key.clone(), min_ttl: self.min_ttl, who: Who::Client(self.client.into()) }
    }

    /// The same person, once more.
    pub fn again(&self) -> Self {
        Self { patience: None, sign_out: None, report: None, ..self.clone() }
    }
}

/// Everybody: most come once or twice or not at all, those with low numbers again and again.
pub struct Crowd {
    random: Rng,
    /// Who comes once, as it looks.
    strangers: Vec<u32>,
}

impl Crowd {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut strangers: Vec<_> = (0..USERS).collect();
        random.shuffle(&mut strangers);
        Self { random, strangers }
    }

    /// Who comes next.
    pub fn next(&mut self) -> Visit {
        let regular = self.random.f64() < REGULARS;
        let stranger = if regular { None } else { self.strangers.pop() };
        // How often somebody comes falls as one over their number (Zipf's law).
        let user = stranger.unwrap_or_else(|| f64::from(USERS).powf(self.random.f64()) as u32 - 1);
        let mut visit = self.visit(user);
        let random = &mut self.random;
        visit.patience = (random.f64() < 0.02).then(|| MS * random.u32(0..3000));
        visit.sign_out = (random.f64() < 0.01).then(|| (MS * random.u32(0..3000), MS * random.u32(0..2000)));
        visit.report = (random.f64() < 0.01).then(|| MS * random.u32(0..2000));
        visit
    }

    /// What a user wants: mostly the same.
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

    /// Until the next one comes.
    pub fn pause(&mut self) -> Duration {
        PAUSE.mul_f64(-(1.0 - self.random.f64()).ln())
    }
}
