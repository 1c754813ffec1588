//! The client of the environment: its variables and their errors.

use crate::support::child::{Ended, Program};

const KEY: (&str, &str) = ("COURIER_TOKEN_BROKER_CLIENT_KEY", "ctb_never-to-be-seen-by-anybody");
pub const SCOPES: &str = "COURIER_TOKEN_BROKER_CLIENT_SCOPES";
pub const MAX_LIFETIME: &str = "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME";

fn check(environment: &[(&str, &str)]) -> Ended {
    let program = Program::new(["check"]).env("COURIER_API_KEY", "pk_prod_never-to-be-seen");
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

#[test]
fn client_of_the_environment_may_ask_for_the_documented_scopes_and_the_longest_lifetime() {
    let ended = check(&[KEY, ("COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME", "90d")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // The text after the settings is not TOML.
    let lines = ended.stdout.iter().take_while(|line| !line.starts_with("OK"));
    let shown: toml::Table = lines.cloned().collect::<Vec<_>>().join("\n").parse().expect("TOML");
    let client = &shown["clients"][0];
    let scopes: Vec<_> =
        client["scopes"].as_array().expect("a list").iter().filter_map(|scope| scope.as_str()).collect();
    for scope in ["read:messages", "write:user-tokens", "write:brands:*", "tenant:*", "tenants:*", "write:events"] {
        assert!(scopes.contains(&scope), "{scopes:?}");
    }
    assert!(!scopes.contains(&"*"), "{scopes:?}");
    assert_eq!(client["max_lifetime"].as_str(), Some("90d"));
    assert_eq!(client["users"].as_array().map(Vec::len), Some(1));
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
