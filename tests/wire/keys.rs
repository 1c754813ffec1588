//! Client keys: without one there is no token.

use courier_token_broker::auth::Digest;
use courier_token_broker::config::RawClient;

use crate::support::broker::{API_KEY, Broker, CLIENT_KEY, Setup, client};
use crate::support::http::{Connection, HttpRequest};
use crate::support::refusal::{FRONTEND, GOOD, all_are_refused_without_a_call, is_a_refusal, row};

#[tokio::test]
async fn missing_malformed_or_unknown_key_is_refused() {
    let (key, digest, long) = (CLIENT_KEY, Digest::of(CLIENT_KEY).to_string(), "k".repeat(2000));
    let values = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer    ".to_owned(),
        key.to_owned(),
        format!("Bearer{key}"),
        format!("Bearer\t{key}"),
        format!("Bearer:{key}"),
        format!("Basic {key}"),
        format!("Token {key}"),
        format!("Basic {}", "YXBwOmtleQ=="),
        format!("Bearer {key}x"),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {}", key.to_uppercase()),
        format!("Bearer \"{key}\""),
        format!("Bearer {key} {key}"),
        format!("Bearer {key}, Bearer {key}"),
        format!("Bearer {key};"),
        format!("Bearer {digest}"),
        format!("Bearer {API_KEY}"),
        format!("Bearer {long}"),
        "Bearer null".to_owned(),
        "Bearer undefined".to_owned(),
        "Bearer *".to_owned(),
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln".to_owned(),
        "Bearer ..".to_owned(),
    ];
    let mut rows = Vec::new();
    for (route, body) in GOOD {
        let ask = HttpRequest::post(route, body);
        for value in &values {
            rows.push(row(value, ask.clone().with("Authorization", value), 401, ""));
        }
        rows.push(row("no header", ask.clone().without("Authorization"), 401, ""));
        rows.push(row("bad bytes", ask.clone().with("Authorization", b"Bearer \xff\xfe"), 401, ""));
        rows.push(row("the same twice", ask.clone().header("Authorization", format!("Bearer {key}")), 401, ""));
        rows.push(row("two keys", ask.clone().header("Authorization", "Bearer other"), 401, ""));
        let elsewhere = ask.clone().without("Authorization");
        rows.push(row("a cookie", elsewhere.clone().header("Cookie", format!("key={key}")), 401, ""));
        rows.push(row("X-API-Key", elsewhere.header("X-API-Key", key), 401, ""));
        // Errors in the body are not shown to a caller without a key.
        rows.push(row("a bad body too", HttpRequest::post(route, "{").key("wrong"), 401, ""));
    }
    let query = format!("{FRONTEND}?userId=u&key={key}&access_token={key}");
    rows.push(row("in the query", HttpRequest::get(&query).without("Authorization"), 401, ""));
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn refused_key_is_answered_with_the_scheme() {
    let broker = Broker::start().await;
    for (route, body) in GOOD {
        let answer = broker.ask(&HttpRequest::post(route, body).key("wrong")).await;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{answer:?}");
    }
}

#[tokio::test]
async fn bearer_with_the_shape_of_a_jwt_is_a_session_on_the_front_end_route_alone() {
    let broker = Broker::start().await;
    let token = broker.ask(&HttpRequest::issue(GOOD[0].1)).await.token();
    // A token of Courier's is no session either.
    for ask in [HttpRequest::frontend(GOOD[1].1), HttpRequest::get(&format!("{FRONTEND}?userId=u"))] {
        let answer = broker.ask(&ask.key(&token)).await;
        assert_eq!((answer.status, answer.body.as_str()), (401, r#"{"error":"Unauthorized"}"#));
        is_a_refusal(&answer, true);
    }
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn client_has_two_keys_during_a_rotation() {
    let (old, new) = ("ctb_the-old-key", "ctb_the-new-key");
    let setup = Setup::new().settings(|raw| {
        let mut app = client("rotating", old, &["*"]);
        app.key_sha256.0.push(Digest::of(new).to_string());
        raw.clients.push(app);
    });
    let broker = setup.start().await;
    let ask = HttpRequest::tokens(GOOD[2].1);
    let tokens = [broker.ask(&ask.clone().key(old)).await.token(), broker.ask(&ask.key(new)).await.token()];
    assert_eq!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn client_over_its_rate_gets_retry_after_and_other_clients_are_served() {
    let slow = "ctb_a-slow-client";
    let setup = Setup::new().settings(|raw| {
        raw.clients.push(RawClient { requests_per_second: Some(5.0), ..client("slow", slow, &["*"]) });
    });
    let broker = setup.start().await;
    let mut connection = Connection::open(broker.address).await;
    let mut limited = 0;
    for place in 0..50 {
        let answer = connection.ask(&HttpRequest::tokens(GOOD[2].1).key(slow)).await;
        if answer.status == 429 {
            is_a_refusal(&answer, false);
            assert_eq!(answer.header("retry-after"), Some("1"));
            limited += 1;
        } else {
            assert_eq!(answer.status, 200, "{place}: {answer:?}");
        }
        assert_eq!(connection.ask(&HttpRequest::tokens(GOOD[2].1)).await.status, 200);
    }
    assert!(limited > 0);
    let counted = "courier_token_broker_requests_total{outcome=\"limited\",route=\"/v1/tokens\"}";
    assert_eq!(broker.metric(counted).await, f64::from(limited));
}
