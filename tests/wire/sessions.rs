//! The front-end route, called by users with a session of their app.

use courier_token_broker::config::RawSessions;
use serde_json::json;

use crate::support::broker::{Broker, Setup, claims};
use crate::support::child::file;
use crate::support::http::{Answer, HttpRequest};
use crate::support::issuer::{AUDIENCE, ISSUER, KeyHost, RSA, Signer, at, good_claims, header};
use crate::support::refusal::{FRONTEND, all_are_refused_without_a_call, is_a_refusal, row};

pub const PAGE: &str = "https://app.example.com";

pub fn settings() -> RawSessions {
    RawSessions {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        allowed_origins: vec![PAGE.to_owned(), "http://localhost:3000".to_owned()],
        ..RawSessions::default()
    }
}

/// The setup of a broker that accepts sessions signed by the keys of this host.
pub fn setup(host: &KeyHost) -> Setup {
    Setup::new().sessions(RawSessions { jwks_url: Some(host.url()), ..settings() })
}

/// A broker that accepts sessions signed by `signer`.
pub async fn broker_of(signer: &Signer, change: impl FnOnce(&mut RawSessions)) -> Broker {
    let key = match signer {
        Signer::Hmac(secret) => file(secret),
        _ => file(signer.pem()),
    };
    let mut sessions = settings();
    match signer {
        Signer::Hmac(_) => sessions.hs256_secret_file = Some(key.path().to_owned()),
        _ => sessions.public_key_file = Some(key.path().to_owned()),
    }
    change(&mut sessions);
    Setup::new().sessions(sessions).start().await
}

/// A broker that accepts the sessions of a new signer.
pub async fn ed25519_broker(change: impl FnOnce(&mut RawSessions)) -> (Broker, Signer) {
    let signer = Signer::ed25519();
    (broker_of(&signer, change).await, signer)
}

/// A user's call, as `fetch(url, {method: "POST", headers})` makes it.
pub fn call(session: &str) -> HttpRequest {
    HttpRequest::new("POST", FRONTEND).key(session).header("Origin", PAGE)
}

/// The status of the answer to this session.
pub async fn status(broker: &Broker, session: &str) -> u16 {
    broker.ask(&call(session)).await.status
}

#[track_caller]
pub fn is_unauthorized(answer: &Answer) {
    assert_eq!((answer.status, answer.body.as_str()), (401, r#"{"error":"Unauthorized"}"#), "{answer:?}");
    is_a_refusal(answer, true);
}

#[track_caller]
fn is_for(answer: &Answer, user: &str) {
    let scope = claims(&answer.token())["scope"].as_str().expect("a scope").to_owned();
    assert!(scope.starts_with(&format!("user_id:{user} inbox:read:messages")), "{scope}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("Cache-Status, Retry-After, X-Request-Id"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn session_gets_its_users_token_whatever_key_signs_it() {
    let hmac = Signer::Hmac(b"a secret of the app with more than 32 bytes".to_vec());
    for signer in [&hmac, &*RSA, &Signer::p256(), &Signer::ed25519()] {
        let broker = broker_of(signer, |_| {}).await;
        let first = broker.ask(&call(&signer.session("any", "jane"))).await;
        is_for(&first, "jane");
        // Another session of Jane's without `kid`: there is only one key.
        let again = signer.jwt(&json!({"alg": signer.algorithm()}), &good_claims("jane"));
        let second = broker.ask(&call(&again)).await;
        assert_eq!((second.token(), second.source()), (first.token(), "hit".to_owned()));
        is_for(&broker.ask(&call(&signer.session("any", "bob"))).await, "bob");
        assert_eq!(broker.courier.call_count(), 2);
    }
}

#[tokio::test]
async fn request_may_name_the_sessions_user_alone() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let session = signer.session("k", "jane");
    let post = |body: &str| HttpRequest::frontend(body).key(&session).header("Origin", PAGE);
    let get = |query: &str| HttpRequest::get(&format!("{FRONTEND}{query}")).key(&session).header("Origin", PAGE);
    for other in [
        post(r#"{"userId": "bob"}"#),
        post(r#"{"userId": "Jane"}"#),
        post(r#"{"userId": "jane "}"#),
        post(r#"{"userId": ""}"#),
        post(r#"{"userId": 5}"#),
        post(r#"{"userId": "jane user_id:bob"}"#),
        get("?userId=bob"),
        get("?userId="),
    ] {
        is_unauthorized(&broker.ask(&other).await);
    }
    let rows = [
        row("two users", get("?userId=jane&userId=bob"), 400, "twice"),
        row("no text", post(r#"{"userId": 5.5}"#), 400, "a string"),
        row("a null", post(r#"{"userId": null}"#), 400, "a string"),
        row("no JSON", post("{"), 400, "JSON"),
        row("no media type", post(r#"{"userId": "jane"}"#).without("Content-Type"), 415, "JSON"),
        row("no media type", post("{}").without("Content-Type").chunked(), 415, "JSON"),
        row("another media type", call(&session).with("Content-Type", "text/plain").chunked(), 415, "JSON"),
    ];
    all_are_refused_without_a_call(&broker, &rows).await;
    for good in [
        post(r#"{"userId": "jane"}"#),
        post("{}"),
        get("?userId=jane"),
        get(""),
        get("?x=userId"),
        call(&session),
        call(&session).chunked(),
        post(""),
        post("").chunked(),
    ] {
        is_for(&broker.ask(&good).await, "jane");
    }
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn session_follows_the_claim_and_limits_of_the_settings() {
    let (broker, signer) = ed25519_broker(|sessions| {
        sessions.user_claim = "https://example.com/user".to_owned();
        sessions.audience_claim = "client_id".to_owned();
        sessions.max_lifetime.0 = std::time::Duration::from_secs(7200);
    })
    .await;
    let mut named = good_claims("somebody else");
    named["https://example.com/user"] = json!(4711);
    is_unauthorized(&broker.ask(&call(&signer.jwt(&header(&signer, "k"), &named))).await);
    (named["client_id"], named["aud"]) = (json!(["another", AUDIENCE]), json!(["another-api", AUDIENCE]));
    let answer = broker.ask(&call(&signer.jwt(&header(&signer, "k"), &named))).await;
    is_for(&answer, "4711");
    assert_eq!(broker.courier.calls()[0].expires_in, "\"7200s\"");
}

#[tokio::test]
async fn token_may_be_capped_by_the_sessions_end() {
    let (broker, signer) = ed25519_broker(|sessions| sessions.within_session = true).await;
    let left = |seconds: i64| {
        let mut claims = good_claims("jane");
        claims["exp"] = json!(at(seconds));
        call(&signer.jwt(&header(&signer, "k"), &claims))
    };
    for (seconds, lifetime) in [(100_000, "\"86400s\""), (3630, "\"3600s\""), (3500, "\"1800s\""), (70, "\"60s\"")] {
        is_for(&broker.ask(&left(seconds)).await, "jane");
        assert_eq!(broker.courier.calls().last().expect("a call").expires_in, lifetime);
    }
    // Sessions with about the same time left share the token.
    assert_eq!(broker.ask(&left(2000)).await.source(), "hit");
    for seconds in [58, 1, -10] {
        is_unauthorized(&broker.ask(&left(seconds)).await);
    }
    assert_eq!(broker.courier.call_count(), 4);
}

#[tokio::test]
async fn client_key_keeps_working_beside_sessions() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let ask = HttpRequest::frontend(r#"{"userId": "jane"}"#);
    assert_eq!(broker.ask(&ask).await.status, 200);
    assert_eq!(broker.ask(&ask.clone().header("Token-Min-TTL", "1h")).await.status, 200);
    // The app itself checks the page's origin then, and no other page can read the answer.
    let elsewhere = broker.ask(&ask.clone().header("Origin", "https://evil.example")).await;
    assert_eq!((elsewhere.status, elsewhere.header("access-control-allow-origin")), (200, None));
    assert_eq!(elsewhere.header("vary"), Some("Origin"));
    let rows = [
        row("no key", ask.clone().without("Authorization"), 401, ""),
        row("a wrong key", ask.clone().key("wrong"), 401, ""),
        row("no user", HttpRequest::frontend("{}"), 400, "userId"),
        row("no body", HttpRequest::new("POST", FRONTEND), 415, ""),
    ];
    let broker = broker_of(&signer, |_| {}).await;
    all_are_refused_without_a_call(&broker, &rows).await;
    // A session is accepted on this route alone.
    let session = signer.session("k", "jane");
    for ask in [
        HttpRequest::issue(crate::support::refusal::GOOD[0].1),
        HttpRequest::tokens(crate::support::refusal::GOOD[2].1),
    ] {
        let answer = broker.ask(&ask.key(&session)).await;
        assert_eq!((answer.status, answer.header("vary")), (401, None));
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn page_cannot_force_a_call_to_courier_each_time() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let ask = call(&signer.session("k", "jane")).header("Token-Min-TTL", "23h");
    all_are_refused_without_a_call(&broker, &[row("Token-Min-TTL", ask, 400, "Token-Min-TTL")]).await;
}

#[tokio::test]
async fn only_listed_pages_may_call() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let session = signer.session("k", "jane");
    let other = |origin: &str| call(&session).with("Origin", origin);
    for origin in [
        "https://evil.example",
        "null",
        "",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://APP.example.com",
    ] {
        let answer = broker.ask(&other(origin)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        is_a_refusal(&answer, true);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    assert_eq!(broker.ask(&call(&session).header("Origin", PAGE)).await.status, 403);
    assert_eq!(broker.courier.call_count(), 0);
    // A mobile app has no origin.
    assert_eq!(broker.ask(&call(&session).without("Origin")).await.status, 200);
    // A listed page can read the reason of a refusal.
    let answer = broker.ask(&call("a.b.c")).await;
    is_unauthorized(&answer);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    let answer = broker.ask(&HttpRequest::new("DELETE", FRONTEND).header("Origin", PAGE)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, Some(PAGE)));
}

#[tokio::test]
async fn preflight_names_what_a_page_may_send() {
    let (broker, _) = ed25519_broker(|_| {}).await;
    let preflight = |origin: &str| {
        HttpRequest::new("OPTIONS", FRONTEND)
            .without("Authorization")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
    };
    let answer = broker.ask(&preflight(PAGE)).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST, GET"));
    let allowed = answer.header("access-control-allow-headers").expect("a list");
    assert!(allowed.starts_with("authorization, content-type, "), "{allowed}");
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let answer = broker.ask(&preflight("https://evil.example")).await;
    assert_eq!(answer.status, 403);
    assert!(!answer.whole().contains("access-control"), "{answer:?}");
    // Other methods and other routes are unchanged.
    assert_eq!(broker.ask(&preflight(PAGE).without("Origin")).await.status, 405);
    let elsewhere = HttpRequest::new("OPTIONS", "/v1/tokens").header("Origin", PAGE);
    assert_eq!(broker.ask(&elsewhere).await.status, 405);
    let plain = Broker::start().await.ask(&preflight(PAGE)).await;
    assert_eq!((plain.status, plain.header("vary")), (405, None));
    assert!(!plain.whole().contains("access-control"), "{plain:?}");
}

#[tokio::test]
async fn cookie_is_accepted_only_from_a_listed_page() {
    let (broker, signer) = ed25519_broker(|sessions| sessions.source = "cookie:__Host-session".to_owned()).await;
    let session = signer.session("k", "jane");
    let with = |cookies: &str| {
        HttpRequest::new("POST", FRONTEND).without("Authorization").header("Cookie", cookies).header("Origin", PAGE)
    };
    let good = with(&format!("theme=dark; __Host-session={session}; x=y"));
    let rows = [
        row("no origin", good.clone().without("Origin"), 403, "allowed_origins"),
        row("another page", good.clone().with("Origin", "https://evil.example"), 403, "allowed_origins"),
        row("no cookie", with("theme=dark"), 401, ""),
        row("another cookie", with(&format!("session={session}")), 401, ""),
        row("another case", with(&format!("__host-session={session}")), 401, ""),
        row("twice", with(&format!("__Host-session={session}; __Host-session={session}")), 401, ""),
        row("twice", good.clone().header("Cookie", format!("__Host-session={session}")), 401, ""),
        row("empty", with("__Host-session="), 401, ""),
        row("quoted", with(&format!("__Host-session=\"{session}\"")), 401, ""),
        row("bad bytes", good.clone().with("Cookie", b"__Host-session=\xff"), 401, ""),
        row("in the header", call(&session), 401, ""),
        row("in both", good.clone().key(&session), 401, ""),
        row(
            "in the query",
            HttpRequest::get(&format!("{FRONTEND}?__Host-session={session}")).without("Authorization"),
            401,
            "",
        ),
    ];
    all_are_refused_without_a_call(&broker, &rows).await;
    is_for(&broker.ask(&good).await, "jane");
    is_for(&broker.ask(&with("a=b").header("Cookie", format!("__Host-session={session}"))).await, "jane");
    // A client key takes precedence: the app may pass on its users' headers.
    let app = HttpRequest::frontend(r#"{"userId": "bob"}"#).header("Cookie", format!("__Host-session={session}"));
    assert!(claims(&broker.ask(&app).await.token())["scope"].as_str().expect("a scope").starts_with("user_id:bob "));
}

#[tokio::test]
async fn sessions_need_no_client_and_use_the_workspace_of_their_settings() {
    let signer = Signer::ed25519();
    let key = file(signer.pem());
    let sessions = RawSessions {
        public_key_file: Some(key.path().to_owned()),
        workspace: "eu".to_owned(),
        profile: "reader".to_owned(),
        ..settings()
    };
    let setup = Setup::new().settings(|raw| {
        raw.sessions = Some(sessions);
        let eu = raw.workspaces["default"].clone();
        raw.workspaces.insert("eu".to_owned(), eu);
        raw.profiles.insert("reader".to_owned(), vec!["inbox:read:messages".to_owned()]);
        raw.clients.clear();
    });
    let broker = setup.start().await;
    let answer = broker.ask(&call(&signer.session("k", "jane"))).await;
    is_for(&answer, "jane");
    assert_eq!(claims(&answer.token())["scope"], "user_id:jane inbox:read:messages");
    let series = r#"courier_token_broker_upstream_requests_total{class="waiting",outcome="issued",workspace="eu"}"#;
    assert_eq!(broker.metric(series).await, 1.0);
}
