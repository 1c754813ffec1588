//! Permissions: a client may ask for what its settings entry allows; anything beyond is 403, which names the refused values,
//! the allowed ones and the setting.

use serde_json::json;

use crate::support::broker::{Broker, Setup, client, client_for};
use crate::support::http::HttpRequest;
use crate::support::refusal::{all_are_refused_without_a_call, row};

/// A client that may have `inbox:*` and `read:brands` for the users of one tenant, for at most an hour.
const NARROW: &str = "ctb_a-narrow-client";
/// A client whose entry has no scopes, so it may have those of the profiles.
const PLAIN: &str = "ctb_a-plain-client";

async fn broker() -> Broker {
    let setup = Setup::new().settings(|raw| {
        let mut narrow = client_for("narrow", NARROW, &["inbox:*", "read:brands"], &["acme:*", "root"]);
        narrow.max_lifetime.0 = std::time::Duration::from_secs(3600);
        let mut plain = client("plain", PLAIN, &[]);
        plain.scopes = None;
        raw.clients.extend([narrow, plain]);
    });
    setup.start().await
}

#[tokio::test]
async fn client_gets_nothing_beyond_its_settings() {
    let issue = |scope: &str, expires_in: &str| {
        HttpRequest::issue(json!({"scope": scope, "expires_in": expires_in}).to_string()).key(NARROW)
    };
    let tokens = |users: &[&str], scopes: &[&str]| {
        HttpRequest::tokens(json!({"user_ids": users, "scopes": scopes, "expires_in": "1h"}).to_string()).key(NARROW)
    };
    let good = &["inbox:read:messages"][..];
    let scopes = "may not ask for the scope `write:brands`; it may ask for `inbox:*`, `read:brands`; `scopes` in the \
                  client's settings sets this";
    let both = "may not ask for the scopes `a:a`, `b:b`; it may ask for `inbox:*`";
    let user = "may not act for the user `bob`; it may act for `acme:*`, `root`; `users` in the client's settings";
    let long = "a lifetime of 7200 seconds (2 hours); it may ask for at most 3600 seconds (1 hour); `max_lifetime` in";
    let rows = [
        row("a scope", issue("user_id:acme:u write:brands read:brands", "1h"), 403, scopes),
        row("two scopes", issue("user_id:root b:b inbox:x a:a", "1h"), 403, both),
        row("one scope of two", issue("user_id:acme:u inbox:read:messages read:brands:x", "1h"), 403, "`scopes`"),
        row("a scope in capitals", issue("user_id:acme:u INBOX:read:messages", "1h"), 403, "`scopes`"),
        row("the beginning of a scope", issue("user_id:acme:u inbox", "1h"), 403, "`scopes`"),
        row("a user", issue("user_id:other:u inbox:x", "1h"), 403, "`users`"),
        row("a user whose id ends well", issue("user_id:x:acme:u inbox:x", "1h"), 403, "`users`"),
        row("a second user", issue("user_id:acme:u user_id:bob inbox:x", "1h"), 403, user),
        row("more than an exact id", issue("user_id:root2 inbox:x", "1h"), 403, "`users`"),
        row("a user in capitals", tokens(&["ACME:u"], good), 403, "`users`"),
        row("a user with a prefix", tokens(&["user_id:acme:u"], good), 403, "`users`"),
        row("the second user", tokens(&["acme:u", "bob"], good), 403, "`users`"),
        row("a scope", tokens(&["acme:u"], &["inbox:x", "tenants:read"]), 403, "`scopes`"),
        row("a second too long", issue("user_id:acme:u inbox:x", "3601s"), 403, "`max_lifetime`"),
        row("an hour too long", issue("user_id:acme:u inbox:x", "2h"), 403, long),
        // The refusal names the client's own limit even if the request exceeds the limit for all.
        row("far too long", issue("user_id:root inbox:x", "1y"), 403, "at most 3600 seconds (1 hour)"),
        row("a user of the front end", HttpRequest::frontend(r#"{"userId": "bob"}"#).key(NARROW), 403, user),
        row("a user who signs out", HttpRequest::new("DELETE", "/v1/users/bob/tokens").key(NARROW), 403, user),
        row("the profile's scopes", HttpRequest::frontend(r#"{"userId": "acme:u"}"#).key(NARROW), 403, "`scopes`"),
        row("a scope of no profile", issue("user_id:u tenants:read", "1h").key(PLAIN), 403, "`scopes`"),
        row("more than the default", issue("user_id:u read:brands", "25h").key(PLAIN), 403, "`max_lifetime`"),
    ];
    all_are_refused_without_a_call(&broker().await, &rows).await;
}

#[tokio::test]
async fn client_gets_a_token_within_its_settings() {
    let broker = broker().await;
    let tokens =
        |user: &str, scopes: &[&str]| HttpRequest::tokens(json!({"user_id": user, "scopes": scopes}).to_string());
    for ask in [
        tokens("acme:u", &["inbox:read:messages", "read:brands"]).key(NARROW),
        tokens("acme:", &["inbox:"]).key(NARROW),
        tokens("root", &["inbox:x"]).key(NARROW),
        HttpRequest::frontend(r#"{"userId": "anybody"}"#).key(PLAIN),
    ] {
        assert_eq!(broker.ask(&ask).await.status, 200, "{ask:?}");
    }
    // Without a lifetime in the request, the lifetime is the default or the client's limit if that is less.
    let calls = broker.courier.calls();
    let lifetimes: Vec<_> = calls.iter().map(|call| call.expires_in.as_str()).collect();
    assert_eq!(lifetimes, ["\"3600s\"", "\"3600s\"", "\"3600s\"", "\"86400s\""]);
}

#[tokio::test]
async fn unknown_profile_is_answered_with_the_profiles_of_the_client_alone() {
    const WRITER: &str = "ctb_a-client-that-only-writes";
    let setup = Setup::new().settings(|raw| {
        let profile = |scopes: &[&str]| scopes.iter().map(|&scope| scope.to_owned()).collect();
        raw.profiles.insert("acme-admin".to_owned(), profile(&["tenant:acme:all"]));
        raw.profiles.insert("acme-half".to_owned(), profile(&["read:brands", "tenant:acme:all"]));
        raw.profiles.insert("brands".to_owned(), profile(&["read:brands"]));
        raw.clients.push(client("narrow", NARROW, &["read:*"]));
        raw.clients.push(client("writer", WRITER, &["write:x"]));
    });
    let broker = setup.start().await;
    let ask = |key: &str| HttpRequest::tokens(r#"{"user_id": "u", "profile": "x"}"#).key(key);
    let rows = [
        row("some profiles", ask(NARROW), 400, "unknown profile: this client may use `brands`"),
        row("no profile", ask(WRITER), 400, "unknown profile: this client may use none"),
        row("neither", HttpRequest::tokens(r#"{"user_id": "u"}"#).key(WRITER), 400, "name either scopes or a profile"),
    ];
    all_are_refused_without_a_call(&broker, &rows).await;
    for key in [NARROW, WRITER] {
        let body = broker.ask(&ask(key)).await.body;
        assert!(!body.contains("acme") && !body.contains("inbox") && !body.contains("mobile"), "{body}");
    }
    let all = broker.ask(&HttpRequest::tokens(r#"{"user_id": "u", "profile": "x"}"#)).await.body;
    assert!(all.contains("`acme-admin`, `acme-half`, `brands`, `inbox`, `mobile`"), "{all}");
}
