//! The Grafana dashboard: its panels, queries and metrics.

use std::collections::BTreeSet;

use serde_json::Value;

use super::read;
use super::rules::{self, metrics_in};

const DASHBOARD: &str = "config/grafana/dashboard.json";

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("JSON")
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The queries of all panels, with Grafana's variables replaced.
pub fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let targets = list(&dashboard["panels"]).into_iter().flat_map(|panel| list(&panel["targets"]));
    let replaced =
        |query: &str| query.replace("$instance", ".*").replace("$workspace", ".*").replace("$__rate_interval", "20s");
    targets.map(|target| replaced(target["expr"].as_str().expect("a query"))).collect()
}

/// The broker's metrics in the dashboard.
pub fn metrics() -> impl Iterator<Item = String> {
    metrics_in(&read(DASHBOARD)).into_iter()
}

#[test]
fn every_metric_is_on_the_dashboard_or_in_a_rule_and_exists() {
    let shown: BTreeSet<_> = metrics().chain(rules::metrics()).collect();
    let exported = rules::exported().into_iter().map(|name| format!("courier_token_broker_{name}"));
    assert_eq!(shown, exported.collect());
}

#[test]
fn every_recorded_series_on_the_dashboard_has_its_rule() {
    let (rules, dashboard) = (read(rules::RULES), read(DASHBOARD));
    let recorded: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let is_of_name = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | ':');
    for name in dashboard.split(|one| !is_of_name(one)).filter(|word| word.starts_with("courier_token_broker:")) {
        assert!(recorded.contains(name), "{name}");
    }
}

#[test]
fn every_panel_is_explained_has_a_query_and_overlaps_no_other() {
    let panels = list(&dashboard()["panels"]);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in &panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "two panels have the id of {title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a number"));
        assert!(x + w <= 24, "{title} is wider than the page");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} is on top of another panel");
        }
        if panel["type"] != "row" {
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{title} has no description"
            );
            assert!(!list(&panel["targets"]).is_empty(), "{title} has no query");
        }
    }
    let rows: Vec<_> = panels.iter().filter(|panel| panel["type"] == "row").collect();
    assert!(
        rows.iter().all(|row| row["title"].as_str().is_some_and(|title| title.ends_with('?'))),
        "rows are questions"
    );
}
