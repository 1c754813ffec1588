use std::cell::Cell;

use super::*;
use crate::secrets::Secret;
use crate::upstream::Cause;
use crate::upstream::settings::CourierSettings;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

fn connections() -> Connections {
    let connections = ConnectionSettings::for_timeout(TIMEOUT);
    let settings = CourierSettings {
        base_url: "https://courier.invalid".parse().expect("a URL"),
        api_key: Secret::new("key").expect("a key"),
        proxy: None,
        connect_timeout: TIMEOUT,
        timeout: TIMEOUT,
        connections,
        extra_roots: Vec::new(),
    };
    let template = ClientTemplate::new(&settings).expect("certificate authorities");
    Connections::new(template, connections, Clock::tokio()).expect("a client")
}

fn lost() -> Failure {
    Failure::Connect(Cause::Lost.into())
}

/// A call that is answered after this time.
async fn answered(connections: &Connections, time: Duration, version: Version) -> Checkout<'_, &'static str> {
    let checkout = connections.check_out("user", true);
    match checkout.wait(tokio::time::sleep(time), || ()).await {
        Some(()) => {
            checkout.record_head(version);
            checkout.record(None);
        }
        None => checkout.record(Some(&lost())),
    }
    checkout
}

/// How long a call waits that gets no answer.
async fn patience(connections: &Connections) -> Duration {
    let checkout = connections.check_out("user", true);
    let waited = tokio::time::timeout(TIMEOUT, checkout.wait(std::future::pending::<()>(), || ())).await;
    checkout.record(Some(&waited.map_or(Failure::Timeout, |_| lost())));
    connections.clock.now().since(checkout.sent())
}

fn is_current(checkout: &Checkout<'_, &'static str>) -> bool {
    Arc::ptr_eq(&checkout.generation, &checkout.connections.check_out("user", true).generation)
}

#[tokio::test(start_paused = true)]
async fn late_call_is_given_up_on_a_connection_that_worked() {
    let connections = connections();
    let first = answered(&connections, SECOND, Version::HTTP_2).await;
    assert!(patience(&connections).await <= SECOND * 2);
    assert!(!is_current(&first));
    answered(&connections, SECOND / 2, Version::HTTP_2).await;
    assert_eq!(patience(&connections).await, TIMEOUT, "the connection is new");
}

#[tokio::test(start_paused = true)]
async fn late_call_on_a_new_connection_goes_on_while_others_use_the_next() {
    let connections = connections();
    let (checkout, late) = (connections.check_out("user", true), Cell::new(None));
    let head = checkout.wait(tokio::time::sleep(SECOND * 3), || late.set(Some(is_current(&checkout)))).await;
    assert_eq!((head, late.get()), (Some(()), Some(false)));
    checkout.record_head(Version::HTTP_2);
    checkout.record(None);
    assert!(!is_current(&checkout));
    // A slow Courier is known by now, so the next call is not late.
    let next = connections.check_out("user", true);
    assert_eq!(next.wait(tokio::time::sleep(SECOND * 3), || panic!("it is late")).await, Some(()));
}

#[tokio::test(start_paused = true)]
async fn idle_generation_counts_as_new() {
    let connections = connections();
    answered(&connections, SECOND / 2, Version::HTTP_2).await;
    tokio::time::sleep(SECOND * 26).await;
    assert_eq!(patience(&connections).await, TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn slow_courier_gets_no_call_twice() {
    let connections = connections();
    // The first call is late, since nothing is known yet. So the second has a connection of its own.
    for _ in 0..2 {
        answered(&connections, SECOND * 2, Version::HTTP_11).await;
    }
    for _ in 0..20 {
        let checkout = answered(&connections, SECOND * 2, Version::HTTP_11).await;
        assert!(is_current(&checkout));
    }
    assert!(patience(&connections).await >= SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn call_that_hangs_after_slow_answers_is_late_before_its_timeout() {
    let connections = connections();
    answered(&connections, SECOND * 4, Version::HTTP_2).await;
    // The first call was late on a silent connection: it makes suspects for a minute.
    tokio::time::sleep(SECOND * 60).await;
    for _ in 0..2 {
        answered(&connections, SECOND * 4, Version::HTTP_2).await;
    }
    let (checkout, late) = (connections.check_out("user", true), Cell::new(None));
    let report = || late.set(Some(connections.clock.now().since(checkout.sent())));
    let waited = tokio::time::timeout(TIMEOUT, checkout.wait(std::future::pending::<()>(), report)).await;
    assert!(waited.is_err(), "a healthy call takes as long");
    assert!(late.get().is_some_and(|late| late < SECOND * 4), "{late:?}");
    assert!(connections.check_out("new", false).is_shared(), "it may be slow, so its connection is not suspected");
}

#[tokio::test(start_paused = true)]
async fn failing_courier_is_not_taken_for_a_dead_connection() {
    let connections = connections();
    answered(&connections, SECOND, Version::HTTP_2).await;
    for _ in 0..4 {
        let checkout = connections.check_out("user", true);
        checkout.record_head(Version::HTTP_2);
        checkout.record(Some(&Failure::Unavailable(500)));
        assert!(is_current(&checkout));
    }
    assert_eq!(patience(&connections).await, TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn answers_show_that_a_shared_connection_works() {
    for (version, expected) in [(Version::HTTP_2, true), (Version::HTTP_11, false)] {
        let connections = connections();
        answered(&connections, SECOND / 2, version).await;
        tokio::time::sleep(SECOND).await;
        let hanging = connections.check_out("user", true);
        let others = async {
            for _ in 0..10 {
                answered(&connections, SECOND / 2, version).await;
            }
        };
        let waits = tokio::select! {
            biased;
            _ = hanging.wait(std::future::pending::<()>(), || ()) => false,
            () = others => true,
        };
        assert_eq!(waits, expected, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn suspect_has_a_connection_of_its_own_until_a_call_succeeds() {
    for failure in [lost(), Failure::Connect(Cause::SharedClosed.into())] {
        let connections = connections();
        answered(&connections, SECOND / 10, Version::HTTP_2).await;
        connections.check_out("user", true).record(Some(&failure));
        assert!(connections.check_out("other", true).is_shared());
        let alone = connections.check_out("user", true);
        assert!(!alone.is_shared());
        alone.record(Some(&Failure::Connect(Cause::Closed.into())));
        assert!(!connections.check_out("user", true).is_shared(), "it failed again");
        alone.record(None);
        assert!(connections.check_out("user", true).is_shared());
    }
}

#[tokio::test(start_paused = true)]
async fn key_without_a_token_has_a_connection_of_its_own_for_a_minute_after_a_break() {
    for failure in [lost(), Failure::Connect(Cause::SharedClosed.into()), Failure::Timeout] {
        let connections = connections();
        let broken = connections.check_out("user", true);
        assert!(connections.check_out("new", false).is_shared());
        tokio::time::sleep(TIMEOUT).await;
        broken.record(Some(&failure));
        assert!(!connections.check_out("new", false).is_shared(), "{failure}");
        assert!(connections.check_out("known", true).is_shared());
        tokio::time::sleep(SECOND * 60).await;
        assert!(connections.check_out("new", false).is_shared());
    }
}

#[tokio::test(start_paused = true)]
async fn key_without_a_token_joins_no_call_that_is_late_on_a_silent_connection() {
    let connections = connections();
    let late = connections.check_out("user", true);
    let waits = tokio::time::timeout(SECOND * 2, late.wait(std::future::pending::<()>(), || ())).await;
    assert!(waits.is_err(), "the connection is new");
    assert!(!connections.check_out("new", false).is_shared());
}

#[tokio::test(start_paused = true)]
async fn lost_http1_call_makes_no_suspect() {
    let connections = connections();
    answered(&connections, SECOND / 10, Version::HTTP_11).await;
    connections.check_out("user", true).record(Some(&lost()));
    assert!(!connections.check_out("user", true).is_alone && !connections.check_out("new", false).is_alone);
}

#[tokio::test(start_paused = true)]
async fn calls_that_always_hang_replace_one_generation_a_second() {
    let connections = connections();
    let mut generations = vec![answered(&connections, SECOND / 10, Version::HTTP_11).await.generation];
    for _ in 0..100 {
        let checkout = connections.check_out("user", true);
        checkout.record(Some(&lost()));
        if !generations.iter().any(|known| Arc::ptr_eq(known, &checkout.generation)) {
            generations.push(Arc::clone(&checkout.generation));
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!((10..=11).contains(&generations.len()), "{}", generations.len());
}

#[tokio::test(start_paused = true)]
async fn generation_retires_after_two_minutes_at_most() {
    let connections = connections();
    let first = connections.check_out("user", true);
    tokio::time::sleep(SECOND * 89).await;
    assert!(is_current(&first));
    tokio::time::sleep(SECOND * 31).await;
    assert!(!is_current(&first));
}
