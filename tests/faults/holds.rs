//! Log lines that name the callers whose requests are held back.

use std::borrow::Cow;
use std::sync::Arc;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::TokenRequest;
use courier_token_broker::upstream::Failure;

use crate::support::log_lines::LogLines;
use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask};

const STORM: Actor<'static> = Actor::Client(Cow::Borrowed("storm"));
const CALM: Actor<'static> = Actor::Client(Cow::Borrowed("calm"));

fn of(actor: &Actor<'static>, user: &str) -> TokenRequest<'static> {
    TokenRequest { actor: actor.clone(), ..ask(user, "1h") }
}

/// A broker that has just served the calm client, and whose calls for some users fail like this.
async fn broker(setup: &TestSetup, failure: Failure) -> TestBroker {
    let test = TestBroker::new(setup);
    test.broker.get_token(&of(&CALM, "regular")).await.expect("a token");
    let failure = Arc::new(failure);
    test.issuer.fail(move |claim| claim.contains("poison").then(|| (*failure).clone()));
    test
}

fn setup() -> TestSetup {
    TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }
}

/// Makes a request of the storm each 100 ms, while the calm client makes one a second.
async fn storm(test: &TestBroker, seconds: u32, user: impl Fn(u32) -> String) {
    for number in 0..seconds * 10 {
        test.spawn(of(&STORM, &user(number)));
        if number % 10 == 0 {
            test.spawn(of(&CALM, &format!("calm-{number}")));
        }
        test.pass(100 * MS).await;
    }
}

/// Checks the lines about this cause: one each minute about the storm, which took so many seconds, and one at its end.
async fn check(test: &TestBroker, lines: &LogLines, seconds: usize, cause: &str) {
    test.pass(130 * SECOND).await;
    let about = |text: &str| -> Vec<_> {
        lines.with(text).into_iter().filter(|line| line.contains(&format!("cause=\"{cause}"))).collect()
    };
    let (held, over) = (about("caller held back"), about("caller no longer held back"));
    assert!((seconds / 60 + 1..=seconds / 60 + 2).contains(&held.len()), "{held:?}");
    assert_eq!(over.len(), 1, "{}", lines.text());
    for line in &held {
        assert!(line.contains("WARN") && line.contains("requests="), "{line}");
    }
    assert!(over[0].contains("INFO"), "{over:?}");
    for line in held.iter().chain(&over) {
        assert!(line.contains("client=\"storm\"") && line.contains("workspace=\"default\""), "{line}");
    }
    assert_eq!(about("client=\"calm\""), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn client_whose_circuit_breaker_is_open_is_named_each_minute_and_at_the_end() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&setup(), Failure::Unavailable(500)).await;
    storm(&test, 130, |number| format!("poison-{number}")).await;
    check(&test, &lines, 130, "circuit breaker open: its calls fail").await;
    assert!(lines.with("circuit breaker open: its calls fail")[0].contains("until="), "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn client_whose_user_is_in_the_negative_cache_is_named_with_the_user() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&setup(), Failure::Refused("no such scope".to_owned())).await;
    storm(&test, 20, |_| "poison".to_owned()).await;
    check(&test, &lines, 20, "the same call has just failed").await;
    assert!(lines.with("the same call has just failed")[0].contains("users=\"poison\""), "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn client_whose_user_is_to_pause_is_named_with_the_end_of_the_pause() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&setup(), Failure::Throttled(Some(40 * SECOND))).await;
    storm(&test, 20, |_| "poison".to_owned()).await;
    check(&test, &lines, 20, "Courier asked for a pause").await;
    let line = &lines.with("Courier asked for a pause")[0];
    assert!(line.contains("users=\"poison\"") && line.contains("until="), "{line}");
}

#[tokio::test(start_paused = true)]
async fn client_whose_line_is_too_long_is_named() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&TestSetup { rate: 5.0, burst: 5, ..TestSetup::default() }, Failure::Timeout).await;
    storm(&test, 30, |number| format!("new-{number}")).await;
    check(&test, &lines, 30, "its calls would wait too long for the rate budget").await;
}

#[tokio::test(start_paused = true)]
async fn client_with_its_share_of_the_cache_is_named() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&TestSetup { capacity: 50, ..setup() }, Failure::Timeout).await;
    storm(&test, 20, |number| format!("new-{number}")).await;
    check(&test, &lines, 20, "its share of the cache is used up").await;
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_held_back_are_one_caller() {
    let (lines, _guard) = LogLines::collect();
    let test = broker(&setup(), Failure::Refused("no such scope".to_owned())).await;
    for number in 0..200 {
        let user = format!("poison-{}", number % 20);
        test.spawn(TokenRequest { actor: Actor::Session, ..ask(&user, "1h") });
        test.pass(100 * MS).await;
    }
    test.pass(70 * SECOND).await;
    let held = lines.with("caller held back");
    assert!((1..=2).contains(&held.len()), "{held:?}");
    assert!(held[0].contains("who=\"session\"") && !held[0].contains("client="), "{held:?}");
    assert_eq!(lines.with("caller no longer held back").len(), 1);
}
