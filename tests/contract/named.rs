//! Every setting, route, command, option, variable and error that the pages name exists, and is on its page.

use std::collections::{BTreeMap, BTreeSet};

use courier_token_broker::config;
use regex_lite::Regex;
use serde_json::Value;

use crate::open_api::{document, operations};
use crate::pages::{self, spans};
use crate::support::broker::Broker;
use crate::support::child::Program;
use crate::support::http::HttpRequest;

/// The key of every table, and of every setting with its schema. `*` stands for any name, `[]` for any item.
fn settings() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), config::schema())];
    while let Some((key, schema)) = open.pop() {
        let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            open.push((below(name), schema.clone()));
        }
        if schema["additionalProperties"].is_object() {
            open.push((below("*"), schema["additionalProperties"].clone()));
        }
        if schema["items"]["properties"].is_object() {
            open.push((format!("{key}[]"), schema["items"].clone()));
        }
        found.insert(key, schema);
    }
    found
}

/// Whether a setting is one value, not a table or a list of tables.
fn is_leaf(schema: &Value) -> bool {
    schema["properties"].is_null()
        && !schema["additionalProperties"].is_object()
        && schema["items"]["properties"].is_null()
}

/// The key in the form of [`settings`].
fn general(key: &str) -> String {
    let indices = Regex::new(r"\[[0-9]+\]").expect("a pattern").replace_all(key, "[]").into_owned();
    Regex::new(r"^(workspaces|profiles)\.[^.]+").expect("a pattern").replace(&indices, "$1.*").into_owned()
}

#[test]
fn settings_that_pages_name_exist() {
    let settings = settings();
    // A key such as `tokens.floor`, or a table such as `[[clients]]`, before anything else in its span.
    let word = Regex::new(r"^\[{0,2}([a-z]+[.\[][\]\[0-9A-Za-z_.-]*[\]0-9A-Za-z_])").expect("a pattern");
    let variable = Regex::new("COURIER_TOKEN_BROKER__([A-Z_0-9]+)").expect("a pattern");
    for page in pages::all() {
        for code in page.code() {
            let Some(found) = word.captures(&code) else { continue };
            let is_table = code.starts_with('[');
            let key = general(if is_table { found[1].trim_end_matches(']') } else { &found[1] });
            let section = key.split(['.', '[']).next().unwrap_or_default();
            let is_file = [".md", ".rs", ".toml", ".sock"].iter().any(|end| key.ends_with(end));
            // Workspaces are a table in the settings, and a list in `/status`.
            let is_status = key.starts_with("workspaces[");
            if settings.contains_key(section) && !is_file && !is_status {
                assert!(settings.contains_key(&key), "{} names the setting {key}", page.name);
            }
        }
        for found in variable.captures_iter(&page.text) {
            let key = general(&found[1].to_lowercase().replace("__", "."));
            let is_there = key == "section.key" || settings.contains_key(&key);
            assert!(is_there, "{} names the variable {}", page.name, &found[0]);
        }
    }
}

#[test]
fn page_of_settings_has_every_setting_with_its_default() {
    let settings = settings();
    let mut rest: BTreeSet<_> =
        settings.iter().filter(|(_, schema)| is_leaf(schema)).map(|(key, _)| key.clone()).collect();
    for row in pages::named("docs/settings.md").table("| key | default | |") {
        let names = spans(&row[0]);
        let table = names[0].rsplit_once('.').map_or("", |(table, _)| table);
        let keys: Vec<_> = names
            .iter()
            .map(|name| if name.contains('.') { general(name) } else { general(&format!("{table}.{name}")) })
            .collect();
        let defaults = spans(&row[1]);
        for (place, key) in keys.iter().enumerate() {
            let Some(schema) = settings.get(key) else { panic!("the page has {key}") };
            rest.remove(key);
            let shown = defaults.get(place).filter(|_| defaults.len() == keys.len());
            let shown = shown.and_then(|shown| format!("x = {shown}").parse::<toml::Table>().ok());
            if let (Some(shown), false) = (shown, schema["default"].is_null()) {
                let shown = serde_json::to_value(&shown["x"]).expect("JSON");
                let is_equal = is_alike(&shown, &schema["default"]);
                assert!(is_equal, "{key}: the page has {shown}, the code {}", schema["default"]);
            }
        }
    }
    assert_eq!(rest, BTreeSet::new(), "the page lacks these");
}

/// Whether two values are the same number, the same duration or equal otherwise.
fn is_alike(one: &Value, other: &Value) -> bool {
    let span = |value: &Value| humantime::parse_duration(value.as_str()?).ok();
    one == other
        || one.as_f64().is_some() && one.as_f64() == other.as_f64()
        || span(one).is_some() && span(one) == span(other)
}

#[tokio::test]
async fn routes_that_pages_name_exist() {
    let broker = Broker::start().await;
    let operations = operations(&document(&broker).await);
    let call = Regex::new(r#"\b(GET|POST|PUT|PATCH|DELETE) (/[^\s`"'?),:;|]*)"#).expect("a pattern");
    let path = Regex::new(r"^/[a-z0-9][a-z0-9/{}._-]*$").expect("a pattern");
    let is_like = |template: &str, path: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let mut pairs = template.iter().zip(&path);
        template.len() == path.len() && pairs.all(|(part, is)| part == is || part.starts_with('{'))
    };
    for page in pages::all() {
        let calls = call.captures_iter(&page.text).map(|found| (found[1].to_owned(), found[2].to_owned()));
        let files = ["/etc/", "/run/", "/var/", "/usr/", "/proc/", "/dev/", "/simulator/"];
        let is_path = |code: &String| path.is_match(code) && !files.iter().any(|folder| code.starts_with(folder));
        let paths = page.code().into_iter().filter(is_path).map(|path| (String::new(), path));
        for (method, path) in calls.chain(paths) {
            let is_there = operations.iter().any(|(known, template, _)| {
                // The beginning of several paths.
                let is_path =
                    is_like(template, &path) || method.is_empty() && template.starts_with(&format!("{path}/"));
                is_path && (method.is_empty() || *known == method)
            });
            if !is_there {
                let method = if method.is_empty() { "GET" } else { &method };
                let request = HttpRequest::new(method, &path.replace("NAME", "default"));
                let answer = crate::support::http::ask(broker.admin, &request).await;
                assert!(!matches!(answer.status, 404 | 405), "{} names {method} {path}: {answer:?}", page.name);
            }
        }
    }
    let text = pages::named("docs/api.md").text;
    for (method, path, _) in operations {
        assert!(text.contains(&format!("`{method} {path}")), "docs/api.md lacks {method} {path}");
    }
}

/// The commands in `--help`, each with its own help.
fn commands() -> BTreeMap<String, String> {
    let help = Program::new(["--help"]).run().stdout;
    let lines = help.iter().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with(' '));
    // The description of a command may go on in the next line.
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let mut commands: BTreeMap<_, _> = names
        .filter(|name| *name != "help")
        .map(|name| (name.to_owned(), Program::new([name, "--help"]).run().stdout.join("\n")))
        .collect();
    commands.insert(String::new(), help.join("\n"));
    commands
}

#[test]
fn commands_and_options_that_pages_name_exist() {
    let commands = commands();
    assert!(commands.len() > 8, "{commands:?}");
    let option = Regex::new("(?:^| )(--[a-z][a-z-]+)").expect("a pattern");
    let has = |help: &str, option: &str| help.split([' ', '\n', '=', ',']).any(|word| word == option);
    let mut named = BTreeSet::new();
    for page in pages::all() {
        for code in page.code() {
            named.insert(code.clone());
            let code = code.replace("cargo run --release -- ", "courier-token-broker ");
            if code.starts_with("--") {
                let option = code.split([' ', '=']).next().unwrap_or_default();
                assert!(commands.values().any(|help| has(help, option)), "{} names {option}", page.name);
            }
            let Some((before, call)) = code.split_once("courier-token-broker ") else { continue };
            let call = call.split(['|', '#', '>', ';']).next().unwrap_or_default();
            let first = call.split(' ').next().filter(|first| !first.starts_with("--")).unwrap_or_default();
            if let Some(help) = commands.get(first) {
                named.insert(first.to_owned());
                let mut options = option.captures_iter(call).map(|found| found[1].to_owned());
                let unknown = options.find(|option| !has(help, option) && option != "--config");
                assert_eq!(unknown, None, "{}: {code}", page.name);
            } else {
                // Other lines of a block are output.
                assert!(!matches!(before, "" | "$ "), "{} names the command {first}: {code}", page.name);
            }
        }
    }
    for name in commands.keys().filter(|name| !name.is_empty()) {
        assert!(named.contains(name), "no page names the command {name}");
    }
}

#[test]
fn variables_that_pages_name_are_in_the_help() {
    let help = &commands()[""];
    let variable = Regex::new(r"\bCOURIER_[A-Z_]+\b").expect("a pattern");
    for page in pages::all() {
        for found in variable.find_iter(&page.text).filter(|found| !found.as_str().contains("__")) {
            assert!(help.contains(found.as_str()), "{} names {}", page.name, found.as_str());
        }
    }
}

#[tokio::test]
async fn page_of_routes_has_every_error() {
    let document = document(&Broker::start().await).await;
    let examples = document["components"]["examples"].as_object().expect("examples");
    let of_courier = examples.iter().filter_map(|(name, example)| {
        let kind = example["value"]["type"].as_str()?;
        Some((name.rsplit_once('-')?.1.to_owned(), kind.to_owned()))
    });
    let in_code: BTreeSet<_> = of_courier.collect();
    let rows = pages::named("docs/api.md").table("| status | type | when |");
    let of_row = |row: &Vec<String>| {
        let kind = spans(&row[1])[0].to_owned();
        row[0].split(", ").map(|status| (status.to_owned(), kind.clone())).collect::<Vec<_>>()
    };
    let on_page: BTreeSet<_> = rows.iter().flat_map(of_row).collect();
    assert_eq!(on_page, in_code);
}
