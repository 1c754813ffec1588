//! Tokens removed by a sign-out, a report or a purge do not come back by themselves.

use courier_token_broker::broker::Source;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::Fault;
use courier_token_broker::token::{TokenKey, UserId};

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, text};

async fn token(test: &TestBroker, user: &str) -> String {
    text(&test.ask(user, "1h").await.expect("a token"))
}

#[tokio::test(start_paused = true)]
async fn sign_out_removes_tokens_until_the_next_request() {
    let test = TestBroker::start();
    let before = token(&test, "jane").await;
    test.ask("jane", "2h").await.expect("a token");
    test.ask("john", "1h").await.expect("a token");
    assert_eq!(test.sign_out("jane"), 2);
    assert_eq!(test.sign_out("jane"), 0);
    test.pass(6 * HOUR).await;
    // John's token was used, so it is renewed once; Jane's tokens are not.
    assert_eq!(test.courier.call_count(), 3 + 1);
    assert_ne!(token(&test, "jane").await, before);
    assert_eq!(test.courier.call_count(), 5);
}

#[tokio::test(start_paused = true)]
async fn sign_out_tells_whether_there_was_anything_to_forget() {
    let test = TestBroker::new(&TestSetup { latency: 2 * SECOND, ..TestSetup::default() });
    let sign_out = |user| test.broker.sign_out("default", UserId::new(user).expect("an id"));
    assert_eq!(sign_out("jane"), None);
    // A call under way, then a token.
    tokio::join!(token(&test, "jane"), async {
        test.pass(SECOND).await;
        assert_eq!((sign_out("jane"), sign_out("jane"), sign_out("john")), (Some(0), None, None));
    });
    token(&test, "jane").await;
    assert_eq!((sign_out("jane"), sign_out("jane")), (Some(1), None));
    assert_eq!(test.broker.sign_out("unknown", UserId::new("jane").expect("an id")), None);
}

#[tokio::test(start_paused = true)]
async fn renewal_in_flight_does_not_restore_a_removed_token() {
    let test = TestBroker::with_token(&TestSetup { latency: SECOND, ..TestSetup::default() }).await;
    // The renewal comes due after half an hour less 0.5 to 2%.
    test.pass_while(250 * MS, || test.courier.call_count() < 2).await;
    assert_eq!(test.sign_out("jane"), 1);
    test.pass(20 * SECOND).await;
    test.broker.drained().await;
    assert_eq!(test.cached_tokens(), 0.0);
    assert!(matches!(test.ask("jane", "1h").await.expect("a token").source, Source::Issued { stale: None, .. }));
    assert_eq!(test.courier.call_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn sign_out_drops_queued_renewals() {
    let test = TestBroker::new(&TestSetup { rate: 0.05, burst: 16, ..TestSetup::default() });
    for user in 0..14 {
        test.ask(&user.to_string(), "1h").await.expect("a token");
    }
    // The renewals come due within half a minute, which is more than the budget admits at once.
    test.pass_while(250 * MS, || test.queue_depth("renewal") != 1.0).await;
    assert_eq!((0..14).map(|user| test.sign_out(&user.to_string())).sum::<usize>(), 14);
    let calls = test.courier.call_count();
    test.pass(2 * HOUR).await;
    assert_eq!(test.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn sign_out_voids_a_call_in_flight_for_all_but_its_waiters() {
    let test = TestBroker::new(&TestSetup { latency: 2 * SECOND, ..TestSetup::default() });
    let (early, late) = tokio::join!(token(&test, "jane"), async {
        test.pass(SECOND).await;
        assert_eq!(test.sign_out("jane"), 0);
        token(&test, "jane").await
    });
    assert_ne!(early, late);
    assert_eq!(token(&test, "jane").await, late);
    assert_eq!(test.courier.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn detached_call_is_retried_for_its_waiters_and_reports_that_nothing_is_stored() {
    let test = TestBroker::new(&TestSetup { latency: 2 * SECOND, ..TestSetup::default() });
    test.courier.script([Some(Fault::status(500))]);
    let (answer, ()) = tokio::join!(test.ask("jane", "1h"), async {
        test.pass(SECOND).await;
        test.sign_out("jane");
    });
    let source = answer.expect("the second call brings a token").source;
    assert_eq!(source, Source::Issued { collapsed: false, stale: None, stored: false });
    assert_eq!(test.courier.call_count(), 2);
    assert_eq!(test.cached_tokens(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn detached_call_without_waiters_is_not_retried() {
    let test = TestBroker::new(&TestSetup { latency: 2 * SECOND, ..TestSetup::default() });
    test.courier.script([Some(Fault::status(500))]);
    let asked = tokio::time::timeout(SECOND, test.ask("jane", "1h")).await;
    assert!(asked.is_err(), "it hung up");
    test.sign_out("jane");
    test.pass(20 * SECOND).await;
    assert_eq!(test.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn signed_out_user_is_not_prefetched() {
    let test = TestBroker::with_token(&TestSetup { mode: Mode::Learned, ..TestSetup::default() }).await;
    let stages = || test.broker.explain("jane").iter().map(|known| known.plan).collect::<Vec<_>>();
    test.pass_while(250 * MS, || stages() != ["lapsed"]).await;
    let calls = test.courier.call_count();
    test.sign_out("jane");
    assert!(stages().is_empty());
    test.pass(30 * HOUR).await;
    assert_eq!(test.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reports_of_one_token_make_one_renewal() {
    let test = TestBroker::start();
    let refused = token(&test, "jane").await;
    let john = token(&test, "john").await;
    let anybodys = |_: &TokenKey| true;
    assert!(test.broker.reject(&refused, |_| false).is_none());
    let reports = (0..1000).filter(|_| test.broker.reject(&refused, anybodys).is_some()).count();
    assert_eq!(reports, 1);
    // The token is not served any more, not even while the renewal is in flight.
    let next = token(&test, "jane").await;
    assert_ne!(next, refused);
    assert!((0..1000).all(|_| test.broker.reject(&refused, anybodys).is_none()));
    assert!(test.broker.reject("never issued", anybodys).is_none());
    assert_eq!(token(&test, "john").await, john);
    assert_eq!(test.courier.call_count(), 3);
    assert_eq!(token(&test, "jane").await, next);
}

#[tokio::test(start_paused = true)]
async fn purge_removes_everything_for_good() {
    let test = TestBroker::new(&TestSetup { latency: 5 * SECOND, ..TestSetup::default() });
    for user in 0..100 {
        test.spawn_ask(&user.to_string(), "1h");
    }
    test.pass(60 * SECOND).await;
    test.pass_while(250 * MS, || test.courier.call_count() <= 150).await;
    // Some tokens are renewed, some have a renewal in flight, some are due.
    assert_eq!(test.broker.purge("default"), Some(100));
    assert_eq!(test.broker.purge("other"), None);
    let calls = test.courier.call_count();
    test.pass(3 * HOUR).await;
    assert_eq!(test.courier.call_count(), calls);
    assert_eq!(test.cached_tokens(), 0.0);
}

/// Removes a token while a request that found it too old waits for a call that fails; tells whether it is served.
async fn is_kept_after(remove: fn(&TestBroker, &str)) -> bool {
    let test = TestBroker::new(&TestSetup { latency: 2 * SECOND, mode: Mode::Off, ..TestSetup::default() });
    let token = token(&test, "jane").await;
    test.pass(HOUR * 2 / 3).await;
    test.courier.misbehave(Some(Fault::status(500)));
    let (answer, ()) = tokio::join!(test.ask("jane", "1h"), async {
        test.pass(SECOND).await;
        remove(&test, &token);
    });
    answer.is_ok_and(|answer| answer.grant.token() == token.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn removed_token_does_not_outlive_a_call_that_fails() {
    let removals: [fn(&TestBroker, &str); 3] = [
        |test, token| assert!(test.broker.reject(token, |_: &TokenKey| true).is_some()),
        |test, _| assert_eq!(test.sign_out("jane"), 1),
        |test, _| assert_eq!(test.broker.purge("default"), Some(1)),
    ];
    for (place, remove) in removals.into_iter().enumerate() {
        assert!(!is_kept_after(remove).await, "removal {place}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_rejections_do_not_fill_the_queue() {
    let test = TestBroker::new(&TestSetup { rate: 10.0, burst: 20, ..TestSetup::default() });
    let mut tokens = Vec::new();
    for user in 0..600 {
        test.pass(110 * MS).await;
        tokens.push(token(&test, &user.to_string()).await);
    }
    for token in &tokens {
        assert!(test.broker.reject(token, |_: &TokenKey| true).is_some());
    }
    let depth = test.queue_depth("renewal");
    assert!(depth <= 10.0, "{depth}");
}
