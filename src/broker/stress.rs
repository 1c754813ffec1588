//! A concurrency stress test: requests, sign-outs, rejections, purges, failing calls and short-lived
//! tokens at once, on several threads. After it, no trace of a signed-out user is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};

use super::fixture;
use super::handle::Broker;
use super::request::TokenRequest;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::policy::refresh::Mode;
use crate::token::{Grant, Token, TokenKey, UserId};
use crate::upstream::{Failure, Issuer, Issuing, Permit};

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
            Ok(Grant::new(token, sent, Duration::from_millis(40 + call % 100)))
        })
    }
}

/// A worker that makes random requests and removals.
async fn work(broker: Broker, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..ROUNDS {
        let user = random.u32(0..USERS).to_string();
        let also = if random.u8(0..4) == 0 { format!(" user_id:{}", random.u32(0..USERS)) } else { String::new() };
        let key = fixture::key(&format!("{user}{also}"));
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
                if let Ok(answer) = broker
                    .get_token(&TokenRequest { key, min_ttl: None, actor: Actor::Client("app".into()), trace: None })
                    .await
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
        let clock = Clock::system();
        let issuer = Arc::new(ShortLivedIssuer { clock, calls: AtomicU64::new(0) });
        let (broker, _) = fixture::broker(mode, 40, clock, Arc::<ShortLivedIssuer>::clone(&issuer));
        let background = broker.start();
        let workers: JoinSet<_> = (0..WORKERS).map(|seed| work(broker.clone(), seed)).collect();
        // The time-out catches a deadlock.
        tokio::time::timeout(Duration::from_secs(60), workers.join_all()).await.expect("they end");
        for user in 0..USERS {
            broker.sign_out("default", UserId::new(&user.to_string()).expect("an id"));
        }
        broker.drained().await;
        broker.0.table.assert_counted();
        let calls = issuer.calls.load(Ordering::Relaxed);
        let scheduled = broker.0.workspaces["default"].refresher.scheduled();
        assert_eq!((broker.0.table.sizes(), broker.0.table.tokens(), scheduled), ([0; 3], 0, 0), "{mode:?}");
        // Longer than any token lives.
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(background);
        assert_eq!(issuer.calls.load(Ordering::Relaxed), calls, "{mode:?}");
    }
}
