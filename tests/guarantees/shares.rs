//! Shares of the cache: one client's keys displace that client's own keys, and one user's keys that user's.

use std::sync::Arc;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Background, Broker, BrokerSettings, Source, TokenRequest};
use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};

use crate::support::test_broker::{FakeIssuer, SECOND, TestSetup, join_all, settings};

/// The entries of usual size that the cache has room for.
const CAPACITY: u64 = 500;
/// The users of each client that behaves.
const USERS: usize = 100;
const SCOPES: &str = "inbox:read:messages read:brands";

/// A broker of two workspaces.
struct Shared {
    broker: Broker,
    clock: Clock,
    issuer: FakeIssuer,
    _background: Background,
}

impl Shared {
    fn new(change: impl FnOnce(&mut BrokerSettings)) -> Self {
        let setup = TestSetup { capacity: CAPACITY, mode: Mode::Off, ..TestSetup::default() };
        let (clock, metrics) = (Clock::tokio(), Arc::new(Metrics::new().expect("metrics")));
        let issuer = FakeIssuer::new(clock, &setup);
        let workspaces = ["default", "eu"].map(|name| (workspace(name), setup.dispatcher(issuer.clone(), &metrics)));
        let mut settings = settings(&setup);
        change(&mut settings);
        let runtime = tokio::runtime::Handle::current();
        let broker = Broker::new(settings, workspaces, clock, metrics, runtime);
        Self { _background: broker.start(), broker, clock, issuer }
    }

    /// Two clients of the workspace `default` and one of `eu`, each with its users' tokens.
    async fn with_neighbours() -> Self {
        let shared = Self::new(|_| {});
        for neighbour in NEIGHBOURS {
            assert_eq!(shared.hits(neighbour, own_users(neighbour)).await, 0);
        }
        shared
    }

    /// Asks for all these as this client; returns the number of hits.
    async fn hits(&self, client: (&str, &str), keys: impl IntoIterator<Item = (String, u32)>) -> usize {
        let ask = |(claim, seconds): (String, u32)| {
            let claim = ScopeClaim::parse(&claim).expect("a claim");
            let lifetime = Lifetime::from_seconds(seconds.into()).expect("a lifetime");
            let key = TokenKey::new(&workspace(client.0), &claim, lifetime);
            let request =
                TokenRequest { key, min_ttl: None, actor: Actor::Client(client.1.to_owned().into()), trace: None };
            let broker = self.broker.clone();
            tokio::spawn(async move { broker.get_token(&request).await.expect("a token").source })
        };
        // As an attacker would, in bursts.
        let mut hits = 0;
        let keys: Vec<_> = keys.into_iter().collect();
        for burst in keys.chunks(100) {
            let sources = join_all(burst.iter().cloned().map(ask)).await;
            hits += sources.iter().filter(|source| **source == Source::Hit).count();
            self.clock.sleep_until(self.clock.now() + SECOND).await;
        }
        hits
    }

    /// Asserts that every token of the neighbours is still there.
    async fn assert_undisturbed(&self) {
        for neighbour in NEIGHBOURS {
            assert_eq!(self.hits(neighbour, own_users(neighbour)).await, USERS, "{neighbour:?}");
        }
    }
}

const NEIGHBOURS: [(&str, &str); 3] = [("default", "web"), ("default", "app"), ("eu", "web")];
const ATTACKER: (&str, &str) = ("default", "bulk");

fn workspace(name: &str) -> WorkspaceName {
    WorkspaceName::new(name).expect("a name")
}

/// A day's key of each of a client's users.
fn own_users((_, client): (&str, &str)) -> Vec<(String, u32)> {
    (0..USERS).map(|user| (format!("user_id:{client}-{user} {SCOPES}"), 86_400)).collect()
}

/// Keys of many users.
fn many_users() -> impl Iterator<Item = (String, u32)> {
    (0..1500).map(|user| (format!("user_id:bulk-{user} {SCOPES}"), 86_400))
}

/// Keys of one user for many lifetimes.
fn many_lifetimes(user: &str) -> impl Iterator<Item = (String, u32)> {
    let claim = format!("user_id:{user} {SCOPES}");
    (0..1500).map(move |more| (claim.clone(), 3600 + more))
}

#[tokio::test(start_paused = true)]
async fn many_users_of_one_client_displace_no_token_of_another() {
    let shared = Shared::with_neighbours().await;
    assert_eq!(shared.hits(ATTACKER, many_users()).await, 0);
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn many_lifetimes_of_one_user_displace_no_token_of_another_client() {
    let shared = Shared::with_neighbours().await;
    shared.hits(ATTACKER, many_lifetimes("bulk")).await;
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn many_lifetimes_of_a_user_of_another_client_displace_none_of_its_tokens() {
    let shared = Shared::with_neighbours().await;
    for user in 0..3 {
        shared.hits(ATTACKER, many_lifetimes(&format!("web-{user}"))).await;
    }
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn many_scope_sets_displace_no_token_of_another_client() {
    let shared = Shared::with_neighbours().await;
    let scopes = |set: u32| (0..11).filter(move |bit| set >> bit & 1 == 1).map(|bit| format!(" read:{bit}"));
    let sets = (1..1500).map(|set| (format!("user_id:bulk{}", scopes(set).collect::<String>()), 86_400));
    shared.hits(ATTACKER, sets).await;
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_many_long_user_ids_displace_no_token_of_another_client() {
    let shared = Shared::with_neighbours().await;
    let users = |set: usize| (0..15).map(move |user| format!("user_id:{set}-{user}-{} ", "x".repeat(240)));
    let sets = (0..300).map(|set| (format!("{}read:x", users(set).collect::<String>()), 86_400));
    shared.hits(ATTACKER, sets).await;
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn client_that_asks_first_for_the_users_of_another_displaces_none_of_its_tokens() {
    let shared = Shared::new(|_| {});
    let [web, ..] = NEIGHBOURS;
    shared.hits(ATTACKER, own_users(web)).await;
    assert_eq!(shared.hits(web, own_users(web)).await, USERS);
    shared.hits(ATTACKER, own_users(web)).await;
    shared.hits(ATTACKER, many_users()).await;
    assert_eq!(shared.hits(web, own_users(web)).await, USERS);
}

#[tokio::test(start_paused = true)]
async fn client_that_shares_the_tokens_of_another_displaces_none_of_them() {
    let shared = Shared::with_neighbours().await;
    let [web, ..] = NEIGHBOURS;
    assert_eq!(shared.hits(ATTACKER, own_users(web)).await, USERS);
    shared.hits(ATTACKER, many_users()).await;
    shared.assert_undisturbed().await;
}

#[tokio::test(start_paused = true)]
async fn client_that_joins_the_call_of_another_keeps_its_token() {
    let shared = Shared::new(|_| {});
    let [web, ..] = NEIGHBOURS;
    tokio::join!(shared.hits(ATTACKER, own_users(web)), shared.hits(web, own_users(web)));
    assert_eq!(shared.issuer.courier.call_count(), USERS);
    shared.hits(ATTACKER, many_users()).await;
    assert_eq!(shared.hits(web, own_users(web)).await, USERS);
}

#[tokio::test(start_paused = true)]
async fn client_alone_uses_the_whole_cache_and_loses_its_least_recently_used_tokens() {
    let shared = Shared::new(|_| {});
    assert_eq!(shared.hits(ATTACKER, many_users().take(500)).await, 0);
    assert_eq!(shared.hits(ATTACKER, many_users().take(500)).await, 500);
    // The first hundred are the most recently used.
    assert_eq!(shared.hits(ATTACKER, many_users().take(100)).await, 100);
    shared.hits(ATTACKER, many_users().skip(500).take(200)).await;
    // The victims are drawn by samples, so a few may be newer ones.
    let kept = shared.hits(ATTACKER, many_users().take(100)).await;
    assert!(kept >= 95, "{kept}");
}
