//! The Helm chart in `config/helm`.

use std::fs;

use serde_json::{Value, json};

use crate::support::child::{Program, file, settings};
use crate::support::http::{Connection, HttpRequest};
use crate::{assert_command, assert_valid, default, default_duration, manifests, root, script, strings, text};

#[test]
fn version_of_the_chart_is_that_of_the_program() {
    let chart = text("config/helm/Chart.yaml");
    for key in ["version", "appVersion"] {
        assert!(chart.lines().any(|line| line == format!("{key}: {}", env!("CARGO_PKG_VERSION"))), "{chart}");
    }
}

#[tokio::test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
async fn pods_run_the_program_as_it_is() {
    let manifests = rendered(&json!({}));
    let pod = &kind(&manifests, "Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments = strings(&container["args"]);
    assert_command(&arguments);
    let broker = Program::serve().keys("pk", &"k".repeat(32)).start();
    let admin = broker.addresses().1;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().expect("a path");
        let status = Connection::open(admin).await.ask(&HttpRequest::get(path)).await.status;
        assert_eq!(status, 200, "{probe}: {path}");
        assert_eq!(container[probe]["httpGet"]["port"], "admin");
    }
    let stop = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert!(stop > 5 + default_duration("server.shutdown_timeout").as_secs());
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn settings_of_the_chart_are_valid_and_listen_on_the_pods_ports() {
    let client = format!("[[clients]]\nname = \"a\"\nkey_sha256 = \"{}\"\n", "8".repeat(64));
    let store = "[store]\nkind = \"redis\"\nurl = \"redis://redis\"\nkey_file = \"/run/secrets/store/key\"\n";
    for values in [
        json!({ "settings": client }),
        json!({ "settings": format!("{client}{store}"), "secrets": ["store"], "image": { "tag": "1" } }),
        json!({ "settings": client, "admin": { "keySha256": "a".repeat(64) } }),
    ] {
        let manifests = rendered(&values);
        let folder = tempfile::tempdir().expect("a folder");
        for (path, content) in [("courier-api-key/api-key", "pk"), ("store/key", &"0".repeat(64))] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("it is written");
        }
        let map = &kind(&manifests, "ConfigMap")["data"];
        let secrets = folder.path().to_str().expect("a path");
        let files = ["chart.toml", "settings.toml"]
            .map(|name| settings(&map[name].as_str().expect("TOML").replace("/run/secrets", secrets)));
        assert_valid(&files.each_ref().map(|file| file.path().to_owned()), |program| program);

        let pod = &kind(&manifests, "Deployment")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let ports = container["ports"].as_array().expect("a list");
        let chart = map["chart.toml"].as_str().expect("TOML");
        for port in ports {
            assert!(chart.contains(&format!("\"0.0.0.0:{}\"", port["containerPort"])), "{port}: {chart}");
        }
        let mounts = container["volumeMounts"].as_array().expect("a list");
        for argument in strings(&container["args"]).iter().filter_map(|argument| argument.strip_prefix("--config=")) {
            let (folder, name) = argument.rsplit_once('/').expect("a path");
            assert!(mounts.iter().any(|mount| mount["mountPath"] == folder) && map.get(name).is_some(), "{argument}");
        }
        let volumes: Vec<_> = pod["volumes"].as_array().expect("a list").iter().map(|volume| &volume["name"]).collect();
        assert!(mounts.iter().map(|mount| &mount["name"]).eq(volumes), "{mounts:?}");
    }
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn tls_secret_is_what_the_settings_name() {
    let manifests = rendered(&json!({ "tlsSecret": "web-tls" }));
    let chart: toml::Table =
        kind(&manifests, "ConfigMap")["data"]["chart.toml"].as_str().expect("TOML").parse().expect("TOML");
    assert_eq!(chart["server"]["tls"]["certificate_file"].as_str(), Some("/run/secrets/web-tls/tls.crt"));
    assert!(chart["server"].get("insecure").is_none(), "{chart}");
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn admin_listener_is_reached_only_by_those_that_the_values_name() {
    let admin = |values: &Value| {
        let policy = rendered(values);
        let rules = kind(&policy, "NetworkPolicy")["spec"]["ingress"].as_array().expect("a list").clone();
        rules.into_iter().filter(|rule| rule["ports"].to_string().contains("admin")).collect::<Vec<_>>()
    };
    assert_eq!(admin(&json!({})), Vec::<Value>::new());
    let monitoring = json!([{ "podSelector": { "matchLabels": { "app": "prometheus" } } }]);
    let rules = admin(&json!({ "networkPolicy": { "adminFrom": monitoring } }));
    assert_eq!(rules, [json!({ "from": monitoring, "ports": [{ "port": "admin" }] })]);
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn operator_of_prometheus_gets_the_rules_and_the_metrics_port() {
    let on = json!({ "enabled": true, "labels": { "release": "prometheus" } });
    let manifests = rendered(&json!({ "serviceMonitor": on, "prometheusRule": on }));
    let rules = crate::manifests(&["yaml", "config/prometheus/rules.yml"]);
    assert_eq!(kind(&manifests, "PrometheusRule")["spec"], rules);
    let monitor = kind(&manifests, "ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().expect("labels");
    let has = |service: &&Value| wanted.iter().all(|(name, value)| service["metadata"]["labels"][name] == *value);
    let services: Vec<_> = all(&manifests, "Service").filter(has).collect();
    let [service] = services[..] else { panic!("{services:?}") };
    assert_eq!(service["spec"]["ports"][0]["name"], monitor["spec"]["endpoints"][0]["port"]);
    // The job's name, which the rules expect.
    assert_eq!(
        service["metadata"]["labels"][monitor["spec"]["jobLabel"].as_str().expect("a label")],
        "courier-token-broker"
    );
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn every_selector_selects_the_pods_and_memory_suffices() {
    let manifests = rendered(&json!({}));
    let deployment = kind(&manifests, "Deployment");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (manifest, path) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        let selector = kind(&manifests, manifest).pointer(path).and_then(Value::as_object).expect("labels");
        assert!(!selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value), "{manifest}");
    }
    let limit = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let limit: i64 = limit.as_str().and_then(|text| text.strip_suffix("Mi")?.parse().ok()).expect("MiB");
    let cache = default("tokens.capacity").as_integer().expect("a number") * 2 / 1024;
    assert!(limit > cache + 200, "{limit} MiB, of which tokens take {cache}");
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn values_of_the_page_are_accepted_and_unknown_ones_refused() {
    let page = text("docs/install.md");
    let between = |from, to| page.split_once(from).and_then(|(_, rest)| Some(rest.split_once(to)?.0)).expect("values");
    for (values, secret) in [
        (between("values.yaml <<'END'\n", "END\n"), "courier-api-key"),
        (between("```yaml\n", "```\n"), "courier-store"),
    ] {
        let file = file(values);
        let values = crate::manifests(&["yaml", file.path().to_str().expect("a path")]);
        assert!(rendered(&values).iter().any(|manifest| manifest.to_string().contains(secret)), "{secret}");
    }
    let chart = root().join("config/helm");
    for values in ["{\"replica\":3}", "{\"networkPolicy\":{\"allow\":[]}}"] {
        let mut command = script(&["chart", chart.to_str().expect("a path"), values]);
        let refused = command.output().expect("it runs");
        assert!(
            !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("dditional propert"),
            "{refused:?}"
        );
    }
}

#[test]
#[ignore = "needs Helm and the schemas of Kubernetes: tests/run installs them"]
fn admin_key_replaces_the_open_listener_and_goes_to_the_monitor() {
    let admin = json!({ "keySha256": "a".repeat(64), "keySecret": "broker-admin" });
    let manifests = rendered(&json!({ "admin": admin, "serviceMonitor": { "enabled": true } }));
    let chart: toml::Table =
        kind(&manifests, "ConfigMap")["data"]["chart.toml"].as_str().expect("TOML").parse().expect("TOML");
    assert_eq!(chart["admin"]["key_sha256"].as_str(), admin["keySha256"].as_str());
    assert!(chart["admin"].get("insecure").is_none(), "{chart}");
    let two = json!({ "admin": { "keySha256": ["a".repeat(64), "b".repeat(64)] } });
    let chart: toml::Table =
        kind(&rendered(&two), "ConfigMap")["data"]["chart.toml"].as_str().expect("TOML").parse().expect("TOML");
    assert_eq!(json!(chart["admin"]["key_sha256"]), two["admin"]["keySha256"]);
    let endpoint = &kind(&manifests, "ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(endpoint["authorization"]["credentials"], json!({ "name": "broker-admin", "key": "key" }));
    let without = rendered(&json!({ "serviceMonitor": { "enabled": true } }));
    assert!(kind(&without, "ServiceMonitor")["spec"]["endpoints"][0].get("authorization").is_none());
}

/// The manifests with these values, each of which its schema allows.
#[track_caller]
fn rendered(values: &Value) -> Vec<Value> {
    let chart = root().join("config/helm");
    let manifests = manifests(&["chart", chart.to_str().expect("a path"), &values.to_string()]);
    manifests.as_array().expect("a list").clone()
}

fn all<'a>(manifests: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    manifests.iter().filter(move |manifest| manifest["kind"] == kind)
}

#[track_caller]
fn kind<'a>(manifests: &'a [Value], name: &str) -> &'a Value {
    all(manifests, name).next().unwrap_or_else(|| panic!("no {name}"))
}
