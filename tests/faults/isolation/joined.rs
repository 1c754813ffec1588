//! Callers of different parties who wait for one call: it is held back only if all of them are.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Answer, Refusal, TokenRequest};
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

const STORM: Actor<'static> = Actor::Client(Cow::Borrowed("storm"));
/// The callers that join the storm's call.
const OTHERS: [Actor<'static>; 2] = [Actor::Client(Cow::Borrowed("calm")), Actor::Session];

fn of(actor: &Actor<'static>, user: &str) -> TokenRequest<'static> {
    TokenRequest { actor: actor.clone(), ..ask(user, "1h") }
}

/// A broker whose calls for some users fail, and which has just issued the other caller a token.
async fn broker(other: &Actor<'static>, setup: &TestSetup) -> TestBroker {
    let test = TestBroker::new(setup);
    test.broker.get_token(&of(other, "regular")).await.expect("a token");
    let shared = Arc::new(AtomicUsize::new(0));
    test.issuer.fail(move |claim| {
        let fails =
            claim.contains("poison") || claim.contains("unlucky") && shared.fetch_add(1, Ordering::Relaxed) == 0;
        fails.then_some(Failure::Unavailable(500))
    });
    test
}

fn is_held(outcome: &Result<Answer, Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Upstream(Failure::CircuitOpen(_))))
}

/// Makes calls of the storm fail until they are held back.
async fn fail_storm(test: &TestBroker) {
    for user in 0..30 {
        test.spawn(of(&STORM, &format!("poison-{user}")));
        test.pass(100 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn caller_is_not_refused_with_a_client_whose_calls_are_held_back() {
    for other in OTHERS {
        let test = broker(&other, &TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
        fail_storm(&test).await;
        let mut held = 0;
        for user in 0..20 {
            let [_, joined] = [&STORM, &other].map(|actor| test.spawn(of(actor, &format!("new-{user}"))));
            joined.await.expect("no panic").unwrap_or_else(|refusal| panic!("{other:?}: {refusal}"));
            held += usize::from(is_held(&test.broker.get_token(&of(&STORM, &format!("poison-again-{user}"))).await));
            test.pass(100 * MS).await;
        }
        assert!(held > 0, "the storm was never held back");
    }
}

/// The storm's circuit opens while the call is queued, in its line and in the other's.
#[tokio::test(start_paused = true)]
async fn queued_call_is_not_refused_while_one_party_that_waits_for_it_does_not_fail() {
    let setup = TestSetup { rate: 4.0, burst: 4, max_wait: 20 * SECOND, ..TestSetup::default() };
    for other in OTHERS {
        let test = broker(&other, &setup).await;
        let mut asked: Vec<_> = (0..12).map(|user| test.spawn(of(&other, &format!("new-{user}")))).collect();
        test.pass(MS).await;
        let storm: Vec<_> = (0..12).map(|user| test.spawn(of(&STORM, &format!("poison-{user}")))).collect();
        test.pass(MS).await;
        let started = test.spawn(of(&STORM, "shared"));
        test.pass(MS).await;
        asked.push(test.spawn(of(&other, "shared")));
        for outcome in join_all(asked).await {
            outcome.unwrap_or_else(|refusal| panic!("{other:?}: {refusal}"));
        }
        started.await.expect("no panic").expect("the same token");
        assert!(join_all(storm).await.iter().any(is_held), "the storm was never held back");
    }
}

/// The first call is a probe of the storm's circuit.
#[tokio::test(start_paused = true)]
async fn call_of_a_client_that_is_held_back_is_retried_for_another_that_waits() {
    for other in OTHERS {
        let test = broker(&other, &TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
        fail_storm(&test).await;
        test.pass(5 * SECOND).await;
        test.spawn(of(&STORM, "unlucky"));
        test.pass(10 * MS).await;
        assert_eq!(test.calls_for("unlucky").len(), 1);
        let joined = test.broker.get_token(&of(&other, "unlucky")).await;
        joined.unwrap_or_else(|refusal| panic!("{other:?}: {refusal}"));
        assert_eq!(test.calls_for("unlucky").len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_of_a_client_without_retries_is_not_held_against_others() {
    for other in OTHERS {
        let test = broker(&other, &TestSetup { rate: 100.0, burst: 100, ..TestSetup::default() }).await;
        // One user alone, so that the client is not held back.
        for hours in 1..20 {
            let poison = TokenRequest { actor: STORM, ..ask("poison", &format!("{hours}h")) };
            test.broker.get_token(&poison).await.expect_err("it always fails");
        }
        test.broker.get_token(&of(&STORM, "unlucky")).await.expect_err("no retry is left");
        test.broker.get_token(&of(&other, "unlucky")).await.unwrap_or_else(|refusal| panic!("{other:?}: {refusal}"));
    }
}
