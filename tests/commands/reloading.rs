//! `serve` reloads its files when they change and on SIGHUP.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use courier_token_broker::auth::Digest;
use tempfile::TempDir;

use crate::support::child::{Program, Running, simulator};
use crate::support::http::{self, HttpRequest, metric, until};

const OLD: &str = "ctb_the-old-key";
const NEW: &str = "ctb_the-new-key";

fn clients(key: &str) -> String {
    format!("[[clients]]\nname = \"app\"\nkey_sha256 = \"{}\"\n", Digest::of(key))
}

async fn status(address: SocketAddr, key: &str) -> u16 {
    let ask = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).key(key);
    http::ask(address, &ask).await.status
}

/// The number of reloads with this outcome.
async fn reloads(admin: SocketAddr, what: &str, outcome: &str) -> f64 {
    metric(admin, &format!("courier_token_broker_reloads_total{{outcome=\"{outcome}\",what=\"{what}\"}}")).await
}

fn serve(folder: &Path, courier: SocketAddr) -> Running {
    let settings = folder.join("settings.toml");
    Program::serve().config(&settings).courier(courier).start()
}

#[tokio::test]
async fn changed_file_is_reloaded_and_an_invalid_one_rejected() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = simulator(&["--api-key", "pk_test"]);
    let settings = folder.path().join("settings.toml");
    let workspace = "[workspaces.default]\napi_key = \"pk_test\"\n";
    fs::write(&settings, format!("{workspace}{}", clients(OLD))).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    assert_eq!((status(address, OLD).await, status(address, NEW).await), (200, 401));
    // In place.
    fs::write(&settings, format!("{workspace}{}", clients(NEW))).expect("written");
    until(async || status(address, NEW).await == 200).await;
    assert_eq!(status(address, OLD).await, 401);
    // The error is logged once, and the running configuration stays.
    fs::write(&settings, format!("{workspace}{}[tokens]\nfloor = 7\n", clients(OLD))).expect("written");
    until(async || reloads(admin, "settings", "refused").await == 1.0).await;
    assert_eq!((status(address, NEW).await, status(address, OLD).await), (200, 401));
    let log = broker.stderr();
    let rejected = log.lines().filter(|line| line.contains("reload rejected") && line.contains("tokens.floor"));
    assert_eq!(rejected.count(), 1, "{log}");
    assert!(!log.contains("pk_test"), "{log}");
    // The file is replaced by another one.
    let next = folder.path().join("next.toml");
    fs::write(&next, format!("{workspace}{}", clients(OLD))).expect("written");
    fs::rename(&next, &settings).expect("renamed");
    // A reload is counted last.
    until(async || reloads(admin, "settings", "applied").await == 2.0).await;
    assert_eq!(status(address, OLD).await, 200);
    assert_eq!(broker.stop().code, Some(0));
}

#[tokio::test]
async fn secret_that_kubernetes_swaps_is_reloaded() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = simulator(&["--api-key", "pk_second"]);
    // The kubelet's way: the files are links into `..data`, which is a link to a folder.
    for (name, key) in [("..first", "pk_first"), ("..second", "pk_second")] {
        fs::create_dir(folder.path().join(name)).expect("made");
        fs::write(folder.path().join(name).join("api-key"), format!("{key}\n")).expect("written");
    }
    symlink("..first", folder.path().join("..data")).expect("linked");
    symlink("..data/api-key", folder.path().join("api-key")).expect("linked");
    let secret = folder.path().join("api-key");
    let text = format!("[workspaces.default]\napi_key_file = \"{}\"\n{}", secret.display(), clients(OLD));
    fs::write(folder.path().join("settings.toml"), text).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    assert_eq!(status(address, OLD).await, 502);
    symlink("..second", folder.path().join("..data_tmp")).expect("linked");
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).expect("renamed");
    until(async || reloads(admin, "api_key", "applied").await == 1.0).await;
    until(async || status(address, OLD).await == 200).await;
}

#[tokio::test]
async fn late_secret_is_read_after_its_settings() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = simulator(&["--api-key", "pk_second"]);
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, format!("[workspaces.default]\napi_key = \"pk_first\"\n{}", clients(OLD))).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    assert_eq!(status(address, OLD).await, 502);
    let secret = folder.path().join("api-key");
    let text = format!("[workspaces.default]\napi_key_file = \"{}\"\n{}", secret.display(), clients(OLD));
    fs::write(&settings, text).expect("written");
    until(async || reloads(admin, "api_key", "refused").await == 1.0).await;
    fs::write(&secret, "pk_second").expect("written");
    until(async || status(address, OLD).await == 200).await;
}
