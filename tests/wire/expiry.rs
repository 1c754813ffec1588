//! Certificates that have expired, expire soon, or are not valid yet.

use std::time::{Duration, SystemTime};

use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest};
use crate::support::pki::{Authority, HOST, Identity, connect, now};

const DAY: Duration = Duration::from_secs(86_400);
const EXPIRY: &str = "courier_token_broker_certificate_expiry_timestamp_seconds";

fn ending(authority: &Authority, end: SystemTime) -> Identity {
    authority.sign_for(&[HOST], |params| params.not_after = end.into())
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as f64
}

async fn start(authority: &Authority, identity: &Identity) -> Broker {
    let tls = authority.settings(identity);
    Setup::new().tls(tls).start().await
}

#[tokio::test]
async fn metric_shows_when_the_certificate_in_use_expires() {
    let authority = Authority::new();
    let ends = now() + 90 * DAY;
    let broker = start(&authority, &ending(&authority, ends)).await;
    assert_eq!(broker.metric(EXPIRY).await, seconds(ends));
    let later = ends + DAY;
    let tls = authority.settings(&ending(&authority, later));
    assert!(broker.reload(|raw| raw.server.tls = Some(tls)).await);
    assert_eq!(broker.metric(EXPIRY).await, seconds(later));
    // A reload keeps a valid certificate.
    let tls = authority.settings(&ending(&authority, now() - DAY));
    assert!(!broker.reload(|raw| raw.server.tls = Some(tls)).await);
    assert_eq!(broker.metric(EXPIRY).await, seconds(later));
    let refused = "courier_token_broker_reloads_total{outcome=\"refused\",what=\"certificate\"}";
    assert_eq!(broker.metric(refused).await, 1.0);
    let stream = connect(&authority.client(&[], None), broker.address).await.expect("the old one is shown");
    assert_eq!(Connection::over(stream).ask(&HttpRequest::get("/")).await.status, 404);
    // Without a certificate there is no series, so no alert fires.
    let without = Setup::new().start().await;
    assert!(!without.admin("/metrics").await.body.contains(EXPIRY));
}

/// The clock of a machine may be wrong when it starts.
#[tokio::test]
async fn certificate_that_is_not_valid_yet_is_served() {
    let authority = Authority::new();
    let begins = now() + DAY;
    let early = authority.sign_for(&[HOST], |params| params.not_before = begins.into());
    let broker = start(&authority, &early).await;
    assert!(connect(&authority.client(&[], None), broker.address).await.is_err(), "clients know better");
}
