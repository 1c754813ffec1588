//! Calls of each of Courier's SDKs, with the retries of its policy, while Courier fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_token_broker::broker::Refusal;
use courier_token_broker::config::{Layers, Raw, RawWorkspace, Settings};
use courier_token_broker::http::api::Api;
use courier_token_broker::policy::admission::retry::MOST_TRIES;
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::{Delivery, Fault};
use courier_token_broker::upstream::Failure;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use tokio::task::JoinSet;

use crate::support::broker::{API_KEY, CLIENT_KEY, client};
use crate::support::sdk_rules::{RetryHints, Sdk, sdks};
use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, with_min_ttl};

/// `server.timeout` in these tests.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The time that an SDK's call may take beyond the timeout.
const LONGER: Duration = Duration::from_secs(3);
/// The most calls to Courier for one request.
const TRIES: usize = MOST_TRIES as usize;

/// The broker's routes in virtual time.
fn api(test: &TestBroker) -> Arc<Api> {
    let mut raw = Raw::default();
    let workspace = RawWorkspace { api_key: Secret::new(API_KEY).ok(), ..RawWorkspace::default() };
    raw.workspaces = BTreeMap::from([("default".to_owned(), workspace)]);
    raw.clients = vec![client("app", CLIENT_KEY, &["*"])];
    let settings = Settings::resolve(&raw, &Layers::default()).expect("good settings");
    let (broker, metrics) = (test.broker.clone(), Arc::clone(&test.metrics));
    Arc::new(Api::new(settings.http, broker, settings.clients, test.clock, metrics).expect("sound metrics"))
}

/// The outcome of an SDK's call.
#[derive(Debug)]
struct Ended {
    status: StatusCode,
    requests: usize,
    /// The waits between its requests, in seconds.
    waits: Vec<f64>,
    took: Duration,
}

/// Asks for a token of this user, and retries as the SDK does.
async fn call(api: &Arc<Api>, test: &TestBroker, sdk: &Sdk, user: &str) -> Ended {
    let (clock, start) = (test.clock, test.clock.now());
    let mut waits = Vec::new();
    loop {
        let mut request = Request::post(&sdk.request.paths[0]).header("Authorization", format!("Bearer {CLIENT_KEY}"));
        for (name, value) in &sdk.request.headers {
            request = request.header(name, value);
        }
        let body = serde_json::json!({"scope": format!("user_id:{user} inbox:read:messages"), "expires_in": "1h"});
        // The SDK sends this header if COURIER_CUSTOM_HEADERS has it.
        let request = request.header("Token-Min-TTL", "50m");
        let request = request.body(Full::from(Bytes::from(body.to_string()))).expect("a request");
        let response = Arc::clone(api).answer(request, None).await;
        let status = response.status();
        let hints =
            RetryHints::new(status.as_u16(), |name| response.headers().get(name).and_then(|value| value.to_str().ok()));
        let retries = u32::try_from(waits.len()).expect("few");
        let Some(wait) = sdk.retry.wait(retries, &hints).filter(|_| !status.is_success()) else {
            return Ended { status, requests: waits.len() + 1, waits, took: clock.now().since(start) };
        };
        // The bounds must hold for the shortest and for the longest wait.
        waits.push(if retries == 0 { wait.shortest } else { wait.longest });
        test.pass(Duration::from_secs_f64(waits[waits.len() - 1])).await;
    }
}

#[track_caller]
fn is_bounded(ended: &Ended, sdk: &Sdk, calls: usize, case: &str) {
    let case = format!("{} and {case}: {calls} calls, {ended:?}", sdk.name);
    assert!(calls <= TRIES, "its retries and the broker's multiply: {case}");
    assert!(ended.took <= TIMEOUT + LONGER, "it takes too long: {case}");
    assert!(ended.waits.iter().all(|wait| *wait >= 1.0), "it retries within a second: {case}");
    assert!(sdk.name != "php" || ended.waits.iter().all(|wait| *wait <= 2.0), "it sleeps in a worker: {case}");
}

/// Faults that end when Courier recovers.
fn passing() -> Vec<Fault> {
    let mut faults: Vec<_> = [500, 502, 503, 504].map(Fault::status).into();
    faults.extend([Delivery::CutOff, Delivery::Never, Delivery::Dripping].map(Fault::Delivery));
    faults.extend([Fault::HTML, Fault::NOT_JSON, Fault::EMPTY_TOKEN]);
    faults
}

/// Faults that last, or whose length Courier has stated.
fn lasting() -> Vec<Fault> {
    let mut faults: Vec<_> = [400, 401, 402, 403, 404, 409, 429].map(Fault::status).into();
    faults.extend([1, 3, 30, 300].map(Fault::throttled));
    faults.extend([Fault::EXPIRED, Fault::Life(Some(20.0)), Fault::Scope("user_id:other s".to_owned())]);
    faults
}

#[tokio::test(start_paused = true)]
async fn sdk_call_on_a_dead_courier_costs_no_more_than_the_brokers_own_tries() {
    for sdk in sdks() {
        for fault in passing().into_iter().chain(lasting()) {
            let test = TestBroker::start();
            let api = api(&test);
            test.courier.misbehave(Some(fault.clone()));
            let ended = call(&api, &test, &sdk, "jane").await;
            assert!(!ended.status.is_success(), "{fault:?}: {ended:?}");
            is_bounded(&ended, &sdk, test.courier.call_count(), &format!("{fault:?}"));
            assert!(sdk.name == "php" || ended.requests == 1, "{} and {fault:?}: {ended:?}", sdk.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn user_is_served_soon_after_courier_recovers() {
    for fault in passing() {
        let test = TestBroker::start();
        test.courier.misbehave(Some(fault.clone()));
        // The worst moment: all tries have just failed.
        assert!(test.ask("jane", "1h").await.is_err());
        test.courier.misbehave(None);
        let well = test.clock.now();
        while test.ask("jane", "1h").await.is_err() {
            test.pass(100 * MS).await;
        }
        let late = test.clock.now().since(well);
        assert!(late <= LONGER + 500 * MS, "{fault:?}: served {late:?} after Courier recovered");
        assert!(test.ask("john", "1h").await.is_ok(), "{fault:?}: another user had to wait");
    }
}

/// With so many failures the breaker opens, and queued requests are refused.
#[tokio::test(start_paused = true)]
async fn concurrent_sdk_calls_cost_no_more_each() {
    for fault in [Fault::status(503), Fault::Delivery(Delivery::Never), Fault::Delivery(Delivery::CutOff)] {
        let test = Arc::new(TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }));
        let api = api(&test);
        test.courier.misbehave(Some(fault.clone()));
        let mut calling = JoinSet::new();
        for user in 0..400 {
            let sdk = sdks().swap_remove(user % 8);
            let (api, there) = (Arc::clone(&api), Arc::clone(&test));
            calling.spawn(async move {
                let user = format!("user-{user}");
                let ended = call(&api, &there, &sdk, &user).await;
                (user, sdk, ended)
            });
            test.pass(150 * MS).await;
        }
        let mut made = HashMap::new();
        while let Some(called) = calling.join_next().await {
            let (user, sdk, ended) = called.expect("no panic");
            is_bounded(&ended, &sdk, test.calls_for(&user).len(), &format!("{fault:?}"));
            *made.entry(ended.requests).or_insert(0) += 1;
        }
        println!(
            "{fault:?}: {} calls for 400 users, whose SDKs made so many requests each: {made:?}",
            test.courier.call_count()
        );
    }
}

/// A renewal has one try, unless a request waits for it.
#[tokio::test(start_paused = true)]
async fn failed_renewal_is_remembered_for_its_followers() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    test.courier.misbehave(Some(Fault::status(500)));
    test.pass_while(10 * MS, || test.courier.call_count() < 2).await;
    let fresh = with_min_ttl("jane", "1h", HOUR * 5 / 6);
    test.broker.get_token(&fresh).await.expect_err("Courier fails");
    assert_eq!(test.courier.call_count(), 1 + TRIES, "it was joined, and tried as often as if it were for a user");
    for _ in 0..2 {
        test.pass(SECOND).await;
        let asked = test.clock.now();
        test.broker.get_token(&fresh).await.expect_err("Courier fails");
        assert_eq!(test.clock.now(), asked, "a call was made, and waited for");
    }
}

/// A call that begins late goes on for seconds after its caller's timeout. No retry waits for it.
#[tokio::test(start_paused = true)]
async fn call_that_outlasts_the_timeout_delays_no_request() {
    let test = TestBroker::new(&TestSetup { latency: 3600 * MS, ..TestSetup::default() });
    let api = api(&test);
    test.courier.script([Some(Fault::status(500))]);
    test.courier.misbehave(Some(Fault::Delivery(Delivery::Never)));
    let php = sdks().into_iter().find(|sdk| sdk.name == "php").expect("it is there");
    let start = test.clock.now();
    let ended = call(&api, &test, &php, "jane").await;
    let calls = test.calls();
    assert!(calls[calls.len() - 1].since(start) < 9 * SECOND, "no call began late");
    assert_eq!((ended.status, ended.requests), (StatusCode::GATEWAY_TIMEOUT, 3), "{ended:?}");
    is_bounded(&ended, &php, calls.len(), "a late call");
}

/// A request gets the outcome of the call made for it, even if the breaker opens before the next try.
#[tokio::test(start_paused = true)]
async fn breaker_that_opens_before_a_retry_does_not_hide_why_the_call_failed() {
    let test = TestBroker::new(&TestSetup { rate: 5.0, burst: 5, ..TestSetup::default() });
    test.courier.misbehave(Some(Fault::status(503)));
    let outcomes = test.ask_all((0..25).map(|user| user.to_string()), "1h").await;
    let (mut called, mut rested) = (0, 0);
    for (user, outcome) in outcomes.into_iter().enumerate() {
        let calls = test.calls_for(&user.to_string()).len();
        match outcome.expect_err("Courier fails") {
            Refusal::Upstream(Failure::Unavailable(503)) => called += 1,
            Refusal::Upstream(Failure::CircuitOpen(_)) if calls == 0 => rested += 1,
            other => panic!("after {calls} calls: {other}"),
        }
    }
    assert!(called > 5 && rested > 5, "{called} were called for, {rested} were not");
}
