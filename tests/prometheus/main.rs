//! The rules and alerts of `config/prometheus` and the dashboard of `config/grafana`: by promtool, against the docs and
//! `/metrics`, and in a real Prometheus that scrapes a broker under faults.

#[path = "../support/mod.rs"]
mod support;

mod dashboard;
mod faulty_broker;
mod rules;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use courier_token_broker::clock::Clock;
use faulty_broker::{FaultyBroker, HealthyBroker};
use server::{Prometheus, Rule};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Alerts whose conditions take longer than the test. Only the query before their threshold has to return data.
const SLOW: [(&str, &str); 1] = [("CourierTokenBrokerRenewalsLate", " > 60")];

/// How long the faults may take to show.
const PATIENCE: Duration = Duration::from_secs(100);

/// The queries of the rules and of the dashboard.
fn queries(rules: &[Rule]) -> Vec<String> {
    let of_rules = rules.iter().flat_map(|rule| {
        let slow = SLOW.iter().find(|(alert, _)| *alert == rule.name);
        let query =
            slow.map_or(rule.query.as_str(), |(_, threshold)| rule.query.strip_suffix(threshold).expect("it is"));
        let record = (!rule.is_alert).then(|| rule.name.clone());
        [query.to_owned()].into_iter().chain(record)
    });
    of_rules.chain(dashboard::queries()).collect()
}

/// A minute of the shipped rules takes four seconds here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_returns_data_from_a_broker_under_faults() {
    let faulty = FaultyBroker::start().await;
    let healthy = HealthyBroker::start().await;
    let unreachable = "127.0.0.1:1".to_owned();
    let prometheus = Prometheus::start(&[faulty.admin.to_string(), healthy.admin.to_string(), unreachable]).await;
    let rules = prometheus.rules().await;
    assert_eq!(
        rules.iter().filter(|rule| rule.is_alert).map(|rule| rule.name.as_str()).collect::<Vec<_>>(),
        rules::alerts()
    );
    let _traffic = (healthy.serve(), faulty.make_trouble().await);
    let mut silent = queries(&rules);
    let clock = Clock::system();
    let deadline = clock.now() + PATIENCE;
    while !silent.is_empty() {
        assert!(clock.now() < deadline, "no data after {PATIENCE:?}: {silent:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut left = Vec::new();
        for query in silent {
            if !prometheus.has_data(&query).await {
                left.push(query);
            }
        }
        silent = left;
    }
    let text = support::http::get(faulty.admin, "/metrics").await.body;
    for metric in dashboard::metrics().chain(rules::metrics()) {
        assert!(text.contains(&format!("# TYPE {metric} ")), "the broker exports no {metric}");
    }
}
