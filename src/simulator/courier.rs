//! A simulated Courier workspace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fault::{Fault, Times};
use super::faults::Faults;
use super::ledger::{Call, Ledger};
use super::mint::{self, Mint};
use super::reply::{ErrorReply, Reply};
use super::request::{Request, ValidRequest};
use super::timespan::Timespan;
use crate::clock::{Clock, Moment};

/// A simulated Courier workspace with one API key. Clones share their state.
#[derive(Clone)]
pub struct Simulator(pub(super) Arc<Workspace>);

pub(super) struct Workspace {
    api_key: Option<String>,
    faults: Mutex<Faults>,
    pub(super) clock: Clock,
    pub(super) start: Moment,
    mint: Mint,
    pub(super) ledger: Mutex<Ledger>,
    /// The faults of the next calls, one each.
    script: Mutex<VecDeque<Option<Fault>>>,
    /// The fault of every call after the script.
    lasting: Mutex<Option<Fault>>,
}

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
            lasting: Mutex::default(),
        }))
    }

    /// Appends faults to the script, one for each of the next calls.
    ///
    /// They take precedence over the flags; `None` leaves a call to the flags.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.0.script.lock().extend(faults);
    }

    /// Sets the fault of every call after the end of the script.
    pub fn misbehave(&self, fault: Option<Fault>) {
        *self.0.lasting.lock() = fault;
    }

    /// Replaces the flags. Responses in flight keep their content and latency.
    pub fn change(&self, faults: Faults) {
        *self.0.faults.lock() = faults;
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
        let due = at + self.0.faults.lock().delay();
        self.0.clock.sleep_until(due).await;
        reply
    }

    /// The last 100 000 calls to the token endpoint, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.0.ledger.lock().calls()
    }

    /// The number of all calls to the token endpoint.
    pub fn call_count(&self) -> usize {
        self.0.ledger.lock().total()
    }

    /// Decides the response to a call, and records it with its time of arrival.
    ///
    /// The clock and the script are read under the ledger's lock, so that all three have the same
    /// order.
    fn receive(&self, request: &Request, judged: Result<ValidRequest, ErrorReply>) -> (Moment, Reply) {
        let expires_in = request.expires_in();
        let mut ledger = self.0.ledger.lock();
        let at = self.0.clock.now();
        let scripted = self.0.script.lock().pop_front();
        let scripted = scripted.unwrap_or_else(|| self.0.lasting.lock().clone());
        let fault = scripted.or_else(|| self.flagged(at, &mut ledger));
        let reply = self.reply(judged, fault);
        ledger.record(at, request.scope(), &expires_in, reply.status);
        (at, reply)
    }

    /// The fault of a call by the flags.
    fn flagged(&self, at: Moment, ledger: &mut Ledger) -> Option<Fault> {
        let faults = self.0.faults.lock();
        if faults.is_outage_at(at.since(self.0.start)) {
            Some(Fault::status(503))
        } else if !faults.rate_limit.is_none_or(|limit| ledger.admit(at, limit)) {
            Some(Fault::throttled(1))
        } else {
            faults.should_fail().then(|| faults.error_kind.clone())
        }
    }

    fn reply(&self, judged: Result<ValidRequest, ErrorReply>, fault: Option<Fault>) -> Reply {
        let settle_at = |judged: Result<ValidRequest, ErrorReply>, ahead, times| match judged {
            Ok(valid) => self.issue(&valid, ahead, times),
            Err(refusal) => Reply::error(refusal),
        };
        let settle = |judged| settle_at(judged, 0, Times::NOW);
        match fault {
            None => settle(judged),
            Some(Fault::Status(status, headers, delivery)) => {
                let mut reply = Reply { delivery, ..Reply::error(ErrorReply::Status(status)) };
                reply.headers.extend(headers);
                reply
            }
            Some(Fault::Body(media_type, body)) => Reply::text(200, media_type, body.to_owned()),
            Some(Fault::Scope(scope)) => settle(judged.map(|valid| ValidRequest { scope, ..valid })),
            Some(Fault::Life(life)) => {
                settle(judged.map(|valid| ValidRequest { timespan: life.map(Timespan::of), ..valid }))
            }
            Some(Fault::Skew(ahead)) => settle_at(judged, ahead, Times::NOW),
            Some(Fault::Times(times)) => settle_at(judged, 0, times),
            Some(Fault::Delivery(delivery)) => Reply { delivery, ..settle(judged) },
        }
    }

    /// Issues a token by a clock that is `ahead` seconds ahead, as is the response's `Date`.
    fn issue(&self, valid: &ValidRequest, ahead: i64, times: Times) -> Reply {
        let Workspace { clock, mint, .. } = &*self.0;
        let now = Duration::from_secs(clock.unix().as_secs().saturating_add_signed(ahead));
        let opaque = self.0.faults.lock().opaque_tokens;
        let token = if opaque { mint::opaque() } else { mint.jwt(&valid.scope, valid.timespan, now, times) };
        Reply::token(&token, now)
    }
}

/// Hides the API key, which may be a real one.
impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("faults", &*self.0.faults.lock()).finish_non_exhaustive()
    }
}
