//! `serve` reloads its files when they change and on SIGHUP.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use courier_token_broker::auth::Digest;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::child::{ANY_PORT, Program, Running};
use crate::support::http::{Connection, HttpRequest};

const OLD: &str = "ctb_the-old-key";
const NEW: &str = "ctb_the-new-key";
/// Polls for half a minute.
const LOOKS: usize = 300;

fn clients(key: &str) -> String {
    format!("[[clients]]\nname = \"app\"\nkey_sha256 = \"{}\"\n", Digest::of(key))
}

async fn status(address: SocketAddr, key: &str) -> u16 {
    let ask = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).key(key);
    Connection::open(address).await.ask(&ask).await.status
}

async fn until(address: SocketAddr, key: &str, wanted: u16) {
    for _ in 0..LOOKS {
        if status(address, key).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{key} is not answered with {wanted}");
}

async fn counted(admin: SocketAddr, what: &str, outcome: &str) -> String {
    let text = Connection::open(admin).await.ask(&HttpRequest::get("/metrics")).await.body;
    let series = format!("courier_token_broker_reloads_total{{outcome=\"{outcome}\",what=\"{what}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).expect("the series").to_owned()
}

/// A simulator that accepts one API key.
fn courier(api_key: &str) -> (Running, SocketAddr) {
    let simulator = Program::new(["simulate-courier", "--listen", ANY_PORT, "--api-key", api_key]).start();
    let address = simulator.address("Courier simulator on ");
    (simulator, address)
}

fn serve(folder: &Path, courier: SocketAddr) -> Running {
    let settings = folder.join("settings.toml");
    Program::serve()
        .arguments([Path::new("--config"), &settings])
        .env("COURIER_BASE_URL", format!("http://{courier}"))
        .start()
}

#[tokio::test]
async fn changed_file_is_reloaded_and_an_invalid_one_rejected() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = courier("pk_test");
    let settings = folder.path().join("settings.toml");
    let workspace = "[workspaces.default]\napi_key = \"pk_test\"\n";
    fs::write(&settings, format!("{workspace}{}", clients(OLD))).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    assert_eq!((status(address, OLD).await, status(address, NEW).await), (200, 401));
    // In place.
    fs::write(&settings, format!("{workspace}{}", clients(NEW))).expect("written");
    until(address, NEW, 200).await;
    assert_eq!(status(address, OLD).await, 401);
    // The error is logged once, and the running configuration stays.
    fs::write(&settings, format!("{workspace}{}[tokens]\nfloor = 7\n", clients(OLD))).expect("written");
    for _ in 0..LOOKS {
        if counted(admin, "settings", "refused").await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((status(address, NEW).await, status(address, OLD).await), (200, 401));
    let log = broker.stderr();
    let rejected = log.lines().filter(|line| line.contains("reload rejected") && line.contains("tokens.floor"));
    assert_eq!(rejected.count(), 1, "{log}");
    assert!(!log.contains("pk_test"), "{log}");
    // The file is replaced by another one.
    let next = folder.path().join("next.toml");
    fs::write(&next, format!("{workspace}{}", clients(OLD))).expect("written");
    fs::rename(&next, &settings).expect("renamed");
    until(address, OLD, 200).await;
    assert_eq!(counted(admin, "settings", "applied").await, "2");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().code, Some(0));
}

#[tokio::test]
async fn secret_that_kubernetes_swaps_is_reloaded() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = courier("pk_second");
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
    until(address, OLD, 200).await;
    assert_eq!(counted(admin, "api_key", "applied").await, "1");
}

#[tokio::test]
async fn sighup_reloads_everything_and_ends_nothing() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = courier("pk_test");
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, format!("[workspaces.default]\napi_key = \"pk_test\"\n{}", clients(OLD))).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    let mut open = Connection::open(address).await;
    for count in 1..=3 {
        broker.signal(Signal::HUP);
        for _ in 0..LOOKS {
            if counted(admin, "settings", "applied").await == count.to_string() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(counted(admin, "settings", "applied").await, count.to_string());
        let ask = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).key(OLD);
        assert_eq!(open.ask(&ask).await.status, 200);
    }
}

#[tokio::test]
async fn late_secret_is_read_after_its_settings() {
    let folder = TempDir::new().expect("a folder");
    let (_simulator, courier) = courier("pk_second");
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, format!("[workspaces.default]\napi_key = \"pk_first\"\n{}", clients(OLD))).expect("written");
    let broker = serve(folder.path(), courier);
    let (address, admin) = broker.addresses();
    assert_eq!(status(address, OLD).await, 502);
    let secret = folder.path().join("api-key");
    let text = format!("[workspaces.default]\napi_key_file = \"{}\"\n{}", secret.display(), clients(OLD));
    fs::write(&settings, text).expect("written");
    for _ in 0..LOOKS {
        if counted(admin, "api_key", "refused").await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fs::write(&secret, "pk_second").expect("written");
    until(address, OLD, 200).await;
}
