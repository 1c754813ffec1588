//! Attacks with forged or foreign sessions: none gets a token or causes a call to Courier.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::sessions::{broker_of, call, ed25519_broker, is_unauthorized};
use crate::support::broker::Broker;
use crate::support::http::HttpRequest;
use crate::support::issuer::{ISSUER, KeyHost, RSA, Signer, at, good_claims, header};
use crate::support::refusal::FRONTEND;

const ALICE: &str = "alice";

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The header with one field added or replaced.
fn with(signer: &Signer, field: &str, value: Value) -> Value {
    let mut header = header(signer, "k");
    header[field] = value;
    header
}

fn claiming(claim: &str, value: Value) -> Value {
    let mut claims = good_claims(ALICE);
    claims[claim] = value;
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = good_claims(ALICE);
    claims.as_object_mut().expect("an object").remove(claim);
    claims
}

/// Checks that each session is refused and that a good one is then accepted, which excludes other reasons.
async fn all_are_unauthorized(broker: &Broker, attacks: &[(String, String)], good: &str) {
    for (name, token) in attacks {
        let answer = broker.ask(&call(token)).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
        is_unauthorized(&answer);
        assert_eq!(broker.courier.call_count(), 0, "{name} made a call to Courier");
    }
    assert_eq!(broker.ask(&call(good)).await.status, 200);
}

/// Attacks that work on any kind of key, each with its name.
fn attacks(signer: &Signer) -> Vec<(String, String)> {
    let mut attacks = Vec::new();
    let mut add = |name: &str, token: String| attacks.push((name.to_owned(), token));
    add_algorithms(signer, &mut add);
    add_signatures(signer, &mut add);
    add_header_fields(signer, &mut add);
    add_claims(signer, &mut add);
    add_texts(signer, &mut add);
    attacks
}

/// The header, the payload and the signature of a JWT.
fn parts(jwt: &str) -> [&str; 3] {
    jwt.split('.').collect::<Vec<_>>().try_into().expect("three parts")
}

fn add_algorithms(signer: &Signer, add: &mut impl FnMut(&str, String)) {
    let good = signer.session("k", ALICE);
    let [_, payload, signature] = parts(&good);
    for none in ["none", "None", "NONE", "nOnE", "none ", "", "null", "hs256", "RS256 "] {
        let header = part(json!({"alg": none, "typ": "JWT", "kid": "k"}).to_string());
        add(&format!("alg {none:?}, no signature"), format!("{header}.{payload}."));
        add(&format!("alg {none:?}"), format!("{header}.{payload}.{signature}"));
        add(&format!("alg {none:?}, signed"), signer.jwt(&with(signer, "alg", json!(none)), &good_claims(ALICE)));
    }
    for alg in [json!(null), json!(5), json!(["none"]), json!({"alg": "none"})] {
        add(&format!("alg {alg}"), signer.jwt(&with(signer, "alg", alg), &good_claims(ALICE)));
    }
    add("no alg", signer.jwt(&json!({"typ": "JWT", "kid": "k"}), &good_claims(ALICE)));
    let twice = format!(r#"{{"alg":"{0}","kid":"k","alg":"{0}"}}"#, signer.algorithm());
    add("alg twice", signer.signed(&twice, &good_claims(ALICE).to_string()));
}

/// The signature is broken or of another text.
fn add_signatures(signer: &Signer, add: &mut impl FnMut(&str, String)) {
    let good = signer.session("k", ALICE);
    let [head, payload, signature] = parts(&good);
    let bobs = part(good_claims("bob").to_string());
    add("another's payload", format!("{head}.{bobs}.{signature}"));
    add("another's header", format!("{}.{payload}.{signature}", part(with(signer, "x", json!(1)).to_string())));
    add("a short signature", format!("{head}.{payload}.{}", &signature[..signature.len() - 4]));
    add("half a signature", format!("{head}.{payload}.{}", &signature[..signature.len() / 2]));
    add("no signature", format!("{head}.{payload}."));
    add("a long signature", format!("{head}.{payload}.{signature}AAAA"));
    add("padding", format!("{head}.{payload}.{signature}=="));
    add("plain base64", format!("{head}.{payload}.{}", STANDARD.encode([0xff; 64])));
    for zeros in [32, 64, 96, 256] {
        add("a signature of zeros", format!("{head}.{payload}.{}", part(vec![0; zeros])));
    }
    let zero_in_der = [0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00];
    add("zeros in DER", format!("{head}.{payload}.{}", part(zero_in_der)));
    add(
        "a wrong key",
        match signer {
            Signer::Hmac(_) => Signer::Hmac(vec![7; 32]).session("k", ALICE),
            Signer::Ed25519(_) => Signer::ed25519().session("k", ALICE),
            _ => Signer::p256().session("k", ALICE),
        },
    );
}

/// Extensions that change the meaning of the token, and keys inside the token itself.
fn add_header_fields(signer: &Signer, add: &mut impl FnMut(&str, String)) {
    for (field, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!(["x"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("dpop+jwt")),
        ("kid", json!("k".repeat(257))),
        ("kid", json!(["k"])),
    ] {
        add(&format!("{field} {value:.40}"), signer.jwt(&with(signer, field, value), &good_claims(ALICE)));
    }
    let evil = Signer::p256();
    for (field, value) in [
        ("jwk", evil.jwk("k")),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!([STANDARD.encode(evil.der())])),
    ] {
        add(field, evil.jwt(&with(&evil, field, value.clone()), &good_claims(ALICE)));
        add(field, evil.jwt(&with(signer, field, value), &good_claims(ALICE)));
    }
}

/// A JWT of another issuer, of another time, or without a user.
fn add_claims(signer: &Signer, add: &mut impl FnMut(&str, String)) {
    for (claim, values) in [
        ("iss", json!(["https://evil.example/", ISSUER.trim_end_matches('/'), [ISSUER], ""])),
        ("aud", json!(["other", ["other"], [], ["my-app", 5], {"my-app": 1}, "MY-APP"])),
        ("exp", json!([at(-60), 0, -1, at(60).to_string(), 1e13, 1e300, []])),
        ("nbf", json!([at(120), "soon", -5, 1e13, true, null])),
        ("iat", json!([at(120), "now", -1])),
        ("sub", json!(["", ["alice"], {"id": "alice"}, null, true, 1.5, " alice", "bob user_id:alice"])),
        ("sub", json!(["bob\tuser_id:alice", "bob\u{a0}user_id:alice", "alice\0", "alice\n"])),
        ("sub", json!(["\u{202e}ecila", "ali\u{200b}ce", "a".repeat(257)])),
        ("sub", json!(["bob,user_id:alice", "bob;User_ID:alice", "user_id:bob,user_id:alice"])),
    ] {
        for value in values.as_array().expect("a list") {
            let name = format!("{claim} {value:.40}");
            add(&name, signer.jwt(&header(signer, "k"), &claiming(claim, value.clone())));
        }
    }
    for claim in ["iss", "aud", "exp", "sub"] {
        add(&format!("no {claim}"), signer.jwt(&header(signer, "k"), &without(claim)));
    }
}

/// Texts that look like a JWT and are none.
fn add_texts(signer: &Signer, add: &mut impl FnMut(&str, String)) {
    let good = signer.session("k", ALICE);
    let [_, _, signature] = parts(&good);
    let good_text = good_claims(ALICE).to_string();
    for more in [r#""sub":"bob""#, r#""exp":9999999999"#, r#""s\u0075b":"bob""#, r#""x":1,"x":1"#] {
        let claims = format!("{},{more}}}", good_text.trim_end_matches('}'));
        add(&format!("twice: {more}"), signer.signed(&header(signer, "k").to_string(), &claims));
    }
    let (header, array) = (header(signer, "k").to_string(), format!("[{good_text}]"));
    for claims in ["", "null", "[]", "5", "{", "{} {}", array.as_str(), &good, &"[".repeat(3000)] {
        add("no object", signer.signed(&header, claims));
    }
    add("1e999", signer.signed(&header, &good_text.replace("\"exp\":", "\"exp\":1e999,\"x\":")));
    add("NaN", signer.signed(&header, &good_text.replace("\"exp\":", "\"exp\":NaN,\"x\":")));
    for header in ["", "null", "[]", r#"["HS256"]"#, "{", "\u{feff}{}"] {
        add("no header", signer.signed(header, &good_text));
    }
    add("a huge one", signer.jwt(&with(signer, "x", json!(1)), &claiming("x", json!("x".repeat(8000)))));
    for shape in ["..", "a.b.c", "...", "a..c", "é.é.é", "%.%.%"] {
        add(shape, shape.to_owned());
    }
    add("a dot too many", format!("{good}."));
    add("encrypted", format!("{good}.{signature}.{signature}"));
    add("a space in it", good.replacen('.', ". ", 1));
}

#[tokio::test]
async fn sessions_signed_with_a_secret_cannot_be_forged() {
    let signer = Signer::Hmac(b"a secret of the app with more than 32 bytes".to_vec());
    let broker = broker_of(&signer, |_| {}).await;
    all_are_unauthorized(&broker, &attacks(&signer), &signer.session("k", ALICE)).await;
}

#[tokio::test]
async fn public_key_is_not_accepted_as_an_hmac_secret() {
    for signer in [&*RSA, &Signer::p256(), &Signer::ed25519()] {
        let broker = broker_of(signer, |_| {}).await;
        let (pem, der) = (signer.pem(), signer.der());
        let mut all = attacks(signer);
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), &der, &der[der.len() - 32..], b"", &[0; 32]] {
            // The secret may even be empty.
            let forged = Signer::Hmac(secret.to_vec());
            all.push(("signed with what is public".to_owned(), forged.session("k", ALICE)));
            for alg in ["HS384", "HS512", signer.algorithm()] {
                all.push((alg.to_owned(), forged.jwt(&json!({"alg": alg, "kid": "k"}), &good_claims(ALICE))));
            }
        }
        all_are_unauthorized(&broker, &all, &signer.session("k", ALICE)).await;
    }
}

#[tokio::test]
async fn published_keys_are_matched_by_kid_alone() {
    let (signer, other) = (Signer::p256(), Signer::ed25519());
    let secret = Signer::Hmac(b"a secret that somebody has published".to_vec());
    let mut encryption = other.jwk("encryption");
    encryption["use"] = json!("enc");
    let mut elsewhere = other.jwk("another-algorithm");
    elsewhere["alg"] = json!("ES256");
    let mut nameless = other.jwk("x");
    nameless.as_object_mut().expect("an object").remove("kid");
    let keys = [encryption, elsewhere, nameless, secret.jwk("secret"), json!(5), json!({}), signer.jwk("k")];
    let host = KeyHost::start(&keys).await;
    // Each session with an unknown `kid` waits for a fetch.
    let broker = crate::sessions::setup(&host).fetch_pause(Duration::from_millis(10)).start().await;
    let mut all = attacks(&signer);
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "k' OR '1'='1",
        "k; DROP TABLE keys",
        "",
        " k",
        "K",
        "k\0",
        "https://evil.example/k",
        "${jndi:ldap://evil.example}",
    ] {
        all.push((format!("kid {kid:?}"), signer.session(kid, ALICE)));
    }
    all.push(("no kid".to_owned(), signer.jwt(&json!({"alg": "ES256"}), &good_claims(ALICE))));
    all.push(("a null for kid".to_owned(), signer.jwt(&json!({"alg": "ES256", "kid": null}), &good_claims(ALICE))));
    for kid in ["encryption", "another-algorithm", "x", "k"] {
        all.push((format!("another's key as {kid}"), other.session(kid, ALICE)));
    }
    all.push(("a published secret".to_owned(), secret.session("secret", ALICE)));
    all.push(("the key's bytes as a secret".to_owned(), Signer::Hmac(signer.der()).session("k", ALICE)));
    all_are_unauthorized(&broker, &all, &signer.session("k", ALICE)).await;
}

#[tokio::test]
async fn unlisted_algorithms_are_refused() {
    let signer = &*RSA;
    let broker = broker_of(signer, |sessions| sessions.algorithms = Some(vec!["PS256".to_owned()])).await;
    is_unauthorized(&broker.ask(&call(&signer.session("k", ALICE))).await);
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn duplicate_session_headers_are_refused() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let session = signer.session("k", ALICE);
    for ask in [
        call(&session).header("Authorization", format!("Bearer {session}")),
        call(&session).header("Authorization", "Bearer other"),
        call(&session).with("Authorization", &session),
        call(&session).with("Authorization", format!("Basic {session}")),
        call(&session).with("Authorization", format!("Bearer {session}, Bearer {session}")),
        call(&session).without("Authorization").header("X-Session", &session),
        HttpRequest::get(&format!("{FRONTEND}?access_token={session}")).without("Authorization"),
    ] {
        is_unauthorized(&broker.ask(&ask).await);
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn leeway_follows_the_settings() {
    let (broker, signer) = ed25519_broker(|sessions| sessions.leeway.0 = Duration::ZERO).await;
    let session = |claims: Value| call(&signer.jwt(&header(&signer, "k"), &claims));
    is_unauthorized(&broker.ask(&session(claiming("exp", json!(at(-2))))).await);
    is_unauthorized(&broker.ask(&session(claiming("nbf", json!(at(10))))).await);
    assert_eq!(broker.courier.call_count(), 0);
    let broker = broker_of(&signer, |sessions| sessions.leeway.0 = Duration::from_secs(300)).await;
    assert_eq!(broker.ask(&session(claiming("exp", json!(at(-200))))).await.status, 200);
}
