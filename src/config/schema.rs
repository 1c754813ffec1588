//! The JSON Schema of the settings, for editors: made from the settings' types, with the comments of `default.toml`.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::raw::Raw;

const DOCUMENTED: &str = include_str!("../../config/default.toml");

/// The least and the greatest value of numbers; a test compares them with the checks.
const RANGES: &[(&str, f64, f64)] = &[
    ("server.limits.connections", 1.0, 1e6),
    ("server.limits.connections_per_ip", 0.0, 1e6),
    ("server.limits.requests_in_flight", 1.0, 1e6),
    ("server.limits.body_bytes", 256.0, 1_048_576.0),
    ("server.limits.header_bytes", 1024.0, 131_072.0),
    ("server.limits.header_count", 8.0, 100.0),
    ("server.limits.streams", 1.0, 10_000.0),
    ("server.limits.resets_per_second", 1.0, 1e6),
    ("workspaces.*.budget.requests_per_second", 0.001, 1e5),
    ("workspaces.*.budget.burst", 1.0, 1e6),
    ("workspaces.*.budget.least_requests_per_second", 0.001, 1e5),
    ("tokens.floor", 0.0, 0.95),
    ("tokens.capacity", 1.0, 1e9),
    ("tokens.keys_per_user", 1.0, 10_000.0),
    ("tokens.client_share", 0.01, 1.0),
    ("refresh.extra_calls", 0.0, 10.0),
    ("refresh.history", 0.0, 1e9),
    ("clients[].requests_per_second", 0.01, 1e6),
    ("sessions.requests_per_second", 0.01, 1e6),
    ("log.requests", 0.0, 1.0),
    ("store.brokers", 1.0, 1000.0),
    ("otlp.sample", 0.0, 1.0),
];

/// The values of texts that have a few; a test compares them with the checks.
const CHOICES: &[(&str, &[&str])] = &[
    ("workspaces.*.on_new_api_key", &["keep", "drop"]),
    ("workspaces.*.region", &["us", "eu"]),
    ("refresh.mode", &["learned", "used", "off"]),
    ("log.level", &["error", "warn", "info", "debug", "trace"]),
    ("store.topology", &["single", "sentinel", "cluster"]),
];

/// The JSON Schema of a settings file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Raw>().to_value();
    describe(&mut schema, "", &comments(DOCUMENTED));
    schema["title"] = "Settings of courier-token-broker".into();
    schema
}

/// Adds comments, ranges and choices to the schema of a key and of all keys below it.
fn describe(schema: &mut Value, key: &str, comments: &BTreeMap<String, String>) {
    let Some(object) = schema.as_object_mut() else { return };
    // TOML has no null: a key is there or not.
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = &types[..] {
            object["type"] = one.clone();
        }
    }
    if let Some(Value::Array(any)) = object.get_mut("anyOf") {
        any.retain(|one| *one != json!({ "type": "null" }));
        if let [Value::Object(one)] = &mut any[..] {
            let one = std::mem::take(one);
            object.remove("anyOf");
            object.extend(one);
        }
    }
    object.retain(|name, value| name != "default" || !value.is_null());
    match comments.get(key) {
        Some(comment) => object.insert("description".to_owned(), comment.as_str().into()),
        None => object.remove("description"),
    };
    restrict(object, key);
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.iter_mut().for_each(|(name, schema)| describe(schema, &below(name), comments));
    }
    if let Some(schema) = object.get_mut("additionalProperties") {
        describe(schema, &below("*"), comments);
    }
    if let Some(schema) = object.get_mut("items") {
        describe(schema, &format!("{key}[]"), comments);
    }
}

fn restrict(object: &mut Map<String, Value>, key: &str) {
    if let Some((_, least, most)) = RANGES.iter().find(|(other, ..)| *other == key) {
        object.insert("minimum".to_owned(), json!(least));
        object.insert("maximum".to_owned(), json!(most));
    }
    if let Some((_, choices)) = CHOICES.iter().find(|(other, _)| *other == key) {
        object.insert("enum".to_owned(), json!(choices));
    }
}

/// The comment of each key and table of a documented settings file. A table or key may itself be commented out.
fn comments(file: &str) -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let (mut table, mut comment) = (String::new(), Vec::new());
    let (mut is_table_off, mut has_ended) = (false, false);
    for line in file.lines() {
        if line.is_empty() {
            is_table_off = false;
            comment.clear();
            continue;
        }
        let off = line.strip_prefix("# ");
        let bare = if is_table_off { off.unwrap_or_default() } else { line };
        let item = header(bare).or(header(off.unwrap_or_default()));
        let key = key_of(bare).or_else(|| key_of(off.unwrap_or_default()).filter(|_| !is_table_off));
        if let Some(name) = item {
            is_table_off |= header(bare).is_none();
            table = name.replace("workspaces.default", "workspaces.*");
            has_ended = true;
            comments.insert(table.clone(), comment.join(" "));
        } else if let Some(name) = key {
            has_ended = true;
            let name = format!("{table}.{name}").replace("profiles.inbox", "profiles.*");
            comments.insert(name, comment.join(" "));
        } else if let Some(text) = bare.strip_prefix('#') {
            // Keys below each other share a comment.
            if std::mem::take(&mut has_ended) {
                comment.clear();
            }
            comment.extend(Some(text.trim()).filter(|text| !text.is_empty()));
        }
    }
    comments.retain(|_, comment| !comment.is_empty());
    comments
}

/// The name of a table in `[name]` or `[[name]]`, which stands for its items.
fn header(line: &str) -> Option<String> {
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.');
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => is_name(name).then(|| format!("{name}[]")),
        None => is_name(name).then(|| name.to_owned()),
    }
}

/// The name of a key in `name = value`.
fn key_of(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(" = ")?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, Settings};

    /// The schemas of all keys that are no tables.
    fn leaves(schema: &Value, key: &str, found: &mut BTreeMap<String, Value>) {
        let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let properties = schema["properties"].as_object();
        properties.into_iter().flatten().for_each(|(name, schema)| leaves(schema, &below(name), found));
        if schema["additionalProperties"].is_object() {
            leaves(&schema["additionalProperties"], &below("*"), found);
        }
        if schema["items"]["properties"].is_object() {
            leaves(&schema["items"], &format!("{key}[]"), found);
        } else if schema["properties"].is_null() && schema["additionalProperties"].is_null() {
            found.insert(key.to_owned(), schema.clone());
        }
    }

    fn keys() -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        leaves(&schema(), "", &mut found);
        assert!(found.len() > 80, "{found:?}");
        found
    }

    /// Why the checks refuse this value of a key, if they do.
    fn refusal(key: &str, value: &Value) -> Option<String> {
        let mut settings = json!({
            "workspaces": { "default": { "api_key": "pk", "budget": { "requests_per_second": 1e5 } } },
            "clients": [{ "name": "app", "key_sha256": "8".repeat(64) }],
            "sessions": { "jwks_url": "https://login.example.com/jwks", "issuer": "i", "audience": "a" },
            "store": { "kind": "redis", "url": "redis://127.0.0.1:6379" },
        });
        let key = key.replace("workspaces.*", "workspaces.default").replace("[]", "[0]");
        let mut place = &mut settings;
        for part in key.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[part],
            };
        }
        *place = value.clone();
        let raw: Raw = match serde_json::from_value(settings) {
            Ok(raw) => raw,
            Err(error) => return Some(error.to_string()),
        };
        let errors = Settings::resolve(&raw, &Layers::default()).err()?.errors;
        errors.into_iter().find(|error| error.key == key).map(|error| error.message)
    }

    #[test]
    fn every_key_has_the_comment_of_the_documented_settings() {
        for (key, schema) in keys() {
            // It has no effect.
            assert!(schema["description"].is_string() || key == "refresh.history", "{key} is not in default.toml");
        }
    }

    #[test]
    fn ranges_are_those_of_the_checks() {
        for (key, schema) in keys() {
            let is_whole = schema["type"] == "integer";
            if !is_whole && schema["type"] != "number" {
                continue;
            }
            let (_, least, most) =
                RANGES.iter().find(|(other, ..)| *other == key).unwrap_or_else(|| panic!("{key} has no range"));
            let number = |number: f64| if is_whole { json!(number as i64) } else { json!(number) };
            let beyond = if is_whole { 1.0 } else { 0.0001 };
            for (value, is_good) in [(*least, true), (*most, true), (least - beyond, false), (most + beyond, false)] {
                let refusal = refusal(&key, &number(value));
                assert_eq!(refusal.is_none(), is_good, "{key} = {value}: {refusal:?}");
            }
        }
    }

    #[test]
    fn choices_are_those_of_the_checks() {
        for (key, schema) in keys().into_iter().filter(|(_, schema)| schema["type"] == "string") {
            let why = refusal(&key, &json!("no-such-choice")).unwrap_or_default();
            let list = why.strip_prefix("must be ").unwrap_or_default();
            let mut parts = list.split(", ").flat_map(|part| part.split(" or "));
            let is_choice = |part: &str| part.len() > 2 && part.starts_with('"') && part.ends_with('"');
            // A cookie may have any name.
            let has_list = parts.all(is_choice) && !list.contains("NAME") || why.starts_with("unknown variant");
            let choices = schema["enum"].as_array();
            assert_eq!(has_list, choices.is_some(), "{key}: {why}");
            for choice in choices.into_iter().flatten() {
                assert_eq!(refusal(&key, choice), None, "{key} = {choice}");
                assert!(why.contains(choice.as_str().expect("a text")), "{key} = {choice}: {why}");
            }
        }
    }
}
