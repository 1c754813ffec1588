//! Courier's published samples work against a broker that is configured with two keys and nothing else.

use std::collections::BTreeMap;

use courier_token_broker::config::Layers;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::broker::{API_KEY, Broker, CLIENT_KEY, Setup, claims, client};
use crate::support::http::HttpRequest;

const INBOX: &str = "inbox:read:messages inbox:write:events read:preferences write:preferences read:brands";

/// A token request that Courier publishes: its source, `scope` and `expires_in`.
type Sample = (String, String, String);

fn samples() -> Vec<Sample> {
    #[derive(Deserialize)]
    struct Samples {
        samples: Vec<Sample>,
    }
    toml::from_str::<Samples>(include_str!("samples.toml")).expect("good data").samples
}

/// The clients and profiles of a broker with these variables and no file.
async fn with_environment(more: &[(&str, &str)]) -> Broker {
    let keys = [("COURIER_API_KEY", API_KEY), ("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY)];
    let variables = keys.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let merged = Layers::new(Vec::new(), variables.collect::<BTreeMap<_, _>>()).merge().expect("good settings");
    let setup = Setup::new().settings(|raw| {
        raw.clients = merged.clients;
        raw.profiles = merged.profiles;
    });
    setup.start().await
}

fn filled_in(text: &str, days: u32, user: &str, tenant: &str) -> String {
    text.replace("$N", &days.to_string()).replace("$USER", user).replace("$TENANT", tenant)
}

/// The parts of a scope string, in any order.
fn parts(scope: &Value) -> Vec<String> {
    let mut parts: Vec<_> = scope.as_str().expect("a text").split(' ').map(str::to_owned).collect();
    parts.sort();
    parts
}

#[tokio::test]
async fn every_published_sample_is_served_with_default_settings() {
    let broker = with_environment(&[]).await;
    for (source, scope, expires_in) in samples() {
        for (days, user, tenant) in [(1, "pigeon", "tenant-123"), (7, "blue:bird@example.com", "a:b"), (30, "42", "t")]
        {
            let scope = filled_in(&scope, days, user, tenant);
            let expires_in = filled_in(&expires_in, days, user, tenant);
            let answer =
                broker.ask(&HttpRequest::issue(json!({"scope": scope, "expires_in": expires_in}).to_string())).await;
            assert_eq!(answer.status, 200, "{source}: {answer:?}");
            assert_eq!(parts(&claims(&answer.token())["scope"]), parts(&scope.into()), "{source}");
        }
    }
}

#[tokio::test]
async fn default_profiles_have_the_scopes_of_the_inbox_and_of_push() {
    let broker = with_environment(&[]).await;
    // The page `generate-courier-jwt` as Courier's guide has it, from its `fetch`.
    let answer = broker.ask(&HttpRequest::frontend(r#"{"userId":"pigeon"}"#)).await;
    assert_eq!(parts(&claims(&answer.token())["scope"]), parts(&format!("user_id:pigeon {INBOX}").into()));
    let answer = broker.ask(&HttpRequest::tokens(r#"{"user_id": "pigeon", "profile": "mobile"}"#)).await;
    let wanted = format!("user_id:pigeon {INBOX} read:user-tokens write:user-tokens");
    assert_eq!(parts(&answer.json()["scope"]), parts(&wanted.into()));
}

#[tokio::test]
async fn undocumented_scope_is_refused_with_default_settings() {
    let broker = with_environment(&[]).await;
    for scope in
        ["any:thing", "inbox:read", "read:brand", "read:brandsx", "tenant", "tenants", "write:all", "x:tenant:a"]
    {
        let body = json!({"scope": format!("user_id:u read:brands {scope}"), "expires_in": "1d"});
        let answer = broker.ask(&HttpRequest::issue(body.to_string())).await;
        assert_eq!(answer.status, 403, "{scope}: {answer:?}");
        let message = answer.json()["message"].to_string();
        for part in [&format!("the scope `{scope}`"), "`inbox:read:messages`", "COURIER_TOKEN_BROKER_CLIENT_SCOPES"] {
            assert!(message.contains(part), "{scope}: {message}");
        }
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn client_of_the_environment_is_narrowed_by_its_variables() {
    let limits = [
        ("COURIER_TOKEN_BROKER_CLIENT_SCOPES", "inbox:*, read:brands\tread:preferences,,\r\n"),
        ("COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME", " 1h 30m "),
    ];
    let broker = with_environment(&limits).await;
    let ask = |scope: &str, expires_in: &str| {
        HttpRequest::issue(json!({"scope": format!("user_id:u {scope}"), "expires_in": expires_in}).to_string())
    };
    assert_eq!(broker.ask(&ask("inbox:x read:brands read:preferences", "90m")).await.status, 200);
    for (ask, parts) in [
        (ask("read:brands write:brands", "1h"), ["`write:brands`", "`inbox:*`", "COURIER_TOKEN_BROKER_CLIENT_SCOPES"]),
        (
            ask("read:brands", "2h"),
            ["7200 seconds (2 hours)", "5400 seconds (90 minutes)", "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME"],
        ),
    ] {
        let answer = broker.ask(&ask).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        let message = answer.json()["message"].to_string();
        for part in parts {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}

/// A client whose entry has no scopes may ask for those of the profiles. Tenants' scopes must be listed.
#[tokio::test]
async fn client_without_scopes_may_ask_for_inbox_and_push_and_for_profiles_of_the_file() {
    let setup = Setup::new().settings(|raw| {
        raw.profiles.insert("own".to_owned(), vec!["own:thing".to_owned()]);
        raw.clients[0] = client("plain", CLIENT_KEY, &[]);
        raw.clients[0].scopes = None;
    });
    let broker = setup.start().await;
    for (source, scope, _) in samples() {
        let scope = filled_in(&scope, 1, "u", "t");
        let answer = broker.ask(&HttpRequest::issue(json!({"scope": scope, "expires_in": "1d"}).to_string())).await;
        let is_of_another_kind = ["tenant", "read:messages", "write:brands"]
            .iter()
            .any(|part| scope.replace("inbox:read:messages", "").contains(part));
        assert_eq!(answer.status, if is_of_another_kind { 403 } else { 200 }, "{source}: {answer:?}");
    }
    let own = HttpRequest::tokens(r#"{"user_id": "u", "profile": "own"}"#);
    assert_eq!(broker.ask(&own).await.status, 200);
}
