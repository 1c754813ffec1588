//! A collector that fails disturbs no request and no stop.

use std::net::SocketAddr;
use std::path::Path;

use crate::collector::Collector;
use crate::support::child::{Program, Running, settings, simulator};
use crate::support::http::{CLIENT_KEY, ask, get, inbox, refusing_port, until};
use crate::traced_to;
use courier_token_broker::clock::Clock;
use courier_token_broker::otlp::{self, OtlpSettings};
use hyper::{Request, Response};

/// A broker as a process, with these settings beside the collector's address.
fn serve(courier: SocketAddr, collector: SocketAddr, file: &Path) -> Running {
    let serve = Program::serve().keys("pk_test", CLIENT_KEY).courier(courier).config(file);
    serve.env("COURIER_TOKEN_BROKER__OTLP__ENDPOINT", format!("http://{collector}")).start()
}

#[tokio::test]
async fn collector_that_is_down_slow_or_broken_disturbs_no_request() {
    let (_simulator, courier) = simulator(&[]);
    let (_kept, down) = refusing_port();
    let [slow, broken, refusing] = [Collector::start().await, Collector::start().await, Collector::start().await];
    slow.answer_with(0);
    broken.answer_with(500);
    refusing.answer_with(503);
    let file = settings("[otlp]\nsample = 1.0\nmetrics_interval = \"1s\"\n");
    let clock = Clock::system();
    let start = clock.now();
    let brokers =
        [down, slow.address, broken.address, refusing.address].map(|collector| serve(courier, collector, file.path()));
    for broker in &brokers {
        let (address, admin) = broker.addresses();
        for index in 0..100 {
            ask(address, &inbox(&format!("user-{}", index % 10))).await.token();
        }
        assert_eq!(get(admin, "/readyz").await.status, 200);
    }
    for (index, broker) in brokers.into_iter().enumerate() {
        let failed = "OTLP export incomplete";
        if index != 1 {
            until(async || broker.stderr().contains(failed)).await;
        }
        let ended = tokio::task::spawn_blocking(|| broker.stop()).await.expect("no panic");
        // A line a minute for traces, and one for metrics.
        let minutes = clock.now().since(start).as_secs() as usize / 60 + 1;
        let found = ended.stderr.lines().filter(|line| line.contains(failed)).count();
        assert!(found <= 2 * minutes, "{found} lines: {}", ended.stderr);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let is_late = ended.stderr.contains("stopping without the last OTLP export");
        assert_eq!(is_late, index == 1, "{index}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn spans_beyond_the_queue_are_dropped() {
    let collector = Collector::start().await;
    let endpoint = collector.url().parse().expect("a URL");
    let settings = OtlpSettings { endpoint, sample: 1.0, metrics_interval: None };
    let (tracer, exporter) = otlp::start(Some(settings), Clock::system()).expect("a client");
    for _ in 0..3000 {
        tracer.answer(Request::new(()), "http", |_| async { Response::new(()) }).await;
    }
    exporter.run(|| async { Vec::new() }, std::future::ready(())).await;
    assert_eq!(collector.spans().len(), 2048);
}

#[tokio::test]
async fn spans_that_a_collector_refuses_for_a_while_come_later() {
    let collector = Collector::start().await;
    collector.answer_with(503);
    let broker = traced_to(&collector, 1.0).start().await;
    broker.ask(&inbox("jane")).await.token();
    until(async || collector.messages() >= 1).await;
    broker.ask(&inbox("jane")).await.token();
    assert_eq!(collector.spans(), []);
    collector.answer_with(200);
    until(async || collector.spans().len() >= 3).await;
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn spans_and_metrics_of_the_last_moment_are_sent_at_a_stop() {
    let (_simulator, courier) = simulator(&[]);
    let collector = Collector::start().await;
    let file = settings("[otlp]\nsample = 1.0\nmetrics_interval = \"1h\"\n");
    let broker = serve(courier, collector.address, file.path());
    let (address, _) = broker.addresses();
    ask(address, &inbox("jane")).await.token();
    let ended = tokio::task::spawn_blocking(|| broker.stop()).await.expect("no panic");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(collector.spans().len(), 2);
    assert!(!collector.metrics().is_empty());
}

#[test]
fn invalid_endpoint_is_refused() {
    for (text, parts) in [
        ("endpoint = \"hunter2\"", ["otlp.endpoint", "must be a URL such as"]),
        ("endpoint = \"grpc://127.0.0.1:4317\"", ["otlp.endpoint", "must be a URL such as"]),
        ("endpoint = \"http://user:hunter2@127.0.0.1\"", ["otlp.endpoint", "without user"]),
    ] {
        let file = settings(&format!("[otlp]\n{text}\n"));
        let ended = Program::new(["check"]).keys("pk_test", CLIENT_KEY).config(file.path()).start().end();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{text}: {}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}
