//! The log line with the settings that a broker starts with.

use std::path::PathBuf;

use courier_token_broker::app::App;
use courier_token_broker::config::{Settings, StoreSettings};
use courier_token_broker::planner::calls_a_second;

/// The settings in the log line, without secrets.
pub struct Started {
    files: String,
    clients: usize,
    client_names: String,
    sessions: bool,
    refresh: String,
    store: &'static str,
    tls: bool,
    workspaces: String,
}

/// The most clients that are named; of the others it logs only the number.
const NAMED: usize = 20;

impl Started {
    /// Takes them from settings that were read from these files.
    pub fn new(files: &[PathBuf], settings: &Settings) -> Self {
        let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        let names: Vec<_> = settings.clients.iter().take(NAMED).map(|client| client.name.as_str()).collect();
        let workspace = |workspace: &courier_token_broker::config::WorkspaceSettings| {
            let rate = workspace.dispatcher.budget.rate();
            format!("{} ({}, {})", workspace.name, workspace.courier.base_url, calls_a_second(rate))
        };
        let workspaces: Vec<_> = settings.workspaces.iter().map(workspace).collect();
        Self {
            files: files.join(", "),
            clients: settings.clients.iter().count(),
            client_names: names.join(", "),
            sessions: settings.sessions.is_some(),
            refresh: format!("{:?}", settings.broker.refresh).to_lowercase(),
            store: match settings.store {
                None => "memory",
                Some(StoreSettings::Disk { .. }) => "disk",
                Some(StoreSettings::Redis(_)) => "redis",
            },
            tls: settings.tls.is_some(),
            workspaces: workspaces.join(", "),
        }
    }

    /// Logs them, with the listen addresses.
    pub fn log(&self, app: &App) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            commit = Some(env!("BUILD_COMMIT")).filter(|commit| !commit.is_empty()),
            files = self.files,
            listen = app.display_addresses().join(", "),
            admin = app.admin_address().map(tracing::field::display),
            clients = self.clients,
            client_names = self.client_names,
            sessions = self.sessions,
            refresh = self.refresh,
            store = self.store,
            tls = self.tls,
            workspaces = self.workspaces,
            "broker started"
        );
    }
}
