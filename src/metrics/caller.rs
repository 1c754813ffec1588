//! Requests by caller: a client, all sessions together, or nobody that the broker knows.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use prometheus::Registry;
use prometheus::core::Collector;

use super::family::{self, By, Children};
use super::label::{RequestOutcome, Who};
use super::sharded::{ShardedCounter, ShardedCounterVec};

const HELP: &str = "Requests of each client, of all sessions together and of unknown callers, by outcome.";

/// The labels of a caller: names from the settings, never from a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallerLabels {
    who: Who,
    client: String,
    workspace: String,
}

impl CallerLabels {
    /// The client of this name and workspace.
    pub fn client(name: &str, workspace: &str) -> Self {
        Self { who: Who::Client, client: name.to_owned(), workspace: workspace.to_owned() }
    }

    /// All sessions, whose tokens are of this workspace.
    pub fn sessions(workspace: &str) -> Self {
        Self { who: Who::Session, client: String::new(), workspace: workspace.to_owned() }
    }

    /// The labels with their names; those without a value are empty.
    pub fn named(&self) -> [(&'static str, &str); 3] {
        [("who", self.who.as_str()), ("client", &self.client), ("workspace", &self.workspace)]
    }

    /// Every caller without a valid key, certificate or session.
    pub const fn unknown() -> Self {
        Self { who: Who::Nobody, client: String::new(), workspace: String::new() }
    }
}

/// The requests of one caller. Counting is one atomic addition.
pub type CallerRequests = By<RequestOutcome, ShardedCounter>;

/// The requests of all callers.
///
/// Each caller has a family of its own: the library joins the values of labels without a separator, and clients may have
/// any names, so in one family two callers could be one series.
pub struct Callers {
    registry: Registry,
    known: Mutex<BTreeMap<CallerLabels, (ShardedCounterVec, CallerRequests)>>,
}

impl Callers {
    /// No callers. Their families are registered here.
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, known: Mutex::default() }
    }

    /// The requests of a caller, created at the first call for it.
    pub fn requests(&self, caller: &CallerLabels) -> prometheus::Result<CallerRequests> {
        let mut known = self.known.lock();
        if let Some((_, requests)) = known.get(caller) {
            return Ok(requests.clone());
        }
        let options = family::options("client_requests_total", HELP);
        let options = caller.named().iter().fold(options, |options, (name, value)| options.const_label(*name, *value));
        let family = CallerRequests::family(options, &[], &[])?;
        self.registry.register(Box::new(family.clone()))?;
        let requests = CallerRequests::of(&family, &[]);
        known.insert(caller.clone(), (family, requests.clone()));
        Ok(requests)
    }

    /// Removes all but these callers.
    pub fn keep(&self, callers: &[CallerLabels]) {
        self.known.lock().retain(|caller, (family, _)| {
            let is_kept = callers.contains(caller);
            if !is_kept {
                let family: Box<dyn Collector> = Box::new(family.clone());
                // It fails only for a family that is not registered.
                let _ = self.registry.unregister(family);
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(callers: &Callers, client: &str, workspace: &str) {
        let requests = callers.requests(&CallerLabels::client(client, workspace)).expect("a sound declaration");
        requests[RequestOutcome::Hit].inc();
    }

    /// The labels and the value of each series of hits, in the order of their labels.
    fn hits(registry: &Registry) -> Vec<(Vec<String>, f64)> {
        let mut hits: Vec<_> = registry
            .gather()
            .iter()
            .flat_map(|family| family.get_metric())
            .map(|metric| {
                let labels = metric.get_label().iter().map(|label| label.value().to_owned()).collect::<Vec<_>>();
                (labels, metric.get_counter().get_value())
            })
            .filter(|(labels, _)| labels.iter().any(|value| value == "hit"))
            .collect();
        hits.sort_by(|one, other| one.0.cmp(&other.0));
        hits
    }

    #[test]
    fn callers_whose_names_join_to_one_text_are_counted_apart() {
        let registry = Registry::new();
        let callers = Callers::new(registry.clone());
        count(&callers, "ab", "c");
        count(&callers, "a", "bc");
        count(&callers, "a", "bc");
        let found = hits(&registry);
        assert_eq!(found.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2.0, 1.0], "{found:?}");
        assert!(found[0].0.contains(&"bc".to_owned()) && found[1].0.contains(&"ab".to_owned()), "{found:?}");
    }

    #[test]
    fn removed_caller_has_no_series_and_begins_anew() {
        let registry = Registry::new();
        let callers = Callers::new(registry.clone());
        count(&callers, "old", "default");
        count(&callers, "kept", "default");
        callers.keep(&[CallerLabels::client("kept", "default")]);
        assert_eq!(hits(&registry).len(), 1);
        count(&callers, "old", "default");
        count(&callers, "kept", "default");
        assert_eq!(hits(&registry).iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2.0, 1.0]);
    }
}
