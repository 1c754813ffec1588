//! An attack: callers whose calls fail, beside a client that Courier serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Answer, Refusal, TokenRequest};
use courier_token_broker::clock::Moment;
use courier_token_broker::upstream::{Failure, answer};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use tokio::task::JoinHandle;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

/// The failure that an answer with this status and `Retry-After` is read as.
pub fn failure(status: u16, pause: Option<&'static str>) -> Failure {
    let headers: HeaderMap = pause.map(|pause| (RETRY_AFTER, HeaderValue::from_static(pause))).into_iter().collect();
    let (key, unix) = (ask("jane", "1h").key, Duration::from_secs(1_795_305_600));
    answer::grant(status, &headers, b"{}", &key, Moment::from_nanos(0), unix).expect_err("no token")
}

/// The keys that fail.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// So many, in turn.
    Few(usize),
    /// Each call is for another user.
    New,
    /// Each call is for another lifetime of one user.
    Lifetimes,
}

#[derive(Clone)]
pub struct Attack {
    /// The clients whose calls fail, in turn.
    pub clients: &'static [&'static str],
    pub keys: Keys,
    /// The time between two of their requests.
    pub pause: Duration,
    /// The failures of their calls, in turn.
    pub failures: Vec<Failure>,
    /// When the calm client begins.
    pub head: Duration,
    /// How often it asks for a new user, and how many times.
    pub every: Duration,
    pub length: usize,
    /// The calm client has had no token before.
    pub is_cold: bool,
    /// The failing keys had tokens, which are due for renewal.
    pub had_tokens: bool,
    /// The callers that are users with sessions.
    pub sessions: &'static [&'static str],
    /// Each third call of the calm client fails for a moment.
    pub hiccups: bool,
    pub setup: TestSetup,
}

impl Default for Attack {
    fn default() -> Self {
        Self {
            clients: &["storm"],
            keys: Keys::New,
            pause: SECOND,
            failures: Vec::new(),
            head: 300 * MS,
            every: SECOND,
            length: 60,
            is_cold: false,
            had_tokens: false,
            sessions: &[],
            hiccups: false,
            setup: TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() },
        }
    }
}

/// How the calm client fared.
#[derive(Debug, Default)]
pub struct Served {
    hits: usize,
    missed_hits: usize,
    new: usize,
    refused: Vec<(usize, String)>,
}

impl Served {
    /// At least 99% of the hits are served, and 95% of the new users get a token.
    pub fn is_well(&self) -> bool {
        self.missed_hits * 100 <= self.hits && self.refused.len() * 20 <= self.new
    }
}

/// Users of the calm client who have a token.
const REGULARS: usize = 5;

impl Attack {
    pub async fn run(&self) -> Served {
        fastrand::seed(7);
        let test = TestBroker::new(&self.setup);
        if !self.is_cold {
            for user in 0..REGULARS {
                test.broker.get_token(&self.request("calm", &format!("regular-{user}"), "1d")).await.expect("a token");
            }
        }
        if self.had_tokens {
            self.fetch_tokens(&test).await;
        }
        self.begin_failing(&test);
        let mut asked = Vec::new();
        let mut served = Served::default();
        let (start, mut attacks, mut news) = (test.clock.now(), 0_u32, 0_u32);
        let end = start + self.head + self.every * u32::try_from(self.length).expect("few");
        while test.clock.now() < end {
            let (attack, new) = (start + self.pause * attacks, start + self.head + self.every * news);
            test.pass_until(attack.min(new)).await;
            if attack <= new {
                test.spawn(self.failing_request(attacks as usize));
                attacks += 1;
                continue;
            }
            let user = format!("new-{news}");
            asked.push((test.clock.now(), test.spawn(self.request("calm", &user, "1d"))));
            news += 1;
            if !self.is_cold {
                self.count_hits(&test, &mut served).await;
            }
        }
        self.count_new(start, asked, &mut served).await;
        served
    }

    async fn fetch_tokens(&self, test: &TestBroker) {
        for number in 0..64 {
            let mut request = self.failing_request(number);
            request.key = ask(&self.failing_user(number), "4m").key;
            drop(test.broker.get_token(&request).await);
        }
        // They are due before half of their life has passed.
        test.pass(100 * SECOND).await;
    }

    fn begin_failing(&self, test: &TestBroker) {
        let (failures, calls, hiccups) = (self.failures.clone(), Arc::new(AtomicUsize::new(0)), self.hiccups);
        test.issuer.fail(move |claim| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if claim.contains("poison") {
                return Some(failures[call % failures.len()].clone());
            }
            (hiccups && call % 3 == 0).then_some(Failure::Unavailable(502))
        });
    }

    async fn count_hits(&self, test: &TestBroker, served: &mut Served) {
        for user in 0..REGULARS {
            let hit = test.broker.get_token(&self.request("calm", &format!("regular-{user}"), "1d")).await;
            served.hits += 1;
            served.missed_hits += usize::from(hit.is_err());
        }
    }

    async fn count_new(
        &self,
        start: Moment,
        asked: Vec<(Moment, JoinHandle<Result<Answer, Refusal>>)>,
        served: &mut Served,
    ) {
        let (times, tasks): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        for (at, outcome) in times.into_iter().zip(join_all(tasks).await) {
            served.new += 1;
            if let Err(refusal) = outcome {
                served.refused.push((at.since(start).as_secs() as usize, format!("{refusal:?}")));
            }
        }
    }

    fn failing_user(&self, number: usize) -> String {
        match self.keys {
            Keys::Few(count) => format!("poison-{}", number % count),
            Keys::New => format!("poison-{number}"),
            Keys::Lifetimes => "poison".to_owned(),
        }
    }

    fn failing_request(&self, number: usize) -> TokenRequest<'static> {
        let lifetime =
            if matches!(self.keys, Keys::Lifetimes) { format!("{}s", 100 + number) } else { "1h".to_owned() };
        let client = self.clients[number % self.clients.len()];
        self.request(client, &self.failing_user(number), &lifetime)
    }

    fn request(&self, client: &'static str, user: &str, lifetime: &str) -> TokenRequest<'static> {
        let actor = if self.sessions.contains(&client) { Actor::Session } else { Actor::Client(client.into()) };
        TokenRequest { actor, ..ask(user, lifetime) }
    }
}
