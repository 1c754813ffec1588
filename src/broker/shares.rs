//! Tests of the limits of the key table, and of the ledger's counts after any sequence of requests and removals.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[cfg(test)]
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::fixture::{self, HOUR};
use super::handle::Broker;
use super::request::{Source, TokenRequest};
use super::settings::BrokerSettings;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::policy::refresh::Mode;
use crate::token::{Grant, Token, TokenKey, UserId};
use crate::upstream::{Issuer, Issuing, Permit};

/// Issues tokens of an hour, some of them of several kilobytes.
struct SizedIssuer {
    clock: Clock,
    calls: AtomicUsize,
    sizes: &'static [usize],
}

impl Issuer for SizedIssuer {
    fn issue<'a>(&'a self, _: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let (sent, call) = (self.clock.now(), self.calls.fetch_add(1, Ordering::Relaxed));
            self.clock.sleep_until(sent + Duration::from_millis(100)).await;
            let size = self.sizes[call % self.sizes.len()];
            Ok(Grant::new(Token::new(&format!("{call:0size$}")).expect("a token"), sent, HOUR))
        })
    }
}

struct Test {
    broker: Broker,
    clock: Clock,
}

impl Test {
    fn new(settings: BrokerSettings, sizes: &'static [usize]) -> Self {
        let clock = Clock::tokio();
        let issuer = Arc::new(SizedIssuer { clock, calls: AtomicUsize::new(0), sizes });
        Self { broker: fixture::broker_with(settings, clock, issuer).0, clock }
    }

    async fn ask(&self, client: &str, claim: &str) -> Source {
        self.spawn(client, claim).await.expect("no panic")
    }

    fn spawn(&self, client: &str, claim: &str) -> tokio::task::JoinHandle<Source> {
        let (broker, actor) = (self.broker.clone(), Actor::Client(client.to_owned().into()));
        let request = TokenRequest { key: fixture::key(claim), min_ttl: None, actor, trace: None };
        tokio::spawn(async move { broker.get_token(&request).await.expect("a token").source })
    }

    /// How many of these users of a client have a token.
    fn held(&self, users: impl IntoIterator<Item = String>) -> usize {
        let table = &self.broker.0.table;
        users
            .into_iter()
            .filter(|user| table.get(&fixture::key(user)).is_some_and(|entry| entry.token().is_some()))
            .count()
    }

    async fn pass(&self, time: Duration) {
        self.clock.sleep_until(self.clock.now() + time).await;
    }
}

/// The most keys of a user, in the property test.
const KEYS_PER_USER: usize = 3;

/// A request by a client for up to two users and one of a few scopes, or a removal, or a pause.
#[derive(Clone, Debug)]
enum Step {
    Ask(u8, String),
    Reject(String),
    SignOut(u8),
    Purge,
    Pass(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let claim = || {
        let also = prop_oneof![2 => Just(String::new()), 1 => (0..6u8).prop_map(|user| format!(" user_id:{user}"))];
        (0..6u8, also, 0..5u8).prop_map(|(user, also, scope)| format!("{user}{also} s:{scope}"))
    };
    prop_oneof![
        20 => (0..6u8, claim()).prop_map(|(client, claim)| Step::Ask(client, claim)),
        2 => claim().prop_map(Step::Reject),
        2 => (0..6u8).prop_map(Step::SignOut),
        1 => Just(Step::Purge),
        3 => (0..90u64).prop_map(|minutes| Step::Pass(Duration::from_secs(minutes * 60))),
    ]
}

/// How many keys of the claim's first user are kept for a client.
fn keys_held(test: &Test, client: &str, claim: &str) -> usize {
    let table = &test.broker.0.table;
    let owner = table.ledger.owner("default", Some(client));
    let keys = table.keys_of(("default", claim.split(' ').next().expect("a user")));
    keys.iter().filter_map(|key| table.get(key)).filter(|entry| entry.owners.has(owner)).count()
}

async fn join_all(asked: [tokio::task::JoinHandle<Source>; 3]) -> [Source; 3] {
    let [one, two, three] = asked;
    let (one, two, three) = tokio::join!(one, two, three);
    [one, two, three].map(|source| source.expect("no panic"))
}

async fn take(test: &Test, step: Step) {
    let table = &test.broker.0.table;
    match step {
        Step::Ask(client, claim) => {
            let client = format!("client-{client}");
            // At once, so that requests join calls and meet evictions.
            let asked = [test.spawn(&client, &claim), test.spawn("other", &claim), test.spawn(&client, "x")];
            let [first, ..] = join_all(asked).await;
            // Hits on the keys of others may exceed the limit until the client stores another.
            if matches!(first, Source::Issued { collapsed: false, stored: true, .. }) {
                assert!(keys_held(test, &client, &claim) <= KEYS_PER_USER);
            }
        }
        Step::Reject(claim) => {
            if let Some(token) = table.get(&fixture::key(&claim)).and_then(|entry| entry.token()) {
                let text = std::str::from_utf8(token.token()).expect("text");
                test.broker.reject(text, |_| true);
            }
        }
        Step::SignOut(user) => {
            test.broker.sign_out("default", UserId::new(&user.to_string()).expect("an id"));
        }
        Step::Purge => assert!(test.broker.purge("default").is_some()),
        Step::Pass(time) => test.pass(time).await,
    }
    test.broker.drained().await;
    table.assert_counted();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ledger_counts_exactly_the_table_after_any_steps(
        steps in prop::collection::vec(step(), 1..80),
        mode in prop_oneof![Just(Mode::Off), Just(Mode::Used), Just(Mode::Learned)],
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let settings = BrokerSettings {
                keys_per_user: KEYS_PER_USER, client_share: 0.7, ..fixture::settings(mode, 12)
            };
            let test = Test::new(settings, &[10, 10, 10, 3000, 10, 8000]);
            let _background = test.broker.start();
            for step in steps {
                take(&test, step).await;
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn user_keeps_the_keys_used_last() {
    let test = Test::new(BrokerSettings { keys_per_user: 20, ..fixture::settings(Mode::Off, 1000) }, &[10]);
    let key = |scope: usize| format!("jane s:{scope}");
    test.ask("app", "john").await;
    for scope in 0..20 {
        test.ask("app", &key(scope)).await;
    }
    test.ask("app", &key(0)).await;
    for scope in 20..25 {
        test.ask("app", &key(scope)).await;
    }
    // Another client's keys of the same user are counted apart.
    for scope in 100..120 {
        test.ask("web", &key(scope)).await;
    }
    let kept = [0].into_iter().chain(6..25).chain(100..120);
    assert_eq!(test.held(kept.map(key)), 40);
    assert_eq!((test.held((1..6).map(key)), test.held(["john".to_owned()])), (0, 1));
    test.broker.0.table.assert_counted();
}

#[tokio::test(start_paused = true)]
async fn key_of_many_users_counts_for_each() {
    let test = Test::new(BrokerSettings { keys_per_user: 2, ..fixture::settings(Mode::Off, 1000) }, &[10]);
    let users = ["1 user_id:jane", "2 user_id:jane", "3 user_id:jane"];
    for user in users {
        test.ask("app", user).await;
    }
    assert_eq!(users.map(|user| test.held([user.to_owned()])), [0, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn client_takes_no_more_than_its_share_though_there_is_room() {
    let test = Test::new(BrokerSettings { client_share: 0.3, ..fixture::settings(Mode::Off, 100) }, &[10]);
    let users = |client: &str| (0..50).map(|user| format!("{client}-{user}")).collect::<Vec<_>>();
    for client in ["app", "web"] {
        for user in users(client) {
            test.ask(client, &user).await;
        }
    }
    assert_eq!(["app", "web"].map(|client| test.held(users(client))), [30, 30]);
}

#[tokio::test(start_paused = true)]
async fn large_token_takes_the_place_of_several_and_gives_it_back_when_it_expires() {
    let test = Test::new(fixture::settings(Mode::Learned, 10), &[10, 10, 10, 10, 10, 10, 10, 10, 10, 8000]);
    let _background = test.broker.start();
    let users = || (0..10).map(|user| user.to_string());
    for user in users() {
        test.ask("app", &user).await;
    }
    // The last one weighs 8.9 KB, and four have left for it.
    assert_eq!(test.held(users()), 6);
    // It lapses, and the user is known without a token.
    test.pass(3 * HOUR).await;
    test.broker.0.table.assert_counted();
    let entry = test.broker.0.table.get(&fixture::key("9")).expect("an entry");
    assert_eq!((entry.token().is_none(), entry.owners.weight()), (true, super::entry::USUAL_BYTES));
}

#[tokio::test(start_paused = true)]
async fn lapsed_user_leaves_before_one_with_a_token() {
    let test = Test::new(fixture::settings(Mode::Learned, 10), &[10]);
    let background = test.broker.start();
    let users = |from: usize| (from..from + 5).map(|user| user.to_string());
    for user in users(0) {
        test.ask("app", &user).await;
    }
    test.pass(2 * HOUR).await;
    drop(background);
    let table = &test.broker.0.table;
    let known = |from: usize| users(from).filter(|user| table.get(&fixture::key(user)).is_some()).count();
    assert_eq!((known(0), test.held(users(0))), (5, 0));
    for user in users(5).chain(users(10)) {
        test.ask("app", &user).await;
    }
    assert_eq!((known(0), test.held(users(5).chain(users(10)))), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn fourth_client_of_a_key_is_served_for_the_owners_of_the_key() {
    let test = Test::new(fixture::settings(Mode::Off, 10), &[10]);
    for client in ["a", "b", "c", "d"] {
        test.ask(client, "jane").await;
    }
    let owners = test.broker.0.table.get(&fixture::key("jane")).map(|entry| entry.owners.iter().count());
    assert_eq!(owners, Some(3));
    for user in 0..20 {
        test.ask("a", &user.to_string()).await;
    }
    assert_eq!(test.ask("d", "jane").await, Source::Hit);
    test.broker.0.table.assert_counted();
}
