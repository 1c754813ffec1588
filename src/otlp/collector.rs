//! The collector: sends it a message, and logs failures.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};

use crate::clock::{Clock, Moment};
use crate::error_chain::describe;

/// The longest that the collector may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two lines in the log.
const QUIET: Duration = Duration::from_secs(60);

/// The collector's place for traces or for metrics.
pub struct Collector {
    client: Client,
    url: Url,
    clock: Clock,
    quiet_until: Moment,
    /// The lost spans that were logged.
    logged_lost: u64,
}

/// Why the collector did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It was not reached, or did not answer in time.
    #[error("{}", describe(.0))]
    Http(reqwest::Error),
    /// It answered with an error.
    #[error("the status of the answer is {0}")]
    Status(u16),
}

impl SendError {
    /// Whether the same message may be taken later. OTLP lists these statuses.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Status(429 | 502 | 503 | 504))
    }
}

impl Collector {
    /// The place for `signal` below the base URL of a collector.
    pub fn new(client: Client, endpoint: &Url, signal: &str, clock: Clock) -> Self {
        let mut url = endpoint.clone();
        // It fails only for a URL that has no host.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", signal]);
        }
        Self { client, url, clock, quiet_until: clock.now(), logged_lost: 0 }
    }

    /// Sends a message. `lost` spans never came to be in one.
    pub async fn send(&mut self, message: Bytes, lost: u64) -> Result<(), SendError> {
        let outcome = self.post(message).await;
        let now = self.clock.now();
        if (outcome.is_err() || lost > self.logged_lost) && now >= self.quiet_until {
            let (error, lost_spans) = (outcome.as_ref().err().map(tracing::field::display), lost - self.logged_lost);
            tracing::warn!(url = %self.url, error, lost_spans, "OTLP export incomplete; requests are not affected");
            self.quiet_until = now + QUIET;
            self.logged_lost = lost;
        }
        outcome
    }

    async fn post(&self, message: Bytes) -> Result<(), SendError> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(message);
        let response = request.send().await.map_err(|error| SendError::Http(error.without_url()))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(SendError::Status(status.as_u16())),
        }
    }
}
