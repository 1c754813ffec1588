//! Turns: clients share the budget evenly, whether they ask for the same users or for others.

use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Answer, Refusal, TokenRequest};
use courier_token_broker::upstream::Failure;
use tokio::task::JoinHandle;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

const RATE: f64 = 20.0;
const TURN: Duration = Duration::from_millis(50);
/// Courier's latency, and a timer's resolution.
const LATENCY: Duration = Duration::from_millis(105);

type Asked = JoinHandle<Result<Answer, Refusal>>;

fn ask_of(client: &'static str, user: &str) -> TokenRequest<'static> {
    TokenRequest { actor: Actor::Client(client.into()), ..ask(user, "1h") }
}

/// A broker with one call at a time, and a queue for a hundred.
fn broker() -> TestBroker {
    TestBroker::new(&TestSetup { rate: RATE, burst: 1, ..TestSetup::default() })
}

/// New users of a client, who ask at once; the first gets the permit that is there.
async fn storm(test: &TestBroker, client: &'static str, users: std::ops::Range<u32>) -> Vec<Asked> {
    let asked = users.map(|user| test.spawn(ask_of(client, &format!("storm-{user}")))).collect();
    test.pass(MS).await;
    asked
}

#[tokio::test(start_paused = true)]
async fn client_that_joins_a_call_has_its_own_turn_for_it() {
    let test = broker();
    let storm = storm(&test, "storm", 0..87).await;
    let (answer, took) = test.timed(test.broker.get_token(&ask_of("calm", "storm-86"))).await;
    assert!(answer.is_ok() && took <= 2 * TURN + LATENCY, "{took:?}: {:?}", answer.err());
    // The storm's last user has its token by then, and its others wait no longer.
    assert!(join_all(storm).await.iter().all(Result::is_ok));
    assert!(test.keeps_budget());
    assert_eq!(test.courier.call_count(), 87);
}

#[tokio::test(start_paused = true)]
async fn client_that_joins_a_call_is_not_refused_with_the_first_one() {
    let test = broker();
    let storm = storm(&test, "storm", 0..101).await;
    let joined: Vec<_> = (86..101).map(|user| test.spawn(ask_of("calm", &format!("storm-{user}")))).collect();
    test.pass(MS).await;
    // These displace calls of the longest line.
    let others: Vec<_> = (0..12).map(|user| test.spawn(ask_of("breeze", &format!("breeze-{user}")))).collect();
    assert!(join_all(joined).await.iter().all(Result::is_ok));
    assert!(join_all(others).await.iter().all(Result::is_ok));
    let refused = join_all(storm).await.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!((refused, test.courier.call_count()), (12, 101));
    assert!(test.keeps_budget());
}

/// The storm's line is full; the other client joins before the refusal.
#[tokio::test(start_paused = true)]
async fn refusal_of_one_client_is_not_that_of_another_that_joins_meanwhile() {
    let test = broker();
    let _storm = storm(&test, "storm", 0..101).await;
    let first = test.spawn(ask_of("storm", "shared"));
    let joined = test.spawn(ask_of("calm", "shared"));
    let (outcome, took) = test.timed(joined).await;
    assert!(outcome.expect("no panic").is_ok() && took <= 2 * TURN + LATENCY, "{took:?}");
    // Its own line would be too long, but the call left by the other.
    assert!(first.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn client_whose_line_is_full_joins_a_call_that_leaves_in_time() {
    let test = broker();
    let _storm = storm(&test, "storm", 0..101).await;
    let calm = test.spawn(ask_of("calm", "shared"));
    test.pass(MS).await;
    assert!(test.broker.get_token(&ask_of("storm", "shared")).await.is_ok());
    assert!(calm.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn refused_client_is_served_after_the_time_that_it_was_told() {
    let test = broker();
    let _storm = storm(&test, "storm", 0..101).await;
    let _calm: Vec<_> = (0..30).map(|user| test.spawn(ask_of("calm", &format!("calm-{user}")))).collect();
    test.pass(MS).await;
    let refused = test.broker.get_token(&ask_of("storm", "late")).await.err();
    let Some(Refusal::Upstream(Failure::Limited(wait))) = refused else { panic!("{refused:?}") };
    test.pass(wait).await;
    let (answer, took) = test.timed(test.broker.get_token(&ask_of("storm", "late"))).await;
    assert!(answer.is_ok() && took <= TURN + LATENCY, "{took:?} after {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn user_with_many_keys_delays_the_other_users_of_its_client_by_one_turn() {
    let test = broker();
    let of_session =
        |user: &str, minutes: u32| TokenRequest { actor: Actor::Session, ..ask(user, &format!("{minutes}m")) };
    let _many: Vec<_> = (60..161).map(|minutes| test.spawn(of_session("greedy", minutes))).collect();
    test.pass(MS).await;
    for user in ["jane", "john", "mary"] {
        let (answer, took) = test.timed(test.broker.get_token(&of_session(user, 60))).await;
        assert!(answer.is_ok() && took <= 3 * TURN + LATENCY, "{took:?}: {:?}", answer.err());
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_spend_no_permit() {
    let test = TestBroker::new(&TestSetup { rate: 1.0, burst: 1, ..TestSetup::default() });
    test.ask("jane", "1h").await.expect("a token");
    let queued: Vec<_> = ["john", "mary"].into_iter().map(|user| (user, test.spawn_ask(user, "1h"))).collect();
    test.pass(MS).await;
    for (user, asked) in &queued {
        asked.abort();
        test.sign_out(user);
    }
    // The next permit comes a second after the first.
    test.pass(SECOND).await;
    let (answer, took) = test.timed(test.ask("anna", "1h")).await;
    assert!(answer.is_ok() && took <= LATENCY, "{took:?}: {:?}", answer.err());
    assert_eq!(test.courier.call_count(), 2);
}

/// Whether it asks for its own users or for those of the others.
#[tokio::test(start_paused = true)]
async fn calm_client_waits_for_a_turn_of_each_client_in_every_mix() {
    const CLIENTS: [&str; 5] = ["calm", "storm", "breeze", "gale", "squall"];
    for seed in 0..50 {
        let (test, mut random) = (broker(), fastrand::Rng::with_seed(seed));
        let clients = random.usize(2..=CLIENTS.len());
        let mut others = Vec::new();
        for round in 0..20 {
            for client in &CLIENTS[1..clients] {
                for _ in 0..random.u32(..12) {
                    // Some are users of the other clients.
                    let user = if random.bool() { random.u32(..300) } else { 1000 + random.u32(..100_000) };
                    others.push(test.spawn(ask_of(client, &user.to_string())));
                }
            }
            test.pass(MS * random.u32(..100)).await;
            let user = if random.bool() { random.u32(..300) } else { 200_000 + round };
            let (answer, took) = test.timed(test.broker.get_token(&ask_of("calm", &user.to_string()))).await;
            let most = TURN * (clients as u32 + 1) + LATENCY;
            assert!(answer.is_ok() && took <= most, "seed {seed}, {clients} clients: {took:?}, {:?}", answer.err());
        }
        join_all(others).await;
        assert!(test.keeps_budget(), "seed {seed}");
    }
}

/// The failing users alone would use the budget up with their retries.
#[tokio::test(start_paused = true)]
async fn users_whose_calls_fail_delay_no_first_call_of_their_line() {
    let test = broker();
    test.issuer.fail(|claim| claim.contains("poison").then_some(Failure::Unavailable(500)));
    let of_session = |user: String| TokenRequest { actor: Actor::Session, ..ask(&user, "1h") };
    let mut slowest = Duration::ZERO;
    for round in 0..100 {
        for user in 0..2 {
            test.spawn(of_session(format!("poison-{round}-{user}")));
        }
        test.pass(MS).await;
        let (answer, took) = test.timed(test.broker.get_token(&of_session(format!("new-{round}")))).await;
        assert!(answer.is_ok(), "{round}: {:?}", answer.err());
        slowest = slowest.max(took);
        test.pass(4 * TURN - took.min(4 * TURN)).await;
    }
    // The calls of this round, and one that has just left.
    assert!(slowest <= 5 * TURN + LATENCY, "{slowest:?}");
    assert!(test.keeps_budget());
}

#[tokio::test(start_paused = true)]
async fn retry_that_first_calls_overtake_ends_with_the_failure_and_takes_no_permit() {
    let test = broker();
    test.issuer.fail(|claim| claim.contains("poison").then_some(Failure::Unavailable(500)));
    let failing = test.spawn(ask_of("web", "poison"));
    // First calls of the same line use the whole budget for longer than a request waits.
    for user in 0..240 {
        test.spawn(ask_of("web", &format!("first-{user}")));
        test.pass(TURN).await;
    }
    let outcome = failing.await.expect("no panic").err();
    assert_eq!(outcome, Some(Refusal::Upstream(Failure::Unavailable(500))));
    test.pass(SECOND).await;
    assert_eq!(test.calls_for("poison").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_whose_requests_have_left_takes_no_permit() {
    let test = TestBroker::new(&TestSetup { rate: 1.0, burst: 1, ..TestSetup::default() });
    test.issuer.fail(|claim| claim.contains("poison").then_some(Failure::Unavailable(500)));
    let failing = test.spawn_ask("poison", "1h");
    // The retry waits for the next permit, a second after the first.
    test.pass(SECOND / 2).await;
    failing.abort();
    test.pass(5 * SECOND).await;
    assert_eq!(test.courier.call_count(), 1);
}
