//! `/status`: the state of the broker in JSON, which the status page shows.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::broker::{Status, Window, WorkspaceStatus};
use crate::metrics::{Label, OUTCOMES, RequestOutcome};
use crate::policy::admission::queue::Class;
use crate::policy::refresh::Mode;
use crate::recent_errors::RecentError;

/// Builds the answer. `at` is the time since 1970.
pub fn body(status: &Status, is_ready: bool, at: Duration, uptime: Duration, errors: &[RecentError]) -> Value {
    let [short, medium, long] = status.coverage.map(|share| rounded(share, 4));
    let (kind, state) = status.store.as_ref().map_or(("memory", "ok"), |(kind, state)| (kind, state));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at": time(at),
        "uptime_seconds": uptime.as_secs(),
        "ready": is_ready,
        "last_reload": if status.is_reload_applied { "applied" } else { "rejected" },
        "refresh_mode": mode(status.mode),
        "tokens": status.tokens,
        "token_ends": {
            "step_seconds": status.token_ends.step.as_secs(),
            "counts": status.token_ends.counts,
            "later": status.token_ends.later,
        },
        "requests": requests(&status.requests),
        "coverage": { "5m": short, "15m": medium, "60m": long },
        "workspaces": status.workspaces.iter().map(workspace).collect::<Vec<_>>(),
        "store": { "kind": kind, "state": state },
        "fleet": status.fleet.map(|(live, missing)| json!({ "live": live, "missing": missing })),
        "errors": errors.iter().map(error).collect::<Vec<_>>(),
    })
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Used => "used",
        Mode::Learned => "learned",
    }
}

/// Requests of the last minute. The hit ratio is that of all requests for tokens that callers may have.
fn requests(window: &Window<OUTCOMES>) -> Value {
    let sum = |counts: &[u64; OUTCOMES], outcomes: &[RequestOutcome]| -> u64 {
        outcomes.iter().map(|outcome| counts[outcome.place()]).sum()
    };
    let hits = sum(&window.counts, &[RequestOutcome::Hit]);
    let all = hits + sum(&window.counts, NO_HITS);
    let by_outcome: Map<_, _> =
        RequestOutcome::ALL.iter().map(|one| (one.as_str().to_owned(), window.counts[one.place()].into())).collect();
    let seconds = window.seconds.iter();
    let seconds: Vec<_> = seconds.map(|counts| [sum(counts, &[RequestOutcome::Hit]), sum(counts, NO_HITS)]).collect();
    json!({
        "window_seconds": rounded(window.length.as_secs_f64(), 1),
        "hit_ratio": (all > 0).then(|| rounded(hits as f64 / all as f64, 4)),
        "by_outcome": by_outcome,
        "hits_and_others_by_second": seconds,
    })
}

/// The outcomes of requests for tokens that a cached token did not serve at once.
const NO_HITS: &[RequestOutcome] = &[
    RequestOutcome::Miss,
    RequestOutcome::Collapsed,
    RequestOutcome::Stale,
    RequestOutcome::Limited,
    RequestOutcome::Failed,
];

fn workspace(workspace: &WorkspaceStatus) -> Value {
    let WorkspaceStatus { name, dispatcher, calls, renewals } = workspace;
    let [waiting, renewal, ahead, failed] = calls.counts;
    let queued = |class: Class| dispatcher.queued[class as usize];
    json!({
        "name": name,
        "breaker": workspace.breaker(),
        "budget": {
            "requests_per_second": dispatcher.whole_rate,
            "present_requests_per_second": rounded(dispatcher.rate, 2),
            "paused_seconds": rounded(dispatcher.paused_for.as_secs_f64(), 1),
        },
        "calls": {
            "window_seconds": rounded(calls.length.as_secs_f64(), 1),
            "waiting": waiting,
            "renewal": renewal,
            "ahead": ahead,
            "failed": failed,
        },
        "queued": {
            "waiting": queued(Class::Waiting),
            "renewal": queued(Class::Renewal),
            "ahead": queued(Class::Ahead),
        },
        "renewals": {
            "issued": renewals.issued,
            "failed": renewals.failed,
            "used": renewals.outcomes.map(|(used, _)| used),
            "wasted": renewals.outcomes.map(|(_, wasted)| wasted),
            "extra_calls_ratio": rounded(renewals.extra_calls, 4),
        },
    })
}

fn error(error: &RecentError) -> Value {
    let line = &error.line;
    json!({
        "level": if line.is_error { "error" } else { "warning" },
        "message": line.message,
        "cause": line.cause,
        "workspace": line.workspace,
        "client": line.client,
        "count": error.count,
        "first_at": time(error.first),
        "last_at": time(error.last),
    })
}

fn time(unix: Duration) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + unix).to_string()
}

/// The number with this many decimal places.
fn rounded(number: f64, places: i32) -> f64 {
    let factor = 10f64.powi(places);
    (number * factor).round() / factor
}
