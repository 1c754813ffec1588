//! A Courier of our own: a simulator of the one endpoint that the broker
//! calls, `POST /auth/issue-token`.
//!
//! It is faithful to what a broker can notice: which requests are refused and
//! in what shape, how `expires_in` is read, what is in a token, and that a
//! token may be born expired or never expire. [`Faults`] adds what a Courier
//! on a bad day does. Every call is remembered with the moment at which it
//! arrived, so that a test can hold the broker to its budget.
//!
//! It is an independent oracle. It shares no code with the broker but the
//! clock, because a misreading that both share would be one that no test sees.
//!
//! Left out: every other endpoint, `Idempotency-Key` (the broker never sends
//! one), 402, and any check that the scopes exist: Courier's list is open.

mod faults;
mod ledger;
mod mint;
mod reply;
mod request;
mod server;
mod timespan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::token::Moment;

pub use faults::Faults;
pub use ledger::Call;
pub use reply::Reply;

use ledger::Ledger;
use mint::Mint;
use reply::Refusal;
use request::{Request, Wish};

/// A simulated Courier workspace with one API key. Clones are the same
/// simulator.
#[derive(Clone)]
pub struct Simulator(Arc<Workspace>);

struct Workspace {
    api_key: Option<String>,
    faults: Faults,
    clock: Clock,
    start: Moment,
    mint: Mint,
    ledger: Mutex<Ledger>,
}

/// The longest body that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

impl Simulator {
    /// A simulator whose outages count from now. Without an `api_key` every
    /// key that is not empty is good.
    pub fn new(api_key: Option<String>, faults: Faults, clock: Clock) -> Self {
        Self(Arc::new(Workspace {
            api_key,
            faults,
            clock,
            start: clock.now(),
            mint: Mint::new(),
            ledger: Mutex::default(),
        }))
    }

    /// Answers one `POST /auth/issue-token` as Courier would, faults included,
    /// without a socket. `authorization` is the value of that header.
    ///
    /// The call arrives when the future is first polled. The answer is settled
    /// then; latency only holds it back.
    pub async fn answer(&self, authorization: Option<&[u8]>, body: &[u8]) -> Reply {
        let request = Request::read(body);
        let judged = request.judge(authorization, self.0.api_key.as_deref());
        let (at, verdict) = self.receive(&request, judged);
        let reply = match verdict {
            Ok(wish) => Reply::token(&self.issue(&wish)),
            Err(refusal) => Reply::error(refusal),
        };
        let due = at + self.0.faults.delay();
        self.0.clock.sleep_until(due).await;
        reply
    }

    /// The calls to the token endpoint that arrived, oldest first: the last
    /// 100 000 of them.
    pub fn calls(&self) -> Vec<Call> {
        self.ledger().calls()
    }

    /// How many calls to the token endpoint ever arrived.
    pub fn call_count(&self) -> usize {
        self.ledger().total()
    }

    /// Takes a call in: what stands of `judged` after the faults, entered with
    /// the moment of arrival. The clock is read under the lock, so that the
    /// order of the ledger is the order of its moments.
    fn receive(&self, request: &Request, judged: Result<Wish, Refusal>) -> (Moment, Result<Wish, Refusal>) {
        let Workspace { faults, clock, .. } = &*self.0;
        let expires_in = request.expires_in();
        let mut ledger = self.ledger();
        let at = clock.now();
        let verdict = if faults.is_out(at.since(self.0.start)) {
            Err(Refusal::Outage)
        } else if !faults.rate_limit.is_none_or(|limit| ledger.admit(at, limit)) {
            Err(Refusal::RateLimit)
        } else if faults.strikes() {
            Err(Refusal::Failure)
        } else {
            judged
        };
        let status = verdict.as_ref().err().map_or(200, |refusal| refusal.status());
        ledger.enter(at, request.scope(), &expires_in, status);
        (at, verdict)
    }

    fn issue(&self, wish: &Wish) -> String {
        let Workspace { faults, clock, mint, .. } = &*self.0;
        if faults.opaque_tokens {
            return mint::opaque();
        }
        let scope = faults.scope_override.as_ref().unwrap_or(&wish.scope);
        mint.jwt(scope, wish.timespan, clock.unix())
    }

    /// Nothing panics while it holds the lock, and a ledger is sound between
    /// any two statements, so a poisoned lock is still good.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the API key: it may be somebody's real one.
impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("faults", &self.0.faults).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::Value;
    use std::time::Duration;

    const ASK: &[u8] = br#"{"scope": "user_id:u read:brands", "expires_in": "1d"}"#;
    const KEY: Option<&[u8]> = Some(b"Bearer pk");

    fn simulator(faults: Faults) -> Simulator {
        Simulator::new(Some("pk".to_owned()), faults, Clock::tokio())
    }

    fn body(reply: &Reply) -> Value {
        serde_json::from_str(&reply.body).unwrap()
    }

    fn claims(reply: &Reply) -> Value {
        let token = body(reply)["token"].as_str().unwrap().to_owned();
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_call_gets_the_token_that_it_asked_for() {
        let simulator = simulator(Faults::default());
        let before = simulator.0.clock.unix().as_secs();
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, reply.retry_after), (200, None));
        let claims = claims(&reply);
        assert_eq!(claims["scope"], "user_id:u read:brands");
        let iat = claims["iat"].as_u64().unwrap();
        assert!((before..=before + 60).contains(&iat));
        assert_eq!(claims["exp"], iat + 86_400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_has_couriers_shape() {
        const SPACED: &str = r#"{"scope": "a", "expires_in": " 1d"}"#;
        let simulator = simulator(Faults::default());
        let too_long = " ".repeat(BODY_LIMIT + 1);
        let table = [
            ("Bearer no", "{}", 401, "authentication_error"),
            ("Bearer pk", "{}", 400, "invalid_request_error"),
            ("Bearer pk", &too_long, 413, "invalid_request_error"),
            ("Bearer pk", SPACED, 400, "invalid_request_error"),
        ];
        let mut last = None;
        for (key, ask, status, kind) in table {
            let reply = simulator.answer(Some(key.as_bytes()), ask.as_bytes()).await;
            assert_eq!(reply.status, status);
            assert_eq!(body(&reply)["type"], kind);
            assert!(body(&reply)["message"].is_string());
            last = Some(reply);
        }
        assert_eq!(
            body(&last.unwrap())["message"],
            "\"expiresIn\" should be a number of seconds or string representing a timespan \
             eg: \"1d\", \"20h\", 60"
        );
        let statuses: Vec<_> = simulator.calls().iter().map(|call| call.status).collect();
        assert_eq!(statuses, [401, 400, 413, 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_opaque_token_tells_nothing() {
        let simulator = simulator(Faults { opaque_tokens: true, ..Faults::default() });
        let reply = simulator.answer(KEY, ASK).await;
        let token = body(&reply)["token"].as_str().unwrap().to_owned();
        assert!(token.starts_with("pk_") && !token.contains('.'), "{token}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_overridden_scope_is_in_every_jwt() {
        let simulator = simulator(Faults { scope_override: Some("user_id:alice".to_owned()), ..Faults::default() });
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!(claims(&reply)["scope"], "user_id:alice");
        assert_eq!(simulator.calls()[0].scope, "user_id:u read:brands");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_over_the_rate_limit_is_told_to_wait_a_second() {
        let simulator = simulator(Faults { rate_limit: Some(2), ..Faults::default() });
        let mut replies = Vec::new();
        for _ in 0..3 {
            replies.push(simulator.answer(KEY, ASK).await);
        }
        let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [200, 200, 429]);
        assert_eq!(replies[2].retry_after, Some(1));
        assert_eq!(body(&replies[2])["type"], "rate_limit_error");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(simulator.answer(KEY, ASK).await.status, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_comes_before_every_other_fault_and_ends() {
        let simulator = simulator(Faults {
            outage: vec![Duration::from_secs(10)..Duration::from_secs(30)],
            rate_limit: Some(1),
            error_rate: 1.0,
            ..Faults::default()
        });
        assert_eq!(simulator.answer(KEY, ASK).await.status, 500);
        assert_eq!(simulator.answer(KEY, ASK).await.status, 429);
        tokio::time::advance(Duration::from_secs(10)).await;
        let reply = simulator.answer(None, b"").await;
        assert_eq!((reply.status, reply.retry_after), (503, None));
        assert_eq!(body(&reply)["message"], "Service Unavailable");
        assert_eq!(body(&reply)["type"], "api_error");
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(simulator.answer(KEY, ASK).await.status, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_logged_when_it_arrives_and_not_when_it_is_answered() {
        let simulator = simulator(Faults { latency: Duration::from_secs(5), ..Faults::default() });
        let clock = simulator.0.clock;
        let start = clock.now();
        let first = tokio::spawn({
            let simulator = simulator.clone();
            async move { simulator.answer(KEY, ASK).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = simulator.answer(Some(b"Bearer no"), br#"{"expires_in": 60}"#).await;
        assert!(clock.now().since(start) >= Duration::from_secs(6));
        assert_eq!((first.await.unwrap().status, second.status), (200, 401));

        let calls = simulator.calls();
        assert_eq!(simulator.call_count(), 2);
        assert_eq!(calls[0].at, start);
        assert_eq!(calls[0].expires_in, "\"1d\"");
        assert!(calls[1].at.since(start) < Duration::from_secs(2));
        assert_eq!((&*calls[1].scope, &*calls[1].expires_in), ("", "60"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_hangs_up_is_in_the_log_with_its_status() {
        let simulator = simulator(Faults { latency: Duration::from_secs(60), ..Faults::default() });
        let patience = Duration::from_secs(1);
        let answer = tokio::time::timeout(patience, simulator.answer(KEY, ASK)).await;
        assert!(answer.is_err());
        assert_eq!(simulator.calls()[0].status, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn debug_output_has_no_key() {
        let simulator = Simulator::new(Some("s3cret".to_owned()), Faults::default(), Clock::tokio());
        assert!(!format!("{simulator:?}").contains("s3cret"));
    }
}
