//! Each fault over real HTTP: the broker and the simulated Courier on a socket.

mod connections;
mod pauses;
mod shared_connection;
mod unreachable;
mod warm_broker;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use courier_token_broker::simulator::{Delivery, Fault};

use crate::support::broker::{Setup, claims};
use warm_broker::{
    BROKEN, WarmBroker, ask, assert_denied, assert_final, assert_transient, broken, error, jane_with_min_ttl, tokens,
};

#[tokio::test]
async fn failing_courier_is_answered_with_503() {
    let statuses = [408, 409, 421, 423, 425, 500, 501, 502, 503, 504, 520, 599];
    assert_transient(statuses.map(Fault::status), "unavailable", 503).await;
}

#[tokio::test]
async fn refusal_by_courier_is_passed_on() {
    let answers = assert_final([Fault::status(400)], "refused", 400).await;
    assert!(answers[0].body.contains("Bad Request"), "{answers:?}");
}

#[tokio::test]
async fn operators_fault_is_told_and_retried_once_at_most() {
    assert_denied([401, 402, 403].map(Fault::status)).await;
}

#[tokio::test]
async fn unexpected_status_is_a_bad_gateway() {
    assert_final([404, 405, 410, 413, 422].map(Fault::status), "unavailable", 502).await;
}

#[tokio::test]
async fn no_answer_in_time_is_a_gateway_timeout() {
    for answer in assert_transient([Delivery::Never, Delivery::Dripping].map(Fault::Delivery), "timeout", 504).await {
        assert_eq!(answer.header("retry-after"), Some("5"), "{answer:?}");
    }
}

#[tokio::test]
async fn stalled_answer_leaves_time_for_a_retry() {
    // The first call may take nearly all of the time.
    let broker = Setup::new().settings(|raw| raw.server.timeout.0 = Duration::from_secs(5)).start().await;
    broker.courier.script([Some(Fault::Delivery(Delivery::Dripping))]);
    let answer = broker.ask(&tokens("new")).await;
    assert_eq!((answer.status, broker.courier.call_count()), (200, 2), "{answer:?}");
}

#[tokio::test]
async fn truncated_answer_counts_as_none() {
    assert_transient([Fault::Delivery(Delivery::CutOff)], "connect", 503).await;
}

#[tokio::test]
async fn answer_without_end_is_not_read_to_its_end() {
    assert_transient([Fault::Delivery(Delivery::Endless)], "malformed", 502).await;
}

#[tokio::test]
async fn answer_without_a_token_is_a_bad_gateway() {
    let json = |text| Fault::Body("application/json", text);
    let faults = [
        Fault::NOT_JSON,
        Fault::HTML,
        Fault::EMPTY_TOKEN,
        Fault::NO_TOKEN,
        Fault::EXPIRED,
        Fault::Life(Some(-1e99)),
        json(""),
        json("null"),
        json("[]"),
        json(r#""eyJhbGciOiJIUzI1NiJ9.e30.c2ln""#),
        json(r#"{"token":null}"#),
        json(r#"{"token":7}"#),
        json(r#"{"token":["a"]}"#),
        json(r#"{"token":"two words"}"#),
        json(r#"{"token":"a"} and more"#),
        json(r#"{"message":"Internal Server Error","type":"api_error"}"#),
    ];
    assert_transient(faults, "malformed", 502).await;
}

#[tokio::test]
async fn token_of_another_user_is_never_served() {
    let scopes = [
        "user_id:alice inbox:read:messages",
        "user_id:new user_id:alice inbox:read:messages",
        "user_id:new inbox:read:messages read:brands",
        "user_id:new",
        "inbox:read:messages",
    ];
    for answer in assert_final(scopes.map(|scope| Fault::Scope(scope.to_owned())), "mismatch", 502).await {
        assert!(!answer.whole().contains("alice"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("59"), "{answer:?}");
    }
    let warm = WarmBroker::new().await;
    warm.broker.courier.misbehave(Some(Fault::Scope("user_id:jane inbox:read:messages".to_owned())));
    let answer = warm.ask_as_new_user().await;
    assert!(answer.status == 502 && !answer.whole().contains("jane"), "{answer:?}");
    warm.assert_jane_is_served().await;
}

#[tokio::test]
async fn token_without_a_usable_expiry_lives_as_long_as_was_asked() {
    for fault in [Fault::NO_EXP, Fault::ABSURD_EXP, Fault::Life(Some(7200.0))] {
        let warm = WarmBroker::new().await;
        warm.broker.courier.misbehave(Some(fault.clone()));
        let answer = warm.ask_as_new_user().await;
        assert_eq!(claims(&answer.token())["scope"], "user_id:new inbox:read:messages", "{fault:?}");
        let seconds = answer.json()["expires_in"].as_u64().expect("seconds");
        assert!((3590..=3600).contains(&seconds), "{fault:?}: {answer:?}");
        // Jane gets a fresher token of the same kind.
        let fresher = ask(&warm.broker, &jane_with_min_ttl()).await;
        assert_eq!(claims(&fresher.token())["scope"], "user_id:jane inbox:read:messages", "{fault:?}");
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}/auth/issue-token", elsewhere.local_addr().expect("an address"));
    let redirect = |status| error(status, &[("location", &url)]);
    for answer in assert_final([301, 308].map(redirect), "unavailable", 502).await {
        assert!(!answer.whole().contains(&url), "{answer:?}");
    }
    // These statuses are temporary, so the call is retried, to the same host.
    assert_transient([302, 303, 307].map(redirect), "unavailable", 503).await;
    assert_transient([300, 304].map(Fault::status), "unavailable", 503).await;
    let nothing = elsewhere.accept().expect_err("a call arrived, with the API key");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn error_is_classified_by_its_head_whatever_its_body() {
    assert_transient(BROKEN.map(|delivery| broken(Fault::status(503), delivery)), "unavailable", 503).await;
}

#[tokio::test]
async fn refusal_of_the_api_key_is_classified_by_its_head_whatever_its_body() {
    assert_denied(BROKEN.map(|delivery| broken(Fault::status(401), delivery))).await;
}
