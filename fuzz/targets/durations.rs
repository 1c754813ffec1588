//! `expires_in`: the broker accepts what Courier does, and reads the same seconds.
//!
//! Two other parsers read each input: the simulator's, which another author wrote
//! from the same grammar, and the harness's own.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::token::{Lifetime, LifetimeError};
use courier_token_broker_fuzz::span;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static COURIER: LazyLock<Simulator> = LazyLock::new(|| Simulator::new(None, Faults::default(), Clock::system()));

fuzz_target!(|text: &str| {
    let value = Value::from(text);
    check(&value, &value.to_string());
    if let Ok(number @ Value::Number(_)) = serde_json::from_str(text) {
        // The text itself: a printed number may parse to another one.
        check(&number, text);
    }
});

fn check(value: &Value, json: &str) {
    let ours = match value {
        Value::String(text) => Lifetime::parse(text),
        other => Lifetime::from_seconds(other.as_f64().expect("every number is one")),
    };
    let expected = span::seconds(value);
    match (expected, ours) {
        (None, Err(LifetimeError::NotADuration | LifetimeError::TooManyCharacters | LifetimeError::NotWhole)) => {}
        (Some(seconds), Ok(lifetime)) => assert_eq!(f64::from(lifetime.as_secs()), seconds, "{value}"),
        (Some(seconds), Err(LifetimeError::Zero)) => assert_eq!(seconds, 0.0, "{value}"),
        (Some(seconds), Err(LifetimeError::Negative)) => assert!(seconds < 0.0, "{value}"),
        (Some(seconds), Err(LifetimeError::TooLong)) => assert!(seconds > f64::from(u32::MAX), "{value}"),
        (expected, ours) => panic!("{value}: Courier reads {expected:?}, the broker {ours:?}"),
    }
    match (expected, simulated(json)) {
        (None, None) => {}
        // It rounds the end of the token and not its length, which a sum of both
        // that is not exact may carry to the next second.
        (Some(expected), Some(seconds)) => {
            assert!((seconds - expected).abs() <= 1.0 + expected.abs() * 1e-9, "{value}: {expected} {seconds}");
        }
        (expected, seconds) => panic!("{value}: it is {expected:?}, the simulator reads {seconds:?}"),
    }
}

/// The life of a token that the simulator issues for this `expires_in`.
fn simulated(expires_in: &str) -> Option<f64> {
    let body = format!(r#"{{"scope": "user_id:u read:brands", "expires_in": {expires_in}}}"#);
    let reply = courier_token_broker_fuzz::broker::run(COURIER.answer(Some(b"Bearer key"), body.as_bytes()));
    if reply.status != 200 {
        assert_eq!(reply.status, 400, "{expires_in}");
        return None;
    }
    let answer: Value = serde_json::from_str(&reply.body).expect("JSON");
    let payload = answer["token"].as_str().and_then(|token| token.split('.').nth(1)).expect("a JWT");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON");
    Some(claims["exp"].as_f64().expect("a number") - claims["iat"].as_f64().expect("a number"))
}
