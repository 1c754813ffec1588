//! `check`: the settings in force, and the probe of Courier.

use crate::support::child::{ANY_PORT, Ended, Program, settings, simulator};
use crate::support::pki::Authority;

const KEY: &str = "pk_prod_never-to-be-seen";
const CLIENT_KEY: &str = "ctb_never-to-be-seen-either";

/// Runs `check` with an API key and a client for files that have none.
fn check(text: &str, environment: &[(&str, &str)]) -> Ended {
    let file = settings(text);
    let program = Program::new(["check"]).config(file.path());
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

/// The settings that `check` prints before its last line.
#[track_caller]
fn shown(ended: &Ended) -> String {
    let (last, settings) = ended.stdout.split_last().expect("lines");
    assert!(last.starts_with("OK: "), "{ended:?}");
    settings.join("\n")
}

const KEYS: [(&str, &str); 2] = [("COURIER_API_KEY", KEY), ("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY)];

#[test]
fn check_prints_the_settings_in_force_with_secrets_redacted() {
    let text = format!("[tokens]\nfloor = 0.25\n[workspaces.eu]\napi_key = \"{KEY}-eu\"\n");
    let hard_floor = ("COURIER_TOKEN_BROKER__TOKENS__HARD_FLOOR", "45s");
    let ended = check(&text, &[KEYS[0], KEYS[1], hard_floor]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let shown = shown(&ended);
    assert!(!shown.contains("never-to-be-seen"), "{shown}");
    let table: toml::Table = shown.parse().expect("TOML");
    assert_eq!(table["tokens"]["floor"].as_float(), Some(0.25));
    assert_eq!(table["tokens"]["hard_floor"].as_str(), Some("45s"));
    for workspace in ["default", "eu"] {
        assert_eq!(table["workspaces"][workspace]["api_key"].as_str(), Some("[redacted]"));
    }
}

#[test]
fn output_of_check_is_valid_settings() {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\nshutdown_timeout = \"0s\"\n\
         [tokens]\nmax_lifetime = \"90d\"\ndefault_lifetime = \"45d\"\nhard_floor = \"1500ms\"\n\
         [workspaces.default]\napi_key = \"{KEY}\"\n[profiles]\nMixed = [\"a:b\"]\n\
         [[clients]]\nname = \"a \\\"b\\\"\"\nkey_sha256 = \"{}\"\nusers = [\"x*\"]\nmax_lifetime = \"80d\"\n",
        "0".repeat(64)
    );
    let first = check(&text, &[]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let second = check(&shown(&first), &[]);
    assert_eq!((second.code, second.stderr.as_str()), (Some(0), ""), "{second:?}");
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn tls_and_limits_are_shown() {
    let authority = Authority::new();
    let identity = authority.sign(&["a"]);
    let path = |name, text| authority.file(name, text).to_str().expect("text").to_owned();
    let (certificate, key) = (path("crt", &identity.certificate), path("key", &identity.key));
    // With TLS, an address other than loopback needs no consent.
    let text = format!(
        "[server]\nlisten = [\"0.0.0.0:8443\", \"unix:/run/x\", \"systemd\"]\n[server.limits]\nstreams = 7\n\
         [server.tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"\n\
         client_ca_file = \"{certificate}\"\n[[clients]]\nname = \"a\"\ncertificate_names = [\"a.internal\"]\n"
    );
    let ended = check(&text, &KEYS);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let shown = shown(&ended);
    assert!(!shown.contains("BEGIN"), "{shown}");
    let table: toml::Table = shown.parse().expect("TOML");
    assert_eq!(table["server"]["tls"]["certificate_file"].as_str(), Some(certificate.as_str()));
    assert_eq!(table["server"]["limits"]["streams"].as_integer(), Some(7));
    assert_eq!(table["server"]["limits"]["handshake_timeout"].as_str(), Some("5s"));
    assert_eq!(table["clients"][0]["certificate_names"][0].as_str(), Some("a.internal"));
}

#[test]
fn probe_reports_whether_courier_takes_the_key() {
    let (_simulator, courier) = simulator(&["--api-key", KEY]);
    let probe = |key: &str, base_url: String| {
        let program = Program::new(["check", "--probe"]).env("COURIER_API_KEY", key);
        program.env("COURIER_BASE_URL", base_url).env("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY).run()
    };
    let good = probe(KEY, format!("http://{courier}"));
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""), "{good:?}");
    let shown = shown(&good);
    assert!(shown.lines().any(|line| line.starts_with("# workspace default: token issued in")), "{good:?}");
    assert!(shown.parse::<toml::Table>().is_ok(), "{good:?}");

    let unused = std::net::TcpListener::bind(ANY_PORT).and_then(|socket| socket.local_addr()).expect("a port");
    for (key, address, wanted) in [("pk_wrong-secret", courier, "401"), (KEY, unused, "connection refused (")] {
        let bad = probe(key, format!("http://{address}"));
        assert_eq!(bad.code, Some(1), "{bad:?}");
        let line = bad.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(line.starts_with("error: workspace default: ") && line.contains(wanted), "{bad:?}");
        assert!(!line.contains('\n') && !line.contains("never-to-be-seen") && !line.contains("secret"), "{bad:?}");
    }
}
