//! A JWKS and sessions without `kid`, and the metrics of its fetches.

use std::time::Duration;

use courier_token_broker::config::Raw;
use serde_json::{Value, json};

use crate::sessions::{call, is_unauthorized, setup, status};
use crate::support::broker::Broker;
use crate::support::child::file;
use crate::support::http::Connection;
use crate::support::issuer::{KeyHost, RSA, Signer, at, good_claims};
use crate::support::refusal::is_a_refusal;

/// The setup: each session that fits no known key causes a fetch.
const NO_PAUSE: Duration = Duration::from_nanos(1);

fn without_kid(signer: &Signer, user: &str) -> String {
    signer.jwt(&json!({"alg": signer.algorithm()}), &good_claims(user))
}

fn nameless(signer: &Signer) -> Value {
    let mut key = signer.jwk("k");
    key.as_object_mut().expect("an object").remove("kid");
    key
}

#[tokio::test]
async fn single_key_verifies_sessions_without_kid() {
    for signer in [&*RSA, &Signer::p256(), &Signer::ed25519()] {
        let mut encryption = Signer::ed25519().jwk("e");
        encryption["use"] = json!("enc");
        let secret = Signer::Hmac(vec![7; 32]).jwk("s");
        for keys in [
            vec![signer.jwk("k")],
            vec![nameless(signer)],
            // These keys cannot verify sessions.
            vec![encryption, secret, json!({"kty": "XYZ", "kid": "x"}), signer.jwk("k")],
        ] {
            let broker = setup(&KeyHost::start(&keys).await).start().await;
            assert_eq!(status(&broker, &without_kid(signer, "jane")).await, 200, "{keys:?}");
        }
    }
}

#[tokio::test]
async fn single_key_is_no_hmac_secret() {
    for signer in [&*RSA, &Signer::p256(), &Signer::ed25519()] {
        let mut key = signer.jwk("k");
        // Any algorithm that fits the key is tried.
        key.as_object_mut().expect("an object").remove("alg");
        let broker = setup(&KeyHost::start(&[key.clone()]).await).fetch_pause(NO_PAUSE).start().await;
        let (pem, der, good) = (signer.pem(), signer.der(), without_kid(signer, "jane"));
        let mut forged = vec![
            without_kid(&Signer::p256(), "jane"),
            without_kid(&Signer::ed25519(), "jane"),
            format!("{good}AAAA"),
            format!("{}.", good.rsplit_once('.').expect("a JWT").0),
        ];
        let json = key.to_string();
        for secret in
            [pem.as_bytes(), pem.trim().as_bytes(), &der, &der[der.len() - 32..], json.as_bytes(), b"", &[0; 32]]
        {
            let hmac = Signer::Hmac(secret.to_vec());
            for alg in ["HS256", "HS384", "HS512", "none", signer.algorithm()] {
                forged.push(hmac.jwt(&json!({"alg": alg}), &good_claims("jane")));
            }
        }
        // A key inside the session itself.
        let evil = Signer::p256();
        for alg in ["ES256", signer.algorithm()] {
            forged.push(evil.jwt(&json!({"alg": alg, "jwk": evil.jwk("k")}), &good_claims("jane")));
        }
        for session in &forged {
            is_unauthorized(&broker.ask(&call(session)).await);
        }
        assert_eq!(broker.courier.call_count(), 0);
        assert_eq!(status(&broker, &good).await, 200);
    }
}

#[tokio::test]
async fn single_key_changes_without_a_name() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let host = KeyHost::start(&[nameless(&old)]).await;
    let broker = setup(&host).fetch_pause(NO_PAUSE).start().await;
    assert_eq!(status(&broker, &without_kid(&old, "jane")).await, 200);
    host.publish(&[nameless(&new)]);
    // The known key still verifies the session, so there is no fetch.
    assert_eq!(status(&broker, &without_kid(&old, "jane")).await, 200);
    assert_eq!(status(&broker, &without_kid(&new, "jane")).await, 200);
    assert_eq!(status(&broker, &without_kid(&old, "jane")).await, 401);
    // With a second key, sessions without `kid` are ambiguous until that key is gone.
    host.publish(&[old.jwk("old"), new.jwk("new")]);
    assert_eq!(status(&broker, &old.session("old", "jane")).await, 200);
    for signer in [&old, &new] {
        assert_eq!(status(&broker, &without_kid(signer, "jane")).await, 401);
    }
    assert_eq!(status(&broker, &new.session("new", "jane")).await, 200);
    host.publish(&[new.jwk("new")]);
    assert_eq!(status(&broker, &without_kid(&new, "jane")).await, 200);
    assert_eq!(status(&broker, &without_kid(&old, "jane")).await, 401);
}

#[tokio::test]
async fn reload_takes_another_jwks_url() {
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let hosts = [KeyHost::start(&[nameless(&one)]).await, KeyHost::start(&[nameless(&two)]).await];
    let broker = setup(&hosts[0]).start().await;
    assert_eq!(status(&broker, &without_kid(&one, "jane")).await, 200);
    let url = hosts[1].url();
    assert!(broker.reload(|raw| raw.sessions.as_mut().expect("they are set").jwks_url = Some(url)).await);
    assert_eq!(status(&broker, &without_kid(&two, "jane")).await, 200);
    assert_eq!(status(&broker, &without_kid(&one, "jane")).await, 401);
    // One of the first host, and two of the second: its keys may have changed before the last session.
    assert_eq!(fetches(&broker, "fetched").await, 3.0);
    assert!(broker.metric(LAST_FETCH).await > 0.0);
    // Keys of the previous host are dropped, and have no age in the metrics.
    let closed = "https://127.0.0.1:1/jwks.json".to_owned();
    assert!(broker.reload(|raw| raw.sessions.as_mut().expect("they are set").jwks_url = Some(closed)).await);
    assert_eq!(status(&broker, &without_kid(&two, "jane")).await, 503);
    assert_eq!(broker.metric(LAST_FETCH).await, 0.0);
}

async fn fetches(broker: &Broker, outcome: &str) -> f64 {
    broker.metric(&format!("courier_token_broker_jwks_fetches_total{{outcome=\"{outcome}\"}}")).await
}

const LAST_FETCH: &str = "courier_token_broker_jwks_last_fetch_timestamp_seconds";

#[tokio::test]
async fn sessions_wait_for_keys_on_an_eighth_of_the_connections() {
    let host = KeyHost::start(&[Signer::ed25519().jwk("k")]).await;
    let few = |raw: &mut Raw| raw.server.limits.connections = 32;
    let broker = setup(&host).settings(few).fetch_pause(NO_PAUSE).start().await;
    let stranger = Signer::ed25519();
    assert_eq!(status(&broker, &stranger.session("made-up", "jane")).await, 401);
    host.is_slow(Duration::from_secs(1));
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::open(broker.address).await;
        connection.send(&call(&stranger.session("made-up", "jane")).bytes()).await;
        waiting.push(connection);
    }
    let mut statuses = Vec::new();
    for mut connection in waiting {
        statuses.push(connection.answer().await.status);
    }
    // Those that wait are decided by the fetch under way or by the next one, within two seconds.
    let undecided = statuses.iter().filter(|status| **status == 503).count();
    assert!((1..20).contains(&undecided), "{statuses:?}");
}

#[tokio::test]
async fn metrics_show_successful_and_failed_fetches_of_keys() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[]).await;
    let before = at(0) as f64;
    let broker = setup(&host).start().await;
    let good = signer.session("k", "jane");
    // The session waits for the first fetch, which brings no key.
    let answer = broker.ask(&call(&good)).await;
    assert_eq!(answer.status, 503);
    is_a_refusal(&answer, true);
    assert!(fetches(&broker, "failed").await >= 1.0);
    assert_eq!((fetches(&broker, "fetched").await, broker.metric(LAST_FETCH).await), (0.0, 0.0));

    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).fetch_pause(NO_PAUSE).start().await;
    assert_eq!(status(&broker, &good).await, 200);
    let first = broker.metric(LAST_FETCH).await;
    assert!((before..=at(1) as f64).contains(&first), "{first} is not between {before} and now");
    assert_eq!((fetches(&broker, "fetched").await, fetches(&broker, "failed").await), (1.0, 0.0));
    host.say(500, "");
    assert_eq!(status(&broker, &signer.session("other", "jane")).await, 503);
    assert_eq!((fetches(&broker, "fetched").await, fetches(&broker, "failed").await), (1.0, 1.0));
    assert_eq!(broker.metric(LAST_FETCH).await, first);
}

/// Whether the metrics have the two of the JWKS, and the readiness of sessions.
async fn has_series(broker: &Broker) -> [bool; 3] {
    let text = broker.admin("/metrics").await.body;
    ["jwks_fetches_total{", LAST_FETCH, "ready{part=\"sessions\"}"].map(|series| text.contains(series))
}

#[tokio::test]
async fn metrics_have_no_jwks_without_one_configured() {
    assert_eq!(has_series(&Broker::start().await).await, [false; 3]);
}

#[tokio::test]
async fn reload_without_a_jwks_removes_its_metrics() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).start().await;
    assert_eq!(status(&broker, &signer.session("k", "jane")).await, 200);
    assert_eq!(has_series(&broker).await, [true; 3]);
    let key = file(signer.pem());
    let path = key.path().to_owned();
    let fixed = |raw: &mut Raw| {
        let sessions = raw.sessions.as_mut().expect("they are set");
        (sessions.jwks_url, sessions.public_key_file) = (None, Some(path));
    };
    assert!(broker.reload(fixed).await);
    assert_eq!(has_series(&broker).await, [false; 3]);
    let url = host.url();
    let published = |raw: &mut Raw| {
        let sessions = raw.sessions.as_mut().expect("they are set");
        (sessions.jwks_url, sessions.public_key_file) = (Some(url), None);
    };
    assert!(broker.reload(published).await);
    assert_eq!(status(&broker, &signer.session("k", "jane")).await, 200);
    assert_eq!((has_series(&broker).await, fetches(&broker, "fetched").await), ([true; 3], 1.0));
    assert!(broker.reload(|raw| raw.sessions = None).await);
    assert_eq!(has_series(&broker).await, [false; 3]);
}
