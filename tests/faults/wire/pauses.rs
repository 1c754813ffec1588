//! Courier answers 429 over real HTTP.

use super::warm_broker::{BROKEN, WarmBroker, answers_under, ask, assert_transient, broken, error, tokens};
use crate::support::refusal::is_a_refusal;

/// Asks for other users until the pause is known to be all users'.
async fn all_are_paused(warm: &WarmBroker) {
    for user in 0..9 {
        is_a_refusal(&ask(&warm.broker, &tokens(&format!("other-{user}"))).await, false);
    }
}

#[tokio::test]
async fn throttling_courier_is_answered_with_503() {
    let faults = [error(429, &[]), error(429, &[("retry-after-ms", "250")])];
    for (fault, _, answer) in answers_under(faults, "throttled").await {
        // The request may wait for a pause that ends too late.
        assert!(matches!(answer.status, 503 | 504), "{fault:?}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
    }
}

#[tokio::test]
async fn long_pause_is_kept_and_its_length_announced() {
    for (pause, most) in [("29.5", 30), ("59.5", 60)] {
        let fault = error(429, &[("retry-after", pause)]);
        let warm = WarmBroker::new().await;
        let first = warm.answer_under(fault.clone(), "throttled").await;
        assert_eq!(first.status, 503, "{fault:?}: {first:?}");
        all_are_paused(&warm).await;
        warm.broker.courier.misbehave(None);
        let calls = warm.broker.courier.call_count();
        let second = ask(&warm.broker, &tokens("another")).await;
        is_a_refusal(&second, false);
        assert_eq!(warm.broker.courier.call_count(), calls, "{fault:?}: Courier was called during the pause");
        for answer in [first, second] {
            let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
            assert!((most - 9..=most).contains(&after), "{fault:?}: {answer:?}");
            // No SDK may block its caller for so long.
            assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        }
        warm.assert_jane_is_served().await;
    }
}

#[tokio::test]
async fn pause_is_kept_whatever_its_body() {
    let faults = BROKEN.map(|delivery| broken(error(429, &[("retry-after", "30")]), delivery));
    for (fault, warm, answer) in answers_under(faults, "throttled").await {
        assert_eq!(answer.status, 503, "{fault:?}: {answer:?}");
        all_are_paused(&warm).await;
        let calls = warm.broker.courier.call_count();
        is_a_refusal(&ask(&warm.broker, &tokens("another")).await, false);
        assert_eq!(warm.broker.courier.call_count(), calls, "{fault:?}: Courier was called during the pause");
    }
}

#[tokio::test]
async fn request_that_outlasts_a_pause_is_refused_as_soon_as_that_is_known() {
    assert_transient([error(429, &[("retry-after", "1")])], "throttled", 503).await;
}
