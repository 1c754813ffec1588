//! The client of the environment: its variables and their errors.

use crate::support::child::{Ended, Program};

const KEY: (&str, &str) = ("COURIER_TOKEN_BROKER_CLIENT_KEY", "ctb_never-to-be-seen-by-anybody");
const SCOPES: &str = "COURIER_TOKEN_BROKER_CLIENT_SCOPES";
const MAX_LIFETIME: &str = "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME";

fn check(environment: &[(&str, &str)]) -> Ended {
    let program = Program::new(["check"]).env("COURIER_API_KEY", "pk_prod_never-to-be-seen");
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

/// The one client that `check` shows.
#[track_caller]
fn client(environment: &[(&str, &str)]) -> toml::Table {
    let ended = check(environment);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // The text after the settings is not TOML.
    let lines = ended.stdout.iter().take_while(|line| !line.starts_with("OK"));
    let shown = lines.cloned().collect::<Vec<_>>().join("\n");
    let table: toml::Table = shown.parse().expect("TOML");
    table["clients"][0].as_table().expect("a client").clone()
}

#[track_caller]
fn scopes(client: &toml::Table) -> Vec<&str> {
    client["scopes"].as_array().expect("a list").iter().map(|scope| scope.as_str().expect("a text")).collect()
}

#[test]
fn client_of_the_environment_may_ask_for_the_documented_scopes_and_the_longest_lifetime() {
    let longest = ("COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME", "90d");
    let client = client(&[KEY, longest]);
    let scopes = scopes(&client);
    for scope in ["read:messages", "write:user-tokens", "write:brands:*", "tenant:*", "tenants:*", "write:events"] {
        assert!(scopes.contains(&scope), "{scopes:?}");
    }
    assert!(!scopes.contains(&"*"), "{scopes:?}");
    assert_eq!(client["max_lifetime"].as_str(), Some("90d"));
    assert_eq!(client["users"].as_array().map(Vec::len), Some(1));
}

#[test]
fn variables_narrow_the_client_of_the_environment() {
    let client = client(&[KEY, (SCOPES, "inbox:*, read:brands\tread:preferences,,\r\n"), (MAX_LIFETIME, " 1h 30m ")]);
    assert_eq!(scopes(&client), ["inbox:*", "read:brands", "read:preferences"]);
    assert_eq!(client["max_lifetime"].as_str(), Some("1h 30m"));
}

#[test]
fn bad_variable_is_named_and_its_value_is_not_repeated() {
    let long = "secret".repeat(50);
    for (name, value, wanted) in [
        (SCOPES, "", "must be scopes between commas or spaces"),
        (SCOPES, " , ", "must be scopes between commas or spaces"),
        (SCOPES, &long, "must be scopes between commas or spaces"),
        (MAX_LIFETIME, "", "must be a duration"),
        (MAX_LIFETIME, "secret", "must be a duration"),
        (MAX_LIFETIME, "86400", "must be a duration"),
        (MAX_LIFETIME, "1month", "must be a duration"),
        (MAX_LIFETIME, "0s", "must be a duration of whole seconds"),
        (MAX_LIFETIME, "1500ms", "must be a duration of whole seconds"),
    ] {
        let ended = check(&[KEY, (name, value)]);
        assert_eq!(ended.code, Some(2), "{name}={value}: {ended:?}");
        let line = ended.stderr.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.contains(wanted), "{name}={value}: {ended:?}");
        assert!(!ended.stderr.contains("secret"), "{ended:?}");
    }
}

/// A limit without effect is worse than no limit.
#[test]
fn limit_without_a_client_of_the_environment_is_refused() {
    for (name, value) in [(SCOPES, "inbox:*"), (MAX_LIFETIME, "1h"), (SCOPES, "")] {
        for key in [&[][..], &[("COURIER_TOKEN_BROKER_CLIENT_KEY", "")]] {
            let ended = check(&[key, &[(name, value)]].concat());
            assert_eq!(ended.code, Some(2), "{ended:?}");
            let wanted = format!("{name}: has no effect without COURIER_TOKEN_BROKER_CLIENT_KEY");
            assert!(ended.stderr.contains(&wanted), "{ended:?}");
        }
    }
}
