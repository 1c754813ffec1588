//! The simulator of Courier's endpoint `POST /auth/issue-token`, the only one the broker calls.
//!
//! It reproduces all that a broker can observe: which requests are rejected and in what shape,
//! how `expires_in` is parsed, the claims of a token, and that a token may be born expired or
//! never expire. [`Faults`] adds random failures, and a script of [`Fault`]s those of given
//! calls. Every call is recorded with its time of arrival, so that tests can check the budget.
//!
//! It is an independent oracle: it shares no code with the broker but the clock, because no
//! test could see an error that both share.
//!
//! Not simulated: other endpoints, `Idempotency-Key` (the broker sends none), 402 except as a
//! [`Fault`], and whether scopes exist (Courier's list is open).

mod delivery;
mod fault;
mod faults;
mod ledger;
mod mint;
mod reply;
mod request;
mod script;
mod server;
mod timespan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Moment;

pub use delivery::Delivery;
pub use fault::{Fault, Times};
pub use faults::Faults;
pub use ledger::Call;
pub use reply::Reply;

use ledger::Ledger;
use mint::Mint;
use reply::Refusal;
use request::{Request, Wish};
use script::Script;
use timespan::Timespan;

/// A simulated Courier workspace with one API key. Clones share their state.
#[derive(Clone)]
pub struct Simulator(Arc<Workspace>);

struct Workspace {
    api_key: Option<String>,
    faults: Mutex<Faults>,
    clock: Clock,
    start: Moment,
    mint: Mint,
    ledger: Mutex<Ledger>,
    script: Mutex<Script>,
}

/// The longest body that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

impl Simulator {
    /// A simulator whose outages count from now. Without an `api_key`, any non-empty key is valid.
    pub fn new(api_key: Option<String>, faults: Faults, clock: Clock) -> Self {
        Self(Arc::new(Workspace {
            api_key,
            faults: Mutex::new(faults),
            clock,
            start: clock.now(),
            mint: Mint::new(),
            ledger: Mutex::default(),
            script: Mutex::default(),
        }))
    }

    /// Appends faults to the script, one for each of the next calls.
    ///
    /// They take precedence over the flags; `None` leaves a call to the flags.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lines().extend(faults);
    }

    /// Sets the fault of every call after the end of the script.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.lines().set(fault);
    }

    /// Replaces the flags. Responses in flight keep their content and latency.
    pub fn change(&self, faults: Faults) {
        *self.faults() = faults;
    }

    /// Answers one `POST /auth/issue-token` without a socket, faults included.
    ///
    /// `authorization` is the value of that header. The call arrives when the future is first
    /// polled; its response is decided then, and latency only delays it. [`Reply::delivery`] says
    /// how a socket would deliver it, if ever.
    pub async fn answer(&self, authorization: Option<&[u8]>, body: &[u8]) -> Reply {
        let request = Request::read(body);
        let judged = request.judge(authorization, self.0.api_key.as_deref());
        let (at, reply) = self.receive(&request, judged);
        let due = at + self.faults().delay();
        self.0.clock.sleep_until(due).await;
        reply
    }

    /// The last 100 000 calls to the token endpoint, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.ledger().calls()
    }

    /// The number of all calls to the token endpoint.
    pub fn call_count(&self) -> usize {
        self.ledger().total()
    }

    /// Decides the response to a call, and records it with its time of arrival.
    ///
    /// The clock and the script are read under the ledger's lock, so that all three have the same
    /// order.
    fn receive(&self, request: &Request, judged: Result<Wish, Refusal>) -> (Moment, Reply) {
        let expires_in = request.expires_in();
        let mut ledger = self.ledger();
        let at = self.0.clock.now();
        let fault = self.lines().take().or_else(|| self.flagged(at, &mut ledger));
        let reply = self.reply(judged, fault);
        ledger.record(at, request.scope(), &expires_in, reply.status);
        (at, reply)
    }

    /// The fault of a call by the flags.
    fn flagged(&self, at: Moment, ledger: &mut Ledger) -> Option<Fault> {
        let faults = self.faults();
        if faults.is_outage_at(at.since(self.0.start)) {
            Some(Fault::status(503))
        } else if !faults.rate_limit.is_none_or(|limit| ledger.admit(at, limit)) {
            Some(Fault::throttled(1))
        } else {
            faults.should_fail().then(|| faults.error_kind.clone())
        }
    }

    fn reply(&self, judged: Result<Wish, Refusal>, fault: Option<Fault>) -> Reply {
        let settle_at = |judged: Result<Wish, Refusal>, ahead, times| match judged {
            Ok(wish) => self.issue(&wish, ahead, times),
            Err(refusal) => Reply::error(refusal),
        };
        let settle = |judged| settle_at(judged, 0, Times::NOW);
        match fault {
            None => settle(judged),
            Some(Fault::Status(status, headers, delivery)) => {
                let mut reply = Reply { delivery, ..Reply::error(Refusal::Status(status)) };
                reply.headers.extend(headers);
                reply
            }
            Some(Fault::Body(media_type, body)) => Reply::text(200, media_type, body.to_owned()),
            Some(Fault::Scope(scope)) => settle(judged.map(|wish| Wish { scope, ..wish })),
            Some(Fault::Life(life)) => settle(judged.map(|wish| Wish { timespan: life.map(Timespan::of), ..wish })),
            Some(Fault::Skew(ahead)) => settle_at(judged, ahead, Times::NOW),
            Some(Fault::Times(times)) => settle_at(judged, 0, times),
            Some(Fault::Delivery(delivery)) => Reply { delivery, ..settle(judged) },
        }
    }

    /// Issues a token by a clock that is `ahead` seconds ahead, as is the response's `Date`.
    fn issue(&self, wish: &Wish, ahead: i64, times: Times) -> Reply {
        let Workspace { clock, mint, .. } = &*self.0;
        let now = Duration::from_secs(clock.unix().as_secs().saturating_add_signed(ahead));
        let opaque = self.faults().opaque_tokens;
        let token = if opaque { mint::opaque() } else { mint.jwt(&wish.scope, wish.timespan, now, times) };
        Reply::token(&token, now)
    }

    /// Nothing panics under this lock, and the ledger is valid between any two statements, so a
    /// poisoned lock is usable.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hides the API key, which may be a real one.
impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("faults", &*self.faults()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: &[u8] = br#"{"scope": "user_id:u read:brands", "expires_in": "1d"}"#;
    const KEY: Option<&[u8]> = Some(b"Bearer pk");

    fn simulator(faults: Faults) -> Simulator {
        Simulator::new(Some("pk".to_owned()), faults, Clock::tokio())
    }

    #[tokio::test(start_paused = true)]
    async fn valid_call_gets_the_requested_token() {
        let simulator = simulator(Faults::default());
        let before = simulator.0.clock.unix().as_secs();
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, reply.header("retry-after")), (200, None));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let claims = reply.claims();
        assert_eq!(claims["scope"], "user_id:u read:brands");
        let iat = claims["iat"].as_u64().unwrap();
        assert!((before..=before + 60).contains(&iat));
        assert_eq!(claims["exp"], iat + 86_400);
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_has_couriers_shape() {
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
            assert_eq!(reply.json()["type"], kind);
            assert!(reply.json()["message"].is_string());
            last = Some(reply);
        }
        assert_eq!(
            last.unwrap().json()["message"],
            "\"expiresIn\" should be a number of seconds or string representing a timespan \
             eg: \"1d\", \"20h\", 60"
        );
        let statuses: Vec<_> = simulator.calls().iter().map(|call| call.status).collect();
        assert_eq!(statuses, [401, 400, 413, 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn opaque_token_has_no_claims() {
        let simulator = simulator(Faults { opaque_tokens: true, ..Faults::default() });
        let reply = simulator.answer(KEY, ASK).await;
        let token = reply.json()["token"].as_str().unwrap().to_owned();
        assert!(token.starts_with("pk_") && !token.contains('.'), "{token}");
    }

    #[tokio::test(start_paused = true)]
    async fn call_over_the_rate_limit_gets_retry_after_one_second() {
        let simulator = simulator(Faults { rate_limit: Some(2), ..Faults::default() });
        let mut replies = Vec::new();
        for _ in 0..3 {
            replies.push(simulator.answer(KEY, ASK).await);
        }
        let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [200, 200, 429]);
        assert_eq!(replies[2].header("retry-after"), Some("1"));
        assert_eq!(replies[2].json()["type"], "rate_limit_error");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(simulator.answer(KEY, ASK).await.status, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn outage_precedes_every_other_fault_and_ends() {
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
        assert_eq!((reply.status, reply.header("retry-after")), (503, None));
        assert_eq!(reply.json()["message"], "Service Unavailable");
        assert_eq!(reply.json()["type"], "api_error");
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(simulator.answer(KEY, ASK).await.status, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn script_precedes_the_flags() {
        let simulator = simulator(Faults { error_rate: 1.0, error_kind: Fault::status(502), ..Faults::default() });
        simulator.script([Some(Fault::status(404)), None]);
        simulator.script([Some(Fault::NO_TOKEN)]);
        simulator.misbehave(Some(Fault::status(409)));
        for status in [404, 502, 200, 409, 409] {
            assert_eq!(simulator.answer(KEY, ASK).await.status, status);
        }
        simulator.misbehave(None);
        assert_eq!(simulator.answer(KEY, ASK).await.status, 502);
        let statuses: Vec<_> = simulator.calls().iter().map(|call| call.status).collect();
        assert_eq!(statuses, [404, 502, 200, 409, 409, 502]);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_flags_apply_to_later_calls_only() {
        let simulator = simulator(Faults { latency: Duration::from_secs(5), ..Faults::default() });
        let first = tokio::spawn({
            let simulator = simulator.clone();
            async move { simulator.answer(KEY, ASK).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        simulator.change(Faults { error_rate: 1.0, ..Faults::default() });
        let start = simulator.0.clock.now();
        assert_eq!(simulator.answer(KEY, ASK).await.status, 500);
        assert_eq!(simulator.0.clock.now(), start);
        assert_eq!(first.await.unwrap().status, 200);
        assert!(simulator.0.clock.now().since(start) >= Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn call_is_recorded_on_arrival_not_on_response() {
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
    async fn call_whose_caller_hangs_up_is_recorded_with_its_status() {
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
