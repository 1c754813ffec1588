//! Published session keys: they are fetched, change, and stay valid while their host is down.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use serde_json::{Value, json};

use crate::sessions::{call, is_unauthorized, setup, status};
use crate::support::broker::Broker;
use crate::support::http::{Connection, until};
use crate::support::issuer::{KeyHost, RSA, Signer, good_claims, header};
use crate::support::refusal::is_a_refusal;

/// The number of successful fetches.
const FETCHED: &str = "courier_token_broker_jwks_fetches_total{outcome=\"fetched\"}";
/// A pause between fetches that a test can wait for.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn each_type_of_key_is_taken_from_one_set() {
    let signers = [("rsa", &*RSA), ("ec", &Signer::p256()), ("ed", &Signer::ed25519())];
    let keys: Vec<_> = signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect();
    let host = KeyHost::start(&keys).await;
    let broker = setup(&host).start().await;
    for (kid, signer) in signers {
        assert_eq!(status(&broker, &signer.session(kid, kid)).await, 200, "{kid}");
    }
    assert_eq!(host.asked(), 1);
}

#[tokio::test]
async fn new_key_is_found_by_its_kid_and_an_old_one_forgotten() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let host = KeyHost::start(&[old.jwk("old")]).await;
    let broker = setup(&host).fetch_pause(PAUSE).start().await;
    assert_eq!(status(&broker, &old.session("old", "jane")).await, 200);
    host.publish(&[new.jwk("new")]);
    // No session needed the key, and the next refresh is not due.
    assert_eq!(status(&broker, &old.session("old", "jane")).await, 200);
    tokio::time::sleep(PAUSE * 2).await;
    assert_eq!(status(&broker, &new.session("new", "jane")).await, 200);
    tokio::time::sleep(PAUSE * 2).await;
    assert_eq!(status(&broker, &old.session("old", "jane")).await, 401);
    // A withdrawn key that comes back under the same `kid` is another key.
    host.publish(&[old.jwk("new")]);
    tokio::time::sleep(PAUSE * 2).await;
    assert_eq!(status(&broker, &old.session("nobody", "jane")).await, 401);
    assert_eq!(status(&broker, &new.session("new", "jane")).await, 401);
    assert_eq!(status(&broker, &old.session("new", "jane")).await, 200);
}

#[tokio::test]
async fn good_keys_survive_an_outage_of_their_host() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).fetch_pause(PAUSE).start().await;
    let good = signer.session("k", "jane");
    assert_eq!(status(&broker, &good).await, 200);
    let too_many: Vec<_> = (0..101).map(|n| signer.jwk(&n.to_string())).collect();
    let large = format!("{}{}", json!({"keys": [signer.jwk("large")]}), " ".repeat(256 * 1024));
    for (code, body) in [
        (500, String::new()),
        (404, json!({"keys": [signer.jwk("x")]}).to_string()),
        (302, String::new()),
        (200, String::new()),
        (200, "<html>".to_owned()),
        (200, "[]".to_owned()),
        (200, json!({"keys": too_many}).to_string()),
        (200, large),
    ] {
        host.say(code, &body);
        let asked = host.asked();
        // The session makes the broker fetch. The answer is unusable, so the key may be new.
        let answer = broker.ask(&call(&signer.session("unknown", "jane"))).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        is_a_refusal(&answer, true);
        assert_eq!(host.asked(), asked + 1, "{code} {body:.20}: one fetch, no redirect, no retry");
        assert_eq!(status(&broker, &good).await, 200, "{code} {body:.20}");
        // A success ends the back-off after failures.
        host.publish(&[signer.jwk("k")]);
        until(async || status(&broker, &signer.session("unknown", "jane")).await == 401).await;
    }
}

#[tokio::test]
async fn set_without_keys_withdraws_them_at_the_second_look() {
    let signer = Signer::ed25519();
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s"});
    for keys in [vec![], vec![secret]] {
        let host = KeyHost::start(&[signer.jwk("k")]).await;
        let broker = setup(&host).fetch_pause(PAUSE).start().await;
        let good = signer.session("k", "jane");
        assert_eq!(status(&broker, &good).await, 200);
        host.publish(&keys);
        // Any number of sessions with unknown keys are one look.
        for kid in ["a", "b"] {
            assert_eq!(status(&broker, &signer.session(kid, "jane")).await, 401);
            assert_eq!(status(&broker, &good).await, 200);
        }
        // The second look needs no request.
        let asked = host.asked();
        until(async || host.asked() > asked).await;
        until(async || status(&broker, &good).await == 401).await;
        host.publish(&[signer.jwk("k")]);
        assert_eq!(status(&broker, &good).await, 200);
    }
}

#[tokio::test]
async fn single_look_at_a_set_without_keys_withdraws_none() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).fetch_pause(PAUSE).start().await;
    let good = signer.session("k", "jane");
    assert_eq!(status(&broker, &good).await, 200);
    // Longer than the time between two looks, if keys in between did not start it anew.
    for _ in 0..5 {
        host.publish(&[]);
        assert_eq!(status(&broker, &signer.session("unknown", "jane")).await, 401);
        assert_eq!(status(&broker, &good).await, 200);
        host.publish(&[signer.jwk("k")]);
        assert_eq!(status(&broker, &signer.session("unknown", "jane")).await, 401);
        assert_eq!(status(&broker, &good).await, 200);
    }
}

/// Strangers can make a fetch each second, so they can't use it up.
#[tokio::test]
async fn new_key_is_found_within_moments_however_many_kids_are_made_up() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    for is_named in [true, false] {
        let publish = |signer: &Signer| {
            let mut key = signer.jwk("k");
            key["kid"] = json!(format!("of-{}", key["x"]));
            if !is_named {
                key.as_object_mut().expect("an object").remove("kid");
            }
            key
        };
        let session = |signer: &Signer, user: &str| match publish(signer)["kid"].as_str() {
            Some(kid) => signer.session(kid, user),
            None => signer.jwt(&json!({"alg": signer.algorithm()}), &good_claims(user)),
        };
        let host = KeyHost::start(&[publish(&old)]).await;
        let broker = setup(&host).start().await;
        assert_eq!(status(&broker, &session(&old, "jane")).await, 200);
        let stranger = Signer::ed25519();
        let strangers: Vec<_> = (0..4)
            .map(|_| {
                let (address, forged) = (broker.address, call(&session(&stranger, "jane")));
                tokio::spawn(async move {
                    let mut connection = Connection::open(address).await;
                    loop {
                        assert!(matches!(connection.ask(&forged).await.status, 401 | 503));
                    }
                })
            })
            .collect();
        // A fetch for them has ended, and has brought the old key alone.
        let fetched = broker.metric(FETCHED).await;
        until(async || broker.metric(FETCHED).await > fetched).await;
        host.publish(&[publish(&new)]);
        // At the first try.
        assert_eq!(status(&broker, &session(&new, "jane")).await, 200);
        assert!(strangers.iter().all(|stranger| !stranger.is_finished()));
        strangers.iter().for_each(|stranger| stranger.abort());
    }
}

#[tokio::test]
async fn session_that_no_key_could_make_valid_causes_no_fetch() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).start().await;
    assert_eq!(status(&broker, &signer.session("k", "jane")).await, 200);
    for (claim, value) in [("exp", json!(1)), ("iss", json!("x")), ("aud", json!("x")), ("sub", json!(" "))] {
        let mut claims = good_claims("jane");
        claims[claim] = value;
        let withdrawn = signer.jwt(&header(&signer, "withdrawn"), &claims);
        is_unauthorized(&broker.ask(&call(&withdrawn)).await);
    }
    assert_eq!(host.asked(), 1);
}

#[tokio::test]
async fn sessions_are_undecided_until_the_keys_have_been_fetched() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[]).await;
    host.say(503, "");
    let broker = setup(&host).fetch_pause(PAUSE).start().await;
    let good = signer.session("k", "jane");
    let answer = broker.ask(&call(&good)).await;
    assert_eq!(answer.status, 503);
    is_a_refusal(&answer, true);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(answer.header("access-control-allow-origin").is_some());
    // An impossible session is refused without keys, and an app needs no session.
    is_unauthorized(&broker.ask(&call("a.b.c")).await);
    let app = crate::support::http::HttpRequest::frontend(r#"{"userId": "jane"}"#);
    assert_eq!(broker.ask(&app).await.status, 200);
    // The broker fetches the keys without a request that needs them.
    host.publish(&[signer.jwk("k")]);
    until(async || broker.metric(FETCHED).await == 1.0).await;
    assert_eq!(status(&broker, &good).await, 200);
}

#[tokio::test]
async fn first_fetch_is_waited_for() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    host.is_slow(Duration::from_millis(500));
    let broker = setup(&host).start().await;
    let good = signer.session("k", "jane");
    let (one, two) = tokio::join!(status(&broker, &good), status(&broker, &good));
    assert_eq!((one, two, host.asked()), (200, 200, 1));
}

/// Sends `count` sessions with made-up kids, or forged ones without a kid, over a few connections.
async fn made_up(broker: &Broker, signer: &Signer, count: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..20 {
        let address = broker.address;
        // Every fifth is forged and without a kid, so that the only key is tried.
        let forged = Signer::ed25519().jwt(&json!({"alg": "EdDSA"}), &good_claims("jane"));
        let session = |n| {
            if n % 5 == 0 { forged.clone() } else { signer.session(&format!("kid-{connection}-{n}"), "jane") }
        };
        let sessions: Vec<_> = (0..count / 20).map(session).collect();
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            for session in sessions {
                assert_eq!(connection.ask(&call(&session)).await.status, 401);
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn made_up_or_missing_kids_make_one_fetch_a_second_at_most() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let clock = Clock::system();
    let began = clock.now();
    let broker = setup(&host).start().await;
    made_up(&broker, &signer, 60).await;
    // The fetch at the start, and at most one for each second of the test.
    let most = 1 + clock.now().since(began).as_secs() as usize;
    assert!(host.asked() <= most, "{} fetches, {most} are allowed", host.asked());
    assert_eq!(status(&broker, &signer.session("k", "jane")).await, 200);
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn waiting_sessions_share_a_fetch() {
    let (signer, new) = (Signer::ed25519(), Signer::ed25519());
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = setup(&host).fetch_pause(Duration::from_secs(1)).start().await;
    assert_eq!(status(&broker, &signer.session("k", "jane")).await, 200);
    host.publish(&[signer.jwk("k"), new.jwk("new")]);
    host.is_slow(Duration::from_millis(400));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let session = new.session("new", "jane");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (address, ask) = (broker.address, call(&session));
        tasks.spawn(async move { Connection::open(address).await.ask(&ask).await.status });
    }
    assert!(tasks.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(host.asked(), 2);
}

#[tokio::test]
async fn unusable_keys_are_ignored() {
    let (signer, good) = (Signer::p256(), Signer::ed25519());
    let with = |field: &str, value: Value| {
        let mut key = signer.jwk(field);
        key[field] = value;
        key["kid"] = json!("k");
        key
    };
    let keys = [
        with("y", json!("AAAA")),
        with("x", signer.jwk("k")["y"].clone()),
        with("crv", json!("P-384")),
        with("crv", json!("P-521")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("RS256")),
        with("alg", json!("ECDH-ES")),
        with("use", json!("enc")),
        json!({"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AAAA"}),
        good.jwk("good"),
    ];
    let host = KeyHost::start(&keys).await;
    let broker = setup(&host).start().await;
    assert_eq!(status(&broker, &good.session("good", "jane")).await, 200);
    is_unauthorized(&broker.ask(&call(&signer.session("k", "jane"))).await);
}
