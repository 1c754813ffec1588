//! Durations in Courier's grammar, and those that are refused without a call to Courier.

use crate::inputs::inputs;
use crate::support::broker::Broker;
use crate::support::http::HttpRequest;
use crate::support::refusal::{Row, all_are_refused_without_a_call, row};

fn issue(expires_in: &str) -> HttpRequest {
    HttpRequest::issue(format!(r#"{{"scope": "user_id:u s", "expires_in": {expires_in}}}"#))
}

fn tokens(more: &str) -> HttpRequest {
    HttpRequest::tokens(format!(r#"{{"user_id": "u", "scopes": ["s"], {more}}}"#))
}

#[tokio::test]
async fn unreadable_or_forbidden_lifetime_is_refused() {
    let mut rows: Vec<Row> = Vec::new();
    for text in &inputs().lifetimes {
        rows.push(row(text, issue(text), 400, ""));
        rows.push(row(text, tokens(&format!(r#""expires_in": {text}"#)), 400, ""));
    }
    let long = format!(r#""{}s""#, "1".repeat(100));
    rows.push(row("101 characters", issue(&long), 400, "100 characters"));
    rows.push(row("101 characters", tokens(&format!(r#""expires_in": {long}"#)), 400, "100 characters"));
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn refused_lifetime_names_its_field_and_the_expected_form() {
    let too_long = "3456000 seconds (40 days), and at most 2592000 seconds (30 days) are allowed (`tokens.max_lifetime`, \
                    in the environment COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME)";
    let rows = [
        row("no unit", issue(r#""60""#), 400, "write \\\"60s\\\" or the number 60"),
        row("months", issue(r#""1 month""#), 400, "expires_in is not a duration"),
        row("a fraction", issue("1.5"), 400, "expires_in must be a whole number"),
        row("too long", issue(r#""40d""#), 400, too_long),
        row("too long for any", issue(r#""200y""#), 400, "expires_in is longer than any token may live"),
        row("negative", issue(r#""-1d""#), 400, "expires_in is negative"),
        row("null", issue("null"), 400, "expected a duration"),
        row("min_ttl", tokens(r#""min_ttl": "soon""#), 400, "min_ttl is not a duration"),
    ];
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn min_ttl_beyond_the_lifetime_is_refused() {
    let mut rows = Vec::new();
    for (expires_in, min_ttl) in
        [("\"1h\"", "\"1h\""), ("\"1h\"", "3600"), ("60", "61"), ("\"1d\"", "\"2d\""), ("1", "1"), ("60", "4294967295")]
    {
        let ask = tokens(&format!(r#""expires_in": {expires_in}, "min_ttl": {min_ttl}"#));
        rows.push(row(format!("{min_ttl} of {expires_in}"), ask, 400, "min_ttl must be less than expires_in"));
    }
    // The default lifetime is a day.
    rows.push(row("a day of the default", tokens(r#""min_ttl": "1d""#), 400, "min_ttl must be less"));
    for min_ttl in ["1h", "3600s", "60 min", "1.5h", "100y"] {
        rows.push(row(min_ttl, issue("3600").header("Token-Min-TTL", min_ttl), 400, ""));
    }
    for min_ttl in ["1d", "24h", "25h", "30d"] {
        rows.push(row(min_ttl, HttpRequest::frontend(r#"{"userId": "u"}"#).header("Token-Min-TTL", min_ttl), 400, ""));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn min_ttl_that_is_not_one_duration_is_refused() {
    let mut rows = Vec::new();
    for min_ttl in
        ["null", "true", "[]", "{}", "1.5", "0", "-1", r#""0s""#, r#""-1h""#, r#""1 month""#, r#""""#, "1e99"]
    {
        rows.push(row(min_ttl, tokens(&format!(r#""min_ttl": {min_ttl}"#)), 400, ""));
    }
    rows.push(row("min_ttl twice", tokens(r#""min_ttl": "1h", "min_ttl": "2h""#), 400, "duplicate field"));
    for min_ttl in
        ["", "6", "3600", "6 months", "-6h", "0s", "0.1s", "6h, 7h", "6h;", "\"6h\"", "+6h", "1e3s", "true", "6\th"]
    {
        for ask in [issue("86400"), HttpRequest::frontend(r#"{"userId": "u"}"#)] {
            rows.push(row(min_ttl, ask.header("Token-Min-TTL", min_ttl), 400, "Token-Min-TTL"));
        }
    }
    rows.push(row("not a text", issue("86400").header("Token-Min-TTL", b"6h\xff"), 400, "Token-Min-TTL"));
    // The broker would have to ignore one of two, possibly the longer one.
    for ask in [issue("86400"), HttpRequest::frontend(r#"{"userId": "u"}"#)] {
        let twice = ask.header("Token-Min-TTL", "1h").header("Token-Min-TTL", "6h");
        rows.push(row("two", twice, 400, "Token-Min-TTL"));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

/// A `min_ttl` is no lifetime of a token, so the error must not speak of one.
#[tokio::test]
async fn min_ttl_of_zero_is_not_called_born_expired() {
    let broker = Broker::start().await;
    for ask in [tokens(r#""min_ttl": 0"#), issue("86400").header("Token-Min-TTL", "0s")] {
        let answer = broker.ask(&ask).await;
        assert!(!answer.body.contains("issued expired"), "{answer:?}");
    }
}
