//! The differences between two versions of the settings: names only, since values may be secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The path of a setting. A client is named by its name instead of its position.
pub type Key = Vec<String>;

/// Maps each setting to its value as text; a table has none.
fn leaves(table: &toml::Table) -> BTreeMap<Key, Option<String>> {
    let mut leaves = BTreeMap::new();
    flatten(&[], table, &mut leaves);
    leaves
}

fn flatten(path: &[String], table: &toml::Table, leaves: &mut BTreeMap<Key, Option<String>>) {
    for (name, value) in table {
        let key = [path, std::slice::from_ref(name)].concat();
        match value {
            toml::Value::Table(table) => {
                flatten(&key, table, leaves);
                leaves.insert(key, None);
            }
            toml::Value::Array(list) if path.is_empty() && name == "clients" => {
                for client in list.iter().filter_map(toml::Value::as_table) {
                    let name = client.get("name").and_then(toml::Value::as_str).unwrap_or_default();
                    let key = [&key[..], &[name.to_owned()]].concat();
                    flatten(&key, client, leaves);
                    leaves.insert(key, None);
                }
            }
            value => {
                leaves.insert(key, Some(value.to_string()));
            }
        }
    }
}

/// Finds the settings that differ. An added or removed table is named without its content.
pub fn differences(before: &toml::Table, after: &toml::Table) -> Changes {
    let [before, after] = [before, after].map(leaves);
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = |key: &&Key| before.get(*key) != after.get(*key);
    let one = |key: &Key| {
        let (whole, is_table) = (&key[..key.len() - 1], before.get(key).or(after.get(key)) == Some(&None));
        let is_added_or_removed = |key: &[String]| before.contains_key(key) != after.contains_key(key);
        let is_covered = (1..=whole.len()).any(|length| is_added_or_removed(&whole[..length]));
        let difference = match (before.contains_key(key), after.contains_key(key)) {
            (false, true) if is_table => Difference::Added,
            (true, false) if is_table => Difference::Removed,
            _ => Difference::Changed,
        };
        (!is_covered).then(|| (key.clone(), difference))
    };
    keys.into_iter().filter(differs).filter_map(one).collect()
}

/// How a setting differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The value differs.
    Changed,
    /// A client, a profile or another table was added.
    Added,
    /// It was removed.
    Removed,
}

/// Settings that differ.
pub type Changes = BTreeSet<(Key, Difference)>;

/// The names of the settings that hold each secret.
pub struct Names {
    /// The settings that name changed files.
    files: Vec<Key>,
    /// Whether a workspace's key is in a file.
    in_file: BTreeSet<String>,
}

impl Names {
    /// Finds the names in these settings, given the changed files.
    pub fn new<'a>(shown: &toml::Table, changed: impl Iterator<Item = &'a Path>) -> Self {
        let files = changed.filter_map(Path::to_str).flat_map(|path| naming(shown, path)).collect();
        let workspaces = shown.get("workspaces").and_then(toml::Value::as_table);
        let in_file =
            |(name, workspace): (&String, &toml::Value)| workspace.get("api_key_file").is_some().then(|| name.clone());
        Self { files, in_file: workspaces.into_iter().flatten().filter_map(in_file).collect() }
    }

    /// The setting of a workspace's API key.
    pub fn api_key(&self, workspace: &str) -> Key {
        let field = if self.in_file.contains(workspace) { "api_key_file" } else { "api_key" };
        ["workspaces", workspace, field].map(str::to_owned).to_vec()
    }

    /// The certificate's settings: those whose files have changed, or the whole table if other files are
    /// named.
    pub fn certificate(&self) -> Vec<Key> {
        let table = ["server", "tls"].map(str::to_owned).to_vec();
        let files: Vec<_> = self.files.iter().filter(|key| key.starts_with(&table)).cloned().collect();
        if files.is_empty() { vec![table] } else { files }
    }

    /// The settings of the session keys.
    pub fn sessions(&self) -> impl Iterator<Item = Key> {
        self.files.iter().filter(|key| key.first().is_some_and(|first| first == "sessions")).cloned()
    }
}

/// The settings that name this file.
fn naming(table: &toml::Table, file: &str) -> Vec<Key> {
    let text = toml::Value::String(file.to_owned()).to_string();
    leaves(table).into_iter().filter(|(_, value)| value.as_ref() == Some(&text)).map(|(key, _)| key).collect()
}

/// Whether a running broker can apply the setting. Of TLS, only the files' contents.
pub fn is_live(key: &Key) -> bool {
    let key: Vec<_> = key.iter().map(String::as_str).collect();
    matches!(
        key[..],
        ["clients" | "sessions" | "profiles" | "tokens" | "refresh", ..]
            | ["workspaces", _, "api_key" | "api_key_file" | "on_new_api_key" | "proxy" | "proxy_credentials_file"]
            | ["workspaces", _, "connect_timeout" | "timeout"]
            | ["workspaces", _, "budget", _]
            | ["server", "timeout" | "idle_timeout" | "shutdown_delay" | "shutdown_timeout"]
            | ["server", "tls", _]
            | ["log", "level" | "requests"]
            | ["admin", "key_sha256"]
    ) || matches!(key[..], ["server", "limits", limit] if limit != "connections")
}

/// The most names that are listed.
const MOST_NAMES: usize = 100;

/// Formats the changes for the log.
pub fn listed(changes: &Changes) -> String {
    if changes.is_empty() {
        return "nothing".to_owned();
    }
    let name = |(key, difference): &(Key, Difference)| {
        let name = key.join(".");
        match difference {
            Difference::Changed => name,
            Difference::Added => format!("{name} (added)"),
            Difference::Removed => format!("{name} (removed)"),
        }
    };
    let names: Vec<_> = changes.iter().take(MOST_NAMES).map(name).collect();
    let more = changes.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(before: &str, after: &str) -> String {
        let [before, after] = [before, after].map(|text| text.parse::<toml::Table>().expect("TOML"));
        listed(&differences(&before, &after))
    }

    #[test]
    fn differences_name_settings_and_clients_but_no_values() {
        let before = "[tokens]\nmax_lifetime = \"1d\"\n[[clients]]\nname = \"a\"\nusers = [\"*\"]\n\
                      [[clients]]\nname = \"b\"\nkey_sha256 = [\"0\"]";
        // In another order, and with an added client.
        let after = "[tokens]\nmax_lifetime = \"2d\"\n[[clients]]\nname = \"b\"\nkey_sha256 = [\"1\"]\nscopes = [\"x\"]\n\
                     [[clients]]\nname = \"c\"\nkey_sha256 = [\"2\"]\n[sessions]\nissuer = \"i\"\n[profiles]\nx = [\"y\"]";
        assert_eq!(
            changes(before, after),
            "clients.a (removed), clients.b.key_sha256, clients.b.scopes, clients.c (added), profiles (added), \
             sessions (added), tokens.max_lifetime"
        );
        assert_eq!(changes(before, before), "nothing");
    }

    /// The settings of the schema, with `NAME` for the name of a table or of a client.
    fn settings(schema: &serde_json::Value, key: &Key, found: &mut Vec<Key>) {
        let below = |name: &str| [&key[..], &[name.to_owned()]].concat();
        let schema = schema.get("anyOf").map_or(schema, |kinds| &kinds[0]);
        let (named, one) = (schema["properties"].as_object(), &schema["additionalProperties"]);
        if let Some(named) = named {
            named.iter().for_each(|(name, schema)| settings(schema, &below(name), found));
        } else if one.is_object() {
            settings(one, &below("NAME"), found);
        } else if schema["items"]["properties"].is_object() {
            settings(&schema["items"], &below("NAME"), found);
        } else {
            found.push(key.clone());
        }
    }

    #[test]
    fn page_names_the_settings_that_need_a_restart() {
        let page = include_str!("../../docs/operations.md");
        let (_, listed) = page.split_once("All settings but these change while the broker runs").expect("a list");
        let (listed, _) = listed.split_once(';').expect("its end");
        let listed: Vec<Vec<_>> = listed.split('`').skip(1).step_by(2).map(|key| key.split('.').collect()).collect();
        let mut all = Vec::new();
        settings(&crate::config::schema(), &Vec::new(), &mut all);
        assert!(all.len() > 60, "{all:?}");
        let is_below =
            |key: &Key, listed: &[&str]| key.iter().zip(listed).filter(|(a, b)| a == b).count() == listed.len();
        for key in &all {
            assert_eq!(is_live(key), !listed.iter().any(|listed| is_below(key, listed)), "{}", key.join("."));
        }
        for listed in &listed {
            assert!(all.iter().any(|key| is_below(key, listed)), "{listed:?} is no setting");
        }
    }

    #[test]
    fn long_list_is_cut_and_counted() {
        let many: String = (0..150).map(|index| format!("[profiles.p{index}]\n")).collect();
        let text = changes("[profiles]\n", &many);
        assert!(text.ends_with(" and 50 more"), "{text}");
    }

    #[test]
    fn file_is_reported_by_the_settings_that_name_it() {
        let table = "[server.tls]\nprivate_key_file = \"/a \\\"b\\\"\"\n[workspaces.eu]\napi_key_file = \"/c\"".parse();
        let table: toml::Table = table.expect("TOML");
        let names = |file| naming(&table, file).iter().map(|key| key.join(".")).collect::<Vec<_>>();
        assert_eq!(names("/a \"b\""), ["server.tls.private_key_file"]);
        assert_eq!(names("/c"), ["workspaces.eu.api_key_file"]);
        assert!(names("/d").is_empty());
    }
}
