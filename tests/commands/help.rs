//! `--help`, and errors of usage.

use crate::support::child::Program;

const FAULTS: &[&str] =
    &["--latency", "--latency-jitter", "--error-rate", "--error-kind", "--rate-limit", "--outage", "--opaque-tokens"];

#[test]
fn each_command_has_its_own_help_that_names_each_flag() {
    let serve = ["--config", "--listen", "--admin-listen", "--log-level", "--log-json"];
    let sandbox = [&["--listen", "--admin-listen", "--courier-listen"], FAULTS].concat();
    let simulate = [&["--listen", "--api-key"], FAULTS].concat();
    let plan = "--trace --workload --users --days --seed --lifetime --floor --budget --burst --latency --extra-calls \
        --brokers --json --plot --path --user-field --broken-lines --disorder";
    let plan: Vec<_> = plan.split(' ').collect();
    for (command, about, flags) in [
        ("serve", "Runs the broker", &serve[..]),
        ("sandbox", "Runs a broker and a Courier simulator", &sandbox),
        ("simulate-courier", "Runs the Courier simulator alone", &simulate),
        ("check", "Checks the settings", &["--config", "--probe"]),
        ("client-key", "Makes a client key", &["[NAME]", "--admin"]),
        ("store-key", "Makes a key file", &["<FILE>"]),
        ("schema", "Prints the JSON Schema of the settings", &[]),
        ("health", "Asks the running broker", &["--config", "--admin-listen"]),
        ("completions", "Prints the completions", &["<SHELL>"]),
        ("man", "Prints the man page", &["[FOLDER]"]),
        ("plan", "Shows what each mode of renewal would do", &plan),
    ] {
        for arguments in [[command, "--help"], ["help", command]] {
            let help = Program::new(arguments).run();
            assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help:?}");
            let first = help.stdout.first().map(String::as_str).unwrap_or_default();
            assert!(first.starts_with(about), "{command}: {first}");
            let usage = format!("Usage: courier-token-broker {command}");
            assert!(help.stdout.iter().any(|line| line.starts_with(&usage)), "{help:?}");
            for flag in flags {
                let described = |line: &&String| {
                    let rest = line.trim_start().strip_prefix(flag);
                    rest.is_some_and(|rest| rest.starts_with(' ') && rest.contains("  ") || rest.is_empty())
                };
                assert_eq!(help.stdout.iter().filter(described).count(), 1, "{command} {flag}: {help:?}");
            }
            let examples = help.stdout.iter().filter(|line| line.starts_with("  courier-token-broker plan --"));
            assert_eq!(examples.count(), if command == "plan" { 2 } else { 0 }, "{help:?}");
        }
    }
}

#[test]
fn programs_help_names_commands_exit_codes_and_variables() {
    let help = Program::new(["--help"]).run();
    let text = help.stdout.join("\n");
    for part in [
        "serve",
        "sandbox",
        "simulate-courier",
        "check",
        "client-key",
        "store-key",
        "health",
        "completions",
        "man",
        "Exit codes: 0 done, 2 bad usage or settings, 1 anything else",
        "COURIER_API_KEY",
        "COURIER_BASE_URL",
        "COURIER_TOKEN_BROKER_CLIENT_KEY",
        "COURIER_TOKEN_BROKER_CLIENT_SCOPES",
        "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME",
        "COURIER_TOKEN_BROKER__SECTION__KEY",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let version = Program::new(["--version"]).run();
    let [line] = &version.stdout[..] else { panic!("{version:?}") };
    // The commit follows where the build knew it.
    let rest = line.strip_prefix(concat!("courier-token-broker ", env!("CARGO_PKG_VERSION")));
    assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" (") && rest.ends_with(')')), "{line}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["serve", "--config"],
        &["serve", "--log-json=yes"],
        &["serve", "extra"],
        &["--listen", "127.0.0.1:0", "serve"],
        &["sandbox", "--listen", "here"],
        &["sandbox", "--config", "x.toml"],
        &["sandbox", "--error-rate", "2"],
        &["sandbox", "--error-kind", "418"],
        &["sandbox", "--latency", "-1s"],
        &["simulate-courier", "--outage", "30s..10s"],
        &["simulate-courier", "--rate-limit", "0"],
        &["check", "--listen", "127.0.0.1:0"],
        &["client-key"],
        &["client-key", ""],
        &["client-key", "two", "names"],
        &["client-key", "a name"],
        &["client-key", "quote\"d"],
        &["client-key", "-x"],
        &["client-key", "--admin", "name"],
        &["store-key"],
        &["health", "--probe"],
        &["completions"],
        &["completions", "csh"],
        &["man", "two", "folders"],
        &["store-key", "two", "files"],
        &["plan"],
        &["plan", "--trace"],
        &["plan", "--trace", "a", "--workload", "office"],
        &["plan", "--trace", "a", "--users", "5"],
        &["plan", "--trace", "a", "--seed", "5"],
        &["plan", "--workload", "office", "--broken-lines", "5"],
        &["plan", "--workload", "office", "--disorder", "5s"],
        &["plan", "--workload", "office", "--path", "/x"],
        &["plan", "--workload", "office", "--user-field", "user"],
        &["plan", "--workload", "office", "--burst", "5"],
        &["plan", "--workload", "office", "--users", "-5"],
        &["plan", "--workload", "office", "--lifetime", "soon"],
        &["plan", "--workload", "office", "--lifetime", "5M"],
        &["plan", "--workload", "office", "--latency", "-5s"],
        &["plan", "--workload", "office", "--floor", "half"],
        &["plan", "--workload", "office", "--brokers", "few"],
        &["plan", "--config", "x.toml"],
    ] {
        let ended = Program::new(arguments).run();
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: ") && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
}
