//! Sharing: a token serves a request if and only if users, scopes, lifetime and workspace are equal.

use std::collections::HashMap;

use serde_json::json;

use courier_token_broker::simulator::Faults;

use crate::support::broker::{Broker, CLIENT_KEY, Setup, claims, client};
use crate::support::http::{Connection, HttpRequest};

#[tokio::test]
async fn one_token_is_shared_across_the_three_routes() {
    let broker = Broker::start().await;
    let scopes = ["write:preferences", "read:brands", "inbox:read:messages", "read:preferences", "inbox:write:events"];
    let scope = format!("{}   user_id:jane {}", scopes.join(" "), scopes[1]);
    let asks = [
        HttpRequest::frontend(r#"{"userId": "jane"}"#),
        HttpRequest::get("/api/generate-courier-jwt?userId=%6aane"),
        HttpRequest::issue(json!({"scope": scope, "expires_in": "1d"}).to_string()),
        HttpRequest::tokens(r#"{"user_id": "jane", "profile": "inbox"}"#),
        HttpRequest::tokens(json!({"user_ids": ["jane", "jane"], "scopes": scopes, "expires_in": 86_400}).to_string()),
        HttpRequest::tokens(r#"{"user_id": "\u006aane", "profile": "in\u0062ox", "expires_in": 864e2}"#),
    ];
    let token = broker.ask(&asks[0]).await.token();
    for ask in &asks {
        assert_eq!(broker.ask(ask).await.token(), token, "{ask:?}");
    }
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn equal_durations_written_differently_are_one_key() {
    let broker = Broker::start().await;
    for (seconds, ways) in [
        (
            86_400,
            &["\"1d\"", "\"24 hrs\"", "\"86400000\"", "86400", "\"1440m\"", "\"24H\"", "86400.0", "\"0001 day\""][..],
        ),
        (9000, &["\"2.5 hrs\"", "\"150 Minutes\"", "9000", "\"9000.9s\""]),
        (3600, &["\"3600000\"", "3600", "\"3600.9s\"", "\"3600000 ms\""]),
        (604_800, &["\"1 WEEKS\"", "\"7d\""]),
        (60, &["\"1m\"", "\"1M\""]),
    ] {
        let mut issued = 0;
        for way in ways {
            let body = format!(r#"{{"scope": "user_id:u s", "expires_in": {way}}}"#);
            let answer = broker.ask(&HttpRequest::issue(body)).await;
            let claims = claims(&answer.token());
            let life = claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp - iat);
            assert_eq!(life, Some(seconds), "{way}");
            issued += i32::from(answer.source() != "hit");
        }
        assert_eq!(issued, 1, "{seconds}");
    }
}

#[tokio::test]
async fn differing_requests_never_share_a_token() {
    let eu_key = "ctb_the-key-of-a-client-in-the-eu";
    let setup = Setup::new().settings(|raw| {
        let mut workspace = raw.workspaces["default"].clone();
        workspace.budget.burst = 10_000;
        raw.workspaces = ["default", "eu"].map(|name| (name.to_owned(), workspace.clone())).into();
        let mut client = client("eu", eu_key, &["*"]);
        client.workspace = "eu".to_owned();
        raw.clients.push(client);
    });
    let broker = setup.start().await;
    let mut tokens = HashMap::new();
    let mut wishes = Vec::new();
    for key in [CLIENT_KEY, eu_key] {
        for users in
            [&["a"][..], &["b"], &["a", "b"], &["b", "a"], &["a:b"], &["A"], &["user_id:a"], &["a\u{301}"], &["á"]]
        {
            for scopes in [&["s"][..], &["t"], &["s", "t"], &["s:t"], &["S"]] {
                for lifetime in [3600, 3601] {
                    wishes.push((key, users, scopes, lifetime));
                }
            }
        }
    }
    let mut connection = Connection::open(broker.address).await;
    for round in 0..2 {
        for &(key, users, scopes, lifetime) in &wishes {
            let body = json!({"user_ids": users, "scopes": scopes, "expires_in": lifetime});
            let answer = connection.ask(&HttpRequest::tokens(body.to_string()).key(key)).await;
            let token = answer.token();
            let claims = claims(&token);
            let wanted: Vec<_> = users
                .iter()
                .map(|user| format!("user_id:{user}"))
                .chain(scopes.iter().map(|&s| s.to_owned()))
                .collect();
            assert_eq!(claims["scope"], wanted.join(" "), "round {round}");
            assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|iat| iat + lifetime));
            let wish = (key, users, scopes, lifetime);
            let first = *tokens.entry(token).or_insert(wish);
            assert_eq!(first, wish, "one token for two wishes");
        }
    }
    assert_eq!((tokens.len(), broker.courier.call_count()), (wishes.len(), wishes.len()));
}

#[tokio::test]
async fn clients_of_one_workspace_share_tokens() {
    let second = "ctb_another-client";
    let broker = Setup::new().client(client("second", second, &["s"])).start().await;
    let ask = HttpRequest::tokens(r#"{"user_id": "u", "scopes": ["s"]}"#);
    let token = broker.ask(&ask).await.token();
    let shared = broker.ask(&ask.key(second)).await;
    assert_eq!((shared.token(), shared.source().as_str()), (token, "hit"));
}

#[tokio::test]
async fn opaque_tokens_are_shared_by_the_same_rules() {
    let broker = Setup::new().faults(Faults { opaque_tokens: true, ..Faults::default() }).start().await;
    let ask = |user: &str| HttpRequest::tokens(json!({"user_id": user, "scopes": ["s"]}).to_string());
    let jane = broker.ask(&ask("jane")).await.token();
    assert!(jane.starts_with("pk_") && !jane.contains('.'), "the simulator issues opaque tokens");
    assert_eq!(broker.ask(&ask("jane")).await.token(), jane);
    assert_ne!(broker.ask(&ask("john")).await.token(), jane);
}
