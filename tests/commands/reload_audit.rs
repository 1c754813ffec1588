//! The audit log and the log name the settings, clients and keys that a reload changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use courier_token_broker::auth::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::child::{Program, Running};
use crate::support::http::{metric, until};
use crate::support::pki::{Authority, HOST};

const SUCCESSFUL: &str = "courier_token_broker_config_last_reload_successful";

struct ReloadTest {
    folder: TempDir,
    broker: Running,
    authority: Authority,
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl ReloadTest {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Settings with these additional lines.
    fn write(&self, clients: &[(&str, &str)], more: &str) {
        write(&self.path("settings.toml"), &text(self.folder.path(), clients, more));
    }

    /// The lines of the next reload.
    async fn reload(&self) -> Vec<Value> {
        let path = self.path("audit.log");
        let before = lines(&path).len();
        self.broker.signal(Signal::HUP);
        let is_last = |line: &Value| line["outcome"] == "refused" || line["what"] == "settings";
        until(async || lines(&path).iter().skip(before).any(is_last)).await;
        lines(&path)[before..].to_vec()
    }
}

fn text(folder: &Path, clients: &[(&str, &str)], more: &str) -> String {
    let path = |name: &str| folder.join(name);
    let clients = clients
        .iter()
        .map(|(name, key)| format!("[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{}\"\n", Digest::of(key)));
    format!(
        "{}[log]\naudit = {:?}\n[workspaces.default]\napi_key_file = {:?}\n[workspaces.eu]\napi_key = \"pk_eu\"\n\
         [server.tls]\ncertificate_file = {:?}\nprivate_key_file = {:?}\n[sessions]\nissuer = \"i\"\naudience = \"a\"\n\
         hs256_secret_file = {:?}\n{more}\n",
        clients.collect::<String>(),
        path("audit.log"),
        path("api-key"),
        path("tls.crt"),
        path("tls.key"),
        path("secret"),
    )
}

fn start() -> ReloadTest {
    let (folder, authority) = (TempDir::new().expect("a folder"), Authority::new());
    let identity = authority.sign(&[HOST]);
    write(&folder.path().join("api-key"), "pk_first");
    write(&folder.path().join("secret"), &"1".repeat(32));
    write(&folder.path().join("tls.crt"), &identity.certificate);
    write(&folder.path().join("tls.key"), &identity.key);
    let settings = folder.path().join("settings.toml");
    write(&settings, &text(folder.path(), &[("web", "key-of-web"), ("old", "key-of-old")], ""));
    let broker = Program::serve().config(&settings).start();
    let line = broker.line().unwrap_or_else(|| panic!("it ended: {}", broker.stderr()));
    assert!(line.contains("https://"), "{line}");
    ReloadTest { folder, broker, authority }
}

fn timeless(mut line: Value) -> Value {
    line.as_object_mut().expect("an object").remove("timestamp");
    line
}

#[tokio::test]
async fn reload_names_what_changed() {
    let test = start();
    let admin = test.broker.address("admin on ");
    let applied = |what: &str, changed: &str| json!({ "event": "reload", "who": "operator", "what": what, "outcome": "applied", "changed": changed });
    let said = |lines: Vec<Value>| lines.into_iter().map(timeless).collect::<Vec<_>>();
    assert_eq!(said(test.reload().await), [applied("settings", "nothing")]);
    // One client has another key, one is removed, one is added, and their order differs.
    test.write(&[("new", "key-of-new"), ("web", "another-key-of-web")], "[tokens]\ndefault_lifetime = \"2h\"\n");
    let changed = "clients.new (added), clients.old (removed), clients.web.key_sha256, tokens.default_lifetime";
    assert_eq!(said(test.reload().await), [applied("settings", changed)]);
    // Secrets in files.
    let identity = test.authority.sign(&[HOST]);
    write(&test.path("api-key"), "pk_second");
    write(&test.path("tls.crt"), &identity.certificate);
    write(&test.path("tls.key"), &identity.key);
    write(&test.path("secret"), &"2".repeat(32));
    let mut key = applied("api_key", "workspaces.default.api_key_file");
    key["workspace"] = "default".into();
    let tls = "server.tls.certificate_file, server.tls.private_key_file";
    let all = format!("{tls}, sessions.hs256_secret_file, workspaces.default.api_key_file");
    assert_eq!(said(test.reload().await), [key, applied("certificate", tls), applied("settings", &all)]);
    // A rejected reload is logged with its reason, and the next one still names all changes.
    write(&test.path("secret"), &"3".repeat(32));
    test.write(&[("new", "key-of-new")], "[tokens]\nfloor = 7\n[refresh]\nmode = \"x\"\n");
    let lines = test.reload().await;
    assert_eq!((lines.len(), &lines[0]["outcome"]), (1, &json!("refused")), "{lines:?}");
    let why = lines[0]["error"].as_str().expect("a text");
    assert!(why.contains("tokens.floor: ") && why.contains("; ") && why.contains("refresh.mode: "), "{why}");
    assert_eq!(metric(admin, SUCCESSFUL).await, 0.0);
    // A setting that needs a restart is not reported as changed.
    test.write(
        &[("new", "key-of-new"), ("web", "another-key-of-web")],
        "[tokens]\ndefault_lifetime = \"2h\"\n[store]\nbrokers = 7\n",
    );
    assert_eq!(said(test.reload().await), [applied("settings", "sessions.hs256_secret_file")]);
    assert_eq!(metric(admin, SUCCESSFUL).await, 1.0);
    let log = test.broker.stop().stderr;
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let found = |message: &str, field: &str, value: &str| {
        let count = log.iter().filter(|line| line["message"] == message && line[field] == value).count();
        assert_eq!(count, 1, "{message} {field} {value}: {log:?}");
    };
    found("reloaded settings and secrets", "changed", changed);
    found("reloaded settings and secrets", "changed", &all);
    found("reload rejected; keeping the running configuration", "error", why);
    found("reloaded, but these settings change only with a restart", "settings", "store.brokers");
}

#[tokio::test]
async fn warning_is_logged_at_the_start_and_once_when_it_is_new() {
    let test = start();
    test.broker.address("admin on ");
    fs::set_permissions(test.path("api-key"), fs::Permissions::from_mode(0o644)).expect("set");
    test.reload().await;
    test.reload().await;
    let log = test.broker.stop().stderr;
    assert_eq!(log.matches("workspaces.default.api_key_file: others on this machine can read").count(), 1, "{log}");

    let folder = TempDir::new().expect("a folder");
    let settings = folder.path().join("settings.toml");
    write(
        &settings,
        &format!(
            "[workspaces.default]\napi_key = \"pk\"\n[[clients]]\nname = \"a\"\nscopes = []\nkey_sha256 = \"{}\"\n",
            "0".repeat(64)
        ),
    );
    let broker = Program::serve().config(&settings).start();
    broker.addresses();
    let log = broker.stop().stderr;
    let warned: Vec<_> = log.lines().filter(|line| line.contains("\"WARN\"")).collect();
    assert!(warned.len() == 1 && warned[0].contains("clients[0].scopes: matches no scope"), "{log}");
}
