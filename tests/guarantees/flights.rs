//! Single-flight: one call per token key, cheap hits, and callers who hang up without effect on others.

use bytes::Buf;
use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::policy::refresh::Mode;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup};

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_requests_for_one_key_make_one_call() {
    let test = TestBroker::start();
    let asks: Vec<_> = (0..10_000).map(|_| test.spawn_ask("jane", "1d")).collect();
    test.pass(50 * MS).await;
    // The leader, whose request began the call, hangs up with the followers.
    asks.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
    let mut objects = Vec::new();
    for (place, asked) in asks.into_iter().enumerate() {
        match asked.await {
            Ok(answer) => objects.push(answer.expect("a token").grant.object()),
            Err(cancelled) => assert!(cancelled.is_cancelled() && place % 2 == 0),
        }
    }
    assert_eq!(objects.len(), 5_000);
    assert!(objects.iter().all(|object| *object == objects[0]));
    assert_eq!(test.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn different_keys_make_separate_calls() {
    let test = TestBroker::start();
    let (one, two, three) = tokio::join!(test.ask("jane", "1d"), test.ask("john", "1d"), test.ask("jane", "2d"));
    let objects = [one, two, three].map(|answer| answer.expect("a token").grant.object());
    assert_eq!(test.courier.call_count(), 3);
    assert!(objects[0] != objects[1] && objects[0] != objects[2] && objects[1] != objects[2]);
}

#[tokio::test(start_paused = true)]
async fn hit_copies_no_token() {
    let test = TestBroker::start();
    test.ask("jane", "1d").await.expect("a token");
    let first = test.ask("jane", "1d").await.expect("a token").grant;
    let second = test.ask("jane", "1d").await.expect("a token").grant;
    assert_eq!(first.object().chunk().as_ptr(), second.object().chunk().as_ptr());
    assert_eq!(first.open_object().chunk().as_ptr(), second.object().chunk().as_ptr());
}

#[tokio::test(start_paused = true)]
async fn each_waiter_has_its_own_deadline() {
    let test = TestBroker::new(&TestSetup { latency: 12 * SECOND, ..TestSetup::default() });
    let (early, late) = tokio::join!(test.ask("jane", "1d"), async {
        test.pass(5 * SECOND).await;
        test.ask("jane", "1d").await
    });
    assert_eq!(early.err(), Some(Refusal::TimedOut));
    assert!(matches!(late.expect("in time").source, Source::Issued { collapsed: true, .. }));
}

#[tokio::test(start_paused = true)]
async fn full_cache_evicts_the_least_recently_used_and_refuses_no_request() {
    let test = TestBroker::new(&TestSetup { capacity: 100, mode: Mode::Off, ..TestSetup::default() });
    for user in 0..300 {
        test.ask(&user.to_string(), "1d").await.expect("a token");
    }
    assert!(test.cached_tokens() <= 100.0, "{}", test.cached_tokens());
    assert_eq!(test.ask("299", "1d").await.expect("a token").source, Source::Hit);
    assert_ne!(test.ask("0", "1d").await.expect("a token").source, Source::Hit);
}
