//! Recovery: after an outage of any length users are served within seconds.

use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::TokenRequest;
use courier_token_broker::simulator::{Delivery, Fault};

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

fn faults() -> Vec<Fault> {
    let statuses = [401, 402, 403, 404, 408, 409, 429, 500, 502, 503].map(Fault::status);
    let deliveries = [Delivery::CutOff, Delivery::Never].map(Fault::Delivery);
    statuses.into_iter().chain(deliveries).chain([Fault::HTML]).collect()
}

/// Asks for four users a second of each of these clients during an outage and after it. Returns when the
/// first was served and when the last was refused, from Courier's recovery on.
async fn outage(fault: &Fault, length: u32, is_cold: bool) -> (Duration, Duration) {
    fastrand::seed(7);
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
    let request = |number: u32| {
        let client = ["one", "two", "three"][number as usize % 3];
        // Every other request is for a user who asks again and again.
        let user = if number.is_multiple_of(2) { format!("polled-{}", number % 24) } else { format!("new-{number}") };
        TokenRequest { actor: Actor::Client(client.into()), ..ask(&user, "1d") }
    };
    if !is_cold {
        for user in 0..30 {
            test.ask(&format!("early-{user}"), "1d").await.expect("a token");
        }
        test.pass(5 * SECOND).await;
    }
    test.courier.misbehave(Some(fault.clone()));
    let mut number = 0;
    for _ in 0..length * 8 {
        test.spawn(request(number));
        number += 1;
        test.pass(SECOND / 8).await;
    }
    test.courier.misbehave(None);
    let well = test.clock.now();
    let mut asked = Vec::new();
    for _ in 0..30 * 8 {
        let (broker, clock, request) = (test.broker.clone(), test.clock, request(number));
        asked.push(tokio::spawn(async move { (clock.now(), broker.get_token(&request).await.is_ok(), clock.now()) }));
        number += 1;
        test.pass(SECOND / 8).await;
    }
    let outcomes = join_all(asked).await;
    let first = outcomes.iter().filter(|(_, served, _)| *served).map(|(_, _, at)| *at).min().expect("one is served");
    let last = outcomes.iter().filter(|(_, served, _)| !served).map(|(asked, ..)| *asked).max().unwrap_or(well);
    (first.since(well), last.since(well))
}

#[tokio::test(start_paused = true)]
async fn users_are_served_within_five_seconds_of_an_outage_and_refused_for_ten_at_most() {
    let mut late = Vec::new();
    for fault in faults() {
        for (length, is_cold) in [(2, false), (34, false), (34, true), (300, false)] {
            let (first, last) = outage(&fault, length, is_cold).await;
            if first > 5 * SECOND || last > 10 * SECOND {
                late.push(format!("{fault:?} for {length} s, cold {is_cold}: first {first:?}, last error {last:?}"));
            }
        }
    }
    assert!(late.is_empty(), "{}", late.join("\n"));
}

/// How long after an outage of this length a lone user is served, who asks again at this interval.
async fn lone_user(fault: &Fault, length: Duration, interval: Duration) -> Duration {
    let test = TestBroker::with_token(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
    test.courier.misbehave(Some(fault.clone()));
    let down = test.clock.now();
    while test.clock.now() < down + length {
        test.spawn_ask("john", "1h");
        test.pass(interval.min((down + length).since(test.clock.now()))).await;
    }
    test.courier.misbehave(None);
    let well = test.clock.now();
    while test.ask("john", "1h").await.is_err() {
        test.pass(100 * MS).await;
    }
    test.clock.now().since(well)
}

#[tokio::test(start_paused = true)]
async fn single_user_is_served_within_five_seconds_of_an_outage() {
    for fault in faults() {
        let late = lone_user(&fault, 60 * SECOND, SECOND).await;
        assert!(late <= 5 * SECOND, "{fault:?}: {late:?}");
    }
}

/// Courier recovers at each phase of the requests and their calls.
#[tokio::test(start_paused = true)]
async fn single_user_whose_calls_hang_is_served_within_five_seconds_of_an_outage() {
    let hang = Fault::Delivery(Delivery::Never);
    let mut slowest = Duration::ZERO;
    for phase in 0..50 {
        // He asks every second, or once until he is refused.
        for interval in [SECOND, 20 * SECOND] {
            slowest = slowest.max(lone_user(&hang, 100 * SECOND + phase * 400 * MS, interval).await);
        }
    }
    println!("served after {slowest:?} at most");
    assert!(slowest <= 5 * SECOND, "{slowest:?}");
}
