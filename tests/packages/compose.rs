//! The compose file.

use std::fs;

use serde_json::Value;

use crate::support::child::settings;
use crate::{assert_command, assert_valid, manifests, root, strings, text};

#[test]
#[ignore = "needs PyYAML: tests/run installs it"]
fn compose_file_agrees_with_settings_and_files() {
    let compose = manifests(&["yaml", "compose.yaml"]);
    let services = &compose["services"];
    for (name, service) in services.as_object().expect("services") {
        for volume in service["volumes"].as_array().into_iter().flatten().map(|text| text.as_str().expect("text")) {
            let source = volume.split(':').next().expect("a source");
            match source.strip_prefix("./") {
                Some(path) => assert!(root().join(path).exists(), "{name}: {path}"),
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {source}"),
            }
        }
        for port in published(service) {
            assert_eq!(port[0], "127.0.0.1", "{name}: a port for everybody");
        }
    }
    let [broker, courier] = ["broker", "courier"].map(|name| &services[name]);
    assert_command(&strings(&courier["command"]));
    assert_eq!(broker["image"], courier["image"]);

    let settings: toml::Table = text("config/compose/settings.toml").parse().expect("TOML");
    let port = |address: &toml::Value| address.as_str().expect("text").rsplit(':').next().expect("a port").to_owned();
    let ports = [port(&settings["server"]["listen"][0]), port(&settings["admin"]["listen"])];
    for port in &ports {
        assert!(published(broker).iter().any(|published| published[2] == *port), "{port} is not published");
    }
    let upstream = settings["workspaces"]["default"]["base_url"].as_str().expect("text");
    let listen = strings(&courier["command"])[2];
    assert_eq!(upstream, listen.replace("0.0.0.0", "http://courier"));
    assert!(services.get("redis").is_some() && settings["store"]["url"].as_str() == Some("redis://redis:6379"));
}

#[test]
#[ignore = "needs PyYAML: tests/run installs it"]
fn prometheus_and_grafana_find_what_they_ask() {
    let compose = manifests(&["yaml", "compose.yaml"]);
    let prometheus = &compose["services"]["prometheus"];
    // It is in the network of the broker, whose admin port its targets name.
    assert_eq!(prometheus["network_mode"], "service:broker");
    let listen = strings(&prometheus["command"]);
    let listen = listen.iter().find_map(|flag| flag.strip_prefix("--web.listen-address=0.0.0.0:")).expect("an address");
    let source = manifests(&["yaml", "config/compose/grafana/datasource.yml"]);
    assert_eq!(source["datasources"][0]["url"], format!("http://broker:{listen}"));
    let targets = manifests(&["yaml", "config/prometheus/prometheus.yml"]);
    let targets = &targets["scrape_configs"][0]["static_configs"][0]["targets"];
    let settings: toml::Table = text("config/compose/settings.toml").parse().expect("TOML");
    let admin = settings["admin"]["listen"].as_str().expect("text").replace("0.0.0.0", "127.0.0.1");
    assert_eq!(strings(targets), [admin]);
    let provider = manifests(&["yaml", "config/compose/grafana/dashboards.yml"]);
    let folder = provider["providers"][0]["options"]["path"].as_str().expect("a path");
    let mounts = strings(&compose["services"]["grafana"]["volumes"]);
    assert!(mounts.contains(&&*format!("./config/grafana:{folder}:ro")), "{mounts:?}");
}

#[test]
#[ignore = "needs PyYAML: tests/run installs it"]
fn settings_of_the_compose_file_are_valid() {
    let compose = manifests(&["yaml", "compose.yaml"]);
    let key = compose["configs"]["store-key"]["content"].as_str().expect("a key");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    fs::write(&path, key).expect("it is written");
    let broker = &compose["services"]["broker"];
    let target = broker["configs"][0]["target"].as_str().expect("a path");
    let text = text("config/compose/settings.toml");
    let file = settings(&text.replace(target, path.to_str().expect("a path")));
    assert_ne!(fs::read_to_string(file.path()).expect("text"), text, "{target} is not in the settings");
    let environment = broker["environment"].as_object().expect("variables").clone();
    assert_valid(&[file.path().to_owned()], |program| {
        environment.iter().fold(program, |program, (name, value)| program.env(name, value.as_str().expect("text")))
    });
}

/// The published ports of a service: address, port there, port in the container.
fn published(service: &Value) -> Vec<Vec<String>> {
    let ports = service["ports"].as_array().cloned().unwrap_or_default();
    ports.iter().map(|port| port.as_str().expect("text").split(':').map(str::to_owned).collect()).collect()
}
