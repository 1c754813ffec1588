//! Calls of pages with additional headers: those of monitoring, and those of the settings.

use crate::sessions::{PAGE, broker_of, call, ed25519_broker};
use crate::support::broker::Broker;
use crate::support::http::HttpRequest;
use crate::support::issuer::{KeyHost, Signer};
use crate::support::refusal::FRONTEND;

/// Headers that monitoring in browsers adds, with values of their form.
const MONITORING: &[(&str, &str)] = &[
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "dd=s:1;o:rum,es=s:1"),
    ("baggage", "sentry-environment=production,sentry-release=1.0"),
    ("sentry-trace", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
    ("x-requested-with", "XMLHttpRequest"),
    ("x-datadog-origin", "rum"),
    ("x-datadog-parent-id", "1234567890"),
    ("x-datadog-sampling-priority", "1"),
    ("x-datadog-trace-id", "1234567890"),
    ("b3", "0af7651916cd43dd-b7ad6b7169203331-1"),
    ("X-B3-TraceId", "0af7651916cd43dd"),
    ("X-B3-SpanId", "b7ad6b7169203331"),
    ("X-B3-ParentSpanId", "b7ad6b7169203331"),
    ("X-B3-Sampled", "1"),
    ("X-B3-Flags", "0"),
    ("newrelic", "eyJ2IjpbMCwxXX0="),
    ("X-Amzn-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"),
    ("elastic-apm-traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("uber-trace-id", "0af7651916cd43dd:b7ad6b7169203331:0:1"),
    ("Request-Id", "|0af7651916cd43dd.b7ad6b7169203331."),
    ("Request-Context", "appId=cid-v1:1"),
    ("X-INSTANA-T", "0af7651916cd43dd"),
    ("X-INSTANA-S", "b7ad6b7169203331"),
    ("X-INSTANA-L", "1,correlationType=web;correlationId=1"),
];

/// The headers that a browser would let a page send, in lower case.
async fn allowed(broker: &Broker, wanted: &str) -> Vec<String> {
    let preflight = HttpRequest::new("OPTIONS", FRONTEND)
        .without("Authorization")
        .header("Origin", PAGE)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", wanted);
    let answer = broker.ask(&preflight).await;
    assert_eq!((answer.status, answer.header("vary")), (204, Some("Origin")), "{answer:?}");
    let list = answer.header("access-control-allow-headers").expect("a list");
    list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn preflight_allows_the_headers_of_monitoring() {
    for source in ["authorization", "cookie:session"] {
        let broker = broker_of(&Signer::ed25519(), |sessions| sessions.source = source.to_owned()).await;
        let allowed = allowed(&broker, "authorization,traceparent,x-evil").await;
        for (name, _) in MONITORING {
            assert!(allowed.contains(&name.to_ascii_lowercase()), "{name} is not in {allowed:?}");
        }
        // The list does not echo the request, and allows neither all headers nor those that the broker reads.
        for other in ["x-evil", "*", "cookie", "token-min-ttl"] {
            assert!(!allowed.iter().any(|name| name == other), "{other} is in {allowed:?}");
        }
    }
}

#[tokio::test]
async fn session_is_served_with_every_header_of_monitoring() {
    let (broker, signer) = ed25519_broker(|sessions| sessions.allowed_headers = vec!["X-Mine".to_owned()]).await;
    let plain = call(&signer.session("k", "jane"));
    let monitored = MONITORING.iter().fold(plain.clone(), |ask, (name, value)| ask.header(name, *value));
    let answer = broker.ask(&monitored).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The headers do not change the token.
    let again = broker.ask(&plain).await;
    assert_eq!((again.token(), again.source()), (answer.token(), "hit".to_owned()));
    // All of them together leave room for as many headers of the browser and of the page.
    let many = (0..20).fold(monitored, |ask, n| ask.header(&format!("x-mine-{n}"), "x"));
    assert_eq!(broker.ask(&many.header("baggage", "x".repeat(8192))).await.status, 200);
}

#[tokio::test]
async fn reload_changes_the_allowed_headers() {
    let host = KeyHost::start(&[Signer::ed25519().jwk("k")]).await;
    let broker = crate::sessions::setup(&host).start().await;
    let has = async |name: &str| allowed(&broker, name).await.iter().any(|allowed| allowed == name);
    assert!(!has("x-mine").await);
    let set = async |headers: &[&str]| {
        let headers = headers.iter().map(|&name| name.to_owned()).collect();
        broker.reload(|raw| raw.sessions.as_mut().expect("they are set").allowed_headers = headers).await
    };
    assert!(set(&["X-Mine"]).await);
    assert!(has("x-mine").await && has("traceparent").await);
    assert!(!set(&["x-other", "*"]).await);
    assert!(has("x-mine").await && !has("x-other").await);
    assert!(set(&[]).await);
    assert!(!has("x-mine").await);
}
