//! The environment's proxy variables, which the broker does not use.

use std::env;

use courier_token_broker::config::WorkspaceSettings;

/// The variables that name an https proxy to other programs, in upper or lower case.
const VARIABLES: [&str; 2] = ["HTTPS_PROXY", "ALL_PROXY"];

/// A warning for each workspace whose calls other programs would send through a proxy, if its settings name none.
/// It does not show the variable's value, which may hold a password.
pub fn ignored_proxies(workspaces: &[WorkspaceSettings]) -> Vec<String> {
    let names = VARIABLES.map(|name| [name.to_owned(), name.to_lowercase()]);
    let is_set = |name: &String| env::var_os(name).is_some_and(|value| !value.is_empty());
    let Some(variable) = names.into_iter().flatten().find(is_set) else { return Vec::new() };
    let sentence = |workspace: &WorkspaceSettings| {
        let name = &workspace.name;
        format!(
            "{variable} is set, but not used: to call Courier through a proxy, set workspaces.{name}.proxy (\"\" for none)"
        )
    };
    workspaces.iter().filter(|workspace| workspace.ignores_proxies).map(sentence).collect()
}
