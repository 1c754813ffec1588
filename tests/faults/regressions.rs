//! Regressions: bugs of the broker that are fixed.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_token_broker::broker::{Background, Broker, BrokerSettings, Source, TokenRequest};
use courier_token_broker::clock::Clock;
use courier_token_broker::clock::Moment;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};
use courier_token_broker::token::{Grant, Token, TokenKey, UserId};
use courier_token_broker::upstream::{Cause, Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit, answer};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::world::{HOUR, MS, SECOND, Setup, World, ask, workspace};

const START: Moment = Moment::from_nanos(1 << 50);

/// An issuer that fails for some keys and serves the others.
struct Picky {
    clock: Clock,
    fails: fn(&str) -> Option<Failure>,
    latency: Duration,
    calls: Arc<Mutex<Vec<(Moment, String)>>>,
}

impl Issuer for Picky {
    fn issue<'a>(&'a self, key: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            self.calls.lock().unwrap().push((sent, key.claim().to_string()));
            self.clock.sleep_until(sent + self.latency).await;
            match (self.fails)(key.claim()) {
                Some(failure) => Err(failure),
                None => Ok(Grant::new(&Token::new("t").unwrap(), sent, key.lifetime().as_duration())),
            }
        })
    }
}

pub struct Small {
    pub broker: Broker,
    clock: Clock,
    calls: Arc<Mutex<Vec<(Moment, String)>>>,
    _background: Background,
}

impl Small {
    pub fn new(rate: f64, burst: u32, latency: Duration, fails: fn(&str) -> Option<Failure>) -> Self {
        let (clock, calls) = (Clock::tokio(), Arc::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let budget = Budget::new(rate, burst).unwrap();
        let issuer = Picky { clock, fails, latency, calls: Arc::clone(&calls) };
        let settings = DispatcherSettings { budget, max_wait: 5 * SECOND };
        let dispatcher = Dispatcher::new(settings, Arc::new(issuer), clock, metrics.workspace(&workspace()));
        let settings = BrokerSettings {
            floor: Floor::new(0.5, 30 * SECOND).unwrap(),
            refresh: Mode::Used,
            extra_calls: 0.15,
            history: 10_000,
            capacity: 100_000,
            timeout: 10 * SECOND,
        };
        let runtime = tokio::runtime::Handle::current();
        let broker = Broker::new(settings, [(workspace(), dispatcher)], clock, metrics, runtime);
        let background = broker.start();
        Self { broker, clock, calls, _background: background }
    }

    pub async fn pass(&self, time: Duration) {
        self.clock.sleep_until(self.clock.now() + time).await;
    }

    pub fn calls_of(&self, user: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(_, claim)| claim.contains(user)).count()
    }
}

/// Courier always answers 500 for one user id, which is asked for four times a second.
#[tokio::test(start_paused = true)]
async fn key_that_courier_fails_shuts_out_no_other_key() {
    let world = Small::new(20.0, 20, 100 * MS, |claim| claim.contains("poison").then_some(Failure::Unavailable(500)));
    let broker = world.broker.clone();
    let clock = world.clock;
    tokio::spawn(async move {
        loop {
            let broker = broker.clone();
            tokio::spawn(async move { broker.get_token(&ask("poison", "1h")).await });
            clock.sleep_until(clock.now() + SECOND / 4).await;
        }
    });
    let mut failed = 0;
    for user in 0..60 {
        world.pass(5 * SECOND).await;
        failed += u32::from(world.broker.get_token(&ask(&format!("good-{user}"), "1h")).await.is_err());
    }
    assert_eq!(failed, 0, "of 60 users whom Courier would have served, one every 5 s");
}

/// A firewall before Courier rejects one user id.
#[tokio::test(start_paused = true)]
async fn single_403_shuts_out_no_other_key() {
    let world = Small::new(20.0, 20, 100 * MS, |claim| claim.contains("script").then_some(Failure::Credentials(403)));
    for user in 0..50 {
        world.broker.get_token(&ask(&format!("early-{user}"), "1h")).await.expect("a token");
        world.pass(SECOND / 10).await;
    }
    assert!(world.broker.get_token(&ask("<script>", "1h")).await.is_err());
    let mut failed = 0;
    for user in 0..30 {
        world.pass(SECOND).await;
        failed += u32::from(world.broker.get_token(&ask(&format!("good-{user}"), "1h")).await.is_err());
    }
    assert_eq!(failed, 0, "of 30 users in the half minute after it");
}

/// Uses the default settings: calls of at most 5 s, and requests that wait for 10 s.
#[tokio::test(start_paused = true)]
async fn timed_out_call_is_retried_within_the_callers_time() {
    let world = World::new(&Setup::default());
    world.courier.script([Some(Fault::Delivery(Delivery::Never))]);
    let asked = world.clock.now();
    let answer = world.ask("jane", "1h").await;
    let took = world.clock.now().since(asked);
    assert!(answer.is_ok(), "after {took:?} of 10 s and {} calls: {answer:?}", world.courier.call_count());
}

#[tokio::test(start_paused = true)]
async fn failed_early_renewal_backs_off_however_often_its_token_is_used() {
    let fails = |claim: &str| {
        (claim.contains("bad") || JANE_FAILS.load(std::sync::atomic::Ordering::Relaxed) && claim.contains("jane"))
            .then_some(Failure::Unavailable(500))
    };
    let world = Small::new(20.0, 20, 20 * MS, fails);
    for _ in 0..24 {
        world.broker.get_token(&ask("jane", "8h")).await.expect("a token");
        world.pass(9 * 60 * SECOND).await;
    }
    JANE_FAILS.store(true, std::sync::atomic::Ordering::Relaxed);
    // Some calls fail, but too few to open the circuit breaker.
    for user in 0..4 {
        world.broker.get_token(&ask(&format!("fine-{user}"), "1h")).await.expect("a token");
    }
    let _ = world.broker.get_token(&ask("bad", "1h")).await;
    world.pass(2 * SECOND).await;
    let before = world.calls_of("jane");
    for _ in 0..100 {
        assert_eq!(world.broker.get_token(&ask("jane", "8h")).await.expect("a token").source, Source::Hit);
        world.pass(30 * MS).await;
    }
    let calls = world.calls_of("jane") - before;
    // The back-off is 0.5 to 1 s, then 1 to 2 s.
    assert!(calls <= 4, "{calls} calls for one token's renewal in 3 s");
    assert!(
        world.broker.get_token(&ask("somebody", "1h")).await.is_ok(),
        "and Courier is left alone by everybody: {calls} calls"
    );
}
static JANE_FAILS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Capacity for renewals frees between the two checks of the refresher's loop.
#[tokio::test(start_paused = true)]
async fn refresher_wakes_when_capacity_frees_between_its_checks() {
    let clock = Clock::tokio();
    let metrics = Arc::new(Metrics::new().unwrap());
    let issuer =
        Picky { clock, fails: |_| Some(Failure::Connect(Cause::Closed.into())), latency: MS, calls: Arc::default() };
    let budget = Budget::new(10_000.0, 10_000).unwrap();
    let settings = DispatcherSettings { budget, max_wait: 5 * SECOND };
    let dispatcher = Dispatcher::new(settings, Arc::new(issuer), clock, metrics.workspace(&workspace()));
    let mut keys = (0..).map(|user| ask(&user.to_string(), "1h").key);
    while let Ok(turn) = dispatcher.queue("", Moment::NEVER) {
        let _ = dispatcher.issue(turn.permit().await.unwrap(), &keys.next().expect("another")).await;
    }
    // Consumes the notification that is already pending.
    dispatcher.wait_for_room().await;
    assert!(!dispatcher.has_room());
    tokio::time::advance(2 * SECOND).await;
    let room = tokio::time::timeout(HOUR, dispatcher.wait_for_room()).await;
    assert!(dispatcher.has_room() && room.is_ok(), "capacity is free, but the refresher still sleeps");
}

/// Otherwise the lag after an outage raises the price of a renewal several times though the budget has capacity.
#[tokio::test(start_paused = true)]
async fn delay_by_an_outage_does_not_raise_the_price_of_renewals() {
    static DOWN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);
    let fails =
        |_: &str| DOWN.load(std::sync::atomic::Ordering::Relaxed).then(|| Failure::Connect(Cause::Closed.into()));
    let clock = Clock::tokio();
    let metrics = Arc::new(Metrics::new().unwrap());
    let issuer = Picky { clock, fails, latency: MS, calls: Arc::default() };
    let settings = DispatcherSettings { budget: Budget::new(10_000.0, 10_000).unwrap(), max_wait: 5 * SECOND };
    let dispatcher = Dispatcher::new(settings, Arc::new(issuer), clock, metrics.workspace(&workspace()));
    let due = clock.now();
    let mut keys = (0..).map(|user| ask(&user.to_string(), "1h").key);
    while let Ok(turn) = dispatcher.queue("", Moment::NEVER) {
        let _ = dispatcher.issue(turn.permit().await.unwrap(), &keys.next().expect("another")).await;
    }
    tokio::time::advance(HOUR).await;
    assert_eq!(dispatcher.lateness(due, clock.now()), clock.now().since(due));
    DOWN.store(false, std::sync::atomic::Ordering::Relaxed);
    let turn = dispatcher.queue("", Moment::NEVER).expect("a probe");
    dispatcher.issue(turn.permit().await.unwrap(), &keys.next().expect("another")).await.expect("a token");
    assert_eq!(dispatcher.lateness(due, clock.now()), std::time::Duration::ZERO);
    tokio::time::advance(SECOND).await;
    assert_eq!(dispatcher.lateness(due, clock.now()), SECOND);
    assert_eq!(dispatcher.lateness(clock.now() - MS, clock.now()), MS);
}

/// Courier asks for a pause of two minutes; a renewal queues, and then its user asks.
#[tokio::test(start_paused = true)]
async fn follower_of_a_paused_renewal_is_refused_at_once() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 2 - 40 * SECOND).await;
    world.courier.misbehave(Some(Fault::throttled(300)));
    assert!(world.ask("first", "2h").await.is_err());
    world.pass(45 * SECOND).await;
    let mut wants = ask("jane", "1h");
    wants.min_ttl = Some(HOUR * 5 / 6);
    let asked = world.clock.now();
    let answer = world.broker.get_token(&wants).await;
    let took = world.clock.now().since(asked);
    assert!(took < SECOND, "{took:?}: {:?}", answer.err());
}

#[tokio::test(start_paused = true)]
async fn sign_out_and_hang_up_during_a_pause_make_no_call() {
    let mut made = 0;
    for _ in 0..20 {
        let world = World::new(&Setup { latency: MS, ..Setup::default() });
        world.courier.misbehave(Some(Fault::status(500)));
        let broker = world.broker.clone();
        let asked = tokio::spawn(async move { broker.get_token(&ask("jane", "1h")).await });
        // Three calls fail, and a pause of up to 400 ms follows.
        while world.courier.call_count() < 3 {
            world.pass(MS).await;
        }
        world.pass(5 * MS).await;
        if world.courier.call_count() > 3 {
            continue;
        }
        world.courier.misbehave(None);
        world.broker.sign_out("default", UserId::new("jane").unwrap());
        asked.abort();
        world.pass(2 * SECOND).await;
        made += world.courier.call_count() - 3;
    }
    assert_eq!(made, 0, "calls for a signed-out user without waiters");
}

/// A retry queues for longer than its caller waits.
#[tokio::test(start_paused = true)]
async fn no_retry_is_made_after_its_callers_timeout() {
    let world = World::new(&Setup { rate: 10.0, burst: 1, latency: 4 * SECOND, ..Setup::default() });
    world.courier.script([Some(Fault::status(500))]);
    let broker = world.broker.clone();
    let start = world.clock.now();
    let jane = tokio::spawn(async move { broker.get_token(&ask("jane", "1h")).await });
    world.pass(3900 * MS).await;
    for user in 0..45 {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(&format!("new-{user}"), "1h")).await });
    }
    let _ = jane.await;
    world.pass(20 * SECOND).await;
    let calls = world.courier.calls();
    let left = calls.iter().rfind(|call| call.scope.contains("jane")).unwrap().at.since(start);
    // The time left is enough for a call of ordinary latency.
    assert!(left <= 9 * SECOND, "it left after {left:?} of 10 s");
}

fn failure(status: u16, name: &'static str, value: &str) -> Failure {
    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
    let unix = Duration::from_secs(1_795_305_600);
    answer::grant(status, &headers, b"", &ask("jane", "1h").key, START, unix).err().unwrap()
}

/// Captured log lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Captures the log lines of this thread until the guard is dropped.
    pub fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        // While no subscriber of any thread wants a line, the library turns its place off for all. One that is always
        // there keeps tests that begin and end at the same time from losing lines of each other.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Many calls fail in the same way at the same time.
async fn lines_of(fault: Fault) -> (usize, usize) {
    let (lines, _guard) = Lines::collect();
    let world = World::new(&Setup { rate: 100.0, burst: 100, ..Setup::default() });
    world.courier.misbehave(Some(fault));
    for user in 0..500 {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(&format!("new-{user}"), "1h")).await });
    }
    world.pass(4 * SECOND).await;
    (lines.text().lines().count(), world.courier.call_count())
}

#[tokio::test(start_paused = true)]
async fn repeated_failures_do_not_flood_the_log() {
    let mut floods = Vec::new();
    for fault in [Fault::throttled(30), Fault::status(401), Fault::status(503)] {
        let (lines, calls) = lines_of(fault.clone()).await;
        println!("{fault:?}: {lines} lines, {calls} calls");
        if lines > calls + 2 {
            floods.push((lines, calls));
        }
    }
    assert!(floods.is_empty(), "lines in the log, and calls: {floods:?}");
}

/// A renewal is refused while Courier's front door briefly answers 404 to all calls.
#[tokio::test(start_paused = true)]
async fn brief_404_does_not_end_renewals() {
    let world = World::new(&Setup::default());
    world.ask("jane", "8h").await.expect("a token");
    for _ in 0..23 {
        world.pass(600 * SECOND).await;
        world.ask("jane", "8h").await.expect("a token");
    }
    world.courier.script([Some(Fault::status(404))]);
    let mut waited = 0;
    for _ in 0..6 {
        world.pass(120 * SECOND).await;
        waited += u32::from(world.ask("jane", "8h").await.expect("a token").source != Source::Hit);
    }
    assert_eq!((waited, world.courier.call_count()), (0, 3), "it was not tried again in the minutes that were left");
}

/// Courier answers 503 with a `Retry-After` of two minutes.
#[tokio::test(start_paused = true)]
async fn retry_after_of_an_unavailable_courier_is_honoured() {
    let failure = failure(503, "retry-after", "120");
    assert_ne!(failure, Failure::Unavailable(503), "RFC 9110, 10.2.3: Retry-After is first of all for 503");
}

/// A renewal has one try. A request that comes after its failure still gets a call of its own.
#[tokio::test(start_paused = true)]
async fn failed_renewal_does_not_refuse_the_next_request() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    world.courier.script([Some(Fault::status(500))]);
    while world.courier.call_count() < 2 {
        world.pass(100 * MS).await;
    }
    world.pass(200 * MS).await;
    let fresh = TokenRequest { min_ttl: Some(HOUR * 5 / 6), ..ask("jane", "1h") };
    world.broker.get_token(&fresh).await.expect("a token");
}
