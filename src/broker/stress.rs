//! A concurrency stress test: requests, sign-outs, rejections, purges, failing calls and short-lived
//! tokens at once, on several threads. After it, no trace of a signed-out user is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};

use super::handle::{Broker, BrokerSettings};
use super::request::TokenRequest;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::admission::budget::Budget;
use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;
use crate::token::{Grant, Lifetime, ScopeClaim, Token, TokenKey, UserId, WorkspaceName};
use crate::upstream::{Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit};

const USERS: u32 = 60;
const WORKERS: u64 = 8;
const ROUNDS: usize = 150;

/// Issues tokens that expire within a moment, and fails now and then.
struct ShortLivedIssuer {
    clock: Clock,
    calls: AtomicU64,
}

impl Issuer for ShortLivedIssuer {
    fn issue<'a>(&'a self, _: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            let sent = self.clock.now();
            tokio::time::sleep(Duration::from_micros(call % 7 * 300)).await;
            if call.is_multiple_of(11) {
                return Err(Failure::Unavailable(500));
            }
            let token = Token::new(&format!("t{call}")).expect("a token");
            Ok(Grant::new(&token, sent, Duration::from_millis(40 + call % 100)))
        })
    }
}

/// A worker that makes random requests and removals.
async fn work(broker: Broker, name: WorkspaceName, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..ROUNDS {
        let user = random.u32(0..USERS).to_string();
        let also = if random.u8(0..4) == 0 { format!("user_id:{} ", random.u32(0..USERS)) } else { String::new() };
        let text = format!("user_id:{user} {also}read:x");
        let key = TokenKey::new(&name, &ScopeClaim::parse(&text).expect("a claim"), Lifetime::MAX);
        match random.u32(0..1000) {
            0..5 => {
                let broker = broker.clone();
                spawn_blocking(move || broker.purge("default")).await.expect("no panic");
            }
            5..60 => {
                broker.sign_out("default", UserId::new(&user).expect("an id"));
            }
            chance => {
                // Some requests fail, as their calls do.
                if let Ok(answer) =
                    broker.get_token(&TokenRequest { key, min_ttl: None, actor: Actor::Unauthenticated }).await
                    && chance < 150
                {
                    broker.reject(std::str::from_utf8(answer.grant.token()).expect("text"), |_| true);
                }
            }
        }
        if random.u8(0..3) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sign_out_leaves_no_trace_of_a_user() {
    for mode in [Mode::Used, Mode::Learned] {
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::new().expect("metrics")));
        let name = WorkspaceName::new("default").expect("a name");
        let budget = Budget::new(100_000.0, 100_000).expect("a budget");
        let settings = DispatcherSettings { budget, max_wait: Duration::from_secs(5) };
        let issuer = Arc::new(ShortLivedIssuer { clock, calls: AtomicU64::new(0) });
        let dispatcher =
            Dispatcher::new(settings, Arc::<ShortLivedIssuer>::clone(&issuer), clock, metrics.workspace(&name));
        let settings = BrokerSettings {
            floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
            refresh: mode,
            extra_calls: 0.0,
            history: 20,
            capacity: 40,
            timeout: Duration::from_secs(10),
        };
        let broker = Broker::new(settings, [(name.clone(), dispatcher)], clock, metrics, Handle::current());
        let background = broker.start();
        let workers: JoinSet<_> = (0..WORKERS).map(|seed| work(broker.clone(), name.clone(), seed)).collect();
        // The time-out catches a deadlock.
        tokio::time::timeout(Duration::from_secs(60), workers.join_all()).await.expect("they end");
        for user in 0..USERS {
            broker.sign_out("default", UserId::new(&user.to_string()).expect("an id"));
        }
        broker.drained().await;
        broker.0.cache.run_pending_tasks();
        broker.0.lapsed.run_pending_tasks();
        let calls = issuer.calls.load(Ordering::Relaxed);
        let refresher = &broker.0.workspaces[&name].refresher;
        let left = [broker.0.cache.iter().count(), broker.0.lapsed.iter().count(), broker.0.index.len()];
        assert_eq!((left, refresher.scheduled()), ([0; 3], 0), "{mode:?}");
        // Longer than any token lives.
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(background);
        assert_eq!(issuer.calls.load(Ordering::Relaxed), calls, "{mode:?}");
    }
}
