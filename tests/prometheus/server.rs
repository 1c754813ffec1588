//! A real Prometheus of the test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use courier_token_broker::clock::Clock;
use reqwest::{Client, Url};
use serde_json::Value;
use tempfile::TempDir;

use super::read;
use super::rules::RULES;

/// A server with the shipped configuration, rules and alerts, which ends with the test.
pub struct Prometheus {
    base: Url,
    client: Client,
    child: Child,
    _folder: TempDir,
}

/// A rule as the server read it.
pub struct Rule {
    pub name: String,
    pub query: String,
    pub is_alert: bool,
}

impl Prometheus {
    /// Starts a server that scrapes these addresses each second, and whose windows of five minutes are twenty seconds.
    pub async fn start(targets: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = read("config/prometheus/prometheus.yml");
        let target = "[\"127.0.0.1:9090\"]";
        assert!(shipped.contains(target) && shipped.contains("15s"), "{shipped}");
        let config = shipped.replace("15s", "1s").replace(target, &format!("{targets:?}"));
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("written");
        std::fs::write(folder.path().join("rules.yml"), read(RULES).replace("[5m]", "[20s]")).expect("written");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("prometheus is installed: see tests/run");
        let client = Client::builder().no_proxy().build().expect("a client");
        let base = format!("http://{address}").parse().expect("a URL");
        let server = Self { base, client, child, _folder: folder };
        let clock = Clock::system();
        let deadline = clock.now() + Duration::from_secs(30);
        while !server.client.get(server.url("/-/ready", &[])).send().await.is_ok_and(|answer| answer.status() == 200) {
            assert!(clock.now() < deadline, "prometheus does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    fn url(&self, path: &str, parameters: &[(&str, &str)]) -> Url {
        let mut url = self.base.join(path).expect("a path");
        url.query_pairs_mut().extend_pairs(parameters);
        url
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer = self.client.get(self.url(path, parameters)).send().await.expect("an answer");
        let answer: Value = serde_json::from_str(&answer.text().await.expect("a text")).expect("JSON");
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// All rules, in the order of the file.
    pub async fn rules(&self) -> Vec<Rule> {
        let groups = self.get("/api/v1/rules", &[]).await["groups"].as_array().cloned().expect("groups");
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().expect("rules"));
        let text = |rule: &Value, name: &str| rule[name].as_str().expect("a text").to_owned();
        rules
            .map(|rule| Rule {
                name: text(&rule, "name"),
                query: text(&rule, "query"),
                is_alert: rule["type"] == "alerting",
            })
            .collect()
    }

    /// Whether a query returns a number.
    pub async fn has_data(&self, query: &str) -> bool {
        let data = self.get("/api/v1/query", &[("query", query)]).await;
        let samples = data["result"].as_array().cloned().unwrap_or_default();
        samples.iter().any(|sample| sample["value"][1].as_str().is_some_and(|value| value != "NaN"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
