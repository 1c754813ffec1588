//! The budget: no call exceeds it, waiting users go first, and every request gets an answer.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, text, with_min_ttl};

#[tokio::test(start_paused = true)]
async fn two_thousand_users_at_once_keep_to_the_budget_and_all_are_answered() {
    let test = TestBroker::new(&TestSetup { rate: 50.0, burst: 10, ..TestSetup::default() });
    let start = test.clock.now();
    let (mut served, mut refused) = (0, 0);
    for outcome in test.ask_all((0..2_000).map(|user| user.to_string()), "1d").await {
        match outcome {
            Ok(_) => served += 1,
            Err(Refusal::Upstream(Failure::Limited(wait))) => {
                refused += 1;
                assert!(wait > 5 * SECOND && wait < 6 * SECOND, "{wait:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    // The permits of the burst, less those of a tenth of a second, and those of five seconds.
    assert_eq!((served, refused), (255, 1745));
    assert!(test.clock.now().since(start) < 5200 * MS);
    assert_eq!(test.courier.call_count(), served);
    assert!(test.keeps_budget());
}

/// Three renewals wait for the reserve; the one with the nearest floor queues last.
#[tokio::test(start_paused = true)]
async fn nearest_floor_is_renewed_first_and_a_rejected_token_last() {
    let test = TestBroker::new(&TestSetup { rate: 2.5, burst: 600, ..TestSetup::default() });
    let start = test.clock.now();
    let until = async |at: u32| test.pass_until(start + SECOND * at).await;
    // A window of 7200 s: the renewal comes due 36 s before its end.
    test.ask("far", "4h").await.expect("a token");
    until(5395).await;
    // A window of 1800 s: the renewal comes due 26 s before its end.
    test.ask("near", "1h").await.expect("a token");
    let rejected = test.ask("rejected", "1d").await.expect("a token");
    until(7140).await;
    let outcomes = test.ask_all((0..600).map(|user| format!("user-{user}")), "1d").await;
    assert!(outcomes.iter().all(Result::is_ok));
    test.broker.reject(&text(&rejected), |_| true).expect("it is known");
    let before = test.courier.call_count();
    until(7190).await;
    assert_eq!(test.courier.call_count(), before, "the reserve is not there yet");
    until(7210).await;
    let renewed: Vec<_> = test.courier.calls()[before..].iter().map(|call| call.scope.clone()).collect();
    let wanted = ["near", "far", "rejected"].map(|user| format!("user_id:{user} inbox:read:messages"));
    assert_eq!(renewed, wanted);
}

#[tokio::test(start_paused = true)]
async fn joined_renewal_moves_to_the_class_of_waiting_users() {
    let test = TestBroker::with_token(&TestSetup { rate: 1.0, burst: 1, ..TestSetup::default() }).await;
    test.pass(HOUR / 2 - 200 * SECOND).await;
    // Users use up the budget while Jane's renewal comes due and queues.
    let mut users = 0;
    while test.queue_depth("renewal") != 1.0 {
        // Two users queue, so that one more is still served in time.
        for _ in 0..if users == 0 { 3 } else { 1 } {
            test.spawn_ask(&format!("new-{users}"), "1d");
            users += 1;
        }
        test.pass(SECOND).await;
    }
    assert_eq!(test.calls_for("jane").len(), 1);
    let wants = with_min_ttl("jane", "1h", HOUR * 5 / 6);
    // Other users come after the renewal and before Jane.
    for user in ["late-1", "late-2"] {
        test.spawn_ask(user, "1d");
    }
    test.pass(MS).await;
    let asked = test.clock.now();
    let answer = test.broker.get_token(&wants).await.expect("in time, or it would be refused");
    // The call follows the users who came before the renewal; it does not wait to be every tenth.
    assert!(test.clock.now().since(asked) <= 3300 * MS);
    assert!(matches!(answer.source, Source::Issued { collapsed: true, .. }));
    assert_eq!(test.calls_for("jane").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn hits_are_never_limited() {
    let test = TestBroker::new(&TestSetup { rate: 0.01, burst: 1, ..TestSetup::default() });
    test.ask("jane", "1d").await.expect("a token");
    assert!(matches!(test.ask("john", "1d").await, Err(Refusal::Upstream(Failure::Limited(_)))));
    let asked = test.clock.now();
    for _ in 0..10_000 {
        assert_eq!(test.ask("jane", "1d").await.expect("a token").source, Source::Hit);
    }
    assert!(test.clock.now().since(asked) < HOUR / 3600);
}
