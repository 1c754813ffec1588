//! Why a command failed, and its exit code.

use std::io;
use std::net::SocketAddr;

use courier_token_broker::app::StartError;
use courier_token_broker::config::SettingsErrors;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong usage or settings. One line for each error.
    #[error("{0}")]
    Settings(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// The program's exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::Other(_) => 1,
        }
    }
}

impl From<SettingsErrors> for Failure {
    fn from(errors: SettingsErrors) -> Self {
        Self::Settings(errors.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Metrics(_) | StartError::Thread(_) => Self::Other(error.into()),
            _ => Self::Settings(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Maps the error of binding this address.
pub fn bound(address: SocketAddr) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Settings(format!("can't listen on {address}: {error}"))
}
