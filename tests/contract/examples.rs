//! The documents against what other programs make of them: schemathesis tries the OpenAPI document on a broker, and a
//! validator of JSON Schema reads the settings of the pages.

use std::process::Command;

use courier_token_broker::config;
use serde_json::{Value, json};

use crate::pages;
use crate::python;
use crate::support::child::{Program, clean_environment, file, simulator};

const CLIENT_KEY: &str = "the-key-of-the-only-client-of-this-test";

/// Each seed is 1,500 to 1,700 cases: `CONTRACT_SEEDS=7` tries 10,000 instead of those of one seed.
#[test]
#[ignore = "needs schemathesis: tests/run installs it"]
fn broker_answers_as_its_document_says() {
    let seeds: u32 = std::env::var("CONTRACT_SEEDS").map_or(1, |text| text.parse().expect("a number"));
    let (_courier, address) = simulator(&[]);
    // The document's longest duration, and no limit that a case could reach.
    let settings = file(
        "[tokens]\nmax_lifetime = \"36500d\"\n[workspaces.default.budget]\nrequests_per_second = 1e5\n\
         burst = 1_000_000\n[log]\naudit = \"off\"\n",
    );
    let broker = Program::serve().config(settings.path()).keys("pk", CLIENT_KEY).courier(address);
    let broker = broker.env("COURIER_TOKEN_BROKER_CLIENT_SCOPES", "*").start();
    let (address, _) = broker.addresses();
    for seed in 1..=seeds {
        let ended = schemathesis(&format!("http://{address}/openapi.json"), seed).output().expect("it starts");
        println!("{}", String::from_utf8_lossy(&ended.stdout));
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{errors}\nthe broker said: {}", broker.stderr());
    }
}

/// Tries the operations of a document, with 200 examples of each; the time grows faster than their number.
fn schemathesis(document: &str, seed: u32) -> Command {
    let mut command = Command::new(python::program("schemathesis"));
    clean_environment(&mut command);
    command.args(["--config-file".as_ref(), python::file("schemathesis.toml").as_os_str()]);
    command.args(["run", document, "--header", &format!("Authorization: Bearer {CLIENT_KEY}")]);
    command.args(["--max-examples", "200", "--seed", &seed.to_string()]);
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", python::file(""));
    // Nothing is written beside the tests.
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(python::home());
    command
}

#[test]
#[ignore = "needs a validator of JSON Schema: tests/run installs it"]
fn settings_of_pages_fit_the_schema_and_mistakes_do_not() {
    let on_pages = pages::all().into_iter().flat_map(|page| page.blocks("toml"));
    let good = on_pages.chain([include_str!("../../config/default.toml").to_owned()]);
    let mistakes = [
        "[tokens]\nflor = 0.5",
        "[tokens]\nfloor = \"0.5\"",
        "[tokens]\nfloor = 2.0",
        "[tokens]\nhard_floor = \"5M\"",
        "[tokens]\nhard_floor = 30",
        "[server]\nlisten = 8080",
        "[server.limits]\nstreams = 0",
        "[server.limits]\nstreams = 1.5",
        "[refresh]\nmode = \"always\"",
        "[workspaces.default]\nregion = \"asia\"",
        "[[clients]]\nuser = [\"*\"]",
        "[clients]\nname = \"web\"",
        "[store]\nkind = \"file\"",
        "[log]\naudit = \"file\"",
        "[sessions]\nallowed_origins = \"https://app.example.com\"",
        "[unknown]",
    ];
    let documents = good.map(|text| (text, true)).chain(mistakes.map(|text| (text.to_owned(), false)));
    let documents: Vec<_> = documents
        .map(|(text, is_good)| {
            let value: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
            json!({ "text": text, "value": value, "is_good": is_good })
        })
        .collect();
    assert!(documents.len() > 20, "only {} documents", documents.len());
    validate(&json!({ "schema": config::schema(), "documents": documents }));
}

fn validate(input: &Value) {
    let input = file(input.to_string());
    let mut python = Command::new(python::program("python"));
    python.arg("-I").arg(python::file("validate.py")).arg(input.path());
    let ended = Program::of(python).run();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}
