//! Courier answers 429, and calls pause.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup};

/// A broker whose Courier has just answered 429 with a `Retry-After` of half a minute, to several users.
async fn paused(setup: &TestSetup) -> TestBroker {
    let test = TestBroker::new(setup);
    test.ask("jane", "1h").await.expect("a token");
    test.courier.misbehave(Some(Fault::throttled(30)));
    for user in ["first", "second", "third"] {
        let refused = test.ask(user, "1h").await;
        assert!(matches!(refused.err(), Some(Refusal::Upstream(Failure::Throttled(Some(_))))));
    }
    test.courier.misbehave(None);
    test
}

#[tokio::test(start_paused = true)]
async fn pause_stops_calls_and_cached_tokens_are_served() {
    let test = paused(&TestSetup::default()).await;
    let (calls, start) = (test.courier.call_count(), test.clock.now());
    for second in 0..29 {
        assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
        let asked = test.clock.now();
        match test.ask(&format!("new-{second}"), "1h").await {
            // A request that would wait too long is refused at once, with the length of the pause.
            Err(Refusal::Upstream(Failure::Throttled(Some(wait)))) => {
                let left = 30 * SECOND - test.clock.now().since(start);
                assert!(wait + SECOND >= left && wait < left + SECOND, "{wait:?} of {left:?}");
                assert!(wait > 5 * SECOND);
                assert!(test.clock.now().since(asked) < 10 * MS);
            }
            // Near the end of the pause the request waits.
            Ok(_) => assert!(test.clock.now().since(start) >= 29 * SECOND),
            other => panic!("{other:?}"),
        }
        if test.clock.now().since(start) < 29 * SECOND {
            assert_eq!(test.courier.call_count(), calls);
        }
        test.pass(SECOND).await;
    }
    test.pass(5 * SECOND).await;
    test.ask("later", "1h").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn renewal_due_during_a_pause_is_made_after_it() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    // The renewal is due after half an hour less 2% at the earliest.
    test.pass(HOUR / 2 - 40 * SECOND).await;
    test.courier.misbehave(Some(Fault::throttled(120)));
    for user in ["first", "second", "third"] {
        assert!(test.ask(user, "2h").await.is_err());
    }
    test.courier.misbehave(None);
    let calls = test.courier.call_count();
    // The pause is a minute at most.
    test.pass(59 * SECOND).await;
    assert_eq!(test.courier.call_count(), calls);
    // The renewal was refused in the pause, and backs off for another minute at most.
    let renewals = test.calls_for("jane").len();
    test.pass(70 * SECOND).await;
    assert_eq!(test.calls_for("jane").len(), renewals + 1);
    assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
}
