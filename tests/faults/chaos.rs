//! All faults at once, for ten minutes: users ask, sign out and hang up while Courier's faults change every few
//! seconds. The invariants hold throughout, and the broker recovers afterwards.
//!
//! Workload and faults are drawn from a fixed seed; another one is `CHAOS_SEED=$RANDOM cargo test --test faults chaos`.

mod fault_schedule;
mod invariants;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::broker::Refusal;
use courier_token_broker::clock::Moment;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::upstream::Failure;
use fastrand::Rng;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, join_all, text};
use fault_schedule::Deck;
use invariants::{Invariants, Shared};
use workload::{Visit, Workload};

const MINUTE: Duration = Duration::from_secs(60);
const RATE: f64 = 80.0;
const BURST: u32 = 40;

#[tokio::test(start_paused = true)]
async fn invariants_hold_in_mode_learned() {
    run(Mode::Learned, 100_000, 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn invariants_hold_with_a_small_cache() {
    run(Mode::Used, 1_000, 4 * MINUTE).await;
}

async fn run(mode: Mode, capacity: u64, length: Duration) {
    let seed = std::env::var("CHAOS_SEED").map_or(7, |text| text.parse().expect("a number"));
    // The test's output shows the seed when it fails.
    println!("CHAOS_SEED={seed}");
    // The random numbers of the broker and of the simulator.
    fastrand::seed(seed);
    let test = TestBroker::new(&TestSetup { rate: RATE, burst: BURST, mode, capacity, ..TestSetup::default() });
    let invariants = Invariants::new(test.issuer.clone(), mode == Mode::Learned);
    let run = Run { invariants: Arc::new(Mutex::new(invariants)), test: Arc::new(test) };
    run.run_faults(seed, length).await;
    run.recovers(seed).await;
    run.drains(capacity).await;
    run.check_invariants();
}

#[derive(Clone)]
struct Run {
    test: Arc<TestBroker>,
    invariants: Shared,
}

impl Run {
    fn now(&self) -> Moment {
        self.test.clock.now()
    }

    fn invariants(&self) -> MutexGuard<'_, Invariants> {
        self.invariants.lock()
    }

    /// Runs workload and faults for this long.
    async fn run_faults(&self, seed: u64, length: Duration) {
        let (mut random, mut workload, mut visits) = (Rng::with_seed(seed), Workload::new(seed), JoinSet::new());
        let end = self.now() + length;
        let (mut next, mut turn, mut deck) = (self.now(), self.now(), Deck::default());
        while next < end {
            self.test.clock.sleep_until(next).await;
            if turn <= next {
                turn = next + self.change_faults(&mut random, &mut deck);
            }
            visits.spawn(self.clone().visit(workload.next()));
            next = next + workload.pause();
        }
        visits.join_all().await;
    }

    /// Sets the next faults and returns for how long they last.
    fn change_faults(&self, random: &mut Rng, deck: &mut Deck) -> Duration {
        let (faults, length) = fault_schedule::draw(random, deck);
        self.invariants().faults_changed(&faults, self.now());
        self.test.courier.change(faults);
        if random.u32(..60) == 0 {
            self.invariants().purged(self.now());
            self.test.broker.purge("default").expect("there is one");
        }
        length
    }

    /// Runs a visit: its request, and its sign-out or report.
    async fn visit(self, visit: Visit) {
        let signs_out = async {
            let Some((after, again)) = visit.sign_out else { return };
            self.test.pass(after).await;
            let user = &visit.users[0];
            self.test.sign_out(user);
            self.invariants().signed_out(user, self.test.courier.call_count());
            self.test.pass(again).await;
            self.ask(&visit.again()).await;
        };
        let asks = async {
            let Some(patience) = visit.patience else { return self.ask(&visit).await };
            timeout(patience, self.ask(&visit)).await.ok().flatten()
        };
        let ((), token) = tokio::join!(signs_out, asks);
        if let Some((after, token)) = visit.report.zip(token) {
            self.test.pass(after).await;
            self.invariants().reported(token.as_bytes());
            self.test.broker.reject(&token, |_| true);
            self.ask(&visit.again()).await;
        }
    }

    /// Asks, and returns the token.
    async fn ask(&self, visit: &Visit) -> Option<String> {
        let asked = self.invariants().asked(visit, self.now());
        let outcome = self.test.broker.get_token(&visit.ask()).await;
        self.invariants().answered(visit, &asked, &outcome, self.now());
        outcome.ok().map(|answer| text(&answer))
    }

    /// Ends all faults. After a minute every user is served, and users have the whole budget.
    async fn recovers(&self, seed: u64) {
        let healthy = fault_schedule::healthy();
        self.invariants().faults_changed(&healthy, self.now());
        self.test.courier.change(healthy);
        let mut workload = Workload::new(!seed);
        let mut visits = JoinSet::new();
        for second in 0..90 {
            for _ in 0..20 {
                let visit = Visit { min_ttl: None, ..workload.next().again() };
                let run = self.clone();
                visits.spawn(async move { (second, run.ask(&visit).await.is_some()) });
            }
            self.test.pass(SECOND).await;
        }
        let served = visits.join_all().await;
        let late: Vec<_> = served.iter().filter(|(second, served)| *second >= 60 && !served).collect();
        assert!(late.is_empty(), "a minute after the last fault {} of 600 got no token", late.len());

        // The burst is refilled.
        self.test.pass(5 * SECOND).await;
        let before = self.test.courier.call_count();
        let rush: Vec<_> = (0..2000).map(|user| self.test.spawn_ask(&format!("new-{user}"), "1d")).collect();
        self.test.pass(MS).await;
        let at_once = self.test.courier.call_count() - before;
        // The rest of the burst is for renewals and for calls whose order the jitter changes.
        assert!(at_once >= BURST as usize * 3 / 5, "{at_once} calls at once of a burst of {BURST}");
        let mut served = 0_u32;
        for outcome in join_all(rush).await {
            match outcome {
                Ok(_) => served += 1,
                Err(Refusal::Upstream(Failure::Limited(_))) => {}
                Err(other) => panic!("{other}"),
            }
        }
        // A request that would wait for more than five seconds is refused.
        assert!(f64::from(served) >= 5.0 * RATE, "{served} of 2000 at once at {RATE} calls a second");
    }

    /// Stops the workload and checks that calls and queues drain.
    async fn drains(&self, capacity: u64) {
        self.test.pass(5 * MINUTE).await;
        timeout(MINUTE, self.test.broker.drained()).await.expect("a call that never ends");
        let waiting = || self.test.queue_depth("waiting") + self.test.queue_depth("renewal");
        let drained = self.test.pass_while(SECOND, || waiting() > 0.0);
        timeout(MINUTE, drained).await.expect("calls still wait for the budget");
        let cached = self.test.cached_tokens();
        assert!(cached > 0.0 && cached <= capacity as f64, "{cached} tokens in a cache of {capacity}");
    }

    fn check_invariants(&self) {
        let calls = self.test.courier.calls();
        assert_eq!(calls.len(), self.test.courier.call_count(), "the simulator dropped the first calls");
        let mut invariants = self.invariants();
        invariants.check_calls(&calls);
        println!("{:?}", invariants.seen);
        let violations = &invariants.violations;
        assert!(
            violations.is_empty(),
            "{} violations, the first of them:\n{}",
            violations.len(),
            violations[..violations.len().min(5)].join("\n")
        );
        assert!(self.test.keeps_budget(), "more calls than the budget has");
        // Otherwise the run tested nothing. A short run may have few faults.
        let hard: &[&str] =
            if invariants.never_evicts { &["kept", "CircuitOpen", "Limited", "Throttled"] } else { &[] };
        for what in ["hit", "issued", "collapsed", "sign-out", "report"].iter().chain(hard) {
            assert!(invariants.seen.get(*what).is_some_and(|count| *count >= 5), "{what}: {:?}", invariants.seen);
        }
    }
}
