//! Log lines about calls that fail or cannot be made.

use std::sync::atomic::{AtomicBool, Ordering};

use courier_token_broker::broker::Refusal;
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::{Cause, Failure};

use crate::peers::asks;
use crate::regressions::{Lines, Small};
use crate::world::{MS, SECOND, Setup, World, ask};

/// The log lines that contain this text.
fn with(lines: &Lines, text: &str) -> Vec<String> {
    lines.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// The number after `name=` in a log line.
fn field(line: &str, name: &str) -> f64 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[tokio::test(start_paused = true)]
async fn budget_that_refuses_calls_says_how_many_and_which_setting_to_raise() {
    let (lines, _guard) = Lines::collect();
    let world = World::new(&Setup { rate: 2.0, burst: 1, ..Setup::default() });
    let mut asked = Vec::new();
    for minute in 0..2 {
        asked.extend((0..48).map(|user| asks(&world, &format!("{minute}-{user}"), "1h")));
        world.pass(60 * SECOND).await;
    }
    let mut refused = 0;
    for asked in asked {
        let outcome = asked.await.expect("no panic");
        refused += u32::from(matches!(outcome, Err(Refusal::Upstream(Failure::Limited(_)))));
    }
    let told = with(&lines, "rate budget used up");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told.iter().map(|line| field(line, "refused")).sum::<f64>(), f64::from(refused), "{told:?}");
    assert!(refused > 60, "{refused}");
    for line in told {
        assert!(line.contains("WARN") && line.contains("workspaces.default.budget.requests_per_second"), "{line}");
        assert_eq!((field(&line, "configured"), field(&line, "calls_per_second")), (2.0, 2.0), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_is_logged_every_half_a_minute_with_the_reduced_rate() {
    let (lines, _guard) = Lines::collect();
    let world = World::new(&Setup { rate: 20.0, burst: 20, ..Setup::default() });
    world.courier.misbehave(Some(Fault::throttled(1)));
    for user in 0..100 {
        asks(&world, &user.to_string(), "1h");
        world.pass(SECOND).await;
    }
    let told = with(&lines, "Courier answered 429");
    assert!((3..=5).contains(&told.len()), "{told:?}");
    for line in told {
        assert!(line.contains("WARN") && line.contains("pausing calls for 1 s"), "{line}");
        assert!(field(&line, "calls_per_second") < 20.0 && field(&line, "configured") == 20.0, "{line}");
        assert!(field(&line, "answers") >= 1.0, "{line}");
    }
    assert_eq!(with(&lines, "left alone"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn long_pause_is_logged_with_its_length() {
    let (lines, _guard) = Lines::collect();
    let world = World::new(&Setup::default());
    world.courier.misbehave(Some(Fault::throttled(30)));
    world.ask("jane", "1h").await.expect_err("Courier wants a pause");
    world.pass(2 * SECOND).await;
    let told = with(&lines, "pausing calls for 30 s");
    assert_eq!(told.len(), 1, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn token_of_another_user_is_an_error_of_its_own_without_the_token() {
    let (lines, _guard) = Lines::collect();
    let world = World::new(&Setup::default());
    world.courier.misbehave(Some(Fault::Scope("user_id:bob inbox:read:messages".to_owned())));
    world.ask("jane", "1h").await.expect_err("it is bob's");
    let told = with(&lines, "Courier issued a token for other users or scopes; token discarded");
    assert_eq!(told.len(), 1, "{}", lines.text());
    assert!(told[0].contains("ERROR"), "{told:?}");
    for part in ["workspace=\"default\"", "users=\"jane\"", "scopes=\"inbox:read:messages\""] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    assert!(!lines.text().contains("eyJ"), "{}", lines.text());
    assert_eq!(with(&lines, "token request failed"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn failed_connection_is_logged_with_its_cause() {
    let (lines, _guard) = Lines::collect();
    let world = Small::new(20.0, 20, MS, |_| Some(Failure::Connect(Cause::Untrusted.into())));
    world.broker.get_token(&ask("jane", "1h")).await.expect_err("no listener");
    let told = with(&lines, "token request failed");
    assert!(told.len() == 1 && told[0].contains("certificate not trusted"), "{}", lines.text());
}

static SHORT: AtomicBool = AtomicBool::new(true);

/// Calls that this machine could not make are no evidence against Courier or a token key.
#[tokio::test(start_paused = true)]
async fn lack_of_file_descriptors_neither_opens_the_circuit_breaker_nor_is_remembered() {
    let (lines, _guard) = Lines::collect();
    let world = Small::new(100.0, 100, MS, |_| SHORT.load(Ordering::Relaxed).then_some(Failure::OutOfFiles));
    for user in 0..100 {
        let refusal = world.broker.get_token(&ask(&user.to_string(), "1h")).await.err();
        assert_eq!(refusal, Some(Refusal::Upstream(Failure::OutOfFiles)), "{user}");
        world.pass(100 * MS).await;
    }
    SHORT.store(false, Ordering::Relaxed);
    // The last key is asked for again at once, and new keys are.
    for user in ["99", "98", "new"] {
        world.broker.get_token(&ask(user, "1h")).await.expect("a token");
    }
    let told = with(&lines, "out of file descriptors");
    let own: Vec<_> = told.iter().filter(|line| line.contains("ERROR")).collect();
    assert!((1..=2).contains(&own.len()) && own[0].contains("LimitNOFILE"), "{told:?}");
}
