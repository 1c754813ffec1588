//! The settings of the Redis store: what is refused, warned of and shown, and the probe of a real server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use courier_token_broker::store::generate_key;
use rustix::process::Signal;
use tempfile::NamedTempFile;

use super::refusals;
use super::settings::{WORKSPACE, check, client, passes_with};
use crate::support::child::{Ended, Program, Running, file, settings, simulator};
use crate::support::http::until;
use crate::support::pki::Authority;
use crate::support::redis_server::RedisServer;

const PASSWORD: &str = "hunter2-of-redis";

fn key_file() -> NamedTempFile {
    file(generate_key().expect("randomness"))
}

/// `[store]` in Redis with this key file and these further lines.
fn store(key_file: &Path, more: &str) -> String {
    format!("[store]\nkind = \"redis\"\nkey_file = {key_file:?}\n{more}\n")
}

fn of_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn invalid_redis_setting_is_refused_with_its_place() {
    let key = key_file();
    let url = "url = \"redis://:hunter2@127.0.0.1:1\"\n";
    for (text, parts) in [
        (String::new(), &["store.url", "must be the URL of Redis"][..]),
        ("url = []".to_owned(), &["store.url", "must be the URL of Redis"]),
        ("url = 5".to_owned(), &["store.url", "a string or a list of strings"]),
        ("url = \"\"".to_owned(), &["store.url", "is empty"]),
        ("url = \"hunter2\"".to_owned(), &["store.url", "write `redis://HOST:PORT`"]),
        ("url = \"http://u:hunter2@h\"".to_owned(), &["store.url", "write `redis://HOST:PORT`"]),
        ("url = \"redis://:hunter2@h:port\"".to_owned(), &["store.url", "write `redis://HOST:PORT`"]),
        ("url = \"redis://h/hunter2\"".to_owned(), &["store.url", "`/NUMBER` for a database"]),
        ("url = \"redis://h?protocol=hunter2\"".to_owned(), &["store.url", "write `redis://HOST:PORT`"]),
        ("url = \"redis://:hunter2 @h\"".to_owned(), &["store.url", "white space"]),
        ("url = \"rediss://:hunter2@h/#insecure\"".to_owned(), &["store.url", "store.ca_file"]),
        ("url = [\"redis://:hunter2@a\", \"redis://b\"]".to_owned(), &["store.url", "`single` has one URL"]),
        (format!("{url}topology = \"hunter2\""), &["store.topology", "\"single\", \"sentinel\" or \"cluster\""]),
        ("url = \"redis://h/1\"\ntopology = \"cluster\"".to_owned(), &["store.url", "have no database number"]),
        (format!("{url}topology = \"sentinel\""), &["store.sentinel_master", "name that the Sentinels have"]),
        (format!("{url}username = \"hunter2\""), &["store.username", "needs store.password_file"]),
        (format!("{url}password_file = \"/hunter2\""), &["store.password_file", "no such file"]),
        (format!("{url}password_file = \"/dev/null\""), &["store.password_file", "is empty"]),
        (format!("{url}ca_file = \"/hunter2\""), &["store.ca_file", "no such file"]),
        (
            "url = \"rediss://:hunter2@h\"\nca_file = \"/etc/hostname\"".to_owned(),
            &["store.ca_file", "holds no certificate in PEM"],
        ),
        (format!("{url}timeout = \"4ms\""), &["store.timeout", "from 5ms to 1s"]),
        (format!("{url}timeout = \"1001ms\""), &["store.timeout", "from 5ms to 1s"]),
        (format!("{url}brokers = 0"), &["store.brokers", "from 1 to 1000"]),
        (format!("{url}brokers = 1001"), &["store.brokers", "from 1 to 1000"]),
    ] {
        refusals::is_refused_in_a_file(&format!("{}{}", refusals::WORKSPACE, store(key.path(), &text)), parts);
    }
    for (line, parts) in [
        ("", &["store.key_file", "courier-token-broker store-key"][..]),
        ("key_file = \"/hunter2\"", &["store.key_file", "no such file"]),
        ("key_file = \"/dev/null\"", &["store.key_file", "is empty"]),
    ] {
        let text = format!("{}[store]\nkind = \"redis\"\n{url}{line}\n", refusals::WORKSPACE);
        refusals::is_refused_in_a_file(&text, parts);
    }
}

#[test]
fn redis_settings_without_effect_are_warned_of() {
    let key = key_file();
    let of = |store: &str| check(&format!("{WORKSPACE}{store}\n{}", client("")));
    let of_redis = "url = \"redis://h\"\ntopology = \"sentinel\"\nsentinel_master = \"m\"\nusername = \"u\"\npassword_file = \"/p\"\n\
                    ca_file = \"/c\"\ntimeout = \"10ms\"\nbrokers = 3";
    let for_redis = |setting: &str| format!("store.{setting}: has no effect: it is for store.kind = \"redis\"");
    let settings = ["url", "topology", "sentinel_master", "username", "password_file", "ca_file", "timeout", "brokers"];
    let mut parts = vec![
        "store.path: has no effect: it is for store.kind = \"disk\"".to_owned(),
        "store.key_file: has no effect: it is for store.kind = \"disk\" or \"redis\"".to_owned(),
    ];
    parts.extend(settings.map(for_redis));
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    passes_with(&of(&format!("[store]\npath = \"/x\"\nkey_file = \"/k\"\n{of_redis}")), &parts);
    let disk = format!("[store]\nkind = \"disk\"\npath = \"/x\"\nkey_file = {:?}\n{of_redis}", key.path());
    passes_with(&of(&disk), &parts[2..]);
    let redis = |more: &str| of(&store(key.path(), more));
    passes_with(&redis("url = \"redis://h\"\npath = \"/x\""), &parts[..1]);
    // The defaults may be repeated.
    passes_with(&of("[store]\ntopology = \"single\"\ntimeout = \"50ms\"\nbrokers = 10"), &[]);
    passes_with(
        &redis("url = \"redis://h\"\nsentinel_master = \"m\""),
        &["store.sentinel_master: has no effect: it is for store.topology = \"sentinel\""],
    );
    let authority = Authority::new();
    let ca = authority.file("ca.crt", &authority.pem());
    of_mode(&ca, 0o600);
    let with_ca = |url: &str| redis(&format!("url = \"{url}\"\nca_file = {ca:?}"));
    passes_with(&with_ca("redis://h"), &["store.ca_file: has no effect: TLS is for a URL that begins with rediss://"]);
    passes_with(&with_ca("rediss://h"), &[]);
    of_mode(&ca, 0o602);
    passes_with(&with_ca("rediss://h"), &["store.ca_file: others on this machine can change the file"]);
}

#[test]
fn password_of_redis_that_others_can_read_is_warned_of() {
    let (key, password, api_key) = (key_file(), file(PASSWORD), file("pk_test"));
    let workspace = format!("[workspaces.default]\napi_key_file = {:?}\n", api_key.path());
    let text = |more: &str| format!("{workspace}{}{}", store(key.path(), more), client(""));
    let in_file = text(&format!("url = \"redis://h\"\npassword_file = {:?}", password.path()));
    passes_with(&check(&in_file), &[]);
    for path in [key.path(), password.path()] {
        of_mode(path, 0o644);
    }
    let part =
        |key: &str| format!("store.{key}: others on this machine can read or change the file (its mode is 0644)");
    passes_with(&check(&in_file), &[&part("key_file"), &part("password_file")]);
    of_mode(key.path(), 0o600);
    for (url, is_secret) in [
        ("\"redis://h\"", false),
        ("\"redis://:hunter2@h\"", true),
        ("\"unix:///run/redis.sock?pass=hunter2\"", true),
        ("[\"redis://:hunter2@h\"]", true),
    ] {
        let file = settings(&text(&format!("url = {url}")));
        of_mode(file.path(), 0o644);
        let ended = Program::new(["check", "--config"]).arguments([file.path()]).run();
        let part = "store.url: others on this machine can read or change this file (its mode is 0644)";
        passes_with(&ended, &[part][..usize::from(is_secret)]);
        assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    }
}

#[test]
fn check_shows_where_redis_is_but_no_password() {
    let key = key_file();
    let url = "url = [\"redis://hunter2:hunter2@127.0.0.1:6379/1\", \"redis://127.0.0.2\"]\n";
    let more = format!("{url}topology = \"sentinel\"\nsentinel_master = \"tokens\"");
    let first = check(&format!("{WORKSPACE}{}{}", store(key.path(), &more), client("")));
    passes_with(&first, &[]);
    let (_, lines) = first.stdout.split_last().expect("lines");
    let shown = lines.join("\n");
    assert!(!shown.contains("hunter2"), "{shown}");
    let table: toml::Table = shown.parse().expect("TOML");
    let urls = ["redis://[redacted]@127.0.0.1:6379/1", "redis://127.0.0.2"].map(toml::Value::from);
    assert_eq!(table["store"]["url"].as_array().map(Vec::as_slice), Some(&urls[..]));
    assert_eq!(table["store"]["timeout"].as_str(), Some("50ms"));
    assert_eq!(check(&shown).stdout, first.stdout);
    // The variable has several URLs between commas.
    let file = settings(&format!("{WORKSPACE}{}{}", store(key.path(), &more.replace(url, "")), client("")));
    let program = Program::new(["check"]).config(file.path());
    let ended = program.env("COURIER_TOKEN_BROKER__STORE__URL", "redis://:hunter2@127.0.0.1, redis://127.0.0.2").run();
    passes_with(&ended, &[]);
    assert!(ended.stdout.iter().any(|line| line.contains("redis://[redacted]@127.0.0.1")), "{ended:?}");
}

/// A Courier, a Redis and their settings.
struct Probed {
    redis: RedisServer,
    courier: String,
    _simulator: Running,
}

impl Probed {
    async fn start(arguments: &[&str]) -> Self {
        let (simulator, courier) = simulator(&["--api-key", "pk_test"]);
        Self { redis: RedisServer::start(arguments).await, courier: format!("http://{courier}"), _simulator: simulator }
    }

    fn probe(&self, key_file: &Path, more: &str) -> Ended {
        let more = format!("url = \"{}\"\n{more}", self.redis.url());
        let file = settings(&format!("{WORKSPACE}{}{}", store(key_file, &more), client("")));
        Program::new(["check", "--probe"]).config(file.path()).env("COURIER_BASE_URL", &self.courier).run()
    }

    /// Checks that the probe failed with one line, which names the server.
    #[track_caller]
    fn is_failed(&self, ended: &Ended, part: &str) {
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let line = ended.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(line.starts_with(&format!("error: store: {}: ", self.redis.address())), "{ended:?}");
        assert!(line.contains(part) && !line.contains('\n') && !line.contains("hunter2"), "{ended:?}");
        assert!(ended.stdout.iter().any(|line| line.starts_with("# workspace default: ")), "{ended:?}");
    }
}

#[tokio::test]
async fn probe_reports_what_redis_is_like() {
    let mut probed = Probed::start(&[]).await;
    let key = key_file();
    let good = probed.probe(key.path(), "");
    passes_with(&good, &[]);
    for part in ["version ", "no fleet has used it yet", "maxmemory-policy noeviction"] {
        let start = format!("# store {}: {part}", probed.redis.address());
        assert!(good.stdout.iter().any(|line| line.starts_with(&start)), "{start}: {good:?}");
    }
    probed.redis.say("CONFIG SET maxmemory-policy allkeys-lru").await;
    passes_with(&probed.probe(key.path(), ""), &["maxmemory-policy is allkeys-lru"]);
    probed.redis.say("SET ctb:{f}:k sealed-by-others").await;
    probed.is_failed(&probed.probe(key.path(), ""), "no key of store.key_file opens what the fleet has sealed");
    probed.redis.say("REPLICAOF 127.0.0.1 1").await;
    probed.is_failed(&probed.probe(key.path(), ""), "is a replica");
    probed.redis.kill();
    probed.is_failed(&probed.probe(key.path(), ""), "refused");
}

#[tokio::test]
async fn probe_reports_whether_redis_takes_the_password() {
    let probed = Probed::start(&["--requirepass", PASSWORD]).await;
    let (key, right, wrong) = (key_file(), file(PASSWORD), file("hunter2-of-others"));
    let probe = |password: &NamedTempFile| probed.probe(key.path(), &format!("password_file = {:?}", password.path()));
    passes_with(&probe(&right), &[]);
    probed.is_failed(&probe(&wrong), "it refused the user or the password");
    probed.is_failed(&probed.probe(key.path(), ""), "NOAUTH");
}

#[tokio::test]
async fn reload_names_a_changed_url_and_does_not_show_it() {
    let text = |url: &str| format!("{WORKSPACE}{}[store]\nurl = \"{url}\"\n", client(""));
    let file = settings(&text("redis://:hunter2@one"));
    let broker = Program::serve().config(file.path()).start();
    broker.addresses();
    fs::write(file.path(), text("redis://:hunter2@two")).expect("written");
    broker.signal(Signal::HUP);
    until(async || broker.stderr().contains("change only with a restart")).await;
    let log = broker.stderr();
    let line = log.lines().find(|line| line.contains("change only with a restart")).expect("a line");
    assert!(line.contains("store.url") && !log.contains("hunter2"), "{log}");
}
