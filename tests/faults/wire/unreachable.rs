//! A Courier that cannot be reached, or that is another server.

use courier_token_broker::config::RawWorkspace;
use courier_token_broker::secrets::Secret;
use tokio::time::timeout;

use super::warm_broker::{SLACK, WarmBroker, ask, calls, tokens};
use crate::support::broker::{API_KEY, Broker, CLIENT_KEY, Setup, client};
use crate::support::http::Answer;
use crate::support::pki::{Authority, HOST};
use crate::support::refusal::is_a_refusal;

const OTHER_KEY: &str = "ctb_the-key-of-another-client";

/// Asks as a client of another workspace whose base URL is this one; Jane's workspace is healthy.
async fn another_courier_at(base_url: &str) -> (Answer, WarmBroker) {
    let workspace = RawWorkspace {
        api_key: Secret::new(API_KEY).ok(),
        base_url: base_url.to_owned(),
        insecure: true,
        ..RawWorkspace::default()
    };
    let warm = WarmBroker::with(|raw| {
        raw.workspaces.insert("other".to_owned(), workspace);
        let mut other = client("other", OTHER_KEY, &["*"]);
        other.workspace = "other".to_owned();
        raw.clients.push(other);
    });
    let warm = warm.await;
    let answer = ask(&warm.broker, &tokens("new").key(OTHER_KEY)).await;
    is_a_refusal(&answer, false);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    warm.assert_jane_is_served().await;
    assert_eq!(ask(&warm.broker, &tokens("new").key(CLIENT_KEY)).await.status, 200);
    (answer, warm)
}

#[tokio::test]
async fn courier_with_an_untrusted_certificate_gets_no_key() {
    let authority = Authority::new();
    let identity = authority.sign(&[HOST, "localhost"]);
    // The untrusted peer speaks HTTP over TLS as Courier does: it is another broker.
    let impostor = Setup::new().settings(|raw| raw.server.tls = Some(authority.settings(&identity))).start().await;
    let (answer, warm) = another_courier_at(&format!("https://localhost:{}", impostor.address.port())).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["message"], "Courier cannot be reached: certificate not trusted");
    assert!(calls(&warm.broker, "connect", "other").await >= 1.0);
    // No request arrived, not even one to refuse.
    let requests = impostor.admin("/metrics").await.body;
    let came = |line: &&str| line.starts_with("courier_token_broker_requests_total") && !line.ends_with(" 0");
    assert_eq!(requests.lines().find(came), None);
    let dropped = "courier_token_broker_connections_dropped_total{cause=\"handshake\"}";
    let noticed = async { while impostor.metric(dropped).await < 1.0 {} };
    timeout(SLACK, noticed).await.expect("a handshake that failed");
}

#[tokio::test]
async fn courier_without_tls_gets_no_key() {
    let plain = Broker::start().await;
    let (answer, warm) = another_courier_at(&format!("https://{}", plain.address)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["message"], "Courier cannot be reached: the peer does not speak TLS");
    assert!(calls(&warm.broker, "connect", "other").await >= 1.0);
}

#[tokio::test]
async fn unresolvable_courier_is_answered_with_503() {
    let (answer, warm) = another_courier_at("https://courier.invalid").await;
    // Without a name server that answers, the call times out.
    let (status, outcome) = if answer.status == 504 { (504, "timeout") } else { (503, "connect") };
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.whole().contains("courier.invalid"), "{answer:?}");
    assert!(calls(&warm.broker, outcome, "other").await >= 1.0);
}
