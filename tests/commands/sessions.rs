//! Sessions in the log of `serve` and in the output of `check`.

use crate::support::child::{Program, file, settings, simulator};
use crate::support::http::{Connection, HttpRequest};
use crate::support::issuer::{AUDIENCE, ISSUER, Signer, at, good_claims, header};

const SECRET: &[u8] = b"a secret of the app that nobody is ever to see";
const API_KEY: &str = "pk_test_never-to-be-seen";
const PAGE: &str = "https://app.example.com";

#[tokio::test]
async fn log_names_the_failed_check_and_never_the_session() {
    let (_simulator, courier) = simulator(&[]);
    let (secret, signer) = (file(SECRET), Signer::Hmac(SECRET.to_vec()));
    let settings = settings(&format!(
        "[workspaces.default]\napi_key = \"{API_KEY}\"\nbase_url = \"http://{courier}\"\n[sessions]\n\
         hs256_secret_file = {:?}\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nallowed_origins = [\"{PAGE}\"]\n",
        secret.path()
    ));
    let broker = Program::serve().arguments(["--log-level", "trace", "--config"]).arguments([settings.path()]).start();
    let (address, _) = broker.addresses();
    let mut connection = Connection::open(address).await;
    let call =
        |session: &str| HttpRequest::new("POST", "/api/generate-courier-jwt").key(session).header("Origin", PAGE);

    let good = signer.session("a-kid-of-mine", "jane");
    let mut old = good_claims("jane");
    old["exp"] = at(-100).into();
    let old = signer.jwt(&header(&signer, "k"), &old);
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let answer = connection.ask(&call(&good)).await;
    let token = answer.token();
    for (ask, status) in [
        (call(&old), 401),
        (call(&forged), 401),
        (call(&good).with("Origin", "https://evil.example"), 403),
        (HttpRequest::frontend(r#"{"userId": "bob"}"#).key(&good), 401),
    ] {
        assert_eq!(connection.ask(&ask).await.status, status);
    }
    let ended = broker.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for rule in ["expired", "signature", "origin", "other-user"] {
        let line = |line: &str| line.contains(r#""event":"refused""#) && line.contains(&format!(r#""rule":"{rule}""#));
        assert!(ended.stderr.lines().any(line), "{rule} is not in {}", ended.stderr);
    }
    let secret = std::str::from_utf8(SECRET).expect("a text");
    let payload = good.split('.').nth(1).expect("a JWT");
    let signature = good.split('.').nth(2).expect("a JWT");
    for hidden in [secret, API_KEY, &good, &old, &forged, payload, signature, "a-kid-of-mine", &token] {
        assert!(!ended.stderr.contains(hidden), "{hidden} is in {}", ended.stderr);
        assert!(!ended.stdout.concat().contains(hidden), "{hidden} is in {:?}", ended.stdout);
    }
    let checked = Program::new(["check", "--config"]).arguments([settings.path()]).run();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let shown = checked.stdout.concat();
    assert!(shown.contains("[sessions]") && shown.contains("leeway = \"30s\""), "{shown}");
    assert!(!shown.contains(secret) && !shown.contains(API_KEY), "{shown}");
}
