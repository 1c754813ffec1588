//! The settings: built-in defaults < each file in order < environment < flags.
//!
//! [`Layers`] are what they come from, [`Raw`] is their shape, [`Settings`] what
//! they mean: values that each wing defines for itself, checked, so that what
//! starts can run. Nothing here reads the environment or opens a port.

mod documented;
mod error;
mod file;
mod layers;
mod log;
mod raw;
mod resolve;
mod server;
mod sessions;
mod values;
mod warnings;
mod workspace;

pub use error::{SettingsError, SettingsErrors};
pub use layers::{ENVIRONMENT_PREFIX, Layers};
pub use log::{Audit, LogFormat};
pub use raw::{Client as RawClient, Raw, Sessions as RawSessions, Tls as RawTls, Workspace as RawWorkspace};
pub use resolve::{Settings, WorkspaceSettings};
pub use sessions::SessionSettings;
