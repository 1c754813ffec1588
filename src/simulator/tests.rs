//! Tests of the simulator without a socket.

use std::time::Duration;

use serde_json::Value;

use super::request::BODY_LIMIT;
use super::{Delivery, Fault, Faults, Reply, Simulator};
use crate::clock::Clock;

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
async fn error_of_any_status_has_couriers_shape() {
    let simulator = simulator(Faults::default());
    for (status, kind) in [
        (401, "authentication_error"),
        (402, "invalid_request_error"),
        (403, "authorization_error"),
        (409, "invalid_request_error"),
        (429, "rate_limit_error"),
        (504, "api_error"),
        (599, "api_error"),
    ] {
        simulator.misbehave(Some(Fault::status(status)));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, &reply.json()["type"]), (status, &Value::from(kind)));
        assert!(reply.json()["message"].is_string());
        assert_eq!(reply.headers.len(), 1);
    }
    simulator.misbehave(Some(Fault::redirect("https://example.com/".parse().unwrap())));
    let reply = simulator.answer(KEY, ASK).await;
    assert_eq!((reply.status, reply.header("location")), (307, Some("https://example.com/")));
}

#[tokio::test(start_paused = true)]
async fn life_fault_sets_the_tokens_life() {
    let simulator = simulator(Faults::default());
    let life = async |fault| {
        simulator.misbehave(Some(fault));
        let claims = simulator.answer(KEY, ASK).await.claims();
        claims.get("exp").map(|exp| exp.as_f64().unwrap() - claims["iat"].as_f64().unwrap())
    };
    assert_eq!(life(Fault::EXPIRED).await, Some(0.0));
    assert_eq!(life(Fault::Life(Some(-60.0))).await, Some(-60.0));
    assert_eq!(life(Fault::ABSURD_EXP).await, Some(1e99));
    assert_eq!(life(Fault::NO_EXP).await, None);
}

#[tokio::test(start_paused = true)]
async fn times_fault_sets_the_times_relative_to_the_date_header() {
    let simulator = simulator(Faults::default());
    let begin = simulator.0.clock.unix().as_secs() as i64;
    let date = |reply: &Reply| {
        let date = httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
        date.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
    };
    for (fault, iat, nbf, exp) in [
        (Fault::REISSUED, Some(-86_400), None, Some(60)),
        (Fault::ENDED, Some(-172_800), None, Some(-86_400)),
        (Fault::NOT_YET, Some(0), Some(3600), Some(86_400)),
        (Fault::NO_IAT, None, None, Some(60)),
        (Fault::Skew(86_400), Some(0), None, Some(86_400)),
        (Fault::Skew(-86_400), Some(0), None, Some(86_400)),
    ] {
        simulator.misbehave(Some(fault.clone()));
        let reply = simulator.answer(KEY, ASK).await;
        let (claims, now) = (reply.claims(), date(&reply));
        let ahead = if let Fault::Skew(ahead) = fault { ahead } else { 0 };
        assert!((0..=60).contains(&(now - ahead - begin)), "{now} for {begin}: {fault:?}");
        let time = |name| claims.get(name).map(|time| time.as_i64().unwrap() - now);
        assert_eq!((time("iat"), time("nbf"), time("exp")), (iat, nbf, exp), "{fault:?}");
    }
    simulator.misbehave(Some(Fault::TEXT_EXP));
    let reply = simulator.answer(KEY, ASK).await;
    assert_eq!(reply.claims()["exp"], (date(&reply) + 60).to_string());
}

#[tokio::test(start_paused = true)]
async fn invalid_request_is_refused_despite_a_token_fault() {
    let simulator = simulator(Faults::default());
    for fault in [Fault::EXPIRED, Fault::Scope("a".to_owned()), Fault::Delivery(Delivery::Dripping)] {
        simulator.misbehave(Some(fault));
        assert_eq!(simulator.answer(KEY, b"{}").await.status, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn scope_fault_changes_the_token_not_the_recorded_call() {
    let simulator = simulator(Faults::default());
    simulator.misbehave(Some(Fault::Scope("user_id:alice".to_owned())));
    let reply = simulator.answer(KEY, ASK).await;
    assert_eq!(reply.claims()["scope"], "user_id:alice");
    assert_eq!(simulator.calls()[0].scope, "user_id:u read:brands");
}
