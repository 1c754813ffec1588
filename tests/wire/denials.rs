//! A 403 names the refused values, the allowed ones and the setting.

use serde_json::json;

use crate::support::broker::{Broker, Setup, client, client_for};
use crate::support::http::HttpRequest;
use crate::support::refusal::{all_are_refused_without_a_call, row};

const NARROW: &str = "ctb_a-narrow-client";
/// The key of a client with very many scopes and users.
const WIDE: &str = "ctb_a-wide-client";

async fn broker() -> Broker {
    let setup = Setup::new().settings(|raw| {
        let mut narrow = client_for("narrow", NARROW, &["inbox:*", "read:brands"], &["acme:*", "root"]);
        narrow.max_lifetime.0 = std::time::Duration::from_secs(3600);
        let many: Vec<_> = (0..64).map(|place| format!("{place}{}", "x".repeat(200))).collect();
        let mut wide = client("wide", WIDE, &[]);
        (wide.scopes, wide.users) = (Some(many.clone()), many);
        raw.clients.extend([narrow, wide]);
    });
    setup.start().await
}

fn issue(scope: &str, expires_in: &str) -> HttpRequest {
    HttpRequest::issue(json!({"scope": scope, "expires_in": expires_in}).to_string()).key(NARROW)
}

#[tokio::test]
async fn refusal_names_what_is_refused_and_what_is_allowed() {
    let scopes = "may not ask for the scope `write:brands`; it may ask for `inbox:*`, `read:brands`; `scopes` in the \
                  client's settings sets this";
    let both = "may not ask for the scopes `a:a`, `b:b`; it may ask for `inbox:*`";
    let user = "may not act for the user `bob`; it may act for `acme:*`, `root`; `users` in the client's settings";
    let long = "a lifetime of 7200 seconds (2 hours); it may ask for at most 3600 seconds (1 hour); `max_lifetime` in";
    let rows = [
        row("a scope", issue("user_id:root inbox:x write:brands read:brands", "1h"), 403, scopes),
        row("two scopes", issue("user_id:root b:b inbox:x a:a", "1h"), 403, both),
        row("a user", issue("user_id:root user_id:bob inbox:x", "1h"), 403, user),
        row("a user of the front end", HttpRequest::frontend(r#"{"userId": "bob"}"#).key(NARROW), 403, user),
        row("a user who signs out", HttpRequest::new("DELETE", "/v1/users/bob/tokens").key(NARROW), 403, user),
        row("the longest", issue("user_id:root inbox:x", "2h"), 403, long),
        // The refusal names the client's own limit even if the request exceeds the limit for all.
        row("far too long", issue("user_id:root inbox:x", "1y"), 403, "at most 3600 seconds (1 hour)"),
    ];
    all_are_refused_without_a_call(&broker().await, &rows).await;
}

#[tokio::test]
async fn refusal_for_a_lifetime_beyond_the_limit_of_all_names_that_setting() {
    let broker = Broker::start().await;
    let says = "3456000 seconds (40 days), and at most 2592000 seconds (30 days) are allowed (`tokens.max_lifetime`, \
                in the environment COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME)";
    let row = row("too long", HttpRequest::issue(r#"{"scope": "user_id:u x:x", "expires_in": "40d"}"#), 400, says);
    all_are_refused_without_a_call(&broker, &[row]).await;
}

#[tokio::test]
async fn unknown_profile_is_answered_with_the_profiles_of_the_client_alone() {
    let setup = Setup::new().settings(|raw| {
        let profile = |scopes: &[&str]| scopes.iter().map(|&scope| scope.to_owned()).collect();
        raw.profiles.insert("acme-admin".to_owned(), profile(&["tenant:acme:all"]));
        raw.profiles.insert("acme-half".to_owned(), profile(&["read:brands", "tenant:acme:all"]));
        raw.profiles.insert("brands".to_owned(), profile(&["read:brands"]));
        raw.clients.push(client("narrow", NARROW, &["read:*"]));
        raw.clients.push(client("wide", WIDE, &["write:x"]));
    });
    let broker = setup.start().await;
    let ask = |key: &str| HttpRequest::tokens(r#"{"user_id": "u", "profile": "x"}"#).key(key);
    let rows = [
        row("some profiles", ask(NARROW), 400, "unknown profile: this client may use `brands`"),
        row("no profile", ask(WIDE), 400, "unknown profile: this client may use none"),
        row("neither", HttpRequest::tokens(r#"{"user_id": "u"}"#).key(WIDE), 400, "name either scopes or a profile"),
    ];
    all_are_refused_without_a_call(&broker, &rows).await;
    for key in [NARROW, WIDE] {
        let body = broker.ask(&ask(key)).await.body;
        assert!(!body.contains("acme") && !body.contains("inbox") && !body.contains("mobile"), "{body}");
    }
    let all = broker.ask(&HttpRequest::tokens(r#"{"user_id": "u", "profile": "x"}"#)).await.body;
    assert!(all.contains("`acme-admin`, `acme-half`, `brands`, `inbox`, `mobile`"), "{all}");
}

#[tokio::test]
async fn refusal_stays_short_and_is_json_whatever_is_refused() {
    let broker = broker().await;
    let scopes: Vec<_> = (0..16).map(|place| format!("{place}{}", "`".repeat(240))).collect();
    let users: Vec<_> = (0..16).map(|place| format!("{place}\"\\<script>{}", "ä".repeat(110))).collect();
    let ask = |users: &[String], scopes: &[String]| {
        HttpRequest::tokens(json!({"user_ids": users, "scopes": scopes, "expires_in": "1h"}).to_string()).key(WIDE)
    };
    let known = format!("0{}", "x".repeat(200));
    for (ask, refused) in [(ask(&[known], &scopes), &scopes), (ask(&users, &["a:a".to_owned()]), &users)] {
        let answer = broker.ask(&ask).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        let body = answer.json();
        let message = body["message"].as_str().expect("a text");
        assert!(message.contains(&format!("s `{}`", refused.iter().min().expect("some"))), "{message}");
        assert!(message.contains(" and 15 more;") && message.contains(" and 63 more;"), "{message}");
        assert!(message.len() < 1000, "{} bytes", message.len());
    }
}
