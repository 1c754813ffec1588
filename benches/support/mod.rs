//! Shared by the benches: the settings of an ordinary broker, and requests of ordinary callers.

use std::collections::BTreeMap;

use courier_token_broker::auth::Digest;
use courier_token_broker::config::{Layers, Raw, RawClient, RawWorkspace, Settings};
use courier_token_broker::secrets::Secret;
use mimalloc::MiMalloc;

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The client's key, as long as keys of `client-key`.
pub const CLIENT_KEY: &str = "ctb_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
/// The key of another client of the workspace.
pub const NEIGHBOUR_KEY: &str = "ctb_GFEDCBAzyxwvutsrqponmlkjihgfedcba9876543210";
/// The API key of the broker at the simulator.
pub const API_KEY: &str = "pk_prod_0123456789";

/// The defaults, with ports that the system chooses, one client that may ask for the inbox, and a budget that covers
/// the warm-up; then with this change.
pub fn settings(base_url: String, change: impl FnOnce(&mut Raw)) -> Settings {
    let mut raw = Raw::default();
    raw.server.listen.0 = vec!["127.0.0.1:0".to_owned()];
    raw.admin.listen = "127.0.0.1:0".to_owned();
    // Connections that send their heads slowly may stay for a while.
    raw.server.limits.header_timeout = raw.server.idle_timeout;
    let api_key = Some(Secret::new(API_KEY).expect("visible ASCII"));
    let mut workspace = RawWorkspace { api_key, base_url, ..RawWorkspace::default() };
    workspace.budget.requests_per_second = 100_000.0;
    workspace.budget.burst = 100_000;
    raw.workspaces = BTreeMap::from([("default".to_owned(), workspace)]);
    let client = |name: &str, key: &str| RawClient {
        name: name.to_owned(),
        key_sha256: Digest::of(key).to_string().into(),
        ..RawClient::default()
    };
    raw.clients = vec![client("bench", CLIENT_KEY), client("neighbour", NEIGHBOUR_KEY)];
    change(&mut raw);
    Settings::resolve(&raw, &Layers::default()).expect("sound settings")
}

/// The body that an app's backend sends to `/auth/issue-token` for user `n`, with the scopes in the order of Courier's
/// documentation, which is not the sorted one.
pub fn issue_token_body(n: usize) -> String {
    let scopes = "inbox:read:messages inbox:write:events read:preferences write:preferences read:brands";
    format!(r#"{{"scope":"user_id:user-{n:06} {scopes}","expires_in":"1 day"}}"#)
}
