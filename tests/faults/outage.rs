//! Long outages: Courier is down for half an hour, or fails half of the calls for an hour.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use courier_token_broker::broker::{Answer, Refusal, Source};
use courier_token_broker::clock::Moment;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::admission::rate_limit::recovery;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Fault, Faults};
use tokio::task::JoinSet;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, ask};

const MINUTE: Duration = Duration::from_secs(60);
/// The hard floor of tokens of an hour.
const HARD_FLOOR: Duration = Duration::from_secs(30);

/// A workload of regular users and of newcomers, who ask once.
struct Workload {
    test: TestBroker,
    regulars: u32,
    newcomers: u32,
    random: fastrand::Rng,
    /// The time at which each regular's token reaches the hard floor.
    good: HashMap<u32, Moment>,
    /// The regulars who waited for a token.
    fetched: HashSet<u32>,
    asked: JoinSet<Asked>,
}

/// An answered request.
struct Asked {
    /// `None` for a newcomer.
    user: Option<u32>,
    at: Moment,
    took: Duration,
    outcome: Result<Answer, Refusal>,
}

/// Counts of the outcomes in a period.
#[derive(Debug, Default)]
struct Seen {
    regulars: u32,
    /// Regulars refused because they had no good token any more.
    bare: u32,
    old: u32,
    newcomers: u32,
    failed: u32,
    slowest: Duration,
}

impl Workload {
    fn new(setup: &TestSetup, regulars: u32) -> Self {
        let (test, random) = (TestBroker::new(setup), fastrand::Rng::with_seed(7));
        let (good, fetched, asked) = (HashMap::new(), HashSet::new(), JoinSet::new());
        Self { test, regulars, newcomers: 0, random, good, fetched, asked }
    }

    /// Runs the workload: each regular asks about every two minutes, and `newcomers` users a second ask once.
    async fn pass(&mut self, time: Duration, newcomers: f64) -> Seen {
        let (mut seen, end) = (Seen::default(), self.test.clock.now() + time);
        let regulars = f64::from(self.regulars) / 120.0;
        while self.test.clock.now() < end {
            let gap = -(1.0 - self.random.f64()).ln() / (regulars + newcomers);
            self.test.pass(Duration::from_secs_f64(gap)).await;
            let user = if self.random.f64() * (regulars + newcomers) < regulars {
                Some(self.random.u32(0..self.regulars))
            } else {
                self.newcomers += 1;
                None
            };
            self.ask(user);
            while let Some(asked) = self.asked.try_join_next() {
                self.see(&mut seen, asked.expect("no panic"));
            }
        }
        while let Some(asked) = self.asked.join_next().await {
            self.see(&mut seen, asked.expect("no panic"));
        }
        seen
    }

    fn ask(&mut self, user: Option<u32>) {
        let (broker, clock) = (self.test.broker.clone(), self.test.clock);
        let name = user.map_or_else(|| format!("new-{}", self.newcomers), |user| format!("regular-{user}"));
        self.asked.spawn(async move {
            let at = clock.now();
            let outcome = broker.get_token(&ask(&name, "1h")).await;
            Asked { user, at, took: clock.now().since(at), outcome }
        });
    }

    /// Counts an outcome. Fails if a user with a token above the hard floor was refused.
    fn see(&mut self, seen: &mut Seen, asked: Asked) {
        let Asked { user, at, took, outcome } = asked;
        seen.slowest = seen.slowest.max(took);
        let Some(user) = user else {
            seen.newcomers += 1;
            seen.failed += u32::from(outcome.is_err());
            return;
        };
        seen.regulars += 1;
        match outcome {
            Ok(answer) => {
                assert!(answer.remaining >= HARD_FLOOR);
                if matches!(answer.source, Source::Issued { .. }) {
                    self.fetched.insert(user);
                }
                seen.old += u32::from(matches!(answer.source, Source::Stale(_)));
                self.good.insert(user, answer.grant.expires() - HARD_FLOOR);
            }
            Err(refusal) => {
                seen.bare += 1;
                let good = self.good.get(&user).copied();
                assert!(good.is_none_or(|good| good <= at + took), "{user} was refused with a good token: {refusal}");
            }
        }
    }

    /// The times of the calls since then.
    fn calls(&self, since: Moment) -> Vec<Moment> {
        self.test.calls().into_iter().filter(|at| *at >= since).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn outage_of_half_an_hour_fails_no_user_with_a_good_token() {
    const RATE: f64 = 20.0;
    const USERS: u32 = 1000;
    for mode in [Mode::Learned, Mode::Used] {
        let setup = TestSetup { rate: RATE, burst: 20, mode, ..TestSetup::default() };
        let mut workload = Workload::new(&setup, USERS);
        workload.pass(90 * MINUTE, 0.1).await;
        let before = workload.newcomers;
        workload.pass(30 * MINUTE, 0.1).await;
        let tokens = USERS + workload.newcomers - before;
        // The floor is half of the lifetime, so a fresh token lasts as long as the outage.
        workload.test.courier.misbehave(Some(Fault::status(503)));
        let down = workload.test.clock.now();
        let seen = workload.pass(30 * MINUTE, 0.1).await;
        assert!(seen.regulars > 10_000 && seen.old > 100, "{seen:?}");
        assert!(f64::from(seen.bare) < 0.01 * f64::from(seen.regulars), "{seen:?}");
        assert_eq!(seen.failed, seen.newcomers, "{seen:?}");
        // A few calls fail until the circuit breaker opens; after that there are only probes, at most two a second.
        let probes = workload.calls(down + 10 * SECOND).len();
        assert!((900..3600).contains(&probes), "{probes} probes in half an hour");

        // No user waits long for an error.
        assert!(seen.slowest <= 2 * SECOND + 10 * MS, "{seen:?}");
        workload.test.courier.misbehave(None);
        workload.fetched.clear();
        let up = workload.test.clock.now();
        let seen = workload.pass(5 * MINUTE, 0.1).await;
        assert!(seen.failed < seen.newcomers, "{seen:?}");
        let calls = workload.calls(up);
        // The first call is the probe that closes the circuit breaker, within two seconds.
        let back = calls[0];
        assert!(back.since(up) <= 2 * SECOND);
        rises_smoothly(&calls, back, RATE);
        // The planner's forecast for the fresh tokens and for the newcomers since.
        let forecast = recovery(&Budget::new(RATE, 20).expect("a budget"), u64::from(tokens + seen.newcomers));
        let mut too_late = 0;
        for user in 0..USERS {
            let answer = workload.test.ask(&format!("regular-{user}"), "1h").await.expect("a token");
            // Users without a token, and users who come too rarely, get theirs on request.
            let left = answer.source != Source::Hit || workload.fetched.contains(&user);
            let late = answer.grant.sent().since(back + forecast);
            assert!(left || late.is_zero(), "{user} {mode:?}: {late:?} later than {forecast:?}");
            too_late += u32::from(!late.is_zero());
        }
        assert!(too_late < USERS / 20, "{too_late}");
        println!(
            "down for half an hour, {mode:?}: {probes} probes; back after {:?}; then {} calls in 5 minutes; {tokens} tokens \
             are fresh again within {forecast:?}",
            back.since(up),
            calls.len()
        );
    }
}

/// Checks that the calls of no second exceed the rate, which rises from `back` on, by more than a few. Unused permits
/// are made up for as slowly.
fn rises_smoothly(calls: &[Moment], back: Moment, rate: f64) {
    for (place, from) in calls.iter().enumerate() {
        let within = calls[place..].iter().take_while(|at| at.since(*from) < SECOND).count() as f64;
        let risen = (rate / 10.0 + rate * (from.since(back).as_secs_f64() + 1.0) / 10.0).min(2.0 * rate);
        assert!(within <= risen + 2.0, "{within} calls in the second after {:?}", from.since(back));
    }
}

#[tokio::test(start_paused = true)]
async fn error_rate_of_half_for_an_hour_fails_no_user_with_a_good_token() {
    let mut calls = Vec::new();
    for error_rate in [0.0, 0.5] {
        let setup = TestSetup { rate: 50.0, burst: 50, mode: Mode::Learned, ..TestSetup::default() };
        let setup = TestSetup { faults: Faults { error_rate, ..Faults::default() }, ..setup };
        let mut workload = Workload::new(&setup, 500);
        workload.pass(HOUR, 1.0).await;
        let start = workload.test.clock.now();
        let seen = workload.pass(HOUR, 1.0).await;
        assert_eq!(seen.bare, 0, "{seen:?}");
        assert!(f64::from(seen.failed) < 0.15 * f64::from(seen.newcomers), "{seen:?}");
        calls.push(workload.calls(start).len() as f64);
        println!("errors {error_rate}: {} calls, {seen:?}", calls[calls.len() - 1]);
    }
    assert!(calls[1] < 2.2 * calls[0], "{calls:?}");
}
