//! What operators are told of a Courier that fails.

use std::time::Duration;

use crate::policy::breaker::Change;
use crate::token::Grant;
use crate::upstream::Failure;

/// Tells operators what they may have to do something about; once, and not for each call.
pub fn log(workspace: &str, outcome: &Result<Grant, Failure>, change: Option<Change>, pause: Duration) {
    let seconds = pause.as_secs_f64();
    match (outcome, change) {
        (Err(Failure::Credentials(401)), Some(Change::Opened)) => tracing::error!(
            workspace,
            "Courier refuses the API key: put another where the settings say (api_key_file is read again by itself); \
             until then only tokens in memory are served"
        ),
        (Err(Failure::Credentials(status)), Some(Change::Opened)) => tracing::error!(
            workspace,
            status,
            "Courier refuses this workspace (402: the limit of its plan; 403: the API key may not issue tokens); until \
             that is settled only tokens in memory are served"
        ),
        (Err(error), Some(Change::Opened)) => tracing::error!(
            workspace,
            %error,
            "Courier keeps failing: no call leaves but a probe now and then, tokens in memory are served for as long as \
             they may be; look at Courier's status page and at the network"
        ),
        (_, Some(Change::Shed)) => tracing::warn!(workspace, "most calls to Courier fail: renewals are held back"),
        (_, Some(Change::Closed)) => tracing::info!(workspace, "Courier answers again: the calls begin slowly"),
        _ if !pause.is_zero() => {
            tracing::warn!(workspace, seconds, "Courier asks to be left alone: no call leaves until then");
        }
        _ => {}
    }
}
