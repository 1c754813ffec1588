//! Secrets: keys appear nowhere, and tokens only in answers to permitted callers.

use crate::support::broker::{API_KEY, Broker, CLIENT_KEY};
use crate::support::http::HttpRequest;
use crate::support::refusal::GOOD;

const ADMIN: &[&str] = &["/metrics", "/healthz", "/readyz", "/", "/status", "/explain", "/debug"];

#[tokio::test]
async fn operators_see_no_key_no_token_and_no_user() {
    let broker = Broker::start().await;
    let mut secrets = vec![API_KEY.to_owned(), CLIENT_KEY.to_owned()];
    for (n, (route, body)) in GOOD.into_iter().enumerate() {
        let body = body.replace("\"u\"", "\"jane-doe\"").replace("user_id:u", "user_id:jane-doe");
        let answer = broker.ask(&HttpRequest::post(route, body)).await;
        secrets.push(answer.token());
        broker.ask(&HttpRequest::post(route, "{").key(&format!("a-guess-{n}"))).await;
    }
    secrets.extend(["jane-doe", "a-guess", "read:brands"].map(str::to_owned));
    for path in ADMIN {
        let answer = broker.admin(path).await.whole();
        for secret in &secrets {
            assert!(!answer.contains(secret), "{secret} is in {path}");
        }
    }
}

#[tokio::test]
async fn refusal_repeats_nothing_of_the_request() {
    const PASSWORD: &str = "hunter2-of-somebody";
    let broker = Broker::start().await;
    let mut asks = vec![
        HttpRequest::get(&format!("/{PASSWORD}?{PASSWORD}")),
        HttpRequest::get(&format!("/api/generate-courier-jwt?userId={PASSWORD}&userId={PASSWORD}")),
        HttpRequest::new(PASSWORD, "/auth/issue-token"),
        HttpRequest::issue(format!(r#"{{"scope": "user_id:{PASSWORD}", "expires_in": "1d"}}"#)),
        HttpRequest::issue(format!(r#"{{"scope": "user_id:u s", "expires_in": "{PASSWORD}"}}"#)),
        HttpRequest::tokens(format!(r#"{{"user_id": "u", "profile": "{PASSWORD}"}}"#)),
        HttpRequest::tokens(format!(r#"{{"user_id": "u", "scopes": ["{PASSWORD} x"]}}"#)),
        HttpRequest::issue(GOOD[0].1).header("Token-Min-TTL", PASSWORD),
    ];
    for (route, body) in GOOD {
        asks.push(HttpRequest::post(route, body).key(PASSWORD));
        asks.push(HttpRequest::post(route, body).with("Authorization", PASSWORD));
        asks.push(HttpRequest::post(route, body).with("Content-Type", PASSWORD));
        asks.push(HttpRequest::post(route, format!("{{\"{PASSWORD}")));
        asks.push(HttpRequest::post(route, format!("\"{PASSWORD}\"")));
        for field in ["scope", "userId", "user_id", "user_ids", "scopes", "profile", "expires_in", "min_ttl"] {
            for wrong in [format!("[[\"{PASSWORD}\"]]"), format!("{{\"{PASSWORD}\": 1}}"), "31337".to_owned()] {
                asks.push(HttpRequest::post(route, format!("{{\"{field}\": {wrong}, \"{field}\": {wrong}}}")));
            }
        }
    }
    for ask in &asks {
        let answer = broker.ask(ask).await;
        assert!((400..500).contains(&answer.status), "{ask:?} gave {answer:?}");
        assert!(!answer.whole().contains(PASSWORD) && !answer.body.contains("31337"), "{answer:?}");
    }
}
