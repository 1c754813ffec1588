//! `/explain`: what the admin listener shows of a user's tokens.

use serde_json::{Value, json};

use crate::support::broker::Setup;
use crate::support::http::HttpRequest;

#[tokio::test]
async fn explain_shows_what_is_known_of_a_user_and_no_token() {
    let broker = Setup::new().start().await;
    let body = r#"{"user_id": "jo hn", "scopes": ["read:brands"], "expires_in": "1h"}"#.replace(' ', "");
    let mut tokens = Vec::new();
    for body in [body.clone(), body.replace("john", "jane"), body.replace("1h", "2h"), body.clone()] {
        let answer = broker.ask(&HttpRequest::tokens(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokens.push(answer.token());
    }
    let answer = broker.admin("/explain?user=j%6Fhn").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    let body = answer.json();
    let [one, other] = body["tokens"].as_array().expect("a list").as_slice() else { panic!("{body}") };
    let mut lives = [one, other].map(|known| (known["lifetime_seconds"].as_u64(), known["uses"].as_u64()));
    lives.sort_unstable();
    assert_eq!(lives, [(Some(3600), Some(2)), (Some(7200), Some(1))]);
    for known in [one, other] {
        assert_eq!((&known["users"], &known["state"]), (&json!(["john"]), &json!("scheduled")), "{body}");
        assert_eq!((&known["decision"], &known["last_error"]), (&Value::Null, &Value::Null), "{body}");
        let time = |name: &str| known[name].as_str().unwrap_or_default().to_owned();
        assert!(time("issued_at") < time("due_at") && time("due_at") < time("expires_at"), "{body}");
    }
    for token in tokens {
        assert!(!answer.whole().contains(&token));
    }
}

#[tokio::test]
async fn explain_finds_each_user_of_a_shared_token_until_it_is_removed() {
    let broker = Setup::new().start().await;
    let body = r#"{"user_ids": ["john", "jane"], "scopes": ["read:brands"]}"#;
    assert_eq!(broker.ask(&HttpRequest::tokens(body.to_owned())).await.status, 200);
    for (user, found) in [("john", 1), ("jane", 1), ("jo", 0)] {
        let known = broker.admin(&format!("/explain?user={user}")).await.json();
        assert_eq!(known["tokens"].as_array().map(Vec::len), Some(found), "{known}");
    }
    assert_eq!(broker.ask(&HttpRequest::new("DELETE", "/v1/users/john/tokens")).await.status, 204);
    assert_eq!(broker.admin("/explain?user=jane").await.json()["tokens"], json!([]));
}

#[tokio::test]
async fn explain_refuses_a_missing_or_unknown_user() {
    let broker = Setup::new().start().await;
    for target in ["/explain", "/explain?", "/explain?user=", "/explain?user=%FF", "/explain?users=x"] {
        assert_eq!(broker.admin(target).await.status, 400, "{target}");
    }
    let answer = broker.admin("/explain?user=%00&user=x").await.json();
    assert_eq!(answer, json!({ "user": "\0", "tokens": [] }));
}
