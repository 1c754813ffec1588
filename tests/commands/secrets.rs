//! Secrets stay in the program, whatever its users do and whatever fails: all its output and answers, at log level
//! `trace`, are searched for every secret and token that the test used.

mod leak_test;
mod requests;

use crate::support::child::file;
use crate::support::http::{HttpRequest, until};
use crate::support::issuer::{KeyHost, Signer};
use leak_test::{FRONTEND, KID, LeakTest, PAGE, SESSION_SECRET};

#[tokio::test]
async fn no_secret_leaks_with_sessions_signed_with_a_secret() {
    let secret = file(SESSION_SECRET);
    let mut test = LeakTest::start(&format!("hs256_secret_file = {:?}", secret.path())).await;
    test.send_requests_of_apps().await;
    test.provoke_hostile_answers().await;
    let call = |session: &str| HttpRequest::new("POST", FRONTEND).key(session).header("Origin", PAGE);
    test.send_requests_of_users(&Signer::Hmac(SESSION_SECRET.into()), call).await;
    test.reload_with_misplaced_secrets().await;
    test.send_requests_of_operators().await;
    test.assert_no_leak(&["expired", "signature", "origin", "other-user"]).await;
}

#[tokio::test]
async fn no_secret_leaks_with_session_cookies_of_an_issuer() {
    let signer = Signer::p256();
    let host = KeyHost::start(&[signer.jwk(KID)]).await;
    let mut test = LeakTest::start(&format!("jwks_url = \"{}\"\nsource = \"cookie:session\"", host.url())).await;
    test.send_requests_of_apps().await;
    let call = |session: &str| {
        let ask = HttpRequest::new("POST", FRONTEND).without("Authorization").header("Origin", PAGE);
        ask.header("Cookie", format!("theme=dark; session={session}"))
    };
    until(async || host.asked() > 0).await;
    test.send_requests_of_users(&signer, call).await;
    test.reload_with_misplaced_secrets().await;
    test.send_requests_of_operators().await;
    test.assert_no_leak(&["expired", "signature", "origin"]).await;
}
