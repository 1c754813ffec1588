//! Tests of the restored key table, in virtual time.

use std::thread;
use std::time::Duration;

use super::*;
use crate::broker::fixture::{Fixture, HOUR, key};
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::store::StoredToken;
use crate::token::Token;

const MINUTE: Duration = Duration::from_secs(60);

/// The record of a user's token of an hour that is this old, last asked for when it was issued.
fn record(fixture: &Fixture, user: &str, age: Duration) -> Record {
    let sent = fixture.clock.now() - age;
    let mut history = DemandHistory::new(HOUR / 2, sent);
    let _ = history.record(sent);
    let token = Token::new(&format!("stored-{user}")).expect("a token");
    let token = (age < HOUR).then_some(StoredToken { token, sent, life: HOUR });
    Record { key: key(user), token, demand: history.encode().into(), owners: vec!["app".into()] }
}

fn restore(fixture: &Fixture, records: Vec<Record>) {
    let restore = fixture.broker.begin_restore();
    restore.add(records);
    restore.finish(&HashMap::new());
}

/// A broker that found these users' tokens, by age, in its store.
fn restored(mode: Mode, capacity: u64, tokens: &[(&str, Duration)]) -> Fixture {
    let fixture = Fixture::new(mode, capacity);
    let records = tokens.iter().map(|(user, age)| record(&fixture, user, *age)).collect();
    restore(&fixture, records);
    fixture.broker.0.table.assert_counted();
    fixture
}

#[tokio::test(start_paused = true)]
async fn restored_token_is_a_hit_until_its_floor() {
    for (age, calls) in [(MINUTE, 0), (MINUTE * 29, 0), (MINUTE * 31, 1), (MINUTE * 61, 1)] {
        let fixture = restored(Mode::Off, 10, &[("jane", age)]);
        let _background = fixture.broker.start();
        fixture.ask("jane").await;
        assert_eq!(fixture.calls(), calls, "{age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn restored_token_of_mode_used_is_renewed_once() {
    let fixture = restored(Mode::Used, 10, &[("jane", MINUTE)]);
    let _background = fixture.broker.start();
    fixture.pass(HOUR * 3).await;
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn record_without_a_token_is_restored_only_where_returns_are_predicted() {
    for (mode, entries) in [(Mode::Off, 0), (Mode::Used, 0), (Mode::Learned, 1)] {
        let fixture = restored(mode, 10, &[("jane", HOUR * 2)]);
        let table = &fixture.broker.0.table;
        assert_eq!(
            (table.sizes(), table.tokens(), fixture.scheduled()),
            ([entries, entries, 0], 0, entries),
            "{mode:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_lapses_and_one_above_it_is_scheduled() {
    let fixture = restored(Mode::Learned, 10, &[("new", MINUTE), ("old", MINUTE * 40)]);
    let plan = |user| fixture.broker.0.table.get(&key(user)).expect("an entry").lock().plan;
    assert!(matches!(plan("new"), Plan::Scheduled(..)) && matches!(plan("old"), Plan::Lapsed(_)));
    assert_eq!(fixture.broker.0.table.tokens(), 2, "an outage may still serve it");
}

#[tokio::test(start_paused = true)]
async fn demand_is_restored() {
    let fixture = restored(Mode::Learned, 10, &[("jane", MINUTE * 5)]);
    let entry = fixture.broker.0.table.get(&key("jane")).expect("an entry");
    assert_eq!(entry.demand.encode(), record(&fixture, "jane", MINUTE * 5).demand);
    assert_eq!(entry.demand.last_request(), fixture.clock.now() - MINUTE * 5);
}

#[tokio::test(start_paused = true)]
async fn restored_demand_has_the_window_of_the_present_floor() {
    let fixture = Fixture::new(Mode::Learned, 10);
    let with = |user, age| {
        let history = DemandHistory::new(HOUR / 4, fixture.clock.now() - age);
        Record { demand: history.encode().into(), ..record(&fixture, user, age) }
    };
    let records = vec![with("jane", MINUTE), with("lapsed", HOUR * 2)];
    restore(&fixture, records);
    let floor = fixture.broker.0.settings.load().floor;
    for (user, life) in [("jane", HOUR), ("lapsed", key("lapsed").lifetime().as_duration())] {
        let entry = fixture.broker.0.table.get(&key(user)).expect("an entry");
        assert_eq!(entry.demand.history().window(), floor.window_of(life), "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn owners_are_restored_by_their_names() {
    let fixture = Fixture::new(Mode::Off, 10);
    let name = fixture.broker.0.workspaces.keys().next().expect("a workspace").clone();
    fixture.broker.name_owners([(&name, "app"), (&name, "other")].into_iter());
    let of = |user, owners: &[&str]| {
        let owners = owners.iter().map(|owner| (*owner).into()).collect();
        Record { owners, ..record(&fixture, user, MINUTE) }
    };
    let records = vec![of("jane", &["app", ""]), of("john", &["other"]), of("nobody's", &[])];
    restore(&fixture, records);
    let owners = |user| {
        let entry = fixture.broker.0.table.get(&key(user)).expect("an entry");
        fixture.broker.0.persistence.record(&entry).owners
    };
    assert_eq!((owners("jane"), owners("john")), (vec!["app".into(), "".into()], vec!["other".into()]));
    assert_eq!(owners("nobody's"), [Box::<str>::from("")], "an entry has an owner");
}

#[tokio::test(start_paused = true)]
async fn record_with_unreadable_demand_keeps_its_token() {
    let fixture = Fixture::new(Mode::Learned, 10);
    let records = vec![Record { demand: vec![7; 9].into(), ..record(&fixture, "jane", MINUTE) }];
    restore(&fixture, records);
    fixture.ask("jane").await;
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn full_table_restores_no_more_than_its_capacity() {
    let users: Vec<_> = (0..50).map(|user| user.to_string()).collect();
    let tokens: Vec<_> = users.iter().map(|user| (&**user, MINUTE)).collect();
    let fixture = restored(Mode::Used, 20, &tokens);
    let table = &fixture.broker.0.table;
    assert_eq!((table.sizes(), table.tokens(), fixture.scheduled()), ([20, 40, 0], 20, 20));
}

/// Each thread evicts what others have just stored.
#[tokio::test(start_paused = true)]
async fn threads_that_share_many_records_fill_the_table_once() {
    let fixture = Fixture::new(Mode::Used, 2000);
    let of_thread = |thread: usize| {
        let users = (thread * 1000..).take(1000);
        users.map(|user| record(&fixture, &user.to_string(), MINUTE)).collect::<Vec<_>>()
    };
    let records = [0, 1, 2, 3].map(of_thread);
    let restore = fixture.broker.begin_restore();
    thread::scope(|scope| records.map(|records| drop(scope.spawn(|| restore.add(records)))));
    restore.finish(&HashMap::new());
    let table = &fixture.broker.0.table;
    table.assert_counted();
    assert_eq!((table.sizes(), table.tokens(), fixture.scheduled()), ([2000, 4000, 0], 2000, 2000));
}

#[tokio::test(start_paused = true)]
async fn key_that_comes_twice_is_restored_once() {
    let twice = restored(Mode::Used, 10, &[("jane", MINUTE), ("jane", MINUTE)]);
    let table = &twice.broker.0.table;
    assert_eq!((table.sizes(), table.tokens(), twice.scheduled()), ([1, 2, 0], 1, 1));
}

#[tokio::test(start_paused = true)]
async fn overdue_renewals_come_nearest_floor_first() {
    let overdue =
        [("second", 29 * 60 + 53), ("first", 29 * 60 + 55)].map(|(user, age)| (user, Duration::from_secs(age)));
    let fixture = restored(Mode::Used, 10, &overdue);
    assert_eq!(scheduled(&fixture).into_iter().map(|(_, user)| user).collect::<Vec<_>>(), ["first", "second"]);
}

/// The due times and users of the schedule, for the next minute.
fn scheduled(fixture: &Fixture) -> Vec<(Moment, String)> {
    let refresher = &fixture.workspace().refresher;
    let (until, mut scheduled) = (fixture.clock.now() + MINUTE, Vec::new());
    // A pop cascades only a few items.
    while refresher.next() <= until {
        let next = refresher.pop(until);
        scheduled.extend(next.map(|due| (due.at, due.entry.key.users().collect())));
    }
    scheduled
}

#[tokio::test(start_paused = true)]
async fn overdue_renewals_are_spread_at_half_the_rate() {
    let users: Vec<_> = (0..1000).map(|user| user.to_string()).collect();
    // A renewal is due 9 s before the floor at the latest.
    let overdue: Vec<_> = users.iter().map(|user| (&**user, Duration::from_secs(29 * 60 + 55))).collect();
    let fixture = restored(Mode::Used, 1000, &overdue);
    let whole = fixture.workspace().dispatcher.budget().period() * 2000;
    let scheduled = scheduled(&fixture);
    // To the tick of the schedule.
    for (share, place) in [(2, 499), (1, 999)] {
        let apart = scheduled[place].0.since(fixture.clock.now()).abs_diff(whole / share);
        assert!(apart < Duration::from_millis(3), "{apart:?} of {whole:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn budget_begins_empty_with_a_store() {
    let permits = |fixture: &Fixture| {
        let (dispatcher, key) = (&fixture.workspace().dispatcher, key("jane"));
        let origin = dispatcher.origin(&key, dispatcher.party(Party::Users, &key), false);
        // A queued call has a place, and one that leaves at once has none.
        dispatcher.queue("", origin, Moment::NEVER).is_ok_and(|pending| pending.place().is_none())
    };
    assert!(permits(&Fixture::new(Mode::Off, 10)));
    assert!(!permits(&restored(Mode::Off, 10, &[])));
}

#[tokio::test(start_paused = true)]
async fn model_is_restored_with_its_counts_and_pending_uses() {
    let fixture = Fixture::new(Mode::Learned, 10);
    for user in ["jane", "john"] {
        fixture.ask(user).await;
    }
    let entry = fixture.ask("jane").await;
    let refresher = &fixture.workspace().refresher;
    refresher.counts.add(entry.demand.history().expect_use(0.25));
    let model = refresher.encode_model().expect("a model");
    let mut jane = record(&fixture, "jane", MINUTE);
    jane.demand = entry.demand.encode().into();
    let name = fixture.broker.0.workspaces.keys().next().expect("a workspace").clone();
    let other = Fixture::new(Mode::Learned, 10);
    // Its clock starts later, so nothing is in its future.
    other.pass(HOUR).await;
    let restore = other.broker.begin_restore();
    restore.add(vec![jane]);
    restore.finish(&[(name, model.into())].into());
    assert_eq!(other.workspace().refresher.counts.load(), refresher.counts.load());
}

#[tokio::test(start_paused = true)]
async fn model_outlives_a_start_in_another_mode() {
    let learned = Fixture::new(Mode::Learned, 10);
    learned.ask("jane").await;
    let model = learned.workspace().refresher.encode_model().expect("a model");
    for mode in [Mode::Off, Mode::Used] {
        let fixture = Fixture::new(mode, 10);
        fixture.pass(HOUR).await;
        let name = fixture.broker.0.workspaces.keys().next().expect("a workspace").clone();
        let overdue = record(&fixture, "jane", MINUTE * 29 + Duration::from_secs(55));
        let restore = fixture.broker.begin_restore();
        restore.add(vec![overdue]);
        restore.finish(&[(name, model.clone().into())].into());
        let refresher = &fixture.workspace().refresher;
        assert_eq!(refresher.encode_model().as_ref(), Some(&model), "{mode:?}");
        // The model decides nothing: an untrained one would have the key wait.
        let renewals = usize::from(mode == Mode::Used);
        assert_eq!(scheduled(&fixture).len(), renewals, "{mode:?}");
    }
}
