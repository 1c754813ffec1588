//! The host that a request names.

use crate::support::broker::Broker;
use crate::support::http::{Connection, HttpRequest, ask};
use crate::support::refusal::{GOOD, all_are_refused_without_a_call, row};

#[tokio::test]
async fn missing_or_doubled_host_is_refused() {
    let broker = Broker::start().await;
    let mut rows = Vec::new();
    for (route, body) in GOOD {
        let good = HttpRequest::post(route, body);
        rows.push(row("no host", good.clone().without("Host"), 400, "Host"));
        rows.push(row("two hosts", good.clone().header("Host", "other"), 400, "Host"));
        rows.push(row("the same host twice", good.clone().header("host", "broker"), 400, "Host"));
        for wrong in ["a, b", "a b", "a/b", "u@a"] {
            rows.push(row(wrong, good.clone().with("Host", wrong), 400, "Host"));
        }
    }
    rows.push(row("no path", HttpRequest::get("/nothing").without("Host"), 400, "Host"));
    all_are_refused_without_a_call(&broker, &rows).await;
    for good in ["broker", "broker:8080", "[::1]:8080", "127.0.0.1", ""] {
        assert_eq!(broker.ask(&HttpRequest::issue(GOOD[0].1).with("Host", good)).await.status, 200, "{good}");
    }
    for target in ["/healthz", "/metrics"] {
        for wrong in [HttpRequest::get(target).without("Host"), HttpRequest::get(target).header("Host", "localhost")] {
            assert_eq!(ask(broker.admin, &wrong).await.status, 400);
        }
    }
}

#[tokio::test]
async fn http_1_0_needs_no_host() {
    let broker = Broker::start().await;
    for (address, path) in [(broker.address, "/v1/tokens"), (broker.admin, "/healthz")] {
        let mut connection = Connection::open(address).await;
        connection.send(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        let answer = String::from_utf8(connection.rest().await).expect("text");
        assert!(answer.starts_with(if path == "/healthz" { "HTTP/1.0 200" } else { "HTTP/1.0 405" }), "{answer}");
    }
}

/// A page whose name leads to this machine by DNS must read nothing.
#[tokio::test]
async fn admin_listener_answers_no_host_of_a_web_page() {
    let broker = Broker::start().await;
    let port = broker.admin.port();
    for target in ["/", "/status", "/metrics", "/healthz", "/readyz", "/explain?user=jane", "/nothing"] {
        for wrong in [
            "attacker.example",
            &format!("attacker.example:{port}"),
            "localhost.attacker.example",
            "127.0.0.1.nip.io",
            "192.0.2.1",
            "[2001:db8::1]",
            "",
        ] {
            let answer = ask(broker.admin, &HttpRequest::get(target).with("Host", wrong)).await;
            assert_eq!(answer.status, 403, "{wrong}: {answer:?}");
            assert!(!answer.body.contains("jane") && answer.body.contains("Host"), "{answer:?}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
    let purge = HttpRequest::purge("default");
    assert_eq!(ask(broker.admin, &purge.with("Host", "attacker.example")).await.status, 403);
    let absolute = HttpRequest::get("http://attacker.example/metrics").with("Host", "localhost");
    assert_eq!(ask(broker.admin, &absolute).await.status, 403);
    let cross = HttpRequest::get("/explain?user=jane").with("Host", "localhost").header("Sec-Fetch-Site", "cross-site");
    assert_eq!(ask(broker.admin, &cross).await.status, 403);
    for good in
        ["localhost", "LocalHost:9090", "127.0.0.1", &format!("127.0.0.1:{port}"), "[::1]", "[::1]:1", "127.0.0.2:80"]
    {
        let answer = ask(broker.admin, &HttpRequest::get("/metrics").with("Host", good)).await;
        assert_eq!(answer.status, 200, "{good}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}
