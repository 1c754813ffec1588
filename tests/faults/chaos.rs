//! Everything at once, for ten minutes: a crowd that comes, signs out and hangs up, and a Courier
//! that does something else every few seconds. What must never be, is not; and when it is over,
//! all is well again.
//!
//! What happens is drawn, from a seed that is always the same unless another is given
//! (`CHAOS_SEED=$RANDOM cargo test --test faults chaos`).

mod crowd;
mod weather;
mod witness;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use courier_token_broker::broker::Refusal;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::token::{Moment, UserId};
use courier_token_broker::upstream::Failure;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::world::{MS, SECOND, Setup, World, ask, keeps_budget};
use crowd::{Crowd, Visit};
use weather::Deck;
use witness::{Shared, Witness};

const MINUTE: Duration = Duration::from_secs(60);
const RATE: f64 = 80.0;
const BURST: u32 = 40;

#[tokio::test(start_paused = true)]
async fn chaos_with_what_is_learned() {
    run(Mode::Learned, 100_000, 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn chaos_where_memory_is_short() {
    run(Mode::Used, 1_000, 4 * MINUTE).await;
}

async fn run(mode: Mode, capacity: u64, length: Duration) {
    let seed = std::env::var("CHAOS_SEED").map_or(7, |text| text.parse().expect("a number"));
    // It is shown where the test fails.
    println!("CHAOS_SEED={seed}");
    // What the broker and Courier draw themselves.
    fastrand::seed(seed);
    let world = World::new(&Setup { rate: RATE, burst: BURST, mode, capacity, ..Setup::default() });
    let witness = Witness::new(Arc::clone(&world.made), mode == Mode::Learned);
    let run = Run { witness: Arc::new(Mutex::new(witness)), world: Arc::new(world) };
    run.storm(seed, length).await;
    run.recovers(seed).await;
    run.comes_to_rest(capacity).await;
    run.nothing_was_wrong();
}

#[derive(Clone)]
struct Run {
    world: Arc<World>,
    witness: Shared,
}

impl Run {
    fn now(&self) -> Moment {
        self.world.clock.now()
    }

    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().expect("nobody panics")
    }

    /// All of it.
    async fn storm(&self, seed: u64, length: Duration) {
        let (mut random, mut crowd, mut visits) = (Rng::with_seed(seed), Crowd::new(seed), JoinSet::new());
        let end = self.now() + length;
        let (mut next, mut turn, mut deck) = (self.now(), self.now(), Deck::default());
        while next < end {
            self.world.clock.sleep_until(next).await;
            if turn <= next {
                turn = next + self.turn(&mut random, &mut deck);
            }
            visits.spawn(self.clone().visit(crowd.next()));
            next = next + crowd.pause();
        }
        visits.join_all().await;
    }

    /// Courier does something else from now on: for how long.
    fn turn(&self, random: &mut Rng, deck: &mut Deck) -> Duration {
        let (faults, length) = weather::draw(random, deck);
        self.witness().weather(&faults, self.now());
        self.world.courier.change(faults);
        if random.u32(..60) == 0 {
            self.witness().purged(self.now());
            self.world.broker.purge("default").expect("there is one");
        }
        length
    }

    /// Somebody comes, with what they do besides.
    async fn visit(self, visit: Visit) {
        let signs_out = async {
            let Some((after, again)) = visit.sign_out else { return };
            self.world.pass(after).await;
            let user = &visit.users[0];
            self.world.broker.sign_out("default", UserId::new(user).expect("an id"));
            self.witness().signed_out(user, self.world.courier.call_count());
            self.world.pass(again).await;
            self.ask(&visit.again()).await;
        };
        let asks = async {
            let Some(patience) = visit.patience else { return self.ask(&visit).await };
            timeout(patience, self.ask(&visit)).await.ok().flatten()
        };
        let ((), token) = tokio::join!(signs_out, asks);
        if let Some((after, token)) = visit.report.zip(token) {
            self.world.pass(after).await;
            self.witness().reported(token.as_bytes());
            self.world.broker.reject(&token, |_| true);
            self.ask(&visit.again()).await;
        }
    }

    /// Asks, and says what it got.
    async fn ask(&self, visit: &Visit) -> Option<String> {
        let asked = self.witness().asked(visit, self.now());
        let outcome = self.world.broker.ask(&visit.ask()).await;
        self.witness().answered(visit, &asked, &outcome, self.now());
        outcome.ok().map(|answer| String::from_utf8_lossy(answer.grant.token()).into_owned())
    }

    /// Courier is well. After a minute, so is everybody; and the whole of the budget is theirs.
    async fn recovers(&self, seed: u64) {
        let fair = weather::fair();
        self.witness().weather(&fair, self.now());
        self.world.courier.change(fair);
        let mut crowd = Crowd::new(!seed);
        let mut visits = JoinSet::new();
        for second in 0..90 {
            for _ in 0..20 {
                let visit = Visit { min_ttl: None, ..crowd.next().again() };
                let run = self.clone();
                visits.spawn(async move { (second, run.ask(&visit).await.is_some()) });
            }
            self.world.pass(SECOND).await;
        }
        let served = visits.join_all().await;
        let late: Vec<_> = served.iter().filter(|(second, served)| *second >= 60 && !served).collect();
        assert!(late.is_empty(), "a minute after the last fault {} of 600 got no token", late.len());

        // Until the burst is whole again.
        self.world.pass(5 * SECOND).await;
        let before = self.world.courier.call_count();
        let rush: JoinSet<_> = (0..2000)
            .map(|user| {
                let broker = self.world.broker.clone();
                async move { broker.ask(&ask(&format!("new-{user}"), "1d")).await }
            })
            .collect();
        self.world.pass(MS).await;
        let at_once = self.world.courier.call_count() - before;
        // The rest of the burst is for calls that catch up with each other, and for renewals.
        assert!(at_once >= BURST as usize * 3 / 5, "{at_once} calls at once of a burst of {BURST}");
        let mut served = 0_u32;
        for outcome in rush.join_all().await {
            match outcome {
                Ok(_) => served += 1,
                Err(Refusal::Upstream(Failure::Limited(_))) => {}
                Err(other) => panic!("{other}"),
            }
        }
        // Who would have to wait for more than five seconds is refused.
        assert!(f64::from(served) >= 5.0 * RATE, "{served} of 2000 at once at {RATE} calls a second");
    }

    /// Nobody comes any more.
    async fn comes_to_rest(&self, capacity: u64) {
        self.world.pass(5 * MINUTE).await;
        timeout(MINUTE, self.world.broker.drained()).await.expect("a flight that does not land");
        let mut waiting = f64::MAX;
        for _ in 0..60 {
            let depth =
                |class| self.metric(&format!("upstream_queue_depth{{class=\"{class}\",workspace=\"default\"}}"));
            waiting = depth("waiting") + depth("renewal");
            if waiting == 0.0 {
                break;
            }
            self.world.pass(SECOND).await;
        }
        assert_eq!(waiting, 0.0, "calls still wait for the budget");
        self.world.broker.update_gauges();
        let cached = self.metric("cached_tokens");
        assert!(cached > 0.0 && cached <= capacity as f64, "{cached} tokens in a cache of {capacity}");
    }

    fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.world.metrics.text().expect("text")).expect("UTF-8");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("courier_token_broker_{name} ")));
        line.expect("the metric").parse().expect("a number")
    }

    fn nothing_was_wrong(&self) {
        let calls = self.world.courier.calls();
        assert_eq!(calls.len(), self.world.courier.call_count(), "the first ones are forgotten");
        let mut witness = self.witness();
        witness.check_calls(&calls);
        println!("{:?}", witness.seen);
        let wrong = &witness.wrong;
        assert!(
            wrong.is_empty(),
            "{} were wrong, the first of them:\n{}",
            wrong.len(),
            wrong[..wrong.len().min(5)].join("\n")
        );
        let moments: Vec<_> = calls.iter().map(|call| call.at).collect();
        assert!(keeps_budget(&moments, RATE, f64::from(BURST)), "more calls than the budget has");
        // Else the storm was none. A short one may be mild.
        let hard: &[&str] = if witness.roomy { &["kept", "CircuitOpen", "Limited", "Throttled"] } else { &[] };
        for what in ["hit", "issued", "collapsed", "sign-out", "report"].iter().chain(hard) {
            assert!(witness.seen.get(*what).is_some_and(|count| *count >= 5), "{what}: {:?}", witness.seen);
        }
    }
}
