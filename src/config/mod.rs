//! The settings: built-in defaults < each file in order < environment < flags.
//!
//! [`Layers`] are their sources, [`Raw`] is their shape, and [`Settings`] are the checked values, in
//! types that each module defines for itself. Nothing here reads the environment or opens a port.

mod checker;
mod clients;
mod documented;
mod duration;
mod error;
mod file;
mod layers;
mod log;
mod merge;
mod otlp;
mod raw;
mod resolve;
mod schema;
mod server;
mod sessions;
mod settings;
mod store;
mod variables;
mod warnings;
mod workspace;

pub use error::{SettingsError, SettingsErrors};
pub use layers::Layers;
pub use log::{Audit, LogFormat};
pub use raw::{
    Client as RawClient, Raw, RedisUrls as RawRedisUrls, Sessions as RawSessions, Store as RawStore, StoreKind,
    Tls as RawTls, Workspace as RawWorkspace,
};
pub use schema::schema;
pub use settings::{SessionSettings, Settings, StoreSettings, WorkspaceSettings};
pub use variables::ENVIRONMENT_PREFIX;
