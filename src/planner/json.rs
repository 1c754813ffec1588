//! The report as JSON.

use serde_json::{Value, json};

use super::advice;
use super::figures::share_of;
use super::fleet::FleetOutcome;
use super::outcome::{Baseline, Outcome};
use super::report::Report;

impl Report {
    /// The whole report as one JSON object.
    pub fn json(&self) -> serde_json::Result<String> {
        let Self { what, baseline, sweep, recommendation, .. } = self;
        let rows = |rows: &[Outcome]| rows.iter().map(|outcome| row(outcome, baseline)).collect::<Vec<_>>();
        let (chosen, budget) = (&sweep[recommendation.row], recommendation.budget.as_ref());
        let mut report = json!({
            "source": what.source,
            "span_seconds": what.span.as_secs_f64(),
            "lifetime_seconds": what.lifetime.as_secs_f64(),
            "floor": what.floor,
            "budget": what.budget,
            "burst": what.burst,
            "latency_seconds": what.latency.as_secs_f64(),
            "extra_calls": what.extra_calls,
            "requests": baseline.requests,
            "users": baseline.users,
            "least_calls": baseline.least_calls,
            "unavoidable_delays": baseline.unavoidable_delays,
            "avoidable_delays": baseline.avoidable_delays,
            "modes": rows(&self.modes),
            "clairvoyant": row(&self.bound, baseline),
            "sweep": rows(sweep),
            "recommended": {
                "mode": chosen.mode,
                "extra_calls": chosen.extra_calls,
                "requests_per_second": budget.map(|budget| budget.rate),
                "burst": budget.map(|budget| budget.burst),
                "settings": recommendation.settings(sweep, what),
            },
            "unlimited_peak_calls_per_second": self.unlimited_peak,
            "advice": advice::of(self),
            "leaves_out": what.leaves_out(),
        });
        if !self.fleet.is_empty() {
            let row = |FleetOutcome { is_sharing, outcome }: &FleetOutcome| {
                let mut row = row(outcome, baseline);
                row["sharing"] = (*is_sharing).into();
                row
            };
            report["brokers"] = what.brokers.into();
            report["fleet"] = self.fleet.iter().map(row).collect();
        }
        serde_json::to_string_pretty(&report)
    }
}

fn row(outcome: &Outcome, baseline: &Baseline) -> Value {
    let wait = &outcome.wait;
    let [p50, p99, max, total] = [wait.p50, wait.p99, wait.max, wait.total].map(|wait| wait.as_secs_f64());
    json!({
        "mode": outcome.mode,
        "extra_calls": outcome.extra_calls,
        "calls": outcome.calls,
        "delayed": outcome.delayed,
        "extra_share": outcome.extra_share(baseline),
        "avoided_share": outcome.avoided_share(baseline),
        "peak_calls_per_second": outcome.peak_calls_per_second,
        "wait_seconds": { "p50": p50, "p99": p99, "max": max, "total": total },
        "over_one_second_share": share_of(outcome.over_one_second, baseline.requests),
    })
}

#[cfg(test)]
mod tests {
    use crate::planner::report::tests::report;
    use serde_json::Value;

    #[test]
    fn json_has_the_same_as_the_table() {
        let json: Value = serde_json::from_str(&report().json().expect("JSON")).expect("JSON");
        for (key, value) in [
            ("requests", 10_000),
            ("users", 400),
            ("least_calls", 1000),
            ("unavoidable_delays", 400),
            ("avoidable_delays", 600),
        ] {
            assert_eq!(json[key], value, "{json:#}");
        }
        let modes: Vec<_> = json["modes"].as_array().expect("a list").iter().map(|mode| &mode["mode"]).collect();
        assert_eq!(modes, ["off", "used", "learned"]);
        let learned = &json["modes"][2];
        let expected = serde_json::json!({
            "mode": "learned", "extra_calls": 0.15, "calls": 1150, "delayed": 748, "extra_share": 0.15, "avoided_share": 0.42,
            "peak_calls_per_second": 31, "wait_seconds": {"p50": 0.15, "p99": 0.15, "max": 0.43, "total": 90.0},
            "over_one_second_share": 0.002,
        });
        assert_eq!(learned, &expected);
        assert_eq!(json["clairvoyant"]["calls"], 1030);
        assert_eq!(json["sweep"][1], json["modes"][2]);
        let recommended = &json["recommended"];
        let keys = ["mode", "extra_calls", "requests_per_second", "burst"].map(|key| recommended[key].to_string());
        assert_eq!(keys, ["\"learned\"", "0.15", "50.0", "50"]);
        assert!(recommended["settings"].as_str().is_some_and(|text| text.starts_with("[refresh]\n")), "{json:#}");
        let [advice, leaves_out] = ["advice", "leaves_out"].map(|key| json[key].as_array().map(Vec::len));
        assert!(advice > Some(1) && leaves_out > Some(4), "{json:#}");
    }
}
