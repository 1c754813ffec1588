//! Renews tokens before they run out: drives one workspace's schedule.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::cache::{Entry, Stage};
use super::flight::{self, Renewal};
use super::{Broker, Workspace};
use crate::metrics::WorkspaceMetrics;
use crate::policy::refresh::{self, Facts, Mode, Verdict};
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::{Moment, TokenKey};

/// The schedule of one workspace's renewals. Its lock is taken when a token
/// comes, goes or is due; not for a hit, but for the cache's housekeeping, which
/// now and then a hit does on its way, and for a hit that revives a renewal.
pub struct Refresher {
    mode: Mode,
    schedule: Mutex<Schedule<Due>>,
    /// Something is due earlier than what was thought to be the next.
    sooner: Notify,
    pub(super) metrics: WorkspaceMetrics,
}

/// A token that comes due, and when.
struct Due {
    at: Moment,
    key: TokenKey,
    entry: Arc<Entry>,
}

/// So many due tokens are looked at before others get their turn.
const BATCH: usize = 256;

impl Refresher {
    /// A refresher with an empty schedule.
    pub fn new(mode: Mode, metrics: WorkspaceMetrics) -> Self {
        Self { mode, schedule: Mutex::new(Schedule::new()), sooner: Notify::new(), metrics }
    }

    /// Plans the renewal of a new entry.
    pub fn plan(&self, key: &TokenKey, entry: &Arc<Entry>) {
        if entry.due < Moment::NEVER {
            self.add(key, entry, entry.due, 0);
        }
    }

    /// Plans another try for an entry whose renewal has failed, if it could end
    /// otherwise.
    pub fn retry(&self, key: &TokenKey, entry: &Arc<Entry>, failures: u32, permanent: bool, now: Moment) {
        if permanent {
            *entry.stage() = Stage::Over;
        } else {
            self.add(key, entry, refresh::retry_due(failures, now, fastrand::f64()), failures);
        }
    }

    /// A token was handed out after its renewal was due. If it was then let run
    /// out as unused, that was a mistake: it is looked at again, now.
    pub fn wanted_again(&self, key: &TokenKey, entry: &Arc<Entry>, now: Moment) {
        if *entry.stage() == Stage::Idle {
            self.add(key, entry, now, 0);
        }
    }

    /// Takes an entry that is gone out of the schedule.
    pub fn forget(&self, ticket: Ticket) {
        self.schedule().remove(ticket);
    }

    fn add(&self, key: &TokenKey, entry: &Arc<Entry>, due: Moment, failures: u32) {
        let mut stage = entry.stage();
        if let Stage::Scheduled(..) | Stage::Over = *stage {
            return;
        }
        let mut schedule = self.schedule();
        let next = schedule.next();
        *stage =
            Stage::Scheduled(schedule.add(due, Due { at: due, key: key.clone(), entry: Arc::clone(entry) }), failures);
        if next.is_none_or(|next| due < next) {
            self.sooner.notify_one();
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule<Due>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews what is due, for ever. What is due waits in the schedule, not in the
/// dispatcher's queue, while the queue has no room for it.
pub(super) async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    let Workspace { dispatcher, refresher } = &**workspace;
    loop {
        let mut looked_at = 0;
        while looked_at < BATCH && dispatcher.has_room() {
            let now = broker.0.clock.now();
            let Some((_, due)) = refresher.schedule().pop(now) else {
                break;
            };
            consider(broker, workspace, due, now);
            looked_at += 1;
        }
        if looked_at == BATCH {
            tokio::task::yield_now().await;
        } else if dispatcher.has_room() {
            let next = refresher.schedule().next().unwrap_or(Moment::NEVER);
            tokio::select! {
                () = refresher.sooner.notified() => {}
                () = broker.0.clock.sleep_until(next) => {}
            }
        } else {
            dispatcher.room().await;
        }
    }
}

/// Decides about a token that has come due, and does it.
fn consider(broker: &Broker, workspace: &Arc<Workspace>, due: Due, now: Moment) {
    let Due { at, key, entry } = due;
    let refresher = &workspace.refresher;
    let (verdict, failures) = {
        // Under the lock: who hands the token out in this moment has counted
        // before, or sees what was decided.
        let mut stage = entry.stage();
        let Stage::Scheduled(_, failures) = *stage else {
            // It has just left the cache.
            return;
        };
        let facts = Facts { uses: entry.uses(), remaining: entry.grant.remaining(now) };
        let verdict = refresh::judge(refresher.mode, &facts);
        *stage = match verdict {
            Verdict::Renew(_) => Stage::Renewing(failures),
            Verdict::Stop(_) => Stage::Idle,
        };
        (verdict, failures)
    };
    match verdict {
        Verdict::Renew(reason) => {
            match broker.0.flights.renew(&key, &workspace.dispatcher) {
                Some(departure) => {
                    broker.0.metrics.renewal_lateness.observe(now.since(at).as_secs_f64());
                    let renewal = Some(Renewal { reason, entry });
                    broker.0.runtime.spawn(flight::fly(broker.clone(), Arc::clone(workspace), departure, renewal));
                }
                // There is a flight already. If it fails, this is still to be done.
                None => refresher.retry(&key, &entry, failures, false, now),
            }
        }
        Verdict::Stop(why) => tracing::debug!(workspace = key.workspace(), reason = ?why, "token not renewed"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::cache::Cache;
    use crate::metrics::Metrics;
    use crate::policy::freshness::Floor;
    use crate::token::{Grant, Lifetime, ScopeClaim, Token, WorkspaceName};

    #[test]
    fn the_schedule_holds_what_the_cache_holds_and_no_more() {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let name = WorkspaceName::new("default").expect("a name");
        let refresher = Arc::new(Refresher::new(Mode::Used, metrics.workspace(&name)));
        let floor = Floor::new(0.5, Duration::ZERO).expect("a floor");
        let cache = Cache::new(100, floor, metrics);
        let grant = Grant::new(&Token::new("t").expect("a token"), Moment::from_nanos(0), Duration::from_secs(3600));
        let mut last = None;
        for user in (0..300).chain(250..300) {
            let text = format!("user_id:{user} read:x");
            let claim = ScopeClaim::parse(&text).expect("a claim");
            let key = TokenKey::new(&name, &claim, Lifetime::MAX);
            let entry = Arc::new(Entry::new(grant.clone(), Moment::from_nanos(1 << 40), &refresher));
            cache.insert(key.clone(), Arc::clone(&entry));
            refresher.plan(&key, &entry);
            last = Some((key, entry));
        }
        cache.tidy();
        assert_eq!(cache.len(), 100);
        assert_eq!(refresher.schedule().len(), 100);
        // Who looked a token up just before another took its place may still want
        // it renewed. It is not: the other is.
        let (key, old) = last.expect("there was one");
        cache.insert(key.clone(), Arc::new(Entry::new(grant, Moment::NEVER, &refresher)));
        assert_eq!(refresher.schedule().len(), 99);
        refresher.wanted_again(&key, &old, Moment::from_nanos(1 << 41));
        refresher.retry(&key, &old, 1, false, Moment::from_nanos(1 << 41));
        assert_eq!(refresher.schedule().len(), 99);
    }
}
