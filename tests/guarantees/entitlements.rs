//! Token keys that no client may ask for any more are not renewed.

use courier_token_broker::policy::refresh::{Mode, RenewalDecision, Stop};
use courier_token_broker::token::TokenKey;

use crate::support::test_broker::{HOUR, SECOND, TestBroker, TestSetup};

fn is_of(name: &'static str) -> impl Fn(&TokenKey) -> bool + Send + Sync + 'static {
    move |key| key.users().all(|user| user.starts_with(name))
}

async fn ask_all(test: &TestBroker, apps: &[(&str, usize)]) {
    for (app, users) in apps {
        for user in 0..*users {
            test.ask(&format!("{app}-{user}"), "1h").await.expect("a token");
        }
    }
}

/// Counts the calls for users of this app from call number `from` on.
fn calls_for(test: &TestBroker, app: &str, from: usize) -> usize {
    test.courier.calls()[from..].iter().filter(|call| call.scope.contains(&format!("user_id:{app}-"))).count()
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_removed_client_are_not_renewed() {
    for (is_removed, wanted) in [(false, 20), (true, 0)] {
        let test = TestBroker::start();
        ask_all(&test, &[("old", 20), ("new", 5)]).await;
        if is_removed {
            test.broker.renew_only(is_of("new"));
        }
        test.pass(HOUR / 2).await;
        assert_eq!((calls_for(&test, "old", 25), calls_for(&test, "new", 25)), (wanted, 5));
        let stop = RenewalDecision::Stop(Stop::NotPermitted);
        let is_shown = test.broker.explain("old-0")[0].decision.is_some_and(|decided| decided.verdict == stop);
        assert_eq!(is_shown, is_removed);
    }
}

#[tokio::test(start_paused = true)]
async fn users_of_a_removed_client_are_not_prefetched() {
    let mut renewed = Vec::new();
    for is_removed in [false, true] {
        let test = TestBroker::new(&TestSetup { mode: Mode::Learned, ..TestSetup::default() });
        for _ in 0..24 {
            ask_all(&test, &[("old", 20), ("new", 5)]).await;
            test.pass(HOUR / 3).await;
        }
        if is_removed {
            test.broker.renew_only(is_of("new"));
        }
        let from = test.courier.call_count();
        test.pass(3 * HOUR).await;
        renewed.push(calls_for(&test, "old", from));
    }
    assert!(renewed[0] > 0 && renewed[1] == 0, "{renewed:?}");
}

#[tokio::test(start_paused = true)]
async fn queued_renewal_is_dropped_once_no_client_may_ask() {
    let test = TestBroker::new(&TestSetup { rate: 0.05, burst: 16, ..TestSetup::default() });
    ask_all(&test, &[("old", 14)]).await;
    // The renewals come due within half a minute, which is more than the budget admits at once.
    test.pass_while(SECOND / 4, || test.queue_depth("renewal") != 1.0).await;
    test.broker.renew_only(is_of("new"));
    let calls = test.courier.call_count();
    test.pass(2 * HOUR).await;
    assert_eq!(test.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn restored_access_is_served_and_renewed_again() {
    let test = TestBroker::start();
    ask_all(&test, &[("old", 1)]).await;
    test.broker.renew_only(is_of("new"));
    test.pass(2 * HOUR).await;
    assert_eq!(test.courier.call_count(), 1);
    test.broker.renew_only(|_| true);
    ask_all(&test, &[("old", 1)]).await;
    test.pass(HOUR / 2).await;
    assert_eq!(test.courier.call_count(), 3);
}
