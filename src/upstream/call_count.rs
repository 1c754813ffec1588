//! The count of a call in the metrics.

use crate::metrics::{CallOutcome, WorkspaceMetrics};
use crate::policy::admission::queue::Class;

/// Counts a call when it is dropped: as cancelled, unless its outcome was set.
pub struct CallCount<'a> {
    metrics: &'a WorkspaceMetrics,
    class: Class,
    pub outcome: CallOutcome,
}

impl<'a> CallCount<'a> {
    /// A call of this class begins.
    pub const fn new(metrics: &'a WorkspaceMetrics, class: Class) -> Self {
        Self { metrics, class, outcome: CallOutcome::Cancelled }
    }
}

impl Drop for CallCount<'_> {
    fn drop(&mut self) {
        self.metrics.upstream_requests_total[self.class][self.outcome].inc();
    }
}
