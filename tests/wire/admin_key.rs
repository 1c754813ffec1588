//! The key of the admin listener.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use courier_token_broker::auth::Digest;
use courier_token_broker::config::Raw;

use crate::support::broker::{Broker, Setup};
use crate::support::http::{CLIENT_KEY, HttpRequest, ask, inbox};

const KEY: &str = "ctb_the-key-of-the-operators";

async fn broker() -> Broker {
    Setup::new().settings(|raw| raw.admin.key_sha256 = Digest::of(KEY).to_string().into()).start().await
}

#[tokio::test]
async fn every_admin_route_but_the_probes_needs_the_key() {
    let broker = broker().await;
    assert_eq!(broker.ask(&inbox("jane")).await.status, 200);
    let mut routes: Vec<_> =
        ["/metrics", "/explain?user=jane", "/", "/status", "/status.js", "/nothing"].map(HttpRequest::get).into();
    routes.push(HttpRequest::purge("default"));
    for route in routes {
        for wrong in [route.clone().without("Authorization"), route.clone().key(CLIENT_KEY), route.clone().key("")] {
            let answer = ask(broker.admin, &wrong).await;
            assert_eq!(answer.status, 401, "{wrong:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"courier-token-broker admin\", Bearer"));
            assert!(!answer.body.contains("jane") && !answer.body.contains("requests_total"), "{answer:?}");
        }
        let known = if route.target() == "/nothing" { 404 } else { 200 };
        let basic = format!("Basic {}", STANDARD.encode(format!("operator:{KEY}")));
        for good in [route.clone().key(KEY), route.with("Authorization", basic)] {
            assert_eq!(ask(broker.admin, &good).await.status, known, "{good:?}");
        }
    }
    for probe in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(ask(broker.admin, &HttpRequest::get(probe).without("Authorization")).await.status, 200, "{probe}");
    }
}

#[tokio::test]
async fn key_of_the_operators_is_no_client_key() {
    let broker = broker().await;
    assert_eq!(broker.ask(&inbox("jane").key(KEY)).await.status, 401);
}

#[tokio::test]
async fn key_does_not_admit_a_page_of_another_host() {
    let broker = broker().await;
    let answer = ask(broker.admin, &HttpRequest::get("/metrics").key(KEY).with("Host", "attacker.example")).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn reload_replaces_the_key_but_does_not_open_a_listener_to_the_network() {
    for (listen, opens) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
        let set = |raw: &mut Raw| {
            (raw.admin.listen, raw.admin.key_sha256) = (listen.to_owned(), Digest::of(KEY).to_string().into());
        };
        let broker = Setup::new().settings(set).start().await;
        let status = async |key| ask(broker.admin, &HttpRequest::get("/metrics").key(key)).await.status;
        assert!(broker.reload(|raw| raw.admin.key_sha256 = Digest::of("ctb_new").to_string().into()).await);
        assert_eq!((status(KEY).await, status("ctb_new").await), (401, 200), "{listen}");
        let without = |raw: &mut Raw| {
            raw.admin.key_sha256.0.clear();
            raw.admin.insecure = true;
        };
        assert_eq!(broker.reload(without).await, opens, "{listen}");
        assert_eq!(status(KEY).await, if opens { 200 } else { 401 }, "{listen}");
    }
}
