//! A broker with a store on disk, to be started again and again.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::support::child::{Program, Running, simulator};
use crate::support::http::{self, HttpRequest};

pub const CLIENT_KEY: &str = "the-key-of-the-only-client";

/// A folder with a store, its key and settings, and a Courier that accepts every API key.
pub struct Store {
    folder: TempDir,
    pub courier: SocketAddr,
    _simulator: Running,
}

impl Store {
    pub fn new() -> Self {
        let (simulator, courier) = simulator(&[]);
        let store = Self { folder: TempDir::new().expect("a folder"), courier, _simulator: simulator };
        store.write_key(&"5a".repeat(32));
        store.set("");
        store
    }

    /// The folder of the store itself.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn write_key(&self, keys: &str) {
        let file = self.folder.path().join("store.key");
        fs::write(&file, keys).expect("written");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    }

    /// Writes the settings, with these besides.
    pub fn set(&self, more: &str) {
        let text = format!(
            "[store]\nkind = \"disk\"\npath = {:?}\nkey_file = {:?}\n\
             [workspaces.default.budget]\nrequests_per_second = 100000.0\nburst = 100000\n{more}",
            self.path(),
            self.folder.path().join("store.key"),
        );
        fs::write(self.settings(), text).expect("written");
    }

    pub fn settings(&self) -> PathBuf {
        self.folder.path().join("settings.toml")
    }

    /// The program with these settings, before its start.
    pub fn program(&self) -> Program {
        Program::serve().config(self.settings()).courier(self.courier).keys("pk_test", CLIENT_KEY)
    }

    pub fn start(&self) -> Running {
        self.program().start()
    }

    /// The bytes of all files of the store.
    pub fn files(&self) -> Vec<Vec<u8>> {
        let read = |entry: std::io::Result<fs::DirEntry>| fs::read(entry.expect("an entry").path()).expect("a file");
        fs::read_dir(self.path()).expect("a folder").map(read).collect()
    }
}

/// The request for a user's token of a day.
pub fn token(user: &str) -> HttpRequest {
    let body = json!({"user_id": user, "scopes": ["inbox:read:messages"], "expires_in": "1d"});
    HttpRequest::tokens(body.to_string()).key(CLIENT_KEY)
}

/// Whether the user's token comes from memory. If not, Courier has issued another.
pub async fn is_hit(address: SocketAddr, user: &str) -> bool {
    let answer = http::ask(address, &token(user)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.source() == "hit"
}

pub async fn sign_out(address: SocketAddr, user: &str) {
    let ask = HttpRequest::new("DELETE", &format!("/v1/users/{user}/tokens")).key(CLIENT_KEY);
    assert_eq!(http::ask(address, &ask).await.status, 204);
}
