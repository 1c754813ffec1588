//! Log lines of `serve` about fetches of a JWKS: the URL, and the cause of a failure.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::child::{Program, settings};
use crate::support::http::{self, HttpRequest, refusing_port};
use crate::support::issuer::{AUDIENCE, ISSUER, KeyHost, Signer, good_claims};
use crate::support::pki::Authority;

const SECRET: &str = "hunter2-hunter2-hunter2";

/// The log of a broker with this JWKS up to a session's answer, which has `status`. The first fetch has ended by
/// then, since sessions wait for it.
async fn log_of(url: &str, signer: &Signer, status: u16) -> Vec<Value> {
    let file = settings(&format!(
        "[workspaces.default]\napi_key = \"pk_test\"\nbase_url = \"http://127.0.0.1:1\"\n[log]\nformat = \"json\"\n\
         [sessions]\njwks_url = \"{url}\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n"
    ));
    let broker = Program::serve().arguments(["--log-level", "trace", "--config"]).arguments([file.path()]).start();
    let (address, _) = broker.addresses();
    let session = signer.jwt(&json!({"alg": signer.algorithm()}), &good_claims("jane"));
    let ask = HttpRequest::new("POST", "/api/generate-courier-jwt").key(&session);
    let answer = http::ask(address, &ask).await;
    assert_eq!(answer.status, status, "{answer:?}");
    let ended = broker.stop();
    assert!(!ended.stderr.contains(SECRET), "{}", ended.stderr);
    ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The fields of the one warning about the JWKS.
#[track_caller]
fn warning(log: &[Value]) -> (String, String) {
    let is_warning = |line: &&Value| {
        line["level"] == "WARN" && line["message"].as_str().is_some_and(|text| text.starts_with("JWKS fetch failed"))
    };
    let warnings: Vec<_> = log.iter().filter(is_warning).collect();
    let [warning] = warnings[..] else { panic!("{} warnings in {log:#?}", warnings.len()) };
    let field = |name: &str| warning[name].as_str().unwrap_or_else(|| panic!("no {name} in {warning}"));
    assert!(field("message").ends_with("; sessions get 503 until it succeeds"), "{warning}");
    (field("url").to_owned(), field("cause").to_owned())
}

#[tokio::test]
async fn failed_fetch_is_logged_with_url_and_cause() {
    let signer = Signer::ed25519();
    let (_socket, closed) = refusing_port();
    let untrusted = untrusted_host().await;
    let host = KeyHost::start(&[]).await;
    let large = " ".repeat(300 * 1024);
    let keys = json!({"keys": [Signer::Hmac(SECRET.as_bytes().to_vec()).jwk("s"), {"kty": "EC", "crv": "secp256k1"}]});
    for (url, status, body, causes) in [
        (format!("http://{closed}/jwks.json"), 200, "", &["Connection refused"][..]),
        (format!("https://localhost:{untrusted}/jwks.json"), 200, "", &["certificate", "UnknownIssuer"]),
        (host.url(), 404, "", &["status", "404"]),
        (host.url(), 302, "", &["status", "302", "redirects"]),
        (host.url(), 200, "<html>", &["not JSON", "line 1, column 1"]),
        (host.url(), 200, "{}", &["no list `keys`"]),
        (host.url(), 200, r#"{"keys": []}"#, &["no keys"]),
        (host.url(), 200, &keys.to_string(), &["none of the 2 keys", "kty=oct", "shared secret", "crv=secp256k1"]),
        (host.url(), 200, &large, &["larger than 256 KiB"]),
    ] {
        host.say(status, body);
        let log = log_of(&format!("{url}?key={SECRET}"), &signer, 503).await;
        let (shown, cause) = warning(&log);
        assert_eq!(shown, url);
        for part in causes {
            assert!(cause.contains(part), "{part} is not in {cause}");
        }
    }
}

#[tokio::test]
async fn first_fetch_is_logged_with_its_keys() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[json!({"kty": "oct"}), signer.jwk("one"), signer.jwk("two")]).await;
    let log = log_of(&format!("{}?key={SECRET}", host.url()), &signer, 401).await;
    // The session has the next ones fetched, which is no news.
    let fetched: Vec<_> = log.iter().filter(|line| line["message"] == "JWKS fetched").collect();
    let [line, next] = fetched[..] else { panic!("{log:#?}") };
    assert_eq!((&line["level"], &line["url"]), (&json!("INFO"), &json!(host.url())), "{line}");
    assert_eq!(next["level"], "DEBUG");
    assert_eq!((&line["keys"], &line["ignored"]), (&json!(2), &json!(1)), "{line}");
    // A session without `kid` is ambiguous with two keys.
    assert!(log.iter().any(|line| line["rule"] == "unknown-key"), "{log:#?}");
}

/// The port of a host whose certificate is not trusted.
async fn untrusted_host() -> u16 {
    let acceptor = Authority::new().sign(&["localhost"]).acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The broker ends the handshake.
            let _ = acceptor.accept(stream).await;
        }
    });
    port
}
