//! Tokens removed by a sign-out, a report or a purge do not come back by themselves.

use courier_token_broker::broker::Source;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::Fault;
use courier_token_broker::token::{TokenKey, UserId};

use super::world::{HOUR, MS, SECOND, Setup, World, ask};

fn sign_out(world: &World, user: &str) -> usize {
    world.broker.sign_out("default", UserId::new(user).expect("an id"))
}

async fn token(world: &World, user: &str) -> String {
    let grant = world.ask(user, "1h").await.expect("a token").grant;
    String::from_utf8(grant.token().to_vec()).expect("text")
}

/// Lets time pass until the condition holds.
async fn until(world: &World, so: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        world.pass(250 * MS).await;
    }
    panic!("it never came to it");
}

#[tokio::test(start_paused = true)]
async fn sign_out_removes_tokens_until_the_next_request() {
    let world = World::new(&Setup::default());
    let before = token(&world, "jane").await;
    world.ask("jane", "2h").await.expect("a token");
    world.ask("john", "1h").await.expect("a token");
    assert_eq!(sign_out(&world, "jane"), 2);
    assert_eq!(sign_out(&world, "jane"), 0);
    world.pass(6 * HOUR).await;
    // John's token was used, so it is renewed once; Jane's tokens are not.
    assert_eq!(world.courier.call_count(), 3 + 1);
    assert_ne!(token(&world, "jane").await, before);
    assert_eq!(world.courier.call_count(), 5);
}

#[tokio::test(start_paused = true)]
async fn renewal_in_flight_does_not_restore_a_removed_token() {
    let world = World::new(&Setup { latency: 5 * SECOND, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    // The renewal comes due after half an hour less 0.5 to 2%.
    until(&world, || world.courier.call_count() == 2).await;
    assert_eq!(sign_out(&world, "jane"), 1);
    world.pass(20 * SECOND).await;
    world.broker.drained().await;
    world.broker.update_gauges();
    assert_eq!(world.metrics.cached_tokens.get(), 0);
    assert!(matches!(world.ask("jane", "1h").await.expect("a token").source, Source::Issued { stale: None, .. }));
    assert_eq!(world.courier.call_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn sign_out_drops_queued_renewals() {
    let world = World::new(&Setup { rate: 0.05, burst: 16, ..Setup::default() });
    for user in 0..14 {
        world.ask(&user.to_string(), "1h").await.expect("a token");
    }
    // The renewals come due within half a minute, which is more than the budget admits at once.
    let queued = "courier_token_broker_upstream_queue_depth{class=\"renewal\",workspace=\"default\"} 1";
    let text = || String::from_utf8(world.metrics.text().expect("text")).expect("UTF-8");
    until(&world, || text().contains(queued)).await;
    assert_eq!((0..14).map(|user| sign_out(&world, &user.to_string())).sum::<usize>(), 14);
    let calls = world.courier.call_count();
    world.pass(2 * HOUR).await;
    assert_eq!(world.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn sign_out_voids_a_call_in_flight_for_all_but_its_waiters() {
    let world = World::new(&Setup { latency: 2 * SECOND, ..Setup::default() });
    let (early, late) = tokio::join!(token(&world, "jane"), async {
        world.pass(SECOND).await;
        assert_eq!(sign_out(&world, "jane"), 0);
        token(&world, "jane").await
    });
    assert_ne!(early, late);
    assert_eq!(token(&world, "jane").await, late);
    assert_eq!(world.courier.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn detached_call_is_retried_for_its_waiters_and_reports_that_nothing_is_stored() {
    let world = World::new(&Setup { latency: 2 * SECOND, ..Setup::default() });
    world.courier.script([Some(Fault::status(500))]);
    let (answer, ()) = tokio::join!(world.ask("jane", "1h"), async {
        world.pass(SECOND).await;
        sign_out(&world, "jane");
    });
    let source = answer.expect("the second call brings a token").source;
    assert_eq!(source, Source::Issued { collapsed: false, stale: None, stored: false });
    assert_eq!(world.courier.call_count(), 2);
    world.broker.update_gauges();
    assert_eq!(world.metrics.cached_tokens.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn detached_call_without_waiters_is_not_retried() {
    let world = World::new(&Setup { latency: 2 * SECOND, ..Setup::default() });
    world.courier.script([Some(Fault::status(500))]);
    let asked = tokio::time::timeout(SECOND, world.ask("jane", "1h")).await;
    assert!(asked.is_err(), "it hung up");
    sign_out(&world, "jane");
    world.pass(20 * SECOND).await;
    assert_eq!(world.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn signed_out_user_is_not_prefetched() {
    let world = World::new(&Setup { mode: Mode::Learned, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    let stages = || world.broker.explain("jane").iter().map(|known| known.plan).collect::<Vec<_>>();
    until(&world, || stages() == ["lapsed"]).await;
    let calls = world.courier.call_count();
    sign_out(&world, "jane");
    assert!(stages().is_empty());
    world.pass(30 * HOUR).await;
    assert_eq!(world.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reports_of_one_token_make_one_renewal() {
    let world = World::new(&Setup::default());
    let refused = token(&world, "jane").await;
    let john = token(&world, "john").await;
    let anybodys = |_: &TokenKey| true;
    assert!(world.broker.reject(&refused, |_| false).is_none());
    let reports = (0..1000).filter(|_| world.broker.reject(&refused, anybodys).is_some()).count();
    assert_eq!(reports, 1);
    // The token is not served any more, not even while the renewal is in flight.
    let next = token(&world, "jane").await;
    assert_ne!(next, refused);
    assert!((0..1000).all(|_| world.broker.reject(&refused, anybodys).is_none()));
    assert!(world.broker.reject("never issued", anybodys).is_none());
    assert_eq!(token(&world, "john").await, john);
    assert_eq!(world.courier.call_count(), 3);
    assert_eq!(token(&world, "jane").await, next);
}

#[tokio::test(start_paused = true)]
async fn purge_removes_everything_for_good() {
    let world = World::new(&Setup { latency: 5 * SECOND, ..Setup::default() });
    for user in 0..100 {
        let (broker, ask) = (world.broker.clone(), ask(&user.to_string(), "1h"));
        tokio::spawn(async move { broker.get_token(&ask).await });
    }
    world.pass(60 * SECOND).await;
    until(&world, || world.courier.call_count() > 150).await;
    // Some tokens are renewed, some have a renewal in flight, some are due.
    assert_eq!(world.broker.purge("default"), Some(100));
    assert_eq!(world.broker.purge("other"), None);
    let calls = world.courier.call_count();
    world.pass(3 * HOUR).await;
    assert_eq!(world.courier.call_count(), calls);
    world.broker.update_gauges();
    assert_eq!(world.metrics.cached_tokens.get(), 0);
}

/// Removes a token while a request that found it too old waits for a call that fails; tells whether it is served.
async fn is_kept_after(remove: impl Fn(&World, &str)) -> bool {
    let world = World::new(&Setup { latency: 2 * SECOND, mode: Mode::Off, ..Setup::default() });
    let token = world.ask("jane", "1h").await.expect("a token").grant;
    let token = String::from_utf8(token.token().to_vec()).expect("text");
    world.pass(HOUR * 2 / 3).await;
    world.courier.misbehave(Some(Fault::status(500)));
    let (answer, ()) = tokio::join!(world.ask("jane", "1h"), async {
        world.pass(SECOND).await;
        remove(&world, &token);
    });
    answer.is_ok_and(|answer| answer.grant.token() == token.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn rejected_token_does_not_outlive_a_call_that_fails() {
    assert!(!is_kept_after(|world, token| assert!(world.broker.reject(token, |_: &TokenKey| true).is_some())).await);
}

#[tokio::test(start_paused = true)]
async fn signed_out_token_does_not_outlive_a_call_that_fails() {
    assert!(
        !is_kept_after(|world, _| assert_eq!(world.broker.sign_out("default", UserId::new("jane").expect("an id")), 1))
            .await
    );
}

#[tokio::test(start_paused = true)]
async fn purged_token_does_not_outlive_a_call_that_fails() {
    assert!(!is_kept_after(|world, _| assert_eq!(world.broker.purge("default"), Some(1))).await);
}

#[tokio::test(start_paused = true)]
async fn many_rejections_do_not_fill_the_queue() {
    let world = World::new(&Setup { rate: 10.0, burst: 20, ..Setup::default() });
    let mut tokens = Vec::new();
    for user in 0..600 {
        world.pass(110 * MS).await;
        tokens.push(world.ask(&user.to_string(), "1h").await.expect("a token").grant);
    }
    for token in &tokens {
        let text = String::from_utf8(token.token().to_vec()).expect("text");
        assert!(world.broker.reject(&text, |_: &TokenKey| true).is_some());
    }
    let text = String::from_utf8(world.metrics.text().expect("text")).expect("UTF-8");
    let depth =
        text.lines().find(|line| line.contains("queue_depth{class=\"renewal\"")).expect("the series").to_owned();
    let depth: f64 = depth.rsplit_once(' ').and_then(|(_, depth)| depth.parse().ok()).expect("a number");
    assert!(depth <= 10.0, "{depth}");
}
