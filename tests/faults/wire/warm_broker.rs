//! A broker over real HTTP with a cached token, and checks of its answers while Courier fails.

use std::time::Duration;

use courier_token_broker::config::Raw;
use courier_token_broker::simulator::{Delivery, Fault};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::broker::{Broker, Setup};
use crate::support::http::{Answer, HttpRequest};
use crate::support::refusal::is_a_refusal;

/// The longest that a caller waits, whatever Courier does.
const DEADLINE: Duration = Duration::from_secs(2);
/// The delay that a busy machine may add.
pub const SLACK: Duration = Duration::from_secs(1);
/// The remaining life of Jane's token in seconds, of the hour that she asks for.
const LEFT: f64 = 1900.0;

fn impatient(raw: &mut Raw) {
    raw.server.timeout.0 = DEADLINE;
    for workspace in raw.workspaces.values_mut() {
        (workspace.timeout.0, workspace.connect_timeout.0) = (DEADLINE / 2, DEADLINE / 2);
    }
}

pub fn tokens(user: &str) -> HttpRequest {
    HttpRequest::tokens(json!({"user_id": user, "scopes": ["inbox:read:messages"], "expires_in": "1h"}).to_string())
}

/// A request with a higher `min_ttl` than Jane's token has left.
pub fn jane_with_min_ttl() -> HttpRequest {
    let scopes = ["inbox:read:messages"];
    HttpRequest::tokens(json!({"user_id": "jane", "scopes": scopes, "expires_in": "1h", "min_ttl": "50m"}).to_string())
}

/// Asks, and fails the test after the deadline.
pub async fn ask(broker: &Broker, ask: &HttpRequest) -> Answer {
    timeout(DEADLINE + SLACK, broker.ask(ask)).await.unwrap_or_else(|_| panic!("no answer in time to {ask:?}"))
}

pub async fn calls(broker: &Broker, outcome: &str, workspace: &str) -> f64 {
    let labels = format!("class=\"waiting\",outcome=\"{outcome}\",workspace=\"{workspace}\"");
    broker.metric(&format!("courier_token_broker_upstream_requests_total{{{labels}}}")).await
}

/// A broker with Jane's token in its cache.
pub struct WarmBroker {
    pub broker: Broker,
    jane: String,
}

impl WarmBroker {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Raw)) -> Self {
        let broker = Setup::new().settings(change).settings(impatient).start().await;
        broker.courier.script([Some(Fault::Life(Some(LEFT)))]);
        let jane = broker.ask(&tokens("jane")).await.token();
        Self { broker, jane }
    }

    pub async fn assert_jane_is_served(&self) {
        let answer = ask(&self.broker, &tokens("jane")).await;
        assert_eq!((answer.source().as_str(), answer.token()), ("hit", self.jane.clone()));
    }

    /// Asks for a new user while Jane is served.
    pub async fn ask_as_new_user(&self) -> Answer {
        let jane = async {
            loop {
                self.assert_jane_is_served().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = jane => unreachable!("the loop never ends"),
            answer = async { ask(&self.broker, &tokens("new")).await } => answer,
        }
    }

    /// Applies the fault to every call and returns the answer to a new user.
    ///
    /// Jane is served all the while. Her request for a fresher token fails, and her cached token stays.
    pub async fn answer_under(&self, fault: Fault, outcome: &str) -> Answer {
        self.broker.courier.misbehave(Some(fault.clone()));
        let answer = self.ask_as_new_user().await;
        is_a_refusal(&answer, false);
        assert!(!answer.body.contains("\"token\"") && !answer.body.contains("eyJ"), "{fault:?}: {answer:?}");

        let fresher = ask(&self.broker, &jane_with_min_ttl()).await;
        is_a_refusal(&fresher, false);
        assert!(!fresher.body.contains("eyJ"), "{fault:?}: {fresher:?}");
        self.assert_jane_is_served().await;

        assert!(calls(&self.broker, outcome, "default").await >= 1.0, "{fault:?}: no call was {outcome}");
        assert_eq!(calls(&self.broker, "issued", "default").await, 1.0, "{fault:?}");
        assert_eq!(self.broker.metric("courier_token_broker_cached_tokens").await, 1.0, "{fault:?}");
        answer
    }
}

/// Runs each fault against a broker of its own, concurrently, and returns the answers to a new user.
pub async fn answers_under(
    faults: impl IntoIterator<Item = Fault>,
    outcome: &'static str,
) -> Vec<(Fault, WarmBroker, Answer)> {
    let one = |fault: Fault| async move {
        let warm = WarmBroker::new().await;
        let answer = warm.answer_under(fault.clone(), outcome).await;
        (fault, warm, answer)
    };
    faults.into_iter().map(one).collect::<JoinSet<_>>().join_all().await
}

/// Checks faults that may pass. The caller's SDK must not repeat the broker's retries.
pub async fn assert_transient(
    faults: impl IntoIterator<Item = Fault>,
    outcome: &'static str,
    status: u16,
) -> Vec<Answer> {
    let check = |(fault, _, answer): (Fault, WarmBroker, Answer)| {
        assert_eq!(answer.status, status, "{fault:?}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        answer
    };
    answers_under(faults, outcome).await.into_iter().map(check).collect()
}

/// Checks faults that are not worth a retry, by the broker or by its caller.
pub async fn assert_final(faults: impl IntoIterator<Item = Fault>, outcome: &'static str, status: u16) -> Vec<Answer> {
    let check = |(fault, warm, answer): (Fault, WarmBroker, Answer)| {
        assert_eq!(answer.status, status, "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        let new = warm.broker.courier.calls().into_iter().filter(|call| call.scope.contains("user_id:new"));
        assert_eq!(new.count(), 1, "{fault:?}");
        answer
    };
    answers_under(faults, outcome).await.into_iter().map(check).collect()
}

/// Checks refusals of the API key: callers learn of them as soon as Jane's key is refused too.
pub async fn assert_denied(faults: impl IntoIterator<Item = Fault>) {
    for (fault, warm, answer) in answers_under(faults, "credentials").await {
        assert!(matches!(answer.status, 502 | 503), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        let new = warm.broker.courier.calls().into_iter().filter(|call| call.scope.contains("user_id:new"));
        assert!(new.count() <= 2, "{fault:?}");
        let later = async {
            while ask(&warm.broker, &tokens("later")).await.status != 502 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SLACK, later).await.expect("it is told");
    }
}

/// An answer with this status and these headers.
pub fn error(status: u16, headers: &[(&'static str, &str)]) -> Fault {
    let line = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    Fault::Status(status, headers.iter().map(line).collect(), Delivery::Whole)
}

/// An error answer whose body is broken.
pub fn broken(fault: Fault, delivery: Delivery) -> Fault {
    let Fault::Status(status, headers, _) = fault else { panic!("{fault:?} is no error") };
    Fault::Status(status, headers, delivery)
}

pub const BROKEN: [Delivery; 3] = [Delivery::CutOff, Delivery::Dripping, Delivery::Endless];
