//! The errors: a name and the operations of each, with examples.

use std::time::Duration;

use hyper::Method;

use super::super::denied::{Denied, DeniedRequest};
use super::super::problem::Problem;
use super::operation::{Caller, Operation};
use crate::audit::Actor;
use crate::auth::SessionDenial;
use crate::broker::Refusal;
use crate::token::Lifetime;
use crate::upstream::{Cause, Failure};

/// Declares the errors. A new variant of [`Problem`] or [`Failure`] does not compile without a line.
macro_rules! errors {
    ($($pattern:pat => $name:literal $occurs:expr,)+) => {
        /// The name of every error.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),+];

        /// An error's name, and whether it occurs in an operation.
        pub fn entry(problem: &Problem) -> (&'static str, fn(&Operation) -> bool) {
            match problem { $($pattern => ($name, $occurs)),+ }
        }
    };
}

errors! {
    // Of paths and methods that are no operation.
    Problem::NotFound => "not-found" |_| false,
    Problem::Method(_) => "method-not-allowed" |_| false,
    Problem::Host => "host-invalid" |_| true,
    Problem::HeadersTooLarge => "headers-too-large" |_| true,
    Problem::Loop => "loop" |operation| operation.id == "issueToken",
    Problem::MissingKey => "key-missing" Operation::has_caller,
    Problem::UnknownKey => "key-unknown" Operation::has_caller,
    Problem::RateLimited(..) => "client-rate-exceeded" Operation::has_caller,
    Problem::NoSessions => "sessions-disabled" takes_session,
    Problem::Session(..) => "session-invalid" takes_session,
    Problem::NoSessionKeys => "session-keys-not-loaded" takes_session,
    Problem::UndecidedSession => "session-key-unknown" takes_session,
    Problem::UserRateLimited(..) => "user-rate-exceeded" takes_session,
    Problem::Origin => "origin-not-allowed" takes_session,
    Problem::Denied(_) => "access-denied" |operation| operation.has_caller() && operation.id != "reportRejectedToken",
    Problem::MediaType => "media-type-not-json" Operation::has_body,
    Problem::ContentEncoding => "body-compressed" Operation::has_body,
    Problem::BodyTooLarge(_) => "body-too-large" Operation::has_body,
    Problem::BodyTimeout => "body-late" Operation::has_body,
    Problem::BodyBroken => "body-broken" Operation::has_body,
    Problem::Overload(_) => "too-many-requests-waiting" |operation| operation.has_body() || operation.issues_token(),
    Problem::Invalid(_) => "invalid" Operation::has_input,
    Problem::LifetimeTooLong(..) => "lifetime-too-long" |operation| operation.issues_token() && !takes_session(operation),
    Problem::MinTtlTooLong => "min-ttl-too-long" Operation::issues_token,
    Problem::Refusal(Refusal::TimedOut) => "wait-timed-out" Operation::issues_token,
    Problem::Refusal(Refusal::TooOld) => "token-too-old" Operation::issues_token,
    Problem::Refusal(Refusal::Lost) => "call-lost" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Refused(_))) => "courier-refused-request" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Credentials(_))) => "courier-refused-broker" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Unconfirmed(_))) => "courier-refused-call" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Throttled(_))) => "courier-throttles" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Unavailable(_))) => "courier-failed" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Connect(_))) => "courier-unreachable" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::OutOfFiles)) => "out-of-files" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Timeout)) => "courier-timed-out" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::LeaseHeld)) => "call-of-another-broker-late" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Malformed(_))) => "courier-answer-unreadable" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Page(_))) => "courier-answer-is-a-page" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::OldKey)) => "api-key-just-replaced" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Limited(_))) => "budget-used-up" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::CircuitOpen(_))) => "circuit-breaker-open" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Stopping)) => "broker-stopping" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Loop)) => "base-url-is-a-broker" Operation::issues_token,
    Problem::Refusal(Refusal::Upstream(Failure::Mismatch)) => "courier-issued-another-token" Operation::issues_token,
}

fn takes_session(operation: &Operation) -> bool {
    operation.caller == Caller::ClientOrSession
}

/// Examples of every error, and of each of its statuses.
pub fn examples() -> Vec<Problem> {
    let mut examples = of_requests();
    examples.extend(of_calls().into_iter().map(|failure| Problem::Refusal(Refusal::Upstream(failure))));
    examples
}

fn of_requests() -> Vec<Problem> {
    let (workspace, users) = ("default".to_owned(), "jane".to_owned());
    let request =
        DeniedRequest { actor: Actor::Unauthenticated, workspace, users, scopes: None, lifetime_seconds: None };
    let message = "this client may not act for the user `jane`; it may act for `mobile:*`; `users` in the client's \
        settings sets this";
    let denied = Denied { rule: "client-users", refused: "jane".to_owned(), request, message: message.to_owned() };
    let wait = Duration::from_millis(10);
    vec![
        Problem::NotFound,
        Problem::Method(&[Method::POST]),
        Problem::Host,
        Problem::HeadersTooLarge,
        Problem::Loop,
        Problem::MissingKey,
        Problem::UnknownKey,
        Problem::RateLimited("web-backend".to_owned(), wait),
        Problem::NoSessions,
        SessionDenial::Signature.into(),
        Problem::NoSessionKeys,
        Problem::UndecidedSession,
        Problem::UserRateLimited("jane".to_owned(), wait),
        Problem::Origin,
        Problem::Denied(Box::new(denied)),
        Problem::MediaType,
        Problem::ContentEncoding,
        Problem::BodyTooLarge(16_384),
        Problem::BodyTimeout,
        Problem::BodyBroken,
        Problem::Overload(None),
        Problem::Invalid("missing field `user_id`".to_owned()),
        Problem::LifetimeTooLong(Lifetime::MAX, Lifetime::MAX),
        Problem::MinTtlTooLong,
        Problem::Refusal(Refusal::TimedOut),
        Problem::Refusal(Refusal::TooOld),
        Problem::Refusal(Refusal::Lost),
    ]
}

fn of_calls() -> Vec<Failure> {
    let seconds = Duration::from_secs;
    vec![
        Failure::Refused("unknown scope".to_owned()),
        Failure::Credentials(401),
        Failure::Credentials(403),
        Failure::Unconfirmed(401),
        Failure::Throttled(Some(seconds(30))),
        Failure::Throttled(None),
        Failure::Throttled(Some(seconds(600))),
        Failure::Unavailable(503),
        Failure::Unavailable(500),
        Failure::Unavailable(409),
        // Not transient: 502 for the caller.
        Failure::Unavailable(404),
        Failure::Unavailable(302),
        Failure::Connect(Cause::Refused.into()),
        Failure::OutOfFiles,
        Failure::Timeout,
        Failure::LeaseHeld,
        Failure::Malformed("no token"),
        Failure::Page(404),
        Failure::OldKey,
        Failure::Limited(Duration::from_millis(2500)),
        Failure::Limited(Duration::ZERO),
        Failure::Limited(seconds(600)),
        Failure::CircuitOpen(Duration::from_millis(2500)),
        Failure::CircuitOpen(Duration::ZERO),
        Failure::CircuitOpen(seconds(600)),
        Failure::Stopping,
        Failure::Loop,
        Failure::Mismatch,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_error_has_an_example() {
        let shown: BTreeSet<_> = examples().iter().map(|problem| entry(problem).0).collect();
        assert_eq!(shown, NAMES.iter().copied().collect());
        assert_eq!(shown.len(), NAMES.len(), "two errors have one name");
    }
}
