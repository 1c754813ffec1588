//! Log lines for operators about a failing Courier and calls that cannot be made.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::admission::Rejection;
use crate::policy::admission::breaker::Change;
use crate::token::Grant;
use crate::upstream::failure::Failure;

/// Logs a change of the circuit breaker, once rather than for each call.
pub fn log(workspace: &str, outcome: &Result<Grant, Failure>, change: Option<Change>) {
    match (outcome, change) {
        (Err(Failure::Credentials(401)), Some(Change::Opened)) => tracing::error!(
            workspace,
            "Courier refused the API key; only cached tokens are served until it is replaced (api_key_file is read \
             again when it changes)"
        ),
        (Err(Failure::Credentials(status)), Some(Change::Opened)) => tracing::error!(
            workspace,
            status,
            "Courier refused this workspace (402: the limit of its plan; 403: the API key may not issue tokens); only \
             cached tokens are served until that is settled"
        ),
        (Err(error), Some(Change::Opened)) => tracing::error!(
            workspace,
            %error,
            "circuit breaker open: Courier is failing; only probes are sent, and cached tokens are served down to the hard \
             floor; check Courier's status page and the network"
        ),
        (_, Some(Change::Shed)) => tracing::warn!(workspace, "most calls to Courier fail; renewals are held back"),
        (_, Some(Change::Closed)) => {
            tracing::info!(workspace, "circuit breaker closed: Courier answers again; the rate of calls rises slowly");
        }
        (_, Some(Change::Dismissed)) => tracing::info!(
            workspace,
            "circuit breaker closed: Courier serves a client whose calls did not fail; only other clients' fail"
        ),
        _ => {}
    }
}

/// Counts a frequent event, which is logged now and then.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    next: Option<Moment>,
}

/// The least time between two log lines about the calls of a workspace.
const PAUSE: Duration = Duration::from_secs(30);

impl Tally {
    /// Counts one event.
    pub const fn count(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Takes the count since the last line, if another line is due; the next one is not due for this `pause`.
    pub fn take(&mut self, pause: Duration, now: Moment) -> Option<u64> {
        if self.count == 0 || self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + pause);
        Some(std::mem::take(&mut self.count))
    }
}

/// The event counts of one workspace's calls.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Calls refused because the budget could not serve them in time.
    refused: Tally,
    /// Answers with 429, or with 503 and `Retry-After`.
    throttled: Tally,
    /// The longest pause that these answers requested.
    pause: Duration,
    /// Calls that failed for lack of a file descriptor.
    out_of_files: Tally,
}

impl Tallies {
    /// Counts a refused call, if the budget is the reason.
    pub const fn count_rejection(&mut self, rejection: Rejection) {
        if let Rejection::Limited(_) = rejection {
            self.refused.count();
        }
    }

    /// Counts the outcome of a call.
    pub fn count(&mut self, outcome: &Result<Grant, Failure>) {
        match outcome {
            Err(Failure::Throttled(pause)) => {
                self.throttled.count();
                self.pause = self.pause.max(pause.unwrap_or_default());
            }
            Err(Failure::OutOfFiles) => self.out_of_files.count(),
            _ => {}
        }
    }

    /// Logs the counts that are due, with the present rate of calls and the one in the settings.
    pub fn log(&mut self, workspace: &str, calls_per_second: f64, configured: f64, now: Moment) {
        if let Some(refused) = self.refused.take(PAUSE, now) {
            tracing::warn!(
                workspace,
                refused,
                calls_per_second,
                configured,
                "rate budget used up: calls refused with 429; if Courier allows more, raise \
                 workspaces.{workspace}.budget.requests_per_second"
            );
        }
        if let Some(answers) = self.throttled.take(PAUSE, now) {
            let pause = std::mem::take(&mut self.pause).as_secs_f64().ceil();
            let effect = if pause == 0.0 {
                "Courier answered 429; calling slower".to_owned()
            } else {
                format!(
                    "Courier answered 429 (or 503 with Retry-After); pausing calls for {pause} s, for these users or, if \
                     others get it too, for all"
                )
            };
            tracing::warn!(workspace, answers, calls_per_second, configured, "{effect}");
        }
        if let Some(calls) = self.out_of_files.take(PAUSE, now) {
            tracing::error!(
                workspace,
                calls,
                "out of file descriptors: calls to Courier could not be made; raise the limit of open files (ulimit -n, \
                 LimitNOFILE)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_reports_all_events_on_one_line_in_thirty_seconds() {
        let (mut tally, start) = (Tally::default(), Moment::from_nanos(1 << 40));
        let mut lines = Vec::new();
        for second in 0..100 {
            for _ in 0..if second < 40 { 3 } else { 0 } {
                tally.count();
            }
            if let Some(count) = tally.take(PAUSE, start + Duration::from_secs(second)) {
                lines.push((second, count));
            }
        }
        assert_eq!(lines, [(0, 3), (30, 90), (60, 27)]);
    }
}
