//! Applies settings to a running broker.

use std::sync::Arc;

use super::entry::{Entry, Plan};
use super::handle::Broker;
use super::ledger::Capacity;
use super::settings::BrokerSettings;
use super::workspace::Workspace;
use crate::policy::refresh::Mode;
use crate::token::WorkspaceName;
use crate::upstream::DispatcherSettings;

impl Broker {
    /// Applies settings. It blocks while it plans the renewals of all keys again, if the floor or the mode differs.
    ///
    /// Requests are judged by the new settings at once. A token that is being stored meanwhile may keep the due time of
    /// the old ones.
    pub fn reconfigure(&self, settings: BrokerSettings) {
        let old = self.0.settings.swap(Arc::new(settings));
        self.0.workspaces.values().for_each(|workspace| workspace.refresher.update_learner());
        self.0.table.ledger.set_capacity(Capacity::of(&settings));
        self.evict_excess(None);
        if (old.floor, old.refresh) != (settings.floor, settings.refresh) {
            for entry in self.0.table.iter() {
                if let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) {
                    self.plan_again(workspace, &entry, &settings);
                }
            }
        }
    }

    /// Applies the settings of a workspace's calls to Courier.
    pub fn reconfigure_calls(&self, name: &WorkspaceName, settings: DispatcherSettings) {
        if let Some(redis) = self.0.persistence.redis.get() {
            redis.set_budget(name, settings.budget);
        }
        if let Some(workspace) = self.0.workspaces.get(name) {
            workspace.dispatcher.reconfigure(settings);
        }
    }

    /// Plans the renewal of a key, and the end of its token, by other settings.
    fn plan_again(&self, workspace: &Workspace, entry: &Arc<Entry>, settings: &BrokerSettings) {
        let refresher = &workspace.refresher;
        let mut state = entry.lock();
        self.0.table.set_window(entry, state.life(&entry.key), self.0.clock.now());
        if let Some(token) = entry.token() {
            let due = refresher.due(&token, &settings.floor);
            entry.set_due(due);
            match state.plan {
                // A failed renewal is tried again when that was to be, and a lapsed key is decided about then.
                Plan::Scheduled(_, 1..) | Plan::Lapsed(_) if settings.refresh != Mode::Off => {}
                Plan::Scheduled(..) | Plan::Lapsed(_) | Plan::Unscheduled => {
                    refresher.plan_renewal(entry, &mut state, due);
                }
                // The flight plans the renewal of the token that it brings.
                Plan::Renewing { .. } | Plan::Removed => {}
            }
            self.0.table.schedule_hard_floor(entry, &mut state);
        } else if settings.refresh != Mode::Learned && state.plan.ticket().is_some() {
            refresher.unschedule(state.plan);
            state.plan = Plan::Unscheduled;
        }
        drop(state);
        self.forget_without_token(workspace, entry);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::Actor;
    use crate::broker::fixture::{Fixture, HOUR, key};
    use crate::broker::{Answer, Refusal, Source, TokenRequest};
    use crate::metrics::Removal;
    use crate::policy::freshness::Floor;

    const MINUTE: Duration = Duration::from_secs(60);

    fn apply(fixture: &Fixture, change: impl FnOnce(&mut BrokerSettings)) {
        let mut settings = **fixture.broker.0.settings.load();
        change(&mut settings);
        fixture.broker.reconfigure(settings);
    }

    fn set_floor(fixture: &Fixture, share: f64, hard: Duration) {
        apply(fixture, |settings| settings.floor = Floor::new(share, hard).expect("a floor"));
    }

    fn request(user: &str) -> TokenRequest<'static> {
        TokenRequest { key: key(user), min_ttl: None, actor: Actor::Client("app".into()), trace: None }
    }

    async fn source(fixture: &Fixture, user: &str) -> Source {
        fixture.broker.get_token(&request(user)).await.expect("a token").source
    }

    fn get_cached(fixture: &Fixture, user: &str) -> Option<Answer> {
        fixture.broker.get_cached(&key(user).to_text(), Some("app"), None, fixture.clock.now())
    }

    fn has(fixture: &Fixture, user: &str) -> bool {
        fixture.broker.0.table.contains(&key(user))
    }

    #[tokio::test(start_paused = true)]
    async fn request_is_judged_by_the_new_floor() {
        let fixture = Fixture::new(Mode::Off, 10);
        fixture.ask("jane").await;
        fixture.pass(20 * MINUTE).await;
        assert_eq!(source(&fixture, "jane").await, Source::Hit);
        set_floor(&fixture, 0.9, Duration::ZERO);
        assert!(matches!(source(&fixture, "jane").await, Source::Issued { stale: Some(_), .. }));
        fixture.pass(20 * MINUTE).await;
        set_floor(&fixture, 0.1, Duration::ZERO);
        assert_eq!(source(&fixture, "jane").await, Source::Hit);
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_moves_with_the_floor() {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        let _background = fixture.broker.start();
        set_floor(&fixture, 0.25, Duration::ZERO);
        fixture.pass(43 * MINUTE).await;
        assert_eq!((fixture.calls(), entry.uses()), (1, 1));
        fixture.pass(3 * MINUTE).await;
        assert_eq!(fixture.calls(), 2);
        get_cached(&fixture, "jane").expect("a token");
        // The new token is due at once by a floor that leaves it a window of three minutes.
        fixture.pass(5 * MINUTE).await;
        set_floor(&fixture, 0.95, Duration::ZERO);
        fixture.pass(Duration::from_secs(1)).await;
        assert_eq!(fixture.calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn least_calls_are_counted_by_the_new_floor() {
        let fixture = Fixture::new(Mode::Off, 10);
        let counts = || fixture.workspace().refresher.counts.load().least;
        fixture.ask("jane").await;
        set_floor(&fixture, 0.25, Duration::ZERO);
        fixture.pass(40 * MINUTE).await;
        fixture.ask("jane").await;
        assert_eq!(counts(), 1);
        fixture.pass(6 * MINUTE).await;
        fixture.ask("jane").await;
        assert_eq!(counts(), 2);
        // A lapsed key, too.
        fixture.pass(2 * HOUR).await;
        let entry = fixture.broker.0.table.get(&key("jane")).expect("an entry");
        fixture.broker.0.table.drop_token(&entry, &mut entry.lock(), Removal::Expired);
        set_floor(&fixture, 0.75, Duration::ZERO);
        assert_eq!(entry.demand.history().window(), HOUR / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_dropped_at_the_new_hard_floor() {
        for (hard, dropped) in [(2 * MINUTE, 58), (20 * MINUTE, 40)] {
            let fixture = Fixture::new(Mode::Off, 10);
            let entry = fixture.ask("jane").await;
            let _background = fixture.broker.start();
            set_floor(&fixture, 0.5, 10 * MINUTE);
            set_floor(&fixture, 0.5, hard);
            fixture.pass(dropped * MINUTE - Duration::from_secs(5)).await;
            assert!(entry.token().is_some(), "{hard:?}");
            fixture.pass(Duration::from_secs(10)).await;
            assert!(entry.token().is_none(), "{hard:?}");
            assert_eq!(fixture.broker.0.table.sizes(), [0; 3]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn token_that_is_stored_during_a_reload_is_dropped_at_the_new_hard_floor() {
        let fixture = Fixture::new(Mode::Off, 10);
        set_floor(&fixture, 0.5, 20 * MINUTE);
        let entry = fixture.ask("jane").await;
        let _background = fixture.broker.start();
        // The reload has passed over the entries, and this one was not among them yet.
        let floor = Floor::new(0.5, 2 * MINUTE).expect("a floor");
        let settings = BrokerSettings { floor, ..**fixture.broker.0.settings.load() };
        fixture.broker.0.settings.store(Arc::new(settings));
        fixture.pass(57 * MINUTE).await;
        assert!(entry.token().is_some());
        fixture.pass(2 * MINUTE).await;
        assert_eq!((entry.token().is_some(), fixture.broker.0.table.sizes()), (false, [0; 3]));
    }

    #[tokio::test(start_paused = true)]
    async fn smaller_capacity_evicts_at_once_and_a_larger_one_keeps_more() {
        let fixture = Fixture::new(Mode::Off, 4);
        let users = ["1", "2", "3", "4", "5", "6"];
        for user in &users[..4] {
            fixture.ask(user).await;
        }
        apply(&fixture, |settings| settings.capacity = 2);
        assert_eq!(users.map(|user| has(&fixture, user)), [false, false, true, true, false, false]);
        apply(&fixture, |settings| settings.capacity = 4);
        fixture.ask("5").await;
        fixture.ask("6").await;
        assert_eq!(users.map(|user| has(&fixture, user)), [false, false, true, true, true, true]);
        apply(&fixture, |settings| settings.client_share = 0.5);
        assert_eq!(users.map(|user| has(&fixture, user)), [false, false, false, false, true, true]);
        fixture.broker.0.table.assert_counted();
    }

    #[tokio::test(start_paused = true)]
    async fn mode_off_ends_renewals_and_mode_used_begins_them() {
        let fixture = Fixture::new(Mode::Off, 10);
        fixture.ask("jane").await;
        let _background = fixture.broker.start();
        apply(&fixture, |settings| settings.refresh = Mode::Used);
        assert_eq!(fixture.scheduled(), 1);
        fixture.pass(29 * MINUTE).await;
        get_cached(&fixture, "jane").expect("a fresh token");
        fixture.pass(2 * MINUTE).await;
        assert_eq!(fixture.calls(), 2);
        apply(&fixture, |settings| settings.refresh = Mode::Off);
        assert_eq!(fixture.scheduled(), 0);
        fixture.pass(27 * MINUTE).await;
        get_cached(&fixture, "jane").expect("a fresh token");
        fixture.pass(5 * MINUTE).await;
        assert_eq!(fixture.calls(), 2);
        // It is overdue.
        apply(&fixture, |settings| settings.refresh = Mode::Used);
        fixture.pass(Duration::from_secs(1)).await;
        assert_eq!(fixture.calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn lapsed_key_is_forgotten_by_another_mode() {
        for (mode, left) in [(Mode::Off, 0), (Mode::Used, 0), (Mode::Learned, 1)] {
            let fixture = Fixture::new(Mode::Learned, 10);
            fixture.ask("jane").await;
            let background = fixture.broker.start();
            fixture.pass(HOUR + MINUTE).await;
            drop(background);
            assert_eq!(fixture.broker.0.table.sizes(), [1, 1, 0]);
            apply(&fixture, |settings| settings.refresh = mode);
            assert_eq!((fixture.broker.0.table.sizes(), fixture.scheduled()), ([left, left, 0], left), "{mode:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn learner_spends_the_new_share_of_extra_calls() {
        let fixture = Fixture::new(Mode::Learned, 10);
        let price = || {
            fixture.broker.update_gauges();
            fixture.workspace().refresher.metrics.renewal_price.get()
        };
        assert_eq!(price(), f64::INFINITY);
        apply(&fixture, |settings| settings.extra_calls = 1.0);
        assert!(price().is_finite());
    }

    #[tokio::test(start_paused = true)]
    async fn request_waits_no_longer_than_the_new_timeout() {
        let fixture = Fixture::new(Mode::Off, 10);
        apply(&fixture, |settings| settings.timeout = Duration::from_millis(50));
        assert!(matches!(fixture.broker.get_token(&request("jane")).await, Err(Refusal::TimedOut)));
    }

    #[tokio::test(start_paused = true)]
    async fn new_token_of_a_user_displaces_those_beyond_the_new_limit() {
        let fixture = Fixture::new(Mode::Off, 10);
        apply(&fixture, |settings| settings.keys_per_user = 1);
        fixture.ask("jane").await;
        fixture.ask("jane user_id:john").await;
        assert_eq!([has(&fixture, "jane"), has(&fixture, "jane user_id:john")], [false, true]);
    }
}
